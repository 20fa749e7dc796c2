//! A new generation from its parent: crate, kernel, PTX, machine code, and the lines that make it one of the list.
//!
//! The kernel is the parent's with other comments: its own at the top, and none of those that tell what the parent mended in
//! its own parent. So its PTX is the parent's with another file name, other line numbers and another fingerprint, byte for byte
//! what the compiler would make. The child passes the gate at once, on any machine, and what fails later is due to an edit.

mod history;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sdpa::generations;
use sdpa_core::{Attention, Generation, Specialisation};
use sdpa_toolchain::{Checkout, CodePack, Fingerprint, KernelTexts, Pack, Sources, ToolchainError, pack, write_whole};
use toml_edit::{DocumentMut, value};

/// Why there is no new generation; nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum ScaffoldError {
    /// Not a name that a crate, a module and a kernel can have.
    #[error("`{0}` is no id: it is `v`, a number, and what tells branches apart, in lower case, such as v3 or v2b")]
    Id(String),
    /// There is one.
    #[error("{}: there is a generation of this name, or something of it", .0.display())]
    Exists(PathBuf),
    /// Run somewhere else.
    #[error("{}: not there: run this in the repository's root", .0.display())]
    NotTheRoot(PathBuf),
    /// The parent's PTX was made from other sources.
    #[error("kernels/{0}.cu is newer than its packed PTX: run `cargo run --release -- build-ptx {0}` first")]
    Stale(&'static str),
    /// The parent's kernels cannot be read.
    #[error(transparent)]
    Toolchain(#[from] ToolchainError),
    /// The parent's pack cannot be read.
    #[error(transparent)]
    Core(#[from] sdpa_core::Error),
    /// A file that does not look as it always did.
    #[error("{}: expected {expected}", path.display())]
    Unexpected {
        /// Which file.
        path: PathBuf,
        /// What was looked for.
        expected: &'static str,
    },
    /// Not readable, not writable.
    #[error("{}: {source}", path.display())]
    System {
        /// Which file.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
}

type Result<T> = std::result::Result<T, ScaffoldError>;

/// The one list of generations.
const LIST: &str = "crates/sdpa/src/generations.rs";

/// The manifest of the crate that has the list.
const LIST_MANIFEST: &str = "crates/sdpa/Cargo.toml";

/// What kernels cost, one file per generation.
const COSTS: &str = "crates/sdpa-cli/tests/resources";

/// The files of a generation to be, relative to the repository's root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scaffold {
    /// Files that are not there yet, with their text.
    pub new: BTreeMap<PathBuf, String>,
    /// Files that get a line, with their whole text.
    pub edited: BTreeMap<PathBuf, String>,
    /// The pack of its kernels' PTX: its file, and what goes into it.
    pub pack: (PathBuf, Vec<(String, String)>),
    /// The packs of their machine code, which is the parent's: file and bytes.
    pub code: Vec<(PathBuf, Vec<u8>)>,
}

impl Scaffold {
    /// Reads what there is below `root` and makes what there will be. Nothing is written.
    ///
    /// # Errors
    /// [`ScaffoldError`].
    pub fn new(root: &Path, id: &str, parent: &dyn Attention, title: &str) -> Result<Self> {
        check_id(id)?;
        let maker = Maker { root, id, title, parent: parent.generation().id };
        for path in ["Cargo.toml", LIST, "kernels"] {
            if !root.join(path).exists() {
                return Err(ScaffoldError::NotTheRoot(path.into()));
            }
        }
        for path in [format!("crates/sdpa-{id}"), format!("kernels/{id}.cu")] {
            if root.join(&path).exists() {
                return Err(ScaffoldError::Exists(path.into()));
            }
        }
        if generations::find(id).is_some() {
            return Err(ScaffoldError::Exists(format!("crates/sdpa-{id}").into()));
        }
        let mut scaffold = Self::default();
        let checkout = Checkout::at(root).ok_or(ToolchainError::NoCheckout)?;
        maker.kernel(parent.generation().specialisations, checkout.sources()?, &mut scaffold)?;
        maker.machine_code(parent.generation(), &checkout, &mut scaffold)?;
        maker.own_crate(&mut scaffold)?;
        maker.lines(&mut scaffold)?;
        maker.snapshots(&mut scaffold)?;
        Ok(scaffold)
    }

    /// Writes all files, each whole; where one cannot be written, those made before are removed again.
    ///
    /// # Errors
    /// [`ScaffoldError::System`].
    pub fn write(&self, root: &Path) -> Result<()> {
        let mut made = Vec::new();
        let write = |path: &Path, bytes: &[u8]| -> std::io::Result<()> {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap_or(root))?;
            write_whole(&path, bytes).map_err(|error| error.source)
        };
        let packed = (&self.pack.0, pack(&self.pack.1));
        let new = self.new.iter().map(|(path, text)| (path, text.as_bytes(), true));
        let code = self.code.iter().map(|(path, bytes)| (path, bytes.as_slice(), true));
        let edited = self.edited.iter().map(|(path, text)| (path, text.as_bytes(), false));
        for (path, bytes, is_new) in new.chain([(packed.0, packed.1.as_slice(), true)]).chain(code).chain(edited) {
            if let Err(source) = write(path, bytes) {
                for path in made {
                    // The first error is the one to tell.
                    let _ = std::fs::remove_file(root.join(path));
                }
                return Err(ScaffoldError::System { path: path.clone(), source });
            }
            if is_new {
                made.push(path);
            }
        }
        Ok(())
    }
}

fn check_id(id: &str) -> Result<()> {
    let digits = id.strip_prefix('v').unwrap_or_default();
    let good = digits.starts_with(|first: char| first.is_ascii_digit())
        && digits.chars().all(|letter| letter.is_ascii_digit() || letter.is_ascii_lowercase());
    if good { Ok(()) } else { Err(ScaffoldError::Id(id.to_owned())) }
}

/// `V2b` of `v2b`.
fn capital(id: &str) -> String {
    let mut letters = id.chars();
    letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect()
}

/// Every occurrence as a word of its own.
fn rename(text: &str, from: &str, to: &str) -> String {
    let is_word = |letter: char| letter.is_alphanumeric() || letter == '_';
    let mut renamed = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(from) {
        let (before, after) = (&rest[..at], &rest[at + from.len()..]);
        let previous = before.chars().next_back().or_else(|| renamed.chars().next_back());
        let alone = !previous.is_some_and(is_word) && !after.chars().next().is_some_and(is_word);
        renamed += before;
        renamed += if alone { to } else { from };
        rest = after;
    }
    renamed + rest
}

struct Maker<'a> {
    root: &'a Path,
    id: &'a str,
    title: &'a str,
    parent: &'static str,
}

impl Maker<'_> {
    fn read(&self, path: &str) -> Result<String> {
        let path = PathBuf::from(path);
        std::fs::read_to_string(self.root.join(&path)).map_err(|source| ScaffoldError::System { path, source })
    }

    /// Id and struct name, wherever they stand alone, and the crate's name in Rust, where the id follows an underscore.
    fn renamed(&self, text: &str) -> String {
        let text = rename(text, &format!("sdpa_{}", self.parent), &format!("sdpa_{}", self.id));
        rename(&rename(&text, self.parent, self.id), &capital(self.parent), &capital(self.id))
    }

    /// `kernels/<id>.cu` and its PTX.
    fn kernel(&self, kernels: &'static [Specialisation], mut sources: Sources, scaffold: &mut Scaffold) -> Result<()> {
        let source = format!("{}.cu", self.parent);
        let (text, lines) = history::without_fixes(&self.header(&self.read(&format!("kernels/{source}"))?)?);
        if !KernelTexts::stale(kernels, &sources)?.is_empty() {
            return Err(ScaffoldError::Stale(self.parent));
        }
        let name = format!("{}.cu", self.id);
        // Kernels are named by their source for as long as the program runs, here a moment.
        let child_source: &'static str = String::leak(name.clone());
        let mut packed = Vec::new();
        for kernel in kernels {
            let ptx = kernel.packed_ptx()?;
            let own = Fingerprint::of_sources(kernel, &sources)?;
            let body = ptx.strip_prefix(&own.header(kernel)).ok_or(ScaffoldError::Stale(self.parent))?;
            let body = history::move_lines(body, &format!("kernels/{source}"), &lines);
            let body = body.replace(&format!("\"kernels/{source}\""), &format!("\"kernels/{name}\""));
            packed.push((kernel.packed_name(), *kernel, body));
        }
        sources.insert(name, text.clone());
        let packed = packed.into_iter().map(|(packed_name, kernel, body)| {
            let child = Specialisation { source: child_source, ..kernel };
            Ok((packed_name, Fingerprint::of_sources(&child, &sources)?.header(&child) + &body))
        });
        scaffold.pack = (Pack::path_of(self.id), packed.collect::<Result<_>>()?);
        scaffold.new.insert(format!("kernels/{}.cu", self.id).into(), text);
        Ok(())
    }

    /// The machine code of the child's PTX, whose instructions are the parent's.
    fn machine_code(&self, parent: &Generation, checkout: &Checkout, scaffold: &mut Scaffold) -> Result<()> {
        let own = Pack { id: self.parent, path: Pack::path_of(self.parent), kernels: parent.specialisations.to_vec() };
        for pack in CodePack::of(&own) {
            if !pack.stale(checkout, |kernel| kernel.packed_ptx())?.is_empty() {
                return Err(ScaffoldError::Stale(self.parent));
            }
            let system = |source| ScaffoldError::System { path: pack.path.clone(), source };
            let bytes = std::fs::read(self.root.join(&pack.path)).map_err(system)?;
            scaffold.code.push((CodePack::path_of(self.id, pack.architecture), bytes));
        }
        Ok(())
    }

    /// The kernel with another comment at its top, of as many lines: what comes after it stays where it is.
    fn header(&self, text: &str) -> Result<String> {
        let path = || PathBuf::from(format!("kernels/{}.cu", self.parent));
        let lines: Vec<&str> = text.lines().take_while(|line| line.starts_with("//")).collect();
        let key = |name: &str| lines.iter().position(|line| line.starts_with(&format!("// {name}:")));
        let (Some(parent), Some(idea), Some(needs)) = (key("parent"), key("idea"), key("needs")) else {
            return Err(ScaffoldError::Unexpected {
                path: path(),
                expected: "a comment at its top with lines `// parent:`, `// idea:` and `// needs:`, in this order",
            });
        };
        if !(0 < parent && parent < idea && idea < needs) {
            return Err(ScaffoldError::Unexpected {
                path: path(),
                expected: "`// parent:`, `// idea:`, `// needs:` in this order",
            });
        }
        let mut header: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        header[..needs].fill("//".to_owned());
        header[0] = format!("// {}: {}", capital(self.id), self.title);
        header[parent] = format!("// parent: {}", self.parent);
        header[idea] = format!("// idea:   so far the kernel of {}; these lines are for what is new", self.parent);
        let rest: String = text.split_inclusive('\n').skip(lines.len()).collect();
        Ok(header.join("\n") + "\n" + &rest)
    }

    /// `crates/sdpa-<id>/`.
    fn own_crate(&self, scaffold: &mut Scaffold) -> Result<()> {
        let (from, to) = (format!("crates/sdpa-{}", self.parent), format!("crates/sdpa-{}", self.id));
        let (id, title, parent) = (capital(self.id), self.title, self.parent);
        let quoted = title.replace('\\', "\\\\").replace('"', "\\\"");

        let manifest = self.renamed(&self.read(&format!("{from}/Cargo.toml"))?);
        let manifest = replace_line(&manifest, "description = ", &format!("description = \"{id}: {quoted}\""));
        scaffold.new.insert(format!("{to}/Cargo.toml").into(), manifest);
        for licence in ["LICENSE-APACHE", "LICENSE-MIT"] {
            scaffold.new.insert(format!("{to}/{licence}").into(), self.read(licence)?);
        }

        let path = format!("{from}/src/lib.rs");
        let source = self.renamed(&self.read(&path)?);
        let code: Vec<&str> = source.lines().skip_while(|line| line.starts_with("//!")).collect();
        let about = code.iter().position(|line| line.starts_with("pub struct "));
        let unexpected = |expected| ScaffoldError::Unexpected { path: path.clone().into(), expected };
        let about = about.ok_or_else(|| unexpected("a `pub struct`"))?;
        let first = code[..about].iter().rposition(|line| !line.starts_with("///") && !line.starts_with("#["));
        let first = first.map_or(0, |line| line + 1);
        let mut lines = vec![format!("//! {id}: {title}. See this crate's README.")];
        // The parent's example is the child's.
        let about_crate = source.lines().take_while(|line| line.starts_with("//!"));
        lines.extend(about_crate.skip_while(|line| *line != "//!").map(str::to_owned));
        for (index, line) in code.iter().enumerate() {
            match line {
                line if (first..about).contains(&index) && line.starts_with("///") => {
                    if index == first {
                        lines.push(format!("/// So far what {parent} is."));
                    }
                }
                line => lines.push((*line).to_owned()),
            }
        }
        let mut source = lines.join("\n") + "\n";
        for (key, line) in [
            ("    title: ", format!("    title: \"{quoted}\",")),
            ("    parent: ", format!("    parent: Some(\"{parent}\"),")),
        ] {
            if source.lines().filter(|line| line.starts_with(key)).count() != 1 {
                return Err(unexpected("one line `title:` and one line `parent:` in its `Generation`"));
            }
            source = replace_line(&source, key, &line);
        }
        scaffold.new.insert(format!("{to}/src/lib.rs").into(), source);

        let readme = format!(
            "# {id}: {title}\n\n\
             ## Idea\n\nSo far the kernel of {parent} under another name. Say the one thing that is new, and why.\n\n\
             `diff kernels/{parent}.cu kernels/{0}.cu` shows it.\n\n\
             ## Expected\n\nWhat it should bring, at which shapes, and the sum that says so: before it is measured.\n\n\
             ## Measured\n\n<!-- measured:begin -->\n<!-- measured:end -->\n\n\
             ## Did not work\n\nNothing tried yet.\n\n\
             ## Fixed\n\nNothing yet.\n",
            self.id
        );
        scaffold.new.insert(format!("{to}/README.md").into(), readme);
        Ok(())
    }

    /// The lines that make the crate a dependency and a feature, and the generation one of the list; and what its kernels cost.
    fn lines(&self, scaffold: &mut Scaffold) -> Result<()> {
        let id = self.id;
        let unexpected = |path: &str, expected| ScaffoldError::Unexpected { path: path.into(), expected };

        let no_manifest = || {
            unexpected(
                LIST_MANIFEST,
                "a manifest with [dependencies], and `all` and `machine-code` among its [features]",
            )
        };
        let mut manifest: DocumentMut = self.read(LIST_MANIFEST)?.parse().map_err(|_| no_manifest())?;
        let dependencies = manifest.get_mut("dependencies").and_then(|item| item.as_table_mut());
        let mut dependency = toml_edit::InlineTable::new();
        dependency.insert("package", format!("sdpa-{id}").into());
        dependency.insert("path", format!("../sdpa-{id}").into());
        dependency.insert("version", env!("CARGO_PKG_VERSION").into());
        dependency.insert("optional", true.into());
        dependencies.ok_or_else(no_manifest)?.insert(id, value(dependency));
        let features = manifest.get_mut("features").and_then(|item| item.as_table_mut()).ok_or_else(no_manifest)?;
        for (list, entry) in [("all", id.to_owned()), ("machine-code", format!("{id}?/machine-code"))] {
            let mut entry = toml_edit::Value::from(entry);
            entry.decor_mut().set_prefix("\n    ");
            features.get_mut(list).and_then(|list| list.as_array_mut()).ok_or_else(no_manifest)?.push_formatted(entry);
        }
        scaffold.edited.insert(LIST_MANIFEST.into(), manifest.to_string());

        let list = self.read(LIST)?;
        let is_generation = |line: &str| line.trim_start().starts_with("(v") && line.ends_with(");");
        let last = list.lines().enumerate().filter(|(_, line)| is_generation(line)).last();
        let (last, _) = last.ok_or_else(|| unexpected(LIST, "the lines of the other generations"))?;
        let line = format!("            ({id}, \"{id}\", {id}::{});", capital(id));
        let mut lines: Vec<&str> = list.lines().collect();
        lines.insert(last + 1, &line);
        scaffold.edited.insert(LIST.into(), lines.join("\n") + "\n");

        let costs = self.read(&format!("{COSTS}/{}.json", self.parent))?;
        let costs = costs.replace(&format!("\"{}/", self.parent), &format!("\"{id}/"));
        scaffold.new.insert(format!("{COSTS}/{id}.json").into(), costs);
        Ok(())
    }

    /// What tests remember of the parent is true of the child.
    fn snapshots(&self, scaffold: &mut Scaffold) -> Result<()> {
        let mut folders = vec![PathBuf::from("crates/harness/tests")];
        while let Some(folder) = folders.pop() {
            let system = |source| ScaffoldError::System { path: folder.clone(), source };
            for entry in std::fs::read_dir(self.root.join(&folder)).map_err(system)? {
                let entry = entry.map_err(system)?;
                let name = entry.file_name().to_string_lossy().into_owned();
                let path = folder.join(&name);
                if entry.path().is_dir() {
                    folders.push(path);
                } else if let Some(stem) = name.strip_suffix(&format!("_{}.snap", self.parent)) {
                    let text = self.read(&path.to_string_lossy())?;
                    scaffold.new.insert(folder.join(format!("{stem}_{}.snap", self.id)), self.renamed(&text));
                }
            }
        }
        Ok(())
    }
}

/// The text with another line for the one that starts so.
fn replace_line(text: &str, start: &str, with: &str) -> String {
    text.lines().map(|line| if line.starts_with(start) { with } else { line }.to_owned() + "\n").collect()
}

#[cfg(test)]
mod tests {
    use sdpa_core::{MachineCode, PackedCode};
    use sdpa_toolchain::{code_lines, ptx_hash};

    use super::*;

    fn root() -> PathBuf {
        Checkout::find().unwrap().root().to_owned()
    }

    #[test]
    fn ids_are_what_crates_modules_and_kernels_can_be_called() {
        for good in ["v3", "v2f", "v10b2"] {
            assert!(check_id(good).is_ok(), "{good}");
        }
        for bad in ["", "v", "3", "vb", "V3", "v3-b", "v3_b", "v3/../x", "v3 "] {
            assert!(check_id(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_are_replaced_where_they_stand_alone() {
        assert_eq!(rename("v2 v2b sdpa-v2, \"v2\" v2", "v2", "v9"), "v9 v2b sdpa-v9, \"v9\" v9");
        assert_eq!(rename("av2 v2v2 _v2", "v2", "v9"), "av2 v2v2 _v2");
        assert_eq!(capital("v2b"), "V2b");
    }

    /// Any generation, old or new.
    #[test]
    fn every_generation_can_be_a_parent() {
        for parent in generations::ALL {
            let who = parent.generation();
            let scaffold = Scaffold::new(&root(), "v987", *parent, "a \"new\" idea").unwrap();
            let text = |path: &str| scaffold.new[Path::new(path)].as_str();
            let kernel = text("kernels/v987.cu");
            let parents = std::fs::read_to_string(root().join(format!("kernels/{}.cu", who.id))).unwrap();
            assert!(
                kernel.starts_with("// V987: a \"new\" idea\n")
                    && kernel.contains(&format!("\n// parent: {}\n", who.id))
            );
            assert_eq!(code_lines(kernel), code_lines(&parents));
            assert!(!kernel.contains("FIX:"), "{kernel}");
            let own = text("crates/sdpa-v987/src/lib.rs");
            assert!(own.contains("pub struct V987;") && own.contains("title: \"a \\\"new\\\" idea\","), "{own}");
            assert!(own.contains(&format!("parent: Some(\"{}\")", who.id)) && own.contains("\"v987.cu\""), "{own}");
            // The example in its documentation is about itself.
            assert!(own.contains("sdpa_v987::V987.plan(") && !own.contains(&format!("sdpa_{}", who.id)), "{own}");
            assert_eq!(scaffold.pack.1.len(), who.specialisations.len());
            let code = scaffold.code.iter().flat_map(|(_, bytes)| PackedCode::decode(bytes).unwrap());
            for MachineCode { kernel, ptx, .. } in code {
                let (_, text) = scaffold.pack.1.iter().find(|(name, _)| *name == kernel).unwrap();
                assert_eq!(ptx, ptx_hash(text), "{kernel}");
            }
            let architectures = who.specialisations[0].architecture.machine_code();
            assert_eq!(scaffold.code.len(), architectures.len());
            assert!(own.contains(&format!("packed!(\"v987\", \"{}\")", architectures.join("\", \""))), "{own}");
            // Each of the two files that there were gets its lines and loses none.
            assert_eq!(scaffold.edited.len(), 2);
            const DEPENDENCY: &str =
                "v987 = { package = \"sdpa-v987\", path = \"../sdpa-v987\", version = \"0.1.0\", optional = true }";
            for (path, lines) in [
                (LIST_MANIFEST, [DEPENDENCY, "    \"v987\",", "    \"v987?/machine-code\","].as_slice()),
                (LIST, &["            (v987, \"v987\", v987::V987);"]),
            ] {
                let (before, after) =
                    (std::fs::read_to_string(root().join(path)).unwrap(), &scaffold.edited[Path::new(path)]);
                let without: Vec<&str> = after.lines().filter(|other| !lines.contains(other)).collect();
                assert_eq!(before.lines().collect::<Vec<_>>(), without, "{path}");
                assert_eq!(after.lines().count(), without.len() + lines.len(), "{path}");
            }
        }
    }

    #[test]
    fn what_is_there_is_not_written_over() {
        let parent = generations::ALL[0];
        let error = |id: &str| Scaffold::new(&root(), id, parent, "x").unwrap_err().to_string();
        let id = parent.generation().id;
        assert_eq!(error(id), format!("crates/sdpa-{id}: there is a generation of this name, or something of it"));
        let elsewhere = tempfile::tempdir().unwrap();
        let error = Scaffold::new(elsewhere.path(), "v987", parent, "x").unwrap_err().to_string();
        assert_eq!(error, "Cargo.toml: not there: run this in the repository's root");
    }
}
