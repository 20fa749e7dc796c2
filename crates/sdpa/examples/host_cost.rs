//! What a call costs the host, and how long the first one takes: cargo run --release -p sdpa --example host_cost
//!
//! Times are medians of batches, of the host alone: work is queued and not waited for. A prepared call must give the bits of
//! the first call from copies of its tensors, or nothing is timed. The last line is JSON. With the feature
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
    let [first, second] = [Place::new(device, problem)?, Place::new(device, problem)?];
    let tensors = first.tensors();
    device.synchronize()?;
    let started = Instant::now();
    sdpa::forward(device, problem, &tensors)?;
    device.synchronize()?;
    let first_call = started.elapsed();

    let (generation, plan) = sdpa::planned(problem, device.limits())?;
    let workspace = device.allocate(plan.workspace_bytes)?;
    let prepared = sdpa::prepare(device, problem)?;
    prepared.forward(&second.tensors())?;
    assert!(first.output(device)? == second.output(device)?, "{problem}: a prepared call gives other bits");
    type Call<'c> = &'c dyn Fn() -> Result<(), Error>;
    let ways: [(&str, Call<'_>); 4] = [
        ("forward", &|| sdpa::forward(device, problem, &tensors)),
        ("forward_planned", &|| generation.forward_planned(device, problem, &tensors, &plan)),
        ("forward_in", &|| generation.forward_in(device, problem, &tensors, &plan, &workspace)),
        ("prepared", &|| prepared.forward(&tensors)),
    ];
    let mut fields = vec![
        format!("\"generation\":\"{}\",\"launches\":{}", generation.generation().id, plan.launches.len()),
        format!("\"first_call_ms\":{:.2}", first_call.as_secs_f64() * 1e3),
    ];
    for (name, call) in ways {
        fields.push(format!("\"{name}_ns\":{:.0}", median_ns(device, call)?));
    }
    Ok(fields.join(","))
}

/// The tensors of a problem, with the same numbers in every place.
struct Place {
    /// In the order of [`Operand::ALL`].
    operands: [Buffer; 4],
    begins: Option<Buffer>,
}

impl Place {
    fn new(device: &Cuda, problem: &Problem) -> Result<Self, Error> {
        let operand = |operand: Operand| {
            let mut state = operand as u32 + 1;
            let numbers = (0..problem.span(operand)).flat_map(|_| {
                // Numerical Recipes' generator; f16 from 1/8 to 1, of either sign.
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let bits = (state >> 16) as u16;
                ((0x3000 + (bits & 0x7fff) % 0x0c00) | (bits & 0x8000)).to_le_bytes()
            });
            device.upload(&numbers.collect::<Vec<u8>>())
        };
        let [query, key, value, output] = Operand::ALL.map(operand);
        let begins = match problem.packing() {
            // Equally long.
            Some(packing) => {
                let numbers =
                    (0..=packing.sequences).flat_map(|index| ((index * packing.longest_q) as u32).to_le_bytes());
                Some(device.upload(&numbers.collect::<Vec<u8>>())?)
            }
            None => None,
        };
        Ok(Self { operands: [query?, key?, value?, output?], begins })
    }

    fn tensors(&self) -> Tensors<'_> {
        let [query, key, value, output] = &self.operands;
        let tensors = Tensors::new(query, key, value, output);
        match &self.begins {
            Some(begins) => tensors.with_cu_seqlens(begins, begins),
            None => tensors,
        }
    }

    fn output(&self, device: &Cuda) -> Result<Vec<u8>, Error> {
        let output = &self.operands[Operand::Output as usize];
        let mut bytes = vec![0; output.bytes()];
        device.read(output, 0, &mut bytes)?;
        Ok(bytes)
    }
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
