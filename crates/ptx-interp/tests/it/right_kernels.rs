//! Right kernels give the right result, the same bits and the same counts for every seed, and no finding.

use crate::fixtures::{ALL, Fixture};

fn check(fixture: Fixture, seeds: std::ops::Range<u64>) {
    let mut first = None;
    for seed in seeds {
        let outcome = fixture.run(fixture.ptx(), seed);
        let findings: Vec<_> = outcome.report.findings.iter().map(ToString::to_string).collect();
        assert!(findings.is_empty(), "seed {seed}: {}", findings.join("\n"));
        assert!(outcome.report.completed && outcome.right, "seed {seed}: wrong result");
        let (bytes, counters) = first.get_or_insert_with(|| (outcome.bytes.clone(), outcome.report.counters.clone()));
        assert_eq!(*bytes, outcome.bytes, "seed {seed}: other bits");
        // Who is last differs from seed to seed, and the last block does more.
        if fixture != Fixture::LastBlock {
            assert_eq!(*counters, outcome.report.counters, "seed {seed}: other counts");
        }
    }
}

#[test]
fn no_alarm_and_the_same_bits_for_every_seed() {
    for fixture in ALL {
        check(fixture, 0..40);
    }
}

/// Hundreds of seeds; run with `--ignored`.
#[test]
#[ignore = "slow: hundreds of seeds"]
fn no_alarm_for_hundreds_of_seeds() {
    for fixture in ALL {
        check(fixture, 1000..1500);
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool of threads");
        pool.install(|| {
            let broken = crate::fixtures::without(Fixture::ColumnSums.ptx(), "bar.sync", 0);
            let outcome = Fixture::ColumnSums.run(&broken, 5);
            (outcome.bytes, outcome.report)
        })
    };
    assert_eq!(run(1), run(4));
}

#[test]
fn swizzled_and_padded_tiles_have_no_bank_conflicts() {
    for fixture in [Fixture::ColumnSums, Fixture::PipelinedSums, Fixture::MmaProduct] {
        let counters = fixture.run(fixture.ptx(), 0).report.counters;
        assert_eq!(counters.bank_conflicts(), 0, "{}", fixture.name());
    }
}

#[test]
fn tensor_operations_are_counted() {
    for (fixture, depth) in [(Fixture::WmmaProduct, 64), (Fixture::MmaProduct, 256), (Fixture::WgmmaProduct, 256)] {
        let counters = fixture.run(fixture.ptx(), 0).report.counters;
        assert_eq!(counters.tensor_flops, 2 * 2 * 64 * 64 * depth, "{}", fixture.name());
    }
}
