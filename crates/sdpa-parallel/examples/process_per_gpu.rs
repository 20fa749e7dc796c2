//! One process per GPU, as torchrun starts them:
//!
//! ```console
//! $ cargo build --release -p sdpa-parallel --example process_per_gpu
//! $ torchrun --nproc-per-node 2 --no-python target/release/examples/process_per_gpu
//! ```
//!
//! Without torchrun, start each with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT of its own. NCCL is found where the loader
//! looks, or where SDPA_NCCL says: `…/nvidia/nccl/lib/libnccl.so.2` of a wheel.

use std::time::{Duration, Instant};

use sdpa_core::{Cuda, Device as _, Dtype, Mask, Operand, Problem};
use sdpa_parallel::{Communicator as _, ContextParallel, LocalTensors, Nccl, Place};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let place = Place::from_env()?;
    let device = Cuda::new(place.gpu)?;
    let communicator = Nccl::of_processes(&device, &place, Duration::from_secs(30))?;

    // A causal sequence of 64 K positions. This rank holds an early and a late part of it.
    let problem = Problem::new(1, 32, 65_536, 128).heads_kv(8).dtype(Dtype::Bf16).mask(Mask::Causal).build()?;
    let parallel = ContextParallel::new(problem, place.ranks)?;
    println!("rank {} holds positions {:?}", place.rank, parallel.queries().chunks(place.rank));

    // Ones everywhere, so that the result is known: an average of ones.
    let ones = |operand| {
        let elements: usize = parallel.local_shape(operand, place.rank).iter().product();
        device.upload(&0x3f80_u16.to_le_bytes().repeat(elements))
    };
    let (query, key, value) = (ones(Operand::Query)?, ones(Operand::Key)?, ones(Operand::Value)?);
    let output = device.allocate(query.bytes())?;
    let tensors = LocalTensors::new(&query, &key, &value, &output);

    let plan = parallel.plan(place.rank)?;
    let workspace = plan.workspace(&device)?;
    // The first pass loads kernels and connects the GPUs.
    plan.forward(&device, &communicator, &tensors, &workspace)?;
    communicator.synchronize(&device)?;
    communicator.barrier()?;
    let started = Instant::now();
    plan.forward(&device, &communicator, &tensors, &workspace)?;
    communicator.synchronize(&device)?;
    communicator.barrier()?;
    let elapsed = started.elapsed();

    let mut found = vec![0; output.bytes()];
    device.read(&output, 0, &mut found)?;
    let right = found.chunks_exact(2).all(|bytes| bytes == 0x3f80_u16.to_le_bytes());
    println!("rank {}: {elapsed:.3?} by {}, {}", place.rank, parallel.way(), if right { "right" } else { "WRONG" });
    Ok(())
}
