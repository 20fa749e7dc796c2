//! Phases of mbarriers that a lane may miss: found whatever the schedule, and shown by lanes that lag.

use std::collections::HashSet;

use proptest::prelude::*;
use ptx_interp::{FindingKind, Launch, Memory, Missing, Module, Report};

/// A ring of one stage. The second warp's first lane fills it; the first warp waits for it and gives it back, `TURNS` times.
/// `%p1` is true in each warp's first lane.
const RING: &str = "
.version 8.0
.target sm_90
.address_size 64
.entry k()
{
.reg .pred %p<8>;
.reg .b32 %r<16>;
.shared .align 8 .b8 full[8];
.shared .align 8 .b8 empty[8];
.shared .align 4 .b8 cell[4];
mov.u32 %r1, %tid.x;
mov.u32 %r2, full;
mov.u32 %r3, empty;
mov.u32 %r4, cell;
setp.eq.u32 %p2, %r1, 0;
@%p2 mbarrier.init.shared.b64 [%r2], 1;
@%p2 mbarrier.init.shared.b64 [%r3], 1;
bar.sync 0;
mov.u32 %r5, %laneid;
setp.eq.u32 %p1, %r5, 0;
mov.u32 %r6, 0;
mov.u32 %r7, 0;
setp.lt.u32 %p3, %r1, 32;
@!%p3 bra PRODUCER;
CONSUMER:
mbarrier.try_wait.parity.shared.b64 %p4, [%r2], %r6;
@!%p4 bra CONSUMER;
//MEET
//READ
//LEAVE
@!%p1 bra PASSED;
mbarrier.arrive.shared.b64 _, [%r3];
PASSED:
xor.b32 %r6, %r6, 1;
add.u32 %r7, %r7, 1;
setp.lt.u32 %p5, %r7, 5;
@%p5 bra CONSUMER;
ret;
PRODUCER:
//ALONE
xor.b32 %r8, %r6, 1;
AGAIN:
mbarrier.try_wait.parity.shared.b64 %p4, [%r3], %r8;
@!%p4 bra AGAIN;
//PRODUCERS_MEET
@!%p1 bra FILLED;
st.shared.u32 [%r4], %r7;
mbarrier.arrive.shared.b64 _, [%r2];
FILLED:
xor.b32 %r6, %r6, 1;
add.u32 %r7, %r7, 1;
setp.lt.u32 %p5, %r7, 5;
@%p5 bra PRODUCER;
ret;
}
";

const MEETING: &str = "bar.warp.sync -1;";

/// The ring with statements at its marked places.
fn ring(changes: &[(&str, &str)]) -> String {
    let mut text = RING.to_string();
    for (mark, statement) in changes {
        assert!(text.contains(mark), "{mark}");
        text = text.replace(&format!("//{mark}\n"), &format!("{statement}\n"));
    }
    text
}

fn launch(text: &str, seed: u64, change: impl Fn(&mut Launch)) -> Report {
    let kernel = Module::parse(text).expect("parses").kernel("k").expect("decodes");
    let mut launch = Launch::new([1, 1, 1], [64, 1, 1]);
    launch.seed = seed;
    launch.limits.instructions = 100_000;
    change(&mut launch);
    launch.run(&kernel, &mut Memory::new()).expect("is accepted")
}

/// What makes the ring right: both warps meet behind their waits, the consumers also before they give the stage back.
const RIGHT: [(&str, &str); 4] =
    [("MEET", MEETING), ("READ", "ld.shared.u32 %r9, [%r4];"), ("LEAVE", MEETING), ("PRODUCERS_MEET", MEETING)];

fn without(mark: &str) -> String {
    ring(&RIGHT.iter().copied().filter(|(other, _)| *other != mark).collect::<Vec<_>>())
}

const SEEDS: std::ops::Range<u64> = 0..20;

#[test]
fn lanes_that_meet_miss_nothing() {
    for seed in SEEDS {
        for stragglers in [false, true] {
            let report = launch(&ring(&RIGHT), seed, |launch| launch.stragglers = stragglers);
            assert!(report.is_clean(), "seed {seed}: {:#?}", report.findings);
        }
    }
}

/// Each of these holds the lanes together, and orders no memory.
#[test]
fn every_meeting_counts() {
    for meeting in [
        "shfl.sync.idx.b32 %r10, %r1, 0, 31, -1;",
        "shfl.sync.bfly.b32 %r10, %r1, 1, 31, -1;",
        "vote.sync.any.pred %p6, %p1, -1;",
        "redux.sync.add.s32 %r10, %r1, -1;",
        "elect.sync _|%p6, -1;",
        "match.any.sync.b32 %r10, %r1, -1;",
        "barrier.sync.aligned 1, 32;",
        "barrier.arrive.aligned 1, 64;\nbarrier.sync.aligned 2, 32;",
        "barrier.sync 1, 32;",
        "wgmma.fence.sync.aligned;",
        "wgmma.commit_group.sync.aligned;",
        "setmaxnreg.dec.sync.aligned.u32 24;",
    ] {
        // A producer that is one lane, and consumers that read nothing: only the look is at stake.
        let alone = "@!%p1 ret;";
        let once = "setp.lt.u32 %p5, %r7, 1;";
        let text = ring(&[("MEET", meeting), ("ALONE", alone)]);
        let text = if meeting.contains("arrive") { text.replace("setp.lt.u32 %p5, %r7, 5;", once) } else { text };
        for seed in SEEDS {
            let report = launch(&text, seed, |_| {});
            assert!(report.is_clean(), "{meeting}: {:#?}", report.findings);
        }
    }
}

/// Lanes that do not meet: whatever the schedule, with the arrival that lets the next phase begin.
#[test]
fn consumers_that_do_not_meet_may_miss_a_phase() {
    let text = ring(&[("ALONE", "@!%p1 ret;")]);
    for seed in SEEDS {
        let report = launch(&text, seed, |_| {});
        assert!(report.completed, "nothing lags, so nothing hangs");
        let [found] = &report.findings[..] else { panic!("seed {seed}: {:#?}", report.findings) };
        assert_eq!((found.kind, found.missing), (FindingKind::MissedPhase, Some(Missing::Meeting)));
        assert!(found.place.ptx.starts_with("mbarrier.try_wait.parity"), "{found}");
        assert_eq!(found.place.thread.lane, 1, "{found}");
        let other = found.other.as_ref().expect("the arrival");
        assert_eq!((other.ptx.as_str(), other.thread.lane), ("mbarrier.arrive.shared.b64 _, [%r3]", 0));
        assert!(found.message.contains("waits for parity 0 of the mbarrier at 0x400"), "{found}");
        assert!(found.to_string().contains("__syncwarp()"), "{found}");
    }
}

#[test]
fn producers_whose_other_lanes_lag_may_miss_a_phase() {
    for seed in SEEDS {
        let report = launch(&without("PRODUCERS_MEET"), seed, |_| {});
        let [found] = &report.findings[..] else { panic!("seed {seed}: {:#?}", report.findings) };
        assert_eq!((found.kind, found.missing), (FindingKind::MissedPhase, Some(Missing::Meeting)));
        assert_eq!(found.other.as_ref().map(|other| other.ptx.as_str()), Some("mbarrier.arrive.shared.b64 _, [%r2]"));
    }
}

/// The other way to see it: with lanes that lag, some schedules hang.
#[test]
fn what_may_be_missed_is_missed_by_stragglers() {
    for text in [ring(&[("ALONE", "@!%p1 ret;")]), without("PRODUCERS_MEET")] {
        let run = |seed, stragglers| {
            launch(&text, seed, |launch| {
                launch.checks.missed_phases = false;
                launch.stragglers = stragglers;
            })
        };
        let (mut looked_late, mut hung) = (0, 0);
        for seed in SEEDS {
            assert!(
                run(seed, false).is_clean(),
                "seed {seed}: without stragglers and the check there is nothing to see"
            );
            let report = run(seed, true);
            assert_eq!(report, run(seed, true), "the same seed gives the same run");
            let missed = report.of_kind(FindingKind::MissedPhase).next();
            looked_late += u32::from(missed.is_some_and(|found| found.message.contains("looks late")));
            hung += u32::from(!report.completed && missed.is_some());
        }
        assert!(looked_late > 0 && hung > 0, "{looked_late} looks are late, {hung} schedules hang");
    }
}

/// Lanes that a branch has left behind look for the first time when it is too late.
#[test]
fn a_hang_says_what_was_missed() {
    let text = "
.version 8.0
.target sm_90
.address_size 64
.entry k()
{
.reg .pred %p<4>;
.reg .b32 %r<4>;
.shared .align 8 .b8 cell[8];
mov.u32 %r1, %tid.x;
mov.u32 %r2, cell;
setp.eq.u32 %p1, %r1, 0;
@%p1 mbarrier.init.shared.b64 [%r2], 1;
bar.warp.sync -1;
@%p1 mbarrier.arrive.shared.b64 _, [%r2];
@%p1 bra LOOK;
mov.u32 %r3, 0;
LOOK:
mbarrier.try_wait.parity.shared.b64 %p2, [%r2], 0;
@!%p2 bra LOOK;
@%p1 mbarrier.arrive.shared.b64 _, [%r2];
bar.warp.sync -1;
ret;
}
";
    let mut hangs = (0..200).filter_map(|seed| {
        let report = launch(text, seed, |launch| {
            launch.block = [32, 1, 1];
            launch.checks.missed_phases = false;
            launch.stragglers = true;
        });
        report.findings.into_iter().find(|found| found.message.contains("for ever"))
    });
    let found = hangs.find(|found| found.message.contains("and 1 more have"));
    let found = found.expect("a schedule in which lanes look too late");
    assert_eq!((found.kind, found.missing), (FindingKind::MissedPhase, Some(Missing::Meeting)));
    assert!(found.message.contains("for parity 0 of the mbarrier at 0x400"), "{found}");
}

/// A hang says which lanes wait for which mbarrier.
#[test]
fn a_hang_names_the_mbarrier() {
    let text = RING.replace("mbarrier.arrive.shared.b64 _, [%r2];", "");
    let report = launch(&text, 0, |_| {});
    let found = report.of_kind(FindingKind::Deadlock).next().expect("a deadlock");
    assert!(
        found.message.contains("for parity 0 of the mbarrier at 0x400, whose phase 0 awaits 1 of 1 arrivals"),
        "{found}"
    );
}

/// A token names its phase, and a device still looks at its parity only.
#[test]
fn tokens_of_phases_long_past_are_late() {
    let body = |times: usize| {
        format!(
            ".version 8.0\n.target sm_90\n.address_size 64\n.entry k()\n{{\n.reg .pred %p<4>;\n.reg .b32 %r<4>;\n\
             .reg .b64 %rd<4>;\n.shared .align 8 .b8 cell[8];\nmov.u32 %r2, cell;\n\
             mbarrier.init.shared.b64 [%r2], 1;\nmbarrier.arrive.shared.b64 %rd1, [%r2];\n{}\
             mbarrier.test_wait.shared.b64 %p1, [%r2], %rd1;\nret;\n}}\n",
            "mbarrier.arrive.shared.b64 _, [%r2];\n".repeat(times)
        )
    };
    for (times, words) in [(0, None), (1, Some("1 more")), (2, Some("2 more"))] {
        let report = launch(&body(times), 0, |launch| launch.block = [1, 1, 1]);
        let found: Vec<_> = report.findings.iter().map(|finding| (finding.kind, finding.message.clone())).collect();
        match words {
            None => assert_eq!(found, []),
            Some(words) => {
                assert!(matches!(&found[..], [(FindingKind::MissedPhase, text)] if text.contains(words)), "{found:?}");
            }
        }
    }
}

/// What a warp of two lanes does in a small program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Both lanes wait for the next phase of the mbarrier, each on its own.
    Wait,
    /// The first lane lets the next phase complete.
    Arrive,
    /// The lanes meet.
    Meet,
}

/// Whether a lane can look for a phase when a later one is complete, by every interleaving; none if nothing is left to look at.
fn can_miss(steps: &[Step]) -> bool {
    let mut seen = HashSet::new();
    let mut states = vec![[0usize, 0]];
    let before = |lane: usize, at: usize, step: Step| {
        if lane == 1 && step == Step::Arrive { 0 } else { steps[..at].iter().filter(|other| **other == step).count() }
    };
    while let Some(at) = states.pop() {
        if !seen.insert(at) {
            continue;
        }
        let complete = before(0, at[0], Step::Arrive);
        for lane in 0..2 {
            let mut next = at;
            next[lane] += 1;
            match steps.get(at[lane]) {
                Some(Step::Wait) => {
                    // The number of the phase that it waits for.
                    let wanted = before(lane, at[lane], Step::Wait) + 1;
                    if complete > wanted {
                        return true;
                    }
                    if complete == wanted {
                        states.push(next);
                    }
                }
                Some(Step::Meet) if at[0] == at[1] => states.push([at[0] + 1, at[1] + 1]),
                Some(Step::Arrive) => states.push(next),
                Some(Step::Meet) | None => {}
            }
        }
    }
    false
}

fn program_of(steps: &[Step]) -> String {
    let mut text = String::from(
        ".version 8.0\n.target sm_90\n.address_size 64\n.entry k()\n{\n.reg .pred %p<4>;\n.reg .b32 %r<4>;\n\
         .shared .align 8 .b8 cell[8];\nmov.u32 %r1, %tid.x;\nmov.u32 %r2, cell;\nsetp.eq.u32 %p1, %r1, 0;\n\
         @%p1 mbarrier.init.shared.b64 [%r2], 1;\nbar.sync 0;\n",
    );
    let mut parity = 0;
    for (index, step) in steps.iter().enumerate() {
        match step {
            Step::Wait => {
                text.push_str(&format!(
                    "W{index}:\nmbarrier.try_wait.parity.shared.b64 %p2, [%r2], {parity};\n@!%p2 bra W{index};\n"
                ));
                parity ^= 1;
            }
            Step::Arrive => text.push_str("@%p1 mbarrier.arrive.shared.b64 _, [%r2];\n"),
            Step::Meet => text.push_str("bar.warp.sync 3;\n"),
        }
    }
    text + "ret;\n}\n"
}

/// An arrival, then a wait for its phase, again and again, and meetings in some places.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    let turn = proptest::collection::vec(any::<bool>(), 2).prop_map(|meets| {
        let mut steps = vec![Step::Arrive];
        steps.extend(meets[0].then_some(Step::Meet));
        steps.push(Step::Wait);
        steps.extend(meets[1].then_some(Step::Meet));
        steps
    });
    proptest::collection::vec(turn, 1..5).prop_map(|turns| turns.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// The verdict is that of all interleavings, under any schedule.
    #[test]
    fn agrees_with_enumeration(steps in steps(), seed in any::<u64>()) {
        let text = program_of(&steps);
        let report = launch(&text, seed, |launch| launch.block = [2, 1, 1]);
        prop_assert!(report.completed, "{:#?}\n{text}", report.findings);
        let found = report.of_kind(FindingKind::MissedPhase).next().is_some();
        prop_assert_eq!(found, can_miss(&steps), "{:?}\n{}\n{:#?}", steps, text, report.findings);
        // What lags never finds more than there is.
        let report = launch(&text, seed, |launch| {
            launch.block = [2, 1, 1];
            launch.stragglers = true;
        });
        prop_assert!(report.of_kind(FindingKind::MissedPhase).next().is_none() || can_miss(&steps), "{:#?}\n{}", report.findings, text);
        prop_assert!(report.completed || can_miss(&steps), "{:#?}\n{}", report.findings, text);
    }
}
