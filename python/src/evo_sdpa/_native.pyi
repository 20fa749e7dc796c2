"""The native half: what tensors look like to it is in `forward`."""

from collections.abc import Callable, Sequence

VERSION: str
__all__ = ["VERSION", "append", "forward"]

# Address, shape, and strides in elements.
_Tensor = tuple[int, Sequence[int], Sequence[int]]
# Address of contiguous numbers, and how many.
_Numbers = tuple[int, int]
# Address, rows, columns, and numbers from row to row.
_Table = tuple[int, int, int, int]

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
    block_table: _Table | None,
    scales: tuple[_Numbers, _Numbers] | None,
    longest: tuple[int, int],
) -> str: ...
def append(
    place: tuple[int, int] | None,
    only_interpreter: bool,
    key: _Tensor,
    value: _Tensor,
    key_cache: _Tensor,
    value_cache: _Tensor,
    slots: _Numbers,
) -> None: ...
