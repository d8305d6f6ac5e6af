//! Events that are kept, and every type that there is.

use crate::Webhooks;
use crate::catalogue::{self, EventType};
use crate::shapes::later;
use actix_web::{HttpRequest, web};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use std::time::{Duration, Instant};
use twh_domain::timestamp::Timestamp;
use twh_domain::webhook::{event_types, names};
use twh_edge::access::{ListEventTypes, ListEvents, ListenToEvents};
use twh_edge::answer::{Answer, Page};
use twh_edge::auth::Caller;
use twh_edge::error::{ApiError, ErrorCode};
use twh_edge::grant::scopes_of_event;
use twh_edge::query::{self, LIMIT_MAX, Query};
use twh_edge::room::resting;
use twh_sinks::postgres::accounts::audit::Change;
use twh_sinks::postgres::webhooks::events as store;
use twh_sinks::postgres::webhooks::subscriptions::listen as keep_for_listening;

/// How long events are kept for who listens: an hour from the last request for it.
const LISTEN_SECONDS: i64 = 3_600;
/// The longest that a request for events waits for one.
const WAIT_SECONDS_MAX: i64 = 25;
/// Pauses between looks for new events: doubling from the first to the last.
const PAUSE_FIRST: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(250);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct EventQuery {
    /// Rows in the page; 50 by default.
    #[schemars(range(min = 1, max = LIMIT_MAX))]
    limit: Option<i64>,
    /// Events after this one, by its place among the tenant's events; from the first that is kept where it is left out.
    #[schemars(range(min = 0))]
    after: Option<i64>,
    /// Waits so long for an event where there is none yet.
    #[schemars(range(min = 0, max = WAIT_SECONDS_MAX))]
    wait_seconds: Option<i64>,
    /// Only those that this type or pattern names, such as `order.*`.
    event_type: Option<String>,
}

/// Events in their order.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Events {
    #[schemars(with = "Vec<catalogue::Event>")]
    data: Vec<Box<RawValue>>,
    /// Send it as `after` for what comes next.
    next_after: i64,
}

pub(crate) async fn list(
    caller: Caller<ListEvents>,
    request: HttpRequest,
    webhooks: web::Data<Webhooks>,
    query: Query<EventQuery>,
) -> Result<Answer<Events>, ApiError> {
    let asked = query.read()?;
    let limit = query::limit(asked.limit)?;
    let wait = asked.wait_seconds.unwrap_or(0);
    if !(0..=WAIT_SECONDS_MAX).contains(&wait) {
        return Err(query::invalid("wait_seconds", &format!("must be 0 to {WAIT_SECONDS_MAX}")));
    }
    if asked.after.is_some_and(|after| after < 0) {
        return Err(query::invalid("after", "must be 0 or more"));
    }
    let unknown = |pattern: &str| !event_types().any(|(event_type, _)| names(pattern, event_type));
    if asked.event_type.as_deref().is_some_and(unknown) {
        return Err(query::invalid("event_type", "names no type of event: GET /v1/event_types lists them"));
    }
    let wanted = |event_type: &str| {
        let may_see = scopes_of_event(event_type).is_some_and(|needed| needed.without(caller.scopes).is_empty());
        may_see && asked.event_type.as_deref().is_none_or(|one| names(one, event_type))
    };
    if !event_types().any(|(event_type, _)| wanted(event_type)) {
        let message = "these events are read with the scopes that read what they are about, and you have none of those";
        return Err(ApiError::new(ErrorCode::Forbidden, message));
    }
    let mut after = asked.after.unwrap_or(0);
    let deadline = Instant::now() + Duration::from_secs(u64::try_from(wait).unwrap_or_default());
    let mut pause = PAUSE_FIRST;
    loop {
        let mut connection = webhooks.of(caller.tenant_id).await?;
        let found = store::list(&mut connection, caller.tenant_id, after, limit).await;
        let found = found.map_err(ApiError::database)?;
        drop(connection);
        after = found.rows.last().and_then(|event| event.sequence).unwrap_or(after);
        let data: Vec<_> = found
            .rows
            .iter()
            .filter(|event| wanted(&event.event_type))
            .filter_map(|event| RawValue::from_string(event.body.as_ref().to_owned()).ok())
            .collect();
        if !data.is_empty() || found.has_more || Instant::now() >= deadline {
            return Ok(Answer::of(&Events { data, next_after: after }));
        }
        resting(&request, actix_web::rt::time::sleep(pause)).await?;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Leave to listen.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Listening {
    /// The place of the newest event: send it as `after`.
    after: i64,
    /// Until when events are kept; ask again before.
    until: Timestamp,
}

pub(crate) async fn listen(
    caller: Caller<ListenToEvents>,
    request: HttpRequest,
    webhooks: web::Data<Webhooks>,
) -> Result<Answer<Listening>, ApiError> {
    if caller.environment != "sandbox" {
        let message = "live events go to subscriptions only: POST /v1/webhooks/register";
        return Err(ApiError::new(ErrorCode::SandboxOnly, message));
    }
    let deed = caller.deed(&request);
    let until = later(deed.at, LISTEN_SECONDS);
    let kept = webhooks.control.change([caller.tenant_id], async |tx| {
        let (entity, new) = (caller.tenant_id.0, Some(json!({ "until": until })));
        let change = Change { action: "webhook.listen", entity_kind: "tenant", entity, old: None, new };
        tx.record(&deed, change).await.map_err(ApiError::database)?;
        keep_for_listening(tx, caller.tenant_id, until).await.map_err(ApiError::database)
    });
    kept.await?;
    // Read once it is known that events are kept: one that is told between the two would be neither before nor after.
    let mut connection = webhooks.of(caller.tenant_id).await?;
    let after = store::newest_told(&mut connection, caller.tenant_id).await.map_err(ApiError::database)?;
    Ok(Answer::of(&Listening { after, until }))
}

pub(crate) async fn types(_: Caller<ListEventTypes>) -> Result<Answer<Page<EventType>>, ApiError> {
    let data = catalogue::event_types();
    Ok(Answer::of(&Page { data, next_cursor: None }))
}
