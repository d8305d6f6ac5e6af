//! Whole-system tests against the real parts.
