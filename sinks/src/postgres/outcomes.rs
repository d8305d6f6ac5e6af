//! What became of commands: their outcomes, and the documents that answered them, which the audit log keeps.

use super::columns::time;
use super::tenant::TenantConnection;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use twh_domain::entity::EntityKind;
use twh_domain::id::{CommandId, TenantId};
use twh_domain::limits::OUTPUT_BYTES_MAX;
use twh_domain::outcome::Resource;
use twh_domain::timestamp::Timestamp;
use uuid::Uuid;

/// A document as an operation left it, without its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reference {
    /// Which kind it is of.
    pub kind: EntityKind,
    /// Its id.
    pub id: Uuid,
    /// The version that the operation made.
    pub version: i64,
}

/// What a command is answered with.
#[derive(Debug, Clone)]
pub enum Answered {
    /// The documents.
    Whole(Vec<Resource>),
    /// Where they are: together they are more than an answer may hold.
    References(Vec<Reference>),
}

impl Answered {
    /// The kinds of the documents.
    pub fn kinds(&self) -> Box<dyn Iterator<Item = EntityKind> + '_> {
        match self {
            Self::Whole(documents) => Box::new(documents.iter().map(|document| document.kind)),
            Self::References(references) => Box::new(references.iter().map(|reference| reference.kind)),
        }
    }
}

/// What became of a command, as it is kept.
#[derive(Debug, Clone)]
pub struct OutcomeRow {
    /// The command that this one repeats.
    pub replay_of: Option<CommandId>,
    /// The refusal: code, message, details; `None` when it was accepted.
    pub refusal: Option<(String, String, String)>,
    /// The documents that answered it, in the order of its operations.
    pub documents: Answered,
    /// Where the command that was decided stands in the log.
    pub position: (i32, i64),
    /// When the ledger took it.
    pub recorded_at: Timestamp,
}

/// What became of a command; `None` when that is not known (yet).
pub async fn find_outcome(
    connection: &mut TenantConnection,
    tenant: TenantId,
    command: CommandId,
) -> Result<Option<OutcomeRow>, sqlx::Error> {
    let row = sqlx::query(
        "select o.replay_of, d.code, d.message, d.details::text as details, d.first_audit, d.last_audit, d.partition, d.log_offset, d.recorded_at
         from command_outcomes o join command_outcomes d on d.tenant_id = o.tenant_id and d.command_id = coalesce(o.replay_of, o.command_id)
         where o.tenant_id = $1 and o.command_id = $2 order by o.log_offset, d.log_offset limit 1",
    )
    .bind(tenant.0)
    .bind(command.0)
    .fetch_optional(&mut **connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let refusal = match row.try_get::<Option<String>, _>("code")? {
        Some(code) => Some((code, row.try_get("message")?, row.try_get("details")?)),
        None => None,
    };
    let (first, last) = (row.try_get("first_audit")?, row.try_get("last_audit")?);
    Ok(Some(OutcomeRow {
        replay_of: row.try_get::<Option<Uuid>, _>("replay_of")?.map(CommandId),
        refusal,
        documents: answered(connection, tenant, (first, last)).await?,
        position: (row.try_get("partition")?, row.try_get("log_offset")?),
        recorded_at: time(&row, "recorded_at")?,
    }))
}

/// The documents of a command, or where they are.
async fn answered(
    connection: &mut PgConnection,
    tenant: TenantId,
    (first, last): (Option<i64>, Option<i64>),
) -> Result<Answered, sqlx::Error> {
    let (Some(first), Some(last)) = (first, last) else { return Ok(Answered::Whole(Vec::new())) };
    match documents(connection, tenant, (first, last)).await? {
        Some(documents) => Ok(Answered::Whole(documents)),
        None => references(connection, tenant, (first, last)).await.map(Answered::References),
    }
}

/// The documents that answered a command, by its first and last audit record; `None` where they are longer together than a
/// command may write.
pub async fn documents(
    connection: &mut PgConnection,
    tenant: TenantId,
    (first, last): (i64, i64),
) -> Result<Option<Vec<Resource>>, sqlx::Error> {
    let bytes: i64 = sqlx::query_scalar(
        "select coalesce(sum(octet_length(document::text)), 0)::bigint from audit_log
         where tenant_id = $1 and sequence between $2 and $3 and operation_index is not null",
    )
    .bind(tenant.0)
    .bind(first)
    .bind(last)
    .fetch_one(&mut *connection)
    .await?;
    if usize::try_from(bytes).is_ok_and(|bytes| bytes > OUTPUT_BYTES_MAX) {
        return Ok(None);
    }
    let query = sqlx::query(
        "select entity_kind, entity_id, entity_version, document::text as document from audit_log
         where tenant_id = $1 and sequence between $2 and $3 and operation_index is not null order by operation_index",
    );
    let rows = query.bind(tenant.0).bind(first).bind(last).fetch_all(connection).await?;
    let resource = |row: &PgRow| {
        let Reference { kind, id, version } = reference(row)?;
        Ok(Resource { kind, id, version, created: version == 1, document: row.try_get::<&str, _>("document")?.into() })
    };
    rows.iter().map(resource).collect::<Result<_, _>>().map(Some)
}

async fn references(
    connection: &mut PgConnection,
    tenant: TenantId,
    (first, last): (i64, i64),
) -> Result<Vec<Reference>, sqlx::Error> {
    let query = sqlx::query(
        "select entity_kind, entity_id, entity_version from audit_log
         where tenant_id = $1 and sequence between $2 and $3 and operation_index is not null order by operation_index",
    );
    query.bind(tenant.0).bind(first).bind(last).fetch_all(connection).await?.iter().map(reference).collect()
}

fn reference(row: &PgRow) -> Result<Reference, sqlx::Error> {
    let name: &str = row.try_get("entity_kind")?;
    let kind = EntityKind::from_name(name);
    let kind = kind.ok_or_else(|| sqlx::Error::Decode(format!("there is no kind {name:?}").into()))?;
    Ok(Reference { kind, id: row.try_get("entity_id")?, version: row.try_get("entity_version")? })
}
