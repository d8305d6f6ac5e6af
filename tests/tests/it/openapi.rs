//! The API's description: the live server keeps to it, and clients made from it work.

use serde_json::json;
use std::path::{Path, PathBuf};
use tokio::process::Command;
use twh_tests::mail::MailServer;
use twh_tests::{World, npm_packages, python, root};

const DESCRIPTION: &str = "docs/openapi.json";
/// What is generated where no time is given for it: with one seed always the same requests. The phase "coverage" is left out, eight
/// thousand requests with every bound of every field: ./dev nightly has it.
const QUICK: [&str; 4] = ["--phases", "examples,fuzzing,stateful", "--max-examples", "3"];
const PASSWORD: &str = "correct horse battery staple";

/// A folder that is gone at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("twh-clients-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What a command says, which must succeed.
async fn said(command: &mut Command) -> String {
    let output = command.output().await.unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{:?}:\n{text}", command.as_std());
    text
}

/// With a key that signs checkpoints, and mail, so that all of the API is there.
async fn world() -> (World, Folder, MailServer) {
    let folder = Folder::new();
    let mails = MailServer::start().unwrap();
    let key = folder.0.join("ledger.pem");
    let mut world = World::prepare(&[
        ("TWH_LEDGER_KEY_FILE", key.to_str().unwrap()),
        ("TWH_SMTP_URL", &mails.url),
        ("TWH_MAIL_FROM", "stock@example.com"),
        // Generated requests come as fast as they can, and wait for no position that is not there.
        ("TWH_RATE_LIMITS", "off"),
        ("TWH_READ_WAIT_MS", "100"),
    ])
    .await
    .unwrap();
    said(&mut world.command(&["ledger-key", "--out", key.to_str().unwrap()]).unwrap()).await;
    world.start_server().await.unwrap();
    (world, folder, mails)
}

/// Schemathesis makes requests of every kind that the description allows, and of those that it forbids, alone and one out of
/// another's answer, and holds each answer to the description. `TWH_TEST_SEED` repeats a run.
#[tokio::test(flavor = "multi_thread")]
async fn the_server_keeps_to_its_description() {
    let (world, _folder, _mails) = world().await;
    // A person, whose session outlives what the requests do to API keys.
    let person = json!({ "organization": "Tested", "name": "Ada", "email": "ada@example.com", "password": PASSWORD });
    let made = world.tenant().await.unwrap().post("/v1/auth/signup", person).await.unwrap();
    let token = made.body["tokens"]["access_token"].as_str().unwrap().to_owned();
    let tenant = world.tenant().await.unwrap().with(&token);
    // The first movement of its ledger.
    tenant.done("/v1/items", json!({ "sku": "FIRST" })).await.unwrap();
    tenant.done("/v1/locations", json!({ "code": "MAIN" })).await.unwrap();
    let lines = json!([{ "sku": "FIRST", "quantity": 1 }]);
    let opening = json!({ "location_code": "MAIN", "reason": "opening", "lines": lines });
    let first = tenant.done("/v1/adjustments", opening).await.unwrap();
    let mut schemathesis = Command::new(python().unwrap().with_file_name("schemathesis"));
    schemathesis
        .arg("--config-file")
        .arg(root().join("tests/openapi/schemathesis.toml"))
        .args(["run", &format!("{}/openapi.json", world.url)])
        .args(["--header", &format!("Authorization: Bearer {token}")])
        .args(["--continue-on-failure", "--request-timeout", "15", "--no-color"])
        .env("TWH_TENANT", made.body["tenant"]["id"].as_str().unwrap())
        .env("TWH_POSITION", first.header("x-twh-position"))
        .env("TWH_COMMAND", first.header("x-twh-command-id"))
        .current_dir(std::env::temp_dir());
    match std::env::var("TWH_TEST_SCHEMATHESIS_SECONDS") {
        Ok(seconds) => schemathesis.args(["--max-time", &seconds]),
        Err(_) => schemathesis.args(QUICK),
    };
    if let Ok(seed) = std::env::var("TWH_TEST_SEED") {
        schemathesis.args(["--seed", &seed]);
    }
    let text = said(&mut schemathesis).await;
    let counted = text.lines().find(|line| line.contains(" generated, ")).expect("it says how many cases there were");
    println!("{}", counted.trim());
    let cases: u32 = counted.split_whitespace().next().unwrap().parse().unwrap();
    assert!(cases > 200, "{counted}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_python_client_made_from_the_description_walks_an_order_through() {
    let (world, folder, _mails) = world().await;
    let tenant = world.tenant().await.unwrap();
    let package = folder.0.join("twh_client");
    let python = python().unwrap();
    let mut generator = Command::new(python.with_file_name("openapi-python-client"));
    generator.args(["generate", "--meta", "none", "--path"]).arg(root().join(DESCRIPTION));
    generator.arg("--config").arg(root().join("clients/python/config.yaml")).arg("--output-path").arg(&package);
    said(&mut generator).await;
    let mut order = Command::new(&python);
    order.arg(root().join("clients/python/order.py")).env("PYTHONPATH", &folder.0);
    tenant.lend_to(&mut order);
    assert_eq!(said(&mut order).await, "shipped 4 of 10, 6 are left\n");
}

fn copy(from: &Path, to: &Path, name: &str) {
    std::fs::copy(from.join(name), to.join(name)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_typescript_client_made_from_the_description_walks_an_order_through() {
    let (world, folder, _mails) = world().await;
    let tenant = world.tenant().await.unwrap();
    let (modules, own) = (npm_packages().unwrap(), root().join("clients/typescript"));
    copy(&own, &folder.0, "order.ts");
    copy(&own, &folder.0, "tsconfig.json");
    std::fs::write(folder.0.join("package.json"), r#"{ "type": "module" }"#).unwrap();
    std::os::unix::fs::symlink(modules.canonicalize().unwrap(), folder.0.join("node_modules")).unwrap();
    let tool = |name: &str| {
        let mut node = Command::new("node");
        node.arg(modules.join(name)).current_dir(&folder.0);
        node
    };
    let mut generator = tool("openapi-typescript/bin/cli.js");
    generator.arg(root().canonicalize().unwrap().join(DESCRIPTION));
    said(generator.args(["--default-non-nullable", "false", "--output", "schema.ts"])).await;
    said(tool("typescript/bin/tsc").args(["--project", "."])).await;
    let mut order = Command::new("node");
    order.arg(folder.0.join("order.js"));
    tenant.lend_to(&mut order);
    assert_eq!(said(&mut order).await, "shipped 4 of 10, 6 are left\n");
}
