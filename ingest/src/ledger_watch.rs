//! What the write side knows of the ledger and its log: how far each partition is applied and acknowledged, and which of them stand
//! halted. A log that gives a new command an offset that it had given before has lost records: the command would be skipped, or
//! another one is gone, and the client is told so.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use twh_domain::id::TenantId;
use twh_domain::outcome::Position;
use twh_schemas::partition::partition_of;
use twh_sinks::postgres::ledger::acknowledged::{self, Acknowledged};
use twh_sinks::postgres::ledger::halts::{self, Halt, Standing};
use twh_sinks::postgres::{PgPool, sqlx};

/// Between two looks at the ledger.
const INTERVAL: Duration = Duration::from_secs(1);

twh_sinks::metrics! {
    HALTED: IntGaugeVec = "twh_ledger_halted", "1 while a halt of the partition of commands is written down; processes of the role ingest look every second.", labels ["partition"];
}

/// A partition, as this process knows it.
#[derive(Debug, Default)]
struct Seen {
    /// The first offset that the ledger had not applied when it was last looked at.
    next_offset: i64,
    halted: bool,
    /// The last halt that was written down, cleared or not.
    last_halt: i64,
    /// Past the highest offset that the log acknowledged to this process, unless the partition was halted since.
    acknowledged: i64,
    /// The same of every process, now and before, as it is written down.
    written: i64,
    /// An offset that the log gave a command though it was below what it had to be: to be written down.
    lost: Option<(i64, i64)>,
}

/// What is known when a command is handed over: the log must give it an offset that is not below this.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Floor {
    partition: i32,
    offset: i64,
}

/// Looks at the ledger again and again.
#[derive(Debug)]
pub struct LedgerWatch {
    /// By partition of `commands`.
    seen: Vec<Mutex<Seen>>,
    /// Whose offsets they are.
    kafka_cluster_id: String,
}

impl LedgerWatch {
    /// Looks at the ledger for the first time; `commands` has so many partitions on that cluster.
    pub async fn start(pool: &PgPool, partitions: usize, kafka_cluster_id: String) -> Result<Self, sqlx::Error> {
        let watch = Self::new(partitions, kafka_cluster_id);
        watch.look(pool).await?;
        Ok(watch)
    }

    /// How many partitions `commands` has.
    pub(crate) const fn partitions(&self) -> usize {
        self.seen.len()
    }

    fn new(partitions: usize, kafka_cluster_id: String) -> Self {
        Self { seen: std::iter::repeat_with(Mutex::default).take(partitions).collect(), kafka_cluster_id }
    }

    fn seen(&self, partition: i32) -> Option<MutexGuard<'_, Seen>> {
        let seen = self.seen.get(usize::try_from(partition).ok()?)?;
        Some(seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Asked before a command is handed over; `None` while its tenant's partition stands until a person has looked.
    pub(crate) fn floor(&self, tenant: TenantId) -> Option<Floor> {
        let partitions = i32::try_from(self.seen.len()).unwrap_or(i32::MAX);
        let partition = partition_of(tenant.to_string().as_bytes(), partitions);
        let Some(seen) = self.seen(partition) else { return Some(Floor { partition, offset: 0 }) };
        let stands = seen.halted || seen.lost.is_some();
        (!stands).then(|| Floor { partition, offset: seen.next_offset.max(seen.acknowledged).max(seen.written) })
    }

    /// Told where the log has put the command. False when that is below its floor: the log has lost what stood there before.
    pub(crate) fn acknowledged(&self, floor: Floor, position: Position) -> bool {
        // A log that does not say which offset a record has says so with a negative one.
        if position.partition != floor.partition || position.offset < 0 {
            return true;
        }
        let Some(mut seen) = self.seen(position.partition) else { return true };
        if position.offset < floor.offset {
            tracing::error!(%position, expected = floor.offset, "the log gave a command an offset that it had given before: it has lost records");
            seen.lost.get_or_insert((position.offset, floor.offset));
            return false;
        }
        seen.acknowledged = seen.acknowledged.max(position.offset + 1);
        true
    }

    /// Looks until it is dropped.
    pub async fn run(&self, pool: &PgPool) {
        let mut says_so = true;
        loop {
            tokio::time::sleep(INTERVAL).await;
            match self.look(pool).await {
                Ok(()) => says_so = true,
                // Once: who serves requests says that the database is away.
                Err(error) if says_so => {
                    tracing::warn!(%error, "how far the ledger is is not known now; it is looked at again");
                    says_so = false;
                }
                Err(_) => {}
            }
        }
    }

    async fn look(&self, pool: &PgPool) -> Result<(), sqlx::Error> {
        for standing in halts::standings(pool, &self.kafka_cluster_id).await? {
            HALTED.with_label_values(&[&standing.partition.to_string()]).set(i64::from(standing.halted));
            if let Some(mut seen) = self.seen(standing.partition) {
                seen.update(&standing);
            }
        }
        // What was seen before a halt that is known by now was a sign of that one, which may be cleared already.
        for partition in (0..).take(self.seen.len()) {
            let lost = self.seen(partition).and_then(|seen| seen.lost.filter(|_| !seen.halted));
            if let Some((offset, expected)) = lost {
                halts::report(pool, partition, &halt(offset, expected)).await?;
            }
        }
        self.write_down(pool).await
    }

    /// Writes down how far the log was acknowledged to this process, where the ledger is not as far: should the log lose its end, nobody
    /// else would know. Commands are acknowledged whether that succeeds or not.
    pub async fn write_down(&self, pool: &PgPool) -> Result<(), sqlx::Error> {
        let new = |partition: i32| self.seen(partition).and_then(|seen| seen.to_write(partition));
        let new: Vec<_> = (0..).take(self.seen.len()).filter_map(new).collect();
        if new.is_empty() {
            return Ok(());
        }
        acknowledged::write_down(pool, &self.kafka_cluster_id, &new).await?;
        for Acknowledged { partition, next_offset, last_halt } in new {
            if let Some(mut seen) = self.seen(partition)
                && seen.last_halt == last_halt
            {
                seen.written = seen.written.max(next_offset);
            }
        }
        Ok(())
    }
}

impl Seen {
    fn update(&mut self, standing: &Standing) {
        let Standing { next_offset, acknowledged, halted, last_halt, .. } = *standing;
        if last_halt != self.last_halt || (self.halted && !halted) {
            // Another log, for all that is known, whose offsets begin where a person says.
            (self.acknowledged, self.lost) = (0, None);
        }
        (self.next_offset, self.halted, self.last_halt) = (next_offset, halted, last_halt);
        self.written = acknowledged;
    }

    fn to_write(&self, partition: i32) -> Option<Acknowledged> {
        let is_new = self.acknowledged > self.written.max(self.next_offset) && !self.halted && self.lost.is_none();
        let (next_offset, last_halt) = (self.acknowledged, self.last_halt);
        is_new.then_some(Acknowledged { partition, next_offset, last_halt })
    }
}

fn halt(offset: i64, expected: i64) -> Halt {
    Halt {
        why: format!(
            "the log gave a new command offset {offset}, but what is before {expected} was acknowledged or applied already: the topic \
             lost its end, or was made again: commands on it would be skipped"
        ),
        expected: format!("an offset of {expected} or after for a new command"),
        found: format!("offset {offset}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TENANT: TenantId = TenantId(uuid::Uuid::nil());

    fn watch(next_offset: i64) -> LedgerWatch {
        let watch = LedgerWatch::new(1, String::new());
        stands(&watch, next_offset, false, 0);
        watch
    }

    fn stands(watch: &LedgerWatch, next_offset: i64, halted: bool, last_halt: i64) {
        watch.seen(0).unwrap().update(&Standing { partition: 0, next_offset, acknowledged: 0, halted, last_halt });
    }

    fn acknowledged(watch: &LedgerWatch, floor: Floor, offset: i64) -> bool {
        watch.acknowledged(floor, Position { partition: 0, offset })
    }

    #[test]
    fn an_offset_that_the_ledger_had_passed_before_is_a_loss() {
        let watch = watch(10);
        let floor = watch.floor(TENANT).unwrap();
        // What the ledger applies after the command was handed over may be the command.
        stands(&watch, 11, false, 0);
        assert!(acknowledged(&watch, floor, 10));
        // The log did not tell, or it is another partition's.
        assert!(acknowledged(&watch, floor, -1_001) && watch.acknowledged(floor, Position { partition: 1, offset: 3 }));
        assert!(!acknowledged(&watch, floor, 9));
        assert!(watch.floor(TENANT).is_none(), "what comes next is refused at once");
    }

    #[test]
    fn an_offset_that_was_acknowledged_before_is_a_loss_also_where_the_ledger_is_behind() {
        let watch = watch(10);
        let (first, second) = (watch.floor(TENANT).unwrap(), watch.floor(TENANT).unwrap());
        assert!(acknowledged(&watch, first, 21));
        // It was handed over before the other was acknowledged.
        assert!(acknowledged(&watch, second, 20));
        let third = watch.floor(TENANT).unwrap();
        assert!(!acknowledged(&watch, third, 21));
    }

    #[test]
    fn what_any_process_was_told_before_is_a_floor_and_what_the_ledger_lacks_is_written_down() {
        let watch = watch(10);
        let written = Standing { partition: 0, next_offset: 10, acknowledged: 30, halted: false, last_halt: 0 };
        watch.seen(0).unwrap().update(&written);
        let to_write = || watch.seen(0).unwrap().to_write(0).map(|one| one.next_offset);
        let floor = watch.floor(TENANT).unwrap();
        assert!(acknowledged(&watch, floor, 30));
        assert_eq!(to_write(), Some(31));
        stands(&watch, 31, false, 0);
        assert_eq!(to_write(), None, "the ledger has it");
        let floor = Floor { offset: 30, ..floor };
        assert!(!acknowledged(&watch, floor, 29));
        assert_eq!(to_write(), None, "nothing is known of a log that lost records");
    }

    #[test]
    fn a_halt_refuses_and_once_it_is_cleared_offsets_begin_anywhere() {
        let watch = watch(10);
        assert!(acknowledged(&watch, watch.floor(TENANT).unwrap(), 50));
        stands(&watch, 10, true, 1);
        assert!(watch.floor(TENANT).is_none());
        stands(&watch, 3, false, 1);
        assert!(acknowledged(&watch, watch.floor(TENANT).unwrap(), 3));
        // A sign of the halt that came before it was known.
        assert!(!acknowledged(&watch, watch.floor(TENANT).unwrap(), 2));
        stands(&watch, 0, false, 2);
        assert!(acknowledged(&watch, watch.floor(TENANT).unwrap(), 0));
    }
}
