"""The native half: what tensors look like to it is in `forward`."""

from collections.abc import Callable, Sequence

VERSION: str

# Address, shape, and strides in elements.
Tensor = tuple[int, Sequence[int], Sequence[int]]
# Address of contiguous 4-byte numbers, and how many.
Numbers = tuple[int, int]

def forward(
    place: tuple[int, int] | None,
    workspace: Callable[[int], tuple[int, object]] | None,
    only_interpreter: bool,
    layout: int,
    dtype: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    lse: Numbers | None,
    scale: float | None,
    mask: int,
    window: tuple[int, int],
    softcap: float,
    slopes: Numbers | None,
    sinks: Numbers | None,
    key_lengths: Numbers | None,
    cu_seqlens: tuple[Numbers, Numbers] | None,
    longest: tuple[int, int],
) -> str: ...
