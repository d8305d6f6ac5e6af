//! Whether Kafka keeps what is acknowledged: told at start, or asked for.

use std::collections::BTreeMap;
use twh_schemas::catalogue::Shortfall;

twh_sinks::metrics! {
    SHORTFALLS: IntGaugeVec = "twh_topic_shortfalls", "Topics whose setting is not as it should be, when the process started.", labels ["setting"];
}

/// The topics are not as durable as they must be.
#[derive(Debug, thiserror::Error)]
#[error("TWH_KAFKA_REQUIRE_REPLICATION is on, and {0}")]
pub(crate) struct Refused(String);

/// Tells of what is not as it should be, one sentence a setting; refuses what may lose something, where that is asked for.
pub(crate) fn judge(found: &[Shortfall], required: bool) -> Result<Vec<String>, Refused> {
    let mut settings: BTreeMap<(bool, &str, &str, &str), Vec<&str>> = BTreeMap::new();
    for one in found {
        settings.entry((!one.loses, one.setting, &one.found, &one.wanted)).or_default().push(&one.topic);
    }
    SHORTFALLS.reset();
    let mut warnings = Vec::new();
    for ((harmless, setting, found, wanted), topics) in settings {
        SHORTFALLS.with_label_values(&[setting]).add(i64::try_from(topics.len()).unwrap_or(i64::MAX));
        let topics = topics.join(", ");
        let warning = if harmless {
            format!("{topics}: {setting} is {found}, and would be made as {wanted}")
        } else {
            format!(
                "{topics}: {setting} is {found}, and must be {wanted} for what is acknowledged to outlive the loss of a broker"
            )
        };
        if required && !harmless {
            return Err(Refused(warning));
        }
        tracing::warn!(topics, setting, found, wanted, "{warning}");
        warnings.push(warning);
    }
    Ok(warnings)
}
