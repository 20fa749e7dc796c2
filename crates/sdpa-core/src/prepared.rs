//! A problem made ready to run: planned, loaded and given its memory.

use crate::attention::{launch, workspace};
use crate::{Buffer, Device, LaunchPlan, Problem, Result, Tensors};

/// A problem whose kernels are loaded and whose workspace is allocated: [`forward`](Self::forward) only launches. Made by
/// [`Attention::prepare`](crate::Attention::prepare).
///
/// ```
/// use sdpa_core::{Attention, Device, Error, Operand, Prepared, Problem, Tensors};
///
/// /// Step after step of the same shape, without planning or loading again.
/// fn decode(attention: &dyn Attention, device: &dyn Device, problem: &Problem, steps: &[Tensors]) -> Result<(), Error> {
///     let prepared = attention.prepare(device, problem)?;
///     steps.iter().try_for_each(|tensors| prepared.forward(tensors))
/// }
/// ```
///
/// # Graphs of your own
/// Prepare first, begin the recording on the stream of [`Cuda::from_stream`](crate::Cuda::from_stream), call `forward`, end
/// the recording. The graph uses this workspace and the device's tickets: keep the `Prepared` and the device while the
/// graph may run, and run neither two such graphs of one device side by side nor one beside other work of it.
pub struct Prepared<'device> {
    device: &'device dyn Device,
    problem: Problem,
    plan: LaunchPlan,
    alignment: u64,
    workspace: Option<Buffer>,
}

impl<'device> Prepared<'device> {
    /// Loads what `plan` launches and allocates what it needs.
    pub(crate) fn new(
        device: &'device dyn Device,
        problem: &Problem,
        plan: LaunchPlan,
        alignment: u64,
    ) -> Result<Self> {
        plan.launches.iter().try_for_each(|launch| device.load(&launch.kernel))?;
        let workspace = workspace(device, &plan)?;
        Ok(Self { device, problem: problem.clone(), plan, alignment, workspace })
    }

    /// What is launched.
    pub fn plan(&self) -> &LaunchPlan {
        &self.plan
    }

    /// Launches, and returns as soon as the work is queued.
    ///
    /// # Errors
    /// A typed error where a tensor does not fit the problem or a launch is refused.
    pub fn forward(&self, tensors: &Tensors<'_>) -> Result<()> {
        let params = tensors.params(&self.problem, self.alignment, self.device.memory())?;
        launch(self.device, &self.plan, params, self.workspace.as_ref())
    }
}

impl std::fmt::Debug for Prepared<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Prepared({}: {})", self.problem, self.plan)
    }
}
