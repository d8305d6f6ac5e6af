use crate::sink::Behaviour;
use crate::{item, register, until, world};
use serde_json::{Value, json};
use std::collections::BTreeSet;

fn ids(list: &[crate::sink::Received]) -> BTreeSet<String> {
    list.iter().map(|one| one.header("webhook-id").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_subscriber_is_quarantined_and_comes_back_with_its_queue() {
    let (_world, tenant, sink) = world().await;
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
    // What comes meanwhile is queued too.
    item(&tenant, "LATE").await;
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
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_given_up_is_a_dead_letter_with_every_attempt_and_can_be_replayed() {
    let (_world, tenant, sink) = world().await;
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
    let (_world, tenant, sink) = world().await;
    sink.behave("/gone", Behaviour::Answers(410));
    sink.behave("/busy", Behaviour::AsksForTime(3));
    let gone = register(&tenant, &sink.url("/gone"), json!({})).await;
    register(&tenant, &sink.url("/busy"), json!({})).await;
    item(&tenant, "A").await;
    let path = format!("/v1/webhooks/{}", gone.id());
    until(&tenant, &path, |body| body["state"] == "disabled").await;
    let busy = sink.until("/busy", "a second attempt", |all| all.len() >= 2).await;
    assert!(busy[1].at - busy[0].at >= std::time::Duration::from_millis(2_900), "{:?}", busy[1].at - busy[0].at);
    item(&tenant, "B").await;
    assert_eq!(sink.all("/gone").len(), 1);
    // It is sent to again once that is asked for, from where it stopped.
    sink.behave("/gone", Behaviour::Answers(200));
    let change = json!({ "state": "active" }).to_string().into_bytes();
    let json_type = [("content-type", "application/json")];
    let active = tenant.send(reqwest::Method::PATCH, &path, &json_type, Some(change)).await.unwrap();
    assert_eq!(active.body["state"], "active", "{}", active.body);
    let again = sink.until("/gone", "the event again, and what came since", |all| {
        let (first, later) = all.split_first().unwrap();
        let of_b = |body: &serde_json::Value| body["data"]["sku"] == "B";
        later.iter().any(|got| got.header("webhook-id") == first.header("webhook-id"))
            && later.iter().any(|got| of_b(&got.body))
    });
    again.await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_that_hangs_delays_no_other() {
    let (_world, tenant, sink) = world().await;
    sink.behave("/hangs", Behaviour::Hangs);
    register(&tenant, &sink.url("/hangs"), json!({ "timeout_ms": 5_000 })).await;
    register(&tenant, &sink.url("/quick"), json!({})).await;
    for number in 0..100 {
        item(&tenant, &format!("A-{number}")).await;
    }
    let begun = std::time::Instant::now();
    sink.until("/quick", "all events", |all| all.len() == 100).await;
    assert!(begun.elapsed().as_millis() < 4_000, "{:?}", begun.elapsed());
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
    // A name is admitted, and what it means is looked at on each attempt: here, nothing that may be called.
    let named = register(&tenant, "https://metadata.localhost/", json!({})).await;
    sink.behave("/moved", Behaviour::Redirects);
    register(&tenant, &sink.url("/moved"), json!({})).await;
    sink.behave("/floods", Behaviour::Floods);
    let floods = register(&tenant, &sink.url("/floods"), json!({})).await;
    item(&tenant, "A").await;
    let path = format!("/v1/webhooks/{}/deliveries", named.id());
    let tried = until(&tenant, &path, |body| body["data"][0]["attempts"][0].is_object()).await;
    let attempt: &Value = &tried["data"][0]["attempts"][0];
    assert!(attempt["status"].is_null() && attempt["error"].is_string(), "{attempt}");
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
