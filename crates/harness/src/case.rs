//! One test case: everything that decides what a kernel is fed, in one line that can be pasted.

use std::fmt;
use std::str::FromStr;

use sdpa_core::{
    Dtype, KvScales, KvStorage, Layout, Mask, Operand, Packing, PageTable, Paging, Problem, ProblemBuilder,
    ProblemError, Strides, Window,
};

use crate::far::near;
use crate::regime::{Data, ExtensionData, Regime, UnknownRegime, cumulative};

/// A problem, the numbers in it, and the order in which the interpreter runs it.
///
/// Its text holds all of it and reads back:
/// `b1 h4/2 q17 kv129 d40 f16 causal blhd scale=0.125 peaked seed=7 schedule=3`.
/// What is left out is the default: one sequence, one head, full mask, `bhld`, scale 1/√d, `normal`, seeds 0, and lengths of packed
/// sequences that the seed draws. `lengths=32x512,7` are 512 sequences of 32 and one of 7, queries and keys alike; of a problem
/// with key lengths they are these.
/// `pages=16,40,3` are pages of 16 keys, of which there are 40, and a table 3 entries wide; `pages=16` has as many and as
/// wide as the sequences need. `page-lists=16,40,50` are lists of pages, of 50 entries together. `value_dim=128` says how wide
/// values are, if not as keys; `kv=e4m3` and `kv=e4m3-per-head` how keys and values are stored, if not in the dtype.
#[derive(Clone, PartialEq)]
pub struct Case {
    /// What to attend over.
    pub problem: Problem,
    /// Lengths of the packed sequences, queries and keys alike, or of a problem with key lengths these; the seed draws them where
    /// none are given. They count only where they fit the problem.
    pub lengths: Option<Vec<usize>>,
    /// What the numbers look like.
    pub regime: Regime,
    /// Which numbers of that kind.
    pub seed: u64,
    /// In which order the interpreter runs warps and completes copies; a GPU chooses its own.
    pub schedule: u64,
}

impl Case {
    /// A problem with normal numbers.
    pub fn new(problem: Problem) -> Self {
        Self { problem, lengths: None, regime: Regime::Normal, seed: 0, schedule: 0 }
    }

    /// A problem of packed sequences of these lengths, queries and keys alike, with normal numbers.
    ///
    /// # Errors
    /// [`CaseError::Lengths`] where the problem is not packed, or packed otherwise.
    pub fn of_lengths(problem: Problem, lengths: Vec<usize>) -> Result<Self, CaseError> {
        match lengths_fit(&problem, &lengths) {
            true => Ok(Self { lengths: Some(lengths), ..Self::new(problem) }),
            false if problem.key_lengths() => Err(CaseError::KeyLengths {
                found: lengths.len(),
                longest: lengths.iter().copied().max().unwrap_or(0),
                problem: problem.to_string(),
            }),
            false => Err(CaseError::Lengths {
                sequences: lengths.len(),
                total: lengths.iter().fold(0, |total, length| total.saturating_add(*length)),
                longest: lengths.iter().copied().max().unwrap_or(0),
                problem: problem.to_string(),
            }),
        }
    }

    /// The numbers, as they lie in [`near`]'s problem.
    pub fn data(&self) -> Data {
        let mut data = self.regime.generate_with(&near(&self.problem), self.seed, self.key_lengths());
        self.give_lengths(&mut data.extension);
        data
    }

    /// What the problem's extensions read: of [`data`](Self::data), without drawing the rest.
    pub fn extension_data(&self) -> ExtensionData {
        let mut drawn = ExtensionData::generate(&self.problem, self.seed, self.key_lengths());
        self.regime.draw_scales(&self.problem, self.seed, &mut drawn);
        self.give_lengths(&mut drawn);
        drawn
    }

    /// The lengths given, if they are of keys alone.
    fn key_lengths(&self) -> Option<&[usize]> {
        let lengths =
            self.lengths.as_ref().filter(|lengths| self.problem.key_lengths() && lengths_fit(&self.problem, lengths));
        lengths.map(Vec::as_slice)
    }

    fn give_lengths(&self, drawn: &mut ExtensionData) {
        let packed = self.lengths.as_ref().filter(|_| !self.problem.key_lengths());
        if let Some(lengths) = packed.filter(|lengths| lengths_fit(&self.problem, lengths)) {
            drawn.cu_seqlens_q = cumulative(lengths);
            drawn.cu_seqlens_k = drawn.cu_seqlens_q.clone();
        }
    }

    /// The words that say what the problem asks for beyond dense attention, lengths among them: `packed=2,7,7 lengths=7,3`.
    /// Empty for dense attention over keys and values of the dtype, equally wide.
    pub fn extensions(&self) -> String {
        let (all, dense) = (self.problem.to_string(), self.problem.to_dense().to_string());
        // A problem's text ends with its extensions, the width and the storage of its values first, which are dense, too.
        let first = DENSE_EXTENSIONS.iter().filter_map(|word| dense.find(word)).min();
        let dense = &dense[..first.unwrap_or(dense.len())];
        let mut words = all.strip_prefix(dense).unwrap_or(&all).trim_start().to_owned();
        if let Some(lengths) = &self.lengths {
            let separator = if words.is_empty() { "" } else { " " };
            words += &format!("{separator}lengths={}", Runs(lengths));
        }
        words
    }

    /// Floating-point operations of a pass, by [`Problem::flops`]' convention: each sequence counts with its own lengths.
    pub fn flops(&self) -> f64 {
        let problem = &self.problem;
        if problem.packing().is_none() && !problem.key_lengths() {
            return problem.flops();
        }
        let drawn = self.extension_data();
        let sequences = (0..problem.batch()).flat_map(|batch| drawn.sequences(problem, batch));
        sequences.map(|sequence| problem.flops_of(&sequence)).sum()
    }

    /// The command that repeats this case for a generation.
    pub fn repeat_command(&self, generation: &str) -> String {
        format!("cargo run --release -- verify {generation} \"{self}\"")
    }
}

/// What a problem's text has in front of the width of its values, and of how they are stored.
const DENSE_EXTENSIONS: [&str; 2] = [" value_dim=", " kv="];

/// True if these are lengths of the problem's packed sequences, queries and keys alike, or its key lengths.
fn lengths_fit(problem: &Problem, lengths: &[usize]) -> bool {
    if problem.key_lengths() {
        let longest = lengths.iter().copied().max().unwrap_or(0);
        return lengths.len() == problem.sequence_count() && longest <= problem.len_kv();
    }
    let total = lengths.iter().fold(0_usize, |total, length| total.saturating_add(*length));
    let longest = lengths.iter().copied().max().unwrap_or(0);
    (problem.len_q(), problem.len_kv()) == (total, total)
        && problem.packing().is_some_and(|packing| {
            packing.sequences == lengths.len() && longest <= packing.longest_q && longest <= packing.longest_kv
        })
}

/// Numbers with commas; `32x512` is 512 times 32.
struct Runs<'a>(&'a [usize]);

impl fmt::Display for Runs<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, run) in self.0.chunk_by(PartialEq::eq).enumerate() {
            f.write_str(if index == 0 { "" } else { "," })?;
            write!(f, "{}", run[0])?;
            if run.len() > 1 {
                write!(f, "x{}", run.len())?;
            }
        }
        Ok(())
    }
}

/// As [`Display`](fmt::Display): a case is only ever read by people, who want the line that they can paste.
impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let problem = &self.problem;
        write!(f, "{problem}")?;
        if let Some(lengths) = &self.lengths {
            write!(f, " lengths={}", Runs(lengths))?;
        }
        let contiguous = |layout: Layout, operand| {
            let [_, heads, length, width] = problem.shape(operand);
            layout.strides(heads, length, width)
        };
        let all_are =
            |layout| Operand::ALL.iter().all(|operand| problem.strides(*operand) == contiguous(layout, *operand));
        if all_are(Layout::Bhld) {
            // The default.
        } else if all_are(Layout::Blhd) {
            f.write_str(" blhd")?;
        } else {
            for operand in Operand::ALL {
                let strides = problem.strides(operand);
                if strides != contiguous(Layout::Bhld, operand) {
                    write!(f, " {operand}={},{},{}", strides.batch, strides.head, strides.row)?;
                }
            }
        }
        if problem.scale() != default_scale(problem.head_dim()) {
            write!(f, " scale={}", problem.scale())?;
        }
        write!(f, " {} seed={}", self.regime, self.seed)?;
        if self.schedule != 0 {
            write!(f, " schedule={}", self.schedule)?;
        }
        Ok(())
    }
}

fn default_scale(head_dim: usize) -> f32 {
    1.0 / (head_dim as f32).sqrt()
}

/// Why a text is no case.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CaseError {
    /// A word that means nothing here.
    #[error("{word:?} is no part of a case; one looks like: {EXAMPLE}")]
    Word {
        /// The word.
        word: String,
    },
    /// A word whose number does not parse.
    #[error("{word:?} holds no number that fits; a case looks like: {EXAMPLE}")]
    Number {
        /// The word.
        word: String,
    },
    /// Two words that say the same thing, perhaps differently: which one counts is not for us to guess.
    #[error("{first:?} and {second:?} both say the {what}: leave one out; a case looks like: {EXAMPLE}")]
    Twice {
        /// What they say.
        what: &'static str,
        /// The first word.
        first: String,
        /// The second.
        second: String,
    },
    /// A case without lengths or head dimension.
    #[error("the case has no {what}; a case looks like: {EXAMPLE}")]
    Missing {
        /// What there should be.
        what: &'static str,
    },
    /// Lengths of other packed sequences than the problem's.
    #[error(
        "the case gives {sequences} lengths of at most {longest}, {total} in all: its problem ({problem}) must be packed, of \
         {sequences} sequences, with {total} queries and {total} keys, and a longest of at least {longest} on both sides"
    )]
    Lengths {
        /// How many lengths.
        sequences: usize,
        /// Their sum.
        total: usize,
        /// The longest.
        longest: usize,
        /// The problem.
        problem: String,
    },
    /// Other key lengths than the problem may have.
    #[error(
        "the case gives {found} key lengths of at most {longest}: its problem ({problem}) needs one for each sequence, none \
         above the number of keys"
    )]
    KeyLengths {
        /// How many lengths.
        found: usize,
        /// The longest.
        longest: usize,
        /// The problem.
        problem: String,
    },
    /// The parts are fine and do not make a problem.
    #[error(transparent)]
    Problem(#[from] ProblemError),
}

/// What every message about a bad case shows.
const EXAMPLE: &str = "b1 h4/2 q17 kv129 d40 f16 causal blhd scale=0.125 peaked seed=7 schedule=3";

impl FromStr for Case {
    type Err = CaseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = Parts::default();
        for word in text.split_whitespace() {
            parts.read(word)?;
        }
        parts.build()
    }
}

/// What has been read so far.
#[derive(Default)]
struct Parts {
    /// What has been said, and by which word.
    said: Vec<(&'static str, String)>,
    batch: Option<usize>,
    heads: Option<(usize, usize)>,
    len_q: Option<usize>,
    len_kv: Option<usize>,
    head_dim: Option<usize>,
    value_dim: Option<usize>,
    kv_storage: KvStorage,
    dtype: Option<Dtype>,
    mask: Option<Mask>,
    layout: Option<Layout>,
    strides: [Option<Strides>; 4],
    scale: Option<f32>,
    packing: Option<Packing>,
    lengths: Option<Vec<usize>>,
    window: Option<Window>,
    softcap: Option<f32>,
    /// Lists, and the numbers given.
    paging: Option<(bool, Vec<usize>)>,
    key_lengths: bool,
    sinks: bool,
    slopes: bool,
    regime: Option<Regime>,
    seed: u64,
    schedule: u64,
}

impl Parts {
    /// Notes that `word` says `what`, which no word before it has.
    fn say(&mut self, what: &'static str, word: &str) -> Result<(), CaseError> {
        if let Some((_, first)) = self.said.iter().find(|(said, _)| *said == what) {
            return Err(CaseError::Twice { what, first: first.clone(), second: word.to_owned() });
        }
        self.said.push((what, word.to_owned()));
        Ok(())
    }

    fn read(&mut self, word: &str) -> Result<(), CaseError> {
        if let Some((key, value)) = word.split_once('=') {
            return self.read_assignment(word, key, value);
        }
        match word {
            "f16" => self.dtype = Some(Dtype::F16),
            "bf16" => self.dtype = Some(Dtype::Bf16),
            "full" => self.mask = Some(Mask::Full),
            "causal" => self.mask = Some(Mask::Causal),
            "causal-top-left" => self.mask = Some(Mask::CausalTopLeft),
            "bhld" => self.layout = Some(Layout::Bhld),
            "blhd" => self.layout = Some(Layout::Blhd),
            "key-lengths" => self.key_lengths = true,
            "sinks" => self.sinks = true,
            "slopes" => self.slopes = true,
            _ => match word.parse::<Regime>() {
                Ok(regime) => self.regime = Some(regime),
                Err(UnknownRegime { .. }) => return self.read_size(word),
            },
        }
        let what = match word {
            "f16" | "bf16" => "element type",
            "full" | "causal" | "causal-top-left" => "mask",
            "bhld" | "blhd" => "layout",
            "key-lengths" => "use of key lengths",
            "sinks" => "use of sinks",
            "slopes" => "use of slopes",
            _ => "kind of numbers",
        };
        self.say(what, word)
    }

    fn read_assignment(&mut self, word: &str, key: &str, value: &str) -> Result<(), CaseError> {
        let what = match key {
            "scale" => {
                self.scale = Some(number(word, value)?);
                "scale"
            }
            "value_dim" => {
                self.value_dim = Some(number(word, value)?);
                "width of values"
            }
            "kv" => {
                let storages = [KvScales::Tensor, KvScales::Head].map(KvStorage::E4m3);
                let storage = storages.into_iter().find(|storage| storage.name() == Some(value));
                self.kv_storage = storage.ok_or_else(|| CaseError::Word { word: word.to_owned() })?;
                "storage of keys and values"
            }
            "softcap" => {
                self.softcap = Some(number(word, value)?);
                "soft cap"
            }
            "window" => {
                let side = |text: &str| if text == "all" { Ok(None) } else { number(word, text).map(Some) };
                let (left, right) = value.split_once(',').ok_or(CaseError::Number { word: word.to_owned() })?;
                self.window = Some(Window { left: side(left)?, right: side(right)? });
                "window"
            }
            "packed" => {
                let numbers: Vec<usize> = value.split(',').map(|text| number(word, text)).collect::<Result<_, _>>()?;
                let [sequences, longest_q, longest_kv] = numbers[..] else {
                    return Err(CaseError::Number { word: word.to_owned() });
                };
                self.packing = Some(Packing { sequences, longest_q, longest_kv });
                "packing"
            }
            "lengths" => {
                self.lengths = Some(runs(word, value)?);
                "lengths"
            }
            "pages" | "page-lists" => {
                let numbers: Vec<usize> = value.split(',').map(|text| number(word, text)).collect::<Result<_, _>>()?;
                if ![1, 3].contains(&numbers.len()) {
                    return Err(CaseError::Number { word: word.to_owned() });
                }
                self.paging = Some((key == "page-lists", numbers));
                "pages"
            }
            "seed" => {
                self.seed = number(word, value)?;
                "seed"
            }
            "schedule" => {
                self.schedule = number(word, value)?;
                "schedule"
            }
            _ => {
                let operand = Operand::ALL.into_iter().find(|operand| operand.name() == key);
                let operand = operand.ok_or_else(|| CaseError::Word { word: word.to_owned() })?;
                let mut numbers = value.split(',').map(|value| number::<i64>(word, value));
                let strides = match (numbers.next(), numbers.next(), numbers.next(), numbers.next()) {
                    (Some(batch), Some(head), Some(row), None) => Strides { batch: batch?, head: head?, row: row? },
                    _ => return Err(CaseError::Number { word: word.to_owned() }),
                };
                self.strides[operand as usize] = Some(strides);
                operand.name()
            }
        };
        self.say(what, word)
    }

    fn read_size(&mut self, word: &str) -> Result<(), CaseError> {
        let unknown = || CaseError::Word { word: word.to_owned() };
        let digits = word.find(|c: char| c.is_ascii_digit()).ok_or_else(unknown)?;
        let (name, value) = word.split_at(digits);
        let said: &[&'static str] = match name {
            "b" => {
                self.batch = Some(number(word, value)?);
                &["batch"]
            }
            "h" => {
                let (query, key) = value.split_once('/').unwrap_or((value, value));
                self.heads = Some((number(word, query)?, number(word, key)?));
                &["heads"]
            }
            "L" => {
                self.len_q = Some(number(word, value)?);
                self.len_kv = self.len_q;
                &["number of queries", "number of keys"]
            }
            "q" => {
                self.len_q = Some(number(word, value)?);
                &["number of queries"]
            }
            "kv" => {
                self.len_kv = Some(number(word, value)?);
                &["number of keys"]
            }
            "d" => {
                self.head_dim = Some(number(word, value)?);
                &["head dimension"]
            }
            _ => return Err(unknown()),
        };
        said.iter().try_for_each(|what| self.say(what, word))
    }

    fn build(self) -> Result<Case, CaseError> {
        let missing = |what| CaseError::Missing { what };
        let len_q = self.len_q.ok_or(missing("length (L… or q… kv…)"))?;
        let len_kv = self.len_kv.ok_or(missing("key length (L… or kv…)"))?;
        let head_dim = self.head_dim.ok_or(missing("head dimension (d…)"))?;
        let (heads_q, heads_kv) = self.heads.unwrap_or((1, 1));
        let start = match self.packing {
            Some(packing) => Problem::packed(packing, heads_q, len_q, head_dim),
            None => Problem::new(self.batch.unwrap_or(1), heads_q, len_q, head_dim),
        };
        if self.packing.is_some() && self.batch.is_some_and(|batch| batch != 1) {
            return Err(ProblemError::PackedBatch { batch: self.batch.unwrap_or(1) }.into());
        }
        let mut builder: ProblemBuilder = start
            .heads_kv(heads_kv)
            .len_kv(len_kv)
            .dtype(self.dtype.unwrap_or(Dtype::F16))
            .mask(self.mask.unwrap_or(Mask::Full))
            .kv_storage(self.kv_storage)
            .layout(self.layout.unwrap_or(Layout::Bhld));
        if let Some(elements) = self.value_dim {
            builder = builder.value_dim(elements);
        }
        if let Some(scale) = self.scale {
            builder = builder.scale(scale);
        }
        if let Some(window) = self.window {
            builder = builder.window(window);
        }
        if let Some(cap) = self.softcap {
            builder = builder.softcap(cap);
        }
        for (asked, ask) in [
            (self.key_lengths, ProblemBuilder::key_lengths as fn(ProblemBuilder) -> ProblemBuilder),
            (self.sinks, ProblemBuilder::sinks),
            (self.slopes, ProblemBuilder::slopes),
        ] {
            builder = if asked { ask(builder) } else { builder };
        }
        if let Some((lists, numbers)) = self.paging {
            let sequences = self.packing.map_or(self.batch.unwrap_or(1), |packing| packing.sequences);
            let (page, own) = (numbers[0], len_kv.div_ceil(numbers[0].max(1)));
            let all = own.saturating_mul(sequences);
            let [pages, entries] = match numbers[1..] {
                [pages, entries] => [pages, entries],
                _ => [all, if lists { all } else { own }],
            };
            let table = if lists { PageTable::Lists { entries } } else { PageTable::Rows { width: entries } };
            builder = builder.paged(Paging { page, pages, table });
        }
        for (operand, strides) in Operand::ALL.into_iter().zip(self.strides) {
            if let Some(strides) = strides {
                builder = builder.strides(operand, strides);
            }
        }
        let regime = self.regime.unwrap_or(Regime::Normal);
        let problem = builder.build()?;
        let case = match self.lengths {
            Some(lengths) => Case::of_lengths(problem, lengths)?,
            None => Case::new(problem),
        };
        Ok(Case { regime, seed: self.seed, schedule: self.schedule, ..case })
    }
}

/// Reads what [`Runs`] writes.
fn runs(word: &str, text: &str) -> Result<Vec<usize>, CaseError> {
    /// More sequences than this are a mistake, and must not take the memory.
    const MOST: usize = 1 << 20;
    let mut all = Vec::new();
    for run in text.split(',') {
        let (length, count) = run.split_once('x').unwrap_or((run, "1"));
        let (length, count): (usize, usize) = (number(word, length)?, number(word, count)?);
        if count == 0 || count > MOST - all.len() {
            return Err(CaseError::Number { word: word.to_owned() });
        }
        all.extend(std::iter::repeat_n(length, count));
    }
    Ok(all)
}

fn number<T: FromStr>(word: &str, text: &str) -> Result<T, CaseError> {
    text.parse().map_err(|_| CaseError::Number { word: word.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_reads_back() {
        let case: Case = EXAMPLE.parse().unwrap();
        assert_eq!(case.to_string(), EXAMPLE);
        assert_eq!((case.problem.heads_q(), case.problem.heads_kv()), (4, 2));
        assert_eq!((case.problem.len_q(), case.problem.len_kv(), case.problem.head_dim()), (17, 129, 40));
        assert_eq!((case.regime, case.seed, case.schedule), (Regime::Peaked, 7, 3));
    }

    #[test]
    fn extensions_read_back() {
        for text in [
            "b1 h4 q40 kv70 d64 f16 causal packed=5,17,30 window=63,all softcap=30 sinks slopes blhd normal seed=3",
            "b3 h2 L70 d64 bf16 full key-lengths window=0,12 normal seed=0",
            "b3 h4/2 q2 kv70 d64 bf16 causal key-lengths pages=16,40,6 normal seed=1",
            "b1 h4/2 q9 kv70 d64 bf16 causal packed=5,4,70 key-lengths page-lists=8,50,45 blhd normal seed=1",
            "b1 h4/2 L70 d64 bf16 causal packed=5,17,30 sinks lengths=17x3,2,17 blhd normal seed=3",
            "b1 h4/2 L70 d192 bf16 causal value_dim=128 normal seed=3",
            "b1 h4/2 L70 d64 f16 causal value_dim=96 packed=5,17,30 sinks blhd scale=0.5 normal seed=3",
            "b3 h4/2 q2 kv70 d64 bf16 causal kv=e4m3 key-lengths pages=16,40,6 normal seed=1",
            "b1 h4/2 L70 d64 f16 causal value_dim=96 kv=e4m3-per-head packed=5,17,30 sinks blhd scale=0.5 normal seed=3",
            "b1 h2 q9 kv70 d64 f16 full value_dim=8 value=1344,672,8 output=288,144,16 normal seed=3",
        ] {
            assert_eq!(text.parse::<Case>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn given_lengths_are_those_that_a_kernel_gets() {
        let case: Case = "h2 L42 d8 packed=4,30,30 lengths=5,0,30,7 sinks blhd".parse().unwrap();
        let data = case.data();
        assert_eq!(data.extension.cu_seqlens_q, [0, 5, 5, 35, 42]);
        assert_eq!(data.extension.cu_seqlens_k, data.extension.cu_seqlens_q);
        assert_eq!(case.extension_data(), data.extension);
        assert_eq!(case.extensions(), "packed=4,30,30 sinks lengths=5,0,30,7");
        // Drawn ones are others, and their figures must not be taken for these.
        let drawn = Case { lengths: None, ..case };
        assert_ne!(drawn.data().extension.cu_seqlens_q, data.extension.cu_seqlens_q);
        assert_eq!(drawn.extensions(), "packed=4,30,30 sinks");
        assert_eq!("L42 d8".parse::<Case>().unwrap().extensions(), "");
        let words = |line: &str| line.parse::<Case>().unwrap().extensions();
        assert_eq!(words("L42 d8 value_dim=16"), "value_dim=16");
        assert_eq!(words("L42 d8 kv=e4m3"), "kv=e4m3");
        assert_eq!(words("kv42 q3 d8 kv=e4m3-per-head sinks value_dim=16"), "value_dim=16 kv=e4m3-per-head sinks");
        assert_eq!(words("h2 L42 d8 packed=4,30,30 value_dim=16 sinks blhd"), "value_dim=16 packed=4,30,30 sinks");
    }

    #[test]
    fn given_key_lengths_decide_which_pages_there_are() {
        let case: Case = "b3 h2 q1 kv40 d8 pages=16 lengths=40,0,17 seed=2".parse().unwrap();
        let drawn = case.extension_data();
        assert_eq!((&drawn.key_lengths, &drawn), (&vec![40, 0, 17], &case.data().extension));
        let pages =
            drawn.block_table.chunks(3).map(|row| row.iter().filter(|page| **page != crate::regime::NO_PAGE).count());
        assert_eq!(pages.collect::<Vec<_>>(), [3, 0, 2]);
        assert_eq!(case.to_string().parse::<Case>().unwrap(), case);
        let error = "b3 h2 q1 kv40 d8 pages=16 lengths=40,0".parse::<Case>().unwrap_err().to_string();
        assert!(error.starts_with("the case gives 2 key lengths of at most 40: its problem"), "{error}");
    }

    #[test]
    fn operations_are_those_of_each_sequence() {
        let flops = |text: &str| text.parse::<Case>().unwrap().flops() / (4.0 * 2.0 * 8.0);
        assert_eq!(flops("h2 L42 d8 packed=4,30,30 lengths=5,0,30,7"), 25.0 + 900.0 + 49.0);
        assert_eq!(flops("h2 L42 d8 causal packed=4,30,30 lengths=5,0,30,7"), (25.0 + 900.0 + 49.0) / 2.0);
        // A window counts what it leaves: 1 + 2 + 3 · 3, and 1 + 2 + 3 · 28.
        assert_eq!(flops("h2 L35 d8 causal packed=2,30,30 window=2,all lengths=5,30"), 12.0 + 87.0);
        assert_eq!(flops("h2 L30 d8 causal window=2,all"), 87.0);
        assert_eq!(flops("h2 L5 d8 window=1,0"), 9.0);
        assert_eq!(flops("h2 L30 d8 causal"), 450.0);
        let used: Case = "b3 h2 L30 d8 key-lengths seed=4".parse().unwrap();
        let keys: u32 = used.extension_data().key_lengths.iter().sum();
        assert_eq!(used.flops(), 4.0 * 2.0 * 8.0 * 30.0 * f64::from(keys));
        // What is known without the lengths is no less.
        let packed: Case = "h2 L42 d8 packed=4,30,30 lengths=5,0,30,7".parse().unwrap();
        assert!(packed.problem.flops() >= packed.flops());
    }

    #[test]
    fn strides_of_one_operand_read_back() {
        let text = "b2 h2 L5 d8 bf16 full key=300,100,16 output=200,96,8 normal seed=0";
        assert_eq!(text.parse::<Case>().unwrap().to_string(), text);
    }

    #[test]
    fn bad_cases_say_what_is_wrong() {
        let error = |text: &str| text.parse::<Case>().unwrap_err().to_string();
        insta::assert_snapshot!(
            [
                error("b1 h1 L16"),
                error("L16 d64 f32"),
                error("L16 d64 seed=-1"),
                error("L16 d64 key=1,2"),
                error("L16 d64 h4/3"),
                error("L4 L5 d64"),
                error("L4 d64 kv5"),
                error("L4 d64 causal full"),
                error("L4 d64 key=1,2,3 key=1,2,3"),
                error("L4 d64 seed=1 seed=1"),
                error("L4 d64 h0"),
                error("L4 d64 packed=2,1,4"),
                error("b2 L4 d64 packed=2,4,4"),
                error("L4 d64 window=3"),
                error("L4 d64 softcap=0"),
                error("L4 d64 lengths=4"),
                error("L4 d64 kv=e5m2"),
                error("L4 d64 kv=e4m3 kv=e4m3"),
                error("L4 d64 packed=2,3,3 lengths=4,0"),
                error("L4 d64 packed=2,3,3 lengths=2,1"),
                error("L4 d64 packed=2,3,3 lengths=2x1000000000000"),
            ]
            .join("\n"),
            @r#"
        the case has no head dimension (d…); a case looks like: b1 h4/2 q17 kv129 d40 f16 causal blhd scale=0.125 peaked seed=7 schedule=3
        "f32" is no part of a case; one looks like: b1 h4/2 q17 kv129 d40 f16 causal blhd scale=0.125 peaked seed=7 schedule=3
        "seed=-1" holds no number that fits; a case looks like: b1 h4/2 q17 kv129 d40 f16 causal blhd scale=0.125 peaked seed=7 schedule=3
        "key=1,2" holds no number that fits; a case looks like: b1 h4/2 q17 kv129 d40 f16 causal blhd scale=0.125 peaked seed=7 schedule=3
        heads_q is 4 and heads_kv is 3: the query heads must be a multiple of the key heads
        "L4" and "L5" both say the number of queries: leave one out; a case looks like: b1 h4/2 q17 kv129 d40 f16 causal blhd scale=0.125 peaked seed=7 schedule=3
        "L4" and "kv5" both say the number of keys: leave one out; a case looks like: b1 h4/2 q17 kv129 d40 f16 causal blhd scale=0.125 peaked seed=7 schedule=3
        "causal" and "full" both say the mask: leave one out; a case looks like: b1 h4/2 q17 kv129 d40 f16 causal blhd scale=0.125 peaked seed=7 schedule=3
        "key=1,2,3" and "key=1,2,3" both say the key: leave one out; a case looks like: b1 h4/2 q17 kv129 d40 f16 causal blhd scale=0.125 peaked seed=7 schedule=3
        "seed=1" and "seed=1" both say the seed: leave one out; a case looks like: b1 h4/2 q17 kv129 d40 f16 causal blhd scale=0.125 peaked seed=7 schedule=3
        heads_q is 0: there must be at least one head
        2 packed sequences of at most 1 queries cannot have 4 in all: the longest is at most the total, and all of them at their longest at least the total
        packed sequences are one batch of their total length; this problem has 2 batches
        "window=3" holds no number that fits; a case looks like: b1 h4/2 q17 kv129 d40 f16 causal blhd scale=0.125 peaked seed=7 schedule=3
        softcap is 0e0: it must be above 0 and at most 2^20; leave it out for scores without a cap
        the case gives 1 lengths of at most 4, 4 in all: its problem (b1 h1 L4 d64 f16 full) must be packed, of 1 sequences, with 4 queries and 4 keys, and a longest of at least 4 on both sides
        "kv=e5m2" is no part of a case; one looks like: b1 h4/2 q17 kv129 d40 f16 causal blhd scale=0.125 peaked seed=7 schedule=3
        "kv=e4m3" and "kv=e4m3" both say the storage of keys and values: leave one out; a case looks like: b1 h4/2 q17 kv129 d40 f16 causal blhd scale=0.125 peaked seed=7 schedule=3
        the case gives 2 lengths of at most 4, 4 in all: its problem (b1 h1 L4 d64 f16 full packed=2,3,3) must be packed, of 2 sequences, with 4 queries and 4 keys, and a longest of at least 4 on both sides
        the case gives 2 lengths of at most 2, 3 in all: its problem (b1 h1 L4 d64 f16 full packed=2,3,3) must be packed, of 2 sequences, with 3 queries and 3 keys, and a longest of at least 2 on both sides
        "lengths=2x1000000000000" holds no number that fits; a case looks like: b1 h4/2 q17 kv129 d40 f16 causal blhd scale=0.125 peaked seed=7 schedule=3
        "#
        );
    }
}
