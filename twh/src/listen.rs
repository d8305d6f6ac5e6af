//! `twh listen`: forwards a sandbox tenant's events to a URL of the developer's own machine, signed as deliveries are. It needs
//! no subscription, no public address and no configuration; it reads events over the API and keeps none.

use anyhow::{Context as _, bail};
use clap::Args;
use ipnet::IpNet;
use serde_json::Value;
use std::process::ExitCode;
use std::time::Duration;
use twh_domain::timestamp::Timestamp;
use twh_sinks::outbound::Outbound;
use twh_sinks::secrets::random;
use twh_sinks::webhook::{Endpoint, Message, SECRET_BYTES, SigningSecret};

/// How long a request for events waits on the server, in seconds.
const WAIT_SECONDS: u32 = 20;
/// How long an answer may take besides.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// How long the forwarded-to may take.
const FORWARD_WITHIN: Duration = Duration::from_secs(30);
const AGAIN: Duration = Duration::from_secs(2);
/// Leave to listen is asked for anew this long before it ends.
const ASK_AHEAD_MICROS: i64 = 600 * 1_000_000;

/// What `twh listen` takes.
#[derive(Debug, Args)]
pub(crate) struct ListenArguments {
    /// Where events are posted to, such as http://localhost:3000/hook.
    #[arg(long)]
    forward_to: String,
    /// The API to listen at.
    #[arg(long, env = "TWH_URL", default_value = "http://127.0.0.1:8080")]
    url: String,
    /// A key of the sandbox tenant (twh_test_…).
    #[arg(long, env = "TWH_API_KEY", hide_env_values = true)]
    api_key: String,
    /// Only events of this type or pattern, such as order.*.
    #[arg(long)]
    event_type: Option<String>,
    /// Begins with events that are kept already, after this place among the tenant's; with new ones by default.
    #[arg(long)]
    after: Option<i64>,
    /// The secret to sign with; a new one by default, which is shown.
    #[arg(long)]
    secret: Option<String>,
    /// Ends after so many events.
    #[arg(long)]
    limit: Option<u64>,
}

struct Listener {
    client: reqwest::Client,
    arguments: ListenArguments,
    endpoint: Endpoint,
}

fn say(line: &str) -> anyhow::Result<()> {
    crate::print(&format!("{line}\n")).map(|_| ())
}

/// Listens until it is told to end.
pub(crate) async fn run(arguments: ListenArguments) -> anyhow::Result<ExitCode> {
    let text = match &arguments.secret {
        Some(text) => text.clone(),
        None => SigningSecret::text(&random::<SECRET_BYTES>()?),
    };
    let secret = SigningSecret::parse(&text).context("--secret must be whsec_ and Base64")?;
    // The developer names the address, on the machine that it is called from.
    let anywhere: Vec<IpNet> = ["0.0.0.0/0", "::/0"].iter().filter_map(|network| network.parse().ok()).collect();
    let outbound = Outbound::new(anywhere)?;
    let endpoint = Endpoint::new(&outbound, &arguments.forward_to, vec![secret], FORWARD_WITHIN, None)
        .with_context(|| format!("--forward-to {}", arguments.forward_to))?;
    let client = reqwest::Client::builder().timeout(ANSWER_WITHIN).build()?;
    let listener = Listener { client, arguments, endpoint };
    let (newest, mut until) = listener.ask_for_leave().await?;
    let mut after = listener.arguments.after.unwrap_or(newest);
    say(&format!("Forwarding events after {after} to {}", listener.arguments.forward_to))?;
    say(&format!("They are signed with {text}"))?;
    let mut forwarded = 0;
    loop {
        if until.micros() - now().micros() < ASK_AHEAD_MICROS {
            // There is time left to ask again.
            match listener.ask_for_leave().await {
                Ok((_, later)) => until = later,
                Err(error) => say(&format!("Leave to listen is not renewed; trying again: {error:#}"))?,
            }
        }
        let events = match listener.events(after).await {
            Ok(events) => events,
            Err(error) => {
                say(&format!("The API does not answer; trying again: {error:#}"))?;
                tokio::time::sleep(AGAIN).await;
                continue;
            }
        };
        for event in events.get("data").and_then(Value::as_array).into_iter().flatten() {
            say(&listener.forward(event).await)?;
            forwarded += 1;
            if listener.arguments.limit == Some(forwarded) {
                return Ok(ExitCode::SUCCESS);
            }
        }
        after = events.get("next_after").and_then(Value::as_i64).unwrap_or(after);
    }
}

fn now() -> Timestamp {
    time::OffsetDateTime::now_utc().into()
}

impl Listener {
    fn at(&self, path: &str) -> String {
        format!("{}{path}", self.arguments.url.trim_end_matches('/'))
    }

    /// Has events kept from now on. Says the newest, and until when.
    async fn ask_for_leave(&self) -> anyhow::Result<(i64, Timestamp)> {
        let request = self.client.post(self.at("/v1/webhooks/listen")).bearer_auth(&self.arguments.api_key);
        let answer = answered(request).await?;
        let after = answer.get("after").and_then(Value::as_i64).context("the API says no place to begin at")?;
        let until = answer.get("until").and_then(Value::as_str).and_then(|text| text.parse().ok());
        Ok((after, until.context("the API says no time until which it keeps events")?))
    }

    async fn events(&self, after: i64) -> anyhow::Result<Value> {
        let mut request = self
            .client
            .get(self.at("/v1/events"))
            .query(&[("after", after.to_string()), ("wait_seconds", WAIT_SECONDS.to_string())])
            .bearer_auth(&self.arguments.api_key);
        if let Some(event_type) = &self.arguments.event_type {
            request = request.query(&[("event_type", event_type)]);
        }
        answered(request).await
    }

    /// Posts an event, once, and says in a line what came of it.
    async fn forward(&self, event: &Value) -> String {
        let text = |name: &str| event.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (id, event_type) = (text("id"), text("type"));
        let body = event.to_string();
        let headers =
            [("x-twh-event", event_type.clone()), ("x-twh-delivery", id.clone()), ("x-twh-attempt", "1".to_owned())];
        let timestamp = now().micros().div_euclid(1_000_000);
        let attempt = self.endpoint.post(Message { id: &id, timestamp, body: &body, headers: &headers }).await;
        let outcome = match (attempt.status, attempt.error) {
            (Some(status), _) => status.to_string(),
            (None, error) => error.unwrap_or_else(|| "no answer".to_owned()),
        };
        format!("{} {event_type} {outcome} in {} ms ({id})", text("recorded_at"), attempt.took.as_millis())
    }
}

/// What the API answers; its error in its own words.
async fn answered(request: reqwest::RequestBuilder) -> anyhow::Result<Value> {
    let response = request.send().await?;
    let status = response.status();
    let body: Value = response.json().await.with_context(|| format!("{status}, and no JSON"))?;
    if status.is_success() {
        return Ok(body);
    }
    let text = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    bail!("{status} {}: {}", text("code"), text("message"))
}
