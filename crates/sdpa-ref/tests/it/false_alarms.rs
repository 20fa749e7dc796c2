//! A right kernel never fails.

use rayon::prelude::*;
use sdpa_core::{Dtype, ElementType, KvScales, KvStorage, Layout, Mask, Operand, Problem};
use sdpa_ref::{ExtensionInputs, Inputs, Reference, Tolerance};

use crate::data::{Data, Random, Regime, fill, fill_stored};
use crate::kernel::Kernel;

/// Small problems, because those scatter most; edges of tiles are likely.
fn problem(random: &mut Random) -> Problem {
    let length = |random: &mut Random| match random.below(4) {
        0 => random.below(4),
        1 => random.pick(&[15, 16, 17, 31, 33, 63, 64, 65, 127, 128, 129, 191, 200]),
        _ => 1 + random.below(150),
    };
    let group = random.pick(&[1, 1, 2, 3]);
    let heads_kv = 1 + random.below(2);
    let (len_q, len_kv) = (length(random).min(70), length(random));
    let head_dim = random.pick(&[8, 8, 16, 24, 32, 64, 64, 128]);
    let builder = Problem::new(1 + random.below(2), heads_kv * group, len_q, head_dim)
        .heads_kv(heads_kv)
        .len_kv(len_kv)
        .dtype(random.pick(&[Dtype::F16, Dtype::Bf16]))
        .mask(random.pick(&[Mask::Full, Mask::Causal, Mask::CausalTopLeft]))
        .layout(random.pick(&[Layout::Bhld, Layout::Blhd]));
    let builder = match random.below(8) {
        0 => builder.scale(-0.3),
        1 => builder.scale(1.0),
        2 => builder.scale(0.0),
        _ => builder,
    };
    builder.build().expect("valid")
}

fn kernel(random: &mut Random) -> Kernel {
    Kernel {
        tile: random.pick(&[16, 32, 64, 64, 128]),
        folded: random.below(2) == 0,
        tensor_cores: random.below(2) == 0,
        keep_weights: random.below(4) == 0,
        backwards: random.below(4) == 0,
        ..Kernel::default()
    }
}

fn check(seed: u64) {
    let mut random = Random::new(seed);
    let (problem, kernel) = (problem(&mut random), kernel(&mut random));
    let regime = random.pick(&Regime::ALL);
    let data = Data::new(&problem, regime, random.bits());
    let reference = Reference::compute(&problem, &data.inputs(), None).expect("buffers fit");
    if let Err(mismatch) = reference.judge(&kernel.run(&problem, &data).found(), &Tolerance::default()) {
        panic!("seed {seed}, {regime:?}, {kernel:?}: {mismatch}");
    }
}

#[test]
fn right_kernels_pass_in_every_regime() {
    (0..3000_u64).into_par_iter().for_each(check);
}

/// For looking further: `SDPA_REF_SEEDS=100000 cargo test -p sdpa-ref -- --ignored`.
#[test]
#[ignore = "minutes; run by hand after changing a bound"]
fn right_kernels_pass_over_many_more_seeds() {
    let seeds = std::env::var("SDPA_REF_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(100_000_u64);
    (3000..3000 + seeds).into_par_iter().for_each(check);
}

/// A kernel over keys and values in e4m3, as one that widens by shifts makes it: keys are summed as 2⁻⁸ of what is stored, and the
/// scale makes up for it. `factors` are what it takes for the scales of keys and of values, over the right ones.
fn judge_stored(problem: &Problem, seed: u64, factors: [f32; 2]) -> Result<(), String> {
    let mut random = Random::new(seed);
    let stored = problem.to_builder().kv_storage(KvStorage::E4m3(KvScales::Tensor)).build().expect("valid");
    let spread = random.pick(&[0.02, 1.0, 1.0, 30.0]);
    let mut draw = |operand| fill_stored(&stored, operand, |_| spread * random.normal());
    let (key, value) = (draw(Operand::Key), draw(Operand::Value));
    let query = fill(problem, Operand::Query, |_| random.normal());
    let scale = |random: &mut Random| random.pick(&[0.013_f32, 0.7, 1.0, 1.9]) / spread as f32;
    let (key_scale, value_scale) = (scale(&mut random), scale(&mut random));
    let extension =
        ExtensionInputs { key_scale: &[key_scale], value_scale: &[value_scale], ..ExtensionInputs::default() };
    let inputs = Inputs { query: &query, key: &key, value: &value, extension };
    let reference = Reference::compute(&stored, &inputs, None).expect("buffers fit");

    let dtype = problem.dtype();
    let widened = |bits: &[u16], by: f64| -> Vec<u16> {
        bits.iter().map(|bits| dtype.encode(ElementType::E4m3.decode(*bits) * by)).collect()
    };
    let data = Data { query, key: widened(&key, 1.0 / 256.0), value: widened(&value, 1.0) };
    let scale = Some(problem.scale() * (key_scale * factors[0]) * 256.0);
    let kernel = Kernel { scale, value_scale: value_scale * factors[1], ..kernel(&mut random) };
    let result = kernel.run(problem, &data);
    reference.judge(&result.found(), &Tolerance::default()).map(drop).map_err(|mismatch| mismatch.to_string())
}

#[test]
fn right_kernels_of_stored_keys_pass_and_wrong_scales_do_not() {
    (0..400_u64).into_par_iter().for_each(|seed| {
        let problem = problem(&mut Random::new(seed));
        judge_stored(&problem, seed, [1.0; 2]).unwrap_or_else(|mismatch| panic!("seed {seed}: {mismatch}"));
    });
    for dtype in [Dtype::F16, Dtype::Bf16] {
        let problem = Problem::new(1, 2, 130, 64).dtype(dtype).build().expect("valid");
        for seed in 0..4 {
            assert_eq!(judge_stored(&problem, seed, [1.0; 2]), Ok(()));
            for factors in [[1.05, 1.0], [1.0, 1.02], [2.0, 1.0], [1.0, 0.5]] {
                assert!(judge_stored(&problem, seed, factors).is_err(), "{dtype} {seed} {factors:?}");
            }
        }
    }
}
