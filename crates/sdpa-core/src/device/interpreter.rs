//! The PTX interpreter as a device: the same kernels on any machine, checked while they run.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ptx_interp::{Counters, Finding, Kernel, Memory, Module};

use super::{Buffer, Device, DeviceKind, Recording, Resources};
use crate::{DeviceLimits, Error, Launch, Params, Result, Specialisation, load_ptx};

/// Alignment of allocations: what the CUDA driver promises, too.
const ALIGNMENT: usize = 256;

/// Findings shown in an error; the rest are only counted.
const SHOWN_FINDINGS: usize = 4;

/// Runs PTX lane by lane and reports races, reads of what nobody wrote, accesses out of bounds, copies read before
/// their wait, divergent barriers and deadlocks. Takes the limits of an H200, so that every generation runs.
#[derive(Default)]
pub struct Interpreter {
    memory: Arc<Mutex<Memory>>,
    kernels: Mutex<HashMap<Specialisation, Kernel>>,
    schedule: AtomicU64,
    /// Warp instructions a block may take; 0 leaves the interpreter's own limit.
    instruction_limit: AtomicU64,
    reports: Mutex<Reports>,
}

/// What the launches since the last call of [`Interpreter::take_reports`] did.
#[derive(Clone, Debug, Default)]
pub struct Reports {
    /// Everything they executed, summed.
    pub counters: Counters,
    /// Everything they did wrong.
    pub findings: Vec<Finding>,
}

impl Interpreter {
    /// An interpreter with empty memory and schedule 0.
    pub fn new() -> Self {
        Self::default()
    }

    /// Hands over what was counted and found since the last call.
    pub fn take_reports(&self) -> Reports {
        std::mem::take(&mut *lock(&self.reports))
    }

    /// Ends later launches whose blocks take more warp instructions than this: loops that mutations made endless.
    pub fn limit_instructions(&self, most: u64) {
        self.instruction_limit.store(most.max(1), Ordering::Relaxed);
    }

    fn kernel(&self, kernel: &Specialisation) -> Result<Kernel> {
        let mut kernels = lock(&self.kernels);
        if let Some(loaded) = kernels.get(kernel) {
            return Ok(loaded.clone());
        }
        let loaded = load(kernel, &load_ptx(kernel)?)?;
        kernels.insert(*kernel, loaded.clone());
        Ok(loaded)
    }

    /// Makes later launches of `kernel` run this PTX instead of its own: how mutations of a kernel's PTX are run.
    ///
    /// # Errors
    /// [`Error::Load`] where it does not parse or decode.
    pub fn substitute(&self, kernel: &Specialisation, ptx: &str) -> Result<()> {
        let loaded = load(kernel, ptx)?;
        lock(&self.kernels).insert(*kernel, loaded);
        Ok(())
    }
}

/// A panic elsewhere does not make what it held untrue: memory and maps are changed whole or not at all.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn load(kernel: &Specialisation, ptx: &str) -> Result<Kernel> {
    let failed = |reason: String| Error::Load { kernel: kernel.to_string(), reason };
    let module = Module::parse(ptx).map_err(|error| failed(error.to_string()))?;
    module.kernel(Specialisation::ENTRY).map_err(|error| failed(error.to_string()))
}

/// Frees an allocation when its last buffer is gone.
struct Allocation {
    memory: Arc<Mutex<Memory>>,
    address: u64,
}

impl Drop for Allocation {
    fn drop(&mut self) {
        lock(&self.memory).free(self.address);
    }
}

impl Device for Interpreter {
    fn name(&self) -> String {
        format!(
            "PTX interpreter ({} threads; finds races, keeps no time)",
            std::thread::available_parallelism().map_or(1, usize::from)
        )
    }

    fn kind(&self) -> DeviceKind {
        DeviceKind::Interpreter
    }

    fn limits(&self) -> &DeviceLimits {
        &DeviceLimits::H200
    }

    fn allocate_named(&self, name: &str, bytes: usize) -> Result<Buffer> {
        let address = lock(&self.memory).allocate(name, bytes, ALIGNMENT);
        Ok(Buffer::new(address, bytes, Arc::new(Allocation { memory: Arc::clone(&self.memory), address })))
    }

    fn write(&self, buffer: &Buffer, offset: usize, bytes: &[u8]) -> Result<()> {
        let address = buffer.check_range(offset, bytes.len())?;
        lock(&self.memory)
            .write(address, bytes)
            .map_err(|error| Error::Driver { doing: "copying to the interpreter", reason: error.to_string() })
    }

    fn read(&self, buffer: &Buffer, offset: usize, bytes: &mut [u8]) -> Result<()> {
        let address = buffer.check_range(offset, bytes.len())?;
        lock(&self.memory)
            .read(address, bytes)
            .map_err(|error| Error::Driver { doing: "copying from the interpreter", reason: error.to_string() })
    }

    fn launch(&self, launch: &Launch, params: &Params) -> Result<()> {
        let kernel = self.kernel(&launch.kernel)?;
        let mut run = ptx_interp::Launch::new(launch.grid, launch.block);
        run.dynamic_shared = launch.shared_bytes;
        run.params = params.to_bytes();
        run.seed = self.schedule.load(Ordering::Relaxed);
        match self.instruction_limit.load(Ordering::Relaxed) {
            0 => {}
            most => run.limits.instructions = most,
        }
        let report = run.run(&kernel, &mut lock(&self.memory)).map_err(|error| Error::Launch {
            launch: launch.to_string(),
            reason: error.to_string(),
            hint: "the interpreter has the limits of an H200",
        })?;

        let mut reports = lock(&self.reports);
        reports.counters += &report.counters;
        reports.findings.extend(report.findings.iter().cloned());
        if report.is_clean() {
            return Ok(());
        }
        Err(Error::Findings { launch: launch.to_string(), findings: describe(&report.findings) })
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn record(&self, _work: &mut dyn FnMut() -> Result<()>) -> Result<Box<dyn Recording + '_>> {
        Err(Error::NoClock { device: "the PTX interpreter".to_owned() })
    }

    fn resources(&self, _kernel: &Specialisation) -> Result<Option<Resources>> {
        Ok(None)
    }

    fn set_schedule(&self, seed: u64) {
        self.schedule.store(seed, Ordering::Relaxed);
    }
}

fn describe(findings: &[Finding]) -> String {
    if findings.is_empty() {
        return "not every block ran to its end".to_owned();
    }
    let mut text = findings.iter().take(SHOWN_FINDINGS).map(ToString::to_string).collect::<Vec<_>>().join("\n");
    if findings.len() > SHOWN_FINDINGS {
        // Writing to a string cannot fail.
        let _ = write!(text, "\n… and {} more findings", findings.len() - SHOWN_FINDINGS);
    }
    text
}
