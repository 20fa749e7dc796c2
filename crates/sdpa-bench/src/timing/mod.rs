//! How long generations take. Only those are timed that were found right just before.
//!
//! A sample replays a CUDA graph of many forward passes between two events, long enough to drown the events' granularity
//! and the first launch's latency. The passes rotate over several sets of inputs and outputs, so that no pass finds just
//! its own tensors in the cache, and one contender's samples are taken in turn with all others', so that clocks and
//! temperature are the same for all. The figure is the median, with the quartiles as spread. In the sustained
//! [`Regime`] turns are so long that each contender comes to its own clock, and a [`Meter`] says what passes cost.
//!
//! A figure needs a [`Verified`], which only verification gives and which one measurement uses up.

mod baseline;
mod energy;
mod environment;
mod grid;
mod hopeless;
mod inputs;
mod peers;
mod record;
mod regime;
mod sittings;
mod statistics;
mod verdicts;

pub use baseline::Baseline;
pub use energy::{EnergyCounter, Meter, NoEnergy};
pub use environment::environment;
pub use grid::{Grid, Shape, ShapeError};
pub use hopeless::{Hopeless, hopeless};
pub use inputs::{Cache, InputSets, outgrows_caches};
pub use peers::{PeerError, Peers, ReadyPeers};
pub use record::{Absent, Ceiling, Comparison, Figure, Record, RecordError};
pub use regime::Regime;
pub use sittings::Sittings;
pub use statistics::{Quartiles, Sample, Timing, Verdict, compare};
pub use verdicts::{Move, Moves, ParentOf, ancestor, beside, judge};

use std::time::Duration;

use sdpa_core::{Attention, Device, Error, Problem, Recording};
use sdpa_ref::Measured;

use harness::case::Case;
use harness::random::Random;
use harness::regime::ExtensionData;
use harness::verify::{Answer, Failure, MATCHES_REFERENCE, Question, Thoroughness};

/// How to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// How long turns are.
    pub regime: Regime,
    /// Samples of each contender.
    pub samples: usize,
    /// The least time that a sample counts.
    pub sample: Duration,
    /// How long each contender runs before its first sample; clocks rise while it does.
    pub warm_up: Duration,
    /// Whether passes may find inputs in the L2 cache.
    pub cache: Cache,
    /// What the order of the turns is drawn from.
    pub seed: u64,
}

impl Options {
    /// The usual ones of a regime.
    pub fn of(regime: Regime) -> Self {
        let (samples, sample) = match regime {
            // An event is good to about 0.5 µs and the first launch of a sample waits some 10 µs: 0.2 % together.
            Regime::Short => (15, Duration::from_millis(5)),
            // Power and clocks settle in some 50 ms, which are not counted.
            Regime::Sustained => (5, Duration::from_millis(100)),
        };
        Self { regime, samples, sample, warm_up: Duration::from_millis(30), cache: Cache::Warm, seed: 0 }
    }

    /// The least time of a turn, with what of it is not counted.
    pub fn turn(&self) -> Duration {
        self.regime.uncounted(self.sample) + self.sample
    }
}

impl Default for Options {
    fn default() -> Self {
        Self::of(Regime::Short)
    }
}

/// Proof that a generation was right on a problem, on this device, a moment ago. Worth one measurement.
#[must_use = "a proof is for a measurement"]
pub struct Verified<'g> {
    generation: &'g dyn Attention,
    problem: Problem,
    extension: ExtensionData,
    answer: Answer,
}

impl<'g> Verified<'g> {
    /// Verifies the generation on a case: the one way to come by a proof.
    ///
    /// # Errors
    /// [`Failure`] where it is wrong, or declines, or does not run.
    pub fn new(device: &dyn Device, generation: &'g dyn Attention, case: &Case) -> Result<Self, Box<Failure>> {
        // Declined before the numbers are made.
        let declined = |reason| Failure::new(device, generation, case, MATCHES_REFERENCE, Error::from(reason));
        generation.plan(&case.problem, device.limits()).map_err(declined)?;
        let question = Question::new(case.clone(), Thoroughness::for_problem(&case.problem))
            .map_err(|reason| Failure::new(device, generation, case, MATCHES_REFERENCE, reason))?;
        let answer = question.ask(device, generation)?;
        let extension = question.data().extension.clone();
        Ok(Self { generation, problem: case.problem.clone(), extension, answer })
    }

    /// [`new`](Self::new) of several generations that are asked the same, in their order.
    pub fn all(
        device: &dyn Device,
        generations: &[&'g dyn Attention],
        question: &Question,
    ) -> Vec<Result<Self, Box<Failure>>> {
        let proof = |(generation, answer): (&&'g dyn Attention, Result<Answer, Failure>)| {
            let (problem, extension) = (question.case().problem.clone(), question.data().extension.clone());
            Ok(Self { generation: *generation, problem, extension, answer: answer? })
        };
        generations.iter().zip(question.ask_all(device, generations)).map(proof).collect()
    }

    /// Which generation.
    pub fn generation(&self) -> &'g dyn Attention {
        self.generation
    }

    /// How near the oracle it came.
    pub fn measured(&self) -> &Measured {
        &self.answer.measured
    }

    /// How long its last pass took, good to some tens of microseconds.
    pub fn took(&self) -> Duration {
        self.answer.took
    }
}

/// Something that takes one forward pass at a time and can say how long it took: a generation here, or a peer in
/// another process.
pub trait Contender {
    /// Why a sample could not be taken.
    type Error;

    /// How long a forward pass took, over one turn.
    ///
    /// # Errors
    /// The error that kept the contender from running.
    fn sample(&mut self) -> Result<Sample, Self::Error>;
}

/// Takes one sample of each contender in turn, `rounds` times; the samples of each, in the contenders' order.
///
/// The order of the turns is drawn anew for each round: who runs behind a slow neighbour finds a cooler chip, and with a
/// fixed order it would always be the same one.
///
/// # Errors
/// The first contender's that could not take a sample.
pub fn round_robin<E>(
    contenders: &mut [Box<dyn Contender<Error = E> + '_>],
    rounds: usize,
    seed: u64,
    mut progress: impl FnMut(),
) -> Result<Vec<Timing>, E> {
    let mut samples = vec![Vec::with_capacity(rounds); contenders.len()];
    let mut order: Vec<usize> = (0..contenders.len()).collect();
    for round in 0..rounds {
        shuffle(&mut order, &mut Random::new(seed, &[round as u64]));
        for turn in &order {
            samples[*turn].push(contenders[*turn].sample()?);
        }
        progress();
    }
    Ok(samples.into_iter().map(Timing::of).collect())
}

/// Fisher and Yates's: every order is as likely as any other.
fn shuffle(order: &mut [usize], random: &mut Random) {
    for last in (1..order.len()).rev() {
        order.swap(last, random.below(last + 1));
    }
}

/// A generation ready to be sampled: its passes recorded, its kernels loaded, the device warm.
pub struct Prepared<'d> {
    recording: Box<dyn Recording + 'd>,
    /// Forward passes in the recording.
    passes: u32,
    /// How long a replay took when the device was warm.
    replay: Duration,
    /// The least time that a sample counts.
    sample: Duration,
    regime: Regime,
    /// Says what passes cost in sustained turns.
    meter: Option<&'d Meter>,
}

impl<'d> Prepared<'d> {
    /// Records and warms up. The sets must be of the problem that was verified.
    ///
    /// # Errors
    /// [`Error::NoClock`] on a device that keeps no time, or the error that keeps the kernels from running.
    ///
    /// # Panics
    /// If the sets are of another problem, or of other lengths: a figure would be for a problem that was not verified.
    pub fn new(
        device: &'d dyn Device,
        verified: Verified<'_>,
        sets: &'d InputSets,
        options: &Options,
    ) -> Result<Self, Error> {
        assert_eq!(sets.problem(), &verified.problem, "verified on one problem, measured on another");
        assert_eq!(sets.extension(), &verified.extension, "verified with some lengths, measured with others");
        let Verified { generation, problem, .. } = verified;
        let record = |passes: u32| {
            device.record(&mut || {
                (0..passes as usize).try_for_each(|pass| generation.forward(device, &problem, &sets.tensors(pass)))
            })
        };
        // Loads the kernel, which must not happen while a graph is being recorded.
        generation.forward(device, &problem, &sets.tensors(0))?;
        device.synchronize()?;
        let one = record(1)?;
        one.replay(1)?;
        let pass = one.replay(1)?.max(Duration::from_nanos(500));
        drop(one);

        let passes = passes_recorded(pass, sets.len());
        let recording = record(passes)?;
        let mut warm = Duration::ZERO;
        let mut replay = recording.replay(1)?;
        for _ in 0..MOST_WARMING {
            if warm >= options.warm_up {
                break;
            }
            replay = recording.replay(1)?;
            warm += replay;
        }
        let (sample, regime) = (options.sample, options.regime);
        Ok(Self { recording, passes, replay, sample, regime, meter: None })
    }

    /// Says what passes cost in sustained turns, too.
    pub fn metered(self, meter: Option<&'d Meter>) -> Self {
        Self { meter, ..self }
    }

    /// Device time of `passes` forward passes: the criterion benchmarks' measure.
    ///
    /// # Errors
    /// The error that the kernels failed with.
    pub fn time_of(&self, passes: u64) -> Result<Duration, Error> {
        let replays = passes.div_ceil(u64::from(self.passes)).clamp(1, u64::from(u32::MAX)) as u32;
        let all = self.recording.replay(replays)?;
        Ok(all.mul_f64(passes as f64 / (f64::from(replays) * f64::from(self.passes))))
    }
}

impl Prepared<'_> {
    /// Replays until the device has worked for so long: how many replays, and how long they took.
    ///
    /// Clocks rise and fall in a long turn, so that the replays before are no more than a guess.
    fn replay_for(&self, least: Duration) -> Result<(u32, Duration), Error> {
        let (mut replays, mut took, mut one) = (0, Duration::ZERO, self.replay);
        while took < least {
            let more = replays_in(least - took, one);
            took += self.recording.replay(more)?;
            replays += more;
            one = took / replays;
        }
        Ok((replays, took))
    }

    /// One short turn.
    fn short(&self) -> Result<(u32, Duration), Error> {
        // The contender that was sampled before has left its code in the caches.
        if self.replay < REFRESHING {
            self.recording.replay(1)?;
        }
        let replays = replays_in(self.sample, self.replay);
        Ok((replays, self.recording.replay(replays)?))
    }
}

impl Prepared<'_> {
    /// Passes of one turn of the recording, every set of tensors among them.
    pub fn passes(&self) -> u32 {
        self.passes
    }

    fn turn(&self) -> Result<Sample, Error> {
        let (counted, watts) = match self.regime {
            Regime::Short => (self.short(), None),
            Regime::Sustained => {
                self.replay_for(self.regime.uncounted(self.sample))?;
                let count = || self.replay_for(self.sample);
                self.meter.map_or_else(|| (count(), None), |meter| meter.around(count))
            }
        };
        let (replays, took) = counted?;
        let us = took.as_secs_f64() * 1e6 / (f64::from(replays) * f64::from(self.passes));
        Ok(Sample { us, joules: watts.map(|watts| watts * us * 1e-6) })
    }
}

impl Contender for Prepared<'_> {
    type Error = Error;

    fn sample(&mut self) -> Result<Sample, Error> {
        self.turn()
    }
}

/// For a caller that goes on using it afterwards.
impl Contender for &Prepared<'_> {
    type Error = Error;

    fn sample(&mut self) -> Result<Sample, Error> {
        self.turn()
    }
}

/// Replays of this length that take so long together, at least one.
fn replays_in(long: Duration, replay: Duration) -> u32 {
    (long.as_secs_f64() / replay.as_secs_f64().max(1e-9)).ceil().clamp(1.0, 1e6) as u32
}

/// Replays that warm up, at most: a clock that stands still must not go on for ever.
const MOST_WARMING: usize = 10_000;

/// A recording longer than this is not replayed only to refresh caches, which it outlasts.
const REFRESHING: Duration = Duration::from_millis(5);

/// How many passes to record: whole rotations, at least 20 passes so that launching graphs takes no time between them,
/// at most 10 ms, so that slow generations do not take all day. To a pass of milliseconds it does not matter whose tensors are
/// in the cache.
fn passes_recorded(pass: Duration, sets: usize) -> u32 {
    const AT_LEAST: usize = 20;
    const AT_MOST: Duration = Duration::from_millis(10);
    let rotations = AT_LEAST.div_ceil(sets).max(1) * sets;
    let affordable = (AT_MOST.as_secs_f64() / pass.as_secs_f64()) as usize;
    rotations.min(affordable).max(1) as u32
}

/// Times contenders on the problem they were verified on, round robin.
///
/// # Errors
/// [`Error::NoClock`] on a device that keeps no time, or the error that keeps a kernel from running.
///
/// # Panics
/// Where the contenders were verified on different problems.
pub fn time(
    device: &dyn Device,
    problem: &Problem,
    contenders: Vec<Verified<'_>>,
    options: &Options,
) -> Result<Vec<Timing>, Error> {
    let sets = InputSets::new(device, problem, options.cache)?;
    let mut prepared: Vec<Box<dyn Contender<Error = Error> + '_>> = Vec::new();
    for verified in contenders {
        prepared.push(Box::new(Prepared::new(device, verified, &sets, options)?));
    }
    round_robin(&mut prepared, options.samples, options.seed, || {})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recordings_hold_whole_rotations_until_they_take_too_long() {
        let micros = Duration::from_micros;
        assert_eq!(passes_recorded(micros(5), 4), 20);
        assert_eq!(passes_recorded(micros(5), 6), 24);
        assert_eq!(passes_recorded(micros(5), 85), 85);
        assert_eq!(passes_recorded(micros(2000), 4), 5);
        assert_eq!(passes_recorded(Duration::from_millis(600), 4), 1);
    }

    #[test]
    #[should_panic(expected = "verified with some lengths, measured with others")]
    fn other_lengths_than_the_verified_ones_are_not_timed() {
        let case: Case = "h2 L42 d64 bf16 packed=4,30,30 lengths=5,0,30,7 blhd".parse().unwrap();
        let device = sdpa_core::Interpreter::new();
        let generation = sdpa::generations::find("v2i").unwrap();
        let verified = Verified::new(&device, generation, &case).unwrap();
        let sets = InputSets::new(&device, &case.problem, Cache::Warm).unwrap();
        let _ = Prepared::new(&device, verified, &sets, &Options::default());
    }

    /// A recording whose replays begin at one speed and end at another, as clocks fall under load.
    struct Throttled<'a> {
        replays: &'a std::cell::RefCell<Vec<u32>>,
        first: Duration,
        later: Duration,
        slows_after: u32,
    }

    impl Recording for Throttled<'_> {
        fn replay(&self, times: u32) -> Result<Duration, Error> {
            let before: u32 = self.replays.borrow().iter().sum();
            self.replays.borrow_mut().push(times);
            let fast = self.slows_after.saturating_sub(before).min(times);
            Ok(self.first * fast + self.later * (times - fast))
        }
    }

    fn prepared<'a>(regime: Regime, recording: Throttled<'a>) -> Prepared<'a> {
        let replay = recording.first;
        let sample = Options::of(regime).sample;
        Prepared { recording: Box::new(recording), passes: 20, replay, sample, regime, meter: None }
    }

    #[test]
    fn the_first_third_of_a_sustained_turn_is_not_counted() {
        let ms = Duration::from_millis;
        let replays = std::cell::RefCell::default();
        let recording = |later| Throttled { replays: &replays, first: ms(1), later, slows_after: 50 };
        // 50 ms at the first clock, and then only the second one's passes count.
        let slowed = prepared(Regime::Sustained, recording(ms(2))).sample().unwrap();
        assert_eq!((slowed, replays.take()), (Sample { us: 100.0, joules: None }, vec![50, 100]));
        // Faster than expected: it goes on until 100 ms are counted.
        let fast = prepared(Regime::Sustained, recording(Duration::from_micros(500))).sample().unwrap();
        assert_eq!((fast.us, replays.take()), (25.0, vec![50, 100, 100]));
        let short = prepared(Regime::Short, recording(ms(2))).sample().unwrap();
        assert_eq!((short, replays.take()), (Sample { us: 50.0, joules: None }, vec![1, 5]));
    }

    /// A recording of a millisecond; where it is replayed so often, a counter of energy makes steps meanwhile.
    struct Counted(energy::tests::Ticking, u32);

    impl Recording for Counted {
        fn replay(&self, times: u32) -> Result<Duration, Error> {
            if times == self.1 {
                self.0.wait_for(3);
            }
            Ok(Duration::from_millis(1) * times)
        }
    }

    #[test]
    fn the_counted_part_of_a_sustained_turn_has_its_energy() {
        let ticking = energy::tests::Ticking::default();
        let meter = Meter::with(Box::new(ticking.clone()));
        let (replay, sample, regime) = (Duration::from_millis(1), Duration::from_millis(10), Regime::Sustained);
        let recording = Box::new(Counted(ticking, 10));
        let contender = Prepared { recording, passes: 1, replay, sample, regime, meter: None };
        let joules = contender.metered(Some(&meter)).sample().unwrap().joules;
        // At most a joule a millisecond, and a pass takes a millisecond.
        assert!(joules.is_some_and(|joules| joules > 0.0 && joules < 1.001), "{joules:?}");
    }

    struct Counting<'a>(&'a std::cell::RefCell<Vec<u32>>, u32);

    impl Contender for Counting<'_> {
        type Error = std::convert::Infallible;

        fn sample(&mut self) -> Result<Sample, Self::Error> {
            self.0.borrow_mut().push(self.1);
            Ok(Sample { us: f64::from(self.1), joules: None })
        }
    }

    #[test]
    fn contenders_take_turns_in_an_order_drawn_anew() {
        let order = std::cell::RefCell::default();
        let contender = |id| Box::new(Counting(&order, id)) as Box<dyn Contender<Error = _>>;
        let ids: Vec<u32> = (1..=5).collect();
        let mut contenders: Vec<_> = ids.iter().map(|id| contender(*id)).collect();
        let Ok(timings) = round_robin(&mut contenders, 20, 7, || {});
        assert_eq!(timings.iter().map(|timing| timing.median_us).collect::<Vec<_>>(), [1.0, 2.0, 3.0, 4.0, 5.0]);
        let taken = order.take();
        let mut rounds: Vec<Vec<u32>> = taken.chunks(ids.len()).map(<[u32]>::to_vec).collect();
        for round in &rounds {
            let mut sorted = round.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, ids, "each takes one turn a round");
        }
        for place in 0..ids.len() {
            let first = rounds.iter().filter(|round| round[place] == 1).count();
            assert!((1..=10).contains(&first), "the first contender is {first} times of 20 at place {place}");
        }
        rounds.dedup();
        assert_eq!(rounds.len(), 20, "no two rounds in a row have the same order");
        let Ok(_) = round_robin(&mut contenders, 20, 7, || {});
        assert_eq!(order.take(), taken, "a seed gives the same order again");
    }
}
