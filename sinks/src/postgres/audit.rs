//! The accounts of changes, read: the ledger's, and that of everything else.

use super::page::{self, Page};
use super::tenant::TenantConnection;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use time::OffsetDateTime;
use twh_domain::event::{AUDIT_CHAIN, CONTROL_CHAIN};
use twh_domain::id::TenantId;
use twh_domain::movement::genesis;
use twh_domain::timestamp::Timestamp;
use uuid::Uuid;

/// Which account, each a chain of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chain {
    /// Documents.
    Ledger,
    /// Keys, people, sessions.
    Control,
}

impl Chain {
    /// The stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ledger => "ledger",
            Self::Control => "control",
        }
    }
}

/// What is asked for; empty fields ask for nothing.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// Exactly this action.
    pub action: Option<String>,
    /// Exactly this kind of thing.
    pub entity_kind: Option<String>,
    /// Exactly this thing.
    pub entity_id: Option<Uuid>,
    /// Exactly this actor.
    pub actor_id: Option<String>,
    /// Exactly this request.
    pub request_id: Option<String>,
    /// From then on.
    pub from: Option<Timestamp>,
    /// Until before then.
    pub to: Option<Timestamp>,
}

/// A record.
#[derive(Debug, Clone)]
pub struct AuditRow {
    /// Of which account.
    pub chain: Chain,
    /// Its number there.
    pub sequence: i64,
    /// What was done.
    pub action: String,
    /// To what kind of thing.
    pub entity_kind: String,
    /// To what.
    pub entity_id: Uuid,
    /// The values before, as JSON.
    pub old: Option<String>,
    /// The values after, as JSON.
    pub new: Option<String>,
    /// Who: an API key, a person, the system.
    pub actor_kind: String,
    /// Who.
    pub actor_id: String,
    /// From where.
    pub ip: Option<String>,
    /// With what.
    pub user_agent: Option<String>,
    /// By which request.
    pub request_id: String,
    /// By which command, where it was one.
    pub command_id: Option<Uuid>,
    /// When.
    pub recorded_at: Timestamp,
    /// The chain's hash with this record.
    pub hash: Vec<u8>,
}

fn row(row: &PgRow) -> Result<AuditRow, sqlx::Error> {
    Ok(AuditRow {
        chain: if row.try_get("of_ledger")? { Chain::Ledger } else { Chain::Control },
        sequence: row.try_get("sequence")?,
        action: row.try_get("action")?,
        entity_kind: row.try_get("entity_kind")?,
        entity_id: row.try_get("entity_id")?,
        old: row.try_get("old")?,
        new: row.try_get("new")?,
        actor_kind: row.try_get("actor_kind")?,
        actor_id: row.try_get("actor_id")?,
        ip: row.try_get("ip")?,
        user_agent: row.try_get("user_agent")?,
        request_id: row.try_get("request_id")?,
        command_id: row.try_get("command_id")?,
        recorded_at: row.try_get::<OffsetDateTime, _>("recorded_at")?.into(),
        hash: row.try_get("hash")?,
    })
}

/// Records of the ledger's account that are looked through for a page at most. It has no index for what is asked but a thing's id:
/// each would cost every write, and this many take some tens of milliseconds.
const LOOKED_THROUGH_MAX: i64 = 50_000;

/// A page of both accounts.
#[derive(Debug)]
pub struct AuditPage {
    /// Newest first.
    pub rows: Vec<AuditRow>,
    /// Before which numbers of the ledger's and the control account the next begins; `None` at the end.
    pub next: Option<(i64, i64)>,
}

impl Chain {
    const fn table(self) -> &'static str {
        match self {
            Self::Ledger => "audit_log",
            Self::Control => "control_audit",
        }
    }

    const fn head(self) -> &'static str {
        match self {
            Self::Ledger => "select audit_sequence from ledger_heads where tenant_id = $1",
            Self::Control => "select sequence from control_audit_heads where tenant_id = $1",
        }
    }

    const fn genesis(self) -> &'static str {
        match self {
            Self::Ledger => AUDIT_CHAIN,
            Self::Control => CONTROL_CHAIN,
        }
    }
}

/// How many records an account has, or had before a time: their numbers go to there. Times never go back within an account, so that
/// the place is found by halving.
async fn records_before(
    connection: &mut PgConnection,
    tenant: TenantId,
    chain: Chain,
    time: Option<Timestamp>,
) -> Result<i64, sqlx::Error> {
    let (head, table) = (chain.head(), chain.table());
    let Some(time) = time else {
        let head: Option<i64> = sqlx::query_scalar(head).bind(tenant.0).fetch_optional(connection).await?;
        return Ok(head.unwrap_or(0));
    };
    // The middle is a column of its own: see `last_sequence` of the queries.
    let sql = format!(
        "with recursive search (low, high, middle) as (
             select 0::bigint, h.high, (h.high + 1) / 2 from (select coalesce(({head}), 0) as high) h
             union all
             select n.low, n.high, (n.low + n.high + 1) / 2
             from search join {table} r on r.tenant_id = $1 and r.sequence = search.middle
             cross join lateral (select case when r.recorded_at < $2 then r.sequence else low end,
                 case when r.recorded_at < $2 then high else r.sequence - 1 end) n (low, high)
             where search.low < search.high)
         select low from search where low = high"
    );
    let found: Option<i64> =
        sqlx::query_scalar(&sql).bind(tenant.0).bind(time.datetime()).fetch_optional(connection).await?;
    found.ok_or_else(|| sqlx::Error::Decode(format!("a record of {table} is missing").into()))
}

/// The numbers of an account's records within a time: after the first, up to the second.
pub async fn records_within(
    connection: &mut PgConnection,
    tenant: TenantId,
    chain: Chain,
    (from, to): (Option<Timestamp>, Option<Timestamp>),
) -> Result<(i64, i64), sqlx::Error> {
    let after = match from {
        Some(_) => records_before(connection, tenant, chain, from).await?,
        None => 0,
    };
    Ok((after, records_before(connection, tenant, chain, to).await?))
}

/// A page of both accounts by time, newest first; of each account only what is before a number. The values before a document's
/// change are those of the record of its version before. Where much is to be looked through, a page can be short, or empty, and still
/// not be the last.
pub async fn list_audit(
    connection: &mut TenantConnection,
    tenant: TenantId,
    filter: &AuditFilter,
    before: (i64, i64),
    limit: i64,
) -> Result<AuditPage, sqlx::Error> {
    let within = (filter.from, filter.to);
    let (first, last) = records_within(connection, tenant, Chain::Ledger, within).await?;
    let last = last.min(before.0.saturating_sub(1));
    let floor = if filter.entity_id.is_some() { first } else { first.max(last.saturating_sub(LOOKED_THROUGH_MAX)) };
    let (control_first, control_last) = records_within(connection, tenant, Chain::Control, within).await?;
    let numbers = [floor, last, control_first, control_last.min(before.1.saturating_sub(1))];
    let Page { mut rows, mut has_more } = newest(connection, tenant, filter, numbers, limit).await?;
    let oldest = |rows: &[AuditRow], chain| rows.iter().rev().find(|row| row.chain == chain).map(|row| row.sequence);
    let all_looked_through = floor == first;
    if !all_looked_through {
        let read = rows.len();
        // What is older than where the looking ended may come after something that was not looked at yet.
        let ended: OffsetDateTime =
            sqlx::query_scalar("select recorded_at from audit_log where tenant_id = $1 and sequence = $2")
                .bind(tenant.0)
                .bind(floor)
                .fetch_one(&mut **connection)
                .await?;
        rows.retain(|row| row.chain == Chain::Ledger || row.recorded_at >= ended.into());
        // What was taken out is the oldest, so that nothing stands between it and what comes after the page.
        has_more &= rows.len() == read;
    }
    // A full page may hold records of one account only: of the other nothing is done with then.
    let ledger = if has_more { oldest(&rows, Chain::Ledger).unwrap_or(before.0) } else { floor + 1 };
    let next = (ledger, oldest(&rows, Chain::Control).unwrap_or(before.1));
    Ok(AuditPage { rows, next: (has_more || !all_looked_through).then_some(next) })
}

/// The newest records that are asked for, of both accounts, among those after and up to these numbers of each. Conditions are written
/// only where something is asked: what a statement does not say cannot lead its plan away from the index.
async fn newest(
    connection: &mut TenantConnection,
    tenant: TenantId,
    filter: &AuditFilter,
    [after, through, control_after, control_through]: [i64; 4],
    limit: i64,
) -> Result<Page<AuditRow>, sqlx::Error> {
    let texts = [
        ("action", &filter.action),
        ("entity_kind", &filter.entity_kind),
        ("actor_id", &filter.actor_id),
        ("request_id", &filter.request_id),
    ];
    let asked: Vec<_> = texts.iter().filter_map(|(column, text)| text.as_deref().map(|text| (column, text))).collect();
    let mut conditions: String =
        asked.iter().zip(7..).map(|((column, _), number)| format!(" and {column} = ${number}")).collect();
    // A thing's versions follow one another as its records do, and there is an index of them.
    let mut order = "sequence";
    if filter.entity_id.is_some() {
        conditions.push_str(&format!(" and entity_id = ${}", 7 + asked.len()));
        order = "entity_version";
    }
    // Values become text at the very end: what is sorted are the places where they are kept, and they are read while the page is.
    let sql = format!(
        "select f.of_ledger, f.sequence, f.action, f.entity_kind, f.entity_id, f.new::text as new, f.actor_kind, f.actor_id, f.ip,
             f.user_agent, f.request_id, f.command_id, f.recorded_at, f.hash, coalesce(f.old, o.document)::text as old
         from (select * from (
             (select true as of_ledger, sequence, action, entity_kind, entity_id, null::json as old, document as new,
                  actor_kind, actor_id, ip, user_agent, request_id, command_id, recorded_at, hash, entity_version
              from audit_log where tenant_id = $1 and sequence > $2 and sequence <= $3{conditions} order by {order} desc limit $6)
             union all
             (select false, sequence, action, entity_kind, entity_id, old, new, actor_kind, actor_id, ip, user_agent,
                  request_id, null::uuid, recorded_at, hash, 0
              from control_audit where tenant_id = $1 and sequence > $4 and sequence <= $5{conditions} order by sequence desc limit $6)
             ) both_chains order by recorded_at desc, of_ledger, sequence desc limit $6) f
         left join lateral (select document from audit_log where f.of_ledger and f.entity_version > 1
             and tenant_id = $1 and entity_kind = f.entity_kind and entity_id = f.entity_id
             and entity_version = f.entity_version - 1 limit 1) o on true
         order by f.recorded_at desc, f.of_ledger, f.sequence desc"
    );
    let mut query = sqlx::query(&sql)
        .bind(tenant.0)
        .bind(after)
        .bind(through)
        .bind(control_after)
        .bind(control_through)
        .bind(limit.saturating_add(1));
    for (_, text) in asked {
        query = query.bind(text);
    }
    if let Some(entity) = filter.entity_id {
        query = query.bind(entity);
    }
    page::read(connection.pooled(), query, limit, row).await
}

/// Records in a part of an export: fewer where they are large.
const EXPORTED_AT_ONCE: i64 = 500;

/// A record with all that its hash is over.
#[derive(Debug, Clone)]
pub struct ExportedRow {
    /// The record; a document's record has it as its new values.
    pub record: AuditRow,
    /// Of the ledger: which operation of its command it answers, where it does.
    pub operation_index: Option<i32>,
    /// Of the ledger: the document's version.
    pub entity_version: Option<i64>,
}

/// The next part of an account in its own order, after a number: some hundred records, or fewer large ones.
pub async fn export(
    connection: &mut TenantConnection,
    tenant: TenantId,
    chain: Chain,
    after: i64,
    through: i64,
) -> Result<Page<ExportedRow>, sqlx::Error> {
    let columns = match chain {
        Chain::Ledger => {
            "true as of_ledger, null::text as old, document::text as new, command_id, operation_index, entity_version"
        }
        Chain::Control => {
            "false as of_ledger, old::text as old, new::text as new, null::uuid as command_id, null::int as operation_index,
             null::bigint as entity_version"
        }
    };
    let sql = format!(
        "select sequence, action, entity_kind, entity_id, actor_kind, actor_id, ip, user_agent, request_id, recorded_at, hash, {columns}
         from {} where tenant_id = $1 and sequence > $2 and sequence <= $3 order by sequence limit $4",
        chain.table()
    );
    let query = sqlx::query(&sql).bind(tenant.0).bind(after).bind(through).bind(EXPORTED_AT_ONCE + 1);
    let exported = |of: &PgRow| {
        Ok(ExportedRow {
            record: row(of)?,
            operation_index: of.try_get("operation_index")?,
            entity_version: of.try_get("entity_version")?,
        })
    };
    page::read(connection.pooled(), query, EXPORTED_AT_ONCE, exported).await
}

/// The hash of an account's record with a number, or what comes before its first; `None` where there is no such record.
pub async fn hash_at(
    connection: &mut PgConnection,
    tenant: TenantId,
    chain: Chain,
    sequence: i64,
) -> Result<Option<Vec<u8>>, sqlx::Error> {
    if sequence == 0 {
        return Ok(Some(genesis(chain.genesis(), tenant).to_vec()));
    }
    let sql = format!("select hash from {} where tenant_id = $1 and sequence = $2", chain.table());
    sqlx::query_scalar(&sql).bind(tenant.0).bind(sequence).fetch_optional(connection).await
}

/// How many control records a tenant has, and the hash of the last.
pub async fn control_head(connection: &mut PgConnection, tenant: TenantId) -> Result<(i64, Vec<u8>), sqlx::Error> {
    let head = sqlx::query_as("select sequence, hash from control_audit_heads where tenant_id = $1")
        .bind(tenant.0)
        .fetch_optional(connection)
        .await?;
    Ok(head.unwrap_or_else(|| (0, genesis(CONTROL_CHAIN, tenant).to_vec())))
}
