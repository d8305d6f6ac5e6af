//! Connections that see one tenant's rows: what reads for a request has no other.

use super::{ACQUIRE_TIMEOUT, READER, options};
use quick_cache::sync::Cache;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgPoolOptions};
use sqlx::{Connection as _, Executor as _, PgPool, Postgres};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;
use twh_domain::id::TenantId;
use twh_domain::outcome::Position;

use super::standing::partition_of;

/// The role that row-level security holds, taken by every connection before it is used.
const TAKE_ROLE: &str = "set role twh_tenant";

/// Tenants whose partition is remembered: it never changes.
const REMEMBERED_MAX: usize = 100_000;

/// A pool whose connections are had for a tenant only.
#[derive(Debug, Clone)]
pub struct TenantPool {
    pool: PgPool,
    partitions: Arc<Cache<TenantId, i32>>,
}

impl TenantPool {
    /// A pool of at most `connections_max`, on which a statement may take so long. Connects when first used.
    pub fn connect(
        url: &str,
        connections_max: u32,
        application: &str,
        statement_timeout: Duration,
    ) -> Result<Self, sqlx::Error> {
        let deadline = [("statement_timeout", statement_timeout.as_millis().to_string())];
        let pool = PgPoolOptions::new()
            .max_connections(connections_max)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            // Saying whose it is asks for a sign of life too.
            .test_before_acquire(false)
            .after_connect(|connection, _| Box::pin(async move { connection.execute(TAKE_ROLE).await.map(|_| ()) }))
            .connect_lazy_with(options(url, application)?.options(READER).options(deadline));
        Ok(Self { pool, partitions: Arc::new(Cache::new(REMEMBERED_MAX)) })
    }

    /// A connection that sees a tenant's rows and no other's, and writes none.
    pub async fn of(&self, tenant: TenantId) -> Result<TenantConnection, sqlx::Error> {
        // Each that has died meanwhile is thrown away; a new one comes after the last of them.
        for _ in 0..self.pool.options().get_max_connections() {
            let mut connection = self.pool.acquire().await?;
            match self.say(&mut connection, tenant).await {
                Ok(reflects) => return Ok(TenantConnection { connection, reflects }),
                Err(sqlx::Error::Database(error)) if !error.code().is_some_and(|code| code.starts_with("57")) => {
                    return Err(sqlx::Error::Database(error));
                }
                Err(_) => {
                    let _ = connection.detach().close_hard().await;
                }
            }
        }
        let mut connection = self.pool.acquire().await?;
        let reflects = self.say(&mut connection, tenant).await?;
        Ok(TenantConnection { connection, reflects })
    }

    /// Tells a connection whose it is, and asks how far that tenant's ledger is.
    async fn say(&self, connection: &mut PgConnection, tenant: TenantId) -> Result<Option<Position>, sqlx::Error> {
        if let Some(partition) = self.partitions.get(&tenant) {
            return say(connection, tenant, Some(partition)).await;
        }
        say(connection, tenant, None).await?;
        let Some(partition) = partition_of(connection, tenant).await? else { return Ok(None) };
        self.partitions.insert(tenant, partition);
        say(connection, tenant, Some(partition)).await
    }
}

async fn say(
    connection: &mut PgConnection,
    tenant: TenantId,
    partition: Option<i32>,
) -> Result<Option<Position>, sqlx::Error> {
    let applied: Option<i64> = sqlx::query_scalar(
        "select p.next_offset - 1 from set_config('twh.tenant_id', $1, false)
         left join ledger_partitions p on p.partition = $2",
    )
    .bind(tenant.0.to_string())
    .bind(partition)
    .fetch_one(connection)
    .await?;
    Ok(partition.zip(applied).map(|(partition, offset)| Position { partition, offset }))
}

/// A connection that sees one tenant's rows. The next that has it says whose it is then.
#[derive(Debug)]
pub struct TenantConnection {
    connection: PoolConnection<Postgres>,
    reflects: Option<Position>,
}

impl TenantConnection {
    /// The last command that all that is read reflects; `None` before the tenant's first.
    #[must_use]
    pub const fn reflects(&self) -> Option<Position> {
        self.reflects
    }

    /// The connection, for what may have to close it.
    pub(crate) const fn pooled(&mut self) -> &mut PoolConnection<Postgres> {
        &mut self.connection
    }
}

impl Deref for TenantConnection {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for TenantConnection {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}
