//! A kernel in one of its compiled forms: what it is compiled for, with which definitions, and its packed PTX.

use std::fmt;
use std::hash::{Hash, Hasher};

use crate::{Operand, PackedPtx, Result};

/// The virtual architecture a kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Architecture {
    /// Ampere and everything after it: mma.sync, ldmatrix, cp.async.
    Compute80,
    /// Hopper only: wgmma, TMA, mbarriers, clusters. Not forward compatible.
    Compute90a,
}

impl Architecture {
    /// NVRTC's name for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Compute80 => "compute_80",
            Self::Compute90a => "compute_90a",
        }
    }

    /// Name in packs and of the `.target` directive.
    pub const fn target(self) -> &'static str {
        match self {
            Self::Compute80 => "sm_80",
            Self::Compute90a => "sm_90a",
        }
    }

    /// What `sdpa build-ptx` makes machine code for. That of `sm_80` runs on 8.6 and 8.9, too; what comes after Hopper
    /// compiles the PTX.
    pub const fn machine_code(self) -> &'static [&'static str] {
        match self {
            Self::Compute80 => &["sm_80", "sm_90"],
            Self::Compute90a => &["sm_90a"],
        }
    }

    /// The least compute capability that runs it.
    pub const fn compute_capability(self) -> (u32, u32) {
        match self {
            Self::Compute80 => (8, 0),
            Self::Compute90a => (9, 0),
        }
    }

    /// True where a device of this compute capability runs it.
    pub fn runs_on(self, (major, minor): (u32, u32)) -> bool {
        match self {
            Self::Compute80 => (major, minor) >= (8, 0),
            Self::Compute90a => (major, minor) == (9, 0),
        }
    }
}

/// How a kernel's tensor copies cut each tensor: rows of the boxes that one copy moves. A box has
/// [`TileBoxes::COLUMNS`] columns, whose 128 bytes per row are permuted in shared memory by the 128-byte swizzle; what lies
/// outside of the tensor is read as zeros and never written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TileBoxes {
    /// Rows of a box of queries; 1 to 256, as all of these.
    pub query: u32,
    /// Rows of a box of keys.
    pub key: u32,
    /// Rows of a box of values.
    pub value: u32,
    /// Rows of a box of the output.
    pub output: u32,
}

impl TileBoxes {
    /// Columns of every box: 128 bytes, the widest that a swizzle permutes.
    pub const COLUMNS: u32 = 64;

    /// Rows of a box of this operand.
    pub const fn rows(&self, operand: Operand) -> u32 {
        match operand {
            Operand::Query => self.query,
            Operand::Key => self.key,
            Operand::Value => self.value,
            Operand::Output => self.output,
        }
    }
}

/// `192/128/128/64`: query, key, value, output.
impl fmt::Display for TileBoxes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}", self.query, self.key, self.value, self.output)
    }
}

/// One compiled form of a kernel source, with PTX of its own, so that the driver compiles only what a problem needs.
///
/// Every kernel's entry point is called [`Specialisation::ENTRY`] and takes one [`Params`](crate::Params) by value. If
/// [`boxes`](Self::boxes) are given, four tensor maps by value follow it (`TensorMaps` in the kernels'
/// `tensor_copy.cuh`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Specialisation {
    /// Source file under `kernels/`, e.g. `v2b.cu`.
    pub source: &'static str,
    /// The pack that holds its PTX.
    pub ptx: &'static PackedPtx,
    /// Its name, e.g. `f16_d64_s2`.
    pub name: &'static str,
    /// What it is compiled for.
    pub architecture: Architecture,
    /// Preprocessor definitions, e.g. `HEAD_DIM=64`.
    pub defines: &'static [&'static str],
    /// Threads per block, as the kernel's `__launch_bounds__` says.
    pub threads: u32,
    /// Bytes of dynamic shared memory a block.
    pub shared_bytes: u32,
    /// Makes the device build tensor maps for the launch; `None` where the kernel computes its addresses itself.
    pub boxes: Option<TileBoxes>,
}

/// By its source and its name, which tell a table's kernels apart: each launch looks its kernel up.
impl Hash for Specialisation {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.source.hash(state);
        self.name.hash(state);
    }
}

/// A number that a generation's kernels are compiled with and that may be chosen otherwise: what a search for faster
/// kernels tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunable {
    /// The preprocessor definition, e.g. `TILE_KEYS`. Kernels that are compiled without it are left alone.
    pub define: &'static str,
    /// The values worth trying, e.g. `["32", "64"]`.
    pub values: &'static [&'static str],
}

/// A table of kernels that exist for both dtypes, f16 first: each line is a name, defines, and the other arguments of the `const
/// fn` in front of the table takes.
///
/// ```
/// # use sdpa_core::{PackedPtx, Specialisation, for_both_dtypes};
/// static PTX: PackedPtx = PackedPtx::new("v9", &[]);
/// const fn kernel(name: &'static str, defines: &'static [&'static str], consumers: u32) -> Specialisation {
///     Specialisation::of_warpgroups("v9.cu", &PTX, name, defines, consumers, 128, 90_112)
/// }
/// static KERNELS: &[Specialisation] = for_both_dtypes![kernel:
///     "d64", ["HEAD_DIM=64"], 3;
///     "d128", ["HEAD_DIM=128"], 2;
/// ];
/// let names: Vec<_> = KERNELS.iter().map(|kernel| kernel.name).collect();
/// assert_eq!(names, ["f16_d64", "f16_d128", "bf16_d64", "bf16_d128"]);
/// assert_eq!(KERNELS[3].defines, ["DTYPE_BF16", "HEAD_DIM=128"]);
/// ```
#[macro_export]
macro_rules! for_both_dtypes {
    ($kernel:ident: $($name:literal, [$($define:literal),*], $($rest:expr),*;)*) => {
        &[
            $($kernel(concat!("f16_", $name), &[$($define),*], $($rest),*),)*
            $($kernel(concat!("bf16_", $name), &["DTYPE_BF16", $($define),*], $($rest),*),)*
        ]
    };
}

impl Specialisation {
    /// A Hopper kernel of `consumers` warpgroups that own 64 query rows each and one that loads, with key tiles of
    /// `tile_keys` rows.
    pub const fn of_warpgroups(
        source: &'static str,
        ptx: &'static PackedPtx,
        name: &'static str,
        defines: &'static [&'static str],
        consumers: u32,
        tile_keys: u32,
        shared_bytes: u32,
    ) -> Self {
        /// Rows of a `wgmma`, PTX ISA: M is 64.
        const WARPGROUP_ROWS: u32 = 64;
        const WARPGROUP_THREADS: u32 = 128;
        Self {
            source,
            ptx,
            name,
            architecture: Architecture::Compute90a,
            defines,
            threads: (consumers + 1) * WARPGROUP_THREADS,
            shared_bytes,
            boxes: Some(TileBoxes {
                query: consumers * WARPGROUP_ROWS,
                key: tile_keys,
                value: tile_keys,
                output: WARPGROUP_ROWS,
            }),
        }
    }

    /// What a definition says: `Some("64")` for `HEAD_DIM` where the kernel is compiled with `HEAD_DIM=64`.
    pub fn define(&self, name: &str) -> Option<&'static str> {
        self.defines.iter().find_map(|define| define.strip_prefix(name)?.strip_prefix('='))
    }

    /// The same with a number; `None` where it is none.
    pub fn number(&self, name: &str) -> Option<u32> {
        self.define(name)?.parse().ok()
    }

    /// Query rows of a block's tile, where the copy engine loads them.
    pub fn query_rows(&self) -> usize {
        self.boxes.map_or(0, |boxes| boxes.query as usize)
    }

    /// Name of every kernel's entry point.
    pub const ENTRY: &'static str = "attention";

    /// Its name in its pack: `f16_d64_s2.sm_80` for a generation, `no_scale/f16_d64_s2.sm_80` for a mutant.
    pub fn packed_name(&self) -> String {
        let own = match self.stem().strip_prefix(self.ptx.id()).map(|rest| rest.trim_start_matches('/')) {
            Some("") => String::new(),
            Some(mutant) => format!("{mutant}/"),
            None => format!("{}/", self.stem()),
        };
        format!("{own}{}.{}", self.name, self.architecture.target())
    }

    /// Its PTX as it is packed: what the driver compiles and the interpreter executes.
    ///
    /// # Errors
    /// [`Error::NoPtx`](crate::Error::NoPtx) if the pack does not hold it, [`Error::Pack`](crate::Error::Pack) if the
    /// pack cannot be decoded.
    pub fn packed_ptx(&self) -> Result<&'static str> {
        self.ptx.text(&self.packed_name())
    }

    /// Its machine code for a device of this compute capability, if its crate was built with one.
    ///
    /// # Errors
    /// [`Error::Pack`](crate::Error::Pack) if the pack cannot be decoded.
    pub fn machine_code(&self, compute_capability: (u32, u32)) -> Result<Option<&'static [u8]>> {
        self.ptx.machine_code(&self.packed_name(), compute_capability)
    }

    /// The source without its ending, e.g. `v2b`.
    pub fn stem(&self) -> &'static str {
        self.source.strip_suffix(".cu").unwrap_or(self.source)
    }
}

/// `v2b/f16_d64_s2`.
impl fmt::Display for Specialisation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.stem(), self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static PTX: PackedPtx = PackedPtx::new("v0", &[]);
    static MUTANTS: PackedPtx = PackedPtx::new("mutants", &[]);

    #[test]
    fn definitions_are_found_by_their_whole_name() {
        let kernel = Specialisation {
            source: "v0.cu",
            ptx: &PTX,
            name: "f16_d64",
            architecture: Architecture::Compute80,
            defines: &["DTYPE_BF16", "KEY_STAGES=3", "STAGES=2", "TURNS=NEVER"],
            threads: 128,
            shared_bytes: 0,
            boxes: None,
        };
        assert_eq!(kernel.number("STAGES"), Some(2));
        assert_eq!(kernel.define("TURNS"), Some("NEVER"));
        assert_eq!([kernel.number("TURNS"), kernel.number("DTYPE_BF16"), kernel.number("STAGE")], [None; 3]);
    }

    #[test]
    fn names_in_a_pack_say_whose_kernel_it_is() {
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
        let mutant = Specialisation { source: "mutants/no_scale.cu", ptx: &MUTANTS, ..kernel };
        assert_eq!(kernel.packed_name(), "f16_d64.sm_80");
        assert_eq!(mutant.packed_name(), "no_scale/f16_d64.sm_80");
        assert_eq!(mutant.to_string(), "mutants/no_scale/f16_d64");
    }
}
