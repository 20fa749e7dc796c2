"""The native half: what tensors look like to it is in `forward`."""

from collections.abc import Callable, Sequence

VERSION: str
__all__ = ["VERSION", "forward"]

# Address, shape, and strides in elements.
_Tensor = tuple[int, Sequence[int], Sequence[int]]
# Address of contiguous 4-byte numbers, and how many.
_Numbers = tuple[int, int]

def forward(
    place: tuple[int, int] | None,
    workspace: Callable[[int], tuple[int, object]] | None,
    only_interpreter: bool,
    layout: int,
    dtype: int,
    query: _Tensor,
    key: _Tensor,
    value: _Tensor,
    output: _Tensor,
    lse: _Numbers | None,
    scale: float | None,
    mask: int,
    window: tuple[int, int],
    softcap: float,
    slopes: _Numbers | None,
    sinks: _Numbers | None,
    key_lengths: _Numbers | None,
    cu_seqlens: tuple[_Numbers, _Numbers] | None,
    longest: tuple[int, int],
) -> str: ...
