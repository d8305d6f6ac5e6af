//! The ledger's proofs: a signed head, the proof that a movement is under it, and a check of all of it on demand.

use crate::movements::{row, sequence};
use crate::reader::{Read, Reader};
use crate::signer::Signer;
use actix_web::{HttpRequest, HttpResponse};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use twh_domain::hex;
use twh_domain::movement::{MOVEMENT_CHAIN, genesis};
use twh_edge::access::{GetCheckpoint, GetLedgerKeys, GetMovementProof, GetVerification};
use twh_edge::error::{ApiError, ErrorCode};
use twh_edge::{cursor, query};
use twh_sinks::postgres::queries::{MovementFilter, list_movements};
use twh_sinks::postgres::tree::{self, TreeError, TreeHead, tree_head};
use twh_sinks::postgres::verification::Progress;

/// How long one request checks before it hands the rest to the next.
const VERIFICATION_BUDGET: Duration = Duration::from_secs(1);

fn tree_error(error: TreeError) -> ApiError {
    match error {
        TreeError::Database(error) => ApiError::database(error),
        error @ TreeError::NotWhole(_) => ApiError::internal(error),
    }
}

impl Read {
    fn signer(&self) -> Result<&Signer, ApiError> {
        self.signer
            .as_ref()
            .ok_or_else(|| ApiError::new(ErrorCode::CheckpointsNotSigned, "this server signs no checkpoints"))
    }

    /// The head with `size` movements, or the newest.
    async fn head(&self, size: Option<i64>) -> Result<TreeHead, ApiError> {
        let head = tree_head(&self.pool, self.tenant_id, size).await.map_err(tree_error)?;
        head.ok_or_else(|| query::invalid("size", "must be a number of movements that your ledger has or had"))
    }

    /// The checkpoint of a head: a C2SP tlog-checkpoint with the chain's hash as an extension line.
    fn checkpoint(&self, head: &TreeHead) -> Result<String, ApiError> {
        let root = BASE64_STANDARD.encode(head.root);
        let text = format!(
            "{}/ledgers/{}\n{}\n{root}\nchain {}\n",
            self.signer()?.name(),
            self.tenant_id,
            head.size,
            hex::encode(&head.chain_hash)
        );
        Ok(self.signer()?.note(&text))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SizeQuery {
    size: Option<i64>,
}

pub(crate) async fn checkpoint(reader: Reader<GetCheckpoint>, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let asked: SizeQuery = query::parse(&request)?;
    reader.signer()?;
    let head = reader.head(asked.size).await?;
    let mut body = head_body(&head);
    insert(&mut body, "checkpoint", json!(reader.checkpoint(&head)?));
    Ok(HttpResponse::Ok().json(body))
}

fn head_body(head: &TreeHead) -> Value {
    json!({
        "size": head.size,
        "root_hash": hex::encode(&head.root),
        "chain_hash": hex::encode(&head.chain_hash),
        "recorded_at": head.recorded_at,
    })
}

fn insert(body: &mut Value, key: &str, value: Value) {
    if let Some(body) = body.as_object_mut() {
        body.insert(key.to_owned(), value);
    }
}

pub(crate) async fn keys(reader: Reader<GetLedgerKeys>) -> Result<HttpResponse, ApiError> {
    let keys: Vec<_> = reader
        .signer
        .iter()
        .map(|signer| json!({ "name": signer.name(), "algorithm": "Ed25519", "public_key": signer.public_key() }))
        .collect();
    Ok(HttpResponse::Ok().json(json!({ "keys": keys })))
}

pub(crate) async fn proof(reader: Reader<GetMovementProof>, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let missing = || ApiError::not_found("movement");
    let sequence = sequence(&request).ok_or_else(missing)?;
    let asked: SizeQuery = query::parse(&request)?;
    let filter = MovementFilter { sequence: Some(sequence), ..MovementFilter::default() };
    let rows = list_movements(&reader.pool, reader.tenant_id, &filter, None, 1).await.map_err(ApiError::database)?;
    let movement = rows.first().ok_or_else(missing)?;
    if asked.size.is_some_and(|size| size < sequence) {
        return Err(query::invalid("size", "is smaller than the movement's id: that ledger did not hold it yet"));
    }
    let head = reader.head(asked.size).await?;
    let hashes = tree::proof(&reader.pool, reader.tenant_id, sequence, head.size).await.map_err(tree_error)?;
    let mut body = head_body(&head);
    insert(&mut body, "movement", row(movement));
    insert(&mut body, "previous_hash", json!(previous_hash(&reader, sequence).await?));
    insert(&mut body, "leaf_index", json!(sequence - 1));
    insert(&mut body, "hashes", hashes.iter().map(|hash| hex::encode(hash)).collect());
    if reader.signer.is_some() {
        insert(&mut body, "checkpoint", json!(reader.checkpoint(&head)?));
    }
    Ok(HttpResponse::Ok().json(body))
}

/// The hash that a movement's own covers beside its content.
async fn previous_hash(reader: &Read, sequence: i64) -> Result<String, ApiError> {
    if sequence == 1 {
        return Ok(hex::encode(&genesis(MOVEMENT_CHAIN, reader.tenant_id)));
    }
    let filter = MovementFilter { sequence: Some(sequence - 1), ..MovementFilter::default() };
    let rows = list_movements(&reader.pool, reader.tenant_id, &filter, None, 1).await.map_err(ApiError::database)?;
    rows.first()
        .map(|before| hex::encode(&before.hash))
        .ok_or_else(|| ApiError::internal(format!("movement {} is missing", sequence - 1)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VerificationQuery {
    cursor: Option<String>,
}

/// Checks for about a second, and says where to go on.
pub(crate) async fn verification(
    reader: Reader<GetVerification>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let asked: VerificationQuery = query::parse(&request)?;
    let mut progress = match asked.cursor.as_deref().map(cursor::decode::<Progress>).transpose()? {
        Some(progress) if progress.tenant() != reader.tenant_id || !progress.is_plausible() => {
            return Err(query::invalid("cursor", "is not one that this ledger's verification gave"));
        }
        Some(progress) => progress,
        None => Progress::new(reader.tenant_id),
    };
    let begun = Instant::now();
    while !progress.is_done() && begun.elapsed() < VERIFICATION_BUDGET {
        progress.step(&reader.pool, None).await.map_err(ApiError::database)?;
    }
    let status = match (progress.is_done(), progress.findings().is_empty()) {
        (_, false) => "unsound",
        (true, true) => "sound",
        (false, true) => "verifying",
    };
    let next = if progress.is_done() { None } else { Some(cursor::encode(&progress)) };
    Ok(HttpResponse::Ok().json(json!({
        "status": status,
        "checked": progress.counts(),
        "findings": progress.findings(),
        "next_cursor": next,
    })))
}
