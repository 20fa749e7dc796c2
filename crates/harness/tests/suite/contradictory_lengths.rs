//! Lengths on the device that contradict what the host was told: rows are wrong then, but nothing outside of the tensors is read
//! or written, and rows of no sequence stay as they are.

use harness::regime::Regime;
use sdpa::{Device as _, Interpreter, Operand, Packing, Problem, Tensors, generations};

const TOTAL: usize = 200;
/// Element bits that no kernel writes here.
const UNTOUCHED: [u8; 2] = [0xe5, 0xff];

/// Runs a generation with these boundaries, each tensor a buffer of its own size: which rows of head 0 were written.
fn written(generation: &dyn sdpa::Attention, queries: &[u32], keys: &[u32]) -> Vec<bool> {
    let device = Interpreter::new();
    let packing = Packing { sequences: queries.len() - 1, longest_q: TOTAL, longest_kv: TOTAL };
    let problem = Problem::packed(packing, 2, TOTAL, 64).mask(sdpa::Mask::Causal).build().unwrap();
    let data = Regime::Normal.generate(&problem, 0);
    let upload = |bits: &[u16]| device.upload(&harness::execute::to_bytes(bits)).unwrap();
    let words = |numbers: &[u32]| {
        device.upload(&numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>()).unwrap()
    };
    let (query, key, value) = (upload(&data.query), upload(&data.key), upload(&data.value));
    let output = device.upload(&UNTOUCHED.repeat(problem.span(Operand::Output))).unwrap();
    let (queries, keys) = (words(queries), words(keys));
    let tensors = Tensors::new(&query, &key, &value, &output).with_cu_seqlens(&queries, &keys);
    generation.forward(&device, &problem, &tensors).unwrap_or_else(|error| panic!("{error}"));
    let mut bytes = vec![0; output.bytes()];
    device.read(&output, 0, &mut bytes).unwrap();
    let row = |row: usize| &bytes[2 * problem.row_offset(Operand::Output, 0, 0, row)..][..2];
    (0..TOTAL).map(|index| row(index) != UNTOUCHED).collect()
}

#[test]
fn lengths_that_contradict_the_totals_reach_nothing_outside() {
    let packed = generations::ALL.iter().filter(|generation| generation.generation().takes.packed);
    let mut asked = 0;
    for generation in packed {
        asked += 1;
        let rows = |queries: &[u32], keys: &[u32]| {
            let written = written(*generation, queries, keys);
            let first = written.iter().position(|written| *written).unwrap_or(0);
            let count = written.iter().filter(|written| **written).count();
            assert!(written[first..first + count].iter().all(|written| *written), "rows in between were left out");
            (first, count)
        };
        let total = TOTAL as u32;
        // As they should be, and sequences that end before the tensors do.
        assert_eq!(rows(&[0, 70, total], &[0, 70, total]), (0, TOTAL));
        assert_eq!(rows(&[0, 70, 133], &[0, 70, 133]), (0, 133));
        // Beyond the end, by a little and by as much as 32 bits hold, which is a negative number of the signed type.
        assert_eq!(rows(&[0, 70, total + 9], &[0, 70, total + 9]), (0, TOTAL));
        assert_eq!(rows(&[0, 70, u32::MAX], &[0, u32::MAX - 5, u32::MAX]), (0, TOTAL));
        // Not from 0 on, and falling.
        assert_eq!(rows(&[40, 70, total], &[90, 100, total]), (40, TOTAL - 40));
        assert_eq!(rows(&[0, 70, total], &[150, 60, 20]), (0, TOTAL));
        assert_eq!(rows(&[0, 90, 30], &[0, 90, 30]), (0, 90));
    }
    assert!(asked > 0, "no generation takes packed sequences");
}
