//! Passwords: argon2id, as OWASP's Password Storage Cheat Sheet asks for it (19 MiB, 2 passes, 1 lane).

use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _, phc::PasswordHash};
use argon2::{Algorithm, Argon2, Params, Version};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use twh_edge::error::{ApiError, ErrorCode};

const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;
/// Hashes computed at once: each takes its memory and some 30 ms of a core.
const AT_ONCE: usize = 2;
/// How long one waits for its turn: who would wait longer is told to come again, and the queue stays short.
const TURN_WITHIN: Duration = Duration::from_secs(2);
/// Shortest and longest password, in characters (NIST SP 800-63B, section 5.1.1.2: at least 8, at least 64 allowed).
pub(crate) const LENGTH: std::ops::RangeInclusive<usize> = 10..=256;

/// Passwords cannot be hashed with these parameters: a defect.
#[derive(Debug, thiserror::Error)]
#[error("passwords cannot be hashed: {0}")]
pub struct PasswordError(String);

/// Hashes and checks passwords, few at once.
pub(crate) struct Passwords {
    hasher: Argon2<'static>,
    permits: Arc<Semaphore>,
    /// Checked where there is no such person, so that it takes as long as where there is one.
    nobodys: String,
}

impl Passwords {
    pub(crate) fn new() -> Result<Self, PasswordError> {
        let parameters =
            Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(|error| PasswordError(error.to_string()))?;
        let hasher = Argon2::new(Algorithm::Argon2id, Version::V0x13, parameters);
        let nobodys = hash(&hasher, "nobody's")?;
        Ok(Self { hasher, permits: Arc::new(Semaphore::new(AT_ONCE)), nobodys })
    }

    /// A turn at hashing.
    async fn turn(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        let waited = timeout(TURN_WITHIN, Arc::clone(&self.permits).acquire_owned()).await;
        let late = |_| ApiError::new(ErrorCode::Overloaded, "too many passwords wait to be checked").retry_after(1);
        waited.map_err(late)?.map_err(ApiError::internal)
    }

    async fn compute<T: Send + 'static>(
        &self,
        work: impl FnOnce(Argon2<'static>) -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let permit = self.turn().await?;
        let hasher = self.hasher.clone();
        tokio::task::spawn_blocking(move || {
            let _held = permit;
            work(hasher)
        })
        .await
        .map_err(ApiError::internal)
    }

    /// A password as it is kept: a PHC string with a salt of its own.
    pub(crate) async fn hash(&self, password: String) -> Result<String, ApiError> {
        self.compute(move |hasher| hash(&hasher, &password)).await?.map_err(ApiError::internal)
    }

    /// True where the password is the one that is kept; takes its time where none is.
    pub(crate) async fn is(&self, password: String, kept: Option<String>) -> Result<bool, ApiError> {
        let known = kept.is_some();
        let kept = kept.unwrap_or_else(|| self.nobodys.clone());
        let same = self
            .compute(move |hasher| {
                PasswordHash::new(&kept).is_ok_and(|kept| hasher.verify_password(password.as_bytes(), &kept).is_ok())
            })
            .await?;
        Ok(same && known)
    }
}

fn hash(hasher: &Argon2<'_>, password: &str) -> Result<String, PasswordError> {
    let salt = twh_sinks::secrets::random::<16>().map_err(|error| PasswordError(error.to_string()))?;
    let hash = hasher.hash_password_with_salt(password.as_bytes(), &salt);
    hash.map(|hash| hash.to_string()).map_err(|error| PasswordError(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_does_not_get_a_turn_in_time_is_told_to_come_again() {
        let passwords = Passwords::new().unwrap();
        let kept = passwords.hash("correct horse battery".to_owned()).await.unwrap();
        assert!(kept.starts_with("$argon2id$"), "{kept}");
        let held = Arc::clone(&passwords.permits).acquire_many_owned(2).await.unwrap();
        let late = passwords.is("correct horse battery".to_owned(), Some(kept.clone())).await.unwrap_err();
        assert_eq!(late.code(), ErrorCode::Overloaded);
        assert!(late.response("").headers().contains_key("retry-after"));
        drop(held);
        assert!(passwords.is("correct horse battery".to_owned(), Some(kept)).await.unwrap());
    }
}
