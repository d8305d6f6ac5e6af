//! `with-server COMMAND…` runs a command whose tests share a server: see [`twh_tests::Shared`]. It ends as the command does.

use anyhow::{Context as _, Result};
use std::process::ExitCode;
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};
use twh_tests::shared::start;

/// What ends a run.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn any(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let mut words = std::env::args_os().skip(1);
    let mut command = Command::new(words.next().context("with-server runs a command: which?")?);
    command.args(words);
    let mut signals = Signals::new()?;
    let _world = tokio::select! {
        world = start(&mut command) => world?,
        () = signals.any() => return Ok(ExitCode::FAILURE),
    };
    let mut child = command.spawn()?;
    loop {
        tokio::select! {
            status = child.wait() => {
                let code = status?.code().and_then(|code| u8::try_from(code).ok());
                return Ok(code.map_or(ExitCode::FAILURE, ExitCode::from));
            }
            // Who interrupts from a terminal interrupts the command too, which then says how it ends.
            _ = signals.interrupt.recv() => {}
            _ = signals.terminate.recv() => ask_to_stop(&child).await?,
            _ = signals.hangup.recv() => ask_to_stop(&child).await?,
        }
    }
}

/// The command ends what it started, and then itself.
async fn ask_to_stop(child: &Child) -> Result<()> {
    if let Some(id) = child.id() {
        Command::new("kill").arg(id.to_string()).status().await?;
    }
    Ok(())
}
