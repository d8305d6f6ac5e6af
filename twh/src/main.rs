//! The Warehouse Hub: one binary, every role.

mod config;
mod durability;
mod halts;
mod key_files;
mod lag;
mod ledger;
mod listen;
mod openapi;
mod parts;
mod progress;
mod projections;
mod replay;
mod roles;
mod serve;
mod telemetry;
mod verify;
mod webhooks;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use config::Config;
use roles::Role;
use std::process::ExitCode;
use twh_accounts::provision::{self, ResetBy};
use twh_accounts::sso;
use twh_domain::id::TenantId;
use twh_edge::limits::Plan;
use twh_edge::tokens;
use twh_schemas::catalogue;
use twh_sinks::postgres;
use uuid::Uuid;

/// The ledger allocates many small things and frees them on other threads: half of its time goes there with glibc's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The Warehouse Hub: a ledger-first inventory platform on Kafka and Postgres.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs every role in one process, or those named.
    Serve {
        /// The roles to run; all by default.
        #[arg(long, value_enum, value_delimiter = ',')]
        roles: Vec<Role>,
    },
    /// Runs the write side of the API.
    Ingest,
    /// Runs a consumer group (or a background task).
    Process {
        /// Which.
        #[arg(value_enum)]
        group: Role,
    },
    /// Brings the database's tables up to date.
    Migrate,
    /// Creates the topics and registers their schemas; with --markdown, prints their documentation instead.
    Topics {
        /// Prints docs/topics.md.
        #[arg(long)]
        markdown: bool,
    },
    /// Manages tenants.
    Tenant {
        #[command(subcommand)]
        command: TenantCommand,
    },
    /// Checks the ledger against itself: chains, sequences, levels, documents, reservations. Never writes to it.
    Verify(verify::VerifyArguments),
    /// Builds the ledger anew in another database, from the topic of commands, and compares it with the live one.
    Replay(replay::ReplayArguments),
    /// Builds what is read anew from the log, beside what answers, and lets it answer then.
    Rebuild(projections::RebuildArguments),
    /// Shows why partitions of commands stand halted, and lets them go on.
    Ledger {
        #[command(subcommand)]
        command: halts::LedgerCommand,
    },
    /// Makes the key that signs checkpoints of ledgers, in a new file that only its owner can read.
    LedgerKey {
        /// The file.
        #[arg(long)]
        out: std::path::PathBuf,
    },
    /// Manages the keys that secrets are sealed and tokens are signed with.
    Secrets {
        #[command(subcommand)]
        command: SecretsCommand,
    },
    /// Manages people.
    User {
        #[command(subcommand)]
        command: UserCommand,
    },
    /// Forwards a sandbox tenant's events to a URL on this machine, signed as webhooks are, without a subscription.
    Listen(listen::ListenArguments),
    /// Prints the reference of the configuration.
    Config,
    /// Prints the description of the API (OpenAPI 3.1).
    Openapi,
}

#[derive(Debug, Subcommand)]
enum TenantCommand {
    /// Makes a tenant and its first API key, which is shown this once.
    Create {
        /// What people call it.
        #[arg(long)]
        name: String,
        /// Its plan: free, growth, scale or enterprise.
        #[arg(long, default_value = "enterprise", value_parser = Plan::ALL.map(Plan::name))]
        plan: String,
    },
    /// Gives a tenant another plan; running servers hold it to that within seconds.
    Plan {
        /// Its id.
        #[arg(long)]
        tenant: Uuid,
        /// Its plan: free, growth, scale or enterprise.
        #[arg(long, value_parser = Plan::ALL.map(Plan::name))]
        plan: String,
    },
}

#[derive(Debug, Subcommand)]
enum SecretsCommand {
    /// Makes a file with a new master key. To rotate, put its line before those of the file in use, and reseal.
    New {
        /// The key's name, new.
        #[arg(long)]
        name: String,
        /// The file.
        #[arg(long)]
        out: std::path::PathBuf,
    },
    /// Seals everything under the newest master key; what the older ones sealed needs them no longer.
    Reseal,
    /// Makes another key that access tokens are signed with; those signed before stay good for their time.
    RotateSigningKey,
}

#[derive(Debug, Subcommand)]
enum UserCommand {
    /// Prints a token with which a person can set a new password, within an hour.
    PasswordReset {
        /// Whose.
        #[arg(long)]
        email: String,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("twh: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Config => print(&Config::reference()),
        Command::Openapi => print(&openapi::document().to_pretty()),
        Command::Topics { markdown: true } => print(&catalogue::to_markdown()),
        Command::LedgerKey { out } => key_files::ledger_key(&out),
        Command::Secrets { command: SecretsCommand::New { name, out } } => key_files::master_key(&name, &out),
        Command::Listen(arguments) => runtime()?.block_on(listen::run(arguments)),
        command => {
            let config = Config::from_env()?;
            telemetry::start(&config)?;
            runtime()?.block_on(run_async(command, config))
        }
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("the runtime could not be started")
}

async fn run_async(command: Command, config: Config) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve { roles } if roles.is_empty() => serve::run(config, Role::ALL).await,
        Command::Serve { roles } => serve::run(config, &roles).await,
        Command::Ingest => serve::run(config, &[Role::Ingest]).await,
        Command::Process { group } => serve::run(config, &[group]).await,
        Command::Migrate => {
            postgres::migrate(&parts::pool(&config)?).await.context("the tables could not be brought up to date")?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Topics { .. } => {
            parts::prepare_topics(&config).await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Secrets { command: SecretsCommand::Reseal } => {
            let (pool, secrets) = (parts::pool(&config)?, parts::secrets(&config)?);
            let keys = tokens::reseal(&pool, &secrets).await?;
            let providers = sso::reseal(&pool, &secrets).await?;
            let subscriptions = twh_webhooks::reseal(&pool, &secrets).await?;
            print(&format!(
                "{keys} signing keys, {providers} client secrets and the secrets of {subscriptions} webhook subscriptions were sealed anew\n"
            ))
        }
        Command::Secrets { command: SecretsCommand::RotateSigningKey } => {
            let kid = tokens::rotate(&parts::pool(&config)?, &parts::secrets(&config)?).await?;
            print(&format!("{kid} signs from now on\n"))
        }
        Command::User { command: UserCommand::PasswordReset { email } } => {
            let (pool, secrets) = (parts::pool(&config)?, parts::secrets(&config)?);
            let token = provision::password_reset(&pool, &secrets, &email, ResetBy::Operator).await?;
            print(&format!("{token}\n"))
        }
        Command::Tenant { command: TenantCommand::Create { name, plan } } => {
            let tenant = provision::tenant(&parts::pool(&config)?, &parts::secrets(&config)?, &name, &plan)
                .await
                .context("the tenant could not be made")?;
            print(&format!("{}\n", serde_json::json!({ "tenant_id": tenant.tenant_id, "api_key": tenant.api_key })))
        }
        Command::Tenant { command: TenantCommand::Plan { tenant, plan } } => {
            let old = provision::set_plan(&parts::pool(&config)?, TenantId(tenant), &plan).await?;
            print(&format!("{tenant} has the plan {plan} from now on; it had {old}\n"))
        }
        Command::Rebuild(arguments) => projections::rebuild(&config, arguments).await,
        Command::Ledger { command } => halts::run(&config, command).await,
        Command::Verify(arguments) => verify::run(&config, arguments).await,
        Command::Replay(arguments) => replay::run(&config, arguments).await,
        Command::Config
        | Command::Openapi
        | Command::Listen(_)
        | Command::LedgerKey { .. }
        | Command::Secrets { command: SecretsCommand::New { .. } } => Ok(ExitCode::SUCCESS),
    }
}

/// Writes to standard output: what a command was asked for. Everything else goes to the log.
pub(crate) fn print(text: &str) -> anyhow::Result<ExitCode> {
    use std::io::Write as _;
    std::io::stdout().write_all(text.as_bytes()).context("standard output cannot be written")?;
    Ok(ExitCode::SUCCESS)
}
