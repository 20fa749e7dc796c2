"""Types of the functions; what they mean is in their own docstrings."""

from typing import Any, Literal, TypeVar, overload

# A torch.Tensor or a numpy.ndarray, as the output is; numbers beside it are Any, since NumPy's types know their own dtype.
_T = TypeVar("_T")
_Dtype = Literal["bfloat16", "float16"] | None

__version__: str
__all__ = [
    "__version__",
    "append_to_cache",
    "flash_attn_func",
    "flash_attn_varlen_func",
    "flash_attn_with_kvcache",
    "register_with_transformers",
    "scaled_dot_product_attention",
]

def scaled_dot_product_attention(
    query: _T,
    key: _T,
    value: _T,
    attn_mask: None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    dtype: _Dtype = None,
) -> _T: ...
@overload
def flash_attn_func(
    q: _T,
    k: _T,
    v: _T,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Any = None,
    deterministic: bool = False,
    return_attn_probs: Literal[False] = False,
    *,
    sinks: Any = None,
    dtype: _Dtype = None,
) -> _T: ...
@overload
def flash_attn_func(
    q: _T,
    k: _T,
    v: _T,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Any = None,
    deterministic: bool = False,
    *,
    return_attn_probs: Literal[True],
    sinks: Any = None,
    dtype: _Dtype = None,
) -> tuple[_T, Any, None]: ...
@overload
def flash_attn_varlen_func(
    q: _T,
    k: _T,
    v: _T,
    cu_seqlens_q: Any,
    cu_seqlens_k: Any,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Any = None,
    deterministic: bool = False,
    return_attn_probs: Literal[False] = False,
    block_table: None = None,
    *,
    sinks: Any = None,
    dtype: _Dtype = None,
) -> _T: ...
@overload
def flash_attn_varlen_func(
    q: _T,
    k: _T,
    v: _T,
    cu_seqlens_q: Any,
    cu_seqlens_k: Any,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Any = None,
    deterministic: bool = False,
    *,
    return_attn_probs: Literal[True],
    block_table: None = None,
    sinks: Any = None,
    dtype: _Dtype = None,
) -> tuple[_T, Any, None]: ...
@overload
def flash_attn_with_kvcache(
    q: _T,
    k_cache: _T,
    v_cache: _T,
    k: _T | None = None,
    v: _T | None = None,
    rotary_cos: None = None,
    rotary_sin: None = None,
    cache_seqlens: Any = None,
    cache_batch_idx: None = None,
    cache_leftpad: None = None,
    block_table: Any = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    rotary_interleaved: bool = True,
    alibi_slopes: Any = None,
    num_splits: int = 0,
    return_softmax_lse: Literal[False] = False,
    *,
    sinks: Any = None,
    k_descale: Any = None,
    v_descale: Any = None,
    dtype: _Dtype = None,
) -> _T: ...
@overload
def flash_attn_with_kvcache(
    q: _T,
    k_cache: _T,
    v_cache: _T,
    k: _T | None = None,
    v: _T | None = None,
    rotary_cos: None = None,
    rotary_sin: None = None,
    cache_seqlens: Any = None,
    cache_batch_idx: None = None,
    cache_leftpad: None = None,
    block_table: Any = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    rotary_interleaved: bool = True,
    alibi_slopes: Any = None,
    num_splits: int = 0,
    *,
    return_softmax_lse: Literal[True],
    sinks: Any = None,
    k_descale: Any = None,
    v_descale: Any = None,
    dtype: _Dtype = None,
) -> tuple[_T, Any]: ...
def append_to_cache(key: _T, value: _T, key_cache: _T, value_cache: _T, slot_mapping: Any) -> None: ...
def register_with_transformers(name: str = "evo_attention") -> str: ...
