//! A request's result does not change with the others in its batch, although the kernel does.

use sdpa_core::{Attention as _, Device, DeviceChoice, Problem, Result, Tensors};
use sdpa_v2g::V2g;

const KEYS: usize = 700;
const HEAD_DIM: usize = 64;
const GROUP: usize = 2;

/// Sequences enough for more blocks than any device has multiprocessors.
const SEQUENCES: usize = 200;

/// f16 numbers between -1 and 1.
fn numbers(count: usize, mut state: u64) -> Vec<u8> {
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let bits = (state >> 33) as u16;
        // Any significand, exponents -5 to -1, either sign.
        (bits & 0x83ff) | ((10 + (bits >> 10) % 5) << 10)
    };
    (0..count).flat_map(|_| next().to_le_bytes()).collect()
}

/// Sequence 0 of a batch, and which kernel it was.
fn first_of(device: &dyn Device, batch: usize) -> Result<(Vec<u8>, &'static str)> {
    let problem = Problem::new(batch, GROUP, 1, HEAD_DIM).heads_kv(1).len_kv(KEYS).build()?;
    let plan = V2g.plan(&problem, device.limits())?;
    let (queries, keys) = (batch * GROUP * HEAD_DIM, batch * KEYS * HEAD_DIM);
    let [query, key, value] = [(queries, 1), (keys, 2), (keys, 3)].map(|(count, seed)| numbers(count, seed));
    let (query, key, value) = (device.upload(&query)?, device.upload(&key)?, device.upload(&value)?);
    let output = device.allocate(2 * queries)?;
    V2g.forward(device, &problem, &Tensors::new(&query, &key, &value, &output))?;
    let mut first = vec![0; 2 * GROUP * HEAD_DIM];
    device.read(&output, 0, &mut first)?;
    Ok((first, plan.launches[0].kernel.name))
}

#[test]
fn the_kernels_for_few_and_for_many_sequences_give_the_same_bits() {
    let device = sdpa_core::open(DeviceChoice::from_env().unwrap()).unwrap();
    let (alone, few) = first_of(&*device, 1).unwrap();
    let (together, many) = first_of(&*device, SEQUENCES).unwrap();
    assert_eq!((few, many), ("f16_d64_g8", "f16_d64_g4"));
    assert!(alone.chunks(2).any(|element| element != [0, 0]));
    assert_eq!(alone, together);
}
