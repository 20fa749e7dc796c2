"""PyTorch's tensors: by address, on their device's current stream, and as an operator that `torch.compile` knows."""

import torch
from torch import Tensor

from . import _native
from ._asked import PACKED, Asked, lse_shape

_DTYPES = {torch.float16: 0, torch.bfloat16: 1}


def _current_stream(index):
    """The handle of the device's current stream."""
    return torch.cuda.current_stream(index).cuda_stream


# The same without an object around the handle, where this PyTorch has it.
_current_stream = getattr(torch._C, "_cuda_getCurrentRawStream", _current_stream)


def _modes():
    """How many dispatch modes would want to see an operator."""
    return 0


_modes = getattr(torch._C, "_len_torch_dispatch_stack", _modes)


def _numbers(name, tensor, dtype, device):
    if tensor is None:
        return None
    if not isinstance(tensor, Tensor) or tensor.dtype != dtype or tensor.device != device:
        found = f"{tensor.dtype} on {tensor.device}" if isinstance(tensor, Tensor) else type(tensor).__qualname__
        raise ValueError(f"{name} is {found}: a tensor of {dtype} on {device} is wanted, where query is")
    if tensor.ndim != 1:
        if name == "alibi_slopes":
            raise NotImplementedError(f"alibi_slopes has the shape {list(tensor.shape)}: evo_sdpa has kernels for [heads] only")
        raise ValueError(f"{name} has the shape {list(tensor.shape)}: one dimension is wanted")
    if not tensor.is_contiguous():
        raise ValueError(f"{name} is not contiguous: give {name}.contiguous()")
    return (tensor.data_ptr(), tensor.numel())


def _workspace(size):
    """Memory of the current device, which PyTorch gives to nothing but later work of the current stream."""
    memory = torch.empty(size, dtype=torch.uint8, device="cuda")
    return memory.data_ptr(), memory


def _compute(query, key, value, asked):
    device, dtype = query.device, query.dtype
    for name, tensor in (("key", key), ("value", value)):
        if tensor.device != device or tensor.dtype != dtype:
            raise ValueError(
                f"query is {dtype} on {device}, {name} is {tensor.dtype} on {tensor.device}: both must be the same"
            )
    if dtype not in _DTYPES:
        raise ValueError(f"query is {dtype}: torch.float16 or torch.bfloat16 is wanted; convert query, key and value by .to()")
    on_cuda = device.type == "cuda"
    if not on_cuda and device.type != "cpu":
        raise ValueError(f"query is on {device}: a CUDA device is wanted")
    lse = None
    if on_cuda:
        out = torch.empty_like(query)
        if asked.with_lse:
            lse = torch.empty(lse_shape(asked.layout, query.shape), dtype=torch.float32, device=device)
    else:
        out = torch.zeros_like(query)
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
        (asked.longest_q, asked.longest_k),
    )
    index = device.index
    if not on_cuda:
        _native.forward(None, None, True, *arguments)
    elif index == torch.cuda.current_device():
        _native.forward((index, _current_stream(index)), _workspace, False, *arguments)
    else:
        # The kernels make their own GPU the thread's current one; PyTorch's stays what it was.
        with torch.cuda.device(device):
            _native.forward((index, _current_stream(index)), _workspace, False, *arguments)
    return out, lse


@torch.library.custom_op("evo_sdpa::attention", mutates_args=())
def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: int,
    mask: int,
    scale: float | None,
    window_left: int,
    window_right: int,
    softcap: float,
    slopes: Tensor | None,
    sinks: Tensor | None,
    key_lengths: Tensor | None,
    cu_seqlens_q: Tensor | None,
    cu_seqlens_k: Tensor | None,
    longest_q: int,
    longest_k: int,
    with_lse: bool,
) -> tuple[Tensor, Tensor]:
    asked = Asked(
        layout,
        mask,
        scale,
        window_left,
        window_right,
        softcap,
        slopes,
        sinks,
        key_lengths,
        cu_seqlens_q,
        cu_seqlens_k,
        longest_q,
        longest_k,
        with_lse,
    )
    out, lse = _compute(query, key, value, asked)
    # An operator returns what it says it returns: without a log-sum-exp an empty one.
    return out, query.new_empty((0,), dtype=torch.float32) if lse is None else lse


@_attention.register_fake
def _(query, key, value, layout, mask, scale, window_left, window_right, softcap, slopes, sinks, key_lengths, *others):
    with_lse = others[-1]
    shape = lse_shape(layout, query.shape) if with_lse else (0,)
    return torch.empty_like(query), query.new_empty(shape, dtype=torch.float32)


def attend(query, key, value, asked, dtype=None):
    """Output and log-sum-exp, or None instead of the latter."""
    if dtype is not None:
        raise ValueError(f"dtype is {dtype!r}: it is for NumPy arrays; a tensor says what it holds")
    for name, tensor in (("key", key), ("value", value)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} is a {type(tensor).__qualname__}, and query is a torch.Tensor: all must be tensors")
    if torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad):
        raise NotImplementedError(
            "query, key or value requires a gradient: evo_sdpa has no backward pass yet; call it under torch.no_grad() or "
            "torch.inference_mode(), or on detached tensors"
        )
    # The dispatcher is passed by if nothing is there that wants to see the operator.
    if not torch.compiler.is_compiling() and type(query) is Tensor and _modes() == 0:
        return _compute(query, key, value, asked)
    out, lse = _attention(query, key, value, *asked)
    return out, lse if asked.with_lse else None
