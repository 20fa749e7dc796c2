//! Calls of functions and returns from them.

use crate::decode::{Call, DoubleRegister, Function, IgnoredCall, Operation};
use crate::diagnostics::FindingKind;
use crate::machine::{At, Cluster, Machine, Step, Stopped, Warp};
use crate::registers::{LANES, Registers, each_lane};

/// Where a lane's frame starts in its local memory.
fn frame_start(registers: &Registers, frame: Option<DoubleRegister>, lane: usize) -> usize {
    frame.map_or(0, |frame| registers.double(frame)[lane] as usize)
}

/// Keeps one lane's registers of a function.
fn keep(registers: &Registers, function: &Function, lane: usize, into: &mut Vec<u64>) {
    into.extend(registers.words[function.words.clone()].iter().map(|word| u64::from(word[lane])));
    into.extend(registers.doubles[function.doubles.clone()].iter().map(|double| double[lane]));
    into.extend(registers.predicates[function.predicates.clone()].iter().map(|lanes| u64::from(lanes >> lane & 1)));
}

/// Gives a lane the registers that it had when the function was called.
fn restore(registers: &mut Registers, function: &Function, lane: usize, from: &mut Vec<u64>) {
    for lanes in registers.predicates[function.predicates.clone()].iter_mut().rev() {
        *lanes = *lanes & !(1 << lane) | (from.pop().unwrap_or(0) as u32 & 1) << lane;
    }
    for double in registers.doubles[function.doubles.clone()].iter_mut().rev() {
        double[lane] = from.pop().unwrap_or(0);
    }
    for word in registers.words[function.words.clone()].iter_mut().rev() {
        word[lane] = from.pop().unwrap_or(0) as u32;
    }
}

impl Machine<'_> {
    pub(crate) fn call(
        &mut self,
        cluster: &Cluster,
        warp: &mut Warp,
        at: At,
        call: &Call,
        stack: u32,
        mask: u32,
    ) -> Result<Step, Stopped> {
        let function = &self.context.program.functions[call.function as usize];
        let Some(frame) = function.frame else { return Ok(Step::Next) };
        let limit = self.context.launch.limits.local_bytes_per_thread as usize;
        each_lane!(mask, lane, {
            let caller = frame_start(&warp.registers, call.frame, lane);
            // At least one byte, so that calls that never return end.
            let callee = (caller + call.frame_bytes.max(1) as usize).next_multiple_of(16);
            let end = callee + function.frame_bytes as usize;
            if end > limit {
                let by = at.participant(lane);
                let message =
                    || format!("calls need more than the {limit} bytes of local memory that a thread may have");
                return Err(self.stop(cluster, FindingKind::StackOverflow, at.pc, by, message));
            }
            warp.local.grow(end);
            warp.local.forget(lane, callee, function.frame_bytes as usize);
            for part in &call.arguments {
                let (from, to) = (caller + part.caller as usize, callee + part.callee as usize);
                warp.local.copy(lane, from, to, part.bytes as usize);
            }
            if function.recursive {
                let kept = warp.calls.kept.get_or_insert_with(|| Box::new([const { Vec::new() }; LANES]));
                keep(&warp.registers, function, lane, &mut kept[lane]);
            }
            warp.registers.doubles[usize::from(frame.0)][lane] = callee as u64;
        });
        let stack = warp.calls.push(stack, at.pc);
        Ok(Step::Call { target: function.start, lanes: mask, stack })
    }

    pub(crate) fn return_from_call(&mut self, warp: &mut Warp, stack: u32, mask: u32) -> Step {
        let program = self.context.program;
        let Some(top) = warp.calls.top(stack) else { return Step::Exit(mask) };
        let Operation::Call(call) = &program.instructions[top.pc as usize].operation else { return Step::Exit(mask) };
        let function = &program.functions[call.function as usize];
        each_lane!(mask, lane, {
            let callee = frame_start(&warp.registers, function.frame, lane);
            if function.recursive
                && let Some(kept) = &mut warp.calls.kept
            {
                restore(&mut warp.registers, function, lane, &mut kept[lane]);
            }
            let caller = frame_start(&warp.registers, call.frame, lane);
            for part in &call.results {
                let (from, to) = (callee + part.callee as usize, caller + part.caller as usize);
                warp.local.copy(lane, from, to, part.bytes as usize);
            }
        });
        Step::Call { target: top.pc + 1, lanes: mask, stack: top.parent }
    }

    pub(crate) fn ignored_call(&mut self, warp: &mut Warp, call: &IgnoredCall, mask: u32) -> Step {
        each_lane!(mask, lane, {
            let start = frame_start(&warp.registers, call.frame, lane);
            for (place, bytes) in &call.zeros {
                warp.local.zero(lane, start + *place as usize, *bytes as usize);
            }
        });
        Step::Next
    }
}
