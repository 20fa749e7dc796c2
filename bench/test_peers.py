#!/usr/bin/env python3
"""Tests of peers.py with stand-ins for PyTorch and the peers: no GPU. What needs real tensors is checked on the GPU, where
each peer is held to f32 arithmetic before it is timed."""

import math
import sys
import types
import unittest
from unittest import mock

sys.dont_write_bytecode = True  # no folder beside the scripts


class Tensor(list):
    """A list that knows how it was made."""

    def __init__(self, values, **made):
        super().__init__(values)
        self.made = made


TORCH = mock.MagicMock()
TORCH.tensor = Tensor
NAMES = ["torch", "torch.nn", "torch.nn.functional", "torch.nn.attention", "torch.nn.attention.bias"]
sys.modules.update({name: TORCH for name in NAMES})
import peers  # noqa: E402: after its stand-ins


def problem(**other):
    sizes = {"batch": 1, "heads_q": 4, "heads_kv": 4, "len_q": 42, "len_kv": 42, "head_dim": 64, "dtype": "bf16"}
    return peers.Problem(**{**sizes, **other})


def packed(**other):
    lengths = {"cu_seqlens_q": [0, 5, 5, 35, 42], "cu_seqlens_k": [0, 5, 5, 35, 42], "longest_q": 30, "longest_kv": 30}
    return problem(**{**lengths, **other})


def module(name, **functions):
    """Puts a stand-in for a module in its place."""
    made = types.ModuleType(name)
    vars(made).update(functions)
    return mock.patch.dict(sys.modules, {name: made})


def asked_of(name, asked):
    """What a peer's function is called with."""
    run, _, _ = peers.pass_of(name, asked)
    return run("q", "k", "v")


def call(kind):
    return lambda *positional, **named: ((kind, positional, named), "lse")


FA3 = {"flash_attn_func": call("dense"), "flash_attn_varlen_func": call("packed")}


class Passes(unittest.TestCase):
    def unfit(self, name, asked):
        with self.assertRaises(peers.Unfit) as raised:
            peers.pass_of(name, asked)
        return str(raised.exception)

    def test_flash_attention_2_takes_packed_sequences(self):
        def before(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False):
            return cu_seq_q, max_q, max_k, is_causal

        def after(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, *, window_size=(-1, -1), enable_gqa=False):
            return cu_seq_k, window_size, enable_gqa

        place = "torch.nn.attention.varlen"
        with module(place, varlen_attn=before):
            self.assertEqual(asked_of("flash", packed(mask="causal")), ([0, 5, 5, 35, 42], 30, 30, True))
            self.assertEqual(asked_of("flash", packed())[3], False)
            self.assertEqual(self.unfit("flash", packed(window=[7, 7])), "takes no windows")
            self.assertEqual(self.unfit("flash", packed(heads_kv=2)), "takes no grouped heads in packed sequences")
        with module(place, varlen_attn=after):
            self.assertEqual(asked_of("flash", packed(mask="causal")), ([0, 5, 5, 35, 42], (-1, 0), False))
            self.assertEqual(asked_of("flash", packed(window=[7, None], heads_kv=2))[1:], ((7, -1), True))
            self.assertEqual(self.unfit("flash", packed(softcap=2.0)), "takes no soft caps")
        with mock.patch.dict(sys.modules, {place: None}):
            self.assertIn("not in this PyTorch", self.unfit("flash", packed()))

    def test_pytorchs_other_backends_take_dense_attention_alone(self):
        for name in ("cudnn", "efficient", "math"):
            self.assertEqual(self.unfit(name, packed()), "takes no packed sequences")
        self.assertEqual(self.unfit("flash", problem(window=[7, None])), "takes no windows")
        self.assertEqual(self.unfit("flash", problem(sinks=[0.5] * 4)), "takes no sinks")

    def test_flash_attention_3_takes_packed_sequences_and_soft_caps(self):
        with module("fa3_fwd_interface", **FA3):
            self.assertEqual(asked_of("fa3", problem()), ("dense", ("q", "k", "v"), {"causal": False}))
            kind, _, named = asked_of("fa3", packed(mask="causal", softcap=30.0))
            self.assertEqual((kind, named["cu_seqlens_k"].made["dtype"]), ("packed", TORCH.int32))
            self.assertEqual(named, {
                "causal": True, "softcap": 30.0, "max_seqlen_q": 30, "max_seqlen_k": 30,
                "cu_seqlens_q": [0, 5, 5, 35, 42], "cu_seqlens_k": [0, 5, 5, 35, 42],
            })
            self.assertEqual(self.unfit("fa3", problem(window=[7, None])), "takes no windows")
            self.assertEqual(self.unfit("fa3", packed(sinks=[0.5] * 4)), "takes no sinks")
            self.assertEqual(self.unfit("fa3", problem(mask="causal-top-left", len_q=7)), "its causal mask is bottom-right")
        with mock.patch.dict(sys.modules, {"fa3_fwd_interface": None}):
            self.assertIn("not installed", self.unfit("fa3", problem()))

    def test_flash_attention_4_takes_windows_and_sinks_too(self):
        package = types.ModuleType("flash_attn")
        package.cute = types.SimpleNamespace(**FA3)
        with mock.patch.dict(sys.modules, {"flash_attn": package}):
            self.assertEqual(asked_of("fa4", problem()), ("dense", ("q", "k", "v"), {"causal": False}))
            asked = problem(mask="causal", window=[127, None], sinks=[0.5, None, 1.0, 2.0], softcap=50.0)
            named = asked_of("fa4", asked)[2]
            self.assertEqual((named["learnable_sink"], named["window_size"]), ([0.5, -math.inf, 1.0, 2.0], (127, 0)))
            self.assertEqual((named["softcap"], named["learnable_sink"].made["dtype"]), (50.0, TORCH.bfloat16))
            self.assertEqual(asked_of("fa4", problem(window=[None, 7]))[2]["window_size"], (None, 7))
            self.assertEqual(asked_of("fa4", packed())[2]["max_seqlen_q"], 30)
            self.assertEqual(self.unfit("fa4", problem(slopes=[0.5] * 4)), "takes no slopes")
            self.assertEqual(self.unfit("fa4", problem(key_lengths=[7])), "takes no key lengths")
        with mock.patch.dict(sys.modules, {"flash_attn": types.ModuleType("flash_attn")}):
            self.assertIn("not installed", self.unfit("fa4", problem()))


    def test_a_peer_that_fails_is_named_and_the_others_are_timed(self):
        def peer(name, *_):
            if name == "fa3":
                return name
            raise {"flash": peers.Unfit("takes no sinks"), "fa4": KeyError("sm_90")}[name]

        with mock.patch.object(peers, "peer", peer):
            with mock.patch.object(peers, "reference"):
                ready, skipped = peers.prepare(problem(), ["flash", "fa3", "fa4"], False, 5.0)
        self.assertEqual((ready, skipped), ({"fa3": "fa3"}, {"flash": "takes no sinks", "fa4": "KeyError: 'sm_90'"}))


class Reference(unittest.TestCase):
    def test_a_query_sees_its_own_sequence(self):
        self.assertEqual([packed().visible(row) for row in (0, 4, 5, 34, 41)], [(0, 5), (0, 5), (5, 35), (5, 35), (35, 42)])
        causal = packed(mask="causal")
        self.assertEqual([causal.visible(row) for row in (0, 4, 5, 34, 41)], [(0, 1), (0, 5), (5, 6), (5, 35), (35, 42)])

    def test_masks_are_aligned_with_the_last_query_or_the_first(self):
        self.assertEqual([problem(len_q=2, mask="causal").visible(row) for row in (0, 1)], [(0, 41), (0, 42)])
        self.assertEqual([problem(len_q=2, mask="causal-top-left").visible(row) for row in (0, 1)], [(0, 1), (0, 2)])
        self.assertEqual(problem(len_kv=3, mask="causal").visible(0), (0, 0))
        keys = packed(len_kv=44, cu_seqlens_k=[0, 5, 7, 37, 44], longest_kv=30, mask="causal")
        self.assertEqual([keys.visible(row) for row in (5, 35)], [(7, 8), (37, 38)])

    def test_windows_have_two_sides(self):
        self.assertEqual(problem(mask="causal", window=[7, None]).visible(20), (13, 21))
        self.assertEqual(problem(mask="causal", window=[7, 3]).visible(20), (13, 21))
        self.assertEqual(problem(window=[7, 3]).visible(20), (13, 24))
        self.assertEqual(packed(window=[7, 3]).visible(34), (27, 35))
        self.assertEqual(packed(window=[7, 3]).visible(36), (35, 40))

    def test_dense_figures_have_the_fields_they_had(self):
        expected = ["batch", "heads_q", "heads_kv", "len_q", "len_kv", "head_dim", "dtype", "mask"]
        self.assertEqual(list(problem().fields()), expected)


if __name__ == "__main__":
    unittest.main()
