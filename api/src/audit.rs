//! Who changed what: the ledger's account of documents and the account of everything else, as one list, newest first, or each whole,
//! with all that is needed to check it elsewhere.

use crate::reader::{Read, Reader};
use crate::text::Text;
use actix_web::body::BoxBody;
use actix_web::web::Bytes;
use actix_web::{HttpRequest, HttpResponse, Responder};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use twh_domain::hex;
use twh_domain::id::TenantId;
use twh_domain::timestamp::Timestamp;
use twh_edge::access::{ExportAudit, ListAudit};
use twh_edge::answer::{Answer, Page};
use twh_edge::cursor;
use twh_edge::error::ApiError;
use twh_edge::limits::Payer;
use twh_edge::openapi::{Describe, Operation};
use twh_edge::query::{self, LIMIT_MAX, Query};
use twh_sinks::postgres::audit::{
    AuditFilter, AuditRow, Chain, ExportedRow, export, hash_at, list_audit, records_within,
};
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
    /// The values after; in `kept`, the whole row that the change left.
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
    text.parse().map(Some).map_err(|_| query::invalid(parameter, problem))
}

fn actor(entry: &AuditRow) -> AuditActor {
    AuditActor {
        r#type: entry.actor_kind.clone(),
        id: entry.actor_id.clone(),
        ip: entry.ip.clone(),
        user_agent: entry.user_agent.clone(),
    }
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
        actor: actor(entry),
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
    if place.as_ref().is_some_and(|Place(ledger, control)| *ledger < 0 || *control < 0) {
        return Err(cursor::not_ours());
    }
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
    let page = list_audit(&mut reader.ledger().await?, reader.tenant_id, &filter, before, limit)
        .await
        .map_err(ApiError::database)?;
    let next_cursor = page.next.map(|(ledger, control)| cursor::encode(&Place(ledger, control)));
    Ok(Answer::of(&Page { data: page.rows.iter().map(row).collect(), next_cursor }))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExportQuery {
    /// Which account: documents of the ledger, or everything else.
    #[schemars(extend("enum" = ["ledger", "control"]))]
    chain: String,
    /// Only records after this number: that of the last that was received.
    #[schemars(range(min = 0))]
    after: Option<i64>,
    /// Only records up to this number; up to the newest where it is left out.
    #[schemars(range(min = 0))]
    through: Option<i64>,
    /// Not before this time.
    #[schemars(with = "Option<Timestamp>")]
    from: Option<String>,
    /// Before this time.
    #[schemars(with = "Option<Timestamp>")]
    to: Option<String>,
}

/// A record with all that its hash is over. Values are texts, because the hash is over each of their bytes.
#[derive(Serialize, JsonSchema)]
struct ExportedRecord<'a> {
    chain: &'static str,
    tenant_id: TenantId,
    sequence: i64,
    action: &'a str,
    entity_type: &'a str,
    entity_id: Uuid,
    /// Of the ledger: which operation of its command it answers.
    operation_index: Option<i32>,
    /// Of the ledger: the document's version.
    entity_version: Option<i64>,
    /// The values before, as JSON; the ledger has them in the record of the version before.
    old: Option<&'a str>,
    /// The values after, as JSON.
    new: Option<&'a str>,
    actor: AuditActor,
    request_id: &'a str,
    command_id: Option<Uuid>,
    recorded_at: Timestamp,
    /// The hash of the record before, or what comes before the first.
    previous_hash: String,
    hash: String,
}

fn line(tenant: TenantId, row: &ExportedRow, previous: &[u8]) -> serde_json::Result<String> {
    let record = &row.record;
    let exported = ExportedRecord {
        chain: record.chain.name(),
        tenant_id: tenant,
        sequence: record.sequence,
        action: &record.action,
        entity_type: &record.entity_kind,
        entity_id: record.entity_id,
        operation_index: row.operation_index,
        entity_version: row.entity_version,
        old: record.old.as_deref(),
        new: record.new.as_deref(),
        actor: actor(record),
        request_id: &record.request_id,
        command_id: record.command_id,
        recorded_at: record.recorded_at,
        previous_hash: hex::encode(previous),
        hash: hex::encode(&record.hash),
    };
    Ok(serde_json::to_string(&exported)? + "\n")
}

/// An account on its way out: a part is read when the client has taken the one before, on a connection that is had for that long.
struct Export {
    read: Read,
    payer: Payer,
    chain: Chain,
    after: i64,
    through: i64,
    hash: Vec<u8>,
}

impl Export {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, ApiError> {
        let mut connection = self.read.ledger().await?;
        let tenant = self.read.tenant_id;
        let found = export(&mut connection, tenant, self.chain, self.after, self.through).await;
        let found = found.map_err(ApiError::database)?;
        drop(connection);
        let mut part = String::new();
        for row in found.rows {
            part.push_str(&line(tenant, &row, &self.hash).map_err(ApiError::internal)?);
            (self.after, self.hash) = (row.record.sequence, row.record.hash);
        }
        self.payer.pay(u64::try_from(part.len()).unwrap_or(u64::MAX)).await;
        Ok((!part.is_empty()).then(|| (part.into(), self)))
    }
}

/// Lines of JSON, sent while they are read.
pub(crate) struct Lines(HttpResponse);

impl Responder for Lines {
    type Body = BoxBody;

    fn respond_to(self, _: &HttpRequest) -> HttpResponse {
        self.0
    }
}

impl Describe for Lines {
    fn describe(operation: &mut Operation<'_>) {
        let schema = json!(operation.output::<ExportedRecord<'_>>());
        operation.answers(200, "A record a line, in order.", None, &[]);
        operation.answers_also(200, NDJSON, &schema);
    }
}

const NDJSON: &str = "application/x-ndjson";

pub(crate) async fn export_chain(
    reader: Reader<ExportAudit>,
    request: HttpRequest,
    query: Query<ExportQuery>,
) -> Result<Lines, ApiError> {
    let asked = query.read()?;
    let chain = [Chain::Ledger, Chain::Control].into_iter().find(|chain| chain.name() == asked.chain);
    let chain = chain.ok_or_else(|| query::invalid("chain", "must be ledger or control"))?;
    for (parameter, number) in [("after", asked.after), ("through", asked.through)] {
        if number.is_some_and(|number| number < 0) {
            return Err(query::invalid(parameter, "must be a record's number, or 0"));
        }
    }
    let within = (time("from", asked.from.as_deref())?, time("to", asked.to.as_deref())?);
    let read = reader.into_read();
    let mut connection = read.ledger().await?;
    let found = records_within(&mut connection, read.tenant_id, chain, within).await;
    let (first, last) = found.map_err(ApiError::database)?;
    let after = first.max(asked.after.unwrap_or(0));
    let through = asked.through.map_or(last, |through| through.min(last));
    let hash = hash_at(&mut connection, read.tenant_id, chain, after).await.map_err(ApiError::database)?;
    drop(connection);
    // After the newest there is nothing yet.
    let through = if hash.is_some() { through } else { after };
    let payer = Payer::of(&request);
    let export = Export { read, payer, chain, after, through, hash: hash.unwrap_or_default() };
    let parts = futures::stream::try_unfold(export, |export| async move {
        // The client sees an answer that broke off, and goes on from its last line.
        export.next().await.map_err(|error| {
            tracing::warn!(%error, "an export of an account broke off");
            std::io::Error::other("the export broke off")
        })
    });
    Ok(Lines(HttpResponse::Ok().content_type(NDJSON).streaming(parts)))
}
