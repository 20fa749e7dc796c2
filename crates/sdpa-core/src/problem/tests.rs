use super::*;

#[test]
fn bottom_right_and_top_left_differ_only_in_their_diagonal() {
    let build = |mask| Problem::new(1, 1, 3, 8).len_kv(5).mask(mask).build().unwrap();
    let visible = |mask| (0..3).map(|query| build(mask).visible_keys(query)).collect::<Vec<_>>();
    assert_eq!(visible(Mask::Full), [5, 5, 5]);
    assert_eq!(visible(Mask::Causal), [3, 4, 5]);
    assert_eq!(visible(Mask::CausalTopLeft), [1, 2, 3]);
}

#[test]
fn more_queries_than_keys_leave_the_first_rows_empty() {
    let problem = Problem::new(1, 1, 5, 8).len_kv(2).mask(Mask::Causal).build().unwrap();
    assert_eq!((0..5).map(|query| problem.visible_keys(query)).collect::<Vec<_>>(), [0, 0, 0, 1, 2]);
}

#[test]
fn layouts_are_only_strides() {
    let problem = Problem::new(2, 3, 5, 8).layout(Layout::Blhd).build().unwrap();
    assert_eq!(problem.strides(Operand::Query), Strides { batch: 120, head: 8, row: 24 });
    assert_eq!(problem.span(Operand::Query), 240);
    assert_eq!(problem.row_offset(Operand::Query, 1, 2, 3), 120 + 16 + 72);
}

#[test]
fn values_have_a_width_of_their_own() {
    let problem = |width| Problem::new(2, 3, 5, 24).heads_kv(1).value_dim(width).layout(Layout::Blhd).build().unwrap();
    let narrow = problem(8);
    assert_eq!(Operand::ALL.map(|operand| narrow.shape(operand)[3]), [24, 24, 8, 8]);
    assert_eq!(Operand::ALL.map(|operand| narrow.span(operand)), [720, 240, 80, 240]);
    assert_eq!(narrow.strides(Operand::Output), Strides { batch: 120, head: 8, row: 24 });
    assert_eq!(narrow.to_string(), "b2 h3/1 L5 d24 f16 full value_dim=8");
    assert_eq!(narrow.scale(), 1.0 / 24f32.sqrt());
    assert_eq!(narrow.flops(), 2.0 * 2.0 * 3.0 * 25.0 * 32.0);
    assert!(narrow.extensions().value_dim && narrow.to_dense() == narrow);
    assert_eq!(narrow.to_builder().build().unwrap(), narrow);
    // As wide as keys is no width of its own.
    let same = Problem::new(2, 3, 5, 24).heads_kv(1).layout(Layout::Blhd).build().unwrap();
    assert_eq!((problem(24), same.extensions()), (same.clone(), Extensions::NONE));
    assert_eq!(same.flops(), 4.0 * 2.0 * 3.0 * 25.0 * 24.0);
    let paging = Paging { page: 8, pages: 7, table: PageTable::Rows { width: 1 } };
    let paged = Problem::new(2, 3, 5, 24).value_dim(8).paged(paging).build().unwrap();
    assert_eq!((paged.span(Operand::Key), paged.span(Operand::Value)), (7 * 3 * 8 * 24, 7 * 3 * 8 * 8));
    assert_eq!(paged.unpaged(&[3, 5]).unwrap().strides(Operand::Value), Strides { batch: 120, head: 40, row: 8 });
}

#[test]
fn empty_problems_span_nothing() {
    let problem = Problem::new(1, 2, 0, 64).build().unwrap();
    assert_eq!(Operand::ALL.map(|operand| problem.span(operand)), [0; 4]);
}

#[test]
fn errors_say_what_was_found_and_expected() {
    let text = |builder: ProblemBuilder| builder.build().unwrap_err().to_string();
    let rows = |row| Strides { batch: 0, head: 0, row };
    insta::assert_snapshot!(
        [
            text(Problem::new(1, 8, 4, 64).heads_kv(3)),
            text(Problem::new(1, 8, 4, 64).heads_kv(0)),
            text(Problem::new(1, 0, 4, 64)),
            text(Problem::new(1, 8, 4, 60)),
            text(Problem::new(1, 8, 4, 264)),
            text(Problem::new(1, 8, 4, 64).value_dim(60)),
            text(Problem::new(1, 8, 4, 64).value_dim(0)),
            text(Problem::new(1, 1, 4, 64).value_dim(128).strides(Operand::Output, rows(64))),
            text(Problem::new(1, 8, 4, 64).scale(f32::NAN)),
            text(Problem::new(1, 8, 4, 64).scale(-2.4e38)),
            text(Problem::new(1, 8, usize::MAX, 64)),
            text(Problem::new(1, 1, 4, 64).strides(Operand::Key, rows(-64))),
            text(Problem::new(1, 1, 4, 64).strides(Operand::Output, rows(32))),
            text(Problem::new(1, 1, 4, 64).strides(Operand::Value, rows(i64::MAX / 4))),
        ]
        .join("\n"),
        @r"
    heads_q is 8 and heads_kv is 3: the query heads must be a multiple of the key heads
    heads_kv is 0: there must be at least one head
    heads_q is 0: there must be at least one head
    head_dim is 60: it must be a multiple of 8 between 8 and 256
    head_dim is 264: it must be a multiple of 8 between 8 and 256
    value_dim is 60: rows of value and output must have a multiple of 8 elements, between 8 and 256
    value_dim is 0: rows of value and output must have a multiple of 8 elements, between 8 and 256
    output's row stride is 64, but 128 elements lie below it: two of its elements would share memory
    scale is NaN: it must be finite, and below 2.35e38 in magnitude, so that scale · log2(e) is a number, too
    scale is -2.4e38: it must be finite, and below 2.35e38 in magnitude, so that scale · log2(e) is a number, too
    len_q is 18446744073709551615: at most 2147482623 fit the kernels' 32-bit indices
    key's row stride is -64: strides must not be negative
    output's row stride is 32, but 64 elements lie below it: two of its elements would share memory
    value spans more elements than 64 bits count: make it smaller, or check its strides
    "
    );
}

#[test]
fn the_limits_in_the_texts_are_those_that_are_kept() {
    let length = |length| Problem::new(0, 1, length, 8).build();
    assert!(length(MAX_EXTENT).is_ok());
    assert_eq!(length(MAX_EXTENT + 1), Err(ProblemError::TooLarge { what: "len_q", found: MAX_EXTENT + 1 }));
    let scale = |scale| Problem::new(1, 1, 4, 8).scale(scale).build();
    for largest in [2.35e38, -2.35e38] {
        assert!(scale(largest).is_ok());
        assert!(scale(1.01 * largest).is_err());
    }
}

#[test]
fn nothing_of_huge_things_is_a_problem_or_an_error_and_no_panic() {
    for layout in [Layout::Bhld, Layout::Blhd] {
        for (batch, heads, length) in [(0, MAX_EXTENT, MAX_EXTENT), (MAX_EXTENT, MAX_EXTENT, 0), (0, 1 << 20, 1 << 20)]
        {
            let built = Problem::new(batch, heads, length, 256).layout(layout).build();
            match built {
                Ok(problem) => assert_eq!(problem.span(Operand::Key), 0),
                Err(error) => assert!(matches!(error, ProblemError::SpanOverflow { .. }), "{error}"),
            }
        }
    }
}

#[test]
fn inputs_may_repeat_themselves_with_a_stride_of_zero() {
    let repeated = Strides { batch: 0, head: 0, row: 8 };
    let problem = Problem::new(4, 2, 3, 8).strides(Operand::Key, repeated).build().unwrap();
    assert_eq!(problem.span(Operand::Key), 24);
}

#[test]
fn keys_and_values_in_bytes_are_told_and_counted() {
    let problem = |storage| Problem::new(2, 4, 3, 64).heads_kv(2).len_kv(5).kv_storage(storage).build().unwrap();
    let told = [KvStorage::Dtype, KvStorage::E4m3(KvScales::Tensor), KvStorage::E4m3(KvScales::Head)].map(|storage| {
        let problem = problem(storage);
        let bytes = Operand::ALL.map(|operand| problem.element_bytes(operand));
        assert_eq!(bytes, Operand::ALL.map(|operand| problem.span_bytes(operand)));
        format!("{problem}: {bytes:?}, {} scales", problem.kv_scale_count())
    });
    insta::assert_snapshot!(
        told.join("\n"),
        @"
    b2 h4/2 q3 kv5 d64 f16 full: [3072, 2560, 2560, 3072], 0 scales
    b2 h4/2 q3 kv5 d64 f16 full kv=e4m3: [3072, 1280, 1280, 3072], 1 scales
    b2 h4/2 q3 kv5 d64 f16 full kv=e4m3-per-head: [3072, 1280, 1280, 3072], 2 scales
    "
    );
    let stored = problem(KvStorage::E4m3(KvScales::Head));
    assert!(stored.extensions().kv_e4m3 && !problem(KvStorage::Dtype).extensions().kv_e4m3);
    assert_eq!(stored.extensions().first_not_in(Extensions::ALL), Some("keys and values in e4m3"));
    assert_eq!((stored.to_dense(), stored.to_builder().build().unwrap()), (stored.clone(), stored));
}
