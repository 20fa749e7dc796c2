//! What must be over before threads exit, and what may no longer be touched after a block has.

use crate::diagnostics::FindingKind;
use crate::machine::{At, Cluster, Machine, Warp, has_exited};
use crate::registers::each_lane;

impl Machine<'_> {
    /// These lanes have exited: no thread waits for their bulk copies any more, nor, after the block's last ones, for
    /// copies into its shared memory.
    pub(crate) fn check_exit(&mut self, cluster: &Cluster, warp: &Warp, at: At, lanes: u32) {
        each_lane!(lanes, lane, {
            let thread = at.participant(lane);
            if cluster.bulk_groups.get(&thread).is_some_and(|groups| groups.has_pending()) {
                self.report(cluster, FindingKind::AsyncReadBeforeWait, at.pc, thread, None, || {
                    "exits while its bulk copies may still read shared memory: cp.async.bulk.wait_group.read 0 is missing"
                        .into()
                });
            }
        });
        self.check_trace(cluster, warp, at, lanes);
        if warp.live() != 0 || !has_exited(cluster, at.rank) {
            return;
        }
        let by = at.participant(lanes.trailing_zeros() as usize);
        if let Some(transfer) = cluster.transfers.iter().find(|transfer| transfer.writes_to(at.rank)) {
            let other = Some((transfer.pc(), by));
            self.report(cluster, FindingKind::AsyncReadBeforeWait, at.pc, by, other, || {
                "the block exits while a copy into its shared memory is under way".into()
            });
        }
    }

    /// The warps of a warpgroup must have executed the same wgmma and the same setmaxnreg.
    fn check_trace(&mut self, cluster: &Cluster, warp: &Warp, at: At, lanes: u32) {
        if warp.live() != 0 {
            return;
        }
        let first = (warp.index / 4 * 4) as usize;
        let warps = cluster.blocks[at.rank as usize].warps.iter().skip(first).take(4);
        let ended = warps.filter(|other| !other.is_away() && other.live() == 0);
        let by = at.participant(lanes.trailing_zeros() as usize);
        let differ = ended.fold((false, false), |(wgmma, share), other| {
            (wgmma | (other.wgmma_trace != warp.wgmma_trace), share | (other.share_trace != warp.share_trace))
        });
        for (differs, kind, name) in [
            (differ.0, FindingKind::BadMatrixOperation, "wgmma"),
            (differ.1, FindingKind::DivergentBarrier, "setmaxnreg"),
        ] {
            if differs {
                self.report(cluster, kind, at.pc, by, None, || {
                    format!("the warps of a warpgroup have not executed the same {name} instructions")
                });
            }
        }
    }
}
