//! The tensors of a forward pass, and what must hold of their memory.

use crate::{
    Buffer, Error, ExtensionParams, KvScaleParams, MemoryId, Operand, PageTable, PagingParams, Params, Problem, Result,
};

/// Part of a buffer, from an offset in bytes to its end.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    buffer: &'a Buffer,
    offset: usize,
}

impl<'a> View<'a> {
    /// The buffer from byte `offset` on.
    pub fn new(buffer: &'a Buffer, offset: usize) -> Self {
        Self { buffer, offset }
    }

    /// Device address of the first byte.
    pub fn address(&self) -> u64 {
        self.buffer.address() + self.offset as u64
    }

    /// Bytes from here to the buffer's end.
    pub fn bytes(&self) -> usize {
        self.buffer.bytes().saturating_sub(self.offset)
    }
}

impl<'a> From<&'a Buffer> for View<'a> {
    fn from(buffer: &'a Buffer) -> Self {
        Self::new(buffer, 0)
    }
}

/// The tensors of one forward pass, on the device. The output and the log-sum-exp are written.
///
/// What is written needs memory of its own. Blocks read keys and values while others write, and a row of large logits
/// reads its query once more after it has written, so the output may not overlap the query either. Tensors that interleave
/// without sharing an element, such as four slots of a row, are fine. Query, key and value may overlap one another.
///
/// Tensors begin at a multiple of the generation's [`alignment`](crate::Generation::alignment), 16 bytes for all but the
/// first, the log-sum-exp at one of 4.
#[derive(Clone, Copy, Debug)]
pub struct Tensors<'a> {
    operands: [View<'a>; 4],
    lse: Option<View<'a>>,
    /// In the order of [`EXTENSION_TENSORS`].
    extension: [Option<View<'a>>; EXTENSION_TENSORS.len()],
}

/// Names of the tensors that extensions read, all of 4-byte numbers.
const EXTENSION_TENSORS: [&str; 10] = [
    "cu_seqlens_q",
    "cu_seqlens_k",
    "key_lengths",
    "sinks",
    "slopes",
    "block_table",
    "page_starts",
    "last_page_lengths",
    "key_scale",
    "value_scale",
];

/// Where each of them lies.
type ExtensionRegions = [Option<(&'static str, Region)>; EXTENSION_TENSORS.len()];

impl<'a> Tensors<'a> {
    /// Query, key, value and output, strided as the problem says.
    pub fn new(
        query: impl Into<View<'a>>,
        key: impl Into<View<'a>>,
        value: impl Into<View<'a>>,
        output: impl Into<View<'a>>,
    ) -> Self {
        Self {
            operands: [query.into(), key.into(), value.into(), output.into()],
            lse: None,
            extension: [None; EXTENSION_TENSORS.len()],
        }
    }

    /// Asks for the log-sum-exp of every row, `[batch, heads_q, len_q]` f32, contiguous.
    #[must_use]
    pub fn with_lse(mut self, lse: impl Into<View<'a>>) -> Self {
        self.lse = Some(lse.into());
        self
    }

    /// Where each packed sequence begins, and the last one ends: `[sequences + 1]` of u32 or i32 each, rising from 0 to the
    /// tensors' lengths. Rows of the output behind the last sequence stay as they are. Numbers that contradict the problem
    /// give wrong rows, but nothing is read or written outside of the tensors.
    #[must_use]
    pub fn with_cu_seqlens(mut self, query: impl Into<View<'a>>, key: impl Into<View<'a>>) -> Self {
        self.extension[0] = Some(query.into());
        self.extension[1] = Some(key.into());
        self
    }

    /// Where each packed sequence's queries begin, and the last one's end: [`with_cu_seqlens`](Self::with_cu_seqlens) for a
    /// problem whose keys lie in pages, which are not packed.
    #[must_use]
    pub fn with_cu_seqlens_q(mut self, query: impl Into<View<'a>>) -> Self {
        self.extension[0] = Some(query.into());
        self
    }

    /// How many keys each sequence uses: `[batch]`, or `[sequences]` of packed ones, of u32 or i32, each at most `len_kv`.
    #[must_use]
    pub fn with_key_lengths(mut self, lengths: impl Into<View<'a>>) -> Self {
        self.extension[2] = Some(lengths.into());
        self
    }

    /// A logit for each query head that counts in the softmax's sum and has no value: `[heads_q]` f32. Neither the scale
    /// nor the soft cap applies to it; −∞ is none.
    #[must_use]
    pub fn with_sinks(mut self, sinks: impl Into<View<'a>>) -> Self {
        self.extension[3] = Some(sinks.into());
        self
    }

    /// A slope for each query head: `[heads_q]` f32, finite.
    #[must_use]
    pub fn with_slopes(mut self, slopes: impl Into<View<'a>>) -> Self {
        self.extension[4] = Some(slopes.into());
        self
    }

    /// Which page holds which keys of a sequence: `[sequences, width]` of u32 or i32. Key `j` of sequence `s` is row `j % page`
    /// of the page that entry `j / page` of row `s` names.
    ///
    /// What follows a sequence's pages in its row is never read. An entry of a key in use must be less than the number of
    /// pages: kernels do not check, so one that is not reads memory that is not the cache's. Several sequences may share
    /// pages.
    #[must_use]
    pub fn with_pages(mut self, block_table: impl Into<View<'a>>, key_lengths: impl Into<View<'a>>) -> Self {
        self.extension[5] = Some(block_table.into());
        self.with_key_lengths(key_lengths)
    }

    /// The same as lists: `starts`, `[sequences + 1]` of u32 or i32, says where each sequence's pages begin in `pages` and the
    /// last one's end, and `last_lengths`, `[sequences]`, how many keys the last page of each holds: 1 to all of them. A
    /// sequence without pages has no keys.
    #[must_use]
    pub fn with_page_lists(
        mut self,
        starts: impl Into<View<'a>>,
        pages: impl Into<View<'a>>,
        last_lengths: impl Into<View<'a>>,
    ) -> Self {
        self.extension[5] = Some(pages.into());
        self.extension[6] = Some(starts.into());
        self.extension[7] = Some(last_lengths.into());
        self
    }

    /// What keys and values in e4m3 are multiplied by: f32, `[1]` or `[heads_kv]`, as the problem's
    /// [`KvScales`](crate::KvScales) say. Positive and finite, and so are the products of a key's scale with the problem's and
    /// of a value's scale with 256; kernels do not check.
    #[must_use]
    pub fn with_kv_scales(mut self, key: impl Into<View<'a>>, value: impl Into<View<'a>>) -> Self {
        self.extension[8] = Some(key.into());
        self.extension[9] = Some(value.into());
        self
    }

    /// What the problem's extensions read: every tensor that it asks for is there, and no other.
    fn extension(&self, problem: &Problem, memory: MemoryId) -> Result<ExtensionRegions> {
        let (count, paging) = (problem.sequence_count(), problem.paging());
        let boundaries = problem.packing().map(|_| count + 1);
        let heads = |asked: bool| asked.then(|| problem.heads_q());
        let lists = paging.filter(|paging| matches!(paging.table, PageTable::Lists { .. }));
        let scales = Some(problem.kv_scale_count()).filter(|count| *count > 0);
        let needed = [
            boundaries,
            boundaries.filter(|_| paging.is_none()),
            (problem.key_lengths() && lists.is_none()).then_some(count),
            heads(problem.sinks()),
            heads(problem.slopes()),
            paging.map(|paging| paging.entries(count, problem.len_kv())),
            lists.map(|_| count + 1),
            lists.map(|_| count),
            scales,
            scales,
        ];
        let mut regions = [None; EXTENSION_TENSORS.len()];
        for (index, (tensor, needed)) in EXTENSION_TENSORS.into_iter().zip(needed).enumerate() {
            match (&self.extension[index], needed) {
                (Some(view), Some(count)) => {
                    check(tensor, view, 4 * count, 4, memory)?;
                    regions[index] = Some((tensor, Region::contiguous(view.address(), 4 * count)));
                }
                (None, Some(_)) => return Err(Error::TensorMissing { tensor, problem: problem.to_string() }),
                (Some(_), None) => return Err(Error::TensorUnasked { tensor, problem: problem.to_string() }),
                (None, None) => {}
            }
        }
        Ok(regions)
    }

    /// Checks memory, lengths, alignment and overlaps, and binds the addresses.
    pub(crate) fn params(&self, problem: &Problem, alignment: u64, memory: MemoryId) -> Result<Params> {
        let mut regions = [None; Operand::ALL.len() + EXTENSION_TENSORS.len()];
        for (index, operand) in Operand::ALL.into_iter().enumerate() {
            let view = &self.operands[operand as usize];
            let region = Region::of_operand(problem, operand, view.address());
            check(operand.name(), view, region.bytes as usize, alignment, memory)?;
            regions[index] = Some((operand.name(), region));
        }
        let mut written = [regions[Operand::Output as usize].take(), None];
        let mut params = Params::new(problem, self.operands.map(|view| view.address()));
        if let Some(lse) = &self.lse {
            let needed = problem.lse_len() * size_of::<f32>();
            check("lse", lse, needed, size_of::<f32>() as u64, memory)?;
            written[1] = Some(("lse", Region::contiguous(lse.address(), needed)));
            params.lse = lse.address();
        }
        let extension = self.extension(problem, memory)?;
        regions[Operand::ALL.len()..][..extension.len()].copy_from_slice(&extension);
        check_overlaps(&regions, &written)?;
        let [cu_seqlens_q, cu_seqlens_k, key_lengths, sinks, slopes, table, starts, last_lengths, key, value] =
            extension.map(|tensor| tensor.map_or(0, |(_, region)| region.start));
        // One of the two is there.
        let key_lengths = key_lengths.max(last_lengths);
        let paging = PagingParams { table, starts, ..params.extension.paging };
        let scales = KvScaleParams { key, value, ..params.extension.scales };
        let others = params.extension;
        params.extension =
            ExtensionParams { cu_seqlens_q, cu_seqlens_k, key_lengths, sinks, slopes, paging, scales, ..others };
        Ok(params)
    }
}

/// A tensor's name and its bytes; none where there is no such tensor.
type Named = Option<(&'static str, Region)>;

/// That a tensor lies in this memory, is long enough and begins where it may.
pub(crate) fn check(
    operand: &'static str,
    view: &View<'_>,
    needed: usize,
    alignment: u64,
    memory: MemoryId,
) -> Result<()> {
    if !view.buffer.may_lie_in(memory) {
        return Err(Error::OtherMemory { tensor: operand });
    }
    if view.bytes() < needed {
        return Err(Error::BufferTooSmall { operand, needed, found: view.bytes() });
    }
    if !view.address().is_multiple_of(alignment) {
        return Err(Error::Misaligned { operand, address: view.address(), alignment });
    }
    Ok(())
}

/// What is written shares no memory with what is read, nor with one another.
fn check_overlaps(read: &[Named], all_written: &[Named]) -> Result<()> {
    for (index, (written, region)) in all_written.iter().flatten().enumerate() {
        let others = read.iter().flatten().chain(all_written.iter().flatten().take(index));
        if let Some((other, _)) = others.into_iter().find(|(_, other)| region.may_overlap(other)) {
            return Err(Error::Overlap { written, other });
        }
    }
    Ok(())
}

/// The bytes of a strided tensor: runs without gaps, whose starts lie multiples of `step` apart. For those who bind tensors of
/// launches of their own; [`Tensors`] does it for a problem's.
#[derive(Clone, Copy, Debug)]
pub struct Region {
    start: u64,
    /// From the first byte to one past the last; 0 for an empty tensor.
    bytes: u64,
    /// Length of a run.
    run: u64,
    /// Greatest common divisor of what lies between runs; 0 where there is one run.
    step: u64,
}

impl Region {
    fn contiguous(start: u64, bytes: usize) -> Self {
        Self { start, bytes: bytes as u64, run: bytes as u64, step: 0 }
    }

    fn of_operand(problem: &Problem, operand: Operand, start: u64) -> Self {
        let dimensions = problem.dimensions(operand).map(|(_, count, stride)| (count, stride));
        Self::strided(start, problem.width(operand), dimensions, problem.element(operand).bytes())
    }

    /// A tensor at this device address of contiguous rows of `width` elements, in dimensions of (count, stride in elements), none
    /// of them negative. An element has so many bytes.
    pub fn strided(start: u64, width: usize, dimensions: [(usize, i64); 3], element_bytes: usize) -> Self {
        let element = element_bytes as u64;
        let is_empty = width == 0 || dimensions.iter().any(|(count, _)| *count == 0);
        let mut dimensions = dimensions.map(|(count, stride)| (count as u64, stride as u64));
        dimensions.sort_by_key(|(_, stride)| *stride);
        let (mut run, mut step, mut span) = (width as u64, 0, width as u64);
        for (count, stride) in dimensions.into_iter().filter(|(count, _)| *count > 1) {
            span += (count - 1) * stride;
            match stride <= run && step == 0 {
                true => run += (count - 1) * stride,
                false => step = greatest_common_divisor(step, stride),
            }
        }
        Self { start, bytes: if is_empty { 0 } else { span * element }, run: run * element, step: step * element }
    }

    /// Bytes from the first to one past the last.
    pub fn bytes(&self) -> usize {
        self.bytes as usize
    }

    /// That a view holds this tensor: it lies in this memory, is long enough and begins at a multiple of `alignment`.
    ///
    /// # Errors
    /// [`Error::OtherMemory`], [`Error::BufferTooSmall`] or [`Error::Misaligned`], which name the tensor so.
    pub fn check(&self, tensor: &'static str, view: &View<'_>, alignment: u64, memory: MemoryId) -> Result<()> {
        check(tensor, view, self.bytes(), alignment, memory)
    }

    /// False only where no byte can belong to both.
    pub fn may_overlap(&self, other: &Self) -> bool {
        if self.bytes == 0 || other.bytes == 0 {
            return false;
        }
        if self.start >= other.start + other.bytes || other.start >= self.start + self.bytes {
            return false;
        }
        let step = greatest_common_divisor(self.step, other.step);
        if step == 0 {
            return true;
        }
        // Both repeat every `step` bytes: they stay apart where their runs do within one repetition.
        let distance = (other.start % step + step - self.start % step) % step;
        distance < self.run || step - distance < other.run
    }
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Device as _, Interpreter, KvScales, KvStorage, Layout, Strides};

    /// Heads of 64 elements in f16: 128 bytes.
    const HEAD: usize = 128;

    fn asked(problem: &Problem, tensors: &Tensors<'_>, device: &Interpreter) -> String {
        tensors.params(problem, 16, device.memory()).map_or_else(|error| error.to_string(), |_| "taken".to_owned())
    }

    #[test]
    fn written_tensors_share_no_memory() {
        let device = Interpreter::new();
        let problem = Problem::new(1, 2, 3, 64).build().unwrap();
        let bytes = 2 * 3 * HEAD;
        let shared = device.allocate(4 * bytes).unwrap();
        let [a, b, c, d] = [0, 1, 2, 3].map(|index| View::new(&shared, index * bytes));
        let lse = device.allocate(2 * 3 * 4).unwrap();
        let overlap = |tensors: Tensors<'_>| match tensors.params(&problem, 16, device.memory()) {
            Ok(_) => None,
            Err(Error::Overlap { written, other }) => Some((written, other)),
            Err(error) => panic!("{error}"),
        };
        assert_eq!(overlap(Tensors::new(a, b, c, d).with_lse(&lse)), None);
        assert_eq!(overlap(Tensors::new(a, a, a, d)), None, "what is only read may be the same");
        for (operands, other) in [([a, b, c, a], "query"), ([a, b, c, b], "key"), ([a, b, c, c], "value")] {
            let [query, key, value, output] = operands;
            assert_eq!(overlap(Tensors::new(query, key, value, output)), Some(("output", other)));
        }
        // By one row, from either side.
        let rows = |count: usize| View::new(&shared, bytes + count * HEAD);
        assert_eq!(overlap(Tensors::new(a, a, a, rows(0))), None);
        assert_eq!(overlap(Tensors::new(rows(5), a, a, rows(0))), Some(("output", "query")));
        assert_eq!(overlap(Tensors::new(rows(0), a, a, rows(5))), Some(("output", "query")));
        for (view, other) in [(a, "query"), (b, "key"), (c, "value"), (d, "output")] {
            assert_eq!(overlap(Tensors::new(a, b, c, d).with_lse(view)), Some(("lse", other)));
        }
        let error = asked(&problem, &Tensors::new(a, b, c, b), &device);
        assert_eq!(
            error,
            "output overlaps key: blocks read key after others have written; give output memory of its own"
        );
    }

    #[test]
    fn tensors_that_interleave_share_nothing() {
        let device = Interpreter::new();
        // [batch, length, slot, head, 64], the slots being query, key, value and output.
        let (heads, length) = (2, 3);
        let slot = heads * HEAD;
        let packed = Strides { batch: (length * slot * 2) as i64, head: 64, row: (slot * 2) as i64 };
        let strided = Operand::ALL
            .into_iter()
            .fold(Problem::new(2, heads, length, 64), |builder, operand| builder.strides(operand, packed));
        let problem = strided.build().unwrap();
        let shared = device.allocate(2 * length * 4 * slot).unwrap();
        let view = |bytes| View::new(&shared, bytes);
        let [a, b, c, d] = [0, 1, 2, 3].map(|index| view(index * slot));
        assert_eq!(asked(&problem, &Tensors::new(a, b, c, d), &device), "taken");
        assert!(asked(&problem, &Tensors::new(a, b, c, view(2 * slot + HEAD)), &device).contains("overlaps value"));
        assert!(asked(&problem, &Tensors::new(b, c, d, view(HEAD)), &device).contains("overlaps query"));
        // An empty tensor shares nothing with any.
        let empty = Problem::new(0, 2, 3, 64).build().unwrap();
        assert_eq!(asked(&empty, &Tensors::new(a, a, a, a), &device), "taken");
    }

    #[test]
    fn bytes_of_keys_and_their_scales_are_counted() {
        let device = Interpreter::new();
        let problem =
            |scales| Problem::new(1, 4, 3, 64).heads_kv(2).kv_storage(KvStorage::E4m3(scales)).build().unwrap();
        let whole = device.allocate(4 * 3 * HEAD).unwrap();
        let bytes = device.allocate(2 * 3 * 64).unwrap();
        let scales = device.allocate(2 * 4).unwrap();
        let output = device.allocate(4 * 3 * HEAD).unwrap();
        let tensors = Tensors::new(&whole, &bytes, &bytes, &output);
        let both = tensors.with_kv_scales(&scales, &scales);
        for of in [KvScales::Tensor, KvScales::Head] {
            assert_eq!(asked(&problem(of), &both, &device), "taken");
        }
        let last = View::new(&scales, 4);
        assert_eq!(asked(&problem(KvScales::Tensor), &tensors.with_kv_scales(last, &scales), &device), "taken");
        let said = asked(&problem(KvScales::Head), &tensors.with_kv_scales(&scales, last), &device);
        assert!(said.starts_with("value_scale needs 8 bytes"), "{said}");
        assert!(asked(&problem(KvScales::Head), &tensors, &device).starts_with("key_scale is missing"));
        let plain = Problem::new(1, 4, 3, 64).heads_kv(2).build().unwrap();
        assert!(asked(&plain, &both, &device).starts_with("key needs 768 bytes"));
        let halves = Tensors::new(&whole, &whole, &whole, &output).with_kv_scales(&scales, &scales);
        assert!(asked(&plain, &halves, &device).starts_with("key_scale is given"));
        // What is written may lie right behind the bytes, and not over the last of them.
        let shared = device.allocate(2 * 3 * 64 + 4 * 3 * HEAD).unwrap();
        let behind = |bytes| Tensors::new(&whole, &shared, &shared, View::new(&shared, bytes));
        let of = |bytes| asked(&problem(KvScales::Head), &behind(bytes).with_kv_scales(&scales, &scales), &device);
        assert_eq!(of(2 * 3 * 64), "taken");
        assert!(of(2 * 3 * 64 - 16).starts_with("output overlaps key"));
        // Scales are read while the output is written.
        let over = tensors.with_kv_scales(&output, &scales);
        assert!(asked(&problem(KvScales::Head), &over, &device).starts_with("output overlaps key_scale"));
    }

    #[test]
    fn every_tensor_is_aligned_and_of_this_device() {
        let (device, other) = (Interpreter::new(), Interpreter::new());
        let problem = Problem::new(1, 1, 3, 64).layout(Layout::Blhd).build().unwrap();
        let buffers = [(); 4].map(|()| device.allocate(4 * HEAD).unwrap());
        let [query, key, value, output] = [0, 1, 2, 3].map(|index| View::new(&buffers[index], 0));
        let lse = device.allocate(32).unwrap();
        let tensors = Tensors::new(query, key, value, output);
        assert_eq!(asked(&problem, &tensors.with_lse(View::new(&lse, 4)), &device), "taken");
        let said = asked(&problem, &tensors.with_lse(View::new(&lse, 2)), &device);
        assert!(said.starts_with("lse starts at address 0x") && said.ends_with("a multiple of 4 bytes"), "{said}");
        let odd = |index: usize| View::new(&buffers[index], 8);
        let said = asked(&problem, &Tensors::new(query, key, odd(2), output), &device);
        assert!(said.starts_with("value starts at address 0x") && said.ends_with("a multiple of 16 bytes"), "{said}");

        let foreign = other.allocate(4 * HEAD).unwrap();
        let said = asked(&problem, &Tensors::new(query, key, &foreign, output), &device);
        assert_eq!(said, "value lies in another device's memory: allocate it on the device that it is used with");
        assert!(asked(&problem, &tensors.with_lse(&foreign), &device).starts_with("lse lies in another device's"));
        assert!(matches!(device.write(&foreign, 0, &[1]), Err(Error::OtherMemory { .. })));
        assert!(matches!(device.read(&foreign, 0, &mut [0]), Err(Error::OtherMemory { .. })));
        // SAFETY: the memory is the device's, and nothing runs on it.
        let borrowed = unsafe { Buffer::borrowed(buffers[0].address(), buffers[0].bytes()) };
        assert_eq!(asked(&problem, &Tensors::new(&borrowed, key, value, output), &device), "taken");
    }
}
