//! mbarriers, bulk and tensor copies, clusters and wgmma.

use super::*;

fn shared_space(opcode: &Opcode<'_>) -> Space {
    if opcode.has("shared::cluster") {
        Space::SharedCluster
    } else if opcode.has("shared") || opcode.has("shared::cta") {
        Space::Shared
    } else {
        Space::Generic
    }
}

impl Decoder<'_> {
    pub(super) fn hopper(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Decoded<Operation> {
        self.features.precise_ordering = true;
        match opcode.name() {
            "mbarrier" if opcode.part(1) == "pending_count" => {
                arity(operands, 2..=2)?;
                opcode.only(2, &["b64"])?;
                Ok(Operation::PendingCount { to: self.word(&operands[0])?, state: self.double(&operands[1])? })
            }
            "mbarrier" => self.mbarrier(opcode, operands),
            "wgmma" => self.wgmma(opcode, operands),
            "mapa" => {
                arity(operands, 3..=3)?;
                let bytes = Scalar::parse(opcode.last()).ok_or("type of an address")?.bytes();
                Ok(Operation::MapShared {
                    to: self.lane_register(&operands[0], bytes)?,
                    address: self.lane_register(&operands[1], bytes)?,
                    rank: self.word(&operands[2])?,
                    generic: !opcode.has("shared::cluster"),
                })
            }
            _ => {
                arity(operands, 2..=2)?;
                let bytes = Scalar::parse(opcode.last()).ok_or("type of an address")?.bytes();
                Ok(Operation::BlockRank {
                    to: self.word(&operands[0])?,
                    address: self.lane_register(&operands[1], bytes)?,
                    generic: !opcode.has("shared::cluster"),
                })
            }
        }
    }

    fn mbarrier(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Decoded<Operation> {
        let action = opcode.part(1);
        let space = shared_space(opcode);
        let scopes =
            ["shared", "shared::cta", "shared::cluster", "b64", "release", "acquire", "relaxed", "cta", "cluster"];
        let allow = |extra: &[&str]| {
            let list: Vec<_> = scopes.iter().chain(extra).copied().collect();
            opcode.only(2, &list)
        };
        let (action, place, state) = match action {
            "init" => {
                arity(operands, 2..=2)?;
                allow(&[])?;
                // Neighbouring mbarriers may be initialised by different threads.
                self.note_write(Space::Shared, 8);
                (MbarrierAction::Init { count: self.word(&operands[1])? }, 0, None)
            }
            "inval" => {
                arity(operands, 1..=1)?;
                (MbarrierAction::Invalidate, 0, None)
            }
            "arrive" | "arrive_drop" => {
                allow(&["expect_tx", "noComplete"])?;
                let drop = action == "arrive_drop";
                // The state result is absent in the remote form.
                let has_state = !matches!(operands.first(), Some(Operand::Address { .. }));
                let place = usize::from(has_state);
                arity(operands, place + 1..=place + 2)?;
                let state = match operands.first() {
                    Some(Operand::Sink) | Some(Operand::Address { .. }) | None => None,
                    Some(state) => Some(self.double(state)?),
                };
                let extra = match operands.get(place + 1) {
                    Some(value) => Some(self.word(value)?),
                    None => None,
                };
                let expects = opcode.has("expect_tx");
                let (count, expect) = if expects { (None, extra) } else { (extra, None) };
                if expects && expect.is_none() {
                    return Err("the number of bytes is missing".into());
                }
                (MbarrierAction::Arrive { count, expect, drop }, place, state)
            }
            "expect_tx" => {
                arity(operands, 2..=2)?;
                (MbarrierAction::ExpectTransactions { bytes: self.word(&operands[1])? }, 0, None)
            }
            "complete_tx" => {
                arity(operands, 2..=2)?;
                (MbarrierAction::CompleteTransactions { bytes: self.word(&operands[1])? }, 0, None)
            }
            "try_wait" | "test_wait" => {
                allow(&["parity"])?;
                // A time limit may follow try_wait; how long it waits is the scheduler's business.
                arity(operands, 3..=4)?;
                let to = self.predicate(&operands[0])?;
                let blocking = action == "try_wait";
                self.features.phases = true;
                let action = if opcode.has("parity") {
                    MbarrierAction::WaitParity { parity: self.word(&operands[2])?, blocking, to }
                } else {
                    MbarrierAction::WaitState { state: self.double(&operands[2])?, blocking, to }
                };
                (action, 1, None)
            }
            _ => return unknown(),
        };
        let address = self.address(operand(operands, place)?)?;
        // Without a scope it is the block's; arrivals at another block's mbarrier would order nothing then.
        let default = if space == Space::SharedCluster { Scope::Cluster } else { Scope::Block };
        let scope = opcode.parts[1..].iter().find_map(|part| Scope::parse(part)).unwrap_or(default);
        let relaxed = opcode.has("relaxed");
        self.features.relaxed |= relaxed;
        Ok(Operation::Mbarrier(Box::new(Mbarrier { action, relaxed, scope, space, address, state })))
    }

    /// Everything that begins with `cp.async.bulk` or `cp.reduce.async.bulk`.
    pub(super) fn bulk(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Decoded<Operation> {
        self.features.precise_ordering = true;
        let reduces = opcode.part(1) == "reduce";
        // Parts after `bulk`.
        let rest = &opcode.parts[if reduces { 4 } else { 3 }.min(opcode.parts.len())..];
        match rest.first().copied().unwrap_or("") {
            "commit_group" => Ok(Operation::BulkCommit),
            "wait_group" => {
                let keep = integer(operands.first())?.min(u64::from(u32::MAX)) as u32;
                Ok(Operation::BulkWait { keep, read_only: opcode.has("read") })
            }
            "prefetch" => Ok(Operation::Nothing),
            "tensor" => self.tensor_copy(opcode, &rest[1..], operands, reduces),
            _ => self.bulk_copy(opcode, rest, operands, reduces),
        }
    }

    fn bulk_qualifiers(&self, parts: &[&str], allowed: &[&str]) -> Decoded<()> {
        match parts.iter().find(|part| !allowed.contains(*part)) {
            Some(part) => Err(format!("qualifier `.{part}` is not supported here").into()),
            None => Ok(()),
        }
    }

    fn reduction_kind(&self, opcode: &Opcode<'_>) -> Decoded<AtomicKind> {
        for (name, kind) in [
            ("add", AtomicKind::Add),
            ("min", AtomicKind::Min),
            ("max", AtomicKind::Max),
            ("and", AtomicKind::And),
            ("or", AtomicKind::Or),
            ("xor", AtomicKind::Xor),
        ] {
            if opcode.has(name) {
                return Ok(kind);
            }
        }
        Err("kind of a reduction".into())
    }

    fn bulk_copy(
        &mut self,
        opcode: &Opcode<'_>,
        rest: &[&str],
        operands: &[Operand],
        reduces: bool,
    ) -> Decoded<Operation> {
        let spaces: Vec<_> = rest
            .iter()
            .filter_map(|part| match *part {
                "global" => Some(Space::Global),
                "shared::cta" => Some(Space::Shared),
                "shared::cluster" => Some(Space::SharedCluster),
                _ => None,
            })
            .collect();
        let &[destination_space, source_space] = spaces.as_slice() else { return unknown() };
        let types: Vec<_> = rest.iter().copied().filter(|part| Scalar::parse(part).is_some()).collect();
        self.bulk_qualifiers(
            rest,
            &[
                "global",
                "shared::cta",
                "shared::cluster",
                "mbarrier::complete_tx::bytes",
                "bulk_group",
                "multicast::cluster",
                "L2::cache_hint",
                "add",
                "min",
                "max",
                "and",
                "or",
                "xor",
                "noftz",
                types.first().copied().unwrap_or("b32"),
            ],
        )?;
        let group = opcode.has("bulk_group");
        if reduces && !group {
            return Err("reductions into shared memory are not supported".into());
        }
        arity(operands, if group { 3..=4 } else { 4..=6 })?;
        let completion =
            if group { BulkCompletion::Group } else { BulkCompletion::Mbarrier(self.address(&operands[3])?) };
        let multicast = if opcode.has("multicast::cluster") { Some(self.word(operand(operands, 4)?)?) } else { None };
        let reduction = if reduces {
            let scalar = types.first().and_then(|name| Scalar::parse(name)).ok_or("type of a reduction")?;
            Some((self.reduction_kind(opcode)?, scalar))
        } else {
            None
        };
        // Blocks that add to the same place must see each other's sums.
        self.features.communicates |= reduces;
        if destination_space != Space::Global {
            self.note_write(Space::Shared, 16);
        } else {
            self.note_write(Space::Global, reduction.map_or(16, |(_, scalar)| u32::from(scalar.bytes())));
        }
        Ok(Operation::BulkCopy(Box::new(BulkCopy {
            destination_space,
            destination: self.address(&operands[0])?,
            source_space,
            source: self.address(&operands[1])?,
            bytes: self.word(&operands[2])?,
            completion,
            multicast,
            reduction,
        })))
    }

    fn tensor_copy(
        &mut self,
        opcode: &Opcode<'_>,
        rest: &[&str],
        operands: &[Operand],
        reduces: bool,
    ) -> Decoded<Operation> {
        let rank = match rest.first().copied().unwrap_or("") {
            "1d" => 1u8,
            "2d" => 2,
            "3d" => 3,
            "4d" => 4,
            "5d" => 5,
            _ => return unknown(),
        };
        self.bulk_qualifiers(
            &rest[1..],
            &[
                "shared::cluster",
                "shared::cta",
                "global",
                "mbarrier::complete_tx::bytes",
                "bulk_group",
                "tile",
                "multicast::cluster",
                "L2::cache_hint",
                "add",
                "min",
                "max",
                "and",
                "or",
                "xor",
            ],
        )?;
        let store = rest.get(1) == Some(&"global") || reduces;
        let (map_operand, shared_operand) = if store { (0, 1) } else { (1, 0) };
        let Operand::TensorAddress(parts) = operand(operands, map_operand)? else {
            return Err("a tensor map with coordinates is needed".into());
        };
        let [map, coordinates] = parts.as_slice() else { return unknown() };
        let coordinates = self.words_of(coordinates)?;
        if coordinates.len() != usize::from(rank) {
            return Err("the number of coordinates does not match the rank".into());
        }
        let map = self.based_address(map, 0)?;
        let shared = self.address(operand(operands, shared_operand)?)?;
        let completion =
            if store { BulkCompletion::Group } else { BulkCompletion::Mbarrier(self.address(operand(operands, 2)?)?) };
        let multicast = if opcode.has("multicast::cluster") { Some(self.word(operand(operands, 3)?)?) } else { None };
        let reduction = if reduces { Some(self.reduction_kind(opcode)?) } else { None };
        // A box has rows of a multiple of 16 bytes in shared memory; in global memory its edge may cut anywhere.
        self.features.communicates |= reduces;
        if store {
            self.note_write(Space::Global, 2);
        } else {
            self.note_write(Space::Shared, 16);
        }
        Ok(Operation::TensorCopy(Box::new(TensorCopy {
            rank,
            map,
            coordinates,
            shared,
            completion,
            multicast,
            reduction,
        })))
    }

    fn wgmma(&mut self, opcode: &Opcode<'_>, operands: &[Operand]) -> Decoded<Operation> {
        match opcode.part(1) {
            "fence" => return Ok(Operation::WgmmaFence),
            "commit_group" => return Ok(Operation::WgmmaCommit),
            "wait_group" => {
                let keep = integer(operands.first())?.min(u64::from(u32::MAX)) as u32;
                return Ok(Operation::WgmmaWait { keep });
            }
            "mma_async" => {}
            _ => return unknown(),
        }
        // wgmma.mma_async.sync.aligned.m64nNk16.dtype.atype.btype
        if opcode.parts.len() != 8 {
            return unknown();
        }
        let n = opcode
            .part(4)
            .strip_prefix("m64n")
            .and_then(|rest| rest.strip_suffix("k16"))
            .and_then(|n| n.parse::<u16>().ok())
            .filter(|n| *n >= 8 && *n <= 256 && n.is_multiple_of(8))
            .ok_or("this wgmma shape is not supported")?;
        let (accumulator, element) = match (opcode.part(5), opcode.part(6), opcode.part(7)) {
            ("f32", "f16", "f16") => (MatrixElement::F32, MatrixElement::F16),
            ("f16", "f16", "f16") => (MatrixElement::F16, MatrixElement::F16),
            ("f32", "bf16", "bf16") => (MatrixElement::F32, MatrixElement::BF16),
            _ => return unknown(),
        };
        let from_registers = matches!(operands.get(1), Some(Operand::Vector(_)));
        let needed = if from_registers { 7 } else { 8 };
        arity(operands, needed..=needed)?;
        let d = self.words_of(&operands[0])?;
        let accumulators = usize::from(n) / if accumulator == MatrixElement::F32 { 2 } else { 4 };
        if d.len() != accumulators {
            return Err("the number of registers does not match the shape".into());
        }
        let scale = |index: usize| match integer(operands.get(index)) {
            Ok(1) => Ok(false),
            Ok(value) if value == u64::MAX => Ok(true),
            _ => Err(Problem::from("scale must be 1 or -1")),
        };
        let (negate_a, negate_b) = (scale(4)?, scale(5)?);
        let a = if from_registers {
            let registers = self.words_of(&operands[1])?;
            if registers.len() != 4 {
                return Err("A needs four registers".into());
            }
            WgmmaA::Registers(registers)
        } else {
            WgmmaA::Shared { descriptor: self.double(&operands[1])?, transposed: integer(operands.get(6))? == 1 }
        };
        Ok(Operation::Wgmma(Box::new(Wgmma {
            n,
            element,
            accumulator,
            d,
            a,
            b: self.double(&operands[2])?,
            b_transposed: integer(operands.last())? == 1,
            keep: self.predicate(&operands[3])?,
            negate_a,
            negate_b,
        })))
    }
}
