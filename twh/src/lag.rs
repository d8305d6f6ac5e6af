//! Looks how far every consumer group is behind, by partition: whether anyone runs it or not.

use crate::config::Config;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use twh_edge::ops::{Lag, Lags};
use twh_processors::replay::{Source, Watch};
use twh_schemas::catalogue::{COMMANDS, EVENTS, Topic};
use twh_sinks::postgres::PgPool;
use twh_sinks::postgres::positions::{self, GroupPosition};

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(5);
/// The only group that reads commands.
const LEDGER: &str = "ledger";

twh_sinks::metrics! {
    LAG: IntGaugeVec = "twh_consumer_lag", "Records that a consumer group has not applied, by partition; processes of the role api look every few seconds.", labels ["group", "partition"];
}

/// What tells where topics end.
struct Ends {
    commands: Watch,
    events: Watch,
}

impl Ends {
    /// Where each partition of `commands` and of `domain.events` ends. Blocks.
    fn look(&self) -> anyhow::Result<(Vec<i64>, Vec<i64>)> {
        let of = |watch: &Watch| {
            let watermarks = watch.watermarks()?;
            anyhow::Ok(watermarks.into_iter().map(|watermarks| watermarks.high).collect())
        };
        Ok((of(&self.commands)?, of(&self.events)?))
    }
}

/// Looks again and again until it is told to stop.
pub(crate) struct LagWatch {
    pool: PgPool,
    ends: Arc<Ends>,
    commands: String,
    events: String,
    lags: Lags,
}

impl LagWatch {
    pub(crate) fn new(config: &Config, pool: PgPool, lags: Lags) -> anyhow::Result<Self> {
        let name = |topic: Topic| topic.full_name(&config.topic_prefix);
        let watch = |topic| Source { brokers: config.kafka_brokers.clone(), topic: name(topic) }.watch();
        let ends = Arc::new(Ends { commands: watch(COMMANDS)?, events: watch(EVENTS)? });
        Ok(Self { pool, ends, commands: name(COMMANDS), events: name(EVENTS), lags })
    }

    pub(crate) async fn run(&self, stop: CancellationToken) {
        let mut says_so = true;
        while !stop.is_cancelled() {
            match self.look().await {
                Ok(()) => says_so = true,
                // Once: whoever waits for Kafka or the database is told so by them.
                Err(error) if says_so => {
                    tracing::warn!(%error, "how far consumer groups are behind is not known now; it is looked at again");
                    says_so = false;
                }
                Err(_) => {}
            }
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    async fn look(&self) -> anyhow::Result<()> {
        // Positions before ends: what is applied in between is not counted as more than there is.
        let positions = positions::all(&self.pool).await?;
        let ends = Arc::clone(&self.ends);
        let (commands, events) = tokio::task::spawn_blocking(move || ends.look()).await??;
        let lag = |position: GroupPosition| {
            let (topic, ends) =
                if position.group == LEDGER { (&self.commands, &commands) } else { (&self.events, &events) };
            let end = usize::try_from(position.partition).ok().and_then(|partition| ends.get(partition).copied());
            let end_offset = end.unwrap_or(position.next_offset);
            Lag {
                topic: topic.clone(),
                partition: position.partition,
                next_offset: position.next_offset,
                end_offset,
                lag: (end_offset - position.next_offset).max(0),
                group: position.group,
            }
        };
        let seen: Vec<_> = positions.into_iter().map(lag).collect();
        // A build that is gone leaves no number behind.
        LAG.reset();
        for lag in &seen {
            LAG.with_label_values(&[lag.group.as_str(), &lag.partition.to_string()]).set(lag.lag);
        }
        self.lags.saw(seen);
        Ok(())
    }
}
