//! Which problems to time: what several verbs take on the command line.

use harness::case::{Case, CaseError};
use sdpa_bench::timing::{Grid, Shape};
use sdpa_core::{Dtype, Mask};

/// Problems by size, by grid, or in the words of a case.
#[derive(clap::Args, Debug)]
pub(in crate::commands) struct Problems {
    /// Sizes B,H,L,d with Hkv and Lq after them where they differ; may be given several times
    #[arg(long = "shape", value_name = "B,H,L,d[,Hkv][,Lq]")]
    shapes: Vec<Shape>,
    /// A problem in the words of a case, such as `h32/8 L4096 d128 bf16 causal window=1023,0`; may be given several times
    #[arg(long = "case", value_name = "CASE")]
    cases: Vec<Case>,
    /// Sizes that belong together, several with commas; `acceptance` where no shape is given either
    #[arg(long = "grid", value_enum, value_name = "NAME,…", value_delimiter = ',')]
    grids: Vec<GridName>,
    /// Element type; by default each grid's own, and f16 for shapes
    #[arg(long, value_enum)]
    dtype: Option<DtypeName>,
    /// With a causal mask (bottom-right); problems of the grids models, packed, windows and paged have masks of their own
    #[arg(long, conflicts_with = "both")]
    causal: bool,
    /// Without and with a causal mask; problems of the grids models, packed, windows and paged have masks of their own
    #[arg(long)]
    both: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum GridName {
    /// The gate's three shapes
    Acceptance,
    /// The gate's, and 16 K positions in batches of 512 to 16 K, head dimensions 64, 128 and 256
    Targets,
    /// One sequence of 64 to 1024
    Short,
    /// One query over a cache
    Decode,
    /// Head dimensions 96 and 192
    Widths,
    /// Shapes of real models: prefill, encoders, pictures, diffusion, speech
    Models,
    /// Packed sequences: many short ones, and a few long ones with a causal mask
    Packed,
    /// Windows, soft caps and sinks, with a causal mask
    Windows,
    /// Decoding from caches in pages, with a causal mask
    Paged,
    /// All of these
    All,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum DtypeName {
    F16,
    Bf16,
}

impl From<DtypeName> for Dtype {
    fn from(name: DtypeName) -> Self {
        match name {
            DtypeName::F16 => Self::F16,
            DtypeName::Bf16 => Self::Bf16,
        }
    }
}

/// Problems whose figures belong in one record.
#[derive(Debug, PartialEq)]
pub(in crate::commands) struct Sweep {
    pub(in crate::commands) name: &'static str,
    pub(in crate::commands) dtype: Dtype,
    pub(in crate::commands) cases: Vec<Case>,
}

impl Problems {
    /// The problems asked for, those of a grid together.
    ///
    /// # Errors
    /// [`CaseError`] where sizes make no problem.
    pub(in crate::commands) fn sweeps(&self) -> Result<Vec<Sweep>, CaseError> {
        let mut grids: Vec<Grid> = Vec::new();
        let asked = match (self.grids.as_slice(), self.shapes.is_empty() && self.cases.is_empty()) {
            ([], true) => &[GridName::Acceptance][..],
            (grids, _) => grids,
        };
        for name in asked {
            let these: &[Grid] = match name {
                GridName::Acceptance => &[Grid::Acceptance],
                GridName::Targets => &[Grid::Targets],
                GridName::Short => &[Grid::Short],
                GridName::Decode => &[Grid::Decode],
                GridName::Widths => &[Grid::Widths],
                GridName::Models => &[Grid::Models],
                GridName::Packed => &[Grid::Packed],
                GridName::Windows => &[Grid::Windows],
                GridName::Paged => &[Grid::Paged],
                GridName::All => &Grid::ALL,
            };
            grids.extend(these.iter().filter(|grid| !grids.contains(grid)).collect::<Vec<_>>());
        }
        let masks: &[Mask] = match (self.both, self.causal) {
            (true, _) => &[Mask::Full, Mask::Causal],
            (_, true) => &[Mask::Causal],
            _ => &[Mask::Full],
        };
        let dense = |dtype, shapes: &[Shape]| -> Result<Vec<Case>, CaseError> {
            let problems = shapes.iter().flat_map(|shape| {
                // The last query sees every key either way.
                let masks = if self.both && shape.len_q == 1 { &masks[..1] } else { masks };
                masks.iter().map(|mask| Ok(Case::new(shape.problem(dtype, *mask)?)))
            });
            problems.collect()
        };
        let dtype = self.dtype.map(Dtype::from);
        let mut sweeps = Vec::new();
        if !self.shapes.is_empty() {
            let dtype = dtype.unwrap_or(Dtype::F16);
            sweeps.push(Sweep { name: "shapes", dtype, cases: dense(dtype, &self.shapes)? });
        }
        // Each says itself which elements and which mask it has.
        for dtype in [Dtype::F16, Dtype::Bf16] {
            let cases: Vec<Case> = self.cases.iter().filter(|case| case.problem.dtype() == dtype).cloned().collect();
            if !cases.is_empty() {
                sweeps.push(Sweep { name: "cases", dtype, cases });
            }
        }
        for grid in grids {
            let dtype = dtype.unwrap_or(grid.dtype());
            let mut cases = dense(dtype, &grid.shapes())?;
            cases.extend(grid.cases(dtype)?);
            sweeps.push(Sweep { name: grid.name(), dtype, cases });
        }
        Ok(sweeps)
    }
}
