//! All contenders on one problem: verified, timed in turn, and judged.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::io::Write;
use std::time::{Duration, Instant};

use harness::acceptance::shape_of;
use harness::case::Case;
use harness::verify::{Question, Thoroughness};
use sdpa_bench::timing::{
    self, Absent, Cache, Ceiling, Contender, Figure, Hopeless, InputSets, Meter, Options, Peers, Prepared, ReadyPeers,
    Record, Regime, Sample, Timing, Verified,
};
use sdpa_core::{Attention, Device, Problem};
use sdpa_toolchain::Fingerprint;

use super::super::{bar, spinner};
use super::{parent_of, render};

type AnyError = Box<dyn StdError>;

/// The contenders' problem, and how they are timed.
pub(in crate::commands) struct Sitting<'a> {
    pub(in crate::commands) device: &'a dyn Device,
    pub(in crate::commands) peers: Option<&'a Peers>,
    pub(in crate::commands) case: &'a Case,
    /// One of each regime to time in, in this order.
    pub(in crate::commands) regimes: &'a [Options],
    /// Also with inputs that come from memory, in short turns.
    pub(in crate::commands) cold: bool,
    /// Says what passes cost in sustained turns.
    pub(in crate::commands) meter: Option<&'a Meter>,
    pub(in crate::commands) ceilings: &'a [Ceiling],
    pub(in crate::commands) baseline: Option<&'a Record>,
    /// Also times generations that are right and very slow.
    pub(in crate::commands) everybody: bool,
}

impl Sitting<'_> {
    /// Verifies, times, prints and records; false if a generation is wrong.
    pub(in crate::commands) fn run(
        &self,
        out: &mut dyn Write,
        generations: &[&'static dyn Attention],
        record: &mut Record,
    ) -> Result<bool, AnyError> {
        let problem = &self.case.problem;
        writeln!(out, "\n{} {} {}{}", shape_of(problem), problem.dtype(), problem.mask().name(), self.extensions())?;
        let started = Instant::now();
        let progress = spinner(format!("asking the oracle about {problem}"));
        let question = Question::new(self.case.clone(), Thoroughness::before_timing(problem));
        progress.finish_and_clear();
        let question = question?;
        let asked = started.elapsed();

        let (mut proofs, mut all_right) = self.verify(out, &question, generations, &mut record.absent)?;
        let took: Vec<(&str, Duration)> =
            proofs.iter().map(|proof| (proof.generation().generation().id, proof.took())).collect();
        let hopeless = if self.everybody { Vec::new() } else { timing::hopeless(&took) };
        for Hopeless { id, reason } in hopeless {
            proofs.retain(|proof| proof.generation().generation().id != id);
            self.leave_out(out, &mut record.absent, id, &reason)?;
        }
        let verified = started.elapsed();
        let right: Vec<&'static dyn Attention> = proofs.iter().map(Verified::generation).collect();
        let (mut proofs, mut figures) = (Some(proofs), Vec::new());
        for options in self.regimes {
            let proofs = match proofs.take() {
                Some(proofs) => proofs,
                None => self.verify_again(out, &question, &right, &mut all_right)?,
            };
            let timed = self.figures(out, &question, proofs, options, &mut record.absent, &mut all_right)?;
            if self.regimes.len() > 1 {
                writeln!(out, "{} turns of {} ms", options.regime, options.turn().as_millis())?;
            }
            write!(out, "{}", render::table(&timed, self.baseline))?;
            if self.misses_joules(options, &timed) {
                let ms = options.sample.as_millis();
                writeln!(
                    out,
                    "no joules: the energy counter made fewer than two steps in {ms} ms; raise --sustained-ms"
                )?;
            }
            figures.extend(timed);
        }
        let seconds = [asked, verified - asked, started.elapsed() - verified].map(|part| part.as_secs_f64());
        writeln!(out, "oracle {:.1} s, verification {:.1} s, timing {:.1} s", seconds[0], seconds[1], seconds[2])?;
        out.flush()?;
        record.figures.extend(figures);
        Ok(all_right)
    }

    /// True if energy is counted and no generation has a figure of it.
    fn misses_joules(&self, options: &Options, figures: &[Figure]) -> bool {
        let mut ours = figures.iter().filter(|figure| figure.kernel.is_some()).peekable();
        let counted = self.meter.is_some() && options.regime == Regime::Sustained && ours.peek().is_some();
        counted && ours.all(|figure| figure.joules.is_none())
    }

    /// A figure of each contender in one regime, judged.
    fn figures(
        &self,
        out: &mut dyn Write,
        question: &Question,
        proofs: Vec<Verified<'static>>,
        options: &Options,
        absent: &mut Vec<Absent>,
        all_right: &mut bool,
    ) -> Result<Vec<Figure>, AnyError> {
        let right: Vec<&'static dyn Attention> = proofs.iter().map(Verified::generation).collect();
        let warm = self.time(out, question, proofs, options, absent)?;
        let cold = match self.cold && options.regime == Regime::Short {
            true if timing::outgrows_caches(self.problem()) => Some(warm.clone()),
            true => {
                let proofs = self.verify_again(out, question, &right, all_right)?;
                let options = Options { cache: Cache::Cold, ..*options };
                // What is missing is named already.
                Some(self.time(out, question, proofs, &options, &mut Vec::new())?)
            }
            false => None,
        };
        let dtype = self.problem().dtype().name();
        let ceiling =
            self.ceilings.iter().find(|ceiling| (ceiling.dtype.as_str(), ceiling.regime) == (dtype, options.regime));
        let mut figures = Vec::new();
        for Timed { name, timing, way } in warm {
            let cold = cold.as_ref().and_then(|cold| cold.iter().find(|other| other.name == name));
            let generation = right.iter().find(|generation| generation.generation().id == name);
            figures.push(Figure {
                regime: options.regime,
                cold_median_us: cold.map(|cold| cold.timing.median_us),
                of_ceiling: ceiling.map(|ceiling| ceiling.least_us(self.case) / timing.median_us),
                way,
                kernel: generation.map(|generation| self.fingerprint(*generation)).transpose()?,
                ..Figure::of_case(&name, self.case, &timing)
            });
        }
        timing::judge(&mut figures, &parent_of);
        Ok(figures)
    }

    /// Proofs anew: each is worth one measurement. A generation that is wrong now is not right on the whole.
    fn verify_again(
        &self,
        out: &mut dyn Write,
        question: &Question,
        right: &[&'static dyn Attention],
        all_right: &mut bool,
    ) -> Result<Vec<Verified<'static>>, AnyError> {
        let (proofs, still_right) = self.verify(out, question, right, &mut Vec::new())?;
        *all_right &= still_right;
        Ok(proofs)
    }

    fn problem(&self) -> &Problem {
        &self.case.problem
    }

    /// What is asked for beyond dense attention, for people: lengths by the dozen are in the record.
    fn extensions(&self) -> String {
        match Case::new(self.problem().clone()).extensions() {
            words if words.is_empty() => words,
            words => format!(" {words}"),
        }
    }

    /// Proofs of the generations that are right, and whether all that take the problem are.
    fn verify(
        &self,
        out: &mut dyn Write,
        question: &Question,
        generations: &[&'static dyn Attention],
        absent: &mut Vec<Absent>,
    ) -> Result<(Vec<Verified<'static>>, bool), AnyError> {
        let (mut right, mut all_right) = (Vec::new(), true);
        let progress = spinner(format!("verifying on {}", self.problem()));
        let answers = Verified::all(self.device, generations, question);
        progress.finish_and_clear();
        for (generation, answer) in generations.iter().zip(answers) {
            let id = generation.generation().id;
            match answer {
                Ok(proof) => right.push(proof),
                Err(failure) if failure.is_sticky() => return Err(failure.to_string().into()),
                Err(failure) => match failure.unsupported() {
                    Some(reason) => self.leave_out(out, absent, id, &reason.to_string())?,
                    None => {
                        all_right = false;
                        self.leave_out(out, absent, id, &format!("it is wrong:\n{failure}"))?;
                    }
                },
            }
        }
        Ok((right, all_right))
    }

    /// Times all contenders in turn.
    fn time(
        &self,
        out: &mut dyn Write,
        question: &Question,
        proofs: Vec<Verified<'static>>,
        options: &Options,
        absent: &mut Vec<Absent>,
    ) -> Result<Vec<Timed>, AnyError> {
        let sets = InputSets::of(self.device, self.problem(), question.data(), options.cache)?;
        let (mut names, mut ways) = (Vec::new(), BTreeMap::new());
        let mut contenders: Vec<Box<dyn Contender<Error = AnyError> + '_>> = Vec::new();
        for proof in proofs {
            names.push(proof.generation().generation().id.to_owned());
            let prepared = Prepared::new(self.device, proof, &sets, options)?.metered(self.meter);
            contenders.push(Box::new(AnyContender(prepared)));
        }
        if let Some(peers) = self.peers {
            let progress = spinner(format!("preparing the peers for {}", self.problem()));
            let prepared = peers.prepare(self.problem(), &question.data().extension, options);
            progress.finish_and_clear();
            let ReadyPeers { peers: ready, ways: found, skipped } = prepared?;
            ways = found;
            for name in ready {
                contenders.push(Box::new(AnyContender(peers.contender(&name))));
                names.push(name);
            }
            for (name, reason) in skipped {
                // Once a problem is enough.
                let problem = self.problem().to_string();
                if options.cache == Cache::Warm
                    && !absent.iter().any(|other| other.contender == name && other.problem == problem)
                {
                    self.leave_out(out, absent, &name, &reason)?;
                }
            }
        }
        let progress = bar(options.samples as u64);
        progress.set_message(format!("timing {}", self.problem()));
        let timings = timing::round_robin(&mut contenders, options.samples, options.seed, || progress.inc(1));
        progress.finish_and_clear();
        let timed = |(name, timing): (String, Timing)| Timed { way: ways.get(&name).cloned(), name, timing };
        Ok(names.into_iter().zip(timings?).map(timed).collect())
    }

    fn leave_out(
        &self,
        out: &mut dyn Write,
        absent: &mut Vec<Absent>,
        contender: &str,
        reason: &str,
    ) -> std::io::Result<()> {
        writeln!(out, "  not timed: {contender}: {reason}")?;
        absent.push(Absent {
            contender: contender.to_owned(),
            problem: self.problem().to_string(),
            reason: reason.to_owned(),
        });
        Ok(())
    }

    fn fingerprint(&self, generation: &dyn Attention) -> Result<String, AnyError> {
        Ok(Fingerprint::of_plan(&generation.plan(self.problem(), self.device.limits())?)?)
    }
}

/// A contender's time, and the way in which a peer has it.
#[derive(Clone)]
struct Timed {
    name: String,
    timing: Timing,
    way: Option<String>,
}

/// Contenders whose errors differ, side by side.
struct AnyContender<C>(C);

impl<C: Contender<Error: StdError + 'static>> Contender for AnyContender<C> {
    type Error = AnyError;

    fn sample(&mut self) -> Result<Sample, AnyError> {
        self.0.sample().map_err(Into::into)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use sdpa::generations;
    use sdpa_bench::timing::{EnergyCounter, Verdict};
    use sdpa_core::{
        Buffer, DeviceKind, DeviceLimits, Error, Interpreter, Launch, MemoryId, Params, Recording, Resources,
        Specialisation,
    };

    /// The interpreter with a clock, by which a recording takes as long as its launches say: 10 µs each.
    struct Clocked {
        device: Interpreter,
        launches: AtomicU32,
        /// Whether it launches nothing more once something was recorded.
        breaks: bool,
        recordings: AtomicU32,
    }

    struct Recorded(u32);

    impl Recording for Recorded {
        fn replay(&self, times: u32) -> Result<Duration, Error> {
            Ok(Duration::from_micros(10) * self.0 * times)
        }
    }

    impl Clocked {
        fn new() -> Self {
            Self { device: Interpreter::new(), launches: 0.into(), breaks: false, recordings: 0.into() }
        }

        fn launched(&self) -> u32 {
            self.launches.load(Ordering::Relaxed)
        }
    }

    impl Device for Clocked {
        fn name(&self) -> String {
            self.device.name()
        }

        fn kind(&self) -> DeviceKind {
            self.device.kind()
        }

        fn limits(&self) -> &DeviceLimits {
            self.device.limits()
        }

        fn memory(&self) -> MemoryId {
            self.device.memory()
        }

        fn tickets(&self) -> u64 {
            self.device.tickets()
        }

        fn allocate_named(&self, name: &str, bytes: usize) -> Result<Buffer, Error> {
            self.device.allocate_named(name, bytes)
        }

        fn write(&self, buffer: &Buffer, offset: usize, bytes: &[u8]) -> Result<(), Error> {
            self.device.write(buffer, offset, bytes)
        }

        fn read(&self, buffer: &Buffer, offset: usize, bytes: &mut [u8]) -> Result<(), Error> {
            self.device.read(buffer, offset, bytes)
        }

        fn load(&self, kernel: &Specialisation) -> Result<(), Error> {
            self.device.load(kernel)
        }

        fn launch(&self, launch: &Launch, params: &Params) -> Result<(), Error> {
            self.launches.fetch_add(1, Ordering::Relaxed);
            if self.breaks && self.recordings.load(Ordering::Relaxed) > 0 {
                return Ok(());
            }
            self.device.launch(launch, params)
        }

        fn synchronize(&self) -> Result<(), Error> {
            self.device.synchronize()
        }

        fn record(&self, work: &mut dyn FnMut() -> Result<(), Error>) -> Result<Box<dyn Recording + '_>, Error> {
            let before = self.launched();
            self.recordings.fetch_add(1, Ordering::Relaxed);
            work()?;
            Ok(Box::new(Recorded(self.launched() - before)))
        }

        fn resources(&self, kernel: &Specialisation) -> Result<Option<Resources>, Error> {
            self.device.resources(kernel)
        }

        fn substitute(&self, kernel: &Specialisation, ptx: &str) -> Result<(), Error> {
            self.device.substitute(kernel, ptx)
        }
    }

    /// A counter that stands still.
    struct Still;

    impl EnergyCounter for Still {
        fn millijoules(&self) -> Option<u64> {
            Some(1)
        }
    }

    #[test]
    fn each_regime_has_its_figures_and_its_ceiling() {
        let device = Clocked::new();
        let case: Case = "h1 L16 d64".parse().unwrap();
        let contenders = ["v1", "v2b"].map(|id| generations::find(id).unwrap());
        let regimes = Regime::ALL.map(Options::of);
        let ceiling = |regime, matmul_tflops| Ceiling {
            dtype: "f16".to_owned(),
            regime,
            matmul_tflops,
            copy_gb_s: 1e9,
            ..Ceiling::default()
        };
        // 65536 operations in 10 µs are 0.0065 TFLOP/s.
        let ceilings = [ceiling(Regime::Short, 0.013_107_2), ceiling(Regime::Sustained, 0.004)];
        let meter = Meter::with(Box::new(Still));
        let sitting = Sitting {
            device: &device,
            peers: None,
            case: &case,
            regimes: &regimes,
            cold: false,
            meter: Some(&meter),
            ceilings: &ceilings,
            baseline: None,
            everybody: false,
        };
        let (mut out, mut record) = (Vec::new(), Record::default());
        assert!(sitting.run(&mut out, &contenders, &mut record).unwrap());
        let found: Vec<_> = record.figures.iter().map(|figure| (figure.contender.as_str(), figure.regime)).collect();
        let [short, sustained] = Regime::ALL;
        assert_eq!(found, [("v1", short), ("v2b", short), ("v1", sustained), ("v2b", sustained)]);
        for figure in &record.figures {
            assert!((figure.median_us - 10.0).abs() < 1e-9, "{}", figure.median_us);
            let share = figure.of_ceiling.unwrap();
            let expected = if figure.regime == short { 0.5 } else { 1.6384 };
            assert!((share - expected).abs() < 1e-6, "{share}");
        }
        // Each beside its parent of the same regime.
        assert_eq!(record.figures[3].parent.as_ref().map(|found| found.verdict), Some(Verdict::Same));
        let said = String::from_utf8(out).unwrap();
        for line in [
            "short turns of 5 ms",
            "sustained turns of 150 ms",
            "the ceiling is wrong: faster than it allows: v1, v2b",
            "no joules: the energy counter made fewer than two steps in 100 ms; raise --sustained-ms",
        ] {
            assert_eq!(said.lines().filter(|found| *found == line).count(), 1, "{line}: {said}");
        }
    }

    #[test]
    fn a_generation_that_is_wrong_in_the_second_regime_is_wrong() {
        let case: Case = "h1 L16 d64".parse().unwrap();
        let regimes = Regime::ALL.map(Options::of);
        for (breaks, figures) in [(false, 2), (true, 1)] {
            let device = Clocked { breaks, ..Clocked::new() };
            let sitting = Sitting {
                device: &device,
                peers: None,
                case: &case,
                regimes: &regimes,
                cold: false,
                meter: None,
                ceilings: &[],
                baseline: None,
                everybody: false,
            };
            let mut record = Record::default();
            let right = sitting.run(&mut Vec::new(), &[generations::find("v1").unwrap()], &mut record).unwrap();
            assert_eq!((right, record.figures.len()), (!breaks, figures));
        }
    }

    /// A stand-in for Python that answers as bench/peers.py does.
    #[cfg(unix)]
    fn peers() -> Peers {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("python");
        let script = concat!(
            "#!/bin/sh\nwhile read -r line; do case \"$line\" in\n",
            "*hello*) echo '{}';;\n",
            "*prepare*) echo '{\"peers\": [\"cudnn\"], \"ways\": {\"cudnn\": \"blhd\"}, ",
            "\"skipped\": {\"fa3\": \"not installed\"}}'; regime=$line;;\n",
            "*sample*) case \"$regime\" in *sustained*) echo '{\"us\": 20.0, \"joules\": 0.5}';; *) echo '{\"us\": 5.0}';; esac;;\n",
            "esac; done\n",
        );
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        loop {
            match Peers::start(&path.display().to_string()) {
                // Another test's child process may still hold the file open for writing, for a moment.
                Err(timing::PeerError::Start { source, .. })
                    if source.kind() == std::io::ErrorKind::ExecutableFileBusy => {}
                started => return started.unwrap(),
            }
        }
    }

    #[cfg(unix)]
    #[test]
    fn peers_are_asked_in_each_regime_and_named_once_if_absent() {
        let (device, peers) = (Clocked::new(), peers());
        let case: Case = "h1 L16 d64".parse().unwrap();
        let regimes = Regime::ALL.map(Options::of);
        let sitting = Sitting {
            device: &device,
            peers: Some(&peers),
            case: &case,
            regimes: &regimes,
            cold: false,
            meter: None,
            ceilings: &[],
            baseline: None,
            everybody: false,
        };
        let mut record = Record::default();
        sitting.run(&mut Vec::new(), &[generations::find("v1").unwrap()], &mut record).unwrap();
        let [v1, cudnn, v1_sustained, cudnn_sustained] = &record.figures[..] else { panic!("{:?}", record.figures) };
        let peer = |figure: &Figure| (figure.median_us, figure.joules, figure.way.clone());
        assert_eq!(peer(cudnn), (5.0, None, Some("blhd".to_owned())));
        assert_eq!(peer(cudnn_sustained), (20.0, Some(0.5), Some("blhd".to_owned())));
        let verdict = |figure: &Figure| figure.best_peer.as_ref().map(|found| found.verdict);
        assert_eq!([v1, v1_sustained].map(verdict), [Some(Verdict::Slower), Some(Verdict::Faster)]);
        let absent: Vec<&str> = record.absent.iter().map(|absent| absent.contender.as_str()).collect();
        assert_eq!(absent, ["fa3"]);
    }
}
