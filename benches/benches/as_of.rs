//! Stock as of a past moment, on ledgers of 10 thousand, 100 thousand and a million movements: what it costs must not grow
//! with the age of the account. `docs/decisions/0009-every-movement-is-a-checkpoint.md` shows the figures.
//!
//! Needs PostgreSQL (`TWH_DATABASE_URL`, as `./dev microbench` sets it), in a database of its own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::float_arithmetic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a benchmark prints what it finds and stops at the first surprise"
)]

use std::time::Instant;
use twh_benches::median;
use twh_domain::id::TenantId;
use twh_domain::outcome::Position;
use twh_domain::timestamp::Timestamp;
use twh_sinks::postgres::levels::{LevelFilter, Moment, list_levels, sequence_at, sequence_through};
use twh_sinks::postgres::sqlx::{self, Executor as _, PgConnection};
use twh_sinks::postgres::{PgPool, connect, migrate};
use uuid::Uuid;

const SIZES: [i64; 3] = [10_000, 100_000, 1_000_000];
const LEVELS: i64 = 500;
const QUESTIONS: usize = 200;
const PAGE: i64 = 50;
/// 2026-01-01T00:00:00Z, in microseconds; a movement each millisecond.
const BEGAN: i64 = 1_767_225_600_000_000;

/// A ledger of `size` movements in turn over the levels: one location, many items.
async fn fill(pool: &PgPool, tenant: TenantId, size: i64) {
    let statements = [
        "insert into locations values ($t, md5('l')::uuid, 'L', null, null, 1, now(), now(), '{}')".to_owned(),
        format!("insert into items select $t, md5('i' || n)::uuid, 'S' || n, null, null, 1, now(), now(), '{{}}' from generate_series(0, {LEVELS} - 1) n"),
        format!(
            "insert into stock_movements select $t, n, md5('i' || n % {LEVELS})::uuid, md5('l')::uuid, case when n % 997 = 0 then 'COUNT' else 'RECEIVE' end,
                 (n - 1) / {LEVELS} + 1, 1000000, 0, ((n - 1) / {LEVELS} + 1) * 1000000, 0, 'purchase_order', md5('d')::uuid, 1, null,
                 md5('c' || n)::uuid, 0, n * 2, to_timestamp({BEGAN} / 1e6) + n * interval '1 ms', to_timestamp({BEGAN} / 1e6) + n * interval '1 ms', '\\x00'
             from generate_series(1, {size}) n"
        ),
        "insert into stock_levels select $t, item_id, location_id, max(on_hand_after_micro), 0, max(level_version), null, now() from stock_movements where tenant_id = $t group by 2, 3".to_owned(),
        format!("insert into ledger_heads values ($t, {size}, '', 0, 0, '', now())"),
    ];
    for statement in statements {
        pool.execute(&*statement.replace("$t", &format!("'{tenant}'::uuid"))).await.unwrap();
    }
}

/// The medians of the four questions, in milliseconds.
async fn measure(connection: &mut PgConnection, tenant: TenantId, size: i64) -> [f64; 4] {
    let mut times: [Vec<f64>; 4] = Default::default();
    for question in 0..QUESTIONS {
        // Moments all over the ledger, from a fixed sequence.
        let sequence = 1 + i64::try_from(question).unwrap() * 7_919 % size;
        let at = Timestamp::from_micros(BEGAN + sequence * 1_000);
        let position = Position { partition: 0, offset: sequence * 2 };
        let one = LevelFilter { sku: Some(format!("S{}", question % 500)), ..LevelFilter::default() };
        let mut timed = async |of: usize, moment: Option<Moment>, filter: &LevelFilter| {
            let begun = Instant::now();
            let moment = match moment {
                Some(moment) => moment,
                None if of == 0 => {
                    Moment::Sequence(sequence_through(&mut *connection, tenant, position).await.unwrap())
                }
                None => Moment::Sequence(sequence_at(&mut *connection, tenant, at).await.unwrap()),
            };
            if moment != Moment::Now {
                assert_eq!(moment, Moment::Sequence(sequence));
            }
            list_levels(&mut *connection, tenant, filter, moment, None, PAGE).await.unwrap();
            times[of].push(begun.elapsed().as_secs_f64() * 1_000.0);
        };
        timed(0, None, &one).await;
        timed(1, None, &one).await;
        timed(2, None, &LevelFilter::default()).await;
        timed(3, Some(Moment::Now), &LevelFilter::default()).await;
    }
    times.map(|times| median(times).unwrap())
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let url = std::env::var("TWH_DATABASE_URL").unwrap_or_else(|_| "postgres://twh@127.0.0.1:15432/twh".to_owned());
        let server = connect(&url, 1, "as-of").unwrap();
        let name = format!("twh_bench_{}", Uuid::new_v4().simple());
        server.execute(&*format!("create database {name}")).await.expect("PostgreSQL: ./dev up postgres");
        let pool = connect(&format!("{}/{name}", url.rsplit_once('/').unwrap().0), 1, "as-of").unwrap();
        migrate(&pool).await.unwrap();
        println!("| movements | one level, by position | one level, by time | page of {PAGE} levels, by time | the same page, now |");
        println!("|---|---|---|---|---|");
        for size in SIZES {
            let tenant = TenantId(Uuid::new_v4());
            fill(&pool, tenant, size).await;
            sqlx::query("analyze").execute(&pool).await.unwrap();
            let mut connection = pool.acquire().await.unwrap();
            measure(&mut connection, tenant, size).await;
            let [position, time, page, now] = measure(&mut connection, tenant, size).await;
            println!("| {size} | {position:.2} | {time:.2} | {page:.2} | {now:.2} |");
        }
        pool.close().await;
        server.execute(&*format!("drop database {name} with (force)")).await.unwrap();
    });
}
