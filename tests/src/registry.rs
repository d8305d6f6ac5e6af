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

    /// Deletes the subjects of all topics, so that no one finds them. They go for good before the next run: the registry then
    /// removes contents that no subject has, and fails for who registers the same schema at that moment.
    pub async fn delete(&self, prefix: &str) -> Result<()> {
        let client = http_client(REQUEST_TIMEOUT)?;
        for topic in TOPICS.iter().filter(|topic| topic.value.is_some()) {
            client.delete(format!("{}/subjects/{}", self.0, topic.subject(prefix))).send().await?;
        }
        Ok(())
    }

    /// Removes for good the subjects with this prefix that were deleted. No test may run meanwhile.
    pub(crate) async fn purge(&self, prefix: &str) -> Result<()> {
        let client = http_client(REQUEST_TIMEOUT)?;
        let list = client.get(format!("{}/subjects?deleted=true", self.0)).send().await?.error_for_status()?;
        let all: Vec<String> = list.json().await?;
        let kept: Vec<String> =
            client.get(format!("{}/subjects", self.0)).send().await?.error_for_status()?.json().await?;
        for subject in all.iter().filter(|subject| subject.starts_with(prefix) && !kept.contains(subject)) {
            client.delete(format!("{}/subjects/{subject}?permanent=true", self.0)).send().await?;
        }
        Ok(())
    }
}
