//! A test's databases. A world's first is a copy of a template that holds today's tables: a copy takes a tenth of the time that
//! all migrations take.

use crate::parts::Parts;
use crate::places::{binary, lock_file, root};
use anyhow::{Context as _, Result, bail};
use sqlx::{Connection as _, PgConnection};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use tokio::process::Command;

/// A connection that makes and drops databases on a server.
pub struct Databases {
    /// The address of the server, without a database.
    server: String,
    admin: PgConnection,
}

impl Databases {
    /// On the server that all tests share.
    pub async fn shared() -> Result<Self> {
        Self::connect(Parts::shared().database()).await
    }

    /// By the address of a database of the server's.
    pub async fn connect(url: &str) -> Result<Self> {
        let (server, _) = url.rsplit_once('/').context("TWH_DATABASE_URL names no database")?;
        let admin = PgConnection::connect(url).await.context("PostgreSQL: is ./dev up?")?;
        Ok(Self { server: server.to_owned(), admin })
    }

    /// Makes an empty database, and says where it is.
    pub async fn create_empty(&mut self, name: &str) -> Result<String> {
        self.create(name, "template1").await
    }

    /// Makes a database with today's tables, and says where it is.
    pub async fn create_migrated(&mut self, name: &str) -> Result<String> {
        let template = self.template().await?;
        self.create(name, &template).await
    }

    /// Drops databases, also where sessions are still in them.
    pub async fn remove(&mut self, names: &[String]) -> Result<()> {
        for name in names {
            let gently = format!("drop database if exists {name}");
            let forced = format!("{gently} with (force)");
            let mut dropped = sqlx::query(&forced).execute(&mut self.admin).await;
            // A vacuum is the server's own: force may not end it, while a drop without force does.
            for again in [&gently, &forced, &gently, &forced] {
                if dropped.is_err() {
                    dropped = sqlx::query(again).execute(&mut self.admin).await;
                }
            }
            dropped.with_context(|| forced)?;
        }
        Ok(())
    }

    async fn create(&mut self, name: &str, template: &str) -> Result<String> {
        sqlx::query(&format!("create database {name} template {template}")).execute(&mut self.admin).await?;
        Ok(format!("{}/{name}", self.server))
    }

    /// The template of today's migrations; the first test that asks makes it. It has its name only once it is whole.
    async fn template(&mut self) -> Result<String> {
        let name = format!("twh_template_{:016x}", migrations()?);
        let making = lock_file("template")?;
        let _making = tokio::task::spawn_blocking(move || making.lock().map(|()| making)).await??;
        let exists = "select exists (select from pg_database where datname = $1)";
        if !sqlx::query_scalar(exists).bind(&name).fetch_one(&mut self.admin).await? {
            let unfinished = format!("{name}_unfinished");
            self.remove(std::slice::from_ref(&unfinished)).await?;
            let url = self.create(&unfinished, "template1").await?;
            let output = Command::new(binary("twh")?).arg("migrate").env("TWH_DATABASE_URL", url).output().await?;
            if !output.status.success() {
                bail!("twh migrate: {}", String::from_utf8_lossy(&output.stderr));
            }
            sqlx::query(&format!("alter database {unfinished} rename to {name}")).execute(&mut self.admin).await?;
        }
        Ok(name)
    }
}

/// A digest of the migrations: another migration is another template.
fn migrations() -> Result<u64> {
    let mut files = BTreeMap::new();
    for file in std::fs::read_dir(root().join("migrations"))? {
        let path = file?.path();
        files.insert(path.file_name().map(ToOwned::to_owned), std::fs::read(path)?);
    }
    let mut digest = DefaultHasher::new();
    files.hash(&mut digest);
    Ok(digest.finish())
}
