//! A certified identity provider, `oidc-provider`, in a process of its own.

use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};
use twh_tests::{free_address, npm_packages, root};
use uuid::Uuid;

const START_PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Certified {
    pub(crate) issuer: String,
    folder: PathBuf,
    process: Child,
}

impl Certified {
    /// Starts one that knows one client, and nobody yet.
    pub(crate) async fn start((client_id, client_secret): (&str, &str), redirect_uri: &str) -> Self {
        let address = free_address().unwrap();
        let folder = std::env::temp_dir().join(format!("twh_sso_{}", Uuid::new_v4().simple()));
        std::fs::create_dir(&folder).unwrap();
        let settings = json!({
            "modules": std::fs::canonicalize(npm_packages().unwrap()).unwrap(),
            "port": address.rsplit(':').next().unwrap().parse::<u16>().unwrap(),
            "client_id": client_id,
            "client_secret": client_secret,
            "redirect_uri": redirect_uri,
            "people": folder.join("people.json"),
        });
        std::fs::write(folder.join("settings.json"), settings.to_string()).unwrap();
        std::fs::write(folder.join("people.json"), "{}").unwrap();
        let process = launch(&folder);
        let mut certified = Self { issuer: format!("http://{address}"), folder, process };
        certified.becomes_ready().await;
        certified
    }

    /// Starts it anew, with other keys.
    pub(crate) async fn restart(&mut self) {
        self.process.kill().await.unwrap();
        self.process = launch(&self.folder);
        self.becomes_ready().await;
    }

    /// The people that it knows from now on.
    pub(crate) fn people(&self, people: &Value) {
        std::fs::write(self.folder.join("people.json"), people.to_string()).unwrap();
    }

    async fn becomes_ready(&mut self) {
        let (begun, url) = (Instant::now(), format!("{}/.well-known/openid-configuration", self.issuer));
        while !reqwest::get(&url).await.is_ok_and(|answer| answer.status().is_success()) {
            let ended = self.process.try_wait().unwrap();
            let log = || std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            assert!(ended.is_none() && begun.elapsed() < START_PATIENCE, "the provider does not start: {}", log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn launch(folder: &std::path::Path) -> Child {
    Command::new("node")
        .arg(root().join("tests/sso/provider.mjs"))
        .arg(folder.join("settings.json"))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(folder.join("log")).unwrap())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

impl Drop for Certified {
    fn drop(&mut self) {
        let _ = self.process.start_kill();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
