//! Room for large answers: what they may take of the process's memory at once, while they are made and until the client has taken
//! them. A tenant has a share of its own, so that what one does not read never keeps the others from being answered.
//!
//! A request whose answer may be large has a place in its tenant's share before anything is read for it; once the answer is known, the
//! place is as large as the answer. Small answers take no room, and what is not read from the database for a caller (such as the
//! reference) neither.

use crate::access::AnswerSize;
use crate::error::{ApiError, ErrorCode};
use crate::request::CallerTenant;
use crate::shares::{Share, Shares, units};
use actix_web::body::BodySize;
use actix_web::{HttpMessage as _, HttpRequest};
use std::future::Future;
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use twh_domain::id::TenantId;

/// An answer up to here is small: a connection holds as much by itself.
pub(crate) const SMALL_BYTES: usize = 64 * 1024;
/// What the large answers of a tenant may take at once, in a process.
const TENANT_BYTES_MAX: usize = 32 * 1024 * 1024;
/// What the large answers of a process may take at once, from when they are known.
const PROCESS_BYTES_MAX: usize = 256 * 1024 * 1024;
/// How long a request waits for those of its tenant that are answered.
const PATIENCE: Duration = Duration::from_secs(2);
/// What does not read is let go within this many seconds, mostly.
const RETRY_SECONDS: u32 = 5;

twh_sinks::metrics! {
    WITHOUT: IntCounterVec = "twh_large_answers_dropped_total", "Large answers that had no room (tenant: in its share, process: at all), or were let go because the client did not read (unread).", labels ["reason"];
}

/// Counts a large answer that the client did not read.
pub(crate) fn count_unread() {
    WITHOUT.with_label_values(&["unread"]).inc();
}

static ROOMS: LazyLock<Rooms> = LazyLock::new(|| Rooms::new(TENANT_BYTES_MAX, PROCESS_BYTES_MAX));

struct Rooms {
    tenants: Arc<Shares>,
    process: Arc<Semaphore>,
}

/// Room that an answer has; given back when dropped.
#[derive(Debug)]
pub(crate) struct Room {
    share: Share,
    /// From when it is known how large the answer is.
    process: Option<OwnedSemaphorePermit>,
}

impl Room {
    /// Gives back what is more than so much.
    pub(crate) fn shrink(&mut self, bytes: usize) {
        self.share.resize(bytes);
        if let Some(process) = &mut self.process {
            let surplus = process.num_permits().saturating_sub(usize::try_from(units(bytes)).unwrap_or(usize::MAX));
            drop(process.split(surplus));
        }
    }
}

impl Rooms {
    fn new(tenant_bytes: usize, process_bytes: usize) -> Self {
        let process = usize::try_from(units(process_bytes)).unwrap_or(Semaphore::MAX_PERMITS);
        Self { tenants: Shares::new(tenant_bytes), process: Arc::new(Semaphore::new(process)) }
    }

    /// A place for an answer that is not known yet. It is the tenant's own that keeps it waiting.
    async fn place(&self, tenant: TenantId, bytes: usize) -> Result<Room, ApiError> {
        let bytes = bytes.min(self.tenants.whole());
        let share = self.tenants.take(tenant, bytes, PATIENCE).await.ok_or_else(no_share)?;
        Ok(Room { share, process: None })
    }

    /// Room for an answer that is known, in its place where it has one.
    fn fit(&self, place: Option<Room>, tenant: TenantId, bytes: usize) -> Result<Room, ApiError> {
        let bytes = bytes.min(self.tenants.whole());
        let mut share = match place {
            Some(Room { share, .. }) => share,
            None => self.tenants.try_take(tenant, 0).ok_or_else(no_share)?,
        };
        if !share.resize(bytes) {
            return Err(no_share());
        }
        let process = Arc::clone(&self.process).try_acquire_many_owned(units(bytes)).map_err(|_| no_room())?;
        Ok(Room { share, process: Some(process) })
    }
}

fn no_share() -> ApiError {
    WITHOUT.with_label_values(&["tenant"]).inc();
    let message =
        "the tenant's answers that are made or read now are as large as they may be at once; read those first";
    ApiError::new(ErrorCode::RateLimited, message).retry_after(RETRY_SECONDS)
}

fn no_room() -> ApiError {
    WITHOUT.with_label_values(&["process"]).inc();
    let message = "the answers that are read now are as large as they may be at once; ask for a smaller page, or later";
    ApiError::new(ErrorCode::Overloaded, message).retry_after(RETRY_SECONDS)
}

/// Has a place kept for the answer to a request of a tenant.
///
/// # Errors
/// [`ErrorCode::RateLimited`] where its tenant's others leave none in time.
pub async fn make_room(request: &HttpRequest, tenant: TenantId, size: AnswerSize) -> Result<(), ApiError> {
    let bytes = size.bytes();
    if bytes > SMALL_BYTES {
        let room = ROOMS.place(tenant, bytes).await?;
        request.extensions_mut().insert((size, room));
    }
    Ok(())
}

/// Waits for something that may take long, without the place that is kept for the answer: that is for those who read.
///
/// # Errors
/// As [`make_room`], which it does again.
pub async fn resting<F: Future>(request: &HttpRequest, awaited: F) -> Result<F::Output, ApiError> {
    let Some((size, room)) = request.extensions_mut().remove::<(AnswerSize, Room)>() else { return Ok(awaited.await) };
    let tenant = room.share.key();
    drop(room);
    let output = awaited.await;
    make_room(request, tenant, size).await?;
    Ok(output)
}

/// Whether there is room for an answer of so many bytes to what is done already; it is kept for it. Where there is none, the answer
/// has to be shorter.
#[must_use]
pub fn has_room(request: &HttpRequest, tenant: TenantId, bytes: usize) -> bool {
    if bytes <= SMALL_BYTES {
        return true;
    }
    let found = ROOMS.fit(None, tenant, bytes);
    found.map(|room| request.extensions_mut().insert((AnswerSize::Page, room))).is_ok()
}

/// The room of an answer that is known: as much as it takes. What is small has none, nor what is for nobody.
pub(crate) fn settle(request: &HttpRequest, size: BodySize) -> Result<Option<Room>, ApiError> {
    let place = request.extensions_mut().remove::<(AnswerSize, Room)>().map(|(_, room)| room);
    let tenant = request.extensions().get::<CallerTenant>().map(|caller| caller.0);
    let bytes = match size {
        BodySize::None => 0,
        BodySize::Sized(bytes) => usize::try_from(bytes).unwrap_or(usize::MAX),
        // It is made in parts.
        BodySize::Stream => AnswerSize::Page.bytes(),
    };
    let Some(tenant) = tenant.filter(|_| bytes > SMALL_BYTES) else { return Ok(None) };
    match ROOMS.fit(place, tenant, bytes) {
        Ok(room) => Ok(Some(room)),
        Err(refused) if request.method().is_safe() => Err(refused),
        // What is done cannot be refused. It is what is left of a shortened answer.
        Err(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn tenant(number: u128) -> TenantId {
        TenantId(Uuid::from_u128(number))
    }

    fn code<T>(result: Result<T, ApiError>) -> Option<ErrorCode> {
        result.err().map(|error| error.code())
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_waits_for_itself_and_nobody_else_does() {
        let rooms = Rooms::new(8 << 20, 64 << 20);
        let first = rooms.place(tenant(1), 4 << 20).await.unwrap();
        let second = rooms.place(tenant(1), 4 << 20).await.unwrap();
        let refused = rooms.place(tenant(1), 4 << 20).await.unwrap_err();
        assert_eq!(refused.code(), ErrorCode::RateLimited);
        assert_eq!(refused.response("").headers().get("retry-after").unwrap(), "5");
        rooms.place(tenant(2), 4 << 20).await.unwrap();
        // What turns out smaller leaves the rest, and what is taken of it leaves more.
        let mut known = rooms.fit(Some(first), tenant(1), 1 << 20).unwrap();
        assert_eq!(rooms.tenants.in_use(tenant(1)), 5 << 20);
        known.shrink(512 << 10);
        assert_eq!(rooms.process.available_permits(), 65_536 - 512);
        let grown = rooms.fit(Some(second), tenant(1), 7 << 20).unwrap();
        drop((known, grown));
        assert!(rooms.tenants.is_unused() && rooms.process.available_permits() == 65_536);
    }

    #[tokio::test]
    async fn all_tenants_together_take_no_more_than_the_process_has() {
        let rooms = Rooms::new(8 << 20, 16 << 20);
        let held: Vec<_> = (0..2).map(|number| rooms.fit(None, tenant(number), 8 << 20).unwrap()).collect();
        let place = rooms.place(tenant(9), 4 << 20).await.unwrap();
        assert_eq!(code(rooms.fit(Some(place), tenant(9), 1 << 20)), Some(ErrorCode::Overloaded));
        assert!(rooms.tenants.in_use(tenant(9)) == 0, "what is refused gives its place back");
        assert_eq!(code(rooms.fit(None, tenant(0), 1 << 20)), Some(ErrorCode::RateLimited), "its own comes first");
        drop(held);
        rooms.fit(None, tenant(9), 1 << 20).unwrap();
    }

    #[actix_web::test]
    async fn a_request_that_waits_for_something_keeps_no_place_from_those_who_read() {
        let request = actix_web::test::TestRequest::get().to_http_request();
        make_room(&request, tenant(1), AnswerSize::Page).await.unwrap();
        let in_use = || ROOMS.tenants.in_use(tenant(1));
        assert_eq!(in_use(), AnswerSize::Page.bytes());
        assert_eq!(resting(&request, async { in_use() }).await.unwrap(), 0);
        assert_eq!(in_use(), AnswerSize::Page.bytes());
        request.extensions_mut().insert(CallerTenant(tenant(1)));
        let room = settle(&request, BodySize::Sized(100 * 1024)).unwrap().unwrap();
        assert_eq!(in_use(), 100 * 1024);
        drop(room);
        assert!(settle(&request, BodySize::Sized(1)).unwrap().is_none() && in_use() == 0, "small answers take none");
    }

    #[actix_web::test]
    async fn what_is_done_is_answered_at_length_only_where_there_is_room() {
        let request = actix_web::test::TestRequest::post().to_http_request();
        request.extensions_mut().insert(CallerTenant(tenant(2)));
        let full = ROOMS.fit(None, tenant(2), TENANT_BYTES_MAX).unwrap();
        assert!(has_room(&request, tenant(2), SMALL_BYTES) && !has_room(&request, tenant(2), SMALL_BYTES + 1));
        assert!(settle(&request, BodySize::Sized(1 << 20)).unwrap().is_none(), "and is not refused");
        drop(full);
        assert!(has_room(&request, tenant(2), 1 << 20));
        let _room = settle(&request, BodySize::Sized(2 << 20)).unwrap().unwrap();
        assert_eq!(ROOMS.tenants.in_use(tenant(2)), 2 << 20);
    }
}
