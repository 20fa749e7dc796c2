"""PyTorch's tensors: by address, on their device's current stream, and as an operator that `torch.compile` knows."""

import torch
from torch import Tensor

from . import _native
from ._asked import PACKED, Asked, check_lengths_shape, check_table_shape, lse_shape

_DTYPES = {torch.float16: 0, torch.bfloat16: 1}
# What caches may be stored in beside these.
_STORED = torch.float8_e4m3fn


def _current_stream(index):
    """The handle of the device's current stream."""
    return torch.cuda.current_stream(index).cuda_stream


# The same without an object around the handle, where this PyTorch has it.
_current_stream = getattr(torch._C, "_cuda_getCurrentRawStream", _current_stream)


def _modes():
    """How many dispatch modes would want to see an operator."""
    return 0


_modes = getattr(torch._C, "_len_torch_dispatch_stack", _modes)


def _check_kind(name, tensor, dtype, device, beside="query"):
    if not isinstance(tensor, Tensor) or tensor.dtype != dtype or tensor.device != device:
        found = f"{tensor.dtype} on {tensor.device}" if isinstance(tensor, Tensor) else type(tensor).__qualname__
        raise ValueError(f"{name} is {found}: a tensor of {dtype} on {device} is wanted, where {beside} is")


def _numbers(name, tensor, dtype, device, beside="query"):
    if tensor is None:
        return None
    _check_kind(name, tensor, dtype, device, beside)
    if tensor.ndim != 1:
        if name == "alibi_slopes":
            raise NotImplementedError(f"alibi_slopes has the shape {list(tensor.shape)}: evo_sdpa has kernels for [heads] only")
        raise ValueError(f"{name} has the shape {list(tensor.shape)}: one dimension is wanted")
    if not tensor.is_contiguous():
        raise ValueError(f"{name} is not contiguous: give {name}.contiguous()")
    return (tensor.data_ptr(), tensor.numel())


def check_table(query, table):
    """Raises for what is no table of blocks for so many sequences."""
    _check_kind("block_table", table, torch.int32, query.device)
    check_table_shape(query, table)


def check_lengths(query, lengths):
    """Raises for what is no length of each sequence."""
    _check_kind("cache_seqlens", lengths, torch.int32, query.device)
    check_lengths_shape(query, lengths)


def equal_lengths(query, length):
    """The same length for each sequence."""
    return torch.full((query.shape[0],), length, dtype=torch.int32, device=query.device)


def slots_behind(lengths, new, size, block_table):
    """The slot of each new key, `[batch · new]`: behind its sequence's keys, or -1 where there is no room."""
    room = size if block_table is None else block_table.shape[1] * size
    wanted = lengths[:, None] + torch.arange(new, device=lengths.device)
    places = wanted.clamp(0, room - 1)
    if block_table is None:
        blocks, within = torch.arange(lengths.shape[0], device=lengths.device)[:, None], places
    else:
        blocks, within = block_table.gather(1, places // size), places % size
    # Few operations, since each is a launch; the sum is of 64 bits.
    return torch.add(within, blocks, alpha=size).masked_fill_(wanted != places, -1).flatten()


def is_stored(cache):
    """Whether a cache is in e4m3."""
    return getattr(cache, "dtype", None) == _STORED


def ones(query, shape):
    """Scales that change nothing, where the query is."""
    return torch.ones(shape, dtype=torch.float32, device=query.device)


def _table(query, table):
    if table is None:
        return None
    check_table(query, table)
    if table.shape[1] > 1 and table.stride(1) != 1:
        raise ValueError("block_table's rows are not contiguous: give block_table.contiguous()")
    rows, columns = table.shape
    # A row that is alone may have any stride.
    return (table.data_ptr(), rows, columns, table.stride(0) if rows > 1 else columns)


def _workspace(size):
    """Memory of the current device, which PyTorch gives to nothing but later work of the current stream."""
    memory = torch.empty(size, dtype=torch.uint8, device="cuda")
    return memory.data_ptr(), memory


def _check(query, key, value, stored=False):
    """Raises in words for tensors of different kinds; keys and values that are `stored` are in e4m3."""
    for name, tensor in (("key", key), ("value", value)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} is a {type(tensor).__qualname__}, and query is a torch.Tensor: all must be tensors")
        if stored:
            _check_kind(name, tensor, _STORED, query.device)
        elif tensor.device != query.device or tensor.dtype != query.dtype:
            raise ValueError(
                f"query is {query.dtype} on {query.device}, {name} is {tensor.dtype} on {tensor.device}: both must be the same"
            )
    if query.dtype not in _DTYPES:
        raise ValueError(
            f"query is {query.dtype}: torch.float16 or torch.bfloat16 is wanted; convert query, key and value by .to()"
        )
    if query.device.type not in ("cuda", "cpu"):
        raise ValueError(f"query is on {query.device}: a CUDA device is wanted")


def _output(query, value):
    """Memory for the output: like the query's, or contiguous where values have another width."""
    width = value.shape[-1]
    return torch.empty_like(query) if width == query.shape[-1] else query.new_empty((*query.shape[:-1], width))


def _compute(query, key, value, asked):
    dtype, on_cuda = query.dtype, query.is_cuda
    index = query.get_device()
    stored = asked.k_descale is not None
    kind = _STORED if stored else dtype
    if not (
        on_cuda
        and key.dtype is kind
        and value.dtype is kind
        and key.get_device() == index
        and value.get_device() == index
        and dtype in _DTYPES
    ):
        _check(query, key, value, stored)
    device = query.device
    lse = None
    if on_cuda:
        out = _output(query, value)
        if asked.with_lse:
            lse = torch.empty(lse_shape(asked.layout, query.shape), dtype=torch.float32, device=device)
    else:
        out = _output(query, value).zero_()
        if asked.with_lse:
            lse = torch.zeros(lse_shape(asked.layout, query.shape), dtype=torch.float32)
    cu_seqlens = None
    if asked.layout == PACKED:
        cu_seqlens = (
            _numbers("cu_seqlens_q", asked.cu_seqlens_q, torch.int32, device),
            _numbers("cu_seqlens_k", asked.cu_seqlens_k, torch.int32, device),
        )
    arguments = (
        asked.layout,
        _DTYPES[dtype],
        (query.data_ptr(), query.shape, query.stride()),
        (key.data_ptr(), key.shape, key.stride()),
        (value.data_ptr(), value.shape, value.stride()),
        (out.data_ptr(), out.shape, out.stride()),
        None if lse is None else (lse.data_ptr(), lse.numel()),
        asked.scale,
        asked.mask,
        (asked.window_left, asked.window_right),
        asked.softcap,
        _numbers("alibi_slopes", asked.slopes, torch.float32, device),
        _numbers("sinks", asked.sinks, torch.float32, device),
        _numbers("cache_seqlens", asked.key_lengths, torch.int32, device),
        cu_seqlens,
        _table(query, asked.block_table),
        (
            (
                _numbers("k_descale", asked.k_descale, torch.float32, device),
                _numbers("v_descale", asked.v_descale, torch.float32, device),
            )
            if stored
            else None
        ),
        (asked.longest_q, asked.longest_k),
    )
    if not on_cuda:
        _native.forward(None, None, True, *arguments)
    elif index == torch.cuda.current_device():
        _native.forward((index, _current_stream(index)), _workspace, False, *arguments)
    else:
        # The kernels make their own GPU the thread's current one; PyTorch's stays what it was.
        with torch.cuda.device(device):
            _native.forward((index, _current_stream(index)), _workspace, False, *arguments)
    return out, lse


# An operator by its schema and not by `torch.library.custom_op`, whose own checks take longer than a short kernel.
torch.library.define(
    "evo_sdpa::attention",
    "(Tensor query, Tensor key, Tensor value, int layout, int mask, float? scale, SymInt window_left, SymInt window_right, "
    "float softcap, Tensor? slopes, Tensor? sinks, Tensor? key_lengths, Tensor? cu_seqlens_q, Tensor? cu_seqlens_k, "
    "Tensor? block_table, Tensor? k_descale, Tensor? v_descale, SymInt longest_q, SymInt longest_k, bool with_lse) "
    "-> (Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)


@torch.library.impl("evo_sdpa::attention", ("cpu", "cuda"))
def _attention(query, key, value, *asked):
    out, lse = _compute(query, key, value, Asked(*asked))
    # An operator returns what it says it returns: without a log-sum-exp an empty one.
    return out, query.new_empty((0,), dtype=torch.float32) if lse is None else lse


@torch.library.register_fake("evo_sdpa::attention")
def _fake(query, key, value, layout, *others):
    shape = lse_shape(layout, query.shape) if others[-1] else (0,)
    return _output(query, value), query.new_empty(shape, dtype=torch.float32)


_operator = torch.ops.evo_sdpa.attention.default


def attend(query, key, value, asked, dtype=None):
    """Output and log-sum-exp, or None instead of the latter."""
    if dtype is not None:
        raise ValueError(f"dtype is {dtype!r}: it is for NumPy arrays; a tensor says what it holds")
    if not (isinstance(key, Tensor) and isinstance(value, Tensor)):
        _check(query, key, value)
    if torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad):
        raise NotImplementedError(
            "query, key or value requires a gradient: evo_sdpa has no backward pass yet; call it under torch.no_grad() "
            "or torch.inference_mode(), or on detached tensors"
        )
    # The dispatcher is passed by if nothing is there that wants to see the operator.
    if type(query) is Tensor and not torch.compiler.is_compiling() and _modes() == 0:
        return _compute(query, key, value, asked)
    out, lse = _operator(query, key, value, *asked)
    return out, lse if asked.with_lse else None


def _check_append(key, value, key_cache, value_cache):
    """Raises in words for tensors of different kinds."""
    for name, tensor in (("key", key), ("value", value), ("key_cache", key_cache), ("value_cache", value_cache)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} is a {type(tensor).__qualname__}, and key is a torch.Tensor: all must be tensors")
        if tensor.device != key.device or tensor.dtype != key.dtype:
            raise ValueError(
                f"key is {key.dtype} on {key.device}, {name} is {tensor.dtype} on {tensor.device}: both must be the same"
            )
    if key.dtype not in _DTYPES:
        raise ValueError(f"key is {key.dtype}: torch.float16 or torch.bfloat16 is wanted, as in the caches")
    if key.device.type not in ("cuda", "cpu"):
        raise ValueError(f"key is on {key.device}: a CUDA device is wanted")


def _append_now(key, value, key_cache, value_cache, slot_mapping):
    tensors = (key, value, key_cache, value_cache)
    _check_append(*tensors)
    slots = _numbers("slot_mapping", slot_mapping, torch.int64, key.device, "key")
    if slots is None:
        raise ValueError("slot_mapping is None: a slot for each token is wanted")
    arguments = (*((tensor.data_ptr(), tensor.shape, tensor.stride()) for tensor in tensors), slots)
    index = key.get_device()
    if not key.is_cuda:
        _native.append(None, True, *arguments)
    elif index == torch.cuda.current_device():
        _native.append((index, _current_stream(index)), False, *arguments)
    else:
        with torch.cuda.device(key.device):
            _native.append((index, _current_stream(index)), False, *arguments)
    # Autograd is told that what it may have kept has changed.
    for cache in (key_cache, value_cache):
        if not cache.is_inference():
            torch.autograd.graph.increment_version(cache)


torch.library.define(
    "evo_sdpa::append_to_cache",
    "(Tensor key, Tensor value, Tensor(a!) key_cache, Tensor(b!) value_cache, Tensor slot_mapping) -> ()",
    tags=(torch.Tag.pt2_compliant_tag,),
)


@torch.library.impl("evo_sdpa::append_to_cache", ("cpu", "cuda"))
def _append(key, value, key_cache, value_cache, slot_mapping):
    _append_now(key, value, key_cache, value_cache, slot_mapping)


@torch.library.register_fake("evo_sdpa::append_to_cache")
def _fake_append(key, value, key_cache, value_cache, slot_mapping):
    return None


_append_operator = torch.ops.evo_sdpa.append_to_cache.default


def append(key, value, key_cache, value_cache, slot_mapping):
    """Copies rows to their slots of the caches, on the current stream."""
    tensors = (key, value, key_cache, value_cache)
    if not all(isinstance(tensor, Tensor) for tensor in tensors):
        _check_append(*tensors)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        raise NotImplementedError(
            "key, value or a cache requires a gradient: evo_sdpa has no backward pass yet; call it under torch.no_grad() "
            "or torch.inference_mode(), or on detached tensors"
        )
    if type(key) is Tensor and not torch.compiler.is_compiling() and _modes() == 0:
        _append_now(key, value, key_cache, value_cache, slot_mapping)
    else:
        _append_operator(key, value, key_cache, value_cache, slot_mapping)
