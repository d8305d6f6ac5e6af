//! The accounts of changes, read: the ledger's, and that of everything else.

use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use time::OffsetDateTime;
use twh_domain::id::TenantId;
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

/// A page of both accounts by time, newest first; of each account only what is before a number. The values before a document's
/// change are those of the record of its version before.
pub async fn list_audit(
    connection: &mut PgConnection,
    tenant: TenantId,
    filter: &AuditFilter,
    (before_ledger, before_control): (i64, i64),
    limit: i64,
) -> Result<Vec<AuditRow>, sqlx::Error> {
    let conditions = "tenant_id = $1 and ($3::text is null or action = $3) and ($4::text is null or entity_kind = $4)
         and ($5::uuid is null or entity_id = $5) and ($6::text is null or actor_id = $6) and ($7::text is null or request_id = $7)
         and ($8::timestamptz is null or recorded_at >= $8) and ($9::timestamptz is null or recorded_at < $9)";
    let sql = format!(
        "select * from (
             (select true as of_ledger, a.sequence, a.action, a.entity_kind, a.entity_id, null::text as old, a.document::text as new,
                  a.actor_kind, a.actor_id, a.ip, a.user_agent, a.request_id, a.command_id, a.recorded_at, a.hash, a.entity_version
              from audit_log a where {conditions} and sequence < $2 order by sequence desc limit $11)
             union all
             (select false, sequence, action, entity_kind, entity_id, old::text, new::text, actor_kind, actor_id, ip, user_agent,
                  request_id, null::uuid, recorded_at, hash, 0
              from control_audit where {conditions} and sequence < $10 order by sequence desc limit $11)
         ) both_chains order by recorded_at desc, of_ledger, sequence desc limit $11"
    );
    let with_old = format!(
        "select f.of_ledger, f.sequence, f.action, f.entity_kind, f.entity_id, f.new, f.actor_kind, f.actor_id, f.ip, f.user_agent,
             f.request_id, f.command_id, f.recorded_at, f.hash, coalesce(f.old, o.document::text) as old
         from ({sql}) f left join lateral (select document from audit_log where f.of_ledger and f.entity_version > 1
             and tenant_id = $1 and entity_id = f.entity_id and entity_version = f.entity_version - 1 limit 1) o on true
         order by f.recorded_at desc, f.of_ledger, f.sequence desc"
    );
    let rows = sqlx::query(&with_old)
        .bind(tenant.0)
        .bind(before_ledger)
        .bind(filter.action.as_deref())
        .bind(filter.entity_kind.as_deref())
        .bind(filter.entity_id)
        .bind(filter.actor_id.as_deref())
        .bind(filter.request_id.as_deref())
        .bind(filter.from.map(Timestamp::datetime))
        .bind(filter.to.map(Timestamp::datetime))
        .bind(before_control)
        .bind(limit)
        .fetch_all(connection)
        .await?;
    rows.iter().map(row).collect()
}
