use harness::case::Case;
use harness::counters::{CASES, Counted, count, render};
use harness::execute::RunError;
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

fn table(generation: &dyn Attention, text: &str) -> String {
    let case: Case = text.parse().expect("a case");
    match counted(generation, &case) {
        // Without the line of ids, whose width is each id's own.
        Some(counted) => {
            let text = render(&[counted]).replace('\u{a0}', " ");
            text.lines().skip(1).map(|line| format!("{line}\n")).collect()
        }
        None => "declined\n".to_owned(),
    }
}

/// A file a generation, `snapshots/*_<id>.snap`, so that a new one brings its own and changes nobody's. `sdpa counters`
/// puts generations side by side.
#[test]
fn what_every_generation_executes() {
    for generation in generations::ALL {
        let tables = CASES.map(|case| format!("{case}\n{}", table(*generation, case)));
        insta::assert_snapshot!(format!("counters_{}", generation.generation().id), tables.join("\n"));
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
