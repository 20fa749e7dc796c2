"""PyTorch's CPU tensors on the interpreter: the operator, its fake kernel and torch.compile. Without PyTorch it says so.

tests/gpu.py is about CUDA tensors.
"""

import os
import subprocess
import sys
import unittest

import ml_dtypes
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


def appending(q, k_cache, v_cache, key_pages, value_pages, k, v, used, table, slots):
    """Appends in every way, and attends; the caches are written."""
    evo_sdpa.append_to_cache(k[0], v[0], key_pages, value_pages, slots)
    return (
        evo_sdpa.flash_attn_with_kvcache(q, k_cache, v_cache, k, v, cache_seqlens=used, causal=True),
        evo_sdpa.flash_attn_with_kvcache(q, k_cache, v_cache, k, v, cache_seqlens=20),
        *evo_sdpa.flash_attn_with_kvcache(
            q, key_pages, value_pages, k, v, cache_seqlens=used, block_table=table, causal=True, return_softmax_lse=True
        ),
        evo_sdpa.flash_attn_with_kvcache(q, key_pages, value_pages, cache_seqlens=8, block_table=table),
        # What is read behind it has been written.
        key_pages * 2,
        value_pages * 2,
    )


def to_append(new=3, dtype=torch.float16):
    """What `appending` takes: two sequences, contiguous and in pages of keys and values side by side."""
    q, k, v, k_cache, v_cache, pages = tensors(
        (2, new, 4, 64), (2, new, 2, 64), (2, new, 2, 64), (2, 40, 2, 64), (2, 40, 2, 64), (7, 2, 16, 2, 64), dtype=dtype
    )
    used = torch.tensor([14, 30], dtype=torch.int32)
    table = torch.tensor([[5, 0], [2, 6]], dtype=torch.int32)
    slots = torch.arange(new) * 17 + 17
    slots[-1] = -1
    return q, k_cache, v_cache, *pages.unbind(1), k, v, used, table, slots


WRITTEN = slice(1, 5)


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
        torch.library.opcheck(operator, (q, k, v, 1, 1, None, 5, -1, 0.0, slopes, slopes, used, *[None] * 5, 0, 0, True))
        rows = (q.flatten(0, 1), q.flatten(0, 1), q.flatten(0, 1))
        extra = (None, None, None, cu_seqlens, cu_seqlens, None, None, None, 20, 20, False)
        torch.library.opcheck(operator, (*rows, 2, 0, 0.2, -1, -1, 3.0, *extra))

    def test_caches_of_eight_bits(self):
        q, key, value = tensors((2, 1, 4, 64), KEY, KEY)
        caches = [tensor.to(torch.float8_e4m3fn) for tensor in (key, value)]
        scales = torch.tensor([0.5, 1.5]), torch.tensor([2.0, 0.3])
        used = torch.tensor([9, 30], dtype=torch.int32)

        def attend(q, key, value, used, k_descale, v_descale):
            given = {"cache_seqlens": used, "k_descale": k_descale, "v_descale": v_descale}
            return evo_sdpa.flash_attn_with_kvcache(q, key, value, **given)

        given = (q, *caches, used, *scales)
        stored = [cache.view(torch.uint8).numpy().view(ml_dtypes.float8_e4m3fn) for cache in caches]
        wanted = attend(q.numpy(), *stored, used.numpy(), *(scale.numpy() for scale in scales))
        self.assertTrue((attend(*given).numpy() == wanted).all() and (wanted != 0).any())
        for scaled in [given, (*given[:4], None, None)]:
            self.assertTrue(torch.equal(torch.compile(attend, fullgraph=True)(*scaled), attend(*scaled)))
        operator = torch.ops.evo_sdpa.attention.default
        asked = (q, *caches, 1, 0, None, -1, -1, 0.0, None, None, used, *[None] * 3, *scales, 0, 0, True)
        # Of PyTorch's own checks the one that can compute with 8 bits.
        torch.library.opcheck(operator, asked, test_utils="test_faketensor")
        for words, changed in [
            ("k_descale is given and k_cache is torch.float16", {1: key}),
            ("value is torch.float16 on cpu: a tensor of torch.float8_e4m3fn", {2: value}),
            ("v_descale is torch.float64 on cpu: a tensor of torch.float32", {5: scales[1].double()}),
        ]:
            with self.assertRaises(ValueError) as raised:
                attend(*(changed.get(index, argument) for index, argument in enumerate(given)))
            self.assertIn(words, str(raised.exception))

    def same(self, compiled, new=3):
        given, theirs = to_append(new), to_append(new)
        for found, expected in zip(compiled(*theirs), appending(*given), strict=True):
            self.assertTrue(torch.equal(found, expected))
        for found, expected, before in zip(theirs[WRITTEN], given[WRITTEN], to_append(new)[WRITTEN], strict=True):
            self.assertTrue(torch.equal(found, expected) and not torch.equal(found, before))

    def test_appended_as_arrays_are(self):
        for dtype, name in [(torch.float16, None), (torch.bfloat16, "bfloat16")]:
            q, k_cache, v_cache, *pages, k, v, used, table, slots = to_append(dtype=dtype)
            for caches, blocks in [((k_cache, v_cache), None), (pages, table)]:
                arrays = [as_numpy(cache).copy() for cache in caches]
                more = {"block_table": None if blocks is None else blocks.numpy(), "cache_seqlens": used.numpy()}
                wanted = evo_sdpa.flash_attn_with_kvcache(
                    as_numpy(q), *arrays, as_numpy(k), as_numpy(v), causal=True, dtype=name, **more
                )
                versions = [cache._version for cache in caches]
                found = evo_sdpa.flash_attn_with_kvcache(q, *caches, k, v, cache_seqlens=used, block_table=blocks, causal=True)
                self.assertTrue((as_numpy(found) == wanted).all() and (wanted != 0).any())
                for cache, array, version in zip(caches, arrays, versions, strict=True):
                    self.assertTrue((as_numpy(cache) == array).all())
                    self.assertGreater(cache._version, version)

    def test_slots_are_those_of_arrays(self):
        from evo_sdpa import _numpy, _torch

        lengths, table = torch.tensor([0, 30, 47, 48, -1], dtype=torch.int32), torch.randperm(15).reshape(5, 3).int()
        for blocks in (None, table):
            found = _torch.slots_behind(lengths, 3, 16, blocks)
            wanted = _numpy.slots_behind(lengths.numpy(), 3, 16, None if blocks is None else blocks.numpy())
            self.assertEqual(found.tolist(), wanted.tolist())
            self.assertIn(-1, found.tolist())

    def test_appending_is_compiled_without_a_break(self):
        self.same(torch.compile(appending, fullgraph=True))
        compiled = torch.compile(appending, fullgraph=True, dynamic=True)
        self.same(compiled)
        self.same(compiled, 4)

    def test_views_are_made_inside_of_what_is_compiled(self):
        def appending_to_views(k, v, pages, slots):
            evo_sdpa.append_to_cache(k[0], v[0], *pages.unbind(1), slots)
            return pages * 2

        k, v, pages = tensors((2, 3, 2, 64), (2, 3, 2, 64), (7, 2, 16, 2, 64))
        slots, before = torch.tensor([17, -1, 99]), pages.clone()
        wanted = appending_to_views(k, v, pages, slots)
        self.assertFalse(torch.equal(pages, before))
        # Inductor of PyTorch 2.15 loses where such views begin, if shapes are dynamic.
        for how in [{"dynamic": False}, {"dynamic": True, "backend": "aot_eager"}]:
            torch.compiler.reset()
            written = before.clone()
            found = torch.compile(appending_to_views, fullgraph=True, **how)(k, v, written, slots)
            self.assertTrue(torch.equal(found, wanted) and torch.equal(written, pages))

    def test_appending_keeps_pytorchs_rules(self):
        q, k_cache, v_cache, *pages, k, v, used, table, slots = to_append()
        append = torch.ops.evo_sdpa.append_to_cache.default
        torch.library.opcheck(append, (k[0], v[0], *pages, slots))
        torch.library.opcheck(append, (k[0], v[0], k_cache, v_cache, slots))
        paged = (q, *pages, 1, 1, None, -1, -1, 0.0, None, None, used, None, None, table, None, None, 0, 0, True)
        torch.library.opcheck(torch.ops.evo_sdpa.attention.default, paged)
        with torch.inference_mode():
            appending(*to_append())

    def test_what_is_not_appended(self):
        q, k_cache, v_cache, *pages, k, v, used, table, slots = to_append()
        right = {"key": k[0], "value": v[0], "key_cache": k_cache, "value_cache": v_cache, "slot_mapping": slots}
        for error, words, changed in [
            (
                ValueError,
                "slot_mapping is torch.int32 on cpu: a tensor of torch.int64 on cpu is wanted, where key is",
                {"slot_mapping": slots.int()},
            ),
            (ValueError, "slot_mapping is None", {"slot_mapping": None}),
            (ValueError, "slot_mapping is not contiguous", {"slot_mapping": torch.zeros(6).long()[::2]}),
            (ValueError, "key is torch.float16 on cpu, value_cache is torch.bfloat16", {"value_cache": v_cache.bfloat16()}),
            (ValueError, "key_cache is torch.float16 on meta", {"key_cache": k_cache.to("meta")}),
            (ValueError, "key is torch.float32", {name: right[name].float() for name in right if name != "slot_mapping"}),
            (ValueError, "value is [3, 2, 32]: [3, 2, 64] is wanted", {"value": v[0, ..., :32]}),
            (ValueError, "value_cache overlaps key_cache", {"value_cache": k_cache}),
            (TypeError, "value is a ndarray, and key is a torch.Tensor", {"value": v[0].numpy()}),
            (NotImplementedError, "no backward pass yet", {"key": k[0].clone().requires_grad_()}),
        ]:
            with self.assertRaises(error) as raised:
                evo_sdpa.append_to_cache(**{**right, **changed})
            self.assertIn(words, str(raised.exception))
        for words, changed in [
            ("cache_seqlens is torch.int64 on cpu: a tensor of torch.int32", {"cache_seqlens": used.long()}),
            ("block_table is torch.int64 on cpu: a tensor of torch.int32", {"block_table": table.long()}),
            ("block_table's rows are not contiguous", {"block_table": table.T}),
        ]:
            with self.assertRaises(ValueError) as raised:
                given = {"cache_seqlens": used, "block_table": table, **changed}
                evo_sdpa.flash_attn_with_kvcache(q, *pages, k, v, **given)
            self.assertIn(words, str(raised.exception))

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
