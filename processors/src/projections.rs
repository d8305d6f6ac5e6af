//! The consumer group `projections`: makes the index that search looks into, of `domain.events` alone.
//!
//! An item in the index is the sum of its events: its last document, and the last of each of its levels. The owner of a
//! partition reads what stands there, adds a batch of events, writes it under the last event's number, and then moves the
//! partition. A crash between the two writes the same once more; who has lost the partition without knowing it is refused by
//! the numbers, and by the epoch.
//!
//! It writes to the index that answers. While another is built from the beginning of the log, that one has positions of its
//! own, and whoever builds it is this group once more, of another name.

use crate::runtime::{ApplyError, Claimed, DecodeError, Decoded, Group, Record, Watermarks, Worker};
use prometheus::{IntCounterVec, register_int_counter_vec};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock};
use twh_domain::entity::EntityKind;
use twh_domain::id::{ItemId, TenantId};
use twh_domain::outcome::Position;
use twh_schemas::Schemas;
use twh_schemas::records::DomainEvent;
use twh_sinks::postgres::PgPool;
use twh_sinks::postgres::positions::{self, Hold, PositionError};
use twh_sinks::search::elastic::{Elastic, ElasticError, IndexedItem};
use twh_sinks::search::indexes::{self, Progress, State};

/// The group's name, without prefixes.
pub const GROUP: &str = "projections";
/// Items read and written in one request.
const ITEMS_AT_ONCE: usize = 1_000;

#[expect(clippy::expect_used, reason = "fails only when two metrics share a name, which the first start would show")]
static WRITTEN: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!("twh_search_items_total", "Items written to the search engine, by result.", &["result"])
        .expect("the metric's name is unique")
});

/// Which index the group writes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The one that answers, whichever it is; the first is made where there is none.
    Serving {
        /// What the first is called.
        first: String,
    },
    /// This one, until it answers.
    Building(String),
}

/// What the group works with.
pub struct Settings {
    /// The database.
    pub pool: PgPool,
    /// What events are decoded with.
    pub schemas: Arc<Schemas>,
    /// Where the index is.
    pub elastic: Elastic,
    /// What searches call the index that answers.
    pub alias: String,
    /// Which index.
    pub target: Target,
    /// Which cluster it is.
    pub kafka_cluster_id: String,
    /// Who we are.
    pub owner: String,
}

/// The group. Cheap to clone.
#[derive(Clone)]
pub struct Projections(Arc<Settings>);

/// The name that an index's positions stand under.
#[must_use]
pub fn positions_of(index: &str) -> String {
    format!("{GROUP}/{index}")
}

fn position_error(error: PositionError) -> ApplyError {
    match error {
        PositionError::Fenced { .. } => ApplyError::Fenced(error.to_string()),
        PositionError::OtherCluster { .. } => ApplyError::Halted(error.to_string()),
        PositionError::Database(_) => ApplyError::Unavailable(error.to_string()),
    }
}

fn elastic_error(error: ElasticError) -> ApplyError {
    match error {
        ElasticError::Away(_) => ApplyError::Unavailable(error.to_string()),
        ElasticError::NoIndex(_) => ApplyError::Halted(format!(
            "{error}: it was deleted, or the search engine is another; twh rebuild search makes one of all that was ever told"
        )),
        ElasticError::Address(_) | ElasticError::Refused(_) => ApplyError::Halted(error.to_string()),
    }
}

impl Projections {
    /// The group.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self(Arc::new(settings))
    }

    /// The index to write to now.
    async fn index(&self) -> Result<String, ApplyError> {
        let Settings { pool, elastic, alias, target, .. } = &*self.0;
        let first = match target {
            Target::Building(index) => return Ok(index.clone()),
            Target::Serving { first } => first,
        };
        if let Some(index) = indexes::in_state(pool, State::Serving).await.map_err(ApplyError::unavailable)? {
            return Ok(index);
        }
        elastic.create(first).await.map_err(elastic_error)?;
        elastic.serve(alias, first).await.map_err(elastic_error)?;
        let index = indexes::begin(pool, first, State::Serving).await.map_err(ApplyError::unavailable)?;
        tracing::info!(index, "the first index of search is made");
        Ok(index)
    }

    /// Whether an index is still what this group writes to. One that is built goes on being so until its partitions are
    /// claimed by others, since those may not be there.
    async fn is_still(&self, index: &str) -> Result<bool, ApplyError> {
        let state = match &self.0.target {
            Target::Building(_) => State::Building,
            Target::Serving { .. } => State::Serving,
        };
        let now = indexes::in_state(&self.0.pool, state).await.map_err(ApplyError::unavailable)?;
        Ok(now.as_deref() == Some(index))
    }
}

impl Group for Projections {
    type Item = DomainEvent;
    type Worker = Projector;

    async fn claim(&self, partition: i32) -> Result<Claimed<Projector>, ApplyError> {
        let index = self.index().await?;
        if !self.is_still(&index).await? {
            return Err(ApplyError::Fenced(format!(
                "{index} answers now: it is written to by those who write to what answers"
            )));
        }
        if !self.0.elastic.exists(&index).await.map_err(elastic_error)? {
            return Err(elastic_error(ElasticError::NoIndex(index)));
        }
        let Settings { pool, kafka_cluster_id, owner, .. } = &*self.0;
        let hold = positions::claim(pool, &positions_of(&index), partition, 0, kafka_cluster_id, owner).await;
        let hold = hold.map_err(position_error)?;
        let next_offset = hold.next_offset;
        Ok(Claimed { worker: Projector { projections: self.clone(), index, hold, taken: None }, next_offset })
    }

    fn check_log(&self, next_offset: i64, watermarks: Watermarks) -> Result<(), ApplyError> {
        if next_offset > watermarks.high {
            return Err(ApplyError::Halted(format!(
                "the index of search reflects what is before offset {next_offset}, but the topic ends at {}: it was made anew or \
                 restored from an older copy; twh rebuild search makes an index of what there is",
                watermarks.high
            )));
        }
        if next_offset < watermarks.low {
            return Err(ApplyError::Halted(format!(
                "the topic begins at offset {}, but the index of search reflects only what is before {next_offset}: events are \
                 lost to retention; restore the topic",
                watermarks.low
            )));
        }
        Ok(())
    }
}

/// What works on one partition.
pub struct Projector {
    projections: Projections,
    index: String,
    hold: Hold,
    /// What was taken on and is not written.
    taken: Option<(Vec<Decoded<DomainEvent>>, i64)>,
}

/// The items that an event changes.
fn touched(event: &DomainEvent) -> impl Iterator<Item = ItemId> + '_ {
    let own = (event.subject_type == EntityKind::Item.name()).then_some(ItemId(event.subject_id));
    own.into_iter().chain(event.stock.iter().map(|change| change.item_id))
}

/// Adds an event to the items that it changes. One that they reflect already changes nothing.
fn add(items: &mut HashMap<ItemId, IndexedItem>, event: &DomainEvent) {
    for id in touched(event) {
        let item = items.entry(id).or_insert_with(|| IndexedItem::new(event.tenant_id, id));
        if item.sequence >= event.sequence {
            continue;
        }
        let describes = event.subject_type == EntityKind::Item.name() && event.subject_id == id.0;
        if describes && let Err(error) = item.describe(&event.data) {
            tracing::error!(%error, event_id = %event.event_id, "an item's document is not understood; search keeps the one before");
        }
        for change in event.stock.iter().filter(|change| change.item_id == id) {
            item.stock(change.location_id, change.qty_on_hand, change.qty_reserved, change.version);
        }
        item.sequence = event.sequence;
    }
}

impl Projector {
    async fn write(&mut self) -> Result<(), ApplyError> {
        let Some((batch, next_offset)) = self.taken.take() else { return Ok(()) };
        let written = self.project(&batch, next_offset).await;
        if written.is_err() {
            self.taken = Some((batch, next_offset));
        }
        written
    }

    async fn project(&mut self, batch: &[Decoded<DomainEvent>], next_offset: i64) -> Result<(), ApplyError> {
        let Settings { pool, elastic, target, .. } = &*self.projections.0;
        let answers = matches!(target, Target::Serving { .. });
        if answers && !self.projections.is_still(&self.index).await? {
            return Err(ApplyError::Fenced(format!("{} does not answer any more", self.index)));
        }
        let mut ids: BTreeMap<ItemId, TenantId> = BTreeMap::new();
        let mut progress: BTreeMap<TenantId, Progress> = BTreeMap::new();
        for Decoded { item: event, .. } in batch {
            ids.extend(touched(event).map(|id| (id, event.tenant_id)));
            let position = Position { partition: event.partition, offset: event.offset };
            progress.insert(event.tenant_id, Progress { tenant: event.tenant_id, sequence: event.sequence, position });
        }
        let ids: Vec<_> = ids.into_iter().map(|(item, tenant)| (tenant, item)).collect();
        let mut items = HashMap::with_capacity(ids.len());
        for some in ids.chunks(ITEMS_AT_ONCE) {
            items.extend(elastic.items(&self.index, some).await.map_err(elastic_error)?);
        }
        batch.iter().for_each(|decoded| add(&mut items, &decoded.item));
        let items: Vec<_> = items.into_values().collect();
        // Whoever waits for a write to be found waits for this; whoever builds an index does not.
        for some in items.chunks(ITEMS_AT_ONCE) {
            let written = elastic.write(&self.index, some, answers).await.map_err(elastic_error)?;
            WRITTEN.with_label_values(&["written"]).inc_by(u64::try_from(written.written).unwrap_or_default());
            WRITTEN.with_label_values(&["outdated"]).inc_by(u64::try_from(written.outdated).unwrap_or_default());
        }
        let progress: Vec<_> = progress.into_values().collect();
        indexes::advance(pool, &self.index, &self.hold, next_offset, &progress).await.map_err(position_error)?;
        self.hold.next_offset = next_offset;
        Ok(())
    }
}

impl Worker for Projector {
    type Item = DomainEvent;

    async fn decode(&mut self, record: &Record) -> Result<DomainEvent, DecodeError> {
        self.projections.0.schemas.events.decode(&record.payload).await.map_err(|error| {
            if error.is_poison() {
                DecodeError::Poison(error.to_string())
            } else {
                DecodeError::Unavailable(error.to_string())
            }
        })
    }

    async fn apply(&mut self, batch: Vec<Decoded<DomainEvent>>, next_offset: i64) -> Result<(), ApplyError> {
        self.taken = Some((batch, next_offset));
        self.write().await
    }

    async fn written(&mut self) -> Result<(), ApplyError> {
        self.write().await
    }

    async fn finish(&mut self) -> Result<(), ApplyError> {
        self.write().await
    }

    fn applied_through(&self) -> i64 {
        self.hold.next_offset
    }

    async fn drain(self) {}
}
