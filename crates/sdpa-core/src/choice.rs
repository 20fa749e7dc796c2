//! What a search has found to be faster than a generation's own rule, a cell for each problem that was measured.

use crate::{DeviceLimits, Dtype, Extensions, Mask, Problem};

/// For one problem on one kind of device: which kernel of the generation's table to launch, and how that is known. Made by
/// `sdpa tune ID --adopt` from a record of measurements, and read by [`plan`](crate::Attention::plan).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TunedChoice {
    /// `[batch, heads_q, heads_kv, len_q, len_kv, head_dim]`.
    pub shape: [usize; 6],
    /// Element type.
    pub dtype: Dtype,
    /// Mask.
    pub mask: Mask,
    /// Compute capability of the device that it was measured on.
    pub compute_capability: (u32, u32),
    /// Its multiprocessors.
    pub multiprocessors: u32,
    /// The kernel to launch.
    pub kernel: &'static str,
    /// The kernel that the generation's own rule would launch.
    pub instead_of: &'static str,
    /// What was measured, in words.
    pub evidence: &'static str,
}

impl TunedChoice {
    /// True if this is the cell of a problem on a device.
    pub fn suits(&self, problem: &Problem, limits: &DeviceLimits) -> bool {
        let shape = [
            problem.batch(),
            problem.heads_q(),
            problem.heads_kv(),
            problem.len_q(),
            problem.len_kv(),
            problem.head_dim(),
        ];
        self.shape == shape
            && (self.dtype, self.mask) == (problem.dtype(), problem.mask())
            && problem.extensions() == Extensions::NONE
            && self.compute_capability == limits.compute_capability
            && self.multiprocessors == limits.multiprocessors
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Window;

    #[test]
    fn a_cell_is_one_problem_on_one_kind_of_device() {
        let choice = TunedChoice {
            shape: [1, 8, 8, 512, 512, 64],
            dtype: Dtype::F16,
            mask: Mask::Full,
            compute_capability: (9, 0),
            multiprocessors: 132,
            kernel: "f16_d64_m128",
            instead_of: "f16_d64_m64",
            evidence: "for tests",
        };
        let problem = Problem::new(1, 8, 512, 64).build().unwrap();
        assert!(choice.suits(&problem, &DeviceLimits::H200));
        assert!(!choice.suits(&problem, &DeviceLimits::A100));
        for other in [
            Problem::new(1, 8, 513, 64),
            Problem::new(1, 8, 512, 64).heads_kv(4),
            Problem::new(1, 8, 512, 64).dtype(Dtype::Bf16),
            Problem::new(1, 8, 512, 64).mask(Mask::Causal),
            Problem::new(1, 8, 512, 64).window(Window::left(4)),
        ] {
            assert!(!choice.suits(&other.build().unwrap(), &DeviceLimits::H200));
        }
    }
}
