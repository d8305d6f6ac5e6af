use super::sink::Behaviour;
use super::{item, items, patch, register, server, test, until, world};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use twh_tests::World;

fn ids(list: &[super::sink::Received]) -> BTreeSet<String> {
    list.iter().map(|one| one.header("webhook-id").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_subscriber_is_quarantined_and_comes_back_with_its_queue() {
    let (mut world, tenant, sink) = world().await;
    sink.behave("/down", Behaviour::Answers(503));
    let down = register(&tenant, &sink.url("/down"), json!({ "event_types": ["item.*"] })).await;
    register(&tenant, &sink.url("/watch"), json!({ "event_types": ["webhook.*"] })).await;
    let path = format!("/v1/webhooks/{}", down.id());
    for number in 0..6 {
        item(&tenant, &format!("A-{number}")).await;
    }
    let state = until(&tenant, &path, |body| body["state"] == "quarantined").await;
    assert_eq!(state["state_reason"], "it answers 503");
    let notice = sink.first("/watch").await;
    assert_eq!((&notice.body["type"], &notice.body["data"]["id"]), (&json!("webhook.quarantined"), &json!(down.id())));
    // A restart forgets nothing of it, and what comes meanwhile is queued too.
    world.kill_server().await.unwrap();
    world.start_server().await.unwrap();
    item(&tenant, "LATE").await;
    assert_eq!(tenant.get(&path).await.unwrap().body["state"], "quarantined");
    sink.behave("/down", Behaviour::Answers(200));
    until(&tenant, &path, |body| body["state"] == "active" && body["pending"] == 0).await;
    let got = sink.until("/down", "all events", |all| ids(all).len() == 7).await;
    let retried = got.iter().find(|one| one.header("x-twh-attempt") != "1").expect("a retry");
    assert!(
        got.iter()
            .any(|one| one.header("webhook-id") == retried.header("webhook-id") && one.header("x-twh-attempt") == "1")
    );
    sink.until("/watch", "the recovery", |all| all.iter().any(|one| one.body["type"] == "webhook.recovered")).await;
    let audit = tenant.get(&format!("/v1/audit?entity_id={}", down.id())).await.unwrap();
    let actions: Vec<_> = audit.body["data"].as_array().unwrap().iter().map(|row| row["action"].clone()).collect();
    assert_eq!(actions, ["webhook.recovered", "webhook.quarantined", "webhook.register"]);
    world.is_sound().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_given_up_is_a_dead_letter_with_every_attempt_and_can_be_replayed() {
    let (_server, tenant, sink) = server().await;
    sink.behave("/refuses", Behaviour::Answers(422));
    let made = register(&tenant, &sink.url("/refuses"), json!({})).await;
    let path = format!("/v1/webhooks/{}", made.id());
    item(&tenant, "A").await;
    let dead = until(&tenant, &format!("{path}/deliveries?state=dead_lettered"), |body| {
        body["data"].as_array().is_some_and(|list| list.len() == 1)
    })
    .await;
    let attempts = dead["data"][0]["attempts"].as_array().unwrap().clone();
    assert_eq!(attempts.len(), 9, "{dead}");
    assert!(attempts.iter().all(|one| one["status"] == 422 && one["body"] == "noted" && one["headers"].is_object()));
    sink.behave("/refuses", Behaviour::Answers(200));
    let before = sink.all("/refuses").len();
    let dry = tenant.post(&format!("{path}/replay"), json!({ "dead_letters": true, "dry_run": true })).await.unwrap();
    assert_eq!((dry.status.as_u16(), &dry.body["events"]), (202, &json!(1)), "{}", dry.body);
    assert_eq!(sink.all("/refuses").len(), before);
    let replay = tenant.post(&format!("{path}/replay"), json!({ "dead_letters": true })).await.unwrap();
    until(&tenant, replay.header("location"), |body| body["state"] == "finished" && body["queued"] == 1).await;
    let got = sink.until("/refuses", "the replay", |all| all.len() > before).await;
    assert_eq!(got.last().unwrap().header("webhook-id"), got[0].header("webhook-id"), "the id stays the event's");
    assert_eq!(got.last().unwrap().header("x-twh-replay"), replay.id());
    until(&tenant, &path, |body| body["dead_lettered"] == 0 && body["pending"] == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gone_disables_and_who_asks_for_time_gets_it() {
    let (_server, tenant, sink) = server().await;
    sink.behave("/gone", Behaviour::Answers(410));
    sink.behave("/busy", Behaviour::AsksForTime(3));
    let of_items = json!({ "event_types": ["item.*"] });
    let gone = register(&tenant, &sink.url("/gone"), of_items.clone()).await;
    register(&tenant, &sink.url("/busy"), of_items.clone()).await;
    register(&tenant, &sink.url("/other"), of_items).await;
    item(&tenant, "A").await;
    let path = format!("/v1/webhooks/{}", gone.id());
    until(&tenant, &path, |body| body["state"] == "disabled").await;
    let busy = sink.until("/busy", "a second attempt", |all| all.len() >= 2).await;
    assert!(busy[1].at - busy[0].at >= std::time::Duration::from_millis(2_900), "{:?}", busy[1].at - busy[0].at);
    // What happens meanwhile is not queued for it: who was told of it was so in the same transaction.
    item(&tenant, "B").await;
    let is = |sku: &'static str| move |got: &super::sink::Received| got.body["data"]["sku"] == sku;
    sink.until("/other", "the second item", |all| all.iter().any(is("B"))).await;
    let queued = tenant.get(&format!("{path}/deliveries")).await.unwrap();
    assert_eq!(queued.body["data"].as_array().unwrap().len(), 1, "{}", queued.body);
    // It is sent to again once that is asked for, from where it stopped.
    sink.behave("/gone", Behaviour::Answers(200));
    assert_eq!(patch(&tenant, &path, json!({ "state": "active" })).await.body["state"], "active");
    item(&tenant, "C").await;
    let again = sink.until("/gone", "the first again, and what came since", |all| {
        all.iter().filter(|got| is("A")(got)).count() >= 2 && all.iter().any(is("C"))
    });
    assert!(!again.await.iter().any(is("B")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_that_hangs_delays_no_other() {
    let (_server, tenant, sink) = server().await;
    sink.behave("/hangs", Behaviour::Hangs);
    sink.behave("/late", Behaviour::Hangs);
    let hangs = register(&tenant, &sink.url("/hangs"), json!({ "timeout_ms": 30_000, "concurrency_max": 3 })).await;
    let late = register(&tenant, &sink.url("/late"), json!({ "timeout_ms": 500 })).await;
    register(&tenant, &sink.url("/quick"), json!({ "event_types": ["item.*"] })).await;
    items(&tenant, (0..100).map(|number| format!("A-{number}"))).await;
    sink.until("/quick", "all events", |all| all.len() == 100).await;
    // All came while the first attempts at the one that hangs were still under way, and of those there are no more than allowed.
    let hanging = sink.until("/hangs", "as many as it takes at once", |all| all.len() >= 3).await;
    let deliveries = tenant.get(&format!("/v1/webhooks/{}/deliveries?limit=200", hangs.id())).await.unwrap();
    let deliveries = deliveries.body["data"].as_array().unwrap().clone();
    assert!(deliveries.len() >= 100 && deliveries.iter().all(|one| one["attempts"] == json!([])), "{deliveries:?}");
    assert_eq!(hanging.len(), 3);
    // Who takes too long is seen to have.
    let path = format!("/v1/webhooks/{}/deliveries?limit=200", late.id());
    let failed = |one: &Value| {
        one["attempts"][0]["error"] == "no answer within 500 ms" && one["attempts"][0]["status"].is_null()
    };
    until(&tenant, &path, |body| body["data"].as_array().is_some_and(|all| all.iter().any(failed))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn subscribers_that_die_together_do_not_hold_up_those_that_live() {
    let (_server, tenant, sink) = server().await;
    sink.behave("/dead", Behaviour::Answers(503));
    let mut dead = Vec::new();
    for _ in 0..20 {
        dead.push(register(&tenant, &sink.url("/dead"), json!({})).await.id().to_owned());
    }
    register(&tenant, &sink.url("/lives"), json!({})).await;
    items(&tenant, (0..6).map(|number| format!("A-{number}"))).await;
    for id in &dead {
        until(&tenant, &format!("/v1/webhooks/{id}"), |body| body["state"] == "quarantined").await;
    }
    item(&tenant, "LATE").await;
    let got = sink.until("/lives", "all events, and notice of each", |all| {
        let of = |name: &str| all.iter().filter(|one| one.header("x-twh-event") == name).count();
        of("item.created") == 7 && of("webhook.quarantined") == dead.len()
    });
    let got = got.await;
    let told: BTreeSet<_> = got.iter().filter_map(|one| one.body["data"]["id"].as_str()).collect();
    assert!(dead.iter().all(|id| told.contains(id.as_str())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_that_is_deleted_is_sent_nothing_more() {
    let (server, tenant, sink) = server().await;
    sink.behave("/deleted", Behaviour::Answers(503));
    sink.behave("/fails", Behaviour::Answers(503));
    let deleted = register(&tenant, &sink.url("/deleted"), json!({})).await;
    let stays = register(&tenant, &sink.url("/stays"), json!({})).await;
    register(&tenant, &sink.url("/fails"), json!({ "event_types": ["item.*"] })).await;
    item(&tenant, "A").await;
    sink.first("/deleted").await;
    let path = format!("/v1/webhooks/{}", deleted.id());
    let gone = tenant.send(reqwest::Method::DELETE, &path, &[], None).await.unwrap();
    assert!(gone.status.is_success(), "{}", gone.body);
    assert_eq!(tenant.get(&path).await.unwrap().status, 404);
    let listed = tenant.get("/v1/webhooks").await.unwrap();
    assert_eq!(listed.body["data"].as_array().unwrap().len(), 2, "{}", listed.body);
    test(&tenant, stays.id(), &sink, "/stays").await;
    let before = sink.all("/deleted").len();
    // One that fails as it did, and began later, has been tried twice more meanwhile.
    item(&tenant, "B").await;
    let third = |one: &super::sink::Received| one.body["data"]["sku"] == "B" && one.header("x-twh-attempt") == "3";
    sink.until("/fails", "a third attempt", |all| all.iter().any(third)).await;
    // What was under way when who sends heard of it may have come.
    let after = sink.all("/deleted");
    assert!(after.len() <= before + 1 && after.iter().all(|one| one.body["data"]["sku"] == "A"), "{}", after.len());
    let queued: i64 = sqlx::query_scalar("select count(*) from webhook_deliveries where subscription_id = $1::uuid")
        .bind(deleted.id())
        .fetch_one(&server.pool().await.unwrap())
        .await
        .unwrap();
    assert!(queued <= 1, "{queued}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_looked_up_on_each_attempt_and_leads_to_no_address_that_is_not_allowed() {
    let mut settings = twh_tests::shared::SETTINGS.to_vec();
    settings.push(("TWH_OUTBOUND_ALLOWED", "10.0.0.0/8"));
    let world = World::start_with(&settings).await.unwrap();
    let tenant = world.tenant().await.unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
    let named = register(&tenant, &url, json!({})).await;
    item(&tenant, "A").await;
    let path = format!("/v1/webhooks/{}/deliveries", named.id());
    let tried = until(&tenant, &path, |body| body["data"][0]["attempts"][1].is_object()).await;
    for attempt in tried["data"][0]["attempts"].as_array().unwrap() {
        assert_eq!(
            (&attempt["status"], &attempt["error"]),
            (&Value::Null, &json!("the host has no address that may be called"))
        );
    }
    let connected = listener.accept();
    assert_eq!(connected.expect_err("nobody connects").kind(), std::io::ErrorKind::WouldBlock);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_to_this_network_and_no_redirect_is_followed() {
    let (world, tenant, sink) = world().await;
    let mut refused = 0;
    for url in [
        "http://169.254.169.254/latest/meta-data/",
        "https://169.254.169.254/",
        "https://10.0.0.1/",
        "https://[::1]/",
        "https://[::ffff:10.0.0.1]/",
        "https://user:secret@example.com/",
        "ftp://example.com/",
        "nonsense",
    ] {
        let body = json!({ "url": url, "event_types": ["*"] });
        let answer = tenant.post("/v1/webhooks/register", body).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.code()), (422, "VALIDATION_FAILED"), "{url}");
        assert_eq!(answer.body["details"][0]["field"], "url", "{url}");
        refused += 1;
    }
    sink.behave("/moved", Behaviour::Redirects);
    register(&tenant, &sink.url("/moved"), json!({})).await;
    sink.behave("/floods", Behaviour::Floods);
    let floods = register(&tenant, &sink.url("/floods"), json!({})).await;
    item(&tenant, "A").await;
    sink.until("/moved", "a retry", |all| all.len() > 1).await;
    assert!(sink.all("/elsewhere").is_empty());
    let path = format!("/v1/webhooks/{}/deliveries", floods.id());
    let flooded = until(&tenant, &path, |body| body["data"][0]["state"] == "delivered").await;
    assert_eq!(flooded["data"][0]["attempts"][0]["body"].as_str().unwrap().len(), 1_024);
    // Where nothing is allowed beside the Internet, loopback is refused too.
    let mut closed = world;
    let number = closed.add_server(&[("TWH_OUTBOUND_ALLOWED", "")]).unwrap();
    closed.server(number).unwrap().start().await.unwrap();
    let url = closed.server(number).unwrap().url.clone();
    let body = json!({ "url": sink.url("/x"), "event_types": ["*"] });
    assert_eq!(tenant.at(&url).post("/v1/webhooks/register", body).await.unwrap().status, 422);
    println!("{refused} URLs are refused");
}
