//! Rate limits of a running platform: what clients are told, and what is left of the limits when Redis is not there.

use futures::future::join_all;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use twh_tests::proxy::Proxy;
use twh_tests::redis::Redis;
use twh_tests::{Answer, Tenant, World};

const PATIENCE: Duration = Duration::from_secs(20);

/// The value of a metric's series; 0 where it has none yet.
async fn metric(url: &str, series: &str) -> f64 {
    let text = reqwest::get(format!("{url}/metrics")).await.unwrap().text().await.unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(series));
    line.map_or(0.0, |value| value.trim().parse().unwrap())
}

/// Waits until a server's limits are shared, or are its own.
async fn until_shared(url: &str, shared: bool) {
    let begun = Instant::now();
    while (metric(url, "twh_rate_limit_store_up ").await > 0.5) != shared {
        assert!(begun.elapsed() < PATIENCE, "the limits of {url} do not become shared={shared}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Asks until an answer tells this limit. Where the cores are full Redis is late for moments, and counts as away.
async fn until_limit(tenant: &Tenant, limit: &str) {
    let begun = Instant::now();
    while read(tenant).await.header("x-ratelimit-limit") != limit {
        assert!(begun.elapsed() < Duration::from_secs(30), "the limit does not come to {limit}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn read(tenant: &Tenant) -> Answer {
    tenant.get("/v1/stock?limit=1").await.unwrap()
}

fn number(answer: &Answer, header: &str) -> u64 {
    answer.header(header).parse().unwrap_or_else(|_| panic!("{header}: {:?}", answer.headers))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_says_what_is_left_and_a_refusal_when_it_is_worth_coming_back() {
    let mut redis = Redis::prepare().unwrap();
    redis.start().await.unwrap();
    let limits = [("TWH_REDIS_URL", redis.url.as_str()), ("TWH_PLAN_LIMITS", "enterprise=1/30,1/4")];
    let world = World::start_with(&limits).await.unwrap();
    until_shared(&world.ops_url, true).await;
    let tenant = world.tenant().await.unwrap();
    let first = read(&tenant).await;
    assert_eq!(first.status, 200);
    let names = ["x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset", "ratelimit-policy", "ratelimit"];
    let expected = ["4", "3", "1", "\"tenant\";q=30;w=30, \"key\";q=4;w=4", "\"tenant\";r=29;t=1, \"key\";r=3;t=1"];
    assert_eq!(names.map(|name| first.header(name).to_owned()), expected);
    // An error says it, too; and an answer to nobody has nothing to say.
    let missing = tenant.get("/v1/items/00000000-0000-0000-0000-000000000000").await.unwrap();
    assert_eq!((missing.status.as_u16(), missing.header("x-ratelimit-limit")), (404, "4"));
    let mut nobody = tenant.clone();
    nobody.key = "nobody's".to_owned();
    assert_eq!((read(&nobody).await.status.as_u16(), read(&nobody).await.header("ratelimit")), (401, ""));
    let refused = loop {
        let answer = read(&tenant).await;
        if answer.status != 200 {
            break answer;
        }
    };
    assert_eq!((refused.status.as_u16(), refused.code()), (429, "RATE_LIMITED"));
    assert_eq!((refused.header("x-ratelimit-remaining"), refused.header("x-ratelimit-limit")), ("0", "4"));
    let wait = number(&refused, "retry-after");
    assert!((1..=2).contains(&wait), "{wait}");
    // The wait that the answer asks for is enough.
    tokio::time::sleep(Duration::from_secs(wait)).await;
    assert_eq!(read(&tenant).await.status, 200);
    // A batch of 30 costs four, which is all that the key's bucket holds. The first refusal may be of its first request, the
    // second is of the rest.
    let entry = |index: usize| {
        let body = json!({ "sku": format!("BATCH-{index}") });
        json!({ "type": "item.create", "idempotency_key": format!("item-{index}"), "body": body })
    };
    let body = json!({ "commands": (0..30).map(entry).collect::<Vec<_>>() });
    let mut refusals = 0;
    let answer = loop {
        let answer = tenant.post("/v1/commands:batch", body.clone()).await.unwrap();
        if answer.status != 429 {
            break answer;
        }
        refusals += 1;
        tokio::time::sleep(Duration::from_secs(number(&answer, "retry-after"))).await;
    };
    assert!(answer.status.is_success(), "{} {}", answer.status, answer.body);
    assert!((1..=2).contains(&refusals), "{refusals} refusals");
    // Of four; one comes back each second, and the answer may have taken one.
    assert!(number(&answer, "x-ratelimit-remaining") <= 1, "{:?}", answer.headers);
}

/// Clients that ask many times as often as they may, until told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    admitted: Arc<AtomicU32>,
    clients: Vec<tokio::task::JoinHandle<u32>>,
}

impl Load {
    fn start(tenants: &[Tenant]) -> Self {
        let (stop, admitted) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let client = |tenant: Tenant| {
            let (stop, admitted) = (Arc::clone(&stop), Arc::clone(&admitted));
            tokio::spawn(async move {
                let mut refused = 0;
                while !stop.load(Ordering::Relaxed) {
                    let answer = read(&tenant).await;
                    match answer.status.as_u16() {
                        200 => _ = admitted.fetch_add(1, Ordering::Relaxed),
                        429 => {
                            assert!(number(&answer, "retry-after") >= 1);
                            refused += 1;
                        }
                        other => panic!("{other}: {}", answer.body),
                    }
                    tokio::time::sleep(Duration::from_millis(15)).await;
                }
                refused
            })
        };
        let clients = tenants.iter().flat_map(|tenant| std::iter::repeat_n(tenant, 4)).cloned().map(client).collect();
        Self { stop, admitted, clients }
    }

    fn admitted(&self) -> f64 {
        f64::from(self.admitted.load(Ordering::Relaxed))
    }

    /// How many were refused.
    async fn end(self) -> u32 {
        self.stop.store(true, Ordering::Relaxed);
        join_all(self.clients).await.into_iter().map(Result::unwrap).sum()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_dies_under_load_is_no_error_and_frees_nobody_from_the_limits() {
    const RATE: f64 = 40.0;
    const BURST: f64 = 40.0;
    const WINDOW: Duration = Duration::from_secs(3);
    let mut redis = Redis::prepare().unwrap();
    redis.start().await.unwrap();
    let limits = [("TWH_REDIS_URL", redis.url.as_str()), ("TWH_PLAN_LIMITS", "enterprise=40/40,40/40")];
    let mut world = World::start_with(&limits).await.unwrap();
    let second = world.add_server(&[]).unwrap();
    world.server(second).unwrap().start().await.unwrap();
    let urls = [world.url.clone(), world.server(second).unwrap().url.clone()];
    let ops_urls = [world.ops_url.clone(), world.server(second).unwrap().ops_url.clone()];
    let tenant = world.tenant().await.unwrap();
    let tenants = urls.clone().map(|url| tenant.at(&url));
    for url in &ops_urls {
        until_shared(url, true).await;
    }
    let begun = Instant::now();
    let load = Load::start(&tenants);
    // What is let through in this time is what is measured, here and below.
    tokio::time::sleep(WINDOW).await;
    // Two processes at their quarters, whenever they had to: of this more than the shared limit.
    let alone = |since: Instant| 2.0 * (BURST + RATE * since.elapsed().as_secs_f64()) / 4.0;
    let shared = load.admitted();
    assert!(shared <= BURST + RATE * begun.elapsed().as_secs_f64() + alone(begun), "{shared}");
    assert!(shared >= RATE, "{shared} in three seconds: it starves");

    let killed = Instant::now();
    let before = load.admitted();
    redis.kill().await.unwrap();
    for url in &ops_urls {
        until_shared(url, false).await;
    }
    let noticed = killed.elapsed().as_secs_f64();
    tokio::time::sleep(WINDOW).await;
    let admitted = load.admitted() - before;
    // What was left of the shared bucket, and what came back until both had noticed; then a quarter each.
    let most = BURST + RATE * noticed + alone(killed);
    assert!((RATE..=most).contains(&admitted), "{admitted} without Redis, not {RATE} to {most}");
    for url in &ops_urls {
        let series = "twh_rate_limit_decisions_total{outcome=\"limited_locally\",plan=\"enterprise\"} ";
        assert!(metric(url, series).await > 0.0, "{url}");
    }

    redis.start().await.unwrap();
    for url in &ops_urls {
        until_shared(url, true).await;
    }
    let refused = load.end().await;
    assert!(refused > 100, "the load was no load: {refused} refused");
    // What one server lets through, the other has not: who is refused by the first is refused by the second. A token comes
    // back every 25 ms, and on a busy machine the second answer may be later than that: then once more.
    let mut shows = false;
    for _ in 0..200 {
        while read(&tenants[0]).await.status == 200 {}
        let other = read(&tenants[1]).await;
        shows = other.status == 429 && other.header("x-ratelimit-limit") == "40";
        if shows {
            break;
        }
    }
    assert!(shows, "the limits are not shared any more");
    let log = std::fs::read_to_string(world.log_path()).unwrap();
    assert!(log.contains("Redis is away") && log.matches("Redis answers").count() >= 2, "the log does not tell");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_starts_without_redis_finds_it_and_does_not_wait_for_one_that_falls_silent() {
    let mut redis = Redis::prepare().unwrap();
    let proxy = Proxy::start(redis.url.trim_start_matches("redis://")).await.unwrap();
    let url = format!("redis://{}", proxy.address);
    let limits = [("TWH_REDIS_URL", url.as_str()), ("TWH_PLAN_LIMITS", "enterprise=400/4000,400/4000")];
    let world = World::start_with(&limits).await.unwrap();
    let tenant = world.tenant().await.unwrap();
    let answer = read(&tenant).await;
    assert_eq!((answer.status.as_u16(), answer.header("x-ratelimit-limit")), (200, "1000"));
    redis.start().await.unwrap();
    until_shared(&world.ops_url, true).await;
    until_limit(&tenant, "4000").await;
    // The connection stays open, and nothing comes: only a deadline tells.
    proxy.go_silent();
    for _ in 0..100 {
        assert_eq!(read(&tenant).await.status, 200);
    }
    until_shared(&world.ops_url, false).await;
    assert_eq!(read(&tenant).await.header("x-ratelimit-limit"), "1000");
    proxy.heal();
    until_shared(&world.ops_url, true).await;
    until_limit(&tenant, "4000").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_the_operator_gives_holds_in_running_servers_and_is_told() {
    let world = World::start_with(&[("TWH_PLAN_LIMITS", "growth=30/70,20/50")]).await.unwrap();
    let tenant = world.tenant().await.unwrap();
    let plan = async || tenant.get("/v1/plan").await.unwrap().body;
    assert_eq!(plan().await["limits"]["tenant"], json!({ "per_second": 5_000, "burst": 25_000 }));
    let change = async |id: &str, plan: &str| {
        world.command(&["tenant", "plan", "--tenant", id, "--plan", plan]).unwrap().output().await.unwrap().status
    };
    assert!(change(&tenant.id, "growth").await.success());
    assert!(!change(&tenant.id, "gold").await.success());
    assert!(!change("00000000-0000-7000-8000-000000000000", "free").await.success());
    let begun = Instant::now();
    while plan().await["plan"] != "growth" {
        assert!(begun.elapsed() < PATIENCE, "the plan stays as it was");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let limits = json!({ "tenant": { "per_second": 30, "burst": 70 }, "key": { "per_second": 20, "burst": 50 } });
    assert_eq!(plan().await["limits"], limits);
    let record = tenant.get("/v1/audit?action=tenant.plan").await.unwrap().body["data"][0].clone();
    assert_eq!((&record["old"]["plan"], &record["new"]["plan"]), (&json!("enterprise"), &json!("growth")), "{record}");
}

/// Asks, and reads nothing of the answer: the socket holds as little as can be.
async fn ask_and_read_nothing(tenant: &Tenant, url: &str, path: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut stream = socket.connect(url.trim_start_matches("http://").parse().unwrap()).await.unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nHost: twh\r\nAuthorization: Bearer {}\r\n\r\n", tenant.key);
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_large_pages_and_reads_none_takes_its_share_of_the_memory_and_no_more() {
    const PAGE: &str = "/v1/items?limit=1000";
    const GROWS_MAX: u64 = 200 * 1024 * 1024;
    let mut world = World::start().await.unwrap();
    let (tenant, neighbour) = (world.tenant().await.unwrap(), world.tenant().await.unwrap());
    // Each takes 150 kB as JSON: a page is full.
    let text = "\u{1}".repeat(500);
    let metadata: serde_json::Map<_, _> = (0..50).map(|key| (format!("key-{key}"), json!(text))).collect();
    for batch in 0..3 {
        let item = |index: usize| {
            let body = json!({ "sku": format!("LONG-{batch}-{index}"), "metadata": metadata });
            json!({ "type": "item.create", "idempotency_key": format!("item-{batch}-{index}"), "body": body })
        };
        tenant.done("/v1/commands:batch", json!({ "commands": (0..10).map(item).collect::<Vec<_>>() })).await.unwrap();
    }
    let whole = tenant.get(PAGE).await.unwrap();
    assert!(whole.status == 200 && whole.body["next_cursor"].is_string(), "{}: the page is not full", whole.status);
    let before = world.server(0).unwrap().resident_bytes().unwrap();
    let asked = (0..60).map(|_| ask_and_read_nothing(&tenant, &world.url, PAGE));
    let unread = join_all(asked).await;
    let (begun, mut most) = (Instant::now(), before);
    while begun.elapsed() < Duration::from_secs(4) {
        let answer = neighbour.get("/v1/suppliers?limit=5").await.unwrap();
        assert_eq!(answer.status, 200, "the neighbour is kept out: {}", answer.body);
        most = most.max(world.server(0).unwrap().resident_bytes().unwrap());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(most - before < GROWS_MAX, "{} MiB more", (most - before) >> 20);
    // What is done is not refused, and answers that are small are given to the neighbour as before.
    assert_eq!(tenant.post("/v1/suppliers", json!({ "code": "S" })).await.unwrap().status, 201);
    let mut served = 0;
    let mut kept_out = 0;
    for mut stream in unread {
        let mut head = [0; 2_048];
        let length = stream.read(&mut head).await.unwrap();
        let head = String::from_utf8_lossy(&head[..length]).to_ascii_lowercase();
        match head.get(..12) {
            Some("http/1.1 200") => served += 1,
            Some("http/1.1 429") => {
                assert!(head.contains("\r\nretry-after: ") && head.contains("rate_limited"), "{head}");
                kept_out += 1;
            }
            _ => panic!("{head}"),
        }
    }
    assert!(served >= 7 && kept_out >= 10, "{served} served, {kept_out} kept out, {} MiB more", (most - before) >> 20);
    // They are gone now, and their room is there again.
    let begun = Instant::now();
    while tenant.get(PAGE).await.unwrap().status != 200 {
        assert!(begun.elapsed() < PATIENCE, "the room is not given back");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
