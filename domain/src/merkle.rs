//! The Merkle tree over a tenant's movements: RFC 6962 (Certificate Transparency), SHA-256, a leaf being a movement's hash.
//!
//! Whole subtrees never change once they are full, so that their hashes can be kept: a [`Node`] names one. A proof that a
//! movement is in the ledger is the list of hashes on the way from its leaf to the root.

use crate::movement::Hash;
use sha2::{Digest, Sha256};

/// A full subtree: `level` 0 is a leaf, and each level has twice the leaves of the one below; `index` counts them from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Node {
    /// How high it is.
    pub level: u32,
    /// Its place among those of its level.
    pub index: i64,
}

/// The hash of a leaf.
#[must_use]
pub fn leaf(movement: &Hash) -> Hash {
    Sha256::new().chain_update([0]).chain_update(movement).finalize().into()
}

/// The hash of what is above two subtrees.
#[must_use]
pub fn parent(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

/// The root above the roots of equal subtrees that stand side by side, a power of two of them; `None` for any other number.
#[must_use]
pub fn fold(mut hashes: Vec<Hash>) -> Option<Hash> {
    if !hashes.len().is_power_of_two() {
        return None;
    }
    while hashes.len() > 1 {
        hashes = hashes.as_chunks::<2>().0.iter().map(|[left, right]| parent(left, right)).collect();
    }
    hashes.pop()
}

/// A hash that a tree of any size is made of: the root of the leaves from `start` to `end`, through these full subtrees, from
/// left to right, each larger than the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span(pub Vec<Node>);

impl Span {
    /// The leaves from `start` (a multiple of the largest subtree that fits) to before `end`.
    fn between(mut start: i64, end: i64) -> Self {
        let mut nodes = Vec::new();
        while start < end {
            let level = (end - start).ilog2();
            nodes.push(Node { level, index: start >> level });
            start += 1 << level;
        }
        Self(nodes)
    }

    /// The whole of a tree of `size` leaves.
    #[must_use]
    pub fn tree(size: i64) -> Self {
        Self::between(0, size)
    }

    /// Its hash, from the hashes of its subtrees.
    #[must_use]
    pub fn hash(hashes: &[Hash]) -> Hash {
        match hashes.split_last() {
            None => Sha256::digest([]).into(),
            Some((last, before)) => before.iter().rev().fold(*last, |right, left| parent(left, &right)),
        }
    }
}

/// What a proof for leaf `index` (from 0) in a tree of `size` leaves is made of, from the leaf upwards; empty when there is no
/// such leaf.
#[must_use]
pub fn inclusion(index: i64, size: i64) -> Vec<Span> {
    let (mut start, mut end) = (0, size);
    let mut path = Vec::new();
    if !(0..size).contains(&index) {
        return path;
    }
    while end - start > 1 {
        // The largest power of two below the number of leaves is where the tree divides.
        let middle = start + (1 << (end - start - 1).ilog2());
        if index < middle {
            path.push(Span::between(middle, end));
            end = middle;
        } else {
            path.push(Span::between(start, middle));
            start = middle;
        }
    }
    path.reverse();
    path
}

/// The root that a proof leads to (RFC 9162, section 2.1.3.2); `None` when it is not of the right length.
#[must_use]
pub fn root_of(movement: &Hash, index: i64, size: i64, proof: &[Hash]) -> Option<Hash> {
    if !(0..size).contains(&index) {
        return None;
    }
    let (mut index, mut last) = (index, size - 1);
    let mut hash = leaf(movement);
    for sibling in proof {
        if last == 0 {
            return None;
        }
        if index % 2 == 1 || index == last {
            hash = parent(sibling, &hash);
            while index % 2 == 0 && index != 0 {
                (index, last) = (index >> 1, last >> 1);
            }
        } else {
            hash = parent(&hash, sibling);
        }
        (index, last) = (index >> 1, last >> 1);
    }
    (last == 0).then_some(hash)
}

/// The full subtrees of a tree that grows leaf by leaf, from left to right.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Frontier(pub Vec<Hash>);

impl Frontier {
    /// Adds leaf number `index`, and says which subtree of `level` it completes, if it does.
    pub fn push(&mut self, index: i64, movement: &Hash, level: u32) -> Option<Hash> {
        let mut hash = leaf(movement);
        let mut completed = None;
        for height in 0..=index.trailing_ones() {
            if height == level {
                completed = Some(hash);
            }
            if height < index.trailing_ones()
                && let Some(left) = self.0.pop()
            {
                hash = parent(&left, &hash);
            }
        }
        self.0.push(hash);
        completed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn movement(number: i64) -> Hash {
        Sha256::digest(number.to_be_bytes()).into()
    }

    /// The definition of RFC 6962, section 2.1, word by word.
    fn definition(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => Sha256::digest([]).into(),
            [one] => leaf(one),
            many => {
                let k = many.len().next_power_of_two() / 2;
                parent(&definition(&many[..k]), &definition(&many[k..]))
            }
        }
    }

    fn node(node: Node) -> Hash {
        let first = node.index << node.level;
        fold((first..first + (1 << node.level)).map(|n| leaf(&movement(n))).collect()).unwrap()
    }

    fn span(span: &Span) -> Hash {
        Span::hash(&span.0.iter().map(|n| node(*n)).collect::<Vec<_>>())
    }

    #[test]
    fn known_answers() {
        // The test vectors of the RFC's reference implementation: leaves "", 00, 10, 2021.
        let hash = |text: &str| crate::hex::decode_hash(text).unwrap();
        let leaf = |data: &[u8]| -> Hash { Sha256::new().chain_update([0]).chain_update(data).finalize().into() };
        let leaves = [leaf(b""), leaf(b"\x00"), leaf(b"\x10"), leaf(b"\x20\x21")];
        assert_eq!(leaves[0], hash("6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"));
        assert_eq!(Span::hash(&[]), hash("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"));
        assert_eq!(
            fold(leaves.to_vec()).unwrap(),
            hash("d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7")
        );
    }

    #[test]
    fn every_leaf_of_every_small_tree_has_a_proof_that_leads_to_the_root() {
        for size in 1..=70 {
            let leaves: Vec<Hash> = (0..size).map(movement).collect();
            let root = definition(&leaves);
            assert_eq!(span(&Span::tree(size)), root);
            for index in 0..size {
                let proof: Vec<Hash> = inclusion(index, size).iter().map(span).collect();
                assert_eq!(root_of(&movement(index), index, size, &proof), Some(root), "{index} of {size}");
                assert_ne!(root_of(&movement(index + 1), index, size, &proof), Some(root));
                assert!(proof.len() <= usize::try_from((size - 1).max(1).ilog2() + 1).unwrap());
                let mut longer = proof.clone();
                longer.push(root);
                assert_eq!(root_of(&movement(index), index, size, &longer), None);
                if !proof.is_empty() {
                    assert_ne!(root_of(&movement(index), index, size, &proof[1..]), Some(root));
                }
            }
        }
        assert_eq!(inclusion(3, 3), []);
        assert_eq!(root_of(&movement(0), 3, 3, &[]), None);
    }

    #[test]
    fn a_growing_tree_completes_the_subtrees_of_a_level() {
        let mut frontier = Frontier::default();
        let mut completed = HashMap::new();
        for index in 0..300 {
            if let Some(hash) = frontier.push(index, &movement(index), 4) {
                completed.insert(index >> 4, hash);
            }
            let whole: Vec<Hash> = (0..=index).map(movement).collect();
            assert_eq!(Span::hash(&frontier.0), definition(&whole));
        }
        assert_eq!(completed.len(), 300 / 16);
        for (index, hash) in completed {
            assert_eq!(hash, node(Node { level: 4, index }));
        }
    }

    proptest! {
        #[test]
        fn an_altered_proof_leads_elsewhere(size in 1..500_i64, index in 0..500_i64, at in 0..20_usize, bit in 0..8_u32) {
            let index = index % size;
            let mut proof: Vec<Hash> = inclusion(index, size).iter().map(span).collect();
            let root = root_of(&movement(index), index, size, &proof);
            if !proof.is_empty() {
                let at = at % proof.len();
                proof[at][0] ^= 1 << bit;
                prop_assert_ne!(root_of(&movement(index), index, size, &proof), root);
            }
        }
    }
}
