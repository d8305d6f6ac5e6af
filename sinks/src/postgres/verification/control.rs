//! What control records say of keys, members and the like, against what stands in the tables.

use super::super::accounts::state::{KINDS, OF_PERSONS, REMOVALS};
use serde_json::{Map, Value};
use sqlx::{PgConnection, Row};
use std::collections::BTreeMap;
use twh_domain::event::ControlRecord;
use twh_domain::id::TenantId;
use twh_domain::timestamp::Timestamp;
use uuid::Uuid;

/// What a record says that a row is, as the columns' values.
type Fields = Map<String, Value>;

/// Which columns an action changes.
enum Changes {
    /// These.
    Only(&'static [&'static str]),
    /// Those that the record tells the old values of, which were what it tells; and these, which change with them.
    AsTold(&'static [&'static str]),
    /// All: there was no row before.
    Makes,
    /// None of a row, or there is no row any more.
    Nothing,
}

/// What changes more than its action may is a change that nobody made through the API, and so is an action that is not here.
const ACTIONS: &[(&str, Changes)] = &[
    ("tenant.create", Changes::Makes),
    ("api_key.create", Changes::Makes),
    ("member.join", Changes::Makes),
    ("member.remove", Changes::Nothing),
    ("invitation.create", Changes::Makes),
    ("identity_provider.create", Changes::Makes),
    ("identity_provider.delete", Changes::Nothing),
    ("webhook.register", Changes::Makes),
    ("webhook.delete", Changes::Nothing),
    ("tenant.plan", Changes::Only(&["plan"])),
    ("webhook.listen", Changes::Only(&[])),
    ("api_key.rotate", Changes::Only(&["expires_at", "rotated_to"])),
    ("api_key.revoke", Changes::Only(&["revoked_at"])),
    ("member.update", Changes::Only(&["role"])),
    ("user.password", Changes::Only(&["password_hash"])),
    ("user.password_reset", Changes::Only(&["password_hash"])),
    ("user.update", Changes::Only(&["email", "email_key", "name"])),
    ("invitation.accept", Changes::Only(&["accepted_at"])),
    ("invitation.revoke", Changes::Only(&["revoked_at"])),
    ("identity_provider.update", Changes::AsTold(&["updated_at"])),
    ("webhook.update", Changes::AsTold(&["updated_at", "version", "has_client_certificate"])),
    ("webhook.rotate", Changes::Only(&["secret_hint", "previous_until", "updated_at", "version"])),
    ("webhook.quarantined", Changes::Only(STATE)),
    ("webhook.recovered", Changes::Only(STATE)),
    ("webhook.disabled", Changes::Only(STATE)),
    ("webhook.test", Changes::Only(&[])),
    ("webhook.replay", Changes::Only(&[])),
    ("webhook.replay_delivery", Changes::Only(&[])),
    ("webhook.cancel_replay", Changes::Only(&[])),
];
const STATE: &[&str] = &["state", "state_reason", "state_since", "updated_at", "version"];

/// The row that a record holds; `None` where it holds none.
fn kept(values: &str) -> Option<Fields> {
    #[derive(serde::Deserialize)]
    struct Kept {
        kept: Option<Fields>,
    }
    serde_json::from_str::<Kept>(values).ok()?.kept
}

/// What was changed between two records without either telling of it. `before` is the row that the record before this one holds.
pub(super) fn untold_change(record: &ControlRecord, before: Option<&str>) -> Option<String> {
    let of_a_row = KINDS.contains(&record.entity_kind.as_str()) || OF_PERSONS.contains(&record.action.as_str());
    if !of_a_row {
        return None;
    }
    untold(&record.action, before, record.old.as_deref(), record.new.as_deref())
}

fn untold(action: &str, before: Option<&str>, old: Option<&str>, new: Option<&str>) -> Option<String> {
    let Some((_, changes)) = ACTIONS.iter().find(|(known, _)| *known == action) else {
        // The first record of a row that is older than such records.
        let is_first = action.ends_with(".baseline") && before.is_none();
        return (!is_first).then(|| format!("there is no action {action} upon a row that has a record"));
    };
    let before: Fields = serde_json::from_str(before?).ok()?;
    let after = new.and_then(kept).unwrap_or_default();
    let same = |column: &str| after.get(column).is_none_or(|now| before.get(column) == Some(now));
    let column = match changes {
        Changes::Makes => return Some("makes what is there already".to_owned()),
        Changes::Nothing => None,
        Changes::Only(columns) => before.keys().find(|column| !columns.contains(&column.as_str()) && !same(column)),
        Changes::AsTold(along) => {
            let told: Fields = serde_json::from_str(old?).ok()?;
            before.iter().find_map(|(column, was)| {
                let untold = match told.get(column) {
                    Some(told) => !is_same(was, told),
                    None => !along.contains(&column.as_str()) && !same(column),
                };
                untold.then_some(column)
            })
        }
    };
    column.map(|column| format!("{column} had been changed before it, and no record tells of that"))
}

/// Records write times as the API does, which is not how a row's column is written.
fn is_same(value: &Value, told: &Value) -> bool {
    let time = |value: &Value| value.as_str().and_then(|text| text.parse::<Timestamp>().ok());
    value == told || time(value).is_some_and(|at| time(told) == Some(at))
}

/// What the account of changes says of a row.
pub(super) struct Newest {
    kind: String,
    id: Uuid,
    says: Says,
}

enum Says {
    /// It is so.
    Kept(Fields),
    /// It is gone.
    Gone,
    /// Nothing: the record was written by a version from before records held rows, while this one ran.
    Nothing,
}

/// A row as it stands.
pub(super) struct Standing {
    gone: bool,
    state: Fields,
}

/// An id and its kind, in this order: by the bytes of the kind where kinds share an id.
pub(super) type Key = (Uuid, String);

/// A row in words.
pub(super) fn named((id, kind): &Key) -> String {
    let noun = match kind.as_str() {
        "api_key" => "API key",
        "identity_provider" => "identity provider",
        "webhook_subscription" => "webhook subscription",
        kind => kind,
    };
    format!("{noun} {id}")
}

impl Newest {
    pub(super) fn key(&self) -> Key {
        (self.id, self.kind.clone())
    }

    /// In what a row is not what the account says.
    pub(super) fn contradicts(&self, standing: Option<&Standing>) -> Option<String> {
        match (&self.says, standing.filter(|row| !row.gone)) {
            (Says::Nothing, _) | (Says::Gone, None) => None,
            (Says::Gone, Some(_)) => {
                Some("is there, although its newest control record says that it is gone".to_owned())
            }
            (Says::Kept(_), None) => Some("is missing, although its newest control record tells of it".to_owned()),
            (Says::Kept(fields), Some(row)) => {
                let column = fields.iter().find(|(column, value)| row.state.get(*column) != Some(*value))?.0;
                Some(format!("its {column} is not what its newest control record says"))
            }
        }
    }
}

/// What the account says of rows, a page in their order.
pub(super) async fn newest(
    connection: &mut PgConnection,
    tenant: TenantId,
    after: Option<&Key>,
    limit: i64,
) -> Result<Vec<Newest>, sqlx::Error> {
    let rows = sqlx::query(
        r#"select distinct on (entity_id, kind collate "C") entity_id, kind, action, new::text as new
         from (select *, case when action = any($2) then 'member' else entity_kind end as kind from control_audit
             where tenant_id = $1 and (entity_kind = any($3) or action = any($2)) and ($4::uuid is null or entity_id >= $4)) c
         where $4::uuid is null or entity_id > $4 or kind collate "C" > $5
         order by entity_id, kind collate "C", sequence desc limit $6"#,
    )
    .bind(tenant.0)
    .bind(OF_PERSONS)
    .bind(KINDS)
    .bind(after.map(|(id, _)| *id))
    .bind(after.map(|(_, kind)| kind))
    .bind(limit)
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            let action: String = row.try_get("action")?;
            let new: Option<String> = row.try_get("new")?;
            let says = if REMOVALS.contains(&action.as_str()) {
                Says::Gone
            } else {
                new.as_deref().and_then(kept).map_or(Says::Nothing, Says::Kept)
            };
            Ok(Newest { kind: row.try_get("kind")?, id: row.try_get("entity_id")?, says })
        })
        .collect()
}

/// The rows after one, up to another where one is given.
pub(super) async fn standing(
    connection: &mut PgConnection,
    tenant: TenantId,
    after: Option<&Key>,
    through: Option<&Key>,
) -> Result<BTreeMap<Key, Standing>, sqlx::Error> {
    let rows = sqlx::query(
        r#"select kind, id, gone, state::text as state from control_state
         where tenant_id = $1 and ($2::uuid is null or id > $2 or (id = $2 and kind collate "C" > $3))
             and ($4::uuid is null or id < $4 or (id = $4 and kind collate "C" <= $5))"#,
    )
    .bind(tenant.0)
    .bind(after.map(|(id, _)| *id))
    .bind(after.map(|(_, kind)| kind))
    .bind(through.map(|(id, _)| *id))
    .bind(through.map(|(_, kind)| kind))
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            let state =
                serde_json::from_str(row.try_get("state")?).map_err(|error| sqlx::Error::Decode(error.into()))?;
            Ok(((row.try_get("id")?, row.try_get("kind")?), Standing { gone: row.try_get("gone")?, state }))
        })
        .collect()
}

/// What is wrong with a tenant that has no control record: each begins with `tenant.create`. A ledger that was rebuilt from the log of
/// commands in a database of its own is no tenant's there, and nothing is wrong with it.
pub(super) async fn without_records(
    connection: &mut PgConnection,
    tenant: TenantId,
) -> Result<Option<String>, sqlx::Error> {
    let (is_there, is_missed): (bool, bool) = sqlx::query_as(
        "select exists (select from control_state where tenant_id = $1),
             exists (select from ledger_heads where tenant_id = $1) and exists (select from control_state where kind = 'tenant')",
    )
    .bind(tenant.0)
    .fetch_one(connection)
    .await?;
    Ok(if is_there {
        Some("has no control records, although its account begins with the one that made it".to_owned())
    } else {
        is_missed.then(|| "is missing, although it has a ledger".to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::untold;

    #[test]
    fn a_change_that_no_record_tells_of_is_seen_in_the_next_record() {
        let before = r#"{"role":"dev","scopes":["read:keys"],"revoked_at":null}"#;
        let revoked = |role: &str| {
            format!(
                r#"{{"kept":{{"role":"{role}","scopes":["read:keys"],"revoked_at":"2026-01-01T00:00:00+00:00","later":1}}}}"#
            )
        };
        let before = Some(before);
        assert_eq!(untold("api_key.revoke", before, None, Some(&revoked("dev"))), None);
        let found = untold("api_key.revoke", before, None, Some(&revoked("admin")));
        assert!(found.is_some_and(|problem| problem.starts_with("role had been changed")));
        assert_eq!(untold("api_key.create", None, None, Some(&revoked("admin"))), None);
        for made_up in ["api_key.create", "api_key.baseline", "api_key.whatever"] {
            assert!(untold(made_up, before, None, Some(&revoked("admin"))).is_some(), "{made_up}");
        }
        assert_eq!(untold("api_key.baseline", None, None, Some(&revoked("admin"))), None);
        assert!(untold("api_key.whatever", None, None, None).is_some());
    }

    #[test]
    fn what_an_update_does_not_tell_of_stays() {
        let row = |url: &str, until: &str, version: i64| {
            format!(
                r#"{{"url":"{url}","state_since":"2026-01-01T00:00:00+00:00","previous_until":{until},"version":{version}}}"#
            )
        };
        let before = row("https://a.example", "null", 1);
        let old = |url: &str, since: &str| format!(r#"{{"url":"{url}","state_since":"{since}","ordering":"none"}}"#);
        let kept = |row: &str| format!(r#"{{"kept":{row}}}"#);
        let untold =
            |old: String, after: String| untold("webhook.update", Some(&before), Some(&old), Some(&kept(&after)));
        let since = "2026-01-01T00:00:00Z";
        assert_eq!(untold(old("https://a.example", since), row("https://c.example", "null", 2)), None);
        assert!(untold(old("https://b.example", since), row("https://c.example", "null", 2)).is_some());
        assert!(
            untold(old("https://a.example", "2026-01-02T00:00:00Z"), row("https://c.example", "null", 2)).is_some()
        );
        let revived = row("https://c.example", r#""2036-01-01T00:00:00+00:00""#, 2);
        assert!(untold(old("https://a.example", since), revived).is_some());
    }
}
