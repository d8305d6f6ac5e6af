//! Connections that see one tenant's rows: what reads for a request has no other.

use super::{ACQUIRE_TIMEOUT, READER, options};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgPoolOptions};
use sqlx::{Connection as _, Executor as _, PgPool, Postgres};
use std::ops::{Deref, DerefMut};
use twh_domain::id::TenantId;

/// The role that row-level security holds, taken by every connection before it is used.
const TAKE_ROLE: &str = "set role twh_tenant";

/// A pool whose connections are had for a tenant only.
#[derive(Debug, Clone)]
pub struct TenantPool {
    pool: PgPool,
}

impl TenantPool {
    /// A pool of at most `connections_max`. Connects when first used.
    pub fn connect(url: &str, connections_max: u32, application: &str) -> Result<Self, sqlx::Error> {
        let pool = PgPoolOptions::new()
            .max_connections(connections_max)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            // Saying whose it is asks for a sign of life too.
            .test_before_acquire(false)
            .after_connect(|connection, _| Box::pin(async move { connection.execute(TAKE_ROLE).await.map(|_| ()) }))
            .connect_lazy_with(options(url, application)?.options(READER));
        Ok(Self { pool })
    }

    /// A connection that sees a tenant's rows and no other's, and writes none.
    pub async fn of(&self, tenant: TenantId) -> Result<TenantConnection, sqlx::Error> {
        // Each that has died meanwhile is thrown away; a new one comes after the last of them.
        for _ in 0..self.pool.options().get_max_connections() {
            let mut connection = self.pool.acquire().await?;
            match say(&mut connection, tenant).await {
                Ok(()) => return Ok(TenantConnection { connection }),
                Err(sqlx::Error::Database(error)) if !error.code().is_some_and(|code| code.starts_with("57")) => {
                    return Err(sqlx::Error::Database(error));
                }
                Err(_) => {
                    let _ = connection.detach().close_hard().await;
                }
            }
        }
        let mut connection = self.pool.acquire().await?;
        say(&mut connection, tenant).await?;
        Ok(TenantConnection { connection })
    }
}

async fn say(connection: &mut PgConnection, tenant: TenantId) -> Result<(), sqlx::Error> {
    sqlx::query("select set_config('twh.tenant_id', $1, false)")
        .bind(tenant.0.to_string())
        .execute(connection)
        .await
        .map(|_| ())
}

/// A connection that sees one tenant's rows. The next that has it says whose it is then.
#[derive(Debug)]
pub struct TenantConnection {
    connection: PoolConnection<Postgres>,
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
