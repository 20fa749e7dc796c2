//! `cargo bench -p sdpa-bench --bench interpreter`: how fast the interpreter runs the product's kernels, all checks on, on
//! one thread.
//!
//! One generation of each kind: scalar, WMMA, mma.sync. Two heads of 128 queries over 128 keys at head dimension 64; the
//! output is element throughput, where an element is one instruction of one thread. Parsing and decoding are done before
//! the clock starts.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sdpa_core::{Device, Interpreter, Operand, Problem, Tensors};

use harness::case::Case;

/// Every kind of kernel, and what it multiplies with.
const KINDS: [(&str, &str); 3] = [("V1 scalar", "v1"), ("V2c wmma", "v2c"), ("V2d mma.sync", "v2d")];

fn interpreter(criterion: &mut Criterion) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a pool of one thread");
    let problem = Problem::new(1, 2, 128, 64).build().expect("a valid problem");
    let data = Case::new(problem.clone()).data();
    let upload = |device: &Interpreter, elements: &[u16]| {
        let bytes: Vec<u8> = elements.iter().flat_map(|element| element.to_le_bytes()).collect();
        device.upload(&bytes).expect("the interpreter takes any bytes")
    };

    let mut group = criterion.benchmark_group(format!("interpreted {problem}"));
    group.sample_size(20);
    for (name, id) in KINDS {
        let generation = sdpa::generations::find(id).expect("it is on the list");
        let device = Interpreter::new();
        let (query, key, value) =
            (upload(&device, &data.query), upload(&device, &data.key), upload(&device, &data.value));
        let output = device.allocate(problem.span(Operand::Output) * problem.dtype().bytes()).expect("output");
        let lse = device.allocate(problem.lse_len() * size_of::<f32>()).expect("log-sum-exp");
        let tensors = Tensors::new(&query, &key, &value, &output).with_lse(&lse);
        // Fails on any finding. The first run parses and decodes the kernel; the device keeps it.
        let run = || pool.install(|| generation.forward(&device, &problem, &tensors)).expect("a clean run");
        run();
        let instructions = device.take_reports().counters.total_thread_instructions();
        group.throughput(Throughput::Elements(instructions));
        group.bench_function(name, |bencher| bencher.iter(run));
    }
    group.finish();
}

criterion_group!(benches, interpreter);
criterion_main!(benches);
