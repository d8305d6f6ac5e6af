//! Who changed what: the ledger's account of documents and the account of everything else, as one list, newest first.

use crate::reader::Reader;
use crate::text::Text;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use twh_domain::hex;
use twh_domain::timestamp::Timestamp;
use twh_edge::access::ListAudit;
use twh_edge::answer::{Answer, Page};
use twh_edge::cursor;
use twh_edge::error::ApiError;
use twh_edge::query::{self, LIMIT_MAX, Query};
use twh_sinks::postgres::audit::{AuditFilter, AuditRow, Chain, list_audit};
use uuid::Uuid;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AuditQuery {
    /// Rows in the page; 50 by default.
    #[schemars(range(min = 1, max = LIMIT_MAX))]
    limit: Option<i64>,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
    /// What was done, such as `sales_order.ship` or `api_key.create`.
    action: Option<Text>,
    /// To what kind of thing, such as `item` or `api_key`.
    entity_type: Option<Text>,
    /// To what.
    entity_id: Option<Uuid>,
    /// By whom: the id of an API key or a person.
    actor_id: Option<Text>,
    /// By which request.
    request_id: Option<Text>,
    /// Not before this time.
    #[schemars(with = "Option<Timestamp>")]
    from: Option<String>,
    /// Before this time.
    #[schemars(with = "Option<Timestamp>")]
    to: Option<String>,
}

/// Somebody's change, which nothing ever alters.
#[derive(Serialize, JsonSchema)]
pub(crate) struct AuditRecord {
    /// The account that it stands in: documents of the ledger, or everything else.
    #[schemars(extend("enum" = ["ledger", "control"]))]
    chain: &'static str,
    /// Its number there, from 1.
    sequence: i64,
    action: String,
    entity_type: String,
    entity_id: Uuid,
    /// The values before.
    #[schemars(with = "Option<Map<String, Value>>")]
    old: Option<Box<RawValue>>,
    /// The values after.
    #[schemars(with = "Option<Map<String, Value>>")]
    new: Option<Box<RawValue>>,
    actor: AuditActor,
    request_id: String,
    /// The command, where it was one.
    command_id: Option<Uuid>,
    recorded_at: Timestamp,
    /// SHA-256 over it and the hash of the record before, in hexadecimal.
    hash: String,
}

/// Who, from where and with what.
#[derive(Serialize, JsonSchema)]
struct AuditActor {
    /// `api_key`, `user`, `operator` or `system`.
    r#type: String,
    id: String,
    ip: Option<String>,
    user_agent: Option<String>,
}

/// Where the next page begins: before these numbers of the two chains.
#[derive(Serialize, Deserialize)]
struct Place(i64, i64);

fn time(parameter: &str, text: Option<&str>) -> Result<Option<Timestamp>, ApiError> {
    let Some(text) = text else { return Ok(None) };
    let problem = "must be an RFC 3339 time such as 2026-03-01T09:30:00Z (a + in it is written %2B)";
    let at = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| query::invalid(parameter, problem))?;
    Ok(Some(at.into()))
}

fn row(entry: &AuditRow) -> AuditRecord {
    let raw = |text: &Option<String>| text.clone().and_then(|text| RawValue::from_string(text).ok());
    AuditRecord {
        chain: entry.chain.name(),
        sequence: entry.sequence,
        action: entry.action.clone(),
        entity_type: entry.entity_kind.clone(),
        entity_id: entry.entity_id,
        old: raw(&entry.old),
        new: raw(&entry.new),
        actor: AuditActor {
            r#type: entry.actor_kind.clone(),
            id: entry.actor_id.clone(),
            ip: entry.ip.clone(),
            user_agent: entry.user_agent.clone(),
        },
        request_id: entry.request_id.clone(),
        command_id: entry.command_id,
        recorded_at: entry.recorded_at,
        hash: hex::encode(&entry.hash),
    }
}

pub(crate) async fn list(
    reader: Reader<ListAudit>,
    query: Query<AuditQuery>,
) -> Result<Answer<Page<AuditRecord>>, ApiError> {
    let asked = query.read()?;
    let limit = query::limit(asked.limit)?;
    let place = asked.cursor.as_deref().map(cursor::decode::<Place>).transpose()?;
    let filter = AuditFilter {
        from: time("from", asked.from.as_deref())?,
        to: time("to", asked.to.as_deref())?,
        action: asked.action.map(Text::into),
        entity_kind: asked.entity_type.map(Text::into),
        entity_id: asked.entity_id,
        actor_id: asked.actor_id.map(Text::into),
        request_id: asked.request_id.map(Text::into),
    };
    let before = place.map_or((i64::MAX, i64::MAX), |Place(ledger, control)| (ledger, control));
    let mut rows = list_audit(&mut *reader.ledger().await?, reader.tenant_id, &filter, before, limit + 1)
        .await
        .map_err(ApiError::database)?;
    let more = rows.len() > usize::try_from(limit).unwrap_or(usize::MAX);
    rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let oldest = |chain, otherwise| {
        rows.iter().rev().find(|row| row.chain == chain).map_or(otherwise, |row: &AuditRow| row.sequence)
    };
    let next = Place(oldest(Chain::Ledger, before.0), oldest(Chain::Control, before.1));
    let next_cursor = more.then(|| cursor::encode(&next));
    Ok(Answer::of(&Page { data: rows.iter().map(row).collect(), next_cursor }))
}
