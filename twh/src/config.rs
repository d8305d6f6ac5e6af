//! One configuration for every role: environment variables with defaults that run on a laptop. All that is wrong with it is
//! told at once, at start.

use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use twh_accounts::sso::PublicUrl;
use twh_edge::limits::Policies;

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// One JSON object a line, for machines.
    Json,
    /// For people.
    Text,
}

macro_rules! settings {
    ($($(#[doc = $doc:literal])* $field:ident : $type:ty = $name:literal, $default:literal, $parse:expr;)*) => {
        /// The configuration.
        #[derive(Debug, Clone)]
        pub(crate) struct Config { $($(#[doc = $doc])* pub(crate) $field: $type,)* }

        impl Config {
            /// Reads the configuration from a set of variables.
            fn from_variables(variables: &BTreeMap<String, String>) -> Result<Self, Vec<String>> {
                let mut errors = Vec::new();
                $(let $field = {
                    let text = variables.get($name).map_or($default, String::as_str);
                    let parse: fn(&str) -> Result<$type, String> = $parse;
                    parse(text).map_err(|error| errors.push(format!("{}={text:?}: {error}", $name))).ok()
                };)*
                let known = [$($name),*];
                for name in variables.keys().filter(|name| name.starts_with("TWH_") && !known.contains(&name.as_str()) && !is_foreign(name)) {
                    errors.push(format!("{name} is no setting (twh config lists them all)"));
                }
                match ($($field,)*) {
                    ($(Some($field),)*) if errors.is_empty() => Ok(Self { $($field,)* }),
                    _ => Err(errors),
                }
            }

            /// The reference: every setting, its default and what it does, as a Markdown table.
            pub(crate) fn reference() -> String {
                let mut table = String::from("| variable | default | what it does |\n|---|---|---|\n");
                $(table.push_str(&format!("| `{}` | {} | {} |\n", $name, shown($default), [$($doc.trim()),*].join(" ")));)*
                table
            }
        }
    };
}

/// Variables of the same environment that other programs read, not this process.
fn is_foreign(name: &str) -> bool {
    ["TWH_URL", "TWH_API_KEY"].contains(&name)
        || name.starts_with("TWH_DEV_")
        || name.starts_with("TWH_DEMO_")
        || name.starts_with("TWH_TEST_")
}

fn shown(default: &str) -> String {
    if default.is_empty() { "–".to_owned() } else { format!("`{default}`") }
}

fn address(value: &str, example: &str) -> Result<SocketAddr, String> {
    value.parse().map_err(|_| format!("must be an address such as {example}"))
}

fn text(value: &str) -> Result<String, String> {
    if value.trim().is_empty() { Err("must not be empty".to_owned()) } else { Ok(value.to_owned()) }
}

/// A prefix becomes part of topic names: what Kafka allows there.
fn prefix(value: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if value.len() <= 100 && value.chars().all(allowed) {
        Ok(value.to_owned())
    } else {
        Err("may hold only letters, digits, '.', '-' and '_' (100 at most)".to_owned())
    }
}

/// A name in a signed note ends with its line's next space.
fn key_name(value: &str) -> Result<String, String> {
    let sound = !value.is_empty() && value.len() <= 100 && !value.contains(|c: char| c.is_whitespace() || c == '+');
    if sound { Ok(value.to_owned()) } else { Err("must hold no space and no + (100 characters at most)".to_owned()) }
}

fn within<T: std::str::FromStr + PartialOrd + std::fmt::Display>(value: &str, low: T, high: T) -> Result<T, String> {
    match value.parse::<T>() {
        Ok(number) if number >= low && number <= high => Ok(number),
        _ => Err(format!("must be a whole number from {low} to {high}")),
    }
}

fn millis(value: &str, low: u64, high: u64) -> Result<Duration, String> {
    within(value, low, high).map(Duration::from_millis)
}

fn seconds(value: &str) -> Result<Vec<u64>, String> {
    let parsed: Option<Vec<u64>> = value.split(',').map(|number| number.trim().parse().ok()).collect();
    parsed
        .filter(|all| !all.is_empty() && all.len() <= 50 && all.iter().all(|one| (1..=604_800).contains(one)))
        .ok_or_else(|| "must be 1 to 50 numbers from 1 to 604800, such as 5,30,120".to_owned())
}

fn networks(value: &str) -> Result<Vec<IpNet>, String> {
    let named = value.split(',').map(str::trim).filter(|network| !network.is_empty());
    named.map(|network| network.parse().map_err(|_| format!("{network:?} is no network such as 10.1.0.0/16"))).collect()
}

/// Scheme and host, as browsers send them: without a path.
fn origins(value: &str) -> Result<Vec<String>, String> {
    let named = value.split(',').map(str::trim).filter(|origin| !origin.is_empty());
    let sound = |origin: &str| {
        let host = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
        origin == "*" || host.is_some_and(|host| !host.is_empty() && !host.contains(['/', '?', '#', '@', ' ']))
    };
    named
        .map(|origin| match sound(origin) {
            true => Ok(origin.to_owned()),
            false => Err(format!("{origin:?} is no origin such as https://app.example.com")),
        })
        .collect()
}

fn switch(value: &str) -> Result<bool, String> {
    match value {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("must be on or off".to_owned()),
    }
}

settings! {
    /// Where the API is served, and `/health` and `/ready`.
    http_addr: SocketAddr = "TWH_HTTP_ADDR", "127.0.0.1:8080", |v| address(v, "127.0.0.1:8080");
    /// Where `/metrics` and `/lag` are served, and `/health` and `/ready` again, without a key: for those who run it only.
    ops_addr: SocketAddr = "TWH_OPS_ADDR", "127.0.0.1:8081", |v| address(v, "127.0.0.1:8081");
    /// Kafka's bootstrap servers.
    kafka_brokers: String = "TWH_KAFKA_BROKERS", "127.0.0.1:19092", text;
    /// The schema registry's Confluent API.
    schema_registry_url: String = "TWH_SCHEMA_REGISTRY_URL", "http://127.0.0.1:18081/apis/ccompat/v7", text;
    /// The Postgres database.
    database_url: String = "TWH_DATABASE_URL", "postgres://twh@127.0.0.1:15432/twh", text;
    /// Most connections to Postgres.
    database_connections: u32 = "TWH_DATABASE_CONNECTIONS", "20", |v| within(v, 2, 1_000);
    /// Leads the name of every topic, schema subject and consumer group, so that environments can share a cluster.
    topic_prefix: String = "TWH_TOPIC_PREFIX", "", prefix;
    /// Leads the name of every consumer group, after the topic prefix.
    group_prefix: String = "TWH_GROUP_PREFIX", "", prefix;
    /// How long a consumer group waits for a silent process, in milliseconds, before its partitions are given to others; not below the broker's `group.min.session.timeout.ms`. Below 6000 the others may also wait for what the silent one had open in PostgreSQL.
    group_session: Duration = "TWH_GROUP_SESSION_MS", "10000", |v| millis(v, 1_000, 300_000);
    /// Partitions of the topics that are keyed by tenant; read when they are made, never changed afterwards.
    topic_partitions: i32 = "TWH_TOPIC_PARTITIONS", "6", |v| within(v, 1, 10_000);
    /// Copies of each partition.
    topic_replication: i32 = "TWH_TOPIC_REPLICATION", "1", |v| within(v, 1, 10);
    /// Whether a process starts only where the topics are as durable as the promise needs it: three copies of each partition, two of them in sync, no unclean leader election ([operations.md](operations.md#what-kafka-must-keep)). `off` warns.
    kafka_require_replication: bool = "TWH_KAFKA_REQUIRE_REPLICATION", "off", switch;
    /// How long a request waits for its outcome, in milliseconds, before it is answered with 202.
    outcome_wait: Duration = "TWH_OUTCOME_WAIT_MS", "10000", |v| millis(v, 1, 600_000);
    /// How long the log may take to acknowledge a command, in milliseconds, before it is answered with 503.
    produce_timeout: Duration = "TWH_PRODUCE_TIMEOUT_MS", "5000", |v| millis(v, 100, 600_000);
    /// How long a read waits, in milliseconds, for the position that it asks for, before it is answered with 503.
    read_wait: Duration = "TWH_READ_WAIT_MS", "5000", |v| millis(v, 0, 600_000);
    /// How long a query of a read may take, in milliseconds, before it is ended and answered with 503.
    statement_timeout: Duration = "TWH_STATEMENT_TIMEOUT_MS", "10000", |v| millis(v, 100, 600_000);
    /// Commands that may be under way at once in a process; more are answered with 503.
    commands_in_flight: usize = "TWH_COMMANDS_IN_FLIGHT", "20000", |v| within(v, 1, 1_000_000);
    /// Requests of all kinds that a process is made for at once: as they come near, the lesser plans are shed ([limits.md](limits.md)).
    requests_in_flight: usize = "TWH_REQUESTS_IN_FLIGHT", "10000", |v| within(v, 1, 1_000_000);
    /// Whether tenants and keys are held to the limits of their plans.
    rate_limits: bool = "TWH_RATE_LIMITS", "on", switch;
    /// Rows of the table in [limits.md](limits.md) to replace: requests a second and burst of the tenant, then of a key, such as `free=10/50,5/25;growth=50/250,25/125`.
    plan_limits: Policies = "TWH_PLAN_LIMITS", "", |v| Policies::parse(v).map_err(|errors| errors.join("; "));
    /// Redis, where the processes share what is left of each limit. While it is away each has its own.
    redis_url: String = "TWH_REDIS_URL", "redis://127.0.0.1:16379", text;
    /// Largest request body, in bytes; larger ones are answered with 413.
    body_bytes_max: usize = "TWH_BODY_BYTES_MAX", "2097152", |v| within(v, 1_024, 104_857_600);
    /// Most commands that the ledger applies in one transaction.
    batch_commands: usize = "TWH_BATCH_COMMANDS", "2000", |v| within(v, 1, 100_000);
    /// Most transactions in which a process writes the ledger at once. Partitions share them: with fewer, each holds more.
    ledger_transactions: usize = "TWH_LEDGER_TRANSACTIONS", "2", |v| within(v, 1, 64);
    /// The Ed25519 key, as PKCS#8 PEM, that signs checkpoints of ledgers (`twh ledger-key` makes one); without it there are none.
    ledger_key_file: Option<PathBuf> = "TWH_LEDGER_KEY_FILE", "", |v| Ok(if v.is_empty() { None } else { Some(v.into()) });
    /// The key's name in the checkpoints that it signs.
    ledger_key_name: String = "TWH_LEDGER_KEY_NAME", "twh", key_name;
    /// The master keys that secrets are sealed and hashed with, newest first (`twh secrets new` makes one).
    secrets_file: Option<PathBuf> = "TWH_SECRETS_FILE", "", |v| Ok(if v.is_empty() { None } else { Some(v.into()) });
    /// Where browsers reach the API, such as `https://twh.example.com`; `http://` and the address in `TWH_HTTP_ADDR` where it is not set.
    public_url: Option<PublicUrl> = "TWH_PUBLIC_URL", "", |v| if v.is_empty() { Ok(None) } else { PublicUrl::parse(v).map(Some) };
    /// The server that mails go by, such as `smtps://user:password@mail.example.com` or, with STARTTLS, `smtp://mail.example.com:587?tls=required`; without it there are none.
    smtp_url: String = "TWH_SMTP_URL", "", |v| Ok(v.to_owned());
    /// Whom mails are from, such as `Stock <stock@example.com>`.
    mail_from: String = "TWH_MAIL_FROM", "", |v| Ok(v.to_owned());
    /// The search engine (Elasticsearch 8), such as `https://user:password@search.example.com:9200`; without it PostgreSQL answers searches.
    search_url: String = "TWH_SEARCH_URL", "", |v| Ok(v.to_owned());
    /// Networks that are not global, such as `10.1.0.0/16,192.168.7.2/32`, to which requests may go whose address a customer gave (identity providers, webhooks), also by `http`.
    outbound_allowed: Vec<IpNet> = "TWH_OUTBOUND_ALLOWED", "", networks;
    /// Seconds between the attempts of a webhook delivery; after the last it is given up. What waits for a subscriber in quarantine is given up after their sum.
    webhook_retry_seconds: Vec<u64> = "TWH_WEBHOOK_RETRY_SECONDS", "5,30,120,600,1800,3600,10800,21600,43200,86400,86400", seconds;
    /// Seconds for which a subscriber must have failed, five times or more in a row, before it is put in quarantine: probed, its queue kept.
    webhook_quarantine: Duration = "TWH_WEBHOOK_QUARANTINE_SECONDS", "60", |v| within(v, 1, 86_400).map(Duration::from_secs);
    /// The longest pause between two probes of a subscriber in quarantine, in seconds.
    webhook_probe_max: Duration = "TWH_WEBHOOK_PROBE_SECONDS", "900", |v| within(v, 1, 86_400).map(Duration::from_secs);
    /// Days for which events and deliveries are kept, for retries and replays.
    webhook_keep: Duration = "TWH_WEBHOOK_KEEP_DAYS", "30", |v| within(v, 7, 3_650).map(|days: u64| Duration::from_secs(days * 86_400));
    /// The certificate (its chain, the own first) to serve HTTPS with, TLS 1.3 only, in PEM; read at start.
    tls_certificate_file: Option<PathBuf> = "TWH_TLS_CERTIFICATE_FILE", "", |v| Ok(if v.is_empty() { None } else { Some(v.into()) });
    /// The certificate's key, in PEM.
    tls_key_file: Option<PathBuf> = "TWH_TLS_KEY_FILE", "", |v| Ok(if v.is_empty() { None } else { Some(v.into()) });
    /// The proxies before this process, such as `10.0.0.0/8`: their `X-Forwarded-For` says where a request comes from.
    trusted_proxies: Vec<IpNet> = "TWH_TRUSTED_PROXIES", "", networks;
    /// Origins whose scripts may call the API, such as `https://app.example.com`; `*` for all. They bring a key or token of their own.
    cors_origins: Vec<String> = "TWH_CORS_ORIGINS", "", origins;
    /// Threads that serve HTTP.
    http_workers: usize = "TWH_HTTP_WORKERS", "2", |v| within(v, 1, 1_024);
    /// How long a stopping process may take to finish what is under way, in milliseconds.
    shutdown_timeout: Duration = "TWH_SHUTDOWN_TIMEOUT_MS", "30000", |v| millis(v, 100, 3_600_000);
    /// What is logged: a level, or filters such as `info,twh_processors=debug`.
    log: String = "TWH_LOG", "info", text;
    /// How it is logged: `json` or `text`.
    log_format: LogFormat = "TWH_LOG_FORMAT", "json", |v| match v { "json" => Ok(LogFormat::Json), "text" => Ok(LogFormat::Text), _ => Err("must be json or text".to_owned()) };
}

impl Config {
    /// Reads the configuration of this process.
    pub(crate) fn from_env() -> anyhow::Result<Self> {
        Self::from_variables(&std::env::vars().collect())
            .map_err(|errors| anyhow::anyhow!("the configuration is not usable:\n  {}", errors.join("\n  ")))
    }
}
