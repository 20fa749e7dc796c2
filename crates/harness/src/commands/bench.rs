//! `sdpa bench`: generations and peers against one another.

use std::error::Error as StdError;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use harness::acceptance::shape_of;
use harness::case::Case;
use harness::files;
use harness::ptx;
use harness::table::{Align, Table, microseconds};
use harness::timing::{
    self, Cache, Contender, Figure, Grid, InputSets, Options, Peers, Prepared, Record, Shape, Timing, Verified,
};
use sdpa_core::{Attention, Device, Dtype, Error, Mask, Problem};

use super::{FAILED, Outcome, bar, generations_or_all, keeps_time, open, spinner};

/// Time the generations against one another, and against peers; needs a GPU
///
/// Every generation is verified on each problem before it is timed there. Contenders take turns, so that clocks and
/// temperature are everybody's alike; the figure is the median of the samples.
#[derive(clap::Args, Debug)]
pub(crate) struct Bench {
    /// Sizes B,H,L,d with Hkv and Lq after them where they differ; may be given several times
    #[arg(long = "shape", value_name = "B,H,L,d[,Hkv][,Lq]")]
    shapes: Vec<Shape>,
    /// Sizes that belong together; `acceptance` where no shape is given either
    #[arg(long, value_enum)]
    grid: Option<GridName>,
    /// Element type
    #[arg(long, value_enum, default_value_t = DtypeName::F16)]
    dtype: DtypeName,
    /// With a causal mask (bottom-right)
    #[arg(long, conflicts_with = "both")]
    causal: bool,
    /// Without and with a causal mask
    #[arg(long)]
    both: bool,
    /// Which generations; all by default
    #[arg(long, value_name = "ID,…", value_delimiter = ',')]
    generations: Vec<String>,
    /// Also with inputs that come from memory instead of the L2 cache
    #[arg(long)]
    cold: bool,
    /// Also time PyTorch's backends and FlashAttention-3, in turn with ours (bench/peers.py)
    #[arg(long)]
    peers: bool,
    /// The Python that has PyTorch
    #[arg(long, value_name = "PROGRAM", default_value = "python3")]
    python: String,
    /// Samples of each contender
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = clap::value_parser!(u16).range(3..))]
    samples: u16,
    /// Write the figures
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum GridName {
    /// The gate's three shapes
    Acceptance,
    /// 16 K positions in batches of 512 to 16 K, head dimensions 64, 128 and 256
    Targets,
    /// One sequence of 64 to 1024
    Short,
    /// One query over a cache
    Decode,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum DtypeName {
    F16,
    Bf16,
}

type AnyError = Box<dyn StdError>;

impl Bench {
    pub(crate) fn run(&self, out: &mut dyn Write) -> Outcome {
        let generations = generations_or_all(&self.generations)?;
        let problems = self.problems()?;
        if let Some(path) = &self.json {
            files::check_output(path, path).or_else(|error| match error {
                // Figures may replace figures.
                files::FileError::OutputIsInput(_) => Ok(()),
                error => Err(error),
            })?;
        }
        let device = open(out)?;
        if !keeps_time(&*device) {
            return Err(Error::NoClock { device: device.name() }.into());
        }
        let peers = self.peers.then(|| Peers::start(&self.python)).transpose()?;

        let mut record = Record { device: device.name(), ..Record::default() };
        let mut wrong = false;
        for problem in &problems {
            let sitting = Sitting { device: &*device, peers: peers.as_ref(), problem, arguments: self };
            wrong |= !sitting.run(out, &generations, &mut record.figures)?;
        }
        // Asked at the end, while the clocks are what they were.
        record.environment = timing::environment();
        if let Some(peers) = &peers {
            record.environment.insert("peers".to_owned(), peers.environment.clone().into());
        }
        if let Some(path) = &self.json {
            files::write_whole(path, (serde_json::to_string_pretty(&record)? + "\n").as_bytes())?;
            writeln!(out, "wrote {}", path.display())?;
        }
        Ok(if wrong { ExitCode::from(FAILED) } else { ExitCode::SUCCESS })
    }

    fn problems(&self) -> Result<Vec<Problem>, sdpa_core::ProblemError> {
        let grid = match (self.grid, self.shapes.is_empty()) {
            (None, true) => Some(GridName::Acceptance),
            (grid, _) => grid,
        };
        let mut shapes = self.shapes.clone();
        shapes.extend(grid.into_iter().flat_map(|grid| {
            match grid {
                GridName::Acceptance => Grid::Acceptance,
                GridName::Targets => Grid::Targets,
                GridName::Short => Grid::Short,
                GridName::Decode => Grid::Decode,
            }
            .shapes()
        }));
        let masks: &[Mask] = match (self.both, self.causal) {
            (true, _) => &[Mask::Full, Mask::Causal],
            (_, true) => &[Mask::Causal],
            _ => &[Mask::Full],
        };
        let dtype = match self.dtype {
            DtypeName::F16 => Dtype::F16,
            DtypeName::Bf16 => Dtype::Bf16,
        };
        shapes.iter().flat_map(|shape| masks.iter().map(|mask| shape.problem(dtype, *mask))).collect()
    }
}

/// Everybody on one problem.
struct Sitting<'a> {
    device: &'a dyn Device,
    peers: Option<&'a Peers>,
    problem: &'a Problem,
    arguments: &'a Bench,
}

/// A contender, its figures, and for a generation what it launches.
struct Entry {
    name: String,
    warm: Timing,
    cold: Option<Timing>,
    kernel: Option<String>,
}

impl Sitting<'_> {
    /// Verifies, times and prints; false where a generation is wrong.
    fn run(
        &self,
        out: &mut dyn Write,
        generations: &[&'static dyn Attention],
        figures: &mut Vec<Figure>,
    ) -> Result<bool, AnyError> {
        let problem = self.problem;
        writeln!(out, "\n{} {} {}", shape_of(problem), problem.dtype(), problem.mask().name())?;
        let (proofs, all_right) = self.verify(out, generations)?;
        let right: Vec<&'static dyn Attention> = proofs.iter().map(Verified::generation).collect();
        let warm = self.time(out, proofs, Cache::Warm)?;
        let cold = match self.arguments.cold {
            true => {
                // A proof is worth one measurement.
                let (proofs, _) = self.verify(out, &right)?;
                Some(self.time(out, proofs, Cache::Cold)?)
            }
            false => None,
        };
        let mut entries = Vec::new();
        for (name, warm) in warm {
            let cold = cold.as_ref().and_then(|cold| cold.iter().find(|(other, _)| *other == name));
            let generation = right.iter().find(|generation| generation.generation().id == name);
            let kernel = generation.map(|generation| self.fingerprint(*generation)).transpose()?;
            entries.push(Entry { name, warm, cold: cold.map(|(_, timing)| timing.clone()), kernel });
        }
        write!(out, "{}", render(problem, &entries, self.arguments.cold))?;
        figures.extend(entries.into_iter().map(|entry| Figure {
            cold_median_us: entry.cold.map(|timing| timing.median_us),
            kernel: entry.kernel,
            ..Figure::new(&entry.name, problem, &entry.warm)
        }));
        Ok(all_right)
    }

    /// Proofs of the generations that are right, and whether all that take the problem are.
    fn verify(
        &self,
        out: &mut dyn Write,
        generations: &[&'static dyn Attention],
    ) -> Result<(Vec<Verified<'static>>, bool), AnyError> {
        let (mut right, mut all_right) = (Vec::new(), true);
        for generation in generations {
            let progress = spinner(format!("verifying {} on {}", generation.generation().id, self.problem));
            let proof = Verified::new(self.device, *generation, &Case::new(self.problem.clone()));
            progress.finish_and_clear();
            match proof {
                Ok(proof) => right.push(proof),
                Err(failure) if failure.is_sticky() => return Err(failure.to_string().into()),
                Err(failure) => match failure.unsupported() {
                    Some(reason) => writeln!(out, "  not timed: {reason}")?,
                    None => {
                        all_right = false;
                        writeln!(out, "  not timed, because it is wrong:\n{failure}")?;
                    }
                },
            }
        }
        Ok((right, all_right))
    }

    /// Times everybody in turn.
    fn time(
        &self,
        out: &mut dyn Write,
        proofs: Vec<Verified<'static>>,
        cache: Cache,
    ) -> Result<Vec<(String, Timing)>, AnyError> {
        let samples = usize::from(self.arguments.samples);
        let options = Options { samples, cache, ..Options::default() };
        let sets = InputSets::new(self.device, self.problem, cache)?;
        let mut names = Vec::new();
        let mut contenders: Vec<Box<dyn Contender<Error = AnyError> + '_>> = Vec::new();
        for proof in proofs {
            names.push(proof.generation().generation().id.to_owned());
            contenders.push(Box::new(AnyContender(Prepared::new(self.device, proof, &sets, &options)?)));
        }
        if let Some(peers) = self.peers {
            let (ready, skipped) = peers.prepare(self.problem, &options)?;
            for name in ready {
                contenders.push(Box::new(AnyContender(peers.contender(&name))));
                names.push(name);
            }
            if cache == Cache::Warm {
                for (name, reason) in skipped {
                    writeln!(out, "  not timed: {name}: {reason}")?;
                }
            }
        }
        let progress = bar(samples as u64);
        progress.set_message(format!("timing {}", self.problem));
        let timings = timing::round_robin(&mut contenders, samples, || progress.inc(1));
        progress.finish_and_clear();
        Ok(names.into_iter().zip(timings?).collect())
    }

    fn fingerprint(&self, generation: &dyn Attention) -> Result<String, AnyError> {
        Ok(ptx::fingerprint(&generation.plan(self.problem, self.device.limits())?)?)
    }
}

/// Contenders whose errors differ, side by side.
struct AnyContender<C>(C);

impl<C: Contender<Error: StdError + 'static>> Contender for AnyContender<C> {
    type Error = AnyError;

    fn sample(&mut self) -> Result<f64, AnyError> {
        self.0.sample().map_err(Into::into)
    }
}

fn render(problem: &Problem, entries: &[Entry], cold: bool) -> String {
    let mut columns = vec![
        ("contender", Align::Left),
        ("µs", Align::Right),
        ("±", Align::Right),
        ("TFLOP/s", Align::Right),
        ("× previous", Align::Right),
        ("verdict", Align::Left),
        ("× best peer", Align::Right),
        ("verdict", Align::Left),
    ];
    if cold {
        columns.push(("cold µs", Align::Right));
    }
    let mut table = Table::new(&columns);
    let best = entries
        .iter()
        .filter(|entry| entry.kernel.is_none())
        .min_by(|left, right| left.warm.median_us.total_cmp(&right.warm.median_us));
    let mut previous: Option<&Entry> = None;
    for entry in entries {
        let beside = |other: Option<&Entry>| match other.filter(|_| entry.kernel.is_some()) {
            Some(other) => {
                let verdict = timing::compare(&entry.warm, &other.warm);
                [format!("{:.2}", other.warm.median_us / entry.warm.median_us), verdict.to_string()]
            }
            None => ["–".to_owned(), String::new()],
        };
        let mut row = vec![
            entry.name.clone(),
            microseconds(entry.warm.median_us),
            format!("{:.1} %", 100.0 * entry.warm.spread()),
            format!("{:.1}", entry.warm.tflops(problem.flops())),
        ];
        row.extend(beside(previous));
        row.extend(beside(best));
        if let Some(cold) = &entry.cold {
            row.push(microseconds(cold.median_us));
        }
        table.push(row.into_iter().map(Into::into).collect());
        if entry.kernel.is_some() {
            previous = Some(entry);
        }
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_to_the_generation_before_and_to_the_best_peer() {
        let problem = Problem::new(1, 8, 512, 64).build().unwrap();
        let entry = |name: &str, samples: [f64; 3], kernel: Option<&str>| Entry {
            name: name.to_owned(),
            warm: Timing::new(samples.to_vec()),
            cold: Some(Timing::new(vec![2.0 * samples[1]])),
            kernel: kernel.map(str::to_owned),
        };
        let entries = [
            entry("v1", [300.0, 301.0, 302.0], Some("a")),
            entry("v2b", [100.0, 100.5, 101.0], Some("b")),
            entry("flash", [10.1, 10.2, 10.3], None),
            entry("cudnn", [9.0, 9.0, 9.1], None),
        ];
        insta::assert_snapshot!(render(&problem, &entries, true), @r"
        contender    µs      ±  TFLOP/s  × previous  verdict  × best peer  verdict  cold µs
        v1          301  0.2 %      1.8           –                  0.03  slower       602
        v2b         100  0.2 %      5.3        3.00  faster          0.09  slower       201
        flash      10.2  0.5 %     52.6           –                     –              20.4
        cudnn      9.00  0.3 %     59.7           –                     –              18.0
        ");
    }
}
