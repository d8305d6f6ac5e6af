//! Attempts to sign in: too many that fail make the next one wait. They are counted in the database, for all processes and
//! over their restarts.
//!
//! What counts is the pair of account and address, so that nobody locks another out of an account by guessing at it from
//! elsewhere; and the address alone, far later and in a measure that wanes, against one who tries many accounts. Mails that
//! somebody has sent count in the same way. All mails to one account count too, against one who asks from many addresses:
//! resets and invitations apart, and of invitations only their mails, since strangers must not keep anybody from being invited.
//!
//! Tenants that are made count by network, whatever became of the attempt: each costs storage for ever.
//!
//! An attempt stands as failed from its beginning: many that are begun at once are no way around the count.
#![expect(clippy::float_arithmetic, reason = "counts wane; they are no quantities of stock")]

use crate::secret;
use actix_web::web::Data;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;
use twh_domain::id::TenantId;
use twh_edge::auth::Authenticator;
use twh_edge::error::{ApiError, ErrorCode};
use twh_edge::strangers::LookUp;
use twh_sinks::postgres::PgPool;
use twh_sinks::postgres::accounts::attempts::{self, Failures, Key};
use twh_sinks::postgres::accounts::people::email_key;
use twh_sinks::secrets::Secrets;

/// Failures on one account that cost nothing: people mistype.
const FREE_ON_ACCOUNT: f64 = 5.0;
/// Failures from one address that cost nothing: an office has one address.
const FREE_FROM_ADDRESS: f64 = 50.0;
/// After so long one failure from an address counts no more.
const ADDRESS_WANES: Duration = Duration::from_secs(60);
/// Mails of one kind to one account that cost nothing, from all who ask.
const FREE_TO_ACCOUNT: f64 = 10.0;
/// After so long one of these counts no more.
const ACCOUNT_WANES: Duration = Duration::from_secs(6 * 60);
/// Sign-ups from one network that cost nothing: each makes two tenants, a live one and its sandbox.
const FREE_SIGN_UPS: f64 = 10.0;
/// After so long one of these counts no more.
const SIGN_UP_WANES: Duration = Duration::from_secs(10 * 60);
const WAIT_FIRST: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(15 * 60);
/// After so long without an attempt, all is forgotten.
const FORGET: Duration = Duration::from_secs(60 * 60);
/// For so long is kept what was counted: longer than all of it counts.
const KEPT: Duration = Duration::from_secs(2 * 60 * 60);
const PURPOSE: &str = "failed_attempts";

/// Failures on an account: how many count now, and how long to wait: twice as long after each beyond those that are free.
fn on_account(failures: Failures) -> (f64, Duration) {
    if failures.since >= FORGET {
        return (0.0, Duration::ZERO);
    }
    let beyond = failures.count - FREE_ON_ACCOUNT;
    let wait = if beyond < 0.0 {
        Duration::ZERO
    } else {
        Duration::try_from_secs_f64(WAIT_FIRST.as_secs_f64() * beyond.exp2()).unwrap_or(WAIT_MAX).min(WAIT_MAX)
    };
    (failures.count, wait.saturating_sub(failures.since))
}

/// Failures from an address: how many count now, and how long to wait until few enough do.
fn from_address(failures: Failures) -> (f64, Duration) {
    waning(failures, FREE_FROM_ADDRESS, ADDRESS_WANES)
}

/// Mails to an account: the same.
fn to_account(failures: Failures) -> (f64, Duration) {
    waning(failures, FREE_TO_ACCOUNT, ACCOUNT_WANES)
}

/// Sign-ups from a network: the same.
fn sign_ups(failures: Failures) -> (f64, Duration) {
    waning(failures, FREE_SIGN_UPS, SIGN_UP_WANES)
}

fn waning(failures: Failures, free: f64, wanes: Duration) -> (f64, Duration) {
    let left = (failures.count - failures.since.as_secs_f64() / wanes.as_secs_f64()).max(0.0);
    let beyond = (left + 1.0 - free).max(0.0);
    (left, wanes.mul_f64(beyond.min(free)))
}

/// The network that an address counts by. Of IPv6 it is the /64: within it a host draws addresses as it likes (RFC 8981), and a
/// customer has one at least (RFC 6177).
pub(crate) fn network(ip: IpAddr) -> String {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("{}/64", Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX))),
    }
}

/// What is attempted: failures of one thing are none of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attempted {
    /// To show a password, from an address.
    Password,
    /// To have a mail sent to who lost the password, from an address.
    Mail,
    /// To have a person invited by mail. The tenant counts in place of the address: its people may be anywhere.
    Invitation(TenantId),
    /// To have an invitation mailed, by any tenant.
    InvitationMail,
    /// To make a tenant, from an address.
    SignUp,
}

/// How many failures count, and how long to wait.
type Measure = fn(Failures) -> (f64, Duration);

impl Attempted {
    /// What an attempt counts against, from the network `from`.
    fn counted(self, email: &str, from: &str) -> Vec<(String, Measure)> {
        let by_address = || (format!("address\n{from}"), from_address as Measure);
        match self {
            Self::Password => vec![(format!("password\n{from}\n{email}"), on_account), by_address()],
            Self::Mail => vec![
                (format!("mail\n{from}\n{email}"), on_account),
                by_address(),
                (format!("mails\n{email}"), to_account),
            ],
            Self::Invitation(tenant) => vec![
                (format!("invitation\n{tenant}\n{email}"), on_account),
                (format!("tenant\n{tenant}"), from_address),
            ],
            Self::InvitationMail => vec![(format!("invitations\n{email}"), to_account)],
            Self::SignUp => vec![(format!("sign-ups\n{from}"), sign_ups)],
        }
    }
}

/// Counts attempts.
pub(crate) struct Attempts {
    pool: PgPool,
    secrets: Secrets,
    authenticator: Data<Authenticator>,
}

/// An attempt that was begun. Left alone, it has failed.
#[must_use]
pub(crate) struct Attempt<'a> {
    pool: &'a PgPool,
    keys: Vec<Key>,
    look_up: Option<LookUp>,
}

impl Attempts {
    pub(crate) fn new(pool: PgPool, secrets: Secrets, authenticator: Data<Authenticator>) -> Self {
        Self { pool, secrets, authenticator }
    }

    /// Begins an attempt, or refuses it where it comes too soon.
    pub(crate) async fn begin(
        &self,
        what: Attempted,
        email: &str,
        ip: Option<IpAddr>,
    ) -> Result<Attempt<'_>, ApiError> {
        // To count an attempt is a transaction, too. Who invites is known, and held to the tenant's rate limits; who signs up has
        // shown a password.
        let look_up = match what {
            Attempted::Invitation(_) | Attempted::InvitationMail | Attempted::SignUp => None,
            Attempted::Password | Attempted::Mail => Some(self.authenticator.strangers().look_up(ip)?),
        };
        let from = ip.map(network).unwrap_or_default();
        let counted = what.counted(&email_key(email), &from);
        let keys = counted.iter().map(|(key, _)| self.secrets.hash(PURPOSE, key)).collect::<Result<Vec<_>, _>>();
        let keys = keys.map_err(secret)?;
        let mut tx = self.pool.begin().await.map_err(ApiError::database)?;
        let standing = attempts::lock(&mut tx, &keys).await.map_err(ApiError::database)?;
        let measured: Vec<_> = counted.iter().zip(standing).map(|((_, measure), failures)| measure(failures)).collect();
        let wait = measured.iter().map(|(_, wait)| *wait).max().unwrap_or_default();
        if !wait.is_zero() {
            let seconds = u32::try_from(wait.as_secs()).unwrap_or(u32::MAX).saturating_add(1);
            let message = format!("too many attempts; try again in {seconds} s");
            return Err(ApiError::new(ErrorCode::TooManyAttempts, message).retry_after(seconds));
        }
        let counts: Vec<_> = keys.iter().zip(&measured).map(|(key, (count, _))| (*key, count + 1.0)).collect();
        attempts::set(&mut tx, &counts, KEPT).await.map_err(ApiError::database)?;
        tx.commit().await.map_err(ApiError::database)?;
        Ok(Attempt { pool: &self.pool, keys, look_up })
    }

    /// Whether one more invitation may be mailed to an account.
    pub(crate) async fn may_mail_invitation(&self, email: &str) -> Result<bool, ApiError> {
        match self.begin(Attempted::InvitationMail, email, None).await {
            Ok(_counted) => Ok(true),
            Err(error) if error.code() == ErrorCode::TooManyAttempts => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Attempt<'_> {
    /// What was counted did not come to be.
    pub(crate) async fn take_back(self) {
        for key in &self.keys {
            if let Err(error) = attempts::give_back(self.pool, key).await {
                tracing::warn!(%error, "what did not come to be stays counted");
            }
        }
    }

    /// It did not fail: what stood against the account from this address is forgotten, its owner is there.
    pub(crate) async fn succeeded(self) {
        self.look_up.into_iter().for_each(LookUp::excuse);
        let [account, address, ..] = self.keys.as_slice() else { return };
        if let Err(error) = attempts::take_back(self.pool, address, account).await {
            tracing::warn!(%error, "an attempt that succeeded stays counted as failed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failures(count: f64, seconds: u64) -> Failures {
        Failures { count, since: Duration::from_secs(seconds) }
    }

    #[test]
    fn who_guesses_at_an_account_waits_twice_as_long_each_time() {
        assert_eq!(on_account(failures(4.0, 0)), (4.0, Duration::ZERO));
        assert_eq!(on_account(failures(5.0, 0)).1, Duration::from_secs(1));
        assert_eq!(on_account(failures(8.0, 3)).1, Duration::from_secs(5));
        assert_eq!(on_account(failures(8.0, 8)), (8.0, Duration::ZERO));
        assert_eq!(on_account(failures(1e9, 0)).1, WAIT_MAX);
        assert_eq!(on_account(failures(1e9, 3_600)), (0.0, Duration::ZERO));
    }

    #[test]
    fn who_has_a_network_of_addresses_is_counted_as_one() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::/64");
        assert_eq!(of("2001:db8:1:2:ffff::1"), of("2001:db8:1:2::9"));
        assert_ne!(of("2001:db8:1:3::9"), of("2001:db8:1:2::9"));
        assert_eq!((of("::ffff:203.0.113.7"), of("203.0.113.8")), ("203.0.113.7".to_owned(), "203.0.113.8".to_owned()));
    }

    #[test]
    fn what_strangers_have_sent_keeps_no_tenant_from_inviting() {
        let keys = |what: Attempted, from: &str| -> Vec<String> {
            what.counted("a@b.example", from).into_iter().map(|(key, _)| key).collect()
        };
        let invited = keys(Attempted::Invitation(TenantId(uuid::Uuid::nil())), "");
        for other in [
            keys(Attempted::Mail, "203.0.113.7"),
            keys(Attempted::Password, ""),
            keys(Attempted::InvitationMail, ""),
            keys(Attempted::Invitation(TenantId(uuid::Uuid::max())), ""),
        ] {
            assert!(other.iter().all(|key| !invited.contains(key)), "{other:?}");
        }
        assert_eq!(to_account(failures(9.0, 0)).1, Duration::ZERO);
        assert_eq!(to_account(failures(10.0, 0)).1, ACCOUNT_WANES);
    }

    #[test]
    fn a_network_makes_few_tenants_and_what_it_made_is_kept_for_as_long_as_it_counts() {
        assert_eq!(sign_ups(failures(9.0, 0)).1, Duration::ZERO);
        assert_eq!(sign_ups(failures(10.0, 0)).1, SIGN_UP_WANES);
        assert_eq!(sign_ups(failures(10.0, 600)), (9.0, Duration::ZERO));
        for (measured, free, wanes) in [
            (FREE_SIGN_UPS, FREE_SIGN_UPS, SIGN_UP_WANES),
            (FREE_TO_ACCOUNT, FREE_TO_ACCOUNT, ACCOUNT_WANES),
            (FREE_FROM_ADDRESS, FREE_FROM_ADDRESS, ADDRESS_WANES),
        ] {
            assert_eq!(waning(failures(measured, KEPT.as_secs()), free, wanes).0, 0.0);
        }
    }

    #[test]
    fn an_address_gets_one_attempt_a_minute_once_it_has_used_up_its_own() {
        assert_eq!(from_address(failures(49.0, 0)).1, Duration::ZERO);
        assert_eq!(from_address(failures(50.0, 0)).1, ADDRESS_WANES);
        assert_eq!(from_address(failures(50.0, 60)), (49.0, Duration::ZERO));
        assert_eq!(from_address(failures(50.0, 24 * 3_600)), (0.0, Duration::ZERO));
    }
}
