//! The configuration: told as it is, and refused with all that is wrong with it.

#![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]

use std::process::{Command, Output};

fn run(command: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut program = Command::new(env!("CARGO_BIN_EXE_twh"));
    program.args(command).env_clear().envs(variables.iter().copied()).output().unwrap()
}

/// With nothing set, it fails at what has no default and is needed, and not before.
#[test]
fn the_defaults_are_usable() {
    let told = String::from_utf8(run(&["secrets", "reseal"], &[]).stderr).unwrap();
    assert!(told.contains("TWH_SECRETS_FILE is not set") && !told.contains("not usable"), "{told}");
    let reference = String::from_utf8(run(&["config"], &[]).stdout).unwrap();
    assert!(reference.contains("| `TWH_TOPIC_PARTITIONS` | `6` |"), "{reference}");
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let refused = run(
        &["migrate"],
        &[
            ("TWH_HTTP_ADDR", "here"),
            ("TWH_TOPIC_PARTITIONS", "0"),
            ("TWH_TOPIC_PARTITION", "3"),
            ("TWH_PLAN_LIMITS", "free=0/1,1/1;gold=1/1,1/1"),
            ("TWH_PUBLIC_URL", "twh.example.com"),
            ("TWH_OUTBOUND_ALLOWED", "10.0.0.0/8,here"),
            ("TWH_DEV_X", "1"),
            ("HOME", "/"),
        ],
    );
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success(), "{text}");
    let wrong = ["HTTP_ADDR", "TOPIC_PARTITIONS", "TOPIC_PARTITION", "PLAN_LIMITS", "PUBLIC_URL", "OUTBOUND_ALLOWED"];
    assert_eq!(text.lines().filter(|line| line.starts_with("  ")).count(), wrong.len(), "{text}");
    for name in wrong {
        assert!(text.contains(&format!("TWH_{name}")), "{name}: {text}");
    }
}

/// The tools read some of the variables without sharing code with the server.
#[test]
fn the_tools_have_the_same_defaults() {
    let reference = String::from_utf8(run(&["config"], &[]).stdout).unwrap();
    let mut read = 0;
    for file in ["bench.rs", "demo.rs", "server.rs"] {
        let path = format!("{}/../tools/src/{file}", env!("CARGO_MANIFEST_DIR"));
        let source = std::fs::read_to_string(path).unwrap();
        for call in source.split("variable(\"").skip(1) {
            let (name, rest) = call.split_once("\", \"").unwrap();
            let default = match rest.split_once('"').unwrap().0 {
                "" => "–".to_owned(),
                default => format!("`{default}`"),
            };
            assert!(reference.contains(&format!("| `{name}` | {default} |")), "{name}: {default}");
            read += 1;
        }
    }
    assert_eq!(read, 8, "all of them are seen");
}

#[test]
fn the_documented_reference_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
    let page = format!(
        "# Configuration\n\nEvery role reads the same environment variables. `twh config` prints this table.\n\n{}",
        String::from_utf8(run(&["config"], &[]).stdout).unwrap()
    );
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, &page).unwrap();
    }
    assert_eq!(std::fs::read_to_string(path).unwrap_or_default(), page, "run with UPDATE_DOCS=1 to write it anew");
}
