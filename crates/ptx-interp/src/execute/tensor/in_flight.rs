//! Registers of a wgmma under way: what touches them, and what takes them.

use crate::decode::{Wgmma, WgmmaA, WordRegister};
use crate::diagnostics::FindingKind;
use crate::machine::{At, Cluster, Flight, Machine, Role, Warp};

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
