use super::{item, server};
use serde_json::json;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt as _, BufReader};

/// Within a minute of signing up: a sandbox key, and events on the developer's own machine, signed as deliveries are.
#[tokio::test(flavor = "multi_thread")]
async fn a_developer_sees_events_of_the_sandbox_without_a_subscription() {
    let (server, live, sink) = server().await;
    let person = json!({
        "organization": "Tested", "name": "Ada", "email": "ada@example.com", "password": "correct horse battery staple",
    });
    let made = live.post("/v1/auth/signup", person).await.unwrap();
    let key = made.body["sandbox"]["api_key"].as_str().or(made.body["sandbox_key"].as_str());
    let sandbox = live.with(key.unwrap_or_else(|| panic!("{}", made.body)));
    item(&sandbox, "BEFORE").await;
    let mut command = server.command(&["listen", "--forward-to", &sink.url("/hook"), "--limit", "2"]).unwrap();
    sandbox.lend_to(&mut command);
    let mut listening = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(listening.stdout.take().unwrap()).lines();
    let first = lines.next_line().await.unwrap().unwrap();
    assert!(first.starts_with("Forwarding events after 1 to http://127.0.0.1"), "{first}");
    let secret = lines.next_line().await.unwrap().unwrap().rsplit(' ').next().unwrap().to_owned();
    item(&sandbox, "AFTER").await;
    item(&sandbox, "LAST").await;
    let got = sink.until("/hook", "two events", |all| all.len() == 2).await;
    assert_eq!((&got[0].body["data"]["sku"], &got[1].body["sequence"]), (&json!("AFTER"), &json!(3)));
    let rust = standardwebhooks::Webhook::new(&secret).unwrap();
    let mut headers = http::HeaderMap::new();
    for name in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
        headers.insert(http::HeaderName::from_static(name), got[0].header(name).parse().unwrap());
    }
    rust.verify(got[0].text.as_bytes(), &headers).unwrap();
    let line = lines.next_line().await.unwrap().unwrap();
    assert!(line.contains("item.created 200 in "), "{line}");
    assert!(listening.wait().await.unwrap().success());
    let account = sandbox.get("/v1/audit?action=webhook.listen").await.unwrap();
    assert_eq!(account.body["data"][0]["entity_type"], "tenant", "{}", account.body);
    // Live events go to subscriptions only, and a key that is none is told so.
    let person = made.body["tokens"]["access_token"].as_str().unwrap();
    for (key, expected) in [(person, "SANDBOX_ONLY"), ("nonsense", "UNAUTHENTICATED")] {
        let mut command = server.command(&["listen", "--forward-to", &sink.url("/hook")]).unwrap();
        live.with(key).lend_to(&mut command);
        let refused = tokio::time::timeout(std::time::Duration::from_secs(20), command.output()).await;
        let refused = refused.expect("it does not listen").unwrap();
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains(expected), "{said}");
    }
}
