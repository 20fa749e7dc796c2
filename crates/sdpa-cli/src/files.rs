//! Users' tensors in safetensors files.

use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype as FileDtype, SafeTensorError, SafeTensors};
use sdpa_core::{Dtype, Layout, Mask, Operand, Problem, ProblemError};
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
    /// Not four dimensions.
    #[error("tensor `{name}` has shape {found:?}: expected {}", axes(*layout))]
    Rank {
        /// The order of its dimensions.
        layout: Layout,
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
        found: [usize; 4],
        /// The shape it must have, and why.
        expected: String,
    },
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

/// The names of a layout's dimensions, outermost first.
fn axes(layout: Layout) -> &'static str {
    match layout {
        Layout::Bhld => "[batch, heads, length, head_dim]",
        Layout::Blhd => "[batch, length, heads, head_dim]",
    }
}

/// `[batch, heads, length, head_dim]` of a shape that has them in a layout's order, and the other way round.
fn swapped([batch, one, other, head_dim]: [usize; 4], layout: Layout) -> [usize; 4] {
    match layout {
        Layout::Bhld => [batch, one, other, head_dim],
        Layout::Blhd => [batch, other, one, head_dim],
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
        axes(layout),
        axes(other)
    ))
}

/// An attention problem from a user's file, contiguous.
#[derive(Clone, Debug)]
pub struct UserTensors {
    /// The problem that the shapes describe.
    pub problem: Problem,
    /// Element bits of `q`, in the problem's layout.
    pub query: Vec<u16>,
    /// Element bits of `k`, in the problem's layout.
    pub key: Vec<u16>,
    /// Element bits of `v`, as `k`.
    pub value: Vec<u16>,
    /// What the output should be, where the file says.
    pub expected: Option<Expected>,
    /// Why a reference in the file is not compared with, where there is one and it is not.
    pub not_compared: Option<String>,
    /// Which other layout the shapes look like.
    pub transposed: Option<String>,
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

/// Reads `q`, `k` and `v`, whose dimensions are in the order of `layout`, and the reference that fits the mask.
///
/// # Errors
/// A [`FileError`] that names the first thing found wrong.
pub fn read(path: &Path, mask: Mask, scale: Option<f32>, layout: Layout) -> Result<UserTensors, FileError> {
    let bytes = std::fs::read(path).map_err(|source| FileError::System { path: path.to_owned(), source })?;
    let file =
        SafeTensors::deserialize(&bytes).map_err(|source| FileError::Format { path: path.to_owned(), source })?;

    let (query_view, query_shape, dtype) = operand(path, &file, "q", layout, None)?;
    let (key_view, key_shape, _) = operand(path, &file, "k", layout, Some(dtype))?;
    let (value_view, value_shape, _) = operand(path, &file, "v", layout, Some(dtype))?;
    let [batch, heads, len_q, head_dim] = swapped(query_shape, layout);
    if key_shape[0] != batch || key_shape[3] != head_dim {
        let inner = axes(layout).trim_start_matches("[batch, ").trim_end_matches(", head_dim]");
        let expected = format!("[{batch}, {inner}, {head_dim}], with the batch and head_dim of `q` {query_shape:?}");
        return Err(FileError::Shape { name: "k", found: key_shape, expected });
    }
    if value_shape != key_shape {
        let expected = format!("{key_shape:?}, the shape of `k`");
        return Err(FileError::Shape { name: "v", found: value_shape, expected });
    }
    let [_, heads_kv, len_kv, _] = swapped(key_shape, layout);
    let transposed = transposed(layout, swapped(query_shape, layout), swapped(key_shape, layout));
    let mut builder = Problem::new(batch, heads, len_q, head_dim)
        .heads_kv(heads_kv)
        .len_kv(len_kv)
        .dtype(dtype)
        .mask(mask)
        .layout(layout);
    if let Some(scale) = scale {
        builder = builder.scale(scale);
    }
    let problem = match builder.build() {
        Ok(problem) => problem,
        // A scale has no dimensions.
        Err(error @ ProblemError::Scale(_)) => return Err(FileError::Problem { error, transposed: None }),
        Err(error) => return Err(FileError::Problem { error, transposed }),
    };
    let (expected, not_compared) = expected(&file, &problem, layout);
    Ok(UserTensors {
        query: half_bits(&query_view),
        key: half_bits(&key_view),
        value: half_bits(&value_view),
        problem,
        expected,
        not_compared,
        transposed,
    })
}

fn operand<'a>(
    path: &Path,
    file: &SafeTensors<'a>,
    name: &'static str,
    layout: Layout,
    like: Option<Dtype>,
) -> Result<(TensorView<'a>, [usize; 4], Dtype), FileError> {
    let view = file.tensor(name).map_err(|_| {
        let mut names: Vec<String> = file.names().iter().map(|name| format!("`{name}`")).collect();
        names.sort();
        let found = if names.is_empty() { "no tensor at all".to_owned() } else { names.join(", ") };
        FileError::Missing { path: path.to_owned(), name, found }
    })?;
    let dtype = match view.dtype() {
        FileDtype::F16 => Some(Dtype::F16),
        FileDtype::BF16 => Some(Dtype::Bf16),
        _ => None,
    };
    let wrong_dtype =
        |expected| FileError::Dtype { name, found: format!("{:?}", view.dtype()).to_lowercase(), expected };
    let dtype = match (dtype, like) {
        (Some(dtype), None) => dtype,
        (Some(dtype), Some(like)) if dtype == like => dtype,
        (_, None) => return Err(wrong_dtype("f16 or bf16")),
        (_, Some(Dtype::F16)) => return Err(wrong_dtype("f16, as `q` is")),
        (_, Some(Dtype::Bf16)) => return Err(wrong_dtype("bf16, as `q` is")),
    };
    let shape = view.shape().try_into().map_err(|_| FileError::Rank { layout, name, found: view.shape().to_vec() })?;
    Ok((view, shape, dtype))
}

/// The reference that fits the mask, or why there is one that cannot be used.
fn expected(file: &SafeTensors<'_>, problem: &Problem, layout: Layout) -> (Option<Expected>, Option<String>) {
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
    let shape = swapped(problem.shape(Operand::Output), layout);
    if view.shape() != shape {
        return (
            None,
            Some(format!("`{name}` is not compared with: it has shape {:?}, the output {shape:?}", view.shape())),
        );
    }
    let data = view.data();
    let (values, roundoff) = match view.dtype() {
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
    (Some(Expected { name, values, roundoff }), None)
}

fn decode<const N: usize>(data: &[u8], value: impl Fn([u8; N]) -> f64) -> Vec<f64> {
    data.as_chunks::<N>().0.iter().map(|bytes| value(*bytes)).collect()
}

fn half_bits(view: &TensorView<'_>) -> Vec<u16> {
    view.data().as_chunks::<2>().0.iter().map(|bytes| u16::from_le_bytes(*bytes)).collect()
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

/// Writes `out` in the problem's element type and layout and `lse`, [batch, heads, length] in f32, whole or not at all.
///
/// # Errors
/// [`FileError::System`], or [`FileError::Format`] where the format cannot hold the tensors.
pub fn write(path: &Path, problem: &Problem, layout: Layout, out: &[u16], lse: &[f32]) -> Result<(), FileError> {
    let out: Vec<u8> = out.iter().flat_map(|bits| bits.to_le_bytes()).collect();
    let lse: Vec<u8> = lse.iter().flat_map(|value| value.to_le_bytes()).collect();
    let dtype = match problem.dtype() {
        Dtype::F16 => FileDtype::F16,
        Dtype::Bf16 => FileDtype::BF16,
    };
    let rows = problem.shape(Operand::Output)[..3].to_vec();
    let shape = swapped(problem.shape(Operand::Output), layout).to_vec();
    let serialise = || {
        let tensors =
            [("out", TensorView::new(dtype, shape, &out)?), ("lse", TensorView::new(FileDtype::F32, rows, &lse)?)];
        safetensors::serialize(tensors, None)
    };
    let bytes = serialise().map_err(|source| FileError::Format { path: path.to_owned(), source })?;
    Ok(write_whole(path, &bytes)?)
}

/// The folder a path names a file in; a bare name is in the current one, whose path is not empty.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
