//! The Merkle tree over a tenant's movements. Full subtrees of every eighth level are kept in `ledger_tree`, so that a hash of
//! any tree costs a few hundred small rows, however many movements there are. What is not kept yet is computed from what is
//! below it: the table is a cache of what never changes.

use futures::future::BoxFuture;
use sqlx::{PgConnection, PgPool, Row};
use twh_domain::id::TenantId;
use twh_domain::merkle::{Node, Span, fold, inclusion, leaf};
use twh_domain::movement::Hash;
use twh_domain::timestamp::Timestamp;

/// Levels from one kept level to the next.
pub const KEPT_EVERY: u32 = 8;
/// The highest level that is kept: four thousand million movements.
const KEPT_MAX: u32 = 32;
/// Subtrees sealed in one go.
const SEAL_MAX: i64 = 64;

/// Why a hash of the tree could not be told.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The database failed or cannot be reached.
    #[error("the database failed: {0}")]
    Database(#[from] sqlx::Error),
    /// Rows that must be there are not, or are not what they must be.
    #[error("the ledger is not whole: {0}")]
    NotWhole(String),
}

/// The end of a tenant's movements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeHead {
    /// How many movements there are.
    pub size: i64,
    /// The root over all of them.
    pub root: Hash,
    /// The last one's hash.
    pub chain_hash: Hash,
    /// When the ledger took the last one.
    pub recorded_at: Option<Timestamp>,
}

fn hash(row: &sqlx::postgres::PgRow) -> Result<Hash, TreeError> {
    let bytes: &[u8] = row.try_get("hash")?;
    bytes.try_into().map_err(|_| TreeError::NotWhole("a hash is not 32 bytes long".to_owned()))
}

/// The hashes of `count` full subtrees of a kept level, from `first`; as many of them as are kept, up to the first gap.
async fn kept(
    connection: &mut PgConnection,
    tenant: TenantId,
    level: u32,
    first: i64,
    count: i64,
) -> Result<Vec<Hash>, TreeError> {
    let rows = if level == 0 {
        sqlx::query(
            "select sequence - 1 as index, hash from stock_movements
             where tenant_id = $1 and $2 = 0 and sequence > $3 and sequence <= $3 + $4 order by sequence",
        )
    } else {
        sqlx::query(
            "select index, hash from ledger_tree
             where tenant_id = $1 and level = $2 and index >= $3 and index < $3 + $4 order by index",
        )
    };
    let rows = rows.bind(tenant.0).bind(i64::from(level)).bind(first).bind(count).fetch_all(connection).await?;
    let mut hashes = Vec::with_capacity(rows.len());
    for (expected, row) in (first..).zip(&rows) {
        if row.try_get::<i64, _>("index")? != expected {
            break;
        }
        let hash = hash(row)?;
        hashes.push(if level == 0 { leaf(&hash) } else { hash });
    }
    Ok(hashes)
}

/// The hash of a full subtree.
fn subtree<'a>(
    connection: &'a mut PgConnection,
    tenant: TenantId,
    node: Node,
) -> BoxFuture<'a, Result<Hash, TreeError>> {
    Box::pin(async move {
        let base = (node.level / KEPT_EVERY * KEPT_EVERY).min(KEPT_MAX);
        let (first, count) = (node.index << (node.level - base), 1_i64 << (node.level - base));
        let mut hashes = kept(connection, tenant, base, first, count).await?;
        for index in first + i64::try_from(hashes.len()).unwrap_or(i64::MAX)..first + count {
            if base == 0 {
                return Err(TreeError::NotWhole(format!("movement {} is missing", index + 1)));
            }
            hashes.push(computed(connection, tenant, Node { level: base, index }).await?);
        }
        fold(hashes).ok_or_else(|| TreeError::NotWhole("a subtree is not full".to_owned()))
    })
}

/// The hash of a subtree of a kept level, from the kept level below.
async fn computed(connection: &mut PgConnection, tenant: TenantId, node: Node) -> Result<Hash, TreeError> {
    let (below, width) = (node.level - KEPT_EVERY, 1_i64 << KEPT_EVERY);
    let mut hashes = kept(connection, tenant, below, node.index * width, width).await?;
    for index in node.index * width + i64::try_from(hashes.len()).unwrap_or(i64::MAX)..(node.index + 1) * width {
        hashes.push(subtree(connection, tenant, Node { level: below, index }).await?);
    }
    fold(hashes).ok_or_else(|| TreeError::NotWhole("a subtree is not full".to_owned()))
}

async fn span(connection: &mut PgConnection, tenant: TenantId, span: &Span) -> Result<Hash, TreeError> {
    let mut hashes = Vec::with_capacity(span.0.len());
    for node in &span.0 {
        hashes.push(subtree(connection, tenant, *node).await?);
    }
    Ok(Span::hash(&hashes))
}

/// The head of a tenant's tree as it was with `size` movements, or as it is; `None` when there never were that many.
pub async fn tree_head(
    connection: &mut PgConnection,
    tenant: TenantId,
    size: Option<i64>,
) -> Result<Option<TreeHead>, TreeError> {
    let newest: Option<i64> = sqlx::query_scalar("select movement_sequence from ledger_heads where tenant_id = $1")
        .bind(tenant.0)
        .fetch_optional(&mut *connection)
        .await?;
    let newest = newest.unwrap_or(0);
    let size = size.unwrap_or(newest);
    if !(0..=newest).contains(&size) {
        return Ok(None);
    }
    let root = span(connection, tenant, &Span::tree(size)).await?;
    let last = sqlx::query("select hash, recorded_at from stock_movements where tenant_id = $1 and sequence = $2")
        .bind(tenant.0)
        .bind(size)
        .fetch_optional(&mut *connection)
        .await?;
    let (chain_hash, recorded_at) = match last {
        Some(row) => (hash(&row)?, Some(row.try_get::<time::OffsetDateTime, _>("recorded_at")?.into())),
        None => (twh_domain::movement::genesis(twh_domain::movement::MOVEMENT_CHAIN, tenant), None),
    };
    Ok(Some(TreeHead { size, root, chain_hash, recorded_at }))
}

/// The proof that movement `sequence` is in the tree of the first `size` movements.
pub async fn proof(
    connection: &mut PgConnection,
    tenant: TenantId,
    sequence: i64,
    size: i64,
) -> Result<Vec<Hash>, TreeError> {
    let mut hashes = Vec::new();
    for part in inclusion(sequence - 1, size) {
        hashes.push(span(connection, tenant, &part).await?);
    }
    Ok(hashes)
}

/// Keeps the subtrees that have become full, a bounded number of them for each of a bounded number of tenants; says how many.
pub async fn seal(pool: &PgPool, tenants_max: i64) -> Result<usize, TreeError> {
    let mut sealed = 0;
    let mut level = KEPT_EVERY;
    while level <= KEPT_MAX {
        // One look at the end of each tenant's level: how many subtrees are full, how many are kept.
        let due: Vec<(uuid::Uuid, i64, i64)> = sqlx::query_as(
            "select h.tenant_id, h.movement_sequence >> $1::int, t.next from ledger_heads h
             cross join lateral (select coalesce(max(index) + 1, 0) as next from ledger_tree where tenant_id = h.tenant_id and level = $1) t
             where h.movement_sequence >> $1::int > t.next limit $2",
        )
        .bind(i64::from(level))
        .bind(tenants_max)
        .fetch_all(pool)
        .await?;
        for (tenant, full, next) in due {
            sealed += seal_level(pool, TenantId(tenant), level, next..full.min(next + SEAL_MAX)).await?;
        }
        level += KEPT_EVERY;
    }
    Ok(sealed)
}

async fn seal_level(
    pool: &PgPool,
    tenant: TenantId,
    level: u32,
    indexes: std::ops::Range<i64>,
) -> Result<usize, TreeError> {
    let mut connection = pool.acquire().await?;
    let mut hashes = Vec::new();
    for index in indexes.clone() {
        hashes.push(computed(&mut connection, tenant, Node { level, index }).await?);
    }
    // Another process may have kept the same ones meanwhile.
    sqlx::query(
        "insert into ledger_tree (tenant_id, level, index, hash)
         select $1, $2, i, h from unnest($3::bigint[], $4::bytea[]) as n (i, h) on conflict do nothing",
    )
    .bind(tenant.0)
    .bind(i64::from(level))
    .bind(indexes.collect::<Vec<_>>())
    .bind(hashes.iter().map(<[u8; 32]>::as_slice).collect::<Vec<_>>())
    .execute(&mut *connection)
    .await?;
    Ok(hashes.len())
}
