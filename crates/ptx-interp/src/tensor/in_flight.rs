//! Registers that wgmma reads and writes while the warp goes on: between a `wgmma.fence`, which hands them over, and
//! the `wgmma.wait_group` that covers the multiplication, nobody else may touch them.

use crate::decode::{Program, Wgmma, WgmmaA, WordRegister};
use crate::diagnostics::FindingKind;
use crate::execute::{At, Cluster, Machine};
use crate::warp::Warp;

/// What a multiplication does with a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// A piece of A: it is only read.
    Operand,
    /// One of the sums of a tile with so many columns, at this place: the next multiplication of the same shape may
    /// follow at once.
    Sum { columns: u16, place: u16, registers: u16 },
}

/// The last multiplication that takes a register.
#[derive(Clone, Copy, Debug)]
struct Flight {
    /// Number of its group, from 1; 0 for none.
    group: u64,
    role: Role,
    pc: u32,
}

/// What a warp's multiplications have of its 32-bit registers. Empty for kernels without wgmma.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    flights: Vec<Flight>,
    /// In which interval between fences other instructions last touched each register, and which did; 0 for never.
    touched: Vec<(u32, u32)>,
    /// Fences so far, and 1.
    interval: u32,
    committed: u64,
    done: u64,
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
    fn under_way(&self, register: WordRegister) -> Option<Flight> {
        self.flights.get(usize::from(register.0)).copied().filter(|flight| flight.group > self.done)
    }

    /// Notes an ordinary instruction's registers; the first one that a multiplication still has.
    #[inline]
    fn touch(&mut self, registers: &[WordRegister], pc: u32) -> Option<Flight> {
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
    fn unfenced(&self, registers: &[WordRegister]) -> Option<u32> {
        let touched = registers.iter().filter_map(|register| self.touched.get(usize::from(register.0)));
        touched.filter(|(interval, _)| *interval == self.interval).map(|(_, pc)| *pc).next()
    }
}

impl Machine<'_> {
    /// An instruction other than wgmma is about to touch its registers.
    #[inline]
    pub(crate) fn touch_registers(&mut self, cluster: &Cluster, warp: &mut Warp, at: At, mask: u32) {
        let registers = &self.context.program.mentions[at.pc as usize];
        if let Some(flight) = warp.in_flight.touch(registers, at.pc) {
            let by = at.participant(mask.trailing_zeros() as usize);
            let what = match flight.role {
                Role::Operand => "an operand",
                Role::Sum { .. } => "an accumulator",
            };
            self.report(cluster, FindingKind::AsyncReadBeforeWait, at.pc, by, Some((flight.pc, by)), || {
                format!(
                    "touches a register that is {what} of a wgmma under way: its wgmma.wait_group is missing or too weak"
                )
            });
        }
    }

    /// A multiplication takes its registers.
    pub(crate) fn take_registers(&mut self, cluster: &Cluster, warp: &mut Warp, at: At, wgmma: &Wgmma) {
        let by = at.participant(0);
        let operands: &[WordRegister] = match &wgmma.a {
            WgmmaA::Registers(registers) => registers,
            WgmmaA::Shared { .. } => &[],
        };
        let sum = |place: usize| Role::Sum { columns: wgmma.n, place: place as u16, registers: wgmma.d.len() as u16 };
        let roles = operands.iter().map(|register| (*register, Role::Operand));
        let roles = roles.chain(wgmma.d.iter().enumerate().map(|(place, register)| (*register, sum(place))));
        let clash = roles
            .clone()
            .find_map(|(register, role)| warp.in_flight.under_way(register).filter(|flight| flight.role != role));
        if let Some(flight) = clash {
            self.report(cluster, FindingKind::AsyncReadBeforeWait, at.pc, by, Some((flight.pc, by)), || {
                "takes a register that another wgmma under way uses differently: its wgmma.wait_group is missing or too weak"
                    .into()
            });
        }
        let unfenced = warp.in_flight.unfenced(operands).or_else(|| warp.in_flight.unfenced(&wgmma.d));
        if let Some(pc) = unfenced {
            self.report(cluster, FindingKind::MissingMatrixFence, at.pc, by, Some((pc, by)), || {
                "takes registers that were touched since the last wgmma.fence".into()
            });
        }
        if warp.in_flight.interval == 1 {
            self.report(cluster, FindingKind::MissingMatrixFence, at.pc, by, None, || {
                "the warp's first wgmma, and no wgmma.fence before it".into()
            });
        }
        let group = warp.in_flight.committed + 1;
        for (register, role) in roles {
            warp.in_flight.flights[usize::from(register.0)] = Flight { group, role, pc: at.pc };
        }
    }
}
