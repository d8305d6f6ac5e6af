//! Confluent's wire format: a zero byte, the schema's id (four bytes, big endian), the Avro datum. Any client with a registry
//! reads it. Source: Confluent's "Wire format" page of the schema registry.
//!
//! A record is decoded by the schema that wrote it; fields that the writer did not have take the reader's default. A record of
//! our own kind that is sound, by a schema that can say what ours cannot (a newer version is at work next to this one), is never
//! poison: it waits for an upgrade, for nothing that was acknowledged may be set aside. By a schema that says nothing but what
//! ours does, no upgrade makes it readable: its data is wrong.

use crate::says::says;
use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_avro_fast::de::{DeserializerConfig, DeserializerState, read::SliceRead};
use serde_avro_fast::schema::{Name, SchemaMut};
use serde_avro_fast::ser::SerializerConfig;
use serde_avro_fast::{Schema, to_datum};
use std::collections::{BTreeSet, HashMap};
use std::io::Read as _;
use std::marker::PhantomData;
use std::sync::{Arc, PoisonError, RwLock};

const MAGIC: u8 = 0;
const HEADER_LENGTH: usize = 5;
/// Longest array or map that is read: far above any command, far below what would exhaust memory.
const SEQUENCE_MAX: usize = 100_000;

/// Why a value was not written.
#[derive(Debug, thiserror::Error)]
#[error("the record does not fit its schema: {0}")]
pub struct EncodeError(String);

/// Why a record was not read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not in the wire format.
    #[error("the record is not in Confluent's wire format: {0}")]
    NotWireFormat(&'static str),
    /// Its schema is not in the registry.
    #[error("the record's schema {0} is not in the registry")]
    UnknownSchema(u32),
    /// Its schema cannot be used.
    #[error("the record's schema {id} cannot be used: {reason}")]
    BadSchema {
        /// Which.
        id: u32,
        /// Why not.
        reason: String,
    },
    /// It is not what its schema says.
    #[error("the record does not decode by its schema {id}: {reason}")]
    BadDatum {
        /// Which schema.
        id: u32,
        /// Why not.
        reason: String,
    },
    /// It says what no record of ours can say.
    #[error("the record is not sound: {0}")]
    Unsound(String),
    /// It is sound, and of our own kind, but says what this version does not know.
    #[error(
        "the record is of a version that this one does not understand (schema {id}: {reason}); it waits for this process to be upgraded"
    )]
    NotUnderstood {
        /// Which schema.
        id: u32,
        /// What was not understood.
        reason: String,
    },
    /// The registry does not answer, so nobody can tell yet.
    #[error("the schema registry does not answer: {0}")]
    RegistryUnavailable(String),
}

impl DecodeError {
    /// True when the record will never be read, whatever happens.
    #[must_use]
    pub const fn is_poison(&self) -> bool {
        !matches!(self, Self::RegistryUnavailable(_) | Self::NotUnderstood { .. })
    }
}

/// A record whose fields have bounds that its schema cannot say. Topics are written by other programs too, and what is not
/// within them would be refused by the store, for as long as anybody tries.
pub trait Bounded {
    /// What is wrong; `None` where every field is within its bounds.
    fn unsound(&self) -> Option<String> {
        None
    }
}

/// Where schemas are found by id.
pub trait SchemaSource: Send + Sync {
    /// The schema's text.
    fn fetch(&self, id: u32) -> impl Future<Output = Result<String, DecodeError>> + Send;
}

/// A schema that wrote records.
struct Writer {
    id: u32,
    schema: Schema,
    /// The name of its record, without the namespace.
    name: Option<String>,
    /// What its records can say.
    says: BTreeSet<String>,
}

/// Writes and reads the records of one subject.
pub struct Codec<T, S> {
    own: Arc<Writer>,
    source: Arc<S>,
    writers: RwLock<HashMap<u32, Arc<Writer>>>,
    record: PhantomData<fn(T) -> T>,
}

impl<T: Serialize + DeserializeOwned + Bounded, S: SchemaSource> Codec<T, S> {
    /// Writes by `schema`, which the registry knows as `id`; reads by whatever wrote.
    pub fn new(id: u32, schema: &str, source: Arc<S>) -> Result<Self, DecodeError> {
        let own = Arc::new(parse(id, schema)?);
        let writers = RwLock::new(HashMap::from([(id, Arc::clone(&own))]));
        Ok(Self { own, source, writers, record: PhantomData })
    }

    /// The value in wire format.
    pub fn encode(&self, value: &T) -> Result<Vec<u8>, EncodeError> {
        let mut bytes = Vec::with_capacity(256);
        bytes.push(MAGIC);
        bytes.extend_from_slice(&self.own.id.to_be_bytes());
        to_datum(value, bytes, &mut SerializerConfig::new(&self.own.schema))
            .map_err(|error| EncodeError(error.to_string()))
    }

    /// The value of a record. Asks the registry for a schema that it meets for the first time; waits for nothing else.
    pub async fn decode(&self, bytes: &[u8]) -> Result<T, DecodeError> {
        let (id, datum) = split(bytes)?;
        let known = self.writers.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned();
        let writer = match known {
            Some(writer) => writer,
            None => {
                let writer = Arc::new(parse(id, &self.source.fetch(id).await?)?);
                self.writers.write().unwrap_or_else(PoisonError::into_inner).insert(id, Arc::clone(&writer));
                writer
            }
        };
        let record: T = read(&writer, datum).map_err(|reason| self.why(&writer, datum, reason))?;
        match record.unsound() {
            None => Ok(record),
            Some(reason) => Err(DecodeError::Unsound(reason)),
        }
    }

    fn why(&self, writer: &Writer, datum: &[u8], reason: String) -> DecodeError {
        let id = writer.id;
        let is_newer = writer.name == self.own.name && !writer.says.is_subset(&self.own.says);
        if is_newer && read::<IgnoredAny>(writer, datum).is_ok() {
            DecodeError::NotUnderstood { id, reason }
        } else {
            DecodeError::BadDatum { id, reason }
        }
    }
}

fn parse(id: u32, schema: &str) -> Result<Writer, DecodeError> {
    let parsed = schema.parse().and_then(|mut schema: SchemaMut| {
        schema.nodes_mut().iter_mut().filter_map(|node| node.type_.name_mut()).for_each(forget_namespace);
        let name = schema.root().type_.name().map(|name| name.name().to_owned());
        let says = says(&schema);
        Ok(Writer { id, schema: schema.freeze()?, name, says })
    });
    parsed.map_err(|error| DecodeError::BadSchema { id, reason: error.to_string() })
}

/// A branch of a union is offered to serde by its record's full name, and Rust's variants have no namespace. References
/// between records are resolved by now, so that nothing else reads the names.
fn forget_namespace(name: &mut Name) {
    *name = Name::from_fully_qualified_name(name.name());
}

fn split(bytes: &[u8]) -> Result<(u32, &[u8]), DecodeError> {
    let (header, datum) =
        bytes.split_at_checked(HEADER_LENGTH).ok_or(DecodeError::NotWireFormat("it is shorter than five bytes"))?;
    match header {
        [MAGIC, id @ ..] => Ok((id.iter().fold(0, |id, byte| id << 8 | u32::from(*byte)), datum)),
        _ => Err(DecodeError::NotWireFormat("its first byte is not 0")),
    }
}

fn read<T: DeserializeOwned>(writer: &Writer, datum: &[u8]) -> Result<T, String> {
    let mut config = DeserializerConfig::new(&writer.schema);
    config.max_seq_size = SEQUENCE_MAX;
    let mut state = DeserializerState::with_config(SliceRead::new(datum), config);
    let value = T::deserialize(state.deserializer()).map_err(|error| error.to_string())?;
    match state.into_reader().read(&mut [0]) {
        Ok(0) => Ok(value),
        _ => Err("bytes are left over".to_owned()),
    }
}
