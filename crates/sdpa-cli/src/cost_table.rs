//! The table of what kernels cost, for people.

use harness::table::{Align, Cell, Table};
use sdpa_core::Budget;
use sdpa_toolchain::resources::{Cost, KernelSet, budget_of};

/// The table for people; what is over budget is marked, and red where colours are wanted.
pub fn render_costs(sets: &[KernelSet<'_>], costs: &[Cost], colour: bool) -> String {
    let mut table = Table::new(&[
        ("kernel", Align::Left),
        ("arch", Align::Left),
        ("threads", Align::Right),
        ("registers", Align::Right),
        ("spill B", Align::Right),
        ("static B", Align::Right),
        ("dynamic B", Align::Right),
        ("CTAs/SM", Align::Right),
        ("note", Align::Left),
    ])
    .with_colour(colour);
    for cost in costs {
        let budget = budget_of(sets, cost);
        let over = budget.map(|budget| cost.over(&budget)).unwrap_or_default();
        let above = |found: u32, allowed: fn(&Budget) -> u32| budget.is_some_and(|budget| found > allowed(&budget));
        let shared = above(cost.shared_bytes(), |budget| budget.shared_bytes);
        let mut notes = Vec::new();
        if !over.is_empty() {
            notes.push(format!("OVER BUDGET: {}", over.join("; ")));
        }
        if cost.blocks_per_multiprocessor == 0 {
            notes.push("does not fit this GPU".to_owned());
        }
        notes.extend(cost.warnings.iter().cloned());
        table.push(vec![
            cost.kernel.as_str().into(),
            cost.architecture.as_str().into(),
            cost.threads.to_string().into(),
            Cell::red_if(above(cost.registers, |budget| budget.registers), cost.registers.to_string()),
            Cell::red_if(above(cost.spill_bytes, |budget| budget.spill_bytes), cost.spill_bytes.to_string()),
            Cell::red_if(shared, cost.static_shared_bytes.to_string()),
            Cell::red_if(shared, cost.dynamic_shared_bytes.to_string()),
            cost.blocks_per_multiprocessor.to_string().into(),
            Cell::red_if(!over.is_empty() || !cost.warnings.is_empty(), notes.join("; ")),
        ]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use sdpa::generations;

    use super::*;

    #[test]
    fn what_is_over_budget_is_marked() {
        let set = KernelSet::from(generations::find("v1").expect("v1 is a generation").generation());
        let cost = |registers, spill_bytes| Cost {
            kernel: "v1/f16_d64".to_owned(),
            architecture: "sm_89".to_owned(),
            threads: 256,
            registers,
            spill_bytes,
            static_shared_bytes: 0,
            dynamic_shared_bytes: 0,
            blocks_per_multiprocessor: 1,
            warnings: vec![],
            ptx: String::new(),
        };
        let costs = [cost(64, 0), cost(80, 8)];
        insta::assert_snapshot!(render_costs(&[set], &costs, false), @r"
        kernel      arch   threads  registers  spill B  static B  dynamic B  CTAs/SM  note
        v1/f16_d64  sm_89      256         64        0         0          0        1
        v1/f16_d64  sm_89      256         80        8         0          0        1  OVER BUDGET: 80 registers, 64 allowed; 8 spill bytes, 0 allowed
        ");
        assert!(render_costs(&[set], &costs, true).contains("\u{1b}[31m80\u{1b}[0m"));
    }
}
