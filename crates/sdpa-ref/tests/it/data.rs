//! Deterministic inputs in many regimes.

use sdpa_core::{ElementType, Operand, Problem};
use sdpa_ref::Inputs;

/// splitmix64: a few lines, and the same numbers everywhere.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in (0, 1).
    pub(crate) fn uniform(&mut self) -> f64 {
        ((self.bits() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    /// N(0, 1).
    pub(crate) fn normal(&mut self) -> f64 {
        (-2.0 * self.uniform().ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.bits() % limit as u64) as usize
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// What the numbers look like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Regime {
    Normal,
    Uniform,
    Peaked,
    Ascending,
    Descending,
    OneHot,
    SmallIntegers,
    ConstantValue,
    Offset,
    Outliers,
    Extreme,
    Beyond,
    SameQueries,
    ZeroQueries,
    Tiny,
    Largest,
}

impl Regime {
    pub(crate) const ALL: [Self; 16] = [
        Self::Normal,
        Self::Uniform,
        Self::Peaked,
        Self::Ascending,
        Self::Descending,
        Self::OneHot,
        Self::SmallIntegers,
        Self::ConstantValue,
        Self::Offset,
        Self::Outliers,
        Self::Extreme,
        Self::Beyond,
        Self::SameQueries,
        Self::ZeroQueries,
        Self::Tiny,
        Self::Largest,
    ];

    fn element(self, operand: Operand, row: usize, column: usize, problem: &Problem, random: &mut Random) -> f64 {
        let normal = random.normal();
        let (query, key, value) = (operand == Operand::Query, operand == Operand::Key, operand == Operand::Value);
        // q·k·scale of two vectors of N(0, 1) is about N(0, 1); both factors share a wanted size.
        let ramp = |rows: usize| row as f64 / rows.max(1) as f64;
        match self {
            Self::Uniform => random.uniform(),
            Self::Peaked if query => 8.0 * normal,
            Self::Ascending | Self::Descending if !value && column == 0 => {
                let up = if self == Self::Ascending { 1.0 } else { -1.0 };
                if query { (problem.head_dim() as f64).sqrt() } else { up * 20.0 * ramp(problem.len_kv()) }
            }
            Self::OneHot if query => {
                if column == row % problem.head_dim() {
                    30.0
                } else {
                    0.0
                }
            }
            Self::OneHot if key => {
                if column == row % problem.head_dim() {
                    4.0
                } else {
                    0.0
                }
            }
            Self::SmallIntegers => random.pick(&[0.0, 0.0, 0.0, 1.0, -1.0, 2.0]),
            Self::ConstantValue if value => 0.7,
            Self::Offset if value => 100.0 + normal,
            Self::Offset if key => 5.0 + normal,
            Self::Outliers if random.below(1000) == 0 => 10.0 * random.normal(),
            Self::Extreme if !value => 300.0 * normal,
            Self::Beyond if !value => 5000.0 * normal,
            Self::SameQueries if query => (((column * 37) % 19) as f64 - 9.0) / 5.0,
            Self::ZeroQueries if query => 0.0,
            Self::Tiny => normal * if query { 1e4 } else { 1e-6 },
            Self::Largest if value => 65504.0,
            _ => normal,
        }
    }
}

/// The three inputs, strided as the problem says.
pub(crate) struct Data {
    pub(crate) query: Vec<u16>,
    pub(crate) key: Vec<u16>,
    pub(crate) value: Vec<u16>,
}

impl Data {
    pub(crate) fn new(problem: &Problem, regime: Regime, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut make = |operand| {
            fill(problem, operand, |[_, _, row, column]| regime.element(operand, row, column, problem, &mut random))
        };
        Self { query: make(Operand::Query), key: make(Operand::Key), value: make(Operand::Value) }
    }

    pub(crate) fn inputs(&self) -> Inputs<'_> {
        Inputs { query: &self.query, key: &self.key, value: &self.value, ..Inputs::default() }
    }
}

/// Element bits of an operand from a function of `[batch, head, row, column]`; gaps between rows hold NaN.
pub(crate) fn fill(problem: &Problem, operand: Operand, element: impl FnMut([usize; 4]) -> f64) -> Vec<u16> {
    fill_as(ElementType::Dtype(problem.dtype()), problem, operand, element)
}

/// The same in the type that the operand is stored in.
pub(crate) fn fill_stored(problem: &Problem, operand: Operand, element: impl FnMut([usize; 4]) -> f64) -> Vec<u16> {
    fill_as(problem.element(operand), problem, operand, element)
}

fn fill_as(
    dtype: ElementType,
    problem: &Problem,
    operand: Operand,
    mut element: impl FnMut([usize; 4]) -> f64,
) -> Vec<u16> {
    let mut bits = vec![dtype.encode(f64::NAN); problem.span(operand)];
    let [batches, heads, rows, columns] = problem.shape(operand);
    for batch in 0..batches {
        for head in 0..heads {
            for row in 0..rows {
                let start = problem.row_offset(operand, batch, head, row);
                for column in 0..columns {
                    bits[start + column] = dtype.encode(element([batch, head, row, column]));
                }
            }
        }
    }
    bits
}
