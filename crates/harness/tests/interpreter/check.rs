use harness::check::{Checked, SHOWN, What, check, prove, render, trials};
use harness::mutants;
use sdpa::generations;
use sdpa_core::{Attention, Interpreter};
use sdpa_toolchain::KernelTexts;

fn checked(generation: &'static dyn Attention, cases: usize, seeds: u64) -> Checked {
    let trials = trials(generation);
    check(generation, &trials[..cases], seeds, &KernelTexts::packed(), || ()).expect("runs")
}

#[test]
fn generations_are_clean() {
    for generation in generations::ALL {
        let checked = checked(*generation, 2, 2);
        let Checked { generation, judged, .. } = checked;
        assert!(judged.rows > 0 && judged.unjudged == 0, "{generation}: {judged}");
        let expected = format!("{generation}: 4 runs, 0 findings; compared with the oracle: {judged}\n");
        assert_eq!(render(&checked, SHOWN), expected);
    }
}

/// Nothing hangs and no value changes if lanes lag behind their warps.
#[test]
fn lanes_may_lag() {
    for generation in generations::ALL {
        for trial in &trials(*generation)[..2] {
            let device = Interpreter::new();
            device.let_lanes_lag(true);
            let proven = prove(&device, *generation, trial);
            proven.unwrap_or_else(|failure| panic!("{} on {trial}: {failure}", generation.generation().id));
        }
    }
}

#[test]
fn a_race_is_shown_with_both_lines_of_source_and_the_command_that_repeats_it() {
    let mutant = mutants::find("shared_statistics_race").expect("is a mutant");
    let mut checked = checked(mutant, 1, 1);
    checked.faults.truncate(1);
    insta::assert_snapshot!(render(&checked, SHOWN), @r#"
    kernels/mutants/shared_statistics_race.cu:57: error: race in shared memory: reads 4 bytes at shared address 0x4500 that thread 128 has written: no barrier and nothing else orders the write before thread 64's read
        57 |             const float alpha = raise_maximum(statistics, score * params.scale_log2e);
           = missing: a barrier between the two, such as `__syncthreads()`
           = in `raise_maximum` at kernels/machine/softmax.cuh:26
        26 |     const float maximum = fmaxf(row.maximum, tile_maximum);
           = thread (64,0,0) of block (0,0,0) (warp 2, lane 0)
           = PTX line 480: ld.shared.f32 %f63, [%rd17+16640]
    kernels/mutants/shared_statistics_race.cu:57: note: the other access
        57 |             const float alpha = raise_maximum(statistics, score * params.scale_log2e);
           = in `raise_maximum` at kernels/machine/softmax.cuh:28
        28 |     row.maximum = maximum;
           = thread (128,0,0) of block (0,0,0) (warp 4, lane 0)
           = PTX line 497: st.shared.f32 [%rd17+16640], %f65
           = schedule 0, seen 1404 times
           = case: b1 h1 L200 d64 f16 full normal seed=1
           = repeat: cargo run --release -- check shared_statistics_race --case "b1 h1 L200 d64 f16 full normal seed=1" --seeds 1

    shared_statistics_race: 1 run, 1 finding; compared with the oracle: no row
    "#);
}

#[test]
fn findings_that_are_not_shown_are_counted() {
    let mutant = mutants::find("missing_syncthreads").expect("is a mutant");
    let checked = checked(mutant, 1, 1);
    let count = checked.faults.len();
    assert!(count > 1, "{checked:?}");
    let errors = |text: &str| text.matches(": error: ").count();
    let few = render(&checked, 1);
    let hidden = count - 1;
    assert!(
        few.contains(&format!(
            "{hidden} of them not shown: `sdpa check missing_syncthreads --all` shows them; compared"
        )),
        "{few}"
    );
    assert_eq!(errors(&few), 1);
    let all = render(&checked, usize::MAX);
    assert!(
        errors(&all) == count && all.contains(&format!("missing_syncthreads: 1 run, {count} findings; compared")),
        "{all}"
    );
}

#[test]
fn a_wrong_value_is_shown_where_nothing_is_found() {
    let checked = checked(mutants::find("no_scale").expect("is a mutant"), 2, 1);
    let [fault] = checked.faults.as_slice() else { panic!("{checked:?}") };
    assert!(matches!(fault.what, What::Wrong(_)) && fault.again == 1, "{fault:?}");
    let text = render(&checked, SHOWN);
    assert!(
        text.starts_with("no_scale: error: ") && text.contains("--seeds 1") && text.contains("2 runs, 1 finding; "),
        "{text}"
    );
}
