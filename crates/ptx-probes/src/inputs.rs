//! Inputs: made afresh from fixed seeds, so that only outputs need to be kept.

/// A generator of numbers that are the same everywhere (xorshift).
pub(crate) struct Numbers(u32);

impl Numbers {
    pub(crate) fn new(seed: u32) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9) | 1)
    }

    pub(crate) fn bits(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0
    }

    /// One of `0..end`.
    pub(crate) fn below(&mut self, end: u32) -> u32 {
        (self.bits() >> 8) % end
    }

    /// Uniform in [-1, 1), a multiple of 2^-23.
    pub(crate) fn signed_unit(&mut self) -> f32 {
        (self.bits() >> 8) as f32 * 2f32.powi(-23) - 1.0
    }

    /// A whole number in -`most`..=`most`.
    pub(crate) fn whole(&mut self, most: u32) -> f32 {
        self.below(2 * most + 1) as f32 - most as f32
    }

    /// Shuffles in place.
    pub(crate) fn shuffle<T>(&mut self, values: &mut [T]) {
        for last in (1..values.len()).rev() {
            values.swap(last, self.below(last as u32 + 1) as usize);
        }
    }
}

/// Words to bytes, as a device stores them.
pub(crate) fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}
