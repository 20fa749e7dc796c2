//! A device whose memory is a map and whose kernels are Rust functions, to prove the harness's own checks.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use sdpa_core::{
    Accuracy, Architecture, Attention, Budget, Buffer, Device, DeviceKind, DeviceLimits, Dtype, Error, Extensions,
    Generation, Launch, LaunchPlan, Mask, MemoryId, PackedPtx, Params, Problem, Recording, Resources, Result,
    Specialisation, Unsupported,
};

use super::faults::{self, Fault};

/// Functions have no PTX.
static HOST: PackedPtx = PackedPtx::new("host functions", &[]);

/// Runs [`HostGeneration`]s and nothing else.
#[derive(Debug, Default)]
pub struct HostDevice {
    memory: Mutex<Memory>,
    id: MemoryId,
    launches: AtomicU64,
}

/// Buffers by their address, which is a name and no pointer.
#[derive(Debug, Default)]
pub(super) struct Memory {
    buffers: BTreeMap<u64, Vec<u8>>,
}

impl Memory {
    /// The bytes from `address` on, to the end of the buffer that it lies in.
    fn bytes_mut(&mut self, address: u64, length: usize) -> Result<&mut [u8]> {
        let outside = || Error::Findings {
            launch: "a host kernel".to_owned(),
            findings: format!("{length} bytes at {address:#x} lie outside of every buffer"),
        };
        let (start, buffer) = self.buffers.range_mut(..=address).next_back().ok_or_else(outside)?;
        buffer.get_mut((address - start) as usize..).and_then(|bytes| bytes.get_mut(..length)).ok_or_else(outside)
    }

    pub(super) fn elements(&mut self, address: u64, count: usize) -> Result<Vec<u16>> {
        let bytes = self.bytes_mut(address, 2 * count)?;
        Ok(bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect())
    }

    /// One number for each byte.
    pub(super) fn bytes(&mut self, address: u64, count: usize) -> Result<Vec<u16>> {
        Ok(self.bytes_mut(address, count)?.iter().map(|byte| u16::from(*byte)).collect())
    }

    /// 4-byte numbers.
    pub(super) fn words(&mut self, address: u64, count: usize) -> Result<Vec<u32>> {
        let bytes = self.bytes_mut(address, 4 * count)?;
        Ok(bytes.chunks_exact(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect())
    }

    pub(super) fn store(&mut self, address: u64, bytes: &[u8]) -> Result<()> {
        self.bytes_mut(address, bytes.len())?.copy_from_slice(bytes);
        Ok(())
    }
}

impl HostDevice {
    fn with_memory<T>(&self, work: impl FnOnce(&mut Memory) -> T) -> T {
        work(&mut self.memory.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Device for HostDevice {
    fn name(&self) -> String {
        "host functions".to_owned()
    }

    fn kind(&self) -> DeviceKind {
        DeviceKind::Interpreter
    }

    fn limits(&self) -> &DeviceLimits {
        &DeviceLimits::A100
    }

    fn memory(&self) -> MemoryId {
        self.id
    }

    /// No function here draws any.
    fn tickets(&self) -> u64 {
        0
    }

    fn allocate_named(&self, name: &str, bytes: usize) -> Result<Buffer> {
        self.allocate_pieces(name, std::slice::from_ref(&(0..bytes)))
    }

    fn allocate_pieces(&self, _name: &str, pieces: &[std::ops::Range<usize>]) -> Result<Buffer> {
        /// Far more than any buffer here, so that two never touch.
        const APART: u64 = 1 << 40;
        let bytes = pieces.last().map_or(0, |last| last.end);
        let address = self.with_memory(|memory| {
            let last = memory.buffers.last_key_value().map_or(0, |(address, _)| *address);
            let address = (last / APART + 1) * APART;
            for piece in pieces {
                memory.buffers.insert(address + piece.start as u64, vec![0; piece.len()]);
            }
            address
        });
        // SAFETY: the address is a key of this device's map, which keeps the buffer for as long as the device lives;
        // nothing dereferences it.
        Ok(unsafe { Buffer::borrowed(address, bytes) })
    }

    fn write(&self, buffer: &Buffer, offset: usize, bytes: &[u8]) -> Result<()> {
        self.with_memory(|memory| memory.store(buffer.address() + offset as u64, bytes))
    }

    fn read(&self, buffer: &Buffer, offset: usize, bytes: &mut [u8]) -> Result<()> {
        self.with_memory(|memory| {
            bytes.copy_from_slice(memory.bytes_mut(buffer.address() + offset as u64, bytes.len())?);
            Ok(())
        })
    }

    /// A function is always there.
    fn load(&self, _kernel: &Specialisation) -> Result<()> {
        Ok(())
    }

    fn launch(&self, launch: &Launch, params: &Params) -> Result<()> {
        let launches = self.launches.fetch_add(1, Ordering::Relaxed);
        let fault = Fault::ALL.into_iter().find(|fault| fault.name() == launch.kernel.source);
        let fault = fault.ok_or_else(|| Error::NoPtx { kernel: launch.kernel.source.to_owned(), pack: HOST.id() })?;
        self.with_memory(|memory| faults::attention(memory, params, launch.kernel.name, fault, launches))
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn record(&self, _work: &mut dyn FnMut() -> Result<()>) -> Result<Box<dyn Recording + '_>> {
        Err(Error::NoClock { device: self.name() })
    }

    /// A function stays what it is.
    fn substitute(&self, _kernel: &Specialisation, _ptx: &str) -> Result<()> {
        Ok(())
    }

    fn resources(&self, _kernel: &Specialisation) -> Result<Option<Resources>> {
        Ok(None)
    }
}

/// A generation whose kernel is a Rust function with this fault.
#[derive(Debug)]
pub struct HostGeneration {
    fault: Fault,
    generation: Generation,
}

impl HostGeneration {
    /// Right in everything but this.
    pub fn new(fault: Fault) -> Self {
        let generation = Generation {
            id: fault.name(),
            title: "a function on the host",
            parent: None,
            specialisations: &[],
            budget: Budget { registers: 0, shared_bytes: 0, spill_bytes: 0 },
            accuracy: Accuracy::Standard,
            alignment: 2,
            takes: match fault {
                // Lengths of packed sequences and of pages stop shrinking before those of a dense problem would.
                Fault::Deadly => Extensions::NONE,
                _ => Extensions { value_dim: true, kv_e4m3: true, ..Extensions::ALL },
            },
        };
        Self { fault, generation }
    }
}

impl Attention for HostGeneration {
    fn generation(&self) -> &Generation {
        &self.generation
    }

    fn decide(&self, problem: &Problem, limits: &DeviceLimits) -> std::result::Result<LaunchPlan, Unsupported> {
        if self.fault == Fault::DeclinesAll {
            return Err(Unsupported::NotBuilt { generation: self.generation.id, kernel: "anything" });
        }
        let name = match (problem.dtype(), problem.mask()) {
            (Dtype::F16, Mask::CausalTopLeft) => "f16_top_left",
            (Dtype::F16, _) => "f16",
            (Dtype::Bf16, Mask::CausalTopLeft) => "bf16_top_left",
            (Dtype::Bf16, _) => "bf16",
        };
        let kernel = Specialisation {
            source: self.fault.name(),
            ptx: &HOST,
            name,
            architecture: Architecture::Compute80,
            defines: &[],
            threads: 1,
            shared_bytes: 0,
            boxes: None,
        };
        Launch::per_query_tile(self.generation.id, kernel, problem, 1, limits).map(LaunchPlan::single)
    }
}
