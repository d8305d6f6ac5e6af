//! Replays: events that a subscription is sent once more.

use crate::deliveries::exists;
use crate::shapes::{PageQuery, no_webhook, path_id, webhook_id};
use crate::{Webhooks, account};
use actix_web::{HttpRequest, web};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use twh_domain::id::TenantId;
use twh_domain::outcome::Position;
use twh_domain::timestamp::Timestamp;
use twh_domain::webhook::EventFilter;
use twh_edge::access::{CancelWebhookReplay, GetWebhookReplay, ListWebhookReplays, ReplayWebhook};
use twh_edge::answer::{Answer, Page};
use twh_edge::auth::Caller;
use twh_edge::body::Body;
use twh_edge::cursor;
use twh_edge::error::{ApiError, ErrorCode};
use twh_edge::problems::Problems;
use twh_edge::query::Query;
use twh_sinks::postgres::webhooks::replays::{self as store, Replay, Selection};
use twh_sinks::postgres::webhooks::{events, subscriptions};
use uuid::Uuid;

/// Events looked at in one query when those that are wanted are counted.
const COUNT_STEP: i64 = 5_000;
/// Replays of a subscription that run at once.
const RUNNING_MAX: i64 = 5;

/// What to send again: say one of `from_position`, `from_sequence`, `from_time` and `dead_letters`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReplayRequest {
    /// From the event of this position of the ledger on, as `X-TWH-Position` gives it.
    #[schemars(extend("examples" = ["3-1042"]))]
    from_position: Option<String>,
    /// From this event on, by its place among the tenant's events.
    from_sequence: Option<i64>,
    /// From the first event on that was recorded not before.
    #[schemars(with = "Option<Timestamp>")]
    from_time: Option<String>,
    /// To the last event that was recorded before; to the newest where it is left out. Beside `from_time`.
    #[schemars(with = "Option<Timestamp>")]
    to_time: Option<String>,
    /// To this event, by its place; to the newest where it is left out. Beside `from_sequence` or `from_position`.
    to_sequence: Option<i64>,
    /// All that was given up and not replayed since.
    dead_letters: Option<bool>,
    /// Says how many events it would be, and sends none.
    dry_run: Option<bool>,
}

/// Where a replay begins.
enum From {
    Position(Position),
    Sequence(i64),
    Time(Timestamp),
    DeadLetters,
}

struct Wanted {
    from: From,
    to_time: Option<Timestamp>,
    to_sequence: Option<i64>,
    dry_run: bool,
}

fn time(text: &str, field: &str, problems: &mut Problems) -> Timestamp {
    text.parse().unwrap_or_else(|_| {
        problems.add(field, "must be an RFC 3339 time such as 2026-03-01T09:30:00Z");
        Timestamp::from_micros(0)
    })
}

impl ReplayRequest {
    fn checked(&self) -> Result<Wanted, ApiError> {
        let mut problems = Problems::default();
        let mut from = Vec::new();
        if let Some(text) = &self.from_position {
            match text.parse() {
                Ok(position) => from.push(From::Position(position)),
                Err(_) => {
                    problems.add("from_position", "must be a position as X-TWH-Position gives it, such as 3-1042")
                }
            }
        }
        if let Some(sequence) = self.from_sequence {
            from.push(From::Sequence(sequence));
        }
        if let Some(text) = &self.from_time {
            from.push(From::Time(time(text, "from_time", &mut problems)));
        }
        if self.dead_letters == Some(true) {
            from.push(From::DeadLetters);
        }
        let to_time = self.to_time.as_deref().map(|text| time(text, "to_time", &mut problems));
        if to_time.is_some() && !matches!(from.as_slice(), [From::Time(_)]) {
            problems.add("to_time", "belongs to from_time");
        }
        if self.to_sequence.is_some() && !matches!(from.as_slice(), [From::Sequence(_) | From::Position(_)]) {
            problems.add("to_sequence", "belongs to from_sequence or from_position");
        }
        let one = from.len() == 1;
        if from.len() > 1 || (from.is_empty() && self.from_position.is_none()) {
            problems.add("", "say one of from_position, from_sequence, from_time and dead_letters");
        }
        problems.none()?;
        match from.pop() {
            Some(from) if one => {
                Ok(Wanted { from, to_time, to_sequence: self.to_sequence, dry_run: self.dry_run.unwrap_or(false) })
            }
            _ => Err(ApiError::internal("a replay without a beginning")),
        }
    }
}

/// A replay, and how far it is; or, of a dry run, how much it would be.
#[derive(Serialize, JsonSchema)]
pub(crate) struct WebhookReplay {
    /// `null` for a dry run.
    id: Option<Uuid>,
    /// `running`: deliveries are being queued. `finished`: all are. `cancelled`: no more are, and those that waited were taken
    /// back. `dry_run`: nothing was begun.
    #[schemars(extend("enum" = ["running", "finished", "cancelled", "dry_run"]))]
    state: String,
    /// The events that the subscription wanted when it was asked for.
    events: i64,
    /// Deliveries queued so far.
    queued: i64,
    /// The first event, by its place among the tenant's; `null` for dead letters.
    first_sequence: Option<i64>,
    /// The last event.
    last_sequence: Option<i64>,
    created_by: Option<String>,
    created_at: Option<Timestamp>,
    finished_at: Option<Timestamp>,
}

const fn sequences(selection: Selection) -> (Option<i64>, Option<i64>) {
    match selection {
        Selection::Events { first, last } => (Some(first), Some(last)),
        Selection::DeadLetters { .. } => (None, None),
    }
}

fn shown(replay: &Replay) -> WebhookReplay {
    let (first_sequence, last_sequence) = sequences(replay.selection);
    WebhookReplay {
        id: Some(replay.id),
        state: replay.state.clone(),
        events: replay.events,
        queued: replay.made,
        first_sequence,
        last_sequence,
        created_by: Some(replay.created_by.clone()),
        created_at: Some(replay.created_at),
        finished_at: replay.finished_at,
    }
}

/// What a request selects, and how many events the subscription wants of it.
async fn select(
    connection: &mut sqlx::PgConnection,
    tenant: TenantId,
    subscription: Uuid,
    filter: &EventFilter,
    wanted: &Wanted,
) -> Result<(Selection, i64), sqlx::Error> {
    let kept = events::span(connection, tenant).await?;
    let first = match wanted.from {
        From::DeadLetters => {
            let (count, newest) = store::count_dead_letters(connection, subscription).await?;
            return Ok((Selection::DeadLetters { last: newest.unwrap_or_default() }, count));
        }
        From::Sequence(sequence) => Some(sequence),
        From::Time(at) => events::first_since(connection, tenant, at).await?,
        From::Position(position) => events::first_from(connection, tenant, position).await?,
    };
    let Some(((oldest, newest), first)) = kept.zip(first) else {
        return Ok((Selection::Events { first: 1, last: 0 }, 0));
    };
    let before = match wanted.to_time {
        Some(at) => events::first_since(connection, tenant, at).await?.map(|sequence| sequence - 1),
        None => wanted.to_sequence,
    };
    let (first, last) = (first.max(oldest), before.unwrap_or(newest).min(newest));
    let (mut at, mut count) = (first - 1, 0);
    while at < last {
        let found = events::about(connection, tenant, at, last, COUNT_STEP).await?;
        let matches = found.iter().filter(|event| filter.wants(&event.event_type, &event.items, &event.locations));
        count += i64::try_from(matches.count()).unwrap_or(i64::MAX);
        at = found.last().map_or(last, |event| event.sequence);
    }
    Ok((Selection::Events { first, last }, count))
}

pub(crate) async fn start(
    caller: Caller<ReplayWebhook>,
    request: HttpRequest,
    webhooks: web::Data<Webhooks>,
    body: Body<ReplayRequest>,
) -> Result<Answer<WebhookReplay, 202>, ApiError> {
    let id = webhook_id(&request)?;
    let body = body.read()?;
    let deed = caller.deed(&request);
    // What is counted is read where it is the tenant's, and no change waits for it.
    let mut connection = webhooks.of(caller.tenant_id).await?;
    let found = subscriptions::find(&mut connection, caller.tenant_id, id).await.map_err(ApiError::database)?;
    let subscription = found.ok_or_else(no_webhook)?;
    let wanted = body.checked()?;
    let selected = select(&mut connection, caller.tenant_id, id, &subscription.filter, &wanted).await;
    let (selection, events) = selected.map_err(ApiError::database)?;
    drop(connection);
    if wanted.dry_run {
        let (first_sequence, last_sequence) = sequences(selection);
        return Ok(Answer::of(&WebhookReplay {
            id: None,
            state: "dry_run".to_owned(),
            events,
            queued: 0,
            first_sequence,
            last_sequence,
            created_by: None,
            created_at: None,
            finished_at: None,
        }));
    }
    let replay = Replay {
        id: Uuid::now_v7(),
        tenant: caller.tenant_id,
        subscription: id,
        selection,
        at_sequence: 0,
        at_delivery: None,
        state: "running".to_owned(),
        events,
        made: 0,
        created_by: deed.actor.id.clone(),
        created_at: deed.at,
        finished_at: None,
    };
    let begun = webhooks.control.change([caller.tenant_id], async |tx| {
        // None begins for what has just been deleted.
        let held = subscriptions::find_for_change(tx, caller.tenant_id, id).await.map_err(ApiError::database)?;
        held.ok_or_else(no_webhook)?;
        if store::count_running(tx, caller.tenant_id, id).await.map_err(ApiError::database)? >= RUNNING_MAX {
            let message = format!("a subscription has {RUNNING_MAX} replays that run at most: wait, or cancel one");
            return Err(ApiError::new(ErrorCode::LimitReached, message));
        }
        store::insert(tx, &replay).await.map_err(ApiError::database)?;
        let (first, last) = sequences(selection);
        let new = json!({ "replay_id": replay.id, "events": events, "first_sequence": first, "last_sequence": last });
        account(tx, &deed, "webhook.replay", id, None, Some(new)).await
    });
    begun.await?;
    let location = format!("/v1/webhooks/{id}/replays/{}", replay.id);
    Ok(Answer::of(&shown(&replay)).header(("location", location)))
}

pub(crate) async fn list(
    caller: Caller<ListWebhookReplays>,
    request: HttpRequest,
    webhooks: web::Data<Webhooks>,
    query: Query<PageQuery>,
) -> Result<Answer<Page<WebhookReplay>>, ApiError> {
    let id = webhook_id(&request)?;
    let (before, limit) = query.read()?.place()?;
    let mut connection = webhooks.of(caller.tenant_id).await?;
    exists(&mut connection, caller.tenant_id, id).await?;
    let found = store::list(&mut connection, caller.tenant_id, id, before, limit).await;
    Ok(Answer::of(&Page::of(&found.map_err(ApiError::database)?, |one| cursor::encode(&one.id), shown)))
}

async fn find(
    connection: &mut sqlx::PgConnection,
    tenant: TenantId,
    request: &HttpRequest,
) -> Result<Replay, ApiError> {
    let subscription = webhook_id(request)?;
    exists(connection, tenant, subscription).await?;
    let id = path_id(request, "replay_id", "webhook replay")?;
    let found = store::find(connection, tenant, subscription, id).await.map_err(ApiError::database)?;
    found.ok_or_else(|| ApiError::not_found("webhook replay"))
}

pub(crate) async fn one(
    caller: Caller<GetWebhookReplay>,
    request: HttpRequest,
    webhooks: web::Data<Webhooks>,
) -> Result<Answer<WebhookReplay>, ApiError> {
    let mut connection = webhooks.of(caller.tenant_id).await?;
    Ok(Answer::of(&shown(&find(&mut connection, caller.tenant_id, &request).await?)))
}

pub(crate) async fn cancel(
    caller: Caller<CancelWebhookReplay>,
    request: HttpRequest,
    webhooks: web::Data<Webhooks>,
) -> Result<Answer<WebhookReplay>, ApiError> {
    let deed = caller.deed(&request);
    let cancelled = webhooks.control.change([caller.tenant_id], async |tx| {
        let replay = find(tx, caller.tenant_id, &request).await?;
        // One that is cancelled already is as it should be: a retry is no mistake.
        if let Some(taken_back) = store::cancel(tx, replay.id, deed.at).await.map_err(ApiError::database)? {
            let new = Some(json!({ "replay_id": replay.id, "taken_back": taken_back }));
            account(tx, &deed, "webhook.cancel_replay", replay.subscription, None, new).await?;
        }
        find(tx, caller.tenant_id, &request).await
    });
    Ok(Answer::of(&shown(&cancelled.await?)))
}
