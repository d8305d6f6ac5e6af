//! A subscriber: takes what is posted to it, and behaves as it is told.

use super::PATIENCE;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How the subscriber answers.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Behaviour {
    Answers(u16),
    AsksForTime(u64),
    Hangs,
    Redirects,
    /// Answers 200 with a body that has no end.
    Floods,
}

/// Something that was posted.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) path: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) text: String,
    pub(crate) body: Value,
    pub(crate) at: Instant,
}

impl Received {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub(crate) fn sequence(&self) -> i64 {
        self.body["sequence"].as_i64().unwrap_or_default()
    }
}

#[derive(Default)]
struct Inner {
    behaviours: Mutex<BTreeMap<String, Behaviour>>,
    received: Mutex<Vec<Received>>,
}

/// A subscriber with any number of paths, each with its own behaviour; 200 where nothing was said.
#[derive(Clone)]
pub(crate) struct Sink {
    inner: Arc<Inner>,
    url: String,
}

async fn take(request: HttpRequest, body: String, inner: web::Data<Inner>) -> HttpResponse {
    let path = request.path().to_owned();
    let headers = request.headers().iter();
    let received = Received {
        path: path.clone(),
        headers: headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect(),
        body: serde_json::from_str(&body).unwrap_or_default(),
        text: body,
        at: Instant::now(),
    };
    inner.received.lock().unwrap().push(received);
    let behaviour = inner.behaviours.lock().unwrap().get(&path).copied().unwrap_or(Behaviour::Answers(200));
    match behaviour {
        Behaviour::Answers(status) => HttpResponse::build(status.try_into().unwrap()).body("noted"),
        Behaviour::AsksForTime(seconds) => {
            HttpResponse::TooManyRequests().insert_header(("retry-after", seconds.to_string())).finish()
        }
        Behaviour::Hangs => {
            actix_web::rt::time::sleep(Duration::from_secs(600)).await;
            HttpResponse::Ok().finish()
        }
        Behaviour::Redirects => HttpResponse::Found().insert_header(("location", "/elsewhere")).finish(),
        Behaviour::Floods => {
            let endless =
                futures::stream::repeat_with(|| Ok::<_, actix_web::Error>(web::Bytes::from_static(&[b'x'; 65_536])));
            HttpResponse::Ok().streaming(endless)
        }
    }
}

impl Sink {
    pub(crate) fn start() -> Self {
        Self::start_with(None)
    }

    /// One that speaks HTTPS, where it is told how.
    pub(crate) fn start_with(tls: Option<rustls::ServerConfig>) -> Self {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let inner = Arc::new(Inner::default());
        let data = web::Data::from(Arc::clone(&inner));
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            actix_web::rt::System::new().block_on(async move {
                let server = HttpServer::new(move || App::new().app_data(data.clone()).default_service(web::to(take)))
                    .workers(1)
                    .disable_signals();
                let server = match tls {
                    Some(tls) => server.bind_rustls_0_23("127.0.0.1:0", tls),
                    None => server.bind("127.0.0.1:0"),
                };
                let server = server.unwrap();
                sender.send(server.addrs()[0]).unwrap();
                server.run().await.unwrap();
            });
        });
        let address = receiver.recv().unwrap();
        Self { inner, url: format!("{scheme}://{address}") }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    pub(crate) fn behave(&self, path: &str, behaviour: Behaviour) {
        self.inner.behaviours.lock().unwrap().insert(path.to_owned(), behaviour);
    }

    pub(crate) fn all(&self, path: &str) -> Vec<Received> {
        self.inner.received.lock().unwrap().iter().filter(|one| one.path == path).cloned().collect()
    }

    /// Waits until a path has received what a condition asks for; gives up once nothing has come for long.
    pub(crate) async fn until(&self, path: &str, what: &str, holds: impl Fn(&[Received]) -> bool) -> Vec<Received> {
        let (mut since, mut count) = (Instant::now(), 0);
        loop {
            let all = self.all(path);
            if holds(&all) {
                return all;
            }
            if all.len() > count {
                (since, count) = (Instant::now(), all.len());
            }
            assert!(since.elapsed() < PATIENCE, "{path} did not get {what}; it has {count}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) async fn first(&self, path: &str) -> Received {
        self.until(path, "anything", |all| !all.is_empty()).await[0].clone()
    }
}
