//! Which problems to time.

use std::str::FromStr;

use sdpa_core::{Dtype, Mask, Problem, ProblemError};

use harness::acceptance;

/// Sizes of a problem without its element type and mask: `B,H,L,d[,Hkv][,Lq]` on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Independent sequences.
    pub batch: usize,
    /// Query heads.
    pub heads_q: usize,
    /// Keys a head.
    pub len_kv: usize,
    /// Elements a vector.
    pub head_dim: usize,
    /// Key and value heads.
    pub heads_kv: usize,
    /// Queries a head.
    pub len_q: usize,
}

/// Why a text is no shape.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ShapeError {
    /// Not so many numbers.
    #[error(
        "{found:?} is no shape: it is B,H,L,d with Hkv and Lq after it where they differ, e.g. 1,8,512,64 or 8,32,4096,128,8,1"
    )]
    Text {
        /// What was given.
        found: String,
    },
    /// Nothing to time.
    #[error("{found:?} is empty: every size of a shape is at least 1, e.g. 1,8,512,64")]
    Empty {
        /// What was given.
        found: String,
    },
    /// Sizes that make no problem.
    #[error("{found:?} is no shape: {reason}")]
    Problem {
        /// What was given.
        found: String,
        /// Why not.
        reason: ProblemError,
    },
}

impl FromStr for Shape {
    type Err = ShapeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = || text.to_owned();
        let error = || ShapeError::Text { found: found() };
        let numbers: Vec<usize> =
            text.split(',').map(|part| part.trim().parse()).collect::<Result<_, _>>().map_err(|_| error())?;
        let [batch, heads_q, len_kv, head_dim] = *numbers.first_chunk().ok_or_else(error)?;
        let (heads_kv, len_q) = match numbers[4..] {
            [] => (heads_q, len_kv),
            [heads_kv] => (heads_kv, len_kv),
            [heads_kv, len_q] => (heads_kv, len_q),
            _ => return Err(error()),
        };
        let shape = Self { batch, heads_q, len_kv, head_dim, heads_kv, len_q };
        if numbers.contains(&0) {
            return Err(ShapeError::Empty { found: found() });
        }
        match shape.problem(Dtype::F16, Mask::Full) {
            Ok(_) => Ok(shape),
            Err(reason) => Err(ShapeError::Problem { found: found(), reason }),
        }
    }
}

impl Shape {
    /// Self-attention with as many key heads as query heads.
    pub const fn square([batch, heads, length, head_dim]: [usize; 4]) -> Self {
        Self { batch, heads_q: heads, len_kv: length, head_dim, heads_kv: heads, len_q: length }
    }

    /// The contiguous problem of this shape.
    ///
    /// # Errors
    /// [`ProblemError`] where the sizes make none.
    pub fn problem(&self, dtype: Dtype, mask: Mask) -> Result<Problem, ProblemError> {
        Problem::new(self.batch, self.heads_q, self.len_q, self.head_dim)
            .heads_kv(self.heads_kv)
            .len_kv(self.len_kv)
            .dtype(dtype)
            .mask(mask)
            .build()
    }
}

/// Shapes that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grid {
    /// The gate's three shapes.
    Acceptance,
    /// The gate's shapes, and 16 K positions in batches of 512 to 16 K, 2048 wide, at each head dimension: what papers
    /// report.
    Targets,
    /// One short sequence: launches and waves count more than arithmetic.
    Short,
    /// Head dimensions that the targets lack, in between theirs: one shape that waves decide and one that fills the chip.
    Widths,
    /// One query over a cache: four query heads per key head in batches, and eight with caches of up to 64 K keys.
    Decode,
}

impl Grid {
    /// All of them, in the order they are timed: the longest last, so that a run that is cut off has the others.
    pub const ALL: [Self; 5] = [Self::Acceptance, Self::Short, Self::Decode, Self::Widths, Self::Targets];

    /// Name, as on the command line and in the names of records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Acceptance => "acceptance",
            Self::Targets => "targets",
            Self::Short => "short",
            Self::Widths => "widths",
            Self::Decode => "decode",
        }
    }

    /// The element type that its figures are usually quoted in.
    pub const fn dtype(self) -> Dtype {
        match self {
            Self::Acceptance | Self::Short => Dtype::F16,
            Self::Targets | Self::Widths | Self::Decode => Dtype::Bf16,
        }
    }

    /// Its shapes, in the order they are timed.
    pub fn shapes(self) -> Vec<Shape> {
        match self {
            Self::Acceptance => acceptance::SHAPES.map(Shape::square).to_vec(),
            Self::Targets => {
                let papers = [64, 128, 256].into_iter().flat_map(|head_dim| {
                    [512, 1024, 2048, 4096, 8192, 16384]
                        .map(|length| Shape::square([16384 / length, 2048 / head_dim, length, head_dim]))
                });
                acceptance::SHAPES.into_iter().map(Shape::square).chain(papers).collect()
            }
            Self::Short => [64, 128]
                .into_iter()
                .flat_map(|head_dim| [64, 128, 256, 512, 1024].map(|length| Shape::square([1, 8, length, head_dim])))
                .collect(),
            Self::Widths => [96, 192]
                .into_iter()
                .flat_map(|head_dim| {
                    [[2, 8, 2048], [4, 16, 4096]].map(|[batch, heads, length]| [batch, heads, length, head_dim])
                })
                .map(Shape::square)
                .collect(),
            Self::Decode => {
                let one_query =
                    |batch, heads_kv, len_kv| Shape { heads_kv, len_q: 1, ..Shape::square([batch, 32, len_kv, 128]) };
                let batches = [1, 16].into_iter().flat_map(|batch| [1024, 4096, 16384].map(|len_kv| (batch, len_kv)));
                let batches = batches.map(|(batch, len_kv)| one_query(batch, 8, len_kv));
                batches.chain([8192, 65536].map(|len_kv| one_query(1, 4, len_kv))).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_read() {
        assert_eq!("1,8,512,64".parse(), Ok(Shape::square([1, 8, 512, 64])));
        let decode: Shape = "8, 32, 4096, 128, 8, 1".parse().unwrap();
        assert_eq!((decode.heads_kv, decode.len_q, decode.len_kv), (8, 1, 4096));
        for wrong in ["", "1,8,512", "1,8,512,64,8,1,9", "1,8,512,x", "1x8x512x64"] {
            assert!(wrong.parse::<Shape>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_grid_holds_valid_problems() {
        for grid in Grid::ALL {
            for shape in grid.shapes() {
                shape.problem(Dtype::Bf16, Mask::Causal).unwrap();
            }
        }
        assert_eq!(Grid::Targets.shapes()[3], Shape::square([32, 32, 512, 64]));
        assert_eq!(Grid::Targets.shapes()[20], Shape::square([1, 8, 16384, 256]));
        assert_eq!(Grid::Widths.shapes()[1], Shape::square([4, 16, 4096, 96]));
    }

    #[test]
    fn widths_are_what_the_targets_lack() {
        let targets = Grid::Targets.shapes();
        for shape in Grid::Widths.shapes() {
            assert!(targets.iter().all(|target| target.head_dim != shape.head_dim), "{shape:?}");
        }
    }
}
