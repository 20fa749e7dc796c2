//! What kernels cost as it was accepted: one file per set, one line per kernel and architecture.

use std::path::PathBuf;

use crate::resources::{Cost, KernelSet, budget_of};
use crate::{Checkout, Result, ToolchainError, write_whole};

/// The file of a set's accepted costs, relative to the checkout's root.
pub fn path_of(id: &str) -> PathBuf {
    format!("crates/sdpa-cli/tests/resources/{id}.json").into()
}

/// The accepted costs of a set; none where none were accepted yet.
///
/// # Errors
/// [`ToolchainError::System`], also for a file that is no such record.
pub fn read(checkout: &Checkout, id: &str) -> Result<Option<Vec<Cost>>> {
    let path = checkout.root().join(path_of(id));
    let failed = |source: std::io::Error| ToolchainError::System { path: path.clone(), source };
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some(serde_json::from_str(&text).map_err(|error| failed(error.into()))?)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// Accepts what a set's kernels cost now; `costs` may hold other kernels, too.
///
/// # Errors
/// [`ToolchainError::System`].
pub fn write(checkout: &Checkout, set: &KernelSet<'_>, costs: &[Cost]) -> Result<()> {
    let path = checkout.root().join(path_of(set.id));
    let text = render(&of_set(set, costs));
    write_whole(&path, text.as_bytes())
        .map_err(|error| ToolchainError::System { path: error.path, source: error.source })
}

/// Those of these costs that are a set's.
pub fn of_set(set: &KernelSet<'_>, costs: &[Cost]) -> Vec<Cost> {
    costs.iter().filter(|cost| budget_of(&[*set], cost).is_some()).cloned().collect()
}

/// The text of a record: a JSON array with a line for each entry, so that a difference shows the kernels that changed.
pub fn render(costs: &[Cost]) -> String {
    let line = |cost: &Cost| format!("  {}", serde_json::to_string(cost).expect("numbers and text always serialise"));
    let lines: Vec<String> = costs.iter().map(line).collect();
    format!("[\n{}\n]\n", lines.join(",\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_accepted_has_a_line_per_kernel_and_is_read_back() {
        let cost = |kernel: &str, registers| Cost {
            kernel: kernel.to_owned(),
            architecture: "sm_80".to_owned(),
            threads: 256,
            registers,
            spill_bytes: 0,
            static_shared_bytes: 0,
            dynamic_shared_bytes: 0,
            blocks_per_multiprocessor: 1,
            warnings: Vec::new(),
            ptx: String::new(),
        };
        let costs = [cost("v1/f16_d64", 32), cost("v1/f16_d128", 48)];
        let text = render(&costs);
        assert_eq!(text.lines().count(), 4);
        assert_eq!(serde_json::from_str::<Vec<Cost>>(&text).unwrap(), costs);
        let other = render(&[costs[0].clone(), cost("v1/f16_d128", 40)]);
        assert_eq!(text.lines().zip(other.lines()).filter(|(before, after)| before != after).count(), 1);
        assert_eq!(serde_json::from_str::<Vec<Cost>>(&render(&[])).unwrap(), []);
    }
}
