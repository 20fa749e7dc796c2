//! `setmaxnreg`: warps give registers back to their block, and take more than they began with.

use crate::machine::{At, Cluster, Step, Wait, Warp, is_whole_warp};
use crate::registers::LANES;

pub(crate) fn share_registers(
    cluster: &mut Cluster,
    warp: &mut Warp,
    at: At,
    count: u32,
    more: bool,
    mask: u32,
) -> Step {
    if !is_whole_warp(warp, mask) {
        return Step::Retry(Wait::Lanes);
    }
    let has = warp.register_share;
    // Without directives the assembler does not know how many there are, and drops the instruction.
    if has == 0 {
        return Step::Next;
    }
    let trace = warp.share_trace.wrapping_mul(0x0100_0000_01b3) ^ u64::from(at.pc + 1);
    if more && count <= has || !more && count >= has {
        warp.share_trace = trace;
        return Step::Next;
    }
    let block = &mut cluster.blocks[at.rank as usize];
    let moved = count.abs_diff(has) * LANES as u32;
    if more {
        let Some(left) = block.free_registers.checked_sub(moved) else { return Step::Retry(Wait::Registers) };
        block.free_registers = left;
    } else {
        block.free_registers += moved;
        for other in &mut block.warps {
            other.wake(|wait| wait == Wait::Registers);
        }
    }
    warp.register_share = count;
    warp.share_trace = trace;
    Step::Next
}
