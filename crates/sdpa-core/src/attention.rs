//! The trait every generation implements, and the one `forward` that all of them share.

use crate::tensors::check;
use crate::{
    Accuracy, Budget, Buffer, Device, DeviceLimits, Extensions, LaunchPlan, Params, Prepared, Problem, ReadyLaunch,
    Result, Specialisation, Tensors, Tunable, TunedChoice, Unsupported, View,
};

/// What a generation is: everything that the harness needs to know, so that it never asks for the id.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// Short name, as in `crates/sdpa-<id>` and `kernels/<id>.cu`.
    pub id: &'static str,
    /// The one idea, in a line.
    pub title: &'static str,
    /// The generation it evolved from.
    pub parent: Option<&'static str>,
    /// Every kernel that it may launch.
    pub specialisations: &'static [Specialisation],
    /// What its kernels may cost.
    pub budget: Budget,
    /// How accurate it promises to be.
    pub accuracy: Accuracy,
    /// Bytes that every tensor's address must be a multiple of.
    pub alignment: u64,
    /// What it takes beyond dense attention. A problem that asks for more is declined before `decide` sees it, so a
    /// generation never hears of what came after it.
    pub takes: Extensions,
}

/// A generation of attention kernels: decides in [`decide`](Self::decide), and nowhere else.
pub trait Attention: Sync {
    /// Who this is.
    fn generation(&self) -> &Generation;

    /// How a problem that asks for nothing but what the generation [`takes`](Generation::takes) would be run. For
    /// [`plan`](Self::plan) alone to call; pure, as it is.
    ///
    /// # Errors
    /// [`Unsupported`], with a reason the user can act on.
    fn decide(&self, problem: &Problem, limits: &DeviceLimits) -> std::result::Result<LaunchPlan, Unsupported>;

    /// How `problem` would be run on a device with these limits. Pure: the same answer for the same question.
    ///
    /// # Errors
    /// [`Unsupported`], with a reason the user can act on.
    fn plan(&self, problem: &Problem, limits: &DeviceLimits) -> std::result::Result<LaunchPlan, Unsupported> {
        let Generation { id: generation, takes, .. } = *self.generation();
        if let Some(extension) = self.needs().first_not_in(problem.extensions()) {
            return Err(Unsupported::OnlyWith { generation, extension });
        }
        match problem.extensions().first_not_in(takes) {
            Some(extension) => Err(Unsupported::Extension { generation, extension }),
            None => match self.choices().iter().find(|choice| choice.suits(problem, limits)) {
                None => self.decide(problem, limits),
                Some(choice) => self.chosen(problem, limits, choice.kernel),
            },
        }
    }

    /// What a problem must ask for: the generation takes none without it, because its kernels are for nothing else. By default
    /// nothing.
    fn needs(&self) -> Extensions {
        Extensions::NONE
    }

    /// The plan that launches a kernel of the table first; the decided one where no plan does.
    ///
    /// # Errors
    /// As [`decide`](Self::decide).
    fn chosen(
        &self,
        problem: &Problem,
        limits: &DeviceLimits,
        kernel: &str,
    ) -> std::result::Result<LaunchPlan, Unsupported> {
        let decided = self.decide(problem, limits)?;
        let launches = |plan: &LaunchPlan| plan.launches.first().is_some_and(|launch| launch.kernel.name == kernel);
        Ok(self.alternatives(problem, limits).into_iter().find(launches).unwrap_or(decided))
    }

    /// Cells of problems for which a search has found another kernel to be faster than the one that [`decide`](Self::decide) takes. By
    /// default none.
    fn choices(&self) -> &'static [TunedChoice] {
        &[]
    }

    /// Every plan that would be right for a problem which the generation takes, the one that [`decide`](Self::decide) makes
    /// among them: what a search for faster choices tries. Other kernels of the generation's table, mostly.
    ///
    /// By default the decided one alone.
    fn alternatives(&self, problem: &Problem, limits: &DeviceLimits) -> Vec<LaunchPlan> {
        self.decide(problem, limits).into_iter().collect()
    }

    /// The numbers that its kernels are compiled with and that a search may choose otherwise. By default none.
    fn tunables(&self) -> &'static [Tunable] {
        &[]
    }

    /// A kernel of its table whose definitions were changed, with the threads, the shared memory and the boxes that
    /// follow from them; `None` where the numbers do not go together. By default nothing follows.
    fn resized(&self, kernel: Specialisation) -> Option<Specialisation> {
        Some(kernel)
    }

    /// Plans, loads and launches. Returns as soon as the work is queued; [`Device::synchronize`] waits for it.
    ///
    /// The output and the log-sum-exp need memory of their own: see [`Tensors`]. Into a graph of your own this may be
    /// recorded once [`prepare`](Self::prepare) has loaded the kernels.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) where the plan declines; a typed error where a tensor does not
    /// fit the problem, a kernel does not load or a launch is refused.
    fn forward(&self, device: &dyn Device, problem: &Problem, tensors: &Tensors<'_>) -> Result<()> {
        let plan = self.plan(problem, device.limits())?;
        self.forward_planned(device, problem, tensors, &plan)
    }

    /// [`forward`](Self::forward) with the plan that [`plan`](Self::plan) made for this problem and this device's limits:
    /// for a caller that launches the same problem again and again.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    fn forward_planned(
        &self,
        device: &dyn Device,
        problem: &Problem,
        tensors: &Tensors<'_>,
        plan: &LaunchPlan,
    ) -> Result<()> {
        let params = tensors.params(problem, self.generation().alignment, device.memory())?;
        // All of them before the first launch, so that a graph that is being recorded gets the whole of a plan or nothing.
        if plan.launches.len() > 1 {
            plan.launches.iter().try_for_each(|launch| device.load(&launch.kernel))?;
        }
        // Freed in stream order, after the launches that use it.
        let workspace = workspace(device, plan)?;
        launch(device, plan, params, workspace.as_ref(), None)
    }

    /// [`forward_planned`](Self::forward_planned) with memory of your own for what the launches hand to one another, such as
    /// that of a framework's allocator: at least [`LaunchPlan::workspace_bytes`], at a multiple of 256 bytes, with any
    /// contents, and nothing else uses it before the work is done.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), and for a workspace that is too small or begins elsewhere.
    fn forward_in(
        &self,
        device: &dyn Device,
        problem: &Problem,
        tensors: &Tensors<'_>,
        plan: &LaunchPlan,
        workspace: &Buffer,
    ) -> Result<()> {
        check("workspace", &View::new(workspace, 0), plan.workspace_bytes, WORKSPACE_ALIGNMENT, device.memory())?;
        let params = tensors.params(problem, self.generation().alignment, device.memory())?;
        plan.launches.iter().try_for_each(|launch| device.load(&launch.kernel))?;
        launch(device, plan, params, Some(workspace), None)
    }

    /// Plans, loads the kernels and allocates the workspace, so that [`Prepared::forward`] only launches: for graphs of
    /// your own, and for a first launch that is as fast as the others.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), but for the tensors.
    fn prepare<'device>(&self, device: &'device dyn Device, problem: &Problem) -> Result<Prepared<'device>> {
        let plan = self.plan(problem, device.limits())?;
        Prepared::new(device, problem, plan, self.generation().alignment)
    }
}

/// What every device aligns its own allocations to.
const WORKSPACE_ALIGNMENT: u64 = 256;

/// The memory that a plan's launches hand to one another.
pub(crate) fn workspace(device: &dyn Device, plan: &LaunchPlan) -> Result<Option<Buffer>> {
    match plan.workspace_bytes {
        0 => Ok(None),
        bytes => device.allocate_named("workspace", bytes).map(Some),
    }
}

/// Launches a plan whose tensors are already bound, with its launches made ready or not.
pub(crate) fn launch(
    device: &dyn Device,
    plan: &LaunchPlan,
    mut params: Params,
    workspace: Option<&Buffer>,
    ready: Option<&[Box<dyn ReadyLaunch>]>,
) -> Result<()> {
    params.workspace = workspace.map_or(0, Buffer::address);
    params.tickets = if plan.tickets > 0 { device.tickets() } else { 0 };
    match ready {
        Some(ready) => ready.iter().try_for_each(|ready| ready.launch(&params)),
        None => plan.launches.iter().try_for_each(|launch| device.launch(launch, &params)),
    }
}
