//! Variables of a module in global memory: they are put there by the first launch, and stay.

use crate::memory::Memory;
use crate::parse::{ParsedModule, VariableSpace};

/// Addresses of a module's variables by their index; 0 for those that are not in global memory.
pub(crate) fn load_variables(module: &ParsedModule, memory: &mut Memory) -> Vec<u64> {
    if let Some(known) = memory.module(module.id) {
        return known.to_vec();
    }
    let mut addresses = Vec::with_capacity(module.variables.len());
    for variable in &module.variables {
        let in_global = matches!(variable.space, VariableSpace::Global | VariableSpace::Constant);
        let size = variable.size.filter(|_| in_global && variable.initial.is_ok());
        addresses.push(match size {
            Some(size) => memory.allocate(&variable.name, size as usize, variable.align as usize),
            None => 0,
        });
    }
    for (variable, address) in module.variables.iter().zip(&addresses) {
        let (Ok(initial), Some(size), true) = (&variable.initial, variable.size, *address != 0) else { continue };
        let mut bytes = initial.bytes.clone();
        for (offset, name) in &initial.addresses {
            let target = module.variables.iter().position(|variable| &variable.name == name);
            let target = target.map_or(0, |index| addresses[index]);
            if let Some(slot) = bytes.get_mut(*offset..offset + 8) {
                let addend = <[u8; 8]>::try_from(&*slot).map_or(0, u64::from_le_bytes);
                slot.copy_from_slice(&target.wrapping_add(addend).to_le_bytes());
            }
        }
        bytes.resize(size as usize, 0);
        // The buffer has just been allocated with this size.
        let _ = memory.write(*address, &bytes);
    }
    memory.add_module(module.id, addresses.clone());
    addresses
}
