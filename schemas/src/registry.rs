//! The schema registry: registers our schemas at start, with the compatibility that the catalogue names, and finds those of
//! records written by others.

use crate::catalogue::{self, Topic, ValueSchema};
use crate::codec::{Bounded, Codec, DecodeError, EncodeError, SchemaSource};
use crate::records::{CommandOutcome, DomainEvent, StockLevel, StockMovement};
use schema_registry_converter::async_impl::schema_registry::{SrSettings, get_schema_by_id, post_schema};
use schema_registry_converter::error::SRCError;
use schema_registry_converter::schema_registry_common::{RawError, SchemaType, SuppliedSchema};
use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;
use twh_domain::commands::Command;
use twh_domain::outcome::Outcome;

const TIMEOUT: Duration = Duration::from_secs(10);
const REGISTER_TRIES: u32 = 4;
const REGISTER_PAUSE: Duration = Duration::from_millis(100);
/// The registry's error codes. Source: Confluent's "Schema Registry API reference".
const SCHEMA_NOT_FOUND: u32 = 40_403;
/// Incompatible, or not a schema at all.
const REFUSALS: &[u32] = &[409, 422, 42_201];

/// Why the schemas could not be registered.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The registry does not answer, or not as one.
    #[error("the schema registry at {url} does not do its work: {reason}")]
    Unavailable {
        /// Where.
        url: String,
        /// Why not.
        reason: String,
    },
    /// The registry refused a schema.
    #[error(
        "the registry refuses the schema of {subject}, which must stay {compatibility}: {reason}. Readers of this topic would break: \
         add fields with defaults instead of changing or removing them, or use another TWH_TOPIC_PREFIX for an environment of its own"
    )]
    Refused {
        /// Which subject.
        subject: String,
        /// What it must stay.
        compatibility: &'static str,
        /// What the registry says.
        reason: String,
    },
    /// One of our own schemas cannot be used.
    #[error(transparent)]
    Unusable(#[from] DecodeError),
}

/// What the registry itself said, where it did.
fn said(error: &SRCError) -> Option<&RawError> {
    error.source().and_then(|source| source.downcast_ref())
}

/// Finds schemas by id.
pub struct Registry {
    url: String,
    settings: SrSettings,
    http: reqwest::Client,
}

impl SchemaSource for Registry {
    async fn fetch(&self, id: u32) -> Result<String, DecodeError> {
        match get_schema_by_id(id, &self.settings).await {
            Ok(found) => Ok(found.schema),
            // Only the registry's own word for it: a proxy or a wrong address answers 404 too.
            Err(error) if said(&error).is_some_and(|said| said.error_code == SCHEMA_NOT_FOUND) => {
                Err(DecodeError::UnknownSchema(id))
            }
            Err(error) => Err(DecodeError::RegistryUnavailable(error.to_string())),
        }
    }
}

impl Registry {
    /// A client of the registry whose Confluent API is at `url`.
    pub fn new(url: &str) -> Result<Self, RegistryError> {
        let url = url.trim_end_matches('/').to_owned();
        let unavailable = |reason: String| RegistryError::Unavailable { url: url.clone(), reason };
        let settings = SrSettings::new_builder(url.clone())
            .set_timeout(TIMEOUT)
            .build()
            .map_err(|e| unavailable(e.to_string()))?;
        let http = reqwest::Client::builder().timeout(TIMEOUT).build().map_err(|e| unavailable(e.to_string()))?;
        Ok(Self { url, settings, http })
    }

    /// Registers a topic's schema and gives its id. Several processes may do so at once.
    pub async fn register(&self, topic: &Topic, prefix: &str) -> Result<Option<u32>, RegistryError> {
        let Some(value) = topic.value else { return Ok(None) };
        let subject = topic.subject(prefix);
        let mut tries = 1;
        loop {
            match self.try_register(&subject, &value).await {
                // Two first starts at once may also be told of a conflict, which is over a moment later.
                Err(_) if tries < REGISTER_TRIES => tokio::time::sleep(REGISTER_PAUSE * tries).await,
                settled => return settled.map(Some),
            }
            tries += 1;
        }
    }

    async fn try_register(&self, subject: &str, value: &ValueSchema) -> Result<u32, RegistryError> {
        let compatibility = value.compatibility.name();
        self.set_compatibility(subject, compatibility).await?;
        let supplied = SuppliedSchema::new(None, SchemaType::Avro, value.avsc.to_owned());
        let error = match post_schema(&self.settings, subject.to_owned(), supplied).await {
            Ok(registered) => return Ok(registered.id),
            Err(error) => error,
        };
        match said(&error) {
            Some(said) if REFUSALS.contains(&said.error_code) => {
                Err(RegistryError::Refused { subject: subject.to_owned(), compatibility, reason: said.message.clone() })
            }
            _ => Err(self.unavailable(&error)),
        }
    }

    /// The client library registers and finds schemas but cannot set this.
    async fn set_compatibility(&self, subject: &str, level: &str) -> Result<(), RegistryError> {
        let body = serde_json::json!({ "compatibility": level });
        let put = self.http.put(format!("{}/config/{subject}", self.url)).json(&body);
        let answer = put.send().await.map_err(|error| self.unavailable(&error))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let said = answer.text().await.unwrap_or_default();
        Err(self.unavailable(&format!("the compatibility of {subject} cannot be set: {status}: {said}")))
    }

    fn unavailable(&self, reason: &dyn std::fmt::Display) -> RegistryError {
        RegistryError::Unavailable { url: self.url.clone(), reason: reason.to_string() }
    }
}

/// A codec that finds the schemas of others in the registry.
pub type RegistryCodec<T> = Codec<T, Registry>;

/// The outcomes' codec, in the domain's own terms.
pub struct Outcomes(RegistryCodec<CommandOutcome>);

impl Outcomes {
    /// The outcome in wire format.
    pub fn encode(&self, outcome: &Outcome) -> Result<Vec<u8>, EncodeError> {
        self.0.encode(&CommandOutcome::from(outcome))
    }

    /// The outcome of a record.
    pub async fn decode(&self, bytes: &[u8]) -> Result<Outcome, DecodeError> {
        let record = self.0.decode(bytes).await?;
        record
            .try_into()
            .map_err(|error: crate::records::UnknownKind| DecodeError::BadDatum { id: 0, reason: error.to_string() })
    }
}

/// The codecs of every topic, registered and ready.
pub struct Schemas {
    /// Of `commands`.
    pub commands: RegistryCodec<Command>,
    /// Of `command.outcomes`.
    pub outcomes: Outcomes,
    /// Of `domain.events`.
    pub events: RegistryCodec<DomainEvent>,
    /// Of `stock.movements`.
    pub movements: RegistryCodec<StockMovement>,
    /// Of `stock.levels`.
    pub levels: RegistryCodec<StockLevel>,
}

impl Schemas {
    /// Schemas under ids of their own, without a registry: for records that only this program reads and writes.
    pub fn unregistered() -> Result<Self, RegistryError> {
        // Asked only for ids that none of our records carries.
        let registry = Arc::new(Registry::new("http://127.0.0.1:9")?);
        Ok(Self {
            commands: numbered(&registry, &catalogue::COMMANDS, 1)?,
            outcomes: Outcomes(numbered(&registry, &catalogue::OUTCOMES, 2)?),
            events: numbered(&registry, &catalogue::EVENTS, 3)?,
            movements: numbered(&registry, &catalogue::MOVEMENTS, 4)?,
            levels: numbered(&registry, &catalogue::LEVELS, 5)?,
        })
    }

    /// Registers every schema of the catalogue.
    pub async fn connect(url: &str, prefix: &str) -> Result<Self, RegistryError> {
        let registry = Arc::new(Registry::new(url)?);
        Ok(Self {
            commands: codec(&registry, &catalogue::COMMANDS, prefix).await?,
            outcomes: Outcomes(codec(&registry, &catalogue::OUTCOMES, prefix).await?),
            events: codec(&registry, &catalogue::EVENTS, prefix).await?,
            movements: codec(&registry, &catalogue::MOVEMENTS, prefix).await?,
            levels: codec(&registry, &catalogue::LEVELS, prefix).await?,
        })
    }
}

async fn codec<T>(registry: &Arc<Registry>, topic: &Topic, prefix: &str) -> Result<RegistryCodec<T>, RegistryError>
where
    T: serde::Serialize + serde::de::DeserializeOwned + Bounded,
{
    let id = registry.register(topic, prefix).await?.unwrap_or_default();
    numbered(registry, topic, id)
}

fn numbered<T>(registry: &Arc<Registry>, topic: &Topic, id: u32) -> Result<RegistryCodec<T>, RegistryError>
where
    T: serde::Serialize + serde::de::DeserializeOwned + Bounded,
{
    let avsc = topic.value.map_or("", |value| value.avsc);
    Ok(Codec::new(id, avsc, Arc::clone(registry))?)
}
