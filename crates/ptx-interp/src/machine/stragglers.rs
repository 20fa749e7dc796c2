//! Lanes that lag: which ones do, for how long, and what they have missed meanwhile.

use std::collections::HashMap;

use super::{Cluster, Wait};
use crate::order::Participant;
use crate::random::Random;

/// One in so many waits and divergent branches leaves lanes behind.
const SHARE: u64 = 4;
/// One in so many turns of a cluster's warps lets them go on.
const PATIENCE: u64 = 512;

/// The phase that a lane would have seen complete, had it not lagged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unseen {
    /// Block and offset of the mbarrier.
    pub mbarrier: (u32, u32),
    /// The phase that followed it.
    pub phase: u64,
}

#[derive(Debug)]
pub(crate) struct Stragglers {
    random: Random,
    unseen: HashMap<Participant, Unseen>,
}

impl Stragglers {
    pub(crate) fn new(seed: u64) -> Self {
        Self { random: Random::new(!seed), unseen: HashMap::new() }
    }

    /// Those of some lanes that lag now: never all of them.
    pub(crate) fn choose(&mut self, lanes: u32) -> u32 {
        if lanes.count_ones() < 2 || !self.random.next().is_multiple_of(SHARE) {
            return 0;
        }
        let draw = self.random.next();
        let first = lanes & lanes.wrapping_neg();
        match draw % 4 {
            // All but the first, which often acts for its warp; the first alone; some.
            0 => lanes & !first,
            1 => first,
            _ => (draw >> 32) as u32 & lanes & !first,
        }
    }

    /// Which of the two sides of a branch lags, if any.
    pub(crate) fn choose_side(&mut self) -> Option<bool> {
        let draw = self.random.next();
        draw.is_multiple_of(SHARE).then_some(draw >> 32 & 1 == 1)
    }

    pub(crate) fn leave_behind(&mut self, thread: Participant, unseen: Unseen) {
        self.unseen.insert(thread, unseen);
    }

    /// What a lane that has lagged was to see, when it looks again.
    pub(crate) fn looks_again(&mut self, thread: Participant) -> Option<Unseen> {
        self.unseen.remove(&thread)
    }

    /// Lets the stragglers of a cluster go on where they have waited long enough.
    pub(crate) fn pass_time(&mut self, cluster: &mut Cluster) {
        if self.random.next().is_multiple_of(PATIENCE) {
            wake_stragglers(cluster);
        }
    }
}

/// Lets all stragglers of a cluster go on; whether there are any.
pub(crate) fn wake_stragglers(cluster: &mut Cluster) -> bool {
    let mut any = false;
    for warp in cluster.blocks.iter_mut().flat_map(|block| &mut block.warps) {
        any |= warp.splits.iter().any(|split| split.wait == Wait::Lagging);
        warp.wake(|wait| wait == Wait::Lagging);
    }
    any
}
