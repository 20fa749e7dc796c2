//! One query after another over a cache that grows: `cargo run --release -p sdpa --example decode_steps`.
//!
//! The cache is allocated for the longest sequence, [batch, length, heads, head_dim], and 8 query heads share 2 key heads. A
//! problem that is run again and again is prepared once: planned, its kernels loaded and its workspace allocated. After that
//! `forward` only launches, so that it may also be recorded into a CUDA graph on a stream of your own.

use half::f16;
use sdpa::{DeviceChoice, Layout, Mask, Operand, Problem, Strides, Tensors};

const HEADS: usize = 8;
const KEY_HEADS: usize = 2;
const HEAD_DIM: usize = 64;
const LONGEST: usize = 128;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = sdpa::open(DeviceChoice::from_env()?)?;
    let numbers = |count: usize, wave: f32| -> Vec<u8> {
        (0..count).flat_map(|index| f16::from_f32((index as f32 * wave).sin()).to_le_bytes()).collect()
    };
    let row = KEY_HEADS * HEAD_DIM;
    let (key, value) = (device.upload(&numbers(LONGEST * row, 0.11))?, device.upload(&numbers(LONGEST * row, 0.23))?);
    let query = device.upload(&numbers(HEADS * HEAD_DIM, 0.37))?;
    let output = device.allocate(HEADS * HEAD_DIM * size_of::<f16>())?;
    let lse = device.allocate(HEADS * size_of::<f32>())?;
    let tensors = Tensors::new(&query, &key, &value, &output).with_lse(&lse);

    for length in [1, 64, LONGEST] {
        // The cache's strides stay those of the longest sequence.
        let cache = Strides { batch: (LONGEST * row) as i64, head: HEAD_DIM as i64, row: row as i64 };
        let problem = Problem::new(1, HEADS, 1, HEAD_DIM)
            .heads_kv(KEY_HEADS)
            .len_kv(length)
            .mask(Mask::Causal)
            .layout(Layout::Blhd)
            .strides(Operand::Key, cache)
            .strides(Operand::Value, cache)
            .build()?;
        let prepared = sdpa::prepare(&*device, &problem)?;
        for _ in 0..3 {
            prepared.forward(&tensors)?;
        }
        let mut bytes = vec![0; lse.bytes()];
        device.read(&lse, 0, &mut bytes)?;
        let sums: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        println!("{length} keys by {}: the heads' log-sum-exps are {sums:.3?}", prepared.plan());
        assert!(sums.iter().all(|sum| sum.is_finite()));
    }
    Ok(())
}
