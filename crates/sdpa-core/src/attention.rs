//! The trait every generation implements, and the one `forward` that all of them share.

use crate::{
    Accuracy, Budget, Buffer, Device, DeviceLimits, Error, LaunchPlan, Operand, Params, Problem, Result,
    Specialisation, Unsupported,
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
}

/// A generation of attention kernels: decides in [`plan`](Self::plan), and nowhere else.
pub trait Attention: Sync {
    /// Who this is.
    fn generation(&self) -> &Generation;

    /// How `problem` would be run on a device with these limits. Pure: the same answer for the same question.
    ///
    /// # Errors
    /// [`Unsupported`], with a reason the user can act on.
    fn plan(&self, problem: &Problem, limits: &DeviceLimits) -> std::result::Result<LaunchPlan, Unsupported>;

    /// Plans, loads and launches. Returns as soon as the work is queued; [`Device::synchronize`] waits for it.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where the plan declines; a typed error where a tensor does not fit the problem, a kernel
    /// does not load or a launch is refused.
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
        let params = tensors.params(problem, self.generation().alignment)?;
        run(device, plan, params)
    }
}

/// Launches a plan whose parameters are already bound.
fn run(device: &dyn Device, plan: &LaunchPlan, mut params: Params) -> Result<()> {
    // Freed in stream order, after the launches that use it.
    let workspace = match plan.workspace_bytes {
        0 => None,
        bytes => Some(device.allocate_named("workspace", bytes)?),
    };
    params.workspace = workspace.as_ref().map_or(0, Buffer::address);
    params.tickets = if plan.tickets > 0 { device.tickets() } else { 0 };
    plan.launches.iter().try_for_each(|launch| device.launch(launch, &params))
}

/// Part of a buffer, from an offset in bytes to its end.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    buffer: &'a Buffer,
    offset: usize,
}

impl<'a> View<'a> {
    /// The buffer from byte `offset` on.
    pub fn new(buffer: &'a Buffer, offset: usize) -> Self {
        Self { buffer, offset }
    }

    /// Device address of the first byte.
    pub fn address(&self) -> u64 {
        self.buffer.address() + self.offset as u64
    }

    /// Bytes from here to the buffer's end.
    pub fn bytes(&self) -> usize {
        self.buffer.bytes().saturating_sub(self.offset)
    }
}

impl<'a> From<&'a Buffer> for View<'a> {
    fn from(buffer: &'a Buffer) -> Self {
        Self::new(buffer, 0)
    }
}

/// The tensors of one forward pass, on the device. The output and the log-sum-exp are written.
#[derive(Clone, Copy, Debug)]
pub struct Tensors<'a> {
    operands: [View<'a>; 4],
    lse: Option<View<'a>>,
}

impl<'a> Tensors<'a> {
    /// Query, key, value and output, strided as the problem says.
    pub fn new(
        query: impl Into<View<'a>>,
        key: impl Into<View<'a>>,
        value: impl Into<View<'a>>,
        output: impl Into<View<'a>>,
    ) -> Self {
        Self { operands: [query.into(), key.into(), value.into(), output.into()], lse: None }
    }

    /// Asks for the log-sum-exp of every row, `[batch, heads_q, len_q]` f32, contiguous.
    #[must_use]
    pub fn with_lse(mut self, lse: impl Into<View<'a>>) -> Self {
        self.lse = Some(lse.into());
        self
    }

    /// Checks lengths and alignment and binds the addresses.
    fn params(&self, problem: &Problem, alignment: u64) -> Result<Params> {
        for operand in Operand::ALL {
            let view = &self.operands[operand as usize];
            let needed = problem.span(operand) * problem.dtype().bytes();
            if view.bytes() < needed {
                return Err(Error::BufferTooSmall { operand: operand.name(), needed, found: view.bytes() });
            }
            if !view.address().is_multiple_of(alignment) {
                return Err(Error::Misaligned { operand, address: view.address(), alignment });
            }
        }
        let mut params = Params::new(problem, self.operands.map(|view| view.address()));
        if let Some(lse) = &self.lse {
            let needed = problem.lse_len() * size_of::<f32>();
            if lse.bytes() < needed {
                return Err(Error::BufferTooSmall { operand: "lse", needed, found: lse.bytes() });
            }
            params.lse = lse.address();
        }
        Ok(params)
    }
}
