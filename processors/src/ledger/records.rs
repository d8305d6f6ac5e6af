//! What a batch publishes: outcomes, events and movements in the order of the commands, then the levels as the batch leaves them.

use crate::runtime::Decoded;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use twh_domain::Decision;
use twh_domain::commands::Command;
use twh_domain::entity::LevelKey;
use twh_domain::event::DomainEvent;
use twh_domain::level::StockLevel;
use twh_domain::limits::VALUE_BYTES_MAX;
use twh_domain::outcome::{Outcome, Position, Refusal, Verdict};
use twh_domain::state::Effects;
use twh_schemas::catalogue::{EVENTS, LEVELS, MOVEMENTS, OUTCOMES};
use twh_schemas::codec::EncodeError;
use twh_schemas::records::StockChange;
use twh_schemas::{Schemas, headers, records};
use twh_sinks::kafka::RecordHeader;
use twh_sinks::postgres::ledger::LedgerError;
use twh_sinks::postgres::outbox::OutboxRecord;

pub(super) struct Records<'a> {
    schemas: &'a Schemas,
    records: Vec<OutboxRecord>,
}

fn encode_error(error: EncodeError) -> LedgerError {
    LedgerError::Corrupt { what: "record to publish", reason: error.to_string() }
}

impl<'a> Records<'a> {
    pub(super) const fn new(schemas: &'a Schemas) -> Self {
        Self { schemas, records: Vec::new() }
    }

    /// Adds what one decision publishes; without its outcome, where that is told otherwise.
    pub(super) fn add(
        &mut self,
        decoded: &Decoded<Command>,
        decision: &Decision,
        with_outcome: bool,
    ) -> Result<(), LedgerError> {
        let trace = decoded.record.header(headers::TRACEPARENT).filter(|text| headers::is_traceparent(text));
        let position = decision.outcome.position;
        let tenant = decoded.item.tenant_id.to_string().into_bytes();
        if with_outcome {
            self.outcome(decoded, decision, trace)?;
        }
        let mut stock = stock_by_event(&decision.effects);
        for (index, event) in decision.effects.events.iter().enumerate() {
            let record = records::DomainEvent::new(event, position, stock.remove(&index).unwrap_or_default());
            let payload = self.schemas.events.encode(&record).map_err(encode_error)?;
            self.records.push(OutboxRecord {
                topic: EVENTS.name,
                partition: None,
                key: tenant.clone(),
                headers: cloud_event(event, trace),
                payload,
            });
        }
        for movement in &decision.effects.movements {
            let payload =
                self.schemas.movements.encode(&records::StockMovement::from(movement)).map_err(encode_error)?;
            self.records.push(OutboxRecord {
                topic: MOVEMENTS.name,
                partition: None,
                key: tenant.clone(),
                headers: traced(trace),
                payload,
            });
        }
        Ok(())
    }

    /// The outcome goes where it is awaited; one that nobody awaits is found by its command's id.
    fn outcome(
        &mut self,
        decoded: &Decoded<Command>,
        decision: &Decision,
        trace: Option<&str>,
    ) -> Result<(), LedgerError> {
        let Some(partition) = decoded.record.header(headers::REPLY_PARTITION).and_then(|text| text.parse::<i32>().ok())
        else {
            return Ok(());
        };
        // A partition that is not there would hold the outbox up for ever.
        let partition = (0..reply_partitions()).contains(&partition).then_some(partition);
        let mut payload = self.schemas.outcomes.encode(&decision.outcome).map_err(encode_error)?;
        if payload.len() > VALUE_BYTES_MAX {
            // Who answers reads the documents from the audit log.
            payload = self.schemas.outcomes.encode(&shortened(&decision.outcome)).map_err(encode_error)?;
        }
        let key = decoded.item.command_id.to_string().into_bytes();
        self.records.push(OutboxRecord { topic: OUTCOMES.name, partition, key, headers: traced(trace), payload });
        Ok(())
    }

    /// Adds each level that changed, once, as of `offset`; gives it all.
    pub(super) fn finish(
        mut self,
        levels: &BTreeMap<LevelKey, StockLevel>,
        offset: i64,
        partition: i32,
    ) -> Result<Vec<OutboxRecord>, LedgerError> {
        for (key, level) in levels {
            let record = records::StockLevel::new(key, level, Position { partition, offset });
            let payload = self.schemas.levels.encode(&record).map_err(encode_error)?;
            let key = format!("{}/{}/{}", key.tenant, key.item, key.location).into_bytes();
            // Where the tenant's movements are: a batch is one request to the broker for each topic, not one for each level.
            let to = Some(partition);
            self.records.push(OutboxRecord { topic: LEVELS.name, partition: to, key, headers: Vec::new(), payload });
        }
        match self.records.iter().find(|record| record.payload.len() > VALUE_BYTES_MAX) {
            None => Ok(self.records),
            Some(record) => {
                let reason = format!("{} bytes for {}, {VALUE_BYTES_MAX} at most", record.payload.len(), record.topic);
                Err(LedgerError::Corrupt { what: "record to publish", reason })
            }
        }
    }
}

/// Without its documents, or without what a refusal says in detail.
fn shortened(outcome: &Outcome) -> Outcome {
    let verdict = match outcome.verdict.as_ref() {
        Verdict::Rejected(refusal) => Verdict::Rejected(Refusal { details: "[]".to_owned(), ..refusal.clone() }),
        Verdict::Accepted { audit_sequences, .. } => {
            Verdict::Accepted { resources: Vec::new(), audit_sequences: *audit_sequences }
        }
    };
    Outcome { verdict: Arc::new(verdict), ..outcome.clone() }
}

/// What each event did to levels: a movement belongs to the next event about its document, so that the events of a level come in
/// the order of its versions, also where one command does several things to the same document.
fn stock_by_event(effects: &Effects) -> BTreeMap<usize, Vec<StockChange>> {
    let mut stock: BTreeMap<usize, Vec<StockChange>> = BTreeMap::new();
    let last = effects.events.len().saturating_sub(1);
    for (movement, before) in effects.movements.iter().zip(&effects.events_before) {
        let about =
            |event: &DomainEvent| event.subject == movement.reference && event.subject_kind == movement.reference_kind;
        let next = effects.events.iter().enumerate().skip(*before).find(|(_, event)| about(event));
        StockChange::add(stock.entry(next.map_or(last, |(index, _)| index)).or_default(), movement);
    }
    stock
}

const fn reply_partitions() -> i32 {
    match OUTCOMES.partitions {
        twh_schemas::catalogue::Partitions::Fixed(count) => count,
        twh_schemas::catalogue::Partitions::Configured => 1,
    }
}

fn traced(trace: Option<&str>) -> Vec<RecordHeader> {
    trace.map(|trace| (headers::TRACEPARENT.into(), trace.to_owned().into())).into_iter().collect()
}

/// CloudEvents 1.0, Kafka protocol binding, binary mode.
fn cloud_event(event: &DomainEvent, trace: Option<&str>) -> Vec<RecordHeader> {
    let mut list = Vec::with_capacity(8);
    list.extend(traced(trace));
    let attributes: [(&'static str, Cow<'static, str>); 7] = [
        (headers::CE_ID, event.id.to_string().into()),
        (headers::CE_SPECVERSION, "1.0".into()),
        (headers::CE_SOURCE, format!("/tenants/{}", event.tenant).into()),
        (headers::CE_TYPE, event.event_type.name().into()),
        (headers::CE_TIME, event.occurred_at.to_string().into()),
        (headers::CE_SUBJECT, format!("{}/{}", event.subject_kind.collection(), event.subject).into()),
        (headers::CONTENT_TYPE, headers::AVRO.into()),
    ];
    list.extend(attributes.map(|(name, value)| (name.into(), value)));
    list
}
