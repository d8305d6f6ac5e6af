//! `with-server COMMAND…` runs a command whose tests share a server: see [`twh_tests::Shared`]. It ends as the command does.

use anyhow::{Context as _, Result};
use std::process::ExitCode;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let mut words = std::env::args_os().skip(1);
    let mut command = Command::new(words.next().context("with-server runs a command: which?")?);
    command.args(words).kill_on_drop(true);
    // Who interrupts from a terminal interrupts the command too, which then says how it ends.
    let (mut interrupted, mut terminated) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let run = twh_tests::shared::run(command);
    tokio::pin!(run);
    loop {
        tokio::select! {
            status = &mut run => {
                let code = status?.code().and_then(|code| u8::try_from(code).ok());
                return Ok(code.map_or(ExitCode::FAILURE, ExitCode::from));
            }
            _ = interrupted.recv() => {}
            _ = terminated.recv() => return Ok(ExitCode::FAILURE),
        }
    }
}
