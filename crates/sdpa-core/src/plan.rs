//! What a generation decides: which kernel, how large a grid, how much shared memory. Pure data, printable.

use std::fmt;

use thiserror::Error;

use crate::{MOST_TICKETS, Problem, Specialisation};

/// What a device can hold, as plans need to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceLimits {
    /// Compute capability, e.g. `(9, 0)`.
    pub compute_capability: (u32, u32),
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Bytes of shared memory a block may have after opting in.
    pub shared_bytes_per_block: u32,
    /// Bytes of shared memory all blocks of a multiprocessor share.
    pub shared_bytes_per_multiprocessor: u32,
    /// 32-bit registers all blocks of a multiprocessor share.
    pub registers_per_multiprocessor: u32,
}

impl DeviceLimits {
    /// NVIDIA A100 (sm_80).
    pub const A100: Self = Self {
        compute_capability: (8, 0),
        multiprocessors: 108,
        shared_bytes_per_block: 163 * 1024,
        shared_bytes_per_multiprocessor: 164 * 1024,
        registers_per_multiprocessor: 65536,
    };

    /// NVIDIA L4 (sm_89), where the ladder began.
    pub const L4: Self = Self {
        compute_capability: (8, 9),
        multiprocessors: 58,
        shared_bytes_per_block: 99 * 1024,
        shared_bytes_per_multiprocessor: 100 * 1024,
        registers_per_multiprocessor: 65536,
    };

    /// NVIDIA H200 (sm_90), where the ladder is measured.
    pub const H200: Self = Self {
        compute_capability: (9, 0),
        multiprocessors: 132,
        shared_bytes_per_block: 227 * 1024,
        shared_bytes_per_multiprocessor: 228 * 1024,
        registers_per_multiprocessor: 65536,
    };
}

/// Why a generation declines a problem. The only error that lets a test skip a case; the harness counts and prints it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Unsupported {
    /// The element type has no kernel.
    #[error("{generation} has no {dtype} kernel; it takes {}", supported.iter().map(|dtype| dtype.name()).collect::<Vec<_>>().join(" and "))]
    Dtype {
        /// Which generation declines.
        generation: &'static str,
        /// What was asked for.
        dtype: crate::Dtype,
        /// What there is.
        supported: &'static [crate::Dtype],
    },
    /// Something beyond dense attention that the generation does not know.
    #[error("{generation} does not take {extension}")]
    Extension {
        /// Which generation declines.
        generation: &'static str,
        /// What the problem asks for.
        extension: &'static str,
    },
    /// The generation's kernels are for something that the problem does not ask for.
    #[error("{generation} takes only problems with {extension}")]
    OnlyWith {
        /// Which generation declines.
        generation: &'static str,
        /// What the problem does not ask for.
        extension: &'static str,
    },
    /// A size of the problem is outside of what the generation is for.
    #[error("{generation} takes {quantity} {range}; this problem has {found}{}", because(reason))]
    Size {
        /// Which generation declines.
        generation: &'static str,
        /// What is counted: `head_dim`, `keys`, `queries per head`, ….
        quantity: &'static str,
        /// How many the problem has.
        found: usize,
        /// How many the generation takes.
        range: SizeRange,
        /// Why it takes no others; empty if there is simply no kernel for them.
        reason: &'static str,
    },
    /// A stride that wide copies cannot follow.
    #[error(
        "{generation} copies 16 bytes at a time: {operand}'s {dimension} stride is {found} elements and must be a multiple of {multiple}"
    )]
    Stride {
        /// Which generation declines.
        generation: &'static str,
        /// Which tensor.
        operand: crate::Operand,
        /// `batch`, `head` or `row`.
        dimension: &'static str,
        /// The stride found.
        found: i64,
        /// What it must be a multiple of.
        multiple: i64,
    },
    /// A stride that a tensor map cannot hold.
    #[error(
        "{generation} copies by tensor maps, whose strides end at {limit} elements: {operand}'s {dimension} stride is {found}"
    )]
    LongStride {
        /// Which generation declines.
        generation: &'static str,
        /// Which tensor.
        operand: crate::Operand,
        /// `batch`, `head` or `row`.
        dimension: &'static str,
        /// The stride found.
        found: i64,
        /// The first that is too long.
        limit: i64,
    },
    /// The kernel needs a newer GPU.
    #[error(
        "{generation} needs compute capability {}.{}; this device has {}.{}", needed.0, needed.1, found.0, found.1
    )]
    ComputeCapability {
        /// Which generation declines.
        generation: &'static str,
        /// The least it runs on.
        needed: (u32, u32),
        /// What the device has.
        found: (u32, u32),
    },
    /// The kernel's tiles do not fit the device's shared memory.
    #[error("{generation}'s kernel {kernel} needs {needed} bytes of shared memory a block; this device allows {limit}")]
    SharedMemory {
        /// Which generation declines.
        generation: &'static str,
        /// Which specialisation.
        kernel: &'static str,
        /// Bytes it needs.
        needed: u32,
        /// Bytes the device allows.
        limit: u32,
    },
    /// A device without a multiprocessor, which none is.
    #[error("{generation} needs a multiprocessor; the limits of this device say that it has none")]
    NoMultiprocessors {
        /// Which generation declines.
        generation: &'static str,
    },
    /// More blocks than a launch may have.
    #[error("{generation} would launch {blocks} blocks; a grid holds at most {limit}: split the batch")]
    Grid {
        /// Which generation declines.
        generation: &'static str,
        /// Blocks needed.
        blocks: u64,
        /// Blocks allowed.
        limit: u64,
    },
    /// More counters or tickets than a device has words for.
    #[error(
        "{generation} needs {needed} words of tickets for this problem, and a device has {limit}; use smaller batches"
    )]
    Tickets {
        /// Which generation declines.
        generation: &'static str,
        /// Words it needs.
        needed: usize,
        /// Words there are.
        limit: usize,
    },
    /// A combination of specialisations that was not built (a mutant carries only a few).
    #[error("{generation} was not built for {kernel}")]
    NotBuilt {
        /// Which generation declines.
        generation: &'static str,
        /// Which specialisation the problem would need.
        kernel: &'static str,
    },
}

impl Unsupported {
    /// How far the generation is from taking the problem, to compare reasons with. Strides are changed the most easily.
    /// What the device lacks is asked last, by a generation that has a kernel for the problem. A size that a generation
    /// declines with a reason is for its parent, whose own reason counts more.
    pub fn distance(&self) -> impl Ord + Copy + use<> {
        let (kind, needed) = match self {
            Self::Stride { .. } | Self::LongStride { .. } => (0, (0, 0)),
            Self::Grid { .. } | Self::Tickets { .. } => (1, (0, 0)),
            Self::SharedMemory { .. } => (2, (0, 0)),
            Self::NoMultiprocessors { .. } => (3, (0, 0)),
            Self::ComputeCapability { needed, .. } => (3, *needed),
            Self::Size { reason: "", .. } | Self::Dtype { .. } | Self::NotBuilt { .. } => (4, (0, 0)),
            Self::Size { .. } => (5, (0, 0)),
            Self::Extension { .. } | Self::OnlyWith { .. } => (6, (0, 0)),
        };
        (kind, needed)
    }
}

/// The sizes that a generation takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SizeRange {
    /// This one and everything below.
    UpTo(usize),
    /// This one and everything above.
    From(usize),
}

impl SizeRange {
    /// True for a size that is taken.
    pub const fn contains(self, size: usize) -> bool {
        match self {
            Self::UpTo(most) => size <= most,
            Self::From(least) => size >= least,
        }
    }
}

/// `up to 128`, `from 1024 on`.
impl fmt::Display for SizeRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UpTo(most) => write!(f, "up to {most}"),
            Self::From(least) => write!(f, "from {least} on"),
        }
    }
}

/// A reason behind what it explains.
fn because(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(": {reason}") }
}

/// How close to the ideal flash kernel a generation promises to be (NUMERICS.md).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Accuracy {
    /// Relative Frobenius error at most 1.5 × that of an ideal kernel of the same dtype.
    #[default]
    Standard,
    /// At most 2 ×: for kernels that trade accuracy for speed and say why.
    Relaxed,
}

impl Accuracy {
    /// The factor on the ideal kernel's error.
    pub const fn factor(self) -> f64 {
        match self {
            Self::Standard => 1.5,
            Self::Relaxed => 2.0,
        }
    }
}

/// Limits a generation sets itself; checked by `sdpa resources` and in CI for sm_80, sm_89 and sm_90a.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Registers a thread.
    pub registers: u32,
    /// Bytes of shared memory a block, static and dynamic.
    pub shared_bytes: u32,
    /// Bytes that a thread spills; 0 for every generation so far.
    pub spill_bytes: u32,
}

/// One kernel launch of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Which compiled kernel.
    pub kernel: Specialisation,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads a block.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory a block.
    pub shared_bytes: u32,
}

impl Launch {
    /// A launch of `blocks` blocks with the specialisation's own block shape and shared memory, checked against the
    /// device first.
    ///
    /// # Errors
    /// [`Unsupported`] where the device is too old, the shared memory too small or the grid too large.
    pub fn new(
        generation: &'static str,
        kernel: Specialisation,
        blocks: u64,
        limits: &DeviceLimits,
    ) -> Result<Self, Unsupported> {
        /// Largest `gridDim.x`, CUDA C++ Programming Guide, table of technical specifications.
        const MAX_GRID_X: u64 = i32::MAX as u64;

        let (needed, found) = (kernel.architecture.compute_capability(), limits.compute_capability);
        if !kernel.architecture.runs_on(found) {
            return Err(Unsupported::ComputeCapability { generation, needed, found });
        }
        if limits.multiprocessors == 0 {
            return Err(Unsupported::NoMultiprocessors { generation });
        }
        if kernel.shared_bytes > limits.shared_bytes_per_block {
            return Err(Unsupported::SharedMemory {
                generation,
                kernel: kernel.name,
                needed: kernel.shared_bytes,
                limit: limits.shared_bytes_per_block,
            });
        }
        if blocks > MAX_GRID_X {
            return Err(Unsupported::Grid { generation, blocks, limit: MAX_GRID_X });
        }
        Ok(Self {
            kernel,
            grid: [blocks as u32, 1, 1],
            block: [kernel.threads, 1, 1],
            shared_bytes: kernel.shared_bytes,
        })
    }
}

impl Launch {
    /// One block for every `tile_rows` query rows of every head of every sequence.
    ///
    /// # Errors
    /// As [`Launch::new`].
    pub fn per_query_tile(
        generation: &'static str,
        kernel: Specialisation,
        problem: &Problem,
        tile_rows: usize,
        limits: &DeviceLimits,
    ) -> Result<Self, Unsupported> {
        let tiles = problem.len_q().div_ceil(tile_rows) as u64;
        Self::new(generation, kernel, tiles * (problem.batch() * problem.heads_q()) as u64, limits)
    }
}

impl fmt::Display for Launch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} grid {} block {} shared {}",
            self.kernel,
            Dimensions(self.grid),
            Dimensions(self.block),
            self.shared_bytes
        )?;
        match &self.kernel.boxes {
            Some(boxes) => write!(f, " boxes {boxes}"),
            None => Ok(()),
        }
    }
}

/// `4` or `4×2` or `4×2×3`: trailing ones are not worth reading.
struct Dimensions([u32; 3]);

impl fmt::Display for Dimensions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [x, y, z] = self.0;
        write!(f, "{x}")?;
        if y > 1 || z > 1 {
            write!(f, "×{y}")?;
        }
        if z > 1 {
            write!(f, "×{z}")?;
        }
        Ok(())
    }
}

/// Everything needed to run one problem: launches in order, and what they share.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LaunchPlan {
    /// In stream order. Empty where there is nothing to compute.
    pub launches: Vec<Launch>,
    /// Bytes of scratch memory that the launches hand to one another.
    pub workspace_bytes: usize,
    /// How many of the device's [words of tickets](crate::Device::tickets) the kernels use: one where blocks draw their
    /// tiles, one a result where they count who is done with it.
    pub tickets: usize,
}

impl LaunchPlan {
    /// The usual plan: one launch, no workspace. A grid without blocks (no query, no sequence) launches nothing.
    pub fn single(launch: Launch) -> Self {
        let launches = if launch.grid.contains(&0) { Vec::new() } else { vec![launch] };
        Self { launches, ..Self::default() }
    }

    /// The same plan, whose blocks draw their tiles from one word of tickets.
    #[must_use]
    pub fn drawing_tickets(self) -> Self {
        Self { tickets: 1, ..self }
    }

    /// The same plan, whose blocks count their arrivals at each of `results`, a word for each.
    ///
    /// # Errors
    /// [`Unsupported::Tickets`] where devices have fewer words.
    pub fn counting_arrivals(self, generation: &'static str, results: usize) -> Result<Self, Unsupported> {
        if results > MOST_TICKETS {
            return Err(Unsupported::Tickets { generation, needed: results, limit: MOST_TICKETS });
        }
        Ok(Self { tickets: results, ..self })
    }
}

impl fmt::Display for LaunchPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.launches.is_empty() {
            return f.write_str("nothing to launch");
        }
        for (index, launch) in self.launches.iter().enumerate() {
            if index > 0 {
                f.write_str(" then ")?;
            }
            write!(f, "{launch}")?;
        }
        if self.workspace_bytes > 0 {
            write!(f, " workspace {}", self.workspace_bytes)?;
        }
        match self.tickets {
            0 => Ok(()),
            1 => f.write_str(" tickets"),
            words => write!(f, " tickets {words}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Architecture, PackedPtx, TileBoxes};

    static PTX: PackedPtx = PackedPtx::new("v0", &[]);

    #[test]
    fn plans_say_what_they_ask_of_the_device() {
        let kernel = Specialisation {
            source: "v0.cu",
            ptx: &PTX,
            name: "f16_d64",
            architecture: Architecture::Compute90a,
            defines: &[],
            threads: 128,
            shared_bytes: 1024,
            boxes: Some(TileBoxes { query: 192, key: 128, value: 112, output: 64 }),
        };
        let plan = |blocks| LaunchPlan::single(Launch::new("v0", kernel, blocks, &DeviceLimits::H200).unwrap());
        assert_eq!(plan(7).to_string(), "v0/f16_d64 grid 7 block 128 shared 1024 boxes 192/128/112/64");
        let drawing = LaunchPlan { workspace_bytes: 256, ..plan(7) }.drawing_tickets();
        assert_eq!(drawing.to_string(), format!("{} workspace 256 tickets", plan(7)));
        assert_eq!(plan(0).drawing_tickets().to_string(), "nothing to launch");
        assert_eq!(plan(7).counting_arrivals("v0", 3).unwrap().to_string(), format!("{} tickets 3", plan(7)));
    }

    #[test]
    fn nothing_is_launched_without_a_multiprocessor() {
        let limits = DeviceLimits { multiprocessors: 0, ..DeviceLimits::H200 };
        let kernel = Specialisation {
            source: "v0.cu",
            ptx: &PTX,
            name: "f16_d64",
            architecture: Architecture::Compute80,
            defines: &[],
            threads: 128,
            shared_bytes: 0,
            boxes: None,
        };
        assert_eq!(Launch::new("v0", kernel, 1, &limits), Err(Unsupported::NoMultiprocessors { generation: "v0" }));
    }

    #[test]
    fn nobody_counts_in_words_that_a_device_does_not_have() {
        assert_eq!(LaunchPlan::default().counting_arrivals("v0", MOST_TICKETS).unwrap().tickets, MOST_TICKETS);
        let error = LaunchPlan::default().counting_arrivals("v0", MOST_TICKETS + 1).unwrap_err();
        assert_eq!(
            error.to_string(),
            "v0 needs 65537 words of tickets for this problem, and a device has 65536; use smaller batches"
        );
    }
}
