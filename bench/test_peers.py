#!/usr/bin/env python3
"""Tests of peers.py with stand-ins for PyTorch and the peers: no GPU. What needs real tensors is checked on the GPU, where
each peer is held to f32 arithmetic before it is timed."""

import io
import json
import math
import os
import sys
import tempfile
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
TORCH.__version__ = "2.11"
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


def asked_of(name, asked, way=None):
    """What a peer's function is called with, in the first way or another."""
    ways = peers.passes_of(name, asked)
    run, _, _ = ways[next(iter(ways)) if way is None else way]
    return run("q", "k", "v")


def call(kind):
    return lambda *positional, **named: ((kind, positional, named), "lse")


FA3 = {"flash_attn_func": call("dense"), "flash_attn_varlen_func": call("packed")}


class Passes(unittest.TestCase):
    def unfit(self, name, asked):
        with self.assertRaises(peers.Unfit) as raised:
            peers.passes_of(name, asked)
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

    def test_backends_that_care_for_layouts_get_both(self):
        self.assertEqual([list(peers.passes_of(name, problem())) for name in ("flash", "cudnn")], [["bhld", "blhd"]] * 2)
        self.assertEqual(list(peers.passes_of("efficient", problem())), [""])
        ways = peers.passes_of("cudnn", problem())
        tensor = mock.Mock()
        self.assertEqual(ways["bhld"][1](tensor, tensor), (tensor, tensor))
        # Stored as [batch, length, heads, head_dim] and seen as before.
        seen = tensor.transpose.return_value.contiguous.return_value.transpose.return_value
        self.assertEqual(ways["blhd"][1](tensor), (seen,))
        for asked in tensor.transpose, tensor.transpose.return_value.contiguous.return_value.transpose:
            asked.assert_called_once_with(1, 2)

    def test_flash_attention_3_may_choose_its_splits(self):
        def dense(q, k, v, causal=False, num_splits=1):
            return (num_splits,)

        def varlen(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, causal=False, num_splits=1):
            return (num_splits, max_seqlen_q)

        with module("fa3_fwd_interface", flash_attn_func=dense, flash_attn_varlen_func=varlen):
            self.assertEqual([asked_of("fa3", problem(), way) for way in ("", "num_splits=0")], [1, 0])
            self.assertEqual(asked_of("fa3", packed(), "num_splits=0"), 0)
        with module("fa3_fwd_interface", **FA3):
            self.assertEqual(list(peers.passes_of("fa3", problem())), [""])

    def test_flashinfer_decodes_over_pages(self):
        wrapper = mock.MagicMock()
        with module("flashinfer", BatchDecodeWithPagedKVCacheWrapper=wrapper):
            asked = problem(batch=3, heads_kv=2, len_q=1, len_kv=40, mask="causal")
            for way, cores in (("", False), ("tensor cores", True)):
                wrapper.reset_mock()
                out = asked_of("flashinfer", asked, way)
                self.assertEqual(wrapper.call_args, mock.call(TORCH.zeros(), "NHD", use_tensor_cores=cores))
                self.assertEqual(wrapper().run.call_args, mock.call("q", ("k", "v")))
                self.assertEqual(out, wrapper().run())
                begins, indices, last, *sizes = wrapper().plan.call_args.args
                # 40 tokens are two whole pages and a half; three sequences.
                self.assertEqual((begins, indices, last, sizes), ([0, 3, 6, 9], list(range(9)), [8] * 3, [4, 2, 64, 16]))
            self.assertEqual(self.unfit("flashinfer", problem()), "timed with one query a sequence alone")
            self.assertEqual(self.unfit("flashinfer", problem(len_q=1, softcap=2.0)), "takes no soft caps")
            top = problem(len_q=1, mask="causal-top-left")
            self.assertEqual(self.unfit("flashinfer", top), "its causal mask is bottom-right")
        with mock.patch.dict(sys.modules, {"flashinfer": None}):
            self.assertIn("not installed", self.unfit("flashinfer", problem(len_q=1)))

    def test_a_peer_that_fails_is_named_and_the_others_are_timed(self):
        def peer(name, *_):
            if name == "fa3":
                return "num_splits=0", name, {"": "it is wrong here: relative error 1.0e+00"}
            if name == "efficient":
                return "", name, {}
            raise {"flash": peers.Unfit("takes no sinks"), "fa4": KeyError("sm_90")}[name]

        with mock.patch.object(peers, "peer", peer):
            with mock.patch.object(peers, "reference"):
                asked = ["flash", "efficient", "fa3", "fa4"]
                ready, ways, skipped = peers.prepare(problem(), asked, False, peers.Rules())
        self.assertEqual((ready, ways), ({"efficient": "efficient", "fa3": "fa3"}, {"fa3": "num_splits=0"}))
        self.assertEqual(skipped, {
            "flash": "takes no sinks", "fa4": "KeyError: 'sm_90'",
            "fa3 (default)": "it is wrong here: relative error 1.0e+00",
        })

    def test_the_fastest_way_that_is_right_is_taken(self):
        class Recorded:
            def __init__(self, run, native, rules):
                self.us = {"slow": [9.0] * 5, "fast": [8.0, 8.0, 90.0, 8.0, 8.0], "wrong": [1.0] * 5}[run]

            def short(self, sample_ms):
                return self.us.pop()

        def check(_, out, expected):
            if out == "wrong":
                raise peers.Unfit("it is wrong here")

        def ready(*runs):
            ways = {f"by {run}": (run, lambda *tensors: tensors, lambda out, run=run: run) for run in runs}
            with mock.patch.multiple(peers, passes_of=lambda *_: ways, check=check, aside=mock.Mock(), Replayed=Recorded):
                return peers.peer("cudnn", problem(), [("q", "k", "v")], None, peers.Rules())

        best, _, failed = ready("slow", "wrong", "fast")
        self.assertEqual((best, failed), ("by fast", {"by wrong": "it is wrong here"}))
        self.assertEqual(ready("slow")[0], "by slow")
        with self.assertRaises(peers.Unfit):
            ready("wrong")


class Timing(unittest.TestCase):
    def replayed(self, rules, milliseconds):
        """A recorded pass of 20 whose replays take what they are given, one after the other."""
        made = object.__new__(peers.Replayed)
        made.rules, made.passes, made.graph, made.replay_ms = rules, 20, None, 1.0
        self.replays = []

        def replay(_, times):
            self.replays.append(times)
            return times * milliseconds(sum(self.replays) - times)

        made.replay = replay
        return made

    def test_the_first_third_of_a_sustained_turn_is_not_counted(self):
        slowed = self.replayed(peers.Rules("sustained"), lambda before: 1.0 if before < 50 else 2.0)
        self.assertEqual((slowed.sample(), self.replays), ((100.0, None), [50, 100]))
        fast = self.replayed(peers.Rules("sustained"), lambda before: 1.0 if before < 50 else 0.5)
        self.assertEqual((fast.sample(), self.replays), ((25.0, None), [50, 100, 100]))
        short = self.replayed(peers.Rules(), lambda before: 1.0)
        self.assertEqual((short.sample(), self.replays), ((50.0, None), [1, 5]))

    def test_the_counted_part_of_a_sustained_turn_has_its_energy(self):
        inside = []

        class Meter:
            def around(_, work):
                before = len(self.replays)
                result = work()
                inside.append(self.replays[before:])
                return result, 500.0

        sustained = self.replayed(peers.Rules("sustained", meter=Meter()), lambda before: 1.0)
        # A pass of 50 µs at 500 W.
        us, joules = sustained.sample()
        self.assertEqual((us, inside), (50.0, [[100]]))
        self.assertAlmostEqual(joules, 0.025)
        self.assertIsNone(self.replayed(peers.Rules(meter=Meter()), lambda before: 1.0).sample()[1])

    def test_power_is_between_the_first_and_the_last_step(self):
        readings = [(2e-3 * index, (2 * index + 7) // 20 * 14_000) for index in range(60)]
        self.assertAlmostEqual(peers.watts(readings), 700.0)
        one_step = [(0.0, 5), (1e-3, 5), (2e-3, 9), (3e-3, 9)]
        self.assertEqual([peers.watts(found) for found in ([], one_step[:1], one_step)], [None] * 3)

    def test_a_counter_is_read_while_the_work_goes_on(self):
        class Ticking:
            reads = 0

            def millijoules(self):
                self.reads += 1
                return 1000 * self.reads

        def until_read(counter):
            while counter.reads < 5:
                peers.time.sleep(1e-3)
            return 7

        counter = Ticking()
        result, power = peers.Meter(counter).around(lambda: until_read(counter))
        self.assertEqual(result, 7)
        self.assertGreater(power, 0.0)

        class Broken:
            def millijoules(self):
                raise OSError("gave 999")

        self.assertEqual(peers.Meter(Broken()).around(lambda: 7), (7, None))

    def test_energy_is_asked_of_the_card_in_use(self):
        library = mock.Mock()
        for name in ("nvmlInit_v2", "nvmlDeviceGetHandleByUUID", "nvmlDeviceGetTotalEnergyConsumption"):
            getattr(library, name).return_value = 0
        with mock.patch.object(peers.ctypes, "CDLL", return_value=library):
            peers.EnergyCounter("GPU-0a")
            self.assertEqual(library.nvmlDeviceGetHandleByUUID.call_args.args[0], b"GPU-0a")
            library.nvmlDeviceGetTotalEnergyConsumption.return_value = 3
            with self.assertRaises(OSError) as raised:
                peers.EnergyCounter("GPU-0a")
        self.assertEqual(str(raised.exception), "nvmlDeviceGetTotalEnergyConsumption gave 3")


class Ceilings(unittest.TestCase):
    def best(self, kinds):
        candidates = {name: name for name in kinds}
        seen = lambda run, tensors: kinds[run]  # noqa: E731
        with mock.patch.multiple(peers, aside=mock.Mock(), node_kinds=seen):
            return list(peers.by_kernels(candidates, ()))

    def test_a_copy_engine_makes_no_ceiling(self):
        self.assertEqual(self.best({"x + 0": {0}, "copy_": {1}, "sum": {0, 2}, "both": {0, 1}}), ["x + 0", "sum"])
        self.assertEqual(self.best({"sum": None}), ["sum, nodes not seen"])
        with self.assertRaises(RuntimeError):
            self.best({"copy_": {1}})

    def test_kinds_of_nodes_are_the_drivers(self):
        class Driver:
            def cuGraphGetNodes(self, graph, nodes, count):
                if nodes is None:
                    count._obj.value = 2
                else:
                    nodes[0], nodes[1] = 11, 12
                return 0

            def cuGraphNodeGetType(self, node, kind):
                kind._obj.value = {11: 0, 12: 2}[node.value]
                return 0

        graph = mock.Mock(raw_cuda_graph=lambda: 10)
        with mock.patch.object(peers.ctypes, "CDLL", return_value=Driver()):
            with mock.patch.object(TORCH.cuda, "CUDAGraph", return_value=graph) as made:
                self.assertEqual(peers.node_kinds(mock.Mock(), ()), {0, 2})
                made.assert_called_once_with(keep_graph=True)
            with mock.patch.object(TORCH.cuda, "CUDAGraph", side_effect=TypeError):
                self.assertIsNone(peers.node_kinds(mock.Mock(), ()))


    def test_a_ceiling_is_the_best_of_several(self):
        class Recorded:
            def __init__(self, run, sets, rules):
                self.name = run

            def sample(self):
                return {"4096": 250.0, "8192": 1700.0, "sum": 300.0, "amax": 250.0, "x + 0": 500.0}[self.name], None

        def by_kernels(candidates, tensors):
            return {name: name for name in candidates if name in ("sum", "amax", "x + 0")}

        stand_ins = {"aside": mock.Mock(), "by_kernels": by_kernels, "Replayed": Recorded, "release": mock.Mock()}

        def best_of(candidates, *rest, whole=peers.best_of):
            return whole({name: name.split(" x")[0] if "x 4" in name or "x 8" in name else name for name in candidates}, *rest)

        with mock.patch.multiple(peers, best_of=best_of, **stand_ins):
            found = peers.ceiling("bf16", 3, peers.Rules("sustained"))
        self.assertEqual((found["regime"], found["matmul"], found["read"], found["copy"]), (
            "sustained", "8192 x 8192 x 8192", "1024 MiB read by a kernel: amax", "1024 MiB read and written by a kernel: x + 0",
        ))
        self.assertAlmostEqual(found["matmul_tflops"], 2 * 8192**3 / 1700e-6 * 1e-12)
        self.assertAlmostEqual(found["read_gb_s"], 2**30 / 250e-6 * 1e-9)
        self.assertAlmostEqual(found["copy_gb_s"], 2 * 2**30 / 500e-6 * 1e-9)


class Serving(unittest.TestCase):
    def test_questions_are_answered_in_turn(self):
        asked = []

        class Recorded:
            def __init__(self, *sample):
                self.taken = sample

            def sample(self):
                return self.taken

        def prepare(asked_for, names, cold, rules):
            asked.append((asked_for.describe(), names, cold, rules.sustained, rules.sample_ms, rules.meter))
            return {"cudnn": Recorded(9.0, 0.5), "fa3": Recorded(8.0, None)}, {"cudnn": "blhd"}, {"fa4": "not installed"}

        def ceiling(dtype, samples, rules):
            return {"dtype": dtype, "samples": samples, "sustained": rules.sustained, "sample_ms": rules.sample_ms}

        sizes = {"batch": 1, "heads_q": 4, "heads_kv": 4, "len_q": 42, "len_kv": 42, "head_dim": 64}
        questions = [
            {"hello": True},
            {"prepare": {**sizes, "dtype": "bf16", "mask": "causal", "cold": False, "regime": "sustained", "sample_ms": 100.0}},
            {"sample": "cudnn"},
            {"sample": "fa3"},
            {"sample": "fa4"},
            {"ceiling": {"dtype": "f16", "regime": "short", "samples": 15, "sample_ms": 5.0}},
            {"goodbye": True},
        ]
        stand_ins = {"environment": lambda: {"torch": "2.11"}, "meter_or_none": lambda: "meter", "release": lambda: None}
        said = io.StringIO()
        files = {"dup": mock.Mock(), "dup2": mock.Mock(), "fdopen": lambda *_: said}
        stdin = [json.dumps(question) for question in questions]
        with mock.patch.multiple(peers, prepare=prepare, ceiling=ceiling, **stand_ins), \
                mock.patch.multiple(peers.os, **files), mock.patch.object(sys, "stdin", stdin), \
                mock.patch.object(sys, "stdout", mock.Mock()), mock.patch.object(sys, "stderr", mock.Mock()):
            peers.serve(["cudnn", "fa3", "fa4"])
        self.assertEqual(asked, [("(1,4,42,64) bf16 causal", ["cudnn", "fa3", "fa4"], False, True, 100.0, "meter")])
        self.assertEqual([json.loads(line) for line in said.getvalue().splitlines()], [
            {"torch": "2.11"},
            {"peers": ["cudnn", "fa3"], "ways": {"cudnn": "blhd"}, "skipped": {"fa4": "not installed"}},
            {"us": 9.0, "joules": 0.5},
            {"us": 8.0},
            {"error": "KeyError: 'fa4'"},
            {"dtype": "f16", "samples": 15, "sustained": False, "sample_ms": 5.0},
            {"error": "no such question: goodbye"},
        ])

    def test_alone_it_writes_figures_as_the_program_does(self):
        class Recorded:
            def sample(self):
                return 9.0, 0.002

        def prepare(asked_for, names, cold, rules):
            return {name: Recorded() for name in names}, {"cudnn": "bhld"}, {"fa4": "not installed"}

        stand_ins = {"environment": lambda: {}, "meter_or_none": lambda: None, "release": lambda: None}
        arguments = "--shape 2,8,2048,128 --dtype bf16 --mask full --peers cudnn,flash --regime sustained --json"
        TORCH.cuda.get_device_name.return_value = "some GPU"
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "peers.json")
            with mock.patch.multiple(peers, prepare=prepare, **stand_ins), \
                    mock.patch.object(sys, "argv", ["peers.py", *arguments.split(), path]), \
                    mock.patch.object(sys, "stdout", io.StringIO()):
                peers.main()
            with open(path) as file:
                cudnn, flash = json.load(file)["figures"]
        self.assertEqual((cudnn["regime"], cudnn["median_us"], cudnn["joules"], cudnn["way"]), ("sustained", 9.0, 0.002, "bhld"))
        self.assertAlmostEqual(cudnn["tflop_per_joule"], 4 * 2 * 8 * 2048**2 * 128 / 0.002 * 1e-12)
        self.assertNotIn("way", flash)


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
