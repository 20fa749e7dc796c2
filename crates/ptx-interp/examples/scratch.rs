use ptx_interp::*;
use std::time::Instant;
fn rng(s: &mut u64) -> f32 {
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    ((*s >> 40) as f32 / (1u32 << 24) as f32) * 2.0 - 1.0
}
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let get = |n: &str, d: &str| a.iter().position(|x| x == n).map(|i| a[i + 1].clone()).unwrap_or(d.into());
    let src = std::fs::read_to_string(&a[1]).unwrap();
    let t = Instant::now();
    let m = match Module::parse(&src) {
        Ok(m) => m,
        Err(e) => {
            println!("PARSE {e}");
            return;
        }
    };
    println!("parse+decode {:?}", t.elapsed());
    let names: Vec<_> = m.kernel_names().map(String::from).collect();
    for n in &names {
        if let Err(e) = m.kernel(n) {
            println!("{n}: {e}");
            return;
        }
    }
    let which = get("-k", &names[0]);
    let k = m.kernel(&which).unwrap();
    let (l, bh, d): (usize, usize, usize) = (get("-L", "128").parse().unwrap(), 2, 64);
    let causal: i32 = get("-c", "0").parse().unwrap();
    let scale = 0.125f32;
    let kind = if which.contains("scalar") {
        0
    } else if which.contains("cpasync") {
        1
    } else if which.contains("wmma") {
        2
    } else if which.contains("wgmma") {
        5
    } else if which.contains("bf16") {
        4
    } else {
        3
    };
    let mut s = 0x1234567u64;
    let n = bh * l * d;
    let f2b = |x: f32| half::bf16::from_f32(x);
    let rnd = |x: f32| match kind {
        0 | 1 => x,
        4 => f2b(x).to_f32(),
        _ => half::f16::from_f32(x).to_f32(),
    };
    let q: Vec<f32> = (0..n).map(|_| rnd(rng(&mut s))).collect();
    let kk: Vec<f32> = (0..n).map(|_| rnd(rng(&mut s))).collect();
    let v: Vec<f32> = (0..n).map(|_| rnd(rng(&mut s))).collect();
    let enc = |x: &[f32]| -> Vec<u8> {
        match kind {
            0 | 1 => x.iter().flat_map(|f| f.to_le_bytes()).collect(),
            4 => x.iter().flat_map(|&f| f2b(f).to_le_bytes()).collect(),
            _ => x.iter().flat_map(|&f| half::f16::from_f32(f).to_le_bytes()).collect(),
        }
    };
    let esz = if kind < 2 { 4 } else { 2 };
    let reps: usize = get("-reps", "1").parse().unwrap();
    let seeds: u64 = get("-seed", "1").parse().unwrap();
    for rep in 0..reps {
        let mut mem = Memory::new();
        let mut al = |name: &str, data: Option<Vec<u8>>| {
            let len = n * esz;
            let p = mem.allocate(name, len, 256);
            if let Some(d) = data {
                mem.write(p, &d).unwrap();
            }
            p
        };
        let (aq, ak, av, ao) = (al("q", Some(enc(&q))), al("k", Some(enc(&kk))), al("v", Some(enc(&v))), al("o", None));
        let mut pb: Vec<u8> = vec![];
        for x in [aq, ak, av, ao] {
            pb.extend(x.to_le_bytes())
        }
        let (mut smem, mut bm) = (0u32, 16usize);
        match kind {
            0 => {
                pb.extend(0u64.to_le_bytes());
                pb.extend((l as i32).to_le_bytes());
                pb.extend(scale.to_le_bytes());
                pb.extend(causal.to_le_bytes())
            }
            1 => {
                pb.extend(0u64.to_le_bytes());
                for x in [1i32, bh as i32, l as i32, 0] {
                    pb.extend(x.to_le_bytes())
                }
                for x in [(bh * l * d) as i64, (l * d) as i64, d as i64] {
                    pb.extend(x.to_le_bytes())
                }
                pb.extend(scale.to_le_bytes());
                pb.extend(causal.to_le_bytes());
                smem = (16 + 4 * 32) * 68 * 4
            }
            2 => {
                pb.extend((l as i32).to_le_bytes());
                pb.extend(scale.to_le_bytes());
                pb.extend(causal.to_le_bytes());
                smem = 4 * 64 * 72 * 2 + 2 * 64 * 68 * 4;
                bm = 64
            }
            5 => {
                pb.clear();
                for x in [aq, ak, av, ao] {
                    let map = TensorMapDescription {
                        address: x,
                        element: ElementType::F16,
                        dims: vec![64, l as u64, bh as u64],
                        strides: vec![128, (l * 128) as u64],
                        box_dims: vec![64, 64, 1],
                        element_strides: vec![1; 3],
                        swizzle: Swizzle::Bytes128,
                        fill: OutOfBoundsFill::Zeros,
                    };
                    pb.extend(map.encode().unwrap())
                }
                pb.extend((l as i32).to_le_bytes());
                pb.extend(scale.to_le_bytes());
                pb.extend(causal.to_le_bytes());
                smem = 5 * 8192;
                bm = 64
            }
            _ => {
                pb.extend(0u64.to_le_bytes());
                pb.extend((l as i32).to_le_bytes());
                pb.extend(scale.to_le_bytes());
                pb.extend(causal.to_le_bytes());
                smem = 64 * 64 * 2 * 5;
                bm = 64
            }
        }
        let mut launch = Launch::new([l.div_ceil(bm) as u32, bh as u32, 1], [if kind == 5 { 256 } else { 128 }, 1, 1]);
        launch.dynamic_shared = smem;
        launch.params = pb;
        launch.seed = seeds + rep as u64;
        if get("-check", "1") == "0" {
            launch.checks = Checks::none();
        }
        let t = Instant::now();
        let r = match launch.run(&k, &mut mem) {
            Ok(r) => r,
            Err(e) => {
                println!("{e}");
                return;
            }
        };
        let dt = t.elapsed();
        let out = mem.read_vec(ao, n * esz).unwrap();
        let o: Vec<f32> = match kind {
            0 | 1 => out.chunks(4).map(|c| f32::from_le_bytes(c.try_into().unwrap())).collect(),
            4 => out.chunks(2).map(|c| half::bf16::from_le_bytes([c[0], c[1]]).to_f32()).collect(),
            _ => out.chunks(2).map(|c| half::f16::from_le_bytes([c[0], c[1]]).to_f32()).collect(),
        };
        let mut err = 0f32;
        for h in 0..bh {
            for i in 0..l {
                let nk = if causal != 0 { i + 1 } else { l };
                let sc: Vec<f64> = (0..nk)
                    .map(|j| {
                        (0..d).map(|c| q[(h * l + i) * d + c] as f64 * kk[(h * l + j) * d + c] as f64).sum::<f64>()
                            * scale as f64
                    })
                    .collect();
                let mx = sc.iter().cloned().fold(f64::MIN, f64::max);
                let e: Vec<f64> = sc.iter().map(|x| (x - mx).exp()).collect();
                let z: f64 = e.iter().sum();
                for c in 0..d {
                    let r = ((0..nk).map(|j| e[j] * v[(h * l + j) * d + c] as f64).sum::<f64>() / z) as f32;
                    let x = (o[(h * l + i) * d + c] - r).abs();
                    if x.is_nan() || x > err {
                        err = x
                    }
                }
            }
        }
        println!(
            "{which} {dt:?} warp-ins {} thr-ins {} err {err:.2e} completed {} findings {} conflicts {} wavefronts {}",
            r.counters.total_warp_instructions(),
            r.counters.total_thread_instructions(),
            r.completed,
            r.findings.len(),
            r.counters.bank_conflicts(),
            r.counters.shared_wavefronts
        );
        for f in r.findings.iter().take(3) {
            println!("{f}\n");
        }
    }
}
