//! Large answers, handed over as the client reads them, and let go where it does not: a client that reads slowly holds its
//! connection, not our memory.

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::rt;
use actix_web::web::Bytes;
use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

/// How long a client may take to read an answer. The largest is some 8 MB, which takes as long at half a megabit a second.
const READ_WITHIN: Duration = Duration::from_secs(120);
/// How much is handed over at a time: what the connection itself holds.
const PART_BYTES: usize = 64 * 1024;

/// What is left of a large answer.
pub(crate) struct Held {
    left: Rc<Cell<Option<Bytes>>>,
    size: u64,
    deadline: rt::task::JoinHandle<()>,
}

/// The body, held for a time where it is large.
pub(crate) fn held(body: BoxBody) -> BoxBody {
    match body.try_into_bytes() {
        Ok(bytes) if bytes.len() > PART_BYTES => BoxBody::new(Held::new(bytes)),
        Ok(bytes) => BoxBody::new(bytes),
        Err(streamed) => streamed,
    }
}

impl Held {
    fn new(bytes: Bytes) -> Self {
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let left = Rc::new(Cell::new(Some(bytes)));
        let held = Rc::clone(&left);
        let deadline = rt::spawn(async move {
            rt::time::sleep(READ_WITHIN).await;
            held.set(None);
        });
        Self { left, size, deadline }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.deadline.abort();
    }
}

impl MessageBody for Held {
    type Error = io::Error;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.size)
    }

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, io::Error>>> {
        // An error closes the connection: the client sees that the answer is not whole.
        let Some(mut left) = self.left.take() else {
            return Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::TimedOut, "the client reads too slowly"))));
        };
        let part = left.split_to(left.len().min(PART_BYTES));
        self.left.set(Some(left));
        Poll::Ready((!part.is_empty()).then_some(Ok(part)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::future::poll_fn;

    #[actix_web::test]
    async fn a_large_answer_comes_whole_and_is_let_go_where_nobody_reads_it() {
        tokio::time::pause();
        let bytes = Bytes::from(vec![7; 5 * PART_BYTES + 1]);
        let mut read = Vec::new();
        let mut body = Box::pin(Held::new(bytes.clone()));
        while let Some(part) = poll_fn(|context| body.as_mut().poll_next(context)).await {
            read.extend_from_slice(&part.unwrap());
        }
        assert_eq!((read, body.size()), (bytes.to_vec(), BodySize::Sized(bytes.len() as u64)));
        let mut body = Box::pin(Held::new(bytes));
        assert!(poll_fn(|context| body.as_mut().poll_next(context)).await.unwrap().is_ok());
        tokio::time::sleep(READ_WITHIN + Duration::from_secs(1)).await;
        assert!(body.left.take().is_none(), "its memory is free");
        let late = poll_fn(|context| body.as_mut().poll_next(context)).await.unwrap();
        assert_eq!(late.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
