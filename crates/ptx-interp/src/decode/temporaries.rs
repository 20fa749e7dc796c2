//! Registers that live inside of one basic block share places.
//!
//! A compiler names a new register for each result, thousands in a large kernel, and a warp's registers would fill several times
//! a core's cache. Most of them are written and read by statements that follow one another. A lane that reads such a register
//! has just written it, whatever other lanes do, so another register may have had its place before.

use super::*;

/// Where a body's registers may be kept: for each, the number of a place among those of its width, or none if it needs one that is
/// its own.
pub(super) struct Temporaries(Vec<Option<u32>>);

/// The statements that name a register.
#[derive(Clone, Copy)]
struct Life {
    first: usize,
    last: usize,
    /// All in one basic block, the first writes it whatever the predicates, and no multiplication that goes on behind them has it.
    is_short: bool,
}

impl Temporaries {
    /// None at all.
    pub(super) fn none() -> Self {
        Self(Vec::new())
    }

    /// Looks at all statements of a body.
    pub(super) fn of(body: &ParsedKernel) -> Self {
        let mut short: Vec<(usize, Life)> = lives(body).into_iter().enumerate().filter_map(short_life).collect();
        short.sort_by_key(|(_, life)| life.first);
        let mut places = vec![None; body.registers.len()];
        // By width: places that are free, how many there are, and who has the others.
        let (mut free, mut count) = ([Vec::new(), Vec::new()], [0; 2]);
        let mut taken: Vec<(usize, usize, u32)> = Vec::new();
        for (register, life) in short {
            // Those of a statement that ends before this one begins, so that a result never lies where an operand is.
            taken.retain(|&(last, width, place)| {
                if last < life.first {
                    free[width].push(place);
                }
                last >= life.first
            });
            let width = usize::from(body.registers[register].class == RegisterClass::Bits64);
            let place = free[width].pop().unwrap_or_else(|| {
                count[width] += 1;
                count[width] - 1
            });
            taken.push((life.last, width, place));
            places[register] = Some(place);
        }
        Self(places)
    }

    pub(super) fn place(&self, id: RegisterId) -> Option<u32> {
        self.0.get(id.0 as usize).copied().flatten()
    }
}

fn short_life((register, life): (usize, Option<Life>)) -> Option<(usize, Life)> {
    life.filter(|life| life.is_short).map(|life| (register, life))
}

/// For each register, the statements that name it.
fn lives(body: &ParsedKernel) -> Vec<Option<Life>> {
    let blocks = blocks(body);
    let mut lives: Vec<Option<Life>> = vec![None; body.registers.len()];
    for (index, statement) in body.statements.iter().enumerate() {
        let lasts = statement.opcode.starts_with("wgmma");
        let (results, operands) = statement.operands.split_at(statement.operands.len().min(1));
        // What it reads first, so that a statement that reads its own result is none that writes it first.
        for (named, is_result) in [(operands, false), (results, true)] {
            for operand in named {
                let direct = is_result && !matches!(operand, Operand::Address { .. } | Operand::TensorAddress(_));
                each_register(operand, &mut |id| {
                    let Some(slot) = lives.get_mut(id.0 as usize) else { return };
                    let writes = direct && statement.guard.is_none() && has_result(&statement.opcode);
                    let life = slot.get_or_insert(Life { first: index, last: index, is_short: writes });
                    life.is_short &= !lasts && blocks[life.first] == blocks[index];
                    life.last = index;
                });
            }
        }
    }
    for (life, declared) in lives.iter_mut().zip(&body.registers) {
        if matches!(declared.class, RegisterClass::Predicate | RegisterClass::Bits128) {
            *life = None;
        }
    }
    lives
}

/// Statements whose first operand is read.
fn has_result(opcode: &str) -> bool {
    !["bar", "brx", "call", "nanosleep"].iter().any(|name| opcode.starts_with(name))
}

/// The basic block of each statement.
fn blocks(body: &ParsedKernel) -> Vec<u32> {
    let mut starts = vec![false; body.statements.len() + 1];
    let mut begin = |target: u64| {
        if let Some(start) = usize::try_from(target).ok().and_then(|target| starts.get_mut(target)) {
            *start = true;
        }
    };
    body.branch_targets.values().flatten().for_each(|target| begin(u64::from(*target)));
    for (index, statement) in body.statements.iter().enumerate() {
        let name = statement.opcode.split('.').next().unwrap_or_default();
        if let ("bra", Some(target)) = (name, statement.operands.first()) {
            begin(integer(Some(target)).unwrap_or(u64::MAX));
        }
        if matches!(name, "bra" | "brx" | "call" | "ret" | "exit" | "trap" | "brkpt") {
            begin(index as u64 + 1);
        }
    }
    let mut block = 0;
    let number = |start: &bool| {
        block += u32::from(*start);
        block
    };
    starts[..body.statements.len()].iter().map(number).collect()
}

fn each_register(operand: &Operand, visit: &mut impl FnMut(RegisterId)) {
    match operand {
        Operand::Register(id) => visit(*id),
        Operand::Not(inner) | Operand::Address { base: inner, .. } => each_register(inner, visit),
        Operand::Pair(left, right) => {
            each_register(left, visit);
            each_register(right, visit);
        }
        Operand::Vector(parts) | Operand::TensorAddress(parts) => {
            parts.iter().for_each(|part| each_register(part, visit));
        }
        Operand::Special(_) | Operand::Immediate(_) | Operand::Symbol(_) | Operand::Sink => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::parse_module;

    /// The place of each 32-bit register `%r1`, `%r2`, … of a kernel's body.
    fn places(body: &str) -> Vec<Option<u32>> {
        let text = format!(
            ".version 9.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 p)\n{{\n.reg .pred %p<4>;\n\
             .reg .b32 %r<10>;\n.reg .b64 %rd<4>;\n{body}\nret;\n}}\n"
        );
        let module = parse_module(&text).expect("parses");
        let kernel = &module.kernels[0];
        let found = Temporaries::of(kernel);
        let of_name = |name: &str| kernel.registers.iter().position(|register| register.name == name);
        let place = |number: u32| of_name(&format!("%r{number}")).and_then(|id| found.place(RegisterId(id as u32)));
        (1..10).map(place).collect()
    }

    #[test]
    fn results_that_follow_one_another_share_two_places() {
        let found = places("mov.u32 %r1, %tid.x;\nadd.s32 %r2, %r1, 1;\nadd.s32 %r3, %r2, 1;\nadd.s32 %r4, %r3, %r3;");
        assert_eq!(found[..4], [Some(0), Some(1), Some(0), Some(1)]);
    }

    #[test]
    fn what_is_still_read_keeps_its_place() {
        let found = places("mov.u32 %r1, %tid.x;\nadd.s32 %r2, %r1, 1;\nadd.s32 %r3, %r2, 1;\nadd.s32 %r4, %r1, %r3;");
        assert_eq!(found[..4], [Some(0), Some(1), Some(2), Some(1)]);
    }

    #[test]
    fn what_may_be_read_elsewhere_or_before_it_is_written_shares_nothing() {
        // Read behind a branch, in a loop's next pass, after a guarded write, and by the statement that writes it first.
        for body in [
            "mov.u32 %r1, 1;\n@%p1 bra L;\nadd.s32 %r2, %r1, 1;\nL:",
            "L:\nadd.s32 %r1, %r2, 1;\nmov.u32 %r2, %r1;\nbra L;",
            "@%p1 mov.u32 %r1, 1;\nadd.s32 %r2, %r1, 1;",
            "add.s32 %r1, %r1, 1;\nadd.s32 %r2, %r1, 1;",
            "nanosleep.u32 %r1;",
            "st.global.b32 [%rd1], %r1;",
            "wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {%r1, %r2, %r3, %r4}, %rd1, %rd2, 1, 1, 1, 0, 0;",
        ] {
            let shared = places(body);
            let first = if body.starts_with("L:") { 1 } else { 0 };
            assert_eq!(shared[first], None, "{body}");
        }
    }
}
