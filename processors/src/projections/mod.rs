//! The consumer groups that make read models, of `domain.events` alone: one a model, so that one that stands still holds up no
//! other.
//!
//! A model's builds have positions of their own. The group writes to the build that answers; while another is made from the
//! beginning of the log, whoever makes it is this group once more, of another name.

mod search;
mod supply;

pub use search::SearchIndex;
pub use supply::Supply;

use crate::runtime::{ApplyError, Claimed, DecodeError, Decoded, Group, Loss, Record, Worker, owned};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::Instant;
use twh_domain::entity::EntityKind;
use twh_domain::event::{Carries, EventType};
use twh_domain::id::{ItemId, TenantId};
use twh_domain::outcome::Position;
use twh_schemas::Schemas;
use twh_schemas::records::DomainEvent;
use twh_sinks::kafka::Reached;
use twh_sinks::postgres::PgPool;
use twh_sinks::postgres::builds::{self, Build, Progress, Projection, State};
use twh_sinks::postgres::noted;
use twh_sinks::postgres::positions::{self, Hold};

/// Between two batches of a partition: a batch costs the same however little is in it, so under load there is more in each. What
/// comes after a pause is written at once.
const PACE: Duration = Duration::from_millis(50);

/// Which build the group writes to.
#[derive(Debug, Clone)]
pub enum Target {
    /// The one that answers, whichever it is; the first is made where there is none.
    Serving {
        /// What the first is called.
        first: String,
    },
    /// This one, until it answers.
    Building {
        /// Which.
        build: Build,
        /// Whether it is about to answer: what is counted as reflected must be found from then on.
        answers: Arc<AtomicBool>,
    },
}

/// What the group works with.
pub struct Settings {
    /// The database.
    pub pool: PgPool,
    /// What events are decoded with.
    pub schemas: Arc<Schemas>,
    /// Which build.
    pub target: Target,
    /// Which cluster it is.
    pub kafka_cluster_id: String,
    /// Who we are.
    pub owner: String,
    /// How many partitions the topic has.
    pub partitions: i32,
}

/// A batch of events of one partition, on its way into a build.
pub struct Batch<'a> {
    /// Where to.
    pub build: &'a Build,
    /// By which right.
    pub hold: &'a Hold,
    /// The events, in order.
    pub events: &'a [Decoded<DomainEvent>],
    /// Where the partition stands after them.
    pub reached: Reached,
    /// The last of each tenant's events.
    pub progress: &'a [Progress],
    /// Whether the build answers, so that someone may wait for it.
    pub answers: bool,
}

/// A read model.
pub trait Model: Send + Sync + 'static {
    /// Which one.
    const PROJECTION: Projection;

    /// Makes room for the first build.
    fn make_first(&self, name: &str) -> impl Future<Output = Result<(), ApplyError>> + Send;

    /// Refuses a build that is not there any more.
    fn check(&self, build: &Build) -> impl Future<Output = Result<(), ApplyError>> + Send;

    /// Adds a batch, and moves the partition. It may be called again with the same batch, so nothing of it is told elsewhere
    /// here, and what a crash leaves of it does no harm.
    fn write(&self, batch: &Batch<'_>) -> impl Future<Output = Result<Written, ApplyError>> + Send;

    /// Tells elsewhere what the batches that are written have left to be told. Called before the first batch of a partition and
    /// after each that leaves something, again until it succeeds.
    fn settle(&self, _: &Build, _partition: i32) -> impl Future<Output = Result<(), ApplyError>> + Send {
        std::future::ready(Ok(()))
    }
}

/// Whether a batch that is written has left something to be told elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// Nothing.
    Settled,
    /// [`Model::settle`] is to tell it.
    Unsettled,
}

/// The group of a model.
pub struct Projections<M>(Arc<Parts<M>>);

struct Parts<M> {
    settings: Settings,
    model: M,
}

/// How far a build is once it reflects an event.
fn progress(event: &DomainEvent) -> Progress {
    let position = Position { partition: event.partition, offset: event.offset };
    Progress { tenant: event.tenant_id, sequence: event.sequence, position }
}

/// The items that an event changes.
fn touched(event: &DomainEvent) -> BTreeSet<ItemId> {
    let own = (event.subject_type == EntityKind::Item.name()).then_some(ItemId(event.subject_id));
    own.into_iter().chain(event.stock.iter().map(|change| change.item_id)).collect()
}

/// The items that events change, and whose they are.
fn all_touched(events: &[Decoded<DomainEvent>]) -> Vec<(TenantId, ItemId)> {
    let of = |event: &DomainEvent| touched(event).into_iter().map(|item| (event.tenant_id, item)).collect::<Vec<_>>();
    let items: BTreeSet<_> = events.iter().flat_map(|decoded| of(&decoded.item)).collect();
    items.into_iter().collect()
}

/// Whether an event carries its subject's document: all but one that changes nothing do.
fn is_document_of(event: &DomainEvent, kind: EntityKind) -> bool {
    let carries_document =
        EventType::from_name(&event.event_type).is_none_or(|event_type| event_type.carries() == Carries::Document);
    event.subject_type == kind.name() && carries_document
}

impl<M: Model> Projections<M> {
    /// The group.
    pub fn new(settings: Settings, model: M) -> Self {
        Self(Arc::new(Parts { settings, model }))
    }

    /// The build to write to now.
    async fn build(&self) -> Result<Build, ApplyError> {
        let Settings { pool, target, .. } = &self.0.settings;
        let first = match target {
            Target::Building { build, .. } => return Ok(build.clone()),
            Target::Serving { first } => first,
        };
        let serving = builds::in_state(pool, M::PROJECTION, State::Serving).await?;
        if let Some(build) = serving {
            return Ok(build);
        }
        self.0.model.make_first(first).await?;
        let build = builds::begin(pool, M::PROJECTION, first, State::Serving).await?;
        tracing::info!(
            projection = M::PROJECTION.name(),
            build = build.name,
            "the first build of a read model is made"
        );
        Ok(build)
    }

    /// Whether a build is still what this group writes to. One that is made goes on being so until its partitions are claimed
    /// by others, since those may not be there.
    async fn is_still(&self, build: &Build) -> Result<bool, ApplyError> {
        let state = match &self.0.settings.target {
            Target::Building { .. } => State::Building,
            Target::Serving { .. } => State::Serving,
        };
        let now = builds::in_state(&self.0.settings.pool, M::PROJECTION, state).await;
        Ok(now?.as_ref() == Some(build))
    }
}

impl<M: Model> Group for Projections<M> {
    type Item = DomainEvent;
    type Worker = Projector<M>;

    async fn claim(&self, partition: i32) -> Result<Claimed<Projector<M>>, ApplyError> {
        let build = self.build().await?;
        if !self.is_still(&build).await? {
            return Err(ApplyError::Fenced(format!(
                "{} answers now: it is written to by those who write to what answers",
                build.name
            )));
        }
        self.0.model.check(&build).await?;
        let Settings { pool, kafka_cluster_id, owner, .. } = &self.0.settings;
        let hold = positions::claim(pool, &build.positions(), partition, 0, kafka_cluster_id, owner).await;
        let hold = hold?;
        let reached = hold.reached;
        // Who had it before may have left something.
        self.0.model.settle(&build, partition).await?;
        let worker = Projector {
            projections: Self(Arc::clone(&self.0)),
            build,
            hold,
            taken: None,
            last: Written::Settled,
            not_before: Instant::now(),
        };
        Ok(Claimed { worker, reached })
    }

    async fn lost(&self, _: &Projector<M>, loss: Loss) -> ApplyError {
        let name = M::PROJECTION.name();
        let advice = match loss {
            Loss::Beginning { .. } => "events are lost to retention: restore the topic".to_owned(),
            Loss::End { .. } | Loss::Acknowledged { .. } | Loss::Replaced { .. } => {
                format!(
                    "the topic lost its end, or was made again, or restored from an older copy: twh rebuild {name} makes it of what there is"
                )
            }
        };
        ApplyError::Halted(format!("the read model {name}: {loss}; {advice}"))
    }

    async fn stands(&self, partition: i32, why: &str, at_offset: Option<i64>) -> Result<(), ApplyError> {
        let group = self.build().await?.positions();
        Ok(noted::stands(&self.0.settings.pool, &group, partition, why, at_offset).await?)
    }

    async fn goes_on(&self, partition: i32, reached: i64) -> Result<Option<i64>, ApplyError> {
        let group = self.build().await?.positions();
        Ok(noted::goes_on(&self.0.settings.pool, &group, partition, reached).await?)
    }
}

/// What works on one partition.
pub struct Projector<M> {
    projections: Projections<M>,
    build: Build,
    hold: Hold,
    /// What was taken on and is not written.
    taken: Option<(Vec<Decoded<DomainEvent>>, Reached)>,
    /// What became of the last that was written.
    last: Written,
    /// When the next batch may be written.
    not_before: Instant,
}

impl<M: Model> Projector<M> {
    async fn write(&mut self) -> Result<(), ApplyError> {
        if let Some((events, reached)) = self.taken.take() {
            match self.project(&events, reached).await {
                Ok(written) => {
                    self.hold.reached = reached;
                    self.last = written;
                }
                Err(error) => {
                    self.taken = Some((events, reached));
                    return Err(error);
                }
            }
        }
        if self.last == Written::Unsettled {
            self.projections.0.model.settle(&self.build, self.hold.partition).await?;
            self.last = Written::Settled;
        }
        Ok(())
    }

    async fn project(&self, events: &[Decoded<DomainEvent>], reached: Reached) -> Result<Written, ApplyError> {
        let Parts { settings, model } = &*self.projections.0;
        let (is_serving, answers) = match &settings.target {
            Target::Serving { .. } => (true, true),
            Target::Building { answers, .. } => (false, answers.load(Ordering::Acquire)),
        };
        if is_serving && !self.projections.is_still(&self.build).await? {
            return Err(ApplyError::Fenced(format!("{} does not answer any more", self.build.name)));
        }
        let mut tenants: BTreeMap<TenantId, Progress> = BTreeMap::new();
        for Decoded { item: event, .. } in events {
            let one = progress(event);
            let last = tenants.entry(event.tenant_id).or_insert(one);
            // Events may come again, and then an older one after a newer one.
            if last.sequence < one.sequence {
                *last = one;
            }
        }
        let progress: Vec<_> = tenants.into_values().collect();
        let (build, hold) = (&self.build, &self.hold);
        model.write(&Batch { build, hold, events, reached, progress: &progress, answers }).await
    }
}

impl<M: Model> Worker for Projector<M> {
    type Item = DomainEvent;

    /// Readers are told: see [`builds::leave_out`].
    const LEAVES_OUT: bool = true;

    async fn decode(&mut self, record: &Record) -> Result<DomainEvent, DecodeError> {
        let settings = &self.projections.0.settings;
        let event = settings.schemas.events.decode(&record.payload).await?;
        owned(record, event.tenant_id, settings.partitions)?;
        Ok(event)
    }

    async fn apply(&mut self, batch: Vec<Decoded<DomainEvent>>, reached: Reached) -> Result<(), ApplyError> {
        self.taken = Some((batch, reached));
        tokio::time::sleep_until(self.not_before).await;
        self.not_before = Instant::now() + PACE;
        self.write().await
    }

    async fn written(&mut self) -> Result<(), ApplyError> {
        self.write().await
    }

    async fn finish(&mut self) -> Result<(), ApplyError> {
        self.write().await
    }

    async fn leave_out(&mut self, event: &DomainEvent, reason: &str) -> Result<(), ApplyError> {
        let pool = &self.projections.0.settings.pool;
        Ok(builds::leave_out(pool, &self.build, &progress(event), reason).await?)
    }

    fn applied_through(&self) -> i64 {
        self.hold.reached.next_offset
    }

    async fn drain(self) {}
}
