//! Who changed what: the ledger's account of documents and the account of everything else, as one list, newest first.

use crate::page;
use crate::reader::Reader;
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use twh_domain::hex;
use twh_domain::timestamp::Timestamp;
use twh_edge::access::ListAudit;
use twh_edge::error::ApiError;
use twh_edge::{cursor, query};
use twh_sinks::postgres::audit::{AuditFilter, AuditRow, Chain, list_audit};
use uuid::Uuid;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AuditQuery {
    limit: Option<i64>,
    cursor: Option<String>,
    action: Option<String>,
    entity_type: Option<String>,
    entity_id: Option<Uuid>,
    actor_id: Option<String>,
    request_id: Option<String>,
    from: Option<String>,
    to: Option<String>,
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

fn row(entry: &AuditRow) -> Value {
    let raw = |text: &Option<String>| text.clone().and_then(|text| RawValue::from_string(text).ok());
    json!({
        "chain": entry.chain.name(),
        "sequence": entry.sequence,
        "action": entry.action,
        "entity_type": entry.entity_kind,
        "entity_id": entry.entity_id,
        "old": raw(&entry.old),
        "new": raw(&entry.new),
        "actor": { "type": entry.actor_kind, "id": entry.actor_id, "ip": entry.ip, "user_agent": entry.user_agent },
        "request_id": entry.request_id,
        "command_id": entry.command_id,
        "recorded_at": entry.recorded_at,
        "hash": hex::encode(&entry.hash),
    })
}

pub(crate) async fn list(reader: Reader<ListAudit>, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let asked: AuditQuery = query::parse(&request)?;
    let limit = query::limit(asked.limit)?;
    let place = asked.cursor.as_deref().map(cursor::decode::<Place>).transpose()?;
    let texts = [
        ("action", &asked.action),
        ("entity_type", &asked.entity_type),
        ("actor_id", &asked.actor_id),
        ("request_id", &asked.request_id),
    ];
    for (name, value) in texts {
        if value.as_ref().is_some_and(|value| value.contains('\0')) {
            return Err(query::invalid(name, "must not hold NUL"));
        }
    }
    let filter = AuditFilter {
        from: time("from", asked.from.as_deref())?,
        to: time("to", asked.to.as_deref())?,
        action: asked.action,
        entity_kind: asked.entity_type,
        entity_id: asked.entity_id,
        actor_id: asked.actor_id,
        request_id: asked.request_id,
    };
    let before = place.map_or((i64::MAX, i64::MAX), |Place(ledger, control)| (ledger, control));
    let mut rows =
        list_audit(&reader.pool, reader.tenant_id, &filter, before, limit + 1).await.map_err(ApiError::database)?;
    let more = rows.len() > usize::try_from(limit).unwrap_or(usize::MAX);
    rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let oldest = |chain, otherwise| {
        rows.iter().rev().find(|row| row.chain == chain).map_or(otherwise, |row: &AuditRow| row.sequence)
    };
    let next = Place(oldest(Chain::Ledger, before.0), oldest(Chain::Control, before.1));
    let next = more.then(|| cursor::encode(&next));
    Ok(page(&rows.iter().map(row).collect::<Vec<_>>(), next))
}
