//! What a sitting's figures were taken with, as far as this machine says.

use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use sdpa_core::Device;
use serde_json::{Map, Value};

/// The date; the card's UUID; driver, clocks, power and temperature from nvidia-smi and the commit from git, where these are
/// installed.
///
/// A program that was copied to a machine without its repository is told the commit in `SDPA_COMMIT`.
pub fn environment(device: &dyn Device) -> Map<String, Value> {
    let mut found = Map::new();
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    found.insert("date".to_owned(), date(since_1970.as_secs()).into());
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

/// `2026-01-31 12:00 UTC` of seconds since 1970 (the calendar of <https://howardhinnant.github.io/date_algorithms.html>).
fn date(seconds: u64) -> String {
    let (days, minutes) = (seconds / 86400 + 719_468, seconds % 86400 / 60);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Years that begin in March, so that the leap day is their last.
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (year, month) = (era * 400 + year_of_era + u64::from(month >= 10), (month + 2) % 12 + 1);
    format!("{year}-{month:02}-{day:02} {:02}:{:02} UTC", minutes / 60, minutes % 60)
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
    fn dates_are_the_calendars() {
        let dates = [0, 951_782_399, 951_782_400, 951_868_800, 1_798_761_599, 4_107_542_400];
        assert_eq!(
            dates.map(date),
            [
                "1970-01-01 00:00 UTC",
                "2000-02-28 23:59 UTC",
                "2000-02-29 00:00 UTC",
                "2000-03-01 00:00 UTC",
                "2026-12-31 23:59 UTC",
                "2100-03-01 00:00 UTC",
            ]
        );
    }
}
