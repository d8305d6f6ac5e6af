//! The ledger shows on demand that nothing happened to it: every kind of tampering is found, a replay gives the same ledger, a
//! movement's proof is accepted by the page of the docs alone and an altered one is not, and a rehearsal changes nothing.

use serde_json::{Value, json};
use sqlx::PgPool;
use std::process::Output;
use twh_domain::actor::Actor;
use twh_domain::timestamp::Timestamp;
use twh_edge::cursor;
use twh_sinks::postgres::accounts::audit::{Change, ControlChange, Deed};
use twh_tests::{Tenant, World, python, root};

/// A ledger with something of everything: 40 items at two locations, orders in every state, reservations, counts.
async fn trade(world: &World) -> Tenant {
    let tenant = world.tenant().await.unwrap();
    for code in ["MAIN", "SHOP"] {
        tenant.done("/v1/locations", json!({ "code": code })).await.unwrap();
    }
    let items: Vec<_> = (0..40)
        .map(|n| json!({ "type": "item.create", "idempotency_key": format!("i{n}"), "body": { "sku": format!("S{n}"), "barcodes": [format!("B{n}")] } }))
        .collect();
    tenant.done("/v1/commands:batch", json!({ "commands": items })).await.unwrap();
    let lines: Vec<_> = (0..40).map(|n| json!({ "sku": format!("S{n}"), "quantity": 100 })).collect();
    let opening = json!({ "location_code": "MAIN", "reason": "opening", "lines": lines });
    tenant.done("/v1/adjustments", opening).await.unwrap();
    for n in 0..12 {
        let lines: Vec<_> = (n..n + 4).map(|n| json!({ "sku": format!("S{n}"), "quantity": "1.5" })).collect();
        let order = tenant.done("/v1/sales_orders", json!({ "location_code": "MAIN", "lines": lines })).await.unwrap();
        let path = format!("/v1/sales_orders/{}", order.id());
        tenant.done(&format!("{path}/allocate"), json!({})).await.unwrap();
        if n % 2 == 0 {
            tenant.done(&format!("{path}/ship"), json!({})).await.unwrap();
        }
    }
    tenant.done("/v1/reservations", json!({ "sku": "S5", "location_code": "MAIN", "quantity": 2 })).await.unwrap();
    let counted = json!([{ "sku": "S7", "quantity_counted": 90 }]);
    tenant.done("/v1/counts", json!({ "location_code": "MAIN", "lines": counted })).await.unwrap();
    let moved = json!([{ "sku": "S9", "quantity": 10 }]);
    let transfer = json!({ "from_location_code": "MAIN", "to_location_code": "SHOP", "lines": moved });
    let transfer = tenant.done("/v1/transfers", transfer).await.unwrap();
    tenant.done(&format!("/v1/transfers/{}/dispatch", transfer.id()), json!({})).await.unwrap();
    tenant
}

/// How `twh verify` ends, and what it says.
pub(crate) async fn verify(world: &World, arguments: &[&str]) -> (Option<i32>, Value) {
    let output = world.command(&[&["verify", "--json"], arguments].concat()).unwrap().output().await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let log = String::from_utf8_lossy(&output.stderr);
    (output.status.code(), serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}{log}")))
}

/// What nobody may change.
const CHAINS: [&str; 3] = ["stock_movements", "audit_log", "control_audit"];

/// Runs statements that the ledger's triggers do not see, as a superuser can.
async fn tamper(pool: &PgPool, statements: &[String]) {
    let mut tx = pool.begin().await.unwrap();
    for table in CHAINS {
        sqlx::query(&format!("alter table {table} disable trigger user")).execute(&mut *tx).await.unwrap();
    }
    for statement in statements {
        let done = sqlx::query(statement).execute(&mut *tx).await.unwrap();
        assert!(done.rows_affected() > 0, "{statement}");
    }
    for table in CHAINS {
        sqlx::query(&format!("alter table {table} enable trigger user")).execute(&mut *tx).await.unwrap();
    }
    tx.commit().await.unwrap();
}

/// What is done, in words and in SQL; the check that finds it; how the row that it names begins; how it is undone.
type Case = (&'static str, Vec<String>, &'static str, String, Vec<String>);

#[tokio::test]
async fn whatever_is_tampered_with_is_found_and_named() {
    let mut world = World::start().await.unwrap();
    let tenant = trade(&world).await;
    world.stop_server().await.unwrap();
    let pool = world.pool().await.unwrap();
    let kept = std::env::temp_dir().join(format!("{}verify", world.prefix));
    std::fs::write(&kept, "{}").unwrap();
    let foreign = world.command(&["verify", "--resume", kept.to_str().unwrap()]).unwrap().output().await.unwrap();
    assert!(String::from_utf8_lossy(&foreign.stderr).contains("no file of twh verify"), "{foreign:?}");
    std::fs::remove_file(&kept).unwrap();
    let (code, _) = verify(&world, &["--resume", kept.to_str().unwrap()]).await;
    assert_eq!((code, kept.exists()), (Some(0), false), "a file to resume from goes when all is done");
    let (code, report) = verify(&world, &[]).await;
    assert_eq!((code, &report["ledger"], &report["findings"]), (Some(0), &json!("sound"), &json!([])), "{report}");
    let (_, head): (i64, String) =
        sqlx::query_as("select movement_sequence, encode(movement_hash, 'hex') from ledger_heads")
            .fetch_one(&pool)
            .await
            .unwrap();
    let last = report["movements"].as_i64().unwrap();
    let item = |sku: &str| format!("(select id from items where code = '{sku}')");
    let cases: Vec<Case> = vec![
        (
            "a changed quantity",
            vec!["update stock_movements set on_hand_change_micro = on_hand_change_micro + 1 where sequence = 17".into()],
            "movements",
            "movement 17".into(),
            vec!["update stock_movements set on_hand_change_micro = on_hand_change_micro - 1 where sequence = 17".into()],
        ),
        (
            "a deleted row",
            vec![
                "create table kept as select * from stock_movements where sequence = 23".into(),
                "delete from stock_movements where sequence = 23".into(),
            ],
            "movements",
            "movement 23".into(),
            vec!["insert into stock_movements select * from kept".into()],
        ),
        (
            "the last row deleted",
            vec![
                format!("create table kept_last as select * from stock_movements where sequence = {last}"),
                format!("delete from stock_movements where sequence = {last}"),
            ],
            "movements",
            format!("movement {last}"),
            vec!["insert into stock_movements select * from kept_last".into()],
        ),
        (
            "a swapped pair",
            vec![
                "update stock_movements set sequence = -31 where sequence = 31".into(),
                "update stock_movements set sequence = 31 where sequence = 32".into(),
                "update stock_movements set sequence = 32 where sequence = -31".into(),
            ],
            "movements",
            "movement 31".into(),
            vec![
                "update stock_movements set sequence = -31 where sequence = 31".into(),
                "update stock_movements set sequence = 31 where sequence = 32".into(),
                "update stock_movements set sequence = 32 where sequence = -31".into(),
            ],
        ),
        (
            "an edited level",
            vec![format!("update stock_levels set on_hand_micro = on_hand_micro + 1000000 where item_id = {}", item("S3"))],
            "levels",
            "level of item ".into(),
            vec![format!("update stock_levels set on_hand_micro = on_hand_micro - 1000000 where item_id = {}", item("S3"))],
        ),
        (
            "a level that no movement made",
            vec![format!("insert into stock_levels select tenant_id, item_id, item_id, 1, 0, 1, null, now() from stock_levels where item_id = {} limit 1", item("S4"))],
            "levels",
            "level of item ".into(),
            vec!["delete from stock_levels where item_id = location_id".into()],
        ),
        (
            "an edited audit record",
            vec!["update audit_log set actor_id = 'somebody else' where sequence = 20".into()],
            "audit_records",
            "audit record 20".into(),
            vec!["update audit_log set actor_id = a.actor_id from audit_log a where audit_log.sequence = 20 and a.sequence = 21".into()],
        ),
        (
            "an edited control record",
            vec!["update control_audit set new = '{}' where sequence = 2".into()],
            "control_records",
            "control record 2".into(),
            vec!["update control_audit c set new = k.kept from kept_new k where c.sequence = 2".into()],
        ),
        (
            "the last control record deleted",
            vec![
                "create table kept_control as select * from control_audit c where sequence = (select max(sequence) from control_audit where tenant_id = c.tenant_id)".into(),
                "delete from control_audit c where sequence = (select max(sequence) from control_audit where tenant_id = c.tenant_id)".into(),
            ],
            "control_records",
            "control record ".into(),
            vec!["insert into control_audit select * from kept_control".into()],
        ),
        (
            "an edited document",
            vec![format!("update items set document = (document::jsonb || '{{\"sku\":\"S2\",\"name\":\"gold\"}}')::json where code = 'S2'")],
            "documents",
            "item ".into(),
            vec!["update items i set document = a.document from audit_log a where i.code = 'S2' and a.entity_id = i.id".into()],
        ),
        (
            "an edited column of a document",
            vec!["update sales_orders set status = 'cancelled' where status = 'allocated'".into()],
            "documents",
            "sales order ".into(),
            vec!["update sales_orders set status = document ->> 'status'".into()],
        ),
        (
            "a barcode led elsewhere",
            vec![format!("update item_barcodes set item_id = {} where barcode = 'B1'", item("S2"))],
            "documents",
            "barcode \"B1\"".into(),
            vec![format!("update item_barcodes set item_id = {} where barcode = 'B1'", item("S1"))],
        ),
    ];
    tamper(&pool, &["create table kept_new as select new as kept from control_audit where sequence = 2".into()]).await;
    for (what, statements, check, row, undone) in cases {
        tamper(&pool, &statements).await;
        let (code, report) = verify(&world, &[]).await;
        assert_eq!((code, &report["ledger"]), (Some(2), &json!("unsound")), "{what}: {report}");
        let first = report["findings"].as_array().unwrap().iter().find(|finding| finding["check"] == check);
        let first = first.unwrap_or_else(|| panic!("{what} is not found by {check}: {report}"));
        assert!(first["row"].as_str().unwrap().starts_with(&row), "{what}: {first}");
        assert_eq!(first["tenant_id"], tenant.id.as_str());
        tamper(&pool, &undone).await;
        let (code, report) = verify(&world, &[]).await;
        assert_eq!(code, Some(0), "{what} is undone: {report}");
    }

    // Stock that is reserved, and that no open document holds any more.
    tamper(&pool, &["update reservations set status = 'expired', document = (document::jsonb || '{\"status\":\"expired\"}')::json".into()]).await;
    let (_, report) = verify(&world, &[]).await;
    let checks: Vec<_> =
        report["findings"].as_array().unwrap().iter().map(|finding| finding["check"].clone()).collect();
    assert_eq!(checks, ["documents", "reservations"], "{report}");
    tamper(&pool, &["update reservations r set status = 'active', document = a.document from audit_log a where a.entity_id = r.id".into()]).await;

    // The head that was kept elsewhere: sound now, not once history has another end.
    let known = format!("{last}:{head}");
    assert_eq!(verify(&world, &["--tenant", &tenant.id, "--known-head", &known]).await.0, Some(0));
    let other = format!("{}:{head}", last - 1);
    let (code, report) = verify(&world, &["--tenant", &tenant.id, "--known-head", &other]).await;
    assert_eq!(code, Some(2), "{report}");
    let longer = format!("{}:{head}", last + 1);
    assert_eq!(verify(&world, &["--tenant", &tenant.id, "--known-head", &longer]).await.0, Some(2));

    // What cannot be asked is said so.
    for (arguments, word) in [
        (vec!["--known-head", "x"], "SEQUENCE:HASH"),
        (vec!["--known-head", &known], "--tenant"),
        (vec!["--resume", "/dev/null/x"], "cannot be written"),
        (vec!["--tenant", "x"], "--tenant"),
    ] {
        let output = world.command(&[&["verify"], arguments.as_slice()].concat()).unwrap().output().await.unwrap();
        assert!(!output.status.success() && output.status.code() != Some(2) || output.stdout.is_empty());
        assert!(String::from_utf8_lossy(&output.stderr).contains(word), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

async fn replay(world: &World, into: &str, arguments: &[&str]) -> Output {
    let all = [&["replay", "--into", into, "--json"], arguments].concat();
    world.command(&all).unwrap().output().await.unwrap()
}

fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}

#[tokio::test]
async fn a_replay_gives_the_same_ledger_up_to_any_point() {
    let mut world = World::start().await.unwrap();
    let tenant = trade(&world).await;
    let another = trade(&world).await;
    let pool = world.pool().await.unwrap();
    let into = world.another_database().await.unwrap();
    let output = replay(&world, &into, &["--compare"]).await;
    let whole = report(&output);
    assert!(output.status.success() && whole["same"] == true, "{whole}");
    assert!(whole["commands"].as_u64().unwrap() > 100);

    // The same once more, from where it stands: with what came since.
    tenant.done("/v1/items", json!({ "sku": "LATER" })).await.unwrap();
    let later = report(&replay(&world, &into, &["--compare"]).await);
    assert_eq!((&later["same"], &later["commands"]), (&json!(true), &json!(1)), "{later}");
    let rebuilt = PgPool::connect(&into).await.unwrap();
    let outbox: i64 = sqlx::query_scalar("select count(*) from outbox").fetch_one(&rebuilt).await.unwrap();
    assert_eq!(outbox, 0, "a replay has nothing to publish");

    // Up to a position: the ledger as that command left it.
    let (partition, offset, sequence): (i32, i64, i64) = sqlx::query_as(
        "select partition, log_offset, max(sequence) from stock_movements where tenant_id = $1::uuid group by 1, 2 order by 2 offset 7 limit 1",
    )
    .bind(&another.id)
    .fetch_one(&pool)
    .await
    .unwrap();
    let position = format!("{partition}-{offset}");
    let past = world.another_database().await.unwrap();
    assert!(replay(&world, &past, &["--position", &position]).await.status.success());
    let past = PgPool::connect(&past).await.unwrap();
    let reached: i64 = sqlx::query_scalar("select max(sequence) from stock_movements where tenant_id = $1::uuid")
        .bind(&another.id)
        .fetch_one(&past)
        .await
        .unwrap();
    assert_eq!(reached, sequence);
    // It says the same as the live ledger does about that moment.
    let rows = another.get(&format!("/v1/stock?limit=1000&as_of={position}")).await.unwrap();
    for row in rows.body["data"].as_array().unwrap() {
        let on_hand: i64 = sqlx::query_scalar(
            "select on_hand_micro from stock_levels where item_id = $1::uuid and location_id = $2::uuid",
        )
        .bind(row["item_id"].as_str())
        .bind(row["location_id"].as_str())
        .fetch_one(&past)
        .await
        .unwrap();
        let told: twh_domain::decimal::Quantity = row["qty_on_hand"].as_str().unwrap().parse().unwrap();
        assert_eq!(told.micros(), on_hand, "{row}");
    }

    // Up to a time: what was recorded until then.
    let (until, expected): (String, i64) = sqlx::query_as(
        "select to_char(t at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"'), (select count(*) from stock_movements where recorded_at <= t)
         from (select recorded_at as t from stock_movements where tenant_id = $1::uuid and sequence = 50) m",
    )
    .bind(&another.id)
    .fetch_one(&pool)
    .await
    .unwrap();
    let earlier = world.another_database().await.unwrap();
    assert!(replay(&world, &earlier, &["--until", &until]).await.status.success());
    let earlier = PgPool::connect(&earlier).await.unwrap();
    let reached: i64 = sqlx::query_scalar("select count(*) from stock_movements").fetch_one(&earlier).await.unwrap();
    assert_eq!(reached, expected);
    assert!(reached > 50, "the other tenant's ledger came before");

    // A ledger that differs is told apart, and which partition it is.
    let statement = "update stock_levels set on_hand_micro = on_hand_micro + 1 where tenant_id = ".to_owned()
        + &format!("'{}' and reserved_micro > 0", tenant.id);
    tamper(&pool, &[statement]).await;
    let output = replay(&world, &into, &["--compare"]).await;
    let different = report(&output);
    assert_eq!((output.status.code(), &different["same"]), (Some(2), &json!(false)), "{different}");
    assert_eq!(different["differing_partitions"].as_array().unwrap().len(), 1);

    // What it must not write to, it refuses.
    let live = replay(&world, &world.database_url, &[]).await;
    assert!(String::from_utf8_lossy(&live.stderr).contains("live database"), "{live:?}");
    sqlx::query("update ledger_partitions set owner = 'somebody'").execute(&rebuilt).await.unwrap();
    let foreign = replay(&world, &into, &[]).await;
    assert!(String::from_utf8_lossy(&foreign.stderr).contains("--restored"), "{foreign:?}");
    assert!(replay(&world, &into, &["--restored"]).await.status.success());
    let beyond = world.another_database().await.unwrap();
    let beyond = replay(&world, &beyond, &["--position", "0-999999"]).await;
    assert!(String::from_utf8_lossy(&beyond.stderr).contains("ends at offset"), "{beyond:?}");
}

/// The program that the docs print, taken from there.
fn program_of_the_docs(name: &str) -> String {
    let docs = std::fs::read_to_string(root().join("docs/ledger.md")).unwrap();
    let begin = docs.find(&format!("# {name} ")).expect("the docs print it");
    docs[begin..].split("\n```").next().unwrap().to_owned()
}

#[tokio::test]
async fn a_proof_is_accepted_by_the_docs_program_alone_and_an_altered_one_is_not() {
    let directory = std::env::temp_dir().join(format!("twh_proof_{}", uuid::Uuid::new_v4().simple()));
    std::fs::create_dir(&directory).unwrap();
    let key = directory.join("key.pem");
    let mut world = World::prepare(&[("TWH_LEDGER_KEY_FILE", key.to_str().unwrap())]).await.unwrap();
    let made = world.command(&["ledger-key", "--out", key.to_str().unwrap()]).unwrap().output().await.unwrap();
    assert!(made.status.success(), "{made:?}");
    let again = world.command(&["ledger-key", "--out", key.to_str().unwrap()]).unwrap().output().await.unwrap();
    assert!(!again.status.success(), "a key is never written over");
    world.start_server().await.unwrap();
    let tenant = trade(&world).await;
    let older = tenant.get("/v1/ledger/checkpoint").await.unwrap();
    // More than one kept subtree, so that both ways to a hash are taken.
    for n in 0..20 {
        let lines: Vec<_> = (0..40).map(|n| json!({ "sku": format!("S{n}"), "quantity": 1 })).collect();
        let body = json!({ "location_code": "SHOP", "reason": format!("find {n}"), "lines": lines });
        tenant.done("/v1/adjustments", body).await.unwrap();
    }
    let keys = tenant.get("/v1/ledger/keys").await.unwrap();
    let public_key = keys.body["keys"][0]["public_key"].as_str().unwrap().to_owned();
    let program = directory.join("verify_proof.py");
    std::fs::write(&program, program_of_the_docs("verify_proof.py")).unwrap();
    let accepts = async |proof: &Value, tenant: &str| {
        let file = directory.join("proof.json");
        std::fs::write(&file, proof.to_string()).unwrap();
        let output = tokio::process::Command::new(python().unwrap())
            .args([program.as_os_str(), file.as_os_str()])
            .args([tenant, &public_key])
            .output()
            .await
            .unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let size = tenant.movements().await.unwrap();
    assert!(size > 800);
    let older_size = older.body["size"].as_i64().unwrap();
    for (id, asked) in [
        (1, None),
        (2, None),
        (256, None),
        (257, None),
        (700, None),
        (size, None),
        (9, Some(older_size)),
        (older_size, Some(older_size)),
    ] {
        let path =
            asked.map_or(format!("/v1/movements/{id}/proof"), |size| format!("/v1/movements/{id}/proof?size={size}"));
        let proof = tenant.get(&path).await.unwrap().body;
        assert_eq!(accepts(&proof, &tenant.id).await, (true, String::new()), "{path}: {proof}");
        assert!(proof["hashes"].as_array().unwrap().len() <= 10, "logarithmic");
        if asked.is_some() {
            assert_eq!(
                proof["checkpoint"], older.body["checkpoint"],
                "the older checkpoint is told again, to the byte"
            );
        }
    }
    // The subtrees are kept meanwhile, and the answers do not change.
    let before = tenant.get("/v1/movements/300/proof").await.unwrap().body;
    let pool = world.pool().await.unwrap();
    let begun = std::time::Instant::now();
    while sqlx::query_scalar::<_, i64>("select count(*) from ledger_tree").fetch_one(&pool).await.unwrap() < size / 256
    {
        assert!(begun.elapsed().as_secs() < 30, "full subtrees are kept");
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    let proof = tenant.get("/v1/movements/300/proof").await.unwrap().body;
    assert_eq!(proof, before);

    let altered: [fn(&mut Value); 8] = [
        |proof| proof["movement"]["change_on_hand"] = json!("2"),
        |proof| proof["movement"]["occurred_at"] = json!("2020-01-01T00:00:00Z"),
        |proof| proof["movement"]["hash"] = json!("00".repeat(32)),
        |proof| proof["movement"]["id"] = json!(301),
        |proof| proof["leaf_index"] = json!(300),
        |proof| proof["hashes"].as_array_mut().unwrap().swap(0, 1),
        |proof| drop(proof["hashes"].as_array_mut().unwrap().pop()),
        |proof| {
            let text = proof["checkpoint"].as_str().unwrap().replacen("chain ", "chain 0", 1);
            proof["checkpoint"] = json!(text);
        },
    ];
    for (number, alter) in altered.iter().enumerate() {
        let mut proof = proof.clone();
        alter(&mut proof);
        assert!(!accepts(&proof, &tenant.id).await.0, "alteration {number} is rejected");
    }
    let other = world.tenant().await.unwrap();
    assert!(!accepts(&proof, &other.id).await.0, "it is no proof of another tenant's ledger");

    // A client cannot say itself how far a check of its ledger has come.
    let counts = json!({ "movements": 1_i64 << 59, "levels": 0, "audit_records": 0, "documents": 0, "reserved_levels": 0, "control_records": 0 });
    let forged = cursor::encode(&json!({ "tenant_id": tenant.id, "phase": "done", "counts": counts, "findings": [] }));
    // Errors are clear.
    for (path, status, code) in [
        ("/v1/movements/0/proof".to_owned(), 404, "NOT_FOUND"),
        ("/v1/movements/x/proof".to_owned(), 404, "NOT_FOUND"),
        (format!("/v1/movements/{}/proof", size + 1), 404, "NOT_FOUND"),
        (format!("/v1/movements/9/proof?size={}", size + 1), 400, "INVALID_QUERY"),
        ("/v1/movements/9/proof?size=8".to_owned(), 400, "INVALID_QUERY"),
        ("/v1/movements/9/proof?size=-1".to_owned(), 400, "INVALID_QUERY"),
        ("/v1/ledger/checkpoint?size=x".to_owned(), 400, "INVALID_QUERY"),
        ("/v1/ledger/verification?cursor=7b7d".to_owned(), 400, "INVALID_QUERY"),
        (format!("/v1/ledger/verification?cursor={forged}"), 400, "INVALID_QUERY"),
    ] {
        let answer = tenant.get(&path).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.code()), (status, code), "{path}");
    }
    assert_eq!(other.get("/v1/movements/1/proof").await.unwrap().code(), "NOT_FOUND");
    assert_eq!(other.get("/v1/ledger/checkpoint").await.unwrap().body["size"], 0);

    // The tenant's own check of it all.
    let mut path = "/v1/ledger/verification".to_owned();
    let done = loop {
        let answer = tenant.get(&path).await.unwrap();
        match answer.body["next_cursor"].as_str() {
            None => break answer.body,
            Some(cursor) => path = format!("/v1/ledger/verification?cursor={cursor}"),
        }
    };
    assert_eq!((&done["status"], &done["checked"]["movements"]), (&json!("sound"), &json!(size)), "{done}");
    tamper(&pool, &["update stock_levels set on_hand_micro = 7 where on_hand_micro > 0".into()]).await;
    let unsound = tenant.get("/v1/ledger/verification").await.unwrap().body;
    assert_eq!(
        (&unsound["status"], &unsound["findings"][0]["check"]),
        (&json!("unsound"), &json!("levels")),
        "{unsound}"
    );
    std::fs::remove_dir_all(&directory).unwrap();
}

/// The lines that an export answers with.
async fn exported(tenant: &Tenant, query: &str) -> Vec<Value> {
    let answer = tenant.raw(&format!("/v1/audit/export?{query}")).await.unwrap();
    assert_eq!(answer.headers()["content-type"], "application/x-ndjson");
    let text = answer.text().await.unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What the program of the docs says of an export.
async fn checked(tenant: &str, lines: &[Value]) -> Result<String, String> {
    let name = format!("twh_export_{}", uuid::Uuid::new_v4().simple());
    let (program, file) = (std::env::temp_dir().join(format!("{name}.py")), std::env::temp_dir().join(name));
    std::fs::write(&program, program_of_the_docs("verify_export.py")).unwrap();
    std::fs::write(&file, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    let mut command = tokio::process::Command::new(python().unwrap());
    command.arg(&program).arg(tenant).stdin(std::fs::File::open(&file).unwrap());
    let output = command.output().await.unwrap();
    std::fs::remove_file(&program).and_then(|()| std::fs::remove_file(&file)).unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

#[tokio::test]
async fn an_export_is_checked_by_the_docs_program_alone_and_an_altered_one_is_found() {
    let world = World::start_with(&[("TWH_RATE_LIMITS", "off")]).await.unwrap();
    let tenant = trade(&world).await;
    trade(&world).await;
    // More than one part, records too large for one, and texts that are written in more than one way.
    let items: Vec<_> = (0..900)
        .map(|n| json!({ "type": "item.create", "idempotency_key": format!("n{n}"), "body": { "sku": format!("N{n}"), "name": format!("Größe \"{n}\" / 🙂") } }))
        .collect();
    for items in items.chunks(300) {
        tenant.done("/v1/commands:batch", json!({ "commands": items })).await.unwrap();
    }
    let key = tenant.done("/v1/api-keys", json!({ "name": "Schlüssel", "role": "dev" })).await.unwrap();
    tenant.done(&format!("/v1/api-keys/{}/rotate", key.id()), json!({})).await.unwrap();
    let ledger = exported(&tenant, "chain=ledger").await;
    let control = exported(&tenant, "chain=control").await;
    let newest = tenant.get("/v1/audit?limit=1000").await.unwrap().body;
    for (chain, lines) in [("ledger", &ledger), ("control", &control)] {
        let newest = newest["data"].as_array().unwrap().iter().find(|row| row["chain"] == chain).unwrap();
        assert_eq!(
            (&lines.last().unwrap()["hash"], lines.len()),
            (&newest["hash"], usize::try_from(newest["sequence"].as_u64().unwrap()).unwrap())
        );
    }
    assert!(ledger.len() > 900 && control.len() > 3, "{} and {}", ledger.len(), control.len());
    let both = [ledger.as_slice(), &control].concat();
    let said = checked(&tenant.id, &both).await.unwrap();
    assert!(
        said.contains(&format!("ledger: up to record {}", ledger.len())) && said.contains("control: up to"),
        "{said}"
    );

    // Taken up where it broke off, or a part by numbers or times.
    let (first, rest) = ledger.split_at(700);
    assert_eq!(exported(&tenant, "chain=ledger&through=700").await, first);
    assert_eq!(exported(&tenant, "chain=ledger&after=700").await, rest);
    checked(&tenant.id, rest).await.unwrap();
    let time = ledger[800]["recorded_at"].as_str().unwrap();
    let since = exported(&tenant, &format!("chain=ledger&from={time}")).await;
    let until = exported(&tenant, &format!("chain=ledger&to={time}")).await;
    assert!(since[0]["recorded_at"] == time && until.last().unwrap()["recorded_at"] != time);
    assert_eq!([until, since].concat(), ledger);
    for nothing in [
        format!("chain=ledger&after={}", ledger.len()),
        "chain=control&after=1000000".into(),
        "chain=ledger&through=0".into(),
    ] {
        assert_eq!(exported(&tenant, &nothing).await, [] as [Value; 0], "{nothing}");
    }

    type Alter = fn(&mut Vec<Value>);
    let altered: [(Alter, &str); 7] = [
        (|lines| lines[5]["new"] = json!("{}"), "ledger record 6 is not"),
        (|lines| lines[5]["actor"]["ip"] = json!("10.9.9.9"), "ledger record 6 is not"),
        (|lines| lines[5]["recorded_at"] = json!("2020-01-01T00:00:00Z"), "ledger record 6 is not"),
        (|lines| drop(lines.remove(8)), "ledger record 9 is missing"),
        (|lines| lines.swap(8, 9), "ledger record 9 is missing"),
        (|lines| lines[0]["previous_hash"] = json!("00".repeat(32)), ""),
        (
            |lines| {
                let last = lines.len() - 1;
                lines[last]["old"] = json!(null);
                lines[last]["new"] = json!("{}")
            },
            "control record",
        ),
    ];
    for (alter, found) in altered {
        let mut lines = both.clone();
        alter(&mut lines);
        match checked(&tenant.id, &lines).await {
            Ok(_) => assert_eq!(found, "", "the hash before the first is known to all"),
            Err(error) => assert!(!found.is_empty() && error.contains(found), "{found}: {error}"),
        }
    }
    let other = world.tenant().await.unwrap();
    assert!(checked(&other.id, &both).await.is_err(), "it is another tenant's");
    for wrong in ["", "chain=all", "chain=ledger&after=-1", "chain=ledger&from=x", "chain=ledger&limit=1"] {
        assert_eq!(tenant.get(&format!("/v1/audit/export?{wrong}")).await.unwrap().code(), "INVALID_QUERY", "{wrong}");
    }
}

#[tokio::test]
async fn pages_of_the_account_leave_nothing_out_where_one_holds_records_of_one_chain_only() {
    let world = World::start().await.unwrap();
    let tenant = world.tenant().await.unwrap();
    tenant.stock("WIDGET", 10).await.unwrap();
    for n in 0..5 {
        tenant.done("/v1/api-keys", json!({ "name": format!("k{n}"), "role": "dev" })).await.unwrap();
    }
    let whole = tenant.get("/v1/audit?limit=1000").await.unwrap().body["data"].as_array().unwrap().clone();
    assert!(whole.iter().take(4).all(|row| row["chain"] == "control"), "pages of two begin with keys only");
    assert!(whole.iter().any(|row| row["chain"] == "ledger"));
    let (mut paged, mut path) = (Vec::new(), "/v1/audit?limit=2".to_owned());
    loop {
        let page = tenant.get(&path).await.unwrap().body;
        paged.extend(page["data"].as_array().unwrap().clone());
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/v1/audit?limit=2&cursor={cursor}");
        assert!(paged.len() <= whole.len(), "it repeats");
    }
    assert_eq!(paged, whole);
}

#[tokio::test]
async fn what_was_told_late_comes_later_in_the_account_all_the_same() {
    let world = World::start().await.unwrap();
    let tenant = world.tenant().await.unwrap();
    let pool = world.pool().await.unwrap();
    let id = twh_domain::id::TenantId(tenant.id.parse().unwrap());
    for micros in [4_000_000_000_000_000, 3_000_000_000_000_000] {
        let actor = Actor { kind: "system".into(), id: "clock".into(), ip: None, user_agent: None };
        let deed = Deed { tenant: id, actor, request_id: "r".into(), at: Timestamp::from_micros(micros) };
        let change = Change { action: "a.b", entity_kind: "a", entity: uuid::Uuid::nil(), old: None, new: None };
        let mut tx = ControlChange::begin(&pool, &[id]).await.unwrap();
        tx.record(&deed, change).await.unwrap();
        tx.commit().await.unwrap();
    }
    world.is_sound().await.unwrap();
}

#[tokio::test]
async fn a_rehearsal_says_what_would_come_of_it_and_changes_nothing() {
    let world = World::start().await.unwrap();
    let tenant = world.tenant().await.unwrap();
    tenant.stock("WIDGET", 10).await.unwrap();
    let pool = world.pool().await.unwrap();
    let everything = async || -> String {
        sqlx::query_scalar("select (select string_agg(p::text, ',') from ledger_partitions p) || (select string_agg(h::text, ',') from ledger_heads h) || (select count(*) from command_outcomes)::text")
            .fetch_one(&pool)
            .await
            .unwrap()
    };
    let before = everything().await;
    let order = |quantity: i64| json!({ "type": "adjustment.create", "body": { "location_code": "MAIN", "reason": "lost", "lines": [{ "sku": "WIDGET", "quantity": -quantity }] } });
    let dry = "/v1/commands:batch?dry_run=true";
    // Each is decided on what the ones before it left.
    let answer = tenant
        .post(dry, json!({ "commands": [order(6), order(6), { "type": "item.create" }, order(4)] }))
        .await
        .unwrap();
    let statuses: Vec<_> =
        answer.body["results"].as_array().unwrap().iter().map(|entry| entry["status"].clone()).collect();
    assert_eq!(statuses, [201, 409, 422, 201], "{}", answer.body);
    assert_eq!(answer.body["results"][1]["body"]["details"][0]["available"], "4", "{}", answer.body);
    let changes = answer.body["stock_changes"].as_array().unwrap();
    assert_eq!(changes.len(), 1);
    assert_eq!(changes[0]["qty_on_hand"], json!({ "before": "10", "after": "0" }), "{}", answer.body);
    // All or nothing.
    let whole = json!({ "atomic": true, "commands": [order(6), order(6)] });
    let answer = tenant.post(dry, whole.clone()).await.unwrap();
    assert_eq!(answer.body["results"][0]["status"], 409, "{}", answer.body);
    assert_eq!(answer.body["stock_changes"], json!([]));
    let answer = tenant.post(dry, json!({ "atomic": true, "commands": [order(6), order(4)] })).await.unwrap();
    assert_eq!(answer.body["results"].as_array().unwrap().len(), 2, "{}", answer.body);
    // What cannot be rehearsed is refused like the real thing.
    for (path, body, code) in [
        ("/v1/commands:batch?dry_run=yes", whole.clone(), "INVALID_QUERY"),
        ("/v1/commands:batch?dryrun=true", whole.clone(), "INVALID_QUERY"),
        (dry, json!({ "commands": [] }), "VALIDATION_FAILED"),
        (dry, json!({ "atomic": true, "commands": [{ "type": "nothing" }] }), "VALIDATION_FAILED"),
    ] {
        assert_eq!(tenant.post(path, body).await.unwrap().code(), code, "{path}");
    }
    assert_eq!(everything().await, before, "nothing was written");
    assert_eq!(tenant.level("WIDGET").await.unwrap().0, "10");
    // The real thing agrees with its rehearsal.
    let keyed = |key: &str| {
        let mut entry = order(6);
        entry["idempotency_key"] = json!(key);
        entry
    };
    let real = json!({ "commands": [keyed("k0"), keyed("k1")] });
    let done = tenant.post("/v1/commands:batch", real).await.unwrap();
    assert_eq!((&done.body["results"][0]["status"], &done.body["results"][1]["status"]), (&json!(201), &json!(409)));
    // A key that was used answers in a rehearsal as it would.
    let answer = tenant.post(dry, json!({ "commands": [keyed("k0")] })).await.unwrap();
    assert_eq!(
        (&answer.body["results"][0]["replayed"], &answer.body["stock_changes"]),
        (&json!(true), &json!([])),
        "{}",
        answer.body
    );
}
