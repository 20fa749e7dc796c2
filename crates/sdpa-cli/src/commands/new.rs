//! `sdpa new`: a generation to edit.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use sdpa_cli::scaffold::Scaffold;

use super::{Outcome, generation};

/// Make a new generation from its parent: crate, kernel, PTX and the lines that put it on the list
///
/// Run in the repository's root. The child is the parent under another name, so it passes the gate before the first edit;
/// no CUDA toolkit is needed for that, because a kernel that differs in its first comment alone has its parent's PTX.
#[derive(clap::Args, Debug)]
pub(crate) struct New {
    /// Its name, such as v3 or v2f
    #[arg(value_name = "ID")]
    id: String,
    /// The generation that it evolves from
    #[arg(long, value_name = "ID")]
    parent: String,
    /// Its one idea, in a line
    #[arg(long, value_name = "TEXT")]
    title: Option<String>,
}

impl New {
    pub(crate) fn run(&self, out: &mut dyn Write) -> Outcome {
        let parent = generation(&self.parent)?;
        let id = &self.id;
        let title = self.title.clone().unwrap_or_else(|| format!("so far {}", self.parent));
        if title.is_empty() || title.contains(['\n', '\r']) {
            return Err("--title: the idea is one line".into());
        }
        let root = Path::new(".");
        let scaffold = Scaffold::new(root, id, parent, &title)?;
        scaffold.write(root)?;
        for path in scaffold.new.keys() {
            writeln!(out, "made   {}", path.display())?;
        }
        let (pack, kernels) = &scaffold.pack;
        let count = kernels.len();
        writeln!(out, "made   {} ({count} kernels, {}'s until the kernel changes)", pack.display(), self.parent)?;
        for (path, _) in &scaffold.code {
            writeln!(out, "made   {} (their machine code)", path.display())?;
        }
        for path in scaffold.edited.keys() {
            writeln!(out, "edited {}", path.display())?;
        }
        writeln!(out, "\nnext:")?;
        writeln!(out, "  edit kernels/{id}.cu (the kernel), crates/sdpa-{id} (the plan, the README)")?;
        writeln!(out, "  cargo run --release -- gate {id}         (judges the file on disk; needs NVRTC, no GPU)")?;
        writeln!(out, "  cargo run --release -- build-ptx {id}    (packs PTX and machine code, which are committed)")?;
        writeln!(out, "  cargo run --release -- report           (its row in the README's table)")?;
        Ok(ExitCode::SUCCESS)
    }
}
