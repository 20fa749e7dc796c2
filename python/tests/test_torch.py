"""PyTorch's CPU tensors on the interpreter: the operator, its fake kernel and torch.compile. Without PyTorch it says so.

tests/gpu.py is about CUDA tensors.
"""

import os
import subprocess
import sys
import unittest

import numpy

import evo_sdpa

try:
    import torch
except ImportError as error:
    raise unittest.SkipTest(f"PyTorch is not installed: {error}") from error

QUERY, KEY = (2, 20, 4, 64), (2, 30, 2, 64)


def tensors(*shapes, dtype=torch.float16):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def everything(q, k, v, slopes, cu_seqlens, used):
    """Every function, and most arguments."""
    length = q.shape[1]
    heads = (q.transpose(1, 2), k[:, :length].transpose(1, 2), v[:, :length].transpose(1, 2))
    rows = (q.flatten(0, 1), k[:, :length].flatten(0, 1), v[:, :length].flatten(0, 1))
    return (
        evo_sdpa.scaled_dot_product_attention(*heads, is_causal=True, enable_gqa=True, scale=0.3),
        *evo_sdpa.flash_attn_func(q, k, v, causal=True, window_size=(5, 0), return_attn_probs=True)[:2],
        evo_sdpa.flash_attn_func(q, k, v, alibi_slopes=slopes, sinks=slopes, softcap=8.0),
        evo_sdpa.flash_attn_varlen_func(*rows, cu_seqlens, cu_seqlens, length, length),
        *evo_sdpa.flash_attn_with_kvcache(q, k, v, cache_seqlens=used, return_softmax_lse=True),
        evo_sdpa.flash_attn_with_kvcache(q, k, v, cache_seqlens=10),
    )


def arguments(query=QUERY, key=KEY):
    q, k, v = tensors(query, key, key)
    slopes = torch.linspace(0.1, 0.4, query[2])
    cu_seqlens = torch.arange(query[0] + 1, dtype=torch.int32) * query[1]
    return q, k, v, slopes, cu_seqlens, torch.full((query[0],), 9, dtype=torch.int32)


def as_numpy(tensor):
    return tensor.view(torch.int16).numpy().view(numpy.uint16) if tensor.dtype == torch.bfloat16 else tensor.numpy()


@unittest.skipUnless(os.environ.get("SDPA_DEVICE") == "interpreter", "CPU tensors need SDPA_DEVICE=interpreter")
class OnTheInterpreter(unittest.TestCase):
    def test_tensors_are_computed_as_arrays_are(self):
        for dtype, name in [(torch.float16, None), (torch.bfloat16, "bfloat16")]:
            q, k, v = tensors(QUERY, KEY, KEY, dtype=dtype)
            found = evo_sdpa.flash_attn_func(q, k, v, causal=True)
            self.assertEqual(found.dtype, dtype)
            wanted = evo_sdpa.flash_attn_func(*map(as_numpy, (q, k, v)), causal=True, dtype=name)
            self.assertTrue((as_numpy(found) == wanted).all() and (wanted != 0).any())

    def test_the_output_is_ordered_as_the_query_is(self):
        q, k, v = (tensor.transpose(1, 2) for tensor in tensors(QUERY, KEY, KEY))
        found = evo_sdpa.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        self.assertEqual(found.stride(), q.stride())
        thirds = tensors((2, 20, 3, 4, 64))[0].unbind(2)
        found = evo_sdpa.flash_attn_func(*thirds)
        self.assertTrue(found.is_contiguous())

    def test_compiled_without_a_break(self):
        given = arguments()
        wanted = everything(*given)
        compiled = torch.compile(everything, fullgraph=True)
        for found, expected in zip(compiled(*given), wanted, strict=True):
            self.assertTrue(torch.equal(found, expected))
            self.assertEqual(found.stride(), expected.stride())

    def test_compiled_for_any_shape(self):
        compiled = torch.compile(everything, fullgraph=True, dynamic=True)
        for query, key in [(QUERY, KEY), ((3, 24, 4, 64), (3, 33, 2, 64))]:
            given = arguments(query, key)
            for found, expected in zip(compiled(*given), everything(*given), strict=True):
                self.assertTrue(torch.equal(found, expected))

    def test_the_operator_keeps_pytorchs_rules(self):
        q, k, v, slopes, cu_seqlens, used = arguments()
        operator = torch.ops.evo_sdpa.attention.default
        torch.library.opcheck(operator, (q, k, v, 1, 1, None, 5, -1, 0.0, slopes, slopes, used, None, None, None, 0, 0, True))
        rows = (q.flatten(0, 1), q.flatten(0, 1), q.flatten(0, 1))
        extra = (None, None, None, cu_seqlens, cu_seqlens, None, 20, 20, False)
        torch.library.opcheck(operator, (*rows, 2, 0, 0.2, -1, -1, 3.0, *extra))

    def test_imported_before_pytorch(self):
        program = """
import sys
import evo_sdpa
assert "torch" not in sys.modules
import torch
attend = torch.compile(lambda q: evo_sdpa.flash_attn_func(q, q, q), fullgraph=True)
q = torch.ones(1, 8, 1, 64, dtype=torch.float16)
assert torch.equal(attend(q), q)
"""
        ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        self.assertEqual(ran.returncode, 0, ran.stderr)

    def test_what_is_declined(self):
        q, k, v = tensors(QUERY, KEY, KEY)
        for error, words, given, more in [
            (ValueError, "query is torch.float32", (q.float(), k.float(), v.float()), {}),
            (ValueError, "query is torch.float16 on cpu, key is torch.bfloat16", (q, k.bfloat16(), v), {}),
            (ValueError, "value is torch.float16 on meta", (q, k, v.to("meta")), {}),
            (ValueError, "query is on meta: a CUDA device", (q.to("meta"), k.to("meta"), v.to("meta")), {}),
            (ValueError, "dtype is 'bfloat16': it is for NumPy arrays", (q, k, v), {"dtype": "bfloat16"}),
            (
                ValueError,
                "alibi_slopes is torch.float16 on cpu: a tensor of torch.float32",
                (q, k, v),
                {"alibi_slopes": q[0, 0, :, 0]},
            ),
            (ValueError, "sinks is list", (q, k, v), {"sinks": [0.0]}),
            (ValueError, "sinks is not contiguous", (q, k, v), {"sinks": torch.zeros(8)[::2]}),
            (TypeError, "key is a ndarray, and query is a torch.Tensor", (q, k.numpy(), v), {}),
            (NotImplementedError, "alibi_slopes has the shape [2, 4]", (q, k, v), {"alibi_slopes": torch.zeros(2, 4)}),
            (NotImplementedError, "no backward pass yet", (q, k.clone().requires_grad_(), v), {}),
        ]:
            with self.assertRaises(error) as raised:
                evo_sdpa.flash_attn_func(*given, **more)
            self.assertIn(words, str(raised.exception))
        with torch.no_grad():
            evo_sdpa.flash_attn_func(q, k.clone().requires_grad_(), v)

    def test_a_cpu_tensor_is_no_cuda_tensor(self):
        q, k, v = tensors(QUERY, KEY, KEY)
        for device in [None, "auto", "cuda"]:
            os.environ.pop("SDPA_DEVICE")
            if device is not None:
                os.environ["SDPA_DEVICE"] = device
            try:
                with self.assertRaisesRegex(ValueError, "query is a CPU tensor: .* move it with .cuda()"):
                    evo_sdpa.flash_attn_func(q, k, v)
            finally:
                os.environ["SDPA_DEVICE"] = "interpreter"


if __name__ == "__main__":
    unittest.main()
