//! What is asked for, as candle's operation.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::backend::BackendStorage as _;
use candle_core::op::BackpropOp;
use candle_core::{CpuStorage, CustomOp3, DType, Layout, Result, Storage, Tensor, bail};
use half::slice::HalfFloatSliceExt as _;
use sdpa::{
    Buffer, Device, DeviceChoice, Dtype, Mask, Operand, Packing, Problem, ProblemBuilder, Strides, Tensors, Window,
};

/// Where packed sequences begin, and the longest of them.
#[derive(Clone)]
pub(crate) struct Packed {
    begins: [Tensor; 2],
    longest: [usize; 2],
}

impl Packed {
    pub(crate) fn new(seqlens_q: &Tensor, seqlens_k: &Tensor, max_seqlen_q: usize, max_seqlen_k: usize) -> Self {
        Self { begins: [seqlens_q.clone(), seqlens_k.clone()], longest: [max_seqlen_q, max_seqlen_k] }
    }
}

/// What the dimensions of query, key and value are.
#[derive(Clone)]
pub(crate) enum Shape {
    /// `[batch, heads, length, head_dim]`.
    Bhld,
    /// `[batch, length, heads, head_dim]`.
    Blhd,
    /// `[total, heads, head_dim]`.
    Packed(Packed),
}

/// One question.
#[derive(Clone)]
pub(crate) struct Attend {
    shape: Shape,
    scale: f32,
    left: Option<usize>,
    right: Option<usize>,
    slopes: Option<Tensor>,
    softcap: f32,
    /// Where the log-sum-exp is left, if it is asked for.
    lse: Option<Arc<Mutex<Option<Storage>>>>,
}

/// Tensors of numbers beside query, key and value.
pub(crate) struct Numbers<T> {
    pub(crate) slopes: Option<T>,
    pub(crate) begins: Option<[T; 2]>,
}

impl<T> Numbers<T> {
    pub(crate) fn add_to<'a>(&'a self, tensors: Tensors<'a>) -> Tensors<'a>
    where
        &'a T: Into<sdpa::View<'a>>,
    {
        let tensors = match &self.slopes {
            Some(slopes) => tensors.with_slopes(slopes),
            None => tensors,
        };
        match &self.begins {
            Some([queries, keys]) => tensors.with_cu_seqlens(queries, keys),
            None => tensors,
        }
    }
}

impl Attend {
    pub(crate) fn new(shape: Shape, scale: f32) -> Self {
        Self { shape, scale, left: None, right: None, slopes: None, softcap: 0.0, lse: None }
    }

    pub(crate) fn window(self, left: Option<usize>, right: Option<usize>) -> Self {
        Self { left, right, ..self }
    }

    pub(crate) fn slopes(self, slopes: Option<&Tensor>) -> Self {
        Self { slopes: slopes.cloned(), ..self }
    }

    pub(crate) fn softcap(self, softcap: f32) -> Self {
        Self { softcap, ..self }
    }

    pub(crate) fn run(self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        q.apply_op3(k, v, self)
    }

    pub(crate) fn run_with_lse(mut self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<(Tensor, Tensor)> {
        let place = Arc::new(Mutex::new(None));
        self.lse = Some(Arc::clone(&place));
        let shape = match (&self.shape, q.dims()) {
            (Shape::Packed(_), &[total, heads, _]) => vec![heads, total],
            (Shape::Blhd, &[batch, length, heads, _]) => vec![batch, heads, length],
            (Shape::Bhld, &[batch, heads, length, _]) => vec![batch, heads, length],
            (_, dims) => bail!("query has the shape {dims:?}: {} is wanted", self.wanted()),
        };
        let out = self.run(q, k, v)?;
        let storage = place.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(storage) = storage else { bail!("the operation left no log-sum-exp: please report it") };
        Ok((out, Tensor::from_storage(storage, shape, BackpropOp::none(), false)))
    }

    pub(crate) fn asks_for_lse(&self) -> bool {
        self.lse.is_some()
    }

    pub(crate) fn leave_lse(&self, storage: Storage) {
        if let Some(place) = &self.lse {
            *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(storage);
        }
    }

    fn wanted(&self) -> &'static str {
        match self.shape {
            Shape::Bhld => "[batch, heads, length, head_dim]",
            Shape::Blhd => "[batch, length, heads, head_dim]",
            Shape::Packed(_) => "[total, heads, head_dim]",
        }
    }

    /// Batch, heads, length and head_dim of a tensor, and its strides.
    fn dimensions(&self, operand: Operand, layout: &Layout) -> Result<([usize; 4], Strides)> {
        let (shape, strides) = match (&self.shape, layout.dims(), layout.stride()) {
            (Shape::Bhld, &[b, h, l, d], &[sb, sh, sl, sd]) => ([b, h, l, d], [sb, sh, sl, sd]),
            (Shape::Blhd, &[b, l, h, d], &[sb, sl, sh, sd]) => ([b, h, l, d], [sb, sh, sl, sd]),
            (Shape::Packed(_), &[l, h, d], &[sl, sh, sd]) => ([1, h, l, d], [0, sh, sl, sd]),
            (_, dims, _) => bail!("{operand} has the shape {dims:?}: {} is wanted", self.wanted()),
        };
        let [.., width] = shape;
        let is_empty = shape.contains(&0);
        if strides[3] != 1 && width > 1 && !is_empty {
            bail!("{operand}'s last dimension has the stride {}: give {operand}.contiguous()?", strides[3]);
        }
        // Nothing is reached by the stride of a dimension that has one entry.
        let stride = |dimension: usize| match shape[dimension] > 1 && !is_empty {
            true => strides[dimension] as i64,
            false => width as i64,
        };
        Ok((shape, Strides { batch: stride(0), head: stride(1), row: stride(2) }))
    }

    /// The problem over tensors of these layouts; the output is contiguous.
    pub(crate) fn problem(&self, dtype: DType, layouts: [&Layout; 3]) -> Result<Problem> {
        let (query, query_strides) = self.dimensions(Operand::Query, layouts[0])?;
        let (key, key_strides) = self.dimensions(Operand::Key, layouts[1])?;
        let (value, value_strides) = self.dimensions(Operand::Value, layouts[2])?;
        let ([batch, heads_q, len_q, head_dim], [batch_k, heads_kv, len_kv, head_dim_k]) = (query, key);
        if (batch, head_dim) != (batch_k, head_dim_k) || key != value {
            bail!(
                "query is {:?}, key is {:?}, value is {:?}: batches and head_dim must be the same, and key and value alike",
                layouts[0].dims(),
                layouts[1].dims(),
                layouts[2].dims()
            );
        }
        let output = match self.shape {
            Shape::Bhld => sdpa::Layout::Bhld,
            Shape::Blhd | Shape::Packed(_) => sdpa::Layout::Blhd,
        };
        let mut builder: ProblemBuilder = match &self.shape {
            Shape::Packed(packed) => {
                let [queries, keys] = &packed.begins;
                let sequences = queries.elem_count().saturating_sub(1);
                if keys.elem_count() != queries.elem_count() || queries.elem_count() == 0 {
                    bail!(
                        "seqlens_q has {} numbers and seqlens_k {}: both are [sequences + 1]",
                        queries.elem_count(),
                        keys.elem_count()
                    );
                }
                // What is longer than all together is padding that was there once.
                let [longest_q, longest_kv] = [packed.longest[0].min(len_q), packed.longest[1].min(len_kv)];
                Problem::packed(Packing { sequences, longest_q, longest_kv }, heads_q, len_q, head_dim)
            }
            Shape::Bhld | Shape::Blhd => Problem::new(batch, heads_q, len_q, head_dim).layout(output),
        };
        builder = builder
            .heads_kv(heads_kv)
            .len_kv(len_kv)
            .dtype(match dtype {
                DType::F16 => Dtype::F16,
                DType::BF16 => Dtype::Bf16,
                other => bail!("query is {}: f16 or bf16 is wanted, as to_dtype makes it", other.as_str()),
            })
            .scale(self.scale)
            .strides(Operand::Query, query_strides)
            .strides(Operand::Key, key_strides)
            .strides(Operand::Value, value_strides);
        // A window that ends at the diagonal is a causal mask, for which there are faster kernels.
        builder = match self.right {
            Some(0) => builder.mask(Mask::Causal).window(Window { left: self.left, right: None }),
            right => builder.window(Window { left: self.left, right }),
        };
        if self.softcap != 0.0 {
            builder = builder.softcap(self.softcap);
        }
        if let Some(slopes) = &self.slopes {
            if slopes.dims() != [heads_q] {
                bail!(
                    "alibi_slopes has the shape {:?}: [{heads_q}] is wanted, a slope for each query head",
                    slopes.dims()
                );
            }
            builder = builder.slopes();
        }
        builder.build().map_err(candle_core::Error::msg)
    }

    /// The tensors beside query, key and value, each by `make`.
    pub(crate) fn numbers<T>(&self, make: impl Fn(&str, &Tensor, &[DType]) -> Result<T>) -> Result<Numbers<T>> {
        let make = |name: &str, tensor: &Tensor, dtypes: &[DType]| {
            if !dtypes.contains(&tensor.dtype()) {
                bail!("{name} is {}: {} is wanted", tensor.dtype().as_str(), dtypes[0].as_str());
            }
            if !tensor.is_contiguous() {
                bail!("{name} is not contiguous: give {name}.contiguous()?");
            }
            make(name, tensor, dtypes)
        };
        let slopes = self.slopes.as_ref().map(|slopes| make("alibi_slopes", slopes, &[DType::F32])).transpose()?;
        let begins = match &self.shape {
            Shape::Packed(Packed { begins: [queries, keys], .. }) => {
                let dtypes = [DType::U32, DType::I32];
                Some([make("seqlens_q", queries, &dtypes)?, make("seqlens_k", keys, &dtypes)?])
            }
            Shape::Bhld | Shape::Blhd => None,
        };
        Ok(Numbers { slopes, begins })
    }

    /// Uploads a tensor of numbers.
    fn upload(&self, device: &dyn Device, tensor: &Tensor) -> Result<Buffer> {
        let bytes: Vec<u8> = match tensor.dtype() {
            DType::F32 => tensor.flatten_all()?.to_vec1::<f32>()?.into_iter().flat_map(f32::to_le_bytes).collect(),
            DType::I32 => tensor.flatten_all()?.to_vec1::<i32>()?.into_iter().flat_map(i32::to_le_bytes).collect(),
            _ => tensor.flatten_all()?.to_vec1::<u32>()?.into_iter().flat_map(u32::to_le_bytes).collect(),
        };
        device.upload(&bytes).map_err(candle_core::Error::msg)
    }
}

/// The 16-bit words from a layout's first element on.
fn words<'a>(storage: &'a CpuStorage, layout: &Layout, dtype: DType, operand: Operand) -> Result<&'a [u16]> {
    let words: &[u16] = match (storage, dtype) {
        (CpuStorage::F16(elements), DType::F16) => elements.reinterpret_cast(),
        (CpuStorage::BF16(elements), DType::BF16) => elements.reinterpret_cast(),
        _ => bail!("{operand} is {} and query is {}: both must be the same", storage.dtype().as_str(), dtype.as_str()),
    };
    Ok(&words[layout.start_offset()..])
}

impl CustomOp3 for Attend {
    fn name(&self) -> &'static str {
        "sdpa-candle"
    }

    fn cpu_fwd(
        &self,
        query: &CpuStorage,
        query_layout: &Layout,
        key: &CpuStorage,
        key_layout: &Layout,
        value: &CpuStorage,
        value_layout: &Layout,
    ) -> Result<(CpuStorage, candle_core::Shape)> {
        let choice = DeviceChoice::from_env().map_err(candle_core::Error::msg)?;
        if choice != DeviceChoice::Interpreter {
            bail!(
                "query is on the CPU: sdpa-candle computes on CUDA tensors, with its feature `cuda`; set SDPA_DEVICE=interpreter to \
                 have the kernels interpreted, for tests"
            );
        }
        let device = sdpa::Interpreter::new();
        let dtype = query.dtype();
        let problem = self.problem(dtype, [query_layout, key_layout, value_layout])?;
        let upload = |operand: Operand, storage: &CpuStorage, layout: &Layout| {
            let words = &words(storage, layout, dtype, operand)?[..problem.span(operand)];
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            device.upload(&bytes).map_err(candle_core::Error::msg)
        };
        let query = upload(Operand::Query, query, query_layout)?;
        let (key, value) = (upload(Operand::Key, key, key_layout)?, upload(Operand::Value, value, value_layout)?);
        // Rows of no sequence are not written.
        let zeros = |bytes: usize| device.upload(&vec![0; bytes]).map_err(candle_core::Error::msg);
        let output = zeros(2 * problem.span(Operand::Output))?;
        let lse = zeros(4 * problem.lse_len())?;
        let numbers = self.numbers(|_, tensor, _| self.upload(&device, tensor))?;
        let mut tensors = numbers.add_to(Tensors::new(&query, &key, &value, &output));
        if self.asks_for_lse() {
            tensors = tensors.with_lse(&lse);
        }
        sdpa::forward(&device, &problem, &tensors).map_err(candle_core::Error::msg)?;

        let read = |buffer: &Buffer| {
            let mut bytes = vec![0; buffer.bytes()];
            device.read(buffer, 0, &mut bytes).map_err(candle_core::Error::msg)?;
            Ok::<_, candle_core::Error>(bytes)
        };
        if self.asks_for_lse() {
            let numbers = read(&lse)?.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
            self.leave_lse(Storage::Cpu(CpuStorage::F32(numbers)));
        }
        let words =
            read(&output)?.as_chunks::<2>().0.iter().map(|bytes| u16::from_le_bytes(*bytes)).collect::<Vec<_>>();
        let storage = match dtype {
            DType::F16 => CpuStorage::F16(words.into_iter().map(half::f16::from_bits).collect()),
            _ => CpuStorage::BF16(words.into_iter().map(half::bf16::from_bits).collect()),
        };
        Ok((storage, query_layout.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        query: &candle_core::CudaStorage,
        query_layout: &Layout,
        key: &candle_core::CudaStorage,
        key_layout: &Layout,
        value: &candle_core::CudaStorage,
        value_layout: &Layout,
    ) -> Result<(candle_core::CudaStorage, candle_core::Shape)> {
        let layouts = [query_layout, key_layout, value_layout];
        match query.dtype() {
            DType::BF16 => crate::cuda::forward::<half::bf16>(self, [query, key, value], layouts),
            _ => crate::cuda::forward::<half::f16>(self, [query, key, value], layouts),
        }
    }
}
