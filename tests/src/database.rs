//! A test's databases. Its first is a copy of a template that holds today's tables: a copy takes a tenth of the time that
//! all migrations take.

use crate::places::{admin_url, binary, lock_file, root};
use anyhow::{Context as _, Result, bail};
use sqlx::{Connection as _, PgConnection};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use tokio::process::Command;

/// Makes an empty database, and says where it is.
pub(crate) async fn create_empty(name: &str) -> Result<String> {
    create(&mut admin().await?, name, "template1").await
}

/// Makes a database with today's tables, and says where it is.
pub(crate) async fn create_migrated(name: &str) -> Result<String> {
    let mut admin = admin().await?;
    let template = template(&mut admin).await?;
    create(&mut admin, name, &template).await
}

/// Drops databases, also where sessions are still in them.
pub(crate) async fn remove(names: &[String]) -> Result<()> {
    let mut admin = admin().await?;
    for name in names {
        sqlx::query(&format!("drop database if exists {name} with (force)")).execute(&mut admin).await?;
    }
    Ok(())
}

async fn admin() -> Result<PgConnection> {
    PgConnection::connect(&admin_url()).await.context("PostgreSQL: is ./dev up?")
}

async fn create(admin: &mut PgConnection, name: &str, template: &str) -> Result<String> {
    sqlx::query(&format!("create database {name} template {template}")).execute(admin).await?;
    url_of(name)
}

fn url_of(name: &str) -> Result<String> {
    let url = admin_url();
    let (server, _) = url.rsplit_once('/').context("TWH_DATABASE_URL names no database")?;
    Ok(format!("{server}/{name}"))
}

/// The template of today's migrations; the first test that asks makes it. It has its name only once it is whole.
async fn template(admin: &mut PgConnection) -> Result<String> {
    let name = format!("twh_template_{:016x}", migrations()?);
    let making = lock_file("template")?;
    tokio::task::spawn_blocking(move || making.lock().map(|()| making)).await??;
    let exists = "select exists (select from pg_database where datname = $1)";
    if !sqlx::query_scalar(exists).bind(&name).fetch_one(&mut *admin).await? {
        let unfinished = format!("{name}_unfinished");
        remove(std::slice::from_ref(&unfinished)).await?;
        let url = create(admin, &unfinished, "template1").await?;
        let output = Command::new(binary("twh")?).arg("migrate").env("TWH_DATABASE_URL", url).output().await?;
        if !output.status.success() {
            bail!("twh migrate: {}", String::from_utf8_lossy(&output.stderr));
        }
        sqlx::query(&format!("alter database {unfinished} rename to {name}")).execute(admin).await?;
    }
    Ok(name)
}

/// A digest of the migrations: another migration is another template.
fn migrations() -> Result<u64> {
    let mut files = BTreeMap::new();
    for file in std::fs::read_dir(root().join("migrations"))? {
        let path = file?.path();
        files.insert(path.clone(), std::fs::read(path)?);
    }
    let mut digest = DefaultHasher::new();
    files.hash(&mut digest);
    Ok(digest.finish())
}
