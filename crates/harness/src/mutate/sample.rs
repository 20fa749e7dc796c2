//! Which of a kernel's mutations are tried.

use std::collections::BTreeMap;

use super::{Mutation, MutationKind, Origin};
use crate::random::Random;

/// Which mutations to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Every one.
    All,
    /// At most so many, spread evenly over the text.
    Spread(usize),
    /// At most so many, drawn by a seed. Unrolling and inlining make many copies of a statement: first one copy of every
    /// statement of the source is drawn for every kind of mutation, and further ones only when all have had their turn.
    Sample {
        /// How many.
        count: usize,
        /// Which ones.
        seed: u64,
    },
}

impl Choice {
    /// The chosen ones, in the order of the text; all of them in any order that suits a sample whose time may run out.
    pub(super) fn of(self, mut mutations: Vec<Mutation>) -> Vec<Mutation> {
        match self {
            Self::All => mutations,
            Self::Spread(count) if count < mutations.len() => {
                (0..count).map(|index| mutations[index * mutations.len() / count].clone()).collect()
            }
            Self::Spread(_) => mutations,
            Self::Sample { count, seed } => {
                let mut random = Random::new(seed, &[0x6d75_7461_7465]);
                shuffle(&mut mutations, &mut random);
                let mut turns: BTreeMap<(Option<Origin>, MutationKind), usize> = BTreeMap::new();
                let mut placed: Vec<(usize, Mutation)> = Vec::with_capacity(mutations.len());
                for mutation in mutations {
                    let turn = turns.entry((mutation.origin.clone(), mutation.kind)).or_default();
                    placed.push((*turn, mutation));
                    *turn += 1;
                }
                // Stable: within a turn they stay shuffled.
                placed.sort_by_key(|(turn, _)| *turn);
                placed.into_iter().take(count).map(|(_, mutation)| mutation).collect()
            }
        }
    }
}

/// Fisher and Yates.
fn shuffle(mutations: &mut [Mutation], random: &mut Random) {
    for last in (1..mutations.len()).rev() {
        mutations.swap(last, random.below(last + 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutate::mutations;

    #[test]
    fn a_sample_is_its_seed_and_takes_every_statement_before_a_copy() {
        let mut text = ".file 1 \"kernels/v9.cu\"\n.entry k() {\n".to_owned();
        for line in [7, 7, 7, 7, 7, 7, 8, 9] {
            text += &format!(".loc 1 {line} 1\nbar.sync 0;\n");
        }
        let found = mutations(&(text + "ret;\n}\n"));
        let sample = |count, seed| Choice::Sample { count, seed }.of(found.clone());
        assert_eq!(sample(3, 1), sample(3, 1));
        for seed in 0..20 {
            let mut lines: Vec<u32> =
                sample(3, seed).iter().filter_map(|mutation| Some(mutation.origin.as_ref()?.line)).collect();
            lines.sort_unstable();
            assert_eq!(lines, [7, 8, 9], "seed {seed}");
        }
        let first = |seed| sample(3, seed).iter().map(|mutation| mutation.ptx_line).collect::<Vec<_>>();
        assert!((1..20).any(|seed| first(seed) != first(0)));
        assert_eq!(sample(100, 0).len(), found.len());
    }
}
