//! What the numbers in a problem look like. Each regime goes where a kind of kernel bug shows.

use std::fmt;
use std::str::FromStr;

use rayon::prelude::*;
use sdpa_core::{KvScales, KvStorage, Operand, Packing, PageTable, Paging, Problem, Sequence};
use sdpa_ref::{ExtensionInputs, Inputs};

use crate::random::Random;

/// Bits of the elements between the rows of a strided input: NaN in f16, in bf16 and, of which the lower half counts, in e4m3, so that a kernel which reads
/// what is not its own shows it in the output.
pub const GAP: u16 = 0x7fff;

/// Element bits of the three inputs, each strided as its problem says, and what extensions read. An element in 8 bits has a number
/// of its own, in whose lower half it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Data {
    /// Q, [`Problem::span`] elements.
    pub query: Vec<u16>,
    /// K.
    pub key: Vec<u16>,
    /// V.
    pub value: Vec<u16>,
    /// What the problem's extensions read.
    pub extension: ExtensionData,
}

/// What the extensions of a problem read; empty where it does not ask for them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExtensionData {
    /// Where each packed sequence's queries begin and the last one's end.
    pub cu_seqlens_q: Vec<u32>,
    /// The same of the keys.
    pub cu_seqlens_k: Vec<u32>,
    /// Keys that each sequence uses, of a dense batch or with keys in pages.
    pub key_lengths: Vec<u32>,
    /// Of each query head.
    pub sinks: Vec<f32>,
    /// Of each query head.
    pub slopes: Vec<f32>,
    /// The pages of each sequence; [`NO_PAGE`] behind its last one.
    pub block_table: Vec<u32>,
    /// Where each sequence's pages begin in lists of them, and the last one's end.
    pub page_starts: Vec<u32>,
    /// What keys in e4m3 are multiplied by: one, or one of each key head.
    pub key_scale: Vec<f32>,
    /// The same of values.
    pub value_scale: Vec<f32>,
}

/// What follows a sequence's last page in its row of the table: no page of any cache.
pub const NO_PAGE: u32 = 0x7fff_ffff;

impl ExtensionData {
    /// Draws them: lengths that add up to the problem's totals, some of them 0 or the longest; key lengths are those given, if
    /// there are any.
    pub(crate) fn generate(problem: &Problem, seed: u64, key_lengths: Option<&[usize]>) -> Self {
        let mut random = Random::new(seed, &[0x6578_7465_6e64]);
        let mut drawn = Self::default();
        if let Some(Packing { sequences, longest_q, longest_kv }) = problem.packing() {
            let is_self_attention = longest_q == longest_kv && problem.len_q() == problem.len_kv();
            let queries = lengths(&mut random, sequences, longest_q, problem.len_q());
            drawn.cu_seqlens_q = cumulative(&queries);
            if problem.paging().is_none() {
                let keys = match is_self_attention {
                    true => queries,
                    false => lengths(&mut random, sequences, longest_kv, problem.len_kv()),
                };
                drawn.cu_seqlens_k = cumulative(&keys);
            }
        }
        if problem.key_lengths() {
            let most = problem.len_kv();
            let length = |_| match (random.below(4), problem.paging()) {
                (0, _) => most,
                // At a page's end, or one key behind it.
                (1, Some(Paging { page, .. })) => (random.below(most / page + 1) * page + random.below(2)).min(most),
                _ => random.below(most + 1),
            };
            drawn.key_lengths = (0..problem.sequence_count()).map(length).map(|length| length as u32).collect();
            if let Some(given) = key_lengths {
                drawn.key_lengths = given.iter().map(|length| *length as u32).collect();
            }
        }
        if let Some(paging) = problem.paging() {
            drawn.draw_pages(&mut random, problem, paging);
        }
        let heads = problem.heads_q();
        if problem.sinks() {
            let sink = |_| if random.chance(0.1) { f32::NEG_INFINITY } else { (2.0 * random.normal()) as f32 };
            drawn.sinks = (0..heads).map(sink).collect();
        }
        if problem.slopes() {
            // Those that models use, 2^-8/n, 2^-16/n, …, and now and then none.
            let slope = |head: usize| 2f64.powf(-8.0 * (head + 1) as f64 / heads as f64);
            let slope = |head| if random.chance(0.1) { 0.0 } else { slope(head) as f32 };
            drawn.slopes = (0..heads).map(slope).collect();
        }
        drawn
    }

    /// The table for the lengths drawn: pages in no order, each used once as long as there are enough, but for sequences that
    /// begin as another one does.
    fn draw_pages(&mut self, random: &mut Random, problem: &Problem, paging: Paging) {
        let mut free: Vec<u32> = (0..paging.pages as u32).collect();
        for last in (1..free.len()).rev() {
            free.swap(last, random.below(last + 1));
        }
        let mut free = free.into_iter().cycle();
        let mut rows: Vec<Vec<u32>> = Vec::new();
        for length in &self.key_lengths {
            let pages = paging.pages_of(*length as usize);
            let mut row: Vec<u32> = match rows.len() {
                0 => Vec::new(),
                others if random.chance(0.2) => rows[random.below(others)].iter().copied().take(pages).collect(),
                _ => Vec::new(),
            };
            row.extend(free.by_ref().take(pages - row.len()));
            rows.push(row);
        }
        match paging.table {
            PageTable::Rows { width } => {
                self.block_table = vec![NO_PAGE; paging.entries(rows.len(), problem.len_kv())];
                for (sequence, row) in rows.iter().enumerate() {
                    self.block_table[sequence * width..][..row.len()].copy_from_slice(row);
                }
            }
            PageTable::Lists { entries } => {
                self.page_starts = cumulative(&rows.iter().map(Vec::len).collect::<Vec<_>>());
                self.block_table = rows.concat();
                self.block_table.resize(entries.max(self.block_table.len()), NO_PAGE);
            }
        }
    }

    /// The page and the row in it of a key of a sequence.
    pub(crate) fn place(&self, paging: Paging, sequence: usize, key: usize) -> [usize; 2] {
        let start = match paging.table {
            PageTable::Rows { width } => sequence * width,
            PageTable::Lists { .. } => self.page_starts[sequence] as usize,
        };
        [self.block_table[start + key / paging.page] as usize, key % paging.page]
    }

    /// As the oracle takes them.
    pub fn inputs(&self) -> ExtensionInputs<'_> {
        ExtensionInputs {
            cu_seqlens_q: &self.cu_seqlens_q,
            cu_seqlens_k: &self.cu_seqlens_k,
            key_lengths: &self.key_lengths,
            sinks: &self.sinks,
            slopes: &self.slopes,
            block_table: &self.block_table,
            page_starts: &self.page_starts,
            key_scale: &self.key_scale,
            value_scale: &self.value_scale,
        }
    }

    /// The sequences of a batch's tensors, in their order.
    pub fn sequences(&self, problem: &Problem, batch: usize) -> Vec<Sequence> {
        self.inputs().sequences(problem, batch)
    }
}

/// Lengths of at most `longest` that add up to `total`.
fn lengths(random: &mut Random, sequences: usize, longest: usize, total: usize) -> Vec<usize> {
    let mut left = total;
    let mut lengths: Vec<usize> = (0..sequences)
        .map(|index| {
            // What the others can take at most is the least for this one.
            let least = left.saturating_sub(longest * (sequences - 1 - index));
            let most = longest.min(left);
            let length = match random.below(4) {
                0 => least,
                1 if index == 0 => most,
                _ => least + random.below(most - least + 1),
            };
            left -= length;
            length
        })
        .collect();
    for index in (1..lengths.len()).rev() {
        lengths.swap(index, random.below(index + 1));
    }
    lengths
}

/// Where each of these lengths begins, and the end.
pub(crate) fn cumulative(lengths: &[usize]) -> Vec<u32> {
    let mut end = 0;
    let ends = lengths.iter().map(|length| {
        end += *length as u32;
        end
    });
    std::iter::once(0).chain(ends).collect()
}

impl Data {
    /// The inputs as the oracle takes them.
    pub fn inputs(&self) -> Inputs<'_> {
        Inputs { query: &self.query, key: &self.key, value: &self.value, extension: self.extension.inputs() }
    }

    /// The bits of one input.
    ///
    /// # Panics
    /// For the output, which is no input.
    pub fn operand_mut(&mut self, operand: Operand) -> &mut Vec<u16> {
        match operand {
            Operand::Query => &mut self.query,
            Operand::Key => &mut self.key,
            Operand::Value => &mut self.value,
            Operand::Output => panic!("the output is no input"),
        }
    }

    /// The row `[batch, head, position]` of an input.
    pub fn row_mut(&mut self, problem: &Problem, operand: Operand, row: [usize; 3]) -> &mut [u16] {
        let start = problem.row_offset(operand, row[0], row[1], row[2]);
        &mut self.operand_mut(operand)[start..start + problem.width(operand)]
    }

    /// The exact values of that row: what is stored, times its scale.
    pub fn values(&mut self, problem: &Problem, operand: Operand, row: [usize; 3]) -> Vec<f64> {
        let scale = f64::from(self.extension.inputs().scale(problem, operand, row[1]));
        let element = problem.element(operand);
        self.row_mut(problem, operand, row).iter().map(|bits| element.decode(*bits) * scale).collect()
    }
}

/// How the values of Q, K and V are drawn. `N` is a fresh standard normal number, a *logit* is `scale · q·k`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Regime {
    /// Q, K, V = N: logits of standard deviation 1 at the default scale.
    Normal,
    /// Q = 8·N: logits of standard deviation 8, so that a few keys of each row have all the weight.
    Peaked,
    /// The logit of key j is about j/8: every key is the largest so far, so that every tile rescales what was summed.
    Ascending,
    /// Key j is the unit vector j mod head_dim and each query asks for one of them with a logit of 12: a row or a
    /// column mistaken for another picks another value.
    OneHot,
    /// Whole numbers from −2 to 2, three in four of them 0: every product and every score is exact.
    Integers,
    /// V is the same for every key of a head, so the output is V whatever the weights are.
    ConstantValues,
    /// K = N + 30 and V = N + 1000: softmax forgets what all keys share, and rounding must not.
    Offset,
    /// N(0, 1) + N(0, 100)·Bernoulli(0.001) (means and variances), what activations of language models look like.
    Outliers,
    /// Logits of magnitude 10⁵: one key has all the weight, and exp of anything not shifted overflows.
    HugeLogits,
    /// Q, K of up to half of what f16 holds, N(0, 16000²): the rounding error of a logit is beyond the range of f16.
    VastLogits,
}

impl Regime {
    /// All, the plainest first.
    pub const ALL: [Self; 10] = [
        Self::Normal,
        Self::Peaked,
        Self::Ascending,
        Self::OneHot,
        Self::Integers,
        Self::ConstantValues,
        Self::Offset,
        Self::Outliers,
        Self::HugeLogits,
        Self::VastLogits,
    ];

    /// Name, as in the text of a case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Peaked => "peaked",
            Self::Ascending => "ascending",
            Self::OneHot => "one-hot",
            Self::Integers => "integers",
            Self::ConstantValues => "constant-values",
            Self::Offset => "offset",
            Self::Outliers => "outliers",
            Self::HugeLogits => "huge-logits",
            Self::VastLogits => "vast-logits",
        }
    }

    /// Draws Q, K and V. A row depends on the seed, its operand, batch, head and position, and on no length and no
    /// stride: the same problem in another layout holds the same numbers. Elements between rows are [`GAP`].
    pub fn generate(self, problem: &Problem, seed: u64) -> Data {
        self.generate_with(problem, seed, None)
    }

    /// The same with these key lengths.
    pub(crate) fn generate_with(self, problem: &Problem, seed: u64, key_lengths: Option<&[usize]>) -> Data {
        let mut extension = ExtensionData::generate(problem, seed, key_lengths);
        self.draw_scales(problem, seed, &mut extension);
        let operand = |operand| match problem.paging() {
            Some(paging) if operand != Operand::Query => self.pages(problem, paging, seed, operand, &extension),
            _ => self.operand(problem, seed, operand, &extension),
        };
        Data { query: operand(Operand::Query), key: operand(Operand::Key), value: operand(Operand::Value), extension }
    }

    /// What keys and values in e4m3 are multiplied by: such that the regime's largest numbers are near the type's largest, up
    /// to three steps of the exponent below it, or one beyond, where they saturate. A head's scale depends on the seed, the
    /// operand and the head.
    pub(crate) fn draw_scales(self, problem: &Problem, seed: u64, drawn: &mut ExtensionData) {
        let count = match problem.kv_storage() {
            KvStorage::Dtype => return,
            KvStorage::E4m3(KvScales::Tensor) => 1,
            KvStorage::E4m3(KvScales::Head) => problem.heads_kv(),
        };
        let scales = |operand| -> Vec<f32> {
            let scale = |head| {
                let mut random = Random::new(seed, &[0x7363_616c_6573, operand as u64, head as u64]);
                match self {
                    // Powers of two, so that whole numbers stay exact.
                    Self::Integers => 2f32.powi(random.below(7) as i32 - 3),
                    _ => {
                        let steps = random.below(4000) as f64 / 1000.0 - 1.0;
                        (self.largest(problem, operand) / 448.0 * steps.exp2()) as f32
                    }
                }
            };
            (0..count).map(scale).collect()
        };
        (drawn.key_scale, drawn.value_scale) = (scales(Operand::Key), scales(Operand::Value));
    }

    /// About the largest magnitude that keys or values have.
    fn largest(self, problem: &Problem, operand: Operand) -> f64 {
        match (self, operand) {
            (Self::Ascending, Operand::Key) => 512.0,
            (Self::OneHot, Operand::Key) => 1.0,
            (Self::Offset, Operand::Key) => 34.0,
            (Self::Offset, Operand::Value) => 1004.0,
            (Self::Outliers, _) => 30.0,
            (Self::HugeLogits, Operand::Key) => 4.0 * huge_deviation(problem, operand),
            (Self::VastLogits, Operand::Key) => 32_752.0,
            _ => 4.0,
        }
    }

    /// The rows of the same problem without pages, put where the table says. What no sequence uses is [`GAP`].
    fn pages(
        self,
        problem: &Problem,
        paging: Paging,
        seed: u64,
        operand: Operand,
        extension: &ExtensionData,
    ) -> Vec<u16> {
        let mut bits = vec![GAP; problem.span(operand)];
        let contiguous = problem.unpaged(&extension.key_lengths).expect("lengths were drawn for the problem");
        let drawn = self.operand(&contiguous, seed, operand, extension);
        let packed = problem.packing().is_some();
        let (mut first, width) = (0, problem.width(operand));
        for (sequence, length) in extension.key_lengths.iter().enumerate() {
            for (key, head) in
                (0..*length as usize).flat_map(|key| (0..problem.heads_kv()).map(move |head| (key, head)))
            {
                let [page, row] = extension.place(paging, sequence, key);
                let from = match packed {
                    true => contiguous.row_offset(operand, 0, head, first + key),
                    false => contiguous.row_offset(operand, sequence, head, key),
                };
                let to = problem.row_offset(operand, page, head, row);
                bits[to..to + width].copy_from_slice(&drawn[from..from + width]);
            }
            first += *length as usize;
        }
        bits
    }

    fn operand(self, problem: &Problem, seed: u64, operand: Operand, extension: &ExtensionData) -> Vec<u16> {
        let mut bits = vec![GAP; problem.span(operand)];
        let [batches, heads, length, width] = problem.shape(operand);
        let head = |(batch, head): (usize, usize)| {
            let row = |position| {
                let stream = [operand as u64, batch as u64, head as u64, position as u64];
                self.row(problem, seed, operand, stream)
            };
            let scale = f64::from(extension.inputs().scale(problem, operand, head));
            (0..length).flat_map(row).map(|value| problem.element(operand).encode(value / scale)).collect::<Vec<u16>>()
        };
        let all: Vec<(usize, usize)> =
            (0..batches).flat_map(|batch| (0..heads).map(move |head| (batch, head))).collect();
        // Drawn on every core, some heads at a time: rows may lie anywhere, so they are placed one after another.
        for some in all.chunks(64) {
            let drawn: Vec<Vec<u16>> = some.par_iter().map(|at| head(*at)).collect();
            for (&(batch, head), elements) in some.iter().zip(drawn) {
                for (position, row) in elements.chunks_exact(width).enumerate() {
                    let start = problem.row_offset(operand, batch, head, position);
                    bits[start..start + width].copy_from_slice(row);
                }
            }
        }
        bits
    }

    /// The values of one row.
    fn row(self, problem: &Problem, seed: u64, operand: Operand, stream: [u64; 4]) -> Vec<f64> {
        let width = problem.width(operand);
        let scale = f64::from(problem.scale());
        let mut random = Random::new(seed, &stream);
        let mut normals = |mean: f64, deviation: f64| -> Vec<f64> {
            (0..width).map(|_| mean + deviation * random.normal()).collect()
        };
        match (self, operand) {
            (Self::Peaked, Operand::Query) => normals(0.0, 8.0),
            (Self::Ascending, Operand::Query) => {
                let mut row = normals(0.0, 0.1);
                row[0] = query_for_unit_logit(scale);
                row
            }
            (Self::Ascending, Operand::Key) => {
                let mut row = normals(0.0, 0.1);
                row[0] = stream[3] as f64 / 8.0;
                row
            }
            (Self::OneHot, Operand::Query) => unit(width, random.below(width), 12.0 * query_for_unit_logit(scale)),
            (Self::OneHot, Operand::Key) => unit(width, stream[3] as usize % width, 1.0),
            (Self::Integers, _) => {
                (0..width).map(|_| [-2.0, -1.0, 1.0, 2.0].get(random.below(16)).copied().unwrap_or(0.0)).collect()
            }
            (Self::ConstantValues, Operand::Value) => {
                let mut shared = Random::new(seed, &stream[..3]);
                (0..width).map(|_| shared.normal()).collect()
            }
            (Self::Offset, Operand::Key) => normals(30.0, 1.0),
            (Self::Offset, Operand::Value) => normals(1000.0, 1.0),
            (Self::Outliers, _) => (0..width)
                .map(|_| random.normal() + if random.chance(0.001) { 10.0 * random.normal() } else { 0.0 })
                .collect(),
            (Self::HugeLogits, Operand::Query | Operand::Key) => normals(0.0, huge_deviation(problem, operand)),
            (Self::VastLogits, Operand::Query | Operand::Key) => {
                normals(0.0, 16_000.0).into_iter().map(|x| x.clamp(-32_752.0, 32_752.0)).collect()
            }
            _ => normals(0.0, 1.0),
        }
    }
}

/// The standard deviation of queries and keys for logits of magnitude 10⁵, which is deviation²·√head_dim. Beyond 4000 f16 would run
/// out of range.
fn huge_deviation(problem: &Problem, operand: Operand) -> f64 {
    let score = 1e5 / f64::from(problem.scale()).abs().max(f64::MIN_POSITIVE);
    (score / (problem.width(operand) as f64).sqrt()).sqrt().min(4000.0)
}

/// What a query's element must be for a logit of 1 where the key has 1, with f16's range in mind.
fn query_for_unit_logit(scale: f64) -> f64 {
    if scale == 0.0 { 1.0 } else { (1.0 / scale).clamp(-1000.0, 1000.0) }
}

fn unit(length: usize, index: usize, value: f64) -> Vec<f64> {
    let mut row = vec![0.0; length];
    row[index] = value;
    row
}

impl fmt::Display for Regime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Regime {
    type Err = UnknownRegime;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|regime| regime.name() == name)
            .ok_or_else(|| UnknownRegime { found: name.to_owned() })
    }
}

/// No regime has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no value regime {found:?}; there are {}", Regime::ALL.map(Regime::name).join(", "))]
pub struct UnknownRegime {
    /// What was asked for.
    pub found: String,
}
