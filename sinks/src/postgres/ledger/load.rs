//! What a batch touches, loaded.

use super::LedgerError;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, PgPool, Row};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use time::OffsetDateTime;
use twh_domain::decimal::Quantity;
use twh_domain::entity::{CodeKey, CodeSpace, Entity, EntityKey, EntityKind, LevelKey};
use twh_domain::id::{CommandId, ItemId, LocationId, TenantId};
use twh_domain::level::StockLevel;
use twh_domain::outcome::{Position, Refusal, Verdict};
use twh_domain::state::{IdempotencyKey, LedgerHead, Need, PriorOutcome, State};
use twh_domain::timestamp::Timestamp;

/// Loads what is needed into the state: each thing that exists, and the knowledge that the others do not. Each key is looked
/// up in its index: a `lateral … limit 1` is never planned as a scan of the table, however old the planner's statistics are.
pub async fn load(pool: &PgPool, state: &mut State, needs: BTreeSet<Need>) -> Result<(), LedgerError> {
    load_on(&mut *pool.acquire().await?, state, needs).await
}

/// Loads like [`load`], in what a connection sees.
pub(in crate::postgres) async fn load_on(
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
            // Its documents are left to who answers: what repeats are told must not fill the ledger's memory.
            let audit_sequences = (row.try_get("first_audit")?, row.try_get("last_audit")?);
            Verdict::Accepted { resources: Vec::new(), audit_sequences }
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
