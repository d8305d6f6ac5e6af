//! Where things are: the built programs, the tools of tests, and the folder in which a test leaves what is to be
//! read when it fails.

use anyhow::{Context as _, Result, bail};
use std::fs::File;
use std::path::PathBuf;
use uuid::Uuid;

/// The root of the project.
#[must_use]
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A Python with the packages of `deploy/python-requirements.txt`.
pub fn python() -> Result<PathBuf> {
    let python = std::env::var_os("TWH_TEST_PYTHON").map_or_else(|| root().join(".twh/venv/bin/python"), PathBuf::from);
    if python.exists() { Ok(python) } else { bail!("{} is missing: ./dev test makes it", python.display()) }
}

/// The folder of npm packages that the tests of sign-on run against: what `deploy/npm/package-lock.json` lists.
pub fn npm_packages() -> Result<PathBuf> {
    let own = || root().join(".twh/npm/node_modules");
    let modules = std::env::var_os("TWH_TEST_NPM_PACKAGES").map_or_else(own, PathBuf::from);
    if modules.exists() { Ok(modules) } else { bail!("{} is missing: ./dev test makes it", modules.display()) }
}

/// The folder of the profile that this was built with: `target/ci`, say. Tests lie in `deps` below it.
fn built() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let folder = program.parent().context("the program has no place")?;
    Ok(if folder.ends_with("deps") { folder.join("..") } else { folder.to_owned() })
}

/// A built binary (`twh`, `twh-tools`): of the same build as the test that runs, or from the folder in `TWH_TEST_PROGRAMS`.
pub fn binary(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("TWH_TEST_PROGRAMS").map_or_else(built, |folder| Ok(folder.into()))?.join(name);
    if path.exists() { Ok(path) } else { bail!("{} is not built: ./dev test builds it", path.display()) }
}

/// The folder that tests share: locks, and a folder for each test.
fn shared() -> Result<PathBuf> {
    let folder = built()?.join("tests");
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// A file that tests lock against each other, also where each is a process of its own.
pub(crate) fn lock_file(name: &str) -> Result<File> {
    let path = shared()?.join(name);
    Ok(File::options().create(true).truncate(false).write(true).open(path)?)
}

/// The folder of the test that runs. What is left in it when the test has failed is shown with the failure.
pub(crate) fn test_folder() -> Result<PathBuf> {
    let thread = std::thread::current();
    let name = std::env::var("NEXTEST_TEST_NAME").ok().or_else(|| thread.name().map(str::to_owned));
    let name = name.context("neither the runner nor the thread names the test")?;
    let folder = shared()?.join(name.replace("::", "."));
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// An address that a server keeps over its restarts, and that no other test is given meanwhile. Below the ports that the
/// kernel gives to clients (32768 and up on Linux), or a client that knocks at a killed server would sooner or later be
/// given its port, and keep it from starting.
pub fn free_address() -> Result<String> {
    for _ in 0..100 {
        let port = 21_000 + Uuid::new_v4().as_u128() % 11_000;
        let taken = lock_file(&format!("port-{port}"))?;
        let address = format!("127.0.0.1:{port}");
        if taken.try_lock().is_ok() && std::net::TcpListener::bind(&address).is_ok() {
            // Locked for as long as the process lives.
            std::mem::forget(taken);
            return Ok(address);
        }
    }
    bail!("no port from 21000 to 31999 is free")
}
