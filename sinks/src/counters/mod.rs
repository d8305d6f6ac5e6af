//! Counters that every process of the platform shares, in Redis: buckets of rate limits.
//!
//! A call takes from several buckets at once, all or nothing, in one script and one round trip. It never waits longer than its
//! deadline, and never makes a connection: [`Counters::connect`] does, for whoever looks after it. So a Redis that is away
//! costs a request nothing but the error.

pub mod gcra;

use gcra::{Rate, Verdict};
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{AsyncConnectionConfig, Client, IntoConnectionInfo as _, RedisError, Script};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

const SCRIPT: &str = include_str!("take.lua");
/// Numbers that the script answers for each bucket.
const NUMBERS_A_BUCKET: usize = 4;
/// The bucket that proves a new connection.
const PROBE_KEY: &str = "twh:limit:probe";
/// Calls that may wait to be written to the connection; more wait for a place, within their deadlines.
const WAITING_MAX: usize = 1_024;

/// Why buckets could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum CountersError {
    /// The address is not one of Redis.
    #[error("the address is not usable: {0}")]
    Address(#[source] RedisError),
    /// There is no connection now.
    #[error("there is no connection to Redis")]
    NotConnected,
    /// The answer did not come in time. Buckets may have been taken from.
    #[error("Redis did not answer within {0:?}")]
    Late(Duration),
    /// The connection broke, or could not be made.
    #[error("Redis is not reachable: {0}")]
    Unreachable(#[source] RedisError),
    /// Redis answered, with an error: it is loading, full, a replica…
    #[error("Redis refused: {0}")]
    Refused(#[source] RedisError),
    /// The answer is not the script's.
    #[error("Redis answered something else than the script does")]
    Malformed,
}

impl CountersError {
    /// The stable name, as a metric label.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Address(_) => "address",
            Self::NotConnected => "not_connected",
            Self::Late(_) => "late",
            Self::Unreachable(_) => "unreachable",
            Self::Refused(_) => "refused",
            Self::Malformed => "malformed",
        }
    }
}

impl From<RedisError> for CountersError {
    fn from(error: RedisError) -> Self {
        if error.is_io_error() { Self::Unreachable(error) } else { Self::Refused(error) }
    }
}

/// How long Redis may take.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// For a call.
    pub call: Duration,
    /// For a new connection and its proof.
    pub connect: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { call: Duration::from_millis(20), connect: Duration::from_millis(500) }
    }
}

/// A bucket to take from.
#[derive(Debug, Clone)]
pub struct Bucket {
    /// Its key. In a cluster, all keys of a call must share a hash tag.
    pub key: String,
    /// Its rate.
    pub rate: Rate,
    /// What to take: [`Rate::cost_micros`] says what becomes of more than it holds.
    pub cost: u32,
}

/// What is to be done with buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// Take from all of them or from none.
    Take,
    /// Take from each what was used already, whether it has enough or not.
    Charge,
}

/// The shared buckets.
pub struct Counters {
    client: Client,
    deadlines: Deadlines,
    script: Script,
    // Not redis::aio::ConnectionManager: it replaces a connection that broke, but keeps one whose far end has vanished
    // without a word, until TCP gives it up after minutes.
    connection: RwLock<Option<MultiplexedConnection>>,
}

impl Counters {
    /// Buckets at an address such as `redis://127.0.0.1:6379`. Does not connect.
    pub fn new(url: &str, deadlines: Deadlines) -> Result<Self, CountersError> {
        let address = url.into_connection_info().map_err(CountersError::Address)?;
        // Calls are small and many: Nagle's algorithm, which is on by default, would hold them back for each other's answers.
        let address = address.set_tcp_settings(TcpSettings::default().set_nodelay(true));
        let client = Client::open(address).map_err(CountersError::Address)?;
        Ok(Self { client, deadlines, script: Script::new(SCRIPT), connection: RwLock::new(None) })
    }

    /// The same buckets over a connection of their own, which is not made yet. The runtime that [makes](Self::connect) a connection
    /// drives it: a call from that runtime's only thread wakes no other thread.
    #[must_use]
    pub fn apart(&self) -> Self {
        let (client, deadlines, script) = (self.client.clone(), self.deadlines, self.script.clone());
        Self { client, deadlines, script, connection: RwLock::new(None) }
    }

    /// Makes a new connection, and takes it into use once it has run the script, written, and done so within the deadline of
    /// calls: a Redis that only greets, is full, or is too slow is not there yet.
    pub async fn connect(&self) -> Result<(), CountersError> {
        let config = AsyncConnectionConfig::new()
            // Our own deadlines hold instead.
            .set_response_timeout(None)
            .set_connection_timeout(None)
            .set_pipeline_buffer_size(WAITING_MAX);
        let proven = async {
            let mut connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
            let bucket = Bucket { key: PROBE_KEY.to_owned(), rate: Rate::new(1_000, 1_000), cost: 1 };
            // The first may have to send the script.
            self.run(&mut connection, std::slice::from_ref(&bucket), Asked::Take).await?;
            self.in_time(&mut connection, &[bucket], Asked::Take).await?;
            Ok(connection)
        };
        let limit = self.deadlines.connect;
        let connection = tokio::time::timeout(limit, proven).await.unwrap_or(Err(CountersError::Late(limit)))?;
        self.replace(Some(connection));
        Ok(())
    }

    /// Lets the connection go; calls fail at once until the next [`Counters::connect`].
    pub fn disconnect(&self) {
        self.replace(None);
    }

    /// Takes from all buckets, or from none where one has not enough; or charges each. A verdict for each, in their order.
    pub async fn ask(&self, buckets: &[Bucket], asked: Asked) -> Result<Vec<Verdict>, CountersError> {
        let connection = self.connection.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut connection = connection.ok_or(CountersError::NotConnected)?;
        self.in_time(&mut connection, buckets, asked).await
    }

    async fn in_time(
        &self,
        connection: &mut MultiplexedConnection,
        buckets: &[Bucket],
        asked: Asked,
    ) -> Result<Vec<Verdict>, CountersError> {
        let limit = self.deadlines.call;
        let ran = tokio::time::timeout(limit, self.run(connection, buckets, asked)).await;
        ran.unwrap_or(Err(CountersError::Late(limit))).map(|(verdicts, _)| verdicts)
    }

    fn replace(&self, connection: Option<MultiplexedConnection>) {
        *self.connection.write().unwrap_or_else(PoisonError::into_inner) = connection;
    }

    /// The verdicts, and Redis's clock in microseconds.
    async fn run(
        &self,
        connection: &mut MultiplexedConnection,
        buckets: &[Bucket],
        asked: Asked,
    ) -> Result<(Vec<Verdict>, u64), CountersError> {
        let mut call = self.script.prepare_invoke();
        for Bucket { key, rate, cost } in buckets {
            call.key(key).arg(rate.interval_micros()).arg(rate.capacity_micros()).arg(rate.cost_micros(*cost));
        }
        call.arg(u8::from(asked == Asked::Charge));
        let numbers: Vec<u64> = call.invoke_async(connection).await?;
        read(&numbers, buckets.len()).ok_or(CountersError::Malformed)
    }
}

fn read(numbers: &[u64], buckets: usize) -> Option<(Vec<Verdict>, u64)> {
    let (now, numbers) = numbers.split_last()?;
    let verdict = |numbers: &[u64]| match *numbers {
        [allowed, reset_micros, retry_after_micros, remaining] => Some(Verdict {
            allowed: allowed == 1,
            remaining: u32::try_from(remaining).ok()?,
            reset_micros,
            retry_after_micros,
        }),
        _ => None,
    };
    let verdicts: Vec<Verdict> = numbers.chunks(NUMBERS_A_BUCKET).map(verdict).collect::<Option<_>>()?;
    (verdicts.len() == buckets).then_some((verdicts, *now))
}

#[cfg(test)]
mod tests;
