//! One test case: everything that decides what a kernel is fed, in one line that can be pasted.

use std::fmt;
use std::str::FromStr;

use sdpa_core::{Dtype, Layout, Mask, Operand, Packing, Problem, ProblemBuilder, ProblemError, Strides, Window};

use crate::far::near;
use crate::regime::{Data, Regime, UnknownRegime};

/// A problem, the numbers in it, and the order in which the interpreter runs it.
///
/// Its text holds all of it and reads back:
/// `b1 h4/2 q17 kv129 d40 f16 causal blhd scale=0.125 peaked seed=7 schedule=3`.
/// What is left out is the default: one sequence, one head, full mask, `bhld`, scale 1/√d, `normal`, seeds 0.
#[derive(Clone, PartialEq)]
pub struct Case {
    /// What to attend over.
    pub problem: Problem,
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
        Self { problem, regime: Regime::Normal, seed: 0, schedule: 0 }
    }

    /// The numbers, as they lie in [`near`]'s problem.
    pub fn data(&self) -> Data {
        self.regime.generate(&near(&self.problem), self.seed)
    }

    /// The command that repeats this case for a generation.
    pub fn repeat_command(&self, generation: &str) -> String {
        format!("cargo run --release -- verify {generation} \"{self}\"")
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
        let contiguous = |layout: Layout, operand| {
            let [_, heads, length, head_dim] = problem.shape(operand);
            layout.strides(heads, length, head_dim)
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
    dtype: Option<Dtype>,
    mask: Option<Mask>,
    layout: Option<Layout>,
    strides: [Option<Strides>; 4],
    scale: Option<f32>,
    packing: Option<Packing>,
    window: Option<Window>,
    softcap: Option<f32>,
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
            .layout(self.layout.unwrap_or(Layout::Bhld));
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
        for (operand, strides) in Operand::ALL.into_iter().zip(self.strides) {
            if let Some(strides) = strides {
                builder = builder.strides(operand, strides);
            }
        }
        let regime = self.regime.unwrap_or(Regime::Normal);
        Ok(Case { problem: builder.build()?, regime, seed: self.seed, schedule: self.schedule })
    }
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
        ] {
            assert_eq!(text.parse::<Case>().unwrap().to_string(), text);
        }
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
        "#
        );
    }
}
