//! Large answers, handed over as the client takes them, and let go where it does not: a client that reads slowly holds its
//! connection, not our memory.

use crate::room::{Room, SMALL_BYTES, count_unread};
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::rt;
use actix_web::web::Bytes;
use futures::ready;
use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;

/// How long a client may take for nothing of an answer: half a minute of what a telephone makes of a tunnel is not worth our memory.
const TAKE_WITHIN: Duration = Duration::from_secs(20);
/// How long a client may take to read an answer, or a part of one that is made in parts. The largest is some 8 MB, which takes as long at
/// half a megabit a second.
const READ_WITHIN: Duration = Duration::from_secs(120);
/// How much is handed over at a time: what the connection itself holds.
const PART_BYTES: usize = SMALL_BYTES;

/// A large answer, or one that is made while it is read.
pub(crate) struct Held {
    /// None once it is let go.
    rest: Rc<RefCell<Option<Rest>>>,
    size: BodySize,
    deadline: rt::task::JoinHandle<()>,
}

/// What is left of an answer.
struct Rest {
    left: Bytes,
    /// What makes more of it, once the client has taken what is left.
    source: Option<BoxBody>,
    room: Option<Room>,
    /// When what is left was made.
    made: Instant,
    /// When the client was last given something. None while it is we who let it wait.
    given: Option<Instant>,
}

/// The body, held for a time where it is large or made in parts.
pub(crate) fn held(body: BoxBody, room: Option<Room>) -> BoxBody {
    let size = body.size();
    match body.try_into_bytes() {
        Ok(bytes) if bytes.len() > PART_BYTES => BoxBody::new(Held::new(bytes, None, size, room)),
        Ok(bytes) => BoxBody::new(bytes),
        Err(streamed) => BoxBody::new(Held::new(Bytes::new(), Some(streamed), size, room)),
    }
}

impl Rest {
    fn deadline(&self) -> Option<Instant> {
        self.given.map(|given| (given + TAKE_WITHIN).min(self.made + READ_WITHIN))
    }

    /// The next part. The room of what was handed over before is free: the client has taken it.
    fn part(&mut self) -> Bytes {
        if let Some(room) = self.room.as_mut().filter(|_| self.source.is_none()) {
            room.shrink(self.left.len());
        }
        self.given = Some(Instant::now());
        self.left.split_to(self.left.len().min(PART_BYTES))
    }
}

impl Held {
    fn new(left: Bytes, source: Option<BoxBody>, size: BodySize, room: Option<Room>) -> Self {
        let now = Instant::now();
        let rest = Rc::new(RefCell::new(Some(Rest { left, source, room, made: now, given: Some(now) })));
        let deadline = rt::spawn(let_go(Rc::clone(&rest)));
        Self { rest, size, deadline }
    }
}

/// Lets an answer go that the client does not take in time.
async fn let_go(rest: Rc<RefCell<Option<Rest>>>) {
    loop {
        let Some(deadline) = rest.borrow().as_ref().map(Rest::deadline) else { return };
        match deadline {
            Some(deadline) if deadline <= Instant::now() => break,
            Some(deadline) => rt::time::sleep_until(deadline).await,
            None => rt::time::sleep(TAKE_WITHIN).await,
        }
    }
    rest.take();
    count_unread();
}

impl Drop for Held {
    fn drop(&mut self) {
        self.deadline.abort();
        // The task has it in its hand until it is dropped itself.
        self.rest.take();
    }
}

impl MessageBody for Held {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        self.size
    }

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let mut rest = self.rest.borrow_mut();
        let Some(rest) = rest.as_mut() else {
            // An error closes the connection: the client sees that the answer is not whole.
            let late = io::Error::new(io::ErrorKind::TimedOut, "the client reads too slowly");
            return Poll::Ready(Some(Err(late.into())));
        };
        while let Some(source) = rest.source.as_mut().filter(|_| rest.left.is_empty()) {
            rest.given = None;
            match ready!(Pin::new(source).poll_next(context)) {
                Some(Ok(made)) => (rest.left, rest.made) = (made, Instant::now()),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => rest.source = None,
            }
        }
        let part = rest.part();
        Poll::Ready((!part.is_empty()).then_some(Ok(part)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::body::BodyStream;
    use futures::future::poll_fn;
    use futures::stream;

    type Part = Option<Result<Bytes, Box<dyn std::error::Error>>>;

    async fn next(body: &mut Pin<Box<Held>>) -> Part {
        poll_fn(|context| body.as_mut().poll_next(context)).await
    }

    fn whole(bytes: &Bytes) -> Pin<Box<Held>> {
        Box::pin(Held::new(bytes.clone(), None, BodySize::Sized(bytes.len() as u64), None))
    }

    fn is_late(part: Part) -> bool {
        part.unwrap().unwrap_err().downcast_ref::<io::Error>().unwrap().kind() == io::ErrorKind::TimedOut
    }

    fn is_let_go(body: &Pin<Box<Held>>) -> bool {
        body.rest.borrow().is_none()
    }

    #[actix_web::test]
    async fn a_large_answer_comes_whole_and_is_let_go_where_nobody_takes_it() {
        tokio::time::pause();
        let bytes = Bytes::from(vec![7; 5 * PART_BYTES + 1]);
        let mut read = Vec::new();
        let mut body = whole(&bytes);
        while let Some(part) = next(&mut body).await {
            read.extend_from_slice(&part.unwrap());
        }
        assert_eq!((read, body.size()), (bytes.to_vec(), BodySize::Sized(bytes.len() as u64)));
        let mut body = whole(&bytes);
        assert!(next(&mut body).await.unwrap().is_ok());
        tokio::time::sleep(TAKE_WITHIN + Duration::from_secs(1)).await;
        assert!(is_let_go(&body), "its memory is free");
        assert!(is_late(next(&mut body).await));
    }

    #[actix_web::test]
    async fn who_reads_on_slowly_has_longer_and_not_for_ever() {
        tokio::time::pause();
        let bytes = Bytes::from(vec![7; 100 * PART_BYTES]);
        let mut body = whole(&bytes);
        let begun = Instant::now();
        while next(&mut body).await.unwrap().is_ok() {
            tokio::time::sleep(TAKE_WITHIN - Duration::from_secs(1)).await;
        }
        assert!(begun.elapsed() >= READ_WITHIN && begun.elapsed() < READ_WITHIN + TAKE_WITHIN, "{:?}", begun.elapsed());
    }

    #[actix_web::test]
    async fn a_part_of_an_export_has_its_time_and_what_makes_the_next_one_too() {
        tokio::time::pause();
        let part = Bytes::from(vec![7; 2 * PART_BYTES]);
        let parts = stream::unfold(0, move |number| {
            let part = part.clone();
            async move {
                // The database takes its time; it is not the client that is slow.
                tokio::time::sleep(TAKE_WITHIN * 2).await;
                (number < 8).then_some((Ok::<_, io::Error>(part), number + 1))
            }
        });
        let new = |parts| {
            Box::pin(Held::new(Bytes::new(), Some(BoxBody::new(BodyStream::new(parts))), BodySize::Stream, None))
        };
        let mut body = new(Box::pin(parts));
        for _ in 0..12 {
            assert_eq!(next(&mut body).await.unwrap().unwrap().len(), PART_BYTES);
            tokio::time::sleep(TAKE_WITHIN / 2).await;
        }
        tokio::time::sleep(TAKE_WITHIN).await;
        assert!(is_let_go(&body), "with what would have made more of it");
        assert!(is_late(next(&mut body).await));
    }
}
