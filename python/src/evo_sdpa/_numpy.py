"""NumPy arrays: copied to the device that `SDPA_DEVICE` names, and back."""

import numpy

from . import _native
from ._asked import PACKED, lse_shape


def _dtype(name, array, said):
    """0 for float16, 1 for bfloat16."""
    if said not in (None, "float16", "bfloat16"):
        raise ValueError(f'dtype is {said!r}: "bfloat16" says what uint16 arrays hold; otherwise leave it out')
    found = array.dtype
    if found == numpy.float16 and said != "bfloat16":
        return 0
    if said != "float16" and (found.name == "bfloat16" or (found == numpy.uint16 and said == "bfloat16")):
        return 1
    raise ValueError(f'{name} is {found}: float16, ml_dtypes.bfloat16, or uint16 with dtype="bfloat16" is wanted')


def _tensor(array):
    size = array.dtype.itemsize
    if any(stride % size for stride in array.strides):
        raise ValueError(f"strides of {list(array.strides)} bytes are no multiples of an element's {size}: copy the array")
    return (array.ctypes.data, array.shape, [stride // size for stride in array.strides])


def _numbers(name, array, dtypes, keep):
    if array is None:
        return None
    array = numpy.ascontiguousarray(array)
    if array.dtype not in dtypes:
        raise ValueError(f"{name} is {array.dtype}: {dtypes[0]} is wanted")
    if array.ndim != 1:
        if name == "alibi_slopes":
            raise NotImplementedError(f"alibi_slopes has the shape {list(array.shape)}: evo_sdpa has kernels for [heads] only")
        raise ValueError(f"{name} has the shape {list(array.shape)}: one dimension is wanted")
    keep.append(array)
    return (array.ctypes.data, array.size)


def attend(query, key, value, asked, dtype=None):
    """Output and log-sum-exp, or None instead of the latter."""
    dtypes = set()
    for name, array in (("query", query), ("key", key), ("value", value)):
        if not isinstance(array, numpy.ndarray):
            raise TypeError(f"{name} is a {type(array).__qualname__}, and query is a numpy.ndarray: all must be arrays")
        dtypes.add(_dtype(name, array, dtype))
    if len(dtypes) > 1:
        raise ValueError(f"query is {query.dtype}, key is {key.dtype}, value is {value.dtype}: all must be the same")
    out = numpy.zeros((*query.shape[:-1], value.shape[-1]), query.dtype)
    lse = numpy.zeros(lse_shape(asked.layout, query.shape), numpy.float32) if asked.with_lse else None
    keep = []
    lengths = (numpy.dtype(numpy.int32), numpy.dtype(numpy.uint32))
    floats = (numpy.dtype(numpy.float32),)
    cu_seqlens = None
    if asked.layout == PACKED:
        cu_seqlens = (
            _numbers("cu_seqlens_q", asked.cu_seqlens_q, lengths, keep),
            _numbers("cu_seqlens_k", asked.cu_seqlens_k, lengths, keep),
        )
    _native.forward(
        None,
        None,
        False,
        asked.layout,
        dtypes.pop(),
        _tensor(query),
        _tensor(key),
        _tensor(value),
        _tensor(out),
        None if lse is None else (lse.ctypes.data, lse.size),
        asked.scale,
        asked.mask,
        (asked.window_left, asked.window_right),
        asked.softcap,
        _numbers("alibi_slopes", asked.slopes, floats, keep),
        _numbers("sinks", asked.sinks, floats, keep),
        _numbers("cache_seqlens", asked.key_lengths, lengths, keep),
        cu_seqlens,
        (asked.longest_q, asked.longest_k),
    )
    return out, lse
