//! What a sitting's figures were taken with, as far as this machine says.

use std::path::Path;
use std::process::Command;

use jiff::Timestamp;
use sdpa_core::Device;
use serde_json::{Map, Value};

/// The date; the card's UUID; driver, clocks, power and temperature from nvidia-smi and the commit from git, where these are
/// installed.
///
/// A program that was copied to a machine without its repository is told the commit in `SDPA_COMMIT`.
pub fn environment(device: &dyn Device) -> Map<String, Value> {
    let mut found = Map::new();
    found.insert("date".to_owned(), date(Timestamp::now()).into());
    const FIELDS: [&str; 6] = ["name", "driver_version", "clocks.sm", "clocks.mem", "power.draw", "temperature.gpu"];
    let uuid = device.uuid();
    let mut smi = Command::new("nvidia-smi");
    smi.arg(format!("--query-gpu={}", FIELDS.join(","))).arg("--format=csv,noheader");
    smi.arg(format!("--id={}", uuid.as_deref().unwrap_or("0")));
    if let Some(line) = first_line(&mut smi) {
        for (field, value) in FIELDS.iter().zip(line.split(", ")) {
            found.insert((*field).to_owned(), value.trim().into());
        }
    }
    found.extend(uuid.map(|uuid| ("uuid".to_owned(), uuid.into())));
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
    let told = std::env::var("SDPA_COMMIT").ok().filter(|commit| !commit.is_empty());
    if let Some(commit) = told.or_else(|| first_line(&mut git)) {
        found.insert("commit".to_owned(), commit.into());
    }
    found
}

/// `2026-01-31 12:00 UTC`.
fn date(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M UTC").to_string()
}

/// What a command says, where it is there and succeeds.
fn first_line(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8_lossy(&output.stdout).lines().next()?.trim().to_owned();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_told_in_minutes() {
        assert_eq!(date(Timestamp::from_second(951_782_399).unwrap()), "2000-02-28 23:59 UTC");
    }
}
