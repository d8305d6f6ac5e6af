//! Webhooks: how fast deliveries leave, how late they come, what a subscriber that hangs costs the others, and what it takes to
//! keep a million of them waiting.

use crate::apply;
use crate::environment::{Environment, Process};
use crate::load::{closed_loop, post, step};
use crate::per_second;
use crate::report::{Bar, Report, Row};
use crate::sink::{Receipt, Sink};
use crate::workload::{Catalogue, Spread, adjustment_body};
use anyhow::{Context as _, Result, bail};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use time::OffsetDateTime;
use twh_accounts::provision::NewTenant;
use twh_domain::id::TenantId;
use twh_domain::timestamp::Timestamp;
use twh_domain::webhook::EventFilter;
use twh_sinks::postgres::accounts::granted::Granted;
use twh_sinks::postgres::sqlx;
use twh_sinks::postgres::webhooks::subscriptions::{Sealed, State, Subscription, put};
use twh_sinks::postgres::webhooks::touch;
use twh_sinks::webhook::{SigningSecret, secret_purpose};
use uuid::Uuid;

/// Subscribers are on loopback.
const ALLOWED: (&str, &str) = ("TWH_OUTBOUND_ALLOWED", "127.0.0.1/32");
const SKUS: usize = 50;
const NAIVE_WORKERS: usize = 32;
/// What the best of the others did on a machine like this, flat out to one fast sink: Svix 2.0, 690 to 860 deliveries a second.
const PEER_PER_SECOND: f64 = 860.0;
/// A drain that stands still for so long has failed.
const STANDSTILL: Duration = Duration::from_secs(60);
const WARM_UP: Duration = Duration::from_secs(10);
const WAITING: i64 = 1_000_000;
const DEAD_SUBSCRIBERS: i64 = 100;

/// Subscribes URLs of a tenant to what the benchmark does.
async fn subscribe(
    environment: &Environment,
    tenant: TenantId,
    urls: &[String],
    concurrency: i32,
) -> Result<Vec<Uuid>> {
    let mut tx = environment.pool.begin().await?;
    let mut ids = Vec::with_capacity(urls.len());
    for url in urls {
        let (id, at) = (Uuid::now_v7(), Timestamp::from(OffsetDateTime::now_utc()));
        let secret = environment.secrets().seal(&secret_purpose(id), SigningSecret::text(&[7; 32]).as_bytes())?;
        let subscription = Subscription {
            id,
            tenant,
            url: url.clone(),
            description: None,
            filter: EventFilter { types: vec!["stock.adjusted".to_owned()], ..EventFilter::default() },
            ordered: false,
            concurrency_max: concurrency,
            rate_per_second: None,
            timeout_ms: 10_000,
            state: State::Active,
            state_reason: None,
            state_since: at,
            secret_hint: String::new(),
            previous_until: None,
            has_client_certificate: false,
            created_by: "bench".to_owned(),
            created_at: at,
            updated_at: at,
            version: 1,
        };
        put(
            &mut tx,
            Granted::outright(&subscription),
            &Sealed { secret, previous_secret: None, client_certificate: None },
        )
        .await?;
        ids.push(id);
    }
    touch(&mut tx, tenant).await?;
    tx.commit().await?;
    Ok(ids)
}

/// A tenant with a catalogue of its own.
async fn tenant(environment: &Environment) -> Result<(NewTenant, Catalogue)> {
    let mut made = environment.tenants(1).await?;
    let Some(tenant) = made.pop() else { bail!("no tenant was made") };
    let catalogue = Catalogue::new(vec![tenant.tenant_id], SKUS);
    apply::backlog(environment, catalogue.opening()?.into_iter().map(Ok)).await?;
    Ok((tenant, catalogue))
}

/// A row, a request and a transaction a delivery: the way that is first thought of.
async fn naive(environment: &Environment, sink: &Sink, time: Duration) -> Result<f64> {
    let pool = &environment.pool;
    sqlx::query("create table naive_deliveries (id bigint generated always as identity primary key, url text, body text, sent_at timestamptz)")
        .execute(pool)
        .await?;
    sqlx::query("create index on naive_deliveries (id) where sent_at is null").execute(pool).await?;
    sqlx::query("insert into naive_deliveries (url, body) select $1, repeat('x', 1000) from generate_series(1, 50000)")
        .bind(sink.url("/naive"))
        .execute(pool)
        .await?;
    let client = reqwest::Client::new();
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let workers: Vec<_> = (0..NAIVE_WORKERS)
        .map(|_| {
            let (pool, client, stop, done) = (pool.clone(), client.clone(), Arc::clone(&stop), Arc::clone(&done));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let mut tx = pool.begin().await?;
                    let (id, url, body): (i64, String, String) = sqlx::query_as(
                        "select id, url, body from naive_deliveries where sent_at is null order by id limit 1 for update skip locked",
                    )
                    .fetch_one(&mut *tx)
                    .await?;
                    client.post(url).body(body).send().await?;
                    sqlx::query("update naive_deliveries set sent_at = now() where id = $1").bind(id).execute(&mut *tx).await?;
                    tx.commit().await?;
                    done.fetch_add(1, Ordering::Relaxed);
                }
                Ok::<_, anyhow::Error>(())
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = done.load(Ordering::Relaxed);
    tokio::time::sleep(time).await;
    let count = done.load(Ordering::Relaxed) - before;
    stop.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.await??;
    }
    Ok(per_second(count, time))
}

/// Waits until the sink has so many, and says how many came in a second once a tenth was there.
async fn drained(sink: &Sink, from: u64, count: u64) -> Result<f64> {
    let (mut last, mut moved, mut begun) = (0, Instant::now(), None);
    loop {
        let done = sink.count() - from;
        if done >= count / 10 && begun.is_none() {
            begun = Some((Instant::now(), done));
        }
        if let Some((at, first)) = begun.filter(|_| done >= count) {
            return Ok(per_second(done - first, at.elapsed()));
        }
        if done > last {
            (last, moved) = (done, Instant::now());
        } else if moved.elapsed() > STANDSTILL {
            bail!("deliveries stand still at {done} of {count}");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A backlog of events for so many subscriptions of one tenant, delivered flat out.
async fn flat_out(environment: &Environment, sink: &Sink, subscriptions: usize, deliveries: usize) -> Result<f64> {
    let (tenant, mut catalogue) = tenant(environment).await?;
    let urls: Vec<_> = (0..subscriptions).map(|number| sink.url(&format!("/flat/{number}"))).collect();
    subscribe(environment, tenant.tenant_id, &urls, if subscriptions == 1 { 64 } else { 8 }).await?;
    let events = deliveries / subscriptions;
    apply::backlog(environment, (0..events).map(|_| catalogue.adjustment(Spread::Uniform))).await?;
    let from = sink.count();
    let process = environment.start(&["process", "webhooks"], &[ALLOWED]).await?;
    let rate = drained(sink, from, (events * subscriptions) as u64).await?;
    process.stop().await?;
    Ok(rate)
}

/// Commands at a rate over HTTP, to a server that does everything; how late their events come.
async fn paced(
    server: &Process,
    sink: &Sink,
    key: &str,
    catalogue: &Catalogue,
    rate: f64,
    time: Duration,
) -> Result<f64> {
    drop(sink.receipts());
    let load = closed_loop(&server.address, 32, Some(rate), time, |number| {
        let (mut catalogue, key) = (catalogue.seeded(number), key.to_owned());
        move |mut connection| {
            let (item, key) = (catalogue.draw(Spread::Uniform).1, key.clone());
            async move {
                let reply = post(&mut connection, &key, "/v1/adjustments", adjustment_body(item)).await?;
                Ok((connection, step(&reply, 1)?))
            }
        }
    })
    .await?;
    // What is still on its way is late, and counted.
    tokio::time::sleep(Duration::from_secs(1)).await;
    Ok(load.per_second)
}

/// A quantile of durations, in milliseconds.
fn quantile_ms(micros: &mut [i64], quantile: f64) -> Result<f64> {
    micros.sort_unstable();
    let at = (micros.len() as f64 * quantile) as usize;
    micros.get(at).map(|micros| *micros as f64 / 1_000.0).context("nothing was received")
}

/// From the command's record on the log to the receipt.
fn since_log(receipts: &[Receipt]) -> Vec<i64> {
    receipts.iter().map(|receipt| receipt.received_at.micros() - receipt.recorded_at.micros()).collect()
}

/// From the ledger's commit, as PostgreSQL has noted it, to the receipt.
async fn since_commit(environment: &Environment, receipts: &[Receipt]) -> Result<Vec<i64>> {
    let commits: Vec<(i32, i64, OffsetDateTime)> = sqlx::query_as(
        "select o.partition, log_offset, pg_xact_commit_timestamp(o.xmin) from command_outcomes o
         join unnest($1::integer[], $2::bigint[]) as asked (partition, log_offset) using (partition, log_offset)",
    )
    .bind(receipts.iter().map(|receipt| receipt.position.0).collect::<Vec<_>>())
    .bind(receipts.iter().map(|receipt| receipt.position.1).collect::<Vec<_>>())
    .fetch_all(&environment.pool)
    .await
    .context("is track_commit_timestamp on?")?;
    let commits: HashMap<_, _> =
        commits.into_iter().map(|(partition, offset, at)| ((partition, offset), Timestamp::from(at))).collect();
    let since = |receipt: &Receipt| Some(receipt.received_at.micros() - commits.get(&receipt.position)?.micros());
    Ok(receipts.iter().filter_map(since).collect())
}

async fn add_lateness(
    environment: &Environment,
    report: &mut Report,
    sink: &Sink,
    name: &str,
    bars: Option<(f64, f64)>,
) -> Result<()> {
    let receipts = sink.receipts();
    let mut log = since_log(&receipts);
    let mut commit = since_commit(environment, &receipts).await?;
    for (quantile, label, bar) in [(0.5, "p50", bars.map(|bars| bars.0)), (0.99, "p99", bars.map(|bars| bars.1))] {
        let row = Row::new(format!("{name}, commit to receipt, {label}"), quantile_ms(&mut commit, quantile)?, "ms");
        report.add(match bar {
            Some(bar) => row.bar(Bar::Below(bar)),
            None => row,
        });
        report.add(Row::new(format!("{name}, log to receipt, {label}"), quantile_ms(&mut log, quantile)?, "ms"));
    }
    Ok(())
}

/// What a million deliveries that wait take, of memory and of the time of one that does not.
async fn waiting(environment: &Environment, report: &mut Report, sink: &Sink) -> Result<()> {
    let (tenant, mut catalogue) = tenant(environment).await?;
    // Nobody listens there.
    let dead: Vec<_> = (0..DEAD_SUBSCRIBERS).map(|number| format!("http://127.0.0.1:9/{number}")).collect();
    subscribe(environment, tenant.tenant_id, &dead, 8).await?;
    sqlx::query(
        "insert into webhook_events (tenant_id, id, event_type, item_ids, location_ids, ordering_keys, recorded_at, body)
         select $1, gen_random_uuid(), 'stock.adjusted', '{}', '{}', '{}', now(), rpad('{}', 1000) from generate_series(1, $2)",
    )
    .bind(tenant.tenant_id.0)
    .bind(WAITING / DEAD_SUBSCRIBERS)
    .execute(&environment.pool)
    .await?;
    sqlx::query(
        "insert into webhook_deliveries (tenant_id, subscription_id, id, event_id, state, next_attempt_at, created_at)
         select $1, s.id, gen_random_uuid(), e.id, 'pending', now(), now()
         from webhook_subscriptions s cross join webhook_events e where s.tenant_id = $1 and e.tenant_id = $1",
    )
    .bind(tenant.tenant_id.0)
    .execute(&environment.pool)
    .await?;
    subscribe(environment, tenant.tenant_id, &[sink.url("/beside")], 8).await?;
    let process = environment.start(&["process", "webhooks"], &[ALLOWED]).await?;
    let mut memory = 0;
    let from = sink.count();
    let begun = Instant::now();
    apply::backlog(environment, (0..100).map(|_| catalogue.adjustment(Spread::Uniform))).await?;
    while begun.elapsed() < Duration::from_secs(20) {
        memory = memory.max(process.memory_mb());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    if sink.count() - from < 100 {
        bail!("one that works got {} of 100 beside those that do not", sink.count() - from);
    }
    process.stop().await?;
    report.add(Row::new("1,000,000 deliveries waiting, memory at most", memory as f64, "MB").bar(Bar::Below(512.0)));
    Ok(())
}

/// The whole scenario.
pub(crate) async fn measure(environment: &Environment, report: &mut Report, time: Duration) -> Result<()> {
    let sink = Sink::start()?;
    let naive = naive(environment, &sink, time).await?;
    report.add(Row::new(format!("naive webhooks, {NAIVE_WORKERS} workers"), naive, "deliveries/s"));
    let (one, catalogue) = tenant(environment).await?;
    subscribe(environment, one.tenant_id, &[sink.url("/timed")], 64).await?;
    let key = one.api_key.as_str();
    // What other senders of webhooks have beside them; read models are measured apart.
    let roles = format!("{},webhooks", crate::LIKE_FOR_LIKE);
    let server = environment.start(&["serve", "--roles", &roles], &[ALLOWED]).await?;
    paced(&server, &sink, key, &catalogue, 100.0, WARM_UP).await?;
    for (name, rate, bars) in [("at a low rate", 200.0, Some((10.0, 50.0))), ("at a high rate", 1_000.0, None)] {
        let done = paced(&server, &sink, key, &catalogue, rate, time).await?;
        report.add(Row::new(format!("webhooks beside the ledger, {name}"), done, "deliveries/s"));
        add_lateness(environment, report, &sink, name, bars).await?;
    }
    server.stop().await?;
    let server = environment.start(&["serve"], &[ALLOWED]).await?;
    paced(&server, &sink, key, &catalogue, 100.0, WARM_UP).await?;
    paced(&server, &sink, key, &catalogue, 200.0, time).await?;
    add_lateness(environment, report, &sink, "at a low rate, read models kept up beside it", None).await?;
    let (many, catalogue) = tenant(environment).await?;
    let urls: Vec<_> = (0..99).map(|number| sink.url(&format!("/timed/{number}"))).collect();
    subscribe(environment, many.tenant_id, &urls, 8).await?;
    // Few events, each to all: more time, or the quantile is that of one of them.
    let (rate, time) = (10.0, time * 4);
    tokio::time::sleep(Duration::from_secs(1)).await;
    paced(&server, &sink, &many.api_key, &catalogue, rate, time).await?;
    let before = quantile_ms(&mut since_log(&sink.receipts()), 0.99)?;
    report.add(Row::new("99 subscribers, all quick, p99", before, "ms"));
    subscribe(environment, many.tenant_id, &[sink.url("/hang")], 8).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    paced(&server, &sink, &many.api_key, &catalogue, rate, time).await?;
    let beside = quantile_ms(&mut since_log(&sink.receipts()), 0.99)?;
    let row = Row::new("99 subscribers beside one that hangs, p99", beside, "ms");
    report.add(row.times("all quick", before).bar(Bar::Below(1.5)));
    server.stop().await?;
    for (subscriptions, deliveries, name) in
        [(1, 30_000, "1 subscription"), (100, 40_000, "100 subscriptions"), (10_000, 60_000, "10,000 subscriptions")]
    {
        let rate = flat_out(environment, &sink, subscriptions, deliveries).await?;
        let row = Row::new(format!("webhooks, {name}"), rate, "deliveries/s");
        report.add(row.clone().times("naive", naive).bar(Bar::AtLeast(1.0)));
        if subscriptions == 1 {
            report.add(row.times("the best peer", PEER_PER_SECOND).bar(Bar::AtLeast(3_000.0 / PEER_PER_SECOND)));
        }
    }
    waiting(environment, report, &sink).await
}
