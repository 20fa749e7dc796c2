//! Runs a generation once, and watches every byte that it must not touch.

use std::borrow::Cow;
use std::fmt;
use std::time::{Duration, Instant};

use rayon::prelude::*;
use sdpa_core::{Attention, Buffer, Device, ElementType, Error, Operand, Problem, Tensors, View};

use crate::extension_tensors::ExtensionTensors;
use crate::far::{near, pieces, row_bytes, row_starts};
use crate::regime::Data;

/// Bits of an output element before the kernel runs: a quiet NaN in f16 and bf16, and twice over in f32, with a payload
/// that no arithmetic makes (hardware makes 0x7fff).
pub const POISON: u16 = 0xffe5;

/// Bytes of poison before and after every tensor: more than the widest read or write beyond an end, and a multiple
/// of the 256 bytes that devices align to.
pub const GUARD: usize = 512;

/// What a generation wrote.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// Element bits, strided as the output of [`near`]'s problem; [`POISON`] between rows.
    pub out: Vec<u16>,
    /// Natural-log sum of exp, `[batch, heads_q, len_q]`.
    pub lse: Vec<f32>,
}

impl Output {
    /// The bits of output row `[batch, head, query]`.
    pub fn row(&self, problem: &Problem, [batch, head, query]: [usize; 3]) -> &[u16] {
        let start = problem.row_offset(Operand::Output, batch, head, query);
        &self.out[start..start + problem.value_dim()]
    }

    /// The log-sum-exp of row `[batch, head, query]`.
    pub fn lse_at(&self, problem: &Problem, [batch, head, query]: [usize; 3]) -> f32 {
        self.lse[(batch * problem.heads_q() + head) * problem.len_q() + query]
    }
}

/// What lies around the tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surroundings {
    /// Poison right before and right behind each tensor, checked afterwards.
    Guarded,
    /// Each tensor is a buffer of exactly its own size, so that the interpreter and compute-sanitizer see every access
    /// outside of it, even one whose result is thrown away.
    Exact,
}

/// A run that did not end as it must.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The device or the generation refused, or the kernel failed while it ran.
    #[error(transparent)]
    Device(#[from] Error),
    /// The kernel wrote where it must not, or not where it must.
    #[error(transparent)]
    Memory(#[from] MemoryFault),
}

/// Memory that is not as a right kernel leaves it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryFault {
    /// An element of the output, or a row of the log-sum-exp, still holds poison.
    #[error("{tensor}: {count} elements were never written, the first at {first}")]
    Unwritten {
        /// `output` or `lse`.
        tensor: &'static str,
        /// How many.
        count: usize,
        /// The first of them.
        first: Position,
    },
    /// An element between two rows of a strided output was written.
    #[error(
        "output: {count} elements between its rows were written, the first {first} elements after the tensor's start"
    )]
    Gap {
        /// How many.
        count: usize,
        /// Offset of the first, in elements.
        first: usize,
    },
    /// Bytes outside of a tensor were written.
    #[error("{tensor}: written {distance} bytes {side} ({count} bytes of its guard are changed)")]
    Guard {
        /// Which tensor.
        tensor: &'static str,
        /// `before its start` or `behind its end`.
        side: &'static str,
        /// From the tensor's edge to the nearest changed byte.
        distance: usize,
        /// How many bytes changed.
        count: usize,
    },
    /// An input was written.
    #[error("{tensor}: the kernel changed its input, first {first} bytes after its start")]
    InputChanged {
        /// Which tensor.
        tensor: &'static str,
        /// Offset of the first changed byte.
        first: usize,
    },
}

/// Where in `[batch, head, query]` (and column) something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Batch, head, query.
    pub row: [usize; 3],
    /// Column of the output; `None` for the log-sum-exp.
    pub column: Option<usize>,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [batch, head, query] = self.row;
        write!(f, "[b{batch} h{head} i{query}")?;
        if let Some(column) = self.column {
            write!(f, " d{column}")?;
        }
        f.write_str("]")
    }
}

/// Uploads the inputs, runs the generation once, waits, and checks all memory around and between what it should write.
/// Numbers and result are those of [`near`]'s problem.
///
/// # Errors
/// [`RunError::Device`] with what the device or the plan said; [`RunError::Memory`] where the kernel wrote what it must
/// not, or left an element unwritten.
pub fn execute(
    device: &dyn Device,
    generation: &dyn Attention,
    problem: &Problem,
    data: &Data,
    surroundings: Surroundings,
) -> Result<Output, RunError> {
    // Planned first: what the generation declines needs no memory.
    generation.plan(problem, device.limits()).map_err(Error::from)?;
    let stage = Stage::new(device, problem, data, surroundings)?;
    let ran = stage.run(generation)?;
    stage.check_inputs()?;
    ran.output(device, problem)
}

/// Runs the generation once into an output and a log-sum-exp that were never written, and looks at nothing but what the device
/// says: on the interpreter a kernel that reads them is found.
///
/// # Errors
/// As [`execute`]'s of the device.
pub fn execute_into_unwritten(
    device: &dyn Device,
    generation: &dyn Attention,
    problem: &Problem,
    data: &Data,
) -> Result<(), Error> {
    generation.plan(problem, device.limits())?;
    let stage = Stage::new(device, problem, data, Surroundings::Exact)?;
    let [query, key, value] = &stage.inputs;
    let output = device.allocate_named("output", problem.span(Operand::Output) * problem.dtype().bytes())?;
    let lse = device.allocate_named("lse", problem.lse_len() * size_of::<f32>())?;
    let tensors = Tensors::new(query.view(), key.view(), value.view(), &output).with_lse(&lse);
    generation.forward(device, problem, &stage.extension.add_to(tensors))?;
    device.synchronize()
}

/// A problem's inputs on a device, where several generations may run one after another.
pub(crate) struct Stage<'d> {
    device: &'d dyn Device,
    problem: &'d Problem,
    surroundings: Surroundings,
    /// Query, key and value.
    inputs: [Placed; 3],
    extension: ExtensionTensors<Placed>,
}

impl<'d> Stage<'d> {
    pub(crate) fn new(
        device: &'d dyn Device,
        problem: &'d Problem,
        data: &Data,
        surroundings: Surroundings,
    ) -> Result<Self, Error> {
        let place = |operand, bits: &[u16]| {
            Placed::operand(device, problem, operand, operand_bytes(problem, operand, bits), surroundings)
        };
        let inputs =
            [place(Operand::Query, &data.query)?, place(Operand::Key, &data.key)?, place(Operand::Value, &data.value)?];
        let extension = ExtensionTensors::new(problem, &data.extension, |name, bytes| {
            Placed::new(device, name, bytes, surroundings)
        })?;
        Ok(Self { device, problem, surroundings, inputs, extension })
    }

    /// Runs a generation once for a caller who does not want the log-sum-exp, and looks at nothing but what the device
    /// says.
    pub(crate) fn run_without_lse(&self, generation: &dyn Attention) -> Result<(), Error> {
        let &Self { device, problem, inputs: [ref query, ref key, ref value], .. } = self;
        let output = self.place_output()?;
        let tensors = self.extension.add_to(Tensors::new(query.view(), key.view(), value.view(), output.view()));
        generation.forward(device, problem, &tensors)?;
        device.synchronize()
    }

    fn place_output(&self) -> Result<Placed, Error> {
        let &Self { device, problem, surroundings, .. } = self;
        let bytes = near(problem).span(Operand::Output) * problem.dtype().bytes();
        Placed::operand(device, problem, Operand::Output, poison(bytes), surroundings)
    }

    /// Runs a generation once, into an output of its own full of poison, and waits for it.
    pub(crate) fn run(&self, generation: &dyn Attention) -> Result<Ran, Error> {
        let &Self { device, problem, surroundings, inputs: [ref query, ref key, ref value], .. } = self;
        let output = self.place_output()?;
        let lse = Placed::new(device, "lse", poison(problem.lse_len() * size_of::<f32>()), surroundings)?;
        let tensors = Tensors::new(query.view(), key.view(), value.view(), output.view()).with_lse(lse.view());
        let tensors = self.extension.add_to(tensors);
        device.synchronize()?;
        let started = Instant::now();
        generation.forward(device, problem, &tensors)?;
        device.synchronize()?;
        Ok(Ran { output, lse, took: started.elapsed() })
    }

    /// The inputs are unchanged, and nothing is written around them.
    pub(crate) fn check_inputs(&self) -> Result<(), RunError> {
        for input in self.inputs.iter().chain(self.extension.all()) {
            let found = input.read(self.device)?;
            if found != input.before {
                let first = found.iter().zip(&input.before).take_while(|(found, before)| found == before).count();
                return Err(MemoryFault::InputChanged { tensor: input.name, first }.into());
            }
        }
        Ok(())
    }
}

/// A run that has ended, its result still on the device.
pub(crate) struct Ran {
    output: Placed,
    lse: Placed,
    /// From the launch until the host knows that it has ended, kernels loaded where this was their first launch.
    pub(crate) took: Duration,
}

impl Ran {
    /// The result; every element is written, and nothing around it.
    pub(crate) fn output(&self, device: &dyn Device, problem: &Problem) -> Result<Output, RunError> {
        let found = self.so_far(device)?;
        check_written(&near(problem), &found)?;
        Ok(found)
    }

    /// The result, poison where nothing was written.
    pub(crate) fn so_far(&self, device: &dyn Device) -> Result<Output, RunError> {
        let out = self.output.read(device)?;
        let pairs = out.par_chunks_exact(2).with_min_len(1 << 16);
        let out = pairs.map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
        let lse = self.lse.read(device)?;
        let lse = lse.chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]])).collect();
        Ok(Output { out, lse })
    }
}

fn poison(bytes: usize) -> Vec<u8> {
    POISON.to_le_bytes().repeat(bytes / 2)
}

/// A tensor on the device and what was around it.
struct Placed {
    name: &'static str,
    buffer: Buffer,
    /// Bytes of guard on each side.
    guard: usize,
    /// The tensor's bytes before the kernel ran.
    before: Vec<u8>,
    /// Where each row starts, if the rows lie far apart; else the tensor is in one piece.
    far: Option<Vec<usize>>,
}

impl Placed {
    /// An operand with these bytes, which are those of [`near`]'s problem.
    fn operand(
        device: &dyn Device,
        problem: &Problem,
        operand: Operand,
        bytes: Vec<u8>,
        surroundings: Surroundings,
    ) -> Result<Self, Error> {
        let name = operand.name();
        if matches!(near(problem), Cow::Borrowed(_)) {
            return Self::new(device, name, bytes, surroundings);
        }
        let starts = row_starts(problem, operand);
        let row_bytes = row_bytes(problem, operand);
        let buffer = device.allocate_pieces(name, &pieces(&starts, row_bytes))?;
        for (start, row) in starts.iter().zip(bytes.chunks_exact(row_bytes)) {
            device.write(&buffer, *start, row)?;
        }
        Ok(Self { name, buffer, guard: 0, before: bytes, far: Some(starts) })
    }

    fn new(device: &dyn Device, name: &'static str, bytes: Vec<u8>, surroundings: Surroundings) -> Result<Self, Error> {
        let guard = match surroundings {
            Surroundings::Guarded => GUARD,
            Surroundings::Exact => 0,
        };
        let buffer = device.allocate_named(name, bytes.len() + 2 * guard)?;
        device.write(&buffer, guard, &bytes)?;
        if guard > 0 {
            device.write(&buffer, 0, &poison(guard))?;
            device.write(&buffer, guard + bytes.len(), &poison(guard))?;
        }
        Ok(Self { name, buffer, guard, before: bytes, far: None })
    }

    fn view(&self) -> View<'_> {
        View::new(&self.buffer, self.guard)
    }

    /// The tensor's bytes now.
    fn read(&self, device: &dyn Device) -> Result<Vec<u8>, RunError> {
        let [mut below, mut tensor, mut above] =
            [self.guard, self.before.len(), self.guard].map(|bytes| vec![0; bytes]);
        if let Some(starts) = &self.far {
            let row = tensor.len() / starts.len().max(1);
            for (start, row) in starts.iter().zip(tensor.chunks_exact_mut(row.max(1))) {
                device.read(&self.buffer, *start, row)?;
            }
            return Ok(tensor);
        }
        device.read(&self.buffer, self.guard, &mut tensor)?;
        if self.guard > 0 {
            device.read(&self.buffer, 0, &mut below)?;
            device.read(&self.buffer, self.guard + tensor.len(), &mut above)?;
        }
        let changed = |guard: &[u8]| -> Vec<usize> {
            let pattern = POISON.to_le_bytes();
            guard
                .iter()
                .enumerate()
                .filter(|(index, byte)| **byte != pattern[index % 2])
                .map(|(index, _)| index)
                .collect()
        };
        let (below, above) = (changed(&below), changed(&above));
        let fault = |side, distance, count| MemoryFault::Guard { tensor: self.name, side, distance, count };
        if let Some(nearest) = below.last() {
            return Err(fault("before its start", self.guard - nearest, below.len()).into());
        }
        if let Some(nearest) = above.first() {
            return Err(fault("behind its end", *nearest, above.len()).into());
        }
        Ok(tensor)
    }
}

impl<'a> From<&'a Placed> for View<'a> {
    fn from(placed: &'a Placed) -> Self {
        placed.view()
    }
}

/// Bytes of an operand's elements, as a device holds them: one of each that is stored in 8 bits.
pub fn operand_bytes(problem: &Problem, operand: Operand, elements: &[u16]) -> Vec<u8> {
    match problem.element(operand) {
        ElementType::Dtype(_) => to_bytes(elements),
        ElementType::E4m3 => elements.iter().map(|bits| bits.to_le_bytes()[0]).collect(),
    }
}

/// Bytes of elements of 16 bits, as a device holds them.
pub fn to_bytes(elements: &[u16]) -> Vec<u8> {
    let mut bytes = vec![0; 2 * elements.len()];
    let pairs = bytes.par_chunks_exact_mut(2).with_min_len(1 << 16);
    pairs.zip(elements).for_each(|(pair, bits)| pair.copy_from_slice(&bits.to_le_bytes()));
    bytes
}

/// Every element is written, and none between them.
fn check_written(problem: &Problem, found: &Output) -> Result<(), MemoryFault> {
    // Where rows follow one another there is nothing between them, and poison anywhere is an unwritten element.
    let is_dense = found.out.len() == problem.shape(Operand::Output).iter().product::<usize>();
    if !is_dense || found.out.par_iter().with_min_len(1 << 16).any(|bits| *bits == POISON) {
        check_rows_written(problem, found)?;
    }
    let poison = u32::from(POISON) << 16 | u32::from(POISON);
    let mut missing = rows(problem).filter(|row| found.lse_at(problem, *row).to_bits() == poison);
    if let Some(row) = missing.next() {
        let first = Position { row, column: None };
        return Err(MemoryFault::Unwritten { tensor: "lse", count: 1 + missing.count(), first });
    }
    Ok(())
}

/// The same of the output, row by row.
fn check_rows_written(problem: &Problem, found: &Output) -> Result<(), MemoryFault> {
    let mut inside = vec![false; found.out.len()];
    let (mut unwritten, mut first) = (0, None);
    for row in rows(problem) {
        let start = problem.row_offset(Operand::Output, row[0], row[1], row[2]);
        inside[start..start + problem.value_dim()].fill(true);
        for (column, bits) in found.row(problem, row).iter().enumerate() {
            if *bits == POISON {
                unwritten += 1;
                first.get_or_insert(Position { row, column: Some(column) });
            }
        }
    }
    if let Some(first) = first {
        return Err(MemoryFault::Unwritten { tensor: "output", count: unwritten, first });
    }
    let mut gaps =
        inside.iter().zip(&found.out).enumerate().filter(|(_, (inside, bits))| !**inside && **bits != POISON);
    match gaps.next() {
        Some((first, _)) => Err(MemoryFault::Gap { count: 1 + gaps.count(), first }),
        None => Ok(()),
    }
}

/// Every `[batch, head, query]` of a problem.
pub fn rows(problem: &Problem) -> impl Iterator<Item = [usize; 3]> {
    let (batches, heads, queries) = (problem.batch(), problem.heads_q(), problem.len_q());
    (0..batches)
        .flat_map(move |batch| (0..heads).flat_map(move |head| (0..queries).map(move |query| [batch, head, query])))
}
