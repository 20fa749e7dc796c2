//! Times that can be believed: in turns with the parent, above what the hardware can do at best, and right once more afterwards.

use harness::case::Case;
use harness::verify::{Failure, Question, Thoroughness};
use sdpa_bench::timing::{self, Contender, InputSets, Options, Prepared, Timing, Verdict, Verified};
use sdpa_core::{Attention, Device, DeviceLimits, Error, Operand, Problem};
use serde::{Deserialize, Serialize};

/// How often, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Samples {
    /// Samples of each contender.
    pub count: usize,
    /// The least time of a sample.
    pub milliseconds: u64,
}

/// A median with its quartiles, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Lower quartile.
    pub low_us: f64,
    /// Median.
    pub median_us: f64,
    /// Upper quartile.
    pub high_us: f64,
}

impl From<&Timing> for Spread {
    fn from(timing: &Timing) -> Self {
        Self { low_us: timing.low_us, median_us: timing.median_us, high_us: timing.high_us }
    }
}

/// A candidate's time on a problem, and those that it was measured in turns with.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Times {
    /// The candidate's.
    pub own: Spread,
    /// Its parent's.
    pub parent: Spread,
    /// That of the first of the lineage.
    pub first: Spread,
    /// What the spreads allow to be said of candidate and parent.
    pub verdict: Verdict,
    /// Less than this is not believed.
    pub floor_us: f64,
    /// Samples of each.
    pub samples: usize,
}

/// The least time that a problem can take on a device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Floor {
    /// By its floating-point operations.
    pub operations_us: f64,
    /// By the bytes of its tensors, each moved once between the L2 cache and the multiprocessors.
    pub bytes_us: f64,
}

impl Floor {
    /// By what a multiprocessor can do at most in a clock, dense, without sparsity, at a clock that no card here exceeds.
    /// A figure below it is no good luck: the work was not done.
    pub fn of(problem: &Problem, limits: &DeviceLimits) -> Self {
        // Above the boost clock of every card of these architectures.
        const MOST_HERTZ: f64 = 2.6e9;
        // What a multiprocessor and the L2 cache exchange in a clock.
        const BYTES: f64 = 64.0;
        // Floating-point operations of f16 in a clock: NVIDIA's tables of A100, Ada and H100, 312, 121 and 989 TFLOP/s.
        let operations = match limits.compute_capability {
            (8, 9) => 1024.0,
            (8, _) => 2048.0,
            _ => 4096.0,
        };
        let clocks = MOST_HERTZ * f64::from(limits.multiprocessors.max(1));
        let bytes = Operand::ALL.iter().map(|operand| problem.element_bytes(*operand)).sum::<usize>() as f64;
        Self { operations_us: problem.flops() / operations / clocks * 1e6, bytes_us: bytes / BYTES / clocks * 1e6 }
    }

    /// The higher of both.
    pub fn us(&self) -> f64 {
        self.operations_us.max(self.bytes_us)
    }
}

/// Why there is no time.
#[derive(Debug, thiserror::Error)]
pub(super) enum Untimed {
    /// It was wrong before it was timed.
    #[error("wrong on the problem that is timed: {0}")]
    Wrong(Box<Failure>),
    /// A time that cannot be.
    #[error(
        "below the floor: {found_us:.3} µs, and the device cannot do it in less than {floor_us:.3} µs ({operations_us:.3} µs by \
         operations, {bytes_us:.3} µs by bytes): the work was not done in the time that was taken"
    )]
    BelowFloor {
        /// The candidate's median.
        found_us: f64,
        /// What it cannot be below.
        floor_us: f64,
        /// By operations.
        operations_us: f64,
        /// By bytes.
        bytes_us: f64,
    },
    /// It was right before it was timed and wrong afterwards.
    #[error("not right again: {what}: {failure}")]
    NotRightAgain {
        /// What was looked at.
        what: &'static str,
        /// How it is wrong.
        failure: Box<Failure>,
    },
    /// One of those that it is measured against.
    #[error("{who} is wrong on the problem that is timed: {failure}")]
    OtherWrong {
        /// The parent, or the first.
        who: &'static str,
        /// How it is wrong.
        failure: Box<Failure>,
    },
    /// The device.
    #[error(transparent)]
    Device(#[from] Error),
    /// The oracle.
    #[error(transparent)]
    Oracle(#[from] sdpa_ref::ReferenceError),
}

/// Who is timed.
pub(super) struct Contenders<'a> {
    pub(super) own: &'a dyn Attention,
    /// None if it is the first.
    pub(super) parent: Option<&'a dyn Attention>,
    pub(super) first: &'a dyn Attention,
}

/// Verifies all of them on the case with numbers drawn by `seed`, times them in turns, and verifies the candidate again: what the
/// timed passes wrote into outputs that were poisoned before, then other numbers, then other sizes.
pub(super) fn time(
    device: &dyn Device,
    contenders: &Contenders<'_>,
    case: &Case,
    samples: Samples,
    seed: u64,
) -> Result<Times, Untimed> {
    let problem = &case.problem;
    let numbers = |seed: u64| Case { seed, ..case.clone() };
    let ask = |case: Case| {
        let thoroughness = Thoroughness::before_timing(&case.problem);
        Question::new(case, thoroughness)
    };
    let question = ask(numbers(seed % 100_000))?;
    let &Contenders { own, parent, first } = contenders;
    let who: Vec<&dyn Attention> = [first, own].into_iter().chain(parent).collect();
    let mut proofs = Verified::all(device, &who, &question).into_iter();
    let mut proof = |who: Option<&'static str>| match proofs.next() {
        Some(Ok(proof)) => Ok(Some(proof)),
        Some(Err(failure)) => Err(match who {
            None => Untimed::Wrong(failure),
            Some(who) => Untimed::OtherWrong { who, failure },
        }),
        None => Ok(None),
    };
    let first_proof = proof(Some("the first of the lineage"))?;
    let own_proof = proof(None)?;
    let parent_proof = proof(Some("its parent"))?;

    let options = Options {
        samples: samples.count,
        sample: std::time::Duration::from_millis(samples.milliseconds),
        seed,
        ..Options::default()
    };
    let sets = InputSets::of(device, problem, question.data(), options.cache)?;
    let prepare = |proof| Prepared::new(device, proof, &sets, &options);
    let first_ready = first_proof.map(prepare).transpose()?;
    let own_ready = own_proof.map(prepare).transpose()?;
    let parent_ready = parent_proof.map(prepare).transpose()?;
    let mut turns: Vec<Box<dyn Contender<Error = Error> + '_>> = Vec::new();
    for ready in [&first_ready, &own_ready, &parent_ready].into_iter().flatten() {
        turns.push(Box::new(ready));
    }
    let timings = timing::round_robin(&mut turns, samples.count, seed, || ())?;
    drop(turns);
    let (first_timing, own_timing) = (&timings[0], &timings[1]);
    let parent_timing = timings.get(2).unwrap_or(first_timing);

    let floor = Floor::of(problem, device.limits());
    if own_timing.median_us < floor.us() {
        return Err(Untimed::BelowFloor {
            found_us: own_timing.median_us,
            floor_us: floor.us(),
            operations_us: floor.operations_us,
            bytes_us: floor.bytes_us,
        });
    }
    if let Some(ready) = &own_ready {
        let again = |what| move |failure: Failure| Untimed::NotRightAgain { what, failure: Box::new(failure) };
        sets.poison(device)?;
        ready.time_of(u64::from(ready.passes()))?;
        for output in sets.outputs(device)?.iter().take(ready.passes() as usize) {
            question.judge_output(device, own, output).map_err(again("what a timed pass wrote"))?;
        }
        let others = ask(numbers((seed / 3 + 1) % 100_000))?;
        others.ask(device, own).map(drop).map_err(again("other numbers, after the timing"))?;
        if let Some(near) = neighbour(case, seed) {
            ask(near)?.ask(device, own).map(drop).map_err(again("a few rows and keys less, after the timing"))?;
        }
    }
    Ok(Times {
        own: own_timing.into(),
        parent: parent_timing.into(),
        first: first_timing.into(),
        verdict: timing::compare(&own_timing.quartiles(), &parent_timing.quartiles()),
        floor_us: floor.us(),
        samples: samples.count,
    })
}

/// The same with so few rows and keys less that the same kernels take it: a kernel that knows the sizes which are timed does not know
/// these.
fn neighbour(case: &Case, seed: u64) -> Option<Case> {
    let problem = &case.problem;
    if problem.extensions() != sdpa_core::Extensions::NONE || problem.len_kv() < 64 {
        return None;
    }
    let less = 1 + (seed % 13) as usize;
    let len_q = if problem.len_q() > 64 { problem.len_q() - less } else { problem.len_q() };
    let builder = Problem::new(problem.batch(), problem.heads_q(), len_q, problem.head_dim());
    let builder = builder.heads_kv(problem.heads_kv()).len_kv(problem.len_kv() - less);
    let problem = builder.dtype(problem.dtype()).mask(problem.mask()).build().ok()?;
    Some(Case { problem, seed: seed % 997, ..case.clone() })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
    use std::time::Duration;

    use harness::mutants::{Fault, HostDevice, HostGeneration};
    use sdpa_core::{Buffer, DeviceKind, Launch, MemoryId, Params, Recording, Resources, Result, Specialisation};

    use super::*;

    /// Functions of the host with a clock: it says how long a launch took, whatever that cost. What is recorded is run once for each
    /// replay, however often it is replayed.
    struct Clocked {
        host: HostDevice,
        /// Of one launch.
        nanoseconds: u64,
        /// Launches from this one on are of another kernel.
        turns_at: u64,
        launches: AtomicU64,
        recording: AtomicBool,
        recorded: Mutex<Vec<(Launch, Params)>>,
        /// Replays write nothing: the work is left for later.
        is_lazy: bool,
    }

    impl Clocked {
        fn new(nanoseconds: u64) -> Self {
            Self {
                host: HostDevice::default(),
                nanoseconds,
                turns_at: u64::MAX,
                launches: AtomicU64::new(0),
                recording: AtomicBool::new(false),
                recorded: Mutex::default(),
                is_lazy: false,
            }
        }
    }

    struct Replays<'a> {
        device: &'a Clocked,
        launches: Vec<(Launch, Params)>,
    }

    impl Recording for Replays<'_> {
        fn replay(&self, times: u32) -> Result<Duration> {
            if !self.device.is_lazy {
                self.launches.iter().try_for_each(|(launch, params)| self.device.launch(launch, params))?;
            }
            let launches = self.launches.len() as u64 * u64::from(times);
            Ok(Duration::from_nanos(self.device.nanoseconds * launches))
        }
    }

    impl Device for Clocked {
        fn name(&self) -> String {
            "host functions with a clock".to_owned()
        }

        fn kind(&self) -> DeviceKind {
            DeviceKind::Cuda
        }

        fn limits(&self) -> &DeviceLimits {
            self.host.limits()
        }

        fn memory(&self) -> MemoryId {
            self.host.memory()
        }

        fn tickets(&self) -> u64 {
            0
        }

        fn allocate_named(&self, name: &str, bytes: usize) -> Result<Buffer> {
            self.host.allocate_named(name, bytes)
        }

        fn write(&self, buffer: &Buffer, offset: usize, bytes: &[u8]) -> Result<()> {
            self.host.write(buffer, offset, bytes)
        }

        fn read(&self, buffer: &Buffer, offset: usize, bytes: &mut [u8]) -> Result<()> {
            self.host.read(buffer, offset, bytes)
        }

        fn load(&self, _kernel: &Specialisation) -> Result<()> {
            Ok(())
        }

        fn launch(&self, launch: &Launch, params: &Params) -> Result<()> {
            if self.recording.load(Relaxed) {
                self.recorded.lock().unwrap().push((launch.clone(), *params));
                return Ok(());
            }
            let mut launch = launch.clone();
            // The kernel of this name counts its calls.
            if launch.kernel.source == Fault::LseInBits.name() {
                launch.kernel.source = match self.launches.fetch_add(1, Relaxed) < self.turns_at {
                    true => Fault::None.name(),
                    false => Fault::MeanOfValues.name(),
                };
            }
            let mut params = *params;
            if params.lse == 0 {
                // The functions write one, whether it is asked for or not.
                let rows = params.batch * params.heads_q * params.len_q;
                params.lse = self.host.allocate(rows as usize * size_of::<f32>())?.address();
            }
            self.host.launch(&launch, &params)
        }

        fn synchronize(&self) -> Result<()> {
            Ok(())
        }

        fn record(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Box<dyn Recording + '_>> {
            self.recording.store(true, Relaxed);
            let done = work();
            self.recording.store(false, Relaxed);
            let launches = std::mem::take(&mut *self.recorded.lock().unwrap());
            done.map(|()| Box::new(Replays { device: self, launches }) as Box<dyn Recording + '_>)
        }

        fn resources(&self, _kernel: &Specialisation) -> Result<Option<Resources>> {
            Ok(None)
        }

        fn substitute(&self, _kernel: &Specialisation, _ptx: &str) -> Result<()> {
            Ok(())
        }
    }

    fn timed(device: &Clocked, fault: Fault) -> std::result::Result<Times, Untimed> {
        let (own, first) = (HostGeneration::new(fault), HostGeneration::new(Fault::None));
        let contenders = Contenders { own: &own, parent: None, first: &first };
        let case = "h2 L70 d16 f16 full normal".parse().unwrap();
        time(device, &contenders, &case, Samples { count: 5, milliseconds: 1 }, 7)
    }

    #[test]
    fn a_kernel_that_is_right_before_and_after_gets_its_time() {
        let times = timed(&Clocked::new(200_000), Fault::None).unwrap();
        assert_eq!((times.own.median_us, times.samples), (200.0, 5));
        assert_ne!(times.verdict, Verdict::Faster);
    }

    #[test]
    fn a_time_below_the_floor_is_not_believed() {
        let device = Clocked { is_lazy: true, ..Clocked::new(0) };
        let said = timed(&device, Fault::None).unwrap_err().to_string();
        assert!(said.starts_with("below the floor: 0.000 µs"), "{said}");
    }

    #[test]
    fn a_result_that_depends_on_the_number_of_the_call_is_found_after_the_timing() {
        let device = Clocked { turns_at: 12, ..Clocked::new(200_000) };
        let said = timed(&device, Fault::LseInBits).unwrap_err().to_string();
        assert!(said.starts_with("not right again: what a timed pass wrote"), "{said}");
        // Only the very last ones.
        let device = Clocked { turns_at: u64::MAX, ..Clocked::new(200_000) };
        timed(&device, Fault::LseInBits).unwrap();
        let launches = device.launches.load(Relaxed);
        let device = Clocked { turns_at: launches - 2, ..Clocked::new(200_000) };
        let said = timed(&device, Fault::LseInBits).unwrap_err().to_string();
        assert!(said.contains("after the timing"), "{said}");
    }

    #[test]
    fn work_that_is_left_for_later_is_found_in_the_outputs() {
        let device = Clocked { is_lazy: true, ..Clocked::new(200_000) };
        let said = timed(&device, Fault::None).unwrap_err().to_string();
        assert!(said.starts_with("not right again: what a timed pass wrote"), "{said}");
    }

    #[test]
    fn the_floor_is_below_what_the_best_kernels_take() {
        let floor = |line: &str| {
            let case: Case = line.parse().unwrap();
            Floor::of(&case.problem, &DeviceLimits::H200).us()
        };
        // Measured on an H200: 4.0 µs, and 0.62 ms for 550 GFLOP.
        let short = floor("h8 L512 d64 f16 full");
        assert!(short > 0.1 && short < 4.0, "{short}");
        let long = floor("b2 h16 L8192 d128 f16 full");
        assert!(long > 200.0 && long < 800.0, "{long}");
        // One query reads its keys: by bytes.
        let decoding = floor("b16 h32/8 q1 kv4096 d128 bf16 causal");
        assert!(decoding > 5.0 && decoding < 90.0, "{decoding}");
    }
}
