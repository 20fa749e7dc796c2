//! `st` to every space, checked a lane at a time.

use crate::decode::{Access, Space};
use crate::diagnostics::FindingKind;
use crate::machine::{At, Cluster, Lanes, Machine, Step, Stopped, Warp, addresses, for_each_space};
use crate::registers::{Registers, each_lane};

/// Gathers the bytes that one lane stores.
#[inline(always)]
fn collect(registers: &Registers, access: &Access, lane: usize, bytes: &mut [u8; 32]) -> usize {
    let element = usize::from(access.element);
    for (index, register) in access.registers.iter().enumerate() {
        if let Some(register) = register {
            let value = registers.lane(*register, lane).to_le_bytes();
            bytes[index * element..(index + 1) * element].copy_from_slice(&value[..element]);
        }
    }
    element * access.registers.len()
}

impl Machine<'_> {
    pub(crate) fn store(
        &mut self,
        cluster: &mut Cluster,
        warp: &mut Warp,
        at: At,
        access: &Access,
        mask: u32,
    ) -> Result<Step, Stopped> {
        let places = addresses(&warp.registers, access.address);
        for_each_space(access.space, &places, mask, |space, places, lanes| {
            self.store_space(cluster, warp, at, access, space, places, lanes)
        })?;
        self.after_store(cluster, at, access, &places, mask);
        Ok(Step::Next)
    }

    fn store_space(
        &mut self,
        cluster: &mut Cluster,
        warp: &mut Warp,
        at: At,
        access: &Access,
        space: Space,
        places: &Lanes,
        mask: u32,
    ) -> Result<(), Stopped> {
        let bytes = u32::from(access.element) * access.registers.len() as u32;
        let manner = access.manner();
        let mut data = [0; 32];
        match space {
            Space::Shared | Space::SharedCluster | Space::Generic => {
                self.count_shared(places, mask, bytes, true);
                each_lane!(mask, lane, {
                    let length = collect(&warp.registers, access, lane, &mut data);
                    let place = self.shared_place(cluster, at, lane, places[lane], bytes, space)?;
                    self.write_shared(cluster, at, lane, place, &data[..length], manner);
                });
            }
            Space::Global => {
                self.count_global(places, mask, bytes, true);
                each_lane!(mask, lane, {
                    let length = collect(&warp.registers, access, lane, &mut data);
                    self.write_global(cluster, at, lane, places[lane], &data[..length], manner)?;
                });
            }
            Space::Local => {
                each_lane!(mask, lane, {
                    let length = collect(&warp.registers, access, lane, &mut data);
                    self.write_local(cluster, warp, at, lane, places[lane], &data[..length])?;
                });
            }
            Space::Parameter => {
                let by = at.participant(mask.trailing_zeros() as usize);
                let message = || "writes to the kernel's parameters".into();
                return Err(self.stop(cluster, FindingKind::OutOfBounds, at.pc, by, message));
            }
        }
        Ok(())
    }
}
