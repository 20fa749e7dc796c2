//! A case of appending: shapes, strides and slots, run on a device and judged by a loop on the host.

use harness::random::Random;
use sdpa_cache::{Append, AppendBuilder, AppendTensors, Part};
use sdpa_core::{Buffer, Device, Error, Strides, View};

/// Bytes of an element.
pub(crate) const ELEMENT: usize = 2;

/// Everything that an append is told, in numbers of the test's own.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) heads: usize,
    /// Of a key and of a value.
    pub(crate) widths: [usize; 2],
    pub(crate) pages: usize,
    pub(crate) page: usize,
    /// Of new keys and new values: elements from token to token, and from head to head.
    pub(crate) new: [[i64; 2]; 2],
    pub(crate) caches: [Strides; 2],
    /// Elements before each tensor in its buffer: new keys, new values, key cache, value cache.
    pub(crate) before: [usize; 4],
    /// True if the value cache lies in the key cache's buffer.
    pub(crate) together: bool,
    pub(crate) slots: Vec<i64>,
}

/// What is done wrong on purpose, to see that it is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// Every slot is in the next page.
    NextPage,
    /// A token with slot −1 is written to slot 0.
    SkippedIsWritten,
    /// Values go where the key cache's strides lead.
    StridesOfKeys,
    /// The last token is left out.
    TokenMissing,
}

impl Case {
    /// Contiguous tensors; caches `[pages, heads, page, d]`, and every token in a slot of its own.
    pub(crate) fn contiguous(heads: usize, widths: [usize; 2], [pages, page]: [usize; 2], tokens: usize) -> Self {
        let (h, p) = (heads as i64, page as i64);
        let new = widths.map(|width| [h * width as i64, width as i64]);
        let caches = widths.map(|width| {
            let width = width as i64;
            Strides { batch: h * p * width, head: p * width, row: width }
        });
        // Pages and places out of order; 7 divides neither.
        let slots = (0..tokens).map(|token| ((7 * token + 3) % (pages * page)) as i64).collect();
        Self { heads, widths, pages, page, new, caches, before: [0; 4], together: false, slots }
    }

    /// The same with caches `[pages, page, heads, d]`.
    pub(crate) fn by_places(mut self) -> Self {
        let (h, p) = (self.heads as i64, self.page as i64);
        self.caches = self.widths.map(|width| {
            let width = width as i64;
            Strides { batch: h * p * width, head: width, row: h * width }
        });
        self
    }

    pub(crate) fn with_slots(mut self, slots: impl Into<Vec<i64>>) -> Self {
        self.slots = slots.into();
        self
    }

    fn builder(&self, fault: Fault) -> AppendBuilder {
        let tokens = self.slots.len() - usize::from(fault == Fault::TokenMissing);
        let value_cache = if fault == Fault::StridesOfKeys { Part::Key } else { Part::Value };
        Append::new(tokens, self.heads, self.widths[0], self.pages, self.page)
            .value_dim(self.widths[1])
            .new_strides(Part::Key, self.new[0][0], self.new[0][1])
            .new_strides(Part::Value, self.new[1][0], self.new[1][1])
            .cache_strides(Part::Key, self.caches[0])
            .cache_strides(Part::Value, self.caches[value_cache as usize])
    }

    /// Elements of the new rows' and of the caches' buffers.
    fn lengths(&self) -> [usize; 4] {
        let last = |count: usize, stride: i64| count.saturating_sub(1) * stride as usize;
        let new = |part: usize| {
            let [token, head] = self.new[part];
            last(self.slots.len(), token) + last(self.heads, head) + self.widths[part] + self.before[part]
        };
        let cache = |part: usize| {
            let Strides { batch, head, row } = self.caches[part];
            let span = last(self.pages, batch) + last(self.heads, head) + last(self.page, row) + self.widths[part];
            span + self.before[2 + part]
        };
        [new(0), new(1), cache(0), cache(1)]
    }

    /// The caches as a loop over tokens, heads and columns leaves them.
    fn expected(&self, new: [&[u16]; 2], caches: &mut [Vec<u16>; 2]) {
        for (token, slot) in self.slots.iter().enumerate() {
            let Ok(slot) = usize::try_from(*slot) else { continue };
            if slot >= self.pages * self.page {
                continue;
            }
            let (page, place) = (slot / self.page, slot % self.page);
            for part in 0..2 {
                let Strides { batch, head: head_stride, row } = self.caches[part];
                for head in 0..self.heads {
                    let from =
                        self.before[part] + token * self.new[part][0] as usize + head * self.new[part][1] as usize;
                    let to = self.before[2 + part]
                        + page * batch as usize
                        + head * head_stride as usize
                        + place * row as usize;
                    let written = &mut caches[if self.together { 0 } else { part }];
                    written[to..to + self.widths[part]].copy_from_slice(&new[part][from..from + self.widths[part]]);
                }
            }
        }
    }

    fn slots_with(&self, fault: Fault) -> Vec<u8> {
        let shift = |slot: i64| match fault {
            Fault::NextPage if slot >= 0 => slot + self.page as i64,
            Fault::SkippedIsWritten if slot == -1 => 0,
            _ => slot,
        };
        self.slots.iter().flat_map(|slot| shift(*slot).to_le_bytes()).collect()
    }

    /// Appends, and compares every byte of the caches with what the loop leaves.
    pub(crate) fn test(&self, device: &dyn Device, fault: Fault) -> Result<Result<(), String>, Error> {
        let mut random = Random::new(self.slots.len() as u64, &[]);
        let mut lengths = self.lengths();
        if self.together {
            lengths[2] = lengths[2].max(lengths[3]);
            lengths[3] = 0;
        }
        if fault == Fault::StridesOfKeys {
            // Whatever it leads to is there.
            lengths[3] = lengths[3].max(lengths[2]);
        }
        let [new_key, new_value, key, value] =
            lengths.map(|length| (0..length).map(|_| random.bits() as u16).collect::<Vec<u16>>());
        let upload = |numbers: &[u16]| device.upload(&bytes(numbers));
        let buffers = [upload(&new_key)?, upload(&new_value)?, upload(&key)?, upload(&value)?];
        let slots = device.upload(&self.slots_with(fault))?;
        let view = |index: usize| {
            let buffer = if index == 3 && self.together { &buffers[2] } else { &buffers[index] };
            View::new(buffer, ELEMENT * self.before[index])
        };
        let append = self.builder(fault).build().expect("the case is valid");
        append.prepare(device)?.forward(&AppendTensors::new(view(0), view(1), &slots, view(2), view(3)))?;
        let mut expected = [key, value];
        self.expected([&new_key, &new_value], &mut expected);
        for (name, buffer, expected) in
            [("key_cache", &buffers[2], &expected[0]), ("value_cache", &buffers[3], &expected[1])]
        {
            if let Some(at) = first_difference(device, buffer, expected)? {
                return Ok(Err(format!("{name} differs at element {at}: {self:?}")));
            }
        }
        Ok(Ok(()))
    }
}

pub(crate) fn bytes(numbers: &[u16]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn first_difference(device: &dyn Device, buffer: &Buffer, expected: &[u16]) -> Result<Option<usize>, Error> {
    let mut found = vec![0; buffer.bytes()];
    device.read(buffer, 0, &mut found)?;
    Ok(found.chunks_exact(ELEMENT).zip(expected).position(|(found, expected)| found != expected.to_le_bytes()))
}

/// Cases of every kind that are quick to run: what mutations of the kernels must not get past.
pub(crate) fn kinds() -> Vec<Case> {
    // Beyond the cache, on either side, by one or by all 32 upper bits.
    let odd_slots = |slots: usize| vec![5, -1, 0, slots as i64 - 1, slots as i64, i64::MIN, i64::MAX, (1 << 32) + 1, 9];
    let mut cases = vec![
        Case::contiguous(2, [64, 64], [3, 16], 5),
        Case::contiguous(3, [8, 24], [4, 8], 9).by_places().with_slots(odd_slots(32)),
        // A contiguous cache whose length is no power of two.
        Case::contiguous(2, [16, 8], [2, 37], 9).with_slots(odd_slots(74)),
        // A block for a part of a token: 17 heads of 16 vectors.
        Case::contiguous(17, [128, 128], [2, 8], 3),
        // A tail of tokens that does not fill its block: a vector each, 256 in a block.
        Case::contiguous(1, [8, 8], [65, 8], 260)
            .with_slots((0..260).map(|token| 519 - 2 * token).collect::<Vec<i64>>()),
        // Rows of no whole vectors, 260 elements a token.
        Case::contiguous(20, [13, 11], [2, 16], 4).by_places().with_slots(odd_slots(32)),
        Case::contiguous(1, [3, 1], [12, 8], 90),
        Case::contiguous(2, [3, 5], [2, 8], 3),
        Case::contiguous(1, [8, 8], [2, 8], 0),
        Case::contiguous(1, [8, 8], [0, 8], 0).with_slots([0, 1]),
    ];
    // Queries, keys and values of a projection side by side, and the two caches of a page behind one another.
    let mut projection = Case::contiguous(2, [16, 16], [3, 8], 6);
    projection.new = [[128, 16]; 2];
    projection.before = [64, 96, 0, 2 * 8 * 16];
    projection.caches = [Strides { batch: 2 * 2 * 8 * 16, head: 16, row: 2 * 16 }; 2];
    projection.together = true;
    cases.push(projection);
    // An address or a stride that is no multiple of 16 bytes.
    for index in 0..4 {
        let mut case = Case::contiguous(2, [16, 8], [2, 8], 3);
        case.before[index] = 1;
        cases.push(case);
    }
    let mut odd = Case::contiguous(2, [16, 8], [2, 8], 3);
    odd.new[1] = [20, 9];
    cases.push(odd);
    let mut odd = Case::contiguous(2, [8, 8], [2, 8], 3);
    odd.caches[0] = Strides { batch: 200, head: 9, row: 19 };
    cases.push(odd);
    cases
}

/// What is wrong with the first case that is wrong.
pub(crate) fn test_all(cases: &[Case], device: &dyn Device) -> Result<Result<(), String>, Error> {
    for case in cases {
        if let Err(wrong) = case.test(device, Fault::None)? {
            return Ok(Err(wrong));
        }
    }
    Ok(Ok(()))
}
