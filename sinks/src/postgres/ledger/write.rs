//! What a batch changes, written.

use super::{Batch, Commit, LedgerError, OutcomeRow};
use crate::postgres::outbox;
use crate::postgres::statement::{Columns, FENCED, Row, Rows, Sql, Statement};
use sqlx::PgPool;
use std::collections::BTreeMap;
use twh_domain::entity::{CodeKey, EntityKind, LevelKey};
use twh_domain::event::AuditRecord;
use twh_domain::id::TenantId;
use twh_domain::level::StockLevel;
use twh_domain::movement::Movement;
use twh_domain::outcome::Verdict;
use twh_domain::state::{IdempotencyKey, LedgerHead};
use uuid::Uuid;

/// How `expect_changed` says that documents are not there.
const NOT_CHANGED: &str = "TWH02";

/// Writes batches of different partitions and moves each partition, all or nothing.
///
/// # Errors
/// [`LedgerError::Fenced`] when another writer took one of the partitions. After [`LedgerError::Database`] the batches may or
/// may not be committed: ask [`super::current`].
pub async fn commit(pool: &PgPool, commits: &[Commit]) -> Result<(), LedgerError> {
    let batches: Vec<&Batch> = commits.iter().map(|commit| commit.batch.as_ref()).collect();
    let mut statement = Statement::default();
    // First of all, so that a fenced writer does no work and waits for none.
    move_partitions(&mut statement, commits)?;
    write_documents(&mut statement, &batches)?;
    free_keys(&mut statement, &batches)?;
    replace_barcodes(&mut statement, &batches)?;
    let movements = Rows::of(batches.iter().flat_map(|batch| &batch.movements), movement);
    statement.insert("stock_movements", MOVEMENT, movements)?;
    let audit = Rows::of(batches.iter().flat_map(|batch| &batch.audit), audit_record);
    statement.insert("audit_log", AUDIT_RECORD, audit)?;
    let outcomes = Rows::of(batches.iter().flat_map(|batch| &batch.outcomes), outcome);
    statement.insert("command_outcomes", OUTCOME, outcomes)?;
    upsert_levels(&mut statement, &batches)?;
    upsert_heads(&mut statement, &batches)?;
    let filled = commits.iter().filter(|commit| !commit.batch.outbox.is_empty());
    outbox::insert(
        &mut statement,
        filled.map(|commit| (commit.claim.partition, commit.reached.next_offset, commit.batch.outbox.as_slice())),
    )?;
    statement.run(pool).await.map_err(|error| refused(error, commits))
}

fn refused(error: sqlx::Error, commits: &[Commit]) -> LedgerError {
    let sqlx::Error::Database(refusal) = &error else { return error.into() };
    match refusal.code().as_deref() {
        Some(FENCED) => {
            let detail =
                refusal.try_downcast_ref::<sqlx::postgres::PgDatabaseError>().and_then(|refusal| refusal.detail());
            let partition = detail.and_then(|detail| detail.parse::<i32>().ok());
            let fenced = commits.iter().find(|commit| Some(commit.claim.partition) == partition);
            fenced.map_or_else(|| error.into(), |commit| commit.claim.fenced())
        }
        Some(NOT_CHANGED) => LedgerError::Corrupt { what: "document", reason: refusal.message().to_owned() },
        _ => error.into(),
    }
}

const MOVE: Columns = &[
    ("partition", Sql::Integer),
    ("epoch", Sql::Bigint),
    ("from_offset", Sql::Bigint),
    ("to_offset", Sql::Bigint),
    ("published_through", Sql::Bigint),
    ("last_offset", Sql::Bigint),
    ("last_digest", Sql::Bytea),
];

/// Moves the partitions by compare-and-set, and forgets what is published of their outboxes.
fn move_partitions(statement: &mut Statement, commits: &[Commit]) -> Result<(), sqlx::Error> {
    let moves = Rows::of(commits.iter(), |row, commit| {
        row.integer(commit.claim.partition)
            .bigint(commit.claim.epoch)
            .bigint(commit.claim.reached.next_offset)
            .bigint(commit.reached.next_offset)
            .bigint(commit.published_through)
            .optional_mark(commit.reached.last.as_ref());
    });
    let given = statement.given(MOVE, &moves)?;
    statement.part("moves", &format!("select * from {given}"));
    statement.part(
        "moved",
        "update ledger_partitions p set next_offset = m.to_offset, last_offset = m.last_offset, last_digest = m.last_digest
         from moves m
         where p.partition = m.partition and p.epoch = m.epoch and p.next_offset = m.from_offset returning p.partition",
    );
    statement.part(
        "published",
        "delete from outbox o using moves m where o.partition = m.partition and o.next_offset <= m.published_through",
    );
    statement.check("expect_moved(array(select partition from moves), array(select partition from moved))".to_owned());
    Ok(())
}

const MOVEMENT: Columns = &[
    ("tenant_id", Sql::Uuid),
    ("sequence", Sql::Bigint),
    ("item_id", Sql::Uuid),
    ("location_id", Sql::Uuid),
    ("kind", Sql::Text),
    ("level_version", Sql::Bigint),
    ("on_hand_change_micro", Sql::Bigint),
    ("reserved_change_micro", Sql::Bigint),
    ("on_hand_after_micro", Sql::Bigint),
    ("reserved_after_micro", Sql::Bigint),
    ("reference_kind", Sql::Text),
    ("reference_id", Sql::Uuid),
    ("reference_line", Sql::Integer),
    ("reason", Sql::Text),
    ("command_id", Sql::Uuid),
    ("partition", Sql::Integer),
    ("log_offset", Sql::Bigint),
    ("occurred_at", Sql::Timestamptz),
    ("recorded_at", Sql::Timestamptz),
    ("hash", Sql::Bytea),
];

fn movement(row: &mut Row<'_>, m: &Movement) {
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
}

const LEVEL: Columns = &[
    ("tenant_id", Sql::Uuid),
    ("item_id", Sql::Uuid),
    ("location_id", Sql::Uuid),
    ("on_hand_micro", Sql::Bigint),
    ("reserved_micro", Sql::Bigint),
    ("version", Sql::Bigint),
    ("last_counted_at", Sql::Timestamptz),
    ("updated_at", Sql::Timestamptz),
];

fn upsert_levels(statement: &mut Statement, batches: &[&Batch]) -> Result<(), sqlx::Error> {
    let levels: BTreeMap<&LevelKey, &StockLevel> = batches.iter().flat_map(|batch| &batch.levels).collect();
    let rows = Rows::of(levels.into_iter(), |row, (key, level)| {
        row.uuid(key.tenant.0)
            .uuid(key.item.0)
            .uuid(key.location.0)
            .bigint(level.on_hand.micros())
            .bigint(level.reserved.micros())
            .bigint(level.version)
            .optional(level.last_counted_at, |row, at| {
                row.timestamp(at);
            })
            .timestamp(level.updated_at);
    });
    let given = statement.given(LEVEL, &rows)?;
    statement.part(
        "levels",
        &format!(
            "insert into stock_levels (tenant_id, item_id, location_id, on_hand_micro, reserved_micro, version, last_counted_at, updated_at)
             select * from {given}
             on conflict (tenant_id, item_id, location_id) do update set on_hand_micro = excluded.on_hand_micro,
                 reserved_micro = excluded.reserved_micro, version = excluded.version, last_counted_at = excluded.last_counted_at,
                 updated_at = excluded.updated_at"
        ),
    );
    Ok(())
}

const DOCUMENT: Columns = &[
    ("tenant_id", Sql::Uuid),
    ("id", Sql::Uuid),
    ("code", Sql::Text),
    ("status", Sql::Text),
    ("expires_at", Sql::Timestamptz),
    ("version", Sql::Bigint),
    ("created_at", Sql::Timestamptz),
    ("updated_at", Sql::Timestamptz),
    ("document", Sql::Json),
];

fn write_documents(statement: &mut Statement, batches: &[&Batch]) -> Result<(), sqlx::Error> {
    let documents: Vec<_> = batches.iter().flat_map(|batch| &batch.documents).collect();
    for kind in EntityKind::ALL {
        let of_kind = |new: bool| {
            let chosen = documents.iter().filter(move |(key, written)| key.kind == *kind && written.new == new);
            Rows::of(chosen, |row, (key, written)| {
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
            })
        };
        // The table's name comes from the code, never from a client.
        let table = kind.collection();
        let (new, changed) = (of_kind(true), of_kind(false));
        if !new.is_empty() {
            statement.insert(table, DOCUMENT, new)?;
        }
        if !changed.is_empty() {
            let given = statement.given(DOCUMENT, &changed)?;
            statement.part(
                &format!("changed_{table}"),
                &format!(
                    "update {table} e set status = given.status, expires_at = given.expires_at, version = given.version,
                         updated_at = given.updated_at, document = given.document
                     from {given} where e.tenant_id = given.tenant_id and e.id = given.id returning e.id"
                ),
            );
            statement
                .check(format!("expect_changed('{table}', {}, (select count(*) from changed_{table}))", changed.len()));
        }
    }
    Ok(())
}

const BARCODE: Columns = &[("tenant_id", Sql::Uuid), ("barcode", Sql::Text), ("item_id", Sql::Uuid)];

fn replace_barcodes(statement: &mut Statement, batches: &[&Batch]) -> Result<(), sqlx::Error> {
    let barcodes: BTreeMap<&CodeKey, &Option<Uuid>> = batches.iter().flat_map(|batch| &batch.barcodes).collect();
    if barcodes.is_empty() {
        return Ok(());
    }
    // A barcode without an item is given up.
    let rows = Rows::of(barcodes.into_iter(), |row, (key, item)| {
        row.uuid(key.tenant.0).text(&key.code).optional(*item, |row, item| {
            row.uuid(item);
        });
    });
    let given = statement.given(BARCODE, &rows)?;
    statement.part("barcodes", &format!("select * from {given}"));
    statement.part(
        "barcodes_given_up",
        "delete from item_barcodes b using barcodes n
         where b.tenant_id = n.tenant_id and b.barcode = n.barcode and n.item_id is null",
    );
    statement.part(
        "barcodes_given",
        "insert into item_barcodes (tenant_id, barcode, item_id) select * from barcodes where item_id is not null
         on conflict (tenant_id, barcode) do update set item_id = excluded.item_id",
    );
    Ok(())
}

const AUDIT_RECORD: Columns = &[
    ("tenant_id", Sql::Uuid),
    ("sequence", Sql::Bigint),
    ("operation_index", Sql::Integer),
    ("action", Sql::Text),
    ("entity_kind", Sql::Text),
    ("entity_id", Sql::Uuid),
    ("entity_version", Sql::Bigint),
    ("document", Sql::Json),
    ("actor_kind", Sql::Text),
    ("actor_id", Sql::Text),
    ("ip", Sql::Text),
    ("user_agent", Sql::Text),
    ("request_id", Sql::Text),
    ("command_id", Sql::Uuid),
    ("recorded_at", Sql::Timestamptz),
    ("hash", Sql::Bytea),
];

fn audit_record(row: &mut Row<'_>, r: &AuditRecord) {
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
}

const KEY: Columns = &[("tenant_id", Sql::Uuid), ("idempotency_key", Sql::Text)];

fn free_keys(statement: &mut Statement, batches: &[&Batch]) -> Result<(), sqlx::Error> {
    let keys: Vec<&IdempotencyKey> = batches.iter().flat_map(|batch| &batch.expired_keys).collect();
    if keys.is_empty() {
        return Ok(());
    }
    let rows = Rows::of(keys.into_iter(), |row, key| {
        row.uuid(key.tenant.0).text(&key.key);
    });
    let given = statement.given(KEY, &rows)?;
    statement.part(
        "freed",
        &format!(
            "update command_outcomes o set idempotency_key = null from {given}
             where o.tenant_id = given.tenant_id and o.idempotency_key = given.idempotency_key returning o.command_id"
        ),
    );
    // Reads them, so that a key is free before it is used again.
    statement.check("(select count(*) from freed)".to_owned());
    Ok(())
}

const OUTCOME: Columns = &[
    ("tenant_id", Sql::Uuid),
    ("command_id", Sql::Uuid),
    ("idempotency_key", Sql::Text),
    ("fingerprint", Sql::Text),
    ("replay_of", Sql::Uuid),
    ("accepted", Sql::Boolean),
    ("code", Sql::Text),
    ("message", Sql::Text),
    ("details", Sql::Json),
    ("first_audit", Sql::Bigint),
    ("last_audit", Sql::Bigint),
    ("partition", Sql::Integer),
    ("log_offset", Sql::Bigint),
    ("recorded_at", Sql::Timestamptz),
];

fn outcome(row: &mut Row<'_>, OutcomeRow { outcome, idempotency_key, fingerprint }: &OutcomeRow) {
    let (refusal, audit) = match outcome.verdict.as_ref() {
        Verdict::Rejected(refusal) => (Some(refusal), None),
        Verdict::Accepted { audit_sequences, .. } => (None, Some(*audit_sequences)),
    };
    let bigint = |row: &mut Row<'_>, value| {
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
}

const HEAD: Columns = &[
    ("tenant_id", Sql::Uuid),
    ("movement_sequence", Sql::Bigint),
    ("movement_hash", Sql::Bytea),
    ("event_sequence", Sql::Bigint),
    ("audit_sequence", Sql::Bigint),
    ("audit_hash", Sql::Bytea),
    ("recorded_at", Sql::Timestamptz),
];

fn upsert_heads(statement: &mut Statement, batches: &[&Batch]) -> Result<(), sqlx::Error> {
    let heads: BTreeMap<&TenantId, &LedgerHead> = batches.iter().flat_map(|batch| &batch.heads).collect();
    let rows = Rows::of(heads.into_iter(), |row, (tenant, head)| {
        row.uuid(tenant.0)
            .bigint(head.movement_sequence)
            .bytes(&head.movement_hash)
            .bigint(head.event_sequence)
            .bigint(head.audit_sequence)
            .bytes(&head.audit_hash)
            .timestamp(head.recorded_at);
    });
    let given = statement.given(HEAD, &rows)?;
    statement.part(
        "heads",
        &format!(
            "insert into ledger_heads (tenant_id, movement_sequence, movement_hash, event_sequence, audit_sequence, audit_hash, recorded_at)
             select * from {given}
             on conflict (tenant_id) do update set movement_sequence = excluded.movement_sequence,
                 movement_hash = excluded.movement_hash, event_sequence = excluded.event_sequence,
                 audit_sequence = excluded.audit_sequence, audit_hash = excluded.audit_hash, recorded_at = excluded.recorded_at"
        ),
    );
    Ok(())
}
