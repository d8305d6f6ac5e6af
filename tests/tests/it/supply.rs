//! Supply: what there is of items, what comes and what goes, is what the ledger says, over crashes and while it is made anew; and
//! an item that comes down to its reorder point is told of once.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use twh_sinks::postgres::sqlx;
use twh_tests::{Answer, Shared, Tenant, World, enough};

const ITEMS: usize = 20;

async fn world() -> (World, Tenant) {
    let world = World::start_with(&[("TWH_RATE_LIMITS", "off")]).await.unwrap();
    let tenant = world.tenant().await.unwrap();
    locations(&tenant).await;
    (world, tenant)
}

async fn server() -> (Shared, Tenant) {
    let server = Shared::server().await.unwrap();
    let tenant = server.tenant().await.unwrap();
    locations(&tenant).await;
    (server, tenant)
}

async fn locations(tenant: &Tenant) {
    for code in ["NORTH", "SOUTH"] {
        tenant.done("/v1/locations", json!({ "code": code })).await.unwrap();
    }
}

async fn item(tenant: &Tenant, sku: &str, reorder_point: &str) -> String {
    let body = json!({ "sku": sku, "name": format!("The {sku}"), "reorder_point": reorder_point });
    tenant.done("/v1/items", body).await.unwrap().id().to_owned()
}

async fn adjust(tenant: &Tenant, sku: &str, location: &str, quantity: &str) -> String {
    let lines = json!([{ "sku": sku, "quantity": quantity }]);
    let body = json!({ "location_code": location, "reason": "found", "lines": lines });
    tenant.done("/v1/adjustments", body).await.unwrap().header("x-twh-position").to_owned()
}

/// What a read model says once it reflects a position, and then the position that it says it reflects is no earlier.
async fn at(tenant: &Tenant, path: &str, position: &str) -> Value {
    for _ in 0..30 {
        let headers = [("x-twh-at-least", position)];
        let answer = tenant.send(reqwest::Method::GET, path, &headers, None).await.unwrap();
        if answer.status == 200 {
            assert!(offset(answer.header("x-twh-reflects")) >= offset(position));
            return answer.body;
        }
        assert_eq!(answer.code(), "POSITION_NOT_REACHED", "{}", answer.body);
    }
    panic!("{path} does not reflect {position}");
}

fn offset(position: &str) -> i64 {
    position.split_once('-').map_or(-1, |(_, offset)| offset.parse().unwrap())
}

fn position(answer: &Answer) -> String {
    answer.header("x-twh-position").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_there_is_comes_and_goes_follows_every_document() {
    let (world, tenant) = world().await;
    let cup = item(&tenant, "CUP", "10").await;
    item(&tenant, "POT", "1").await;
    let supplier =
        tenant.done("/v1/suppliers", json!({ "code": "ACME", "name": "Acme" })).await.unwrap().id().to_owned();
    let expect = |body: &Value, expected: &Value| {
        for (name, value) in expected.as_object().unwrap() {
            assert_eq!(&body[name], value, "{name} in {body}");
        }
    };
    let supply = format!("/v1/items/{cup}/supply");
    let order = tenant
        .done(
            "/v1/purchase_orders",
            json!({ "supplier_id": supplier, "location_code": "NORTH", "lines": [{ "sku": "CUP", "quantity": "8" }, { "sku": "POT", "quantity": "2" }] }),
        )
        .await
        .unwrap();
    let empty = at(&tenant, &supply, &position(&order)).await;
    let nothing =
        json!({ "qty_on_hand": "0", "qty_incoming": "0", "suggested_order": "10", "sku": "CUP", "name": "The CUP" });
    expect(&empty, &nothing);
    assert!(empty["low_since"].is_string(), "it is low from its beginning");
    let path = format!("/v1/purchase_orders/{}", order.id());
    let ordered = tenant.done(&format!("{path}/order"), json!({})).await.unwrap();
    expect(&at(&tenant, &supply, &position(&ordered)).await, &json!({ "qty_incoming": "8", "suggested_order": "2" }));
    let mut last = position(&ordered);
    // Nothing has come: nothing is measured.
    let lead_times = format!("/v1/suppliers/{supplier}/lead-times");
    let measured = at(&tenant, &lead_times, &last).await;
    expect(&measured, &json!({ "lines": 0, "lines_outstanding": 2, "days": null }));
    for quantity in ["5", "3"] {
        let received = json!({ "lines": [{ "line": 1, "quantity": quantity }] });
        last = position(&tenant.done(&format!("{path}/receive"), received).await.unwrap());
    }
    expect(
        &at(&tenant, &supply, &last).await,
        &json!({ "qty_on_hand": "8", "available": "8", "qty_incoming": "0", "suggested_order": "2" }),
    );
    let earlier = "update supply_receipts set ordered_at = ordered_at - interval '2 days 6 hours'";
    sqlx::query(earlier).execute(&world.pool().await.unwrap()).await.unwrap();
    let measured = at(&tenant, &lead_times, &last).await;
    expect(&measured, &json!({ "lines": 1, "lines_outstanding": 1 }));
    let days = json!({ "shortest": 2.25, "median": 2.25, "p90": 2.25, "longest": 2.25, "mean": 2.25 });
    assert_eq!(measured["days"], days);
    let of_cup = at(&tenant, &format!("{lead_times}?item_id={cup}"), &last).await;
    expect(&of_cup, &json!({ "lines": 1, "lines_outstanding": 0, "item_id": cup }));

    // A drafted order is wanted and not reserved; allocated it is reserved; shipped it is gone.
    let sale = json!({ "location_code": "NORTH", "lines": [{ "sku": "CUP", "quantity": "6" }] });
    let sale = tenant.done("/v1/sales_orders", sale).await.unwrap();
    expect(
        &at(&tenant, &supply, &position(&sale)).await,
        &json!({ "qty_outgoing": "6", "qty_backordered": "6", "available": "8", "suggested_order": "8" }),
    );
    let backorders = at(&tenant, "/v1/stock/open?backordered=true", &position(&sale)).await;
    let lines = backorders["data"].as_array().unwrap();
    assert_eq!(lines.len(), 1, "{backorders}");
    expect(
        &lines[0],
        &json!({ "document_type": "sales_order", "document_id": sale.id(), "sku": "CUP", "quantity": "6", "qty_backordered": "6", "location_code": "NORTH" }),
    );
    let path = format!("/v1/sales_orders/{}", sale.id());
    let allocated = tenant.done(&format!("{path}/allocate"), json!({})).await.unwrap();
    expect(
        &at(&tenant, &supply, &position(&allocated)).await,
        &json!({ "qty_outgoing": "6", "qty_backordered": "0", "qty_reserved": "6", "available": "2", "suggested_order": "8" }),
    );
    let some = json!({ "lines": [{ "line": 1, "quantity": "4" }] });
    let shipped = tenant.done(&format!("{path}/ship"), some).await.unwrap();
    expect(
        &at(&tenant, &supply, &position(&shipped)).await,
        &json!({ "qty_outgoing": "2", "qty_on_hand": "4", "qty_reserved": "2", "available": "2" }),
    );
    let transfer = json!({ "from_location_code": "NORTH", "to_location_code": "SOUTH", "lines": [{ "sku": "CUP", "quantity": "2" }] });
    let transfer = tenant.done("/v1/transfers", transfer).await.unwrap();
    let path = format!("/v1/transfers/{}", transfer.id());
    let sent = tenant.done(&format!("{path}/dispatch"), json!({})).await.unwrap();
    expect(
        &at(&tenant, &supply, &position(&sent)).await,
        &json!({ "qty_in_transit": "2", "qty_on_hand": "2", "available": "0", "suggested_order": "8" }),
    );
    let open = at(&tenant, "/v1/stock/open?limit=1", &position(&sent)).await;
    let mut kinds = vec![open["data"][0]["document_type"].as_str().unwrap().to_owned()];
    let mut cursor = open["next_cursor"].as_str().map(str::to_owned);
    while let Some(next) = cursor {
        let page = tenant.get(&format!("/v1/stock/open?limit=1&cursor={next}")).await.unwrap().body;
        kinds.push(page["data"][0]["document_type"].as_str().unwrap().to_owned());
        cursor = page["next_cursor"].as_str().map(str::to_owned);
    }
    assert_eq!(kinds, ["purchase_order", "sales_order", "transfer"], "POT is still to come");
    let arrived = tenant.done(&format!("{path}/receive"), json!({})).await.unwrap();
    let low = at(&tenant, "/v1/stock/low", &position(&arrived)).await;
    let skus: Vec<_> = low["data"].as_array().unwrap().iter().map(|row| row["sku"].as_str().unwrap()).collect();
    assert_eq!(skus, ["CUP", "POT"]);
    expect(
        &low["data"][0],
        &json!({ "qty_in_transit": "0", "qty_on_hand": "4", "available": "2", "suggested_order": "8" }),
    );
    // What is closed is not awaited any more.
    let path = format!("/v1/purchase_orders/{}/close", order.id());
    let headers = [("if-match", "*"), ("idempotency-key", "close"), ("content-type", "application/json")];
    let closed = tenant.send(reqwest::Method::POST, &path, &headers, Some(b"{}".to_vec())).await.unwrap();
    assert_eq!(closed.status, 200, "{}", closed.body);
    expect(&at(&tenant, &lead_times, &position(&closed)).await, &json!({ "lines": 1, "lines_outstanding": 0 }));
    let fresh = tenant.get("/v1/freshness").await.unwrap().body;
    let model = fresh["read_models"].as_array().unwrap().iter().find(|model| model["name"] == "supply").unwrap();
    assert_eq!((&model["events_behind"], &model["reflects"]), (&json!(0), &fresh["ledger"]), "{fresh}");
    // Every read says what it reflects, of a read model or not.
    for path in
        ["/v1/items", "/v1/stock", "/v1/movements", "/v1/stock?as_of=2026-01-01T00:00:00Z", &format!("/v1/items/{cup}")]
    {
        let reflects = tenant.get(path).await.unwrap().header("x-twh-reflects").to_owned();
        assert!(offset(&reflects) >= offset(&position(&closed)), "{path}: {reflects:?}");
    }
    no_lag(&tenant.at(&world.ops_url)).await;
    // What is for those who run it is not told at the API's address.
    for path in ["/lag", "/metrics"] {
        assert_eq!(tenant.get(path).await.unwrap().status, 404, "{path}");
    }
    for url in [&world.url, &world.ops_url] {
        assert_eq!(tenant.at(url).get("/health").await.unwrap().status, 200);
    }
    for (path, code) in [
        ("/v1/stock/open?type=count", "INVALID_QUERY"),
        (&format!("/v1/items/{cup}/stock/history?from=yesterday"), "INVALID_QUERY"),
        (&format!("/v1/items/{cup}/stock/history?from=2026-02-01&to=2026-01-01"), "INVALID_QUERY"),
        (&format!("/v1/items/{cup}/stock/history?from=2024-01-01&to=2026-01-01"), "INVALID_QUERY"),
        (&format!("/v1/items/{supplier}/supply"), "NOT_FOUND"),
        (&format!("/v1/suppliers/{cup}/lead-times"), "NOT_FOUND"),
    ] {
        assert_eq!(tenant.get(path).await.unwrap().code(), code, "{path}");
    }
}

/// Whoever runs it is told how far each group is, once all is done: by an endpoint and by a metric.
async fn no_lag(tenant: &Tenant) {
    for _ in 0..300 {
        let said = tenant.get("/lag").await.unwrap().body;
        let groups = said["groups"].as_array().cloned().unwrap_or_default();
        let of = |name: &str| groups.iter().filter(|one| one["group"].as_str().unwrap().contains(name)).count();
        let behind = groups.iter().map(|one| one["lag"].as_i64().unwrap()).sum::<i64>();
        if of("ledger") > 0 && of("projections-supply/") > 0 && of("webhooks") > 0 && behind == 0 {
            let metrics = tenant.raw("/metrics").await.unwrap().text().await.unwrap();
            assert!(metrics.contains(r#"twh_consumer_lag{group="ledger",partition="0"} 0"#), "{metrics}");
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    panic!("the groups do not catch up, or are not told of: {}", tenant.get("/lag").await.unwrap().body);
}

/// The events of a command come in the order of what it did, also where several are about one document.
#[tokio::test(flavor = "multi_thread")]
async fn one_command_that_does_several_things_leaves_what_the_last_of_them_left() {
    let (_server, tenant) = server().await;
    let cup = item(&tenant, "CUP", "0").await;
    let lines = json!([{ "sku": "CUP", "quantity": "5" }]);
    let order = json!({ "location_code": "NORTH", "lines": lines });
    let order = tenant.done("/v1/purchase_orders", order).await.unwrap().id().to_owned();
    tenant.done(&format!("/v1/purchase_orders/{order}/order"), json!({})).await.unwrap();
    let received = json!({ "occurred_at": "2026-03-01T12:00:00Z" });
    let lost = json!({ "location_code": "NORTH", "reason": "lost", "lines": [{ "sku": "CUP", "quantity": "-2" }],
        "occurred_at": "2026-03-02T12:00:00Z" });
    let commands = json!([
        { "type": "purchase_order.receive", "id": order, "body": received },
        { "type": "adjustment.create", "body": lost },
        { "type": "purchase_order.close", "id": order, "if_match": "*", "body": {} },
    ]);
    let body = json!({ "atomic": true, "commands": commands });
    let done = position(&tenant.done("/v1/commands:batch", body).await.unwrap());
    let supply = at(&tenant, &format!("/v1/items/{cup}/supply"), &done).await;
    assert_eq!((&supply["qty_on_hand"], &supply["qty_incoming"]), (&json!("3"), &json!("0")), "{supply}");
    let path = format!("/v1/items/{cup}/stock/history?from=2026-03-01&to=2026-03-03");
    let days = json!([
        { "day": "2026-03-01", "qty_in": "5", "qty_out": "0", "qty_on_hand": "5" },
        { "day": "2026-03-02", "qty_in": "0", "qty_out": "2", "qty_on_hand": "3" },
    ]);
    assert_eq!(at(&tenant, &path, &done).await["locations"][0]["days"], days);
}

/// The days of an item's history end with what the ledger says was there at each day's end.
#[tokio::test(flavor = "multi_thread")]
async fn a_history_says_what_was_there_at_the_end_of_each_day() {
    let (_server, tenant) = server().await;
    let cup = item(&tenant, "CUP", "0").await;
    let mut last = String::new();
    // Not in the order in which it happened.
    for (day, location, quantity) in [
        (3, "NORTH", "10"),
        (1, "NORTH", "5"),
        (20, "SOUTH", "7"),
        (3, "NORTH", "-4"),
        (18, "NORTH", "-2"),
        (25, "SOUTH", "-1"),
    ] {
        let lines = json!([{ "sku": "CUP", "quantity": quantity }]);
        let occurred_at = format!("2026-03-{day:02}T23:30:00Z");
        let body = json!({ "location_code": location, "reason": "late", "lines": lines, "occurred_at": occurred_at });
        last = position(&tenant.done("/v1/adjustments", body).await.unwrap());
    }
    let path = format!("/v1/items/{cup}/stock/history?from=2026-03-02&to=2026-03-20");
    let history = at(&tenant, &path, &last).await;
    let locations = history["locations"].as_array().unwrap();
    let of = |code: &str| locations.iter().find(|one| one["location_code"] == code).unwrap();
    assert_eq!((&of("NORTH")["opening"], &of("NORTH")["closing"]), (&json!("5"), &json!("9")));
    let days = json!([
        { "day": "2026-03-03", "qty_in": "10", "qty_out": "4", "qty_on_hand": "11" },
        { "day": "2026-03-18", "qty_in": "0", "qty_out": "2", "qty_on_hand": "9" },
    ]);
    assert_eq!(of("NORTH")["days"], days);
    for location in locations {
        for day in location["days"].as_array().unwrap() {
            let then = format!("{}T23:59:59Z", day["day"].as_str().unwrap());
            let code = location["location_code"].as_str().unwrap();
            let path = format!("/v1/stock?sku=CUP&location_code={code}&as_of={then}&as_of_basis=occurred");
            let said = tenant.get(&path).await.unwrap().body;
            assert_eq!(said["data"][0]["qty_on_hand"], day["qty_on_hand"], "{code} {then}");
        }
    }
    // Where nothing came or went in between there is what was there before.
    let path = format!("/v1/items/{cup}/stock/history?from=2026-03-21&to=2026-03-24");
    let quiet = at(&tenant, &path, &last).await;
    for location in quiet["locations"].as_array().unwrap() {
        assert_eq!((&location["opening"], &location["days"]), (&location["closing"], &json!([])));
    }
    assert_eq!(quiet["locations"].as_array().unwrap().len(), 2);
}

/// The SKUs of which it was told that they are low, in order; once the event of the command at `last` can be read.
async fn told(tenant: &Tenant, last: &str) -> Vec<(String, String)> {
    let (mut after, mut low, mut seen, begun) = (0_i64, Vec::new(), false, std::time::Instant::now());
    loop {
        let page = tenant.get(&format!("/v1/events?after={after}&limit=1000")).await.unwrap().body;
        let events = page["data"].as_array().unwrap_or_else(|| panic!("{page}"));
        for event in events {
            let sequence = event["sequence"].as_i64().unwrap();
            assert!(after == 0 || sequence == after + 1, "{sequence} after {after}");
            after = sequence;
            seen |= event["position"] == last;
            if event["type"] == "stock.low" {
                let text = |name: &str| event["data"][name].as_str().unwrap().to_owned();
                low.push((text("sku"), text("available")));
            }
        }
        if seen && events.is_empty() {
            return low;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "the event of {last} does not come");
    }
}

async fn rebuild(world: &World, more: &[&str]) {
    let arguments = [&["rebuild", "supply"], more].concat();
    let rebuilt = world.command(&arguments).unwrap().output().await.unwrap();
    assert!(rebuilt.status.success(), "{}", String::from_utf8_lossy(&rebuilt.stderr));
}

/// Makes it anew, while it is read from all the time: there is no gap.
async fn rebuild_while_read(world: &World, tenant: &Tenant, path: &str) {
    let mut reads = 0;
    let reading = async {
        loop {
            let answer = tenant.get(path).await.unwrap();
            assert_eq!(answer.status, 200, "{}", answer.body);
            reads += 1;
        }
    };
    tokio::select! {
        () = rebuild(world, &[]) => {}
        () = reading => {}
    }
    assert!(reads > 20, "{reads} reads are too few for a test");
}

/// Up and down over the point again and again, killed and made anew meanwhile: one event a way down.
#[tokio::test(flavor = "multi_thread")]
async fn an_item_that_comes_down_to_its_reorder_point_is_told_of_once() {
    const WAYS: usize = 12;
    let (mut world, tenant) = world().await;
    assert!(tenant.post("/v1/webhooks/listen", json!({})).await.unwrap().status.is_success());
    for n in 0..3 {
        item(&tenant, &format!("S{n}"), "5").await;
    }
    let mut last = String::new();
    for way in 0..WAYS {
        let sku = format!("S{}", way % 3);
        // What one location has counts as little as one movement: at 5 over both it has come down, and goes on.
        for (location, quantity) in [
            ("NORTH", "9"),
            ("SOUTH", "3"),
            ("SOUTH", "-3"),
            ("NORTH", "-3"),
            ("NORTH", "-1"),
            ("NORTH", "-1"),
            ("SOUTH", "1"),
            ("SOUTH", "-1"),
            ("NORTH", "-4"),
        ] {
            last = adjust(&tenant, &sku, location, quantity).await;
        }
        if way % 4 == 1 {
            world.kill_server().await.unwrap();
            world.start_server().await.unwrap();
        }
        if way == 6 {
            rebuild(&world, &[]).await;
        }
    }
    at(&tenant, "/v1/stock/low", &last).await;
    rebuild(&world, &[]).await;
    // Once the model reflects what was done, all is asked for; what comes after that on the same partition is decided after it.
    item(&tenant, "MARK", "0").await;
    let marked = adjust(&tenant, "MARK", "NORTH", "1").await;
    at(&tenant, "/v1/stock/low", &marked).await;
    let last = adjust(&tenant, "MARK", "NORTH", "1").await;
    let low = told(&tenant, &last).await;
    assert_eq!(low.len(), WAYS, "{low:?}");
    for sku in ["S0", "S1", "S2"] {
        assert_eq!(low.iter().filter(|one| one.0 == sku).count(), WAYS / 3, "{low:?}");
    }
    assert!(low.iter().all(|one| one.1 == "5"), "{low:?}");
    world.is_sound().await.unwrap();
    world.replays().await.unwrap();
}

/// All rows of a build, by table.
async fn rows(world: &World, build: i64) -> BTreeMap<String, Vec<String>> {
    let pool = world.pool().await.unwrap();
    let mut all = BTreeMap::new();
    for table in ["supply_items", "supply_days", "supply_open_lines", "supply_receipts"] {
        let sql = format!("select (to_jsonb(t) - 'build')::text from {table} t where build = $1 order by 1");
        all.insert(table.to_owned(), sqlx::query_scalar(&sql).bind(build).fetch_all(&pool).await.unwrap());
    }
    all
}

async fn builds(world: &World) -> Vec<(i64, String)> {
    let pool = world.pool().await.unwrap();
    let sql = "select number, state from projection_builds where projection = 'supply' order by number";
    sqlx::query_as(sql).fetch_all(&pool).await.unwrap()
}

/// What there is of an item is the sum of the ledger's levels, and what came and went at a location is what is there.
async fn agrees(world: &World) {
    let pool = world.pool().await.unwrap();
    let count = async |sql: &str| -> i64 { sqlx::query_scalar(sql).fetch_one(&pool).await.unwrap() };
    let sums = "select count(*) from supply_items i join projection_builds b on b.number = i.build and b.state = 'serving'
        cross join lateral (
            select coalesce(sum(s.on_hand_micro), 0) as on_hand, coalesce(sum(s.reserved_micro), 0) as reserved from stock_levels s
            where s.tenant_id = i.tenant_id and s.item_id = i.item_id) l
        where i.on_hand_micro <> l.on_hand or i.reserved_micro <> l.reserved";
    let days = "with held as (
            select d.tenant_id, d.item_id, d.location_id, sum(d.in_micro - d.out_micro) as on_hand_micro
            from supply_days d join projection_builds b on b.number = d.build and b.state = 'serving' group by 1, 2, 3)
        select count(*) from stock_levels s full join held h using (tenant_id, item_id, location_id)
        where coalesce(s.on_hand_micro, 0) <> coalesce(h.on_hand_micro, 0)";
    assert_eq!((count(sums).await, count(days).await), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn supply_is_rebuilt_while_writes_go_on_and_processes_crash() {
    let (mut world, tenant) = world().await;
    let supplier = json!({ "code": "ACME", "name": "Acme" });
    let supplier = tenant.done("/v1/suppliers", supplier).await.unwrap().id().to_owned();
    for n in 0..ITEMS {
        item(&tenant, &format!("S{n:02}"), "3").await;
    }
    let (stop, changes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let writing = tokio::spawn({
        let (tenant, stop, changes) = (tenant.with(&tenant.key), Arc::clone(&stop), Arc::clone(&changes));
        async move {
            while !stop.load(Ordering::Relaxed) {
                let number = changes.load(Ordering::Relaxed);
                let sku = format!("S{:02}", number * 7 % ITEMS);
                let (path, body) = match number % 3 {
                    0 => (
                        "/v1/adjustments",
                        json!({ "location_code": "NORTH", "reason": "found", "lines": [{ "sku": sku, "quantity": "2" }] }),
                    ),
                    1 => (
                        "/v1/sales_orders",
                        json!({ "location_code": "NORTH", "lines": [{ "sku": sku, "quantity": "1" }, { "sku": "S00", "quantity": "2" }] }),
                    ),
                    _ => (
                        "/v1/purchase_orders",
                        json!({ "supplier_id": supplier, "location_code": "SOUTH", "lines": [{ "sku": sku, "quantity": "4" }] }),
                    ),
                };
                let key = format!("c{number}");
                let made = match tenant.post_as(path, &key, body).await {
                    Ok(made) if made.status == 201 => made,
                    Ok(refused) if refused.status.is_client_error() => panic!("{}", refused.body),
                    // The server is away.
                    _ => {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                };
                if number % 3 == 2 {
                    let ordered = format!("{path}/{}/order", made.id());
                    let _ = tenant.post_as(&ordered, &format!("{key}o"), json!({})).await;
                    let _ = tenant
                        .post_as(
                            &format!("{path}/{}/receive", made.id()),
                            &format!("{key}r"),
                            json!({ "lines": [{ "line": 1, "quantity": "1" }] }),
                        )
                        .await;
                }
                changes.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    });
    let supply = format!("/v1/items/{}/supply", item(&tenant, "READ", "3").await);
    at(&tenant, &supply, &adjust(&tenant, "READ", "NORTH", "1").await).await;
    rebuild_while_read(&world, &tenant, &supply).await;
    for _ in 0..3 {
        enough(&changes, changes.load(Ordering::Relaxed) + 20).await;
        world.kill_server().await.unwrap();
        world.start_server().await.unwrap();
    }
    let (stopped, _) = world.kill_rebuild("supply").await.unwrap();
    rebuild_while_read(&world, &tenant, &supply).await;
    assert_eq!(builds(&world).await, [(stopped, "serving".to_owned())], "it goes on where it was");
    enough(&changes, changes.load(Ordering::Relaxed) + 20).await;
    stop.store(true, Ordering::Relaxed);
    writing.await.unwrap();
    let last = adjust(&tenant, "S00", "SOUTH", "1").await;
    at(&tenant, "/v1/stock/low", &last).await;
    assert_eq!(builds(&world).await.len(), 1, "those before are deleted");
    agrees(&world).await;
    // At rest the live one and one that is made anew agree row by row.
    rebuild(&world, &["--keep"]).await;
    let both = builds(&world).await;
    assert_eq!(both.iter().map(|one| one.1.as_str()).collect::<Vec<_>>(), ["retired", "serving"]);
    let (old, new) = (rows(&world, both[0].0).await, rows(&world, both[1].0).await);
    assert!(old.values().all(|rows| rows.len() > 10), "{old:?}");
    assert_eq!(old, new);
}

/// How often the ledger was asked to tell that an item is low, repeats included.
async fn asked_to_tell(world: &World) -> i64 {
    let sql = "select count(*) from command_outcomes where fingerprint = 'report_low'";
    sqlx::query_scalar(sql).fetch_one(&world.pool().await.unwrap()).await.unwrap()
}

/// Waits until something holds.
async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let begun = std::time::Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Two tenants on one partition, of which one has more than a bigint holds of everything that is added up.
#[tokio::test(flavor = "multi_thread")]
async fn the_largest_quantities_are_added_up_exactly_and_hold_up_nobody() {
    const MOST: &str = "999999999999";
    const TIMES: usize = 12;
    let world = World::start_with(&[("TWH_RATE_LIMITS", "off"), ("TWH_TOPIC_PARTITIONS", "1")]).await.unwrap();
    let (large, other) = (world.tenant().await.unwrap(), world.tenant().await.unwrap());
    let adjustment = |location: &str, quantity: &str| {
        let lines = json!([{ "sku": "CUP", "quantity": quantity }]);
        json!({ "type": "adjustment.create", "body": { "location_code": location, "reason": "found", "lines": lines } })
    };
    let batch = |commands: Vec<Value>| json!({ "atomic": true, "commands": commands });
    for tenant in [&large, &other] {
        locations(tenant).await;
    }
    let cup = item(&large, "CUP", "1").await;
    for _ in 0..TIMES {
        adjust(&large, "CUP", "NORTH", MOST).await;
        adjust(&large, "CUP", "NORTH", &format!("-{MOST}")).await;
    }
    let codes: Vec<_> = (0..TIMES).map(|number| format!("L{number}")).collect();
    for code in &codes {
        large.done("/v1/locations", json!({ "code": code })).await.unwrap();
    }
    let everywhere = batch(codes.iter().map(|code| adjustment(code, MOST)).collect());
    let last = position(&large.done("/v1/commands:batch", everywhere).await.unwrap());

    let mug = item(&other, "MUG", "5").await;
    adjust(&other, "MUG", "NORTH", "9").await;
    let low_at = adjust(&other, "MUG", "NORTH", "-6").await;
    let supply = at(&other, &format!("/v1/items/{mug}/supply"), &low_at).await;
    assert_eq!((&supply["qty_on_hand"], &supply["suggested_order"]), (&json!("3"), &json!("2")));
    let low = at(&other, "/v1/stock/low", &low_at).await;
    assert_eq!((low["data"].as_array().unwrap().len(), &low["data"][0]["sku"]), (1, &json!("MUG")));

    let (all, days) = ("11999999999988", "23999999999976");
    let supply = at(&large, &format!("/v1/items/{cup}/supply"), &last).await;
    assert_eq!((&supply["qty_on_hand"], &supply["available"]), (&json!(all), &json!(all)));
    let history = at(&large, &format!("/v1/items/{cup}/stock/history"), &last).await;
    let came: i128 = history["locations"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|location| location["days"].as_array().unwrap())
        .map(|day| day["qty_in"].as_str().unwrap().parse::<i128>().unwrap())
        .sum();
    assert_eq!(came.to_string(), days);
    let stock = large.get(&format!("/v1/items/{cup}/stock")).await.unwrap().body;
    assert_eq!((&stock["qty_on_hand"], &stock["available"]), (&json!(all), &json!(all)));
    let found = large.get("/v1/items/search?sort=available").await.unwrap();
    assert_eq!(found.body["data"][0]["stock"]["available"], all, "{}", found.body);
    let then = "/v1/stock?as_of=9999-01-01T00:00:00Z&as_of_basis=occurred&location_code=L0";
    assert_eq!(large.get(then).await.unwrap().body["data"][0]["qty_on_hand"], MOST);

    // Each way down of each item is told of once, and nobody asks again.
    let told = i64::try_from(TIMES).unwrap() + 1;
    until("not all is told", async || asked_to_tell(&world).await >= told).await;
    at(&other, "/v1/stock/low", &adjust(&other, "MUG", "NORTH", "-1").await).await;
    adjust(&other, "MUG", "NORTH", "-1").await;
    assert_eq!(asked_to_tell(&world).await, told);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_written_again_and_again_is_told_of_once() {
    let (world, tenant) = world().await;
    item(&tenant, "CUP", "5").await;
    at(&tenant, "/v1/stock/low", &adjust(&tenant, "CUP", "NORTH", "9").await).await;
    let busy = "57P03";
    world.refuse_rows("supply_items", "true", busy).await.unwrap();
    let low_at = adjust(&tenant, "CUP", "NORTH", "-6").await;
    until("it is not tried again", async || world.trouble("projections-supply", "unavailable").await.unwrap() >= 3)
        .await;
    assert_eq!(asked_to_tell(&world).await, 0, "what is not written is not told");
    world.refuse_rows("supply_items", "false", busy).await.unwrap();
    at(&tenant, "/v1/stock/low", &low_at).await;
    until("it is not told", async || asked_to_tell(&world).await > 0).await;
    at(&tenant, "/v1/stock/low", &adjust(&tenant, "CUP", "NORTH", "-1").await).await;
    adjust(&tenant, "CUP", "NORTH", "-1").await;
    assert_eq!(asked_to_tell(&world).await, 1);
}
