use harness::case::Case;
use harness::counters::{CASES, count, render};
use harness::generations;
use sdpa_core::DeviceLimits;

fn table(text: &str) -> String {
    let case: Case = text.parse().expect("a case");
    let counted: Vec<_> = generations::ALL.iter().map(|generation| count(*generation, &case).expect("runs")).collect();
    render(&counted).replace('\u{a0}', " ")
}

#[test]
fn what_every_generation_executes() {
    insta::assert_snapshot!(table(CASES[0]), @r#"
                                                v1         v2b         v2c         v2d         v2e
    blocks                                      50           8           8           8          14
    warp instructions                    5 954 056   1 052 466     102 618      78 720     122 262
      async copy                                 0       1 728       1 440       1 376       2 688
      control                              340 080      15 516       4 820       1 048       2 268
      conversion                           339 294     200 570       4 648       5 658       8 638
      float                              1 273 414     559 206      20 518      16 846      22 918
      global memory                        299 922         388         130         450         196
      integer                              765 304     119 180      30 338      16 958      34 776
      local memory                           5 790       1 856         640       1 312       3 584
      move                               2 028 514      36 508       4 942       8 444      14 994
      predicate                            379 866      31 494      17 366       9 458      11 774
      shared memory                              0      71 938       2 512       4 224       7 616
      shuffle                              372 490       8 192         256         384         896
      special function                     149 382       5 314       4 256       4 274       4 298
      synchronisation                            0         576         768          96         448
      tensor                                     0           0       9 984       8 192       7 168
    global bytes loaded                 19 120 896     444 672     444 672     444 672     741 120
    global bytes copied asynchronously           0     589 824     589 824     589 824     974 848
    global bytes stored                     50 952      50 952      50 952      50 952      50 952
    global sectors loaded                  597 528      13 896      13 896      13 896      23 160
    global sectors stored                    1 930       1 762       1 606       3 162       1 666
    shared bytes loaded                          0  21 283 072   3 375 616   2 162 688   2 558 464
    shared bytes stored                          0   1 134 592   1 638 400     589 824   1 447 936
    shared wavefronts                            0     177 154      66 576      21 504      38 320
      ideal                                      0     177 154      39 184      21 504      31 648
      bank conflicts                             0           0      27 392           0       6 672
    tensor-core operations                       0           0  33 554 432  33 554 432  29 360 128
    tensor-core instructions                     0           0       4 096       8 192       7 168
    block barriers                               0         256         128          96         448
    warp barriers                                0         320         640           0           0
    shuffles                               372 490       8 192         256         384         896
    "#);
}

#[test]
fn what_every_generation_executes_with_a_causal_mask() {
    insta::assert_snapshot!(table(CASES[1]), @r#"
                                               v1         v2b         v2c         v2d         v2e
    blocks                                     50           8           8           8          14
    warp instructions                   3 030 664     670 642      69 546      64 320      95 594
      async copy                                0       1 152         960       1 088       1 920
      control                             173 810      10 300       3 172       1 080       2 540
      conversion                          172 446     125 978       3 304       4 506       6 094
      float                               643 462     350 886      13 462      13 070      16 198
      global memory                       151 698         388         130         450         196
      integer                             397 438      80 716      21 202      14 334      29 068
      local memory                          6 176       1 920         672       1 232       3 808
      move                              1 028 376      24 700       4 030       7 068      12 642
      predicate                           194 778      20 646      11 270       8 530       9 134
      shared memory                             0      45 058       1 648       3 200       6 080
      shuffle                             187 210       5 120         160         320         704
      special function                     75 270       3 394       2 672       3 218       2 666
      synchronisation                           0         384         576          80         448
      tensor                                    0           0       6 288       6 144       4 096
    global bytes loaded                 9 634 560     344 832     344 832     378 112     541 440
    global bytes copied asynchronously          0     393 216     393 216     458 752     581 632
    global bytes stored                    50 952      50 952      50 952      50 952      50 952
    global sectors loaded                 301 080      10 776      10 776      11 816      16 920
    global sectors stored                   1 930       1 762       1 606       3 162       1 666
    shared bytes loaded                         0  13 320 448   2 146 816   1 638 400   1 772 032
    shared bytes stored                         0     735 232   1 097 728     458 752   1 054 720
    shared wavefronts                           0     111 106      43 152      16 384      29 104
      ideal                                     0     111 106      25 360      16 384      22 432
      bank conflicts                            0           0      17 792           0       6 672
    tensor-core operations                      0           0  20 971 520  25 165 824  16 777 216
    tensor-core instructions                    0           0       2 560       6 144       4 096
    block barriers                              0         160          80          80         448
    warp barriers                               0         224         496           0           0
    shuffles                              187 210       5 120         160         320         704
    "#);
}

#[test]
fn counts_do_not_depend_on_the_schedule() {
    for generation in generations::ALL {
        let counted = |schedule| {
            let case: Case = format!("L70 d64 f16 causal normal schedule={schedule}").parse().expect("a case");
            count(*generation, &case).expect("runs")
        };
        assert_eq!(counted(0), counted(5));
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
            let counters = count(generation, &case).expect("runs").counters;
            assert!(counters.shared_wavefronts > 0, "{id} {case}");
            assert_eq!(counters.bank_conflicts(), 0, "{id} {case}");
        }
    }
}
