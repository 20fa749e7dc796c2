//! `sdpa report`: the regions of READMEs, the page of peers and the plots, from records.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use sdpa::generations;
use sdpa_bench::report::{
    self, Evidence, ReportError, blind, headline, markers, measured, peers, plot, programs, ragged, table, tree,
};
use sdpa_toolchain::resources::Cost;
use sdpa_toolchain::write_whole;

use super::{FAILED, Outcome};

/// Write figures into the READMEs, the page of peers and the plots, from the records of `sdpa bench --record` and `sdpa mutate --record`
///
/// Needs no GPU: the same records give the same bytes everywhere. Figures whose kernel has changed since they were
/// measured are marked as stale.
#[derive(clap::Args, Debug)]
pub(crate) struct WriteReport {
    /// The folder with the records
    #[arg(long, value_name = "DIR", default_value = "results")]
    results: PathBuf,
    /// The page whose regions `headline`, `tree` and `results` to write, each between `<!-- NAME:begin -->` and `<!-- NAME:end -->`
    #[arg(long, value_name = "FILE", default_value = "README.md")]
    readme: PathBuf,
    /// The folder with the generations' crates, whose READMEs have a region `measured`; crates if it is there
    #[arg(long, value_name = "DIR")]
    crates: Option<PathBuf>,
    /// The folder for plots
    #[arg(long, value_name = "DIR", default_value = "docs")]
    docs: PathBuf,
    /// The folder with registers and shared memory as `cargo test` accepted them; crates/sdpa-cli/tests/resources if it is
    /// there
    #[arg(long, value_name = "DIR")]
    resources: Option<PathBuf>,
    /// Write nothing, and exit 1 where anything would change
    #[arg(long)]
    check: bool,
}

/// A file as it should be; without text, it should not be.
struct Output {
    path: PathBuf,
    text: Option<String>,
}

impl WriteReport {
    pub(crate) fn run(&self, out: &mut dyn Write) -> Outcome {
        let mut changed = false;
        // Everything is rendered before anything is written.
        for Output { path, text } in self.outputs()? {
            if read(&path)? == text {
                continue;
            }
            changed = true;
            let what = match (&text, self.check) {
                (_, true) => "out of date",
                (Some(text), false) => {
                    write_whole(&path, text.as_bytes())?;
                    "written"
                }
                (None, false) => {
                    std::fs::remove_file(&path).map_err(|source| system(&path, source))?;
                    "removed: no record is enough for it"
                }
            };
            writeln!(out, "{}: {what}", path.display())?;
        }
        if !changed {
            writeln!(out, "up to date")?;
        }
        Ok(if self.check && changed { ExitCode::from(FAILED) } else { ExitCode::SUCCESS })
    }

    fn outputs(&self) -> Result<Vec<Output>, Box<dyn std::error::Error>> {
        let records = report::read_records(&self.results)?;
        let scores = report::read_scores(&self.results.join("mutation"))?;
        let ragged_page = ragged::render(generations::ALL, &records)?;
        let evidence = Evidence::new(generations::ALL, records, &self.costs()?, &scores)?;
        let regions = [
            (headline::REGION, headline::render(&evidence)),
            (tree::REGION, tree::render(&evidence)),
            (table::REGION, table::render(&evidence)),
        ];
        let mut outputs = vec![page(&self.readme, &regions)?];
        if let Some(crates) = self.crates() {
            for rung in &evidence.rungs {
                let readme = crates.join(format!("sdpa-{}/README.md", rung.id));
                outputs.push(page(&readme, &[(measured::REGION, measured::render(&evidence, rung))])?);
            }
        }

        let plots = plot::plots(&evidence)?;
        for name in self.drawn_before()? {
            if plots.iter().all(|plot| plot.file != name) {
                outputs.push(Output { path: self.docs.join(name), text: None });
            }
        }
        if !self.check {
            std::fs::create_dir_all(&self.docs).map_err(|source| system(&self.docs, source))?;
        }
        outputs.push(Output { path: self.docs.join(peers::FILE), text: Some(peers::render(&evidence)) });
        outputs.push(Output { path: self.docs.join(ragged::FILE), text: ragged_page });
        // Its words are written by hand; a folder for plots alone has no such page.
        let path = self.docs.join(programs::FILE);
        if path.is_file() {
            let measured = programs::render(&programs::read(&self.results.join("programs"))?);
            outputs.push(page(&path, &[(programs::REGION, measured)])?);
        }
        let coverage = blind::read_coverage(&self.results.join("coverage"))?;
        // Without a record there is nothing to show.
        let seen = !coverage.is_empty() || !scores.is_empty();
        let page = seen.then(|| blind::render(generations::ALL, &scores, &coverage)).transpose()?;
        outputs.push(Output { path: self.docs.join(blind::FILE), text: page });
        outputs.extend(plots.into_iter().map(|plot| Output { path: self.docs.join(plot.file), text: Some(plot.svg) }));
        Ok(outputs)
    }

    /// Where the generations' READMEs are; none if no folder was named and the usual one is not there.
    fn crates(&self) -> Option<&Path> {
        let usual = Path::new("crates");
        self.crates.as_deref().or(usual.is_dir().then_some(usual))
    }

    /// Plots of speed that are in the folder, by name.
    fn drawn_before(&self) -> Result<Vec<String>, ReportError> {
        let folder = match std::fs::read_dir(&self.docs) {
            Ok(folder) => folder,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(system(&self.docs, source)),
        };
        let mut names = Vec::new();
        for entry in folder {
            let name = entry.map_err(|source| system(&self.docs, source))?.file_name().to_string_lossy().into_owned();
            if name.starts_with(plot::SPEED) && name.ends_with(".svg") {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Recorded costs; none if no folder was named and the usual one is not there.
    fn costs(&self) -> Result<Vec<Cost>, ReportError> {
        let usual = Path::new("crates/sdpa-cli/tests/resources");
        let folder = match &self.resources {
            Some(folder) => folder,
            None if usual.is_dir() => usual,
            None => return Ok(Vec::new()),
        };
        let mut costs: Vec<Cost> = Vec::new();
        for path in report::json_files(folder)? {
            let text = std::fs::read_to_string(&path).map_err(|source| system(&path, source))?;
            let read: Vec<Cost> =
                serde_json::from_str(&text).map_err(|source| ReportError::Format { path: path.clone(), source })?;
            costs.extend(read);
        }
        Ok(costs)
    }
}

/// A page with the text of its regions.
fn page(path: &Path, regions: &[(&'static str, String)]) -> Result<Output, Box<dyn std::error::Error>> {
    let mut text = std::fs::read_to_string(path).map_err(|source| system(path, source))?;
    for (region, content) in regions {
        text = markers::splice(&text, region, content).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(Output { path: path.to_owned(), text: Some(text) })
}

fn system(path: &Path, source: std::io::Error) -> ReportError {
    ReportError::System { path: path.to_owned(), source }
}

/// A file's text; none where there is no such file.
fn read(path: &Path) -> Result<Option<String>, ReportError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(system(path, source)),
    }
}
