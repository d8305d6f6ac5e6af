//! Tenants: who pays, and whose everything is.

use sqlx::{PgConnection, PgPool, Row};
use twh_domain::id::TenantId;
use uuid::Uuid;

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// Its id.
    pub id: TenantId,
    /// What people call it.
    pub name: String,
    /// Its plan.
    pub plan: String,
    /// `live` or `sandbox`.
    pub environment: String,
    /// The tenant that it is the sandbox of.
    pub sandbox_of: Option<TenantId>,
}

/// Adds a tenant.
pub async fn insert(connection: &mut PgConnection, tenant: &Tenant) -> Result<(), sqlx::Error> {
    sqlx::query("insert into tenants (tenant_id, name, plan, environment, sandbox_of) values ($1, $2, $3, $4, $5)")
        .bind(tenant.id.0)
        .bind(&tenant.name)
        .bind(&tenant.plan)
        .bind(&tenant.environment)
        .bind(tenant.sandbox_of.map(|id| id.0))
        .execute(connection)
        .await?;
    Ok(())
}

/// Gives a tenant another plan, and says which it had; `None` where there is no such tenant.
pub async fn set_plan(connection: &mut PgConnection, id: TenantId, plan: &str) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar(
        "with old as (select plan from tenants where tenant_id = $1 for update)
         update tenants t set plan = $2 from old where t.tenant_id = $1 returning old.plan",
    )
    .bind(id.0)
    .bind(plan)
    .fetch_optional(connection)
    .await
}

/// One tenant.
pub async fn find(pool: &PgPool, id: TenantId) -> Result<Option<Tenant>, sqlx::Error> {
    let row = sqlx::query("select tenant_id, name, plan, environment, sandbox_of from tenants where tenant_id = $1")
        .bind(id.0)
        .fetch_optional(pool)
        .await?;
    row.map(|row| {
        Ok(Tenant {
            id: TenantId(row.try_get("tenant_id")?),
            name: row.try_get("name")?,
            plan: row.try_get("plan")?,
            environment: row.try_get("environment")?,
            sandbox_of: row.try_get::<Option<Uuid>, _>("sandbox_of")?.map(TenantId),
        })
    })
    .transpose()
}
