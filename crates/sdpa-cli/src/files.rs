//! Users' tensors in safetensors files.

mod extension;

use std::path::{Path, PathBuf};

use half::{bf16, f16};
use harness::regime::ExtensionData;
use safetensors::tensor::TensorView;
use safetensors::{Dtype as FileDtype, SafeTensorError, SafeTensors};
use sdpa_core::{
    Dtype, ElementType, Layout, Mask, Operand, Packing, PageTable, Paging, Problem, ProblemBuilder, ProblemError,
    Window,
};
use sdpa_ref::Inputs;
use sdpa_toolchain::{WriteError, check_writable, write_whole};
use thiserror::Error;

/// Why a file cannot be used, in one line.
#[derive(Debug, Error)]
pub enum FileError {
    /// Not there, not readable.
    #[error("{}: {source}", path.display())]
    System {
        /// Which file or folder.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// The output could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// Some other format, or cut short.
    #[error("{} is not a safetensors file: {source}", path.display())]
    Format {
        /// Which file.
        path: PathBuf,
        /// The parser's words.
        source: SafeTensorError,
    },
    /// No tensor of this name.
    #[error("{} holds no tensor `{name}`: expected `q`, `k` and `v`, found {found}", path.display())]
    Missing {
        /// Which file.
        path: PathBuf,
        /// The tensor looked for.
        name: &'static str,
        /// The names there are.
        found: String,
    },
    /// Not as many dimensions as there must be.
    #[error("tensor `{name}` has shape {found:?}: expected {}", expected_axes(*dimensions, found.len()))]
    Rank {
        /// The order of its dimensions.
        dimensions: Dimensions,
        /// Which tensor.
        name: &'static str,
        /// Its shape.
        found: Vec<usize>,
    },
    /// Not f16 or bf16, or not what `q` is.
    #[error("tensor `{name}` is {found}: expected {expected}")]
    Dtype {
        /// Which tensor.
        name: &'static str,
        /// Its element type.
        found: String,
        /// What it must be.
        expected: &'static str,
    },
    /// A dimension that does not fit the other tensors'.
    #[error("tensor `{name}` has shape {found:?}: expected {expected}")]
    Shape {
        /// Which tensor.
        name: &'static str,
        /// Its shape.
        found: Vec<usize>,
        /// The shape it must have, and why.
        expected: String,
    },
    /// A tensor beside `q`, `k` and `v` that does not fit them.
    #[error("tensor `{name}` {found}: expected {expected}")]
    Extension {
        /// Which tensor.
        name: &'static str,
        /// What is wrong with it.
        found: String,
        /// What it must be.
        expected: String,
    },
    /// A tensor that another one needs.
    #[error("tensor `{name}` is missing: {why}")]
    Needed {
        /// The tensor that is not there.
        name: &'static str,
        /// What needs it, and what it must hold.
        why: String,
    },
    /// An order of dimensions for tensors that have one order only.
    #[error(
        "--layout is for dense tensors: with `cu_seqlens_q` in the file, tensors are {}; leave --layout out",
        Dimensions::Packed.axes()
    )]
    PackedLayout,
    /// Shapes that fit one another and still are no attention problem.
    #[error("{error}{}", transposed.as_ref().map(|note| format!("; {note}")).unwrap_or_default())]
    Problem {
        /// Why not.
        error: ProblemError,
        /// Which other layout the shapes look like.
        transposed: Option<String>,
    },
    /// The output's folder.
    #[error("{}: no such folder to write the output into", .0.display())]
    NoFolder(PathBuf),
    /// The output's path is a folder.
    #[error("{} is a folder: name a file to write the output to", .0.display())]
    IsFolder(PathBuf),
    /// Would overwrite what it reads.
    #[error("{} is the input: name another file to write the output to", .0.display())]
    OutputIsInput(PathBuf),
}

/// The dimensions of `q`, `k`, `v` and `out` in a file, and their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dimensions {
    /// Four of them, in a layout's order.
    Dense(Layout),
    /// [total, heads, head_dim]: sequences behind one another.
    Packed,
}

impl Dimensions {
    /// Their names, outermost first.
    fn axes(self) -> &'static str {
        match self {
            Self::Dense(Layout::Bhld) => "[batch, heads, length, head_dim]",
            Self::Dense(Layout::Blhd) => "[batch, length, heads, head_dim]",
            Self::Packed => "[total, heads, head_dim]",
        }
    }

    /// `[batch, heads, length, head_dim]` of a shape in a file; `None` if it has another number of dimensions.
    fn sizes(self, shape: &[usize]) -> Option<[usize; 4]> {
        match (self, shape) {
            (Self::Dense(Layout::Bhld), &[batch, heads, length, head_dim])
            | (Self::Dense(Layout::Blhd), &[batch, length, heads, head_dim]) => Some([batch, heads, length, head_dim]),
            (Self::Packed, &[total, heads, head_dim]) => Some([1, heads, total, head_dim]),
            _ => None,
        }
    }

    /// The shape in a file of a tensor of `[batch, heads, length, head_dim]`.
    fn shape(self, [batch, heads, length, head_dim]: [usize; 4]) -> Vec<usize> {
        match self {
            Self::Dense(Layout::Bhld) => vec![batch, heads, length, head_dim],
            Self::Dense(Layout::Blhd) => vec![batch, length, heads, head_dim],
            Self::Packed => vec![length, heads, head_dim],
        }
    }
}

/// The dimensions a tensor should have; where it has three instead of four, also what packed sequences need.
fn expected_axes(dimensions: Dimensions, found: usize) -> String {
    match dimensions {
        Dimensions::Packed => format!("{}, since the file holds `cu_seqlens_q`", dimensions.axes()),
        Dimensions::Dense(_) if found == 3 => format!(
            "{}; packed sequences, {}, need `cu_seqlens_q` in the file",
            dimensions.axes(),
            Dimensions::Packed.axes()
        ),
        Dimensions::Dense(_) => dimensions.axes().to_owned(),
    }
}

/// A note if the keys, or several queries, have more heads than positions: few models do, and many files have their
/// dimensions in another order.
fn transposed(layout: Layout, query: [usize; 4], key: [usize; 4]) -> Option<String> {
    let (flag, other) = match layout {
        Layout::Bhld => ("blhd", Layout::Blhd),
        Layout::Blhd => ("bhld", Layout::Bhld),
    };
    let looks_so = |[_, heads, length, _]: [usize; 4]| heads > length && length > 1;
    let tensors = [("k", key), ("q", query)];
    let (name, [_, heads, length, _]) = tensors.into_iter().find(|(_, shape)| looks_so(*shape))?;
    Some(format!(
        "read as {}, `{name}` has {heads} heads and only {length} positions: if it is {}, say --layout {flag}",
        Dimensions::Dense(layout).axes(),
        Dimensions::Dense(other).axes()
    ))
}

/// What is asked for of a file's tensors, beyond what the file says.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// Which keys a query sees.
    pub mask: Mask,
    /// Factor on query · key; by default 1/√head_dim.
    pub scale: Option<f32>,
    /// Keys on either side of the diagonal.
    pub window: Window,
    /// `cap · tanh(score / cap)`.
    pub softcap: Option<f32>,
    /// The order of four dimensions; by default `Bhld`. Packed tensors have one order, and need none.
    pub layout: Option<Layout>,
}

/// An attention problem from a user's file, contiguous.
#[derive(Clone, Debug)]
pub struct UserTensors {
    /// The problem that the shapes describe.
    pub problem: Problem,
    /// The dimensions of the tensors in the file.
    pub dimensions: Dimensions,
    /// Rows of packed queries behind the last sequence: they belong to none, and are no part of the problem.
    pub rows_behind: usize,
    /// Element bits of `q`, in the problem's layout.
    pub query: Vec<u16>,
    /// Element bits of `k`, in the problem's layout; of elements in 8 bits the lower half of each.
    pub key: Vec<u16>,
    /// Element bits of `v`, as `k`.
    pub value: Vec<u16>,
    /// What the problem's extensions read.
    pub extension: ExtensionData,
    /// What the output should be, where the file says.
    pub expected: Option<Expected>,
    /// Why a reference in the file is not compared with, where there is one and it is not.
    pub not_compared: Option<String>,
    /// Which other layout the shapes look like.
    pub transposed: Option<String>,
}

impl UserTensors {
    /// As the oracle takes them.
    pub fn inputs(&self) -> Inputs<'_> {
        Inputs { query: &self.query, key: &self.key, value: &self.value, extension: self.extension.inputs() }
    }
}

/// A reference output that came with the inputs.
#[derive(Clone, Debug)]
pub struct Expected {
    /// Name of the tensor.
    pub name: &'static str,
    /// Values, in the output's order.
    pub values: Vec<f64>,
    /// Largest relative error of its own rounding.
    pub roundoff: f64,
}

/// Reads `q`, `k` and `v`, what extensions read of them, and the reference that fits the mask.
///
/// # Errors
/// A [`FileError`] that names the first thing found wrong.
pub fn read(path: &Path, asked: &Asked) -> Result<UserTensors, FileError> {
    let bytes = std::fs::read(path).map_err(|source| FileError::System { path: path.to_owned(), source })?;
    let file =
        SafeTensors::deserialize(&bytes).map_err(|source| FileError::Format { path: path.to_owned(), source })?;

    let paged = file.tensor("block_table").is_ok();
    let dimensions = match (extension::is_packed(&file)?, asked.layout) {
        (true, Some(_)) if !paged => return Err(FileError::PackedLayout),
        (true, _) => Dimensions::Packed,
        (false, layout) => Dimensions::Dense(layout.unwrap_or(Layout::Bhld)),
    };
    // Pages have the layout's order; beside packed queries that of the queries.
    let key_layout = asked.layout.unwrap_or(if dimensions == Dimensions::Packed { Layout::Blhd } else { Layout::Bhld });
    let of_keys = if paged { Dimensions::Dense(key_layout) } else { dimensions };
    let (query_view, query_sizes, element) = operand(path, &file, "q", dimensions, Like::Nothing)?;
    let dtype = element.dtype().expect("`q` is f16 or bf16");
    let (key_view, key_sizes, stored) = operand(path, &file, "k", of_keys, Like::Query(dtype))?;
    let (value_view, value_sizes, _) = operand(path, &file, "v", of_keys, Like::Key(stored))?;
    match paged {
        true => check_pages(of_keys, query_sizes, key_sizes, value_sizes)?,
        false => check_shapes(dimensions, query_sizes, key_sizes, value_sizes)?,
    }

    let [batch, heads, mut len_q, head_dim] = query_sizes;
    let [_, heads_kv, mut len_kv, _] = key_sizes;
    let pages = paged.then_some([key_sizes[0], key_sizes[2]]);
    let (mut extension, width) = extension::read(&file, query_sizes, len_kv, pages)?;
    let kv_storage = extension::read_scales(&file, &mut extension, stored, heads_kv)?;
    if paged {
        len_kv = extension.key_lengths.iter().copied().max().unwrap_or(0) as usize;
    }
    let mut rows_behind = 0;
    let (builder, transposed) = match dimensions {
        Dimensions::Dense(layout) => {
            let builder = Problem::new(batch, heads, len_q, head_dim).layout(layout);
            (builder, transposed(layout, query_sizes, key_sizes))
        }
        Dimensions::Packed => {
            // What lies behind the last sequence belongs to none, so the problem ends there.
            rows_behind = len_q - end(&extension.cu_seqlens_q);
            len_q = end(&extension.cu_seqlens_q);
            let longest_kv = if paged { len_kv } else { longest(&extension.cu_seqlens_k) };
            len_kv = if paged { len_kv } else { end(&extension.cu_seqlens_k) };
            let packing = Packing {
                sequences: extension.cu_seqlens_q.len() - 1,
                longest_q: longest(&extension.cu_seqlens_q),
                longest_kv,
            };
            (Problem::packed(packing, heads, len_q, head_dim), None)
        }
    };
    let mut builder = builder.heads_kv(heads_kv).len_kv(len_kv).value_dim(value_sizes[3]);
    builder = builder.dtype(dtype).kv_storage(kv_storage).mask(asked.mask).window(asked.window);
    if let Some(scale) = asked.scale {
        builder = builder.scale(scale);
    }
    if let Some(cap) = asked.softcap {
        builder = builder.softcap(cap);
    }
    for (is_there, add) in [
        (!extension.key_lengths.is_empty(), ProblemBuilder::key_lengths as fn(ProblemBuilder) -> ProblemBuilder),
        (!extension.sinks.is_empty(), ProblemBuilder::sinks),
        (!extension.slopes.is_empty(), ProblemBuilder::slopes),
    ] {
        builder = if is_there { add(builder) } else { builder };
    }
    if let Some([pages, page]) = pages {
        builder = builder.paged(Paging { page, pages, table: PageTable::Rows { width } });
        for (operand, [.., width]) in [(Operand::Key, key_sizes), (Operand::Value, value_sizes)] {
            builder = builder.strides(operand, key_layout.strides(heads_kv, page, width));
        }
    }
    let problem = match builder.build() {
        Ok(problem) => problem,
        // Neither has dimensions.
        Err(error @ (ProblemError::Scale(_) | ProblemError::Softcap(_) | ProblemError::PageSize(_))) => {
            return Err(FileError::Problem { error, transposed: None });
        }
        Err(error) => return Err(FileError::Problem { error, transposed }),
    };
    let [batch, heads, rows, _] = query_sizes;
    let (expected, not_compared) = expected(&file, &problem, dimensions, [batch, heads, rows, value_sizes[3]]);
    let first_rows = |view: &TensorView<'_>, operand: Operand| {
        let mut bits = element_bits(view, problem.element(operand));
        bits.truncate(problem.span(operand));
        bits
    };
    Ok(UserTensors {
        query: first_rows(&query_view, Operand::Query),
        key: first_rows(&key_view, Operand::Key),
        value: first_rows(&value_view, Operand::Value),
        problem,
        dimensions,
        rows_behind,
        extension,
        expected,
        not_compared,
        transposed,
    })
}

/// Where the last sequence ends.
fn end(cu_seqlens: &[u32]) -> usize {
    cu_seqlens.last().map_or(0, |end| *end as usize)
}

/// Rows of the longest sequence.
fn longest(cu_seqlens: &[u32]) -> usize {
    cu_seqlens.windows(2).map(|pair| (pair[1] - pair[0]) as usize).max().unwrap_or(0)
}

/// Pages of keys fit the queries, and those of values the keys; all of them [pages, heads, page, head_dim], but that values may
/// have a width of their own.
fn check_pages(dimensions: Dimensions, query: [usize; 4], key: [usize; 4], value: [usize; 4]) -> Result<(), FileError> {
    let shape = |name, found, expected| Err(FileError::Shape { name, found: dimensions.shape(found), expected });
    if key[3] != query[3] {
        let axes = dimensions.axes().replace("batch", "pages").replace("length", "page");
        return shape(
            "k",
            key,
            format!("{axes}, as the file holds `block_table`, with {} as head_dim, as `q`", query[3]),
        );
    }
    check_values(dimensions, key, value)
}

/// There is a value for each key.
fn check_values(dimensions: Dimensions, key: [usize; 4], value: [usize; 4]) -> Result<(), FileError> {
    if value[..3] != key[..3] {
        let expected = format!("{:?}, the shape of `k`, of which the last number may differ", dimensions.shape(key));
        return Err(FileError::Shape { name: "v", found: dimensions.shape(value), expected });
    }
    Ok(())
}

/// Keys fit the queries, and values the keys; all of them [batch, heads, length, head_dim], but that values may have a width of
/// their own.
fn check_shapes(
    dimensions: Dimensions,
    query: [usize; 4],
    key: [usize; 4],
    value: [usize; 4],
) -> Result<(), FileError> {
    let [batch, _, _, head_dim] = query;
    if key[0] != batch || key[3] != head_dim {
        let found = dimensions.shape(query);
        let expected = match dimensions {
            Dimensions::Dense(_) => {
                let inner = dimensions.axes().trim_start_matches("[batch, ").trim_end_matches(", head_dim]");
                format!("[{batch}, {inner}, {head_dim}], with the batch and head_dim of `q` {found:?}")
            }
            Dimensions::Packed => format!("[total, heads, {head_dim}], with the head_dim of `q` {found:?}"),
        };
        return Err(FileError::Shape { name: "k", found: dimensions.shape(key), expected });
    }
    check_values(dimensions, key, value)
}

fn operand<'a>(
    path: &Path,
    file: &SafeTensors<'a>,
    name: &'static str,
    dimensions: Dimensions,
    like: Like,
) -> Result<(TensorView<'a>, [usize; 4], ElementType), FileError> {
    let view = file.tensor(name).map_err(|_| {
        let mut names: Vec<String> = file.names().iter().map(|name| format!("`{name}`")).collect();
        names.sort();
        let found = if names.is_empty() { "no tensor at all".to_owned() } else { names.join(", ") };
        FileError::Missing { path: path.to_owned(), name, found }
    })?;
    let found = match view.dtype() {
        FileDtype::F16 => Some(ElementType::Dtype(Dtype::F16)),
        FileDtype::BF16 => Some(ElementType::Dtype(Dtype::Bf16)),
        FileDtype::F8_E4M3 => Some(ElementType::E4m3),
        _ => None,
    };
    let element = found.filter(|element| like.fits(*element)).ok_or_else(|| FileError::Dtype {
        name,
        found: format!("{:?}", view.dtype()).to_lowercase(),
        expected: like.expected(),
    })?;
    let sizes = dimensions.sizes(view.shape());
    let sizes = sizes.ok_or_else(|| FileError::Rank { dimensions, name, found: view.shape().to_vec() })?;
    Ok((view, sizes, element))
}

/// What a tensor's element type depends on.
#[derive(Clone, Copy)]
enum Like {
    /// `q`'s: one of the dtypes.
    Nothing,
    /// `k`'s: that of `q`, or e4m3.
    Query(Dtype),
    /// `v`'s: that of `k`.
    Key(ElementType),
}

impl Like {
    fn fits(self, element: ElementType) -> bool {
        match self {
            Self::Nothing => element.dtype().is_some(),
            Self::Query(dtype) => element.dtype().is_none_or(|own| own == dtype),
            Self::Key(key) => element == key,
        }
    }

    fn expected(self) -> &'static str {
        match self {
            Self::Nothing => "f16 or bf16",
            Self::Query(Dtype::F16) | Self::Key(ElementType::Dtype(Dtype::F16)) => "f16, as `q` is",
            Self::Query(Dtype::Bf16) | Self::Key(ElementType::Dtype(Dtype::Bf16)) => "bf16, as `q` is",
            Self::Key(ElementType::E4m3) => "f8_e4m3, as `k` is",
        }
    }
}

/// The reference that fits the mask, or why there is one that cannot be used.
fn expected(
    file: &SafeTensors<'_>,
    problem: &Problem,
    dimensions: Dimensions,
    output_sizes: [usize; 4],
) -> (Option<Expected>, Option<String>) {
    let name = match problem.mask() {
        Mask::Full => "out",
        // One reference serves both alignments only where they are the same.
        Mask::CausalTopLeft if problem.len_q() != problem.len_kv() => {
            let note = "`out_causal` is not compared with: which alignment it has, the file does not say";
            return (None, file.tensor("out_causal").is_ok().then(|| note.to_owned()));
        }
        Mask::Causal | Mask::CausalTopLeft => "out_causal",
    };
    let Ok(view) = file.tensor(name) else { return (None, None) };
    let shape = dimensions.shape(output_sizes);
    if view.shape() != shape {
        return (
            None,
            Some(format!("`{name}` is not compared with: it has shape {:?}, the output {shape:?}", view.shape())),
        );
    }
    let data = view.data();
    let (mut values, roundoff) = match view.dtype() {
        FileDtype::F16 => (decode(data, |bytes| f16::from_le_bytes(bytes).to_f64()), Dtype::F16.unit_roundoff()),
        FileDtype::BF16 => (decode(data, |bytes| bf16::from_le_bytes(bytes).to_f64()), Dtype::Bf16.unit_roundoff()),
        FileDtype::F32 => (decode(data, |bytes| f64::from(f32::from_le_bytes(bytes))), f64::from(f32::EPSILON) / 2.0),
        FileDtype::F64 => (decode(data, f64::from_le_bytes), f64::EPSILON / 2.0),
        other => {
            let other = format!("{other:?}").to_lowercase();
            return (
                None,
                Some(format!("`{name}` is not compared with: it is {other}, no floating-point type known here")),
            );
        }
    };
    // Of packed rows behind the last sequence, no reference says anything.
    values.truncate(problem.span(Operand::Output));
    (Some(Expected { name, values, roundoff }), None)
}

fn decode<const N: usize, T>(data: &[u8], value: impl Fn([u8; N]) -> T) -> Vec<T> {
    data.as_chunks::<N>().0.iter().map(|bytes| value(*bytes)).collect()
}

/// Of elements in 8 bits each in the lower half of a number.
fn element_bits(view: &TensorView<'_>, element: ElementType) -> Vec<u16> {
    match element {
        ElementType::Dtype(_) => decode(view.data(), u16::from_le_bytes),
        ElementType::E4m3 => view.data().iter().map(|byte| u16::from(*byte)).collect(),
    }
}

/// Checks that an output could be written beside this input, before any work is done.
///
/// # Errors
/// [`FileError::NoFolder`], [`FileError::IsFolder`] or [`FileError::OutputIsInput`]; [`FileError::Write`] where the system
/// would not let it be written.
pub fn check_output(input: &Path, output: &Path) -> Result<(), FileError> {
    let folder = folder_of(output);
    if !folder.is_dir() {
        return Err(FileError::NoFolder(folder.to_owned()));
    }
    if output.is_dir() {
        return Err(FileError::IsFolder(output.to_owned()));
    }
    match (input.canonicalize(), output.canonicalize()) {
        (Ok(input), Ok(found)) if input == found => Err(FileError::OutputIsInput(output.to_owned())),
        _ => Ok(check_writable(output)?),
    }
}

/// Writes `out` in the dimensions and the element type of `q` and `lse`, [batch, heads, length] in f32, whole or not at all.
/// Packed, `lse` is [heads, total], and rows behind the last sequence are as those that see no key: 0, and a log-sum-exp of −∞.
///
/// # Errors
/// [`FileError::System`], or [`FileError::Format`] where the format cannot hold the tensors.
pub fn write(path: &Path, tensors: &UserTensors, out: &[u16], lse: &[f32]) -> Result<(), FileError> {
    let UserTensors { problem, dimensions, rows_behind, .. } = tensors;
    let [batch, heads, len_q, width] = problem.shape(Operand::Output);
    let total = len_q + rows_behind;
    let sizes = [batch, heads, total, width];
    let mut out: Vec<u8> = out.iter().flat_map(|bits| bits.to_le_bytes()).collect();
    out.resize(sizes.iter().product::<usize>() * problem.dtype().bytes(), 0);
    let bytes = |lse: &mut dyn Iterator<Item = f32>| lse.flat_map(f32::to_le_bytes).collect::<Vec<u8>>();
    let lse = match rows_behind {
        0 => bytes(&mut lse.iter().copied()),
        behind => bytes(&mut (0..batch * heads).flat_map(|head| {
            let of_head = lse[head * len_q..][..len_q].iter().copied();
            of_head.chain(std::iter::repeat_n(f32::NEG_INFINITY, *behind))
        })),
    };
    let dtype = match problem.dtype() {
        Dtype::F16 => FileDtype::F16,
        Dtype::Bf16 => FileDtype::BF16,
    };
    let lse_shape = match dimensions {
        Dimensions::Dense(_) => vec![batch, heads, len_q],
        Dimensions::Packed => vec![heads, total],
    };
    let shape = dimensions.shape(sizes);
    let serialise = || {
        let tensors =
            [("out", TensorView::new(dtype, shape, &out)?), ("lse", TensorView::new(FileDtype::F32, lse_shape, &lse)?)];
        safetensors::serialize(tensors, None)
    };
    let bytes = serialise().map_err(|source| FileError::Format { path: path.to_owned(), source })?;
    Ok(write_whole(path, &bytes)?)
}

/// The folder a path names a file in; a bare name is in the current one, whose path is not empty.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
