//! Micro-kernels for single spellings, as data: launch each on a device, keep its output, and hold the interpreter
//! to it.
//!
//! Every probe has one kernel, `probe`, with five parameters: the addresses of three input buffers and of an output
//! buffer, and the number of threads that have work; some take a tensor map, too. It is launched in blocks of [`BLOCK`] threads without dynamic
//! shared memory. A kernel writes every byte of its output whatever the schedule, so that a device and the interpreter
//! can be compared word by word.
//!
//! [`Recording`] is the file that holds a device's outputs, [`Probe::compare`] what holds the interpreter to them.
//!
//! # How close, and why
//!
//! | what | bound |
//! |---|---|
//! | integers, bits, comparisons, conversions, loads and stores, shuffles, votes, copies | the same bits |
//! | f32 and f16 arithmetic with a rounding (add, mul, fma, rcp.rn, div.rn, sqrt.rn) | the same bits: IEEE 754 leaves no choice, and NaN is always 0x7fffffff (f16: 0x7fff) |
//! | ldmatrix, stmatrix | the same bits: nothing is computed |
//! | mma and wmma of one-hot matrices and of small integers | the same bits: every partial sum is exact in any order |
//! | ex2, rcp, rsqrt, sqrt, div `.approx` | units in the last place: the manual's own error bound plus the interpreter's; the sign of a zero does not count |
//! | lg2 `.approx` | units in the last place, or the manual's absolute 2^-22: near 1 the result vanishes and its relative error does not |
//! | tanh `.approx` | 2^-11 relative, by the manual |
//! | mma and wmma of anything else | 2^-18 · (Σ\|a·b\| + \|c\|): a device cuts each of 17 terms off below 2^-23 of the largest, the interpreter rounds 17 sums to 2^-24 |

mod block;
mod cluster;
mod compare;
mod fragments;
mod inputs;
mod matrix;
mod packed;
mod recording;
mod scalar;
mod tensor_copy;
mod warp;
mod wgmma;

use ptx_interp::TensorMapDescription;

pub use compare::{Agreement, Disagreement};
pub use recording::{Recorded, RecordedOutput, Recording, RecordingError};

/// Threads of a block in every probe's launch.
pub const BLOCK: u32 = 128;

/// How close an output must be to the device's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// The same bits.
    Exact,
    /// f32 values that differ by at most so many units in the last place; NaN against NaN is equal, and so are zeros.
    Ulps(u32),
    /// As [`Bound::Ulps`], or an absolute difference of at most 2^`absolute`.
    Near {
        /// Units in the last place.
        ulps: u32,
        /// Exponent of the absolute difference.
        absolute: i32,
    },
    /// f32 sums that differ by at most 2^`relative` of their terms' magnitudes; NaN against NaN is equal.
    Sum {
        /// Exponent of the factor to [`Probe::magnitudes`].
        relative: i32,
    },
}

/// A micro-kernel with its inputs.
#[derive(Clone, Debug)]
pub struct Probe {
    /// The spelling it probes, and what with where there are several. No two are the same.
    pub name: String,
    /// The PTX text, whose kernel is `probe`.
    pub ptx: String,
    /// Three buffers.
    pub inputs: [Vec<u8>; 3],
    /// Bytes of the output buffer.
    pub output_bytes: usize,
    /// Threads with work; launch enough blocks of [`BLOCK`].
    pub threads: u32,
    /// How close the outputs must be.
    pub bound: Bound,
    /// For [`Bound::Sum`], a number for each word of the output: Σ|a·b| + |c| of the sum that it holds. Else empty.
    pub magnitudes: Vec<f32>,
    /// Tensor maps that the third buffer begins with, 128 bytes each: the program that launches the probe encodes them.
    pub maps: Vec<ProbeMap>,
    /// A tensor map that is a sixth parameter, `.param .align 64 .b8 map[128]`.
    pub map_parameter: Option<ProbeMap>,
}

/// A tensor map of a probe, whose address is known once its buffers are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeMap {
    /// Index of the buffer that it describes: the three inputs, then the output.
    pub buffer: usize,
    /// All but the address, which holds the offset in that buffer.
    pub description: TensorMapDescription,
}

impl ProbeMap {
    /// The whole map, for buffers at these addresses.
    pub fn at(&self, addresses: [u64; 4]) -> TensorMapDescription {
        let base = addresses.get(self.buffer).copied().unwrap_or_default();
        TensorMapDescription { address: base + self.description.address, ..self.description.clone() }
    }
}

impl Probe {
    /// Blocks of its launch.
    pub fn blocks(&self) -> u32 {
        self.threads.div_ceil(BLOCK)
    }

    /// A number that changes with the kernel and its inputs, and not with the bound: an output recorded under another
    /// fingerprint says nothing about this probe.
    pub fn fingerprint(&self) -> u64 {
        let mut hash = Fnv::new();
        hash.part(self.ptx.as_bytes());
        for input in &self.inputs {
            hash.part(input);
        }
        hash.part(&(self.output_bytes as u64).to_le_bytes());
        hash.part(&self.threads.to_le_bytes());
        for map in self.maps.iter().chain(&self.map_parameter) {
            hash.part(format!("{map:?}").as_bytes());
        }
        hash.0
    }
}

/// All probes. The list is the same every time.
pub fn probes() -> Vec<Probe> {
    let mut all = scalar::probes();
    all.extend(warp::probes());
    all.extend(matrix::probes());
    all.extend(fragments::probes());
    all.extend(packed::probes());
    all.extend(wgmma::probes());
    all.extend(tensor_copy::probes());
    all.extend(cluster::probes());
    all
}

/// FNV-1a with 64 bits: small, the same everywhere, and good enough to notice accidents.
struct Fnv(u64);

impl Fnv {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// Bytes and their number, so that moving a byte from one part to the next is noticed.
    fn part(&mut self, bytes: &[u8]) {
        self.bytes(&(bytes.len() as u64).to_le_bytes());
        self.bytes(bytes);
    }
}
