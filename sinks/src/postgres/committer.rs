//! Group commit over partitions: what the writers of a process have ready is written in one transaction.
//!
//! A transaction costs about the same for one command as for ten, so that under light load, when each partition has little,
//! it is shared. Under heavy load batches are large, and each goes by itself, beside the others.

use super::ledger::{Commit, LedgerError, commit};
use crate::tasks;
use sqlx::PgPool;
use std::sync::Arc;
use tokio::sync::{Mutex, mpsc, oneshot};

/// So many outcomes make a transaction large enough.
const OUTCOMES_ENOUGH: usize = 500;

type Done = oneshot::Sender<Result<(), LedgerError>>;
type Request = (Commit, Done);

/// Commits for all partitions of a process.
#[derive(Clone)]
pub struct Committer {
    queue: mpsc::UnboundedSender<Request>,
}

impl Committer {
    /// Starts as many tasks as transactions may be under way at once; they end with the last handle. Whose commit a panic takes
    /// along is told that it is in doubt.
    #[must_use]
    pub fn start(pool: &PgPool, transactions_max: usize) -> Self {
        // Never longer than there are partitions: a writer has one commit under way.
        let (queue, requests) = mpsc::unbounded_channel();
        let requests = Arc::new(Mutex::new(requests));
        for _ in 0..transactions_max.max(1) {
            let (pool, requests) = (pool.clone(), Arc::clone(&requests));
            drop(tasks::keep("ledger", "ledger_commit", move || run(pool.clone(), Arc::clone(&requests))));
        }
        Self { queue }
    }

    /// Writes a batch, alone or with others. Fails as [`commit`] does, for this batch alone.
    pub async fn commit(&self, commit: Commit) -> Result<(), LedgerError> {
        let (done, result) = oneshot::channel();
        let ended = || LedgerError::Database(sqlx::Error::WorkerCrashed);
        self.queue.send((commit, done)).map_err(|_| ended())?;
        result.await.unwrap_or_else(|_| Err(ended()))
    }
}

async fn run(pool: PgPool, requests: Arc<Mutex<mpsc::UnboundedReceiver<Request>>>) {
    loop {
        let (mut commits, mut waiting) = (Vec::new(), Vec::new());
        {
            let mut requests = requests.lock().await;
            let Some((commit, done)) = requests.recv().await else { return };
            let mut outcomes = commit.batch.outcomes.len();
            commits.push(commit);
            waiting.push(done);
            while outcomes < OUTCOMES_ENOUGH
                && let Ok((commit, done)) = requests.try_recv()
            {
                outcomes += commit.batch.outcomes.len();
                commits.push(commit);
                waiting.push(done);
            }
        }
        settle(&pool, commits, waiting).await;
    }
}

/// Commits a group; where one of it stands in the way of the others, each by itself. A writer that has stopped waiting finds
/// out from its checkpoint.
async fn settle(pool: &PgPool, commits: Vec<Commit>, waiting: Vec<Done>) {
    let together = commit(pool, &commits).await;
    if commits.len() > 1 && together.as_ref().is_err_and(LedgerError::is_of_one) {
        for (one, done) in commits.into_iter().zip(waiting) {
            let _ = done.send(commit(pool, &[one]).await);
        }
        return;
    }
    let shared = together.as_ref().err().map(ToString::to_string);
    let mut own = Some(together);
    for done in waiting {
        let result = own.take().unwrap_or_else(|| match &shared {
            None => Ok(()),
            Some(reason) => Err(LedgerError::Database(sqlx::Error::Protocol(reason.clone()))),
        });
        let _ = done.send(result);
    }
}
