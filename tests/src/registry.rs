//! Subjects of a test's own in the registry.

use crate::parts::Parts;
use crate::{REQUEST_TIMEOUT, http_client};
use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use twh_schemas::catalogue::{TOPICS, Topic};

/// A registry, by its address.
pub struct Registry(pub String);

impl Registry {
    /// The one that all tests share.
    #[must_use]
    pub fn shared() -> Self {
        Self(Parts::shared().registry().to_owned())
    }

    /// Registers a schema under a topic's subject, and gives its id.
    pub async fn register(&self, topic: &Topic, prefix: &str, schema: &str) -> Result<u32> {
        let url = format!("{}/subjects/{}/versions", self.0, topic.subject(prefix));
        let asked = http_client(REQUEST_TIMEOUT)?.post(url).json(&json!({ "schema": schema }));
        let answer: Value = asked.send().await?.error_for_status()?.json().await?;
        let id = answer.get("id").and_then(Value::as_u64).context("the registry gives no id")?;
        Ok(u32::try_from(id)?)
    }

    /// Deletes the subjects of all topics: one goes for good once it has been deleted.
    pub async fn delete(&self, prefix: &str) -> Result<()> {
        let client = http_client(REQUEST_TIMEOUT)?;
        for topic in TOPICS.iter().filter(|topic| topic.value.is_some()) {
            let subject = format!("{}/subjects/{}", self.0, topic.subject(prefix));
            client.delete(&subject).send().await?;
            client.delete(format!("{subject}?permanent=true")).send().await?;
        }
        Ok(())
    }
}
