//! What was decided once is decided so for ever: the logs in `tests/golden` come to the same ledgers, on PostgreSQL, command by
//! command. What changes a decision comes by a new version of the rules, and with a log of its own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests stop at the first surprise, and say how much they looked at"
)]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::read::GzDecoder;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use twh_domain::commands::{COMMAND_KINDS, RULES_VERSION};
use twh_domain::hex;
use twh_domain::timestamp::Timestamp;
use twh_processors::ledger::Ledger;
use twh_processors::outbox::Publishing;
use twh_processors::runtime::{Claimed, Decoded, Group as _, Record, Worker as _};
use twh_processors::seams::LedgerStore;
use twh_schemas::Schemas;
use twh_schemas::catalogue::COMMANDS;
use twh_sinks::kafka::Producer;
use twh_sinks::postgres::{PgPool, connect, sqlx};
use twh_tests::database::Databases;
use twh_tests::registry::Registry;
use uuid::Uuid;

/// Commands of a batch: some fail together with others, some begin one.
const BATCH: usize = 50;
/// Of the topic that the logs were taken from.
const PARTITIONS: i32 = 3;

/// The first line of a golden log.
#[derive(Deserialize)]
struct Head {
    schema: String,
}

#[derive(Deserialize)]
struct Kept {
    partition: i32,
    offset: i64,
    timestamp: i64,
    key: String,
    command: String,
}

/// What a tenant's commands came to.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Came {
    movements: i64,
    /// The head of the chain over every column of every movement.
    movements_hash: String,
    documents: i64,
    /// The head of the chain over every version of every document.
    documents_hash: String,
    events: i64,
    /// A hash over which commands were accepted, which were repeats of which, and the codes of those that were refused; repeats have the
    /// place of the first, and come after it by their ids.
    outcomes_hash: String,
}

fn logs() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let mut logs: Vec<_> = files.filter(|path| path.to_string_lossy().ends_with(".jsonl.gz")).collect();
    logs.sort();
    logs
}

fn read(log: &Path) -> (Head, Vec<Kept>) {
    let mut lines = BufReader::new(GzDecoder::new(File::open(log).unwrap())).lines().map(Result::unwrap);
    let head = serde_json::from_str(&lines.next().unwrap()).unwrap();
    (head, lines.map(|line| serde_json::from_str(&line).unwrap()).collect())
}

/// Applies a log as the ledger does, but for Kafka; says which kinds of commands were in it.
async fn apply(pool: &PgPool, schemas: Arc<Schemas>, schema: u32, log: &[Kept]) -> BTreeSet<&'static str> {
    let ledger = Ledger {
        store: LedgerStore::new(pool.clone(), 1),
        schemas,
        publishing: None::<Publishing<LedgerStore, Producer>>,
        kafka_cluster_id: "golden".to_owned(),
        owner: "golden".to_owned(),
        partitions: PARTITIONS,
        awaited: None,
    };
    let mut kinds = BTreeSet::new();
    for partition in log.iter().map(|kept| kept.partition).collect::<BTreeSet<_>>() {
        let Claimed { mut worker, .. } = ledger.claim(partition).await.unwrap();
        let of_partition: Vec<_> = log.iter().filter(|kept| kept.partition == partition).collect();
        for part in of_partition.chunks(BATCH) {
            let mut batch = Vec::new();
            for kept in part {
                let mut payload = vec![0];
                payload.extend(schema.to_be_bytes());
                payload.extend(STANDARD.decode(&kept.command).unwrap());
                let record = Record {
                    partition,
                    offset: kept.offset,
                    timestamp: Timestamp::from_millis(kept.timestamp),
                    key: Some(kept.key.clone().into_bytes()),
                    payload,
                    headers: Vec::new(),
                };
                let item = worker.decode(&record).await.unwrap();
                assert!(item.rules_version <= RULES_VERSION);
                kinds.extend(item.operations.iter().map(|operation| operation.payload.kind().name));
                batch.push(Decoded { record, item });
            }
            let reached = batch.last().map(|decoded| decoded.record.mark().into()).unwrap();
            worker.apply(batch, reached).await.unwrap();
        }
        worker.finish().await.unwrap();
        worker.drain().await;
    }
    kinds
}

async fn what_it_came_to(pool: &PgPool) -> BTreeMap<String, Came> {
    let heads = "select tenant_id::text as tenant, movement_sequence as movements, encode(movement_hash, 'hex') as movements_hash,
        audit_sequence as documents, encode(audit_hash, 'hex') as documents_hash, event_sequence as events from ledger_heads";
    let rows: Vec<(String, i64, String, i64, String, i64)> = sqlx::query_as(heads).fetch_all(pool).await.unwrap();
    let mut came = BTreeMap::new();
    for (tenant, movements, movements_hash, documents, documents_hash, events) in rows {
        let outcomes = "select concat_ws(' ', command_id, accepted, code, replay_of) from command_outcomes
            where tenant_id = $1::uuid order by partition, log_offset, replay_of is not null, command_id";
        let outcomes: Vec<String> = sqlx::query_scalar(outcomes).bind(&tenant).fetch_all(pool).await.unwrap();
        let outcomes_hash = hex::encode(&Sha256::digest(outcomes.join("\n")));
        came.insert(tenant, Came { movements, movements_hash, documents, documents_hash, events, outcomes_hash });
    }
    came
}

/// `UPDATE_GOLDEN=1` writes what they come to by the program of today: for a log that is new, never for one that is there.
#[tokio::test(flavor = "multi_thread")]
async fn logs_of_before_come_to_the_ledgers_of_before() {
    let registry = Registry::shared();
    let mut databases = Databases::shared().await.unwrap();
    let mut kinds = BTreeSet::new();
    for log in logs() {
        let (head, kept) = read(&log);
        let id = Uuid::new_v4().simple().to_string();
        let (name, prefix) = (format!("twh_golden_{id}"), format!("golden_{id}."));
        let pool = connect(&databases.create_migrated(&name).await.unwrap(), 4, "golden").unwrap();
        // As an upgrade finds it: the schema that wrote the log is there first.
        let schema = registry.register(&COMMANDS, &prefix, &head.schema).await.unwrap();
        let schemas = Arc::new(Schemas::connect(&registry.0, &prefix).await.unwrap());
        kinds.extend(apply(&pool, schemas, schema, &kept).await);
        let came = what_it_came_to(&pool).await;
        pool.close().await;
        databases.remove(&[name]).await.unwrap();
        registry.delete(&prefix).await.unwrap();
        let expected = log.with_extension("").with_extension("json");
        if std::env::var_os("UPDATE_GOLDEN").is_some() && !expected.exists() {
            std::fs::write(&expected, format!("{}\n", serde_json::to_string_pretty(&came).unwrap())).unwrap();
        }
        let expected: BTreeMap<String, Came> = serde_json::from_reader(File::open(&expected).unwrap()).unwrap();
        println!("{}: {} commands of {} tenants", log.display(), kept.len(), came.len());
        assert_eq!(came, expected, "{}: decided otherwise than before", log.display());
    }
    let missing: Vec<_> = COMMAND_KINDS.iter().map(|kind| kind.name).filter(|kind| !kinds.contains(kind)).collect();
    assert!(missing.is_empty(), "no golden log has a command of {missing:?}");
}
