//! `sdpa steps`: what each step of the tree changed in the kernels.

use std::io::Write;
use std::process::ExitCode;

use harness::table::{Align, Table};
use sdpa_bench::report::markers;
use sdpa_cli::steps::{self, EvolutionStep};
use sdpa_toolchain::{Checkout, write_whole};

use super::Outcome;

/// Show how much of its parent's code each generation keeps, and how many lines are new
///
/// Lines of code are compared: comments, indentation and empty lines aside.
#[derive(clap::Args, Debug)]
pub(crate) struct Steps {
    /// Write JSON for programs
    #[arg(long, conflicts_with = "write")]
    json: bool,
    /// Write the table between its markers in ARCHITECTURE.md
    #[arg(long)]
    write: bool,
}

impl Steps {
    pub(crate) fn run(&self, out: &mut dyn Write) -> Outcome {
        let checkout = Checkout::find()?;
        let steps = steps::steps(&checkout.sources()?)?;
        if self.json {
            writeln!(out, "{}", serde_json::to_string_pretty(&steps)?)?;
        } else if self.write {
            let path = checkout.root().join("ARCHITECTURE.md");
            let page = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            let page = markers::splice(&page, steps::REGION, &steps::render_markdown(&steps))
                .map_err(|error| format!("{}: {error}", path.display()))?;
            write_whole(&path, page.as_bytes())?;
            writeln!(out, "wrote {}", path.display())?;
        } else {
            write!(out, "{}", render(&steps))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn render(steps: &[EvolutionStep]) -> String {
    let mut table = Table::new(&[
        ("step", Align::Left),
        ("kept %", Align::Right),
        ("kept", Align::Right),
        ("of", Align::Right),
        ("new", Align::Right),
        ("idea", Align::Left),
    ]);
    for step in steps {
        table.push(vec![
            format!("{} → {}", step.parent, step.child).into(),
            step.percent_kept().to_string().into(),
            step.kept.to_string().into(),
            step.parent_lines.to_string().into(),
            step.new.to_string().into(),
            step.title.as_str().into(),
        ]);
    }
    table.render()
}
