//! The ledger's store: what a batch touches is loaded in a handful of set-based queries, what it makes is written in one
//! transaction, and the partition's row makes that exactly once and fences every other writer.

use super::copy::{CopyRow, copy, rows};
use super::outbox::{self, OutboxRecord};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, PgPool, Row};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use time::OffsetDateTime;
use twh_domain::decimal::Quantity;
use twh_domain::entity::{CodeKey, CodeSpace, Entity, EntityKey, EntityKind, LevelKey};
use twh_domain::event::AuditRecord;
use twh_domain::id::{CommandId, ItemId, LocationId, TenantId};
use twh_domain::level::StockLevel;
use twh_domain::movement::Movement;
use twh_domain::outcome::{Outcome, Position, Refusal, Resource, Verdict};
use twh_domain::state::{IdempotencyKey, LedgerHead, Need, PriorOutcome, State};
use twh_domain::timestamp::Timestamp;
use uuid::Uuid;

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Another writer owns the partition now: nothing was changed, and this one must stop.
    #[error(
        "another writer owns partition {partition}: this one (epoch {epoch}, at offset {expected_offset}) is fenced"
    )]
    Fenced {
        /// Which partition.
        partition: i32,
        /// This writer's epoch.
        epoch: i64,
        /// Where this writer thought the ledger stood.
        expected_offset: i64,
    },
    /// The partition's row was made against another Kafka cluster: its offsets mean something else there.
    #[error(
        "the ledger was written from Kafka cluster {ledger}, but this is cluster {connected}: connect to the right one, \
         or start an empty database"
    )]
    OtherCluster {
        /// The cluster that the ledger knows.
        ledger: String,
        /// The cluster connected to.
        connected: String,
    },
    /// An id or a code that the batch takes as new is there already: nothing was changed.
    #[error("what a batch takes as new is there already: {0}")]
    Taken(String),
    /// The database failed or cannot be reached.
    #[error("the database failed: {0}")]
    Database(#[source] sqlx::Error),
    /// A stored value does not read as what it must be.
    #[error("a stored {what} cannot be read: {reason}")]
    Corrupt {
        /// What.
        what: &'static str,
        /// Why not.
        reason: String,
    },
}

impl From<sqlx::Error> for LedgerError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(refusal) if refusal.is_unique_violation() => Self::Taken(error.to_string()),
            _ => Self::Database(error),
        }
    }
}

impl LedgerError {
    /// The stable name, as a metric label.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Fenced { .. } => "fenced",
            Self::OtherCluster { .. } => "other_cluster",
            Self::Taken(_) => "taken",
            Self::Database(_) => "database",
            Self::Corrupt { .. } => "corrupt",
        }
    }
}

/// A writer's hold on a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// Which partition.
    pub partition: i32,
    /// Rises with every claim; a lower one is fenced.
    pub epoch: i64,
    /// The first offset that is not applied yet.
    pub next_offset: i64,
}

/// One command's row among the outcomes.
#[derive(Debug, Clone)]
pub struct OutcomeRow {
    /// The decision.
    pub outcome: Outcome,
    /// The key it was decided under; absent for a repeat.
    pub idempotency_key: Option<String>,
    /// What was asked.
    pub fingerprint: String,
}

/// A document that a batch wrote.
#[derive(Debug)]
pub struct Written {
    /// As it is after the batch.
    pub entity: Arc<Entity>,
    /// The same, as the public resource.
    pub document: Arc<str>,
    /// The batch made it.
    pub new: bool,
}

/// Everything that a batch of commands changes.
#[derive(Debug, Default)]
pub struct Batch {
    /// New movements, in order.
    pub movements: Vec<Movement>,
    /// Levels as they are after the batch.
    pub levels: BTreeMap<LevelKey, StockLevel>,
    /// Documents as they are after the batch.
    pub documents: BTreeMap<EntityKey, Written>,
    /// Barcodes as they are after the batch.
    pub barcodes: BTreeMap<CodeKey, Option<Uuid>>,
    /// Tenants' heads after the batch.
    pub heads: BTreeMap<TenantId, LedgerHead>,
    /// New audit records, in order.
    pub audit: Vec<AuditRecord>,
    /// New outcomes, in order.
    pub outcomes: Vec<OutcomeRow>,
    /// Idempotency-Keys whose time is over and that are used anew.
    pub expired_keys: Vec<IdempotencyKey>,
    /// What to publish, in order.
    pub outbox: Vec<OutboxRecord>,
}

/// Takes a partition: raises its epoch, which fences whoever held it, and says where to go on.
pub async fn claim(pool: &PgPool, partition: i32, kafka_cluster_id: &str, owner: &str) -> Result<Claim, LedgerError> {
    let row = sqlx::query(
        "insert into ledger_partitions as p (partition, kafka_cluster_id, next_offset, epoch, owner, claimed_at)
         values ($1, $2, 0, 1, $3, now())
         on conflict (partition) do update set epoch = p.epoch + 1, owner = excluded.owner, claimed_at = excluded.claimed_at
             where p.kafka_cluster_id = excluded.kafka_cluster_id
         returning epoch, next_offset",
    )
    .bind(partition)
    .bind(kafka_cluster_id)
    .bind(owner)
    .fetch_optional(pool)
    .await?;
    match row {
        Some(row) => Ok(Claim { partition, epoch: row.try_get("epoch")?, next_offset: row.try_get("next_offset")? }),
        None => {
            let ledger = sqlx::query_scalar("select kafka_cluster_id from ledger_partitions where partition = $1")
                .bind(partition)
                .fetch_one(pool)
                .await?;
            Err(LedgerError::OtherCluster { ledger, connected: kafka_cluster_id.to_owned() })
        }
    }
}

/// Where a partition stands now, whoever owns it.
pub async fn current(pool: &PgPool, partition: i32) -> Result<Option<Claim>, LedgerError> {
    let row = sqlx::query("select epoch, next_offset from ledger_partitions where partition = $1")
        .bind(partition)
        .fetch_optional(pool)
        .await?;
    row.map(|row| Ok(Claim { partition, epoch: row.try_get("epoch")?, next_offset: row.try_get("next_offset")? }))
        .transpose()
}

/// A batch to be written, and where the partition moves with it.
#[derive(Debug, Clone)]
pub struct Commit {
    /// Whose it is, and from where the partition moves.
    pub claim: Claim,
    /// To where it moves.
    pub next_offset: i64,
    /// The outbox up to here is published, and is forgotten.
    pub published_through: i64,
    /// What is written.
    pub batch: Arc<Batch>,
}

impl Commit {
    fn fenced(&self) -> LedgerError {
        LedgerError::Fenced {
            partition: self.claim.partition,
            epoch: self.claim.epoch,
            expected_offset: self.claim.next_offset,
        }
    }
}

/// Writes batches of different partitions and moves each partition, all or nothing.
///
/// # Errors
/// [`LedgerError::Fenced`] when another writer took one of the partitions. After [`LedgerError::Database`] the batches may or
/// may not be committed: ask [`current`].
pub async fn commit(pool: &PgPool, commits: &[Commit]) -> Result<(), LedgerError> {
    let batches: Vec<&Batch> = commits.iter().map(|commit| commit.batch.as_ref()).collect();
    let mut tx = pool.begin().await?;
    // First of all, so that a fenced writer does no work and waits for none.
    move_partitions(&mut tx, commits).await?;
    insert_movements(&mut tx, &batches).await?;
    upsert_levels(&mut tx, &batches).await?;
    write_documents(&mut tx, &batches).await?;
    replace_barcodes(&mut tx, &batches).await?;
    insert_audit(&mut tx, &batches).await?;
    free_keys(&mut tx, &batches).await?;
    insert_outcomes(&mut tx, &batches).await?;
    upsert_heads(&mut tx, &batches).await?;
    insert_outbox(&mut tx, commits).await?;
    tx.commit().await?;
    Ok(())
}

async fn insert_outbox(connection: &mut PgConnection, commits: &[Commit]) -> Result<(), sqlx::Error> {
    let filled = commits.iter().filter(|commit| !commit.batch.outbox.is_empty());
    let outbox: Vec<_> =
        filled.map(|commit| (commit.claim.partition, commit.next_offset, commit.batch.outbox.as_slice())).collect();
    outbox::insert(connection, &outbox).await
}

/// Moves the partitions by compare-and-set, and forgets what is published of their outboxes.
async fn move_partitions(connection: &mut PgConnection, commits: &[Commit]) -> Result<(), LedgerError> {
    let column = |value: fn(&Commit) -> i64| commits.iter().map(value).collect::<Vec<_>>();
    let moved: Vec<i32> = sqlx::query_scalar(
        "with given as (select * from unnest($1::integer[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[])
                            as n (partition, epoch, from_offset, to_offset, published_through)),
              published as (delete from outbox o using given g
                            where o.partition = g.partition and o.next_offset <= g.published_through)
         update ledger_partitions p set next_offset = g.to_offset from given g
         where p.partition = g.partition and p.epoch = g.epoch and p.next_offset = g.from_offset returning p.partition",
    )
    .bind(commits.iter().map(|commit| commit.claim.partition).collect::<Vec<_>>())
    .bind(column(|commit| commit.claim.epoch))
    .bind(column(|commit| commit.claim.next_offset))
    .bind(column(|commit| commit.next_offset))
    .bind(column(|commit| commit.published_through))
    .fetch_all(connection)
    .await?;
    let fenced = commits.iter().find(|commit| !moved.contains(&commit.claim.partition));
    fenced.map_or(Ok(()), |commit| Err(commit.fenced()))
}

async fn insert_movements(connection: &mut PgConnection, batches: &[&Batch]) -> Result<(), sqlx::Error> {
    let statement = "copy stock_movements (tenant_id, sequence, item_id, location_id, kind, level_version, on_hand_change_micro,
        reserved_change_micro, on_hand_after_micro, reserved_after_micro, reference_kind, reference_id, reference_line, reason,
        command_id, partition, log_offset, occurred_at, recorded_at, hash) from stdin (format binary)";
    let rows = rows(batches.iter().flat_map(|batch| &batch.movements), |row, m| {
        row.uuid(m.tenant.0)
            .bigint(m.sequence)
            .uuid(m.item.0)
            .uuid(m.location.0)
            .text(m.kind.name())
            .bigint(m.level_version)
            .bigint(m.on_hand_change.micros())
            .bigint(m.reserved_change.micros())
            .bigint(m.on_hand_after.micros())
            .bigint(m.reserved_after.micros())
            .text(m.reference_kind.name())
            .uuid(m.reference)
            .integer(m.reference_line)
            .optional_text(m.reason.as_deref())
            .uuid(m.command.0)
            .integer(m.position.partition)
            .bigint(m.position.offset)
            .timestamp(m.occurred_at)
            .timestamp(m.recorded_at)
            .bytes(&m.hash);
    });
    copy(connection, statement, rows).await
}

async fn upsert_levels(connection: &mut PgConnection, batches: &[&Batch]) -> Result<(), sqlx::Error> {
    let levels: BTreeMap<&LevelKey, &StockLevel> = batches.iter().flat_map(|batch| &batch.levels).collect();
    if levels.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "insert into stock_levels (tenant_id, item_id, location_id, on_hand_micro, reserved_micro, version, last_counted_at, updated_at)
         select * from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::bigint[], $5::bigint[], $6::bigint[], $7::timestamptz[], $8::timestamptz[])
         on conflict (tenant_id, item_id, location_id) do update set on_hand_micro = excluded.on_hand_micro,
             reserved_micro = excluded.reserved_micro, version = excluded.version, last_counted_at = excluded.last_counted_at,
             updated_at = excluded.updated_at",
    )
    .bind(levels.keys().map(|key| key.tenant.0).collect::<Vec<_>>())
    .bind(levels.keys().map(|key| key.item.0).collect::<Vec<_>>())
    .bind(levels.keys().map(|key| key.location.0).collect::<Vec<_>>())
    .bind(levels.values().map(|level| level.on_hand.micros()).collect::<Vec<_>>())
    .bind(levels.values().map(|level| level.reserved.micros()).collect::<Vec<_>>())
    .bind(levels.values().map(|level| level.version).collect::<Vec<_>>())
    .bind(levels.values().map(|level| level.last_counted_at.map(Timestamp::datetime)).collect::<Vec<_>>())
    .bind(levels.values().map(|level| level.updated_at.datetime()).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

async fn write_documents(connection: &mut PgConnection, batches: &[&Batch]) -> Result<(), LedgerError> {
    let documents: Vec<_> = batches.iter().flat_map(|batch| &batch.documents).collect();
    for kind in EntityKind::ALL {
        let (new, changed): (Vec<_>, Vec<_>) =
            documents.iter().copied().filter(|(key, _)| key.kind == *kind).partition(|(_, written)| written.new);
        insert_documents(connection, *kind, &new).await?;
        update_documents(connection, *kind, &changed).await?;
    }
    Ok(())
}

type Documents<'a> = [(&'a EntityKey, &'a Written)];

async fn insert_documents(
    connection: &mut PgConnection,
    kind: EntityKind,
    documents: &Documents<'_>,
) -> Result<(), sqlx::Error> {
    // The table's name comes from the code, never from a client.
    let statement = format!(
        "copy {} (tenant_id, id, code, status, expires_at, version, created_at, updated_at, document) from stdin (format binary)",
        kind.collection()
    );
    let rows = rows(documents.iter(), |row, (key, written)| {
        let entity = &written.entity;
        row.uuid(key.tenant.0)
            .uuid(key.id)
            .optional_text(entity.code())
            .optional_text(entity.status())
            .optional(entity.expires_at(), |row, at| {
                row.timestamp(at);
            })
            .bigint(entity.version())
            .timestamp(entity.created_at())
            .timestamp(entity.updated_at())
            .text(&written.document);
    });
    copy(connection, &statement, rows).await
}

async fn update_documents(
    connection: &mut PgConnection,
    kind: EntityKind,
    documents: &Documents<'_>,
) -> Result<(), LedgerError> {
    if documents.is_empty() {
        return Ok(());
    }
    let sql = format!(
        "update {} e set status = s, expires_at = x, version = v, updated_at = u, document = d::json
         from unnest($1::uuid[], $2::uuid[], $3::text[], $4::timestamptz[], $5::bigint[], $6::timestamptz[], $7::text[])
             as n (t, i, s, x, v, u, d)
         where e.tenant_id = t and e.id = i",
        kind.collection()
    );
    let entities = || documents.iter().map(|(_, written)| &written.entity);
    let done = sqlx::query(&sql)
        .bind(documents.iter().map(|(key, _)| key.tenant.0).collect::<Vec<_>>())
        .bind(documents.iter().map(|(key, _)| key.id).collect::<Vec<_>>())
        .bind(entities().map(|entity| entity.status()).collect::<Vec<_>>())
        .bind(entities().map(|entity| entity.expires_at().map(Timestamp::datetime)).collect::<Vec<_>>())
        .bind(entities().map(|entity| entity.version()).collect::<Vec<_>>())
        .bind(entities().map(|entity| entity.updated_at().datetime()).collect::<Vec<_>>())
        .bind(documents.iter().map(|(_, written)| written.document.as_ref()).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    if done.rows_affected() == documents.len() as u64 {
        Ok(())
    } else {
        let reason = format!("{} of {} are there to be changed", done.rows_affected(), documents.len());
        Err(LedgerError::Corrupt { what: kind.noun(), reason })
    }
}

async fn replace_barcodes(connection: &mut PgConnection, batches: &[&Batch]) -> Result<(), sqlx::Error> {
    let barcodes: BTreeMap<&CodeKey, &Option<Uuid>> = batches.iter().flat_map(|batch| &batch.barcodes).collect();
    if barcodes.is_empty() {
        return Ok(());
    }
    // A null item in the input is a barcode given up.
    sqlx::query(
        "with new as (select * from unnest($1::uuid[], $2::text[], $3::uuid[]) as n (tenant_id, barcode, item_id)),
              gone as (delete from item_barcodes b using new
                       where b.tenant_id = new.tenant_id and b.barcode = new.barcode and new.item_id is null)
         insert into item_barcodes (tenant_id, barcode, item_id) select * from new where item_id is not null
         on conflict (tenant_id, barcode) do update set item_id = excluded.item_id",
    )
    .bind(barcodes.keys().map(|key| key.tenant.0).collect::<Vec<_>>())
    .bind(barcodes.keys().map(|key| key.code.as_str()).collect::<Vec<_>>())
    .bind(barcodes.values().map(|item| **item).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

async fn insert_audit(connection: &mut PgConnection, batches: &[&Batch]) -> Result<(), sqlx::Error> {
    let statement = "copy audit_log (tenant_id, sequence, operation_index, action, entity_kind, entity_id, entity_version, document,
        actor_kind, actor_id, ip, user_agent, request_id, command_id, recorded_at, hash) from stdin (format binary)";
    let rows = rows(batches.iter().flat_map(|batch| &batch.audit), |row, r| {
        row.uuid(r.tenant.0)
            .bigint(r.sequence)
            .optional(r.operation_index, |row, index| {
                row.integer(index);
            })
            .text(r.action)
            .text(r.entity_kind.name())
            .uuid(r.entity)
            .bigint(r.entity_version)
            .text(&r.document)
            .text(&r.actor.kind)
            .text(&r.actor.id)
            .optional_text(r.actor.ip.as_deref())
            .optional_text(r.actor.user_agent.as_deref())
            .text(&r.request_id)
            .uuid(r.command.0)
            .timestamp(r.recorded_at)
            .bytes(&r.hash);
    });
    copy(connection, statement, rows).await
}

async fn free_keys(connection: &mut PgConnection, batches: &[&Batch]) -> Result<(), sqlx::Error> {
    let keys: Vec<&IdempotencyKey> = batches.iter().flat_map(|batch| &batch.expired_keys).collect();
    if keys.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "update command_outcomes o set idempotency_key = null from unnest($1::uuid[], $2::text[]) as n (t, k)
         where o.tenant_id = n.t and o.idempotency_key = n.k",
    )
    .bind(keys.iter().map(|key| key.tenant.0).collect::<Vec<_>>())
    .bind(keys.iter().map(|key| key.key.as_str()).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

async fn insert_outcomes(connection: &mut PgConnection, batches: &[&Batch]) -> Result<(), sqlx::Error> {
    let statement = "copy command_outcomes (tenant_id, command_id, idempotency_key, fingerprint, replay_of, accepted, code, message,
        details, first_audit, last_audit, partition, log_offset, recorded_at) from stdin (format binary)";
    let rows = rows(
        batches.iter().flat_map(|batch| &batch.outcomes),
        |row, OutcomeRow { outcome, idempotency_key, fingerprint }| {
            let (refusal, audit) = match outcome.verdict.as_ref() {
                Verdict::Rejected(refusal) => (Some(refusal), None),
                Verdict::Accepted { audit_sequences, .. } => (None, Some(*audit_sequences)),
            };
            let bigint = |row: &mut CopyRow<'_>, value| {
                row.bigint(value);
            };
            row.uuid(outcome.tenant.0)
                .uuid(outcome.command_id.0)
                .optional_text(idempotency_key.as_deref())
                .text(fingerprint)
                .optional(outcome.replay_of, |row, id| {
                    row.uuid(id.0);
                })
                .boolean(refusal.is_none())
                .optional_text(refusal.map(|refusal| refusal.code.as_str()))
                .optional_text(refusal.map(|refusal| refusal.message.as_str()))
                .optional_text(refusal.map(|refusal| refusal.details.as_str()))
                .optional(audit.map(|audit| audit.0), bigint)
                .optional(audit.map(|audit| audit.1), bigint)
                .integer(outcome.position.partition)
                .bigint(outcome.position.offset)
                .timestamp(outcome.recorded_at);
        },
    );
    copy(connection, statement, rows).await
}

async fn upsert_heads(connection: &mut PgConnection, batches: &[&Batch]) -> Result<(), sqlx::Error> {
    let heads: BTreeMap<&TenantId, &LedgerHead> = batches.iter().flat_map(|batch| &batch.heads).collect();
    if heads.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "insert into ledger_heads (tenant_id, movement_sequence, movement_hash, event_sequence, audit_sequence, audit_hash, recorded_at)
         select * from unnest($1::uuid[], $2::bigint[], $3::bytea[], $4::bigint[], $5::bigint[], $6::bytea[], $7::timestamptz[])
         on conflict (tenant_id) do update set movement_sequence = excluded.movement_sequence, movement_hash = excluded.movement_hash,
             event_sequence = excluded.event_sequence, audit_sequence = excluded.audit_sequence, audit_hash = excluded.audit_hash,
             recorded_at = excluded.recorded_at",
    )
    .bind(heads.keys().map(|tenant| tenant.0).collect::<Vec<_>>())
    .bind(heads.values().map(|head| head.movement_sequence).collect::<Vec<_>>())
    .bind(heads.values().map(|head| head.movement_hash.as_slice()).collect::<Vec<_>>())
    .bind(heads.values().map(|head| head.event_sequence).collect::<Vec<_>>())
    .bind(heads.values().map(|head| head.audit_sequence).collect::<Vec<_>>())
    .bind(heads.values().map(|head| head.audit_hash.as_slice()).collect::<Vec<_>>())
    .bind(heads.values().map(|head| head.recorded_at.datetime()).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// Loads what is needed into the state: each thing that exists, and the knowledge that the others do not. Each key is looked
/// up in its index: a `lateral … limit 1` is never planned as a scan of the table, however old the planner's statistics are.
pub async fn load(pool: &PgPool, state: &mut State, needs: BTreeSet<Need>) -> Result<(), LedgerError> {
    load_on(&mut *pool.acquire().await?, state, needs).await
}

/// Loads like [`load`], in what a connection sees.
pub(super) async fn load_on(
    connection: &mut PgConnection,
    state: &mut State,
    needs: BTreeSet<Need>,
) -> Result<(), LedgerError> {
    let mut sorted = Sorted::default();
    for need in needs {
        match need {
            Need::Entity(key) => sorted.entities.push(key),
            Need::Code(key) => sorted.codes.push(key),
            Need::Level(key) => sorted.levels.push(key),
            Need::Outcome(key) => sorted.outcomes.push(key),
            Need::Head(tenant) => sorted.heads.push(tenant),
        }
    }
    load_heads(&mut *connection, state, sorted.heads).await?;
    load_outcomes(&mut *connection, state, sorted.outcomes).await?;
    load_codes(&mut *connection, state, sorted.codes).await?;
    load_entities(&mut *connection, state, sorted.entities).await?;
    load_levels(connection, state, sorted.levels).await
}

#[derive(Default)]
struct Sorted {
    entities: Vec<EntityKey>,
    codes: Vec<CodeKey>,
    levels: Vec<LevelKey>,
    outcomes: Vec<IdempotencyKey>,
    heads: Vec<TenantId>,
}

fn time(row: &PgRow, column: &str) -> Result<Timestamp, sqlx::Error> {
    Ok(row.try_get::<OffsetDateTime, _>(column)?.into())
}

fn quantity(row: &PgRow, column: &'static str) -> Result<Quantity, LedgerError> {
    let micros: i64 = row.try_get(column)?;
    Quantity::from_micros(micros)
        .ok_or_else(|| LedgerError::Corrupt { what: column, reason: format!("{micros} is out of range") })
}

fn hash(row: &PgRow, column: &'static str) -> Result<[u8; 32], LedgerError> {
    let bytes: Vec<u8> = row.try_get(column)?;
    bytes.try_into().map_err(|_| LedgerError::Corrupt { what: column, reason: "it is not 32 bytes long".to_owned() })
}

async fn load_heads(
    connection: &mut PgConnection,
    state: &mut State,
    tenants: Vec<TenantId>,
) -> Result<(), LedgerError> {
    if tenants.is_empty() {
        return Ok(());
    }
    let rows = sqlx::query(
        "select tenant_id, movement_sequence, movement_hash, event_sequence, audit_sequence, audit_hash, recorded_at
         from ledger_heads where tenant_id = any($1)",
    )
    .bind(tenants.iter().map(|tenant| tenant.0).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    for row in rows {
        let head = LedgerHead {
            movement_sequence: row.try_get("movement_sequence")?,
            movement_hash: hash(&row, "movement_hash")?,
            event_sequence: row.try_get("event_sequence")?,
            audit_sequence: row.try_get("audit_sequence")?,
            audit_hash: hash(&row, "audit_hash")?,
            recorded_at: time(&row, "recorded_at")?,
        };
        state.load_head(TenantId(row.try_get("tenant_id")?), head);
    }
    for tenant in tenants {
        state.load_head(tenant, LedgerHead::genesis(tenant));
    }
    Ok(())
}

async fn load_codes(connection: &mut PgConnection, state: &mut State, keys: Vec<CodeKey>) -> Result<(), LedgerError> {
    let mut by_space: BTreeMap<CodeSpace, Vec<CodeKey>> = BTreeMap::new();
    for key in keys {
        by_space.entry(key.space).or_default().push(key);
    }
    for (space, keys) in by_space {
        let (table, code, id) = match space {
            CodeSpace::Entity(kind) => (kind.collection(), "code", "id"),
            CodeSpace::Barcode => ("item_barcodes", "barcode", "item_id"),
        };
        let sql = format!(
            "select n.t as tenant_id, n.c as code, e.id from unnest($1::uuid[], $2::text[]) as n (t, c)
             cross join lateral (select {id} as id from {table} where tenant_id = n.t and {code} = n.c limit 1) e"
        );
        let rows = sqlx::query(&sql)
            .bind(keys.iter().map(|key| key.tenant.0).collect::<Vec<_>>())
            .bind(keys.iter().map(|key| key.code.as_str()).collect::<Vec<_>>())
            .fetch_all(&mut *connection)
            .await?;
        for row in rows {
            let key = CodeKey { tenant: TenantId(row.try_get("tenant_id")?), space, code: row.try_get("code")? };
            state.load_code(key, Some(row.try_get("id")?));
        }
        for key in keys {
            state.load_code(key, None);
        }
    }
    Ok(())
}

async fn load_entities(
    connection: &mut PgConnection,
    state: &mut State,
    keys: Vec<EntityKey>,
) -> Result<(), LedgerError> {
    let mut by_kind: BTreeMap<EntityKind, Vec<EntityKey>> = BTreeMap::new();
    for key in keys {
        by_kind.entry(key.kind).or_default().push(key);
    }
    for (kind, keys) in by_kind {
        let sql = format!(
            "select n.t as tenant_id, n.i as id, e.document::text as document from unnest($1::uuid[], $2::uuid[]) as n (t, i)
             cross join lateral (select document from {} where tenant_id = n.t and id = n.i limit 1) e",
            kind.collection()
        );
        let rows = sqlx::query(&sql)
            .bind(keys.iter().map(|key| key.tenant.0).collect::<Vec<_>>())
            .bind(keys.iter().map(|key| key.id).collect::<Vec<_>>())
            .fetch_all(&mut *connection)
            .await?;
        for row in rows {
            let key = EntityKey { tenant: TenantId(row.try_get("tenant_id")?), kind, id: row.try_get("id")? };
            let entity = Entity::from_document(kind, row.try_get("document")?)
                .map_err(|error| LedgerError::Corrupt { what: kind.noun(), reason: format!("{}: {error}", key.id) })?;
            state.load_entity(key, Some(entity));
        }
        for key in keys {
            state.load_entity(key, None);
        }
    }
    Ok(())
}

async fn load_levels(connection: &mut PgConnection, state: &mut State, keys: Vec<LevelKey>) -> Result<(), LedgerError> {
    if keys.is_empty() {
        return Ok(());
    }
    let rows = sqlx::query(
        "select l.tenant_id, l.item_id, l.location_id, l.on_hand_micro, l.reserved_micro, l.version, l.last_counted_at, l.updated_at
         from unnest($1::uuid[], $2::uuid[], $3::uuid[]) as n (t, i, p)
         cross join lateral (select * from stock_levels where tenant_id = n.t and item_id = n.i and location_id = n.p limit 1) l",
    )
    .bind(keys.iter().map(|key| key.tenant.0).collect::<Vec<_>>())
    .bind(keys.iter().map(|key| key.item.0).collect::<Vec<_>>())
    .bind(keys.iter().map(|key| key.location.0).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    for row in rows {
        let key = LevelKey {
            tenant: TenantId(row.try_get("tenant_id")?),
            item: ItemId(row.try_get("item_id")?),
            location: LocationId(row.try_get("location_id")?),
        };
        let level = StockLevel {
            on_hand: quantity(&row, "on_hand_micro")?,
            reserved: quantity(&row, "reserved_micro")?,
            version: row.try_get("version")?,
            last_counted_at: row.try_get::<Option<OffsetDateTime>, _>("last_counted_at")?.map(Timestamp::from),
            updated_at: time(&row, "updated_at")?,
        };
        state.load_level(key, level);
    }
    for key in keys {
        state.load_level(key, StockLevel::default());
    }
    Ok(())
}

async fn load_outcomes(
    connection: &mut PgConnection,
    state: &mut State,
    keys: Vec<IdempotencyKey>,
) -> Result<(), LedgerError> {
    if keys.is_empty() {
        return Ok(());
    }
    let rows = sqlx::query(
        "select o.tenant_id, o.idempotency_key, o.command_id, o.fingerprint, o.accepted, o.code, o.message, o.details::text as details,
                o.first_audit, o.last_audit, o.partition, o.log_offset, o.recorded_at
         from unnest($1::uuid[], $2::text[]) as n (t, k)
         cross join lateral (select * from command_outcomes where tenant_id = n.t and idempotency_key = n.k limit 1) o",
    )
    .bind(keys.iter().map(|key| key.tenant.0).collect::<Vec<_>>())
    .bind(keys.iter().map(|key| key.key.as_str()).collect::<Vec<_>>())
    .fetch_all(&mut *connection)
    .await?;
    for row in rows {
        let key = IdempotencyKey { tenant: TenantId(row.try_get("tenant_id")?), key: row.try_get("idempotency_key")? };
        let verdict = if row.try_get("accepted")? {
            let sequences = (row.try_get("first_audit")?, row.try_get("last_audit")?);
            Verdict::Accepted {
                resources: resources(&mut *connection, key.tenant, sequences).await?,
                audit_sequences: sequences,
            }
        } else {
            Verdict::Rejected(Refusal {
                code: row.try_get("code")?,
                message: row.try_get("message")?,
                details: row.try_get("details")?,
            })
        };
        let prior = PriorOutcome {
            command_id: CommandId(row.try_get("command_id")?),
            fingerprint: row.try_get("fingerprint")?,
            position: Position { partition: row.try_get("partition")?, offset: row.try_get("log_offset")? },
            recorded_at: time(&row, "recorded_at")?,
            verdict: Arc::new(verdict),
        };
        state.load_outcome(key, Some(prior));
    }
    for key in keys {
        state.load_outcome(key, None);
    }
    Ok(())
}

/// The documents that answered a command, from the account of what it wrote.
async fn resources(
    connection: &mut PgConnection,
    tenant: TenantId,
    (first, last): (i64, i64),
) -> Result<Vec<Resource>, LedgerError> {
    let rows = sqlx::query(
        "select entity_kind, entity_id, entity_version, document::text as document from audit_log
         where tenant_id = $1 and sequence between $2 and $3 and operation_index is not null order by operation_index",
    )
    .bind(tenant.0)
    .bind(first)
    .bind(last)
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            let name: &str = row.try_get("entity_kind")?;
            let kind = EntityKind::from_name(name)
                .ok_or_else(|| LedgerError::Corrupt { what: "kind of document", reason: name.to_owned() })?;
            let version = row.try_get("entity_version")?;
            let document = row.try_get::<&str, _>("document")?.into();
            Ok(Resource { kind, id: row.try_get("entity_id")?, version, created: version == 1, document })
        })
        .collect()
}

/// Reservations whose time has come, oldest first.
pub async fn due_reservations(pool: &PgPool, limit: i64) -> Result<Vec<(TenantId, Uuid)>, LedgerError> {
    let rows =
        sqlx::query("select tenant_id, id from reservations where expires_at <= now() order by expires_at limit $1")
            .bind(limit)
            .fetch_all(pool)
            .await?;
    rows.iter().map(|row| Ok((TenantId(row.try_get("tenant_id")?), row.try_get("id")?))).collect()
}

/// How much longer than an Idempotency-Key is honoured its row is kept, in microseconds: 7 days. A ledger that lags behind
/// its log by less decides as if nothing had ever been forgotten, and so does a replay.
const FORGET_SLACK_MICROS: i64 = 7 * 24 * 60 * 60 * 1_000_000;

/// Forgets outcomes well past the retention of Idempotency-Keys, a bounded number at a time; says how many.
pub async fn forget_outcomes(pool: &PgPool, limit: i64) -> Result<u64, LedgerError> {
    let done = sqlx::query(
        "delete from command_outcomes where ctid in (select ctid from command_outcomes
             where recorded_at < now() - make_interval(secs => $1::double precision / 1000000) limit $2)",
    )
    .bind(twh_domain::IDEMPOTENCY_RETENTION_MICROS + FORGET_SLACK_MICROS)
    .bind(limit)
    .execute(pool)
    .await?;
    Ok(done.rows_affected())
}
