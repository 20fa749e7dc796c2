//! The grounds on which the branches of the tree play, each with one problem that stands for it.

use sdpa_core::{Dtype, Mask, Problem};

use crate::timing::{Figure, Shape};

/// A kind of problem that a branch of the tree is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ground {
    /// Its name in tables.
    pub name: &'static str,
    shape: Shape,
    dtype: Dtype,
    mask: Mask,
}

/// Short problems, decoding, and long problems.
pub const GROUNDS: [Ground; 3] = [
    Ground { name: "short", shape: Shape::square([1, 8, 512, 64]), dtype: Dtype::F16, mask: Mask::Full },
    Ground {
        name: "decoding",
        shape: Shape { heads_kv: 8, len_q: 1, ..Shape::square([1, 32, 4096, 128]) },
        dtype: Dtype::Bf16,
        mask: Mask::Full,
    },
    // Long enough to fill the chip, short enough for every step of the Hopper branch to show.
    Ground { name: "long", shape: Shape::square([8, 16, 2048, 128]), dtype: Dtype::Bf16, mask: Mask::Causal },
];

impl Ground {
    /// The problem that stands for it.
    pub fn problem(&self) -> Problem {
        self.shape.problem(self.dtype, self.mask).expect("the grounds' shapes are valid")
    }

    /// On which of them a problem is; `multiprocessors` are those of the device.
    ///
    /// Up to 16 queries are decoding. Of the others those are short whose tiles of 64 queries leave multiprocessors idle.
    pub fn of(figure: &Figure, multiprocessors: usize) -> &'static Self {
        let tiles = figure.len_q.div_ceil(64) * figure.batch * figure.heads_q;
        match (figure.len_q, tiles) {
            (..=16, _) => &GROUNDS[1],
            (_, tiles) if tiles <= multiprocessors => &GROUNDS[0],
            _ => &GROUNDS[2],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::figure;

    #[test]
    fn each_ground_is_its_own_and_sizes_tell_them_apart() {
        for ground in &GROUNDS {
            assert_eq!(Ground::of(&figure("v1", &ground.problem(), 1.0), 132), ground);
        }
        let of = |shape| {
            Ground::of(&figure("v1", &Shape::square(shape).problem(Dtype::F16, Mask::Full).unwrap(), 1.0), 132).name
        };
        assert_eq!([of([1, 8, 1024, 64]), of([1, 8, 2048, 64]), of([32, 32, 16, 64])], ["short", "long", "decoding"]);
    }
}
