//! Whether a log is still the one that was read before: what is to be read next is there, and the last record that was read
//! stands where it stood. A log that lost its end and grew again passes for the same by its offsets alone.

use super::{ApplyError, Source, Watermarks};
use std::time::Duration;
use twh_sinks::kafka::{Mark, Reached};

/// How long one record may take to come.
const READ_DEADLINE: Duration = Duration::from_secs(10);
/// A wake-up that got lost costs at most this much.
pub(super) const IDLE_CHECK: Duration = Duration::from_millis(250);

/// What a log has lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Loss {
    /// What was to be read next, by retention or by hand.
    #[error("the log begins at offset {low}, but only what is before offset {next_offset} was read")]
    Beginning {
        /// The first offset that was not read.
        next_offset: i64,
        /// Where the log begins.
        low: i64,
    },
    /// What was read last: it ends before that.
    #[error("the log ends at offset {high}, but what is before offset {next_offset} was read")]
    End {
        /// The first offset that was not read.
        next_offset: i64,
        /// Where the log ends.
        high: i64,
    },
    /// What clients were told that it has, and nobody has read: it ends before that.
    #[error("the log ends at offset {high}, but what is before offset {acknowledged} was acknowledged")]
    Acknowledged {
        /// Past the highest offset that was acknowledged.
        acknowledged: i64,
        /// Where the log ends.
        high: i64,
    },
    /// What was read last: something else stands there.
    #[error("the log has another record at offset {} than the one that was read there", read.offset)]
    Replaced {
        /// The record that was read.
        read: Mark,
        /// The first record at or after its offset now.
        found: Mark,
    },
}

impl Loss {
    /// What the log should hold.
    #[must_use]
    pub fn expected(&self) -> String {
        match self {
            Self::Beginning { next_offset, .. } => format!("a log that begins at offset {next_offset} or before"),
            Self::End { next_offset, .. } => format!("a log that ends at offset {next_offset} or after"),
            Self::Acknowledged { acknowledged, .. } => format!("a log that ends at offset {acknowledged} or after"),
            Self::Replaced { read, .. } => format!("the record {read}"),
        }
    }

    /// What it holds.
    #[must_use]
    pub fn found(&self) -> String {
        match self {
            Self::Beginning { low, .. } => format!("a log that begins at offset {low}"),
            Self::End { high, .. } | Self::Acknowledged { high, .. } => format!("a log that ends at offset {high}"),
            Self::Replaced { found, .. } => format!("the record {found}"),
        }
    }
}

/// What is to be read next must be on the log, or next to come. With `may_begin_late`, who has read nothing may begin at a log
/// whose beginning is gone.
pub(crate) const fn within(reached: Reached, watermarks: Watermarks, may_begin_late: bool) -> Result<(), Loss> {
    let Reached { next_offset, .. } = reached;
    let Watermarks { low, high } = watermarks;
    if next_offset > high {
        return Err(Loss::End { next_offset, high });
    }
    if next_offset < low && !(may_begin_late && next_offset == 0) {
        return Err(Loss::Beginning { next_offset, low });
    }
    Ok(())
}

/// What was acknowledged must be on the log.
pub(super) const fn has_all(acknowledged: i64, watermarks: Watermarks) -> Result<(), Loss> {
    let high = watermarks.high;
    if acknowledged > high { Err(Loss::Acknowledged { acknowledged, high }) } else { Ok(()) }
}

/// The record that can be compared: the last that was read, unless retention has taken it, or the offset was set by hand to
/// before it.
pub(crate) fn comparable(reached: Reached, watermarks: Watermarks) -> Option<Mark> {
    reached.last.filter(|last| last.offset >= watermarks.low && last.offset < reached.next_offset)
}

/// The record that was read last must be what stands there.
pub(crate) fn same(read: Mark, found: Mark) -> Result<(), Loss> {
    if read == found { Ok(()) } else { Err(Loss::Replaced { read, found }) }
}

/// Looks whether a log is still the one that was read so far. Leaves the source at some other place: seek afterwards.
pub(super) async fn look<S: Source>(
    source: &mut S,
    reached: Reached,
    may_begin_late: bool,
) -> Result<Result<Watermarks, Loss>, ApplyError> {
    let watermarks = source.watermarks().await?;
    if let Err(loss) = within(reached, watermarks, may_begin_late) {
        return Ok(Err(loss));
    }
    let Some(last) = comparable(reached, watermarks) else { return Ok(Ok(watermarks)) };
    source.seek(last.offset).await?;
    let found = tokio::time::timeout(READ_DEADLINE, first(source)).await;
    let found = found
        .map_err(|_| ApplyError::unavailable(format!("the log does not give offset {} to compare", last.offset)))?;
    if found.offset < last.offset {
        // The client was sent to another place: the log has changed since it was asked how far it goes.
        return Err(ApplyError::unavailable("the log moves; looking again"));
    }
    Ok(same(last, found).map(|()| watermarks))
}

/// The mark of the first record that comes.
async fn first<S: Source>(source: &mut S) -> Mark {
    loop {
        match source.poll() {
            Some(Ok(record)) => return record.mark(),
            Some(Err(error)) => tracing::debug!(error, "kafka: reading failed; the client tries again"),
            None => {
                let _ = tokio::time::timeout(IDLE_CHECK, source.ready()).await;
            }
        }
    }
}

#[cfg(test)]
mod tests;
