//! A problem made ready to run: planned, loaded and given its memory.

use std::sync::{Mutex, PoisonError};

use crate::attention::{launch, workspace};
use crate::{Buffer, Device, LaunchPlan, Params, Problem, ReadyLaunch, Result, Tensors};

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
/// Any thread may call `forward`, and several at once: the launches of one call are queued behind one another, never between
/// those of another call, which use the same workspace. [`Device::substitute`] does not change what was prepared before it.
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
    /// Of each launch of the plan, where the device has something to make ready.
    ready: Option<Vec<Box<dyn ReadyLaunch>>>,
    /// Held while several launches are queued, which use the workspace.
    queueing: Mutex<()>,
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
        let params = Params::new(problem, [device.tickets(); 4]);
        let ready = plan.launches.iter().map(|launch| device.ready(launch, &params));
        let ready = ready.collect::<Result<Option<_>>>()?;
        let problem = problem.clone();
        Ok(Self { device, problem, plan, alignment, workspace, ready, queueing: Mutex::new(()) })
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
        let _queueing = match self.plan.launches.len() {
            0 | 1 => None,
            _ => Some(self.queueing.lock().unwrap_or_else(PoisonError::into_inner)),
        };
        launch(self.device, &self.plan, params, self.workspace.as_ref(), self.ready.as_deref())
    }
}

impl std::fmt::Debug for Prepared<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Prepared({}: {})", self.problem, self.plan)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use super::*;
    use crate::{
        Architecture, DeviceKind, DeviceLimits, Error, Interpreter, Launch, MemoryId, Operand, PackedPtx, Recording,
        Resources, Specialisation,
    };

    static PTX: PackedPtx = PackedPtx::new("v0", &[]);

    /// Writes down what is launched, and takes its time.
    #[derive(Default)]
    struct Slow {
        memory: Interpreter,
        launched: Mutex<Vec<&'static str>>,
    }

    impl Device for Slow {
        fn name(&self) -> String {
            self.memory.name()
        }
        fn kind(&self) -> DeviceKind {
            self.memory.kind()
        }
        fn limits(&self) -> &DeviceLimits {
            self.memory.limits()
        }
        fn memory(&self) -> MemoryId {
            self.memory.memory()
        }
        fn tickets(&self) -> u64 {
            self.memory.tickets()
        }
        fn allocate_named(&self, name: &str, bytes: usize) -> Result<Buffer> {
            self.memory.allocate_named(name, bytes)
        }
        fn write(&self, buffer: &Buffer, offset: usize, bytes: &[u8]) -> Result<()> {
            self.memory.write(buffer, offset, bytes)
        }
        fn read(&self, buffer: &Buffer, offset: usize, bytes: &mut [u8]) -> Result<()> {
            self.memory.read(buffer, offset, bytes)
        }
        fn load(&self, _: &Specialisation) -> Result<()> {
            Ok(())
        }
        fn launch(&self, launch: &Launch, _: &Params) -> Result<()> {
            self.launched.lock().unwrap().push(launch.kernel.name);
            std::thread::sleep(Duration::from_millis(2));
            Ok(())
        }
        fn synchronize(&self) -> Result<()> {
            Ok(())
        }
        fn record(&self, _: &mut dyn FnMut() -> Result<()>) -> Result<Box<dyn Recording + '_>> {
            Err(Error::NoClock { device: self.name() })
        }
        fn resources(&self, _: &Specialisation) -> Result<Option<Resources>> {
            Ok(None)
        }
        fn substitute(&self, _: &Specialisation, _: &str) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn calls_of_several_threads_are_queued_one_behind_the_other() {
        let device = Slow::default();
        let problem = Problem::new(1, 1, 1, 64).build().unwrap();
        let launch = |name| {
            let architecture = Architecture::Compute80;
            let source = "v0.cu";
            let kernel = Specialisation {
                source,
                ptx: &PTX,
                name,
                architecture,
                defines: &[],
                threads: 32,
                shared_bytes: 0,
                boxes: None,
            };
            Launch { kernel, grid: [1; 3], block: [32, 1, 1], shared_bytes: 0 }
        };
        let launches = vec![launch("parts"), launch("merge")];
        let plan = LaunchPlan { launches, workspace_bytes: 256, tickets: 0 };
        let prepared = Prepared::new(&device, &problem, plan, 16).unwrap();
        let buffers = [(); 4].map(|()| device.allocate(2 * problem.span(Operand::Query)).unwrap());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let [query, key, value, output] = &buffers;
                let tensors = Tensors::new(query, key, value, output);
                let prepared = &prepared;
                scope.spawn(move || (0..5).for_each(|_| prepared.forward(&tensors).unwrap()));
            }
        });
        assert_eq!(*device.launched.lock().unwrap(), ["parts", "merge"].repeat(20));
    }
}
