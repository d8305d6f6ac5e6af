//! Where a subscription's deliveries go. What keeps one from being sent to for a reason of ours is told to its tenant as what to
//! do, and to who runs this in the log.

use super::{Webhooks, now};
use std::time::Duration;
use twh_sinks::outbound::{Identity, OutboundError};
use twh_sinks::postgres::webhooks::subscriptions::{Sealed, Subscription};
use twh_sinks::webhook::{Endpoint, SigningSecret, certificate_purpose, secret_purpose};
use uuid::Uuid;

const ROTATE: &str = "its secret cannot be opened: rotate it, or tell who runs this";
const CERTIFICATE: &str = "its client certificate cannot be opened: give it anew, or tell who runs this";

impl Webhooks {
    /// Where a subscription's deliveries go, or why they go nowhere; and what alone signs them once the secret before does no
    /// longer.
    pub(super) fn endpoint(
        &self,
        subscription: &Subscription,
        sealed: &Sealed,
    ) -> (Result<Endpoint, String>, Vec<SigningSecret>) {
        let id = subscription.id;
        let failed = |reason: String, error: &str| {
            tracing::error!(subscription_id = %id, tenant_id = %subscription.tenant, error, reason, "a subscription cannot be sent to; its queue waits");
            (Err(reason), Vec::new())
        };
        let newest = match self.signing(id, &sealed.secret) {
            Ok(newest) => newest,
            Err(error) => return failed(ROTATE.to_owned(), &error),
        };
        let identity = match sealed.client_certificate.as_deref().map(|pem| self.identity(id, pem)).transpose() {
            Ok(identity) => identity,
            Err(error) => return failed(CERTIFICATE.to_owned(), &error),
        };
        let mut secrets = vec![newest.clone()];
        secrets.extend(self.previous(subscription, sealed));
        let timeout = Duration::from_millis(u64::try_from(subscription.timeout_ms).unwrap_or(1));
        match Endpoint::new(&self.settings.outbound, &subscription.url, secrets, timeout, identity) {
            Ok(endpoint) => (Ok(endpoint), vec![newest]),
            Err(error @ OutboundError::Url(_)) => failed(format!("{error}: change it"), &error.to_string()),
            Err(error) => failed("the sender cannot call anyone: tell who runs this".to_owned(), &error.to_string()),
        }
    }

    /// The secret before, while it signs too. One that cannot be opened is left out: the newest was made to be enough.
    fn previous(&self, subscription: &Subscription, sealed: &Sealed) -> Option<SigningSecret> {
        subscription.previous_until.filter(|until| *until > now())?;
        let opened = self.signing(subscription.id, sealed.previous_secret.as_deref()?);
        opened
            .inspect_err(|error| {
                tracing::error!(error, subscription_id = %subscription.id, tenant_id = %subscription.tenant, "the secret before cannot be opened; only the newest signs");
            })
            .ok()
    }

    fn signing(&self, id: Uuid, sealed: &[u8]) -> Result<SigningSecret, String> {
        let opened = self.settings.secrets.open(&secret_purpose(id), sealed).map_err(|error| error.to_string())?;
        let text = String::from_utf8(opened).map_err(|_| "its secret is no text".to_owned())?;
        SigningSecret::parse(&text).ok_or_else(|| "its secret is none".to_owned())
    }

    fn identity(&self, id: Uuid, sealed: &[u8]) -> Result<Identity, String> {
        let pem = self.settings.secrets.open(&certificate_purpose(id), sealed).map_err(|error| error.to_string())?;
        Identity::from_pem(&pem).map_err(|error| error.to_string())
    }
}
