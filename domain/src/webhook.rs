//! What a subscriber of webhooks wants to hear of.

use crate::event::EventType;
use uuid::Uuid;

/// Every type of event about webhooks themselves, with what it says. They are in no sequence.
pub const WEBHOOK_EVENT_TYPES: &[(&str, &str)] = &[
    ("webhook.test", "Somebody asked for a test of this subscription."),
    ("webhook.quarantined", "A subscription failed for so long that only probes are sent to it; its queue is kept."),
    ("webhook.recovered", "A subscription in quarantine answers again; its queue is being sent."),
    ("webhook.disabled", "A subscription is sent nothing any more."),
];

/// Every type of event that can be subscribed to, with what it says.
pub fn event_types() -> impl Iterator<Item = (&'static str, &'static str)> {
    let of_the_ledger = EventType::ALL.iter().map(|event_type| (event_type.name(), event_type.meaning()));
    of_the_ledger.chain(WEBHOOK_EVENT_TYPES.iter().copied())
}

/// True where a pattern names a type: the type itself, `order.*` for all that begin so, `*` for all.
#[must_use]
pub fn names(pattern: &str, event_type: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some("") => true,
        Some(family) => family.ends_with('.') && event_type.starts_with(family),
        None => pattern == event_type,
    }
}

/// Every pattern that names a type.
#[must_use]
pub fn patterns(event_type: &str) -> Vec<String> {
    let families = event_type.match_indices('.').filter_map(|(dot, _)| event_type.get(..=dot));
    let families = families.map(|family| format!("{family}*"));
    families.chain(["*".to_owned(), event_type.to_owned()]).collect()
}

/// Which events are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EventFilter {
    /// Patterns of types; one must name the event's.
    pub types: Vec<String>,
    /// One of these must be in the event; all events pass where there is none.
    pub items: Vec<Uuid>,
    /// As for items.
    pub locations: Vec<Uuid>,
}

impl EventFilter {
    /// True where an event of this type, about these items and locations, is wanted. What is said of webhooks is about no item
    /// and no location, and passes.
    #[must_use]
    pub fn wants(&self, event_type: &str, items: &[Uuid], locations: &[Uuid]) -> bool {
        let about = |wanted: &[Uuid], of: &[Uuid]| wanted.is_empty() || wanted.iter().any(|id| of.contains(id));
        let of_webhooks = event_type.starts_with("webhook.");
        self.types.iter().any(|pattern| names(pattern, event_type))
            && (of_webhooks || (about(&self.items, items) && about(&self.locations, locations)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_names_whole_families_and_nothing_that_only_looks_like_one() {
        for (pattern, event_type, expected) in [
            ("*", "order.shipped", true),
            ("order.*", "order.shipped", true),
            ("order.shipped", "order.shipped", true),
            ("order.ship", "order.shipped", false),
            ("order*", "order.shipped", false),
            ("*.shipped", "order.shipped", false),
            ("", "order.shipped", false),
        ] {
            assert_eq!(names(pattern, event_type), expected, "{pattern} {event_type}");
            assert_eq!(patterns(event_type).iter().any(|one| one == pattern), expected, "{pattern} {event_type}");
        }
    }

    #[test]
    fn a_filter_narrows_by_item_and_by_location_both() {
        let [a, b, c] = [1, 2, 3].map(Uuid::from_u128);
        let filter = EventFilter { types: vec!["*".to_owned()], items: vec![a], locations: vec![b] };
        assert!(filter.wants("order.shipped", &[c, a], &[b]));
        assert!(!filter.wants("order.shipped", &[a], &[c]));
        assert!(!filter.wants("order.shipped", &[c], &[b]));
        assert!(filter.wants("webhook.quarantined", &[], &[]));
    }
}
