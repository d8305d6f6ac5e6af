//! Subscriptions: registered, changed, rotated, deleted.

use crate::shapes::{PageQuery, given, later, no_webhook, webhook_id};
use crate::{Webhooks, account, secret};
use actix_web::{HttpRequest, web};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use twh_domain::timestamp::Timestamp;
use twh_domain::webhook::{EventFilter, event_types, names};
use twh_edge::access::{DeleteWebhook, GetWebhook, ListWebhooks, RegisterWebhook, RotateWebhookSecret, UpdateWebhook};
use twh_edge::answer::{Answer, Done, Page};
use twh_edge::auth::{Caller, Identity};
use twh_edge::body::Body;
use twh_edge::cursor;
use twh_edge::error::{ApiError, ErrorCode};
use twh_edge::grant::Grant;
use twh_edge::problems::Problems;
use twh_edge::query::Query;
use twh_sinks::outbound::{Identity as Certificate, Outbound, URL_LENGTH_MAX};
use twh_sinks::postgres::accounts::audit::Deed;
use twh_sinks::postgres::webhooks::deliveries::backlog;
use twh_sinks::postgres::webhooks::subscriptions::{self as store, Sealed, State, Subscription};
use twh_sinks::secrets::random;
use twh_sinks::webhook::{SECRET_BYTES, SigningSecret, certificate_purpose, secret_purpose};
use uuid::Uuid;

const PATTERNS_MAX: usize = 50;
const NARROWED_MAX: usize = 100;
const DESCRIPTION_LENGTH_MAX: usize = 500;
const CERTIFICATE_LENGTH_MAX: usize = 16_384;
const CONCURRENCY_DEFAULT: i32 = 8;
const CONCURRENCY_MAX: i64 = 64;
const RATE_MAX: i64 = 1_000;
const TIMEOUT_MS_DEFAULT: i32 = 10_000;
const TIMEOUT_MS_MIN: i64 = 500;
const TIMEOUT_MS_MAX: i64 = 30_000;
/// How long the secret before signs too, in seconds, where the client does not say: a day.
const OVERLAP_SECONDS_DEFAULT: i64 = 86_400;
/// And at most: a week.
const OVERLAP_SECONDS_MAX: i64 = 604_800;
/// Of a secret so many characters are shown.
const HINT_LENGTH: usize = 10;
/// What waits is counted no further.
const BACKLOG_COUNTED_MAX: i64 = 10_000;

/// Whether order is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ordering {
    /// Each is sent as soon as it can be: what fails holds up nothing.
    None,
    /// What concerns one document, or one item at a location, is sent in its order: what fails holds up what comes after it
    /// there, and nothing else.
    Key,
}

/// A subscription as it is answered, and as it stands in the account of changes: never its secret.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Webhook {
    id: Uuid,
    url: String,
    description: Option<String>,
    /// Patterns of types: `order.shipped`, `order.*` or `*`.
    event_types: Vec<String>,
    /// Only events about one of these items; all where it is empty.
    item_ids: Vec<Uuid>,
    /// Only events about one of these locations; all where it is empty.
    location_ids: Vec<Uuid>,
    ordering: Ordering,
    /// Most attempts under way at once.
    concurrency_max: i32,
    /// Most attempts begun in a second; no bound where it is `null`.
    rate_per_second: Option<i32>,
    /// How long an attempt may take.
    timeout_ms: i32,
    /// Whether it is called with a client certificate.
    client_certificate: bool,
    /// `active`: sent what it wants. `quarantined`: it fails; probes are sent, its queue is kept. `disabled`: it is sent nothing,
    /// and nothing is queued for it.
    #[schemars(extend("enum" = ["active", "quarantined", "disabled"]))]
    state: &'static str,
    state_reason: Option<String>,
    state_since: Timestamp,
    /// The first characters of the secret.
    secret_hint: String,
    /// Until when the secret before signs too.
    previous_secret_until: Option<Timestamp>,
    /// Who made it: a person or a key, by id.
    created_by: String,
    created_at: Timestamp,
    updated_at: Timestamp,
}

fn shown(one: &Subscription) -> Webhook {
    let one = one.clone();
    Webhook {
        id: one.id,
        url: one.url,
        description: one.description,
        event_types: one.filter.types,
        item_ids: one.filter.items,
        location_ids: one.filter.locations,
        ordering: if one.ordered { Ordering::Key } else { Ordering::None },
        concurrency_max: one.concurrency_max,
        rate_per_second: one.rate_per_second,
        timeout_ms: one.timeout_ms,
        client_certificate: one.has_client_certificate,
        state: one.state.name(),
        state_reason: one.state_reason,
        state_since: one.state_since,
        secret_hint: one.secret_hint,
        previous_secret_until: one.previous_until,
        created_by: one.created_by,
        created_at: one.created_at,
        updated_at: one.updated_at,
    }
}

/// A subscription whose secret was just made: the only answer with it.
#[derive(Serialize, JsonSchema)]
pub(crate) struct NewWebhook {
    #[serde(flatten)]
    webhook: Webhook,
    /// Signs what is sent; it is kept sealed and cannot be shown again.
    secret: String,
}

/// A subscription and what waits for it.
#[derive(Serialize, JsonSchema)]
pub(crate) struct WebhookWithBacklog {
    #[serde(flatten)]
    webhook: Webhook,
    /// Deliveries that wait, counted to 10,000.
    pending: i64,
    /// Deliveries that were given up and not replayed, counted to 10,000.
    dead_lettered: i64,
    /// Since when the oldest waits.
    oldest_pending_at: Option<Timestamp>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct WebhookToRegister {
    /// Where events are posted to, by `https`.
    #[schemars(length(min = 1, max = URL_LENGTH_MAX), extend("format" = "uri"))]
    url: String,
    /// Patterns of types: `order.shipped`, `order.*` or `*`.
    #[schemars(length(min = 1, max = PATTERNS_MAX))]
    event_types: Vec<String>,
    #[schemars(length(max = DESCRIPTION_LENGTH_MAX))]
    description: Option<String>,
    /// Only events about one of these items.
    #[schemars(length(max = NARROWED_MAX))]
    item_ids: Option<Vec<Uuid>>,
    /// Only events about one of these locations.
    #[schemars(length(max = NARROWED_MAX))]
    location_ids: Option<Vec<Uuid>>,
    ordering: Option<Ordering>,
    /// Most attempts under way at once; 8 by default.
    #[schemars(range(min = 1, max = CONCURRENCY_MAX))]
    concurrency_max: Option<i32>,
    /// Most attempts begun in a second; no bound by default.
    #[schemars(range(min = 1, max = RATE_MAX))]
    rate_per_second: Option<i32>,
    /// How long an attempt may take; 10,000 by default.
    #[schemars(range(min = TIMEOUT_MS_MIN, max = TIMEOUT_MS_MAX))]
    timeout_ms: Option<i32>,
    /// A client certificate (its chain, the own first) and its key, in PEM, to call with (mutual TLS).
    #[schemars(length(max = CERTIFICATE_LENGTH_MAX))]
    client_certificate: Option<String>,
}

/// What is left out stays as it is.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct WebhookChange {
    #[schemars(length(min = 1, max = URL_LENGTH_MAX), extend("format" = "uri"))]
    url: Option<String>,
    #[schemars(length(min = 1, max = PATTERNS_MAX))]
    event_types: Option<Vec<String>>,
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<String>", length(max = DESCRIPTION_LENGTH_MAX))]
    description: Option<Option<String>>,
    #[schemars(length(max = NARROWED_MAX))]
    item_ids: Option<Vec<Uuid>>,
    #[schemars(length(max = NARROWED_MAX))]
    location_ids: Option<Vec<Uuid>>,
    ordering: Option<Ordering>,
    #[schemars(range(min = 1, max = CONCURRENCY_MAX))]
    concurrency_max: Option<i32>,
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<i32>", range(min = 1, max = RATE_MAX))]
    rate_per_second: Option<Option<i32>>,
    #[schemars(range(min = TIMEOUT_MS_MIN, max = TIMEOUT_MS_MAX))]
    timeout_ms: Option<i32>,
    /// `null` to call without one.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<String>", length(max = CERTIFICATE_LENGTH_MAX))]
    client_certificate: Option<Option<String>>,
    /// `active` lets one go on that is quarantined or disabled; `disabled` sends it nothing more.
    #[schemars(extend("enum" = ["active", "disabled"]))]
    state: Option<String>,
}

fn pattern(problems: &mut Problems, index: usize, pattern: &str) {
    if !event_types().any(|(event_type, _)| names(pattern, event_type)) {
        let problem = "names no type of event: GET /v1/event_types lists them; order.* is all that begin so, * is all";
        problems.add(&format!("event_types[{index}]"), problem);
    }
}

/// What is the same for a subscription that is made and one that is changed.
fn check(subscription: &Subscription, outbound: &Outbound, problems: &mut Problems) {
    if let Err(error) = outbound.check(&subscription.url) {
        problems.add("url", error.to_string());
    }
    let types = &subscription.filter.types;
    if types.is_empty() || types.len() > PATTERNS_MAX {
        problems.add("event_types", format!("must name 1 to {PATTERNS_MAX} types or patterns"));
    }
    types.iter().take(PATTERNS_MAX).enumerate().for_each(|(index, one)| pattern(problems, index, one));
    for (field, list) in [("item_ids", &subscription.filter.items), ("location_ids", &subscription.filter.locations)] {
        if list.len() > NARROWED_MAX {
            problems.add(field, format!("must name {NARROWED_MAX} at most"));
        }
    }
    let unfit = |text: &String| {
        text.chars().count() > DESCRIPTION_LENGTH_MAX || text.chars().any(|c| c.is_control() && c != '\n')
    };
    if subscription.description.as_ref().is_some_and(unfit) {
        let problem =
            format!("must have {DESCRIPTION_LENGTH_MAX} characters at most, none of them a control character");
        problems.add("description", problem);
    }
    problems.within("concurrency_max", i64::from(subscription.concurrency_max), 1, CONCURRENCY_MAX);
    if let Some(rate) = subscription.rate_per_second {
        problems.within("rate_per_second", i64::from(rate), 1, RATE_MAX);
    }
    problems.within("timeout_ms", i64::from(subscription.timeout_ms), TIMEOUT_MS_MIN, TIMEOUT_MS_MAX);
}

fn check_certificate(pem: &str, problems: &mut Problems) {
    if pem.len() > CERTIFICATE_LENGTH_MAX || Certificate::from_pem(pem.as_bytes()).is_err() {
        problems.add("client_certificate", "must be a certificate and its private key (PKCS#8), both in PEM");
    }
}

/// A new secret: its text, how it is kept, and what of it is shown.
fn new_secret(webhooks: &Webhooks, id: Uuid) -> Result<(String, Vec<u8>, String), ApiError> {
    let text = SigningSecret::text(&random::<SECRET_BYTES>().map_err(secret)?);
    let sealed = webhooks.secrets.seal(&secret_purpose(id), text.as_bytes()).map_err(secret)?;
    let hint = text.chars().take(HINT_LENGTH).collect();
    Ok((text, sealed, hint))
}

fn seal_certificate(webhooks: &Webhooks, id: Uuid, pem: &str) -> Result<Vec<u8>, ApiError> {
    webhooks.secrets.seal(&certificate_purpose(id), pem.as_bytes()).map_err(secret)
}

fn value(of: &Subscription) -> Option<Value> {
    serde_json::to_value(shown(of)).ok()
}

fn drafted(id: Uuid, body: &WebhookToRegister, caller: &Identity, deed: &Deed, hint: String) -> Subscription {
    Subscription {
        id,
        tenant: caller.tenant_id,
        url: body.url.clone(),
        description: body.description.clone(),
        filter: EventFilter {
            types: body.event_types.clone(),
            items: body.item_ids.clone().unwrap_or_default(),
            locations: body.location_ids.clone().unwrap_or_default(),
        },
        ordered: body.ordering == Some(Ordering::Key),
        concurrency_max: body.concurrency_max.unwrap_or(CONCURRENCY_DEFAULT),
        rate_per_second: body.rate_per_second,
        timeout_ms: body.timeout_ms.unwrap_or(TIMEOUT_MS_DEFAULT),
        state: State::Active,
        state_reason: None,
        state_since: deed.at,
        secret_hint: hint,
        previous_until: None,
        has_client_certificate: body.client_certificate.is_some(),
        created_by: deed.actor.id.clone(),
        created_at: deed.at,
        updated_at: deed.at,
        version: 1,
    }
}

pub(crate) async fn register(
    caller: Caller<RegisterWebhook>,
    request: HttpRequest,
    webhooks: web::Data<Webhooks>,
    body: Body<WebhookToRegister>,
) -> Result<Answer<NewWebhook, 201>, ApiError> {
    let body = body.read()?;
    let deed = caller.deed(&request);
    let id = Uuid::now_v7();
    let (text, sealed, hint) = new_secret(&webhooks, id)?;
    let subscription = drafted(id, &body, &caller, &deed, hint);
    let mut problems = Problems::default();
    check(&subscription, &webhooks.outbound, &mut problems);
    if let Some(pem) = &body.client_certificate {
        check_certificate(pem, &mut problems);
    }
    problems.none()?;
    let client_certificate = body.client_certificate.as_deref().map(|pem| seal_certificate(&webhooks, id, pem));
    let sealed = Sealed { secret: sealed, previous_secret: None, client_certificate: client_certificate.transpose()? };
    let most = caller.plan.webhooks_max();
    let registered = webhooks.control.change([caller.tenant_id], async |tx| {
        let granted = Grant::of(tx, &caller).await?.subscription(None, &subscription)?;
        if store::count(tx, caller.tenant_id).await.map_err(ApiError::database)? >= most {
            let message = format!("a tenant of the plan {} has {most} webhook subscriptions at most", caller.plan);
            return Err(ApiError::new(ErrorCode::LimitReached, message));
        }
        store::put(tx, granted, &sealed).await.map_err(ApiError::database)?;
        account(tx, &deed, "webhook.register", subscription.id, None, value(&subscription)).await
    });
    registered.await?;
    let location = format!("/v1/webhooks/{}", subscription.id);
    let answer = NewWebhook { webhook: shown(&subscription), secret: text };
    Ok(Answer::of(&answer).header(("location", location)))
}

pub(crate) async fn list(
    caller: Caller<ListWebhooks>,
    webhooks: web::Data<Webhooks>,
    query: Query<PageQuery>,
) -> Result<Answer<Page<Webhook>>, ApiError> {
    let (after, limit) = query.read()?.place()?;
    let mut connection = webhooks.of(caller.tenant_id).await?;
    let found = store::list(&mut connection, caller.tenant_id, after, limit).await.map_err(ApiError::database)?;
    Ok(Answer::of(&Page::of(&found, |one| cursor::encode(&one.id), shown)))
}

pub(crate) async fn one(
    caller: Caller<GetWebhook>,
    request: HttpRequest,
    webhooks: web::Data<Webhooks>,
) -> Result<Answer<WebhookWithBacklog>, ApiError> {
    let id = webhook_id(&request)?;
    let mut connection = webhooks.of(caller.tenant_id).await?;
    let found = store::find(&mut connection, caller.tenant_id, id).await.map_err(ApiError::database)?;
    let found = found.ok_or_else(no_webhook)?;
    let counted = backlog(&mut connection, caller.tenant_id, id, BACKLOG_COUNTED_MAX).await;
    let (pending, dead_lettered, oldest_pending_at) = counted.map_err(ApiError::database)?;
    Ok(Answer::of(&WebhookWithBacklog { webhook: shown(&found), pending, dead_lettered, oldest_pending_at }))
}

/// The subscription as a change makes it.
fn changed(old: &Subscription, change: &WebhookChange, at: Timestamp, problems: &mut Problems) -> Subscription {
    let mut new = Subscription { updated_at: at, version: old.version + 1, ..old.clone() };
    if let Some(url) = &change.url {
        new.url.clone_from(url);
    }
    if let Some(types) = &change.event_types {
        new.filter.types.clone_from(types);
    }
    if let Some(items) = &change.item_ids {
        new.filter.items.clone_from(items);
    }
    if let Some(locations) = &change.location_ids {
        new.filter.locations.clone_from(locations);
    }
    if let Some(description) = &change.description {
        new.description.clone_from(description);
    }
    new.ordered = change.ordering.map_or(new.ordered, |ordering| ordering == Ordering::Key);
    new.concurrency_max = change.concurrency_max.unwrap_or(new.concurrency_max);
    new.rate_per_second = change.rate_per_second.unwrap_or(new.rate_per_second);
    new.timeout_ms = change.timeout_ms.unwrap_or(new.timeout_ms);
    if let Some(certificate) = &change.client_certificate {
        new.has_client_certificate = certificate.is_some();
    }
    let state = match change.state.as_deref() {
        None => new.state,
        Some("active") => State::Active,
        Some("disabled") => State::Disabled,
        Some(_) => {
            problems.add("state", "must be active or disabled");
            new.state
        }
    };
    if state != new.state {
        new.state = state;
        new.state_since = at;
        new.state_reason = (state == State::Disabled).then(|| "disabled by request".to_owned());
    }
    new
}

pub(crate) async fn update(
    caller: Caller<UpdateWebhook>,
    request: HttpRequest,
    webhooks: web::Data<Webhooks>,
    body: Body<WebhookChange>,
) -> Result<Answer<Webhook>, ApiError> {
    let id = webhook_id(&request)?;
    let change = body.read()?;
    let deed = caller.deed(&request);
    let updated = webhooks.control.change([caller.tenant_id], async |tx| {
        let found = store::find_for_change(tx, caller.tenant_id, id).await.map_err(ApiError::database)?;
        let (old, mut sealed) = found.ok_or_else(no_webhook)?;
        let mut problems = Problems::default();
        let new = changed(&old, &change, deed.at, &mut problems);
        check(&new, &webhooks.outbound, &mut problems);
        if let Some(Some(pem)) = &change.client_certificate {
            check_certificate(pem, &mut problems);
        }
        problems.none()?;
        if let Some(certificate) = &change.client_certificate {
            let certificate = certificate.as_deref().map(|pem| seal_certificate(&webhooks, id, pem));
            sealed.client_certificate = certificate.transpose()?;
        }
        let granted = Grant::of(tx, &caller).await?.subscription(Some(&old), &new)?;
        store::put(tx, granted, &sealed).await.map_err(ApiError::database)?;
        account(tx, &deed, "webhook.update", id, value(&old), value(&new)).await?;
        Ok(new)
    });
    let new = updated.await?;
    Ok(Answer::of(&shown(&new)))
}

pub(crate) async fn delete(
    caller: Caller<DeleteWebhook>,
    request: HttpRequest,
    webhooks: web::Data<Webhooks>,
) -> Result<Done, ApiError> {
    let id = webhook_id(&request)?;
    let deed = caller.deed(&request);
    let deleted = webhooks.control.change([caller.tenant_id], async |tx| {
        let found = store::find_for_change(tx, caller.tenant_id, id).await.map_err(ApiError::database)?;
        let (old, sealed) = found.ok_or_else(no_webhook)?;
        let gone =
            Subscription { state: State::Deleted, state_since: deed.at, version: old.version + 1, ..old.clone() };
        let granted = Grant::of(tx, &caller).await?.subscription(None, &gone)?;
        store::put(tx, granted, &sealed).await.map_err(ApiError::database)?;
        account(tx, &deed, "webhook.delete", id, value(&old), None).await
    });
    deleted.await?;
    Ok(Done)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SecretRotation {
    /// How long the secret before signs too, in seconds; a day by default.
    #[schemars(range(min = 0, max = OVERLAP_SECONDS_MAX))]
    overlap_seconds: Option<i64>,
}

pub(crate) async fn rotate(
    caller: Caller<RotateWebhookSecret>,
    request: HttpRequest,
    webhooks: web::Data<Webhooks>,
    body: Body<SecretRotation>,
) -> Result<Answer<NewWebhook>, ApiError> {
    let id = webhook_id(&request)?;
    let overlap = body.read()?.overlap_seconds.unwrap_or(OVERLAP_SECONDS_DEFAULT);
    let deed = caller.deed(&request);
    let mut problems = Problems::default();
    problems.within("overlap_seconds", overlap, 0, OVERLAP_SECONDS_MAX);
    let problems = problems.none();
    let (text, secret, secret_hint) = new_secret(&webhooks, id)?;
    let rotated = webhooks.control.change([caller.tenant_id], async |tx| {
        let found = store::find_for_change(tx, caller.tenant_id, id).await.map_err(ApiError::database)?;
        let (old, sealed) = found.ok_or_else(no_webhook)?;
        problems.clone()?;
        let (secret, secret_hint) = (secret.clone(), secret_hint.clone());
        let previous_until = (overlap > 0).then(|| later(deed.at, overlap));
        let previous_secret = previous_until.map(|_| sealed.secret);
        let new =
            Subscription { secret_hint, previous_until, updated_at: deed.at, version: old.version + 1, ..old.clone() };
        let sealed = Sealed { secret, previous_secret, client_certificate: sealed.client_certificate };
        let granted = Grant::of(tx, &caller).await?.subscription(Some(&old), &new)?;
        store::put(tx, granted, &sealed).await.map_err(ApiError::database)?;
        let grace = Some(json!({ "secret_hint": new.secret_hint, "previous_secret_until": previous_until }));
        account(tx, &deed, "webhook.rotate", id, Some(json!({ "secret_hint": old.secret_hint })), grace).await?;
        Ok(new)
    });
    let new = rotated.await?;
    Ok(Answer::of(&NewWebhook { webhook: shown(&new), secret: text }))
}
