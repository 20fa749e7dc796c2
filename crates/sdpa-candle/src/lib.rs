//! Attention for [candle](candle_core): candle-flash-attn's functions, with their names, arguments, layouts and meanings, on
//! evo-sdpa's kernels. These are embedded as PTX, so that building this crate compiles no CUDA.
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//!
//! # // SAFETY: one thread.
//! # unsafe { std::env::set_var("SDPA_DEVICE", "interpreter") };
//! // Device::new_cuda(0)? with the feature `cuda`; on the CPU it needs SDPA_DEVICE=interpreter, for tests.
//! let device = Device::Cpu;
//! // [batch, length, heads, head_dim]
//! let q = Tensor::ones((2, 20, 4, 64), DType::F16, &device)?;
//! let kv = Tensor::ones((2, 30, 2, 64), DType::F16, &device)?;
//! let out = sdpa_candle::flash_attn(&q, &kv, &kv, 0.125, true)?;
//! assert_eq!(out.dims(), [2, 20, 4, 64]);
//! # Ok::<(), candle_core::Error>(())
//! ```
//!
//! Tensors are f16 or bf16, their last dimension contiguous, other strides free. head_dim is a multiple of 8 up to 256. Work is
//! queued on candle's stream; nothing is copied. A causal mask is aligned bottom-right: the last query sees every key. Windows
//! count keys before and behind a query's own, without an end if `None`. Key heads may be fewer than query heads.
//!
//! Without a kernel are: a backward pass, paged caches, masks as tensors. Each is declined in words.

mod attend;
#[cfg(feature = "cuda")]
mod cuda;

use candle_core::{Result, Tensor, bail};

use crate::attend::{Attend, Packed, Shape};

/// Attention of `q` `[batch, len_q, heads, head_dim]` over `k` and `v` `[batch, len_kv, heads_kv, head_dim]`.
///
/// # Errors
/// Tensors that make no attention, or no kernel that takes them; in words. So with all functions here.
pub fn flash_attn(q: &Tensor, k: &Tensor, v: &Tensor, softmax_scale: f32, causal: bool) -> Result<Tensor> {
    flash_attn_windowed(q, k, v, softmax_scale, None, causal.then_some(0))
}

/// [`flash_attn`] and the natural log-sum-exp of each row, `[batch, heads, len_q]` f32; −∞ for a row without keys.
///
/// # Errors
/// As [`flash_attn`].
pub fn flash_attn_lse(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    softmax_scale: f32,
    causal: bool,
) -> Result<(Tensor, Tensor)> {
    Attend::new(Shape::Blhd, softmax_scale).window(None, causal.then_some(0)).run_with_lse(q, k, v)
}

/// [`flash_attn`] with a window instead of a causal mask; `window_size_right` of 0 is one.
///
/// # Errors
/// As [`flash_attn`].
pub fn flash_attn_windowed(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    softmax_scale: f32,
    window_size_left: Option<usize>,
    window_size_right: Option<usize>,
) -> Result<Tensor> {
    Attend::new(Shape::Blhd, softmax_scale).window(window_size_left, window_size_right).run(q, k, v)
}

/// [`flash_attn`] with slopes `[heads]` f32: a score falls by its head's slope with each key of distance.
///
/// # Errors
/// As [`flash_attn`].
pub fn flash_attn_alibi(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    alibi_slopes: &Tensor,
    softmax_scale: f32,
    causal: bool,
) -> Result<Tensor> {
    flash_attn_alibi_windowed(q, k, v, alibi_slopes, softmax_scale, None, causal.then_some(0))
}

/// [`flash_attn_alibi`] with a window.
///
/// # Errors
/// As [`flash_attn`].
pub fn flash_attn_alibi_windowed(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    alibi_slopes: &Tensor,
    softmax_scale: f32,
    window_size_left: Option<usize>,
    window_size_right: Option<usize>,
) -> Result<Tensor> {
    Attend::new(Shape::Blhd, softmax_scale)
        .window(window_size_left, window_size_right)
        .slopes(Some(alibi_slopes))
        .run(q, k, v)
}

/// [`flash_attn_windowed`] with slopes, if any, and scores of `softcap · tanh(score / softcap)`; a softcap of 0 is none.
///
/// # Errors
/// As [`flash_attn`].
pub fn flash_attn_alibi_windowed_softcap(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    alibi_slopes: Option<&Tensor>,
    softmax_scale: f32,
    window_size_left: Option<usize>,
    window_size_right: Option<usize>,
    softcap: f32,
) -> Result<Tensor> {
    Attend::new(Shape::Blhd, softmax_scale)
        .window(window_size_left, window_size_right)
        .slopes(alibi_slopes)
        .softcap(softcap)
        .run(q, k, v)
}

/// Attention of packed sequences: `q` `[total_q, heads, head_dim]`, `k` and `v` `[total_k, heads_kv, head_dim]`, and where each
/// sequence begins in `seqlens_q` and `seqlens_k`, `[sequences + 1]` u32 or i32, from 0 to the total. `max_seqlen_q` and
/// `max_seqlen_k` are the longest, or more.
///
/// # Errors
/// As [`flash_attn`].
pub fn flash_attn_varlen(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    seqlens_q: &Tensor,
    seqlens_k: &Tensor,
    max_seqlen_q: usize,
    max_seqlen_k: usize,
    softmax_scale: f32,
    causal: bool,
) -> Result<Tensor> {
    let right = causal.then_some(0);
    flash_attn_varlen_windowed(q, k, v, seqlens_q, seqlens_k, max_seqlen_q, max_seqlen_k, softmax_scale, None, right)
}

/// [`flash_attn_varlen`] and the natural log-sum-exp of each row, `[heads, total_q]` f32.
///
/// # Errors
/// As [`flash_attn`].
pub fn flash_attn_varlen_lse(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    seqlens_q: &Tensor,
    seqlens_k: &Tensor,
    max_seqlen_q: usize,
    max_seqlen_k: usize,
    softmax_scale: f32,
    causal: bool,
) -> Result<(Tensor, Tensor)> {
    let packed = Packed::new(seqlens_q, seqlens_k, max_seqlen_q, max_seqlen_k);
    Attend::new(Shape::Packed(packed), softmax_scale).window(None, causal.then_some(0)).run_with_lse(q, k, v)
}

/// [`flash_attn_varlen`] with a window instead of a causal mask.
///
/// # Errors
/// As [`flash_attn`].
pub fn flash_attn_varlen_windowed(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    seqlens_q: &Tensor,
    seqlens_k: &Tensor,
    max_seqlen_q: usize,
    max_seqlen_k: usize,
    softmax_scale: f32,
    window_size_left: Option<usize>,
    window_size_right: Option<usize>,
) -> Result<Tensor> {
    let packed = Packed::new(seqlens_q, seqlens_k, max_seqlen_q, max_seqlen_k);
    Attend::new(Shape::Packed(packed), softmax_scale).window(window_size_left, window_size_right).run(q, k, v)
}

/// [`flash_attn_varlen`] with slopes `[heads]` f32.
///
/// # Errors
/// As [`flash_attn`].
pub fn flash_attn_varlen_alibi(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    alibi_slopes: &Tensor,
    seqlens_q: &Tensor,
    seqlens_k: &Tensor,
    max_seqlen_q: usize,
    max_seqlen_k: usize,
    softmax_scale: f32,
    causal: bool,
) -> Result<Tensor> {
    let packed = Packed::new(seqlens_q, seqlens_k, max_seqlen_q, max_seqlen_k);
    Attend::new(Shape::Packed(packed), softmax_scale)
        .window(None, causal.then_some(0))
        .slopes(Some(alibi_slopes))
        .run(q, k, v)
}

/// [`flash_attn_varlen_alibi`] with a window instead of a causal mask.
///
/// # Errors
/// As [`flash_attn`].
pub fn flash_attn_varlen_alibi_windowed(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    alibi_slopes: &Tensor,
    seqlens_q: &Tensor,
    seqlens_k: &Tensor,
    max_seqlen_q: usize,
    max_seqlen_k: usize,
    softmax_scale: f32,
    window_size_left: Option<usize>,
    window_size_right: Option<usize>,
) -> Result<Tensor> {
    let packed = Packed::new(seqlens_q, seqlens_k, max_seqlen_q, max_seqlen_k);
    Attend::new(Shape::Packed(packed), softmax_scale)
        .window(window_size_left, window_size_right)
        .slopes(Some(alibi_slopes))
        .run(q, k, v)
}

/// [`flash_attn_varlen_windowed`] with slopes, if any, and a softcap; 0 is none.
///
/// # Errors
/// As [`flash_attn`].
pub fn flash_attn_varlen_alibi_windowed_softcap(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    alibi_slopes: Option<&Tensor>,
    seqlens_q: &Tensor,
    seqlens_k: &Tensor,
    max_seqlen_q: usize,
    max_seqlen_k: usize,
    softmax_scale: f32,
    window_size_left: Option<usize>,
    window_size_right: Option<usize>,
    softcap: f32,
) -> Result<Tensor> {
    let packed = Packed::new(seqlens_q, seqlens_k, max_seqlen_q, max_seqlen_k);
    Attend::new(Shape::Packed(packed), softmax_scale)
        .window(window_size_left, window_size_right)
        .slopes(alibi_slopes)
        .softcap(softcap)
        .run(q, k, v)
}

/// Attention over paged caches: declined, since there is no kernel for them yet.
///
/// # Errors
/// Always, with what to do instead.
pub fn flash_attn_varlen_paged_windowed(
    _q: &Tensor,
    _k: &Tensor,
    _v: &Tensor,
    _seqlens_q: &Tensor,
    _seqlens_k: &Tensor,
    _block_table: &Tensor,
    _mm_prefix_ranges: Option<&Tensor>,
    _max_seqlen_q: usize,
    _max_seqlen_k: usize,
    _softmax_scale: f32,
    _window_size_left: Option<usize>,
    _window_size_right: Option<usize>,
    _page_block_size: usize,
    _softcap: Option<f32>,
) -> Result<Tensor> {
    bail!("sdpa-candle has no kernels for paged caches yet: gather the pages and call flash_attn_varlen_windowed")
}

/// What `candle_nn::ops::sdpa` offers on Metal: `q` `[batch, heads, len_q, head_dim]`, `k` and `v` `[batch, heads_kv, len_kv,
/// head_dim]`. A causal mask is aligned bottom-right. Scores become `softcapping · tanh(score / softcapping)`; 1 is none, as there.
///
/// # Errors
/// As [`flash_attn`]; a `mask` is declined.
pub fn sdpa(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    mask: Option<&Tensor>,
    do_causal: bool,
    scale: f32,
    softcapping: f32,
) -> Result<Tensor> {
    if mask.is_some() {
        bail!(
            "sdpa-candle has no kernels for masks as tensors: a causal mask is do_causal, a window flash_attn_windowed, and \
             padding is left out by flash_attn_varlen"
        );
    }
    let softcap = if softcapping == 1.0 { 0.0 } else { softcapping };
    Attend::new(Shape::Bhld, scale).window(None, do_causal.then_some(0)).softcap(softcap).run(q, k, v)
}
