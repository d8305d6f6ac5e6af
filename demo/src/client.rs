//! The API as a careful client uses it: a request that is not answered for good is sent again with the same
//! `Idempotency-Key`, so that a restart of the server or of what stands behind it neither loses nor doubles anything.
//!
//! It must never send a command again under another key.

use crate::progress::Progress;
use anyhow::{Context, Result, anyhow, bail};
use reqwest::{RequestBuilder, Response, StatusCode, Url, header};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Longer than the server waits for an outcome before it answers 202.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// The longest that a `Retry-After` is believed.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);
/// Between two looks at a command that is not decided yet.
const POLL_EVERY: Duration = Duration::from_millis(200);
/// So much of an error's details, in characters, is shown.
const DETAILS_SHOWN: usize = 500;

const UNDECIDED: &str = "the server has not decided the command yet";
const POSITION: &str = "x-twh-position";
const AT_LEAST: &str = "x-twh-at-least";

/// Speaks for one tenant.
#[derive(Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: Url,
    api_key: String,
    retry_for: Duration,
    progress: Arc<Progress>,
    resent: AtomicU64,
    /// The ledger position of the latest write that was answered: reads ask for at least that.
    position: Mutex<Option<Position>>,
}

/// Where in the log of commands a write stands: its partition and offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Position(u32, u64);

impl Position {
    fn parse(text: &str) -> Option<Self> {
        let (partition, offset) = text.split_once('-')?;
        Some(Self(partition.parse().ok()?, offset.parse().ok()?))
    }
}

/// One command of a batch.
#[derive(Debug, Clone)]
pub(crate) struct BatchEntry {
    pub(crate) kind: &'static str,
    pub(crate) key: String,
    pub(crate) body: Value,
}

/// What came of one try.
enum Try<T> {
    Done(T),
    /// Not for good: send it again, no sooner than told.
    Again {
        why: String,
        after: Option<Duration>,
    },
    /// For good.
    Failed(anyhow::Error),
}

impl<T> Try<T> {
    fn again(why: impl Into<String>) -> Self {
        Self::Again { why: why.into(), after: None }
    }
}

#[derive(Deserialize)]
struct BatchAnswer {
    results: Vec<BatchResult>,
}

#[derive(Deserialize)]
struct BatchResult {
    status: u16,
    #[serde(default)]
    body: Value,
    #[serde(default)]
    position: Option<String>,
}

/// What `GET /v1/commands/{id}` answers.
#[derive(Deserialize)]
struct CommandState {
    status: String,
    http_status: Option<u16>,
    #[serde(default)]
    body: Value,
}

impl Client {
    pub(crate) fn new(base_url: &str, api_key: &str, retry_for: Duration, progress: Arc<Progress>) -> Result<Self> {
        let base = Url::parse(base_url).with_context(|| format!("{base_url:?} is not a URL"))?;
        let http = reqwest::Client::builder()
            .user_agent(concat!("twh-demo/", env!("CARGO_PKG_VERSION")))
            .timeout(REQUEST_TIMEOUT)
            .connect_timeout(CONNECT_TIMEOUT)
            .build()
            .context("cannot make an HTTP client")?;
        let api_key = api_key.to_owned();
        Ok(Self { http, base, api_key, retry_for, progress, resent: AtomicU64::new(0), position: Mutex::new(None) })
    }

    /// How many times something was sent again.
    pub(crate) fn resent(&self) -> u64 {
        self.resent.load(Ordering::Relaxed)
    }

    /// Sends one command and waits until it is decided; the resource after it.
    pub(crate) async fn command(&self, path: &str, key: &str, body: &Value) -> Result<Value> {
        let what = format!("POST {path} ({key})");
        let bytes = serde_json::to_vec(body)?;
        let mut patience = self.patience(&what);
        loop {
            match self.try_command(&what, path, key, bytes.clone()).await {
                Try::Done(resource) => {
                    self.progress.command();
                    return Ok(resource);
                }
                Try::Again { why, after } => patience.wait(&why, after).await?,
                Try::Failed(error) => return Err(error),
            }
        }
    }

    async fn try_command(&self, what: &str, path: &str, key: &str, body: Vec<u8>) -> Try<Value> {
        let request = self.post(path, body).header("idempotency-key", key);
        match self.answer(what, request).await {
            Try::Done(response) if response.status() == StatusCode::ACCEPTED => self.poll(what, &response).await,
            Try::Done(response) => read(response).await,
            Try::Again { why, after } => Try::Again { why, after },
            Try::Failed(error) => Try::Failed(error),
        }
    }

    /// Sends commands in one request, each with its own key, and again those that were not decided; the resources in
    /// their order.
    pub(crate) async fn batch(&self, entries: &[BatchEntry]) -> Result<Vec<Value>> {
        let what = "POST /v1/commands:batch";
        let mut patience = self.patience(what);
        let mut done: Vec<Option<Value>> = entries.iter().map(|_| None).collect();
        loop {
            match self.try_batch(what, entries, &mut done).await {
                Try::Done(()) => break,
                Try::Again { why, after } => patience.wait(&why, after).await?,
                Try::Failed(error) => return Err(error),
            }
        }
        done.into_iter().map(|body| body.context("the server left out a result of a batch")).collect()
    }

    /// Sends the entries that are not done, and keeps what comes of each. Done is that all are.
    async fn try_batch(&self, what: &str, entries: &[BatchEntry], done: &mut [Option<Value>]) -> Try<()> {
        let open: Vec<(&BatchEntry, &mut Option<Value>)> =
            entries.iter().zip(done).filter(|(_, done)| done.is_none()).collect();
        let commands: Vec<Value> = open
            .iter()
            .map(|(entry, _)| json!({"type": entry.kind, "idempotency_key": entry.key, "body": entry.body}))
            .collect();
        let body = json!({ "commands": commands }).to_string().into_bytes();
        let results = match self.answer(what, self.post("/v1/commands:batch", body)).await {
            Try::Done(response) => match read::<BatchAnswer>(response).await {
                Try::Done(answer) => answer.results,
                Try::Again { why, after } => return Try::Again { why, after },
                Try::Failed(error) => return Try::Failed(error),
            },
            Try::Again { why, after } => return Try::Again { why, after },
            Try::Failed(error) => return Try::Failed(error),
        };
        if results.len() != open.len() {
            return Try::Failed(anyhow!("{what}: {} commands, but {} results", open.len(), results.len()));
        }
        let mut undecided = None;
        for ((entry, slot), result) in open.into_iter().zip(results) {
            if let Some(position) = result.position.as_deref().and_then(Position::parse) {
                self.saw(position);
            }
            match StatusCode::from_u16(result.status) {
                Ok(StatusCode::ACCEPTED) => undecided = Some(UNDECIDED.to_owned()),
                Ok(status) if status.is_success() => {
                    *slot = Some(result.body);
                    self.progress.command();
                }
                Ok(status) if is_transient(status) => undecided = Some(refusal(status, &result.body)),
                Ok(status) => {
                    let what = format!("{what}: {} ({})", entry.kind, entry.key);
                    return Try::Failed(anyhow!("{what} was refused: {}", refusal(status, &result.body)));
                }
                Err(_) => return Try::Failed(anyhow!("{what}: the server answered status {}", result.status)),
            }
        }
        undecided.map_or(Try::Done(()), Try::again)
    }

    /// Reads, no older than the latest write that was answered.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)]) -> Result<T> {
        let mut url = self.url(path);
        url.query_pairs_mut().extend_pairs(query);
        let what = format!("GET {path}");
        let mut patience = self.patience(&what);
        loop {
            match self.try_get(&what, url.clone()).await {
                Try::Done(value) => return Ok(value),
                Try::Again { why, after } => patience.wait(&why, after).await?,
                Try::Failed(error) => return Err(error),
            }
        }
    }

    async fn try_get<T: DeserializeOwned>(&self, what: &str, url: Url) -> Try<T> {
        let mut request = self.http.get(url).bearer_auth(&self.api_key);
        if let Some(Position(partition, offset)) = *self.latest() {
            request = request.header(AT_LEAST, format!("{partition}-{offset}"));
        }
        match self.answer(what, request).await {
            Try::Done(response) => read(response).await,
            Try::Again { why, after } => Try::Again { why, after },
            Try::Failed(error) => Try::Failed(error),
        }
    }

    fn patience<'a>(&'a self, what: &'a str) -> Patience<'a> {
        Patience { client: self, what, failing_since: None, backoff: BACKOFF_MIN }
    }

    /// Sends one request. Done is a 2xx; its body is still to be read.
    async fn answer(&self, what: &str, request: RequestBuilder) -> Try<Response> {
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) if error.is_builder() => return Try::Failed(error.into()),
            Err(error) => return Try::again(innermost(&error)),
        };
        if let Some(position) = text_header(&response, POSITION).and_then(Position::parse) {
            self.saw(position);
        }
        let status = response.status();
        if status.is_success() {
            return Try::Done(response);
        }
        let after = text_header(&response, header::RETRY_AFTER.as_str())
            .and_then(|seconds| seconds.parse().ok())
            .map(Duration::from_secs);
        let body = response.json().await.unwrap_or_default();
        let why = refusal(status, &body);
        if is_transient(status) {
            return Try::Again { why, after };
        }
        Try::Failed(anyhow!("{what} was refused: {why}"))
    }

    /// The server took the command and has not decided it: asks until it has. When the asking fails, the command is
    /// sent again, which is always safe under the same key.
    async fn poll(&self, what: &str, accepted: &Response) -> Try<Value> {
        let Some(location) = text_header(accepted, header::LOCATION.as_str()) else {
            return Try::again(UNDECIDED);
        };
        let Ok(url) = self.base.join(location) else {
            return Try::Failed(anyhow!("{what}: the server answered Location {location:?}"));
        };
        let deadline = Instant::now() + self.retry_for;
        while Instant::now() < deadline {
            tokio::time::sleep(jittered(POLL_EVERY)).await;
            let request = self.http.get(url.clone()).bearer_auth(&self.api_key);
            let state = match self.answer(what, request).await {
                Try::Done(response) => match read::<CommandState>(response).await {
                    Try::Done(state) => state,
                    Try::Again { why, after } => return Try::Again { why, after },
                    Try::Failed(error) => return Try::Failed(error),
                },
                Try::Again { why, after } => return Try::Again { why, after },
                Try::Failed(error) => return Try::again(format!("{error:#}")),
            };
            match (state.status.as_str(), state.http_status.and_then(|code| StatusCode::from_u16(code).ok())) {
                ("pending", _) => {}
                ("accepted", _) => return Try::Done(state.body),
                (_, status) => {
                    let why = refusal(status.unwrap_or(StatusCode::CONFLICT), &state.body);
                    return Try::Failed(anyhow!("{what} was refused: {why}"));
                }
            }
        }
        Try::again(UNDECIDED)
    }

    fn post(&self, path: &str, body: Vec<u8>) -> RequestBuilder {
        self.http
            .post(self.url(path))
            .bearer_auth(&self.api_key)
            .header(header::CONTENT_TYPE, "application/json")
            .body(body)
    }

    fn url(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{path}", self.base.path().trim_end_matches('/')));
        url
    }

    fn saw(&self, position: Position) {
        let mut latest = self.latest();
        *latest = latest.max(Some(position));
    }

    fn latest(&self) -> MutexGuard<'_, Option<Position>> {
        // A position is one value: a panic elsewhere cannot have left it half written.
        self.position.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long and how often one request has been tried.
struct Patience<'a> {
    client: &'a Client,
    what: &'a str,
    failing_since: Option<Instant>,
    backoff: Duration,
}

impl Patience<'_> {
    /// Waits before the next try; an error once there is no patience left.
    async fn wait(&mut self, why: &str, after: Option<Duration>) -> Result<()> {
        let since = *self.failing_since.get_or_insert_with(Instant::now);
        let retry_for = self.client.retry_for;
        if since.elapsed() >= retry_for {
            bail!("{}: given up after {retry_for:?} of trying: {why}", self.what);
        }
        self.client.progress.waiting(why);
        self.client.resent.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(jittered(self.backoff).max(after.unwrap_or_default().min(RETRY_AFTER_MAX))).await;
        self.backoff = self.backoff.saturating_mul(2).min(BACKOFF_MAX);
        Ok(())
    }
}

/// Answers that say nothing about the command: try again.
fn is_transient(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS)
}

/// Somewhere between half of `backoff` and all of it, so that many clients do not come back at once.
fn jittered(backoff: Duration) -> Duration {
    let millis = u64::try_from(backoff.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(rand::random_range(millis / 2..=millis))
}

fn text_header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response.headers().get(name).and_then(|value| value.to_str().ok())
}

/// Reads a body; one that breaks off was not answered.
async fn read<T: DeserializeOwned>(response: Response) -> Try<T> {
    let path = response.url().path().to_owned();
    match response.bytes().await {
        Ok(bytes) => match serde_json::from_slice(&bytes) {
            Ok(value) => Try::Done(value),
            Err(error) => Try::Failed(anyhow!("the answer of {path} does not read: {error}")),
        },
        Err(error) => Try::again(innermost(&error)),
    }
}

/// The status, code, message, details and request id of an error answer.
fn refusal(status: StatusCode, body: &Value) -> String {
    let text = |field: &str| body.get(field).and_then(Value::as_str).unwrap_or("-");
    let details = match body.get("details") {
        Some(Value::Array(details)) if !details.is_empty() => {
            let shown: String = Value::Array(details.clone()).to_string().chars().take(DETAILS_SHOWN).collect();
            format!(", details {shown}")
        }
        _ => String::new(),
    };
    let (code, message, id) = (text("code"), text("message"), text("request_id"));
    format!("{} {code}: {message} (request {id}{details})", status.as_u16())
}

/// "connection refused" rather than "error sending request for url".
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
