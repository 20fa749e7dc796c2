//! Lengths on the device that contradict what the host was told: rows are wrong then, but nothing outside of the tensors is read
//! or written, and rows of no sequence stay as they are.

use harness::execute::operand_bytes;
use harness::needs::as_needed;
use harness::regime::Regime;
use sdpa::{Device as _, DeviceLimits, Interpreter, Operand, Packing, Problem, Tensors, generations};

/// Rows of all sequences; generations for few queries take half as many.
const TOTAL: usize = 200;
/// Element bits that no kernel writes here.
const UNTOUCHED: [u8; 2] = [0xe5, 0xff];

/// Runs a generation with these boundaries, each tensor a buffer of its own size: which rows of head 0 were written.
fn written(generation: &dyn sdpa::Attention, total: usize, queries: &[u32], keys: &[u32]) -> Vec<bool> {
    let device = Interpreter::new();
    let problem = as_needed(generation, &packed(total, queries.len() - 1));
    let data = Regime::Normal.generate(&problem, 0);
    let upload = |operand, bits: &[u16]| device.upload(&operand_bytes(&problem, operand, bits)).unwrap();
    let words = |numbers: &[u32]| {
        device.upload(&numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>()).unwrap()
    };
    let query = upload(Operand::Query, &data.query);
    let (key, value) = (upload(Operand::Key, &data.key), upload(Operand::Value, &data.value));
    let output = device.upload(&UNTOUCHED.repeat(problem.span(Operand::Output))).unwrap();
    let (queries, keys) = (words(queries), words(keys));
    let mut tensors = Tensors::new(&query, &key, &value, &output).with_cu_seqlens(&queries, &keys);
    let scales = |scales: &[f32]| words(&scales.iter().map(|scale| scale.to_bits()).collect::<Vec<u32>>());
    let (key_scale, value_scale) = (scales(&data.extension.key_scale), scales(&data.extension.value_scale));
    if problem.kv_scale_count() > 0 {
        tensors = tensors.with_kv_scales(&key_scale, &value_scale);
    }
    generation.forward(&device, &problem, &tensors).unwrap_or_else(|error| panic!("{error}"));
    let mut bytes = vec![0; output.bytes()];
    device.read(&output, 0, &mut bytes).unwrap();
    let row = |row: usize| &bytes[2 * problem.row_offset(Operand::Output, 0, 0, row)..][..2];
    (0..total).map(|index| row(index) != UNTOUCHED).collect()
}

/// So many sequences of at most all the rows.
fn packed(total: usize, sequences: usize) -> Problem {
    let packing = Packing { sequences, longest_q: total, longest_kv: total };
    Problem::packed(packing, 2, total, 64).mask(sdpa::Mask::Causal).build().unwrap()
}

#[test]
fn lengths_that_contradict_the_totals_reach_nothing_outside() {
    let takers = generations::ALL.iter().filter(|generation| generation.generation().takes.packed);
    let mut asked = 0;
    for generation in takers {
        asked += 1;
        let whole = as_needed(*generation, &packed(TOTAL, 2));
        let takes_all = generation.plan(&whole, &DeviceLimits::H200).is_ok();
        let total = if takes_all { TOTAL } else { TOTAL / 2 };
        // A place among all rows.
        let at = |row: usize| row * total / TOTAL;
        let rows = |queries: &[u32], keys: &[u32]| {
            let written = written(*generation, total, queries, keys);
            let first = written.iter().position(|written| *written).unwrap_or(0);
            let count = written.iter().filter(|written| **written).count();
            assert!(written[first..first + count].iter().all(|written| *written), "rows in between were left out");
            (first, count)
        };
        let [r20, r30, r40, r60, r70, r90, r100, r133, r150] =
            [20, 30, 40, 60, 70, 90, 100, 133, 150].map(|row| at(row) as u32);
        let (count, end) = (total, total as u32);
        // As they should be, and sequences that end before the tensors do.
        assert_eq!(rows(&[0, r70, end], &[0, r70, end]), (0, count));
        assert_eq!(rows(&[0, r70, r133], &[0, r70, r133]), (0, at(133)));
        // Beyond the end, by a little and by as much as 32 bits hold, which is a negative number of the signed type.
        assert_eq!(rows(&[0, r70, end + 9], &[0, r70, end + 9]), (0, count));
        assert_eq!(rows(&[0, r70, u32::MAX], &[0, u32::MAX - 5, u32::MAX]), (0, count));
        // Not from 0 on, and falling.
        assert_eq!(rows(&[r40, r70, end], &[r90, r100, end]), (at(40), count - at(40)));
        assert_eq!(rows(&[0, r70, end], &[r150, r60, r20]), (0, count));
        assert_eq!(rows(&[0, r90, r30], &[0, r90, r30]), (0, at(90)));
    }
    assert!(asked > 0, "no generation takes packed sequences");
}
