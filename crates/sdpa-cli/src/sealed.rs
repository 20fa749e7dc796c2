//! Sealed generations: what one does stands in its own file and is not edited again, and `kernels/machine/` is vocabulary.
//!
//! `kernels/sealed.txt` holds a line for each sealed generation: its id, a hash of its file's code (comments and blanks aside),
//! and how many entries stood under `## Fixed` in its README when it was sealed. A fault that is mended gets an entry there,
//! and the generation is sealed again. An idea is a new generation.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use sdpa_toolchain::{Checkout, Sources, ToolchainError, WriteError, code_lines, without_comments, write_whole};
use sha2::{Digest as _, Sha256};

/// A loop over keys in the vocabulary, and why it may be there.
struct KeyLoop {
    header: &'static str,
    function: &'static str,
}

/// Rows whose logits are too large for a fused multiply-add are computed again, one key at a time. No generation's idea is in
/// that: it is the rare way out that all of them share, and a copy in each would be as many places to mend. One is for keys that
/// are a prefix, the other for ranges.
const KEY_LOOPS: [KeyLoop; 2] = [
    KeyLoop { header: "machine/large_logits.cuh", function: "attend_exactly" },
    KeyLoop { header: "machine/exact_rows.cuh", function: "attend_exactly_in_range" },
];

/// Why a generation cannot be sealed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// Its code changed, and nobody says which fault was mended.
    #[error(
        "kernels/{id}.cu is sealed, its code changed, and its README has no new entry under `## Fixed`: a fault that is mended \
         is told there (crates/sdpa-{id}/README.md), then `sdpa seal {id}`; an idea is a new generation: \
         `sdpa new ID --parent {id}`"
    )]
    NotFixed {
        /// Which.
        id: String,
    },
    /// A line of `kernels/sealed.txt` that cannot be read.
    #[error("kernels/sealed.txt: this line is not `ID HASH FIXED`: {0}")]
    Line(String),
    /// The sources of the checkout.
    #[error(transparent)]
    Toolchain(#[from] ToolchainError),
    /// A README or the list of seals.
    #[error("{}: {source}", path.display())]
    System {
        /// Which file.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// The list of seals could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// What a generation was when it was sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seal {
    /// Hash of its file's code.
    pub hash: String,
    /// Entries under `## Fixed` in its README.
    pub fixed: usize,
}

impl Seal {
    /// What a kernel's source and its generation's README say now.
    pub fn of(source: &str, readme: &str) -> Self {
        let digest = Sha256::digest(code_lines(source).join("\n"));
        let hash = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        Self { hash, fixed: fixed_entries(readme) }
    }

    /// True if a generation that was sealed like this may be sealed as `now`: the same code, or a fault more that was mended.
    fn allows(&self, now: &Self) -> bool {
        self.hash == now.hash || now.fixed > self.fixed
    }
}

/// Entries of the list under `## Fixed`.
fn fixed_entries(readme: &str) -> usize {
    let section = readme.lines().skip_while(|line| line.trim_end() != "## Fixed").skip(1);
    section.take_while(|line| !line.starts_with('#')).filter(|line| line.starts_with("- ")).count()
}

/// The seals of a checkout.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seals(BTreeMap<String, Seal>);

impl Seals {
    /// Reads `kernels/sealed.txt`; none are sealed where there is no such file.
    ///
    /// # Errors
    /// [`SealError::Line`] or [`SealError::System`].
    pub fn read(checkout: &Checkout) -> Result<Self, SealError> {
        let path = list_of(checkout);
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(SealError::System { path, source }),
        }
    }

    fn parse(text: &str) -> Result<Self, SealError> {
        let mut seals = BTreeMap::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let unreadable = || SealError::Line(line.to_owned());
            let [id, hash, fixed] = line.split_whitespace().collect::<Vec<_>>()[..] else { return Err(unreadable()) };
            let seal = Seal { hash: hash.to_owned(), fixed: fixed.parse().map_err(|_| unreadable())? };
            if seals.insert(id.to_owned(), seal).is_some() {
                return Err(unreadable());
            }
        }
        Ok(Self(seals))
    }

    /// The text of `kernels/sealed.txt`.
    fn render(&self) -> String {
        let mut text =
            "# Sealed generations: id, hash of the code, entries under `## Fixed`. Written by `sdpa seal ID`.\n"
                .to_owned();
        for (id, Seal { hash, fixed }) in &self.0 {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{id} {hash} {fixed}");
        }
        text
    }

    /// Seals a generation as it is on disk now. True if that changed the list.
    ///
    /// # Errors
    /// [`SealError::NotFixed`] if it is sealed as other code and no entry under `## Fixed` is new.
    pub fn seal(&mut self, checkout: &Checkout, id: &str) -> Result<bool, SealError> {
        let now = seal_on_disk(checkout, id)?;
        self.replace(id, now)
    }

    fn replace(&mut self, id: &str, now: Seal) -> Result<bool, SealError> {
        match self.0.get(id) {
            Some(before) if *before == now => Ok(false),
            Some(before) if !before.allows(&now) => Err(SealError::NotFixed { id: id.to_owned() }),
            _ => {
                self.0.insert(id.to_owned(), now);
                Ok(true)
            }
        }
    }

    /// Writes `kernels/sealed.txt`.
    ///
    /// # Errors
    /// [`SealError::Write`].
    pub fn write(&self, checkout: &Checkout) -> Result<(), SealError> {
        Ok(write_whole(&list_of(checkout), self.render().as_bytes())?)
    }

    /// Generations whose code is not what was sealed, a sentence each.
    ///
    /// # Errors
    /// A sealed kernel or its README that cannot be read.
    pub fn broken(&self, checkout: &Checkout) -> Result<Vec<String>, SealError> {
        let mut broken = Vec::new();
        for (id, seal) in &self.0 {
            broken.extend(complaint(id, seal, &seal_on_disk(checkout, id)?));
        }
        Ok(broken)
    }
}

/// What is wrong with a sealed generation that is `now` on disk.
fn complaint(id: &str, sealed: &Seal, now: &Seal) -> Option<String> {
    match () {
        () if sealed.hash == now.hash && sealed.fixed <= now.fixed => None,
        () if sealed.hash == now.hash => Some(format!("crates/sdpa-{id}/README.md lost an entry under `## Fixed`")),
        () if sealed.allows(now) => Some(format!("kernels/{id}.cu was mended: `sdpa seal {id}` seals it again")),
        () => Some(SealError::NotFixed { id: id.to_owned() }.to_string()),
    }
}

fn list_of(checkout: &Checkout) -> PathBuf {
    checkout.root().join("kernels/sealed.txt")
}

fn seal_on_disk(checkout: &Checkout, id: &str) -> Result<Seal, SealError> {
    let read = |path: PathBuf| std::fs::read_to_string(&path).map_err(|source| SealError::System { path, source });
    let source = read(checkout.root().join(format!("kernels/{id}.cu")))?;
    let readme = read(checkout.root().join(format!("crates/sdpa-{id}/README.md")))?;
    Ok(Seal::of(&source, &readme))
}

/// What in `kernels/machine/` is no vocabulary, a sentence each: a header that fewer than two of these kernels include,
/// directly or through another header, and a loop over keys.
///
/// # Errors
/// [`ToolchainError::NoSource`] if a kernel is not among the sources.
pub fn not_vocabulary(sources: &Sources, kernels: &[String]) -> Result<Vec<String>, ToolchainError> {
    let mut users: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for kernel in kernels {
        for header in sources.closure(kernel)?.into_keys() {
            users.entry(header).or_default().push(kernel);
        }
    }
    let mut found = Vec::new();
    for (header, text) in sources.iter().filter(|(path, _)| path.starts_with("machine/")) {
        let used = users.get(header).map(Vec::as_slice).unwrap_or_default();
        if used.len() < 2 {
            let by =
                used.first().map_or("no kernel includes it".to_owned(), |kernel| format!("{kernel} alone includes it"));
            found.push(format!(
                "kernels/{header} is no vocabulary: {by}; what one generation does stands in its own file"
            ));
        }
        let allowed: Vec<&str> =
            KEY_LOOPS.iter().filter(|allowed| allowed.header == header).map(|allowed| allowed.function).collect();
        let loops = loops_over_keys(text);
        for (line, function) in loops.iter().filter(|(_, function)| !allowed.contains(&function.as_str())) {
            found.push(format!(
                "kernels/{header}:{line}: {function} loops over keys, which is a generation's own affair"
            ));
        }
        for function in allowed.iter().filter(|name| loops.iter().all(|(_, function)| function != *name)) {
            found.push(format!("kernels/{header}: {function} no longer loops over keys: take it out of KEY_LOOPS"));
        }
    }
    Ok(found)
}

/// The loops of a source whose condition speaks of keys: line, and the function that the loop is in.
fn loops_over_keys(source: &str) -> Vec<(usize, String)> {
    let code = without_comments(source);
    let mut loops = Vec::new();
    for (at, word) in words(&code) {
        let after = &code[at + word.len()..];
        if !matches!(word, "for" | "while") || !after.trim_start().starts_with('(') {
            continue;
        }
        let head = parenthesised(after.trim_start());
        // Of `for (start; condition; step)` the condition; of `while (…)` and `for (x : range)` all.
        let condition = head.split(';').nth(1).unwrap_or(head);
        if words(condition).any(|(_, word)| speaks_of_keys(word)) {
            loops.push((code[..at].matches('\n').count() + 1, function_around(&code[..at])));
        }
    }
    loops
}

/// True for `len_kv`, `key_tiles`, `keys`, `visible`, `TILE_KEYS`, `visibleKeys` and the like.
fn speaks_of_keys(word: &str) -> bool {
    let parts = word.split('_').map(str::to_lowercase);
    parts.into_iter().any(|part| matches!(part.as_str(), "key" | "keys" | "kv") || part.starts_with("visible"))
}

/// Identifiers and keywords of C++, and where each begins.
fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let pieces = code.split(move |c| !is_part(c)).filter(|word| !word.is_empty());
    pieces.map(|word| (word.as_ptr() as usize - code.as_ptr() as usize, word))
}

/// What stands between the parenthesis that `code` begins with and the one that closes it.
fn parenthesised(code: &str) -> &str {
    let mut depth = 0;
    for (at, c) in code.char_indices() {
        match c {
            '(' => depth += 1,
            ')' if depth == 1 => return &code[1..at],
            ')' => depth -= 1,
            _ => {}
        }
    }
    &code[1..]
}

/// The name of the last `__device__` function that begins in this code.
fn function_around(code: &str) -> String {
    let head = code.rsplit("__device__").next().unwrap_or(code).split('(').next().unwrap_or_default();
    words(head).last().map_or("the file", |(_, word)| word).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_is_of_the_code_and_not_of_its_comments() {
        let seal = |source| Seal::of(source, "# V9\n");
        assert_eq!(seal("// why\nint x;\n"), seal("int  x; // another reason\n\n"));
        assert_ne!(seal("int x;"), seal("int y;"));
    }

    #[test]
    fn entries_under_fixed_are_counted_and_no_others() {
        assert_eq!(fixed_entries("# V9\n- no\n## Fixed\n\n- one\n  goes on\n- two\n## Next\n- no\n"), 2);
        assert_eq!(fixed_entries("# V9\n- no\n"), 0);
    }

    #[test]
    fn a_sealed_generation_changes_only_with_a_fault_that_is_told() {
        let seal = |hash: &str, fixed| Seal { hash: hash.to_owned(), fixed };
        let mut seals = Seals::default();
        assert!(seals.replace("v9", seal("a", 0)).unwrap());
        assert!(!seals.replace("v9", seal("a", 0)).unwrap());
        assert!(matches!(seals.replace("v9", seal("b", 0)), Err(SealError::NotFixed { id }) if id == "v9"));
        assert!(seals.replace("v9", seal("b", 1)).unwrap());
        assert!(seals.replace("v9", seal("c", 1)).is_err());
        assert_eq!(Seals::parse(&seals.render()).unwrap(), seals);
        for bad in ["v9 a", "v9 a one", "v9 a 0\nv9 b 0"] {
            assert!(matches!(Seals::parse(bad), Err(SealError::Line(_))), "{bad}");
        }

        let said = |now| complaint("v9", &seal("a", 1), &now).unwrap_or_default();
        assert_eq!(said(seal("a", 1)), "");
        assert_eq!(said(seal("a", 2)), "");
        assert!(said(seal("a", 0)).contains("lost an entry"));
        assert!(said(seal("b", 2)).contains("`sdpa seal v9` seals it again"));
        assert!(said(seal("b", 1)).contains("no new entry under `## Fixed`"));
    }

    #[test]
    fn loops_over_keys_are_found_in_whatever_way_they_are_written() {
        let source = "__device__ inline int walk(int n) {\n  // for (int j = 0; j < len_kv; ++j)\n  for (int j = 0;\n j < params.len_kv; ++j) {}\n\
                      while (tile < key_tiles) {}\n  do {} while (--visible_keys(p) > 0);\n  for (int i = key; i < 4; ++i) {}\n}\n\
                      template <int N>\n__device__ void other() { for (auto tile : keys) {} }\n";
        let found = loops_over_keys(source);
        let expected = [(3, "walk"), (5, "walk"), (6, "walk"), (10, "other")];
        assert_eq!(found, expected.map(|(line, name)| (line, name.to_owned())));
    }
}
