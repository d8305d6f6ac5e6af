//! Where results land: one module an outside system.
