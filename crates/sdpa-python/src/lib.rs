//! Attention from Python: the native half of the package `evo-sdpa`, whose other half is `python/src/evo_sdpa`.
//!
//! Python says what is asked for and where the tensors lie, by address, shape and strides. `request` makes a
//! [`Problem`] of it and `caches` an [`Append`](sdpa_cache::Append), `devices` finds the device that the tensors lie on, and
//! `failure` turns errors into Python's.

mod caches;
mod devices;
mod failure;
mod request;

use std::collections::HashSet;
use std::ffi::CString;
use std::sync::{Mutex, PoisonError};

use pyo3::exceptions::PyRuntimeWarning;
use pyo3::prelude::*;
use sdpa::{Attention, CHOICES, Device, LaunchPlan, Problem};

use crate::caches::Appended;
use crate::failure::Failure;
use crate::request::{Numbers, Request, Table, Tensor};

/// What `import evo_sdpa._native` finds.
#[pymodule]
mod _native {
    #[pymodule_export]
    use super::{append, forward};

    /// Of the package.
    #[pymodule_export]
    const VERSION: &str = env!("CARGO_PKG_VERSION");
}

/// Queues attention, and returns the id of the generation that computes it. On host memory it is done on return.
///
/// `place` is the ordinal and the stream of the GPU that all tensors lie on, or None for host memory: then the device is the one
/// that `SDPA_DEVICE` names, and with `only_interpreter` it must name the interpreter. Tensors are (address, shape, strides in
/// elements) in the `layout` 0 for [batch, heads, length, head_dim], 1 for [batch, length, heads, head_dim], 2 for packed
/// sequences, [total, heads, head_dim]. `dtype` is 0 for float16, 1 for bfloat16. `mask` is 0 for none, 1 for causal with the
/// last query seeing every key, 2 for causal with the first query seeing the first key. Sides of the window are -1 without an
/// end, `softcap` is 0 without one. `lse` and what follows `softcap` are (address, count) of 4-byte numbers, or None. With
/// `block_table`, (address, rows, columns, numbers from row to row), keys and values are pages, and `key_lengths` is needed. With
/// `scales`, of keys and of values, these have elements of 1 byte, in e4m3.
///
/// `workspace` is called for GPU memory that the kernels hand to one another, if they do: with a number of bytes, for (address,
/// owner), at a multiple of 256 bytes. The owner is let go once the work is queued.
///
/// The addresses must be memory as long as shapes, strides and counts say, of the place, until the work is done: this
/// function cannot see whether they are.
#[pyfunction]
fn forward(
    py: Python<'_>,
    place: Option<(usize, usize)>,
    workspace: Option<Bound<'_, PyAny>>,
    only_interpreter: bool,
    layout: u8,
    dtype: u8,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    lse: Option<Numbers>,
    scale: Option<f64>,
    mask: u8,
    window: (i64, i64),
    softcap: f64,
    slopes: Option<Numbers>,
    sinks: Option<Numbers>,
    key_lengths: Option<Numbers>,
    cu_seqlens: Option<(Numbers, Numbers)>,
    block_table: Option<Table>,
    scales: Option<(Numbers, Numbers)>,
    longest: (usize, usize),
) -> PyResult<&'static str> {
    let tensors = [query, key, value, output];
    let request = Request {
        layout,
        dtype,
        tensors,
        lse,
        scale,
        mask,
        window,
        softcap,
        slopes,
        sinks,
        key_lengths,
        cu_seqlens,
        block_table,
        scales,
        longest,
    };
    let problem = request.problem()?;
    let Some((ordinal, stream)) = place else {
        // The interpreter takes its time.
        let generation = py.detach(|| {
            let device = devices::for_host(only_interpreter)?;
            let (generation, plan) = planned(&problem, &*device)?;
            request.run_on_host(&*device, &problem, (generation, &plan))?;
            Ok::<_, Failure>(generation)
        })?;
        return id_of(py, generation, &problem);
    };
    let device = py.detach(|| devices::of_stream(ordinal, stream))?;
    let (generation, plan) = planned(&problem, &*device)?;
    let (address, _owner) = match workspace.filter(|_| plan.workspace_bytes > 0) {
        Some(allocate) => {
            let (address, owner) = allocate.call1((plan.workspace_bytes,))?.extract::<(u64, Bound<'_, PyAny>)>()?;
            (Some(address), Some(owner))
        }
        None => (None, None),
    };
    // Loading a kernel takes as long as compiling it.
    py.detach(|| request.run_on_device(&*device, &problem, (generation, &plan), address))?;
    id_of(py, generation, &problem)
}

/// Queues the copy of new keys and values to their slots of the caches. On host memory it is done on return.
///
/// `place`, `only_interpreter` and tensors are as in [`forward`]: new ones `[tokens, heads_kv, width]`, caches
/// `[blocks, block_size, heads_kv, width]`, elements of 2 bytes. `slots` is (address, count) of 8-byte numbers, `[tokens]`: block ·
/// block_size + place in the block; a token whose slot is negative or beyond the cache is skipped.
///
/// The addresses must be memory as [`forward`] says.
#[pyfunction]
fn append(
    py: Python<'_>,
    place: Option<(usize, usize)>,
    only_interpreter: bool,
    key: Tensor,
    value: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    slots: Numbers,
) -> PyResult<()> {
    let appended = Appended { new: [key, value], caches: [key_cache, value_cache], slots };
    let append = appended.append()?;
    py.detach(|| match place {
        None => appended.run_on_host(&*devices::for_host(only_interpreter)?, &append),
        Some((ordinal, stream)) => appended.run_on_device(&*devices::of_stream(ordinal, stream)?, &append),
    })?;
    Ok(())
}

fn planned(problem: &Problem, device: &dyn Device) -> Result<(&'static dyn Attention, LaunchPlan), Failure> {
    Ok(sdpa::planned(problem, device.limits()).map_err(sdpa::Error::from)?)
}

/// A generation's id, with a warning, once for each reason, if it is 10 to 100 times slower than the others.
fn id_of(py: Python<'_>, generation: &dyn Attention, problem: &Problem) -> PyResult<&'static str> {
    let id = generation.generation().id;
    warn_if_slow(py, id, problem)?;
    Ok(id)
}

fn warn_if_slow(py: Python<'_>, generation: &'static str, problem: &Problem) -> PyResult<()> {
    static SAID: Mutex<Option<HashSet<String>>> = Mutex::new(None);
    let is_slow = |choice: &sdpa::Choice| choice.last_resort && choice.generation.generation().id == generation;
    if !CHOICES.iter().any(is_slow) {
        return Ok(());
    }
    // Which device it is matters little here: the reasons are about strides.
    let Some(reason) = sdpa::slow_because(problem, &sdpa::DeviceLimits::H200) else { return Ok(()) };
    let reason = reason.to_string();
    if !SAID.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default().insert(reason.clone()) {
        return Ok(());
    }
    let text =
        format!("evo_sdpa computes this 10 to 100 times slower than it could: {reason}; a contiguous copy is faster");
    let text = CString::new(text).unwrap_or_default();
    PyErr::warn(py, &py.get_type::<PyRuntimeWarning>(), &text, 3)
}
