//! Attention from a program of your own: `cargo run --release -p sdpa --example own_program`.
//!
//! Opens a device, hands over query, key and value, and reads the output and the log-sum-exp back. On a machine with a
//! GPU the buffers may be your own, too: `Cuda::from_stream` takes your cudarc stream, `Buffer::borrowed` your pointers.

use half::f16;
use sdpa::{DeviceChoice, Mask, Operand, Problem, Tensors};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = sdpa::open(DeviceChoice::from_env()?)?;
    println!("device: {}", device.name());

    // 8 query heads share 2 key heads; 100 queries continue a sequence of 160 positions.
    let problem = Problem::new(1, 8, 160, 64).heads_kv(2).len_q(100).mask(Mask::Causal).build()?;
    let tensor = |operand, wave: f32| -> Vec<u8> {
        let element = |index: usize| f16::from_f32((index as f32 * wave).sin());
        (0..problem.span(operand)).flat_map(|index| element(index).to_bits().to_le_bytes()).collect()
    };
    let query = device.upload(&tensor(Operand::Query, 0.37))?;
    let key = device.upload(&tensor(Operand::Key, 0.11))?;
    let value = device.upload(&tensor(Operand::Value, 0.23))?;
    let output = device.allocate(problem.span(Operand::Output) * problem.dtype().bytes())?;
    let lse = device.allocate(problem.lse_len() * size_of::<f32>())?;

    let (generation, plan) = sdpa::planned(&problem, device.limits())?;
    println!("plan: {plan}");
    let tensors = Tensors::new(&query, &key, &value, &output).with_lse(&lse);
    generation.forward(&*device, &problem, &tensors)?;

    let mut row = [0; 128];
    device.read(&output, 0, &mut row)?;
    let first: Vec<f32> =
        row.chunks_exact(2).take(4).map(|bits| f16::from_le_bytes([bits[0], bits[1]]).to_f32()).collect();
    println!("output[0, 0, 0, ..4] = {first:?}");
    Ok(())
}
