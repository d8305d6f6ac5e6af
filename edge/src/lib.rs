//! What every HTTP request passes: request id, authentication, errors, ETag and Idempotency-Key.
