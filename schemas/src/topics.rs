//! Makes the catalogue's topics, and checks those that were there before. Never changes or deletes one: a topic's records and
//! its number of partitions are not ours to risk.

use crate::catalogue::{MIN_INSYNC, Partitions, REPLICAS_IN_SYNC_MIN, TOPICS, Topic};
use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigResource, NewTopic, OwnedResourceSpecifier, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
const METADATA_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the cluster may take to tell of a topic that it has made.
const VISIBLE_WITHIN: Duration = Duration::from_secs(30);
const VISIBLE_CHECK: Duration = Duration::from_millis(50);
/// Settings that would lose records or make a replay differ; another value of any other setting is the operator's choice.
const ESSENTIAL: &[&str] = &["cleanup.policy", "message.timestamp.type"];

/// Lets a replica that lacks what was acknowledged become the leader.
const UNCLEAN: &str = "unclean.leader.election.enable";
/// Copies of a partition with which one broker may be lost while another is away.
const REPLICATION_MIN: usize = 3;

/// A topic that is not as the promise needs it, or not as the catalogue says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortfall {
    /// Which topic.
    pub topic: String,
    /// The setting, by Kafka's name; `replication.factor` where there are too few copies.
    pub setting: &'static str,
    /// Its value.
    pub found: String,
    /// What it should be.
    pub wanted: String,
    /// What was acknowledged may be lost.
    pub loses: bool,
}

/// A topic as the cluster tells of it.
#[derive(Debug, Clone, Copy)]
struct Made {
    partitions: usize,
    /// Copies of the partition that has the fewest.
    replication: usize,
}

/// Why the topics are not as they must be.
#[derive(Debug, thiserror::Error)]
pub enum TopicError {
    /// The cluster failed or cannot be reached.
    #[error("the topics could not be made: {0}")]
    Kafka(#[from] KafkaError),
    /// The broker refused one.
    #[error("the topic {topic} could not be made: {code}")]
    Refused {
        /// Which.
        topic: String,
        /// Why.
        code: RDKafkaErrorCode,
    },
    /// The cluster does not tell of a topic that it has.
    #[error("the topic {0} was made, but the cluster does not tell of it")]
    Invisible(String),
    /// A topic that was there has a setting that would lose records or make a replay differ.
    #[error(
        "the topic {topic} has {setting}={found}, which must be {wanted}: set it with \
         `kafka-configs --alter --entity-type topics --entity-name {topic} --add-config {setting}={wanted}`, \
         or use another TWH_TOPIC_PREFIX for an environment of its own"
    )]
    Setting {
        /// Which topic.
        topic: String,
        /// Which setting.
        setting: &'static str,
        /// Its value.
        found: String,
        /// The value that it must have.
        wanted: String,
    },
    /// A topic that was there has a number of partitions on which others do not count.
    #[error(
        "the topic {topic} has {found} partitions and must have {wanted}: delete it (its records matter for an hour at most; \
         it is made again at the next start), or use another TWH_TOPIC_PREFIX for an environment of its own"
    )]
    Partitions {
        /// Which topic.
        topic: String,
        /// How many it has.
        found: usize,
        /// How many it must have.
        wanted: i32,
    },
}

impl TopicError {
    /// True when another try cannot help: somebody must change a topic first.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        matches!(self, Self::Setting { .. } | Self::Partitions { .. })
    }
}

/// Makes the topics that are missing and waits until the cluster tells of them; checks the ones that were there. Several
/// processes may do this at once. Existing topics keep their partitions, for a tenant would move to another one. Says what is not
/// as it should be, and can be lived with.
pub async fn create_topics(
    client: &ClientConfig,
    prefix: &str,
    partitions: i32,
    replication: i32,
) -> Result<Vec<Shortfall>, TopicError> {
    // A broker may make a topic because its name was asked for, with settings of its own.
    let mut client = client.clone();
    client.set("allow.auto.create.topics", "false");
    let admin: Arc<AdminClient<DefaultClientContext>> = Arc::new(client.create()?);
    let before = tell(&admin, prefix).await?;
    let missing: Vec<&Topic> = TOPICS.iter().filter(|topic| !before.contains_key(&topic.full_name(prefix))).collect();
    make(&admin, &missing, prefix, partitions, replication).await?;
    let made = visible(&admin, prefix).await?;
    let mut shortfalls = Vec::new();
    for topic in TOPICS {
        let name = topic.full_name(prefix);
        let Some(made) = made.get(&name) else { return Err(TopicError::Invisible(name)) };
        check_partitions(topic, &name, made.partitions, partitions)?;
        if topic.is_kept() && made.replication < REPLICATION_MIN {
            let (found, wanted) = (made.replication.to_string(), REPLICATION_MIN.to_string());
            shortfalls.push(Shortfall { topic: name, setting: "replication.factor", found, wanted, loses: true });
        }
    }
    check_settings(&admin, prefix, replication, &mut shortfalls).await?;
    Ok(shortfalls)
}

/// The catalogue's topics that the cluster has. Asked for by name: a shared cluster may have thousands.
async fn tell(
    admin: &Arc<AdminClient<DefaultClientContext>>,
    prefix: &str,
) -> Result<BTreeMap<String, Made>, KafkaError> {
    let names: Vec<String> = TOPICS.iter().map(|topic| topic.full_name(prefix)).collect();
    let asked = Arc::clone(admin);
    let told = tokio::task::spawn_blocking(move || {
        let mut told = BTreeMap::new();
        for name in names {
            let metadata = asked.inner().fetch_metadata(Some(&name), METADATA_TIMEOUT)?;
            let known = metadata.topics().iter().find(|topic| topic.name() == name && topic.error().is_none());
            if let Some(topic) = known {
                let partitions = topic.partitions();
                let replication = partitions.iter().map(|one| one.replicas().len()).min().unwrap_or_default();
                told.insert(name, Made { partitions: partitions.len(), replication });
            }
        }
        Ok(told)
    });
    told.await.map_err(|_| KafkaError::Canceled)?
}

async fn make(
    admin: &AdminClient<DefaultClientContext>,
    topics: &[&Topic],
    prefix: &str,
    partitions: i32,
    replication: i32,
) -> Result<(), TopicError> {
    if topics.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = topics.iter().map(|topic| topic.full_name(prefix)).collect();
    let settings: Vec<_> = topics.iter().map(|topic| topic.settings(replication)).collect();
    let new = topics.iter().zip(&names).zip(&settings).map(|((topic, name), settings)| {
        let new = NewTopic::new(name, topic.partition_count(partitions), TopicReplication::Fixed(replication));
        settings.iter().fold(new, |new, (key, value)| new.set(key, value))
    });
    let new: Vec<_> = new.collect();
    for result in admin.create_topics(&new, &options()).await? {
        match result {
            Ok(name) => tracing::info!(topic = name, "topic made"),
            // Another process was faster.
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, code)) => return Err(TopicError::Refused { topic, code }),
        }
    }
    Ok(())
}

fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(REQUEST_TIMEOUT)).request_timeout(Some(REQUEST_TIMEOUT))
}

/// Waits until the cluster tells of every topic.
async fn visible(
    admin: &Arc<AdminClient<DefaultClientContext>>,
    prefix: &str,
) -> Result<BTreeMap<String, Made>, TopicError> {
    let begun = Instant::now();
    loop {
        let made = tell(admin, prefix).await?;
        let missing = TOPICS.iter().map(|topic| topic.full_name(prefix)).find(|name| !made.contains_key(name));
        match missing {
            None => return Ok(made),
            Some(name) if begun.elapsed() > VISIBLE_WITHIN => return Err(TopicError::Invisible(name)),
            Some(_) => tokio::time::sleep(VISIBLE_CHECK).await,
        }
    }
}

fn check_partitions(topic: &Topic, name: &str, found: usize, configured: i32) -> Result<(), TopicError> {
    let wanted = topic.partition_count(configured);
    if usize::try_from(wanted) == Ok(found) {
        return Ok(());
    }
    if topic.partitions == Partitions::Configured {
        tracing::warn!(
            topic = name,
            found,
            configured,
            "the topic keeps the partitions that it has: with another number, tenants would move"
        );
        return Ok(());
    }
    Err(TopicError::Partitions { topic: name.to_owned(), found, wanted })
}

async fn check_settings(
    admin: &AdminClient<DefaultClientContext>,
    prefix: &str,
    replication: i32,
    shortfalls: &mut Vec<Shortfall>,
) -> Result<(), TopicError> {
    let names: Vec<String> = TOPICS.iter().map(|topic| topic.full_name(prefix)).collect();
    let specifiers: Vec<_> = names.iter().map(|name| ResourceSpecifier::Topic(name)).collect();
    for described in admin.describe_configs(&specifiers, &options()).await? {
        match described {
            Ok(resource) => {
                let found = TOPICS.iter().zip(&names).find(|(_, name)| is_of(&resource, name));
                if let Some((topic, name)) = found {
                    shortfalls.extend(compare(topic, name, &resource, replication)?);
                }
            }
            Err(code) => tracing::warn!(%code, "a topic's settings cannot be read, so they are not checked"),
        }
    }
    Ok(())
}

fn is_of(resource: &ConfigResource, name: &str) -> bool {
    matches!(&resource.specifier, OwnedResourceSpecifier::Topic(topic) if topic == name)
}

fn compare(
    topic: &Topic,
    name: &str,
    resource: &ConfigResource,
    replication: i32,
) -> Result<Vec<Shortfall>, TopicError> {
    let value = |setting: &str| resource.get(setting).and_then(|entry| entry.value.as_deref());
    let mut shortfalls = Vec::new();
    let mut note = |setting, found: &str, wanted: &str, loses| {
        let (topic, found, wanted) = (name.to_owned(), found.to_owned(), wanted.to_owned());
        shortfalls.push(Shortfall { topic, setting, found, wanted, loses });
    };
    for (setting, wanted) in topic.settings(replication) {
        let Some(found) = value(setting) else { continue };
        if found == wanted || setting == MIN_INSYNC {
            continue;
        }
        if ESSENTIAL.contains(&setting) {
            return Err(TopicError::Setting { topic: name.to_owned(), setting, found: found.to_owned(), wanted });
        }
        note(setting, found, &wanted, false);
    }
    if topic.is_kept() {
        let few = |found: &&str| found.parse::<u32>().is_ok_and(|found| found < REPLICAS_IN_SYNC_MIN);
        if let Some(found) = value(MIN_INSYNC).filter(few) {
            note(MIN_INSYNC, found, &REPLICAS_IN_SYNC_MIN.to_string(), true);
        }
        if let Some(found) = value(UNCLEAN).filter(|found| *found != "false") {
            note(UNCLEAN, found, "false", true);
        }
    }
    Ok(shortfalls)
}
