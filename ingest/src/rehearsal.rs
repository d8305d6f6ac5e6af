//! `commands:batch?dry_run=true`: what a batch would come to now, without doing any of it.

use crate::answer::{entry, outcome_entry};
use crate::batch::{asked, in_batch};
use crate::body::{BatchBody, BatchEntry};
use crate::compose::command;
use crate::describe::{BatchResults, BeforeAndAfter, StockChange};
use crate::gateway::Gateway;
use actix_web::{HttpRequest, HttpResponse};
use time::OffsetDateTime;
use twh_domain::commands::Command;
use twh_domain::decimal::Quantity;
use twh_domain::entity::LevelKey;
use twh_domain::outcome::Verdict;
use twh_edge::access::AnswerSize;
use twh_edge::auth::Identity;
use twh_edge::error::ApiError;
use twh_edge::headers::check_idempotency_key;
use twh_edge::limits::cost_of_batch;
use twh_edge::request::RequestId;
use twh_edge::results::{BatchResult, Results};
use twh_edge::room::make_room;
use twh_sinks::postgres::ledger::LedgerError;
use twh_sinks::postgres::rehearsal::{Change, Rehearsed, rehearse};
use uuid::Uuid;

/// Most levels that a rehearsal tells of: some 4 MiB.
const CHANGES_MAX: usize = 10_000;

/// Rehearses a batch; `key` is the whole's, where the batch is atomic and the client gave one.
pub(crate) async fn handle(
    request: &HttpRequest,
    caller: &Identity,
    gateway: &Gateway,
    key: Option<String>,
    batch: BatchBody,
) -> Result<HttpResponse, ApiError> {
    let request_id = &RequestId::of(request);
    let paid = cost_of_batch(batch.commands.len());
    let (commands, results) = if batch.atomic {
        (vec![atomic(caller, request_id, key, batch.commands)?], Vec::new())
    } else {
        each(caller, request_id, batch.commands)
    };
    let sound: Vec<_> = commands.iter().collect();
    make_room(request, caller.tenant_id, AnswerSize::Page).await?;
    let _held = gateway.weigh(request, caller.tenant_id, &sound, paid, true).await?;
    let mut connection = gateway.pool().of(caller.tenant_id).await.map_err(ApiError::database)?;
    let rehearsed = rehearse(&mut connection, &commands, OffsetDateTime::now_utc().into()).await;
    let rehearsed = rehearsed.map_err(ledger_error)?;
    let results = match results.is_empty() {
        true => operations(&rehearsed, request_id)?,
        false => merge(results, &rehearsed, request_id),
    };
    let changes = rehearsed.changes.iter().take(CHANGES_MAX).map(change).collect();
    Ok(HttpResponse::Ok().json(BatchResults::rehearsed(results, changes, rehearsed.changes.len())))
}

/// A key that was given is honoured: the answer may be that of an earlier command.
fn key_or_new(key: Option<&str>) -> Result<String, ApiError> {
    match key {
        Some(key) => check_idempotency_key(key).map(str::to_owned),
        None => Ok(Uuid::now_v7().to_string()),
    }
}

fn atomic(
    caller: &Identity,
    request_id: &str,
    key: Option<String>,
    entries: Vec<BatchEntry>,
) -> Result<Command, ApiError> {
    let mut all = Vec::with_capacity(entries.len());
    for (index, entry) in entries.into_iter().enumerate() {
        all.push(asked(caller, entry).map_err(|error| in_batch(&error, index))?);
    }
    Ok(command(caller, request_id, key_or_new(key.as_deref())?, all))
}

/// The commands that are sound, and for each entry its error or that it is one of them.
fn each(caller: &Identity, request_id: &str, entries: Vec<BatchEntry>) -> (Vec<Command>, Vec<Result<(), ApiError>>) {
    let mut commands = Vec::with_capacity(entries.len());
    let results = entries
        .into_iter()
        .map(|entry| {
            let key = key_or_new(entry.idempotency_key.as_deref())?;
            commands.push(command(caller, request_id, key, vec![asked(caller, entry)?]));
            Ok(())
        })
        .collect();
    (commands, results)
}

fn merge(results: Vec<Result<(), ApiError>>, rehearsed: &Rehearsed, request_id: &str) -> Results {
    let mut outcomes = rehearsed.outcomes.iter();
    let entry = |result: Result<(), ApiError>| match result {
        Ok(()) => match outcomes.next() {
            Some(outcome) => outcome_entry(outcome, request_id).without_place(),
            None => BatchResult::error(&ApiError::internal("a command was not rehearsed"), request_id),
        },
        Err(error) => BatchResult::error(&error, request_id),
    };
    results.into_iter().map(entry).collect()
}

/// What an atomic batch would be answered: an entry for each operation, or the refusal of the whole.
fn operations(rehearsed: &Rehearsed, request_id: &str) -> Result<Results, ApiError> {
    let outcome = rehearsed.outcomes.first().ok_or_else(|| ApiError::internal("nothing was rehearsed"))?;
    Ok(match outcome.verdict.as_ref() {
        Verdict::Rejected(refusal) => {
            std::iter::once(BatchResult::error(&ApiError::from(refusal), request_id)).collect()
        }
        Verdict::Accepted { resources, .. } => {
            resources.iter().map(|resource| entry(resource).without_place()).collect()
        }
    })
}

fn change((key, change): (&LevelKey, &Change)) -> StockChange {
    let pair = |before: Option<Quantity>, after: Option<Quantity>| BeforeAndAfter { before, after };
    let Change { before, after } = change;
    StockChange {
        item_id: key.item,
        location_id: key.location,
        qty_on_hand: pair(Some(before.on_hand), Some(after.on_hand)),
        qty_reserved: pair(Some(before.reserved), Some(after.reserved)),
        available: pair(before.available(), after.available()),
    }
}

/// The ledger could not be read.
fn ledger_error(error: LedgerError) -> ApiError {
    match error {
        LedgerError::Database(error) => ApiError::database(error),
        other => ApiError::internal(other),
    }
}
