//! Commands whose outcome must be kept: without it, the same Idempotency-Key would be decided a second time.

use sqlx::{PgConnection, Row};
use twh_domain::IDEMPOTENCY_RETENTION_MICROS;
use twh_domain::id::TenantId;
use uuid::Uuid;

/// The clocks of the log and of the database may differ by less.
const CLOCKS_DIFFER_MICROS: i64 = 24 * 60 * 60 * 1_000_000;

/// An audit record, and what is known of its command's outcome.
pub(super) struct Answered {
    pub(super) sequence: i64,
    pub(super) command: Uuid,
    /// Its key is honoured still.
    pub(super) is_due: bool,
    /// An accepted outcome is there, with a key, and leads to the record.
    pub(super) is_kept: bool,
}

/// Audit records before one of them, newest first.
pub(super) async fn answered(
    connection: &mut PgConnection,
    tenant: TenantId,
    before: i64,
    limit: i64,
) -> Result<Vec<Answered>, sqlx::Error> {
    let rows = sqlx::query(
        "select a.sequence, a.command_id, a.recorded_at > now() - make_interval(secs => $4::double precision / 1000000) as is_due,
             exists (select from command_outcomes o where o.tenant_id = $1 and o.command_id = a.command_id and o.accepted
                 and o.idempotency_key is not null and a.sequence between o.first_audit and o.last_audit) as is_kept
         from audit_log a where a.tenant_id = $1 and a.sequence < $2 order by a.sequence desc limit $3",
    )
    .bind(tenant.0)
    .bind(before)
    .bind(limit)
    .bind(IDEMPOTENCY_RETENTION_MICROS - CLOCKS_DIFFER_MICROS)
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(Answered {
                sequence: row.try_get("sequence")?,
                command: row.try_get("command_id")?,
                is_due: row.try_get("is_due")?,
                is_kept: row.try_get("is_kept")?,
            })
        })
        .collect()
}
