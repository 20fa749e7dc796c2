"""The functions that programs call. What they mean is here; where it is computed, in `_torch` and `_numpy`."""

import sys
from typing import Any

from . import _asked
from ._asked import BHLD, BLHD, CAUSAL, CAUSAL_TOP_LEFT, FULL, PACKED, Asked
from ._cache import append_and_count, scales

# By the type of the query: what computes on it.
_doors: dict[type, Any] = {}


def _door(query, name="query"):
    door = _doors.get(type(query))
    return _find_door(query, name) if door is None else door


def _find_door(query, name="query"):
    # What a program has not imported it has no tensors of. torch.compile may be the one that asks, and reads this line by line.
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    if torch is not None and isinstance(query, torch.Tensor):
        from . import _torch as door
    elif numpy is not None and isinstance(query, numpy.ndarray):
        from . import _numpy as door
    else:
        raise TypeError(f"{name} is a {type(query).__qualname__}: only torch.Tensor and numpy.ndarray are known")
    _doors[type(query)] = door
    return door


def _decline(name, why):
    raise NotImplementedError(f"{name}: {why}")


def _decline_dropout(dropout_p):
    if dropout_p:
        _decline(f"dropout_p is {dropout_p}", "evo_sdpa has no kernels with dropout; give 0.0, as in evaluation")


def _window(window_size):
    left, right = window_size
    # Any negative number is no end, as in flash-attn.
    return max(left, -1), max(right, -1)


def scaled_dot_product_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False, *, dtype=None
):
    """``softmax(scale · query · keyᵀ) · value``, with the arguments of ``torch.nn.functional.scaled_dot_product_attention``.

    Args:
        query: ``[batch, heads, len_q, head_dim]``, float16 or bfloat16, its last dimension contiguous, other strides free.
            head_dim is a multiple of 8 up to 256.
        key, value: ``[batch, heads_kv, len_kv, head_dim]``, like the query. Values may have another head_dim.
        attn_mask: declined; None.
        dropout_p: declined; 0.0.
        is_causal: query ``i`` sees the keys up to ``i`` (aligned top-left, as in PyTorch).
        scale: factor on the scores; ``1/√head_dim`` if None.
        enable_gqa: allows fewer key heads than query heads; these are a multiple of those.
        dtype: ``"bfloat16"`` for NumPy arrays of uint16 that hold bfloat16's bits.

    Returns:
        ``[batch, heads, len_q, head_dim]``, of the query's type and order of dimensions in memory. A row without keys is 0.
        If values have another head_dim, it is theirs, and contiguous.

    Raises:
        ValueError: shapes, types or devices that make no attention.
        NotImplementedError: what has no kernel here.
        RuntimeError: what the device or its driver refuses.
    """
    if attn_mask is not None:
        _decline(
            "attn_mask is given",
            "evo_sdpa has no kernels for masks as tensors; causal masks are is_causal, windows are flash_attn_func's "
            "window_size, and padding is left out by flash_attn_varlen_func",
        )
    _decline_dropout(dropout_p)
    door = _door(query)
    mask = FULL
    if is_causal or not enable_gqa:
        _asked.check_dimensions(BHLD, query=query, key=key)
        heads, heads_kv = query.shape[1], key.shape[1]
        if not enable_gqa and heads != heads_kv:
            raise ValueError(f"query has {heads} heads and key has {heads_kv}: give enable_gqa=True for grouped heads")
        if is_causal:
            # Both alignments are the same for as many keys as queries.
            mask = CAUSAL if query.shape[2] == key.shape[2] else CAUSAL_TOP_LEFT
    return door.attend(query, key, value, Asked(BHLD, mask, scale), dtype)[0]


def flash_attn_func(
    q,
    k,
    v,
    dropout_p=0.0,
    softmax_scale=None,
    causal=False,
    window_size=(-1, -1),
    softcap=0.0,
    alibi_slopes=None,
    deterministic=False,
    return_attn_probs=False,
    *,
    sinks=None,
    dtype=None,
):
    """Attention in flash-attn's layout, with the arguments of its ``flash_attn_func``.

    Args:
        q: ``[batch, len_q, heads, head_dim]``, float16 or bfloat16, its last dimension contiguous, other strides free.
            head_dim is a multiple of 8 up to 256.
        k, v: ``[batch, len_kv, heads_kv, head_dim]``; the query heads are a multiple of heads_kv. v may have another
            head_dim, such as 128 beside 192, which is then the output's.
        dropout_p: declined; 0.0.
        softmax_scale: factor on the scores; ``1/√head_dim`` if None.
        causal: the last query sees every key (aligned bottom-right, as in flash-attn).
        window_size: keys before and behind its own that a query sees, ``i + len_kv - len_q``; -1 is no end.
        softcap: scores become ``softcap · tanh(score / softcap)``; 0.0 is none.
        alibi_slopes: ``[heads]`` float32: a score falls by its slope with each key of distance.
        deterministic: results always are.
        return_attn_probs: also returns the log-sum-exp.
        sinks: ``[heads]`` float32: a logit for each head that has its part of the softmax and no value.
        dtype: ``"bfloat16"`` for NumPy arrays of uint16 that hold bfloat16's bits.

    Returns:
        ``[batch, len_q, heads, head_dim]``; with return_attn_probs ``(out, lse, None)``, where lse is the natural
        log-sum-exp, ``[batch, heads, len_q]`` float32, and −∞ for a row without keys.

    Raises:
        As :func:`scaled_dot_product_attention`.
    """
    _decline_dropout(dropout_p)
    left, right = _window(window_size)
    asked = Asked(
        BLHD,
        CAUSAL if causal else FULL,
        softmax_scale,
        left,
        right,
        softcap,
        alibi_slopes,
        sinks,
        None,
        None,
        None,
        None,
        None,
        None,
        0,
        0,
        return_attn_probs,
    )
    out, lse = _door(q).attend(q, k, v, asked, dtype)
    return (out, lse, None) if return_attn_probs else out


def flash_attn_varlen_func(
    q,
    k,
    v,
    cu_seqlens_q,
    cu_seqlens_k,
    max_seqlen_q,
    max_seqlen_k,
    dropout_p=0.0,
    softmax_scale=None,
    causal=False,
    window_size=(-1, -1),
    softcap=0.0,
    alibi_slopes=None,
    deterministic=False,
    return_attn_probs=False,
    block_table=None,
    *,
    sinks=None,
    dtype=None,
):
    """Attention over packed sequences, with the arguments of flash-attn's ``flash_attn_varlen_func``.

    Args:
        q: ``[total_q, heads, head_dim]``: the rows of all sequences behind one another, without padding.
        k, v: ``[total_k, heads_kv, head_dim]``.
        cu_seqlens_q, cu_seqlens_k: ``[sequences + 1]`` int32, where each sequence begins, from 0 to the total. They are read
            on the device, behind what is queued there.
        max_seqlen_q, max_seqlen_k: the longest sequence, or more.
        block_table: declined; None.
        dropout_p and what else is not named here: as in :func:`flash_attn_func`.

    Returns:
        ``[total_q, heads, head_dim]``; with return_attn_probs ``(out, lse, None)``, lse ``[heads, total_q]`` float32.

    Raises:
        As :func:`scaled_dot_product_attention`.
    """
    _decline_dropout(dropout_p)
    if block_table is not None:
        _decline(
            "block_table is given",
            "packed queries over paged caches are not taken; gather the pages to packed keys and values, or give queries of "
            "one length to flash_attn_with_kvcache",
        )
    left, right = _window(window_size)
    asked = Asked(
        PACKED,
        CAUSAL if causal else FULL,
        softmax_scale,
        left,
        right,
        softcap,
        alibi_slopes,
        sinks,
        None,
        cu_seqlens_q,
        cu_seqlens_k,
        None,
        None,
        None,
        max_seqlen_q,
        max_seqlen_k,
        return_attn_probs,
    )
    out, lse = _door(q).attend(q, k, v, asked, dtype)
    return (out, lse, None) if return_attn_probs else out


def flash_attn_with_kvcache(
    q,
    k_cache,
    v_cache,
    k=None,
    v=None,
    rotary_cos=None,
    rotary_sin=None,
    cache_seqlens=None,
    cache_batch_idx=None,
    cache_leftpad=None,
    block_table=None,
    softmax_scale=None,
    causal=False,
    window_size=(-1, -1),
    softcap=0.0,
    rotary_interleaved=True,
    alibi_slopes=None,
    num_splits=0,
    return_softmax_lse=False,
    *,
    sinks=None,
    k_descale=None,
    v_descale=None,
    dtype=None,
):
    """Attention over a cache, contiguous or in pages, with the arguments of flash-attn's ``flash_attn_with_kvcache``.

    New keys and values are written to the caches first, in place, behind those that each sequence uses. Lengths and tables
    stay on the device, and both steps are queued on the current stream, so a CUDA graph may record them.

    Args:
        q: ``[batch, len_q, heads, head_dim]``.
        k_cache, v_cache: ``[batch, most_keys, heads_kv, head_dim]``, of which ``cache_seqlens`` are used; with block_table
            ``[blocks, block_size, heads_kv, head_dim]``, where block_size is 8, 16, 32, 64, 128 or 256.
            They may be ``torch.float8_e4m3fn`` (``ml_dtypes.float8_e4m3fn``), with at most 128 queries per sequence.
        k, v: ``[batch, new, heads_kv, head_dim]``, of the caches' type, which has 16 bits then: appended behind
            ``cache_seqlens`` keys, and attended over. What a sequence has no room for is not written. The caller counts them in
            the next call's cache_seqlens.
        cache_seqlens: keys that each sequence uses, without those of k: an int for all of them, which the fastest kernels
            take, or ``[batch]`` int32 on the device, at most ``most_keys`` each. None uses the whole cache, and k may not be
            given.
        block_table: ``[batch, width]`` int32 on the device: the blocks of each sequence in order. Sequences that share
            blocks must not append to them. At most 128 queries per sequence.
        rotary_cos, rotary_sin, cache_batch_idx, cache_leftpad: declined; None.
        causal: the last query sees every used key, new ones with them.
        rotary_interleaved, num_splits: without a meaning here: nothing is rotated, and the split is chosen.
        return_softmax_lse: also returns the log-sum-exp.
        k_descale, v_descale: what keys and values in float8_e4m3fn are multiplied by: ``[1]`` or ``[heads_kv]`` float32 on the
            device, positive; 1 if both are None.
        softmax_scale and what else is not named here: as in :func:`flash_attn_func`.

    Returns:
        ``[batch, len_q, heads, head_dim]``; with return_softmax_lse ``(out, lse)``, lse ``[batch, heads, len_q]`` float32.

    Raises:
        As :func:`scaled_dot_product_attention`. If no kernel takes the attention, k and v may have been written; writing them
        again changes nothing.
    """
    if (k is None) != (v is None):
        raise ValueError(f"{'k' if v is None else 'v'} is given alone: k and v are appended together")
    if rotary_cos is not None or rotary_sin is not None:
        _decline("rotary_cos and rotary_sin are given", "evo_sdpa does not rotate; rotate q and k before")
    if cache_batch_idx is not None:
        _decline(
            "cache_batch_idx is given",
            "evo_sdpa has no kernels for it; index the cache, as in k_cache[cache_batch_idx]",
        )
    if cache_leftpad is not None:
        _decline("cache_leftpad is given", "evo_sdpa has no kernels for it; begin each sequence at the cache's first row")
    door = _door(q)
    k_descale, v_descale = scales(door, q, k_cache, k_descale, v_descale)
    k_cache, v_cache, key_lengths = append_and_count(door, q, k_cache, v_cache, k, v, cache_seqlens, block_table)
    left, right = _window(window_size)
    asked = Asked(
        BLHD,
        CAUSAL if causal else FULL,
        softmax_scale,
        left,
        right,
        softcap,
        alibi_slopes,
        sinks,
        key_lengths,
        None,
        None,
        block_table,
        k_descale,
        v_descale,
        0,
        0,
        return_softmax_lse,
    )
    out, lse = door.attend(q, k_cache, v_cache, asked, dtype)
    return (out, lse) if return_softmax_lse else out


def append_to_cache(key, value, key_cache, value_cache, slot_mapping):
    """Copies new keys and values to their slots of caches in blocks, in place, with vLLM's meaning of ``slot_mapping``.

    It is queued on the current stream, and what is queued behind it reads the new keys.

    Args:
        key, value: ``[tokens, heads_kv, head_dim]``, float16 or bfloat16, their last dimension contiguous, other strides free:
            thirds of a projection are fine. Values may have another head_dim.
        key_cache, value_cache: ``[blocks, block_size, heads_kv, head_dim]`` of the same type, blocks of any size; written.
        slot_mapping: ``[tokens]`` int64 on the device: ``block · block_size + place in the block``. -1 skips a token, and so
            does any slot beyond the cache. Slots must differ: two tokens with one slot race for it. If it is shorter than
            key and value, what these have behind it is padding, and not read.

    Raises:
        ValueError: shapes, types or devices that do not go together.
        RuntimeError: what the device or its driver refuses.
    """
    _door(key, "key").append(key, value, key_cache, value_cache, slot_mapping)


def register_with_transformers(name="evo_attention"):
    """Makes ``attn_implementation=name`` known to Hugging Face transformers, 5 or newer.

    Padding is left out by packing the sequences; causal masks, windows, soft caps and sinks are computed here. A model whose
    mask is anything else gets PyTorch's scaled_dot_product_attention for it, and a warning that says so. ``torch.compile``
    gives padding to that as well, without the warning: how many keys there are is not known to it.

    Args:
        name: what ``from_pretrained(…, attn_implementation=name)`` or ``model.set_attn_implementation(name)`` will say. Names
            with "sdpa" or "flash" in them have conditions of their own there.

    Returns:
        The name.
    """
    from . import _transformers

    return _transformers.register(name)


# A program that has imported PyTorch finds the operators registered before it compiles anything.
if "torch" in sys.modules:
    _find_door(sys.modules["torch"].empty(0))
