"""What is asked for, in the words of the native half."""

from typing import Any, NamedTuple

# Layouts.
BHLD = 0
BLHD = 1
PACKED = 2

# Masks.
FULL = 0
CAUSAL = 1
CAUSAL_TOP_LEFT = 2


class Asked(NamedTuple):
    """Everything but query, key and value. Tensors are of the same kind as these."""

    layout: int
    mask: int = FULL
    scale: float | None = None
    window_left: int = -1
    window_right: int = -1
    softcap: float = 0.0
    slopes: Any = None
    sinks: Any = None
    key_lengths: Any = None
    cu_seqlens_q: Any = None
    cu_seqlens_k: Any = None
    block_table: Any = None
    k_descale: Any = None
    v_descale: Any = None
    longest_q: int = 0
    longest_k: int = 0
    with_lse: bool = False


DIMENSIONS = ("[batch, heads, length, head_dim]", "[batch, length, heads, head_dim]", "[total, heads, head_dim]")


def lse_shape(layout, shape):
    """The shape of the log-sum-exp of a query of this shape."""
    if len(shape) != (3 if layout == PACKED else 4):
        raise ValueError(f"query has the shape {list(shape)}: {DIMENSIONS[layout]} is wanted")
    if layout == PACKED:
        total, heads, _ = shape
        return (heads, total)
    if layout == BHLD:
        batch, heads, length, _ = shape
    else:
        batch, length, heads, _ = shape
    return (batch, heads, length)


def check_dimensions(layout, **tensors):
    """Raises for what is no tensor, and for a tensor with another number of dimensions than its layout has."""
    dimensions = 3 if layout == PACKED else 4
    for name, tensor in tensors.items():
        if not hasattr(tensor, "ndim"):
            raise TypeError(f"{name} is a {type(tensor).__qualname__}: a torch.Tensor or a numpy.ndarray is wanted")
        if tensor.ndim != dimensions:
            raise ValueError(f"{name} has the shape {list(tensor.shape)}: {DIMENSIONS[layout]} is wanted")


def check_table_shape(query, table):
    """Raises for a table of blocks that has not a row for each sequence."""
    batch = query.shape[0]
    if table.ndim != 2 or table.shape[0] != batch or table.shape[1] == 0:
        raise ValueError(f"block_table has the shape {list(table.shape)}: [{batch}, width] is wanted, a row for each sequence")


def check_lengths_shape(query, lengths):
    """Raises for numbers that are not one for each sequence."""
    batch = query.shape[0]
    if lengths.ndim != 1 or lengths.shape[0] != batch:
        raise ValueError(f"cache_seqlens has the shape {list(lengths.shape)}: [{batch}] is wanted, one for each sequence")


def check_unscaled(k_cache, k_descale, v_descale):
    """Raises for scales beside a cache that is not in e4m3."""
    for name, scale in (("k_descale", k_descale), ("v_descale", v_descale)):
        if scale is not None:
            found = getattr(k_cache, "dtype", type(k_cache).__qualname__)
            raise ValueError(f"{name} is given and k_cache is {found}: caches of float8_e4m3fn are multiplied by it")
