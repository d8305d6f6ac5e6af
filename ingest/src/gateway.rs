//! The way of a command: onto the log, then wait for what becomes of it.
//!
//! It never answers 2xx for what is not durable: a command is acknowledged by the log first.

use crate::ledger_watch::{Floor, LedgerWatch};
use crate::replies::{Replies, Ticket};
use crate::weights::{Held, Weights};
use actix_web::HttpRequest;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use twh_domain::commands::Command;
use twh_domain::id::TenantId;
use twh_domain::limits::VALUE_BYTES_MAX;
use twh_domain::outcome::{Outcome, Position, Verdict};
use twh_edge::error::{ApiError, ErrorCode};
use twh_edge::limits::raise;
use twh_schemas::{Schemas, headers};
use twh_sinks::kafka::{Outgoing, Pending, Producer, RecordHeader, settle};
use twh_sinks::postgres::outcomes::documents;
use twh_sinks::postgres::tenant::TenantPool;

/// How long a command that nobody waits for counts as in flight, where it is not heard of.
const KEPT_AT_MOST: Duration = Duration::from_secs(30);

twh_sinks::metrics! {
    SUBMITTED: IntCounterVec = "twh_commands_submitted_total", "Commands given to the log, by what came of it.", labels ["result"];
}

/// A person has to look first.
const HALTED_RETRY_SECONDS: u32 = 10;

/// How the write side is set up.
#[derive(Debug, Clone)]
pub struct Options {
    /// This process, as commands name it.
    pub process: String,
    /// The full name of `commands`.
    pub commands_topic: String,
    /// How long a request waits for its outcome before it is answered with 202.
    pub outcome_wait: Duration,
    /// Commands that may be under way at once; more are refused with 503.
    pub in_flight_max: usize,
}

/// The write side's connection to the log.
pub struct Gateway {
    options: Options,
    producer: Producer,
    schemas: Arc<Schemas>,
    replies: Replies,
    pool: TenantPool,
    in_flight: Arc<Semaphore>,
    weights: Weights,
    ledger: Arc<LedgerWatch>,
}

/// A command on its way.
pub struct UnderWay {
    delivery: Pending,
    ticket: Ticket,
    ledger: Arc<LedgerWatch>,
    floor: Floor,
    _permit: OwnedSemaphorePermit,
}

/// A command that the log has.
pub struct Acknowledged {
    /// Where it stands.
    pub position: Position,
    ticket: Ticket,
    _permit: OwnedSemaphorePermit,
}

impl Gateway {
    /// A gateway onto the log.
    #[must_use]
    pub fn new(
        options: Options,
        producer: Producer,
        schemas: Arc<Schemas>,
        replies: Replies,
        pool: TenantPool,
        ledger: Arc<LedgerWatch>,
    ) -> Self {
        let in_flight = Arc::new(Semaphore::new(options.in_flight_max));
        let weights = Weights::new(ledger.partitions());
        Self { options, producer, schemas, replies, pool, in_flight, weights, ledger }
    }

    /// The ledger, for rehearsals: they read it and write nothing.
    pub(crate) const fn pool(&self) -> &TenantPool {
        &self.pool
    }

    /// How long a request waits for its outcome: as long as it prefers, and no longer than others.
    pub(crate) fn outcome_wait(&self, preferred: Option<Duration>) -> Duration {
        preferred.map_or(self.options.outcome_wait, |wait| wait.min(self.options.outcome_wait))
    }

    /// An outcome with its documents, which it may leave out; `None` where they are too long to be answered: they are found by the
    /// command's id.
    pub(crate) async fn with_documents(&self, outcome: Outcome) -> Result<Option<Outcome>, ApiError> {
        self.weights.learn(&outcome);
        let Some(audit_sequences) = outcome.verdict.left_out() else { return Ok(Some(outcome)) };
        let mut connection = self.pool.of(outcome.tenant).await.map_err(ApiError::database)?;
        let found = documents(&mut connection, outcome.tenant, audit_sequences).await;
        let resources = found.map_err(ApiError::database)?;
        Ok(resources.map(|resources| {
            let verdict = Arc::new(Verdict::Accepted { resources, audit_sequences });
            Outcome { verdict, ..outcome }
        }))
    }

    /// How much of the bound on commands under way is in use, in per mille.
    #[must_use]
    pub fn in_flight_per_mille(&self) -> u32 {
        let max = self.options.in_flight_max.max(1);
        let used = max.saturating_sub(self.in_flight.available_permits());
        u32::try_from(used.saturating_mul(1_000) / max).unwrap_or(u32::MAX)
    }

    /// Guesses what a request's commands make the ledger write, charges its tenant for it, and takes it from what the tenant may have
    /// in flight. `paid` is what the request has cost so far. With `ask`, what is not known of stored documents is looked up.
    pub(crate) async fn weigh(
        &self,
        request: &HttpRequest,
        tenant: TenantId,
        commands: &[&Command],
        paid: u32,
        ask: bool,
    ) -> Result<Held, ApiError> {
        let guess = self.weights.guess(&self.pool, tenant, commands, ask).await;
        raise(request, paid, paid.saturating_add(guess.weight.surcharge())).await?;
        self.weights.hold(tenant, guess).await
    }

    /// Hands a command to the log without waiting; commands handed over one after another stand there in that order.
    pub fn hand_over(&self, command: &Command, traceparent: Option<&str>) -> Result<UnderWay, ApiError> {
        let Some(floor) = self.ledger.floor(command.tenant_id) else {
            SUBMITTED.with_label_values(&["halted"]).inc();
            return Err(halted("nothing was stored"));
        };
        let Ok(permit) = Arc::clone(&self.in_flight).try_acquire_owned() else {
            SUBMITTED.with_label_values(&["overloaded"]).inc();
            return Err(ApiError::new(ErrorCode::Overloaded, "too many commands are under way").retry_after(1));
        };
        let payload = self.schemas.commands.encode(command).map_err(ApiError::internal)?;
        if payload.len() > VALUE_BYTES_MAX {
            SUBMITTED.with_label_values(&["too_large"]).inc();
            let (is, most) = (payload.len(), VALUE_BYTES_MAX);
            return Err(ApiError::new(
                ErrorCode::BodyTooLarge,
                format!("the command takes {is} bytes on the log, {most} at most; split it into several"),
            ));
        }
        let mut header: Vec<RecordHeader> =
            vec![(headers::REPLY_PARTITION.into(), self.replies.partition().to_string().into())];
        header.push((headers::REPLY_PROCESS.into(), self.options.process.clone().into()));
        header.extend(traceparent.map(|value| (headers::TRACEPARENT.into(), value.to_owned().into())));
        let key = command.tenant_id.to_string();
        let ticket = self.replies.expect(command.command_id);
        let record = Outgoing {
            topic: &self.options.commands_topic,
            partition: None,
            key: key.as_bytes(),
            headers: &header,
            payload: &payload,
        };
        let delivery = self.producer.enqueue(record).map_err(unavailable)?;
        Ok(UnderWay { delivery, ticket, ledger: Arc::clone(&self.ledger), floor, _permit: permit })
    }
}

fn unavailable(error: twh_sinks::kafka::ProduceError) -> ApiError {
    SUBMITTED.with_label_values(&[error.kind()]).inc();
    tracing::warn!(%error, "a command could not be put on the log");
    ApiError::new(
        ErrorCode::CommandLogUnavailable,
        "the command log cannot take the command now; send it again with the same Idempotency-Key",
    )
    .retry_after(1)
}

fn halted(stored: &str) -> ApiError {
    let message = format!(
        "the ledger of this tenant stands still until its operator has looked at it, and {stored}; send it again with the same \
         Idempotency-Key"
    );
    ApiError::new(ErrorCode::LedgerHalted, message).retry_after(HALTED_RETRY_SECONDS)
}

impl UnderWay {
    /// Waits until the log has the command.
    pub async fn acknowledged(self) -> Result<Acknowledged, ApiError> {
        let delivery = settle(self.delivery).await.map_err(unavailable)?;
        let position = Position { partition: delivery.partition, offset: delivery.offset };
        if !self.ledger.acknowledged(self.floor, position) {
            SUBMITTED.with_label_values(&["passed_over"]).inc();
            return Err(halted("the command may be decided later"));
        }
        SUBMITTED.with_label_values(&["acknowledged"]).inc();
        Ok(Acknowledged { position, ticket: self.ticket, _permit: self._permit })
    }
}

impl Acknowledged {
    /// Waits for what becomes of it; `None` when that takes longer.
    pub async fn outcome(&mut self, wait: Duration) -> Option<Outcome> {
        self.ticket.outcome(wait).await
    }

    /// Keeps what its tenant has in flight until it is decided, for a while: nobody waits for it.
    pub(crate) fn keep(mut self, held: Held) {
        if held.is_heavy() {
            tokio::spawn(async move {
                if let Some(outcome) = self.ticket.outcome(KEPT_AT_MOST).await {
                    held.learn(&outcome);
                }
                drop(held);
            });
        }
    }
}
