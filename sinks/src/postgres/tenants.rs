//! Tenants and keys.
