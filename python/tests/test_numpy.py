"""The functions on NumPy arrays against a float64 reference: python3 -m unittest discover python/tests

They run on the device that SDPA_DEVICE names; on the interpreter no GPU is needed.
"""

import re
import unittest
import warnings

import ml_dtypes
import numpy

import evo_sdpa
from reference import attention

# Elements differ by a rounding of the output and by those of the weights; see NUMERICS.md.
TOLERANCE = {"float16": 2e-3, "bfloat16": 1.6e-2}


def random(seed, *shape, dtype=numpy.float16):
    return numpy.random.default_rng(seed).standard_normal(shape).astype(dtype)


class Agreement(unittest.TestCase):
    def same(self, found, wanted, tolerance=None):
        self.assertEqual(found.shape, wanted.shape)
        tolerance = TOLERANCE[found.dtype.name] if tolerance is None else tolerance
        found = found.astype(numpy.float64)
        self.assertTrue(numpy.isfinite(found).all() and abs(wanted).max() > 0)
        self.assertLessEqual(abs(found - wanted).max(), tolerance)

    def sdpa(self, query, key, value, top_left=False, **arguments):
        found = evo_sdpa.scaled_dot_product_attention(query, key, value, **arguments)
        self.assertEqual(found.dtype, query.dtype)
        scale = arguments.get("scale")
        wanted = [attention(*one, scale=scale, top_left=top_left)[0] for one in zip(query, key, value, strict=True)]
        self.same(found, numpy.stack(wanted))

    def flash(self, q, k, v, tolerance=None, **arguments):
        found, lse, nothing = evo_sdpa.flash_attn_func(q, k, v, return_attn_probs=True, **arguments)
        self.assertIsNone(nothing)
        self.assertTrue((found == evo_sdpa.flash_attn_func(q, k, v, **arguments)).all())
        meant = {"softmax_scale": "scale", "window_size": "window", "alibi_slopes": "slopes"}
        arguments = {meant.get(name, name): value for name, value in arguments.items()}
        rows = [tensor.transpose(0, 2, 1, 3) for tensor in (q, k, v)]
        wanted = [attention(*one, **arguments) for one in zip(*rows, strict=True)]
        self.same(found, numpy.stack([out.transpose(1, 0, 2) for out, _ in wanted]), tolerance)
        self.same(lse.astype(numpy.float32), numpy.stack([lse for _, lse in wanted]), 1e-3)

    def test_sdpa(self):
        query, key, value = (random(seed, 2, 4, 37, 64) for seed in range(3))
        self.sdpa(query, key, value)
        self.sdpa(query, key, value, scale=0.3)
        self.sdpa(query, key, value, is_causal=True, top_left=True)

    def test_sdpa_of_other_lengths_is_aligned_top_left(self):
        for len_q, len_kv in [(5, 19), (19, 5), (1, 40)]:
            query = random(1, 1, 2, len_q, 32)
            key, value = (random(seed, 1, 2, len_kv, 32) for seed in (2, 3))
            self.sdpa(query, key, value, is_causal=True, top_left=True)

    def test_values_of_another_width(self):
        query, key = (random(seed, 1, 4, 20, 192) for seed in (1, 2))
        self.sdpa(query, key, random(3, 1, 4, 20, 128), is_causal=True, top_left=True)
        q, k = (random(seed, 1, 20, 2, 64) for seed in (1, 2))
        self.flash(q, k, random(3, 1, 20, 2, 96), causal=True)

    def test_sdpa_of_grouped_heads(self):
        query = random(1, 1, 6, 24, 64)
        key, value = (random(seed, 1, 2, 24, 64) for seed in (2, 3))
        self.sdpa(query, key, value, enable_gqa=True)
        with self.assertRaisesRegex(ValueError, "query has 6 heads and key has 2: give enable_gqa=True"):
            evo_sdpa.scaled_dot_product_attention(query, key, value)

    def test_layouts_are_strides(self):
        # Thirds of one projection, [batch, length, 3, heads, head_dim], seen as [batch, heads, length, head_dim].
        projected = random(4, 2, 21, 3, 4, 64)
        query, key, value = (projected[:, :, third].transpose(0, 2, 1, 3) for third in range(3))
        self.sdpa(query, key, value)
        self.flash(projected[:, :, 0], projected[:, :, 1], projected[:, :, 2])
        # One key head for all, by a stride of 0.
        shared = numpy.broadcast_to(key[:, :1], key.shape)
        self.sdpa(query, shared, value)

    def test_bfloat16(self):
        q, k, v = (random(seed, 1, 30, 2, 64, dtype=ml_dtypes.bfloat16) for seed in range(3))
        self.flash(q, k, v, causal=True)
        out = evo_sdpa.flash_attn_func(q, k, v)
        bits = evo_sdpa.flash_attn_func(*(tensor.view(numpy.uint16) for tensor in (q, k, v)), dtype="bfloat16")
        self.assertEqual(bits.dtype, numpy.uint16)
        self.assertTrue((bits == out.view(numpy.uint16)).all())

    def test_flash(self):
        q = random(1, 2, 33, 4, 64)
        k, v = (random(seed, 2, 50, 2, 64) for seed in (2, 3))
        slopes = numpy.float32([0.5, 0.25, 0.125, 0.0625])
        sinks = numpy.float32([0.0, 1.5, -numpy.inf, -1.0])
        self.flash(q, k, v)
        self.flash(q, k, v, causal=True)
        self.flash(q, k, v, softmax_scale=0.4, window_size=(7, 3))
        self.flash(q, k, v, causal=True, window_size=(7, -1))
        self.flash(q, k, v, softcap=2.0)
        self.flash(q, k, v, alibi_slopes=slopes)
        self.flash(q, k, v, causal=True, sinks=sinks, softcap=5.0, window_size=(20, 0))

    def test_rows_without_keys_are_zero(self):
        q = random(1, 1, 20, 2, 64)
        k, v = (random(seed, 1, 8, 2, 64) for seed in (2, 3))
        out, lse, _ = evo_sdpa.flash_attn_func(q, k, v, causal=True, return_attn_probs=True)
        self.assertTrue((out[:, :12] == 0).all() and (lse[:, :, :12] == -numpy.inf).all())
        self.assertTrue((out[:, 12:] != 0).any() and numpy.isfinite(lse[:, :, 12:]).all())

    def test_nothing_is_ordinary(self):
        q = random(1, 1, 4, 2, 64)
        out, lse, _ = evo_sdpa.flash_attn_func(q, q[:, :0], q[:, :0], return_attn_probs=True)
        self.assertTrue((out == 0).all() and (lse == -numpy.inf).all())
        self.assertEqual(evo_sdpa.flash_attn_func(q[:, :0], q, q).shape, (1, 0, 2, 64))

    def test_packed(self):
        lengths_q, lengths_k = [5, 0, 40, 1, 18], [5, 3, 44, 17, 18]
        cu_q, cu_k = (numpy.cumsum([0, *lengths]).astype(numpy.int32) for lengths in (lengths_q, lengths_k))
        q = random(1, sum(lengths_q), 4, 64)
        k, v = (random(seed, sum(lengths_k), 2, 64) for seed in (2, 3))
        for arguments in [{}, {"causal": True}, {"window_size": (4, 2)}, {"softmax_scale": 0.2, "softcap": 3.0}]:
            longest = (1000, 1000) if "causal" in arguments else (40, 44)
            found, lse, _ = evo_sdpa.flash_attn_varlen_func(q, k, v, cu_q, cu_k, *longest, return_attn_probs=True, **arguments)
            self.assertEqual(lse.shape, (4, sum(lengths_q)))
            meant = {"softmax_scale": "scale", "window_size": "window"}
            meant = {meant.get(name, name): value for name, value in arguments.items()}
            for sequence in range(5):
                queries, keys = (slice(*cu[sequence : sequence + 2]) for cu in (cu_q, cu_k))
                if queries.stop > queries.start:
                    one = (tensor.transpose(1, 0, 2) for tensor in (q[queries], k[keys], v[keys]))
                    out, sums = attention(*one, **meant)
                    self.same(found[queries], out.transpose(1, 0, 2))
                    self.same(lse[:, queries], sums, 1e-3)

    def test_cache(self):
        q = random(1, 2, 3, 4, 64)
        k, v = (random(seed, 2, 64, 2, 64) for seed in (2, 3))
        used = numpy.int32([40, 7])
        found, lse = evo_sdpa.flash_attn_with_kvcache(q, k, v, cache_seqlens=used, causal=True, return_softmax_lse=True)
        for one, length in enumerate(used):
            rows = (tensor.transpose(1, 0, 2) for tensor in (q[one], k[one, :length], v[one, :length]))
            out, sums = attention(*rows, causal=True)
            self.same(found[one], out.transpose(1, 0, 2))
            self.same(lse[one], sums, 1e-3)
        whole = evo_sdpa.flash_attn_with_kvcache(q, k, v)
        self.assertTrue((whole == evo_sdpa.flash_attn_func(q, k, v)).all())
        some = evo_sdpa.flash_attn_with_kvcache(q, k, v, cache_seqlens=17, causal=True)
        self.assertTrue((some == evo_sdpa.flash_attn_func(q, k[:, :17], v[:, :17], causal=True)).all())
        with self.assertRaisesRegex(ValueError, "cache_seqlens is 65: the cache has room for 0 to 64 keys"):
            evo_sdpa.flash_attn_with_kvcache(q, k, v, cache_seqlens=65)


class Declined(unittest.TestCase):
    """Whatever is not computed is said, by its name and with what to do."""

    def setUp(self):
        self.q = random(1, 1, 16, 2, 64)

    def declined(self, words, function, *given, **arguments):
        with self.assertRaises(NotImplementedError) as raised:
            function(*given, **arguments)
        self.assertIn(words, str(raised.exception))

    def invalid(self, words, function, *given, **arguments):
        with self.assertRaises(ValueError) as raised:
            function(*given, **arguments)
        self.assertIn(words, str(raised.exception))

    def test_arguments(self):
        q = self.q
        one = numpy.int32([0, 16])
        mask = numpy.zeros((16, 16))
        sdpa, flash = evo_sdpa.scaled_dot_product_attention, evo_sdpa.flash_attn_func
        packed = (q[0], q[0], q[0], one, one, 16, 16)
        self.declined("attn_mask is given", sdpa, q, q, q, attn_mask=mask)
        self.declined("attn_mask is given", sdpa, q, q, q, attn_mask=mask > 0)
        self.declined("dropout_p is 0.1", sdpa, q, q, q, dropout_p=0.1)
        self.declined("dropout_p is 0.1", flash, q, q, q, 0.1)
        self.declined("dropout_p is 0.1", evo_sdpa.flash_attn_varlen_func, *packed, 0.1)
        self.declined("block_table is given", evo_sdpa.flash_attn_varlen_func, *packed, block_table=one)
        self.declined("alibi_slopes has the shape [1, 2]", flash, q, q, q, alibi_slopes=numpy.float32([[1, 2]]))
        cache = evo_sdpa.flash_attn_with_kvcache
        for name in ["rotary_cos", "rotary_sin", "cache_batch_idx", "cache_leftpad"]:
            self.declined(name, cache, q, q, q, **{name: one})

    def test_tensors(self):
        q = self.q
        flash, sdpa = evo_sdpa.flash_attn_func, evo_sdpa.scaled_dot_product_attention
        self.invalid("query is float32: float16", flash, *[q.astype(numpy.float32)] * 3)
        self.invalid("query is uint16", flash, *[q.view(numpy.uint16)] * 3)
        self.invalid("key is float16", flash, q.view(numpy.uint16), q, q, dtype="bfloat16")
        self.invalid("query is float16, key is bfloat16", flash, q, q.astype(ml_dtypes.bfloat16), q)
        self.invalid("dtype is 'float8'", flash, q, q, q, dtype="float8")
        self.invalid("query has the shape [16, 2, 64]: [batch, length, heads, head_dim] is wanted", flash, q[0], q, q)
        self.invalid("key has the shape [2, 64]", sdpa, q, q[0, 0], q)
        self.invalid("query has 1 batches and key has 2", flash, q, random(1, 2, 16, 2, 64), q)
        self.invalid("query has 64 elements in head_dim and key has 32", flash, q, q[..., :32], q)
        self.invalid("key is [1, 16, 2, 64] and value is [1, 8, 2, 64]", flash, q, q, q[:, :8])
        self.invalid("value_dim is 12", flash, q, q, q[..., :12])
        self.invalid("query's last dimension has the stride 2", flash, random(1, 1, 16, 2, 128)[..., ::2], q, q)
        self.invalid("heads_q is 3 and heads_kv is 2", flash, random(1, 1, 16, 3, 64), q, q)
        self.invalid("head_dim is 60", flash, *[random(1, 1, 16, 2, 60)] * 3)
        self.invalid("head_dim is 264", flash, *[random(1, 1, 16, 2, 264)] * 3)
        self.invalid("row stride is -", flash, q[:, ::-1], q, q)
        self.invalid("softcap is -1", flash, q, q, q, softcap=-1.0)
        self.invalid("scale is", flash, q, q, q, softmax_scale=float("inf"))
        self.invalid("sinks has 3 numbers: 2 are wanted", flash, q, q, q, sinks=numpy.zeros(3, numpy.float32))
        self.invalid("sinks is float64: float32", flash, q, q, q, sinks=numpy.zeros(2))
        cu_seqlens = numpy.int32([0, 16])
        varlen = evo_sdpa.flash_attn_varlen_func
        self.invalid("cu_seqlens_q is int64", varlen, q[0], q[0], q[0], *[cu_seqlens.astype(numpy.int64)] * 2, 16, 16)
        self.invalid("cu_seqlens_k has 3 numbers", varlen, q[0], q[0], q[0], cu_seqlens, numpy.int32([0, 4, 16]), 16, 16)
        self.invalid("cu_seqlens_q is empty", varlen, q[0], q[0], q[0], cu_seqlens[:0], cu_seqlens, 16, 16)
        self.invalid("at most 4 queries cannot have 16 in all", varlen, q[0], q[0], q[0], cu_seqlens, cu_seqlens, 4, 16)
        for given, words in [
            (([[1.0]], q, q), "query is a list: only torch.Tensor and numpy.ndarray"),
            ((q, None, q), "key is a NoneType, and query is a numpy.ndarray"),
            ((memoryview(q), memoryview(q), memoryview(q)), "query is a memoryview: only torch.Tensor"),
            ((q, memoryview(q), q), "key is a memoryview, and query is a numpy.ndarray"),
        ]:
            with self.assertRaisesRegex(TypeError, re.escape(words)):
                flash(*given)

    def test_what_is_slow_is_said_once(self):
        wide = random(1, 1, 16, 2, 68)[..., :64]
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            for _ in range(2):
                evo_sdpa.flash_attn_func(wide, self.q, self.q)
        self.assertEqual(len(said), 1)
        self.assertTrue(re.search("10 to 100 times slower.*query's .* stride is 68", str(said[0].message)), said[0])


if __name__ == "__main__":
    unittest.main()
