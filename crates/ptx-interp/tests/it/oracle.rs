//! The race detector against the definition: tiny random programs of two threads, all of their states enumerated.

use std::collections::HashSet;

use proptest::prelude::*;
use ptx_interp::{FindingKind, Launch, Memory, Module};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Load(u8),
    Store(u8),
    Barrier,
    /// Only thread 0: arrives at an mbarrier that expects one arrival.
    Arrive,
    /// Only thread 1: waits for that arrival.
    Wait,
}

/// Whether two accesses that conflict can be next at the same time; none if the program can get stuck.
fn races(programs: &[Vec<Step>; 2]) -> Option<bool> {
    let mut race = false;
    let mut seen = HashSet::new();
    let mut states = vec![(0usize, 0usize)];
    let arrive_at = programs[0].iter().position(|step| *step == Step::Arrive);
    while let Some((first, second)) = states.pop() {
        if !seen.insert((first, second)) {
            continue;
        }
        let (a, b) = (programs[0].get(first), programs[1].get(second));
        if let (Some(Step::Load(x)), Some(Step::Store(y)))
        | (Some(Step::Store(x)), Some(Step::Load(y) | Step::Store(y))) = (a, b)
        {
            race |= x == y;
        }
        let arrived = arrive_at.is_some_and(|at| first > at);
        let mut moved = false;
        if let Some(step) = a
            && *step != Step::Barrier
        {
            states.push((first + 1, second));
            moved = true;
        }
        if let Some(step) = b
            && *step != Step::Barrier
            && (*step != Step::Wait || arrived)
        {
            states.push((first, second + 1));
            moved = true;
        }
        if a == Some(&Step::Barrier) && b == Some(&Step::Barrier) {
            states.push((first + 1, second + 1));
            moved = true;
        }
        if !moved && (a.is_some() || b.is_some()) {
            return None;
        }
    }
    Some(race)
}

fn ptx(programs: &[Vec<Step>; 2]) -> String {
    let mut text = String::from(
        ".version 8.0\n.target sm_90\n.address_size 64\n.entry k()\n{\n.reg .pred %p<4>;\n.reg .b32 %r<8>;\n\
         .shared .align 8 .b8 cells[16];\nmov.u32 %r1, %tid.x;\nsetp.eq.u32 %p1, %r1, 0;\nmov.u32 %r2, cells;\n\
         @!%p1 bra READY;\nst.shared.u32 [%r2], 100;\nst.shared.u32 [%r2+4], 101;\nmbarrier.init.shared.b64 [%r2+8], 1;\nREADY:\n\
         bar.sync 0;\nsetp.eq.u32 %p2, %r1, 32;\n@%p1 bra FIRST;\n@%p2 bra SECOND;\nmov.u32 %r3, 0;\n",
    );
    // Idle lanes meet at the barriers only; lanes of a warp come back together before each.
    let barriers = programs[0].iter().filter(|step| **step == Step::Barrier).count();
    text.push_str("bra JOIN0;\n");
    for (thread, label) in [(0, "FIRST"), (1, "SECOND")] {
        text.push_str(&format!("{label}:\n"));
        let mut phase = 0;
        for (index, step) in programs[thread].iter().enumerate() {
            match step {
                Step::Load(cell) => text.push_str(&format!("ld.shared.u32 %r5, [%r2+{}];\n", 4 * cell)),
                Step::Store(cell) => {
                    text.push_str(&format!("st.shared.u32 [%r2+{}], {};\n", 4 * cell, 1000 + 100 * thread + index));
                }
                Step::Arrive => text.push_str("mbarrier.arrive.shared.b64 _, [%r2+8];\n"),
                Step::Wait => text.push_str(&format!(
                    "W{thread}_{index}:\nmbarrier.try_wait.parity.shared.b64 %p3, [%r2+8], 0;\n@!%p3 bra W{thread}_{index};\n"
                )),
                Step::Barrier => {
                    text.push_str(&format!("bra JOIN{phase};\nBACK{thread}_{phase}:\n"));
                    phase += 1;
                }
            }
        }
        text.push_str("bra END;\n");
    }
    for phase in 0..=barriers {
        text.push_str(&format!("JOIN{phase}:\n"));
        if phase < barriers {
            text.push_str(&format!(
                "bar.sync 0;\n@%p1 bra BACK0_{phase};\n@%p2 bra BACK1_{phase};\nbra JOIN{};\n",
                phase + 1
            ));
        }
    }
    text.push_str("END:\nret;\n}\n");
    text
}

fn accesses() -> impl Strategy<Value = Step> {
    prop_oneof![(0u8..2).prop_map(Step::Load), (0u8..2).prop_map(Step::Store)]
}

fn program() -> impl Strategy<Value = [Vec<Step>; 2]> {
    let phases = proptest::collection::vec(
        (proptest::collection::vec(accesses(), 0..3), proptest::collection::vec(accesses(), 0..3)),
        1..4,
    );
    (phases, any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<bool>()).prop_map(
        |(phases, arrive, wait, ordered)| {
            let mut programs = [Vec::new(), Vec::new()];
            for (index, (first, second)) in phases.into_iter().enumerate() {
                if index > 0 {
                    programs[0].push(Step::Barrier);
                    programs[1].push(Step::Barrier);
                }
                programs[0].extend(first);
                programs[1].extend(second);
            }
            if ordered {
                let at = arrive.index(programs[0].len() + 1);
                programs[0].insert(at, Step::Arrive);
                let at = wait.index(programs[1].len() + 1);
                programs[1].insert(at, Step::Wait);
            }
            programs
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_enumeration(programs in program(), seed in any::<u64>()) {
        let Some(expected) = races(&programs) else { return Ok(()) };
        let text = ptx(&programs);
        let kernel = Module::parse(&text).expect("parses").kernel("k").expect("decodes");
        let mut launch = Launch::new([1, 1, 1], [64, 1, 1]);
        launch.seed = seed;
        let report = launch.run(&kernel, &mut Memory::new()).expect("is accepted");
        prop_assert!(report.completed, "{:#?}\n{text}", report.findings);
        let found = report.of_kind(FindingKind::SharedRace).next().is_some();
        prop_assert_eq!(found, expected, "{:?}\n{}\n{:#?}", programs, text, report.findings);
    }
}
