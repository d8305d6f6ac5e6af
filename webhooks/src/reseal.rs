//! Seals the secrets of subscriptions under the newest master key.

use twh_sinks::postgres::webhooks::subscriptions::{Sealed, all_sealed, reseal as put};
use twh_sinks::postgres::{PgPool, sqlx};
use twh_sinks::secrets::{SecretError, Secrets};
use twh_sinks::webhook::{certificate_purpose, secret_purpose};
use uuid::Uuid;

/// Why a secret was not sealed anew.
#[derive(Debug, thiserror::Error)]
pub enum ResealError {
    /// The database failed.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// A secret cannot be opened.
    #[error("a secret of the webhook subscription {subscription} cannot be opened: {source}")]
    Sealed {
        /// Whose.
        subscription: Uuid,
        /// Why not.
        source: SecretError,
    },
}

/// Seals the secrets and certificates of all subscriptions under the newest master key; says of how many.
pub async fn reseal(pool: &PgPool, secrets: &Secrets) -> Result<usize, ResealError> {
    let mut count = 0;
    for (id, old) in all_sealed(pool).await? {
        let again = |purpose: String, sealed: &[u8]| {
            let new = secrets.resealed(&purpose, sealed);
            let new = new.map_err(|source| ResealError::Sealed { subscription: id, source })?;
            Ok::<_, ResealError>(new.unwrap_or_else(|| sealed.to_vec()))
        };
        let new = Sealed {
            secret: again(secret_purpose(id), &old.secret)?,
            previous_secret: old.previous_secret.as_deref().map(|one| again(secret_purpose(id), one)).transpose()?,
            client_certificate: old
                .client_certificate
                .as_deref()
                .map(|one| again(certificate_purpose(id), one))
                .transpose()?,
        };
        if new != old {
            put(pool, id, &old, &new).await?;
            count += 1;
        }
    }
    Ok(count)
}
