//! Decoding with a cache in pages: append, then attend, step for step: `cargo run --release -p sdpa-cache --example decode`.
//!
//! On a GPU both launches of a step are one CUDA graph, recorded once and replayed at every step: what changes from step to
//! step stands on the device. Runs on the interpreter where there is no GPU.

use half::f16;
use sdpa::{Device, DeviceChoice, Operand, PageTable, Paging, Problem, Tensors};
use sdpa_cache::{Append, AppendTensors};
use sdpa_core::DeviceKind;

const SEQUENCES: usize = 3;
const HEADS: [usize; 2] = [8, 2]; // of queries, and of keys
const HEAD_DIM: usize = 64;
const MOST_KEYS: usize = 64;
const PAGE: usize = 16;
/// A sequence's pages lie anywhere in the cache: here 3 apart.
const TABLE: [[u32; MOST_KEYS / PAGE]; SEQUENCES] = [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = sdpa::open(DeviceChoice::from_env()?)?;

    let paging = Paging { page: PAGE, pages: 12, table: PageTable::Rows { width: MOST_KEYS / PAGE } };
    let problem =
        Problem::new(SEQUENCES, HEADS[0], 1, HEAD_DIM).heads_kv(HEADS[1]).len_kv(MOST_KEYS).paged(paging).build()?;
    let append = Append::to_caches_of(&problem, SEQUENCES).build()?.prepare(&*device)?;
    let attend = sdpa::prepare(&*device, &problem)?;

    let zeros = |operand| device.upload(&vec![0; problem.span(operand) * problem.dtype().bytes()]);
    let (query, key_cache, value_cache) = (zeros(Operand::Query)?, zeros(Operand::Key)?, zeros(Operand::Value)?);
    let output = zeros(Operand::Output)?;
    let new_bytes = SEQUENCES * HEADS[1] * HEAD_DIM * problem.dtype().bytes();
    let (new_key, new_value) = (device.upload(&vec![0; new_bytes])?, device.upload(&vec![0; new_bytes])?);
    let table = device.upload(&TABLE.concat().iter().flat_map(|page| page.to_le_bytes()).collect::<Vec<u8>>())?;
    let slots = device.upload(&[0; SEQUENCES * size_of::<i64>()])?;
    let lengths = device.upload(&[0; SEQUENCES * size_of::<u32>()])?;

    let appended = AppendTensors::new(&new_key, &new_value, &slots, &key_cache, &value_cache);
    let tensors = Tensors::new(&query, &key_cache, &value_cache, &output).with_pages(&table, &lengths);
    let mut step = || {
        append.forward(&appended)?;
        attend.forward(&tensors)
    };
    let graph = match device.kind() {
        DeviceKind::Cuda => Some(device.record(&mut step)?),
        DeviceKind::Interpreter => None,
    };

    for token in 0..20 {
        // A model would compute these. Keys of 0 weigh all values alike, so the output is their mean.
        let value = f16::from_f32(token as f32).to_le_bytes().repeat(new_bytes / 2);
        device.write(&new_value, 0, &value)?;
        let slot = |row: &[u32; 4]| i64::from(row[token / PAGE]) * PAGE as i64 + (token % PAGE) as i64;
        device.write(&slots, 0, &TABLE.iter().flat_map(|row| slot(row).to_le_bytes()).collect::<Vec<u8>>())?;
        device.write(&lengths, 0, &[token as u32 + 1; SEQUENCES].map(u32::to_le_bytes).concat())?;
        match &graph {
            Some(graph) => drop(graph.replay(1)?),
            None => step()?,
        }
        let mean = first_element(&*device, &output)?;
        println!("{} keys: {mean}", token + 1);
        assert!((mean - token as f32 / 2.0).abs() < 0.01);
    }
    Ok(())
}

fn first_element(device: &dyn Device, output: &sdpa_core::Buffer) -> Result<f32, sdpa_core::Error> {
    let mut bytes = [0; 2];
    device.read(output, 0, &mut bytes)?;
    Ok(f16::from_le_bytes(bytes).to_f32())
}
