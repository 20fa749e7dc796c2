//! Attention by the fastest generation for your problem on your device.
//!
//! ```
//! use sdpa::{Device as _, Interpreter, Operand, Problem, Tensors};
//!
//! // Or sdpa::open(DeviceChoice::Auto)?, which takes the GPU if there is one; or Cuda::from_stream with your own stream.
//! let device = Interpreter::new();
//! let problem = Problem::new(1, 1, 16, 64).build()?;
//! let ones = [0x00, 0x3c].repeat(problem.span(Operand::Query)); // f16
//! let (query, key, value) = (device.upload(&ones)?, device.upload(&ones)?, device.upload(&ones)?);
//! let output = device.allocate(ones.len())?;
//! sdpa::forward(&device, &problem, &Tensors::new(&query, &key, &value, &output))?;
//!
//! let mut found = vec![0; ones.len()];
//! device.read(&output, 0, &mut found)?;
//! assert_eq!(found, ones); // an average of ones
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! `examples/own_program.rs` shows layouts, grouped heads, the log-sum-exp and how results are read back;
//! `examples/decode_steps.rs` prepares a problem once and runs it step after step; `examples/packed_sequences.rs` computes a
//! batch of sequences of different lengths.
//!
//! # What can be asked for
//!
//! Beside causal masks and grouped heads, a problem may have
//! - packed sequences ([`Problem::packed`]): sequences of different lengths behind one another, without padding, and where
//!   each begins in [`Tensors::with_cu_seqlens`];
//! - a window ([`ProblemBuilder::window`]): so many keys before a query's own, and so many behind it;
//! - a soft cap ([`ProblemBuilder::softcap`]): scores become `cap · tanh(score / cap)`;
//! - sinks ([`ProblemBuilder::sinks`], [`Tensors::with_sinks`]): a logit for each query head that takes its part of the
//!   softmax and adds nothing to the output;
//! - slopes ([`ProblemBuilder::slopes`], [`Tensors::with_slopes`]): scores fall with each key of distance, by another slope
//!   for each query head (ALiBi);
//! - key lengths ([`ProblemBuilder::key_lengths`], [`Tensors::with_key_lengths`]): each sequence of a batch uses the first of
//!   its keys only, as many as a number on the device says;
//! - keys and values in pages ([`ProblemBuilder::paged`], [`Tensors::with_pages`]): a table on the device says which page of a
//!   cache holds which keys of a sequence, as servers have it;
//! - values of another width than keys ([`ProblemBuilder::value_dim`]), as multi-head latent attention has them when it reads a
//!   prompt: the output is as wide as they are;
//! - keys and values in 8 bits ([`ProblemBuilder::kv_storage`], [`Tensors::with_kv_scales`]): e4m3, with a scale for all or for
//!   each key head, as servers keep caches of half the bytes, for up to 128 queries per sequence.
//!
//! They go together, but for key lengths with packed sequences, whose `cu_seqlens` has them (in pages the queries alone are
//! packed), and pages or e4m3 with slopes or with values of another width, which no generation has yet. What a problem asks for and a
//! generation does not know is declined, in words.
//!
//! ```
//! use sdpa::{Device as _, Interpreter, Mask, Operand, Packing, Problem, Tensors, Window};
//!
//! // Two sequences of 3 and 7 rows, [10, 2, 64]. A query sees its own key and 4 before it, and each head has a sink.
//! let device = Interpreter::new();
//! let packing = Packing { sequences: 2, longest_q: 7, longest_kv: 7 };
//! let problem =
//!     Problem::packed(packing, 2, 10, 64).mask(Mask::Causal).window(Window::left(4)).softcap(30.0).sinks().build()?;
//! let bytes = |numbers: &[u32]| numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<_>>();
//! let begins = device.upload(&bytes(&[0, 3, 10]))?;
//! let sinks = device.upload(&bytes(&[0.5_f32.to_bits(), f32::NEG_INFINITY.to_bits()]))?;
//!
//! let ones = [0x00, 0x3c].repeat(problem.span(Operand::Query)); // f16
//! let (query, key, value) = (device.upload(&ones)?, device.upload(&ones)?, device.upload(&ones)?);
//! let output = device.allocate(ones.len())?;
//! let tensors = Tensors::new(&query, &key, &value, &output).with_cu_seqlens(&begins, &begins).with_sinks(&sinks);
//! sdpa::forward(&device, &problem, &tensors)?;
//!
//! let mut found = vec![0; ones.len()];
//! device.read(&output, 0, &mut found)?;
//! let (with_sink, without) = found[..2 * 128].split_at(128);
//! assert!(with_sink != &ones[..128], "the sink of head 0 has its part");
//! assert_eq!(without, &ones[..128]); // −∞ is no sink: an average of ones
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Which generation runs
//!
//! The table [`CHOICES`] decides which generation runs, from the most special to the most general: the first whose condition
//! holds and which takes the problem. Conditions are about sizes and the device and nothing else, so the same problem is
//! always given to the same generation. A test holds them to the recorded measurements: on every problem of `results/` the
//! choice is within 3 % or 0.4 µs of the fastest generation that was measured there.
//!
//! A new generation is adopted by a line of the table, once it is measured. [`generations`] lists all of them.
//!
//! A program that needs few of them names these as features (`default-features = false, features = ["v2d", "v3c"]`); the others
//! are not built. The choice is then the fastest of those that are there.

// A build that carries few generations needs few of the conditions.
#![cfg_attr(not(feature = "all"), allow(dead_code))]

pub mod generations;

use std::fmt;

// A program that computes with this crate needs no other.
pub use sdpa_core::*;

/// A generation and what it is the fastest for.
pub struct Choice {
    /// Which one.
    pub generation: &'static dyn Attention,
    /// Whether it is for such a problem on such a device; [`Attention::plan`] may still decline.
    pub suits: fn(&Problem, &DeviceLimits) -> bool,
    /// The condition in words.
    pub what_for: &'static str,
    /// Far slower than all before it, for what they decline; see [`slow_because`].
    pub last_resort: bool,
}

impl fmt::Debug for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} for {}", self.generation.generation().id, self.what_for)
    }
}

/// Everything that is chosen from, the most special first: of the generations that this build carries.
pub static CHOICES: &[Choice] = &[
    #[cfg(feature = "v2l")]
    choice(&v2l::V2l, has_keys_in_e4m3, "keys and values in e4m3, up to 128 queries per sequence"),
    #[cfg(feature = "v2g")]
    choice(&v2g::V2g, decodes, DECODING),
    #[cfg(feature = "v2f")]
    choice(&v2f::V2f, decodes, DECODING),
    #[cfg(feature = "v3e")]
    choice(&v3e::V3e, always, "up to 512 keys on Hopper, where it takes them: one wave, head dimensions up to 64"),
    #[cfg(feature = "v2c")]
    choice(&v2c::V2c, is_one_tile_of_keys, "keys of up to 8 KB a head and no more 64-row tiles than multiprocessors"),
    #[cfg(feature = "v2e")]
    choice(&v2e::V2e, has_keys_to_split, "keys of more than 16 KB a head, where it takes them: few queries"),
    #[cfg(feature = "v2d")]
    choice(&v2d::V2d, is_one_short_wave, "keys of up to 128 KB a head and no more 64-row tiles than multiprocessors"),
    #[cfg(feature = "v3d")]
    choice(&v3d::V3d, is_causal_and_not_long, "causal masks over up to 2048 keys on Hopper, head dimensions up to 128"),
    #[cfg(feature = "v3b")]
    choice(
        &v3b::V3b,
        suits_one_tile_at_a_time,
        "no mask on Hopper: head dimensions from 136 to 192, and from 72 on with no more 128-row tiles than multiprocessors",
    ),
    #[cfg(feature = "v3c")]
    choice(&v3c::V3c, always, "everything else on Hopper"),
    #[cfg(feature = "v2d")]
    choice(&v2d::V2d, always, "everything since Ampere whose strides are multiples of 8"),
    #[cfg(feature = "v2i")]
    choice(&v2i::V2i, is_shorter_than_a_tile, "packed sequences of up to 48 queries on average"),
    #[cfg(feature = "v3g")]
    choice(&v3g::V3g, is_short_and_ragged, "packed sequences of fewer than 512 queries on average, on Hopper"),
    #[cfg(feature = "v3g")]
    choice(&v3g::V3g, has_a_narrow_window, "windows of fewer than 256 keys on Hopper, head dimensions up to 64"),
    #[cfg(feature = "v3f")]
    choice(&v3f::V3f, always, "packed sequences, windows, key lengths, soft caps, sinks and slopes on Hopper"),
    #[cfg(feature = "v2i")]
    choice(&v2i::V2i, always, "the same since Ampere"),
    #[cfg(feature = "v3h")]
    choice(&v3h::V3h, has_values_of_other_width, "values of another width than keys on Hopper"),
    #[cfg(feature = "v2k")]
    choice(&v2k::V2k, has_values_of_other_width, "the same since Ampere"),
    #[cfg(feature = "v2j")]
    choice(&v2j::V2j, has_pages, "keys and values in pages, up to 128 queries per sequence"),
    #[cfg(feature = "v2c")]
    choice(&v2c::V2c, always, "what v2d should decline"),
    #[cfg(feature = "v2b")]
    last_resort(&v2b::V2b, "what tensor cores do not take"),
    #[cfg(feature = "v1")]
    last_resort(&v1::V1, "any strides"),
];

const DECODING: &str = "up to 16 queries";

const fn choice(
    generation: &'static dyn Attention,
    suits: fn(&Problem, &DeviceLimits) -> bool,
    what_for: &'static str,
) -> Choice {
    Choice { generation, suits, what_for, last_resort: false }
}

const fn last_resort(generation: &'static dyn Attention, what_for: &'static str) -> Choice {
    Choice { generation, suits: always, what_for, last_resort: true }
}

/// Few enough queries for blocks to share a head's keys out instead.
fn decodes(problem: &Problem, _: &DeviceLimits) -> bool {
    problem.len_q() <= 16
}

/// Half of a tile of 64 rows would be empty.
fn is_shorter_than_a_tile(problem: &Problem, _: &DeviceLimits) -> bool {
    problem.packing().is_some() && problem.len_q() <= 48 * problem.sequence_count()
}

/// Many tiles that are over soon hide each other's latency; larger ones of a persistent block would be half empty.
fn is_short_and_ragged(problem: &Problem, _: &DeviceLimits) -> bool {
    problem.packing().is_some() && problem.len_q() < 512 * problem.sequence_count()
}

/// A tile has so few keys to see that it is over soon, too.
fn has_a_narrow_window(problem: &Problem, _: &DeviceLimits) -> bool {
    problem.window().left.is_some_and(|keys| keys < 256) && problem.mask().is_causal() && problem.head_dim() <= 64
}

/// Elements of a head's keys as kernels hold them, whose narrowest are 64 wide.
fn key_elements(problem: &Problem) -> usize {
    problem.len_kv() * problem.head_dim().max(64)
}

/// With fewer keys, warps that split them take longer to meet than they save.
fn has_keys_to_split(problem: &Problem, _: &DeviceLimits) -> bool {
    key_elements(problem) > 8192
}

/// Tiles of so many query rows are no more than multiprocessors.
fn is_one_wave(problem: &Problem, limits: &DeviceLimits, rows: usize) -> bool {
    problem.len_q().div_ceil(rows) * problem.batch() * problem.heads_q() <= limits.multiprocessors as usize
}

/// One tile of keys: nothing to rescale and nothing to load ahead.
fn is_one_tile_of_keys(problem: &Problem, limits: &DeviceLimits) -> bool {
    key_elements(problem) <= 4096 && is_one_wave(problem, limits, 64)
}

/// All of it runs at once in blocks of mma.sync, and is done before Hopper's pipeline has paid for its start.
fn is_one_short_wave(problem: &Problem, limits: &DeviceLimits) -> bool {
    key_elements(problem) <= 65_536 && is_one_wave(problem, limits, 64)
}

/// Measured on an H200: up to there V3d is as fast as V3c or faster, beyond it 1 to 6 % slower.
fn is_causal_and_not_long(problem: &Problem, _: &DeviceLimits) -> bool {
    problem.mask().is_causal() && problem.len_kv() <= 2048
}

/// Measured on an H200: 1 to 9 % faster than V3c, between 64 and 128 where no multiprocessor has a second tile.
fn suits_one_tile_at_a_time(problem: &Problem, limits: &DeviceLimits) -> bool {
    let widths = if is_one_wave(problem, limits, 128) { 65..=192 } else { 129..=192 };
    !problem.mask().is_causal() && widths.contains(&problem.head_dim())
}

fn has_values_of_other_width(problem: &Problem, _: &DeviceLimits) -> bool {
    problem.value_dim() != problem.head_dim()
}

fn has_pages(problem: &Problem, _: &DeviceLimits) -> bool {
    problem.paging().is_some()
}

fn has_keys_in_e4m3(problem: &Problem, _: &DeviceLimits) -> bool {
    problem.extensions().kv_e4m3
}

fn always(_: &Problem, _: &DeviceLimits) -> bool {
    true
}

/// Generations to ask, the best choice first. A build without those that suit always asks the others, the newest first.
fn suiting<'a>(
    problem: &'a Problem,
    limits: &'a DeviceLimits,
) -> impl Iterator<Item = &'static dyn Attention> + use<'a> {
    let suiting = CHOICES.iter().filter(|choice| (choice.suits)(problem, limits)).map(|choice| choice.generation);
    let others = if cfg!(feature = "all") { &[] } else { generations::ALL };
    suiting.chain(others.iter().rev().copied())
}

/// Generations that would compute a problem on a device with these limits, the best choice first. One may be named twice.
pub fn candidates<'a>(
    problem: &'a Problem,
    limits: &'a DeviceLimits,
) -> impl Iterator<Item = &'static dyn Attention> + use<'a> {
    suiting(problem, limits).filter(|generation| generation.plan(problem, limits).is_ok())
}

/// The fastest generation for a problem on a device with these limits. Pure: the same answer for the same question.
///
/// # Errors
/// [`Unsupported`] where none takes it: the reason of the generation that came nearest.
pub fn fastest(problem: &Problem, limits: &DeviceLimits) -> std::result::Result<&'static dyn Attention, Unsupported> {
    Ok(planned(problem, limits)?.0)
}

/// The same with its plan.
///
/// # Errors
/// As [`fastest`].
pub fn planned(
    problem: &Problem,
    limits: &DeviceLimits,
) -> std::result::Result<(&'static dyn Attention, LaunchPlan), Unsupported> {
    let mut refusals = Vec::new();
    for generation in suiting(problem, limits) {
        match generation.plan(problem, limits) {
            Ok(plan) => return Ok((generation, plan)),
            Err(unsupported) => refusals.push(unsupported),
        }
    }
    Err(nearest(refusals).expect("there is a generation, and each is asked"))
}

/// Why a problem gets one of the last resorts, which are 10 to 100 times slower than the others: the reason of the
/// generation that came nearest to taking it, such as a stride that is no multiple of 8. `None` if a fast generation
/// takes it, and if none does at all.
pub fn slow_because(problem: &Problem, limits: &DeviceLimits) -> Option<Unsupported> {
    let mut refusals = Vec::new();
    for choice in CHOICES.iter().filter(|choice| (choice.suits)(problem, limits)) {
        match choice.generation.plan(problem, limits) {
            Ok(_) if choice.last_resort => return nearest(refusals),
            Ok(_) => return None,
            Err(unsupported) if !choice.last_resort => refusals.push(unsupported),
            Err(_) => {}
        }
    }
    None
}

/// The reason of the generation that came nearest, the best choice's if several did.
fn nearest(refusals: Vec<Unsupported>) -> Option<Unsupported> {
    refusals.into_iter().min_by_key(Unsupported::distance)
}

/// Attention by [`fastest`]: queues it and returns; [`Device::synchronize`] waits for it.
///
/// Right for every finite logit, up to the largest f32: rows whose maximum is 2^24 and more, base-2 logarithms counted, are
/// computed a second time, far slower, with differences of scores taken before they are scaled. A scale from 2.35e38 on is
/// no [`Problem`]. What a few strides cost says [`slow_because`].
///
/// # Errors
/// As [`Attention::forward`].
pub fn forward(device: &dyn Device, problem: &Problem, tensors: &Tensors<'_>) -> Result<()> {
    Fastest.forward(device, problem, tensors)
}

/// [`forward`] made ready: planned, its kernels loaded and its workspace allocated, so that [`Prepared::forward`] only
/// launches. For a graph of your own, prepare before its recording begins.
///
/// # Errors
/// As [`Attention::prepare`].
pub fn prepare<'device>(device: &'device dyn Device, problem: &Problem) -> Result<Prepared<'device>> {
    Fastest.prepare(device, problem)
}

/// [`fastest`] where a generation is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fastest;

static FASTEST: Generation = Generation {
    id: "fastest",
    title: "the fastest generation for the problem on the device",
    parent: None,
    specialisations: &[],
    budget: Budget { registers: 255, shared_bytes: 227 * 1024, spill_bytes: 0 },
    accuracy: Accuracy::Standard,
    // What the strictest asks for; `forward` asks for no more than the one chosen does.
    alignment: 16,
    takes: Extensions { value_dim: true, kv_e4m3: true, ..Extensions::ALL },
};

impl Attention for Fastest {
    fn generation(&self) -> &Generation {
        &FASTEST
    }

    fn decide(&self, problem: &Problem, limits: &DeviceLimits) -> std::result::Result<LaunchPlan, Unsupported> {
        Ok(planned(problem, limits)?.1)
    }

    fn forward(&self, device: &dyn Device, problem: &Problem, tensors: &Tensors<'_>) -> Result<()> {
        let (generation, plan) = planned(problem, device.limits())?;
        generation.forward_planned(device, problem, tensors, &plan)
    }

    fn prepare<'device>(&self, device: &'device dyn Device, problem: &Problem) -> Result<Prepared<'device>> {
        planned(problem, device.limits())?.0.prepare(device, problem)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(problem: sdpa_core::ProblemBuilder, limits: &DeviceLimits) -> &'static str {
        fastest(&problem.build().unwrap(), limits).unwrap().generation().id
    }

    #[cfg(feature = "all")] // it names the choices
    #[test]
    fn sizes_and_devices_decide() {
        let decoding = Problem::new(1, 32, 1, 128).heads_kv(8).len_kv(4096);
        let tiny = Problem::new(1, 8, 64, 64);
        let short = Problem::new(1, 8, 512, 64);
        let wave = Problem::new(1, 8, 1024, 64);
        let full = Problem::new(2, 16, 8192, 128);
        let causal = Problem::new(2, 16, 8192, 128).mask(Mask::Causal);
        let not_long = Problem::new(8, 16, 2048, 128).mask(Mask::Causal);
        let wide = Problem::new(2, 8, 2048, 192);
        let problems = [&decoding, &tiny, &short, &wave, &full, &causal, &not_long, &wide];
        let ids = |limits| problems.map(|problem| chosen(problem.clone(), limits));
        assert_eq!(ids(&DeviceLimits::H200), ["v2g", "v3e", "v3e", "v2d", "v3c", "v3c", "v3d", "v3b"]);
        let ids = ids(&DeviceLimits::A100);
        assert_eq!(ids[3..], ["v2d"; 5]);
    }

    #[test]
    fn whatever_nobody_takes_is_refused_in_the_nearest_ones_words() {
        let turing = DeviceLimits { compute_capability: (7, 5), ..DeviceLimits::A100 };
        let problem = Problem::new(1, 8, 512, 64).build().unwrap();
        assert!(Fastest.plan(&problem, &turing).is_err());
        assert_eq!(candidates(&problem, &turing).count(), 0);
        let said = |problem: &Problem, limits| fastest(problem, limits).map(drop).unwrap_err().to_string();
        assert!(said(&problem, &turing).ends_with("needs compute capability 8.0; this device has 7.5"));
        // 256 has kernels, and strides that are no multiples of 8 have some up to 128.
        let odd = Strides { batch: 16 * 260, head: 16 * 260, row: 260 };
        let wide = Problem::new(1, 1, 16, 256).strides(Operand::Key, odd).build().unwrap();
        for limits in [&DeviceLimits::H200, &DeviceLimits::A100] {
            let said = said(&wide, limits);
            assert!(said.ends_with("key's row stride is 260 elements and must be a multiple of 8"), "{said}");
        }
        let none = DeviceLimits { multiprocessors: 0, ..DeviceLimits::H200 };
        for generation in generations::ALL {
            let id = generation.generation().id;
            assert!(generation.plan(&problem, &none).is_err(), "{id}");
            let causal = problem.to_builder().mask(Mask::Causal).build().unwrap();
            assert!(generation.plan(&causal, &none).is_err(), "{id}");
        }
    }

    #[cfg(feature = "all")] // its problem is split over blocks
    #[test]
    fn a_workspace_may_be_the_programs_own() {
        let device = Interpreter::new();
        let problem = Problem::new(1, 2, 1, 64).len_kv(2048).build().unwrap();
        let (generation, plan) = planned(&problem, device.limits()).unwrap();
        assert!(plan.workspace_bytes > 256, "{plan}");
        let ones = |operand| device.upload(&[0x00, 0x3c].repeat(problem.span(operand))).unwrap();
        let (query, key, value) = (ones(Operand::Query), ones(Operand::Key), ones(Operand::Value));
        let output = device.allocate(query.bytes()).unwrap();
        let forward = |bytes: usize| {
            let workspace = device.allocate(bytes).unwrap();
            let tensors = Tensors::new(&query, &key, &value, &output);
            generation.forward_in(&device, &problem, &tensors, &plan, &workspace)
        };
        forward(plan.workspace_bytes).unwrap();
        let mut found = vec![0; output.bytes()];
        device.read(&output, 0, &mut found).unwrap();
        assert_eq!(found, [0x00, 0x3c].repeat(2 * 64), "a mean of ones");
        let said = forward(plan.workspace_bytes - 1).unwrap_err().to_string();
        assert!(said.starts_with(&format!("workspace needs {} bytes", plan.workspace_bytes)), "{said}");
        let foreign = Interpreter::new().allocate(plan.workspace_bytes).unwrap();
        let tensors = Tensors::new(&query, &key, &value, &output);
        let said = generation.forward_in(&device, &problem, &tensors, &plan, &foreign).unwrap_err().to_string();
        assert!(said.starts_with("workspace lies in another device's memory"), "{said}");
    }

    #[cfg(feature = "all")]
    #[test]
    fn keys_in_bytes_are_taken_by_the_one_generation_for_them() {
        let stored = |builder: sdpa_core::ProblemBuilder| builder.kv_storage(KvStorage::E4m3(KvScales::Head));
        let paging = Paging { page: 16, pages: 4096, table: PageTable::Rows { width: 256 } };
        let decoding = Problem::new(16, 32, 1, 128).heads_kv(8).len_kv(4096);
        let windowed = decoding.clone().mask(Mask::Causal).window(Window::left(128)).sinks().softcap(30.0);
        for problem in [decoding.clone(), decoding.clone().paged(paging), decoding.clone().key_lengths(), windowed] {
            for limits in [&DeviceLimits::H200, &DeviceLimits::A100, &DeviceLimits::L4] {
                assert_eq!(chosen(stored(problem.clone()), limits), "v2l");
                assert_eq!(slow_because(&stored(problem.clone()).build().unwrap(), limits), None);
            }
            assert_ne!(chosen(problem, &DeviceLimits::H200), "v2l");
        }
        let said = |builder| fastest(&stored(builder).build().unwrap(), &DeviceLimits::H200).err().unwrap().to_string();
        assert_eq!(said(decoding.clone().slopes()), "v2l does not take slopes");
        let many = said(Problem::new(1, 8, 512, 64));
        assert!(many.starts_with("v2l takes queries per sequence up to 128; this problem has 512"), "{many}");
        let rows = said(Problem::new(1, 8, 1, 72).len_kv(512));
        assert!(rows.ends_with("key's row stride is 72 elements and must be a multiple of 16"), "{rows}");
    }

    #[cfg(feature = "all")]
    #[test]
    fn whatever_is_beyond_dense_attention_is_taken() {
        let packing = Packing { sequences: 64, longest_q: 512, longest_kv: 512 };
        let packed = Problem::packed(packing, 12, 7357, 64);
        let dense = Problem::new(2, 8, 512, 64).mask(Mask::Causal);
        let few = Problem::packed(Packing { sequences: 8, longest_q: 2048, longest_kv: 2048 }, 12, 7357, 64);
        let short = Problem::packed(Packing { sequences: 512, longest_q: 32, longest_kv: 32 }, 12, 16384, 64);
        let latent = Problem::packed(packing, 16, 7357, 192).value_dim(128).dtype(Dtype::Bf16);
        for (problem, on_hopper) in [
            (packed.clone(), "v3g"),
            (packed.clone().window(Window::left(128)).sinks(), "v3g"),
            (packed.softcap(30.0), "v3f"),
            (short, "v2i"),
            (few, "v3f"),
            (dense.clone().window(Window::left(127)), "v3g"),
            (dense.clone().window(Window::left(256)), "v3f"),
            (dense.clone().softcap(30.0), "v3f"),
            (dense.clone().slopes(), "v3f"),
            (dense.clone().key_lengths(), "v3f"),
            (dense.value_dim(128), "v3h"),
            (latent.clone(), "v3h"),
            (latent.window(Window::left(64)).sinks().slopes().softcap(30.0), "v3h"),
        ] {
            assert_eq!(chosen(problem.clone(), &DeviceLimits::H200), on_hopper);
            let portable = if on_hopper == "v3h" { "v2k" } else { "v2i" };
            assert_eq!(chosen(problem.clone(), &DeviceLimits::A100), portable);
            assert_eq!(slow_because(&problem.build().unwrap(), &DeviceLimits::H200), None);
        }
    }

    #[test]
    fn a_fall_to_a_slow_generation_has_its_reason() {
        let odd = Strides { batch: 512 * 68, head: 512 * 68, row: 68 };
        let strided = Problem::new(1, 1, 512, 64).strides(Operand::Query, odd).build().unwrap();
        assert_eq!(chosen(strided.to_builder(), &DeviceLimits::H200), "v1");
        let reason = slow_because(&strided, &DeviceLimits::H200).unwrap().to_string();
        assert!(reason.ends_with("query's row stride is 68 elements and must be a multiple of 8"), "{reason}");
        let usual = Problem::new(1, 1, 512, 64).build().unwrap();
        assert_eq!(slow_because(&usual, &DeviceLimits::H200), None);
        let wide = strided.to_builder().dtype(Dtype::Bf16).build().unwrap();
        assert_eq!(slow_because(&wide, &DeviceLimits::H200), None, "bf16 of such strides is taken by none");
    }

    /// What the facade promises, everybody keeps.
    #[test]
    fn its_promises_are_everybodys() {
        for Choice { generation, .. } in CHOICES {
            let who = generation.generation();
            assert_eq!(who.accuracy, FASTEST.accuracy, "{}", who.id);
            assert!(who.alignment <= FASTEST.alignment, "{}", who.id);
        }
    }
}
