//! The server's device: a cache, an append and a forward pass, prepared once.

use harness::random::Random;
use rayon::prelude::*;
use sdpa_cache::{Append, AppendTensors, PreparedAppend};
use sdpa_core::{Attention, Buffer, Device, DeviceKind, Dtype, Operand, Prepared, Problem, Recording, Result, Tensors};

use super::Shape;
use super::server::Step;

/// Bytes of an element.
const ELEMENT: usize = 2;

/// What is drawn for a token.
#[derive(Clone, Copy)]
pub(super) enum Row {
    Query,
    Key,
    Value,
}

/// The rows of some tokens, `[tokens, heads, head_dim]`: normal numbers, the same whenever they are drawn.
pub(super) fn rows(shape: &Shape, row: Row, tokens: &[u64]) -> Vec<u16> {
    let heads = match row {
        Row::Query => shape.heads_q,
        Row::Key | Row::Value => shape.heads_kv,
    };
    let draw = |token: &u64| {
        let mut random = Random::new(*token, &[row as u64]);
        (0..heads * shape.head_dim).map(move |_| Dtype::Bf16.encode(random.normal())).collect::<Vec<u16>>()
    };
    tokens.par_iter().flat_map_iter(draw).collect()
}

/// What is launched, and everything that it reads and writes.
pub(super) struct Machine<'d> {
    device: &'d dyn Device,
    pub(super) generation: &'d dyn Attention,
    pub(super) shape: Shape,
    append: PreparedAppend<'d>,
    attend: Prepared<'d>,
    query: Buffer,
    new_key: Buffer,
    new_value: Buffer,
    slots: Buffer,
    starts: Buffer,
    lengths: Buffer,
    table: Buffer,
    key_cache: Buffer,
    value_cache: Buffer,
    output: Buffer,
    lse: Buffer,
}

impl<'d> Machine<'d> {
    pub(super) fn new(device: &'d dyn Device, generation: &'d dyn Attention, shape: Shape) -> Result<Self> {
        let problem: Problem = shape.problem()?;
        let attend = generation.prepare(device, &problem)?;
        let append = Append::to_caches_of(&problem, shape.tokens).build().expect("the problem's caches are valid");
        let append = append.prepare(device)?;
        let operand = |operand: Operand| problem.span(operand) * ELEMENT;
        // All of it is NaN until it is written.
        let filled = |bytes: usize| device.upload(&vec![0xff; bytes]);
        let new = shape.tokens * shape.heads_kv * shape.head_dim * ELEMENT;
        let empty = Step::empty(&shape);
        Ok(Self {
            device,
            generation,
            shape,
            append,
            attend,
            query: filled(operand(Operand::Query))?,
            new_key: filled(new)?,
            new_value: filled(new)?,
            slots: filled(empty.slots.len() * size_of::<i64>())?,
            starts: filled(empty.starts.len() * size_of::<u32>())?,
            lengths: filled(empty.lengths.len() * size_of::<u32>())?,
            table: filled(empty.table.len() * size_of::<u32>())?,
            key_cache: filled(operand(Operand::Key))?,
            value_cache: filled(operand(Operand::Value))?,
            output: filled(operand(Operand::Output))?,
            lse: filled(problem.lse_len() * size_of::<f32>())?,
        })
    }

    pub(super) fn device(&self) -> &'d dyn Device {
        self.device
    }

    fn launch_append(&self) -> Result<()> {
        let Self { new_key, new_value, slots, key_cache, value_cache, .. } = self;
        self.append.forward(&AppendTensors::new(new_key, new_value, slots, key_cache, value_cache))
    }

    fn launch_attend(&self) -> Result<()> {
        let tensors = Tensors::new(&self.query, &self.key_cache, &self.value_cache, &self.output)
            .with_lse(&self.lse)
            .with_cu_seqlens_q(&self.starts)
            .with_pages(&self.table, &self.lengths);
        self.attend.forward(&tensors)
    }

    /// The graph of a step, on a device that has graphs.
    pub(super) fn record(&self) -> Result<Option<Box<dyn Recording + '_>>> {
        match self.device.kind() {
            DeviceKind::Interpreter => Ok(None),
            DeviceKind::Cuda => {
                self.device.record(&mut || self.launch_append().and_then(|()| self.launch_attend())).map(Some)
            }
        }
    }

    /// Uploads a step and runs it, by the graph if there is one.
    pub(super) fn run(&self, step: &Step, graph: Option<&(dyn Recording + '_)>) -> Result<()> {
        self.write_rows(&self.new_key, Row::Key, &step.tokens)?;
        self.write_rows(&self.new_value, Row::Value, &step.tokens)?;
        self.device.write(
            &self.slots,
            0,
            &step.slots.iter().flat_map(|slot| slot.to_le_bytes()).collect::<Vec<u8>>(),
        )?;
        self.write_attention(step)?;
        match graph {
            Some(graph) => graph.replay(1).map(drop),
            None => self.launch_append().and_then(|()| self.launch_attend()),
        }
    }

    /// Uploads what a step attends with, and attends without appending anything.
    pub(super) fn attend(&self, step: &Step) -> Result<()> {
        self.write_attention(step)?;
        self.launch_attend()
    }

    fn write_attention(&self, step: &Step) -> Result<()> {
        let numbers = |numbers: &[u32]| numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>();
        self.write_rows(&self.query, Row::Query, &step.tokens)?;
        self.device.write(&self.starts, 0, &numbers(&step.starts))?;
        self.device.write(&self.lengths, 0, &numbers(&step.lengths))?;
        self.device.write(&self.table, 0, &numbers(&step.table))?;
        // A row that is not computed is none of the step before.
        self.device.write(&self.output, 0, &vec![0xff; self.output.bytes()])?;
        self.device.write(&self.lse, 0, &vec![0xff; self.lse.bytes()])
    }

    fn write_rows(&self, buffer: &Buffer, row: Row, tokens: &[u64]) -> Result<()> {
        let bytes: Vec<u8> = rows(&self.shape, row, tokens).iter().flat_map(|bits| bits.to_le_bytes()).collect();
        self.device.write(buffer, 0, &bytes)
    }

    /// What was computed for these rows: elements `[rows, heads, head_dim]`, and log-sum-exps `[heads, rows]`.
    pub(super) fn results(&self, rows: std::ops::Range<usize>) -> Result<(Vec<u16>, Vec<f32>)> {
        let row = self.shape.heads_q * self.shape.head_dim * ELEMENT;
        let mut elements = vec![0; rows.len() * row];
        self.device.read(&self.output, rows.start * row, &mut elements)?;
        let mut sums = vec![0; self.lse.bytes()];
        self.device.read(&self.lse, 0, &mut sums)?;
        let sums: Vec<f32> = sums.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        let sums = sums.chunks(self.shape.tokens).flat_map(|head| &head[rows.clone()]).copied().collect();
        Ok((elements.as_chunks::<2>().0.iter().map(|bytes| u16::from_le_bytes(*bytes)).collect(), sums))
    }
}
