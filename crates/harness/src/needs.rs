//! Cases for generations that take no problem as it is: [`needs`](sdpa_core::Attention::needs).

use sdpa_core::{Attention, KvScales, KvStorage, Layout, Operand, Problem};

use crate::case::Case;

/// The problem with its keys and values in e4m3. If their rows then begin where no copy of 16 bytes does, they get room
/// behind each.
pub fn stored_in_e4m3(problem: &Problem, scales: KvScales) -> Problem {
    /// Elements of 16 bytes.
    const MULTIPLE: i64 = 16;
    let mut builder = problem.to_builder().kv_storage(KvStorage::E4m3(scales));
    for operand in [Operand::Key, Operand::Value] {
        let strides = problem.strides(operand);
        if [strides.batch, strides.head, strides.row].iter().any(|stride| stride % MULTIPLE != 0) {
            let [_, heads, length, width] = problem.shape(operand);
            let layout = if strides.row > strides.head { Layout::Blhd } else { Layout::Bhld };
            builder =
                builder.strides(operand, layout.strides(heads, length, width.next_multiple_of(MULTIPLE as usize)));
        }
    }
    builder.build().expect("a valid problem stays valid when its keys are stored in fewer bits")
}

/// The problem as a generation may be asked for it: with what it needs, if that is missing.
pub fn as_needed(generation: &dyn Attention, problem: &Problem) -> Problem {
    match generation.needs().first_not_in(problem.extensions()) {
        None => problem.clone(),
        // There is one such need.
        Some(_) => stored_in_e4m3(problem, if problem.heads_kv() > 1 { KvScales::Head } else { KvScales::Tensor }),
    }
}

/// [`as_needed`] of a case's problem.
pub fn case_as_needed(generation: &dyn Attention, case: &Case) -> Case {
    Case { problem: as_needed(generation, &case.problem), ..case.clone() }
}
