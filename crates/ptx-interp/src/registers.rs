//! The registers of one warp: three banks, each register holding all 32 lanes so that loops over lanes vectorise.

use crate::decode::{DoubleRegister, LaneRegister, PredicateRegister, WordRegister};

/// Lanes of a warp.
pub(crate) const LANES: usize = 32;

pub(crate) type Words = [u32; LANES];
pub(crate) type Doubles = [u64; LANES];

#[derive(Clone, Debug)]
pub(crate) struct Registers {
    pub words: Vec<Words>,
    pub doubles: Vec<Doubles>,
    /// One bit a lane.
    pub predicates: Vec<u32>,
}

impl Registers {
    #[inline(always)]
    pub(crate) fn word(&self, register: WordRegister) -> &Words {
        &self.words[usize::from(register.0)]
    }

    #[inline(always)]
    pub(crate) fn word_mut(&mut self, register: WordRegister) -> &mut Words {
        &mut self.words[usize::from(register.0)]
    }

    #[inline(always)]
    pub(crate) fn double(&self, register: DoubleRegister) -> &Doubles {
        &self.doubles[usize::from(register.0)]
    }

    #[inline(always)]
    pub(crate) fn predicate(&self, register: PredicateRegister) -> u32 {
        self.predicates[usize::from(register.0)]
    }

    /// The lanes where a predicate, perhaps negated, holds.
    #[inline(always)]
    pub(crate) fn holds(&self, (register, negated): (PredicateRegister, bool)) -> u32 {
        let lanes = self.predicate(register);
        if negated { !lanes } else { lanes }
    }

    #[inline(always)]
    pub(crate) fn set_words(&mut self, register: WordRegister, mask: u32, values: &Words) {
        let target = &mut self.words[usize::from(register.0)];
        if mask == u32::MAX {
            *target = *values;
        } else {
            for lane in 0..LANES {
                target[lane] = if mask >> lane & 1 == 1 { values[lane] } else { target[lane] };
            }
        }
    }

    #[inline(always)]
    pub(crate) fn set_doubles(&mut self, register: DoubleRegister, mask: u32, values: &Doubles) {
        let target = &mut self.doubles[usize::from(register.0)];
        if mask == u32::MAX {
            *target = *values;
        } else {
            for lane in 0..LANES {
                target[lane] = if mask >> lane & 1 == 1 { values[lane] } else { target[lane] };
            }
        }
    }

    #[inline(always)]
    pub(crate) fn set_predicate(&mut self, register: PredicateRegister, mask: u32, lanes: u32) {
        let target = &mut self.predicates[usize::from(register.0)];
        *target = *target & !mask | lanes & mask;
    }

    /// One lane of a register, zero-extended.
    #[inline(always)]
    pub(crate) fn lane(&self, register: LaneRegister, lane: usize) -> u64 {
        match register {
            LaneRegister::Word(register) => u64::from(self.word(register)[lane]),
            LaneRegister::Double(register) => self.double(register)[lane],
        }
    }

    #[inline(always)]
    pub(crate) fn set_lane(&mut self, register: LaneRegister, lane: usize, value: u64) {
        match register {
            LaneRegister::Word(register) => self.words[usize::from(register.0)][lane] = value as u32,
            LaneRegister::Double(register) => self.doubles[usize::from(register.0)][lane] = value,
        }
    }

    /// A member mask must be the same in all lanes that execute together; the first active lane's counts.
    #[inline(always)]
    pub(crate) fn uniform(&self, register: WordRegister, mask: u32) -> u32 {
        self.word(register)[mask.trailing_zeros() as usize & 31]
    }
}

/// Calls a body for each lane of a mask.
macro_rules! each_lane {
    ($mask:expr, $lane:ident, $body:block) => {{
        let mut remaining: u32 = $mask;
        while remaining != 0 {
            let $lane = remaining.trailing_zeros() as usize;
            remaining &= remaining - 1;
            $body
        }
    }};
}
pub(crate) use each_lane;
