//! What a sitting's figures were taken with, as far as this machine says.

use std::path::Path;
use std::process::Command;

use serde_json::{Map, Value};

/// Driver, clocks, power and temperature from nvidia-smi and the commit from git, where these are installed.
pub fn environment() -> Map<String, Value> {
    let mut found = Map::new();
    const FIELDS: [&str; 6] = ["name", "driver_version", "clocks.sm", "clocks.mem", "power.draw", "temperature.gpu"];
    let mut smi = Command::new("nvidia-smi");
    smi.arg(format!("--query-gpu={}", FIELDS.join(","))).args(["--format=csv,noheader", "--id=0"]);
    if let Some(line) = first_line(&mut smi) {
        for (field, value) in FIELDS.iter().zip(line.split(", ")) {
            found.insert((*field).to_owned(), value.trim().into());
        }
    }
    let mut git = Command::new("git");
    // Where the program was built, unless it has been copied elsewhere.
    let built_from = Path::new(env!("CARGO_MANIFEST_DIR"));
    git.current_dir(if built_from.is_dir() { built_from } else { Path::new(".") }).args([
        "describe",
        "--always",
        "--dirty",
        "--abbrev=40",
        "--exclude=*",
    ]);
    if let Some(commit) = first_line(&mut git) {
        found.insert("commit".to_owned(), commit.into());
    }
    found
}

/// What a command says, where it is there and succeeds.
fn first_line(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8_lossy(&output.stdout).lines().next()?.trim().to_owned();
    (!text.is_empty()).then_some(text)
}
