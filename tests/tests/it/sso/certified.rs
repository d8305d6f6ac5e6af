//! Identity providers in processes of their own: scripts of `tests/sso/`, on packages that npm installed.

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};
use twh_tests::{free_address, npm_packages, root};
use uuid::Uuid;

const START_PATIENCE: Duration = Duration::from_secs(60);

/// A script that serves on a port of its own, with a folder of its own.
pub(crate) struct Process {
    pub(crate) url: String,
    pub(crate) folder: PathBuf,
    script: &'static str,
    child: Child,
}

impl Process {
    /// Starts one with these settings beside those that all have.
    pub(crate) async fn start(script: &'static str, settings: impl FnOnce(&Path) -> Value) -> Self {
        let address = free_address().unwrap();
        let folder = std::env::temp_dir().join(format!("twh_sso_{}", Uuid::new_v4().simple()));
        std::fs::create_dir(&folder).unwrap();
        let mut all = json!({
            "modules": std::fs::canonicalize(npm_packages().unwrap()).unwrap(),
            "port": address.rsplit(':').next().unwrap().parse::<u16>().unwrap(),
        });
        all.as_object_mut().unwrap().extend(settings(&folder).as_object().unwrap().clone());
        std::fs::write(folder.join("settings.json"), all.to_string()).unwrap();
        let child = launch(script, &folder);
        let mut process = Self { url: format!("http://{address}"), folder, script, child };
        process.becomes_ready().await;
        process
    }

    async fn restart(&mut self) {
        self.child.kill().await.unwrap();
        self.child = launch(self.script, &self.folder);
        self.becomes_ready().await;
    }

    async fn becomes_ready(&mut self) {
        let (begun, url) = (Instant::now(), format!("{}/.well-known/openid-configuration", self.url));
        while !reqwest::get(&url).await.is_ok_and(|answer| answer.status().is_success()) {
            let ended = self.child.try_wait().unwrap();
            let log = || std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            assert!(ended.is_none() && begun.elapsed() < START_PATIENCE, "{} does not start: {}", self.script, log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn launch(script: &str, folder: &Path) -> Child {
    Command::new("node")
        .arg(root().join("tests/sso").join(script))
        .arg(folder.join("settings.json"))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(folder.join("log")).unwrap())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.start_kill();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// `oidc-provider`, which is certified for OpenID Connect.
pub(crate) struct Certified {
    pub(crate) issuer: String,
    process: Process,
}

impl Certified {
    /// Starts one that knows one client, and nobody yet.
    pub(crate) async fn start((client_id, client_secret): (&str, &str), redirect_uri: &str) -> Self {
        let process = Process::start("provider.mjs", |folder| {
            std::fs::write(folder.join("people.json"), "{}").unwrap();
            json!({
                "client_id": client_id,
                "client_secret": client_secret,
                "redirect_uri": redirect_uri,
                "people": folder.join("people.json"),
            })
        })
        .await;
        Self { issuer: process.url.clone(), process }
    }

    /// Starts it anew, with other keys.
    pub(crate) async fn restart(&mut self) {
        self.process.restart().await;
    }

    /// The people that it knows from now on.
    pub(crate) fn people(&self, people: &Value) {
        std::fs::write(self.process.folder.join("people.json"), people.to_string()).unwrap();
    }
}
