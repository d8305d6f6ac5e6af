//! Search: how late answers come from a million items while stock moves, how soon what is written is found, and how fast an
//! index is made.

use crate::apply;
use crate::environment::{Environment, Process};
use crate::http::{Connection, get};
use crate::load::{Load, Step, closed_loop, post, step};
use crate::median::median;
use crate::per_second;
use crate::report::{Bar, Report, Row};
use crate::workload::{command, sku};
use anyhow::{Context as _, Result, bail};
use hyper::Method;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use twh_accounts::provision::NewTenant;
use twh_domain::id::{ItemId, TenantId};
use twh_sinks::postgres::builds::{self, Projection, State};
use twh_sinks::postgres::sqlx;
use twh_sinks::search::elastic::{Elastic, IndexedItem};
use uuid::Uuid;

/// Words that names are made of. The n-th is drawn in proportion to 1/n, as words of real names are (Zipf).
const VOCABULARY: usize = 20_000;
const WORDS_A_NAME: usize = 4;
const CATEGORIES: usize = 40;
/// Searches a second, and the bar for 95 of a hundred.
const SEARCHES_PER_SECOND: f64 = 50.0;
const P95_MS: f64 = 100.0;
const SEARCHERS: usize = 16;
/// What there is of the n-th item at first is n modulo this: one of twelve is sold out, as in shops (8.3 % of what they sell; Gruen,
/// Corsten and Bharadwaj, Retail Out-of-Stocks, 2002). A movement that takes the last of an item, or adds the first, changes where it
/// is available: one of eight.
const STOCK: usize = 12;
/// Items that are counted in with one command.
const ITEMS_A_COMMAND: usize = 100;
/// Searches of each kind before those that count: the engine compiles what it runs often, for minutes where the cores are busy, and
/// merges what was counted in.
const WARM_UP: Duration = Duration::from_secs(120);
/// How often each kind is measured, in turn: what else the machine does at a time is not to decide.
const REPEATS: usize = 3;
/// Movements a second meanwhile, in requests of so many. Each takes one of an item, or adds one.
const MOVEMENTS_PER_SECOND: f64 = 1_000.0;
const MOVEMENTS_A_REQUEST: usize = 20;
/// Movements of one command. Five, as in a real month of a shop (Online Retail, December 2010: 42,481 lines in 8,023 commands); and one,
/// which costs most: each has its own key, its own answer and its own event to be applied.
const LINES_A_COMMAND: usize = 5;
const DEAREST: usize = 1;
const MOVERS: usize = 8;
/// Documents that are written with nothing around it.
const BARE_DOCUMENTS: usize = 100_000;
const BARE_AT_ONCE: usize = 1_000;
const NAIVE_SEARCHES: usize = 5;
/// Items that are made and looked for until they are found.
const FOUND_SAMPLES: usize = 40;
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// A build that stands still for so long has failed; so has an item that is not found.
const STANDSTILL: Duration = Duration::from_secs(120);

/// What is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// A SKU.
    Code,
    /// Two words of a name.
    Words,
    /// The same, one of them with two letters that changed places.
    Misspelt,
}

impl Asked {
    const ALL: [Self; 3] = [Self::Code, Self::Words, Self::Misspelt];

    const fn name(self) -> &'static str {
        match self {
            Self::Code => "exact codes",
            Self::Words => "exact words",
            Self::Misspelt => "misspelt words",
        }
    }
}

/// Items with names: the n-th is the same in every run.
#[derive(Debug, Clone)]
struct Items {
    words: Arc<Vec<String>>,
    count: usize,
    /// What there is of those that have moved, as each mover knows it of its own.
    moved: Arc<[Mutex<HashMap<usize, usize>>; MOVERS]>,
}

impl Items {
    fn new(count: usize) -> Self {
        const ONSETS: &[u8] = b"bcdfghjklmnprstvwz";
        const VOWELS: &[u8] = b"aeiou";
        let mut random = fastrand::Rng::with_seed(11);
        let mut letter = |of: &[u8]| of.get(random.usize(..of.len())).copied().map_or('x', char::from);
        let mut words: Vec<String> = Vec::with_capacity(VOCABULARY);
        for number in 0..VOCABULARY {
            let word = (0..2 + number % 3).flat_map(|_| [letter(ONSETS), letter(VOWELS)]).collect::<String>();
            words.push(format!("{word}{}", letter(ONSETS)));
        }
        Self { words: Arc::new(words), count, moved: Arc::default() }
    }

    /// The words of an item's name.
    fn name(&self, item: usize) -> Vec<&str> {
        let mut random = fastrand::Rng::with_seed(item as u64);
        (0..WORDS_A_NAME)
            .filter_map(|_| {
                let rank = (VOCABULARY as f64).powf(random.f64()) as usize - 1;
                self.words.get(rank).map(String::as_str)
            })
            .collect()
    }

    fn body(&self, item: usize) -> String {
        let (code, name, category) = (sku(item), self.name(item).join(" "), item % CATEGORIES);
        format!(r#"{{"sku":"{code}","name":"{name}","metadata":{{"category":"c{category}"}}}}"#)
    }

    /// What someone types who looks for an item.
    fn query(&self, asked: Asked, random: &mut fastrand::Rng) -> String {
        let item = random.usize(..self.count);
        let words = self.name(item);
        let (first, last) = (words.first().copied().unwrap_or_default(), words.last().copied().unwrap_or_default());
        match asked {
            Asked::Code => sku(item),
            Asked::Words => format!("{first}+{last}"),
            Asked::Misspelt => {
                let mut letters: Vec<char> = last.chars().collect();
                letters.swap(1, 2);
                format!("{first}+{}", letters.into_iter().collect::<String>())
            }
        }
    }
}

/// Makes the tenant and its items.
async fn fill(environment: &Environment, report: &mut Report, items: &Items) -> Result<NewTenant> {
    let mut made = environment.tenants(1).await?;
    let Some(tenant) = made.pop() else { bail!("no tenant was made") };
    let id = tenant.tenant_id;
    apply::backlog(environment, std::iter::once(command(id, "location.create", r#"{"code":"MAIN"}"#))).await?;
    let commands = (0..items.count).map(|item| command(id, "item.create", &items.body(item)));
    let drained = apply::backlog(environment, commands).await?;
    report.add(Row::new(format!("{} items created", items.count), drained.per_second, "commands/s"));
    sqlx::query("analyze items, search_words").execute(&environment.pool).await?;
    Ok(tenant)
}

/// Counts in what there is of the items at first.
async fn stock(environment: &Environment, tenant: TenantId, items: &Items) -> Result<()> {
    let stocked: Vec<_> = (0..items.count).filter(|item| item % STOCK > 0).collect();
    let counted = stocked.chunks(ITEMS_A_COMMAND).map(|some| {
        let line = |item: &usize| format!(r#"{{"sku":"{}","quantity":{}}}"#, sku(*item), item % STOCK);
        let lines = some.iter().map(line).collect::<Vec<_>>().join(",");
        command(
            tenant,
            "adjustment.create",
            &format!(r#"{{"location_code":"MAIN","reason":"opening","lines":[{lines}]}}"#),
        )
    });
    apply::backlog(environment, counted).await?;
    sqlx::query("analyze stock_levels").execute(&environment.pool).await?;
    Ok(())
}

/// A pattern over all names: the way that is first thought of. The median of a few, in milliseconds.
async fn naive(environment: &Environment, tenant: TenantId, items: &Items) -> Result<f64> {
    let mut random = fastrand::Rng::with_seed(3);
    let mut times = Vec::new();
    for _ in 0..NAIVE_SEARCHES {
        let query = items.query(Asked::Words, &mut random);
        let patterns: Vec<_> = query.split('+').map(|word| format!("%{word}%")).collect();
        let begun = Instant::now();
        sqlx::query(
            "select id, document from items where tenant_id = $1 and document ->> 'name' ilike all ($2)
             order by document ->> 'name' limit 20",
        )
        .bind(tenant.0)
        .bind(patterns)
        .fetch_all(&environment.pool)
        .await?;
        times.push(begun.elapsed().as_secs_f64() * 1_000.0);
    }
    median(times).context("nothing was searched for")
}

/// Documents a second into an index, with nothing to read, to fold or to wait for.
async fn bare(environment: &Environment, elastic: &Elastic, tenant: TenantId) -> Result<f64> {
    let documents: Vec<(Uuid, String)> =
        sqlx::query_as("select id, document::text from items where tenant_id = $1 limit $2")
            .bind(tenant.0)
            .bind(BARE_DOCUMENTS as i64)
            .fetch_all(&environment.pool)
            .await?;
    let mut items = Vec::with_capacity(documents.len());
    for (id, document) in &documents {
        let mut item = IndexedItem::new(tenant, ItemId(*id));
        item.describe(document)?;
        item.sequence = 1;
        items.push(item);
    }
    let index = format!("twh-bare-{}", environment.topic(""));
    let index = index.trim_end_matches('.');
    elastic.create(index).await?;
    let begun = Instant::now();
    for some in items.chunks(BARE_AT_ONCE) {
        elastic.write(index, some, false).await?;
    }
    let rate = per_second(items.len() as u64, begun.elapsed());
    elastic.delete(index).await?;
    Ok(rate)
}

/// How many events there are.
async fn events(environment: &Environment) -> Result<i64> {
    let sum = "select coalesce(sum(event_sequence), 0)::bigint from ledger_heads";
    Ok(sqlx::query_scalar(sum).fetch_one(&environment.pool).await?)
}

/// Waits until the build that answers has read all events; says how many it read in a second.
async fn built(environment: &Environment, projection: Projection) -> Result<f64> {
    let events = events(environment).await?;
    let (mut last, mut moved, mut begun) = (0, Instant::now(), None);
    loop {
        let build = builds::in_state(&environment.pool, projection, State::Serving).await?;
        let done = match &build {
            Some(build) => builds::positions(&environment.pool, build).await?.values().sum::<i64>(),
            None => 0,
        };
        if done > last {
            (last, moved) = (done, Instant::now());
            let (at, first) = *begun.get_or_insert((moved, done));
            if done >= events {
                return Ok(per_second((done - first).unsigned_abs(), at.elapsed()));
            }
        } else if moved.elapsed() > STANDSTILL {
            bail!("the read model {} stands still at {done} of {events} events", projection.name());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Movements at a rate, over HTTP, so many to a command.
async fn movements(address: &str, key: &str, items: &Items, lines: usize, time: Duration) -> Result<Load> {
    let rate = MOVEMENTS_PER_SECOND / MOVEMENTS_A_REQUEST as f64;
    closed_loop(address, MOVERS, Some(rate), time, |number| {
        let mut random = fastrand::Rng::new();
        let (key, count, moved) = (key.to_owned(), items.count / MOVERS, Arc::clone(&items.moved));
        move |mut connection| {
            let mut mine = moved.get(number).map(|levels| levels.lock().unwrap_or_else(PoisonError::into_inner));
            let drawn: Vec<_> = (0..MOVEMENTS_A_REQUEST)
                .map(|_| {
                    let item = random.usize(..count) * MOVERS + number;
                    let level = mine.as_mut().map(|mine| mine.entry(item).or_insert(item % STOCK));
                    let takes = level.is_some_and(|level| {
                        let takes = *level > 0 && random.bool();
                        *level = if takes { *level - 1 } else { *level + 1 };
                        takes
                    });
                    format!(r#"{{"sku":"{}","quantity":{}}}"#, sku(item), if takes { "-1" } else { "1" })
                })
                .collect();
            drop(mine);
            let commands: Vec<_> = drawn
                .chunks(lines)
                .map(|some| {
                    let (key, lines) = (Uuid::new_v4(), some.join(","));
                    format!(
                        r#"{{"type":"adjustment.create","idempotency_key":"{key}","body":{{"location_code":"MAIN","reason":"benchmark","lines":[{lines}]}}}}"#
                    )
                })
                .collect();
            let (body, key) = (format!(r#"{{"commands":[{}]}}"#, commands.join(",")), key.clone());
            async move {
                let reply = post(&mut connection, &key, "/v1/commands:batch", body).await?;
                Ok((connection, step(&reply, MOVEMENTS_A_REQUEST as u64)?))
            }
        }
    })
    .await
}

/// Asks once: the answer, and what gave it; `None` where the server had no time for it.
async fn ask(connection: &mut Connection, key: &str, query: &str) -> Result<Option<(String, String)>> {
    let bearer = format!("Bearer {key}");
    let path = format!("/v1/items/search?limit=20&q={query}");
    let reply = connection.send(Method::GET, &path, &[("authorization", &bearer)], String::new()).await?;
    match reply.status {
        200 => {}
        503 => return Ok(None),
        status => bail!("{path}: {status} {}", String::from_utf8_lossy(&reply.body)),
    }
    let by = reply.headers.get("x-twh-search").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    Ok(Some((String::from_utf8(reply.body.to_vec())?, by)))
}

/// Searches of a kind at a rate, while stock moves: how they went, how many something else than `engine` answered, and how the
/// movements went.
async fn searches(
    address: &str,
    key: &str,
    items: &Items,
    (asked, lines): (Asked, usize),
    engine: &'static str,
    time: Duration,
) -> Result<(Load, u64, Load)> {
    let (missed, elsewhere) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let fallbacks = Arc::clone(&elsewhere);
    let load = closed_loop(address, SEARCHERS, Some(SEARCHES_PER_SECOND), time, |number| {
        let mut random = fastrand::Rng::with_seed(1_000 + number as u64);
        let (items, key) = (items.clone(), key.to_owned());
        let (missed, elsewhere) = (Arc::clone(&missed), Arc::clone(&elsewhere));
        move |mut connection| {
            let (query, key) = (items.query(asked, &mut random), key.clone());
            let (missed, elsewhere) = (Arc::clone(&missed), Arc::clone(&elsewhere));
            async move {
                let Some((found, by)) = ask(&mut connection, &key, &query).await? else {
                    return Ok((connection, Step::Shed));
                };
                elsewhere.fetch_add(u64::from(by != engine), Ordering::Relaxed);
                missed.fetch_add(u64::from(found.starts_with(r#"{"data":[]"#)), Ordering::Relaxed);
                Ok((connection, Step::Done(1)))
            }
        }
    });
    let (load, moved) = tokio::try_join!(load, movements(address, key, items, lines, time))?;
    match missed.load(Ordering::Relaxed) {
        0 => Ok((load, fallbacks.load(Ordering::Relaxed), moved)),
        missed => bail!("{missed} searches for {} found nothing", asked.name()),
    }
}

/// Items that a server has written to the index.
async fn written(server: &Process) -> Result<u64> {
    let (_, metrics) = get(&server.ops_address, "/metrics", None).await?;
    let metrics = String::from_utf8_lossy(&metrics);
    let count = metrics.lines().find_map(|line| line.strip_prefix("twh_search_items_total{result=\"written\"} "));
    Ok(count.unwrap_or("0").parse()?)
}

/// How searches of a kind went for a while.
struct Window {
    load: Load,
    elsewhere: u64,
    moved: Load,
    written: f64,
}

/// The medians of some windows.
fn tell(report: &mut Report, name: &str, windows: &[Window], naive: f64, (is_elastic, lines): (bool, usize)) {
    let of = |figure: &dyn Fn(&Window) -> f64| median(windows.iter().map(figure).collect()).unwrap_or(f64::NAN);
    report.add(Row::new(format!("{name}, p50"), of(&|one| one.load.p50_ms), "ms"));
    let row = Row::new(format!("{name}, p95"), of(&|one| one.load.p95_ms), "ms");
    let is_barred = is_elastic && lines == LINES_A_COMMAND;
    report.add(if is_barred { row.clone().bar(Bar::Below(P95_MS)) } else { row.clone() });
    report.add(row.times("a naive search alone", naive));
    if windows.len() > 1 {
        let worst = windows.iter().map(|one| one.load.p95_ms).fold(f64::NAN, f64::max);
        report.add(Row::new(format!("{name}, p95 of the worst of {}", windows.len()), worst, "ms"));
    }
    let elsewhere: u64 = windows.iter().map(|one| one.elsewhere).sum();
    let refused: u64 = windows.iter().map(|one| one.load.shed).sum();
    for (outcome, count) in [("answered by the fallback", elsewhere), ("refused", refused)] {
        let row = Row::new(format!("{name}, {outcome}"), count as f64, "searches");
        report.add(if is_elastic { row.bar(Bar::Below(1.0)) } else { row });
    }
    let moved = of(&|one| one.moved.per_second);
    report.add(Row::new(format!("{name}, movements meanwhile"), moved, "movements/s"));
    if is_elastic {
        report.add(Row::new(format!("{name}, written to the index meanwhile"), of(&|one| one.written), "items/s"));
    }
}

/// Each kind of search in turn.
async fn timed(
    environment: &Environment,
    report: &mut Report,
    tenant: &NewTenant,
    items: &Items,
    (engine, search_url): (&'static str, &str),
    (naive, time): (f64, Duration),
) -> Result<()> {
    let server = environment.start(&["serve"], &[("TWH_SEARCH_URL", search_url)]).await?;
    let key = tenant.api_key.as_str();
    let is_elastic = engine == "elasticsearch";
    if is_elastic {
        for asked in Asked::ALL {
            searches(&server.address, key, items, (asked, LINES_A_COMMAND), engine, WARM_UP).await?;
        }
    }
    let (sizes, repeats): (&[usize], _) =
        if is_elastic { (&[LINES_A_COMMAND, DEAREST], REPEATS) } else { (&[LINES_A_COMMAND], 1) };
    for lines in sizes {
        let mut measured: HashMap<&str, Vec<Window>> = HashMap::new();
        for asked in (0..repeats).flat_map(|_| Asked::ALL) {
            let (begun, written_before) = (Instant::now(), written(&server).await?);
            let (load, elsewhere, moved) = searches(&server.address, key, items, (asked, *lines), engine, time).await?;
            let written = per_second(written(&server).await? - written_before, begun.elapsed());
            measured.entry(asked.name()).or_default().push(Window { load, elsewhere, moved, written });
        }
        for asked in Asked::ALL {
            let windows = measured.get(asked.name()).map(Vec::as_slice).unwrap_or_default();
            let name = format!("{engine}, {}, {lines} a command", asked.name());
            tell(report, &name, windows, naive, (is_elastic, *lines));
        }
    }
    if is_elastic {
        let moving = movements(&server.address, key, items, LINES_A_COMMAND, Duration::from_secs(20));
        let (found, _) = tokio::try_join!(findable(&server.address, key), moving)?;
        report.add(Row::new("answered until findable, p50", found.0, "ms"));
        report.add(Row::new("answered until findable, p95", found.1, "ms"));
    }
    report.add(Row::new(format!("{engine}, the server's memory"), server.memory_mb() as f64, "MB"));
    server.stop().await
}

/// From the answer to a write, which comes after its commit, to its being found: median and 95 of a hundred, in milliseconds.
async fn findable(address: &str, key: &str) -> Result<(f64, f64)> {
    let mut connection = Connection::open(address).await?;
    let mut times = Vec::new();
    for _ in 0..FOUND_SAMPLES {
        let code = format!("NEW-{}", Uuid::new_v4().simple());
        let reply = post(&mut connection, key, "/v1/items", format!(r#"{{"sku":"{code}","name":"new"}}"#)).await?;
        step(&reply, 1)?;
        let (written, sku) = (Instant::now(), format!(r#""sku":"{code}""#));
        // Others that begin like it are found before it is.
        while ask(&mut connection, key, &code).await?.is_none_or(|(found, _)| !found.contains(&sku)) {
            if written.elapsed() > STANDSTILL {
                bail!("{code} is not found");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        times.push(written.elapsed().as_secs_f64() * 1_000.0);
    }
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times.get((times.len() as f64 * share) as usize).copied().context("nothing was found");
    Ok((at(0.5)?, at(0.95)?))
}

/// Makes a read model anew; events a second, from the start of the command to its end.
async fn rebuilt(environment: &Environment, model: &str, search_url: &str) -> Result<f64> {
    let events = events(environment).await?;
    let begun = Instant::now();
    environment.succeeds_with(&["rebuild", model], &[("TWH_SEARCH_URL", search_url)]).await?;
    Ok(per_second(events.unsigned_abs(), begun.elapsed()))
}

/// The whole scenario.
pub(crate) async fn measure(
    environment: &Environment,
    report: &mut Report,
    search_url: &str,
    items: usize,
    time: Duration,
) -> Result<()> {
    let elastic = Elastic::new(search_url)?;
    let measured = phases(environment, report, &elastic, search_url, &Items::new(items), time * 3).await;
    for state in [State::Serving, State::Building] {
        if let Some(build) = builds::in_state(&environment.pool, Projection::Search, state).await? {
            elastic.delete(&build.name).await?;
        }
    }
    measured
}

async fn phases(
    environment: &Environment,
    report: &mut Report,
    elastic: &Elastic,
    search_url: &str,
    items: &Items,
    time: Duration,
) -> Result<()> {
    let tenant = fill(environment, report, items).await?;
    crate::progress("the items are made");
    let naive = naive(environment, tenant.tenant_id, items).await?;
    report.add(Row::new("a naive search alone (ilike over all names), p50", naive, "ms"));
    let bare = bare(environment, elastic, tenant.tenant_id).await?;
    report.add(Row::new("documents written to the engine, bare", bare, "documents/s"));
    let process = environment.start(&["process", "projections"], &[("TWH_SEARCH_URL", search_url)]).await?;
    let indexed = built(environment, Projection::Search).await?;
    report.add(Row::new("indexing of a backlog, as it is served", indexed, "items/s").times("bare", bare));
    stock(environment, tenant.tenant_id, items).await?;
    built(environment, Projection::Search).await?;
    built(environment, Projection::Supply).await?;
    process.stop().await?;
    crate::progress("the first index is made, and all is counted in");
    let engines = [("elasticsearch", search_url), ("postgres", "")];
    for engine in engines {
        timed(environment, report, &tenant, items, engine, (naive, time)).await?;
    }
    for model in ["search", "supply"] {
        let rate = rebuilt(environment, model, search_url).await?;
        let row = Row::new(format!("rebuild of {model}"), rate, "events/s");
        report.add(if model == "search" { row.times("bare", bare) } else { row });
    }
    Ok(())
}
