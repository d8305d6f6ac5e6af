//! Faults of a world's own database, and what the server says of them.

use crate::{REQUEST_TIMEOUT, World, http_client};
use anyhow::{Context as _, Result};
use sqlx::Executor as _;

impl World {
    /// From now on the database refuses rows of a table for which a condition holds (of the row `new`), with an SQLSTATE.
    pub async fn refuse_rows(&self, table: &str, condition: &str, sqlstate: &str) -> Result<()> {
        let function = format!("twh_test_refuse_{table}");
        let sql = format!(
            "create or replace function {function}() returns trigger language plpgsql as $$ begin
                 if {condition} then raise exception 'refused by the test' using errcode = '{sqlstate}'; end if;
                 return new;
             end $$;
             create or replace trigger {function} before insert or update on {table} for each row execute function {function}()"
        );
        self.pool().await?.execute(sql.as_str()).await?;
        Ok(())
    }

    /// How often something of a kind held up a partition of a group, by the server's own count.
    pub async fn trouble(&self, group: &str, kind: &str) -> Result<u64> {
        let metrics =
            http_client(REQUEST_TIMEOUT)?.get(format!("{}/metrics", self.ops_url)).send().await?.text().await?;
        let is_it = |line: &&str| {
            line.starts_with("twh_partition_trouble_total{")
                && line.contains(&format!("{group}\""))
                && line.contains(&format!("kind=\"{kind}\""))
        };
        let counts = metrics.lines().filter(is_it).map(|line| {
            let (_, count) = line.rsplit_once(' ').context("a metric has a value")?;
            Ok(count.parse::<u64>()?)
        });
        counts.sum()
    }
}
