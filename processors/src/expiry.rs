//! Asks the ledger to let go of reservations whose time has come, and forgets outcomes that no retry can ask for any more.
//!
//! Every process may run it: whichever command comes first lets go, the others are refused and change nothing.

use crate::runtime::Backoff;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use twh_domain::actor::Actor;
use twh_domain::commands::{Command, ExpireReservation, Operation, Payload, RULES_VERSION, SYSTEM_KEY_PREFIX};
use twh_domain::id::{CommandId, TenantId};
use twh_schemas::Schemas;
use twh_sinks::kafka::{Outgoing, Producer};
use twh_sinks::postgres::{PgPool, ledger};
use uuid::Uuid;

/// How often it looks.
const INTERVAL: Duration = Duration::from_secs(1);
/// Reservations asked for at a time.
const BATCH: i64 = 1_000;
/// How long an answer is awaited before a reservation is asked for again.
const ASK_AGAIN: Duration = Duration::from_secs(30);
/// Outcomes forgotten at a time.
const FORGET_BATCH: i64 = 10_000;
/// Rounds between two looks at old outcomes: about ten minutes.
const FORGET_EVERY: u32 = 600;

/// What it works with.
pub struct Expiry {
    /// Where reservations are.
    pub pool: PgPool,
    /// How commands get to the log.
    pub producer: Producer,
    /// The contract of the topics.
    pub schemas: Arc<Schemas>,
    /// The full name of `commands`.
    pub commands_topic: String,
}

impl Expiry {
    /// Looks again and again until `stop`.
    pub async fn run(&self, stop: CancellationToken) {
        let mut backoff = Backoff::new(INTERVAL, Duration::from_secs(30));
        let mut round = 0_u32;
        let mut asked = HashMap::new();
        while !stop.is_cancelled() {
            let pause = match self.round(round, &mut asked).await {
                Ok(()) => {
                    backoff.reset();
                    INTERVAL
                }
                Err(error) => {
                    tracing::warn!(error, "expiry: reservations cannot be let go now; trying again");
                    backoff.pause()
                }
            };
            round = round.wrapping_add(1);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    async fn round(&self, round: u32, asked: &mut HashMap<Uuid, Instant>) -> Result<(), String> {
        asked.retain(|_, at: &mut Instant| at.elapsed() < ASK_AGAIN);
        let mut due = ledger::due_reservations(&self.pool, BATCH).await.map_err(|e| e.to_string())?;
        due.retain(|(_, reservation)| !asked.contains_key(reservation));
        if !due.is_empty() {
            self.ask(&due).await?;
            asked.extend(due.iter().map(|(_, reservation)| (*reservation, Instant::now())));
            tracing::info!(reservations = due.len(), "expiry: asked the ledger to let go of reservations");
        }
        if round.is_multiple_of(FORGET_EVERY) {
            ledger::forget_outcomes(&self.pool, FORGET_BATCH).await.map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    async fn ask(&self, due: &[(TenantId, Uuid)]) -> Result<(), String> {
        let mut records = Vec::with_capacity(due.len());
        for (tenant, reservation) in due {
            let payload = self.schemas.commands.encode(&command(*tenant, *reservation)).map_err(|e| e.to_string())?;
            records.push((tenant.to_string(), payload));
        }
        let outgoing = records.iter().map(|(key, payload)| Outgoing {
            topic: &self.commands_topic,
            partition: None,
            key: key.as_bytes(),
            headers: &[],
            payload,
        });
        self.producer.produce_all(outgoing).await.map_err(|e| e.to_string())
    }
}

fn command(tenant_id: TenantId, reservation: Uuid) -> Command {
    let command_id = CommandId(Uuid::now_v7());
    Command {
        command_id,
        tenant_id,
        rules_version: RULES_VERSION,
        issued_at: OffsetDateTime::now_utc().into(),
        actor: Actor { kind: "system".to_owned(), id: "expiry".to_owned(), ip: None, user_agent: None }.into(),
        request_id: format!("expiry-{reservation}").into(),
        // A key of its own: one that came a moment too early must not answer for the next.
        idempotency_key: format!("{SYSTEM_KEY_PREFIX}expire/{command_id}"),
        fingerprint: "expire".to_owned(),
        operations: vec![Operation {
            subject: reservation,
            expected_version: None,
            payload: Payload::ExpireReservation(ExpireReservation {}),
        }],
    }
}
