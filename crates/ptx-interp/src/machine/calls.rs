//! Calls under way in a warp.

use std::collections::HashMap;

use crate::registers::LANES;

/// One call: what called, and where it goes on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallFrame {
    /// The stack below.
    pub parent: u32,
    /// The call's instruction; the one after it is where it returns to.
    pub pc: u32,
}

/// Every stack of calls that lanes of a warp have had. Lanes with the same calls have the same number, so that they can
/// join again.
#[derive(Debug, Default)]
pub(crate) struct CallStacks {
    frames: Vec<CallFrame>,
    index: HashMap<(u32, u32), u32>,
    /// By lane: registers of functions that run again before they have returned.
    pub kept: Option<Box<[Vec<u64>; LANES]>>,
}

impl CallStacks {
    /// The stack with one call more.
    pub(crate) fn push(&mut self, parent: u32, pc: u32) -> u32 {
        let frames = &mut self.frames;
        *self.index.entry((parent, pc)).or_insert_with(|| {
            frames.push(CallFrame { parent, pc });
            frames.len() as u32
        })
    }

    pub(crate) fn top(&self, stack: u32) -> Option<CallFrame> {
        self.frames.get((stack as usize).checked_sub(1)?).copied()
    }
}
