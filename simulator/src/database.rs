//! The database: transactions step by step, each step an await where a process may crash or the connection may fail.
//!
//! The row of a partition is locked from the compare-and-set to the end of its transaction, and the condition is looked at once
//! the lock is had, as PostgreSQL does it. A transaction that is dropped leaves nothing.

use crate::world::{Incarnation, Inner, Sabotage};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use twh_domain::entity::{CodeKey, CodeSpace, Entity, EntityKey, LevelKey};
use twh_domain::event::AuditRecord;
use twh_domain::id::{CommandId, TenantId};
use twh_domain::level::StockLevel;
use twh_domain::movement::Movement;
use twh_domain::state::{IdempotencyKey, LedgerHead, Need, PriorOutcome, State};
use twh_domain::timestamp::Timestamp;
use twh_processors::seams::{Log as _, Store};
use twh_sinks::kafka::{Outgoing, Reached};
use twh_sinks::postgres::ledger::halts::Halt;
use twh_sinks::postgres::ledger::{Batch, Claim, Commit, LedgerError, OutcomeRow};
use twh_sinks::postgres::outbox::{OutboxBatch, OutboxRecord};
use twh_sinks::postgres::sqlx;
use uuid::Uuid;

/// A partition's row.
#[derive(Debug, Clone)]
pub(crate) struct Partition {
    epoch: i64,
    pub(crate) reached: Reached,
    pub(crate) halt: Option<Halt>,
}

impl Partition {
    const NEW: Self = Self { epoch: 0, reached: Reached::before(0), halt: None };
}

/// What is committed.
#[derive(Default)]
pub(crate) struct Tables {
    pub(crate) partitions: BTreeMap<i32, Partition>,
    pub(crate) movements: BTreeMap<(TenantId, i64), Movement>,
    pub(crate) levels: BTreeMap<LevelKey, StockLevel>,
    pub(crate) documents: BTreeMap<EntityKey, (Arc<Entity>, Arc<str>)>,
    codes: BTreeMap<CodeKey, Uuid>,
    audit: BTreeMap<(TenantId, i64), AuditRecord>,
    outcomes: BTreeMap<(TenantId, CommandId), OutcomeRow>,
    pub(crate) keys: BTreeMap<IdempotencyKey, PriorOutcome>,
    pub(crate) heads: BTreeMap<TenantId, LedgerHead>,
    pub(crate) outbox: BTreeMap<(i32, i64), Vec<OutboxRecord>>,
    locks: BTreeMap<i32, Arc<tokio::sync::Mutex<()>>>,
}

fn broken(what: &str) -> sqlx::Error {
    sqlx::Error::Io(io::Error::other(what.to_owned()))
}

/// A process's connection.
#[derive(Clone)]
pub(crate) struct SimStore(pub(crate) Incarnation);

impl SimStore {
    /// A round trip: it takes its time, and may fail before it does anything.
    async fn trip(&self, what: &'static str) -> Result<(), sqlx::Error> {
        let world = &self.0.world;
        // Now and then a slow one.
        if world.fault(60) {
            world.pause(200, 3_000).await
        } else {
            world.pause(0, 4).await
        }
        if world.lock().database_down_until.is_some_and(|until| Instant::now() < until) {
            return Err(broken("the database is down"));
        }
        if world.fault(80) {
            world.lock().stats.failures += 1;
            world.trace(|| format!("{}: the connection fails at {what}", self.0.name));
            return Err(broken("the connection failed"));
        }
        Ok(())
    }

    fn row_lock(&self, partition: i32) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(self.0.world.lock().tables.locks.entry(partition).or_default())
    }

    async fn try_commit(
        &self,
        claim: Claim,
        reached: Reached,
        published_through: i64,
        batch: &Batch,
    ) -> Result<(), LedgerError> {
        let next_offset = reached.next_offset;
        let world = &self.0.world;
        self.trip("begin").await?;
        let lock = self.row_lock(claim.partition);
        let held = lock.lock().await;
        self.trip("compare-and-set").await?;
        let row = world.lock().tables.partitions.get(&claim.partition).map(|row| (row.epoch, row.reached.next_offset));
        if row != Some((claim.epoch, claim.reached.next_offset)) && world.sabotage != Some(Sabotage::Fence) {
            world.lock().stats.fenced += 1;
            world.trace(|| {
                format!("{}: fenced on partition {} at {}", self.0.name, claim.partition, claim.reached.next_offset)
            });
            return Err(claim.fenced());
        }
        for step in ["insert movements", "upsert levels", "upsert documents", "insert outcomes", "insert outbox"] {
            self.trip(step).await?;
        }
        world.lock().tables.unique(batch, claim.partition, next_offset, world.sabotage)?;
        let refused = world.refuses();
        if batch.outcomes.iter().any(|row| Some(row.outcome.tenant) == refused) {
            world.lock().stats.refused += 1;
            world.trace(|| format!("{}: the database refuses a batch of partition {}", self.0.name, claim.partition));
            return Err(sqlx::Error::Decode("what no retry mends".into()).into());
        }
        self.trip("commit").await?;
        let checked = {
            let mut inner = world.lock();
            let inner = &mut *inner;
            inner.tables.write(claim, reached, published_through, batch);
            inner.stats.commits += 1;
            inner.stats.commits_while_refused += u64::from(refused.is_some());
            inner.model.committed(claim, next_offset, batch, &inner.tables)
        };
        drop(held);
        world.trace(|| {
            let (commands, movements) = (batch.outcomes.len(), batch.movements.len());
            format!(
                "{}: committed partition {} {}..{next_offset}: {commands} commands, {movements} movements",
                self.0.name, claim.partition, claim.reached.next_offset
            )
        });
        world.check(checked);
        if world.fault(25) {
            world.lock().stats.lost_acknowledgements += 1;
            world.trace(|| format!("{}: the answer to the commit is lost", self.0.name));
            return Err(broken("the connection failed at commit").into());
        }
        self.trip("the answer to commit").await?;
        Ok(())
    }
}

impl Store for SimStore {
    async fn claim(&self, partition: i32, _: &str, _: &str) -> Result<Claim, LedgerError> {
        self.0
            .live(async {
                self.trip("claim").await?;
                let lock = self.row_lock(partition);
                let _held = lock.lock().await;
                let claimed = {
                    let mut inner = self.0.world.lock();
                    let row = inner.tables.partitions.entry(partition).or_insert(Partition::NEW);
                    if let Some(halt) = &row.halt {
                        let why = halt.why.clone();
                        return Err(LedgerError::Halted { partition, since: Timestamp::default(), why });
                    }
                    row.epoch += 1;
                    let sabotaged = self.0.world.sabotage == Some(Sabotage::ForgetLast);
                    let reached = if sabotaged { Reached::before(row.reached.next_offset) } else { row.reached };
                    Claim { partition, epoch: row.epoch, reached }
                };
                self.0.world.trace(|| {
                    let (epoch, next_offset) = (claimed.epoch, claimed.reached.next_offset);
                    format!("{}: claimed partition {partition}, epoch {epoch}, at {next_offset}", self.0.name)
                });
                self.trip("the answer to claim").await?;
                Ok(claimed)
            })
            .await
    }

    async fn current(&self, partition: i32) -> Result<Option<Claim>, LedgerError> {
        self.0
            .live(async {
                self.trip("current").await?;
                let inner = self.0.world.lock();
                let row = inner.tables.partitions.get(&partition);
                Ok(row.map(|row| Claim { partition, epoch: row.epoch, reached: row.reached }))
            })
            .await
    }

    async fn load(&self, state: &mut State, needs: BTreeSet<Need>) -> Result<(), LedgerError> {
        self.0
            .live(async {
                // Each kind of thing is a query of its own: what another writer commits between them is seen.
                for need in needs {
                    if self.0.world.one_in(8) {
                        self.trip("load").await?;
                    }
                    self.0.world.lock().tables.load(state, need, self.0.world.sabotage);
                }
                self.trip("the answer to load").await?;
                Ok(())
            })
            .await
    }

    async fn commit(&self, commit: Commit) -> Result<(), LedgerError> {
        let Commit { claim, reached, published_through, batch } = commit;
        if self.0.world.sabotage == Some(Sabotage::PublishEarly) {
            let outgoing: Vec<_> = batch
                .outbox
                .iter()
                .map(|record| Outgoing {
                    topic: record.topic,
                    partition: record.partition,
                    key: &record.key,
                    headers: &record.headers,
                    payload: &record.payload,
                })
                .collect();
            let _ = crate::log::SimLog(self.0.clone()).append(&outgoing).await;
        }
        self.0.live(self.try_commit(claim, reached, published_through, &batch)).await
    }

    async fn halt(&self, claim: Claim, halt: Halt) -> Result<(), LedgerError> {
        self.0
            .live(async {
                self.trip("halt").await?;
                let lock = self.row_lock(claim.partition);
                let _held = lock.lock().await;
                self.0.world.lock().tables.halt(claim, halt)?;
                self.0.world.trace(|| format!("{}: partition {} is halted", self.0.name, claim.partition));
                self.trip("the answer to halt").await?;
                Ok(())
            })
            .await
    }

    async fn oldest_after(&self, partition: i32, after: i64) -> Result<Option<OutboxBatch>, sqlx::Error> {
        self.0
            .live(async {
                self.trip("oldest of the outbox").await?;
                let inner = self.0.world.lock();
                let found = inner.tables.outbox.range((partition, after + 1)..(partition, i64::MAX)).next();
                Ok(found.map(|((_, next_offset), records)| OutboxBatch {
                    next_offset: *next_offset,
                    records: records.clone(),
                }))
            })
            .await
    }

    async fn forget(&self, partition: i32, next_offset: i64) -> Result<(), sqlx::Error> {
        self.0
            .live(async {
                self.trip("delete from the outbox").await?;
                self.0.world.lock().tables.forget(partition, next_offset);
                Ok(())
            })
            .await
    }
}

impl Tables {
    fn load(&self, state: &mut State, need: Need, sabotage: Option<Sabotage>) {
        match need {
            Need::Entity(key) => {
                state.load_entity(key, self.documents.get(&key).map(|(entity, _)| entity.as_ref().clone()));
            }
            Need::Code(key) => {
                let id = self.codes.get(&key).copied();
                state.load_code(key, id);
            }
            Need::Level(key) => state.load_level(key, self.levels.get(&key).copied().unwrap_or_default()),
            Need::Outcome(key) => {
                let prior = self.keys.get(&key).cloned();
                state.load_outcome(key, prior.filter(|_| sabotage != Some(Sabotage::Idempotency)));
            }
            Need::Head(tenant) => {
                let head = self.heads.get(&tenant).cloned().unwrap_or_else(|| LedgerHead::genesis(tenant));
                state.load_head(tenant, head);
            }
        }
    }

    /// The unique keys of the tables: who breaks one gets an error, and nothing is written.
    fn unique(
        &self,
        batch: &Batch,
        partition: i32,
        next_offset: i64,
        sabotage: Option<Sabotage>,
    ) -> Result<(), LedgerError> {
        let movement = batch.movements.iter().any(|m| self.movements.contains_key(&(m.tenant, m.sequence)));
        let audit = batch.audit.iter().any(|a| self.audit.contains_key(&(a.tenant, a.sequence)));
        let key = sabotage != Some(Sabotage::Idempotency)
            && batch.outcomes.iter().any(|row| {
                let taken = |key: &String| {
                    let key = IdempotencyKey { tenant: row.outcome.tenant, key: key.clone() };
                    self.keys.contains_key(&key) && !batch.expired_keys.contains(&key)
                };
                row.idempotency_key.as_ref().is_some_and(taken)
            });
        let document = batch.documents.iter().any(|(key, written)| written.new && self.documents.contains_key(key));
        let code = batch.documents.iter().any(|(key, written)| {
            let code =
                |code: &str| CodeKey { tenant: key.tenant, space: CodeSpace::Entity(key.kind), code: code.to_owned() };
            written.new && written.entity.code().is_some_and(|text| self.codes.contains_key(&code(text)))
        });
        if key || document || code {
            return Err(LedgerError::Taken("a unique key".to_owned()));
        }
        if batch.documents.iter().any(|(key, written)| !written.new && !self.documents.contains_key(key)) {
            return Err(broken("a document that is changed is not there").into());
        }
        if movement || audit || self.outbox.contains_key(&(partition, next_offset)) {
            return Err(broken("a unique key is taken").into());
        }
        Ok(())
    }

    fn write(&mut self, claim: Claim, reached: Reached, published_through: i64, batch: &Batch) {
        // The compare-and-set leaves the epoch as it is.
        self.partitions.entry(claim.partition).or_insert(Partition::NEW).reached = reached;
        self.movements.extend(batch.movements.iter().map(|m| ((m.tenant, m.sequence), m.clone())));
        self.levels.extend(batch.levels.iter().map(|(key, level)| (*key, *level)));
        for (key, written) in &batch.documents {
            let entity = &written.entity;
            if let Some(code) = entity.code() {
                let space = CodeSpace::Entity(key.kind);
                self.codes.insert(CodeKey { tenant: key.tenant, space, code: code.to_owned() }, key.id);
            }
            self.documents.insert(*key, (Arc::clone(entity), Arc::clone(&written.document)));
        }
        for (code, item) in &batch.barcodes {
            match item {
                Some(item) => self.codes.insert(code.clone(), *item),
                None => self.codes.remove(code),
            };
        }
        self.audit.extend(batch.audit.iter().map(|a| ((a.tenant, a.sequence), a.clone())));
        for row in &batch.outcomes {
            let id = (row.outcome.tenant, row.outcome.command_id);
            if self.outcomes.contains_key(&id) {
                continue;
            }
            self.outcomes.insert(id, row.clone());
            if let Some(key) = &row.idempotency_key {
                let key = IdempotencyKey { tenant: row.outcome.tenant, key: key.clone() };
                let prior = PriorOutcome {
                    command_id: row.outcome.command_id,
                    fingerprint: row.fingerprint.clone(),
                    position: row.outcome.position,
                    recorded_at: row.outcome.recorded_at,
                    verdict: Arc::clone(&row.outcome.verdict),
                };
                self.keys.insert(key, prior);
            }
        }
        self.heads.extend(batch.heads.iter().map(|(tenant, head)| (*tenant, head.clone())));
        self.forget(claim.partition, published_through);
        if !batch.outbox.is_empty() {
            self.outbox.insert((claim.partition, reached.next_offset), batch.outbox.clone());
        }
    }

    fn halt(&mut self, claim: Claim, halt: Halt) -> Result<(), LedgerError> {
        let row = self.partitions.get_mut(&claim.partition).filter(|row| row.epoch == claim.epoch);
        let row = row.ok_or_else(|| claim.fenced())?;
        row.halt.get_or_insert(halt);
        row.epoch += 1;
        Ok(())
    }

    pub(crate) fn is_halted(&self, partition: i32) -> bool {
        self.partitions.get(&partition).is_some_and(|row| row.halt.is_some())
    }

    /// How far a partition is applied.
    pub(crate) fn applied(&self, partition: i32) -> i64 {
        self.partitions.get(&partition).map_or(0, |row| row.reached.next_offset)
    }

    /// A person clears a halt: the ledger goes on at the first record that it has not decided.
    pub(crate) fn clear_halt(&mut self, partition: i32, next_offset: i64) {
        if let Some(row) = self.partitions.get_mut(&partition) {
            *row = Partition { epoch: row.epoch + 1, reached: Reached::before(next_offset), halt: None };
        }
    }

    /// Whether a command is decided.
    pub(crate) fn is_decided(&self, tenant: TenantId, command: CommandId) -> bool {
        self.outcomes.contains_key(&(tenant, command))
    }

    fn forget(&mut self, partition: i32, next_offset: i64) {
        self.outbox.retain(|(of, offset), _| *of != partition || *offset > next_offset);
    }
}

/// Has the database refuse a tenant's commands for a while, whatever is in them.
pub(crate) fn refuse(inner: &mut Inner, number: u64, how_long: Duration) {
    let tenants = inner.tables.heads.len();
    let chosen = usize::try_from(number).unwrap_or_default() % tenants.max(1);
    inner.refuses = inner.tables.heads.keys().nth(chosen).map(|tenant| (*tenant, Instant::now() + how_long));
}

/// Takes the database away for a while.
pub(crate) fn take_down(inner: &mut Inner, how_long: Duration) {
    inner.database_down_until = Some(Instant::now() + how_long);
}
