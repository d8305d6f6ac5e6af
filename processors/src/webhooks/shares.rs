//! How much of a partition's attempts each tenant has under way, and which of its lanes wait until that is less. Pure.
//!
//! While a tenant has room and lanes that wait, one of them is being asked: whoever has asked one, or has seen an attempt end, asks
//! for the next. So none is forgotten, and none is asked for nothing again and again.

use std::collections::{HashMap, VecDeque};
use twh_domain::id::TenantId;
use uuid::Uuid;

#[derive(Debug, Default)]
struct Share {
    under_way: usize,
    parked: VecDeque<Uuid>,
}

/// The tenants' shares.
#[derive(Debug)]
pub(super) struct Shares {
    most: usize,
    tenants: HashMap<TenantId, Share>,
}

impl Shares {
    /// With so many attempts under way for one tenant at most.
    pub(super) fn new(most: usize) -> Self {
        Self { most, tenants: HashMap::new() }
    }

    /// The tenant has as many under way as it may have.
    pub(super) fn is_full(&self, tenant: TenantId) -> bool {
        self.tenants.get(&tenant).is_some_and(|share| share.under_way >= self.most)
    }

    /// A lane of the tenant waits for room.
    pub(super) fn park(&mut self, tenant: TenantId, lane: Uuid) {
        self.tenants.entry(tenant).or_default().parked.push_back(lane);
    }

    /// An attempt was begun.
    pub(super) fn begun(&mut self, tenant: TenantId) {
        self.tenants.entry(tenant).or_default().under_way += 1;
    }

    /// An attempt has ended.
    pub(super) fn ended(&mut self, tenant: TenantId) {
        if let Some(share) = self.tenants.get_mut(&tenant) {
            share.under_way = share.under_way.saturating_sub(1);
        }
        self.forget(tenant);
    }

    /// The lane that has waited longest, where there is room for it.
    pub(super) fn next(&mut self, tenant: TenantId) -> Option<Uuid> {
        if self.is_full(tenant) {
            return None;
        }
        let next = self.tenants.get_mut(&tenant)?.parked.pop_front();
        self.forget(tenant);
        next
    }

    fn forget(&mut self, tenant: TenantId) {
        if self.tenants.get(&tenant).is_some_and(|share| share.under_way == 0 && share.parked.is_empty()) {
            self.tenants.remove(&tenant);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_has_no_more_than_its_share_and_each_that_waits_has_its_turn() {
        let [one, other] = [1, 2].map(|number| TenantId(Uuid::from_u128(number)));
        let mut shares = Shares::new(2);
        let lanes: Vec<_> = (10..15).map(Uuid::from_u128).collect();
        let mut under_way = VecDeque::new();
        for lane in &lanes {
            if shares.is_full(one) {
                shares.park(one, *lane);
            } else {
                shares.begun(one);
                under_way.push_back(*lane);
            }
        }
        assert_eq!((under_way.len(), shares.next(one)), (2, None));
        assert!(!shares.is_full(other), "another tenant has room all the while");
        let mut asked = Vec::new();
        while let Some(lane) = under_way.pop_front() {
            asked.push(lane);
            shares.ended(one);
            if let Some(next) = shares.next(one) {
                shares.begun(one);
                under_way.push_back(next);
            }
        }
        assert_eq!(asked, lanes);
        assert!(shares.tenants.is_empty());
    }
}
