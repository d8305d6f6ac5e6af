//! What is written is read again, by us and by a stranger to our codec; what is not ours is refused, whatever it is.
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
use futures::executor::block_on;
use proptest::prelude::*;
use samples::{avsc, codec, codec_beside};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fmt::Debug;
use twh_domain::commands::Command;
use twh_domain::outcome::Outcome;
use twh_schemas::catalogue::{COMMANDS, EVENTS, LEVELS, MOVEMENTS, OUTCOMES, TOPICS, Topic};
use twh_schemas::codec::{Bounded, DecodeError};
use twh_schemas::records::{DomainEvent, StockMovement};

/// What a stranger makes of a record of ours: all of it, to the last byte.
fn stranger(topic: &Topic, record: &[u8]) -> Value {
    let schema = Schema::parse_str(avsc(topic)).unwrap();
    let mut datum = &record[5..];
    let value = GenericDatumReader::builder(&schema).build().unwrap().read_value(&mut datum).unwrap();
    assert!(datum.is_empty(), "{} has bytes left over", topic.name);
    value
}

/// Both ways, and every optional field in both of its states.
fn comes_back<T: Serialize + DeserializeOwned + Bounded + PartialEq + Debug>(topic: &Topic, samples: &[T]) {
    let codec = codec::<T>(topic);
    let mut met = BTreeMap::new();
    for sample in samples {
        let record = codec.encode(sample).unwrap();
        assert_eq!(&block_on(codec.decode(&record)).unwrap(), sample);
        let schema = Schema::parse_str(avsc(topic)).unwrap();
        let value = stranger(topic, &record);
        optionals("", &value, &mut met);
        let mut written = record[..5].to_vec();
        GenericDatumWriter::builder(&schema).build().unwrap().write_value(&mut written, value).unwrap();
        assert_eq!(&block_on(codec.decode(&written)).unwrap(), sample, "{} as a stranger writes it", topic.name);
    }
    let one_sided: Vec<_> = met.iter().filter(|(_, states)| !(states.0 && states.1)).collect();
    assert!(one_sided.is_empty(), "the samples of {} leave a state out: {one_sided:?}", topic.name);
}

/// Which optional fields were met absent, and which present.
fn optionals(path: &str, value: &Value, met: &mut BTreeMap<String, (bool, bool)>) {
    match value {
        Value::Record(fields) => {
            fields.iter().for_each(|(name, value)| optionals(&format!("{path}.{name}"), value, met))
        }
        Value::Array(items) => items.iter().for_each(|item| optionals(path, item, met)),
        // The payload is told by its branch; all others are "null or".
        Value::Union(branch, value) if path.ends_with(".payload") => {
            optionals(&format!("{path}[{branch}]"), value, met)
        }
        Value::Union(_, value) => {
            let state = met.entry(path.to_owned()).or_default();
            let absent = matches!(**value, Value::Null);
            *state = (state.0 || absent, state.1 || !absent);
            optionals(path, value, met);
        }
        _ => {}
    }
}

#[test]
fn every_record_comes_back_as_it_went() {
    comes_back(&COMMANDS, &samples::commands());
    comes_back(&OUTCOMES, &samples::outcome_records());
    comes_back(&EVENTS, &samples::events());
    comes_back(&MOVEMENTS, &samples::movements());
    comes_back(&LEVELS, &samples::levels());
}

#[test]
fn an_outcome_is_the_same_after_its_journey() {
    for (outcome, record) in samples::outcomes().into_iter().zip(samples::outcome_records()) {
        assert_eq!(Outcome::try_from(record).unwrap(), outcome);
    }
}

#[test]
fn logical_types_mean_to_a_stranger_what_they_mean_to_us() {
    let record = codec::<StockMovement>(&MOVEMENTS).encode(&samples::movements()[0]).unwrap();
    let Value::Record(fields) = stranger(&MOVEMENTS, &record) else { panic!("not a record") };
    let field = |name: &str| fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.clone()).unwrap();
    let Value::Decimal(change) = field("change_on_hand") else { panic!("not a decimal") };
    // -2.5 as a whole number of millionths, big endian in two's complement.
    assert_eq!(Vec::<u8>::try_from(change).unwrap(), (-2_500_000_i32).to_be_bytes()[1..]);
    assert_eq!(field("recorded_at"), Value::TimestampMicros(1_700_000_000_000_001));
    assert_eq!(field("item_id"), Value::Uuid(uuid::Uuid::from_u128(2)));
    assert_eq!(field("hash"), Value::Bytes(vec![7; 32]));
}

#[test]
fn every_schema_of_the_catalogue_is_avro_in_our_namespace() {
    for topic in TOPICS.iter().filter(|topic| topic.value.is_some()) {
        let schema = Schema::parse_str(avsc(topic)).unwrap_or_else(|error| panic!("{}: {error}", topic.name));
        assert_eq!(schema.namespace(), Some("com.thewarehousehub"), "{}", topic.name);
    }
}

#[test]
fn what_is_not_ours_is_poison() {
    let foreign = avsc(&MOVEMENTS);
    let codec = codec_beside::<Command>(&COMMANDS, foreign);
    let whole = codec.encode(&samples::commands()[0]).unwrap();
    let mut unknown = whole.clone();
    unknown[4] = 99;
    let mut longer = whole.clone();
    longer.push(0);
    let mut another_kind = vec![0, 0, 0, 0, 3];
    another_kind.extend(&self::codec::<StockMovement>(&MOVEMENTS).encode(&samples::movements()[0]).unwrap()[5..]);
    let cases: [&[u8]; 7] =
        [b"", b"\0\0", b"{\"json\": 1}", &unknown, &longer, &whole[..whole.len() - 1], &another_kind];
    for bytes in cases {
        let error = block_on(codec.decode(bytes)).unwrap_err();
        assert!(error.is_poison(), "{error} for {:?}", &bytes[..bytes.len().min(8)]);
    }
}

proptest! {
    #[test]
    fn hostile_bytes_never_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut record = vec![0, 0, 0, 0, 7];
        record.extend(bytes);
        let _ = block_on(codec::<Command>(&COMMANDS).decode(&record));
        let _ = block_on(codec::<StockMovement>(&MOVEMENTS).decode(&record));
    }

    /// Damage to a sound record reaches further than noise does: lengths and branches in the middle of it.
    #[test]
    fn damaged_records_never_harm(damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let codec = codec::<Command>(&COMMANDS);
        let mut record = codec.encode(&samples::commands()[0]).unwrap();
        for (index, byte) in damage {
            let index = 5 + index.index(record.len() - 5);
            record[index] = byte;
        }
        let _ = block_on(codec.decode(&record));
    }
}

/// Any program may write to a topic: what no ledger says is set aside, and not handed to a store that cannot take it.
#[test]
fn what_no_ledger_says_is_poison() {
    let event = samples::events().remove(0);
    let spoiled: [fn(&mut DomainEvent); 7] = [
        |event| event.occurred_at = i64::MAX,
        |event| event.recorded_at = i64::MIN,
        |event| event.sequence = 0,
        |event| event.offset = -1,
        |event| event.partition = -1,
        |event| event.event_type = "order.\0".to_owned(),
        |event| event.subject_type = "x".repeat(65),
    ];
    let codec = codec::<DomainEvent>(&EVENTS);
    for (index, spoil) in spoiled.into_iter().enumerate() {
        let mut event = event.clone();
        spoil(&mut event);
        let error = block_on(codec.decode(&codec.encode(&event).unwrap())).unwrap_err();
        assert!(matches!(error, DecodeError::Unsound(_)) && error.is_poison(), "{index}: {error}");
    }
}
