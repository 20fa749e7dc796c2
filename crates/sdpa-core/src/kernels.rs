//! Kernel sources and their PTX: embedded, fingerprinted, and compiled afresh where the PTX is stale.

use std::collections::BTreeMap;
use std::fmt;

use sha2::{Digest, Sha256};

use crate::{Error, Operand, Result, compile};

/// Everything under `kernels/`: `(path, text)`, sorted by path.
static FILES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/embedded_kernels.rs"));

/// The text of a file under `kernels/`, e.g. `v2b.cu` or `common/params.cuh`.
pub fn embedded_file(path: &str) -> Option<&'static str> {
    FILES.binary_search_by_key(&path, |(name, _)| name).ok().map(|index| FILES[index].1)
}

/// All files under `kernels/`, `(path, text)`, sorted by path.
pub fn embedded_files() -> &'static [(&'static str, &'static str)] {
    FILES
}

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

    /// Name in PTX file names and of the `.target` directive.
    pub const fn target(self) -> &'static str {
        match self {
            Self::Compute80 => "sm_80",
            Self::Compute90a => "sm_90a",
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
/// [`TileBoxes::COLUMNS`] columns, whose 128 bytes a row are permuted in shared memory by the 128-byte swizzle; what lies
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

/// One compiled form of a kernel source: a PTX file of its own, so that the driver compiles only what a problem needs.
///
/// Every kernel's entry point is called [`Specialisation::ENTRY`] and takes one [`Params`](crate::Params) by value; where
/// [`boxes`](Self::boxes) are given, four tensor maps by value behind it (`TensorMaps` in
/// `kernels/common/tensor_copy.cuh`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Specialisation {
    /// Source file under `kernels/`, e.g. `v2b.cu`.
    pub source: &'static str,
    /// Name of the PTX file, e.g. `f16_d64_s2`.
    pub name: &'static str,
    /// What it is compiled for.
    pub architecture: Architecture,
    /// Preprocessor definitions, e.g. `HEAD_DIM=64`.
    pub defines: &'static [&'static str],
    /// Threads a block, as the kernel's `__launch_bounds__` says.
    pub threads: u32,
    /// Bytes of dynamic shared memory a block.
    pub shared_bytes: u32,
    /// Makes the device build tensor maps for the launch; `None` where the kernel computes its addresses itself.
    pub boxes: Option<TileBoxes>,
}

/// A table of kernels that exist for both dtypes, f16 first: each line is a name, defines, and whatever else the `const
/// fn` in front of the table takes.
///
/// ```
/// # use sdpa_core::{Specialisation, for_both_dtypes};
/// const fn kernel(name: &'static str, defines: &'static [&'static str], consumers: u32) -> Specialisation {
///     Specialisation::of_warpgroups("v9.cu", name, defines, consumers, 128, 90_112)
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

    /// Query rows of a block's tile, where the copy engine loads them.
    pub fn query_rows(&self) -> usize {
        self.boxes.map_or(0, |boxes| boxes.query as usize)
    }

    /// Name of every kernel's entry point.
    pub const ENTRY: &'static str = "attention";

    /// Path of the PTX file under `kernels/`, e.g. `ptx/v2b/f16_d64_s2.sm_80.ptx`.
    pub fn ptx_path(&self) -> String {
        format!("ptx/{}/{}.{}.ptx", self.stem(), self.name, self.architecture.target())
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

/// Hash over everything a PTX file is made from: options, source, and the headers it includes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint(String);

impl Fingerprint {
    /// The comment line that ties a PTX file to its source.
    const LABEL: &str = "// fingerprint: ";

    /// Reads the fingerprint that a generated PTX file carries.
    pub fn of_ptx(ptx: &str) -> Option<Self> {
        ptx.lines().take(8).find_map(|line| line.strip_prefix(Self::LABEL)).map(|hash| Self(hash.trim().to_owned()))
    }

    /// The header that goes before generated PTX.
    pub fn header(&self, kernel: &Specialisation) -> String {
        format!(
            "// Generated by `sdpa build-ptx` from kernels/{}. Do not edit.\n{}{self}\n",
            kernel.source,
            Self::LABEL
        )
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The source and, transitively, every file under `kernels/` that it includes: path → text.
///
/// # Errors
/// [`Error::MissingKernel`] where the source itself is not embedded. Includes that are not ours (`cuda_fp16.h`) are
/// left out: the compiler's version is pinned instead.
pub fn source_closure(source: &str) -> Result<BTreeMap<&'static str, &'static str>> {
    let mut closure = BTreeMap::new();
    let mut pending = vec![source.to_owned()];
    while let Some(path) = pending.pop() {
        let Ok(index) = FILES.binary_search_by_key(&path.as_str(), |(name, _)| name) else {
            if path == source {
                return Err(Error::MissingKernel { path });
            }
            continue;
        };
        let (name, text) = FILES[index];
        if closure.insert(name, text).is_none() {
            pending.extend(text.lines().filter_map(quoted_include).map(str::to_owned));
        }
    }
    Ok(closure)
}

/// `#include "common/mask.cuh"` → `common/mask.cuh`.
fn quoted_include(line: &str) -> Option<&str> {
    line.trim_start()
        .strip_prefix('#')?
        .trim_start()
        .strip_prefix("include")?
        .trim_start()
        .strip_prefix('"')?
        .split('"')
        .next()
}

/// The fingerprint that a PTX file of this specialisation must carry.
///
/// # Errors
/// [`Error::MissingKernel`] where the source is not embedded.
pub fn fingerprint(kernel: &Specialisation) -> Result<Fingerprint> {
    Ok(fingerprint_of(kernel, &source_closure(kernel.source)?))
}

/// [`fingerprint`] of sources that are not embedded, or not yet.
pub fn fingerprint_of(kernel: &Specialisation, sources: &BTreeMap<&str, &str>) -> Fingerprint {
    let mut hash = Sha256::new();
    let mut field = |text: &str| {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    };
    for option in compile::options(kernel) {
        field(&option);
    }
    for (path, text) in sources {
        field(path);
        field(text);
    }
    // 128 bits are plenty to notice an edit.
    Fingerprint(hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect())
}

/// The PTX of a specialisation: the committed file where it is fresh, else compiled now.
///
/// # Errors
/// [`Error::StaleKernel`] or [`Error::MissingKernel`] where the file does not fit the source and there is no compiler;
/// [`Error::Compile`] where there is one and it refuses.
pub fn load_ptx(kernel: &Specialisation) -> Result<String> {
    let expected = fingerprint(kernel)?;
    let path = kernel.ptx_path();
    let committed = embedded_file(&path);
    let found = committed.and_then(Fingerprint::of_ptx);
    if let (Some(ptx), true) = (committed, found.as_ref() == Some(&expected)) {
        return Ok(ptx.to_owned());
    }
    match compile(kernel) {
        Ok(ptx) => {
            eprintln!("note: kernels/{path} is stale; compiled {} afresh with NVRTC", kernel.source);
            Ok(ptx)
        }
        Err(Error::NoCompiler) => Err(match found {
            Some(found) => Error::StaleKernel { path, expected: expected.to_string(), found: found.to_string() },
            None => Error::MissingKernel { path },
        }),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KERNEL: Specialisation = Specialisation {
        source: "v1.cu",
        name: "f16_d64",
        architecture: Architecture::Compute80,
        defines: &["HEAD_DIM=64"],
        threads: 128,
        shared_bytes: 0,
        boxes: None,
    };

    #[test]
    fn includes_are_followed_and_foreign_ones_are_not() {
        let closure = source_closure("v1.cu").unwrap();
        assert!(closure.contains_key("v1.cu") && closure.contains_key("common/params.cuh"));
        assert!(closure.keys().all(|path| !path.contains("cuda_fp16")));
        assert_eq!(quoted_include("  #  include \"a/b.cuh\" // why"), Some("a/b.cuh"));
        assert_eq!(quoted_include("#include <mma.h>"), None);
    }

    #[test]
    fn a_fingerprint_moves_with_the_options_and_survives_its_header() {
        let other = Specialisation { defines: &["HEAD_DIM=128"], ..KERNEL };
        let hash = fingerprint(&KERNEL).unwrap();
        assert_ne!(hash, fingerprint(&other).unwrap());
        assert_eq!(Fingerprint::of_ptx(&(hash.header(&KERNEL) + ".version 9.0")), Some(hash));
    }

    #[test]
    fn a_kernel_that_does_not_exist_is_a_typed_error() {
        let missing = Specialisation { source: "v0.cu", ..KERNEL };
        assert!(matches!(load_ptx(&missing), Err(Error::MissingKernel { path }) if path == "v0.cu"));
    }
}
