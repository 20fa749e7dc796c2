"""NumPy arrays: copied to the device that `SDPA_DEVICE` names, and back."""

import numpy

from . import _native
from ._asked import PACKED, check_lengths_shape, check_table_shape, lse_shape

# What caches may be stored in beside 16 bits.
_STORED = "float8_e4m3fn"
_LENGTHS = (numpy.dtype(numpy.int32), numpy.dtype(numpy.uint32))


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


def _table(query, table, keep):
    if table is None:
        return None
    check_table(query, table)
    table = numpy.ascontiguousarray(table)
    keep.append(table)
    rows, columns = table.shape
    return (table.ctypes.data, rows, columns, columns)


def is_stored(cache):
    """Whether a cache is in e4m3."""
    return isinstance(cache, numpy.ndarray) and cache.dtype.name == _STORED


def ones(query, shape):
    """Scales that change nothing."""
    return numpy.ones(shape, numpy.float32)


def _check_kind(name, array, otherwise):
    if not isinstance(array, numpy.ndarray):
        raise TypeError(f"{name} is a {type(array).__qualname__}{otherwise}")
    if array.dtype not in _LENGTHS:
        raise ValueError(f"{name} is {array.dtype}: {_LENGTHS[0]} is wanted")


def check_table(query, table):
    """Raises for what is no table of blocks for so many sequences."""
    _check_kind("block_table", table, ", and query is a numpy.ndarray: all must be arrays")
    check_table_shape(query, table)


def check_lengths(query, lengths):
    """Raises for what is no length of each sequence."""
    _check_kind("cache_seqlens", lengths, ": an int or a numpy.ndarray is wanted")
    check_lengths_shape(query, lengths)


def equal_lengths(query, length):
    """The same length for each sequence."""
    return numpy.full(query.shape[0], length, numpy.int32)


def slots_behind(lengths, new, size, block_table):
    """The slot of each new key, `[batch · new]`: behind its sequence's keys, or -1 where there is no room."""
    places = lengths.astype(numpy.int64)[:, None] + numpy.arange(new)
    if block_table is None:
        columns, blocks = 1, numpy.arange(lengths.shape[0])[:, None]
    else:
        columns = block_table.shape[1]
        blocks = numpy.take_along_axis(block_table.astype(numpy.int64), (places // size).clip(0, columns - 1), 1)
    has_room = (places >= 0) & (places < columns * size)
    return numpy.where(has_room, blocks * size + places % size, -1).ravel()


def append(key, value, key_cache, value_cache, slot_mapping):
    """Copies rows to their slots of the caches."""
    arrays = {"key": key, "value": value, "key_cache": key_cache, "value_cache": value_cache}
    for name, array in arrays.items():
        if not isinstance(array, numpy.ndarray):
            raise TypeError(f"{name} is a {type(array).__qualname__}, and key is a numpy.ndarray: all must be arrays")
        if array.dtype.name not in ("float16", "bfloat16", "uint16"):
            raise ValueError(f"{name} is {array.dtype}: float16, ml_dtypes.bfloat16, or uint16 with its bits is wanted")
        if array.dtype != key.dtype:
            raise ValueError(f"key is {key.dtype}, {name} is {array.dtype}: all must be the same")
    for name in ("key_cache", "value_cache"):
        if not arrays[name].flags.writeable:
            raise ValueError(f"{name} is read-only: new keys and values are written to it")
    keep = []
    slots = _numbers("slot_mapping", slot_mapping, (numpy.dtype(numpy.int64),), keep)
    if slots is None:
        raise ValueError("slot_mapping is None: a slot for each token is wanted")
    _native.append(None, False, *map(_tensor, arrays.values()), slots)


def attend(query, key, value, asked, dtype=None):
    """Output and log-sum-exp, or None instead of the latter."""
    dtypes = set()
    stored = asked.k_descale is not None
    for name, array in (("query", query), ("key", key), ("value", value)):
        if not isinstance(array, numpy.ndarray):
            raise TypeError(f"{name} is a {type(array).__qualname__}, and query is a numpy.ndarray: all must be arrays")
        if not stored or name == "query":
            dtypes.add(_dtype(name, array, dtype))
        elif not is_stored(array):
            raise ValueError(f"{name} is {array.dtype}: {_STORED} is wanted, as k_cache is")
    if len(dtypes) > 1:
        raise ValueError(f"query is {query.dtype}, key is {key.dtype}, value is {value.dtype}: all must be the same")
    out = numpy.zeros((*query.shape[:-1], value.shape[-1]), query.dtype)
    lse = numpy.zeros(lse_shape(asked.layout, query.shape), numpy.float32) if asked.with_lse else None
    keep = []
    floats = (numpy.dtype(numpy.float32),)
    cu_seqlens = None
    if asked.layout == PACKED:
        cu_seqlens = (
            _numbers("cu_seqlens_q", asked.cu_seqlens_q, _LENGTHS, keep),
            _numbers("cu_seqlens_k", asked.cu_seqlens_k, _LENGTHS, keep),
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
        _numbers("cache_seqlens", asked.key_lengths, _LENGTHS, keep),
        cu_seqlens,
        _table(query, asked.block_table, keep),
        (
            (_numbers("k_descale", asked.k_descale, floats, keep), _numbers("v_descale", asked.v_descale, floats, keep))
            if stored
            else None
        ),
        (asked.longest_q, asked.longest_k),
    )
    return out, lse
