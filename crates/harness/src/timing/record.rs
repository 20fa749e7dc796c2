//! Figures in files: what `sdpa bench --json` and `bench/peers.py --json` write and baselines are read from.

use std::path::{Path, PathBuf};

use sdpa_core::Problem;
use serde::{Deserialize, Serialize};

use super::Timing;

/// Figures of one sitting and what they were taken with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The device.
    pub device: String,
    /// Versions, clocks, commit and whatever else describes the sitting, by name.
    #[serde(default)]
    pub environment: serde_json::Map<String, serde_json::Value>,
    /// One entry a contender and problem.
    pub figures: Vec<Figure>,
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
    /// Fingerprint of the kernel's source and options, for a generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
}

impl Figure {
    /// A contender's figure.
    pub fn new(contender: &str, problem: &Problem, timing: &Timing) -> Self {
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
            median_us: timing.median_us,
            low_us: timing.low_us,
            high_us: timing.high_us,
            tflops: Some(timing.tflops(problem.flops())),
            cold_median_us: None,
            kernel: None,
        }
    }

    /// True where it is a figure of this problem; strides and scale do not count.
    pub fn is_of(&self, problem: &Problem) -> bool {
        (self.batch, self.heads_q, self.heads_kv) == (problem.batch(), problem.heads_q(), problem.heads_kv())
            && (self.len_q, self.len_kv, self.head_dim) == (problem.len_q(), problem.len_kv(), problem.head_dim())
            && (self.dtype.as_str(), self.mask.as_str()) == (problem.dtype().name(), problem.mask().name())
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
    /// Reads a file of figures.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn read(path: &Path) -> Result<Self, RecordError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| RecordError::System { path: path.to_owned(), source })?;
        serde_json::from_str(&text).map_err(|source| RecordError::Format { path: path.to_owned(), source })
    }

    /// A contender's figure of a problem.
    pub fn of(&self, contender: &str, problem: &Problem) -> Option<&Figure> {
        self.figures.iter().find(|figure| figure.contender == contender && figure.is_of(problem))
    }

    /// The fastest peer's figure of a problem. Generations, which have a kernel's fingerprint, are no peers.
    pub fn best_peer(&self, problem: &Problem) -> Option<&Figure> {
        let peers = self.figures.iter().filter(|figure| figure.kernel.is_none() && figure.is_of(problem));
        peers.min_by(|left, right| left.median_us.total_cmp(&right.median_us))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sdpa_core::Mask;

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
    }
}
