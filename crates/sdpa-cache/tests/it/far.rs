//! Tensors whose rows lie so far apart that offsets take more than 32 bits; nothing is between the rows.

use sdpa_cache::{Append, AppendTensors, Part};
use sdpa_core::{Buffer, Device as _, Error, Interpreter, Strides};

use crate::case::bytes;

/// Elements, whose offsets in bytes take 35 bits: for whole vectors of 16 bytes, and for none.
const FAR: [i64; 2] = [(1 << 33) + 64, (1 << 33) + 65];

const WIDTH: usize = 16;

/// Rows that begin at these elements, a number each: row `i` is full of `number + i`.
fn place(device: &Interpreter, starts: &[i64], number: u16) -> Buffer {
    let bytes_of_row = 2 * WIDTH;
    let pieces: Vec<_> = starts.iter().map(|start| 2 * *start as usize..2 * *start as usize + bytes_of_row).collect();
    let buffer = device.allocate_pieces("far rows", &pieces).unwrap();
    for (index, piece) in pieces.iter().enumerate() {
        device.write(&buffer, piece.start, &bytes(&[number + index as u16; WIDTH])).unwrap();
    }
    buffer
}

fn first_elements(device: &Interpreter, buffer: &Buffer, starts: &[i64]) -> Vec<u16> {
    let first = |start: &i64| {
        let mut row = [0; 2 * WIDTH];
        device.read(buffer, 2 * *start as usize, &mut row).unwrap();
        // A row that is not of one number is none that could be expected.
        if row.chunks(2).all(|element| element == &row[..2]) { u16::from_le_bytes([row[0], row[1]]) } else { 0 }
    };
    starts.iter().map(first).collect()
}

/// Where rows begin, as the test has it: two tokens or pages, two heads, two places.
struct Rows {
    /// Page or token, head, place.
    strides: [i64; 3],
    counts: [i64; 3],
}

impl Rows {
    fn start(&self, at: [i64; 3]) -> i64 {
        at.iter().zip(self.strides).map(|(index, stride)| index * stride).sum()
    }

    /// In ascending order.
    fn starts(&self) -> Vec<i64> {
        let [outer, heads, places] = self.counts;
        let all = (0..outer).flat_map(|a| (0..heads).flat_map(move |b| (0..places).map(move |c| [a, b, c])));
        let mut starts: Vec<i64> = all.map(|at| self.start(at)).collect();
        starts.sort_unstable();
        starts
    }
}

/// Appends with one dimension of the new rows and of the caches far: what is wrong with the result.
fn append(device: &Interpreter, far: usize, stride: i64) -> Result<Result<(), String>, Error> {
    let width = WIDTH as i64;
    let mut strides = [4 * width, 2 * width, width];
    strides[far] = stride;
    let cached = Rows { strides, counts: [2, 2, 2] };
    let [token, head] = if far == 0 { [stride, width] } else { [width, stride] };
    let new = Rows { strides: [token, head, 0], counts: [2, 2, 1] };
    let place_new = |number| place(device, &new.starts(), number);
    let place_cache = |number| place(device, &cached.starts(), number);
    let (new_key, new_value, key, value) = (place_new(10), place_new(20), place_cache(100), place_cache(200));
    let [batch, cache_head, row] = strides;
    let cache_strides = Strides { batch, head: cache_head, row };
    let builder = Append::new(2, 2, WIDTH, 2, 2)
        .cache_strides(Part::Key, cache_strides)
        .cache_strides(Part::Value, cache_strides)
        .new_strides(Part::Key, token, head)
        .new_strides(Part::Value, token, head);
    // The last place of all, and one in the first page.
    let slots = device.upload(&[3_i64, 1].map(i64::to_le_bytes).concat())?;
    let append = builder.build().expect("strides are valid").prepare(device)?;
    append.forward(&AppendTensors::new(&new_key, &new_value, &slots, &key, &value))?;
    for (cache, before, number) in [(&key, 100, 10), (&value, 200, 20)] {
        let mut expected: Vec<u16> = (0..8).map(|index| before + index).collect();
        for (token, page) in [(0, 1), (1, 0)] {
            for head in 0..2 {
                let at =
                    |rows: &Rows, at| rows.starts().iter().position(|start| *start == rows.start(at)).expect("a row");
                expected[at(&cached, [page, head, 1])] = number + at(&new, [token, head, 0]) as u16;
            }
        }
        let found = first_elements(device, cache, &cached.starts());
        if found != expected {
            return Ok(Err(format!("dimension {far}: {found:?}, not {expected:?}")));
        }
    }
    Ok(Ok(()))
}

/// Each dimension in turn.
pub(crate) fn test_far(device: &Interpreter) -> Result<Result<(), String>, Error> {
    for (far, stride) in (0..3).flat_map(|far| FAR.map(|stride| (far, stride))) {
        if let Err(wrong) = append(device, far, stride)? {
            return Ok(Err(wrong));
        }
    }
    Ok(Ok(()))
}

#[test]
fn offsets_beyond_32_bits() {
    test_far(&Interpreter::new()).unwrap().unwrap();
}
