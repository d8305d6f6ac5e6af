//! The search engine: what happens where it is away, slow, built anew, or where those who write to it crash. What it finds is
//! at last what the ledger says, document by document.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use twh_tests::proxy::Proxy;
use twh_tests::{Answer, Tenant, World, enough, search_engine};

const ITEMS: usize = 60;
/// Those that are changed over and over.
const CHANGED: usize = 20;

async fn world(url: &str) -> (World, Tenant) {
    let world = World::start_with(&[("TWH_RATE_LIMITS", "off"), ("TWH_SEARCH_URL", url)]).await.unwrap();
    let tenant = world.tenant().await.unwrap();
    (world, tenant)
}

async fn search(tenant: &Tenant, query: &str) -> Answer {
    tenant.get(&format!("/v1/items/search?{query}")).await.unwrap()
}

fn offset(position: &str) -> i64 {
    position.split_once('-').map_or(-1, |(_, offset)| offset.parse().unwrap())
}

/// Waits until the engine answers, and reflects a position.
async fn settled(tenant: &Tenant, position: &str) {
    for _ in 0..1_200 {
        let answer = search(tenant, "limit=1").await;
        if answer.header("x-twh-search") == "elasticsearch"
            && offset(answer.header("x-twh-reflects")) >= offset(position)
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the engine does not reflect {position} within a minute");
}

async fn catalogue(tenant: &Tenant) -> String {
    tenant.done("/v1/locations", json!({ "code": "NORTH" })).await.unwrap();
    tenant.done("/v1/locations", json!({ "code": "SOUTH" })).await.unwrap();
    let commands: Vec<_> = (0..ITEMS)
        .map(|n| json!({ "type": "item.create", "idempotency_key": format!("i{n}"), "body": { "sku": format!("S{n:03}"), "name": format!("Thing {n}") } }))
        .collect();
    let answer = tenant.done("/v1/commands:batch", json!({ "commands": commands })).await.unwrap();
    answer.body["results"][ITEMS - 1]["position"].as_str().unwrap().to_owned()
}

/// One change: now of stock, now of a name. Where the server is away it is asked again, as clients do.
async fn change(tenant: &Tenant, number: usize) {
    let sku = format!("S{:03}", number * 7 % CHANGED);
    for _ in 0..600 {
        let done = if number.is_multiple_of(5) {
            rename(tenant, &sku, number).await
        } else {
            adjust(tenant, &sku, number).await
        };
        if done {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("change {number} is not taken");
}

async fn adjust(tenant: &Tenant, sku: &str, number: usize) -> bool {
    let location = if number.is_multiple_of(2) { "NORTH" } else { "SOUTH" };
    // Something comes, more comes, all goes.
    let quantity = ["1", "1", "-2"][number / CHANGED % 3];
    let lines = json!([{ "sku": sku, "quantity": quantity }]);
    let body = json!({ "location_code": location, "reason": "found", "lines": lines });
    tenant.post_as("/v1/adjustments", &format!("c{number}"), body).await.is_ok_and(|answer| answer.status == 201)
}

async fn rename(tenant: &Tenant, sku: &str, number: usize) -> bool {
    let Ok(found) = tenant.get(&format!("/v1/items?sku={sku}")).await else { return false };
    let Some(item) = found.body["data"][0].as_object().cloned() else { return false };
    let etag = format!("\"{}\"", item["version"]);
    let key = format!("c{number}");
    let headers =
        [("content-type", "application/json"), ("if-match", etag.as_str()), ("idempotency-key", key.as_str())];
    let body = json!({ "name": format!("Thing renamed {number}") }).to_string().into_bytes();
    let path = format!("/v1/items/{}", item["id"].as_str().unwrap());
    // One that was taken before an answer came is another version now, and so another request.
    let answer = tenant.send(reqwest::Method::PATCH, &path, &headers, Some(body)).await;
    answer.is_ok_and(|answer| [200, 412, 422].contains(&answer.status.as_u16()))
}

async fn last_change(tenant: &Tenant) -> String {
    let body = json!({ "location_code": "NORTH", "reason": "last", "lines": [{ "sku": "S000", "quantity": "1" }] });
    tenant.done("/v1/adjustments", body).await.unwrap().header("x-twh-position").to_owned()
}

/// Every document of an index of the engine, by its id.
async fn documents(index: &str) -> BTreeMap<String, Value> {
    let client = reqwest::Client::new();
    let base = search_engine();
    client.post(format!("{base}/{index}/_refresh")).send().await.unwrap();
    let body = json!({ "size": 10_000, "query": { "match_all": {} }, "version": true });
    let answer: Value =
        client.post(format!("{base}/{index}/_search")).json(&body).send().await.unwrap().json().await.unwrap();
    let hits = answer["hits"]["hits"].as_array().unwrap_or_else(|| panic!("{answer}")).clone();
    hits.into_iter()
        .map(|hit| (hit["_id"].as_str().unwrap().to_owned(), json!([hit["_version"], hit["_source"]])))
        .collect()
}

/// The indexes of a world, oldest first.
async fn indexes(world: &World) -> Vec<(String, String)> {
    use twh_sinks::postgres::sqlx;
    let pool = world.pool().await.unwrap();
    sqlx::query_as("select name, state from projection_builds where projection = 'search' order by number")
        .fetch_all(&pool)
        .await
        .unwrap()
}

/// The indexes that an alias means, for those who ask the engine themselves.
async fn meant(alias: &str) -> Vec<String> {
    let answer = reqwest::get(format!("{}/_alias/{alias}", search_engine())).await.unwrap();
    let answer: BTreeMap<String, Value> = answer.json().await.unwrap();
    answer.into_keys().collect()
}

/// What the engine holds is what the ledger says: documents to the byte, and where something is available; and hits tell how much.
async fn agrees(tenant: &Tenant, index: &str) {
    let held = documents(index).await;
    assert_eq!(held.len(), ITEMS);
    let listed = tenant.get("/v1/items?limit=100").await.unwrap();
    let hits = search(tenant, "q=thing&limit=100").await;
    let hits: BTreeMap<_, _> =
        hits.body["data"].as_array().unwrap().iter().map(|hit| (hit["item"]["id"].as_str().unwrap(), hit)).collect();
    for item in listed.body["data"].as_array().unwrap() {
        let id = item["id"].as_str().unwrap();
        let key = format!("{}.{}", tenant.id.replace('-', ""), id.replace('-', ""));
        let document = &held[&key][1];
        assert_eq!(&document["document"], item);
        let stock = tenant.get(&format!("/v1/items/{id}/stock")).await.unwrap();
        let levels = stock.body["levels"].as_array().unwrap_or_else(|| panic!("{}", stock.body));
        let places = |levels: Vec<&Value>| {
            let mut ids: Vec<_> = levels.iter().map(|level| level["location_id"].as_str().unwrap()).collect();
            ids.sort_unstable();
            json!(ids)
        };
        assert_eq!(document["locations"], places(levels.iter().collect()), "{}", item["sku"]);
        let available = levels.iter().filter(|level| level["available"] != "0").collect();
        assert_eq!(document["available_at"], places(available), "{}", item["sku"]);
        let told = |levels: &Value| {
            let of = |level: &Value| (level["location_id"].to_string(), level["qty_on_hand"].clone());
            levels.as_array().unwrap().iter().map(of).collect::<BTreeMap<_, _>>()
        };
        assert_eq!(told(&hits[id]["stock"]["levels"]), told(&stock.body["levels"]), "{}", item["sku"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_answers_and_says_so_while_the_engine_is_away_or_silent() {
    let target = search_engine().trim_start_matches("http://").to_owned();
    let proxy = Proxy::start(&target).await.unwrap();
    let (_world, tenant) = world(&format!("http://{}", proxy.address)).await;
    let position = catalogue(&tenant).await;
    settled(&tenant, &position).await;
    let first = search(&tenant, "q=thing&limit=10").await;
    assert_eq!(first.header("x-twh-search"), "elasticsearch");
    let next = format!("q=thing&limit=10&cursor={}", first.body["next_cursor"].as_str().unwrap());
    for silent in [false, true] {
        if silent {
            proxy.go_silent();
        } else {
            proxy.cut();
            proxy.go_silent();
        }
        let begun = std::time::Instant::now();
        let answer = search(&tenant, "q=S007").await;
        assert_eq!((answer.status.as_u16(), answer.header("x-twh-search")), (200, "postgres-fallback"));
        assert_eq!(answer.body["data"][0]["item"]["sku"], "S007");
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        // At once from then on; a page of the engine's waits for it, and one of PostgreSQL's goes on.
        let begun = std::time::Instant::now();
        let page = search(&tenant, "q=thing&limit=10").await;
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        assert_eq!(search(&tenant, &next).await.code(), "SERVICE_UNAVAILABLE");
        let after = format!("q=thing&limit=10&cursor={}", page.body["next_cursor"].as_str().unwrap());
        assert_eq!(search(&tenant, &after).await.body["data"].as_array().unwrap().len(), 10);
        // What is written meanwhile is found, and once it is back the engine has it too.
        let name = if silent { "silently" } else { "cutly" };
        let written = tenant
            .done(
                "/v1/adjustments",
                json!({ "location_code": "NORTH", "reason": name, "lines": [{ "sku": "S001", "quantity": "1" }] }),
            )
            .await
            .unwrap();
        proxy.heal();
        settled(&tenant, written.header("x-twh-position")).await;
        let mut page = search(&tenant, &next).await;
        for _ in 0..100 {
            if page.code() != "SERVICE_UNAVAILABLE" {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            page = search(&tenant, &next).await;
        }
        assert_eq!(page.body["data"].as_array().unwrap_or_else(|| panic!("{}", page.body)).len(), 10);
    }
}

/// Searches in the engine's place take no more of the database than they may: it has the ledger to keep.
#[tokio::test(flavor = "multi_thread")]
async fn of_searches_that_postgresql_is_to_answer_for_the_engine_those_that_are_too_many_are_turned_away() {
    let target = search_engine().trim_start_matches("http://").to_owned();
    let proxy = Proxy::start(&target).await.unwrap();
    let (world, tenant) = world(&format!("http://{}", proxy.address)).await;
    let position = catalogue(&tenant).await;
    settled(&tenant, &position).await;
    proxy.cut();
    proxy.go_silent();
    // One that fails leaves the next to try; after three in a row the engine is left alone.
    for _ in 0..3 {
        assert_eq!(search(&tenant, "q=S007").await.header("x-twh-search"), "postgres-fallback");
    }
    let pool = world.pool().await.unwrap();
    let mut slow = pool.begin().await.unwrap();
    sqlx::query("lock table items in access exclusive mode").execute(&mut *slow).await.unwrap();
    let mut searches = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let tenant = tenant.clone();
        searches.spawn(async move { search(&tenant, "q=S007").await });
    }
    let mut slow = Some(slow);
    let (mut answered, mut turned_away) = (0, 0);
    while let Some(answer) = searches.join_next().await {
        let answer = answer.unwrap();
        if answer.status == 200 {
            assert_eq!(answer.header("x-twh-search"), "postgres-fallback");
            answered += 1;
            continue;
        }
        assert_eq!((answer.code(), answer.header("retry-after")), ("SERVICE_UNAVAILABLE", "2"), "{}", answer.body);
        assert!(answer.body["message"].as_str().unwrap().contains("in its place"), "{}", answer.body);
        turned_away += 1;
        if turned_away == 6
            && let Some(slow) = slow.take()
        {
            slow.rollback().await.unwrap();
        }
    }
    assert_eq!((answered, turned_away), (4, 6));
}

/// Changes (or searches) that make a difference that would be seen.
const CHANGES: usize = 20;

/// Between two of them: others have work to do as well.
const PAUSE: Duration = Duration::from_millis(20);

/// Whoever writes late or again does no harm: the engine itself refuses an older document over a newer.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_document_is_refused_over_a_newer_one() {
    use twh_domain::id::{ItemId, TenantId};
    use twh_sinks::search::elastic::{Elastic, IndexedItem, Written};
    let elastic = Elastic::new(&search_engine()).unwrap();
    let (tenant, id) = (TenantId(uuid::Uuid::new_v4()), ItemId(uuid::Uuid::new_v4()));
    let index = format!("twh-test-{}", tenant.0.simple());
    elastic.create(&index).await.unwrap();
    let written = async |sequence: i64, sku: &str| {
        let mut item = IndexedItem::new(tenant, id);
        (item.sequence, item.sku) = (sequence, sku.to_owned());
        elastic.write(&index, &[item], false).await.unwrap()
    };
    assert_eq!(written(7, "NEW").await, Written { written: 1, outdated: 0 });
    assert_eq!(written(6, "OLD").await, Written { written: 0, outdated: 1 });
    assert_eq!(written(7, "NEW").await, Written { written: 1, outdated: 0 }, "the same again");
    let stands = elastic.items(&index, &[(tenant, id)]).await.unwrap();
    assert_eq!((stands[&id].sku.as_str(), stands[&id].sequence), ("NEW", 7));
    elastic.delete(&index).await.unwrap();
}

/// A rebuild that was stopped goes on where it was; one whose index is gone begins again, rather than serve what is left.
#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_that_was_stopped_goes_on_and_one_that_lost_its_index_begins_again() {
    use twh_sinks::search::elastic::Elastic;
    let (world, tenant) = world(&search_engine()).await;
    let position = catalogue(&tenant).await;
    settled(&tenant, &position).await;
    let elastic = Elastic::new(&search_engine()).unwrap();
    let pool = world.pool().await.unwrap();
    for is_lost in [false, true] {
        let (number, name) = world.kill_rebuild("search").await.unwrap();
        if is_lost {
            elastic.delete(&name).await.unwrap();
        }
        let rebuilt = world.command(&["rebuild", "search"]).unwrap().output().await.unwrap();
        assert!(rebuilt.status.success(), "{}", String::from_utf8_lossy(&rebuilt.stderr));
        let live = indexes(&world).await;
        assert_eq!(live.len(), 1, "{live:?}");
        let sql = "select number from projection_builds where projection = 'search'";
        let answers: i64 = twh_sinks::postgres::sqlx::query_scalar(sql).fetch_one(&pool).await.unwrap();
        assert_eq!(answers == number, !is_lost, "build {answers} answers, after {number}");
        agrees(&tenant, &live[0].0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_is_built_anew_without_a_gap_while_writes_go_on() {
    let (world, tenant) = world(&search_engine()).await;
    let position = catalogue(&tenant).await;
    settled(&tenant, &position).await;
    let (stop, searches, changes) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let fallbacks = Arc::new(AtomicUsize::new(0));
    let writing = tokio::spawn({
        let (tenant, stop, changes) = (tenant.with(&tenant.key), Arc::clone(&stop), Arc::clone(&changes));
        async move {
            while !stop.load(Ordering::Relaxed) {
                change(&tenant, changes.fetch_add(1, Ordering::Relaxed)).await;
                tokio::time::sleep(PAUSE).await;
            }
        }
    });
    let searching = tokio::spawn({
        let (tenant, stop, searches) = (tenant.with(&tenant.key), Arc::clone(&stop), Arc::clone(&searches));
        let fallbacks = Arc::clone(&fallbacks);
        async move {
            while !stop.load(Ordering::Relaxed) {
                let answer = search(&tenant, "q=thing&limit=100").await;
                assert_eq!((answer.status.as_u16(), answer.body["total"]["count"].as_u64()), (200, Some(ITEMS as u64)));
                // An engine that is slow for once is no gap: PostgreSQL answers.
                let by_engine = answer.header("x-twh-search") == "elasticsearch";
                (if by_engine { &searches } else { &fallbacks }).fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(PAUSE).await;
            }
        }
    });
    for _ in 0..2 {
        let rebuilt = world.command(&["rebuild", "search"]).unwrap().output().await.unwrap();
        assert!(rebuilt.status.success(), "{}", String::from_utf8_lossy(&rebuilt.stderr));
    }
    enough(&searches, CHANGES).await;
    enough(&changes, CHANGES).await;
    stop.store(true, Ordering::Relaxed);
    writing.await.unwrap();
    searching.await.unwrap();
    let (searches, fallbacks) = (searches.load(Ordering::Relaxed), fallbacks.load(Ordering::Relaxed));
    assert!(fallbacks < searches, "{fallbacks} of {searches} searches were not answered by the engine");
    let last = last_change(&tenant).await;
    settled(&tenant, &last).await;
    let live = indexes(&world).await;
    assert_eq!(live.len(), 1, "those before are deleted: {live:?}");
    agrees(&tenant, &live[0].0).await;
    // At rest the live one and one that is built anew agree document by document, versions too.
    let rebuilt = world.command(&["rebuild", "search", "--keep"]).unwrap().output().await.unwrap();
    assert!(rebuilt.status.success(), "{}", String::from_utf8_lossy(&rebuilt.stderr));
    let both = indexes(&world).await;
    assert_eq!(both.iter().map(|one| one.1.as_str()).collect::<Vec<_>>(), ["retired", "serving"], "{both:?}");
    let (alias, _) = both[1].0.rsplit_once('-').unwrap();
    assert_eq!(meant(alias).await, [both[1].0.as_str()]);
    let (old, new) = (documents(&both[0].0).await, documents(&both[1].0).await);
    assert_eq!((old.len(), &old), (ITEMS, &new));
}

#[tokio::test(flavor = "multi_thread")]
async fn crashes_of_those_who_write_to_it_leave_no_difference() {
    let (mut world, tenant) = world(&search_engine()).await;
    catalogue(&tenant).await;
    let (stop, changes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let writing = tokio::spawn({
        let (tenant, stop, changes) = (tenant.with(&tenant.key), Arc::clone(&stop), Arc::clone(&changes));
        async move {
            while !stop.load(Ordering::Relaxed) {
                change(&tenant, changes.fetch_add(1, Ordering::Relaxed)).await;
                tokio::time::sleep(PAUSE).await;
            }
        }
    });
    for _ in 0..3 {
        enough(&changes, changes.load(Ordering::Relaxed) + CHANGES).await;
        world.kill_server().await.unwrap();
        world.start_server().await.unwrap();
    }
    enough(&changes, changes.load(Ordering::Relaxed) + CHANGES).await;
    stop.store(true, Ordering::Relaxed);
    writing.await.unwrap();
    let last = last_change(&tenant).await;
    settled(&tenant, &last).await;
    agrees(&tenant, &indexes(&world).await[0].0).await;
}
