//! Search: what people type finds what they mean, first; nobody finds another's; nothing that is typed breaks it.

use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::path::Path;
use std::time::Duration;
use twh_tests::{Answer, Shared, Tenant, World};

/// Requests come as fast as they can.
const UNLIMITED: &[(&str, &str)] = &[("TWH_RATE_LIMITS", "off")];

/// What answers searches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Postgres,
    Elasticsearch,
}

impl By {
    const ALL: [Self; 2] = [Self::Postgres, Self::Elasticsearch];

    fn name(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Elasticsearch => "elasticsearch",
        }
    }

    async fn server(self) -> Place {
        match self {
            Self::Postgres => Place::Shared(Shared::server().await.unwrap()),
            Self::Elasticsearch => {
                let engine = twh_tests::search_engine();
                Place::Own(World::start_with(&[UNLIMITED[0], ("TWH_SEARCH_URL", &engine)]).await.unwrap())
            }
        }
    }

    async fn caller(self, server: &Place) -> Caller {
        let tenant = match server {
            Place::Shared(server) => server.tenant().await,
            Place::Own(world) => world.tenant().await,
        };
        Caller { tenant: tenant.unwrap(), by: self }
    }
}

/// The server that tests share has no engine: an index is made only where it is tested.
enum Place {
    Shared(Shared),
    Own(World),
}

/// A tenant, and what answers its searches.
struct Caller {
    tenant: Tenant,
    by: By,
}

impl Deref for Caller {
    type Target = Tenant;

    fn deref(&self) -> &Tenant {
        &self.tenant
    }
}

impl Caller {
    /// Waits until what was written is found by what answers.
    async fn settled(&self, position: &str) {
        let offset = |position: &str| position.split_once('-').map_or(-1, |(_, offset)| offset.parse::<i64>().unwrap());
        for _ in 0..600 {
            let answer = ask(self, &[("limit", "1")]).await;
            if answer.header("x-twh-search") == self.by.name()
                && offset(answer.header("x-twh-reflects")) >= offset(position)
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{position} is not found by {} within 30 s", self.by.name());
    }
}

async fn ask(tenant: &Tenant, parameters: &[(&str, &str)]) -> Answer {
    let query =
        parameters.iter().fold(url::form_urlencoded::Serializer::new(String::new()), |mut query, (key, value)| {
            query.append_pair(key, value);
            query
        });
    let path = format!("/v1/items/search?{}", { query }.finish());
    tenant.get(&path).await.unwrap()
}

/// What is found by what is to answer: an engine that was slow once is left alone for a while, and does not know how much there is.
async fn found(caller: &Caller, parameters: &[(&str, &str)]) -> Value {
    let by = if parameters.contains(&("sort", "available")) { By::Postgres } else { caller.by };
    for _ in 0..300 {
        let answer = ask(caller, parameters).await;
        assert_eq!(answer.status, 200, "{parameters:?}: {}", answer.body);
        if answer.header("x-twh-search") == by.name() {
            return answer.body;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{parameters:?} is not answered by {}", by.name());
}

fn skus(found: &Value) -> Vec<&str> {
    found["data"].as_array().unwrap().iter().map(|hit| hit["item"]["sku"].as_str().unwrap()).collect()
}

/// Items in as few requests as can be.
async fn stock_up(tenant: &Caller, items: &[Value]) {
    let mut position = String::new();
    for some in items.chunks(100) {
        let commands: Vec<_> = some
            .iter()
            .map(|item| json!({ "type": "item.create", "idempotency_key": uuid::Uuid::new_v4(), "body": item }))
            .collect();
        let answer = tenant.post("/v1/commands:batch", json!({ "commands": commands })).await.unwrap();
        assert!(answer.status.is_success(), "{}", answer.body);
        let refused =
            answer.body["results"].as_array().unwrap().iter().find(|one| one["status"].as_i64().unwrap() >= 300);
        assert_eq!(refused, None);
        let last = answer.body["results"].as_array().unwrap().last().unwrap();
        position = last["position"].as_str().unwrap().to_owned();
    }
    tenant.settled(&position).await;
}

/// Misspelt, cut short, out of order: what is typed, and what must come first.
const TYPED: &[(&str, &str)] = &[
    ("whte hanging heart t-light holder", "WHITE HANGING HEART T-LIGHT HOLDER"),
    ("wihte hangin haert", "WHITE HANGING HEART T-LIGHT HOLDER"),
    ("white metal lanten", "WHITE METAL LANTERN"),
    ("metal lantern, WHITE!", "WHITE METAL LANTERN"),
    ("red retropsot cake stand", "RED RETROSPOT CAKE STAND"),
    ("retrspot lunch bag", "LUNCH BAG RED RETROSPOT"),
    ("jumbo bag strawbery", "JUMBO BAG STRAWBERRY"),
    ("doormat union flg", "DOORMAT UNION FLAG"),
    ("assorted colour bird ornamnet", "ASSORTED COLOUR BIRD ORNAMENT"),
    ("paper chain kit vintge christmas", "PAPER CHAIN KIT VINTAGE CHRISTMAS"),
    ("hand warmer unoin jack", "HAND WARMER UNION JACK"),
    ("alarm clok bakelike red", "ALARM CLOCK BAKELIKE RED"),
    ("chili lights", "CHILLI LIGHTS"),
    ("wooden picure frame white", "WOODEN PICTURE FRAME WHITE FINISH"),
    ("fine wicker hart", "FINE WICKER HEART"),
    ("poppys playhouse bedroom", "POPPY'S PLAYHOUSE BEDROOM"),
    ("vintage snap crads", "VINTAGE SNAP CARDS"),
];

/// Every product of a file that is no service, by its code; of these names only where there is no file.
fn catalogue() -> Vec<Value> {
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    match std::env::var("TWH_DEMO_FILE") {
        Ok(file) => {
            println!("searching the products in {file}");
            for line in twh_demo::dataset::read(Path::new(&file)).unwrap() {
                if !line.description.is_empty() && line.description == line.description.to_uppercase() {
                    names.entry(line.stock_code).or_insert(line.description);
                }
            }
        }
        Err(_) => {
            println!("TWH_DEMO_FILE is not set: searching made-up products, not real ones");
            let real = TYPED.iter().map(|(_, name)| (*name).to_owned()).collect::<BTreeSet<_>>();
            let near = ["WHITE", "RED", "SMALL", "VINTAGE"].into_iter().flat_map(|colour| {
                ["HEART", "LANTERN", "BAG", "FRAME", "CLOCK", "CARDS", "HOLDER"]
                    .map(|thing| format!("{colour} {thing}"))
            });
            names.extend(
                real.into_iter().chain(near).enumerate().map(|(index, name)| (format!("{}", 20_000 + index), name)),
            );
        }
    }
    names.into_iter().map(|(sku, name)| json!({ "sku": sku, "name": name })).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_misspelt_finds_what_is_meant_first() {
    for by in By::ALL {
        what_is_misspelt_finds_what_is_meant_first_by(by).await;
    }
}

async fn what_is_misspelt_finds_what_is_meant_first_by(by: By) {
    let server = by.server().await;
    let tenant = by.caller(&server).await;
    let items = catalogue();
    stock_up(&tenant, &items).await;
    let mut missed = Vec::new();
    for (typed, meant) in TYPED {
        let found = found(&tenant, &[("q", typed)]).await;
        let first = &found["data"][0]["item"]["name"];
        if first != meant {
            missed.push(format!("{typed:?} finds {first} before {meant:?}"));
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
    // A code as it is comes before all that begin like it, and those before all words.
    let code = items[items.len() / 2]["sku"].as_str().unwrap();
    let exact = found(&tenant, &[("q", code)]).await;
    assert_eq!((skus(&exact)[0], &exact["data"][0]["matched"]), (code, &json!("code")));
    let begins = found(&tenant, &[("q", &code[..3])]).await;
    assert!(skus(&begins).iter().all(|sku| sku.starts_with(&code[..3])), "{begins}");
    // What has more mistakes is found only where nothing has fewer: two of them, one in the first letter, and any at all.
    let alike = [
        "Quibblezan",
        "Quibbletor",
        "Zorblet",
        "Gorblex",
        "Plimber tabbet",
        "Plomber tabbet",
        "Grivel nostep",
        "Grevel nastep",
    ];
    let alike: Vec<_> =
        alike.iter().zip(1..).map(|(name, n)| json!({ "sku": format!("NEAR-{n}"), "name": name })).collect();
    stock_up(&tenant, &alike).await;
    for (typed, meant) in [
        ("quibbletan", ["NEAR-1"].as_slice()),
        ("quibblextr", &["NEAR-2"]),
        ("zorblex", &["NEAR-3"]),
        ("xorblet", &["NEAR-3"]),
        ("korblex", &["NEAR-4"]),
        ("plimber", &["NEAR-5"]),
        ("plamber", &["NEAR-5", "NEAR-6"]),
        // One that is known is taken as it was typed, beside one that is not.
        ("plimber tabet", &["NEAR-5"]),
        ("plamber tabet", &["NEAR-5", "NEAR-6"]),
        // Both are known, but of two items.
        ("grivel nastep", &["NEAR-7", "NEAR-8"]),
    ] {
        let found = found(&tenant, &[("q", typed)]).await;
        let mut skus = skus(&found);
        skus.sort_unstable();
        assert_eq!(skus, meant, "{typed}");
    }
}

/// Both engines are asked with words that our own code folds; what PostgreSQL looks into is folded by its own.
#[tokio::test(flavor = "multi_thread")]
async fn both_engines_compare_letters_alike() {
    // Latin, Greek, Cyrillic, Devanagari, Thai, kana; but for the Afrikaans letter that Unicode deprecates.
    let ranges =
        [0xc0..=0x17f, 0x218..=0x21b, 0x386..=0x3ff, 0x400..=0x4ff, 0x900..=0x97f, 0xe01..=0xe30, 0x3041..=0x30ff];
    let letters: Vec<String> = ranges
        .into_iter()
        .flatten()
        .filter_map(char::from_u32)
        .filter(|letter| letter.is_alphanumeric() && *letter != 'ŉ')
        .map(String::from)
        .collect();
    let world = World::start().await.unwrap();
    let pool = world.pool().await.unwrap();
    let folded: Vec<(String, String)> =
        twh_sinks::postgres::sqlx::query_as("select l, search_text(l) from unnest($1::text[]) l")
            .bind(&letters)
            .fetch_all(&pool)
            .await
            .unwrap();
    let differ: Vec<_> = folded
        .iter()
        .map(|(letter, theirs)| (letter, theirs, twh_sinks::search::text::folded(letter)))
        .filter(|(_, theirs, ours)| *theirs != ours)
        .collect();
    assert!(letters.len() > 700, "{} letters", letters.len());
    assert!(differ.is_empty(), "{differ:?}");
}

async fn few(tenant: &Caller) {
    let made = |path: &'static str, body: Value| async move {
        let answer = tenant.post(path, body).await.unwrap();
        assert!(answer.status.is_success(), "{path}: {}", answer.body);
        answer.header("x-twh-position").to_owned()
    };
    for code in ["NORTH", "SOUTH"] {
        made("/v1/locations", json!({ "code": code })).await;
    }
    let items = [
        json!({ "sku": "MUG-1", "name": "Crème brûlée mug", "barcodes": ["4006381333931"], "metadata": { "category": "kitchen", "color": "red" } }),
        json!({ "sku": "MUG-2", "name": "Plain mug", "description": "For crème and coffee", "metadata": { "category": "kitchen", "color": "blue" } }),
        json!({ "sku": "HON-1", "name": "Мёд гречишный", "metadata": { "category": "food" } }),
        json!({ "sku": "CAND", "name": "白色蜡烛" }),
        json!({ "sku": "GR", "name": "Ελαιόλαδο <b>&</b> 'σοφός'" }),
        json!({ "sku": "POST", "name": "Postage", "type": "service" }),
    ];
    stock_up(tenant, &items).await;
    let found = |sku: &str, location: &str, quantity: &str| json!({ "location_code": location, "reason": "found", "lines": [{ "sku": sku, "quantity": quantity }] });
    made("/v1/adjustments", found("MUG-1", "NORTH", "3")).await;
    made("/v1/adjustments", found("MUG-1", "SOUTH", "4")).await;
    made("/v1/adjustments", found("MUG-2", "SOUTH", "2")).await;
    let last = made("/v1/reservations", json!({ "sku": "MUG-2", "location_code": "SOUTH", "quantity": "2" })).await;
    tenant.settled(&last).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn accents_alphabets_filters_and_facets_mean_what_they_say() {
    for by in By::ALL {
        accents_alphabets_filters_and_facets_mean_what_they_say_by(by).await;
    }
}

async fn accents_alphabets_filters_and_facets_mean_what_they_say_by(by: By) {
    let server = by.server().await;
    let tenant = by.caller(&server).await;
    few(&tenant).await;
    for (typed, first) in [
        ("creme brulee", "MUG-1"),
        ("CRÈME BRÛLÉE", "MUG-1"),
        ("мед", "HON-1"),
        ("МЁД гречишый", "HON-1"),
        ("蜡烛", "CAND"),
        ("ελαιολαδο", "GR"),
        ("4006381333931", "MUG-1"),
        ("40063813", "MUG-1"),
        ("mug-2", "MUG-2"),
    ] {
        let found = found(&tenant, &[("q", typed)]).await;
        assert_eq!(skus(&found).first(), Some(&first), "{typed}: {found}");
    }
    let mug = found(&tenant, &[("q", "creme")]).await;
    assert_eq!(skus(&mug), ["MUG-1", "MUG-2"], "a name counts more than a description");
    assert_eq!(mug["data"][0]["highlights"]["name"], "<em>Crème</em> brûlée mug");
    assert_eq!(mug["data"][1]["highlights"]["description"], "For <em>crème</em> and coffee");
    let stock = &mug["data"][0]["stock"];
    assert_eq!((&stock["available"], stock["levels"].as_array().unwrap().len()), (&json!("7"), 2), "{stock}");
    let greek = found(&tenant, &[("q", "σοφος")]).await;
    assert_eq!(greek["data"][0]["highlights"]["name"], "Ελαιόλαδο &lt;b&gt;&amp;&lt;/b&gt; &#39;<em>σοφός</em>&#39;");

    let filtered = async |parameters: &[(&str, &str)]| {
        skus(&found(&tenant, parameters).await).into_iter().map(str::to_owned).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(filtered(&[("q", "mug"), ("in_stock", "true")]).await, "MUG-1");
    assert_eq!(filtered(&[("q", "mug"), ("in_stock", "false")]).await, "MUG-2", "what is reserved is not in stock");
    assert_eq!(filtered(&[("location_code", "NORTH")]).await, "MUG-1");
    assert_eq!(filtered(&[("location_code", "SOUTH"), ("sort", "available")]).await, "MUG-1 MUG-2");
    assert_eq!(filtered(&[("category", "food")]).await, "HON-1");
    assert_eq!(filtered(&[("metadata", r#"{"category":"kitchen","color":"blue"}"#)]).await, "MUG-2");
    assert_eq!(filtered(&[("type", "service")]).await, "POST");
    let all = found(&tenant, &[("facets", "category,location,in_stock,type")]).await;
    let values = |facet: &str| -> BTreeMap<&str, i64> {
        let buckets = all["facets"][facet].as_array().unwrap();
        buckets.iter().map(|one| (one["value"].as_str().unwrap(), one["count"].as_i64().unwrap())).collect()
    };
    assert_eq!(all["total"], json!({ "count": 6, "is_exact": true }));
    assert_eq!(values("category"), BTreeMap::from([("kitchen", 2), ("food", 1)]));
    assert_eq!(values("location"), BTreeMap::from([("NORTH", 1), ("SOUTH", 1)]));
    assert_eq!(values("in_stock"), BTreeMap::from([("true", 1), ("false", 5)]));
    assert_eq!(values("type"), BTreeMap::from([("stock", 5), ("service", 1)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_order_pages_through_each_hit_once() {
    for by in By::ALL {
        every_order_pages_through_each_hit_once_by(by).await;
    }
}

async fn every_order_pages_through_each_hit_once_by(by: By) {
    let server = by.server().await;
    let tenant = by.caller(&server).await;
    let items: Vec<_> =
        (0..57).map(|n| json!({ "sku": format!("P{n:02}"), "name": format!("Pot {}", n % 5) })).collect();
    stock_up(&tenant, &items).await;
    for sort in ["relevance", "name", "sku", "updated", "available"] {
        for text in ["pot", ""] {
            let (mut seen, mut cursor) = (Vec::new(), None::<String>);
            loop {
                let mut parameters = vec![("q", text), ("sort", sort), ("limit", "10")];
                parameters.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
                let page = found(&tenant, &parameters).await;
                seen.extend(skus(&page).into_iter().map(str::to_owned));
                match page["next_cursor"].as_str() {
                    Some(next) => cursor = Some(next.to_owned()),
                    None => break,
                }
            }
            let each: BTreeSet<_> = seen.iter().collect();
            assert_eq!((seen.len(), each.len()), (57, 57), "{sort} {text:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_is_typed_breaks_it_or_shows_anothers_items() {
    for by in By::ALL {
        nothing_that_is_typed_breaks_it_or_shows_anothers_items_by(by).await;
    }
}

async fn nothing_that_is_typed_breaks_it_or_shows_anothers_items_by(by: By) {
    let server = by.server().await;
    let (own, other) = (by.caller(&server).await, by.caller(&server).await);
    few(&own).await;
    few(&other).await;
    stock_up(&other, &[json!({ "sku": "SECRET", "name": "Secret zebra", "barcodes": ["99887766"] })]).await;
    for typed in ["SECRET", "secret zebra", "zebar", "99887766", "998", &other.id] {
        assert_eq!(skus(&found(&own, &[("q", typed)]).await), Vec::<&str>::new(), "{typed}");
    }
    assert_eq!(found(&own, &[]).await["total"]["count"], 6);
    for hostile in [
        "'; drop table items; --",
        "\\",
        "%",
        "_",
        "%%%___",
        "\" OR 1=1",
        "{}",
        "{a,b}",
        "a' && 'b",
        "!&|():*<->",
        "\u{202e}gum",
        "🎁",
        "\u{0301}\u{0301}",
        "\u{feff}",
        "   ",
        "-",
        "NULL",
        "null",
        "()",
        "\u{10ffff}",
        "\n\t",
        "&amp;",
        "*:*",
        "a:b^9 AND NOT c",
    ] {
        let answer = ask(&own, &[("q", hostile)]).await;
        assert_eq!(answer.status, 200, "{hostile:?}: {}", answer.body);
    }
    let long = "mug ".repeat(2_500);
    for (parameters, named) in [
        ([("q", long.as_str()), ("limit", "1")], "q"),
        ([("q", &"a ".repeat(20)), ("limit", "1")], "q"),
        ([("q", "a\0b"), ("limit", "1")], "q"),
        ([("q", "a"), ("limit", "101")], "limit"),
        ([("q", "a"), ("sort", "price")], "sort"),
        ([("q", "a"), ("facets", "colour")], "facets"),
        ([("q", "a"), ("metadata", "color:red")], "metadata"),
        ([("q", "a"), ("location_code", "NOWHERE")], "location_code"),
        ([("q", "a"), ("cursor", "00")], "cursor"),
        ([("q", "a"), ("colour", "red")], "colour"),
    ] {
        let answer = ask(&own, &parameters).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (400, "INVALID_QUERY"), "{}", answer.body);
        assert_eq!(answer.body["details"][0]["field"], named, "{}", answer.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_without_stock_is_told_none_and_a_write_is_found_at_once() {
    for by in By::ALL {
        a_key_without_stock_is_told_none_and_a_write_is_found_at_once_by(by).await;
    }
}

async fn a_key_without_stock_is_told_none_and_a_write_is_found_at_once_by(by: By) {
    let server = by.server().await;
    let tenant = by.caller(&server).await;
    few(&tenant).await;
    let narrow = json!({ "name": "catalogue", "role": "dev", "scopes": ["read:catalog"] });
    let made = tenant.post("/v1/api-keys", narrow).await.unwrap();
    let narrow = Caller { tenant: tenant.with(made.body["key"].as_str().unwrap()), by };
    assert_eq!(found(&narrow, &[("q", "mug")]).await["data"][0]["stock"], Value::Null);
    for asks in [("in_stock", "true"), ("location_code", "NORTH"), ("sort", "available"), ("facets", "location")] {
        assert_eq!(ask(&narrow, &[asks]).await.code(), "FORBIDDEN", "{asks:?}");
    }
    for n in 0..20 {
        let name = format!("freshly{n}x");
        let written = tenant.post("/v1/items", json!({ "sku": format!("F{n}"), "name": name })).await.unwrap();
        // By itself in PostgreSQL; of the engine it is asked for, and PostgreSQL answers where it is not there yet.
        let at_least = (by == By::Elasticsearch).then(|| ("x-twh-at-least", written.header("x-twh-position")));
        let path = format!("/v1/items/search?q={name}");
        let headers: Vec<_> = at_least.into_iter().collect();
        let answer = tenant.send(reqwest::Method::GET, &path, &headers, None).await.unwrap();
        assert_eq!(answer.body["total"]["count"], 1, "{name}: {}", answer.body);
        let offset = |position: &str| position.split_once('-').unwrap().1.parse::<i64>().unwrap();
        assert!(offset(answer.header("x-twh-reflects")) >= offset(written.header("x-twh-position")));
    }
}
