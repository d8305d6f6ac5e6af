//! The migrations, in the program. sqlx's macro would embed them too, and would have the driver built a second time for it.

use sqlx::error::BoxDynError;
use sqlx::migrate::{Migration, MigrationSource, MigrationType};
use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;

/// A migration's file name without `.sql`, and what it holds.
type File = (&'static str, &'static str);

macro_rules! files {
    ($($name:literal),* $(,)?) => { &[$(($name, include_str!(concat!("../../../migrations/", $name, ".sql")))),*] };
}

/// Every file of `migrations/`.
const FILES: &[File] = files![
    "0001_ledger",
    "0002_faster_writes",
    "0003_one_statement",
    "0004_accounts",
    "0005_sign_on",
    "0006_row_level_security",
    "0007_become_tenant",
    "0008_audit_indexes",
    "0009_items_by_name",
    "0011_consumer_positions",
    "0012_webhooks",
    "0020_search",
    "0021_failed_attempts",
    "0022_projections",
    "0023_supply",
    "0024_search_mistakes",
    "0025_supply_sums",
    "0026_search_meanings_once",
    "0027_search_as_typed",
    "0030_control_state",
    "0031_lost_log",
    "0032_supply_exact",
    "0033_left_out",
    "0034_webhook_backlogs",
    "0035_halts",
];

/// What [`sqlx::migrate::Migrator`] is made of.
#[derive(Debug)]
pub(super) struct Embedded;

impl MigrationSource<'static> for Embedded {
    fn resolve(self) -> Pin<Box<dyn Future<Output = Result<Vec<Migration>, BoxDynError>> + Send + 'static>> {
        Box::pin(async { FILES.iter().map(migration).collect() })
    }
}

fn migration((name, sql): &File) -> Result<Migration, BoxDynError> {
    let (version, description) = name.split_once('_').ok_or_else(|| format!("the migration {name} has no number"))?;
    let description = Cow::Owned(description.replace('_', " "));
    Ok(Migration::new(version.parse()?, description, MigrationType::Simple, Cow::Borrowed(sql), false))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
mod tests {
    use super::FILES;
    use std::collections::BTreeSet;

    #[test]
    fn every_migration_is_in_the_program_and_in_order() {
        let folder = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../migrations")).unwrap();
        let there: BTreeSet<String> = folder.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        let embedded: Vec<String> = FILES.iter().map(|(name, _)| format!("{name}.sql")).collect();
        assert_eq!(there.into_iter().collect::<Vec<_>>(), embedded);
        assert!(FILES.iter().all(|(_, sql)| !sql.starts_with("-- no-transaction")), "each is run in a transaction");
    }
}
