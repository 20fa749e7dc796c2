//! What a candidate is made of, and what a generator may answer.

use std::collections::BTreeMap;

use sdpa_core::Generation;
use sdpa_toolchain::Sources;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::patch;

/// The largest file that a candidate may have. The largest kernel so far has 42 KB.
const MOST_BYTES: usize = 256 << 10;

/// A candidate: the files in which it differs from the checkout, and the definitions in which it differs from the generation's table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Genome {
    /// Path under `kernels/` → the whole text.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, String>,
    /// Name → value, in every kernel that is compiled with the name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub defines: BTreeMap<String, String>,
}

/// A generator's answer, one line of JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proposal {
    /// Path under `kernels/` → the whole text.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, String>,
    /// A unified diff against the parent's files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff: Option<String>,
    /// Definitions to compile the kernels with, on top of the parent's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub defines: BTreeMap<String, String>,
    /// Why this should be better.
    #[serde(default)]
    pub rationale: String,
    /// What the generator believes to have learned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub insight: Option<Claim>,
    /// Ids of the insights that it builds on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub uses: Vec<String>,
    /// True if the changes are to the first of the lineage, and not to the parent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub from_first: bool,
    /// True if the generator has nothing more to propose.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub done: bool,
}

/// An insight as it is claimed. With a figure it can be tested by counting; without one the candidate's verdict decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// One sentence.
    pub text: String,
    /// A figure of `sdpa counters`, such as `shared wavefronts`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub figure: Option<String>,
    /// Where the figure goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moves: Option<Moves>,
}

/// A direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Moves {
    /// Fewer than the parent.
    Down,
    /// More than the parent.
    Up,
}

impl Genome {
    /// What the parent becomes by an answer.
    ///
    /// # Errors
    /// In words for the generator: what a candidate may not change, or what does not apply.
    pub fn changed(&self, proposal: &Proposal, generation: &Generation, checkout: &Sources) -> Result<Self, String> {
        let mut changed = self.clone();
        for (path, text) in &proposal.files {
            changed.put(path, text.clone(), generation, checkout)?;
        }
        for (path, part) in proposal.diff.as_deref().map(patch::by_file).unwrap_or_default() {
            let before = changed.text(&path, checkout).unwrap_or_default();
            let after = patch::apply(before, &part).map_err(|reason| format!("kernels/{path}: {reason}"))?;
            changed.put(&path, after, generation, checkout)?;
        }
        if proposal.diff.as_ref().is_some_and(|diff| patch::by_file(diff).is_empty()) {
            return Err("the diff names no file: a line `+++ b/kernels/FILE` comes before its hunks".to_owned());
        }
        for (name, value) in &proposal.defines {
            changed.define(name, value, generation)?;
        }
        match changed == *self {
            true => Err("nothing is changed: the answer is its parent".to_owned()),
            false => Ok(changed),
        }
    }

    /// A file as the candidate has it.
    pub fn text<'a>(&'a self, path: &str, checkout: &'a Sources) -> Option<&'a str> {
        self.files.get(path).map(String::as_str).or_else(|| checkout.get(path))
    }

    /// The checkout's sources with the candidate's files.
    pub fn sources(&self, checkout: &Sources) -> Sources {
        let mut sources = checkout.clone();
        self.files.iter().for_each(|(path, text)| sources.insert(path.clone(), text.clone()));
        sources
    }

    /// 16 hexadecimal digits that stand for all of it.
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        let mut field = |text: &str| {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        };
        for (path, text) in &self.files {
            field(path);
            field(text);
        }
        field("defines");
        for (name, value) in &self.defines {
            field(name);
            field(value);
        }
        hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    fn put(&mut self, path: &str, text: String, generation: &Generation, checkout: &Sources) -> Result<(), String> {
        let path = path.strip_prefix("kernels/").unwrap_or(path);
        let kernel = generation.specialisations.first().map_or("", |kernel| kernel.source);
        let is_new_header = path
            .strip_prefix("machine/")
            .is_some_and(|name| name.strip_suffix(".cuh").is_some_and(is_name) && checkout.get(path).is_none());
        if path != kernel && !is_new_header {
            return Err(format!(
                "kernels/{path} may not be changed: a candidate has kernels/{kernel} and new headers kernels/machine/NAME.cuh"
            ));
        }
        if text.len() > MOST_BYTES {
            return Err(format!("kernels/{path} has {} bytes, at most {MOST_BYTES} are read", text.len()));
        }
        // Of our own files alone: an include must not read what else lies on the judge's machine.
        for line in text.lines() {
            let Some(include) = line.trim_start().strip_prefix('#').map(str::trim_start) else { continue };
            let Some(name) = include.strip_prefix("include").map(str::trim_start) else { continue };
            let name = name.get(1..).unwrap_or_default();
            if name.starts_with('/') || name.contains("..") || name.contains('\\') {
                return Err(format!("kernels/{path} includes a file outside of kernels/: `{}`", line.trim()));
            }
        }
        if checkout.get(path) == Some(text.as_str()) {
            self.files.remove(path);
        } else {
            self.files.insert(path.to_owned(), text);
        }
        Ok(())
    }

    fn define(&mut self, name: &str, value: &str, generation: &Generation) -> Result<(), String> {
        if !generation.specialisations.iter().any(|kernel| kernel.define(name).is_some()) {
            return Err(format!("{} has no kernel that is compiled with a number {name}", generation.id));
        }
        if !is_name(value) {
            return Err(format!("{name}={value} is no definition: a value is a number or a name"));
        }
        self.defines.insert(name.to_owned(), value.to_owned());
        Ok(())
    }
}

/// A word of letters, digits and underscores.
fn is_name(word: &str) -> bool {
    !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use sdpa::generations;

    fn sources() -> Sources {
        let mut sources = Sources::default();
        sources.insert("v2d.cu", "int a;\nint b;\n");
        sources.insert("machine/mask.cuh", "int mask;\n");
        sources
    }

    fn v2d() -> &'static Generation {
        generations::find("v2d").unwrap().generation()
    }

    fn changed(proposal: &Proposal) -> Result<Genome, String> {
        Genome::default().changed(proposal, v2d(), &sources())
    }

    fn files(path: &str, text: &str) -> Proposal {
        Proposal { files: [(path.to_owned(), text.to_owned())].into(), ..Proposal::default() }
    }

    #[test]
    fn whole_files_diffs_and_definitions_make_a_candidate() {
        let whole = changed(&files("kernels/v2d.cu", "int a;\nint c;\n")).unwrap();
        let diff = "--- a/kernels/v2d.cu\n+++ b/kernels/v2d.cu\n@@ -1,2 +1,2 @@\n int a;\n-int b;\n+int c;\n";
        let by_diff = changed(&Proposal { diff: Some(diff.to_owned()), ..Proposal::default() }).unwrap();
        assert_eq!(whole, by_diff);
        assert_eq!(whole.fingerprint(), by_diff.fingerprint());
        let number = Proposal { defines: [("TILE_KEYS".to_owned(), "32".to_owned())].into(), ..Proposal::default() };
        let both = whole.changed(&number, v2d(), &sources()).unwrap();
        assert_ne!(both.fingerprint(), whole.fingerprint());
        assert_eq!(both.sources(&sources()).get("v2d.cu"), Some("int a;\nint c;\n"));
        // Back to what the checkout has.
        assert!(whole.changed(&files("v2d.cu", "int a;\nint b;\n"), v2d(), &sources()).unwrap().files.is_empty());
    }

    #[test]
    fn a_candidate_may_not_reach_beyond_its_kernel() {
        for (proposal, words) in [
            (files("machine/mask.cuh", "int x;\n"), "kernels/machine/mask.cuh may not be changed"),
            (files("../Cargo.toml", ""), "may not be changed"),
            (files("machine/../x.cuh", ""), "may not be changed"),
            (files("v2e.cu", ""), "kernels/v2e.cu may not be changed"),
            (files("v2d.cu", "#include \"/etc/passwd\"\n"), "includes a file outside"),
            (files("v2d.cu", " #  include <../../x>\n"), "includes a file outside"),
            (files("v2d.cu", &"x".repeat(MOST_BYTES + 1)), "at most"),
            (Proposal::default(), "nothing is changed"),
            (Proposal { diff: Some("@@ -1 +1 @@\n".to_owned()), ..Proposal::default() }, "names no file"),
            (Proposal { defines: [("NONE".to_owned(), "1".to_owned())].into(), ..Proposal::default() }, "no kernel"),
            (
                Proposal { defines: [("TILE_KEYS".to_owned(), "1 -x".to_owned())].into(), ..Proposal::default() },
                "is no definition",
            ),
        ] {
            let said = changed(&proposal).unwrap_err();
            assert!(said.contains(words), "{said}");
        }
        assert!(changed(&files("machine/new_vocabulary.cuh", "int x;\n")).is_ok());
    }
}
