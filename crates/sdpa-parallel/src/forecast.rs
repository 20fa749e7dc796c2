//! How long a pass should take on machines that are not at hand: from the plan's own bytes and products, and from rates that
//! were measured elsewhere or that a vendor names.

use std::fmt::Write as _;

use crate::context::{ContextParallel, Way};
use crate::error::Result;

/// What a cluster is made of. Rates are per GPU.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cluster {
    /// GPUs of a host, which reach one another over NVLink.
    pub gpus_per_host: usize,
    /// Floating-point operations per second of a kernel over a long block.
    pub flops_per_second: f64,
    /// Bytes per second of device memory, which merging is bound by.
    pub memory_bytes_per_second: f64,
    /// Bytes per second to another GPU of the host, in each direction.
    pub nvlink_bytes_per_second: f64,
    /// Bytes per second to another host, in each direction.
    pub network_bytes_per_second: f64,
    /// Seconds that each step takes beside: launches, and the start of a transfer.
    pub step_seconds: f64,
}

/// Hosts of eight H200s with one NDR InfiniBand port of 400 Gbit/s per GPU. `docs/parallel.md` says which of the rates are
/// assumed; that of the network is nine tenths of what the vendor names.
pub const CLUSTER: Cluster = Cluster {
    gpus_per_host: 8,
    flops_per_second: 6.0e14,
    memory_bytes_per_second: 3.5e12,
    nvlink_bytes_per_second: 2.0e11,
    network_bytes_per_second: 4.5e10,
    step_seconds: 2.0e-5,
};

/// One step of a rank: what it computes, and what comes for it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepCost {
    /// Whose keys it is over.
    pub source: usize,
    /// Floating-point operations of its kernels, by the papers' convention.
    pub flops: f64,
    /// Bytes that come from the source before it.
    pub bytes: usize,
    /// Bytes that merging its result moves.
    pub merged_bytes: usize,
}

/// What one rank's pass should take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Forecast {
    /// Bytes that the rank receives over NVLink.
    pub nvlink_bytes: f64,
    /// Bytes that it receives from other hosts.
    pub network_bytes: f64,
    /// Seconds of its kernels.
    pub compute_seconds: f64,
    /// Seconds of its transfers.
    pub transfer_seconds: f64,
    /// Seconds of all of it.
    pub seconds: f64,
}

impl Cluster {
    /// What rank 0 should take: under a causal mask it receives the most.
    ///
    /// A ring's step takes as long as its kernels or the next step's transfer, whichever is longer. The transfers of heads
    /// are not hidden; those within the host run beside those to other hosts.
    ///
    /// # Errors
    /// As [`ContextParallel::plan`].
    pub fn forecast(&self, context: &ContextParallel) -> Result<Forecast> {
        let plan = context.plan(0)?;
        let steps = plan.steps();
        let is_near = |source: usize| source / self.gpus_per_host == 0;
        let computes: Vec<f64> = steps
            .iter()
            .map(|step| {
                let merging = step.merged_bytes as f64 / self.memory_bytes_per_second;
                step.flops / self.flops_per_second + merging + self.step_seconds
            })
            .collect();
        let bytes = |near: bool| -> f64 {
            steps.iter().filter(|step| is_near(step.source) == near).map(|step| step.bytes).sum::<usize>() as f64
        };
        let (nvlink_bytes, network_bytes) = (bytes(true), bytes(false));
        let compute_seconds = computes.iter().sum();
        let (transfer_seconds, seconds) = match context.way() {
            Way::Ring => {
                let transfer = |step: &StepCost| {
                    let rate = match is_near(step.source) {
                        true => self.nvlink_bytes_per_second,
                        false => self.network_bytes_per_second,
                    };
                    step.bytes as f64 / rate
                };
                let transfers: Vec<f64> = steps.iter().map(transfer).collect();
                let next = transfers[1..].iter().copied().chain([0.0]);
                let total = computes.iter().zip(next).map(|(compute, next)| compute.max(next)).sum();
                (transfers.iter().sum(), total)
            }
            Way::Heads => {
                let near = nvlink_bytes / self.nvlink_bytes_per_second;
                let transfer = near.max(network_bytes / self.network_bytes_per_second);
                (transfer, transfer + compute_seconds)
            }
        };
        Ok(Forecast { nvlink_bytes, network_bytes, compute_seconds, transfer_seconds, seconds })
    }

    /// A table in Markdown of these contexts, both ways; what a way does not take is a dash.
    ///
    /// # Errors
    /// As [`forecast`](Self::forecast), but for what a way does not take.
    pub fn table(&self, contexts: &[ContextParallel]) -> Result<String> {
        let mut text = String::from(
            "| GPUs | way | received over NVLink | received from other hosts | kernels | transfers | pass | tokens/s |\n\
             |---:|---|---:|---:|---:|---:|---:|---:|\n",
        );
        for context in contexts {
            for way in [Way::Ring, Way::Heads] {
                let context = context.clone().with_way(way);
                let ranks = context.ranks();
                let line = match self.forecast(&context) {
                    Ok(forecast) => {
                        let problem = context.problem();
                        let tokens = (problem.batch() * problem.len_q()) as f64 / forecast.seconds;
                        format!(
                            "{:.2} GB | {:.2} GB | {:.1} ms | {:.1} ms | {:.1} ms | {:.2e}",
                            forecast.nvlink_bytes / 1e9,
                            forecast.network_bytes / 1e9,
                            forecast.compute_seconds * 1e3,
                            forecast.transfer_seconds * 1e3,
                            forecast.seconds * 1e3,
                            tokens,
                        )
                    }
                    Err(crate::Error::Unsupported { .. }) => "– | – | – | – | – | –".to_owned(),
                    Err(error) => return Err(error),
                };
                // Writing to a string cannot fail.
                let _ = writeln!(text, "| {ranks} | {way} | {line} |");
            }
        }
        Ok(text)
    }
}
