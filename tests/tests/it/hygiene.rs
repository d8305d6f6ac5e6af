//! What protects every connection and every answer: TLS, other origins, headers for browsers, slow clients, proxies.

use reqwest::{Certificate, Client, Method, Response, tls::Version};
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use twh_tests::{World, free_address};

/// The largest head that is read (`MAX_BUFFER_SIZE` of actix-http).
const HEAD_BYTES_MAX: usize = 128 * 1024;

fn header<'a>(answer: &'a Response, name: &str) -> &'a str {
    answer.headers().get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
}

async fn until_served(client: &Client, url: &str) -> Response {
    let begun = Instant::now();
    loop {
        match client.get(url).send().await {
            Ok(answer) => return answer,
            Err(error) => assert!(begun.elapsed() < Duration::from_secs(60), "{error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn https_is_tls_1_3_and_nothing_older() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let folder = std::env::temp_dir();
    let name = uuid::Uuid::new_v4().simple().to_string();
    let (certificate, key) = (folder.join(format!("{name}.crt")), folder.join(format!("{name}.key")));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let address = free_address().unwrap();
    let world = World::prepare(&[
        ("TWH_HTTP_ADDR", &address),
        ("TWH_TLS_CERTIFICATE_FILE", certificate.to_str().unwrap()),
        ("TWH_TLS_KEY_FILE", key.to_str().unwrap()),
    ])
    .await
    .unwrap();
    let mut server = world.command(&["serve"]).unwrap().spawn().unwrap();
    let url = format!("https://localhost:{}/health", address.rsplit_once(':').unwrap().1);
    let client = || Client::builder().tls_certs_only([Certificate::from_pem(made.cert.pem().as_bytes()).unwrap()]);
    let answer = until_served(&client().build().unwrap(), &url).await;
    assert_eq!(answer.status(), 200);
    assert!(header(&answer, "strict-transport-security").starts_with("max-age="));
    let old = client().tls_version_max(Version::TLS_1_2).build().unwrap().get(&url).send().await;
    assert!(old.unwrap_err().is_connect(), "TLS 1.2 is refused");
    assert!(Client::new().get(url.replace("https", "http")).send().await.is_err(), "and so is none at all");
    server.kill().await.unwrap();
    let _ = (std::fs::remove_file(certificate), std::fs::remove_file(key));
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_of_named_origins_may_ask_and_others_may_not() {
    let world = World::start_with(&[("TWH_CORS_ORIGINS", "https://app.example.com")]).await.unwrap();
    let (client, items) = (Client::new(), format!("{}/v1/items", world.url));
    let preflight = |origin: &str| {
        client
            .request(Method::OPTIONS, &items)
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization,idempotency-key,content-type")
            .send()
    };
    let allowed = preflight("https://app.example.com").await.unwrap();
    assert_eq!(header(&allowed, "access-control-allow-origin"), "https://app.example.com");
    assert!(header(&allowed, "access-control-allow-headers").to_ascii_lowercase().contains("idempotency-key"));
    assert_eq!(header(&allowed, "access-control-allow-credentials"), "", "never with a browser's own credentials");
    let refused = preflight("https://evil.example.com").await.unwrap();
    assert_eq!(header(&refused, "access-control-allow-origin"), "");
    // An error can be read too, or nobody learns what was wrong.
    let error = client.get(&items).header("origin", "https://app.example.com").send().await.unwrap();
    assert_eq!(error.status(), 401);
    assert_eq!(header(&error, "access-control-allow-origin"), "https://app.example.com");
    assert!(header(&error, "access-control-expose-headers").to_ascii_lowercase().contains("x-request-id"));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_tells_browsers_what_it_is_not_and_a_slow_client_is_let_go() {
    let world = World::start_with(&[("TWH_TRUSTED_PROXIES", "127.0.0.0/8")]).await.unwrap();
    let client = Client::new();
    for path in ["/v1/items", "/nowhere", "/health", "/openapi.json", "/docs", "/docs/api/", "/docs/errors/DUPLICATE"] {
        let answer = client.get(format!("{}{path}", world.url)).send().await.unwrap();
        assert_eq!(header(&answer, "x-content-type-options"), "nosniff", "{path}");
        assert_eq!(header(&answer, "referrer-policy"), "no-referrer", "{path}");
        assert!(header(&answer, "content-security-policy").contains("frame-ancestors 'none'"), "{path}");
        assert!(!header(&answer, "cache-control").is_empty(), "{path}");
        assert_eq!(header(&answer, "strict-transport-security"), "", "{path} without TLS");
    }

    // What takes a form takes nothing else.
    let forms = format!("{}/v1/auth/sso/saml/acs", world.url);
    let other = client.post(&forms).header("content-type", "text/plain").body("RelayState=a").send().await.unwrap();
    assert_eq!(other.status(), 415);
    let form = client.post(&forms).header("content-type", "application/x-www-form-urlencoded; charset=utf-8");
    let form = form.body("RelayState=a").send().await.unwrap();
    assert!(form.status() != 415 && form.status().is_client_error(), "{}", form.status());

    // A key for one network, behind a proxy of ours and from elsewhere.
    let tenant = world.tenant().await.unwrap();
    let key = json!({ "name": "one network", "role": "read_only", "ip_allowed": ["203.0.113.0/24"] });
    let made = tenant.post("/v1/api-keys", key).await.unwrap();
    let bound = tenant.with(made.body["key"].as_str().unwrap());
    let from = |address: &'static str| {
        let bound = &bound;
        async move {
            let headers = [("x-forwarded-for", address)];
            bound.send(Method::GET, "/v1/items", &headers, None).await.unwrap().status.as_u16()
        }
    };
    assert_eq!(from("203.0.113.7").await, 200);
    assert_eq!(from("198.51.100.7").await, 403);
    assert_eq!(from("203.0.113.7, 198.51.100.7").await, 403, "what the client said itself does not count");

    // A head that is too large is refused; one that never ends is let go, and others are served meanwhile.
    let address = world.url.trim_start_matches("http://");
    let mut large = TcpStream::connect(address).await.unwrap();
    // Just what is read of a head. What is sent beyond it is left unread, and the answer can be lost with the connection.
    let begin = "GET /health HTTP/1.1\r\nhost: x\r\nx-large: ";
    let head = format!("{begin}{}", "a".repeat(HEAD_BYTES_MAX - begin.len()));
    large.write_all(head.as_bytes()).await.unwrap();
    let mut said = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(20), large.read_to_end(&mut said)).await.expect("it is let go");
    let said = String::from_utf8_lossy(&said);
    assert!(said.starts_with("HTTP/1.1 431 "), "{said}");
    let mut slow = TcpStream::connect(address).await.unwrap();
    slow.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n").await.unwrap();
    let begun = Instant::now();
    let mut said = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(20), slow.read_to_end(&mut said)).await.expect("it is let go");
    assert!(begun.elapsed() > Duration::from_secs(5), "not before its time");
    assert_eq!(client.get(format!("{}/health", world.url)).send().await.unwrap().status(), 200);
}
