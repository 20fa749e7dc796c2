use harness::case::Case;
use harness::counters::{CASES, Counted, count, render};
use harness::execute::RunError;
use harness::generations;
use sdpa_core::{Attention, Error};

/// `None` where the generation declines the case.
fn counted(generation: &dyn Attention, case: &Case) -> Option<Counted> {
    match count(generation, case) {
        Ok(counted) => Some(counted),
        Err(RunError::Device(Error::Unsupported(_))) => None,
        Err(error) => panic!("{}: {error}", generation.generation().id),
    }
}

fn table(generation: &dyn Attention, text: &str) -> String {
    let case: Case = text.parse().expect("a case");
    let counted: Vec<_> = generations::ALL.iter().filter_map(|generation| counted(*generation, &case)).collect();
    render(&counted).replace('\u{a0}', " ")
}

/// A file a generation, `snapshots/*_<id>.snap`, so that a new one brings its own and changes nobody's. `sdpa counters`
/// puts generations side by side.
#[test]
fn what_every_generation_executes() {
    insta::assert_snapshot!(table(CASES[0]), @r#"
                                                v1         v2b         v2c         v2d         v2e
    blocks                                      50           8           8           8          14
    warp instructions                    5 954 056   1 052 466     102 490      78 848     134 332
      async copy                                 0       1 728       1 440       1 376       3 024
      control                              340 080      15 516       4 820       1 048       3 240
      conversion                           339 294     200 570       4 648       5 658       9 034
      float                              1 273 414     559 206      20 518      16 846      25 470
      global memory                        299 922         388         130         450         388
      integer                              765 304     119 180      30 338      17 086      38 184
      local memory                         417 266       1 856         942       1 568       4 480
      move                               1 617 038      36 508       4 640       8 188      15 538
      predicate                            379 866      31 494      17 366       9 458      13 390
      shared memory                              0      71 938       2 512       4 224       8 182
      shuffle                              372 490       8 192         256         384         896
      special function                     149 382       5 314       4 256       4 274       4 778
      synchronisation                            0         576         640          96         560
      tensor                                     0           0       9 984       8 192       7 168
    global bytes loaded                 19 120 896     444 672     444 672     444 672     741 120
    global bytes copied asynchronously           0     589 824     589 824     589 824     974 848
    global bytes stored                     50 952      50 952      50 952      50 952      50 952
    global sectors loaded                  597 528      13 896      13 896      13 896      23 160
    global sectors stored                    1 930       1 762       1 606       3 162       1 762
    shared bytes loaded                          0  21 283 072   3 375 616   2 162 688   2 657 280
    shared bytes stored                          0   1 134 592   1 638 400     589 824   1 447 936
    shared wavefronts                            0     177 154      66 576      21 504      32 414
      ideal                                      0     109 314      39 184      21 504      31 998
      bank conflicts                             0      67 840      27 392           0         416
    tensor-core operations                       0           0  33 554 432  33 554 432  29 360 128
    tensor-core instructions                     0           0       4 096       8 192       7 168
    block barriers                               0         256         128          96         560
    warp barriers                                0         320         512           0           0
    shuffles                               372 490       8 192         256         384         896
    "#);
}

#[test]
fn what_every_generation_executes_with_a_causal_mask() {
    insta::assert_snapshot!(table(CASES[1]), @r#"
                                               v1         v2b         v2c         v2d         v2e
    blocks                                     50           8           8           8          14
    warp instructions                   3 030 664     670 642      69 466      64 432     107 376
      async copy                                0       1 152         960       1 088       2 256
      control                             173 810      10 300       3 172       1 080       3 560
      conversion                          172 446     125 978       3 304       4 506       6 442
      float                               643 462     350 886      13 462      13 070      18 750
      global memory                       151 698         388         130         450         388
      integer                             397 438      80 716      21 202      14 446      32 188
      local memory                        214 516       1 920         974       1 488       4 704
      move                                820 036      24 700       3 728       6 812      13 186
      predicate                           194 778      20 646      11 270       8 530      10 750
      shared memory                             0      45 058       1 648       3 200       6 646
      shuffle                             187 210       5 120         160         320         704
      special function                     75 270       3 394       2 672       3 218       3 146
      synchronisation                           0         384         496          80         560
      tensor                                    0           0       6 288       6 144       4 096
    global bytes loaded                 9 634 560     344 832     344 832     378 112     541 440
    global bytes copied asynchronously          0     393 216     393 216     458 752     581 632
    global bytes stored                    50 952      50 952      50 952      50 952      50 952
    global sectors loaded                 301 080      10 776      10 776      11 816      16 920
    global sectors stored                   1 930       1 762       1 606       3 162       1 762
    shared bytes loaded                         0  13 320 448   2 146 816   1 638 400   1 870 848
    shared bytes stored                         0     735 232   1 097 728     458 752   1 054 720
    shared wavefronts                           0     111 106      43 152      16 384      23 198
      ideal                                     0      68 610      25 360      16 384      22 782
      bank conflicts                            0      42 496      17 792           0         416
    tensor-core operations                      0           0  20 971 520  25 165 824  16 777 216
    tensor-core instructions                    0           0       2 560       6 144       4 096
    block barriers                              0         160          80          80         560
    warp barriers                               0         224         416           0           0
    shuffles                              187 210       5 120         160         320         704
    "#);
}

#[test]
fn what_every_generation_executes_when_decoding() {
    insta::assert_snapshot!(table(CASES[2]), @r#"
                                               v1         v2b         v2c          v2d         v2e        v2f
    blocks                                      8           8           8            8           8         20
    warp instructions                     445 504   2 850 696     265 416      190 208     137 376     47 304
      async copy                                0       4 416       3 680        3 680       4 032      1 024
      control                              25 368      39 152      12 656          864       2 368      1 172
      conversion                           25 280     547 880      10 560       14 088      10 696      3 028
      float                                95 344   1 532 056      58 840       45 752      25 400      5 304
      global memory                        22 440          16          40           72          16        172
      integer                              57 504     320 560      77 128       39 064      40 016     19 428
      local memory                         30 992       1 920         920        1 632       2 688      1 682
      move                                121 040      89 008       8 608       18 096      12 824      7 096
      predicate                            28 328      80 408      45 688       16 168      13 320      4 250
      shared memory                             0     197 192       6 400       12 416       7 128      1 364
      shuffle                              28 000      22 528         704          896         960        272
      special function                     11 208      14 088      11 648       12 680       6 024        944
      synchronisation                           0       1 472       1 312          224         640        160
      tensor                                    0           0      27 232       24 576      11 264      1 408
    global bytes loaded                 1 434 624   1 434 624   1 434 624    1 434 624   1 434 624    379 904
    global bytes copied asynchronously          0   1 507 328   1 507 328    1 638 400   1 474 560    372 736
    global bytes stored                     1 056       1 056       1 056        1 056       1 056      7 392
    global sectors loaded                  44 832      44 832      44 832       44 832      44 832     11 584
    global sectors stored                      40          40          40           72          40        280
    shared bytes loaded                         0  58 393 600   9 013 248    6 356 992   3 026 944    446 464
    shared bytes stored                         0   2 998 272   4 161 536    1 638 400   1 744 896    474 112
    shared wavefronts                           0     485 000     174 400       62 464      37 496      7 264
      ideal                                     0     299 080     102 976       62 464      37 368      7 204
      bank conflicts                            0     185 920      71 424            0         128         60
    tensor-core operations                      0           0  92 274 688  100 663 296  46 137 344  5 767 168
    tensor-core instructions                    0           0      11 264       24 576      11 264      1 408
    block barriers                              0         704         352          224         640         72
    warp barriers                               0         768         960            0           0         88
    shuffles                               28 000      22 528         704          896         960        272
    "#);
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
            let counters = count(generation, &case).expect("runs").counters;
            assert!(counters.shared_wavefronts > 0, "{id} {case}");
            assert_eq!(counters.bank_conflicts(), 0, "{id} {case}");
        }
    }
}
