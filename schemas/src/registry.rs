//! The schema registry: registers our schemas at start, with the compatibility that the catalogue names, and finds those of
//! records written by others.

use crate::catalogue::{self, Topic};
use crate::codec::{Codec, DecodeError, EncodeError, SchemaSource};
use crate::records::{CommandOutcome, DomainEvent, StockLevel, StockMovement};
use schema_registry_converter::async_impl::schema_registry::{SrSettings, get_schema_by_id, post_schema};
use schema_registry_converter::schema_registry_common::{SchemaType, SuppliedSchema};
use std::sync::Arc;
use std::time::Duration;
use twh_domain::command::Command;
use twh_domain::outcome::Outcome;

const TIMEOUT: Duration = Duration::from_secs(10);

/// Why the schemas could not be registered.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The registry does not answer.
    #[error("the schema registry at {url} does not answer: {reason}")]
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
            Err(error) if !error.retriable && error.error.contains("status 404") => Err(DecodeError::UnknownSchema(id)),
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

    /// Registers a topic's schema and gives its id.
    pub async fn register(&self, topic: &Topic, prefix: &str) -> Result<Option<u32>, RegistryError> {
        let Some(value) = topic.value else { return Ok(None) };
        let subject = topic.subject(prefix);
        self.set_compatibility(&subject, value.compatibility.name()).await?;
        let supplied = SuppliedSchema::new(None, SchemaType::Avro, value.avsc.to_owned());
        match post_schema(&self.settings, subject.clone(), supplied).await {
            Ok(registered) => Ok(Some(registered.id)),
            Err(error) if error.error.contains("status 409") || error.error.contains("status 422") => {
                let reason = error.cause.unwrap_or(error.error);
                Err(RegistryError::Refused { subject, compatibility: value.compatibility.name(), reason })
            }
            Err(error) => Err(RegistryError::Unavailable { url: self.url.clone(), reason: error.to_string() }),
        }
    }

    /// The client library registers and finds schemas but cannot set this.
    async fn set_compatibility(&self, subject: &str, level: &str) -> Result<(), RegistryError> {
        let url = format!("{}/config/{subject}", self.url);
        let body = serde_json::json!({ "compatibility": level });
        let unavailable = |reason: String| RegistryError::Unavailable {
            url: self.url.clone(),
            reason: format!("the compatibility of {subject} cannot be set: {reason}"),
        };
        let answer = self.http.put(url).json(&body).send().await.map_err(|error| unavailable(error.to_string()))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let said = answer.text().await.unwrap_or_default();
        Err(unavailable(format!("{status}: {said}")))
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
    T: serde::Serialize + serde::de::DeserializeOwned,
{
    let id = registry.register(topic, prefix).await?.unwrap_or_default();
    let avsc = topic.value.map_or("", |value| value.avsc);
    Ok(Codec::new(id, avsc, Arc::clone(registry))?)
}
