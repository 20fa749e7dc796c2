//! Registers that wgmma reads and writes while the warp goes on: between a `wgmma.fence`, which hands them over, and
//! the `wgmma.wait_group` that covers the multiplication, no other instruction may touch them.

use crate::decode::{Program, WordRegister};

/// What a multiplication does with a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// A piece of A: it is only read.
    Operand,
    /// One of the sums of a tile with so many columns, at this place: the next multiplication of the same shape may
    /// follow at once.
    Sum { columns: u16, place: u16, registers: u16 },
}

/// The last multiplication that takes a register.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flight {
    /// Number of its group, from 1; 0 for none.
    pub group: u64,
    pub role: Role,
    pub pc: u32,
}

/// What a warp's multiplications have of its 32-bit registers. Empty for kernels without wgmma.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    pub flights: Vec<Flight>,
    /// In which interval between fences other instructions last touched each register, and which did; 0 for never.
    pub touched: Vec<(u32, u32)>,
    /// Fences so far, and 1.
    pub interval: u32,
    pub committed: u64,
    pub done: u64,
}

impl InFlight {
    pub(crate) fn new(program: &Program) -> Self {
        if program.mentions.is_empty() {
            return Self::default();
        }
        Self {
            flights: vec![Flight { group: 0, role: Role::Operand, pc: 0 }; program.words],
            touched: vec![(0, 0); program.words],
            interval: 1,
            ..Self::default()
        }
    }

    pub(crate) fn fence(&mut self) {
        self.interval += 1;
    }

    pub(crate) fn commit(&mut self) {
        self.committed += 1;
    }

    /// All groups but the newest `keep` are done.
    pub(crate) fn wait(&mut self, keep: u32) {
        self.done = self.done.max(self.committed.saturating_sub(u64::from(keep)));
    }

    /// The flight of a register that is under way.
    pub(crate) fn under_way(&self, register: WordRegister) -> Option<Flight> {
        self.flights.get(usize::from(register.0)).copied().filter(|flight| flight.group > self.done)
    }

    /// Notes an ordinary instruction's registers; the first one that a multiplication still has.
    #[inline]
    pub(crate) fn touch(&mut self, registers: &[WordRegister], pc: u32) -> Option<Flight> {
        let mut found = None;
        for register in registers {
            self.touched[usize::from(register.0)] = (self.interval, pc);
            if self.flights[usize::from(register.0)].group > self.done {
                found = found.or(self.under_way(*register));
            }
        }
        found
    }

    /// The instruction that touched one of these since the last fence.
    pub(crate) fn unfenced(&self, registers: &[WordRegister]) -> Option<u32> {
        let touched = registers.iter().filter_map(|register| self.touched.get(usize::from(register.0)));
        touched.filter(|(interval, _)| *interval == self.interval).map(|(_, pc)| *pc).next()
    }
}
