//! Figures in files: what `sdpa bench --json` and `bench/peers.py --json` write and baselines are read from.

use std::path::{Path, PathBuf};

use harness::case::Case;
use sdpa_core::{Operand, Problem};
use serde::{Deserialize, Serialize};

use super::{Quartiles, Regime, Sittings, Timing, Verdict};

/// Figures of one sitting and what they were taken with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The device.
    pub device: String,
    /// Versions, clocks, commit and other facts about the sitting, by name.
    #[serde(default)]
    pub environment: serde_json::Map<String, serde_json::Value>,
    /// What the device reached in the same run, one for each element type and regime.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ceilings: Vec<Ceiling>,
    /// One entry per contender and problem.
    pub figures: Vec<Figure>,
    /// Contenders without a figure of a problem, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub absent: Vec<Absent>,
}

/// The most that a device does, measured and not read from a data sheet: a large matrix product, and kernels that read and that
/// copy a large tensor.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ceiling {
    /// Of which elements.
    pub dtype: String,
    /// In turns of which length.
    #[serde(default)]
    pub regime: Regime,
    /// The product, for people.
    pub matmul: String,
    /// TFLOP/s of the product.
    pub matmul_tflops: f64,
    /// The kernel that only reads, for people; none in records in which a copy stands for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read: Option<String>,
    /// GB/s that it reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_gb_s: Option<f64>,
    /// The copy, for people.
    pub copy: String,
    /// GB/s of the copy, bytes read and bytes written both counted.
    pub copy_gb_s: f64,
}

impl Ceiling {
    /// The least time that a pass could take: its arithmetic at the product's speed, or its tensors at the memory's, each
    /// read or written once, whichever takes longer. As many bytes as it writes it reads at the copy's speed; what else it
    /// reads, above all the keys and values of decoding, at that of the kernel that only reads.
    pub fn least_us(&self, case: &Case) -> f64 {
        let problem = &case.problem;
        let bytes = |operand: &Operand| problem.element_bytes(*operand);
        let read = [Operand::Query, Operand::Key, Operand::Value].iter().map(bytes).sum::<usize>();
        let written = bytes(&Operand::Output);
        let only_read = read.saturating_sub(written) as f64 / self.read_gb_s.unwrap_or(self.copy_gb_s);
        let copied = 2.0 * written as f64 / self.copy_gb_s;
        (case.flops() / self.matmul_tflops * 1e-6).max((only_read + copied) * 1e-3)
    }
}

/// A contender that was not timed on a problem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Absent {
    /// A generation's id, or a peer's name.
    pub contender: String,
    /// The problem, in the words of a case.
    pub problem: String,
    /// Why.
    pub reason: String,
}

/// What a figure says beside another of the same problem and run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The other contender.
    pub with: String,
    /// How many times its speed.
    pub speedup: f64,
    /// What the spreads allow to be said.
    pub verdict: Verdict,
}

/// How long one contender took on one problem.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// A generation's id, or a peer's name.
    pub contender: String,
    /// Independent sequences.
    pub batch: usize,
    /// Query heads.
    pub heads_q: usize,
    /// Key and value heads.
    pub heads_kv: usize,
    /// Queries a head.
    pub len_q: usize,
    /// Keys a head.
    pub len_kv: usize,
    /// Elements a vector.
    pub head_dim: usize,
    /// `f16` or `bf16`.
    pub dtype: String,
    /// `full`, `causal` or `causal-top-left`.
    pub mask: String,
    /// What the problem asks for beyond dense attention, in the words of a case, lengths among them: `packed=2,30,30
    /// lengths=5,30`. None for dense attention.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extensions: Option<String>,
    /// How long turns were; short in records that do not say.
    #[serde(default)]
    pub regime: Regime,
    /// Median time of a pass, in microseconds.
    pub median_us: f64,
    /// Lower quartile.
    pub low_us: f64,
    /// Upper quartile.
    pub high_us: f64,
    /// TFLOP/s at the median, by the convention of the attention papers.
    #[serde(default)]
    pub tflops: Option<f64>,
    /// The median where inputs come from memory, not from the L2 cache.
    #[serde(default)]
    pub cold_median_us: Option<f64>,
    /// What a pass costs, in joules, median of the turns; only of sustained turns on a device that counts energy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joules: Option<f64>,
    /// Operations for a joule, in TFLOP, counted as [`tflops`](Self::tflops) counts them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tflop_per_joule: Option<f64>,
    /// Share of the measured ceiling of the same regime: [`Ceiling::least_us`] by the median. Above 1 the ceiling is wrong,
    /// not the figure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of_ceiling: Option<f64>,
    /// Beside the nearest ancestor that was timed, for a generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Comparison>,
    /// Beside the fastest peer, for a generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best_peer: Option<Comparison>,
    /// In which of its ways a peer was the fastest: a layout, or how it splits keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub way: Option<String>,
    /// Fingerprint of the kernel's source and options, for a generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
}

impl Figure {
    /// A contender's figure of short turns, of dense attention or of a problem whose lengths stand on the host.
    pub fn new(contender: &str, problem: &Problem, timing: &Timing) -> Self {
        Self::of_case(contender, &Case::new(problem.clone()), timing)
    }

    /// A contender's figure of short turns.
    pub fn of_case(contender: &str, case: &Case, timing: &Timing) -> Self {
        let problem = &case.problem;
        Self {
            contender: contender.to_owned(),
            batch: problem.batch(),
            heads_q: problem.heads_q(),
            heads_kv: problem.heads_kv(),
            len_q: problem.len_q(),
            len_kv: problem.len_kv(),
            head_dim: problem.head_dim(),
            dtype: problem.dtype().name().to_owned(),
            mask: problem.mask().name().to_owned(),
            extensions: Some(case.extensions()).filter(|words| !words.is_empty()),
            regime: Regime::Short,
            median_us: timing.median_us,
            low_us: timing.low_us,
            high_us: timing.high_us,
            tflops: Some(timing.tflops(case.flops())),
            cold_median_us: None,
            joules: timing.joules,
            tflop_per_joule: timing.joules.map(|joules| case.flops() / joules * 1e-12),
            of_ceiling: None,
            parent: None,
            best_peer: None,
            way: None,
            kernel: None,
        }
    }

    /// True if it is faster than the ceiling allows, which is a fault of the ceiling.
    pub fn passes_ceiling(&self) -> bool {
        self.of_ceiling.is_some_and(|share| share > 1.0)
    }

    /// Median and spread.
    pub fn quartiles(&self) -> Quartiles {
        Quartiles { low_us: self.low_us, median_us: self.median_us, high_us: self.high_us }
    }

    /// The problem, contiguous and with the default scale, where this program knows its dtype and mask.
    pub fn problem(&self) -> Option<Problem> {
        self.case().map(|case| case.problem)
    }

    /// The problem with its lengths, as [`problem`](Self::problem).
    pub fn case(&self) -> Option<Case> {
        let Self { batch, heads_q, heads_kv, len_q, len_kv, head_dim, dtype, mask, .. } = self;
        let words = self.extensions.as_deref().unwrap_or_default();
        // Packed tensors are [total, heads, head_dim].
        let layout = if words.split(' ').any(|word| word.starts_with("packed=")) { "blhd" } else { "bhld" };
        let line =
            format!("b{batch} h{heads_q}/{heads_kv} q{len_q} kv{len_kv} d{head_dim} {dtype} {mask} {words} {layout}");
        line.parse().ok()
    }

    /// True if it is a figure of this problem in either regime, without lengths of its own; strides and scale do not count.
    pub fn is_of(&self, problem: &Problem) -> bool {
        (self.batch, self.heads_q, self.heads_kv) == (problem.batch(), problem.heads_q(), problem.heads_kv())
            && (self.len_q, self.len_kv, self.head_dim) == (problem.len_q(), problem.len_kv(), problem.head_dim())
            && (self.dtype.as_str(), self.mask.as_str()) == (problem.dtype().name(), problem.mask().name())
            && self.extensions.as_deref().unwrap_or_default() == Case::new(problem.clone()).extensions()
    }

    /// True if both are figures of one problem, with the same extensions and lengths, in the same regime.
    pub fn is_beside(&self, other: &Self) -> bool {
        let sizes = |figure: &Self| {
            [figure.batch, figure.heads_q, figure.heads_kv, figure.len_q, figure.len_kv, figure.head_dim]
        };
        sizes(self) == sizes(other)
            && (&self.dtype, &self.mask, &self.extensions) == (&other.dtype, &other.mask, &other.extensions)
            && self.regime == other.regime
    }
}

/// Why a file of figures cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Not there or not readable.
    #[error("{}: {source}", path.display())]
    System {
        /// Which file.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// A folder without any.
    #[error("{}: no file of figures there", path.display())]
    Empty {
        /// The folder.
        path: PathBuf,
    },
    /// Times of different devices are no baseline.
    #[error("{} is of {other}, a file beside it of {first}", path.display())]
    SeveralDevices {
        /// Which file.
        path: PathBuf,
        /// The device of the first file.
        first: String,
        /// The device of this one.
        other: String,
    },
    /// Nor are times of different devices sittings of one.
    #[error("{} holds sittings on {first} and on {other}; name another folder", path.display())]
    SeveralSittingsDevices {
        /// Which file.
        path: PathBuf,
        /// The device that is wanted, or that of the first sitting.
        first: String,
        /// Another sitting's.
        other: String,
    },
    /// JSON of something else.
    #[error("{} holds no figures as `sdpa bench --record` and bench/peers.py write them", path.display())]
    NoFigures {
        /// Which file.
        path: PathBuf,
    },
    /// Something else than figures.
    #[error("{} holds no figures as `sdpa bench --json` and bench/peers.py write them: {source}", path.display())]
    Format {
        /// Which file.
        path: PathBuf,
        /// The parser's words.
        source: serde_json::Error,
    },
}

impl Record {
    /// Reads a file of figures; of several sittings the [latest](Sittings::latest) figures.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn read(path: &Path) -> Result<Self, RecordError> {
        Ok(Sittings::read(path)?.latest())
    }

    /// A contender's figure of a problem in short turns.
    pub fn of(&self, contender: &str, problem: &Problem) -> Option<&Figure> {
        self.short(problem).find(|figure| figure.contender == contender)
    }

    fn short<'r, 'p>(&'r self, problem: &'p Problem) -> impl Iterator<Item = &'r Figure> + use<'r, 'p> {
        self.figures.iter().filter(move |figure| figure.regime == Regime::Short && figure.is_of(problem))
    }

    /// A contender's figure of the problem that another figure is of.
    pub fn beside(&self, contender: &str, other: &Figure) -> Option<&Figure> {
        self.figures.iter().find(|figure| figure.contender == contender && figure.is_beside(other))
    }

    /// The fastest peer's figure of a problem in short turns. Generations, which have a kernel's fingerprint, are no peers.
    pub fn best_peer(&self, problem: &Problem) -> Option<&Figure> {
        let peers = self.short(problem).filter(|figure| figure.kernel.is_none());
        peers.min_by(|left, right| left.median_us.total_cmp(&right.median_us))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sdpa_core::{KvScales, KvStorage, Mask};

    /// Figures of the same sizes with other extensions or lengths are of other problems.
    #[test]
    fn extensions_and_lengths_tell_problems_apart() {
        let lines = [
            "h2 L42 d64 bf16 causal",
            "h2 L42 d64 bf16 causal sinks",
            "h2 L42 d64 bf16 causal window=7,all",
            "h2 L42 d64 bf16 causal packed=4,30,30 blhd",
            "h2 L42 d64 bf16 causal packed=4,30,30 lengths=5,0,30,7 blhd",
            "h2 L42 d64 bf16 causal packed=4,30,30 lengths=0,5,30,7 blhd",
            "h2 L42 d64 bf16 causal value_dim=32 packed=4,30,30 blhd",
            "h2 L42 d64 bf16 causal kv=e4m3",
            "h2 L42 d64 bf16 causal kv=e4m3-per-head packed=4,30,30 blhd",
        ];
        let cases: Vec<Case> = lines.iter().map(|line| line.parse().unwrap()).collect();
        let figure = |case| Figure::of_case("flash", case, &Timing::new(vec![2.0]));
        let record = Record { figures: cases.iter().map(figure).collect(), ..Record::default() };
        let read: Record = serde_json::from_str(&serde_json::to_string(&record).unwrap()).unwrap();
        for (index, case) in cases.iter().enumerate() {
            let figure = &read.figures[index];
            assert_eq!(figure.case().as_ref(), Some(case));
            let beside: Vec<usize> = (0..9).filter(|other| read.figures[*other].is_beside(figure)).collect();
            assert_eq!(beside, [index]);
            let of: Vec<usize> = (0..9).filter(|other| read.figures[*other].is_of(&case.problem)).collect();
            assert_eq!(of, if case.lengths.is_some() { [3] } else { [index] });
            assert_eq!(record.figures[index].tflops, Some(case.flops() / 2.0 * 1e-6));
        }
        // What was written before there were extensions is dense attention.
        let old = serde_json::to_value(&read.figures[0]).unwrap();
        assert_eq!((old.get("extensions"), read.figures[0].extensions.as_deref()), (None, None));
        assert_eq!(read.figures[1].extensions.as_deref(), Some("sinks"));
    }

    #[test]
    fn a_record_reads_back_and_knows_its_fastest() {
        let problem = Problem::new(1, 8, 512, 64).build().unwrap();
        let causal = problem.to_builder().mask(Mask::Causal).build().unwrap();
        let figure = |contender, problem: &Problem, us| Figure::new(contender, problem, &Timing::new(vec![us]));
        let record = Record {
            device: "some GPU".to_owned(),
            figures: vec![
                figure("flash", &problem, 10.2),
                figure("cudnn", &problem, 9.0),
                Figure { kernel: Some("c0ffee".to_owned()), ..figure("v9", &problem, 4.0) },
                figure("flash", &causal, 3.0),
            ],
            ..Record::default()
        };
        let read: Record = serde_json::from_str(&serde_json::to_string(&record).unwrap()).unwrap();
        assert_eq!(read, record);
        assert_eq!(read.best_peer(&problem).map(|figure| figure.contender.as_str()), Some("cudnn"));
        assert_eq!(read.of("v9", &problem).map(|figure| figure.median_us), Some(4.0));
        let other = Problem::new(1, 8, 513, 64).build().unwrap();
        assert_eq!((read.best_peer(&other), read.of("v9", &other)), (None, None));
        assert_eq!(record.figures[3].problem(), Some(causal));
    }

    /// A figure of long turns is beside no figure of short ones, and old records hold short ones.
    #[test]
    fn regimes_are_apart() {
        let problem = Problem::new(1, 8, 512, 64).build().unwrap();
        let timing = |us, joules| Timing { joules, ..Timing::new(vec![us]) };
        let kernel = Some("kernel".to_owned());
        let short = Figure { kernel, ..Figure::new("v1", &problem, &timing(9.0, None)) };
        let sustained = Figure { regime: Regime::Sustained, ..Figure::new("v1", &problem, &timing(10.0, Some(2e-3))) };
        let peer = Figure { regime: Regime::Sustained, ..Figure::new("cudnn", &problem, &timing(1.0, None)) };
        assert!(sustained.is_of(&problem) && !sustained.is_beside(&short) && sustained.is_beside(&peer));
        let figures = vec![sustained.clone(), peer, short.clone()];
        let record = Record { figures, ..Record::default() };
        assert_eq!((record.of("v1", &problem), record.best_peer(&problem)), (Some(&short), None));
        assert_eq!(record.beside("v1", &sustained), Some(&sustained));
        // 0.54 GFLOP for 2 mJ.
        assert!((sustained.tflop_per_joule.unwrap() - 0.268).abs() < 0.001);

        let mut old = serde_json::to_value(&record.figures[0]).unwrap();
        assert_eq!((&old["regime"], &old["joules"]), (&"sustained".into(), &2e-3.into()));
        old.as_object_mut().unwrap().remove("regime");
        assert_eq!(serde_json::from_value::<Figure>(old).unwrap().regime, Regime::Short);
    }

    #[test]
    fn the_ceiling_is_arithmetic_or_memory_whichever_takes_longer() {
        let ceiling =
            Ceiling { matmul_tflops: 500.0, copy_gb_s: 4000.0, read_gb_s: Some(4400.0), ..Ceiling::default() };
        let of = |problem: &Problem| Case::new(problem.clone());
        // 4·16·2048²·64 operations; half of them under a causal mask.
        let long = Problem::new(2, 8, 2048, 64).build().unwrap();
        assert!((ceiling.least_us(&of(&long)) - 34.36).abs() < 0.01);
        let causal = long.to_builder().mask(Mask::Causal).build().unwrap();
        assert!((ceiling.least_us(&of(&causal)) / ceiling.least_us(&of(&long)) - 0.5).abs() < 0.001);
        // A query over a cache: 2 × 8 × 4096 × 128 elements of 2 bytes at the reader's speed, and next to nothing else.
        let decode = of(&Problem::new(1, 32, 1, 128).heads_kv(8).len_kv(4096).build().unwrap());
        assert!((ceiling.least_us(&decode) - 3.817).abs() < 0.001, "{}", ceiling.least_us(&decode));
        // Half the bytes of a cache in e4m3.
        let stored = decode.problem.to_builder().kv_storage(KvStorage::E4m3(KvScales::Head)).build().unwrap();
        assert!((ceiling.least_us(&of(&stored)) - 1.910).abs() < 0.001, "{}", ceiling.least_us(&of(&stored)));
        // In old records the copy stands for it.
        let old = Ceiling { read_gb_s: None, ..ceiling.clone() };
        assert!((old.least_us(&decode) - 4.198).abs() < 0.001, "{}", old.least_us(&decode));
        // 64 queries over 64 keys in many heads: half of what is read is copied to the output, the rest only read.
        let copies = of(&Problem::new(64, 64, 64, 8).build().unwrap());
        let bytes = (64 * 64 * 64 * 8 * 2) as f64;
        let expected = (2.0 * bytes / 4400.0 + 2.0 * bytes / 4000.0) * 1e-3;
        assert!((ceiling.least_us(&copies) - expected).abs() < 1e-9, "{}", ceiling.least_us(&copies));
    }

    #[test]
    fn a_share_above_all_is_a_fault_of_the_ceiling() {
        let problem = Problem::new(1, 8, 512, 64).build().unwrap();
        let figure =
            |of_ceiling| Figure { of_ceiling, ..Figure::new("v1", &problem, &Timing::new(vec![9.0])) }.passes_ceiling();
        assert_eq!([None, Some(1.0), Some(1.001)].map(figure), [false, false, true]);
    }
}
