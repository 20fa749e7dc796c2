//! What is known to have happened: vector clocks, and the messages that carry them from a release to an acquire.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::happens_before::{Participant, Stamp};
use crate::decode::Scope;

/// Newest known stamp of each participant of a cluster; missing entries are 0.
type Stamps = Vec<Stamp>;

fn join_stamps(into: &mut Stamps, from: &[Stamp]) {
    if into.len() < from.len() {
        into.resize(from.len(), 0);
    }
    for (known, stamp) in into.iter_mut().zip(from) {
        *known = (*known).max(*stamp);
    }
}

/// What is known of a cluster's participants, and of the threads of other clusters.
#[derive(Clone, Debug, Default)]
pub(crate) struct Clock {
    stamps: Stamps,
    /// Of other clusters, by their index. Shared: threads of a block usually know the same of them.
    foreign: Option<Arc<BTreeMap<u32, Stamps>>>,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.stamps.is_empty() && self.foreign.is_none()
    }

    #[inline(always)]
    pub(crate) fn knows(&self, participant: Participant, stamp: Stamp) -> bool {
        self.stamps.get(participant as usize).is_some_and(|known| *known >= stamp)
    }

    /// Whether what a thread of another cluster did at a stamp is known.
    pub(crate) fn knows_foreign(&self, cluster: u32, participant: Participant, stamp: Stamp) -> bool {
        let known = self.foreign.as_ref().and_then(|foreign| foreign.get(&cluster));
        known.and_then(|stamps| stamps.get(participant as usize)).is_some_and(|known| *known >= stamp)
    }

    pub(crate) fn join(&mut self, other: &Self) {
        join_stamps(&mut self.stamps, &other.stamps);
        self.join_foreign(&other.foreign);
    }

    fn join_foreign(&mut self, other: &Option<Arc<BTreeMap<u32, Stamps>>>) {
        let Some(other) = other else { return };
        match &mut self.foreign {
            None => self.foreign = Some(Arc::clone(other)),
            Some(own) if Arc::ptr_eq(own, other) => {}
            Some(own) => {
                let own = Arc::make_mut(own);
                for (cluster, stamps) in other.iter() {
                    join_stamps(own.entry(*cluster).or_default(), stamps);
                }
            }
        }
    }

    /// One more thing is known.
    pub(crate) fn mark(&mut self, participant: Participant, stamp: Stamp) {
        let index = participant as usize;
        if self.stamps.len() <= index {
            self.stamps.resize(index + 1, 0);
        }
        self.stamps[index] = self.stamps[index].max(stamp);
    }

    /// At least this is known of a range of threads.
    pub(super) fn raise(&mut self, range: std::ops::Range<usize>, stamp: Stamp) {
        if self.stamps.len() < range.end {
            self.stamps.resize(range.end, 0);
        }
        for known in &mut self.stamps[range] {
            *known = (*known).max(stamp);
        }
    }

    /// Adds what a clock of cluster `origin` says, as cluster `own` keeps it.
    fn join_from(&mut self, own: u32, origin: u32, message: &Self) {
        if own == origin {
            self.join(message);
            return;
        }
        let mut foreign = message.foreign.as_deref().cloned().unwrap_or_default();
        if let Some(of_own) = foreign.remove(&own) {
            join_stamps(&mut self.stamps, &of_own);
        }
        join_stamps(foreign.entry(origin).or_default(), &message.stamps);
        self.join_foreign(&Some(Arc::new(foreign)));
    }
}

/// The block that a message comes from or goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub cluster: u32,
    pub rank: u32,
}

impl Origin {
    /// The smallest scope that holds both blocks.
    pub(crate) fn scope_with(self, other: Self) -> Scope {
        if self == other {
            Scope::Block
        } else if self.cluster == other.cluster {
            Scope::Cluster
        } else {
            Scope::Device
        }
    }
}

#[derive(Clone, Debug)]
struct Message {
    origin: Origin,
    scope: Scope,
    clock: Clock,
}

/// What writes of a place in memory, or arrivals at an mbarrier, publish to those that acquire there.
///
/// A message counts between two blocks only if the scopes of both sides hold both blocks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Messages(Vec<Message>);

impl Messages {
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// The message of a block at a scope, to be added to.
    pub(crate) fn of(&mut self, origin: Origin, scope: Scope) -> &mut Clock {
        let found = self.0.iter().position(|message| message.origin == origin && message.scope == scope);
        let index = found.unwrap_or_else(|| {
            self.0.push(Message { origin, scope, clock: Clock::new() });
            self.0.len() - 1
        });
        &mut self.0[index].clock
    }

    /// Whether what a participant of the same cluster did at a stamp is in one of these.
    pub(crate) fn know(&self, participant: Participant, stamp: Stamp) -> bool {
        self.0.iter().any(|message| message.clock.knows(participant, stamp))
    }

    /// Adds to clocks, one for each scope that holds reader and writer, what a reader sees of these; none where a scope
    /// is too narrow.
    pub(super) fn seen(&self, reader: Origin, scope: Scope, mut see: impl FnMut(Option<Scope>, &dyn Fn(&mut Clock))) {
        for message in &self.0 {
            let needed = message.origin.scope_with(reader);
            let wide = needed <= message.scope && needed <= scope;
            see(wide.then_some(needed), &|clock| {
                clock.join_from(reader.cluster, message.origin.cluster, &message.clock);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Origin = Origin { cluster: 3, rank: 0 };
    const BESIDE: Origin = Origin { cluster: 3, rank: 1 };
    const FAR: Origin = Origin { cluster: 4, rank: 0 };

    fn seen(messages: &Messages, reader: Origin, scope: Scope) -> Clock {
        let mut clock = Clock::new();
        messages.seen(reader, scope, |needed, join| {
            if needed.is_some() {
                join(&mut clock);
            }
        });
        clock
    }

    #[test]
    fn both_scopes_must_hold_both_blocks() {
        for (scope, same, beside, far) in
            [(Scope::Block, true, false, false), (Scope::Cluster, true, true, false), (Scope::Device, true, true, true)]
        {
            for (reader, holds) in [(HERE, same), (BESIDE, beside), (FAR, far)] {
                let mut written = Messages::default();
                written.of(HERE, scope).mark(5, 9);
                assert_eq!(!seen(&written, reader, Scope::Device).is_empty(), holds, "{scope:?} to {reader:?}");
                let mut wide = Messages::default();
                wide.of(HERE, Scope::Device).mark(5, 9);
                assert_eq!(!seen(&wide, reader, scope).is_empty(), holds, "{reader:?} reads at {scope:?}");
            }
        }
    }

    #[test]
    fn knowledge_goes_through_a_third_block() {
        let mut first = Messages::default();
        first.of(HERE, Scope::Device).mark(5, 9);
        let learned = seen(&first, FAR, Scope::Device);
        assert!(learned.knows_foreign(3, 5, 9) && !learned.knows_foreign(3, 5, 10) && !learned.knows(5, 1));
        let mut second = Messages::default();
        second.of(FAR, Scope::Device).join(&learned);
        let back = seen(&second, BESIDE, Scope::Device);
        assert!(back.knows(5, 9) && !back.knows_foreign(3, 5, 9));
    }
}
