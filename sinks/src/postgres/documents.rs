//! Documents, as they are stored and answered.

use super::page::{self, Page};
use super::tenant::TenantConnection;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};
use twh_domain::entity::EntityKind;
use twh_domain::id::TenantId;
use uuid::Uuid;

/// A stored document, as it is answered.
#[derive(Debug, Clone)]
pub struct Document {
    /// Its id.
    pub id: Uuid,
    /// Its version.
    pub version: i64,
    /// It, byte for byte.
    pub json: String,
}

fn document(row: &PgRow) -> Result<Document, sqlx::Error> {
    Ok(Document { id: row.try_get("id")?, version: row.try_get("version")?, json: row.try_get("document")? })
}

/// One document.
pub async fn find_document(
    connection: &mut PgConnection,
    kind: EntityKind,
    tenant: TenantId,
    id: Uuid,
) -> Result<Option<Document>, sqlx::Error> {
    let sql = format!(
        "select id, version, document::text as document from {} where tenant_id = $1 and id = $2",
        kind.collection()
    );
    let row = sqlx::query(&sql).bind(tenant.0).bind(id).fetch_optional(&mut *connection).await?;
    row.as_ref().map(document).transpose()
}

/// What documents are asked for; empty fields ask for nothing.
#[derive(Debug, Clone, Default)]
pub struct DocumentFilter {
    /// Exactly this SKU, code or number.
    pub code: Option<String>,
    /// Exactly this status.
    pub status: Option<String>,
    /// The item with this barcode.
    pub barcode: Option<String>,
    /// Items whose name begins like this, in whatever case.
    pub name_prefix: Option<String>,
    /// Items of this type.
    pub item_type: Option<String>,
}

/// A page of documents by id: ids are made in the order of time.
pub async fn list_documents(
    connection: &mut TenantConnection,
    kind: EntityKind,
    tenant: TenantId,
    filter: &DocumentFilter,
    after: Option<Uuid>,
    newest_first: bool,
    limit: i64,
) -> Result<Page<Document>, sqlx::Error> {
    let (beyond, order) = if newest_first { ("<", "desc") } else { (">", "asc") };
    // Filters on names and barcodes stand only where items do, so that other tables need no such columns.
    let items_only = match kind {
        // A beginning is a range, as an index has it: from itself to itself with the last of all characters.
        EntityKind::Item => {
            "and ($5::text is null or id in (select item_id from item_barcodes where tenant_id = $1 and barcode = $5))
             and ($6::text is null or (name_key >= lower($6) and name_key < lower($6) || chr(1114111)))
             and ($7::text is null or document ->> 'type' = $7)"
        }
        _ => "and $5::text is null and $6::text is null and $7::text is null",
    };
    let sql = format!(
        "select id, version, document::text as document from {}
         where tenant_id = $1 and ($2::uuid is null or id {beyond} $2) and ($3::text is null or code = $3)
           and ($4::text is null or status = $4) {items_only}
         order by id {order} limit $8",
        kind.collection()
    );
    let query = sqlx::query(&sql)
        .bind(tenant.0)
        .bind(after)
        .bind(filter.code.as_deref())
        .bind(filter.status.as_deref())
        .bind(filter.barcode.as_deref())
        .bind(filter.name_prefix.as_deref())
        .bind(filter.item_type.as_deref())
        .bind(limit.saturating_add(1));
    page::read(connection.pooled(), query, limit, document).await
}

/// How many bytes each of a tenant's documents has, of those that are there.
pub async fn document_lengths(
    connection: &mut PgConnection,
    kind: EntityKind,
    tenant: TenantId,
    ids: &[Uuid],
) -> Result<Vec<(Uuid, usize)>, sqlx::Error> {
    // The table's name comes from the code, never from a client.
    let sql = format!(
        "select id, octet_length(document::text) as length from {} where tenant_id = $1 and id = any($2)",
        kind.collection()
    );
    let rows = sqlx::query(&sql).bind(tenant.0).bind(ids).fetch_all(connection).await?;
    let length =
        |row: &PgRow| row.try_get::<i32, _>("length").map(|length| usize::try_from(length).unwrap_or_default());
    rows.iter().map(|row| Ok((row.try_get("id")?, length(row)?))).collect()
}
