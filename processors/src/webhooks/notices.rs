//! Notices: what a tenant's subscriptions hear of a change of another's state. They are in no sequence, so a backlog cannot queue
//! them later; what finds no room is left out, and counted.

use super::backlog::WAITING_MAX;
use std::sync::Arc;
use std::time::{Duration, Instant};
use twh_domain::timestamp::Timestamp;
use twh_domain::webhook::patterns;
use twh_sinks::postgres::sqlx::{self, PgConnection};
use twh_sinks::postgres::webhooks::backlogs;
use twh_sinks::postgres::webhooks::deliveries::{self, NewDelivery};
use twh_sinks::postgres::webhooks::events::Event;
use twh_sinks::postgres::webhooks::subscriptions::{self, Subscription};
use uuid::Uuid;

/// Subscriptions that hear of one change, the oldest first.
const TOLD_MAX: i64 = 100;
/// Deliveries of a tenant's notices in so long: as many as its events lead to in one turn.
const ALLOWED_MAX: usize = 5_000;
const ALLOWED_FOR: Duration = Duration::from_secs(60);

twh_sinks::metrics! {
    LEFT_OUT: IntCounter = "twh_webhook_notices_left_out_total", "Deliveries of notices about webhooks that were not queued, as their tenant has no room for more.";
}

/// What a tenant has had of notices lately. Pure.
#[derive(Debug, Default)]
pub(super) struct Allowance {
    since: Option<Instant>,
    used: usize,
}

impl Allowance {
    /// Nothing of it is used up.
    pub(super) fn is_whole(&self, now: Instant) -> bool {
        self.since.is_none_or(|since| now.saturating_duration_since(since) >= ALLOWED_FOR)
    }

    fn left(&self, now: Instant) -> usize {
        if self.is_whole(now) { ALLOWED_MAX } else { ALLOWED_MAX.saturating_sub(self.used) }
    }

    /// Takes so many.
    pub(super) fn take(&mut self, count: usize, now: Instant) {
        if count > 0 && self.is_whole(now) {
            *self = Self { since: Some(now), used: 0 };
        }
        self.used += count;
    }
}

/// What became of a notice.
#[derive(Debug, Clone, Copy)]
pub(super) struct Told {
    /// Deliveries that were queued.
    pub(super) queued: usize,
    /// Subscriptions that wanted it and hear nothing.
    pub(super) left_out: usize,
}

impl Told {
    /// Counts it, once it stands.
    pub(super) fn count(self, allowance: &mut Allowance) {
        allowance.take(self.queued, Instant::now());
        LEFT_OUT.inc_by(u64::try_from(self.left_out).unwrap_or(u64::MAX));
    }
}

/// Queues a notice for the tenant's other subscriptions, as far as there is room. Those that fail too are not told.
pub(super) async fn queue(
    connection: &mut PgConnection,
    about: &Subscription,
    event: &Arc<Event>,
    allowance: &Allowance,
    at: Timestamp,
) -> Result<Told, sqlx::Error> {
    let (others, wanting) = subscriptions::to_notify(connection, about, &patterns(&event.event_type), TOLD_MAX).await?;
    let mut room = allowance.left(Instant::now());
    if !others.is_empty() && room > 0 {
        let waiting = backlogs::waiting(connection, about.tenant, WAITING_MAX).await?;
        room = room.min(usize::try_from(WAITING_MAX - waiting).unwrap_or_default());
    }
    let told = others.into_iter().take(room);
    let queued: Vec<_> = told
        .map(|subscription| NewDelivery {
            id: Uuid::now_v7(),
            subscription,
            event: Arc::clone(event),
            replay: None,
            at,
        })
        .collect();
    deliveries::insert(connection, &queued).await?;
    Ok(Told { queued: queued.len(), left_out: wanting.saturating_sub(queued.len()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minutes_notices_have_a_bound_and_the_next_minute_has_its_own() {
        let (begun, mut allowance) = (Instant::now(), Allowance::default());
        allowance.take(ALLOWED_MAX - 1, begun);
        assert_eq!(allowance.left(begun + ALLOWED_FOR / 2), 1);
        allowance.take(1, begun + ALLOWED_FOR / 2);
        assert_eq!((allowance.left(begun + ALLOWED_FOR / 2), allowance.is_whole(begun + ALLOWED_FOR / 2)), (0, false));
        assert_eq!((allowance.left(begun + ALLOWED_FOR), allowance.is_whole(begun + ALLOWED_FOR)), (ALLOWED_MAX, true));
        allowance.take(1, begun + ALLOWED_FOR);
        assert_eq!(allowance.left(begun + ALLOWED_FOR), ALLOWED_MAX - 1);
    }
}
