//! A subscriber that takes whatever comes as fast as it can, and knows when it came.

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use anyhow::Result;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use time::OffsetDateTime;
use twh_domain::timestamp::Timestamp;

#[derive(Default)]
struct Inner {
    count: AtomicU64,
    /// Where the path asks for that.
    receipts: Mutex<Vec<Receipt>>,
}

/// When an event came, and of when it is.
#[derive(Clone, Copy)]
pub(crate) struct Receipt {
    /// Where its command stands: partition and offset.
    pub(crate) position: (i32, i64),
    /// When the command was on the log.
    pub(crate) recorded_at: Timestamp,
    pub(crate) received_at: Timestamp,
}

impl Receipt {
    fn of(body: &str, received_at: Timestamp) -> Option<Self> {
        let (partition, offset) = field(body, "position")?.split_once('-')?;
        let position = (partition.parse().ok()?, offset.parse().ok()?);
        Some(Self { position, recorded_at: field(body, "recorded_at")?.parse().ok()?, received_at })
    }
}

/// The subscriber. It ends with the process.
#[derive(Clone)]
pub(crate) struct Sink {
    inner: Arc<Inner>,
    pub(crate) address: String,
}

fn field<'a>(body: &'a str, name: &str) -> Option<&'a str> {
    body.split_once(&format!(r#""{name}":""#))?.1.split('"').next()
}

async fn take(request: HttpRequest, body: String, inner: web::Data<Inner>) -> HttpResponse {
    if request.path().starts_with("/hang") {
        actix_web::rt::time::sleep(Duration::from_secs(60)).await;
    }
    inner.count.fetch_add(1, Ordering::Relaxed);
    if request.path().starts_with("/timed") {
        let receipt = Receipt::of(&body, OffsetDateTime::now_utc().into());
        inner.receipts.lock().unwrap_or_else(PoisonError::into_inner).extend(receipt);
    }
    HttpResponse::Ok().finish()
}

impl Sink {
    pub(crate) fn start() -> Result<Self> {
        let inner = Arc::new(Inner::default());
        let data = web::Data::from(Arc::clone(&inner));
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?.to_string();
        std::thread::Builder::new().name("sink".to_owned()).spawn(move || {
            actix_web::rt::System::new().block_on(async move {
                HttpServer::new(move || App::new().app_data(data.clone()).default_service(web::to(take)))
                    .workers(1)
                    .backlog(4_096)
                    .max_connections(20_000)
                    .disable_signals()
                    .listen(listener)?
                    .run()
                    .await
            })
        })?;
        Ok(Self { inner, address })
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn count(&self) -> u64 {
        self.inner.count.load(Ordering::Relaxed)
    }

    /// What was received under timed paths since the last time.
    pub(crate) fn receipts(&self) -> Vec<Receipt> {
        std::mem::take(&mut self.inner.receipts.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
