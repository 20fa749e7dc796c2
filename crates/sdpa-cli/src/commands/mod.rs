//! One file per verb, and what several verbs share.

pub(crate) mod acceptance;
pub(crate) mod bench;
pub(crate) mod build_ptx;
pub(crate) mod check;
pub(crate) mod counters;
pub(crate) mod coverage;
pub(crate) mod evolve;
pub(crate) mod gate;
mod judged;
pub(crate) mod list;
pub(crate) mod mutate;
pub(crate) mod new;
pub(crate) mod prove;
pub(crate) mod ptx;
mod ranks;
pub(crate) mod record;
pub(crate) mod report;
pub(crate) mod resources;
pub(crate) mod run;
pub(crate) mod sass;
pub(crate) mod seal;
pub(crate) mod soak;
pub(crate) mod steps;
pub(crate) mod tune;
pub(crate) mod verify;

use std::io::Write;
use std::process::ExitCode;

use harness::mutants;
use indicatif::{ProgressBar, ProgressStyle};
use sdpa::generations;
use sdpa_core::{Attention, Device, DeviceChoice, DeviceKind};

pub(crate) use judged::{
    kernel_texts, kernel_texts_of_mutants, kernel_texts_of_sets_or_packed, kernel_texts_or_packed,
};

/// What a verb ends with: an exit code, or an error that `main` prints in one line and exits 2 with.
pub(crate) type Outcome = Result<ExitCode, Box<dyn std::error::Error>>;

/// Exit code of bad input and of machines that cannot do what was asked.
pub(crate) const UNUSABLE: u8 = 2;

/// Exit code of a check that failed.
pub(crate) const FAILED: u8 = 1;

/// The generation with this id, or an error that lists the known ones and names the nearest.
pub(crate) fn generation(id: &str) -> Result<&'static dyn Attention, String> {
    generations::find(id).ok_or_else(|| {
        let unknown = judged::unknown_generations();
        if unknown.iter().any(|other| other == id) {
            return judged::older_than(&[id.to_owned()]);
        }
        let ids = generations::ids();
        let nearest = ids.iter().find(|known| is_near_miss(id, known));
        let hint = nearest.map(|known| format!("; did you mean `{known}`?")).unwrap_or_default();
        format!("no generation `{id}`: there are {}{hint}", ids.join(", "))
    })
}

/// Generations first; a mutant's failures, too, come with a command that repeats them.
pub(crate) fn subject(id: &str) -> Result<&'static dyn Attention, String> {
    match (generations::find(id), mutants::find(id)) {
        (None, Some(mutant)) => Ok(mutant),
        _ => generation(id),
    }
}

/// The generations with these ids, in the order given; all where none is.
pub(crate) fn generations_or_all(ids: &[String]) -> Result<Vec<&'static dyn Attention>, String> {
    match ids {
        [] => all_generations(),
        ids => ids.iter().map(|id| generation(id)).collect(),
    }
}

/// The same word in other letters, or one of at least three letters with one of them wrong, missing or too many.
fn is_near_miss(word: &str, known: &str) -> bool {
    let word = word.to_lowercase();
    match edits(&word, known) {
        0 => true,
        1 => word.chars().count().max(known.chars().count()) >= 3,
        _ => false,
    }
}

/// All generations, or an error if the checkout has one that this program does not know: what is said of all would not be of
/// all.
pub(crate) fn all_generations() -> Result<Vec<&'static dyn Attention>, String> {
    match judged::unknown_generations().as_slice() {
        [] => Ok(generations::ALL.to_vec()),
        unknown => Err(judged::older_than(unknown)),
    }
}

/// Letters to change, add or drop between two words (Levenshtein).
fn edits(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in right.iter().enumerate() {
            let cost = (diagonal + usize::from(a != *b)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], cost);
        }
    }
    row[right.len()]
}

/// Opens the device that `SDPA_DEVICE` asks for and says which one that is.
pub(crate) fn open(out: &mut dyn Write) -> Result<Box<dyn Device>, Box<dyn std::error::Error>> {
    let device = sdpa_core::open(DeviceChoice::from_env()?)?;
    writeln!(out, "device: {}", device.name())?;
    Ok(device)
}

/// True where the device is a GPU, which keeps time.
pub(crate) fn keeps_time(device: &dyn Device) -> bool {
    device.kind() == DeviceKind::Cuda
}

/// A bar over `total` steps on standard error; hidden where that is no terminal.
pub(crate) fn bar(total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {wide_msg}");
    ProgressBar::new(total).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// A sign of life for work of unknown length.
pub(crate) fn spinner(message: impl Into<String>) -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {elapsed} {wide_msg}");
    let bar = ProgressBar::new_spinner().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    bar.set_message(message.into());
    bar.enable_steady_tick(std::time::Duration::from_millis(200));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_generation_is_told_the_nearest() {
        let error = |id| generation(id).err().unwrap_or_default();
        assert!(error("v2x").ends_with("did you mean `v2b`?"), "{}", error("v2x"));
        assert!(error("V1").ends_with("did you mean `v1`?"), "{}", error("V1"));
        assert!(error("2d").ends_with("did you mean `v2d`?"), "{}", error("2d"));
        for other in ["flash-attention", "v9", "zz", ""] {
            assert!(error(other).ends_with(&generations::ids().join(", ")), "{}", error(other));
        }
    }

    #[test]
    fn edits_are_counted() {
        assert_eq!([edits("", "ab"), edits("kitten", "sitting"), edits("v2b", "v2b")], [2, 3, 0]);
    }
}
