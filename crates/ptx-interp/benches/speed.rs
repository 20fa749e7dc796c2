//! How fast kernels are interpreted, all checks on, on one thread.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

#[path = "../tests/it/fixtures.rs"]
#[allow(dead_code)]
mod fixtures;

use fixtures::Fixture;

fn speed(criterion: &mut Criterion) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a pool of one thread");
    let mut group = criterion.benchmark_group("checked");
    group.sample_size(20);
    for fixture in
        [Fixture::ColumnSums, Fixture::PipelinedSums, Fixture::WmmaProduct, Fixture::MmaProduct, Fixture::WgmmaProduct]
    {
        let instructions = fixture.run(fixture.ptx(), 1).report.counters.total_thread_instructions();
        group.throughput(Throughput::Elements(instructions));
        group.bench_function(fixture.name(), |bencher| {
            // The launch alone: the reference that its results are compared with takes longer.
            bencher.iter_custom(|turns| {
                pool.install(|| (0..turns).map(|_| black_box(fixture.run(fixture.ptx(), 1)).elapsed).sum())
            });
        });
    }
    group.finish();
    criterion.bench_function("parse and decode mma_product", |bencher| {
        bencher.iter(|| {
            let module = ptx_interp::Module::parse(Fixture::MmaProduct.ptx()).expect("fixture parses");
            black_box(module.kernel("mma_product").is_ok())
        });
    });
}

criterion_group!(benches, speed);
criterion_main!(benches);
