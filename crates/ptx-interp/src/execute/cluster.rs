//! Addresses in other blocks of a cluster.

use crate::address_space::{CLUSTER_SHIFT, SHARED_WINDOW, split_shared};
use crate::decode::{LaneRegister, WordRegister};
use crate::diagnostics::FindingKind;
use crate::machine::{At, Cluster, Machine, Step, Stopped, Warp};
use crate::registers::each_lane;

impl Machine<'_> {
    pub(crate) fn map_shared(
        &mut self,
        cluster: &mut Cluster,
        warp: &mut Warp,
        at: At,
        to: LaneRegister,
        address: LaneRegister,
        rank: WordRegister,
        generic: bool,
        mask: u32,
    ) -> Result<Step, Stopped> {
        let ranks = *warp.registers.word(rank);
        each_lane!(mask, lane, {
            let base = if generic { SHARED_WINDOW } else { 0 };
            let own = warp.registers.lane(address, lane).wrapping_sub(base);
            if ranks[lane] as usize >= cluster.blocks.len() {
                let message = || format!("block {} of a cluster of {}", ranks[lane], cluster.blocks.len());
                return Err(self.stop(cluster, FindingKind::OutOfBounds, at.pc, at.participant(lane), message));
            }
            let (_, offset) = split_shared(own as u32, at.rank);
            let mapped = u64::from((ranks[lane] + 1) << CLUSTER_SHIFT | offset);
            warp.registers.set_lane(to, lane, mapped + base);
        });
        Ok(Step::Next)
    }

    pub(crate) fn block_rank(
        &mut self,
        warp: &mut Warp,
        at: At,
        to: WordRegister,
        address: LaneRegister,
        generic: bool,
        mask: u32,
    ) -> Step {
        each_lane!(mask, lane, {
            let base = if generic { SHARED_WINDOW } else { 0 };
            let (rank, _) = split_shared(warp.registers.lane(address, lane).wrapping_sub(base) as u32, at.rank);
            warp.registers.words[usize::from(to.0)][lane] = rank;
        });
        Step::Next
    }
}
