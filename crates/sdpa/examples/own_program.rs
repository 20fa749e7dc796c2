//! Attention from a program of your own: `cargo run --release -p sdpa --example own_program`.
//!
//! Uploads query, key and value as a projection layer writes them, computes causal attention with grouped heads, and reads
//! the output and the log-sum-exp back. On a machine with a GPU the buffers may be your own: `Cuda::from_stream` takes your
//! cudarc stream, `Buffer::borrowed` your pointers.

use half::f16;
use sdpa::{DeviceChoice, Layout, Mask, Operand, Problem, Tensors};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = sdpa::open(DeviceChoice::from_env()?)?;
    println!("device: {}", device.name());

    // 8 query heads share 2 key heads. 100 queries continue a sequence of 160 positions. [batch, length, heads, head_dim].
    let (heads, queries, head_dim) = (8, 100, 64);
    let problem = Problem::new(1, heads, 160, head_dim)
        .heads_kv(2)
        .len_q(queries)
        .mask(Mask::Causal)
        .layout(Layout::Blhd)
        .build()?;
    let tensor = |operand, wave: f32| -> Vec<u8> {
        let element = |index: usize| f16::from_f32((index as f32 * wave).sin());
        (0..problem.span(operand)).flat_map(|index| element(index).to_le_bytes()).collect()
    };
    let query = device.upload(&tensor(Operand::Query, 0.37))?;
    let key = device.upload(&tensor(Operand::Key, 0.11))?;
    let value = device.upload(&tensor(Operand::Value, 0.23))?;
    let output = device.allocate(problem.span(Operand::Output) * size_of::<f16>())?;
    let lse = device.allocate(problem.lse_len() * size_of::<f32>())?;

    // Plans are made once and run often.
    let (generation, plan) = sdpa::planned(&problem, device.limits())?;
    println!("plan: {plan}");
    // Odd strides fall to a generation that is far slower, and nothing but this says so.
    if let Some(reason) = sdpa::slow_because(&problem, device.limits()) {
        println!("slow, because {reason}");
    }
    let tensors = Tensors::new(&query, &key, &value, &output).with_lse(&lse);
    generation.forward_planned(&*device, &problem, &tensors, &plan)?;

    // Reading waits for what was queued.
    let (mut out_bytes, mut lse_bytes) = (vec![0; output.bytes()], vec![0; lse.bytes()]);
    device.read(&output, 0, &mut out_bytes)?;
    device.read(&lse, 0, &mut lse_bytes)?;
    let out: Vec<f16> = out_bytes.as_chunks::<2>().0.iter().map(|bytes| f16::from_le_bytes(*bytes)).collect();
    let lse: Vec<f32> = lse_bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();

    // The last query of head 3. Strides count elements; the log-sum-exp is [batch, heads, queries], contiguous.
    let (head, row) = (3, queries - 1);
    let strides = problem.strides(Operand::Output);
    let first = head * strides.head as usize + row * strides.row as usize;
    println!("output of head {head}, query {row}: {:?} …", &out[first..first + 4]);
    println!("its log-sum-exp: {}", lse[head * queries + row]);
    assert!(out[first..first + head_dim].iter().all(|element| element.is_finite()));
    Ok(())
}
