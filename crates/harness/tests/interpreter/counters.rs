use harness::case::Case;
use harness::counters::{Counted, count};
use harness::execute::RunError;
use harness::snapshots::Snapshot;
use sdpa::generations;
use sdpa_core::{Attention, DeviceLimits, Error};
use sdpa_toolchain::KernelTexts;

/// `None` where the generation declines the case.
fn counted(generation: &dyn Attention, case: &Case) -> Option<Counted> {
    match count(generation, case, &KernelTexts::packed()) {
        Ok(counted) => Some(counted),
        Err(RunError::Device(Error::Unsupported(_))) => None,
        Err(error) => panic!("{}: {error}", generation.generation().id),
    }
}

/// A file per generation: `sdpa gate ID --accept` accepts what is new.
#[test]
fn what_every_generation_executes() {
    for generation in generations::ALL {
        let id = generation.generation().id;
        let counters = Snapshot::Counters.now(*generation, &KernelTexts::packed());
        insta::assert_snapshot!(Snapshot::Counters.title(id), counters.unwrap_or_else(|error| panic!("{id}: {error}")));
    }
}

#[test]
fn counts_do_not_depend_on_the_schedule() {
    for generation in generations::ALL {
        let with_schedule = |shape: &str, schedule| {
            let case: Case = format!("{shape} d64 f16 causal normal schedule={schedule}").parse().expect("a case");
            counted(*generation, &case)
        };
        let mut ran = 0;
        for shape in ["L70", "h4/2 q1 kv300"] {
            let first = with_schedule(shape, 0);
            assert_eq!(first, with_schedule(shape, 5));
            ran += usize::from(first.is_some());
        }
        assert!(ran > 0, "{} declines every case", generation.generation().id);
    }
}

/// What v2b's padding and v2d's swizzle are for, at every width that they are built for.
#[test]
fn padding_and_swizzle_leave_no_bank_conflict() {
    for id in ["v2b", "v2d"] {
        let generation = generations::find(id).expect("a generation");
        for width in ["d64 f16", "d64 bf16", "d96 f16", "d128 f16", "d128 bf16", "d256 f16"] {
            let case: Case = format!("h2 L97 {width} causal normal").parse().expect("a case");
            if generation.plan(&case.problem, &DeviceLimits::H200).is_err() {
                continue;
            }
            let counters = count(generation, &case, &KernelTexts::packed()).expect("runs").counters;
            assert!(counters.shared_wavefronts > 0, "{id} {case}");
            assert_eq!(counters.bank_conflicts(), 0, "{id} {case}");
        }
    }
}
