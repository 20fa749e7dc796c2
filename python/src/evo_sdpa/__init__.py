"""Attention by the fastest kernel for your problem on your NVIDIA GPU.

The functions have the names, arguments and meanings that PyTorch and flash-attn gave them, and take PyTorch's CUDA tensors
without copying them, on the current stream. What has no kernel here is declined by name. NumPy arrays are computed on the
device that the variable ``SDPA_DEVICE`` names: ``interpreter`` needs no GPU.
"""

from ._functions import (
    append_to_cache,
    flash_attn_func,
    flash_attn_varlen_func,
    flash_attn_with_kvcache,
    register_with_transformers,
    scaled_dot_product_attention,
)
from ._native import VERSION as __version__

__all__ = [
    "__version__",
    "append_to_cache",
    "flash_attn_func",
    "flash_attn_varlen_func",
    "flash_attn_with_kvcache",
    "register_with_transformers",
    "scaled_dot_product_attention",
]
