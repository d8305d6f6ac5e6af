//! The ledger's proofs: a signed head, the proof that a movement is under it, and a check of all of it on demand.

use crate::movements::{Movement, row, sequence};
use crate::reader::{Read, Reader};
use crate::signer::Signer;
use actix_web::HttpRequest;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};
use twh_domain::hex;
use twh_domain::movement::{MOVEMENT_CHAIN, genesis};
use twh_domain::timestamp::Timestamp;
use twh_edge::access::{GetAuditCheckpoint, GetCheckpoint, GetLedgerKeys, GetMovementProof, GetVerification};
use twh_edge::answer::Answer;
use twh_edge::cursor;
use twh_edge::error::{ApiError, ErrorCode};
use twh_edge::query::{self, Query};
use twh_sinks::postgres::audit::control_head;
use twh_sinks::postgres::movements::find_movement;
use twh_sinks::postgres::tree::{self, TreeError, TreeHead, tree_head};
use twh_sinks::postgres::verification::{Counts, Finding, KnownHeads, Progress};

/// How long one request checks before it hands the rest to the next.
const VERIFICATION_BUDGET: Duration = Duration::from_secs(1);

/// What its cursors are signed for.
const VERIFICATION: &str = "verification";

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
        let head = tree_head(&mut *self.ledger().await?, self.tenant_id, size).await.map_err(tree_error)?;
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

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SizeQuery {
    /// How many movements the ledger had; the newest head by default.
    #[schemars(range(min = 0))]
    size: Option<i64>,
}

/// The head of a ledger's Merkle tree (RFC 6962).
#[derive(Serialize, JsonSchema)]
struct Head {
    /// How many movements are under it.
    size: i64,
    /// The tree's root, in hexadecimal.
    root_hash: String,
    /// The hash of the last movement under it, in hexadecimal.
    chain_hash: String,
    /// When the last movement under it was recorded.
    recorded_at: Option<Timestamp>,
}

impl From<&TreeHead> for Head {
    fn from(head: &TreeHead) -> Self {
        Self {
            size: head.size,
            root_hash: hex::encode(&head.root),
            chain_hash: hex::encode(&head.chain_hash),
            recorded_at: head.recorded_at,
        }
    }
}

/// A head of the ledger, signed.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Checkpoint {
    #[serde(flatten)]
    head: Head,
    /// A C2SP signed note: origin, size, root, chain hash, signature.
    checkpoint: String,
}

/// The public keys that checkpoints are signed with.
#[derive(Serialize, JsonSchema)]
pub(crate) struct LedgerKeys {
    keys: Vec<LedgerKey>,
}

/// A public key.
#[derive(Serialize, JsonSchema)]
struct LedgerKey {
    name: String,
    algorithm: &'static str,
    /// As C2SP signed notes name it.
    public_key: String,
}

/// The proof that a movement is in the ledger.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Proof {
    #[serde(flatten)]
    head: Head,
    movement: Movement,
    /// The hash that the movement's own covers beside its content.
    previous_hash: String,
    leaf_index: i64,
    /// The path from the leaf to the root.
    hashes: Vec<String>,
    /// The head, signed; only where the server has a key.
    #[serde(skip_serializing_if = "Option::is_none")]
    checkpoint: Option<String>,
}

pub(crate) async fn checkpoint(
    reader: Reader<GetCheckpoint>,
    query: Query<SizeQuery>,
) -> Result<Answer<Checkpoint>, ApiError> {
    let asked = query.read()?;
    reader.signer()?;
    let head = reader.head(asked.size).await?;
    Ok(Answer::of(&Checkpoint { head: Head::from(&head), checkpoint: reader.checkpoint(&head)? }))
}

/// The end of the account of everything that is not the ledger's, signed.
#[derive(Serialize, JsonSchema)]
pub(crate) struct ControlCheckpoint {
    /// How many control records there are.
    records: i64,
    /// The hash of the last of them, in hexadecimal.
    chain_hash: String,
    /// A C2SP signed note: whose account, how many records, chain hash, signature.
    checkpoint: String,
}

pub(crate) async fn control_checkpoint(
    reader: Reader<GetAuditCheckpoint>,
) -> Result<Answer<ControlCheckpoint>, ApiError> {
    let signer = reader.signer()?;
    let head = control_head(&mut *reader.ledger().await?, reader.tenant_id).await;
    let (records, hash) = head.map_err(ApiError::database)?;
    let chain_hash = hex::encode(&hash);
    let text = format!("{}/accounts/{}\n{records}\nchain {chain_hash}\n", signer.name(), reader.tenant_id);
    Ok(Answer::of(&ControlCheckpoint { records, checkpoint: signer.note(&text), chain_hash }))
}

pub(crate) async fn keys(reader: Reader<GetLedgerKeys>) -> Result<Answer<LedgerKeys>, ApiError> {
    let keys = reader
        .signer
        .iter()
        .map(|signer| LedgerKey {
            name: signer.name().to_owned(),
            algorithm: "Ed25519",
            public_key: signer.public_key().to_owned(),
        })
        .collect();
    Ok(Answer::of(&LedgerKeys { keys }))
}

pub(crate) async fn proof(
    reader: Reader<GetMovementProof>,
    request: HttpRequest,
    query: Query<SizeQuery>,
) -> Result<Answer<Proof>, ApiError> {
    let missing = || ApiError::not_found("movement");
    let sequence = sequence(&request).ok_or_else(missing)?;
    let asked = query.read()?;
    let found = find_movement(&mut *reader.ledger().await?, reader.tenant_id, sequence).await;
    let movement = found.map_err(ApiError::database)?.ok_or_else(missing)?;
    if asked.size.is_some_and(|size| size < sequence) {
        return Err(query::invalid("size", "is smaller than the movement's id: that ledger did not hold it yet"));
    }
    let head = reader.head(asked.size).await?;
    let hashes =
        tree::proof(&mut *reader.ledger().await?, reader.tenant_id, sequence, head.size).await.map_err(tree_error)?;
    Ok(Answer::of(&Proof {
        head: Head::from(&head),
        movement: row(&movement),
        previous_hash: previous_hash(&reader, sequence).await?,
        leaf_index: sequence - 1,
        hashes: hashes.iter().map(|hash| hex::encode(hash)).collect(),
        checkpoint: reader.signer.is_some().then(|| reader.checkpoint(&head)).transpose()?,
    }))
}

/// The hash that a movement's own covers beside its content.
async fn previous_hash(reader: &Read, sequence: i64) -> Result<String, ApiError> {
    if sequence == 1 {
        return Ok(hex::encode(&genesis(MOVEMENT_CHAIN, reader.tenant_id)));
    }
    let found = find_movement(&mut *reader.ledger().await?, reader.tenant_id, sequence - 1).await;
    found
        .map_err(ApiError::database)?
        .map(|before| hex::encode(&before.hash))
        .ok_or_else(|| ApiError::internal(format!("movement {} is missing", sequence - 1)))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct VerificationQuery {
    /// The `next_cursor` of the answer before.
    cursor: Option<String>,
}

/// What a verification has come to so far.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Verification {
    /// `verifying` until all is checked; `unsound` as soon as something is wrong.
    #[schemars(extend("enum" = ["verifying", "sound", "unsound"]))]
    status: &'static str,
    checked: Counts,
    findings: Vec<Finding>,
    /// Send it as `cursor` to go on; `null` where all is checked.
    next_cursor: Option<String>,
}

/// Checks for about a second, and says where to go on.
pub(crate) async fn verification(
    reader: Reader<GetVerification>,
    query: Query<VerificationQuery>,
) -> Result<Answer<Verification>, ApiError> {
    let asked = query.read()?;
    let (secrets, tenant) = (&reader.secrets, reader.tenant_id);
    let mut progress = match asked.cursor.as_deref() {
        Some(cursor) => cursor::verify(secrets, VERIFICATION, tenant, cursor)?,
        None => Progress::new(tenant),
    };
    let begun = Instant::now();
    while !progress.is_done() && begun.elapsed() < VERIFICATION_BUDGET {
        progress.step(&mut *reader.ledger().await?, &KnownHeads::default()).await.map_err(ApiError::database)?;
    }
    let status = match (progress.is_done(), progress.findings().is_empty()) {
        (_, false) => "unsound",
        (true, true) => "sound",
        (false, true) => "verifying",
    };
    let next_cursor =
        (!progress.is_done()).then(|| cursor::sign(secrets, VERIFICATION, tenant, &progress)).transpose()?;
    Ok(Answer::of(&Verification {
        status,
        checked: *progress.counts(),
        findings: progress.findings().to_vec(),
        next_cursor,
    }))
}
