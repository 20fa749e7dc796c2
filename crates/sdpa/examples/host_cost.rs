//! What a call costs the host, and how long the first one takes: cargo run --release -p sdpa --example host_cost
//!
//! Times are medians of batches, of the host alone: work is queued and not waited for. The last line is JSON. With the feature
//! `machine-code` a first call loads machine code, without it the driver compiles PTX. Needs a GPU.

use std::time::Instant;

use sdpa::{Buffer, Cuda, Device, Dtype, Error, Mask, Operand, Packing, Problem, Tensors};

/// Calls of a batch, few enough to wait for nothing: the driver's queue holds about a thousand launches.
const CALLS: u32 = 64;
const BATCHES: usize = 64;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Cuda::new(0)?;
    eprintln!("{}", device.name());
    let packing = Packing { sequences: 16, longest_q: 128, longest_kv: 128 };
    let dense = |batch, heads, len, head_dim| Problem::new(batch, heads, len, head_dim).dtype(Dtype::F16);
    let problems = [
        ("short", dense(1, 8, 512, 64).build()?),
        ("long", dense(2, 8, 2048, 128).mask(Mask::Causal).build()?),
        ("decoding", dense(1, 32, 1, 128).heads_kv(8).len_kv(4096).build()?),
        ("packed", Problem::packed(packing, 8, 16 * 128, 64).build()?),
    ];
    let mut lines = Vec::new();
    for (name, problem) in &problems {
        let measured = measure(&device, problem)?;
        lines.push(format!("{{\"name\":\"{name}\",\"problem\":\"{problem}\",{measured}}}"));
    }
    println!(
        "{{\"example\":\"host_cost\",\"device\":\"{}\",\"machine_code\":{},\"problems\":[{}]}}",
        device.name(),
        cfg!(feature = "machine-code"),
        lines.join(",")
    );
    Ok(())
}

/// Nanoseconds per call in each way to call, as fields of JSON.
fn measure(device: &Cuda, problem: &Problem) -> Result<String, Error> {
    let buffer = |operand| device.allocate(problem.span(operand) * 2);
    let [query, key, value, output] =
        [buffer(Operand::Query)?, buffer(Operand::Key)?, buffer(Operand::Value)?, buffer(Operand::Output)?];
    let begins = begins(device, problem)?;
    let mut tensors = Tensors::new(&query, &key, &value, &output);
    if let Some(begins) = &begins {
        tensors = tensors.with_cu_seqlens(begins, begins);
    }
    device.synchronize()?;
    let started = Instant::now();
    sdpa::forward(device, problem, &tensors)?;
    device.synchronize()?;
    let first = started.elapsed();

    let (generation, plan) = sdpa::planned(problem, device.limits())?;
    let workspace = device.allocate(plan.workspace_bytes)?;
    let prepared = sdpa::prepare(device, problem)?;
    let ways: [(&str, &dyn Fn() -> Result<(), Error>); 4] = [
        ("forward", &|| sdpa::forward(device, problem, &tensors)),
        ("forward_planned", &|| generation.forward_planned(device, problem, &tensors, &plan)),
        ("forward_in", &|| generation.forward_in(device, problem, &tensors, &plan, &workspace)),
        ("prepared", &|| prepared.forward(&tensors)),
    ];
    let mut fields = vec![
        format!("\"generation\":\"{}\",\"launches\":{}", generation.generation().id, plan.launches.len()),
        format!("\"first_call_ms\":{:.2}", first.as_secs_f64() * 1e3),
    ];
    for (name, call) in ways {
        fields.push(format!("\"{name}_ns\":{:.0}", median_ns(device, call)?));
    }
    Ok(fields.join(","))
}

/// Where equally long sequences begin, if the problem is packed.
fn begins(device: &Cuda, problem: &Problem) -> Result<Option<Buffer>, Error> {
    let Some(packing) = problem.packing() else { return Ok(None) };
    let numbers = (0..=packing.sequences).flat_map(|index| ((index * packing.longest_q) as u32).to_le_bytes());
    device.upload(&numbers.collect::<Vec<u8>>()).map(Some)
}

fn median_ns(device: &Cuda, call: &dyn Fn() -> Result<(), Error>) -> Result<f64, Error> {
    let mut batches = Vec::with_capacity(BATCHES);
    for _ in 0..BATCHES {
        device.synchronize()?;
        let started = Instant::now();
        for _ in 0..CALLS {
            call()?;
        }
        batches.push(started.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS));
    }
    batches.sort_by(f64::total_cmp);
    Ok(batches[BATCHES / 2])
}
