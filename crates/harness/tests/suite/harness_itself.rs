//! The checks can fail: each is shown a kernel that breaks it, and one that is right.

use std::sync::OnceLock;
use std::time::Duration;

use harness::case::Case;
use harness::execute::{MemoryFault, RunError, Surroundings, execute};
use harness::mutants::{Fault, HostDevice, HostGeneration};
use harness::properties;
use harness::regime::Regime;
use harness::strategies::{Size, cases_with};
use harness::suite;
use harness::verify::{Answer, Failure, Question, Reason, Thoroughness, verify};
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::{Config, TestRunner};
use sdpa_core::{Attention, DeviceLimits, Extensions, Generation, LaunchPlan, Layout, Operand, Problem, Unsupported};
use sdpa_ref::Check;

/// Random cases, the same in every run.
fn sample(count: usize) -> Vec<Case> {
    sample_with(Extensions::ALL, count)
}

/// The same with values of other widths than keys.
fn sample_of_widths(count: usize) -> Vec<Case> {
    sample_with(Extensions { value_dim: true, ..Extensions::ALL }, count)
}

/// The same, half of which have keys and values in e4m3.
fn sample_stored(count: usize) -> Vec<Case> {
    sample_with(Extensions { kv_e4m3: true, ..Extensions::ALL }, count)
}

fn sample_with(asked: Extensions, count: usize) -> Vec<Case> {
    let mut runner = TestRunner::deterministic();
    let strategy = cases_with(Size::Small, asked, Extensions::NONE);
    (0..count).map(|_| strategy.new_tree(&mut runner).expect("no case is rejected").current()).collect()
}

fn check(property: &str, fault: Fault, case: &Case) -> Result<(), Failure> {
    let property = properties::find(property).expect("a property's name");
    property.check(&HostDevice::default(), &HostGeneration::new(fault), case).map(drop)
}

#[test]
fn a_right_kernel_has_every_property() {
    for case in sample(6).into_iter().chain(sample_of_widths(4)).chain(sample_stored(8)) {
        for property in properties::ALL {
            if let Err(failure) = check(property.name, Fault::None, &case) {
                panic!("{failure}");
            }
        }
    }
}

#[test]
fn a_verdict_counts_its_rows_and_one_on_no_row_is_none() {
    let right = HostGeneration::new(Fault::None);
    let rows = |property: &str, line: &str| {
        let property = properties::find(property).expect("a property's name");
        property.check(&HostDevice::default(), &right, &line.parse().unwrap())
    };
    let case = "b2 h3 q5 kv9 d16 f16 full normal";
    for (property, expected) in [
        ("matches_reference", 30),
        ("causal_prefix", 0),
        ("batches_are_independent", 15),
        ("nan_query_stays_in_its_row", 30),
        ("strided_is_contiguous", 30),
        ("constant_values_come_back", 30),
        ("key_order_does_not_matter", 30),
    ] {
        let judged = rows(property, case).unwrap_or_else(|failure| panic!("{failure}"));
        // How many rows a prefix has, the case's choices say.
        let is_right = if expected == 0 { (1..=30).contains(&judged.rows) } else { judged.rows == expected };
        assert!(is_right && judged.unjudged == 0, "{property}: {judged}");
    }
    for property in ["matches_reference", "key_order_does_not_matter"] {
        let failure = rows(property, "q5 kv9 d16 bf16 scale=1e38").unwrap_err();
        assert!(matches!(*failure.reason, Reason::Unjudged { rows: 5 }) && !failure.is_verdict(), "{failure}");
    }
    assert_eq!(rows("matches_reference", "b0 q5 kv9 d16").unwrap().rows, 0);
}

/// Which property must notice which fault.
const NOTICES: &[(&str, &[Fault])] = &[
    (
        "matches_reference",
        &[
            Fault::MeanOfValues,
            Fault::NoScale,
            Fault::ScaleTwice,
            Fault::MaskOffByOne,
            Fault::WrongAlignment,
            Fault::TopLeftOffByOne,
            Fault::LastTileDropped,
            Fault::FutureLeaks,
            Fault::PositionMatters,
            Fault::FirstBatchForAll,
            Fault::FirstHeadForAll,
            Fault::HeadsTakeTurns,
            Fault::Overshoot,
            Fault::LseInBits,
            Fault::EmptyRowIsNan,
            Fault::StrideIgnored,
            Fault::ColumnMissing,
            Fault::LseMissing,
            Fault::RowTooLong,
            Fault::WritesBefore,
            Fault::WritesBehind,
            Fault::InputScaled,
            Fault::Unsteady,
            Fault::WindowBeginsLate,
            Fault::WindowEndsLate,
            Fault::WindowCutShort,
            Fault::SinkOfNothingWeighs,
            Fault::CapBeforeScale,
            Fault::SinkTwice,
            Fault::NeighboursKey,
            Fault::SlopeUpwards,
            Fault::LastSequenceForgotten,
            Fault::EmptySequenceShifts,
            Fault::KeyLengthsIgnored,
            Fault::PageOffByOne,
            Fault::LastPageTooLong,
            Fault::NeighboursPage,
            Fault::StaleLength,
            Fault::TableIgnored,
            Fault::OutputAsWideAsKeys,
            Fault::ValuesLieAsKeys,
            Fault::KeyScaleForValues,
            Fault::NeighboursScale,
            Fault::ScaleOfFirstHead,
            Fault::KeyScaleSquared,
            Fault::ValueScaleForgotten,
            Fault::ReadAsE5m2,
            Fault::StoredSubnormalsCut,
        ],
    ),
    ("scales_fold_into_what_is_stored", &[Fault::KeyScaleSquared, Fault::ValueScaleForgotten, Fault::ReadAsE5m2]),
    ("equal_scales_are_one", &[Fault::NeighboursScale]),
    ("stored_values_come_back", &[Fault::KeyScaleForValues, Fault::ReadAsE5m2, Fault::StoredSubnormalsCut]),
    ("stored_nan_reaches_its_column", &[Fault::StoredNanIsNumber]),
    ("value_columns_are_independent", &[Fault::ColumnsLeak]),
    (
        "packed_is_each_sequence_alone",
        &[Fault::NeighboursKey, Fault::LastSequenceForgotten, Fault::EmptySequenceShifts],
    ),
    ("packed_neighbours_do_not_matter", &[Fault::NeighboursKey, Fault::EmptySequenceShifts]),
    ("packed_order_does_not_matter", &[Fault::LastSequenceForgotten, Fault::EmptySequenceShifts]),
    ("wide_window_is_none", &[Fault::WindowCutShort]),
    ("window_hides_the_rest", &[Fault::FutureLeaks, Fault::WindowEndsLate]),
    ("sinks_without_weight_are_none", &[Fault::SinkOfNothingWeighs]),
    ("paged_is_contiguous", &[Fault::PageOffByOne, Fault::NeighboursPage, Fault::StaleLength, Fault::TableIgnored]),
    ("paged_is_each_sequence_alone", &[Fault::NeighboursPage]),
    ("pages_may_lie_anywhere", &[Fault::TableIgnored]),
    ("paged_neighbours_may_grow", &[Fault::NeighboursPage]),
    ("causal_prefix", &[Fault::FutureLeaks, Fault::MaskOffByOne]),
    ("batches_are_independent", &[Fault::FirstBatchForAll]),
    ("heads_are_independent", &[Fault::FirstHeadForAll]),
    ("nan_query_stays_in_its_row", &[Fault::NanFlushed, Fault::NanQuerySpreads]),
    ("nan_key_reaches_only_rows_that_see_it", &[Fault::NanFlushed, Fault::NanKeySpreads]),
    ("strided_is_contiguous", &[Fault::StrideIgnored]),
    ("far_is_near", &[Fault::StrideIgnored]),
    ("grouped_is_repeated", &[Fault::HeadsTakeTurns]),
    ("aligned_masks_agree", &[Fault::TopLeftOffByOne]),
    ("scale_folds_into_the_query", &[Fault::ScaleTwice, Fault::NoScale]),
    ("key_order_does_not_matter", &[Fault::PositionMatters]),
    ("constant_values_come_back", &[Fault::Overshoot]),
    ("single_key_gives_its_value", &[Fault::Overshoot]),
    ("output_lies_within_the_values", &[Fault::Overshoot]),
    ("rows_without_keys_are_zero", &[Fault::EmptyRowIsNan]),
    ("empty_lengths", &[Fault::EmptyRowIsNan]),
];

#[test]
fn every_property_notices_its_faults() {
    let mut cases = sample(150);
    cases.extend(sample_of_widths(30));
    cases.extend(sample_stored(80));
    for property in properties::ALL {
        assert!(NOTICES.iter().any(|(name, _)| *name == property.name), "{} is never shown a fault", property.name);
    }
    for (property, faults) in NOTICES {
        for fault in *faults {
            let noticed =
                cases.iter().any(|case| check(property, *fault, case).is_err_and(|failure| failure.is_verdict()));
            assert!(noticed, "{property} does not notice {}", fault.name());
        }
    }
}

#[test]
fn every_fault_is_noticed_by_something() {
    for fault in Fault::ALL {
        let noticed = NOTICES.iter().any(|(_, faults)| faults.contains(&fault));
        // The last two are not wrong results: the tests of the tests below show them.
        let expected = !matches!(fault, Fault::None | Fault::Deadly | Fault::DeclinesAll);
        assert_eq!(noticed, expected, "{}", fault.name());
    }
}

/// Output rows with room between them, so that there is something to write wrongly.
fn padded() -> Problem {
    let strides = |problem: &Problem| {
        let mut strides = problem.strides(Operand::Output);
        strides.row += 8;
        strides.head *= 2;
        strides.batch *= 2;
        strides
    };
    let problem = Problem::new(2, 2, 5, 8).layout(Layout::Bhld).build().unwrap();
    problem.to_builder().strides(Operand::Output, strides(&problem)).build().unwrap()
}

fn memory_fault(fault: Fault) -> String {
    let problem = padded();
    let data = Regime::Normal.generate(&problem, 0);
    match execute(&HostDevice::default(), &HostGeneration::new(fault), &problem, &data, Surroundings::Guarded) {
        Err(RunError::Memory(fault)) => fault.to_string(),
        other => panic!("{}: {other:?}", fault.name()),
    }
}

#[test]
fn memory_is_watched_all_around() {
    let faults = [
        Fault::ColumnMissing,
        Fault::LseMissing,
        Fault::RowTooLong,
        Fault::WritesBefore,
        Fault::WritesBehind,
        Fault::InputScaled,
    ];
    insta::assert_snapshot!(faults.map(memory_fault).join("\n"), @r"
    output: 4 elements were never written, the first at [b0 h0 i4 d7]
    lse: 4 elements were never written, the first at [b0 h0 i4]
    output: 16 elements between its rows were written, the first 8 elements after the tensor's start
    output: written 1 bytes before its start (2 bytes of its guard are changed)
    lse: written 8 bytes behind its end (4 bytes of its guard are changed)
    query: the kernel changed its input, first 0 bytes after its start
    ");
}

/// Without guards the device itself sees the access.
#[test]
fn exact_buffers_end_where_the_tensor_does() {
    let problem = padded();
    let data = Regime::Normal.generate(&problem, 0);
    let generation = HostGeneration::new(Fault::WritesBehind);
    let result = execute(&HostDevice::default(), &generation, &problem, &data, Surroundings::Exact);
    assert!(matches!(result, Err(RunError::Device(sdpa_core::Error::Findings { .. }))), "{result:?}");
    let right =
        execute(&HostDevice::default(), &HostGeneration::new(Fault::None), &problem, &data, Surroundings::Exact);
    assert_eq!(right.unwrap_or_else(|error| panic!("{error}")), {
        let guarded = HostGeneration::new(Fault::None);
        execute(&HostDevice::default(), &guarded, &problem, &data, Surroundings::Guarded).unwrap()
    });
}

/// Generations that share their inputs are told what each is told alone, even if one of them spoils the inputs for the others.
#[test]
fn together_everybody_is_judged_as_alone() {
    let case: Case = "b2 h2 L70 d16 f16 causal normal seed=1".parse().unwrap();
    let question = Question::new(case, Thoroughness::default()).unwrap();
    let faults =
        [Fault::None, Fault::InputScaled, Fault::Overshoot, Fault::None, Fault::DeclinesAll, Fault::WritesBehind];
    let told = |faults: &[Fault]| {
        let generations: Vec<HostGeneration> = faults.iter().map(|fault| HostGeneration::new(*fault)).collect();
        let subjects: Vec<&dyn Attention> = generations.iter().map(|generation| generation as &dyn Attention).collect();
        let together = question.ask_all(&HostDevice::default(), &subjects);
        let alone = subjects.iter().map(|subject| question.ask(&HostDevice::default(), *subject));
        let words = |answer: Result<Answer, Failure>| match answer {
            Ok(answer) => format!("{:?}", answer.measured),
            Err(failure) => failure.to_string(),
        };
        let (together, alone): (Vec<_>, Vec<_>) =
            (together.into_iter().map(words).collect(), alone.map(words).collect());
        assert_eq!(together, alone);
        together
    };
    let spoiled = told(&faults);
    assert!(spoiled[1].contains("the kernel changed its input"), "{}", spoiled[1]);
    assert_eq!(spoiled[0], spoiled[3]);
    // More than are judged at once, and none that spoils anything.
    assert_eq!(told(&[&faults[2..], &faults[2..], &faults[2..]].concat()).len(), 12);
}

#[test]
fn each_kind_of_wrong_result_has_its_name() {
    let reason = |fault, line: &str| {
        let case = line.parse().unwrap();
        let failure = verify(&HostDevice::default(), &HostGeneration::new(fault), &case).unwrap_err();
        assert!(failure.is_verdict());
        *failure.reason
    };
    let case = "L70 d16 f16 causal normal seed=1";
    assert!(matches!(reason(Fault::Overshoot, case), Reason::Mismatch(mismatch) if mismatch.check == Check::Element));
    assert!(matches!(reason(Fault::LseInBits, case), Reason::Mismatch(mismatch) if mismatch.check == Check::Lse));
    assert!(matches!(reason(Fault::Unsteady, case), Reason::Differs { .. }));
    assert!(matches!(reason(Fault::WritesBehind, case), Reason::Memory(MemoryFault::Guard { .. })));
    let empty = "q9 kv5 d8 f16 causal normal";
    assert!(matches!(reason(Fault::EmptyRowIsNan, empty), Reason::Mismatch(mismatch) if mismatch.check == Check::Nan));
}

#[test]
fn a_failure_says_what_to_do() {
    let case = "h2 q20 kv70 d16 f16 causal integers seed=3 schedule=1".parse().unwrap();
    let failure = verify(&HostDevice::default(), &HostGeneration::new(Fault::MaskOffByOne), &case).unwrap_err();
    insta::assert_snapshot!(failure, @r#"
    mask-off-by-one fails matches_reference on host functions
      case       b1 h2 q20 kv70 d16 f16 causal integers seed=3 schedule=1
      output is wrong
      problem    b1 h2 q20 kv70 d16 f16 causal
      failing    544 of 640 elements are outside their bound (85.00 %)
      failing    38 of 40 rows have a wrong log-sum-exp (95.00 %)
      worst      out[b0 h0 i2 d12] is -0.0567322, expected 0.0198206 ± 9.2e-5 (832 × the bound)
      frobenius  1.16e-1 relative, ideal kernel 2.48e-4, limit 7.56e-4
      where      only queries 0 to 18 of 20
      look at    the mask's diagonal and the last key tile; then the softmax invariants
      repeat     cargo run --release -- verify mask-off-by-one "b1 h2 q20 kv70 d16 f16 causal integers seed=3 schedule=1"
    "#);
}

/// What the numbers are is part of a case's meaning: a seed must mean the same for ever.
#[test]
fn regimes_never_change() {
    let problem = Problem::new(1, 2, 3, 8).build().unwrap();
    let lines = Regime::ALL.map(|regime| {
        let data = regime.generate(&problem, 7);
        let row = |bits: &[u16]| bits[32..36].iter().map(|bits| format!("{bits:04x}")).collect::<Vec<_>>().join(" ");
        format!("{regime:<15} {} | {} | {}", row(&data.query), row(&data.key), row(&data.value))
    });
    insta::assert_snapshot!(lines.join("\n"), @r"
    normal          b28f 3d22 2d9e 35b7 | b2a8 b751 3646 b6d2 | 3197 3591 412b 356a
    peaked          be8f 4922 399e 41b7 | b2a8 b751 3646 b6d2 | 3197 3591 412b 356a
    ascending       41a8 301b 207e 2892 | 3000 a9da 2905 a975 | 3197 3591 412b 356a
    one-hot         0000 0000 0000 503e | 0000 3c00 0000 0000 | 3197 3591 412b 356a
    integers        0000 0000 0000 0000 | 0000 bc00 0000 3c00 | 0000 0000 0000 0000
    constant-values b28f 3d22 2d9e 35b7 | b2a8 b751 3646 b6d2 | 331a ba2e 323d a949
    offset          b28f 3d22 2d9e 35b7 | 4f73 4f63 4f99 4f65 | 63d0 63d1 63d5 63d1
    outliers        b28f 3d22 39ae 3d74 | b2a8 b751 3e90 b709 | 3197 3591 35f9 3807
    huge-logits     d40d 5e57 4ef0 570f | d41c d885 57c0 d836 | 3197 3591 412b 356a
    vast-logits     ea68 7503 657c 6d95 | ea80 ef25 6e20 eea9 | 3197 3591 412b 356a
    ");
}

/// A row's numbers do not depend on where the row lies.
#[test]
fn layouts_hold_the_same_numbers() {
    let contiguous = Problem::new(2, 3, 5, 16).build().unwrap();
    let strided = Problem::new(2, 3, 5, 16).layout(Layout::Blhd).build().unwrap();
    for regime in Regime::ALL {
        let (mut one, mut other) = (regime.generate(&contiguous, 1), regime.generate(&strided, 1));
        for operand in [Operand::Query, Operand::Key, Operand::Value] {
            let at = [1, 2, 3];
            assert_eq!(
                one.row_mut(&contiguous, operand, at),
                other.row_mut(&strided, operand, at),
                "{regime} {operand}"
            );
        }
    }
}

#[test]
fn gaps_between_rows_hold_nan() {
    let problem = Problem::new(1, 1, 2, 8).build().unwrap();
    let mut strides = problem.strides(Operand::Key);
    strides.row = 12;
    let problem = problem.to_builder().strides(Operand::Key, strides).build().unwrap();
    let data = Regime::Normal.generate(&problem, 0);
    let is_nan = |bits: &u16| problem.dtype().decode(*bits).is_nan();
    assert!(data.key[8..12].iter().all(is_nan) && !data.key[..8].iter().chain(&data.key[12..]).any(is_nan));
}

fn host() -> suite::Opened {
    static DEVICE: OnceLock<HostDevice> = OnceLock::new();
    Ok(DEVICE.get_or_init(HostDevice::default))
}

fn prove_fault(test: &'static str, fault: Fault) -> Result<(), suite::Failing> {
    let config = Config { cases: 8, ..suite::config(test) };
    let property = properties::find("matches_reference").expect("a property's name");
    suite::prove_on(host, Size::Small, config, &HostGeneration::new(fault), property)
}

#[test]
fn right_kernels_pass() {
    prove_fault(concat!(module_path!(), "::right_kernels_pass"), Fault::None)
        .unwrap_or_else(|failing| panic!("{failing}"));
}

#[test]
fn wrong_kernels_fail_with_their_smallest_case() {
    let test = concat!(module_path!(), "::wrong_kernels_fail_with_their_smallest_case");
    let failing = prove_fault(test, Fault::Overshoot).unwrap_err();
    assert!(failing.judged);
    // Lengths and seeds may stop shrinking early, where others have rows without keys, which are right: lengths of packed sequences
    // and of pages in use are drawn by the seed.
    let (problem, text) = (&failing.case.problem, failing.to_string());
    assert_eq!((problem.batch(), problem.heads_q(), failing.case.regime), (1, 1, Regime::Normal), "{text}");
    assert!(text.contains(&format!("verify overshoot \"{}\"", failing.case)), "{text}");
}

/// The process dies with every failing case, and proptest shrinks all the same: to the fewest keys that are deadly.
#[test]
fn dying_processes_shrink() {
    let failing = prove_fault(concat!(module_path!(), "::dying_processes_shrink"), Fault::Deadly).unwrap_err();
    assert_eq!(failing.case.problem.len_kv(), 40, "{failing}");
}

/// A generation that takes its time.
struct Slow(HostGeneration);

impl Attention for Slow {
    fn generation(&self) -> &Generation {
        self.0.generation()
    }

    fn decide(&self, problem: &Problem, limits: &DeviceLimits) -> Result<LaunchPlan, Unsupported> {
        std::thread::sleep(Duration::from_millis(100));
        self.0.plan(problem, limits)
    }
}

/// Where the time for shrinking ends it, the case named is one that was seen to fail.
#[test]
fn shrinking_that_ends_early_names_a_failing_case() {
    let test = concat!(module_path!(), "::shrinking_that_ends_early_names_a_failing_case");
    let config = Config { cases: 64, max_shrink_time: 1500, ..suite::config(test) };
    let property = properties::find("matches_reference").expect("a property's name");
    let slow = Slow(HostGeneration::new(Fault::FirstBatchForAll));
    let failing = suite::prove_on(host, Size::Small, config, &slow, property).unwrap_err();
    let again = property.check(&HostDevice::default(), &slow, &failing.case);
    assert!(again.is_err_and(|failure| matches!(*failure.reason, Reason::Mismatch(_))), "{failing}");
}

/// A test that ran nothing has proven nothing.
#[test]
#[should_panic(expected = "could not run its cases")]
fn declining_everything_is_no_pass() {
    let test = concat!(module_path!(), "::declining_everything_is_no_pass");
    prove_fault(test, Fault::DeclinesAll).unwrap_or_else(|failing| panic!("{failing}"));
}

#[test]
#[should_panic(expected = "could not run its cases")]
fn having_no_device_is_no_pass() {
    let config = suite::config(concat!(module_path!(), "::having_no_device_is_no_pass"));
    let property = properties::find("matches_reference").expect("a property's name");
    let generation = HostGeneration::new(Fault::None);
    let no_device = || Err("no such device");
    suite::prove_on(no_device, Size::Small, config, &generation, property)
        .unwrap_or_else(|failing| panic!("{failing}"));
}

#[test]
#[should_panic(expected = "isolated_tests_fail_too failed")]
fn isolated_tests_fail_too() {
    suite::isolated(concat!(module_path!(), "::isolated_tests_fail_too"), |_| Err("as it should".to_owned()));
}
