//! A caller grants only what it has, and takes away no more: the one rule of every place that gives or takes a role, a key, an
//! identity provider, an invitation or a subscription.
//!
//! What a caller has are its scopes, and from where and until when it may call. A person comes from anywhere and for as long as it is a
//! member, and so do those that an identity provider vouches for; a subscription sends wherever it says until it is deleted. So a
//! key with networks or an end gives and takes none of them.

use crate::access::{Role, Scope, Scopes, read_scopes};
use crate::auth::{Credential, Identity, now};
use crate::error::{ApiError, ErrorCode};
use ipnet::IpNet;
use sqlx::PgConnection;
use twh_domain::event::{Carries, EventType};
use twh_domain::id::TenantId;
use twh_domain::timestamp::Timestamp;
use twh_domain::webhook::{WEBHOOK_EVENT_TYPES, event_types, names};
use twh_sinks::postgres::accounts::granted::Granted;
use twh_sinks::postgres::accounts::keys::{self, Key};
use twh_sinks::postgres::accounts::people::{self, Invitation};
use twh_sinks::postgres::accounts::sign_on::Provider;
use twh_sinks::postgres::webhooks::subscriptions::Subscription;
use uuid::Uuid;

/// What somebody has to give.
#[derive(Debug, Clone, Default)]
pub struct Grant {
    scopes: Scopes,
    /// The networks that it may call from; from everywhere where absent.
    pub ip_allowed: Option<Vec<String>>,
    /// Until when it may call; for ever where absent.
    pub expires_at: Option<Timestamp>,
}

impl Grant {
    /// What a caller has now: a process remembers for some seconds what another has changed.
    pub async fn of(connection: &mut PgConnection, caller: &Identity) -> Result<Self, ApiError> {
        match caller.credential {
            Credential::ApiKey { key_id } => {
                let found = keys::find(connection, caller.tenant_id, key_id).await.map_err(ApiError::database)?;
                let good = found.filter(|key| key.revoked_at.is_none() && key.expires_at.is_none_or(|end| end > now()));
                let over = || ApiError::new(ErrorCode::Unauthenticated, "the API key was revoked or has expired");
                let key = good.ok_or_else(over)?;
                let scopes = Scopes::of_key(role(&key.role)?, key.scopes.as_deref());
                Ok(Self { scopes, ip_allowed: key.ip_allowed, expires_at: key.expires_at })
            }
            Credential::Session { user_id, .. } => {
                let found = Self::of_member(connection, caller.tenant_id, user_id).await?;
                found.ok_or_else(|| ApiError::new(ErrorCode::Forbidden, "you belong to the tenant no more"))
            }
        }
    }

    /// What a person has now; `None` for one that is no member.
    pub async fn of_member(
        connection: &mut PgConnection,
        tenant: TenantId,
        user: Uuid,
    ) -> Result<Option<Self>, ApiError> {
        let found = people::role(connection, tenant, user).await.map_err(ApiError::database)?;
        found.map(|name| Ok(Self { scopes: Scopes::of_role(role(&name)?), ..Self::default() })).transpose()
    }

    /// A person gets a role, or loses it.
    pub fn person<'a>(&self, name: &'a str) -> Result<Granted<&'a str>, ApiError> {
        let role = role(name)?;
        let what = format!("only who has all of {}'s scopes gives or takes that role", role.name());
        self.holds(Scopes::of_role(role), &what)?;
        self.is_unbounded("people")?;
        Ok(Granted::by_rule(name))
    }

    /// A person is invited, or is so no more.
    pub fn invitation<'a>(&self, invitation: &'a Invitation) -> Result<Granted<&'a Invitation>, ApiError> {
        self.person(&invitation.role)?;
        Ok(Granted::by_rule(invitation))
    }

    /// An identity provider is set, changed or removed. Who says which it is says who comes by it: all that it gives roles to, and all
    /// who have come by it, whatever their roles are by now.
    pub fn provider<'a>(
        &self,
        was: Option<&Provider>,
        is: &'a Provider,
        people: &[(Uuid, String)],
    ) -> Result<Granted<&'a Provider>, ApiError> {
        self.is_unbounded("identity providers")?;
        let given = was.into_iter().chain([is]).flat_map(|one| one.role_by_group.values().chain(&one.default_role));
        given.chain(people.iter().map(|(_, role)| role)).try_for_each(|role| self.person(role).map(|_| ()))?;
        Ok(Granted::by_rule(is))
    }

    /// A key is made, or its successor; or it is revoked.
    pub fn key<'a>(&self, key: &'a Key) -> Result<Granted<&'a Key>, ApiError> {
        let scopes = Scopes::of_key(role(&key.role)?, key.scopes.as_deref());
        self.holds(scopes, "the key can do more than you")?;
        let here = self.ip_allowed.as_ref().is_none_or(|own| {
            key.ip_allowed.as_ref().is_some_and(|asked| asked.iter().all(|network| is_within(network, own)))
        });
        let in_time = self.expires_at.is_none_or(|own| key.expires_at.is_some_and(|asked| asked <= own));
        if here && in_time {
            return Ok(Granted::by_rule(key));
        }
        let message = "your own key is good from fewer networks, or not for as long: whoever has it gets no better one";
        Err(ApiError::new(ErrorCode::Forbidden, message))
    }

    /// A subscription is made, changed or deleted: its events are read by who has its URL.
    pub fn subscription<'a>(
        &self,
        was: Option<&Subscription>,
        is: &'a Subscription,
    ) -> Result<Granted<&'a Subscription>, ApiError> {
        self.is_unbounded("webhooks")?;
        let wanted = was.into_iter().chain([is]).flat_map(|one| &one.filter.types);
        let needed = wanted.fold(Scopes::default(), |all, pattern| all.or(scopes_of_events(pattern)));
        self.holds(needed, "a subscription is sent only what you may read")?;
        Ok(Granted::by_rule(is))
    }

    fn holds(&self, scopes: Scopes, what: &str) -> Result<(), ApiError> {
        let lacking = scopes.without(self.scopes);
        if lacking.is_empty() {
            return Ok(());
        }
        Err(ApiError::new(ErrorCode::Forbidden, format!("{what}; you lack {}", lacking.names().join(", "))))
    }

    fn is_unbounded(&self, what: &str) -> Result<(), ApiError> {
        if self.ip_allowed.is_none() && self.expires_at.is_none() {
            return Ok(());
        }
        let message =
            format!("your key has networks or an end, and {what} have neither: sign in, or use a key without");
        Err(ApiError::new(ErrorCode::Forbidden, message))
    }
}

fn role(name: &str) -> Result<Role, ApiError> {
    Role::from_name(name).ok_or_else(|| ApiError::internal(format!("the role {name:?} is not known")))
}

fn is_within(network: &str, networks: &[String]) -> bool {
    let parsed = |text: &str| text.parse::<IpNet>().ok();
    parsed(network).is_some_and(|asked| networks.iter().filter_map(|own| parsed(own)).any(|own| own.contains(&asked)))
}

/// The scopes that let read events of a type; `None` for one that is not known.
#[must_use]
pub fn scopes_of_event(event_type: &str) -> Option<Scopes> {
    if WEBHOOK_EVENT_TYPES.iter().any(|(name, _)| *name == event_type) {
        return Some([Scope::ReadWebhooks].into_iter().collect());
    }
    let event_type = EventType::from_name(event_type)?;
    let subject = read_scopes(event_type.subject());
    Some(match event_type.carries() {
        Carries::Document => subject,
        Carries::LowStock => subject.or([Scope::ReadStock].into_iter().collect()),
    })
}

/// The scopes that let read all events that a pattern names.
fn scopes_of_events(pattern: &str) -> Scopes {
    let named = event_types().filter(|(event_type, _)| names(pattern, event_type));
    named.filter_map(|(event_type, _)| scopes_of_event(event_type)).fold(Scopes::default(), Scopes::or)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(role: Role, ip_allowed: Option<&[&str]>, expires_at: Option<i64>) -> Key {
        Key {
            id: Uuid::nil(),
            tenant: TenantId(Uuid::nil()),
            name: String::new(),
            hint: String::new(),
            role: role.name().to_owned(),
            scopes: None,
            ip_allowed: ip_allowed.map(|networks| networks.iter().map(|network| (*network).to_owned()).collect()),
            created_by: String::new(),
            created_at: now(),
            expires_at: expires_at.map(Timestamp::from_micros),
            last_used_at: None,
            revoked_at: None,
            rotated_to: None,
        }
    }

    fn of(role: Role, ip_allowed: Option<&[&str]>, expires_at: Option<i64>) -> Grant {
        let Key { ip_allowed, expires_at, .. } = key(role, ip_allowed, expires_at);
        Grant { scopes: Scopes::of_role(role), ip_allowed, expires_at }
    }

    #[test]
    fn a_key_makes_none_that_is_good_elsewhere_or_for_longer_or_can_do_more() {
        let office: &[&str] = &["203.0.113.0/24", "2001:db8::/32"];
        let bound = of(Role::Dev, Some(office), Some(1_000));
        let dev = |networks, expires_at| key(Role::Dev, networks, expires_at);
        assert!(bound.key(&dev(Some(office), Some(1_000))).is_ok());
        assert!(bound.key(&dev(Some(&["203.0.113.7/32", "2001:db8:1::/48"]), Some(999))).is_ok());
        assert!(bound.key(&key(Role::Admin, Some(office), Some(999))).is_err());
        let beyond: [(Option<&[&str]>, Option<i64>); 6] = [
            (None, Some(1_000)),
            (Some(office), None),
            (Some(office), Some(1_001)),
            (Some(&["203.0.112.0/23"]), Some(1_000)),
            (Some(&["203.0.113.7/32", "198.51.100.1/32"]), Some(1_000)),
            (Some(&["0.0.0.0/0"]), Some(1_000)),
        ];
        for (networks, expires_at) in beyond {
            let refused = bound.key(&dev(networks, expires_at)).unwrap_err();
            assert_eq!(refused.code(), ErrorCode::Forbidden, "{networks:?} {expires_at:?}");
        }
        assert!(of(Role::Dev, None, None).key(&dev(None, None)).is_ok());
    }

    #[test]
    fn whose_own_time_or_place_is_bounded_gives_nobody_a_role() {
        assert!(of(Role::Admin, None, None).person("dev").is_ok());
        for bounded in [of(Role::Admin, Some(&["127.0.0.1/32"]), None), of(Role::Admin, None, Some(1_000))] {
            assert_eq!(bounded.person("billing").unwrap_err().code(), ErrorCode::Forbidden);
        }
        assert_eq!(of(Role::Dev, None, None).person("admin").unwrap_err().code(), ErrorCode::Forbidden);
    }

    #[test]
    fn every_type_of_event_needs_a_scope_that_reads_its_subject_and_all_needs_all() {
        for (event_type, _) in event_types() {
            let needed = scopes_of_event(event_type).unwrap();
            assert!(!needed.is_empty() && needed.names().iter().all(|name| name.starts_with("read:")), "{event_type}");
        }
        assert_eq!(scopes_of_events("order.*").names(), ["read:orders"]);
        assert_eq!(scopes_of_events("stock.low").names(), ["read:catalog", "read:stock"]);
        assert_eq!(scopes_of_events("webhook.*").names(), ["read:webhooks"]);
        assert_eq!(scopes_of_events("*").names(), ["read:catalog", "read:orders", "read:stock", "read:webhooks"]);
    }
}
