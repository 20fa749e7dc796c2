"""Hugging Face transformers: an attention function and the masks that it wants."""

import warnings

import torch
from transformers import AttentionInterface, AttentionMaskInterface, masking_utils
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from ._functions import flash_attn_func, flash_attn_varlen_func

_FULL, _CAUSAL = "full", "causal"

# Functions of transformers' that make windows. The window itself comes with each call.
_WINDOWS = ("sliding_window_overlay.<locals>.inner_mask", "sliding_window_bidirectional_overlay.<locals>.inner_mask")


def _meaning(mask_function):
    """Whether a mask function, windows aside, is full or causal; None for anything else."""
    if mask_function is masking_utils.causal_mask_function:
        return _CAUSAL
    if mask_function is masking_utils.bidirectional_mask_function:
        return _FULL
    name = getattr(mask_function, "__qualname__", "")
    if name in _WINDOWS:
        return _FULL
    if name == "and_masks.<locals>.and_mask":
        (cell,) = mask_function.__closure__
        meanings = {_meaning(function) for function in cell.cell_contents}
        if None not in meanings:
            return _CAUSAL if _CAUSAL in meanings else _FULL
    return None


def _mask(
    batch_size,
    q_length,
    kv_length,
    q_offset=0,
    kv_offset=0,
    mask_function=masking_utils.causal_mask_function,
    attention_mask=None,
    **kwargs,
):
    """None if nothing is hidden but by causality and windows; which keys are there, [batch, kv_length], if some are padding;
    and transformers' own mask, [batch, 1, q_length, kv_length], for everything else."""
    meaning = _meaning(mask_function)
    # The last query is the last key's: what a static cache, longer than what it holds, is not.
    offsets = (q_offset, kv_offset)
    aligned = all(isinstance(offset, int) for offset in offsets) and q_offset + q_length == kv_offset + kv_length
    padding = attention_mask
    if padding is not None:
        padding = padding[:, kv_offset : kv_offset + kv_length] if isinstance(kv_offset, int) else None
        # How many keys are there is not known to a compiler.
        known = padding is not None and padding.shape[1] == kv_length and not torch.compiler.is_compiling()
    else:
        known = True
    if known and (meaning == _FULL or (meaning == _CAUSAL and aligned)):
        return None if padding is None or bool(padding.all()) else padding
    kwargs |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
    return masking_utils.sdpa_mask(
        batch_size, q_length, kv_length, q_offset, kv_offset, mask_function, attention_mask, **kwargs
    )


class _Rows:
    """Where the rows that are no padding lie, and where each sequence begins among them."""

    def __init__(self, there):
        self.batch, self.row = there.nonzero(as_tuple=True)
        lengths = there.sum(1, dtype=torch.int32)
        self.cu_seqlens = torch.nn.functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))
        self.longest = int(lengths.max())

    def gather(self, tensor):
        """[batch, length, heads, head_dim] without padding: [total, heads, head_dim]."""
        return tensor[self.batch, self.row]


def _rows(mask, length):
    """The rows of the last `length` positions; found once for all layers, which share the mask."""
    known = getattr(mask, "_evo_sdpa_rows", None)
    if known is None:
        known = mask._evo_sdpa_rows = {}
    if length not in known:
        known[length] = _Rows(mask[:, mask.shape[1] - length :])
    return known[length]


def _padded(query, key, value, mask, causal, **asked):
    """Attention without the padding. Rows of the output for queries that are padding are 0, or any."""
    batch, length, heads, head_dim = query.shape
    keys = _rows(mask, mask.shape[1])
    packed_keys = (keys.gather(key), keys.gather(value))
    if causal or asked["window_size"] != (-1, -1):
        # The queries' own positions count: those that are padding are left out, too.
        queries = _rows(mask, length)
        packed = flash_attn_varlen_func(
            queries.gather(query),
            *packed_keys,
            queries.cu_seqlens,
            keys.cu_seqlens,
            queries.longest,
            keys.longest,
            causal=causal,
            **asked,
        )
        out = query.new_zeros((batch, length, heads, value.shape[3]))
        out[queries.batch, queries.row] = packed
        return out
    cu_seqlens = torch.arange(0, (batch + 1) * length, length, dtype=torch.int32, device=query.device)
    packed = flash_attn_varlen_func(
        query.reshape(batch * length, heads, head_dim),
        *packed_keys,
        cu_seqlens,
        keys.cu_seqlens,
        length,
        keys.longest,
        **asked,
    )
    return packed.view(batch, length, heads, value.shape[3])


def _attend(
    module,
    query,
    key,
    value,
    attention_mask,
    dropout=0.0,
    scaling=None,
    is_causal=None,
    sliding_window=None,
    softcap=None,
    s_aux=None,
    position_bias=None,
    **kwargs,
):
    """Attention of [batch, heads, length, head_dim], as [batch, length, heads, head_dim]; no weights."""
    cu_seqlens = (kwargs.get("cu_seq_lens_q"), kwargs.get("cu_seq_lens_k"))
    packed = cu_seqlens[0] is not None and cu_seqlens[1] is not None
    if position_bias is not None or (attention_mask is not None and attention_mask.ndim == 4 and not packed):
        if softcap or s_aux is not None:
            raise NotImplementedError(
                "the mask is neither full, causal, a window nor padding, and softcap or s_aux is given: neither evo_sdpa nor "
                "scaled_dot_product_attention has kernels for both; use attn_implementation='eager'"
            )
        # A warning would end what is compiled here.
        if not torch.compiler.is_compiling():
            warnings.warn(
                "evo_sdpa has no kernels for this mask: PyTorch's scaled_dot_product_attention computes it",
                stacklevel=2,
            )
        return sdpa_attention_forward(
            module,
            query,
            key,
            value,
            attention_mask,
            dropout=dropout,
            scaling=scaling,
            is_causal=is_causal,
            position_bias=position_bias,
            **kwargs,
        )
    causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
    asked = {
        "dropout_p": dropout,
        "softmax_scale": scaling,
        # So many keys with the query's own.
        "window_size": (-1, -1) if sliding_window is None else (sliding_window - 1, sliding_window - 1),
        "softcap": softcap or 0.0,
        "sinks": None if s_aux is None else s_aux.float(),
    }
    query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    if packed:
        longest = (kwargs.get("max_length_q") or query.shape[1], kwargs.get("max_length_k") or key.shape[1])
        rows = (query.flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1))
        begins = [begin.to(torch.int32) for begin in cu_seqlens]
        out = flash_attn_varlen_func(*rows, *begins, *longest, causal=causal, **asked)
        return out.view(*query.shape[:3], value.shape[3]), None
    if attention_mask is not None:
        return _padded(query, key, value, attention_mask, causal, **asked), None
    return flash_attn_func(query, key, value, causal=causal, **asked), None


def register(name):
    """Registers both functions under this name."""
    AttentionInterface.register(name, _attend)
    AttentionMaskInterface.register(name, _mask)
    return name
