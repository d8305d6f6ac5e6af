//! What a newcomer reads and copies.

use std::process::Stdio;
use tokio::process::Command;
use twh_tests::{Shared, root};

/// The shell block of README, in which the lines that find the server are the test's own.
fn walk_through(url: &str, key: &str) -> String {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let block = readme.split("```sh\n").nth(1).unwrap().split("```").next().unwrap();
    let (own, rest): (Vec<&str>, Vec<&str>) =
        block.lines().partition(|line| ["eval ", "API=", "KEY="].iter().any(|begin| line.starts_with(begin)));
    assert_eq!(own.len(), 3, "README finds the server in three lines: {own:?}");
    format!("set -euo pipefail\nAPI={url}\nKEY={key}\n{}\n", rest.join("\n"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_walk_through_of_the_readme_does_what_it_says() {
    let server = Shared::server().await.unwrap();
    let tenant = server.tenant().await.unwrap();
    let mut shell = Command::new("bash");
    shell.args(["-c", &walk_through(&server.url, &tenant.key)]).stdin(Stdio::null()).kill_on_drop(true);
    let output = shell.output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(!said.contains("\"request_id\":\""), "an answer is an error: {said}");
    let [.., levels, movements] = said.lines().collect::<Vec<_>>()[..] else { panic!("{said}") };
    assert!(levels.contains(r#""qty_on_hand":"6""#), "{levels}");
    let kinds: Vec<_> =
        ["SALE", "RESERVE", "RECEIVE"].iter().map(|kind| movements.find(&format!("\"type\":\"{kind}\""))).collect();
    assert!(kinds.is_sorted() && kinds.iter().all(Option::is_some), "the newest first, and each once: {movements}");
}
