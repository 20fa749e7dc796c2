//! The PTX interpreter as a device: the same kernels on any machine, checked while they run.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ptx_interp::{Counters, Coverage, Finding, Kernel, Memory, Module};

use super::host_memory::check_host_memory;
use super::tensor_maps::TensorMaps;
use super::{Buffer, Device, DeviceKind, MOST_TICKETS, MemoryId, Recording, Resources};
use crate::params::{DENSE_BYTES, EXTENDED_BYTES, PAGED_BYTES, VALUE_BYTES};
use crate::{DeviceLimits, Error, Launch, Params, Result, Specialisation};

/// Alignment of allocations: what the CUDA driver promises, too.
const ALIGNMENT: usize = 256;

/// Findings shown in an error; the rest are only counted.
const SHOWN_FINDINGS: usize = 4;

/// Runs PTX lane by lane and reports races, reads of what nobody wrote, accesses out of bounds, copies read before
/// their wait, divergent barriers and deadlocks. Takes the limits of an H200, so that every generation runs.
pub struct Interpreter {
    memory: Arc<Mutex<Memory>>,
    id: MemoryId,
    /// Bytes of the allocations that live.
    allocated: Arc<AtomicUsize>,
    /// Address of the words of tickets.
    tickets: u64,
    kernels: Mutex<HashMap<Specialisation, Kernel>>,
    /// What is run instead of packed PTX.
    substitutes: Mutex<HashMap<Specialisation, String>>,
    schedule: AtomicU64,
    /// Warp instructions a block may take; 0 leaves the interpreter's own limit.
    instruction_limit: AtomicU64,
    /// Blocks that a launch runs; 0 for all.
    first_blocks: AtomicU64,
    /// Whether launches note what of a kernel they execute.
    covers: AtomicBool,
    /// Whether faults that are known of a kernel are found, too.
    /// Whether lanes lag behind their warps.
    lags: AtomicBool,
    reports: Mutex<Reports>,
}

impl Default for Interpreter {
    fn default() -> Self {
        Self::new()
    }
}

/// What the launches since the last call of [`Interpreter::take_reports`] did.
#[derive(Clone, Debug, Default)]
pub struct Reports {
    /// Everything they executed, summed.
    pub counters: Counters,
    /// Everything they did wrong.
    pub findings: Vec<Finding>,
    /// What of each kernel they executed, if [`Interpreter::cover`] asked for it.
    pub coverage: Vec<Executed>,
}

/// What launches executed of a kernel.
#[derive(Clone, Debug)]
pub struct Executed {
    /// The kernel.
    pub kernel: Specialisation,
    /// What was executed of it.
    pub coverage: Coverage,
}

impl Executed {
    /// Adds this to what other launches executed. Another text of the kernel begins anew.
    pub fn add_to(self, all: &mut Vec<Self>) {
        let known = all.iter_mut().find(|known| known.kernel == self.kernel);
        if !known.is_some_and(|known| known.coverage.merge(&self.coverage)) {
            all.push(self);
        }
    }
}

impl Interpreter {
    /// An interpreter with empty memory and schedule 0.
    pub fn new() -> Self {
        let mut memory = Memory::default();
        let tickets = memory.allocate("tickets", size_of::<u32>() * MOST_TICKETS, ALIGNMENT);
        // Just allocated, and as long as this.
        let _ = memory.fill(tickets, size_of::<u32>() * MOST_TICKETS, 0);
        Self {
            memory: Arc::new(Mutex::new(memory)),
            id: MemoryId::new(),
            allocated: Arc::new(AtomicUsize::new(size_of::<u32>() * MOST_TICKETS)),
            tickets,
            kernels: Mutex::default(),
            substitutes: Mutex::default(),
            schedule: AtomicU64::default(),
            instruction_limit: AtomicU64::default(),
            first_blocks: AtomicU64::default(),
            covers: AtomicBool::default(),
            lags: AtomicBool::default(),
            reports: Mutex::default(),
        }
    }

    /// Hands over what was counted and found since the last call.
    pub fn take_reports(&self) -> Reports {
        std::mem::take(&mut *lock(&self.reports))
    }

    /// Whether lanes of later launches lag behind their warps, at waits and branches that the schedule chooses, as a device may have
    /// it. What they count then depends on the schedule.
    pub fn let_lanes_lag(&self, lag: bool) {
        self.lags.store(lag, Ordering::Relaxed);
    }

    /// Ends later launches whose blocks take more warp instructions than this: loops that mutations made endless.
    pub fn limit_instructions(&self, most: u64) {
        self.instruction_limit.store(most.max(1), Ordering::Relaxed);
    }

    /// Lets later launches run their first blocks alone, so many of them: what the others would write stays as it was. The grid is as
    /// large as it is to those that run, so this is for blocks that need nothing of each other.
    pub fn run_first_blocks(&self, count: u64) {
        self.first_blocks.store(count.max(1), Ordering::Relaxed);
    }

    /// Makes later launches note what of their kernels they execute: see [`Reports::coverage`].
    pub fn cover(&self, covers: bool) {
        self.covers.store(covers, Ordering::Relaxed);
    }

    /// A buffer of so many bytes, of which the pieces at these addresses are there, `held` bytes together.
    fn buffer(&self, address: u64, bytes: usize, addresses: Vec<u64>, held: usize) -> Buffer {
        self.allocated.fetch_add(held, Ordering::Relaxed);
        let (memory, allocated) = (Arc::clone(&self.memory), Arc::clone(&self.allocated));
        Buffer::new(address, bytes, self.id, Arc::new(Allocation { memory, addresses, held, allocated }))
    }

    fn kernel(&self, kernel: &Specialisation) -> Result<Kernel> {
        let mut kernels = lock(&self.kernels);
        if let Some(loaded) = kernels.get(kernel) {
            return Ok(loaded.clone());
        }
        let loaded = match lock(&self.substitutes).get(kernel) {
            Some(ptx) => load(kernel, ptx)?,
            None => load(kernel, kernel.packed_ptx()?)?,
        };
        kernels.insert(*kernel, loaded.clone());
        Ok(loaded)
    }

    /// Makes the words of tickets 0 for the next kernel, whatever this one did. The first that was not 0: which word it
    /// is, and its value.
    fn clear_tickets(&self) -> Option<(usize, u32)> {
        let mut memory = lock(&self.memory);
        // The words are never freed: both succeed.
        let words = memory.read_vec(self.tickets, size_of::<u32>() * MOST_TICKETS).unwrap_or_default();
        let left = words.chunks_exact(size_of::<u32>()).position(|word| word != [0; 4])?;
        let _ = memory.fill(self.tickets, words.len(), 0);
        let word = &words[size_of::<u32>() * left..][..size_of::<u32>()];
        Some((left, word.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte))))
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
    /// Of each piece.
    addresses: Vec<u64>,
    /// Bytes of all of them.
    held: usize,
    /// Those of all allocations that live.
    allocated: Arc<AtomicUsize>,
}

impl Drop for Allocation {
    fn drop(&mut self) {
        let mut memory = lock(&self.memory);
        for address in &self.addresses {
            memory.free(*address);
        }
        self.allocated.fetch_sub(self.held, Ordering::Relaxed);
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

    fn memory(&self) -> MemoryId {
        self.id
    }

    fn tickets(&self) -> u64 {
        self.tickets
    }

    fn allocate_named(&self, name: &str, bytes: usize) -> Result<Buffer> {
        check_host_memory(name, bytes)?;
        let address = lock(&self.memory).allocate(name, bytes, ALIGNMENT);
        Ok(self.buffer(address, bytes, vec![address], bytes))
    }

    fn allocated_bytes(&self) -> Option<usize> {
        Some(self.allocated.load(Ordering::Relaxed))
    }

    fn allocate_pieces(&self, name: &str, pieces: &[std::ops::Range<usize>]) -> Result<Buffer> {
        let address = lock(&self.memory).allocate_pieces(name, pieces, ALIGNMENT);
        let addresses = pieces.iter().map(|piece| address + piece.start as u64).collect();
        let bytes = pieces.last().map_or(0, |last| last.end);
        Ok(self.buffer(address, bytes, addresses, pieces.iter().map(ExactSizeIterator::len).sum()))
    }

    fn write(&self, buffer: &Buffer, offset: usize, bytes: &[u8]) -> Result<()> {
        let address = buffer.check_range(self.id, offset, bytes.len())?;
        lock(&self.memory)
            .write(address, bytes)
            .map_err(|error| Error::Memory { doing: "copying to the interpreter", reason: error.to_string() })
    }

    fn read(&self, buffer: &Buffer, offset: usize, bytes: &mut [u8]) -> Result<()> {
        let address = buffer.check_range(self.id, offset, bytes.len())?;
        lock(&self.memory)
            .read(address, bytes)
            .map_err(|error| Error::Memory { doing: "copying from the interpreter", reason: error.to_string() })
    }

    fn load(&self, kernel: &Specialisation) -> Result<()> {
        self.kernel(kernel).map(drop)
    }

    fn launch(&self, launch: &Launch, params: &Params) -> Result<()> {
        let kernel = self.kernel(&launch.kernel)?;
        let mut run = ptx_interp::Launch::new(launch.grid, launch.block);
        run.dynamic_shared = launch.shared_bytes;
        let encode = |map: &ptx_interp::TensorMapDescription| map.encode().map_err(|error| error.to_string());
        let maps: Vec<u8> = TensorMaps::new(launch, params, encode)?.iter().flat_map(TensorMaps::bytes).collect();
        run.params = params.to_bytes();
        // A kernel declares as much of the block as it knows; maps, if it takes any, follow at a multiple of their alignment. Two
        // lengths may come to the same multiple: the longer one has what the shorter one has.
        let align = if maps.is_empty() { 1 } else { align_of::<TensorMaps>() };
        let before_maps = |bytes: usize| bytes.next_multiple_of(align);
        let mut lengths = [run.params.len(), VALUE_BYTES, PAGED_BYTES, EXTENDED_BYTES, DENSE_BYTES].into_iter();
        if let Some(bytes) = lengths.find(|bytes| before_maps(*bytes) + maps.len() == kernel.parameter_bytes()) {
            run.params.truncate(bytes);
        }
        run.params.resize(before_maps(run.params.len()), 0);
        run.params.extend(maps);
        run.seed = self.schedule.load(Ordering::Relaxed);
        run.stragglers = self.lags.load(Ordering::Relaxed);
        run.coverage = self.covers.load(Ordering::Relaxed);
        match self.instruction_limit.load(Ordering::Relaxed) {
            0 => {}
            most => run.limits.instructions = most,
        }
        match self.first_blocks.load(Ordering::Relaxed) {
            0 => {}
            count => run.first_clusters = count,
        }
        let report = run.run(&kernel, &mut lock(&self.memory)).map_err(|error| Error::Launch {
            launch: launch.to_string(),
            reason: error.to_string(),
            hint: "the interpreter has the limits of an H200",
        })?;

        let tickets = self.clear_tickets();
        let mut reports = lock(&self.reports);
        reports.counters += &report.counters;
        reports.findings.extend(report.findings.iter().cloned());
        if let Some(covered) = &report.coverage {
            Executed { kernel: launch.kernel, coverage: covered.clone() }.add_to(&mut reports.coverage);
        }
        if report.is_clean() {
            return match tickets {
                None => Ok(()),
                Some((word, found)) => Err(Error::Tickets { launch: launch.to_string(), word, found }),
            };
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

    fn substitute(&self, kernel: &Specialisation, ptx: &str) -> Result<()> {
        lock(&self.substitutes).insert(*kernel, ptx.to_owned());
        lock(&self.kernels).remove(kernel);
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Architecture, ExtensionParams, PackedPtx, TileBoxes};

    static PTX: PackedPtx = PackedPtx::new("v0", &[]);

    /// A driver copies as much of the block as the kernel declares.
    #[test]
    fn the_block_is_as_long_as_the_kernel_declares_it() {
        let device = Interpreter::new();
        run(&device, ".param .align 8 .b8 block[256]", "ld.param.b64 %rd1, [block+248];", KERNEL).unwrap();
        run(&device, BLOCK, "", KERNEL).unwrap();
        run(&device, ".param .align 8 .b8 block[280]", "ld.param.b64 %rd1, [block+272];", KERNEL).unwrap();
        run(&device, ".param .align 8 .b8 block[288]", "ld.param.b64 %rd1, [block+280];", KERNEL).unwrap();
        run(&device, ".param .align 8 .b8 block[312]", "ld.param.b64 %rd1, [block+304];", KERNEL).unwrap();
        let error = run(&device, ".param .align 8 .b8 block[200]", "", KERNEL).unwrap_err();
        assert!(matches!(error, Error::Launch { .. }), "{error}");
    }

    static KERNEL: Specialisation = Specialisation {
        source: "v0.cu",
        ptx: &PTX,
        name: "f16_d64",
        architecture: Architecture::Compute90a,
        defines: &[],
        threads: 32,
        shared_bytes: 0,
        boxes: None,
    };

    /// Runs `body` in one warp; `%rd0` holds the words of tickets.
    fn run(device: &Interpreter, parameters: &str, body: &str, kernel: Specialisation) -> Result<()> {
        let ptx = format!(
            ".version 9.0\n.target sm_90a\n.address_size 64\n.visible .entry attention({parameters})\n{{\n\
             .reg .pred %p<4>;\n.reg .b32 %r<4>;\n.reg .b64 %rd<4>;\nld.param.b64 %rd0, [block+184];\n{body}\nret;\n}}\n"
        );
        device.substitute(&kernel, &ptx)?;
        let launch = Launch { kernel, grid: [3, 1, 1], block: [32, 1, 1], shared_bytes: 0 };
        let extension = ExtensionParams { value_dim: 64, ..ExtensionParams::default() };
        device.launch(&launch, &Params { tickets: device.tickets(), head_dim: 64, extension, ..Params::default() })
    }

    const BLOCK: &str = ".param .align 8 .b8 block[192]";

    /// One lane a block draws, and the last of three stores the 0 again.
    const DRAW: &str = "mov.u32 %r0, %tid.x;\nsetp.ne.u32 %p0, %r0, 0;\n@%p0 ret;\n\
                        atom.global.add.u32 %r1, [%rd0], 1;\nsetp.ne.u32 %p1, %r1, 2;\n@%p1 ret;\n";

    #[test]
    fn tickets_are_0_before_and_after_every_kernel() {
        let device = Interpreter::new();
        let right = format!("{DRAW}atom.global.exch.b32 %r2, [%rd0], 0;");
        // Twice, because the second launch finds what the first one left.
        run(&device, BLOCK, &right, KERNEL).unwrap();
        run(&device, BLOCK, &right, KERNEL).unwrap();
        let error = run(&device, BLOCK, DRAW, KERNEL).unwrap_err();
        assert!(matches!(error, Error::Tickets { word: 0, found: 3, .. }), "{error}");
        // The last of three arrivals wraps the counter around; one of four would have to.
        let count = |last: u32| DRAW.replace("add.u32 %r1, [%rd0], 1", &format!("inc.u32 %r1, [%rd0+20], {last}"));
        run(&device, BLOCK, &count(2), KERNEL).unwrap();
        let error = run(&device, BLOCK, &count(3), KERNEL).unwrap_err();
        assert!(matches!(error, Error::Tickets { word: 5, found: 3, .. }), "{error}");
        // And the fault stays where it was made.
        run(&device, BLOCK, &right, KERNEL).unwrap();
    }

    #[test]
    fn memory_that_lives_is_counted() {
        let device = Interpreter::new();
        let bytes = || device.allocated_bytes().unwrap();
        let before = bytes();
        let first = device.allocate(100).unwrap();
        let pieces = device.allocate_pieces("far", &[0..8, 1 << 40..(1 << 40) + 4]).unwrap();
        assert_eq!(bytes(), before + 112);
        let again = first.clone();
        drop(first);
        assert_eq!(bytes(), before + 112);
        drop((again, pieces));
        assert_eq!(bytes(), before);
    }

    #[test]
    fn memory_that_there_is_not_is_an_error_and_no_abort() {
        let device = Interpreter::new();
        for bytes in [1 << 60, 1 << 50, usize::MAX] {
            let error = device.allocate(bytes).map(drop).unwrap_err();
            assert!(matches!(error, Error::OutOfMemory { bytes: asked, .. } if asked == bytes), "{error}");
        }
        assert_eq!(device.allocate(0).unwrap().bytes(), 0);
    }

    #[test]
    fn tensor_maps_follow_the_block_where_the_specialisation_names_boxes() {
        let device = Interpreter::new();
        let mapped = Specialisation { boxes: Some(TileBoxes { query: 64, key: 64, value: 64, output: 64 }), ..KERNEL };
        let maps = format!("{BLOCK},\n.param .align 64 .b8 maps[512]");
        run(&device, &maps, "prefetch.tensormap [maps];", mapped).unwrap();
        // Behind the whole block, whose last number is there, they begin at a multiple of their own alignment.
        let whole = maps.replace("block[192]", "block[288]");
        let last = "ld.param.b64 %rd1, [block+280];\nsetp.eq.s64 %p0, %rd1, 64;\n@%p0 ret;\nst.global.u32 [%rd0], 1;";
        run(&device, &whole, &format!("prefetch.tensormap [maps];\n{last}"), mapped).unwrap();
        for (parameters, kernel) in [(maps.as_str(), KERNEL), (BLOCK, mapped)] {
            let error = run(&device, parameters, "", kernel).unwrap_err();
            assert!(matches!(error, Error::Launch { .. }), "{error}");
        }
    }
}
