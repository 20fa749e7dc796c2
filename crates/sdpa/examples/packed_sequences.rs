//! A batch of sequences of different lengths, without padding: `cargo run --release -p sdpa --example packed_sequences`.
//!
//! Their rows lie behind one another, [total, heads, head_dim], and `cu_seqlens` says where each begins. Every query sees 16
//! keys before its own and 16 behind it, of its own sequence only. Runs on the interpreter where there is no GPU.

use half::f16;
use sdpa::{DeviceChoice, Operand, Packing, Problem, Tensors, Window};

const LENGTHS: [usize; 4] = [5, 70, 1, 24];
const HEADS: usize = 4;
const HEAD_DIM: usize = 64;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = sdpa::open(DeviceChoice::from_env()?)?;

    // The host knows how many sequences there are and the longest; where each begins is read on the device.
    let total = LENGTHS.iter().sum();
    let longest = LENGTHS.into_iter().max().unwrap_or(0);
    let packing = Packing { sequences: LENGTHS.len(), longest_q: longest, longest_kv: longest };
    let window = Window { left: Some(16), right: Some(16) };
    let problem = Problem::packed(packing, HEADS, total, HEAD_DIM).window(window).build()?;

    let mut cu_seqlens = vec![0];
    for length in LENGTHS {
        cu_seqlens.push(cu_seqlens[cu_seqlens.len() - 1] + length as u32); // 0, 5, 75, 76, 100
    }
    let bytes: Vec<u8> = cu_seqlens.iter().flat_map(|begin| begin.to_le_bytes()).collect();
    let begins = device.upload(&bytes)?;

    let tensor = |wave: f32| -> Vec<u8> {
        let element = |index: usize| f16::from_f32((index as f32 * wave).sin());
        (0..problem.span(Operand::Query)).flat_map(|index| element(index).to_le_bytes()).collect()
    };
    let (query, key, value) =
        (device.upload(&tensor(0.37))?, device.upload(&tensor(0.11))?, device.upload(&tensor(0.23))?);
    let output = device.allocate(query.bytes())?;
    let lse = device.allocate(problem.lse_len() * size_of::<f32>())?;
    // Queries and keys are as many here, so that one tensor says where both begin.
    let tensors = Tensors::new(&query, &key, &value, &output).with_lse(&lse).with_cu_seqlens(&begins, &begins);
    sdpa::forward(&*device, &problem, &tensors)?;

    let (mut out_bytes, mut lse_bytes) = (vec![0; output.bytes()], vec![0; lse.bytes()]);
    device.read(&output, 0, &mut out_bytes)?;
    device.read(&lse, 0, &mut lse_bytes)?;
    let out: Vec<f16> = out_bytes.as_chunks::<2>().0.iter().map(|bytes| f16::from_le_bytes(*bytes)).collect();
    let lse: Vec<f32> = lse_bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();

    // The first row of each sequence, in head 2. The log-sum-exp is [heads, total].
    let head = 2;
    for (sequence, begin) in cu_seqlens[..LENGTHS.len()].iter().enumerate() {
        let row = *begin as usize;
        let first = (row * HEADS + head) * HEAD_DIM;
        let (numbers, sum) = (&out[first..first + 3], lse[head * total + row]);
        println!("sequence {sequence}, {} rows: {numbers:.3?} …, log-sum-exp {sum:.3}", LENGTHS[sequence]);
        assert!(sum.is_finite());
    }
    // A sequence of one row sees its own key alone: its output is that key's value.
    let value: Vec<u8> = tensor(0.23);
    let alone = 75 * HEADS * HEAD_DIM * size_of::<f16>()..76 * HEADS * HEAD_DIM * size_of::<f16>();
    assert_eq!(out_bytes[alone.clone()], value[alone]);
    Ok(())
}
