//! Runs roles in one process: prepares what they stand on, starts each, and stops them in order when told to.

use crate::config::Config;
use crate::lag::LagWatch;
use crate::ledger::{start_expiry, start_ledger};
use crate::openapi;
use crate::parts::{KAFKA_TIMEOUT, Parts, cluster_id, partitions, pool, prepare, readers, secrets};
use crate::projections;
use crate::roles::Role;
use crate::webhooks;
use actix_web::{App, HttpServer, middleware, web};
use anyhow::Context as _;
use futures::FutureExt as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use twh_accounts::Accounts;
use twh_accounts::post::Post;
use twh_accounts::sso::{PublicUrl, SignOn};
use twh_api::{Engine, Signer};
use twh_edge::auth::Authenticator;
use twh_edge::body::BodyLimit;
use twh_edge::control::Control;
use twh_edge::guard::{self, OnlyTls, TrustedProxies, cors};
use twh_edge::limits::RateLimits;
use twh_edge::ops::{self, Check, Checks, Lags, Serving};
use twh_edge::reference::Reference;
use twh_edge::request::{around, under_way_per_mille};
use twh_edge::routes::{Routes, not_found};
use twh_edge::tokens::Tokens;
use twh_ingest::{Gateway, LedgerWatch, Replies, Waker};
use twh_processors::sealing;
use twh_schemas::catalogue::{COMMANDS, OUTCOMES};
use twh_sinks::counters::{Counters, Deadlines};
use twh_sinks::kafka::Producer;
use twh_sinks::mail::Mailer;
use twh_sinks::outbound::Outbound;
use twh_sinks::postgres::{self, PgPool};
use twh_sinks::secrets::Secrets;
use twh_sinks::tasks::kept;

/// For look-ups of callers: each is one short query, and its answer is remembered.
const CALLERS_CONNECTIONS: u32 = 5;
/// Between two notes of when keys were last used.
const NOTE_USES_INTERVAL: Duration = Duration::from_secs(30);
/// How long the head of a request may take to arrive.
const HEAD_ARRIVES_WITHIN: Duration = Duration::from_secs(10);
const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// Runs roles until SIGTERM or SIGINT.
pub(crate) async fn run(config: Config, roles: &[Role]) -> anyhow::Result<ExitCode> {
    let names: Vec<_> = roles.iter().map(|role| role.name()).collect();
    let (schemas, warnings) = prepare(&config).await?;
    let pool = pool(&config)?;
    let parts = Parts {
        control: Control::new(pool.clone()),
        pool,
        callers: postgres::connect(&config.database_url, CALLERS_CONNECTIONS, "twh-callers")?,
        readers: readers(&config)?,
        schemas: Arc::new(schemas),
        warnings,
        producers: Mutex::default(),
        writers: Mutex::default(),
        client_id: format!("twh-{}", uuid::Uuid::new_v4().simple()),
        config,
    };
    let stop = CancellationToken::new();
    // Whichever way this function ends, nothing that it started goes on.
    let _stop_on_return = stop.clone().drop_guard();
    let mut tasks = JoinSet::new();
    let (gateway, waker) = if roles.contains(&Role::Ingest) {
        Some(gateway(&parts, &mut tasks, &stop).await?).unzip()
    } else {
        (None, None)
    };
    if roles.contains(&Role::Ledger) {
        start_ledger(&parts, waker, &mut tasks, &stop).await?;
    }
    if roles.contains(&Role::Expiry) {
        start_expiry(&parts, &mut tasks, &stop)?;
    }
    if roles.contains(&Role::Sealing) {
        let (pool, stop) = (parts.pool.clone(), stop.clone());
        tasks.spawn(kept(Role::Sealing.name(), "sealing", move || sealing::run(pool.clone(), stop.clone())).map(Ok));
    }
    if roles.contains(&Role::Projections) {
        projections::start(&parts, &mut tasks, &stop).await?;
    }
    if roles.contains(&Role::Webhooks) {
        webhooks::start(&parts, &mut tasks, &stop).await?;
    }
    let (checks, lags) = (checks(&parts, roles), Lags::default());
    let ops = serve_ops(&parts.config, &checks, &lags)?;
    let server = serve_http(&parts, gateway, roles, (checks, lags), &mut tasks, &stop).await?;
    let (handle, ops_handle) = (server.handle(), ops.handle());
    let (mut server, mut ops) = (tokio::spawn(server), tokio::spawn(ops));
    tracing::info!(
        roles = names.join(","),
        address = %parts.config.http_addr,
        ops_address = %parts.config.ops_addr,
        "started"
    );
    let ended = tokio::select! {
        signal = signal() => signal,
        ended = &mut server => ended.context("the HTTP server ended").and_then(|ended| ended.context("the HTTP server failed")),
        ended = &mut ops => ended.context("the server of metrics ended").and_then(|ended| ended.context("the server of metrics failed")),
        Some(ended) = tasks.join_next() => ended.context("a role ended").and_then(|ended| ended),
    };
    tracing::info!("stopping: no new requests; finishing what is under way");
    let stopping = async {
        handle.stop(true).await;
        stop.cancel();
        while tasks.join_next().await.is_some() {}
        // To the end it says how the stop goes on.
        ops_handle.stop(false).await;
    };
    if tokio::time::timeout(parts.config.shutdown_timeout, stopping).await.is_err() {
        tracing::warn!(
            "stopped before all was finished; nothing acknowledged is lost, the next start goes on from the checkpoint"
        );
    }
    tracing::info!("stopped");
    ended.map(|()| ExitCode::SUCCESS)
}

async fn gateway(
    parts: &Parts,
    tasks: &mut JoinSet<anyhow::Result<()>>,
    stop: &CancellationToken,
) -> anyhow::Result<(web::Data<Gateway>, Waker)> {
    let config = &parts.config;
    let producer =
        Producer::new(&config.kafka_brokers, &format!("{}-ingest", parts.client_id), config.produce_timeout)?;
    parts.uses(&producer);
    let (brokers, client_id) = (config.kafka_brokers.clone(), format!("{}-replies", parts.client_id));
    let (topic, schemas) = (OUTCOMES.full_name(&config.topic_prefix), Arc::clone(&parts.schemas));
    let replies = tokio::task::spawn_blocking(move || Replies::start(&brokers, &client_id, &topic, schemas)).await??;
    let waker = replies.waker();
    let options = twh_ingest::Options {
        process: parts.client_id.clone(),
        commands_topic: COMMANDS.full_name(&config.topic_prefix),
        outcome_wait: config.outcome_wait,
        in_flight_max: config.commands_in_flight,
    };
    let partitions = partitions(config, &producer, &COMMANDS).await?;
    let ledger = LedgerWatch::start(&parts.pool, usize::try_from(partitions)?, cluster_id(&producer).await?).await;
    let ledger = Arc::new(ledger.context("how far the ledger is cannot be read")?);
    let (watch, pool, stop) = (Arc::clone(&ledger), parts.pool.clone(), stop.clone());
    tasks.spawn(async move {
        tokio::select! {
            () = watch.run(&pool) => {}
            () = stop.cancelled() => {}
        }
        // No request is under way any more: what the last of them were told is known to the next process.
        if let Err(error) = watch.write_down(&pool).await {
            tracing::warn!(%error, "how far the log was acknowledged is not written down");
        }
        Ok(())
    });
    let readers = parts.readers.clone();
    let gateway = Gateway::new(options, producer, Arc::clone(&parts.schemas), replies, readers, ledger);
    Ok((web::Data::new(gateway), waker))
}

/// Now and then writes down when keys were last used.
async fn note_uses(authenticator: web::Data<Authenticator>, pool: PgPool, stop: CancellationToken) {
    loop {
        let stopped = tokio::time::timeout(NOTE_USES_INTERVAL, stop.cancelled()).await.is_ok();
        if let Err(error) = authenticator.note_uses(&pool).await {
            tracing::warn!(%error, "when keys were last used is not written down");
        }
        if stopped {
            return;
        }
    }
}

async fn serve_http(
    parts: &Parts,
    gateway: Option<web::Data<Gateway>>,
    roles: &[Role],
    (checks, lags): (Checks, Lags),
    tasks: &mut JoinSet<anyhow::Result<()>>,
    stop: &CancellationToken,
) -> anyhow::Result<actix_web::dev::Server> {
    let config = &parts.config;
    if roles.contains(&Role::Api) {
        let watch = LagWatch::new(config, parts.pool.clone(), lags)?;
        let (watch, stop) = (Arc::new(watch), stop.clone());
        let run = move || {
            let (watch, stop) = (Arc::clone(&watch), stop.clone());
            async move { watch.run(stop).await }
        };
        // How far groups are is told by one that is seldom asked: it is not what the API stands on.
        tasks.spawn(kept("lag", "lag", run).map(Ok));
    }
    let (api, accounts) = (roles.contains(&Role::Api), roles.contains(&Role::Accounts));
    let callers = if gateway.is_some() || api || accounts { Some(callers(parts).await?) } else { None };
    if let Some((authenticator, _)) = &callers {
        let pool = postgres::connect(&config.database_url, 1, "twh-uses")?;
        let (authenticator, stop) = (authenticator.clone(), stop.clone());
        let run = move || note_uses(authenticator.clone(), pool.clone(), stop.clone());
        tasks.spawn(kept("keys", "key_uses", run).map(Ok));
    }
    let reads = if api { Some(reads(parts).await?) } else { None };
    let hooks = if accounts { Some(hooks(parts)?) } else { None };
    let body_limit = BodyLimit(config.body_bytes_max);
    let limits = limits(config, gateway.clone())?;
    let reference = Reference::new(&openapi::document());
    let proxies = TrustedProxies(config.trusted_proxies.clone());
    let origins = config.cors_origins.clone();
    let tls = tls(config)?;
    let only_tls = OnlyTls(tls.is_some() || config.public_url.as_ref().is_some_and(PublicUrl::is_secure));
    let factory = move || {
        let mut routes = Routes::new();
        if gateway.is_some() {
            routes = routes.merge(twh_ingest::routes());
        }
        if api {
            routes = routes.merge(twh_api::routes());
        }
        if accounts {
            routes = routes.merge(twh_accounts::routes()).merge(twh_webhooks::routes());
        }
        let app = App::new().app_data(body_limit);
        let app = match &reads {
            Some(reads) => app.app_data(reads.clone()),
            None => app,
        };
        let app = match &callers {
            Some((authenticator, accounts)) => app.app_data(authenticator.clone()).app_data(accounts.clone()),
            None => app,
        };
        let app = match &gateway {
            Some(gateway) => app.app_data(gateway.clone()),
            None => app,
        };
        let app = match &hooks {
            Some(hooks) => app.app_data(hooks.clone()),
            None => app,
        };
        let app = match &limits {
            Some(limits) => app.app_data(web::Data::new(limits.limiter())),
            None => app,
        };
        app.app_data(proxies.clone())
            .app_data(only_tls)
            .wrap(middleware::from_fn(around))
            .wrap(middleware::Condition::new(!origins.is_empty(), cors(&origins)))
            .configure(|config| ops::probes(&checks, config))
            .configure(|config| reference.configure(config))
            .configure(|config| routes.configure(config))
            .default_service(web::to(not_found))
    };
    let shutdown_seconds = config.shutdown_timeout.as_secs().max(1);
    let server = HttpServer::new(factory)
        .workers(config.http_workers)
        .keep_alive(KEEP_ALIVE)
        .client_request_timeout(HEAD_ARRIVES_WITHIN)
        .shutdown_timeout(shutdown_seconds)
        .disable_signals();
    let listener = guard::listener(config.http_addr);
    let server = match tls {
        Some(tls) => listener.and_then(|listener| server.listen_rustls_0_23(listener, tls)),
        None => listener.and_then(|listener| server.listen(listener)),
    };
    let server = server.with_context(|| format!("TWH_HTTP_ADDR {} cannot be served", config.http_addr))?;
    Ok(server.run())
}

/// Serves what is for those who run it, at an address of its own.
fn serve_ops(config: &Config, checks: &Checks, lags: &Lags) -> anyhow::Result<actix_web::dev::Server> {
    let (checks, lags) = (checks.clone(), lags.clone());
    let factory = move || {
        App::new()
            .wrap(middleware::from_fn(around))
            .configure(|config| ops::probes(&checks, config))
            .configure(|config| ops::configure(&lags, config))
            .default_service(web::to(not_found))
    };
    let server = HttpServer::new(factory).workers(1).client_request_timeout(HEAD_ARRIVES_WITHIN).disable_signals();
    let server = server.bind(config.ops_addr);
    Ok(server.with_context(|| format!("TWH_OPS_ADDR {} cannot be served", config.ops_addr))?.run())
}

/// What the read side works with.
async fn reads(parts: &Parts) -> anyhow::Result<web::Data<twh_api::Reads>> {
    let config = &parts.config;
    let asked = Producer::new(&config.kafka_brokers, &format!("{}-partitions", parts.client_id), KAFKA_TIMEOUT)?;
    let partitions = partitions(config, &asked, &COMMANDS).await?;
    Ok(web::Data::new(twh_api::Reads {
        pool: parts.readers.clone(),
        wait: config.read_wait,
        signer: config.ledger_key_file.as_deref().map(|file| signer(file, &config.ledger_key_name)).transpose()?,
        engine: projections::elastic(config)?.map(Engine::new),
        secrets: secrets(config)?,
        partitions,
    }))
}

/// What HTTPS is served with, where there is a certificate.
fn tls(config: &Config) -> anyhow::Result<Option<rustls::ServerConfig>> {
    match (&config.tls_certificate_file, &config.tls_key_file) {
        (Some(certificate), Some(key)) => Ok(Some(guard::tls(certificate, key).context("HTTPS cannot be served")?)),
        (None, None) => Ok(None),
        _ => anyhow::bail!("TWH_TLS_CERTIFICATE_FILE and TWH_TLS_KEY_FILE belong together: set both or none"),
    }
}

/// What finds out who calls, and what changes who may.
async fn callers(parts: &Parts) -> anyhow::Result<(web::Data<Authenticator>, web::Data<Accounts>)> {
    let secrets = secrets(&parts.config)?;
    let tokens = Arc::new(Tokens::load(parts.callers.clone(), secrets.clone()).await?);
    let authenticator = web::Data::new(Authenticator::new(parts.callers.clone(), secrets.clone(), Arc::clone(&tokens)));
    let public_url = public_url(&parts.config)?;
    let post = post(parts, &secrets, &public_url)?;
    let sign_on = SignOn::new(public_url, Outbound::new(parts.config.outbound_allowed.clone())?);
    let accounts = Accounts::new(parts.control.clone(), secrets, tokens, authenticator.clone(), sign_on, post)?;
    Ok((authenticator, web::Data::new(accounts)))
}

/// What the endpoints of webhooks stand on.
fn hooks(parts: &Parts) -> anyhow::Result<web::Data<twh_webhooks::Webhooks>> {
    let outbound = Outbound::new(parts.config.outbound_allowed.clone())?;
    let (control, readers, secrets) = (parts.control.clone(), parts.readers.clone(), secrets(&parts.config)?);
    Ok(web::Data::new(twh_webhooks::Webhooks { control, readers, secrets, outbound }))
}

/// Where people reach the API.
fn public_url(config: &Config) -> anyhow::Result<PublicUrl> {
    let scheme = if config.tls_certificate_file.is_some() { "https" } else { "http" };
    let own = || PublicUrl::parse(&format!("{scheme}://{}", config.http_addr)).map_err(anyhow::Error::msg);
    config.public_url.clone().map_or_else(own, Ok)
}

/// Where mails are left, if there are any.
fn post(parts: &Parts, secrets: &Secrets, public_url: &PublicUrl) -> anyhow::Result<Post> {
    let Config { smtp_url, mail_from, .. } = &parts.config;
    if smtp_url.is_empty() {
        return Ok(Post::none());
    }
    let mailer = Mailer::new(smtp_url, mail_from).context("TWH_SMTP_URL and TWH_MAIL_FROM do not make mails")?;
    Ok(Post::start(mailer, parts.pool.clone(), secrets.clone(), public_url.clone()))
}

/// What holds tenants to the limits of their plans. Redis may be away: it is looked for in the background.
fn limits(config: &Config, gateway: Option<web::Data<Gateway>>) -> anyhow::Result<Option<RateLimits>> {
    if !config.rate_limits {
        return Ok(None);
    }
    let counters = Counters::new(&config.redis_url, Deadlines::default()).context("TWH_REDIS_URL is not usable")?;
    // A process without commands has requests under way all the same.
    let requests_max = config.requests_in_flight;
    let pressure = move || {
        let commands = gateway.as_ref().map_or(0, |gateway| gateway.in_flight_per_mille());
        commands.max(under_way_per_mille(requests_max))
    };
    Ok(Some(RateLimits::new(Some(counters), config.plan_limits, pressure)))
}

/// What signs checkpoints of ledgers.
fn signer(file: &Path, name: &str) -> anyhow::Result<Signer> {
    let pem = std::fs::read_to_string(file)
        .with_context(|| format!("TWH_LEDGER_KEY_FILE {} cannot be read; twh ledger-key makes one", file.display()))?;
    Signer::from_pem(name, &pem)
        .with_context(|| format!("TWH_LEDGER_KEY_FILE {} holds no Ed25519 key as PKCS#8 PEM", file.display()))
}

/// What keeps the process at work without requests standing on it.
const IN_THE_BACKGROUND: [&str; 4] = ["limits", "keys", "lag", "mail"];

/// What `/ready` asks: the very pool that callers are looked up with, and the producers and pools that roles write with.
fn checks(parts: &Parts, roles: &[Role]) -> Checks {
    let pool = parts.callers.clone();
    let database: Check = Arc::new(move || {
        let pool = pool.clone();
        async move { postgres::ping(&pool).await.map_err(|error| error.to_string()) }.boxed()
    });
    let mut checks = vec![("database", database)];
    let producers = parts.producers.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if !producers.is_empty() {
        checks.push(("kafka", Arc::new(move || reach(producers.clone()).boxed())));
    }
    let mut besides = Vec::new();
    let mut writers = parts.writers.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if roles.iter().any(|role| role.writes_with_the_shared_pool()) {
        writers.push(parts.pool.clone());
    }
    if !writers.is_empty() {
        let writes: Check = Arc::new(move || write(writers.clone()).boxed());
        // Where nothing can be decided, no client gets the answer to a write.
        let on = if roles.contains(&Role::Ledger) { &mut checks } else { &mut besides };
        on.push(("database_writes", writes));
    }
    let background = IN_THE_BACKGROUND.map(|role| Serving { role, answers: false, answers_as_a_whole: false });
    let roles = roles.iter().map(|role| Serving {
        role: role.name(),
        answers: role.answers_requests(),
        answers_as_a_whole: *role == Role::Ledger,
    });
    Checks { parts: checks, besides, roles: roles.chain(background).collect(), warnings: parts.warnings.clone() }
}

async fn write(pools: Vec<PgPool>) -> Result<(), String> {
    futures::future::try_join_all(pools.iter().map(postgres::takes_writes)).await.map(|_| ())
}

async fn reach(producers: Vec<Producer>) -> Result<(), String> {
    let asked = producers.into_iter().map(|producer| async move {
        let reached = tokio::task::spawn_blocking(move || producer.reaches_cluster(Duration::from_secs(2)));
        reached.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    });
    futures::future::try_join_all(asked).await.map(|_| ())
}

async fn signal() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
