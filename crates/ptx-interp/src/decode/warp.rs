//! Control flow and everything that lanes, warps and blocks do together.

use super::*;

impl Decoder<'_> {
    pub(super) fn warp(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Decoded<Operation> {
        match opcode.name() {
            "bra" => {
                arity(operands, 1..=1)?;
                opcode.only(1, &["uni"])?;
                let target = u32::try_from(integer(operands.first())?).map_err(|_| "branch target")?;
                Ok(Operation::Branch { target })
            }
            "brx" => {
                arity(operands, 2..=2)?;
                let Operand::Symbol(list) = &operands[1] else { return unknown() };
                let targets = self.kernel.branch_targets.get(list).ok_or("`.branchtargets` is missing")?;
                let targets = targets.clone().into_boxed_slice();
                Ok(Operation::BranchIndexed { targets, index: self.word(&operands[0])? })
            }
            "call" => self.call(operands),
            "ret" if self.frame.is_some() => Ok(Operation::Return),
            "ret" | "exit" => Ok(Operation::Exit),
            "trap" | "brkpt" => Ok(Operation::Trap),
            "nanosleep" | "griddepcontrol" | "pmevent" => Ok(Operation::Nothing),
            "setmaxnreg" => {
                arity(operands, 1..=1)?;
                let count = integer(operands.first())?;
                if !(24..=256).contains(&count) || !count.is_multiple_of(8) {
                    return invalid(format!("{count} registers; a multiple of 8 from 24 to 256 is needed"));
                }
                match opcode.part(1) {
                    "inc" => Ok(Operation::ShareRegisters { count: count as u32, more: true }),
                    "dec" => Ok(Operation::ShareRegisters { count: count as u32, more: false }),
                    _ => unknown(),
                }
            }
            "bar" | "barrier" => self.barrier(opcode, operands),
            "shfl" => self.shuffle(opcode, operands),
            "vote" => self.vote(opcode, operands),
            "match" => {
                arity(operands, 3..=3)?;
                let scalar = Scalar::parse(opcode.last()).ok_or("type of a match")?;
                let (to, predicate) = match &operands[0] {
                    Operand::Pair(to, predicate) => (self.word(to)?, Some(self.predicate(predicate)?)),
                    to => (self.word(to)?, None),
                };
                let value = self.lane_register(&operands[1], scalar.bytes())?;
                let members = self.members(&operands[2])?;
                Ok(Operation::Match { all: opcode.part(1) == "all", to, predicate, value, members })
            }
            "redux" => {
                arity(operands, 3..=3)?;
                let op = match (opcode.part(2), opcode.last()) {
                    ("add", "s32" | "u32") => Reduction::Add,
                    ("min", "s32") => Reduction::MinSigned,
                    ("max", "s32") => Reduction::MaxSigned,
                    ("min", "u32") => Reduction::MinUnsigned,
                    ("max", "u32") => Reduction::MaxUnsigned,
                    ("and", "b32") => Reduction::And,
                    ("or", "b32") => Reduction::Or,
                    ("xor", "b32") => Reduction::Xor,
                    _ => return unknown(),
                };
                let (to, value) = (self.word(&operands[0])?, self.word(&operands[1])?);
                Ok(Operation::Redux { op, to, value, members: self.members(&operands[2])? })
            }
            "activemask" => {
                arity(operands, 1..=1)?;
                Ok(Operation::ActiveMask { to: self.word(&operands[0])? })
            }
            "elect" => {
                arity(operands, 2..=2)?;
                let Operand::Pair(to, leader) = &operands[0] else { return unknown() };
                let to = if **to == Operand::Sink { None } else { Some(self.word(to)?) };
                let leader = self.predicate(leader)?;
                Ok(Operation::Elect { to, leader, members: self.members(&operands[1])? })
            }
            "membar" => {
                self.features.fences = true;
                match Scope::parse(opcode.part(1)) {
                    Some(scope) => Ok(Operation::Fence(FenceKind::Memory(scope))),
                    None if opcode.part(1) == "proxy" => Ok(Operation::Fence(FenceKind::Other)),
                    None => unknown(),
                }
            }
            "fence" => self.fence(opcode),
            _ => unknown(),
        }
    }

    fn fence(&mut self, opcode: &Opcode<'_>) -> Decoded<Operation> {
        Ok(Operation::Fence(match opcode.part(1) {
            "proxy" if opcode.part(2) == "async" || opcode.part(2).starts_with("async::") => {
                opcode.only(3, &["global", "shared::cta", "shared::cluster"])?;
                self.features.precise_ordering = true;
                let global = opcode.has("global");
                let shared = opcode.has("shared::cta") || opcode.has("shared::cluster");
                FenceKind::ProxyAsync { shared: shared || !global, global: global || !shared }
            }
            "proxy" => FenceKind::Other,
            "mbarrier_init" => FenceKind::MbarrierInit,
            "sc" | "acq_rel" | "acquire" | "release" => {
                self.features.fences = true;
                FenceKind::Memory(Scope::parse(opcode.last()).ok_or("scope of a fence")?)
            }
            _ => return unknown(),
        }))
    }

    /// A member mask; one that is not plainly the full warp needs precise ordering.
    fn members(&mut self, operand: &Operand) -> Decoded<WordRegister> {
        let full = matches!(operand, Operand::Immediate(Immediate::Integer(bits)) if *bits as u32 == u32::MAX);
        if !full {
            self.features.precise_ordering = true;
        }
        self.word(operand)
    }

    fn shuffle(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Decoded<Operation> {
        if opcode.part(1) != "sync" || opcode.last() != "b32" {
            return unknown();
        }
        arity(operands, 5..=5)?;
        let mode = match opcode.part(2) {
            "bfly" => ShuffleMode::Butterfly,
            "idx" => ShuffleMode::Index,
            "up" => ShuffleMode::Up,
            "down" => ShuffleMode::Down,
            _ => return unknown(),
        };
        let (to, in_range) = match &operands[0] {
            Operand::Pair(to, predicate) => (&**to, Some(self.predicate(predicate)?)),
            to => (to, None),
        };
        let to = if *to == Operand::Sink { None } else { Some(self.word(to)?) };
        let [lane, clamp, members] = [2, 3, 4].map(|index| self.literal(&operands[index]).map(|bits| bits as u32));
        let whole = mode == ShuffleMode::Butterfly && clamp == Some(31) && members == Some(u32::MAX);
        let across = lane.filter(|_| whole).map(|lane| (lane & 31) as u8);
        Ok(Operation::Shuffle(Box::new(Shuffle {
            across,
            mode,
            to,
            in_range,
            value: self.word(&operands[1])?,
            lane: self.word(&operands[2])?,
            clamp: self.word(&operands[3])?,
            // The mask of a shuffle orders nothing, so any mask will do.
            members: self.word(&operands[4])?,
        })))
    }

    fn vote(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Decoded<Operation> {
        if opcode.part(1) != "sync" {
            return unknown();
        }
        arity(operands, 3..=3)?;
        let (mode, to) = match (opcode.part(2), opcode.last()) {
            ("all", "pred") => (VoteMode::All, Some(self.predicate(&operands[0])?)),
            ("any", "pred") => (VoteMode::Any, Some(self.predicate(&operands[0])?)),
            ("uni", "pred") => (VoteMode::Uniform, Some(self.predicate(&operands[0])?)),
            ("ballot", "b32") => (VoteMode::Ballot(self.word(&operands[0])?), None),
            _ => return unknown(),
        };
        let (predicate, negated) = self.signed_predicate(&operands[1])?;
        let members = self.word(&operands[2])?;
        Ok(Operation::Vote(Box::new(Vote { mode, to, predicate, negated, members })))
    }

    fn barrier(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Decoded<Operation> {
        // `barrier.cta.sync` and `barrier.sync` are the same; so is `bar.cta.sync`.
        let parts: Vec<_> = opcode.parts[1..].iter().copied().filter(|part| *part != "cta").collect();
        if parts.first() == Some(&"warp") {
            arity(operands, 1..=1)?;
            return Ok(Operation::WarpBarrier { members: self.members(&operands[0])? });
        }
        if parts.first() == Some(&"cluster") {
            self.features.precise_ordering = true;
            return match parts.get(1) {
                Some(&"arrive") => Ok(Operation::ClusterArrive { release: !opcode.has("relaxed") }),
                Some(&"wait") => Ok(Operation::ClusterWait),
                _ => unknown(),
            };
        }
        let aligned = opcode.name() == "bar" || opcode.has("aligned");
        let action = parts.first().copied().unwrap_or("");
        let (action, result) = match action {
            "sync" => (BarrierAction::Sync, false),
            "arrive" => (BarrierAction::Arrive, false),
            "red" => match parts.get(1) {
                Some(&"popc") => (BarrierAction::ReduceCount, true),
                Some(&"and") => (BarrierAction::Reduce(BooleanOperation::And), true),
                Some(&"or") => (BarrierAction::Reduce(BooleanOperation::Or), true),
                _ => return unknown(),
            },
            _ => return unknown(),
        };
        let (mut to_word, mut to_predicate, mut predicate) = (None, None, None);
        let mut rest = operands;
        if result {
            arity(operands, 3..=4)?;
            if action == BarrierAction::ReduceCount {
                to_word = Some(self.word(&operands[0])?);
            } else {
                to_predicate = Some(self.predicate(&operands[0])?);
            }
            predicate = Some(self.signed_predicate(&operands[operands.len() - 1])?);
            rest = &operands[1..operands.len() - 1];
        }
        arity(rest, 1..=2)?;
        let index = self.word(&rest[0])?;
        let threads = match rest.get(1) {
            Some(count) => {
                self.features.precise_ordering = true;
                Some(self.word(count)?)
            }
            None => None,
        };
        if action == BarrierAction::Arrive && threads.is_none() {
            return Err("bar.arrive needs a number of threads".into());
        }
        Ok(Operation::Barrier(Box::new(Barrier { action, aligned, index, threads, predicate, to_predicate, to_word })))
    }
}
