//! A tenant's client.

use crate::{REQUEST_TIMEOUT, http_client};
use anyhow::{Result, bail};
use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{Client, Method, StatusCode};
use serde_json::Value;
use std::time::Duration;
use tokio::process::Command;
use uuid::Uuid;

/// A tenant's client at one server.
#[derive(Debug, Clone)]
pub struct Tenant {
    /// The tenant's id.
    pub id: String,
    /// Its API key.
    pub key: String,
    url: String,
    client: Client,
}

/// An answer, read whole.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body; null where it is not JSON.
    pub body: Value,
}

impl Answer {
    /// A header's text.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The error's code; empty where it is none.
    #[must_use]
    pub fn code(&self) -> &str {
        self.body.get("code").and_then(Value::as_str).unwrap_or_default()
    }

    /// The resource's id; empty where it has none.
    #[must_use]
    pub fn id(&self) -> &str {
        self.body.get("id").and_then(Value::as_str).unwrap_or_default()
    }
}

impl Tenant {
    pub(crate) fn new(id: String, key: String, url: String) -> Result<Self> {
        Ok(Self { id, key, url, client: http_client(REQUEST_TIMEOUT)? })
    }

    /// The same tenant's client at another server; they share connections and settings.
    #[must_use]
    pub fn at(&self, url: &str) -> Self {
        Self { url: url.to_owned(), ..self.clone() }
    }

    /// The same client, which calls with another API key or access token.
    #[must_use]
    pub fn with(&self, credential: &str) -> Self {
        Self { key: credential.to_owned(), ..self.clone() }
    }

    /// Runs another program as the tenant: `TWH_URL` and `TWH_API_KEY` say where and as whom.
    pub fn lend_to(&self, program: &mut Command) {
        program.env("TWH_URL", &self.url).env("TWH_API_KEY", &self.key);
    }

    /// The same client, which waits so long for an answer.
    pub fn with_timeout(self, timeout: Duration) -> Result<Self> {
        Ok(Self { client: http_client(timeout)?, ..self })
    }

    /// Sends a request with exactly these headers and the key.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<Vec<u8>>,
    ) -> Result<Answer> {
        let mut request = self.client.request(method, format!("{}{path}", self.url)).bearer_auth(&self.key);
        for (name, value) in headers {
            request = request.header(*name, HeaderValue::from_str(value)?);
        }
        if let Some(body) = body {
            request = request.body(body);
        }
        let answer = request.send().await?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let body = serde_json::from_slice(&answer.bytes().await?).unwrap_or_default();
        Ok(Answer { status, headers, body })
    }

    /// `POST` with a key of its own.
    pub async fn post(&self, path: &str, body: Value) -> Result<Answer> {
        self.post_as(path, &Uuid::new_v4().to_string(), body).await
    }

    /// `POST` with this key.
    pub async fn post_as(&self, path: &str, key: &str, body: Value) -> Result<Answer> {
        let headers = [("idempotency-key", key), ("content-type", "application/json")];
        self.send(Method::POST, path, &headers, Some(body.to_string().into_bytes())).await
    }

    /// `POST` that must succeed.
    pub async fn done(&self, path: &str, body: Value) -> Result<Answer> {
        let answer = self.post(path, body).await?;
        if answer.status.is_success() { Ok(answer) } else { bail!("POST {path}: {} {}", answer.status, answer.body) }
    }

    /// `GET`.
    pub async fn get(&self, path: &str) -> Result<Answer> {
        self.send(Method::GET, path, &[], None).await
    }

    /// `GET`, its answer as it comes.
    pub async fn raw(&self, path: &str) -> Result<reqwest::Response> {
        Ok(self.client.get(format!("{}{path}", self.url)).bearer_auth(&self.key).send().await?)
    }

    /// A stock item, a location `MAIN` and this much of the item there.
    pub async fn stock(&self, sku: &str, quantity: i64) -> Result<()> {
        self.done("/v1/items", serde_json::json!({ "sku": sku })).await?;
        self.post("/v1/locations", serde_json::json!({ "code": "MAIN" })).await?;
        let lines = serde_json::json!([{ "sku": sku, "quantity": quantity }]);
        self.done(
            "/v1/adjustments",
            serde_json::json!({ "location_code": "MAIN", "reason": "opening", "lines": lines }),
        )
        .await?;
        Ok(())
    }

    /// (on hand, reserved) of an item over all locations.
    pub async fn level(&self, sku: &str) -> Result<(String, String)> {
        let answer = self.get(&format!("/v1/stock?sku={sku}")).await?;
        let text = |key: &str| {
            answer.body.pointer(&format!("/data/0/{key}")).and_then(Value::as_str).unwrap_or("0").to_owned()
        };
        Ok((text("qty_on_hand"), text("qty_reserved")))
    }

    /// How many movements the tenant's ledger holds.
    pub async fn movements(&self) -> Result<i64> {
        let answer = self.get("/v1/movements?limit=1").await?;
        Ok(answer.body.pointer("/data/0/id").and_then(Value::as_i64).unwrap_or_default())
    }
}
