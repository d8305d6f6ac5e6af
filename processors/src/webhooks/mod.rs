//! The consumer group `webhooks`: turns events into deliveries, and sends them.
//!
//! The owner of a partition of `domain.events` queues its tenants' deliveries in the transaction that moves the partition, and
//! is the one who sends them: so order, concurrency and rate of a subscription are known in one place. What is sent is written
//! down afterwards; a crash between the two sends it once more, under the same id.
//!
//! It never sends what is not queued, and never forgets what is not written down as sent.

mod attempts;
mod backlog;
mod directory;
mod dispatcher;
mod endpoints;
mod fanout;
mod keeping;
mod lane;
mod notices;
pub mod policy;
mod recording;
mod render;
mod replaying;
mod shares;
mod transition;
mod turns;

pub use keeping::keep;
pub use policy::Policy;

use crate::runtime::{ApplyError, Claimed, Group, Loss};
use fanout::Fanout;
use std::collections::HashSet;
use std::sync::Arc;
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use turns::Turns;
use twh_domain::id::TenantId;
use twh_domain::timestamp::Timestamp;
use twh_schemas::Schemas;
use twh_schemas::partition::partition_of;
use twh_schemas::records::DomainEvent;
use twh_sinks::outbound::Outbound;
use twh_sinks::postgres::PgPool;
use twh_sinks::postgres::noted;
use twh_sinks::postgres::positions;
use twh_sinks::postgres::webhooks::backlogs;
use twh_sinks::secrets::Secrets;

/// The group's name, without prefixes.
pub const GROUP: &str = "webhooks";

/// What the group works with.
pub struct Settings {
    /// The database.
    pub pool: PgPool,
    /// What events are decoded with.
    pub schemas: Arc<Schemas>,
    /// What opens the subscriptions' secrets.
    pub secrets: Secrets,
    /// What keeps deliveries off this network.
    pub outbound: Outbound,
    /// What is done about failures.
    pub policy: Arc<Policy>,
    /// Which cluster it is.
    pub kafka_cluster_id: String,
    /// Who we are.
    pub owner: String,
    /// The group's full name.
    pub group: String,
    /// How many partitions the topic has.
    pub partitions: i32,
}

/// The group. Cheap to clone.
#[derive(Clone)]
pub struct Webhooks {
    settings: Arc<Settings>,
    /// Which subscription's state is changed next.
    turns: Arc<Turns>,
    versions: watch::Receiver<directory::Versions>,
}

fn now() -> Timestamp {
    OffsetDateTime::now_utc().into()
}

impl Webhooks {
    /// The group, which looks for changes of subscriptions until it is told to stop.
    #[must_use]
    pub fn new(settings: Settings, stop: CancellationToken) -> Self {
        let versions = directory::start(settings.pool.clone(), stop);
        Self { settings: Arc::new(settings), turns: Arc::default(), versions }
    }

    /// Whether a tenant's events stand on a partition.
    fn is_on(&self, tenant: TenantId, partition: i32) -> bool {
        partition_of(tenant.to_string().as_bytes(), self.settings.partitions) == partition
    }
}

impl Group for Webhooks {
    type Item = DomainEvent;
    type Worker = Fanout;

    async fn claim(&self, partition: i32) -> Result<Claimed<Fanout>, ApplyError> {
        let Settings { pool, group, kafka_cluster_id, owner, .. } = &*self.settings;
        let hold = positions::claim(pool, group, partition, 0, kafka_cluster_id, owner).await?;
        let reached = hold.reached;
        let behind = backlogs::all(pool).await?;
        let behind: HashSet<_> = behind.into_iter().filter(|tenant| self.is_on(*tenant, partition)).collect();
        Ok(Claimed { worker: Fanout::new(self.clone(), hold, behind), reached })
    }

    async fn lost(&self, worker: &Fanout, loss: Loss) -> ApplyError {
        let meaning = match loss {
            Loss::Beginning { .. } => "events are lost to retention",
            Loss::End { .. } | Loss::Acknowledged { .. } | Loss::Replaced { .. } => {
                "the topic lost its end, or was made again, or restored from an older copy"
            }
        };
        ApplyError::Halted(format!(
            "{loss}: {meaning}; twh ledger clear-halt lets group {} go on once it is clear which events nobody was told of",
            worker.group()
        ))
    }

    async fn stands(&self, partition: i32, why: &str, at_offset: Option<i64>) -> Result<(), ApplyError> {
        let Settings { pool, group, .. } = &*self.settings;
        Ok(noted::stands(pool, group, partition, why, at_offset).await?)
    }

    async fn goes_on(&self, partition: i32, reached: i64) -> Result<Option<i64>, ApplyError> {
        let Settings { pool, group, .. } = &*self.settings;
        Ok(noted::goes_on(pool, group, partition, reached).await?)
    }

    fn may_begin_late(&self) -> bool {
        true
    }
}
