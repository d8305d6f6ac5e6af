//! The read side: queries over the ledger and its snapshots.
