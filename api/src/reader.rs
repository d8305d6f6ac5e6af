//! Who reads, and how fresh: every handler of the read side takes a [`Reader`], which has authenticated the caller and waited
//! for the position that the caller asks for.

use crate::engine::Engine;
use crate::signer::Signer;
use actix_web::{FromRequest, HttpMessage as _, HttpRequest, dev, web};
use futures::future::LocalBoxFuture;
use serde_json::json;
use std::marker::PhantomData;
use std::ops::Deref;
use std::time::{Duration, Instant};
use twh_domain::id::TenantId;
use twh_domain::outcome::Position;
use twh_edge::access::{Guarded, Scopes};
use twh_edge::auth::Caller;
use twh_edge::error::{ApiError, ErrorCode};
use twh_edge::openapi::{Describe, Operation};
use twh_edge::request::Reflected;
use twh_edge::room::resting;
use twh_edge::routes::Guard;
use twh_schemas::partition::partition_of;
use twh_sinks::postgres::standing::applied_through;
use twh_sinks::postgres::tenant::{TenantConnection, TenantPool};
use twh_sinks::secrets::Secrets;

const AT_LEAST: &str = "x-twh-at-least";
/// Pauses between looks at how far the ledger is: doubling from the first to the last.
pub(crate) const PAUSE_FIRST: Duration = Duration::from_millis(2);
pub(crate) const PAUSE_MAX: Duration = Duration::from_millis(50);

/// What the read side works with.
#[derive(Debug, Clone)]
pub struct Reads {
    /// Where the ledger is.
    pub pool: TenantPool,
    /// How long a read waits for the position that it asks for.
    pub wait: Duration,
    /// What signs checkpoints, where there is a key.
    pub signer: Option<Signer>,
    /// What searches, where there is a search engine.
    pub engine: Option<Engine>,
    /// What signs cursors that say more than a place.
    pub secrets: Secrets,
    /// How many partitions the log of commands has.
    pub partitions: i32,
}

/// Who may read, of a ledger that is as far as it asks for.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) tenant_id: TenantId,
    /// What the caller may see.
    pub(crate) scopes: Scopes,
    pool: TenantPool,
    pub(crate) signer: Option<Signer>,
    pub(crate) engine: Option<Engine>,
    pub(crate) secrets: Secrets,
    partitions: i32,
    /// The position that was asked for, which the ledger has reached.
    pub(crate) at_least: Option<Position>,
    pub(crate) wait: Duration,
    reflected: Reflected,
}

/// The one who calls an endpoint of the read side, and may.
#[derive(Debug)]
pub(crate) struct Reader<E> {
    read: Read,
    endpoint: PhantomData<E>,
}

impl<E> Deref for Reader<E> {
    type Target = Read;

    fn deref(&self) -> &Read {
        &self.read
    }
}

impl<E> Reader<E> {
    /// What it reads with, for what goes on after the answer has begun.
    pub(crate) fn into_read(self) -> Read {
        self.read
    }
}

impl<E: Guarded> Guard for Reader<E> {
    type Endpoint = E;
}

impl<E: Guarded> Describe for Reader<E> {
    fn describe(operation: &mut Operation<'_>) {
        operation.is_guarded();
        let position = json!({ "type": "string", "pattern": "^[0-9]+-[0-9]+$", "examples": ["3-1042"] });
        operation.takes_header(
            "X-TWH-At-Least",
            false,
            &position,
            "The X-TWH-Position of a write that the answer must reflect; it is waited for.",
        );
        operation.refuses(&[ErrorCode::InvalidPosition, ErrorCode::PositionNotReached]);
        operation.says_what_it_reflects();
    }
}

impl<E: Guarded> FromRequest for Reader<E> {
    type Error = ApiError;
    type Future = LocalBoxFuture<'static, Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, payload: &mut dev::Payload) -> Self::Future {
        let caller = Caller::<E>::from_request(request, payload);
        let reads = request.app_data::<web::Data<Reads>>().cloned();
        let at_least = at_least(request);
        let reflected = Reflected::default();
        request.extensions_mut().insert(reflected.clone());
        let request = request.clone();
        Box::pin(async move {
            let identity = caller.await?.identity();
            let (tenant_id, scopes) = (identity.tenant_id, identity.scopes);
            let reads = reads.ok_or_else(|| ApiError::internal("the read side is not set up"))?;
            let at_least = at_least?;
            let read = Read {
                tenant_id,
                scopes,
                pool: reads.pool.clone(),
                signer: reads.signer.clone(),
                engine: reads.engine.clone(),
                secrets: reads.secrets.clone(),
                partitions: reads.partitions,
                at_least,
                wait: reads.wait,
                reflected,
            };
            if let Some(position) = at_least {
                if !read.owns(position) {
                    let message = "X-TWH-At-Least is a position of a partition where you have no commands";
                    return Err(ApiError::new(ErrorCode::InvalidPosition, message));
                }
                resting(&request, read.reach(position)).await??;
            }
            Ok(Self { read, endpoint: PhantomData })
        })
    }
}

fn at_least(request: &HttpRequest) -> Result<Option<Position>, ApiError> {
    let Some(value) = request.headers().get(AT_LEAST) else { return Ok(None) };
    value.to_str().ok().and_then(|text| text.parse().ok()).map(Some).ok_or_else(|| {
        ApiError::new(
            ErrorCode::InvalidPosition,
            "X-TWH-At-Least is a position as X-TWH-Position gives it, such as 3-1042",
        )
    })
}

impl Read {
    /// What there is of the tenant.
    pub(crate) async fn ledger(&self) -> Result<TenantConnection, ApiError> {
        let connection = self.connection().await?;
        if let Some(position) = connection.reflects() {
            self.reflected.through(position);
        }
        Ok(connection)
    }

    async fn connection(&self) -> Result<TenantConnection, ApiError> {
        self.pool.of(self.tenant_id).await.map_err(ApiError::database)
    }

    /// Whether a position is of the partition that the tenant's commands are on.
    pub(crate) fn owns(&self, position: Position) -> bool {
        partition_of(self.tenant_id.to_string().as_bytes(), self.partitions) == position.partition
    }

    /// Whether the ledger has applied the command at a position that the tenant [owns](Self::owns).
    pub(crate) async fn has_applied(&self, position: Position) -> Result<bool, ApiError> {
        let applied = applied_through(&mut *self.connection().await?, position.partition).await;
        Ok(applied.map_err(ApiError::database)?.is_some_and(|next| next > position.offset))
    }

    /// Waits for that.
    pub(crate) async fn reach(&self, position: Position) -> Result<(), ApiError> {
        let deadline = Instant::now() + self.wait;
        let mut pause = PAUSE_FIRST;
        loop {
            if self.has_applied(position).await? {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let message = format!("the ledger has not applied {position} yet");
                return Err(ApiError::new(ErrorCode::PositionNotReached, message).retry_after(1));
            }
            actix_web::rt::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}
