//! The tensors that timed passes rotate over.

use sdpa_core::{Buffer, Device, Error, Operand, Problem, Tensors};

use harness::case::Case;
use harness::execute::{POISON, operand_bytes};
use harness::extension_tensors::ExtensionTensors;
use harness::regime::{Data, ExtensionData};

/// What passes find in the L2 cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    /// A few sets of tensors: small problems stay in the cache, as they do between the layers of a model.
    Warm,
    /// Enough sets that each pass's inputs have left the cache since they were last read.
    Cold,
}

/// Sets to rotate over if nothing needs to be pushed out of a cache.
const WARM_SETS: usize = 4;

/// Bytes of inputs that push everything out of the cache: more than twice the L2 of an H200 (50 MB) or an L4 (48 MB).
const COLD_BYTES: usize = 128 << 20;

/// Several copies of a problem's tensors. The copies hold the same N(0, 1) numbers at other addresses: caches know
/// addresses, and the power that numbers draw is their distribution's.
pub struct InputSets {
    problem: Problem,
    extension: ExtensionData,
    sets: Vec<Set>,
}

/// The tensors of a pass.
struct Set {
    /// Query, key, value and output.
    operands: [Buffer; 4],
    extension: ExtensionTensors<Buffer>,
}

impl InputSets {
    /// Allocates and fills the sets.
    ///
    /// # Errors
    /// The device's, out of memory above all.
    pub fn new(device: &dyn Device, problem: &Problem, cache: Cache) -> Result<Self, Error> {
        Self::of(device, problem, &Case::new(problem.clone()).data(), cache)
    }

    /// Copies of these numbers.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn of(device: &dyn Device, problem: &Problem, data: &Data, cache: Cache) -> Result<Self, Error> {
        let inputs = [(Operand::Query, &data.query), (Operand::Key, &data.key), (Operand::Value, &data.value)];
        let bytes = inputs.map(|(operand, bits)| operand_bytes(problem, operand, bits));
        let count = sets_needed(bytes.iter().map(Vec::len).sum(), cache);
        let out = problem.span_bytes(Operand::Output);
        let extension = &data.extension;
        let set = || {
            let [query, key, value] = &bytes;
            Ok(Set {
                operands: [device.upload(query)?, device.upload(key)?, device.upload(value)?, device.allocate(out)?],
                extension: ExtensionTensors::new(problem, extension, |_, bytes| device.upload(&bytes))?,
            })
        };
        let sets = (0..count).map(|_| set()).collect::<Result<_, Error>>()?;
        device.synchronize()?;
        Ok(Self { problem: problem.clone(), extension: extension.clone(), sets })
    }

    /// The problem that the tensors are of.
    pub fn problem(&self) -> &Problem {
        &self.problem
    }

    /// What the problem's extensions read, lengths above all.
    pub fn extension(&self) -> &ExtensionData {
        &self.extension
    }

    /// How many sets there are; at least one.
    #[expect(clippy::len_without_is_empty, reason = "there is always a set")]
    pub fn len(&self) -> usize {
        self.sets.len()
    }

    /// Fills every output with poison, so that what is there afterwards was written afterwards.
    ///
    /// # Errors
    /// The device's.
    pub fn poison(&self, device: &dyn Device) -> Result<(), Error> {
        self.sets.iter().map(|set| &set.operands[3]).try_for_each(|output| {
            device.write(output, 0, &POISON.to_le_bytes().repeat(output.bytes() / size_of::<u16>()))
        })
    }

    /// The element bits of every set's output.
    ///
    /// # Errors
    /// The device's, or what the queued work failed with.
    pub fn outputs(&self, device: &dyn Device) -> Result<Vec<Vec<u16>>, Error> {
        let read = |set: &Set| {
            let mut bytes = vec![0; set.operands[3].bytes()];
            device.read(&set.operands[3], 0, &mut bytes)?;
            Ok(bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect())
        };
        self.sets.iter().map(read).collect()
    }

    /// The tensors of a pass.
    pub fn tensors(&self, pass: usize) -> Tensors<'_> {
        let Set { operands: [query, key, value, output], extension } = &self.sets[pass % self.sets.len()];
        extension.add_to(Tensors::new(query, key, value, output))
    }
}

/// True where a problem's inputs push themselves out of the cache, so that its warm figure is its cold one.
pub fn outgrows_caches(problem: &Problem) -> bool {
    let inputs = [Operand::Query, Operand::Key, Operand::Value];
    inputs.iter().map(|operand| problem.span_bytes(*operand)).sum::<usize>() > COLD_BYTES
}

fn sets_needed(input_bytes: usize, cache: Cache) -> usize {
    match cache {
        // Two copies of a problem larger than any cache are as good as four.
        Cache::Warm if input_bytes > COLD_BYTES => 2,
        Cache::Warm => WARM_SETS,
        Cache::Cold => COLD_BYTES.div_ceil(input_bytes.max(1 << 12)) + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use harness::execute::{Surroundings, execute, to_bytes};
    use sdpa::generations;
    use sdpa_core::Interpreter;

    /// Each extension's tensor is the one that verification gives: with the same inputs the outputs are the same bits.
    #[test]
    fn timed_passes_compute_what_was_verified() {
        for (id, line) in [
            ("v2i", "h2/1 L42 d64 bf16 causal packed=4,30,30 lengths=5,0,30,7 sinks slopes blhd"),
            ("v2i", "b2 h2 L20 d64 bf16 key-lengths window=7,3 softcap=2 slopes seed=1"),
            ("v2l", "b2 h4/2 q1 kv20 d64 bf16 kv=e4m3-per-head seed=1"),
        ] {
            let case: Case = line.parse().unwrap();
            let device = Interpreter::new();
            let generation = generations::find(id).unwrap();
            let data = case.data();
            let verified = execute(&device, generation, &case.problem, &data, Surroundings::Exact).unwrap();
            let sets = InputSets::of(&device, &case.problem, &data, Cache::Warm).unwrap();
            let pass = sets.len() - 1;
            generation.forward(&device, &case.problem, &sets.tensors(pass)).unwrap();
            device.synchronize().unwrap();
            let mut found = vec![0; 2 * verified.out.len()];
            device.read(&sets.sets[pass].operands[3], 0, &mut found).unwrap();
            assert!(found == to_bytes(&verified.out), "{line}");
        }
    }

    #[test]
    fn cold_sets_outgrow_the_cache_and_warm_ones_do_not_fill_the_memory() {
        let mission = 3 * 8 * 512 * 64 * 2;
        assert_eq!(sets_needed(mission, Cache::Warm), 4);
        assert!((sets_needed(mission, Cache::Cold) - 1) * mission >= COLD_BYTES);
        assert_eq!(sets_needed(1 << 30, Cache::Warm), 2);
        assert_eq!(sets_needed(1 << 30, Cache::Cold), 2);
        assert!(sets_needed(0, Cache::Cold) < 1 << 16);
        let outgrows = |batch| outgrows_caches(&Problem::new(batch, 32, 2048, 64).build().unwrap());
        assert_eq!([outgrows(1), outgrows(5), outgrows(6)], [false, false, true]);
        // As many sets either way, so that one measurement is both figures.
        let bytes = 3 * 6 * 32 * 2048 * 64 * 2;
        assert_eq!(sets_needed(bytes, Cache::Warm), sets_needed(bytes, Cache::Cold));
    }
}
