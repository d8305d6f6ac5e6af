//! The index that search looks into.
//!
//! An item in it is the sum of its events: its last document, and where something of it is available. How much there is changes
//! with every movement and is not in it. The owner of a partition reads what stands there of the items that a batch of events
//! changes, adds it, writes it under the last such event's number, and then moves the partition. A crash between the two writes
//! the same once more; who has lost the partition without knowing it is refused by the numbers, and by the epoch.

use super::{Batch, Model, Written, is_document_of};
use crate::runtime::ApplyError;
use std::collections::{BTreeSet, HashMap};
use twh_domain::entity::EntityKind;
use twh_domain::id::ItemId;
use twh_schemas::records::{DomainEvent, StockChange};
use twh_sinks::postgres::PgPool;
use twh_sinks::postgres::builds::{self, Build, Projection};
use twh_sinks::search::elastic::{Elastic, ElasticError, IndexedItem};

/// Items read in one request.
const ITEMS_AT_ONCE: usize = 1_000;

twh_sinks::metrics! {
    WRITTEN: IntCounterVec = "twh_search_items_total", "Items written to the search engine, by result.", labels ["result"];
}

/// The index.
pub struct SearchIndex {
    /// Where positions are.
    pub pool: PgPool,
    /// Where the index is.
    pub elastic: Elastic,
    /// What searches call the index that answers.
    pub alias: String,
}

fn elastic_error(error: ElasticError) -> ApplyError {
    match error {
        ElasticError::Away(_) => ApplyError::Unavailable(error.to_string()),
        ElasticError::Document(_) => ApplyError::Refused(error.to_string()),
        ElasticError::NoIndex(_) => ApplyError::Halted(format!(
            "{error}: it was deleted, or the search engine is another; twh rebuild search makes one of all that was ever told"
        )),
        ElasticError::Address(_) | ElasticError::Refused(_) => ApplyError::Halted(error.to_string()),
    }
}

/// Whether an event changes where something of an item is available.
fn shows(change: &StockChange) -> bool {
    change.was_available() != Some(change.is_available())
}

fn describes(event: &DomainEvent) -> Option<ItemId> {
    is_document_of(event, EntityKind::Item).then_some(ItemId(event.subject_id))
}

/// The items that an event changes, as far as the index goes.
fn changed(event: &DomainEvent) -> BTreeSet<ItemId> {
    let stock = event.stock.iter().filter(|change| shows(change)).map(|change| change.item_id);
    describes(event).into_iter().chain(stock).collect()
}

/// Adds an event to an item that it changes. One that the item reflects already changes nothing.
fn add(item: &mut IndexedItem, id: ItemId, event: &DomainEvent) {
    if item.sequence >= event.sequence {
        return;
    }
    if describes(event) == Some(id)
        && let Err(error) = item.describe(&event.data)
    {
        tracing::error!(%error, event_id = %event.event_id, "an item's document is not understood; search keeps the one before");
    }
    for change in event.stock.iter().filter(|change| change.item_id == id) {
        item.is_at(change.location_id, change.is_available());
    }
    item.sequence = event.sequence;
}

impl Model for SearchIndex {
    const PROJECTION: Projection = Projection::Search;

    async fn make_first(&self, name: &str) -> Result<(), ApplyError> {
        self.elastic.create(name).await.map_err(elastic_error)?;
        self.elastic.serve(&self.alias, name).await.map_err(elastic_error)
    }

    async fn check(&self, build: &Build) -> Result<(), ApplyError> {
        if self.elastic.exists(&build.name).await.map_err(elastic_error)? {
            return Ok(());
        }
        Err(elastic_error(ElasticError::NoIndex(build.name.clone())))
    }

    async fn write(&self, batch: &Batch<'_>) -> Result<Written, ApplyError> {
        let (elastic, index) = (&self.elastic, &batch.build.name);
        let changes = || {
            let events = batch.events.iter().map(|decoded| &decoded.item);
            events.flat_map(|event| changed(event).into_iter().map(move |id| (event, id)))
        };
        let asked: BTreeSet<_> = changes().map(|(event, id)| (event.tenant_id, id)).collect();
        let mut items = HashMap::with_capacity(asked.len());
        for some in Vec::from_iter(asked).chunks(ITEMS_AT_ONCE) {
            items.extend(elastic.items(index, some).await.map_err(elastic_error)?);
        }
        for (event, id) in changes() {
            add(items.entry(id).or_insert_with(|| IndexedItem::new(event.tenant_id, id)), id, event);
        }
        let items: Vec<_> = items.into_values().collect();
        // Whoever waits for a write to be found waits for this; whoever makes a build does not.
        let written = elastic.write(index, &items, batch.answers).await.map_err(elastic_error)?;
        WRITTEN.with_label_values(&["written"]).inc_by(u64::try_from(written.written).unwrap_or_default());
        WRITTEN.with_label_values(&["outdated"]).inc_by(u64::try_from(written.outdated).unwrap_or_default());
        builds::advance(&self.pool, batch.build, batch.hold, batch.reached, batch.progress).await?;
        Ok(Written::Settled)
    }
}
