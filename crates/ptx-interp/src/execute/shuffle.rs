//! Shuffles, votes, matches and reductions: lanes of a warp that exchange values. They order no memory.

use crate::decode::{Operation, Reduction, Shuffle, ShuffleMode, Vote, VoteMode};
use crate::diagnostics::FindingKind;
use crate::machine::{At, Cluster, Group, Machine, Step, Stopped, Warp};
use crate::registers::{LANES, Words};

impl Machine<'_> {
    /// Whether a group of lanes is complete: all live lanes of the member mask are here and name it.
    fn is_complete(
        &mut self,
        cluster: &Cluster,
        warp: &Warp,
        at: At,
        group: Group,
        mask: u32,
        together: u32,
    ) -> Result<bool, Stopped> {
        let Group { members, lanes } = group;
        let outside = lanes & !members;
        if outside != 0 {
            let by = at.participant(outside.trailing_zeros() as usize);
            let message = || format!("lanes {outside:#010x} take part but are not in the mask {members:#010x}");
            return Err(self.stop(cluster, FindingKind::DivergentShuffle, at.pc, by, message));
        }
        let missing = members & warp.live() & !lanes;
        let elsewhere = missing & mask;
        if elsewhere != 0 {
            let by = at.participant(elsewhere.trailing_zeros() as usize);
            let message = || {
                format!(
                    "lanes {elsewhere:#010x} are named in the mask {members:#010x} and name another mask themselves"
                )
            };
            return Err(self.stop(cluster, FindingKind::DivergentShuffle, at.pc, by, message));
        }
        if missing != 0 {
            if missing & !together == 0 {
                // They are here, but a guard keeps them out.
                let by = at.participant(missing.trailing_zeros() as usize);
                let message =
                    || format!("lanes {missing:#010x} are named in the mask {members:#010x} but do not take part");
                return Err(self.stop(cluster, FindingKind::DivergentShuffle, at.pc, by, message));
            }
            return Ok(false);
        }
        if members & !warp.live() != 0 && members != u32::MAX {
            let gone = members & !warp.live();
            let by = at.participant(lanes.trailing_zeros() as usize);
            let message = || format!("lanes {gone:#010x} of the mask {members:#010x} have exited");
            self.report(cluster, FindingKind::DivergentShuffle, at.pc, by, None, message);
        }
        Ok(true)
    }

    pub(crate) fn warp_wide(
        &mut self,
        cluster: &mut Cluster,
        warp: &mut Warp,
        at: At,
        operation: &Operation,
        mask: u32,
        together: u32,
    ) -> Result<Step, Stopped> {
        let members = match operation {
            Operation::Shuffle(shuffle) => {
                if mask == u32::MAX
                    && let Some(across) = shuffle.across
                {
                    self.counters.shuffles += 1;
                    butterfly(warp, shuffle, usize::from(across));
                    cluster.warp_met(at.warp, mask, true);
                    return Ok(Step::Next);
                }
                shuffle.members
            }
            Operation::Vote(vote) => vote.members,
            Operation::Match { members, .. } | Operation::Redux { members, .. } | Operation::Elect { members, .. } => {
                *members
            }
            Operation::ActiveMask { to } => {
                warp.registers.set_words(*to, mask, &[mask; LANES]);
                return Ok(Step::Next);
            }
            _ => return Ok(Step::Next),
        };
        let mut done = 0;
        for group in Group::all(*warp.registers.word(members), mask) {
            if self.is_complete(cluster, warp, at, group, mask, together)? {
                self.exchange(cluster, warp, at, operation, group.lanes)?;
                cluster.warp_met(at.warp, group.lanes, group.lanes == warp.live());
                done |= group.lanes;
            }
        }
        Ok(Step::of_lanes(done, mask, together))
    }

    /// Carries an instruction out for one complete group of lanes.
    fn exchange(
        &mut self,
        cluster: &Cluster,
        warp: &mut Warp,
        at: At,
        operation: &Operation,
        mask: u32,
    ) -> Result<(), Stopped> {
        match operation {
            Operation::Shuffle(shuffle) => self.shuffle(cluster, warp, at, shuffle, mask)?,
            Operation::Vote(vote) => apply_vote(warp, vote, mask),
            Operation::Match { all, to, predicate, value, .. } => {
                let values: [u64; LANES] = std::array::from_fn(|lane| warp.registers.lane(*value, lane));
                let same = |lane: usize| {
                    (0..LANES)
                        .filter(|&other| mask >> other & 1 == 1 && values[other] == values[lane])
                        .fold(0, |lanes, other| lanes | 1 << other)
                };
                let first = mask.trailing_zeros() as usize & 31;
                let all_same = same(first) == mask;
                let result: Words =
                    std::array::from_fn(|lane| if *all { if all_same { mask } else { 0 } } else { same(lane) });
                warp.registers.set_words(*to, mask, &result);
                if let Some(predicate) = predicate {
                    warp.registers.set_predicate(*predicate, mask, if all_same { u32::MAX } else { 0 });
                }
            }
            Operation::Redux { op, to, value, .. } => {
                let values = *warp.registers.word(*value);
                let combined =
                    (0..LANES).filter(|lane| mask >> lane & 1 == 1).map(|lane| values[lane]).reduce(|a, b| match op {
                        Reduction::Add => a.wrapping_add(b),
                        Reduction::MinSigned => (a as i32).min(b as i32) as u32,
                        Reduction::MaxSigned => (a as i32).max(b as i32) as u32,
                        Reduction::MinUnsigned => a.min(b),
                        Reduction::MaxUnsigned => a.max(b),
                        Reduction::And => a & b,
                        Reduction::Or => a | b,
                        Reduction::Xor => a ^ b,
                    });
                warp.registers.set_words(*to, mask, &[combined.unwrap_or(0); LANES]);
            }
            Operation::Elect { to, leader, .. } => {
                let chosen = mask.trailing_zeros();
                if let Some(to) = to {
                    warp.registers.set_words(*to, mask, &[chosen; LANES]);
                }
                warp.registers.set_predicate(*leader, mask, 1u32.checked_shl(chosen).unwrap_or(0));
            }
            _ => {}
        }
        Ok(())
    }

    fn shuffle(
        &mut self,
        cluster: &Cluster,
        warp: &mut Warp,
        at: At,
        shuffle: &Shuffle,
        mask: u32,
    ) -> Result<(), Stopped> {
        self.counters.shuffles += 1;
        let registers = &warp.registers;
        let (values, lanes, clamps) =
            (registers.word(shuffle.value), registers.word(shuffle.lane), registers.word(shuffle.clamp));
        if mask == u32::MAX
            && let Some(across) = whole_butterfly(shuffle.mode, lanes, clamps)
        {
            butterfly(warp, shuffle, across);
            return Ok(());
        }
        let mut result = [0; LANES];
        let mut in_range = 0u32;
        let mut inactive = None;
        // (own lane, operand, segment, last lane of the segment that may be read) to lane, and whether that may be read.
        let sources = match shuffle.mode {
            ShuffleMode::Up => sources(lanes, clamps, |own, operand, _, highest| {
                let source = own as i32 - operand as i32;
                (source.max(0) as u32, source >= highest as i32)
            }),
            ShuffleMode::Down => {
                sources(lanes, clamps, |own, operand, _, highest| (own + operand, own + operand <= highest))
            }
            ShuffleMode::Butterfly => {
                sources(lanes, clamps, |own, operand, _, highest| (own ^ operand, own ^ operand <= highest))
            }
            ShuffleMode::Index => sources(lanes, clamps, |own, operand, segment, highest| {
                let source = own & segment | operand & !segment;
                (source, source <= highest)
            }),
        };
        for (lane, source) in sources.into_iter().enumerate() {
            let inside = source != OUTSIDE;
            let source = if inside { source as usize & 31 } else { lane };
            if mask >> lane & 1 == 1 && mask >> source & 1 == 0 {
                inactive = Some((lane, source));
            }
            result[lane] = values[source];
            in_range |= u32::from(inside) << lane;
        }
        if let Some((lane, source)) = inactive {
            let message = || format!("lane {lane} reads lane {source}, which does not take part");
            return Err(self.stop(cluster, FindingKind::DivergentShuffle, at.pc, at.participant(lane), message));
        }
        if let Some(to) = shuffle.to {
            warp.registers.set_words(to, mask, &result);
        }
        if let Some(predicate) = shuffle.in_range {
            warp.registers.set_predicate(predicate, mask, in_range);
        }
        Ok(())
    }
}

/// Lanes of a whole warp change places with those at a distance.
fn butterfly(warp: &mut Warp, shuffle: &Shuffle, across: usize) {
    /// With a distance known to the compiler, this is a few vector shuffles.
    fn exchanged<const ACROSS: usize>(values: &Words) -> Words {
        std::array::from_fn(|lane| values[lane ^ ACROSS])
    }
    if let Some(to) = shuffle.to {
        let values = warp.registers.word(shuffle.value);
        let result = match across {
            1 => exchanged::<1>(values),
            2 => exchanged::<2>(values),
            4 => exchanged::<4>(values),
            8 => exchanged::<8>(values),
            16 => exchanged::<16>(values),
            _ => std::array::from_fn(|lane| values[(lane ^ across) & 31]),
        };
        *warp.registers.word_mut(to) = result;
    }
    if let Some(predicate) = shuffle.in_range {
        warp.registers.set_predicate(predicate, u32::MAX, u32::MAX);
    }
}

/// The distance of a butterfly over the whole warp, as reductions use it.
#[inline(always)]
fn whole_butterfly(mode: ShuffleMode, lanes: &Words, clamps: &Words) -> Option<usize> {
    let (mut lanes_differ, mut clamps_differ) = (0, 0);
    for lane in 0..LANES {
        lanes_differ |= lanes[lane] ^ lanes[0];
        clamps_differ |= clamps[lane] ^ 31;
    }
    (mode == ShuffleMode::Butterfly && lanes_differ | clamps_differ == 0).then_some(lanes[0] as usize & 31)
}

/// No lane to read.
const OUTSIDE: u32 = u32::MAX;

/// The lane that each lane reads.
#[inline(always)]
fn sources(lanes: &Words, clamps: &Words, source: impl Fn(u32, u32, u32, u32) -> (u32, bool)) -> Words {
    std::array::from_fn(|lane| {
        let clamp = clamps[lane] & 31;
        let segment = clamps[lane] >> 8 & 31;
        let own = lane as u32;
        let (source, inside) = source(own, lanes[lane] & 31, segment, own & segment | clamp & !segment);
        if inside { source & 31 } else { OUTSIDE }
    })
}

fn apply_vote(warp: &mut Warp, vote: &Vote, mask: u32) {
    let holds = warp.registers.holds((vote.predicate, vote.negated)) & mask;
    let value = match vote.mode {
        VoteMode::Ballot(to) => {
            warp.registers.set_words(to, mask, &[holds; LANES]);
            return;
        }
        VoteMode::All => holds == mask,
        VoteMode::Any => holds != 0,
        VoteMode::Uniform => holds == mask || holds == 0,
    };
    if let Some(to) = vote.to {
        warp.registers.set_predicate(to, mask, if value { u32::MAX } else { 0 });
    }
}
