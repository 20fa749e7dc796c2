//! Which problems to time.

use std::str::FromStr;

use sdpa_core::{Dtype, Layout, Mask, Packing, PageTable, Paging, Problem, ProblemBuilder, ProblemError, Window};

use harness::acceptance;
use harness::case::{Case, CaseError};
use harness::random::Random;

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
    /// One query over a cache: four query heads per key head in batches, eight with caches of up to 64 K keys, and batches with
    /// as many key heads as query heads and with eight query heads per key head.
    Decode,
    /// Dense shapes of real models: prefill, chunks, encoders, pictures, diffusion and speech, each with its own mask. Lengths
    /// are as they come, and head dimensions no powers of two.
    Models,
    /// Packed sequences: encoders over many short ones without a mask, then a few long ones with a causal mask.
    Packed,
    /// Windows, soft caps and sinks, as language models have them; causal.
    Windows,
    /// Decoding from caches in pages, as servers do it: batches of 1 to 256, 1, 4 and 8 query heads per key head, 1 to 64 queries
    /// per sequence; causal. All sequences have all their keys.
    Paged,
}

impl Grid {
    /// All of them, in the order they are timed: the longest last, so that a run that is cut off has the others.
    pub const ALL: [Self; 9] = [
        Self::Acceptance,
        Self::Short,
        Self::Decode,
        Self::Paged,
        Self::Packed,
        Self::Windows,
        Self::Widths,
        Self::Models,
        Self::Targets,
    ];

    /// Name, as on the command line and in the names of records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Acceptance => "acceptance",
            Self::Targets => "targets",
            Self::Short => "short",
            Self::Widths => "widths",
            Self::Decode => "decode",
            Self::Models => "models",
            Self::Packed => "packed",
            Self::Windows => "windows",
            Self::Paged => "paged",
        }
    }

    /// The element type that its figures are usually quoted in.
    pub const fn dtype(self) -> Dtype {
        match self {
            Self::Acceptance | Self::Short => Dtype::F16,
            Self::Targets | Self::Widths | Self::Decode => Dtype::Bf16,
            Self::Models | Self::Packed | Self::Windows | Self::Paged => Dtype::Bf16,
        }
    }

    /// Its shapes, in the order they are timed; none if its problems are more than a shape ([`cases`](Self::cases)).
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
                let long = [8192, 65536].map(|len_kv| one_query(1, 4, len_kv));
                let of_64_heads = Shape { heads_kv: 8, len_q: 1, ..Shape::square([32, 64, 8192, 64]) };
                let full = [one_query(128, 8, 1024), one_query(16, 32, 2048), of_64_heads];
                batches.chain(long).chain(full).collect()
            }
            Self::Models | Self::Packed | Self::Windows | Self::Paged => Vec::new(),
        }
    }

    /// Its problems that have a mask of their own, many of them with extensions, in the order they are timed; none if they are
    /// [`shapes`](Self::shapes).
    ///
    /// # Errors
    /// [`CaseError`] where the sizes make no problem.
    pub fn cases(self, dtype: Dtype) -> Result<Vec<Case>, CaseError> {
        match self {
            Self::Models => models(dtype),
            Self::Packed => packed(dtype),
            Self::Windows => windows(dtype),
            Self::Paged => paged(dtype),
            _ => Ok(Vec::new()),
        }
    }
}

fn models(dtype: Dtype) -> Result<Vec<Case>, CaseError> {
    let [none, causal] = [Mask::Full, Mask::Causal];
    // Batch, query heads, key heads, queries, keys, head dimension. Of each kind the first rows are those that peers were
    // measured with, the others are named after a model that has these heads.
    let rows = [
        // Prefill.
        (causal, [4, 32, 8, 1333, 1333, 128]),
        (causal, [2, 32, 8, 3000, 3000, 128]),
        (causal, [2, 64, 8, 4096, 4096, 64]),
        (causal, [2, 16, 8, 2048, 2048, 256]),
        (causal, [8, 14, 2, 900, 900, 64]),     // Qwen2.5-0.5B
        (causal, [1, 28, 4, 7000, 7000, 128]),  // Qwen2.5-7B
        (causal, [1, 64, 8, 6001, 6001, 128]),  // Llama-3-70B
        (causal, [2, 32, 32, 2500, 2500, 80]),  // Phi-2
        (causal, [2, 32, 32, 1900, 1900, 96]),  // Phi-3-mini
        (causal, [4, 8, 4, 1500, 1500, 256]),   // Gemma-2-2B
        (causal, [16, 12, 12, 1023, 1023, 64]), // GPT-2
        // Chunks of a prefill, and speculation.
        (causal, [1, 32, 8, 8, 16384, 128]),
        (causal, [1, 32, 8, 512, 8192, 128]),
        (causal, [4, 32, 8, 64, 2048, 128]),
        (causal, [8, 32, 8, 4, 4096, 128]),
        // Encoders of text.
        (none, [32, 12, 12, 384, 384, 64]), // BERT-base
        (none, [64, 12, 12, 128, 128, 32]), // MiniLM
        // Pictures.
        (none, [64, 12, 12, 197, 197, 64]),
        (none, [8, 16, 16, 729, 729, 72]),
        (none, [8, 16, 16, 2048, 2048, 80]),
        (none, [32, 16, 16, 257, 257, 64]), // CLIP ViT-L/14
        (none, [16, 16, 16, 257, 257, 80]), // ViT-H/14
        (none, [16, 16, 16, 577, 577, 64]), // ViT-L/14 at 336 pixels
        // Diffusion.
        (none, [2, 10, 10, 4096, 77, 64]),
        (none, [2, 8, 8, 256, 256, 160]),
        (none, [2, 10, 10, 4096, 4096, 64]),  // SDXL
        (none, [2, 20, 20, 1024, 1024, 64]),  // SDXL
        (none, [2, 8, 8, 4096, 4096, 40]),    // Stable Diffusion 1.5
        (none, [2, 8, 8, 1024, 1024, 80]),    // Stable Diffusion 1.5
        (none, [2, 8, 8, 4096, 77, 40]),      // Stable Diffusion 1.5
        (none, [16, 16, 16, 256, 256, 72]),   // DiT-XL/2
        (none, [1, 24, 24, 4608, 4608, 128]), // FLUX.1
        // Speech.
        (none, [8, 20, 20, 1500, 1500, 64]), // Whisper-large, encoder
        (none, [8, 20, 20, 448, 1500, 64]),  // Whisper-large, decoder over encoder
        (none, [8, 12, 12, 749, 749, 64]),   // wav2vec 2.0, 15 seconds
    ];
    let case = |(mask, [batch, heads_q, heads_kv, len_q, len_kv, head_dim]): (Mask, [usize; 6])| {
        let shape = Shape { batch, heads_q, len_kv, head_dim, heads_kv, len_q };
        Ok(Case::new(shape.problem(dtype, mask)?))
    };
    rows.into_iter().map(case).collect()
}

fn packed(dtype: Dtype) -> Result<Vec<Case>, CaseError> {
    let few = log_normal(64, 7357);
    let mixed = vec![128, 333, 777, 1024, 1500, 2048, 4096, 6200];
    let [none, causal] = [Mask::Full, Mask::Causal];
    let rows = [
        ([12, 12, 32], none, few.clone()),
        ([12, 12, 64], none, few.clone()),
        ([16, 16, 64], none, few),
        ([12, 12, 64], none, log_normal(256, 22109)),
        ([12, 12, 64], none, vec![32; 512]),
        ([32, 8, 128], causal, mixed.clone()),
        ([64, 8, 64], causal, mixed),
        ([32, 8, 128], causal, vec![2048; 8]),
    ];
    let case = |([heads_q, heads_kv, head_dim], mask, lengths): ([usize; 3], Mask, Vec<usize>)| {
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let packing = Packing { sequences: lengths.len(), longest_q: longest, longest_kv: longest };
        let problem = Problem::packed(packing, heads_q, lengths.iter().sum(), head_dim);
        Case::of_lengths(problem.heads_kv(heads_kv).dtype(dtype).mask(mask).build()?, lengths)
    };
    rows.into_iter().map(case).collect()
}

fn windows(dtype: Dtype) -> Result<Vec<Case>, CaseError> {
    type Ask = fn(ProblemBuilder) -> ProblemBuilder;
    // A query sees its own key, too: a window of 1024 keys has 1023 before the diagonal.
    let of_1024: Ask = |problem| problem.window(Window::left(1023));
    let of_4096: Ask = |problem| problem.window(Window::left(4095));
    let rows: [([usize; 5], Ask); 7] = [
        ([1, 32, 8, 16384, 128], of_1024),
        ([2, 64, 8, 8192, 64], of_1024),
        ([2, 64, 8, 8192, 64], |problem| problem.window(Window::left(127)).sinks()),
        ([2, 64, 8, 8192, 64], ProblemBuilder::sinks),
        ([1, 16, 8, 8192, 256], |problem| problem.window(Window::left(4095)).softcap(50.0)),
        ([2, 32, 8, 4096, 128], |problem| problem.softcap(30.0)),
        ([1, 32, 8, 16384, 128], of_4096),
    ];
    let case = |([batch, heads_q, heads_kv, length, head_dim], ask): ([usize; 5], Ask)| {
        let problem = Problem::new(batch, heads_q, length, head_dim).heads_kv(heads_kv).dtype(dtype).mask(Mask::Causal);
        Ok(Case::new(ask(problem).build()?))
    };
    rows.into_iter().map(case).collect()
}

fn paged(dtype: Dtype) -> Result<Vec<Case>, CaseError> {
    // Batch, query heads, key heads, queries, keys, head dimension, keys of a page.
    let rows = [
        [1, 32, 8, 1, 4096, 128, 16],
        [1, 32, 8, 1, 16384, 128, 16],
        [16, 32, 8, 1, 1024, 128, 16],
        [16, 32, 8, 1, 4096, 128, 16],
        [16, 32, 8, 1, 4096, 128, 128],
        [64, 32, 8, 1, 2048, 128, 128],
        [128, 32, 8, 1, 1024, 128, 16],
        [256, 32, 8, 1, 1024, 128, 16],
        [16, 32, 32, 1, 2048, 128, 16],
        [32, 64, 8, 1, 8192, 64, 16],
        [16, 16, 4, 1, 4096, 256, 16],
        [8, 32, 8, 2, 4096, 128, 16],
        [8, 32, 8, 4, 4096, 128, 16],
        [16, 32, 8, 8, 4096, 128, 16],
        [4, 32, 8, 64, 2048, 128, 16],
    ];
    let case = |[batch, heads_q, heads_kv, len_q, len_kv, head_dim, page]: [usize; 7]| {
        let width = len_kv / page;
        let paging = Paging { page, pages: batch * width, table: PageTable::Rows { width } };
        let problem = Problem::new(batch, heads_q, len_q, head_dim)
            .heads_kv(heads_kv)
            .len_kv(len_kv)
            .dtype(dtype)
            .mask(Mask::Causal)
            .layout(Layout::Blhd)
            .paged(paging);
        Case::of_lengths(problem.build()?, vec![len_kv; batch])
    };
    rows.into_iter().map(case).collect()
}

/// Lengths from 16 to 512 that add up to `total`, as the sentences of a text have them: `exp(μ + 0.8·N)`, rounded and kept in
/// the range, where `N` are the normal numbers of [`Random`] with seed 0 and the stream of the two arguments. `μ` is the
/// largest multiple of 2⁻³² whose lengths do not pass the total. What is then missing is given one by one to the first
/// sequences that are below the limit.
fn log_normal(sequences: usize, total: usize) -> Vec<usize> {
    const RANGE: [usize; 2] = [16, 512];
    const DEVIATION: f64 = 0.8;
    let mut random = Random::new(0, &[sequences as u64, total as u64]);
    let drawn: Vec<f64> = (0..sequences).map(|_| DEVIATION * random.normal()).collect();
    let lengths = |mu: u64| -> Vec<usize> {
        let mu = mu as f64 / (1_u64 << 32) as f64;
        drawn.iter().map(|normal| ((mu + normal).exp().round() as usize).clamp(RANGE[0], RANGE[1])).collect()
    };
    // e^16 is far above the range.
    let (mut low, mut high) = (0_u64, 16 << 32);
    while high - low > 1 {
        let middle = low.midpoint(high);
        if lengths(middle).iter().sum::<usize>() <= total { low = middle } else { high = middle }
    }
    let mut found = lengths(low);
    let missing = total.saturating_sub(found.iter().sum());
    found.iter_mut().filter(|length| **length < RANGE[1]).take(missing).for_each(|length| *length += 1);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use sdpa::generations;
    use sdpa_core::DeviceLimits;

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
    fn a_grid_holds_shapes_or_problems_with_masks_of_their_own() {
        for grid in Grid::ALL {
            let cases = grid.cases(grid.dtype()).unwrap();
            assert_ne!(grid.shapes().is_empty(), cases.is_empty(), "{}", grid.name());
            for case in cases {
                assert_eq!(case.extensions().is_empty(), grid == Grid::Models, "{case}");
                let takes = |id: &str| generations::find(id).unwrap().plan(&case.problem, &DeviceLimits::H200).is_ok();
                if case.problem.paging().is_some() {
                    assert!(takes("v2j"), "{case}");
                } else {
                    assert!(takes("v2i"), "{case}");
                    assert!(takes("v2h") || case.problem.packing().is_some(), "{case}");
                }
                assert_eq!(case.to_string().parse::<Case>().as_ref(), Ok(&case));
            }
        }
    }

    #[test]
    fn models_are_as_they_come() {
        let cases = Grid::Models.cases(Dtype::Bf16).unwrap();
        let problems: Vec<&Problem> = cases.iter().map(|case| &case.problem).collect();
        assert!(problems.iter().enumerate().all(|(index, problem)| !problems[..index].contains(problem)), "one twice");
        let dims = |problem: &&Problem| problem.head_dim();
        for head_dim in [40, 72, 80, 160] {
            assert!(problems.iter().map(dims).any(|other| other == head_dim), "no {head_dim}");
        }
        let odd = problems.iter().filter(|problem| !problem.len_kv().is_power_of_two()).count();
        assert!(2 * odd > problems.len(), "{odd} of {}", problems.len());
        // Every generation that takes dense attention of any size has its rows.
        for problem in &problems {
            assert!(generations::find("v2d").unwrap().plan(problem, &DeviceLimits::H200).is_ok(), "{problem}");
        }
    }

    #[test]
    fn decoding_reads_what_peers_were_measured_with() {
        let shapes = Grid::Decode.shapes();
        assert_eq!(shapes.len(), 11);
        for text in ["128,32,1024,128,8,1", "16,32,2048,128,32,1", "32,64,8192,64,8,1", "1,32,65536,128,4,1"] {
            assert!(shapes.contains(&text.parse().unwrap()), "{text}");
        }
    }

    /// The totals that peers were measured with, and what a formula says of the pairs that count.
    #[test]
    fn operations_are_what_figures_of_peers_were_counted_by() {
        let cases = [Grid::Packed, Grid::Windows].map(|grid| grid.cases(Dtype::Bf16).unwrap());
        let pairs = |case: &Case| {
            case.flops() / (4 * case.problem.batch() * case.problem.heads_q() * case.problem.head_dim()) as f64
        };
        let tokens: Vec<usize> = cases[0].iter().map(|case| case.problem.len_q()).collect();
        assert_eq!(tokens, [7357, 7357, 7357, 22109, 16384, 16106, 16106, 16384]);
        let squares = |lengths: &[usize]| lengths.iter().map(|length| (length * length) as f64).sum::<f64>();
        assert_eq!(pairs(&cases[0][0]), squares(cases[0][0].lengths.as_ref().unwrap()));
        assert_eq!(pairs(&cases[0][4]), squares(&[32; 512]));
        assert_eq!(pairs(&cases[0][5]), squares(&[128, 333, 777, 1024, 1500, 2048, 4096, 6200]) / 2.0);
        let window = |length: usize, keys: usize| (length * keys - keys * (keys - 1) / 2) as f64;
        let half = |length: usize| (length * length) as f64 / 2.0;
        assert_eq!(
            cases[1].iter().map(pairs).collect::<Vec<_>>(),
            [
                window(16384, 1024),
                window(8192, 1024),
                window(8192, 128),
                half(8192),
                window(8192, 4096),
                half(4096),
                window(16384, 4096)
            ]
        );
    }

    #[test]
    fn drawn_lengths_are_spread_and_add_up() {
        for (sequences, total) in [(64, 7357), (256, 22109)] {
            let lengths = log_normal(sequences, total);
            assert_eq!((lengths.len(), lengths.iter().sum::<usize>()), (sequences, total));
            assert!(lengths.iter().all(|length| (16..=512).contains(length)), "{lengths:?}");
            // Skewed to the right: the median is well below the mean, and a few are several times as long.
            let mut sorted = lengths.clone();
            sorted.sort_unstable();
            let (median, mean) = (sorted[sequences / 2] as f64, total as f64 / sequences as f64);
            assert!(median < 0.9 * mean && sorted[sequences - 1] as f64 > 3.0 * mean, "{sorted:?}");
        }
        // A record holds lengths, and figures of other lengths are not compared: these must stay what they are.
        let weighted =
            |lengths: &[usize]| lengths.iter().enumerate().map(|(index, length)| index * length).sum::<usize>();
        assert_eq!(log_normal(64, 7357)[..8], [61, 64, 45, 205, 68, 300, 217, 30]);
        assert_eq!([weighted(&log_normal(64, 7357)), weighted(&log_normal(256, 22109))], [212_386, 2_677_530]);
    }

    #[test]
    fn widths_are_what_the_targets_lack() {
        let targets = Grid::Targets.shapes();
        for shape in Grid::Widths.shapes() {
            assert!(targets.iter().all(|target| target.head_dim != shape.head_dim), "{shape:?}");
        }
    }
}
