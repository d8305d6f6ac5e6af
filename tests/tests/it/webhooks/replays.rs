use super::sink::{Behaviour, Received};
use super::{item, items, patch, register, server, test, until, world};
use serde_json::json;
use std::collections::BTreeSet;
use twh_domain::timestamp::Timestamp;

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_sends_what_is_wanted_of_a_range_and_goes_on_after_a_crash() {
    let (mut world, tenant, sink) = world().await;
    let made = register(&tenant, &sink.url("/all"), json!({ "rate_per_second": 200 })).await;
    let path = format!("/v1/webhooks/{}", made.id());
    let mut third = String::new();
    for number in 0..10 {
        let answer = tenant.done("/v1/items", json!({ "sku": format!("A-{number}") })).await.unwrap();
        if number == 2 {
            third = answer.header("x-twh-position").to_owned();
        }
    }
    let commands: Vec<_> = (0..600)
        .map(|number| json!({ "type": "item.create", "idempotency_key": format!("k{number}"), "body": { "sku": format!("B-{number}") } }))
        .collect();
    for part in commands.chunks(300) {
        tenant.done("/v1/commands:batch", json!({ "commands": part })).await.unwrap();
    }
    sink.until("/all", "all events", |all| all.len() >= 610).await;
    let ask = async |body| tenant.post(&format!("{path}/replay"), body).await.unwrap();
    let dry = ask(json!({ "from_position": third, "dry_run": true })).await;
    assert_eq!((&dry.body["events"], &dry.body["first_sequence"]), (&json!(608), &json!(3)), "{}", dry.body);
    assert_eq!(ask(json!({ "from_sequence": 1, "to_sequence": 4, "dry_run": true })).await.body["events"], json!(4));
    let far = json!({ "from_time": "2100-01-01T00:00:00Z", "dry_run": true });
    assert_eq!(ask(far).await.body["events"], json!(0));
    for wrong in [json!({}), json!({ "from_sequence": 1, "dead_letters": true }), json!({ "from_time": "soon" })] {
        assert_eq!(ask(wrong).await.status, 422);
    }
    let before = sink.all("/all").len();
    let replay = ask(json!({ "from_position": third })).await;
    sink.until("/all", "some of the replay", |all| all.len() > before + 100).await;
    world.kill_server().await.unwrap();
    world.start_server().await.unwrap();
    until(&tenant, replay.header("location"), |body| body["state"] == "finished").await;
    until(&tenant, &path, |body| body["pending"] == 0).await;
    let again: BTreeSet<_> = sink.all("/all")[before..].iter().map(|one| one.sequence()).collect();
    assert_eq!((again.len(), again.first()), (608, Some(&3)), "each of the range, and nothing before it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_is_cancelled_sends_no_more() {
    let (_server, tenant, sink) = server().await;
    let made = register(&tenant, &sink.url("/slow"), json!({})).await;
    let path = format!("/v1/webhooks/{}", made.id());
    for number in 0..40 {
        item(&tenant, &format!("A-{number}")).await;
    }
    sink.until("/slow", "all events", |all| all.len() == 40).await;
    patch(&tenant, &path, json!({ "rate_per_second": 2 })).await;
    // Who sends has heard of it once what was asked for later has come.
    test(&tenant, made.id(), &sink, "/slow").await;
    let replay = tenant.post(&format!("{path}/replay"), json!({ "from_sequence": 1 })).await.unwrap();
    sink.until("/slow", "some of the replay", |all| all.iter().filter(replayed).count() > 1).await;
    let cancelled = tenant.post(&format!("{}/cancel", replay.header("location")), json!({})).await.unwrap();
    assert_eq!(cancelled.body["state"], "cancelled", "{}", cancelled.body);
    // What waits is sent by its age: a test that is asked for now comes after all that is still to be sent.
    test(&tenant, made.id(), &sink, "/slow").await;
    let sent = sink.all("/slow").iter().filter(replayed).count();
    test(&tenant, made.id(), &sink, "/slow").await;
    assert_eq!(sink.all("/slow").iter().filter(replayed).count(), sent);
    assert!(sent < 40, "{sent}");
    until(&tenant, &path, |body| body["pending"] == 0).await;
    // One that was cancelled stays so, and what it took back is no dead letter.
    let again = tenant.post(&format!("{}/cancel", replay.header("location")), json!({})).await.unwrap();
    assert_eq!(again.body["state"], "cancelled", "{}", again.body);
    assert_eq!(tenant.get(&path).await.unwrap().body["dead_lettered"], 0);
}

fn replayed(one: &&Received) -> bool {
    !one.header("x-twh-replay").is_empty()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_of_a_time_sends_what_was_recorded_then() {
    let (_server, tenant, sink) = server().await;
    let made = register(&tenant, &sink.url("/all"), json!({})).await;
    for number in 0..10 {
        item(&tenant, &format!("A-{number}")).await;
    }
    let mut all = sink.until("/all", "all events", |all| all.len() == 10).await;
    all.sort_by_key(Received::sequence);
    let [from, to] = [2, 6].map(|index| all[index].body["recorded_at"].as_str().unwrap());
    let within = |one: &&Received| {
        let at = one.body["recorded_at"].as_str().unwrap();
        let [from, to, at] = [from, to, at].map(|text| text.parse::<Timestamp>().unwrap());
        (from..to).contains(&at)
    };
    let expected: BTreeSet<_> = all.iter().filter(within).map(Received::sequence).collect();
    let path = format!("/v1/webhooks/{}/replay", made.id());
    let replay = tenant.post(&path, json!({ "from_time": from, "to_time": to })).await.unwrap();
    assert_eq!(replay.body["events"], json!(expected.len()), "{}", replay.body);
    until(&tenant, replay.header("location"), |body| body["state"] == "finished").await;
    until(&tenant, &format!("/v1/webhooks/{}", made.id()), |body| body["pending"] == 0).await;
    let again: BTreeSet<_> = sink.all("/all").iter().filter(replayed).map(Received::sequence).collect();
    assert!(again == expected && !again.is_empty(), "{again:?} of {from} to {to}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_has_a_few_replays_at_once_and_each_goes_on() {
    let (server, tenant, sink) = server().await;
    let made = register(&tenant, &sink.url("/all"), json!({})).await;
    items(&tenant, (0..20).map(|number| format!("A-{number}"))).await;
    sink.until("/all", "all events", |all| all.len() == 20).await;
    let path = format!("/v1/webhooks/{}", made.id());
    let mut replays = Vec::new();
    for _ in 0..5 {
        let replay = tenant.post(&format!("{path}/replay"), json!({ "from_sequence": 1 })).await.unwrap();
        assert_eq!(replay.status, 202, "{}", replay.body);
        replays.push(replay);
    }
    for replay in &replays {
        let over = until(&tenant, replay.header("location"), |body| body["state"] == "finished").await;
        assert_eq!(over["queued"], 20);
    }
    until(&tenant, &path, |body| body["pending"] == 0).await;
    assert_eq!(sink.all("/all").len(), 120);
    // With five that run, as the table says here without anybody having told who sends, there is no sixth.
    let pool = server.pool().await.unwrap();
    let running = "update webhook_replays set state = 'running' where subscription_id = $1::uuid";
    sqlx::query(running).bind(made.id()).execute(&pool).await.unwrap();
    let refused = tenant.post(&format!("{path}/replay"), json!({ "from_sequence": 1 })).await.unwrap();
    assert_eq!((refused.status.as_u16(), refused.code()), (409, "LIMIT_REACHED"), "{}", refused.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_delivery_is_sent_again_and_a_test_is_sent_at_once() {
    let (_server, tenant, sink) = server().await;
    let made = register(&tenant, &sink.url("/one"), json!({ "event_types": ["order.*"] })).await;
    let path = format!("/v1/webhooks/{}", made.id());
    let test = tenant.post(&format!("{path}/test"), json!({})).await.unwrap();
    assert_eq!(test.status, 202, "{}", test.body);
    let got = sink.first("/one").await;
    assert_eq!((&got.body["type"], &got.body["data"]["id"]), (&json!("webhook.test"), &json!(made.id())));
    until(&tenant, test.header("location"), |body| body["state"] == "delivered").await;
    sink.behave("/one", Behaviour::Answers(204));
    let again = tenant.post(&format!("{}/replay", test.header("location")), json!({})).await.unwrap();
    assert_eq!(again.body["event_id"], got.body["id"], "{}", again.body);
    let all = sink.until("/one", "the event again", |all| all.len() == 2).await;
    assert_eq!(all[0].header("webhook-id"), all[1].header("webhook-id"));
}
