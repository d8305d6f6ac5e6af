//! What there is of each item, what comes and what goes; and which items come down to their reorder point.
//!
//! A batch is one transaction with the move of its partition, so it is added once. Events may stand on the topic twice: the
//! repeat is known by its number. The same transaction notes each item that the batch brings down to its reorder point; once it
//! is committed the ledger is asked to tell of them, and they are forgotten. A crash between the two asks again, under the same
//! key, as does who rebuilds the model.

mod fold;
#[cfg(test)]
mod sums_tests;
#[cfg(test)]
mod tests;

use super::{Batch, Model, Written, all_touched};
use crate::runtime::ApplyError;
use fold::Fold;
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;
use twh_domain::actor::Actor;
use twh_domain::commands::{Command, Operation, Payload, RULES_VERSION, ReportLowStock, SYSTEM_KEY_PREFIX};
use twh_domain::id::{CommandId, TenantId};
use twh_schemas::Schemas;
use twh_sinks::kafka::{Outgoing, Producer};
use twh_sinks::postgres::PgPool;
use twh_sinks::postgres::builds::{Build, Projection};
use twh_sinks::postgres::supply::{self, Crossing};
use uuid::Uuid;

/// What was longer ago is not told: the ledger forgets under which names it was asked (after 30 days).
const TOLD_WITHIN: Duration = Duration::from_secs(7 * 24 * 3_600);

/// The model.
pub struct Supply {
    /// Where it is kept.
    pub pool: PgPool,
    /// The contract of the topics.
    pub schemas: Arc<Schemas>,
    /// How commands get to the log.
    pub producer: Producer,
    /// The full name of `commands`.
    pub commands_topic: String,
}

impl Supply {
    /// Asks the ledger to tell of what came down to its reorder point.
    async fn tell(&self, crossings: &[Crossing]) -> Result<(), ApplyError> {
        let mut records = Vec::with_capacity(crossings.len());
        for crossing in crossings {
            match self.schemas.commands.encode(&command(crossing)) {
                Ok(payload) => records.push((crossing.tenant.to_string(), payload)),
                Err(error) => {
                    tracing::error!(%error, tenant_id = %crossing.tenant, item_id = %crossing.item, "supply: nobody can be told that an item is low");
                }
            }
        }
        let outgoing = records.iter().map(|(key, payload)| Outgoing {
            topic: &self.commands_topic,
            partition: None,
            key: key.as_bytes(),
            headers: &[],
            payload,
        });
        self.producer.produce_all(outgoing).await.map_err(ApplyError::unavailable)?;
        tracing::info!(items = records.len(), "supply: items came down to their reorder point");
        Ok(())
    }
}

fn command(crossing: &Crossing) -> Command {
    Command {
        command_id: CommandId(Uuid::now_v7()),
        tenant_id: crossing.tenant,
        rules_version: RULES_VERSION,
        issued_at: OffsetDateTime::now_utc().into(),
        actor: Actor { kind: "system".to_owned(), id: "supply".to_owned(), ip: None, user_agent: None }.into(),
        request_id: format!("low-stock-{}", crossing.item).into(),
        idempotency_key: format!("{SYSTEM_KEY_PREFIX}low_stock/{}/{}", crossing.item, crossing.sequence),
        fingerprint: "report_low".to_owned(),
        operations: vec![Operation {
            subject: crossing.item.0,
            expected_version: None,
            payload: Payload::ReportLowStock(ReportLowStock {
                available: crossing.available,
                reorder_point: crossing.reorder_point,
            }),
        }],
    }
}

impl Model for Supply {
    const PROJECTION: Projection = Projection::Supply;

    async fn make_first(&self, _: &str) -> Result<(), ApplyError> {
        Ok(())
    }

    async fn check(&self, _: &Build) -> Result<(), ApplyError> {
        Ok(())
    }

    async fn write(&self, batch: &Batch<'_>) -> Result<Written, ApplyError> {
        let tenants: Vec<TenantId> = batch.progress.iter().map(|progress| progress.tenant).collect();
        let touched = all_touched(batch.events);
        let (held, reflected) = supply::held(&self.pool, batch.build, batch.hold, &touched, &tenants).await?;
        let mut fold = Fold::new(held, reflected, (OffsetDateTime::now_utc() - TOLD_WITHIN).into());
        for decoded in batch.events {
            fold.add(&decoded.item);
        }
        let changed = fold.finish();
        supply::write(&self.pool, batch.build, batch.hold, batch.reached, batch.progress, &changed).await?;
        Ok(if changed.crossings.is_empty() { Written::Settled } else { Written::Unsettled })
    }

    async fn settle(&self, build: &Build, partition: i32) -> Result<(), ApplyError> {
        loop {
            let crossings = supply::crossings(&self.pool, build, partition).await?;
            if crossings.is_empty() {
                return Ok(());
            }
            self.tell(&crossings).await?;
            supply::forget_crossings(&self.pool, build, partition, &crossings).await?;
        }
    }
}
