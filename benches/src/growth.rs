//! What age and number cost: the same work on a ledger that holds more movements, or more tenants. It must stay flat.

use crate::apply;
use crate::environment::Environment;
use crate::workload::{Catalogue, Spread};
use anyhow::Result;
use twh_domain::id::TenantId;
use twh_sinks::postgres::sqlx;
use uuid::Uuid;

/// Movements a row of the other tables, as in a trade of orders with lines.
const MOVEMENTS_A_COMMAND: i64 = 10;
/// Levels that the older movements are of.
const LEVELS: i64 = 50_000;
/// So many movements are put in at once.
const CHUNK: i64 = 250_000;

/// Puts in older movements, with the audit records and outcomes of their commands, until there are `target`; they are of
/// tenants of their own.
pub(crate) async fn fill(environment: &Environment, tenant: TenantId, from: i64, target: i64) -> Result<()> {
    let movements = format!(
        "insert into stock_movements
         select $1, n, md5('i' || n % {LEVELS})::uuid, md5('l')::uuid, 'SALE', n / {LEVELS} + 1, -1000000, -1000000, 1000000, 0,
             'sales_order', md5('d' || n / {MOVEMENTS_A_COMMAND})::uuid, 1, null, md5('c' || n / {MOVEMENTS_A_COMMAND})::uuid, 0, n,
             now(), now(), sha256(n::text::bytea)
         from generate_series($2::bigint, $3::bigint) n"
    );
    let audit = "insert into audit_log
         select $1, n, 0, 'sales_order.ship', 'sales_order', md5('d' || n)::uuid, 3, '{\"filler\": true}', 'api_key', md5('k'),
             '127.0.0.1', 'twh-bench', md5('r' || n), md5('c' || n)::uuid, now(), sha256(n::text::bytea)
         from generate_series($2::bigint, $3::bigint) n";
    let outcomes = "insert into command_outcomes
         select $1, md5('c' || n)::uuid, md5('k' || n), repeat('0', 64), null, true, null, null, null, n, n, 0, n, now()
         from generate_series($2::bigint, $3::bigint) n";
    let mut begin = from;
    while begin < target {
        let end = (begin + CHUNK).min(target);
        sqlx::query(&movements).bind(tenant.0).bind(begin + 1).bind(end).execute(&environment.pool).await?;
        let (first, last) = (begin / MOVEMENTS_A_COMMAND + 1, end / MOVEMENTS_A_COMMAND);
        for statement in [audit, outcomes] {
            sqlx::query(statement).bind(tenant.0).bind(first).bind(last).execute(&environment.pool).await?;
        }
        begin = end;
        crate::progress(&format!("{end} of {target} older movements are in"));
    }
    sqlx::query("analyze stock_movements, audit_log, command_outcomes").execute(&environment.pool).await?;
    Ok(())
}

/// Commands a second of new work.
pub(crate) async fn measure(environment: &Environment, catalogue: &Catalogue, count: usize) -> Result<f64> {
    let mut work = catalogue.clone();
    let commands = (0..count).map(|_| work.adjustment(Spread::Uniform));
    Ok(apply::backlog(environment, commands).await?.per_second)
}

/// A catalogue of so many tenants, made and opened.
pub(crate) async fn tenants(environment: &Environment, count: usize, skus: usize) -> Result<Catalogue> {
    let catalogue = Catalogue::new((0..count).map(|_| TenantId(Uuid::now_v7())).collect(), skus);
    apply::backlog(environment, catalogue.opening()?.into_iter().map(Ok)).await?;
    Ok(catalogue)
}
