//! Random cases for proptest: a small problem, a regime and two seeds, never a tensor. Every value that a strategy makes
//! is a valid case, and shrinks to a plainer one.

use proptest::num;
use proptest::prelude::*;
use proptest::strategy::{NewTree, Union, ValueTree as _};
use proptest::test_runner::TestRunner;
use sdpa_core::{DeviceKind, Dtype, Layout, Mask, Operand, Problem, Strides};

use crate::case::Case;
use crate::regime::Regime;

/// How large problems may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// What the interpreter does in about a tenth of a second: three or more key tiles with a ragged end, few rows.
    Small,
    /// What a GPU does at once and the oracle in about a tenth of a second.
    Large,
}

impl Size {
    /// What a kind of device can do.
    pub fn of(kind: DeviceKind) -> Self {
        match kind {
            DeviceKind::Cuda => Self::Large,
            DeviceKind::Interpreter => Self::Small,
        }
    }

    /// Products of a query's and a key's element that a case may have, whole tiles counted.
    const fn products(self) -> usize {
        match self {
            Self::Small => 3_000_000,
            Self::Large => 128_000_000,
        }
    }

    /// The same shape, made small enough: fewer sequences, then fewer heads, then fewer queries. Keys stay, since
    /// bugs of a pipeline need several tiles of them.
    fn fit(self, mut shape: Shape) -> Shape {
        /// Query tile of the tiled kernels, which compute whole tiles however few rows there are.
        const TILE: usize = 64;
        let width = shape.head_dim.next_power_of_two().max(64);
        let tile = TILE * shape.len_kv.next_multiple_of(TILE).max(TILE) * width;
        let tiles = (self.products() / tile).max(1);
        let tiles_of = |shape: &Shape| shape.batch * shape.heads_kv * shape.group * shape.len_q.div_ceil(TILE).max(1);
        for _ in 0..3 {
            if tiles_of(&shape) > tiles && shape.batch > 1 {
                shape.batch = 1;
            } else if tiles_of(&shape) > tiles && shape.heads_kv > 1 {
                shape.heads_kv = 1;
            } else if tiles_of(&shape) > tiles && shape.group > 1 {
                shape.group = 1;
            }
        }
        let heads = shape.batch * shape.heads_kv * shape.group;
        shape.len_q = shape.len_q.min((tiles / heads).max(1) * TILE);
        if self == Self::Small && shape.len_kv >= LONG {
            shape.len_q = shape.len_q.min(3);
        }
        shape
    }
}

/// Keys from which on three-stage kernels run.
const LONG: usize = 2048;

#[derive(Clone, Copy, Debug)]
struct Shape {
    batch: usize,
    heads_kv: usize,
    group: usize,
    len_q: usize,
    len_kv: usize,
    head_dim: usize,
}

/// How the four tensors lie in memory.
#[derive(Clone, Copy, Debug)]
enum Memory {
    Contiguous(Layout),
    /// In this order, with room behind every element, row and sequence: three paddings for each operand.
    Padded(Layout, [i64; 12]),
}

/// Random cases of this size.
pub fn cases(size: Size) -> impl Strategy<Value = Case> {
    let dtype = prop_oneof![3 => Just(Dtype::F16), 1 => Just(Dtype::Bf16)];
    let mask = prop_oneof![2 => Just(Mask::Full), 3 => Just(Mask::Causal), 1 => Just(Mask::CausalTopLeft)];
    // Seeds are short, so that the line is.
    let seeds = (0..100_000_u64, 0..1000_u64);
    (shape(size), dtype, mask, memory(), scale(), prop::sample::select(Regime::ALL.to_vec()), seeds).prop_map(
        |(shape, dtype, mask, memory, scale, regime, (seed, schedule))| {
            let problem = problem(shape, dtype, mask, memory, scale);
            Case { problem, regime, seed, schedule }
        },
    )
}

fn shape(size: Size) -> impl Strategy<Value = Shape> {
    let batch = prop_oneof![5 => Just(1_usize), 2 => Just(2), 1 => Just(3)];
    let heads_kv = prop_oneof![4 => Just(1_usize), 3 => Just(2), 1 => Just(3)];
    let group = prop_oneof![4 => Just(1_usize), 2 => Just(2), 1 => Just(4)];
    // The two specialised dimensions first and most often, then those that are padded to them; few
    // generations take more than 128.
    let head_dim = prop_oneof![
        4 => Just(64_usize),
        4 => Just(128),
        3 => prop::sample::select(vec![8_usize, 16, 24, 40, 72, 96, 120]),
        1 => prop::sample::select(vec![136_usize, 192, 256]),
    ];
    // Self-attention as often as everything else together.
    let same_length = prop::bool::ANY;
    (batch, heads_kv, group, length(size, false), length(size, true), same_length, head_dim).prop_map(
        move |(batch, heads_kv, group, len_q, len_kv, same_length, head_dim)| {
            let len_q = if same_length { len_kv } else { len_q };
            size.fit(Shape { batch, heads_kv, group, len_q, len_kv, head_dim })
        },
    )
}

/// Lengths that are likely to sit at the edge of a tile, or to need three tiles and a ragged one; of keys, now and then,
/// enough for three-stage kernels.
fn length(size: Size, of_keys: bool) -> Lengths {
    const EDGES: [usize; 13] = [1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129];
    let mut choices = vec![
        (6, (1..=130_usize).boxed()),
        (10, prop::sample::select(EDGES.to_vec()).boxed()),
        // Three tiles of 64 keys and a ragged fourth one, six to eight of 32.
        (8, (193..=260_usize).boxed()),
        (2, Just(0_usize).boxed()),
    ];
    if size == Size::Large {
        choices.push((10, (1..=1100_usize).boxed()));
    }
    match (of_keys, size) {
        (false, _) => (),
        // Each takes the interpreter a second.
        (true, Size::Small) => choices.push((1, (LONG..=LONG + 70).boxed())),
        (true, Size::Large) => choices.push((4, (LONG..=LONG + 300).boxed())),
    }
    Lengths(Union::new_weighted(choices))
}

/// Lengths from the choices given that shrink as the plain numbers they are: a choice of ranges would shrink within its
/// range only, and never below.
#[derive(Debug)]
struct Lengths(Union<BoxedStrategy<usize>>);

impl Strategy for Lengths {
    type Tree = num::usize::BinarySearch;
    type Value = usize;

    fn new_tree(&self, runner: &mut TestRunner) -> NewTree<Self> {
        Ok(num::usize::BinarySearch::new(self.0.new_tree(runner)?.current()))
    }
}

fn memory() -> impl Strategy<Value = Memory> {
    let layout = || prop_oneof![Just(Layout::Bhld), Just(Layout::Blhd)];
    let padding = |unit: i64| prop::array::uniform12((0..=2_i64).prop_map(move |steps| steps * unit));
    prop_oneof![
        4 => Just(Memory::Contiguous(Layout::Bhld)),
        3 => Just(Memory::Contiguous(Layout::Blhd)),
        3 => (layout(), padding(8)).prop_map(|(layout, padding)| Memory::Padded(layout, padding)),
        // For generations that copy single elements; the others decline it.
        1 => (layout(), padding(1)).prop_map(|(layout, padding)| Memory::Padded(layout, padding)),
    ]
}

/// Mostly the default scale; otherwise 0, negative, tiny and large ones.
fn scale() -> impl Strategy<Value = Option<f32>> {
    prop_oneof![
        6 => Just(None),
        2 => prop::sample::select(vec![1.0_f32, 0.125, 0.0, -0.125, -1.0, 1e-3, 3.0]).prop_map(Some),
    ]
}

fn problem(shape: Shape, dtype: Dtype, mask: Mask, memory: Memory, scale: Option<f32>) -> Problem {
    let Shape { batch, heads_kv, group, len_q, len_kv, head_dim } = shape;
    let mut builder = Problem::new(batch, heads_kv * group, len_q, head_dim)
        .heads_kv(heads_kv)
        .len_kv(len_kv)
        .dtype(dtype)
        .mask(mask);
    if let Some(scale) = scale {
        builder = builder.scale(scale);
    }
    builder = match memory {
        Memory::Contiguous(layout) => builder.layout(layout),
        Memory::Padded(layout, padding) => Operand::ALL.into_iter().fold(builder, |builder, operand| {
            let (heads, length) = match operand {
                Operand::Query | Operand::Output => (heads_kv * group, len_q),
                Operand::Key | Operand::Value => (heads_kv, len_kv),
            };
            let padding = &padding[3 * operand as usize..][..3];
            builder.strides(operand, padded(layout, heads as i64, length as i64, head_dim as i64, padding))
        }),
    };
    builder.build().expect("strategies make valid problems")
}

/// Strides in a layout's order with room behind each element of the innermost dimension, of the next, and of all.
fn padded(layout: Layout, heads: i64, length: i64, head_dim: i64, padding: &[i64]) -> Strides {
    let inner = head_dim + padding[0];
    match layout {
        Layout::Bhld => {
            let head = length * inner + padding[1];
            Strides { batch: heads * head + padding[2], head, row: inner }
        }
        Layout::Blhd => {
            let row = heads * inner + padding[1];
            Strides { batch: length * row + padding[2], head: inner, row }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::test_runner::Config;

    use super::*;

    fn sample(size: Size, count: usize) -> Vec<Case> {
        let mut runner = TestRunner::deterministic();
        let strategy = cases(size);
        (0..count).map(|_| strategy.new_tree(&mut runner).expect("no rejections").current()).collect()
    }

    proptest! {
        #![proptest_config(Config { failure_persistence: None, ..Config::default() })]

        #[test]
        fn every_case_reads_back_from_its_line(case in cases(Size::Large)) {
            let line = case.to_string();
            prop_assert_eq!(line.parse::<Case>().map_err(|error| TestCaseError::fail(error.to_string()))?, case);
            prop_assert!(!line.contains('\n'));
        }
    }

    /// The distribution is the point of the strategy, so each of its promises is counted.
    #[test]
    fn what_matters_is_likely() {
        for size in [Size::Small, Size::Large] {
            let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
            for Case { problem, .. } in sample(size, 1000) {
                let (len_q, len_kv) = (problem.len_q(), problem.len_kv());
                for (what, is) in [
                    ("three tiles of 64 keys and a ragged end", len_kv > 192 && len_kv % 64 != 0),
                    ("three-stage kernels", len_kv >= LONG),
                    ("more queries than keys", len_q > len_kv),
                    ("fewer queries than keys", len_q < len_kv),
                    ("rows without keys", problem.mask() == Mask::Causal && len_q > len_kv),
                    ("no keys", len_kv == 0),
                    ("no queries", len_q == 0),
                    ("several query tiles", len_q > 64),
                    ("grouped queries", problem.heads_q() > problem.heads_kv()),
                    ("several sequences", problem.batch() > 1),
                    ("wide", problem.head_dim() == 128),
                    ("bf16", problem.dtype() == Dtype::Bf16),
                    ("causal", problem.mask() == Mask::Causal),
                ] {
                    *counts.entry(what).or_default() += usize::from(is);
                }
            }
            for (what, count) in counts {
                assert!(count >= 10, "{what}: {count} of 1000 {size:?} cases");
            }
        }
    }

    #[test]
    fn small_cases_are_small() {
        for Case { problem, .. } in sample(Size::Small, 1000) {
            let rows = problem.batch() * problem.heads_q() * problem.len_q();
            // One tile there always is, however wide.
            assert!(rows * problem.len_kv() * problem.head_dim() <= 2 * Size::Small.products(), "{problem}");
        }
    }

    #[test]
    fn cases_shrink_to_something_plain() {
        let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::default() });
        let error = runner.run(&cases(Size::Large), |case| {
            prop_assert!(case.problem.len_kv() < 70 || !case.problem.mask().is_causal());
            Ok(())
        });
        let Err(proptest::test_runner::TestError::Fail(_, case)) = error else { panic!("some case must fail") };
        assert_eq!(case.problem.len_kv(), 70, "{case}");
        assert_eq!((case.problem.batch(), case.problem.heads_q(), case.regime, case.seed), (1, 1, Regime::Normal, 0));
    }
}
