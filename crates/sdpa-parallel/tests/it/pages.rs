//! `docs/parallel.md` says what the forecast says.

use sdpa_core::{Dtype, Mask, Problem};
use sdpa_parallel::{CLUSTER, ContextParallel, Way};

fn context(length: usize, heads: usize, mask: Mask, ranks: usize) -> ContextParallel {
    let problem = Problem::new(1, heads, length, 128).heads_kv(8).dtype(Dtype::Bf16).mask(mask).build().unwrap();
    ContextParallel::new(problem, ranks).unwrap()
}

#[test]
fn the_pages_forecast_is_the_programs() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/parallel.md");
    let page = std::fs::read_to_string(path).unwrap();
    for (heads, mask) in [(32, Mask::Causal), (32, Mask::Full), (128, Mask::Causal)] {
        let contexts: Vec<_> = [8, 64, 512].map(|ranks| context(1 << 20, heads, mask, ranks)).into();
        let table = CLUSTER.table(&contexts).unwrap();
        let problem = contexts[0].problem();
        let expected = format!("{problem}:\n\n{table}");
        assert!(
            page.contains(&expected),
            "docs/parallel.md is out of date: `cargo run --release -p sdpa-parallel --example cluster` prints\n{expected}"
        );
    }
}

/// The formulas of the page, against the plans' own bytes.
#[test]
fn bytes_are_what_the_page_says() {
    let (length, heads, heads_kv, head_dim) = (1 << 14, 32.0, 8.0, 128.0);
    for ranks in [2, 4, 8] {
        let of = |way, mask, rank| {
            context(length, 32, mask, ranks).with_way(way).plan(rank).unwrap().bytes_received() as f64
        };
        let share = length as f64 * (ranks as f64 - 1.0) / ranks as f64;
        let ring = 4.0 * heads_kv * head_dim * share;
        assert_eq!(of(Way::Ring, Mask::Full, ranks - 1), ring);
        assert_eq!(of(Way::Ring, Mask::Causal, 0), ring);
        assert_eq!(of(Way::Ring, Mask::Causal, ranks - 1), ring / 2.0);
        let by_heads = 4.0 * (heads + heads_kv) * head_dim * share / ranks as f64;
        let lse = 4.0 * heads * share / ranks as f64;
        assert_eq!(of(Way::Heads, Mask::Causal, 1), by_heads + lse);
    }
}

/// A faster network never makes a forecast slower, and with a fast one nothing of a ring's transfers shows.
#[test]
fn forecasts_follow_their_rates() {
    let ring = context(1 << 20, 32, Mask::Causal, 64).with_way(Way::Ring);
    let usual = CLUSTER.forecast(&ring).unwrap();
    let fast = sdpa_parallel::Cluster { network_bytes_per_second: 1e15, nvlink_bytes_per_second: 1e15, ..CLUSTER };
    let fast = fast.forecast(&ring).unwrap();
    assert!(fast.seconds <= usual.seconds);
    assert!((fast.seconds - fast.compute_seconds).abs() < 1e-9 * fast.seconds);
    let slow = sdpa_parallel::Cluster { network_bytes_per_second: 1e9, ..CLUSTER }.forecast(&ring).unwrap();
    assert!(slow.seconds > 2.0 * usual.seconds && slow.compute_seconds == usual.compute_seconds);
    assert_eq!(usual.nvlink_bytes + usual.network_bytes, ring.plan(0).unwrap().bytes_received() as f64);
}
