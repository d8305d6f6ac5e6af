//! Several servers, many clients, and everything under them broken again and again by a plan that a seed gives: nothing that
//! was acknowledged is lost, nothing is done twice, nothing is sold that is not there, and everything is published in order.
//!
//! `TWH_TEST_SEED` repeats a plan, `TWH_TEST_CHAOS_SECONDS` makes it longer, and `TWH_TEST_CHAOS_ONLY=frozen` leaves only what
//! has this in its name.

mod checks;
mod clients;
mod hostile;
mod plan;

use clients::{Balancer, Book, Client};
use futures::future::join_all;
use hostile::Hostile;
use plan::{Breaker, PARTITIONS, PROXIED, SERVERS};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use twh_tests::proxy::Proxy;
use twh_tests::{Tenant, World};

const TENANTS: usize = 8;
const CLIENTS_PER_TENANT: usize = 5;
const SKUS: usize = 20;
/// Little enough that clients run short all the time.
const OPENING_STOCK: i64 = 60;
/// What a server may take of memory, in bytes.
const MEMORY_MAX: u64 = 1_000_000_000;
/// How long 99 of 100 answers may take while nothing is broken, with a hostile tenant on the same servers.
const P99_MS_MAX: u64 = 2_000;
/// Answers from which that can be told.
const ENOUGH_TO_TELL: usize = 1_000;
/// How long what is under way may take once everything is healed.
const SETTLED_WITHIN: Duration = Duration::from_secs(120);

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is not a number: {text}")))
}

/// Three servers on one environment, not started; the last one reaches the database through a proxy.
async fn servers() -> (World, Proxy) {
    let partitions = PARTITIONS.to_string();
    // Short, so that many clients meet a 202.
    let settings = [("TWH_TOPIC_PARTITIONS", partitions.as_str()), ("TWH_OUTCOME_WAIT_MS", "3000")];
    let mut world = World::with_own_parts(&settings).await.unwrap();
    let (scheme, rest) = world.database_url.split_once("://").unwrap();
    let (authority, path) = rest.split_once('/').unwrap();
    let (user, database) = authority.rsplit_once('@').unwrap_or(("", authority));
    let proxy = Proxy::start(database).await.unwrap();
    let proxied = format!("{scheme}://{user}@{}/{path}", proxy.address);
    for server in 1..SERVERS {
        let setting = ("TWH_DATABASE_URL", proxied.as_str());
        world.add_server(if server == PROXIED { std::slice::from_ref(&setting) } else { &[] }).unwrap();
    }
    (world, proxy)
}

/// The SKUs of a tenant: all of them are hot, and each is one tenant's.
fn skus_of(tenant: usize) -> Vec<String> {
    (0..SKUS).filter(|sku| sku % TENANTS == tenant).map(|sku| format!("HOT-{sku}")).collect()
}

async fn stocked_tenants(world: &World) -> Vec<Tenant> {
    let mut tenants = Vec::new();
    for index in 0..TENANTS {
        let tenant = world.tenant().await.unwrap();
        for sku in skus_of(index) {
            tenant.stock(&sku, OPENING_STOCK).await.unwrap();
        }
        tenants.push(tenant);
    }
    tenants
}

/// A book that knows the opening stock.
fn opened(tenants: &[Tenant]) -> Book {
    let mut book = Book::default();
    for (index, tenant) in tenants.iter().enumerate() {
        for sku in skus_of(index) {
            book.moved(&tenant.id, &sku, OPENING_STOCK);
        }
    }
    book
}

fn clients(tenants: &[Tenant], balancer: &Arc<Balancer>, seed: u64, closing: &Arc<AtomicBool>) -> Vec<Client> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut clients = Vec::new();
    for (index, tenant) in tenants.iter().enumerate() {
        for _ in 0..CLIENTS_PER_TENANT {
            clients.push(Client::new(tenant, Arc::clone(balancer), skus_of(index), rng.random(), Arc::clone(closing)));
        }
    }
    clients
}

#[tokio::test(flavor = "multi_thread")]
async fn chaos_loses_doubles_and_oversells_nothing() {
    let seed = number("TWH_TEST_SEED").unwrap_or_else(rand::random);
    let seconds = number("TWH_TEST_CHAOS_SECONDS").unwrap_or(60);
    println!("chaos: seed {seed}, {seconds} s (TWH_TEST_SEED={seed} repeats the plan)");
    let begun = Instant::now();
    let (mut world, proxy) = servers().await;
    for server in 0..SERVERS {
        world.server(server).unwrap().start().await.unwrap();
    }
    let tenants = stocked_tenants(&world).await;
    let urls = (0..SERVERS).map(|server| world.server(server).unwrap().url.clone());
    let balancer = Arc::new(Balancer::new(urls));
    let closing = Arc::new(AtomicBool::new(false));
    let working: Vec<_> =
        clients(&tenants, &balancer, seed, &closing).into_iter().map(|client| tokio::spawn(client.run())).collect();

    let hostile = world.tenant().await.unwrap();
    let outside = hostile.id.clone();
    // Anybody can have a tenant of this plan.
    let plan = ["tenant", "plan", "--tenant", &outside, "--plan", "free"];
    assert!(world.command(&plan).unwrap().status().await.unwrap().success());
    let hostile = Hostile::new(hostile, Arc::clone(&balancer), seed, Arc::clone(&closing)).await;
    let hostile = tokio::spawn(hostile.run());

    let mut breaker = Breaker::new(&mut world, &proxy, Arc::clone(&balancer), &tenants, seed);
    breaker.run(Duration::from_secs(seconds)).await;
    let (broken, troubles, memory) = breaker.finish();

    closing.store(true, Ordering::Release);
    let books = tokio::time::timeout(SETTLED_WITHIN, join_all(working)).await;
    let books = books.expect("a command has no final answer, long after everything is healed");
    let mut book = opened(&tenants);
    books.into_iter().for_each(|other| book.add(other.unwrap()));

    let (answers, p99) = book.p99();
    let taken = hostile.await.unwrap();
    println!("chaos: {book}; {broken}; seed {seed}, {} s", begun.elapsed().as_secs());
    println!(
        "chaos: {taken} commands of a hostile tenant; 99 of 100 of {answers} answers of the others within {p99} ms; {} MiB",
        memory >> 20
    );
    checks::all(&mut world, &tenants, &outside, &book, SETTLED_WITHIN).await;
    assert!(troubles.is_empty(), "{troubles:#?}");
    assert!(memory < MEMORY_MAX, "a server took {} MiB", memory >> 20);
    assert!(answers < ENOUGH_TO_TELL || p99 < P99_MS_MAX, "99 of 100 answers within {p99} ms, of {answers}");
}
