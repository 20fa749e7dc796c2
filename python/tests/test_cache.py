"""What is appended to a cache stands where a loop puts it, and is attended over; nothing else of the cache changes."""

import re
import unittest
from unittest import mock

import ml_dtypes
import numpy

import evo_sdpa
from evo_sdpa import _functions, _numpy
from reference import attention
from test_numpy import TOLERANCE, random


def by_a_loop(cache, rows, slots):
    """The cache, `[blocks, block_size, heads, width]`, with each row at its slot."""
    cache = cache.copy()
    blocks, size = cache.shape[:2]
    for token, slot in enumerate(slots):
        if 0 <= slot < blocks * size:
            cache[slot // size, slot % size] = rows[token]
    return cache


class Slots(unittest.TestCase):
    def appended(self, key, value, key_cache, value_cache, slots):
        wanted = by_a_loop(key_cache, key, slots), by_a_loop(value_cache, value, slots)
        evo_sdpa.append_to_cache(key, value, key_cache, value_cache, numpy.int64(slots))
        for found, expected in zip((key_cache, value_cache), wanted, strict=True):
            self.assertTrue((found.view(numpy.uint16) == expected.view(numpy.uint16)).all())

    def test_blocks_of_any_size(self):
        for dtype in (numpy.float16, ml_dtypes.bfloat16):
            for size, width in [(16, 64), (5, 24), (1, 7)]:
                key, value = (random(seed, 6, 2, width, dtype=dtype) for seed in (1, 2))
                caches = [random(seed, 8, size, 2, width, dtype=dtype) for seed in (3, 4)]
                slots = [3 * size, -1, 8 * size - 1, 0, 8 * size, 5 * size + size // 2]
                self.appended(key, value, *caches, slots)

    def test_bits_of_bfloat16(self):
        key, value, *caches = (
            random(seed, *shape).view(numpy.uint16) for seed, shape in enumerate([(2, 1, 8)] * 2 + [(2, 4, 1, 8)] * 2)
        )
        self.appended(key, value, *caches, [6, 1])

    def test_values_of_another_width(self):
        caches = random(3, 4, 8, 2, 48), random(4, 4, 8, 2, 32)
        self.appended(random(1, 3, 2, 48), random(2, 3, 2, 32), *caches, [31, 2, 9])

    def test_views_of_larger_arrays(self):
        # New rows are thirds of a projection, caches interleave, and what lies between them stays.
        projected, memory = random(1, 4, 3, 2, 16), random(2, 5, 8, 2, 3, 24)
        before = memory.copy()
        key_cache, value_cache = memory[..., 0, :16], memory[..., 2, 4:20]
        slots = [39, -1, 7, 20]
        wanted = [
            by_a_loop(cache, rows, slots) for cache, rows in ((key_cache, projected[:, 1]), (value_cache, projected[:, 2]))
        ]
        evo_sdpa.append_to_cache(projected[:, 1], projected[:, 2], key_cache, value_cache, numpy.int64(slots))
        before[..., 0, :16], before[..., 2, 4:20] = wanted
        self.assertTrue((memory == before).all() and (before[..., 0, :16] == wanted[0]).all())

    def test_what_lies_behind_the_last_slot_is_padding(self):
        caches = [random(seed, 2, 8, 1, 8) for seed in (3, 4)]
        self.appended(random(1, 5, 1, 8), random(2, 5, 1, 8), *caches, [4, 11])
        self.appended(random(1, 5, 1, 8), random(2, 5, 1, 8), *caches, [])

    def test_what_does_not_go_together_is_said(self):
        key = random(1, 3, 2, 16)
        cache = random(2, 4, 8, 2, 16)
        slots = numpy.int64([0, 1, 2])
        fixed = cache.copy()
        fixed.flags.writeable = False
        for error, words, given in [
            (
                ValueError,
                "key is [2, 2, 16]: [3, 2, 16] is wanted, for 3 slots of key_cache",
                (key[:2], key, cache, cache, slots),
            ),
            (ValueError, "value is [3, 1, 16]: [3, 2, 16] is wanted", (key, key[:, :1], cache, cache.copy(), slots)),
            (
                ValueError,
                "key has the shape [3, 16]: [tokens, heads_kv, head_dim] is wanted",
                (key[:, 0], key, cache, cache, slots),
            ),
            (ValueError, "value_cache has the shape [8, 2, 16]: [blocks, block_size", (key, key, cache, cache[0], slots)),
            (ValueError, "key_cache is [4, 8, 2, 16] and value_cache is [3, 8, 2, 16]", (key, key, cache, cache[:3], slots)),
            (ValueError, "slot_mapping is int32: int64 is wanted", (key, key, cache, cache, slots.astype(numpy.int32))),
            (ValueError, "slot_mapping is None", (key, key, cache, cache, None)),
            (
                ValueError,
                "key is float16, value_cache is bfloat16: all must be the same",
                (key, key, cache, cache.astype(ml_dtypes.bfloat16), slots),
            ),
            (ValueError, "key is float32", (*[key.astype(numpy.float32)] * 2, cache, cache, slots)),
            (ValueError, "key_cache is read-only", (key, key, fixed, cache, slots)),
            (
                ValueError,
                "key_cache's last dimension has the stride 2",
                (key[..., :8], key[..., :8], cache[..., ::2], cache[..., ::2], slots),
            ),
            (ValueError, "value_cache overlaps key_cache", (key, key, cache, cache, slots)),
            (
                ValueError,
                "two of its rows would share memory",
                (key, key, numpy.lib.stride_tricks.as_strided(cache, strides=(0, 64, 32, 2)), cache, slots),
            ),
            (TypeError, "value is a list, and key is a numpy.ndarray", (key, [1.0], cache, cache, slots)),
            (TypeError, "key is a list: only torch.Tensor", ([1.0], key, cache, cache, slots)),
        ]:
            before = cache.copy()
            with self.assertRaisesRegex(error, re.escape(words)):
                evo_sdpa.append_to_cache(*given)
            self.assertTrue((cache == before).all())


class Sequences:
    """Caches with so many keys of each sequence in use, contiguous or in blocks, and what is appended to them."""

    def __init__(self, lengths, new, size=None, dtype=numpy.float16, seed=0):
        self.lengths, self.new, self.size = lengths, new, size
        batch, self.room = len(lengths), 64
        self.q = random(seed, batch, new, 4, 64, dtype=dtype)
        self.k, self.v = (random(seed + part, batch, new, 2, 64, dtype=dtype) for part in (1, 2))
        if size is None:
            shape, self.table = (batch, self.room, 2, 64), None
        else:
            columns = self.room // size
            shape = (batch * columns + 3, size, 2, 64)
            self.table = numpy.random.default_rng(seed).permutation(shape[0])[: batch * columns]
            self.table = self.table.reshape(batch, columns).astype(numpy.int32)
        self.caches = [random(seed + part, *shape, dtype=dtype) for part in (3, 4)]

    def slots(self):
        """Where a loop puts the new keys."""
        slots = []
        for sequence, length in enumerate(self.lengths):
            for place in range(length, length + self.new):
                if place >= self.room:
                    slots.append(-1)
                elif self.size is None:
                    slots.append(sequence * self.room + place)
                else:
                    slots.append(int(self.table[sequence, place // self.size]) * self.size + place % self.size)
        return slots

    def keys(self, cache, sequence):
        """All places of a sequence, in order."""
        return cache[sequence] if self.table is None else cache[self.table[sequence]].reshape(self.room, 2, 64)


class Steps(unittest.TestCase):
    def step(self, sequences, causal=True, cache_seqlens=None):
        slots = sequences.slots()
        before = [cache.copy() for cache in sequences.caches]
        rows = [tensor.reshape(-1, 2, 64) for tensor in (sequences.k, sequences.v)]
        out, lse = evo_sdpa.flash_attn_with_kvcache(
            sequences.q,
            *sequences.caches,
            sequences.k,
            sequences.v,
            cache_seqlens=numpy.int32(sequences.lengths) if cache_seqlens is None else cache_seqlens,
            block_table=sequences.table,
            causal=causal,
            return_softmax_lse=True,
        )
        for found, cache, added in zip(sequences.caches, before, rows, strict=True):
            self.assertTrue((found == by_a_loop(cache, added, slots)).all())
        for sequence, length in enumerate(sequences.lengths):
            old = [sequences.keys(cache, sequence)[:length] for cache in before]
            added = [tensor[sequence, : sequences.room - length] for tensor in (sequences.k, sequences.v)]
            concatenated = [numpy.concatenate(pair).transpose(1, 0, 2) for pair in zip(old, added, strict=True)]
            query = sequences.q[sequence].transpose(1, 0, 2)
            wanted, sums = attention(query, *concatenated, causal=causal)
            difference = abs(out[sequence].astype(numpy.float64) - wanted.transpose(1, 0, 2)).max()
            self.assertLessEqual(difference, TOLERANCE[out.dtype.name])
            self.assertLessEqual(abs(lse[sequence] - sums).max(), 1e-3)

    def test_contiguous_and_in_blocks(self):
        for size in (None, 8, 16, 64):
            for dtype in (numpy.float16, ml_dtypes.bfloat16):
                self.step(Sequences([40, 0, 7], 1, size, dtype))
                self.step(Sequences([40, 61, 15], 3, size, dtype), causal=size != 8)

    def test_one_length_for_all(self):
        for size in (None, 16):
            self.step(Sequences([14, 14], 5, size), cache_seqlens=14)
            self.step(Sequences([59, 59], 5, size), cache_seqlens=59)
            self.step(Sequences([14, 3], 5, size), cache_seqlens=numpy.uint32([14, 3]))

    def test_what_has_no_room_is_not_written(self):
        for size in (None, 16):
            self.step(Sequences([63, 64, 10], 2, size), causal=False)

    def test_blocks_without_new_keys(self):
        sequences = Sequences([40, 9], 0, 16)
        sequences.q = random(9, 2, 1, 4, 64)
        out = evo_sdpa.flash_attn_with_kvcache(
            sequences.q, *sequences.caches, cache_seqlens=numpy.int32([40, 9]), block_table=sequences.table
        )
        whole = [numpy.stack([sequences.keys(cache, sequence) for sequence in range(2)]) for cache in sequences.caches]
        for lengths, cut in ((numpy.int32([40, 9]), [40, 9]), (33, [33, 33]), (None, [64, 64])):
            out = evo_sdpa.flash_attn_with_kvcache(
                sequences.q, *sequences.caches, cache_seqlens=lengths, block_table=sequences.table
            )
            for sequence, length in enumerate(cut):
                rows = (
                    tensor.transpose(1, 0, 2)
                    for tensor in (sequences.q[sequence], *(cache[sequence, :length] for cache in whole))
                )
                wanted = attention(*rows)[0].transpose(1, 0, 2)
                self.assertLessEqual(abs(out[sequence] - wanted).max(), TOLERANCE["float16"])

    def test_wrong_slots_are_noticed(self):
        right = _numpy.slots_behind

        def moved(places):
            return lambda lengths, *others: right(lengths + places, *others)

        def no_end(*given):
            slots = right(*given)
            return numpy.where(slots < 0, numpy.arange(slots.size), slots)

        def one_block(lengths, new, size, table):
            slots = right(lengths, new, size, table)
            return numpy.where(slots < 0, -1, slots % size)

        def next_block(lengths, new, size, table):
            return right(lengths, new, size, numpy.roll(table, 1, 1))

        wrong = {
            "a place further": moved(1),
            "a place before": moved(-1),
            "what has no room is written": no_end,
            "every block is the first": one_block,
            "tokens in another order": lambda *given: right(*given)[::-1],
        }
        for size in (None, 16):
            for name, slots in {**wrong, **({} if size is None else {"another block": next_block})}.items():
                with mock.patch.object(_numpy, "slots_behind", slots), self.assertRaises(AssertionError, msg=(name, size)):
                    self.step(Sequences([40, 64, 3], 2, size), causal=False)
            self.step(Sequences([40, 64, 3], 2, size), causal=False)

    def test_what_does_not_go_together_is_said(self):
        sequences = Sequences([14, 3], 5, 16)
        lengths = numpy.int32([14, 3])
        given = {"k": sequences.k, "v": sequences.v, "cache_seqlens": lengths, "block_table": sequences.table}
        for error, words, changed in [
            (ValueError, "k is given alone", {"v": None}),
            (ValueError, "v is given alone", {"k": None}),
            (ValueError, "k is [1, 5, 2, 64]: [2, 5, 2, 64] is wanted", {"k": sequences.k[:1]}),
            (ValueError, "v is [2, 4, 2, 64]: [2, 5, 2, 64] is wanted", {"v": sequences.v[:, :4]}),
            (ValueError, "k has the shape [5, 2, 64]", {"k": sequences.k[0]}),
            (ValueError, "key is bfloat16, value is float16", {"k": sequences.k.astype(ml_dtypes.bfloat16)}),
            (ValueError, "cache_seqlens is None", {"cache_seqlens": None}),
            (ValueError, "cache_seqlens is 60: the cache has room for 0 to 64 keys with the 5 of k", {"cache_seqlens": 60}),
            (ValueError, "cache_seqlens has the shape [1]: [2] is wanted", {"cache_seqlens": lengths[:1]}),
            (ValueError, "cache_seqlens is int64: int32", {"cache_seqlens": lengths.astype(numpy.int64)}),
            (TypeError, "cache_seqlens is a list", {"cache_seqlens": [14, 3]}),
            (ValueError, "block_table has the shape [1, 4]: [2, width] is wanted", {"block_table": sequences.table[:1]}),
            (ValueError, "block_table has the shape [2, 0]", {"block_table": sequences.table[:, :0]}),
            (ValueError, "block_table is int64: int32", {"block_table": sequences.table.astype(numpy.int64)}),
            (TypeError, "block_table is a list", {"block_table": [[1]]}),
            (NotImplementedError, "rotary_cos and rotary_sin are given", {"rotary_cos": lengths}),
        ]:
            before = [cache.copy() for cache in sequences.caches]
            with self.assertRaises(error) as raised:
                evo_sdpa.flash_attn_with_kvcache(sequences.q, *sequences.caches, **{**given, **changed})
            self.assertIn(words, str(raised.exception))
            for cache, same in zip(sequences.caches, before, strict=True):
                self.assertTrue((cache == same).all())
        with self.assertRaisesRegex(ValueError, "page"):
            caches = [cache.reshape(-1, 4, 2, 64) for cache in sequences.caches]
            evo_sdpa.flash_attn_with_kvcache(sequences.q, *caches, cache_seqlens=3, block_table=sequences.table)


class Stored(unittest.TestCase):
    """Caches of 8 bits, with scales."""

    def cached(self, scales, dtype=numpy.float16, size=None, **arguments):
        sequences = Sequences([40, 9], 1, size, dtype)
        stored = [cache.astype(ml_dtypes.float8_e4m3fn) for cache in sequences.caches]
        given = dict(zip(("k_descale", "v_descale"), scales, strict=True))
        out, lse = evo_sdpa.flash_attn_with_kvcache(
            sequences.q,
            *stored,
            cache_seqlens=numpy.int32([40, 9]),
            block_table=sequences.table,
            return_softmax_lse=True,
            **given,
            **arguments,
        )
        factors = [numpy.ones(1) if scale is None else numpy.float64(scale) for scale in scales]
        for sequence, length in enumerate(sequences.lengths):
            keys, values = (
                sequences.keys(cache, sequence)[:length].astype(numpy.float64).transpose(1, 0, 2) * factor[:, None, None]
                for cache, factor in zip(stored, factors, strict=True)
            )
            wanted, sums = attention(sequences.q[sequence].transpose(1, 0, 2), keys, values)
            self.assertLessEqual(abs(out[sequence].astype(float) - wanted.transpose(1, 0, 2)).max(), TOLERANCE[out.dtype.name])
            self.assertLessEqual(abs(lse[sequence] - sums).max(), 1e-3)
        return out

    def test_scales_are_for_all_or_for_each_head(self):
        for size in (None, 16):
            for dtype in (numpy.float16, ml_dtypes.bfloat16):
                self.cached((numpy.float32([0.5]), numpy.float32([0.75])), dtype, size)
                self.cached((numpy.float32([0.5, 1.25]), numpy.float32([1.0, 0.3])), dtype, size)

    def test_no_scale_is_a_scale_of_one(self):
        one, half = numpy.float32([1.0]), numpy.float32([0.5])
        for given, same in [((None, None), (one, one)), ((half, None), (half, one)), ((None, half), (one, half))]:
            self.assertTrue((self.cached(given) == self.cached(same)).all())

    def test_wrong_scales_are_noticed(self):
        right = _functions.scales

        def other_way(*given):
            return right(*given)[::-1]

        def other_heads(*given):
            return tuple(scale[::-1] for scale in right(*given))

        scales = numpy.float32([0.5, 1.25]), numpy.float32([1.0, 0.3])
        for name, wrong in {"keys' for values": other_way, "of the other head": other_heads}.items():
            with mock.patch.object(_functions, "scales", wrong), self.assertRaises(AssertionError, msg=name):
                self.cached(scales)

    def test_what_does_not_go_together_is_said(self):
        sequences = Sequences([14, 3], 1)
        stored = [cache.astype(ml_dtypes.float8_e4m3fn) for cache in sequences.caches]
        one, three = numpy.float32([1.0]), numpy.ones(3, numpy.float32)
        for words, caches, given in [
            ("k_descale is given and k_cache is float16", sequences.caches, {"k_descale": one}),
            ("v_descale is given and k_cache is float16", sequences.caches, {"v_descale": one}),
            ("value is float16: float8_e4m3fn is wanted", (stored[0], sequences.caches[1]), {}),
            ("k_descale has 3 numbers and v_descale 3: both must have 1, or 2", stored, {"k_descale": three}),
            ("k_descale has 1 numbers and v_descale 2", stored, {"k_descale": one, "v_descale": three[:2]}),
            ("v_descale is float64: float32 is wanted", stored, {"v_descale": numpy.ones(1)}),
            (
                "k_descale has the shape [1, 2]: one dimension is wanted",
                stored,
                {"k_descale": numpy.ones((1, 2), numpy.float32)},
            ),
            ("key_cache is float8_e4m3fn: float16, ml_dtypes.bfloat16, or", stored, {"k": sequences.k, "v": sequences.v}),
        ]:
            with self.assertRaises(ValueError) as raised:
                evo_sdpa.flash_attn_with_kvcache(sequences.q, *caches, cache_seqlens=numpy.int32([14, 3]), **given)
            self.assertIn(words, str(raised.exception))


if __name__ == "__main__":
    unittest.main()
