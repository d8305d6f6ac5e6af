//! Topics of a test's own.

use crate::REQUEST_TIMEOUT;
use anyhow::Result;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use twh_schemas::catalogue::TOPICS;

/// Deletes the topics whose names have this prefix.
pub async fn delete(brokers: &str, prefix: &str) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new().set("bootstrap.servers", brokers).create()?;
    let names: Vec<String> = TOPICS.iter().map(|topic| topic.full_name(prefix)).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    admin.delete_topics(&names, &AdminOptions::new().request_timeout(Some(REQUEST_TIMEOUT))).await?;
    Ok(())
}
