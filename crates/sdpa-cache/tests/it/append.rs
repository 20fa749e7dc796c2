//! What is appended stands where a loop puts it, and nothing else has changed.

use harness::random::Random;
use proptest::prelude::*;
use sdpa_cache::{Append, AppendTensors, Part};
use sdpa_core::{Device as _, Error, Interpreter, Layout, Operand, PageTable, Paging, Problem, Strides};

use crate::case::{Case, Fault, bytes, kinds, test_all};

#[test]
fn every_kind_is_as_a_loop_leaves_it_in_every_schedule() {
    let device = Interpreter::new();
    for schedule in 0..3 {
        device.set_schedule(schedule);
        test_all(&kinds(), &device).unwrap().unwrap();
    }
}

#[test]
fn every_size_of_a_page_in_both_layouts() {
    let device = Interpreter::new();
    for page in Paging::SIZES {
        let case = Case::contiguous(2, [16, 32], [3, page], 2 * page);
        case.clone().by_places().test(&device, Fault::None).unwrap().unwrap();
        case.test(&device, Fault::None).unwrap().unwrap();
    }
}

/// The test notices what could be wrong, in wide copies and in narrow ones.
#[test]
fn faults_are_noticed() {
    let device = Interpreter::new();
    for widths in [[16, 8], [5, 3]] {
        let case = Case::contiguous(2, widths, [4, 8], 3).with_slots([9, -1, 18, 7]);
        case.test(&device, Fault::None).unwrap().unwrap();
        for fault in [Fault::NextPage, Fault::SkippedIsWritten, Fault::StridesOfKeys, Fault::TokenMissing] {
            assert!(case.test(&device, fault).unwrap().is_err(), "{fault:?} is not noticed");
        }
    }
}

/// What the caller sees to: one slot for two tokens is a race, and the interpreter says so.
#[test]
fn two_tokens_with_one_slot_race() {
    let case = Case::contiguous(1, [8, 8], [2, 8], 3).with_slots([4, 1, 4]);
    let error = case.test(&Interpreter::new(), Fault::None).unwrap_err();
    assert!(matches!(error, Error::Findings { .. }) && error.to_string().contains("race in global memory"), "{error}");
}

/// What nobody states is contiguous, and a problem's caches are its own: pages, or whole sequences.
#[test]
fn strides_that_are_left_out() {
    let contiguous = |tokens, value_dim, layout| {
        Append::new(tokens, 2, 16, 3, 8).value_dim(value_dim).cache_layout(layout).build().unwrap()
    };
    assert_eq!(
        contiguous(4, 24, Layout::Bhld).cache_strides(Part::Value),
        Strides { batch: 2 * 8 * 24, head: 8 * 24, row: 24 }
    );
    assert_eq!(
        contiguous(4, 24, Layout::Blhd).cache_strides(Part::Key),
        Strides { batch: 2 * 8 * 16, head: 16, row: 32 }
    );
    let append = contiguous(4, 24, Layout::Blhd);
    assert_eq!(Part::ALL.map(|part| append.new_span(part)), [4 * 2 * 16, 4 * 2 * 24]);
    assert_eq!(Part::ALL.map(|part| append.cache_span(part)), [3 * 8 * 2 * 16, 3 * 8 * 2 * 24]);
    let problem = Problem::new(2, 4, 1, 16).heads_kv(2).len_kv(21);
    let paging = Paging { page: 8, pages: 7, table: PageTable::Rows { width: 3 } };
    for (problem, pages, page) in [(problem.clone(), 2, 21), (problem.paged(paging), 7, 8)] {
        let problem = problem.layout(Layout::Blhd).build().unwrap();
        let append = Append::to_caches_of(&problem, 1).build().unwrap();
        assert_eq!((append.pages(), append.page(), append.slots()), (pages, page, pages * page));
        let device = Interpreter::new();
        let new: Vec<u16> = (1..=32).collect();
        let (rows, slot) = (device.upload(&bytes(&new)).unwrap(), (page + 3) as i64);
        let slots = device.upload(&slot.to_le_bytes()).unwrap();
        let cache = || device.upload(&vec![0; 2 * problem.span(Operand::Key)]);
        let (key, value) = (cache().unwrap(), cache().unwrap());
        let tensors = AppendTensors::new(&rows, &rows, &slots, &key, &value);
        append.prepare(&device).unwrap().forward(&tensors).unwrap();
        for (operand, cache) in [(Operand::Key, &key), (Operand::Value, &value)] {
            let mut found = vec![0; 2 * 16];
            device.read(cache, 2 * problem.row_offset(operand, 1, 1, 3), &mut found).unwrap();
            assert_eq!(found, bytes(&new[16..]), "{operand}");
        }
    }
}

/// Shapes, orders of dimensions, paddings, offsets and slots by chance.
fn drawn(seed: u64) -> Case {
    let mut random = Random::new(seed, &[]);
    let multiple = if random.chance(0.5) { 8 } else { 1 };
    let mut below = |limit: usize| random.below(limit);
    let (heads, page, pages) = (1 + below(4), [1, 7, 8, 16, 32][below(5)], 1 + below(5));
    let widths = [multiple * (1 + below(5)), multiple * (1 + below(5))];
    let mut case = Case::contiguous(heads, widths, [pages, page], 0);
    for (part, width) in widths.map(|width| width as i64).into_iter().enumerate() {
        let mut pad = |limit: usize| (multiple * below(limit)) as i64;
        // From the innermost dimension on: each steps over what lies below it.
        let mut sizes = [(0, heads), (1, page), (2, pages)];
        sizes.rotate_left(pad(3) as usize / multiple);
        let (mut strides, mut needed) = ([0; 3], width + pad(2));
        for (dimension, count) in sizes {
            strides[dimension] = needed;
            needed = needed * count as i64 + pad(2);
        }
        case.caches[part] = Strides { batch: strides[2], head: strides[0], row: strides[1] };
        case.new[part] = [heads as i64 * (width + pad(2)) + pad(2), width + pad(2)];
    }
    case.before = [(); 4].map(|()| multiple * below(3));
    // Slots in a random order, some of them left out, and some that are none.
    let mut slots: Vec<i64> = (0..(pages * page) as i64).collect();
    for last in (1..slots.len()).rev() {
        slots.swap(last, below(last + 1));
    }
    slots.truncate(below(slots.len() + 1));
    for slot in &mut slots {
        *slot = [*slot, *slot, *slot, -1, *slot + (pages * page) as i64][below(5)];
    }
    case.with_slots(slots)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_appends_are_as_a_loop_leaves_them(seed: u64) {
        let case = drawn(seed);
        let outcome = case.test(&Interpreter::new(), Fault::None);
        prop_assert!(matches!(outcome, Ok(Ok(()))), "{outcome:?} of {case:?}");
    }
}
