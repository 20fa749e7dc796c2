//! Random cases for proptest: a small problem, a regime and two seeds, never a tensor. Every value that a strategy makes
//! is a valid case, and shrinks to a plainer one.

use proptest::num;
use proptest::prelude::*;
use proptest::strategy::{NewTree, Union, ValueTree as _};
use proptest::test_runner::TestRunner;
use sdpa_core::{
    DeviceKind, Dtype, Extensions, KvScales, Layout, Mask, Operand, Packing, PageTable, Paging, Problem, Strides,
    Window,
};

use crate::case::Case;
use crate::needs::stored_in_e4m3;
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

    /// The same shape, made small enough for a regime. Kernels compute rows with vast logits once more, one key after the
    /// other, which costs the interpreter a hundred times as much as a key of a tile: fewer queries, then fewer sequences
    /// and heads. Keys stay, as far as a single row may ask them.
    fn fit_regime(self, mut shape: Shape, regime: Regime) -> Shape {
        if self == Self::Large || regime != Regime::VastLogits {
            return shape;
        }
        let width = shape.head_dim.next_power_of_two().max(64);
        while shape.len_kv * width > EXACT_PRODUCTS {
            shape.len_kv /= 2;
        }
        let rows = (EXACT_PRODUCTS / (shape.len_kv.max(1) * width)).max(1);
        let heads = shape.batch * shape.heads_kv * shape.group;
        shape.len_q = shape.len_q.min((rows / heads).max(1));
        shape.batch = shape.batch.min((rows / (shape.heads_kv * shape.group)).max(1));
        shape.heads_kv = shape.heads_kv.min((rows / shape.group).max(1));
        shape.group = shape.group.min(rows);
        shape
    }
}

/// Products of a query's and a key's element that a case with vast logits may have. V2c, which takes the longest for them, takes the
/// interpreter about 2 seconds: 4600 keys of 64 columns.
const EXACT_PRODUCTS: usize = 300_000;

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
        move |(shape, dtype, mask, memory, scale, regime, (seed, schedule))| {
            let problem = problem(size.fit_regime(shape, regime), dtype, mask, memory, scale);
            Case { regime, seed, schedule, ..Case::new(problem) }
        },
    )
}

/// Random cases of this size for a generation that takes these extensions: as [`cases`] where it takes none; else four in five
/// ask for some of them, and all for what it [needs](sdpa_core::Attention::needs).
pub fn cases_with(size: Size, takes: Extensions, needs: Extensions) -> BoxedStrategy<Case> {
    let cases = cases_asking(size, Extensions { kv_e4m3: false, ..takes });
    let scales = prop::sample::select(vec![KvScales::Tensor, KvScales::Head]);
    // Where keys in bytes are no question to the generation, no number is drawn for it.
    let scales = match (takes.kv_e4m3, needs.kv_e4m3) {
        (_, true) => scales.prop_map(Some).boxed(),
        (true, false) => prop::option::of(scales).boxed(),
        (false, false) => return cases,
    };
    (cases, scales)
        .prop_map(|(case, scales)| match scales {
            None => case,
            Some(scales) => Case { problem: stored_in_e4m3(&case.problem, scales), ..case },
        })
        .boxed()
}

fn cases_asking(size: Size, takes: Extensions) -> BoxedStrategy<Case> {
    if takes == Extensions::NONE {
        return cases(size).boxed();
    }
    let asked = prop_oneof![1 => Just(None), 4 => wishes().prop_map(Some)];
    let extended = (cases(size), asked).prop_map(move |(case, wishes)| match wishes {
        None => case,
        Some(wishes) => Case { problem: wishes.asked_of(&case.problem, takes), ..case },
    });
    if !takes.value_dim {
        return extended.boxed();
    }
    (extended, prop::option::weighted(0.8, value_wish()))
        .prop_map(|(case, wish)| match wish {
            None => case,
            Some(wish) => Case { problem: wish.asked_of(&case.problem, case.regime), ..case },
        })
        .boxed()
}

/// How wide values are to be, and whether narrower ones lie as wide ones did, with room behind each.
#[derive(Clone, Copy, Debug)]
struct ValueWish {
    elements: usize,
    layout: Option<Layout>,
}

/// The widths of models first, then those that kernels pad to them.
fn value_wish() -> impl Strategy<Value = ValueWish> {
    let elements = prop_oneof![
        2 => Just(128_usize),
        2 => Just(64),
        2 => prop::sample::select(vec![8_usize, 24, 32, 40, 72, 96, 120]),
        1 => prop::sample::select(vec![136_usize, 192, 256]),
    ];
    let layout = prop_oneof![Just(None), Just(Some(Layout::Bhld)), Just(Some(Layout::Blhd))];
    (elements, layout).prop_map(|(elements, layout)| ValueWish { elements, layout })
}

impl ValueWish {
    fn asked_of(self, problem: &Problem, regime: Regime) -> Problem {
        // Rows with vast logits are computed once more for each few columns.
        let most = if regime == Regime::VastLogits { problem.head_dim().next_multiple_of(64) } else { usize::MAX };
        let elements = self.elements.min(most);
        let mut builder = problem.to_builder().value_dim(elements);
        if self.layout.is_some() || elements > problem.head_dim() {
            for operand in [Operand::Value, Operand::Output] {
                let [_, heads, length, _] = problem.shape(operand);
                let layout = self.layout.unwrap_or(Layout::Blhd);
                builder = builder.strides(operand, layout.strides(heads, length, elements));
            }
        }
        builder.build().expect("strategies make valid problems")
    }
}

/// What to ask for beyond dense attention, if the generation takes it.
#[derive(Clone, Debug)]
struct Wishes {
    /// Sequences, and how far the longest is beyond the average: 0 is all alike, 255 the whole total.
    packed: Option<(usize, u8)>,
    key_lengths: bool,
    window: Option<Window>,
    softcap: Option<f32>,
    sinks: bool,
    slopes: bool,
    paged: Option<PageWish>,
}

/// How keys are to lie in pages.
#[derive(Clone, Copy, Debug)]
struct PageWish {
    page: usize,
    /// Pages that no sequence needs, and entries of the table.
    spare: usize,
    lists: bool,
    layout: Layout,
    /// Elements behind each page.
    padding: i64,
}

fn wishes() -> impl Strategy<Value = Wishes> {
    // Where a window ends before, at and behind the edges of tiles.
    let side = || {
        let edges = vec![0_usize, 1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 129, 200];
        prop_oneof![1 => Just(None), 3 => prop::sample::select(edges).prop_map(Some)]
    };
    let window = (side(), side()).prop_map(|(left, right)| Window { left, right });
    let sequences = prop_oneof![6 => 1..=6_usize, 2 => 7..=40_usize, 1 => 60..=70_usize];
    (
        prop::option::weighted(0.5, (sequences, prop::num::u8::ANY)),
        prop::bool::weighted(0.2),
        prop::option::weighted(0.5, window),
        prop::option::weighted(0.3, prop::sample::select(vec![30.0_f32, 50.0, 1.0, 8.0, 1000.0])),
        prop::bool::weighted(0.4),
        prop::bool::weighted(0.3),
        prop::option::weighted(0.5, page_wish()),
    )
        .prop_map(|(packed, key_lengths, window, softcap, sinks, slopes, paged)| Wishes {
            packed,
            key_lengths,
            window,
            softcap,
            sinks,
            slopes,
            paged,
        })
}

fn page_wish() -> impl Strategy<Value = PageWish> {
    let page = prop_oneof![2 => Just(16_usize), 1 => prop::sample::select(Paging::SIZES.to_vec())];
    let layout = prop::sample::select(vec![Layout::Bhld, Layout::Blhd]);
    let padding = prop_oneof![3 => Just(0_i64), 1 => Just(8), 1 => Just(72)];
    (page, 0..3_usize, prop::bool::weighted(0.3), layout, padding)
        .prop_map(|(page, spare, lists, layout, padding)| PageWish { page, spare, lists, layout, padding })
}

impl Wishes {
    fn asked_of(&self, problem: &Problem, takes: Extensions) -> Problem {
        let mut builder = match self.packed.filter(|_| takes.packed) {
            None => problem.to_builder(),
            Some((sequences, spread)) => {
                let longest = |total: usize| {
                    let average = total.div_ceil(sequences);
                    average + (total - average) * usize::from(spread) / 255
                };
                let (longest_q, longest_kv) = (longest(problem.len_q()), longest(problem.len_kv()));
                // In pages the keys are not packed, and each sequence may have as many.
                let paged = self.paged.is_some() && takes.paged;
                let average = problem.len_kv().div_ceil(sequences);
                let (longest_kv, len_kv) = if paged { (average, average) } else { (longest_kv, problem.len_kv()) };
                let packing = Packing { sequences, longest_q, longest_kv };
                Problem::packed(packing, problem.heads_q(), problem.len_q(), problem.head_dim())
                    .heads_kv(problem.heads_kv())
                    .len_kv(len_kv)
                    .dtype(problem.dtype())
                    .mask(problem.mask())
                    .scale(problem.scale())
                    .layout(if spread % 4 == 3 { Layout::Bhld } else { Layout::Blhd })
            }
        };
        if let Some(window) = self.window.filter(|_| takes.window) {
            builder = builder.window(window);
        }
        if let Some(cap) = self.softcap.filter(|_| takes.softcap) {
            builder = builder.softcap(cap);
        }
        builder = builder.sinks_if(self.sinks && takes.sinks);
        if self.slopes && takes.slopes {
            builder = builder.slopes();
        }
        if self.key_lengths && takes.key_lengths && (self.packed.is_none() || !takes.packed) {
            builder = builder.key_lengths();
        }
        let problem = builder.build().expect("strategies make valid problems");
        match self.paged.filter(|_| takes.paged) {
            None => problem,
            Some(wish) => wish.asked_of(&problem),
        }
    }
}

impl PageWish {
    fn asked_of(self, problem: &Problem) -> Problem {
        let Self { page, spare, lists, layout, padding } = self;
        let own = problem.len_kv().div_ceil(page);
        let all = own * problem.sequence_count();
        let table = match lists {
            true => PageTable::Lists { entries: all },
            false => PageTable::Rows { width: own + spare },
        };
        // Where there are none spare, sequences that begin alike leave some.
        let mut builder = problem.to_builder().paged(Paging { page, pages: (all + spare).max(1), table });
        for operand in [Operand::Key, Operand::Value] {
            let strides = layout.strides(problem.heads_kv(), page, problem.head_dim());
            builder = builder.strides(operand, Strides { batch: strides.batch + padding, ..strides });
        }
        builder.build().expect("strategies make valid problems")
    }
}

/// Ordinary shapes, and one in seven beyond them; one in 35 with more than 4096 keys, each of which takes the interpreter
/// about half a second.
fn shape(size: Size) -> impl Strategy<Value = Shape> {
    Shapes(
        prop_oneof![30 => ordinary_shape(size), 2 => many_sequences(), 2 => odd_groups(size), 1 => many_keys()].boxed(),
    )
}

fn ordinary_shape(size: Size) -> impl Strategy<Value = Shape> {
    let batch = prop_oneof![5 => Just(1_usize), 2 => Just(2), 1 => Just(3)];
    let heads_kv = prop_oneof![4 => Just(1_usize), 3 => Just(2), 1 => Just(3)];
    let group = prop_oneof![4 => Just(1_usize), 2 => Just(2), 1 => Just(4)];
    // Self-attention as often as everything else together.
    let same_length = prop::bool::ANY;
    (batch, heads_kv, group, length(size, false), length(size, true), same_length, head_dim()).prop_map(
        move |(batch, heads_kv, group, len_q, len_kv, same_length, head_dim)| {
            let len_q = if same_length { len_kv } else { len_q };
            size.fit(Shape { batch, heads_kv, group, len_q, len_kv, head_dim })
        },
    )
}

/// The two specialised dimensions first and most often, then those that are padded to them; few generations take more
/// than 128.
fn head_dim() -> impl Strategy<Value = usize> {
    prop_oneof![
        4 => Just(64_usize),
        4 => Just(128),
        3 => prop::sample::select(vec![8_usize, 16, 24, 40, 72, 96, 120]),
        1 => prop::sample::select(vec![136_usize, 192, 256]),
    ]
}

/// Query heads to a key head that are no power of two: models have 3, 5, 6, 7 and 12 of them.
const GROUPS: [usize; 5] = [3, 5, 6, 7, 12];

/// More sequences than a kernel for one, two or three of them gets away with.
fn many_sequences() -> impl Strategy<Value = Shape> {
    let (len_q, len_kv) = (1..=3_usize, 1..=70_usize);
    (4..=70_usize, len_q, len_kv).prop_map(|(batch, len_q, len_kv)| Shape {
        batch,
        heads_kv: if batch < 8 { 2 } else { 1 },
        group: 1,
        len_q,
        len_kv,
        head_dim: 64,
    })
}

/// Groups of query heads that no shift divides by, few rows or many.
fn odd_groups(size: Size) -> impl Strategy<Value = Shape> {
    let len_q = prop_oneof![2 => 1..=17_usize, 1 => 60..=70_usize];
    let len_kv = prop_oneof![2 => 1..=130_usize, 1 => 500..=800_usize];
    (prop::sample::select(GROUPS.to_vec()), 1..=2_usize, len_q, len_kv, head_dim()).prop_map(
        move |(group, heads_kv, len_q, len_kv, head_dim)| {
            let few = if size == Size::Small && len_kv > 130 { len_q.min(17) } else { len_q };
            let heads_kv = if size == Size::Small && group > 6 { 1 } else { heads_kv };
            Shape { batch: 1, heads_kv, group, len_q: few, len_kv, head_dim }
        },
    )
}

/// More keys than any ring, tile or part holds, asked by few rows.
fn many_keys() -> impl Strategy<Value = Shape> {
    let len_kv = prop_oneof![7 => 4097..=4500_usize, 1 => 8200..=9000_usize];
    (1..=2_usize, len_kv, prop::sample::select(vec![64_usize, 128])).prop_map(|(len_q, len_kv, head_dim)| Shape {
        batch: 1,
        heads_kv: 1,
        group: 1,
        len_q,
        len_kv,
        head_dim,
    })
}

/// Shapes that shrink as the plain numbers they are made of: a choice of kinds would shrink within its kind only.
#[derive(Debug)]
struct Shapes(BoxedStrategy<Shape>);

/// The numbers of a [`Shape`] in their order, the head dimension in steps of 8.
type ShapeTree = [num::usize::BinarySearch; 6];

struct ShapeValue(ShapeTree, usize);

impl Strategy for Shapes {
    type Tree = ShapeValue;
    type Value = Shape;

    fn new_tree(&self, runner: &mut TestRunner) -> NewTree<Self> {
        let Shape { batch, heads_kv, group, len_q, len_kv, head_dim } = self.0.new_tree(runner)?.current();
        // What is at least 1 counts from there.
        let numbers = [batch - 1, heads_kv - 1, group - 1, len_q, len_kv, head_dim / 8 - 1];
        Ok(ShapeValue(numbers.map(num::usize::BinarySearch::new), 0))
    }
}

impl prop::strategy::ValueTree for ShapeValue {
    type Value = Shape;

    fn current(&self) -> Shape {
        let [batch, heads_kv, group, len_q, len_kv, head_dim] = self.0.map(|number| number.current());
        let from_1 = |number| number + 1;
        Shape {
            batch: from_1(batch),
            heads_kv: from_1(heads_kv),
            group: from_1(group),
            len_q,
            len_kv,
            head_dim: 8 * from_1(head_dim),
        }
    }

    fn simplify(&mut self) -> bool {
        while let Some(number) = self.0.get_mut(self.1) {
            if number.simplify() {
                return true;
            }
            self.1 += 1;
        }
        false
    }

    fn complicate(&mut self) -> bool {
        self.0.get_mut(self.1).is_some_and(prop::strategy::ValueTree::complicate)
    }
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
                    ("many sequences", problem.batch() > 3),
                    ("groups that are no power of two", !(problem.heads_q() / problem.heads_kv()).is_power_of_two()),
                    ("more than 4096 keys", len_kv > 4096),
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
            // One tile there always is, however wide; and shapes beyond the ordinary have few rows of it.
            assert!(rows * problem.len_kv() * problem.head_dim() <= 6 * Size::Small.products(), "{problem}");
        }
    }

    /// What makes a row with vast logits slow is bounded, and each edge that it may fail at is still met.
    #[test]
    fn vast_logits_stay_cheap_and_meet_their_edges() {
        let cases = sample(Size::Small, 8000).into_iter().filter(|case| case.regime == Regime::VastLogits);
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for Case { problem, .. } in cases {
            let (len_q, len_kv) = (problem.len_q(), problem.len_kv());
            let rows = problem.batch() * problem.heads_q() * len_q;
            assert!(rows * len_kv * problem.head_dim() <= EXACT_PRODUCTS, "{problem}");
            for (what, is) in [
                ("more than 4096 keys", len_kv > 4096),
                ("three-stage kernels", len_kv >= LONG),
                (
                    "three tiles of 64 keys and a ragged end, for several rows",
                    len_kv > 192 && len_kv % 64 != 0 && rows > 4,
                ),
                ("several query tiles", len_q > 64),
                ("every row of two warps", len_q > 32),
                ("rows without keys", problem.mask() == Mask::Causal && len_q > len_kv),
                ("no keys", len_kv == 0),
                ("grouped queries", problem.heads_q() > problem.heads_kv()),
                ("several sequences", problem.batch() > 1),
                ("many sequences", problem.batch() > 3),
                ("groups that are no power of two", !(problem.heads_q() / problem.heads_kv()).is_power_of_two()),
                ("wide", problem.head_dim() == 128),
                ("bf16", problem.dtype() == Dtype::Bf16),
            ] {
                *counts.entry(what).or_default() += usize::from(is);
            }
        }
        for (what, count) in counts {
            assert!(count >= 8, "{what}: {count} of 8000 cases with any logits");
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
