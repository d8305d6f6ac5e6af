//! The consumer group: processes that come and go, partitions that change hands, sometimes before the old owner knows.

use crate::database::{SimStore, refuse, take_down};
use crate::log::{SimLog, SimSource};
use crate::model::first_undecided;
use crate::world::{Incarnation, World};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use twh_processors::ledger::{GROUP, Ledger};
use twh_processors::outbox::Publishing;
use twh_processors::runtime::{DeadLetters, Ended, Limits, Seat, Standing, run_partition};
use twh_schemas::catalogue::{COMMANDS, LEDGER_DLQ};

/// A partition's task on a process.
struct Task {
    process: usize,
    stop: CancellationToken,
    handle: JoinHandle<Ended>,
}

/// The processes, and who has which partition.
pub(crate) struct Group {
    world: World,
    processes: Vec<Incarnation>,
    started: usize,
    owners: BTreeMap<i32, Task>,
    /// Owners that have not heard yet that they are none any more.
    zombies: Vec<Task>,
}

impl Group {
    pub(crate) fn new(world: World, processes: usize) -> Self {
        let mut group = Self { world, processes: Vec::new(), started: 0, owners: BTreeMap::new(), zombies: Vec::new() };
        for _ in 0..processes {
            let incarnation = group.incarnation();
            group.processes.push(incarnation);
        }
        group
    }

    fn incarnation(&mut self) -> Incarnation {
        self.started += 1;
        Incarnation {
            world: self.world.clone(),
            name: format!("process {}", self.started).into(),
            crashed: CancellationToken::new(),
        }
    }

    /// Moves partitions about, crashes processes and takes the database away, until told to stop; then sees to it that each
    /// partition has one owner, until `quiet`.
    pub(crate) async fn run(mut self, quiet: CancellationToken) {
        while !quiet.is_cancelled() && !self.world.over.is_cancelled() {
            self.reap();
            for partition in 0..self.world.partitions {
                if !self.owners.contains_key(&partition) {
                    self.assign(partition);
                }
            }
            let faults = self.world.lock().faults;
            if faults {
                self.disturb();
            } else {
                for zombie in self.zombies.drain(..) {
                    zombie.stop.cancel();
                }
            }
            self.world.pause(20, 400).await;
        }
        for task in self.owners.into_values().chain(self.zombies) {
            task.stop.cancel();
        }
    }

    fn disturb(&mut self) {
        match self.world.below(24) {
            0..3 => self.rebalance(false),
            3..6 => self.rebalance(true),
            6..8 => self.crash(),
            8 => {
                let down = Duration::from_millis(100 + self.world.below(3_000));
                self.world.trace(|| format!("the database is down for {} ms", down.as_millis()));
                take_down(&mut self.world.lock(), down);
            }
            9..12 => {
                // A zombie hears of it.
                if let Some(zombie) = self.zombies.pop() {
                    zombie.stop.cancel();
                }
            }
            12 if self.world.loses_ends && self.world.one_in(8) => self.lose_end(),
            13 => self.clear_halt(),
            14 => {
                let (number, how_long) = (self.world.below(100), Duration::from_millis(500 + self.world.below(5_000)));
                self.world.trace(|| format!("a tenant's commands are refused for {} ms", how_long.as_millis()));
                refuse(&mut self.world.lock(), number, how_long);
            }
            _ => {}
        }
    }

    /// The log loses the end of a partition, and goes on.
    fn lose_end(&self) {
        let partition = self.random_partition();
        let count = usize::try_from(1 + self.world.below(20)).unwrap_or(1);
        self.world.trace(|| format!("partition {partition} of the log loses its last {count} records"));
        let mut inner = self.world.lock();
        inner.stats.lost_ends += 1;
        inner.topics.lose_end(partition, count);
    }

    /// A person looks at a partition that is halted, and lets it go on at the first record that is not decided.
    fn clear_halt(&self) {
        let partition = self.random_partition();
        let cleared = {
            let mut inner = self.world.lock();
            let inner = &mut *inner;
            let unpublished = inner.tables.outbox.keys().any(|(of, _)| *of == partition);
            if !inner.tables.is_halted(partition) || unpublished {
                return;
            }
            let records = inner.topics.of(COMMANDS.name, partition);
            first_undecided(records, &inner.tables, &self.world.schemas).inspect(|offset| {
                inner.tables.clear_halt(partition, *offset);
                inner.model.cleared(partition, *offset);
                inner.stats.cleared += 1;
            })
        };
        match cleared {
            Ok(offset) => self.world.trace(|| format!("partition {partition} goes on at {offset}, as a person says")),
            Err(what) => self.world.found(what),
        }
    }

    fn random_process(&self) -> usize {
        usize::try_from(self.world.below(self.processes.len() as u64)).unwrap_or_default()
    }

    fn random_partition(&self) -> i32 {
        i32::try_from(self.world.below(u64::from(self.world.partitions.unsigned_abs()))).unwrap_or_default()
    }

    /// Gives a partition to another process; as a zombie, the old owner goes on for a while.
    fn rebalance(&mut self, zombie: bool) {
        let partition = self.random_partition();
        if let Some(old) = self.owners.remove(&partition) {
            if zombie {
                self.zombies.push(old);
            } else {
                // Told to stop; what it has under way may still end after the new owner has begun.
                old.stop.cancel();
            }
        }
        self.world.lock().stats.rebalances += 1;
        self.assign(partition);
    }

    fn crash(&mut self) {
        let process = self.random_process();
        let new = self.incarnation();
        let Some(old) = self.processes.get_mut(process) else { return };
        let old = std::mem::replace(old, new);
        self.world.trace(|| format!("{} crashes", old.name));
        self.world.lock().stats.crashes += 1;
        old.crashed.cancel();
        let gone = |task: &Task| task.process == process;
        for task in self.owners.values().chain(&self.zombies).filter(|task| gone(task)) {
            task.handle.abort();
        }
        self.owners.retain(|_, task| !gone(task));
        self.zombies.retain(|task| !gone(task));
    }

    /// Forgets owners that have ended: fenced, most often.
    fn reap(&mut self) {
        self.owners.retain(|_, task| !task.handle.is_finished());
        self.zombies.retain(|task| !task.handle.is_finished());
    }

    fn assign(&mut self, partition: i32) {
        let process = self.random_process();
        let Some(incarnation) = self.processes.get(process).cloned() else { return };
        self.world.trace(|| format!("{} is given partition {partition}", incarnation.name));
        let (store, log) = (SimStore(incarnation.clone()), SimLog(incarnation.clone()));
        let ledger = Ledger {
            store: store.clone(),
            schemas: Arc::clone(&self.world.schemas),
            publishing: Some(Publishing { store, log: log.clone(), full_name: Arc::new(str::to_owned) }),
            awaited: None,
            kafka_cluster_id: "simulated".to_owned(),
            owner: incarnation.name.to_string(),
            partitions: self.world.partitions,
        };
        let records_max = usize::try_from(1 + self.world.below(12)).unwrap_or(1);
        let stop = CancellationToken::new();
        let seat = Seat {
            group: Arc::new(ledger),
            name: GROUP.to_owned(),
            source: SimSource::new(incarnation, partition),
            partition,
            limits: Limits { records_max, bytes_max: 1 << 20 },
            dead_letters: DeadLetters::new(log, GROUP.to_owned(), COMMANDS.name.to_owned(), LEDGER_DLQ.name.to_owned()),
            standing: Standing::new(GROUP, GROUP, partition),
            stop: stop.clone(),
        };
        let handle = tokio::spawn(run_partition(seat));
        self.owners.insert(partition, Task { process, stop, handle });
    }
}
