//! Against the real registry and the real Kafka (`./dev up`), each test with a prefix of its own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "tests stop at the first surprise"
)]

mod samples;

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;
use apache_avro::writer::datum::GenericDatumWriter;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{FutureProducer, FutureRecord};
use samples::avsc;
use serde_json::{Value as Json, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use twh_schemas::Schemas;
use twh_schemas::catalogue::{COMMANDS, LEVELS, MOVEMENTS, OUTCOMES, Shortfall, TOPICS, TopicError, create_topics};
use twh_schemas::codec::{Codec, DecodeError};
use twh_schemas::partition::partition_of;
use twh_schemas::records::StockMovement;
use twh_schemas::registry::{Registry, RegistryError};
use twh_tests::{TEST_NAMES, topics};
use uuid::Uuid;

fn url() -> String {
    std::env::var("TWH_SCHEMA_REGISTRY_URL").unwrap_or_else(|_| "http://127.0.0.1:18081/apis/ccompat/v7".to_owned())
}

fn brokers() -> String {
    std::env::var("TWH_KAFKA_BROKERS").unwrap_or_else(|_| "127.0.0.1:19092".to_owned())
}

fn cluster() -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers()).set("partitioner", "murmur2_random");
    config
}

fn prefix() -> String {
    format!("{TEST_NAMES}{}.", Uuid::new_v4().simple())
}

/// The movement's schema of a day before it had reasons.
fn without_reason() -> Json {
    let mut schema: Json = serde_json::from_str(avsc(&MOVEMENTS)).unwrap();
    schema["fields"].as_array_mut().unwrap().retain(|field| field["name"] != "reason");
    schema
}

/// Registers a schema as another program would; gives the registry's answer.
async fn register(subject: &str, schema: &Json) -> (u16, Json) {
    let body = json!({"schema": schema.to_string(), "schemaType": "AVRO"});
    let address = format!("{}/subjects/{subject}/versions", url());
    let answer = reqwest::Client::new().post(address).json(&body).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

async fn delete_subjects(prefix: &str) {
    twh_tests::registry::Registry(url()).delete(prefix).await.unwrap();
}

async fn delete_topics(prefix: &str) {
    topics::delete(&brokers(), prefix).await.unwrap();
}

#[tokio::test]
async fn processes_that_start_at_once_agree_on_every_schema() {
    let prefix = prefix();
    let url = url();
    let (one, other) = tokio::join!(Schemas::connect(&url, &prefix), Schemas::connect(&url, &prefix));
    let (one, other) = (one.unwrap(), other.unwrap());
    let sample = &samples::movements()[0];
    let record = one.movements.encode(sample).unwrap();
    assert_eq!(record, other.movements.encode(sample).unwrap());
    assert_eq!(&other.movements.decode(&record).await.unwrap(), sample);
    for outcome in samples::outcomes() {
        assert_eq!(other.outcomes.decode(&one.outcomes.encode(&outcome).unwrap()).await.unwrap(), outcome);
    }
    for topic in TOPICS {
        let Some(value) = topic.value else { continue };
        let address = format!("{url}/config/{}", topic.subject(&prefix));
        let said: Json = reqwest::get(address).await.unwrap().json().await.unwrap();
        assert_eq!(said["compatibilityLevel"], value.compatibility.name(), "{}", topic.name);
    }
    delete_subjects(&prefix).await;
}

#[tokio::test]
async fn a_schema_that_would_break_readers_is_refused() {
    let prefix = prefix();
    Schemas::connect(&url(), &prefix).await.unwrap();
    let subject = MOVEMENTS.subject(&prefix);
    let current: Json = serde_json::from_str(avsc(&MOVEMENTS)).unwrap();
    // A required field less would break old readers, one more would break new ones.
    let mut less = current.clone();
    less["fields"].as_array_mut().unwrap().retain(|field| field["name"] != "hash");
    let mut more = current;
    more["fields"].as_array_mut().unwrap().push(json!({"name": "more", "type": "string"}));
    for broken in [less, more] {
        assert_eq!(register(&subject, &broken).await.0, 409);
    }
    delete_subjects(&prefix).await;
}

#[tokio::test]
async fn a_start_on_a_subject_that_is_not_compatible_says_what_to_do() {
    let prefix = prefix();
    let subject = LEVELS.subject(&prefix);
    let other = json!({"type": "record", "name": "StockLevel", "namespace": "com.thewarehousehub", "fields": [{"name": "shelf", "type": "string"}]});
    assert_eq!(register(&subject, &other).await.0, 200);
    let error = Schemas::connect(&url(), &prefix).await.err().unwrap();
    let text = error.to_string();
    assert!(matches!(error, RegistryError::Refused { .. }), "{text}");
    for part in [subject.as_str(), "FULL_TRANSITIVE", "shelf", "TWH_TOPIC_PREFIX"] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
    delete_subjects(&prefix).await;
}

#[tokio::test]
async fn records_of_an_older_writer_are_read_by_its_schema_from_the_registry() {
    let prefix = prefix();
    let older = without_reason();
    let (status, said) = register(&MOVEMENTS.subject(&prefix), &older).await;
    assert_eq!(status, 200);
    let id = u32::try_from(said["id"].as_u64().unwrap()).unwrap();
    let schemas = Schemas::connect(&url(), &prefix).await.unwrap();
    let sample = &samples::movements()[0];
    let newer = schemas.movements.encode(sample).unwrap();
    let schema = Schema::parse_str(avsc(&MOVEMENTS)).unwrap();
    let reader = GenericDatumReader::builder(&schema).build().unwrap();
    let Value::Record(mut fields) = reader.read_value(&mut &newer[5..]).unwrap() else { panic!("not a record") };
    fields.retain(|(name, _)| name != "reason");
    let mut record = vec![0];
    record.extend(id.to_be_bytes());
    let schema = Schema::parse_str(&older.to_string()).unwrap();
    GenericDatumWriter::builder(&schema).build().unwrap().write_value(&mut record, Value::Record(fields)).unwrap();
    let expected = StockMovement { reason: None, ..sample.clone() };
    assert_eq!(schemas.movements.decode(&record).await.unwrap(), expected);
    delete_subjects(&prefix).await;
}

#[tokio::test]
async fn an_unknown_schema_is_poison_and_an_absent_registry_is_not() {
    let record = [0, 0x7f, 0, 0, 1, 0];
    let codec = |url: &str| -> Codec<StockMovement, Registry> {
        Codec::new(1, avsc(&MOVEMENTS), Arc::new(Registry::new(url).unwrap())).unwrap()
    };
    let unknown = codec(&url()).decode(&record).await.unwrap_err();
    assert!(matches!(unknown, DecodeError::UnknownSchema(_)) && unknown.is_poison(), "{unknown}");
    for nowhere in ["http://127.0.0.1:9", &format!("{}/no/such/place", url())] {
        let error = codec(nowhere).decode(&record).await.unwrap_err();
        assert!(!error.is_poison(), "{nowhere}: {error}");
    }
    assert!(matches!(Schemas::connect("http://127.0.0.1:9", "").await.err(), Some(RegistryError::Unavailable { .. })));
}

#[tokio::test]
async fn processes_that_start_at_once_make_each_topic_once_and_a_tenant_never_moves() {
    let prefix = prefix();
    let cluster = cluster();
    let (one, other) = tokio::join!(create_topics(&cluster, &prefix, 5, 1), create_topics(&cluster, &prefix, 5, 1));
    one.unwrap();
    other.unwrap();
    // Another number later on changes nothing.
    create_topics(&cluster, &prefix, 8, 1).await.unwrap();
    let producer: FutureProducer = cluster.create().unwrap();
    let topic = COMMANDS.full_name(&prefix);
    for _ in 0..20 {
        let tenant = Uuid::new_v4().to_string();
        let record = FutureRecord::to(&topic).key(&tenant).payload("");
        let delivery = producer.send(record, Duration::from_secs(10)).await.unwrap();
        assert_eq!(delivery.partition, partition_of(tenant.as_bytes(), 5));
    }
    delete_topics(&prefix).await;
}

#[tokio::test]
async fn topics_that_a_lost_broker_may_take_along_are_told() {
    let (prefix, cluster) = (prefix(), cluster());
    let found = create_topics(&cluster, &prefix, 1, 1).await.unwrap();
    let names = |found: &[Shortfall], setting: &str| -> Vec<String> {
        let of = found.iter().filter(|one| one.setting == setting && one.loses);
        of.map(|one| one.topic.trim_start_matches(&prefix).to_owned()).collect()
    };
    // One broker, one copy; what is forgotten after an hour needs no more.
    let kept: Vec<_> = TOPICS.iter().filter(|topic| **topic != OUTCOMES).map(|topic| topic.name.to_owned()).collect();
    assert_eq!(names(&found, "replication.factor"), kept);
    assert_eq!(names(&found, "min.insync.replicas"), kept);
    assert_eq!(names(&found, "unclean.leader.election.enable"), Vec::<String>::new());

    let admin: AdminClient<DefaultClientContext> = cluster.create().unwrap();
    let topic = COMMANDS.full_name(&prefix);
    let unclean = [("unclean.leader.election.enable", "true"), ("min.insync.replicas", "2"), ("retention.ms", "1000")];
    let change = AlterConfig::new(ResourceSpecifier::Topic(&topic));
    let change = unclean.iter().fold(change, |change, (setting, value)| change.set(setting, value));
    let change = COMMANDS
        .settings(1)
        .into_iter()
        .filter(|(setting, _)| *setting != "retention.ms")
        .fold(change, |change, (setting, value)| change.set(setting, Box::leak(value.into_boxed_str())));
    admin.alter_configs(&[change], &AdminOptions::new()).await.unwrap()[0].as_ref().unwrap();
    let begun = Instant::now();
    loop {
        let found = create_topics(&cluster, &prefix, 1, 1).await.unwrap();
        if names(&found, "unclean.leader.election.enable") == ["commands"] {
            assert!(!names(&found, "min.insync.replicas").contains(&"commands".to_owned()));
            let choice = found.iter().find(|one| one.topic == topic && one.setting == "retention.ms").unwrap();
            assert_eq!((choice.found.as_str(), choice.wanted.as_str(), choice.loses), ("1000", "-1", false));
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{found:?}");
    }
    delete_topics(&prefix).await;
}

#[tokio::test]
async fn a_topic_that_would_make_a_replay_differ_is_refused() {
    let prefix = prefix();
    let cluster = cluster();
    create_topics(&cluster, &prefix, 1, 1).await.unwrap();
    let admin: AdminClient<DefaultClientContext> = cluster.create().unwrap();
    let topic = COMMANDS.full_name(&prefix);
    let change = AlterConfig::new(ResourceSpecifier::Topic(&topic)).set("message.timestamp.type", "CreateTime");
    admin.alter_configs(&[change], &AdminOptions::new()).await.unwrap()[0].as_ref().unwrap();
    // The controller has the new value; the broker tells of it a moment later.
    let begun = Instant::now();
    let error = loop {
        match create_topics(&cluster, &prefix, 1, 1).await {
            Err(error) => break error,
            Ok(_) => assert!(begun.elapsed() < Duration::from_secs(10), "the topic was accepted"),
        }
    };
    assert!(matches!(&error, TopicError::Setting { setting, .. } if *setting == "message.timestamp.type"), "{error}");
    assert!(error.is_final());
    delete_topics(&prefix).await;
}
