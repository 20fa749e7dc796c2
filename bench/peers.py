#!/usr/bin/env python3
"""Times other people's attention kernels: PyTorch's SDPA backends, FlashAttention-3 (`fa3_fwd_interface`), FlashAttention-4
(`flash_attn.cute`) and FlashInfer's decoding over pages.

The method is that of `sdpa bench`: N(0, 1) inputs, CUDA graphs of many forward passes that rotate over several sets of
tensors, replays of at least 5 ms between two events, contenders in turn, the median of 15 samples. In sustained turns 100 ms
count, after 50 ms that do not, and energy is counted. Each peer is checked against f32 arithmetic on the problem before
it is timed. A peer with several ways to do it (layouts, numbers of splits) takes the fastest of a short trial.

    python3 bench/peers.py --json peers.json                     # the acceptance shapes, with and without causal mask
    python3 bench/peers.py --shape 8,16,2048,128 --dtype bf16    # B,H,L,d[,Hkv][,Lq]
    sdpa bench --peers                                           # in turn with our generations, through --serve

Tested with Python 3.12 and PyTorch 2.11.
"""

import argparse
import bisect
import ctypes
import gc
import importlib.metadata
import inspect
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right, causal_upper_left

ACCEPTANCE = [(1, 8, 512, 64), (2, 8, 2048, 64), (2, 8, 2048, 128)]
DTYPES = {"f16": torch.float16, "bf16": torch.bfloat16}
BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
DEFAULT_PEERS = ["flash", "cudnn", "efficient", "fa3", "fa4", "flashinfer"]
EVERY_PEER = [*BACKENDS, "fa3", "fa4", "flashinfer"]

# Backends whose speed depends on which of the two layouts they get.
BOTH_LAYOUTS = ["flash", "cudnn"]

# As in crates/sdpa-bench/src/timing: the same rules, or a ratio would compare methods.
WARM_SETS = 4
COLD_BYTES = 128 << 20
PASSES_AT_LEAST = 20
RECORDING_AT_MOST_MS = 10.0
REFRESHING_MS = 5.0
WARM_UP_MS = 30.0
# Samples of a regime, and the least milliseconds that one counts.
REGIMES = {"short": (15, 5.0), "sustained": (5, 100.0)}
POLL_SECONDS = 1e-3

# A trial of a peer's ways to do it: rounds, and milliseconds of each in a round.
TRIAL_ROUNDS, TRIAL_MS = 5, 5.0
# Tokens a page of FlashInfer's cache.
PAGE = 16

# Relative Frobenius error against f32 arithmetic: twice what rounding weights and output to the type costs.
CHECK = {"f16": 1e-3, "bf16": 8e-3}


class Unfit(Exception):
    """A peer does not take a problem; says why."""


class Problem:
    """What to attend over; field names as in the figures' files.

    What goes beyond dense attention comes from `sdpa bench` alone: where packed sequences begin and the longest of them, the
    keys on either side of the diagonal that a query sees (None: all), a soft cap, and of each query head a sink (None: none)
    and a slope, how many keys each sequence of a batch uses, how wide values are, if not as keys, and how keys and
    values are stored, if not in the dtype.
    """

    EXTENSIONS = ["cu_seqlens_q", "window", "softcap", "sinks", "slopes", "key_lengths", "value_dim",
                  "kv_storage"]
    WORDS = ["packed sequences", "windows", "soft caps", "sinks", "slopes", "key lengths", "values of another width",
             "keys and values in 8 bits"]

    def __init__(self, batch, heads_q, heads_kv, len_q, len_kv, head_dim, dtype="f16", mask="full", cu_seqlens_q=None,
                 cu_seqlens_k=None, longest_q=None, longest_kv=None, window=None, softcap=None, sinks=None, slopes=None,
                 key_lengths=None, value_dim=None, kv_storage=None):
        self.batch, self.heads_q, self.heads_kv = batch, heads_q, heads_kv
        self.len_q, self.len_kv, self.head_dim = len_q, len_kv, head_dim
        self.dtype, self.mask, self.value_dim, self.kv_storage = dtype, mask, value_dim, kv_storage
        self.cu_seqlens_q, self.cu_seqlens_k = cu_seqlens_q, cu_seqlens_k
        self.longest_q, self.longest_kv = longest_q, longest_kv
        self.window, self.softcap, self.slopes, self.key_lengths = window, softcap, slopes, key_lengths
        # JSON has no infinity.
        self.sinks = None if sinks is None else [-math.inf if sink is None else sink for sink in sinks]

    @property
    def packed(self):
        return self.cu_seqlens_q is not None

    def takes_only(self, *fields):
        """Raises Unfit for the first extension that is asked for and not among these fields."""
        for field, words in zip(self.EXTENSIONS, self.WORDS):
            if getattr(self, field) is not None and field not in fields:
                raise Unfit(f"takes no {words}")

    def visible(self, row):
        """The keys that a query sees, as first and end; positions count from the tensors' first rows."""
        starts_q, starts_k = self.cu_seqlens_q or [0, self.len_q], self.cu_seqlens_k or [0, self.len_kv]
        # Of empty sequences at the same place the last one is not empty.
        sequence = bisect.bisect_right(starts_q, row) - 1
        (begin_q, end_q), (begin_k, end_k) = (starts[sequence:sequence + 2] for starts in (starts_q, starts_k))
        own = row - begin_q + begin_k
        if self.mask != "causal-top-left":
            own += (end_k - begin_k) - (end_q - begin_q)
        left, right = self.window or (None, None)
        right = 0 if self.causal else right
        first = begin_k if left is None else min(max(own - left, begin_k), end_k)
        end = end_k if right is None else min(max(own + right + 1, begin_k), end_k)
        return first, max(first, end)

    @property
    def causal(self):
        return self.mask != "full"

    @property
    def width(self):
        """Elements of a value and of a row of the output."""
        return self.value_dim or self.head_dim

    def flops(self):
        pairs = self.len_q * self.len_kv * (0.5 if self.causal else 1.0)
        return 2.0 * self.batch * self.heads_q * pairs * (self.head_dim + self.width)

    def input_bytes(self):
        queries, keys = self.heads_q * self.len_q, self.heads_kv * self.len_kv
        return 2 * self.batch * (queries * self.head_dim + keys * (self.head_dim + self.width))

    def inputs(self):
        """Q, K and V, [batch, heads, length, head_dim or width], contiguous."""
        def tensor(heads, length, width):
            shape = (self.batch, heads, length, width)
            return torch.randn(shape, device="cuda", dtype=torch.float32).to(DTYPES[self.dtype])

        query = tensor(self.heads_q, self.len_q, self.head_dim)
        return query, *(tensor(self.heads_kv, self.len_kv, width) for width in (self.head_dim, self.width))

    def describe(self):
        heads = str(self.heads_q) if self.heads_q == self.heads_kv else f"{self.heads_q}/{self.heads_kv}"
        length = str(self.len_kv) if self.len_q == self.len_kv else f"{self.len_q}x{self.len_kv}"
        return f"({self.batch},{heads},{length},{self.head_dim}) {self.dtype} {self.mask}"

    def fields(self):
        return {name: value for name, value in vars(self).items() if value is not None}


def torch_passes(name, problem):
    """A PyTorch backend's forward pass, as a function of q, k, v; of the backends that take any strides on both layouts."""
    if name == "flash" and problem.packed:
        return {"": torch_packed_pass(problem)}
    # Where a backend has no kernel for it, PyTorch says so.
    problem.takes_only("value_dim")
    backend = BACKENDS[name]
    grouped = problem.heads_q != problem.heads_kv
    arguments = {"enable_gqa": True} if grouped else {}
    if problem.causal and problem.len_q == problem.len_kv:
        arguments["is_causal"] = True
    elif problem.causal:
        bias = causal_lower_right if problem.mask == "causal" else causal_upper_left
        arguments["attn_mask"] = bias(problem.len_q, problem.len_kv)
    if name == "math" and problem.batch * problem.heads_q * problem.len_q * problem.len_kv * 4 > 8 << 30:
        raise Unfit("its score matrix does not fit")

    def run(q, k, v):
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v, **arguments)

    def back(out):
        return out

    def blhd(*tensors):
        """What a model has: [batch, length, heads, head_dim], seen as [batch, heads, length, head_dim]."""
        return tuple(tensor.transpose(1, 2).contiguous().transpose(1, 2) for tensor in tensors)

    bhld = (run, lambda *tensors: tensors, back)
    return {"bhld": bhld, "blhd": (run, blhd, back)} if name in BOTH_LAYOUTS else {"": bhld}


def torch_packed_pass(problem):
    """PyTorch's FlashAttention-2 over packed sequences."""
    problem.takes_only("cu_seqlens_q", "window")
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError as error:
        raise Unfit(f"not in this PyTorch ({error})") from error
    only_bottom_right(problem)
    known = inspect.signature(varlen_attn).parameters
    arguments = {}
    if problem.heads_q != problem.heads_kv:
        if "enable_gqa" not in known:
            raise Unfit("takes no grouped heads in packed sequences")
        arguments["enable_gqa"] = True
    # Its way to say causal differs between versions of PyTorch.
    if "window_size" in known:
        left, right = problem.window or (None, None)
        right = 0 if problem.causal else right
        arguments["window_size"] = tuple(-1 if side is None else side for side in (left, right))
    elif problem.window is not None:
        raise Unfit("takes no windows")
    else:
        arguments["is_causal"] = problem.causal
    where = packing(problem)

    def run(q, k, v):
        return varlen_attn(q, k, v, *where, **arguments)

    return run, *natives(problem)


def fa3_passes(problem):
    """FlashAttention-3's forward pass, with its default number of splits and with as many as it chooses itself."""
    try:
        import fa3_fwd_interface as fa3
    except ImportError as error:
        raise Unfit(f"not installed ({error})") from error
    # Its wheel is built without windows.
    problem.takes_only("cu_seqlens_q", "softcap", "value_dim")
    only_bottom_right(problem)
    arguments = {"causal": problem.causal}
    if problem.softcap is not None:
        arguments["softcap"] = problem.softcap
    function = fa3.flash_attn_varlen_func if problem.packed else fa3.flash_attn_func
    passes = {"": flash_pass(fa3, problem, arguments)}
    if "num_splits" in inspect.signature(function).parameters:
        passes["num_splits=0"] = flash_pass(fa3, problem, {**arguments, "num_splits": 0})
    return passes


def fa4_passes(problem):
    """FlashAttention-4's forward pass."""
    try:
        from flash_attn import cute as fa4
        fa4.flash_attn_func, fa4.flash_attn_varlen_func
    except (ImportError, AttributeError, RuntimeError) as error:
        raise Unfit(f"not installed ({first_line(error)})") from error
    problem.takes_only("cu_seqlens_q", "window", "softcap", "sinks")
    only_bottom_right(problem)
    arguments = {"causal": problem.causal}
    if problem.window is not None:
        left, right = problem.window
        arguments["window_size"] = (left, 0 if problem.causal else right)
    if problem.softcap is not None:
        arguments["softcap"] = problem.softcap
    if problem.sinks is not None:
        # It takes them in bf16 alone; what that rounds is far below the check's limit.
        arguments["learnable_sink"] = torch.tensor(problem.sinks, dtype=torch.bfloat16, device="cuda")
    return {"": flash_pass(fa4, problem, arguments)}


def flashinfer_passes(problem):
    """FlashInfer's decoding over pages, which lie in the order of their tokens, without tensor cores and with them."""
    try:
        import flashinfer
        flashinfer.BatchDecodeWithPagedKVCacheWrapper
    except (ImportError, AttributeError, RuntimeError) as error:
        raise Unfit(f"not installed ({first_line(error)})") from error
    problem.takes_only()
    if problem.len_q != 1:
        raise Unfit("timed with one query a sequence alone")
    only_bottom_right(problem)
    pages = math.ceil(problem.len_kv / PAGE)

    def int32(values):
        return torch.tensor(values, dtype=torch.int32, device="cuda")

    begins = int32([index * pages for index in range(problem.batch + 1)])
    last_page = int32([problem.len_kv - (pages - 1) * PAGE] * problem.batch)

    def planned(tensor_cores):
        workspace = torch.zeros(128 << 20, dtype=torch.uint8, device="cuda")
        wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(workspace, "NHD", use_tensor_cores=tensor_cores)
        wrapper.plan(
            begins, int32(list(range(problem.batch * pages))), last_page, problem.heads_q, problem.heads_kv,
            problem.head_dim, PAGE, q_data_type=DTYPES[problem.dtype], kv_data_type=DTYPES[problem.dtype],
        )
        return lambda q, k, v: wrapper.run(q, (k, v))

    def paged(tensor):
        """[pages, tokens a page, heads, head_dim]; tokens behind the last are zeros."""
        tokens = tensor.transpose(1, 2)
        tokens = F.pad(tokens, (0, 0, 0, 0, 0, pages * PAGE - problem.len_kv))
        return tokens.reshape(problem.batch * pages, PAGE, problem.heads_kv, problem.head_dim).contiguous()

    def native(q, k, v):
        return q[:, :, 0].contiguous(), paged(k), paged(v)

    # Planned when it is first run: what it does not take is then a fault of this way alone.
    def lazily(tensor_cores):
        ready = []

        def run(q, k, v):
            if not ready:
                ready.append(planned(tensor_cores))
            return ready[0](q, k, v)

        return run, native, lambda out: out[:, :, None]

    return {"": lazily(False), "tensor cores": lazily(True)}


def flash_pass(module, problem, arguments):
    """A pass of the interface that FlashAttention-3 and -4 share."""
    function = module.flash_attn_func
    if problem.packed:
        function = module.flash_attn_varlen_func
        names = ["cu_seqlens_q", "cu_seqlens_k", "max_seqlen_q", "max_seqlen_k"]
        arguments = {**arguments, **dict(zip(names, packing(problem)))}

    def run(q, k, v):
        out = function(q, k, v, **arguments)
        return out[0] if isinstance(out, (tuple, list)) else out

    return run, *natives(problem)


def only_bottom_right(problem):
    """Raises Unfit where a causal mask of the other alignment would hide other keys."""
    same = problem.len_q == problem.len_kv and problem.cu_seqlens_q == problem.cu_seqlens_k
    if problem.mask == "causal-top-left" and not same:
        raise Unfit("its causal mask is bottom-right")


def packing(problem):
    """Where packed sequences begin and the longest of them, as all interfaces take it."""
    starts = [torch.tensor(starts, dtype=torch.int32, device="cuda") for starts in (problem.cu_seqlens_q, problem.cu_seqlens_k)]
    return *starts, problem.longest_q, problem.longest_kv


def natives(problem):
    """To [batch, length, heads, head_dim], or [total, heads, head_dim] of packed sequences, and the output back."""
    if problem.packed:
        return (
            lambda *tensors: tuple(tensor[0].transpose(0, 1).contiguous() for tensor in tensors),
            lambda out: out.transpose(0, 1)[None],
        )
    return (
        lambda *tensors: tuple(tensor.transpose(1, 2).contiguous() for tensor in tensors),
        lambda out: out.transpose(1, 2),
    )


def passes_of(name, problem):
    """A peer's ways to do a forward pass, by what sets them apart: each a pass, and the ways to and from its layout."""
    named = {"fa3": fa3_passes, "fa4": fa4_passes, "flashinfer": flashinfer_passes}
    return named[name](problem) if name in named else torch_passes(name, problem)


def reference(problem, q, k, v):
    """f32 arithmetic over the last batch's last head: its last 512 queries at most, or 512 in all parts of packed sequences."""
    head_kv = problem.heads_kv - 1
    q, k, v = q[-1, -1].float(), k[-1, head_kv].float(), v[-1, head_kv].float()
    count = min(512, problem.len_q)
    rows = range(problem.len_q - count, problem.len_q)
    if problem.packed:
        rows = [index * problem.len_q // count for index in range(count)]
    first, end = torch.tensor([problem.visible(row) for row in rows], device="cuda").reshape(-1, 2, 1).unbind(1)
    rows = torch.tensor(list(rows), device="cuda", dtype=torch.int64)
    scores = q[rows] @ k.T / math.sqrt(problem.head_dim)
    if problem.softcap is not None:
        scores = problem.softcap * (scores / problem.softcap).tanh()
    keys = torch.arange(problem.len_kv, device="cuda")[None, :]
    scores = scores.masked_fill((keys < first) | (keys >= end), float("-inf"))
    if problem.sinks is None:
        return rows, scores.softmax(-1) @ v
    sink = torch.full((len(rows), 1), problem.sinks[-1], device="cuda")
    return rows, torch.cat([scores, sink], -1).softmax(-1)[:, :-1] @ v


class EnergyCounter:
    """NVIDIA's management library, asked for all the energy that a card has drawn."""

    def __init__(self, uuid):
        """Raises OSError where the library does not say."""
        self.library = ctypes.CDLL("libnvidia-ml.so.1")
        self.card = ctypes.c_void_p()
        self.call("nvmlInit_v2")
        self.call("nvmlDeviceGetHandleByUUID", uuid.encode(), ctypes.byref(self.card))
        self.millijoules()

    def call(self, name, *arguments):
        try:
            code = getattr(self.library, name)(*arguments)
        except AttributeError as error:
            raise OSError(f"libnvidia-ml has no {name}") from error
        if code != 0:
            raise OSError(f"{name} gave {code}")

    def millijoules(self):
        value = ctypes.c_ulonglong()
        self.call("nvmlDeviceGetTotalEnergyConsumption", self.card, ctypes.byref(value))
        return value.value


class Meter:
    """Says at how many watts work ran; the rule is that of crates/sdpa-bench/src/timing/energy.rs."""

    def __init__(self, counter):
        self.counter = counter

    def around(self, work):
        """What the work gives, and its mean power in watts: None if the counter made fewer than two steps meanwhile."""
        done, readings = threading.Event(), []

        def read():
            try:
                while not done.is_set():
                    asked = time.perf_counter()
                    millijoules = self.counter.millijoules()
                    readings.append(((asked + time.perf_counter()) / 2, millijoules))
                    time.sleep(POLL_SECONDS)
            except OSError:
                readings.clear()

        reader = threading.Thread(target=read)
        reader.start()
        try:
            result = work()
        finally:
            done.set()
            reader.join()
        return result, watts(readings)


def watts(readings):
    """Mean power between the first and the last step of a counter, each in the middle between two readings."""
    pairs = zip(readings, readings[1:])
    steps = [((before + after) / 2, high) for (before, low), (after, high) in pairs if high > low]
    if len(steps) < 2:
        return None
    (first, low), (last, high) = steps[0], steps[-1]
    return (high - low) * 1e-3 / (last - first)


def card():
    """UUID of the GPU, as nvidia-smi writes it; None if this PyTorch does not say."""
    uuid = getattr(torch.cuda.get_device_properties(torch.cuda.current_device()), "uuid", None)
    return None if uuid is None else f"GPU-{str(uuid).removeprefix('GPU-')}"


class Rules:
    """How long turns are, and what counts the energy of long ones."""

    def __init__(self, regime="short", sample_ms=None, meter=None):
        self.sustained = {"short": False, "sustained": True}[regime]
        self.sample_ms = REGIMES[regime][1] if sample_ms is None else sample_ms
        self.meter = meter


class Replayed:
    """A pass over rotating sets, recorded, warm, and sampled by replays."""

    def __init__(self, run, sets, rules):
        self.run, self.sets, self.rules = run, sets, rules
        one = self.record(1)
        self.replay(one, 1)
        pass_ms = max(self.replay(one, 1), 5e-4)
        rotations = math.ceil(PASSES_AT_LEAST / len(self.sets)) * len(self.sets)
        self.passes = max(1, min(rotations, int(RECORDING_AT_MOST_MS / pass_ms)))
        self.graph = self.record(self.passes)
        warm, self.replay_ms = 0.0, self.replay(self.graph, 1)
        while warm < WARM_UP_MS:
            self.replay_ms = self.replay(self.graph, 1)
            warm += self.replay_ms

    def record(self, passes):
        """A graph of so many passes. Outputs of a whole rotation are kept, so that they rotate as the inputs do."""
        graph = torch.cuda.CUDAGraph()
        outputs = [None] * len(self.sets)
        with torch.no_grad(), torch.cuda.graph(graph):
            for index in range(passes):
                slot = index % len(self.sets)
                outputs[slot] = self.run(*self.sets[slot])
        return graph

    @staticmethod
    def replay(graph, times):
        """Milliseconds that so many replays take on the device."""
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(times):
            graph.replay()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)

    def replay_for(self, least_ms):
        """Replays until the device has worked for so long: how many, and how many milliseconds they took."""
        replays, took, one = 0, 0.0, self.replay_ms
        while took < least_ms:
            more = replays_in(least_ms - took, one)
            took += self.replay(self.graph, more)
            replays += more
            one = took / replays
        return replays, took

    def short(self, sample_ms):
        """Microseconds a pass, over one short turn."""
        if self.replay_ms < REFRESHING_MS:
            self.replay(self.graph, 1)
        replays = replays_in(sample_ms, self.replay_ms)
        return self.replay(self.graph, replays) * 1e3 / (replays * self.passes)

    def sample(self):
        """Microseconds a pass and joules a pass (None without a counter), over one turn of the regime."""
        rules = self.rules
        if not rules.sustained:
            return self.short(rules.sample_ms), None
        self.replay_for(rules.sample_ms / 2)

        def count():
            return self.replay_for(rules.sample_ms)

        (replays, took), power = rules.meter.around(count) if rules.meter else (count(), None)
        us = took * 1e3 / (replays * self.passes)
        return us, None if power is None else power * us * 1e-6


def replays_in(long_ms, replay_ms):
    """Replays of this length that take so long together, at least one."""
    return max(1, math.ceil(long_ms / max(replay_ms, 1e-6)))


def peer(name, problem, sets, expected, rules):
    """One peer on one problem in its fastest way: what sets that way apart, and the pass, recorded and warm.

    The third is why ways of the same peer were left out. Each way is checked before its trial.
    """
    ready, failed = {}, {}
    for way, (run, to_native, to_bhld) in passes_of(name, problem).items():
        try:
            native = [to_native(*tensors) for tensors in sets]
            check(problem, to_bhld(aside(lambda: run(*native[0]))), expected)
            ready[way] = Replayed(run, native, rules)
        except Exception as error:  # whatever a library raises: the other ways are tried
            failed[way] = reason_of(error)
    if not ready:
        raise Unfit(next(iter(failed.values())))
    best = fastest(ready)
    return best, ready[best], failed


def fastest(ready):
    """Which of several recorded passes is the fastest, tried in turn."""
    if len(ready) == 1:
        return next(iter(ready))
    tried = {way: [] for way in ready}
    for _ in range(TRIAL_ROUNDS):
        for way, replayed in ready.items():
            tried[way].append(replayed.short(TRIAL_MS))
    return min(tried, key=lambda way: statistics.median(tried[way]))


def check(problem, out, expected):
    """Raises Unfit if an output, [batch, heads, length, head_dim], is not that of f32 arithmetic."""
    rows, truth = expected
    found = out[-1, -1][rows].float()
    # Empty rows are NaN by softmax and 0 by some kernels' convention; nobody is judged by them.
    finite = truth.isfinite().all(-1)
    error = ((found - truth)[finite].norm() / truth[finite].norm().clamp_min(1e-30)).item() if finite.any() else 0.0
    if not error <= CHECK[problem.dtype]:
        raise Unfit(f"it is wrong here: relative error {error:.1e}")


def reason_of(error):
    """Why a peer does not take a problem, in a line."""
    if isinstance(error, Unfit):
        return str(error)
    torch.cuda.synchronize()
    return first_line(error) if isinstance(error, RuntimeError) else f"{type(error).__name__}: {first_line(error)}"


def aside(work):
    """Runs a pass once on another stream, as graphs demand of what they will record."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side), torch.no_grad():
        result = work()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    return result


def node_kinds(run, tensors):
    """Kinds of nodes that a recorded pass has, by CUDA's numbers; None if this PyTorch does not show its graphs."""
    try:
        graph = torch.cuda.CUDAGraph(keep_graph=True)
    except TypeError:
        return None  # before PyTorch 2.8
    with torch.no_grad(), torch.cuda.graph(graph):
        run(*tensors)
    driver, handle, count = ctypes.CDLL("libcuda.so.1"), ctypes.c_void_p(graph.raw_cuda_graph()), ctypes.c_size_t()

    def call(name, *arguments):
        code = getattr(driver, name)(*arguments)
        if code != 0:
            raise RuntimeError(f"{name} gave {code}")

    call("cuGraphGetNodes", handle, None, ctypes.byref(count))
    nodes = (ctypes.c_void_p * count.value)()
    call("cuGraphGetNodes", handle, nodes, ctypes.byref(count))
    kinds = set()
    for node in nodes:
        kind = ctypes.c_int()
        call("cuGraphNodeGetType", ctypes.c_void_p(node), ctypes.byref(kind))
        kinds.add(kind.value)
    return kinds


# CUDA's numbers of kinds of nodes in a graph.
KERNEL_NODE, COPY_NODE = 0, 1


def by_kernels(candidates, tensors):
    """Of candidates by name, those whose recorded pass is made by kernels: a copy engine is slower than a kernel may be."""
    found = {}
    for name, run in candidates.items():
        aside(lambda: run(*tensors))
        kinds = node_kinds(run, tensors)
        if kinds is None:
            found[f"{name}, nodes not seen"] = run
        elif KERNEL_NODE in kinds and COPY_NODE not in kinds:
            found[name] = run
    if not found:
        raise RuntimeError(f"no kernel but a copy engine does {', '.join(candidates)}")
    return found


def best_of(candidates, sets, samples, rules):
    """The fastest of candidates by name over rotating sets, and its microseconds a pass."""
    medians = {}
    for name, run in candidates.items():
        for tensors in sets:
            aside(lambda: run(*tensors))
        replayed = Replayed(run, sets, rules)
        medians[name] = statistics.median(replayed.sample()[0] for _ in range(samples))
        release()
    name = min(medians, key=medians.get)
    return name, medians[name]


def ceiling(dtype, samples, rules):
    """What this device reaches now: TFLOP/s of a large matrix product, and GB/s of kernels that read a large tensor and that
    copy it, read and written both counted; each the best of several.

    The product's operands are N(0, 1) as the attention inputs are, since its power, and so its clock, depends on them.
    """
    megabytes = 1024

    def square(size):
        return torch.randn((size, size), device="cuda", dtype=torch.float32).to(DTYPES[dtype])

    def block():
        return torch.zeros(megabytes << 18, dtype=torch.float32, device="cuda")

    products = {}
    for size in (4096, 8192):
        sets = [(square(size), square(size), square(size)) for _ in range(2)]
        product = {f"{size} x {size} x {size}": lambda a, b, out: torch.mm(a, b, out=out)}
        name, us = best_of(product, sets, samples, rules)
        products[name] = 2.0 * size**3 / us * 1e-6
    del sets
    release()
    matmul = max(products, key=products.get)
    reads = {"sum": torch.sum, "amax": torch.amax, "norm": torch.linalg.vector_norm}
    sets = [(block(),) for _ in range(2)]
    read, read_us = best_of(by_kernels(reads, sets[0]), sets, samples, rules)
    copies = {
        "x + 0": lambda source, target: torch.add(source, 0, out=target),
        "-x": lambda source, target: torch.neg(source, out=target),
    }
    sets = [(source, block()) for (source,) in sets]
    copy, copy_us = best_of(by_kernels(copies, sets[0]), sets, samples, rules)
    del sets
    release()
    return {
        "dtype": dtype,
        "regime": "sustained" if rules.sustained else "short",
        "matmul": matmul,
        "matmul_tflops": products[matmul],
        "read": f"{megabytes} MiB read by a kernel: {read}",
        "read_gb_s": (megabytes << 20) / read_us * 1e-3,
        "copy": f"{megabytes} MiB read and written by a kernel: {copy}",
        "copy_gb_s": 2.0 * (megabytes << 20) / copy_us * 1e-3,
    }


def profile(name, problem):
    """One pass between the profiler's start and stop, for `bench/ncu_table.py --peers`; one before it loads the kernels."""
    try:
        run, to_native, _ = next(iter(passes_of(name, problem).values()))
    except Unfit as reason:
        sys.exit(f"error: {name}: {reason}")
    native = to_native(*problem.inputs())
    with torch.no_grad():
        run(*native)
        torch.cuda.synchronize()
        torch.cuda.cudart().cudaProfilerStart()
        run(*native)
        torch.cuda.synchronize()
        torch.cuda.cudart().cudaProfilerStop()


def first_line(error):
    """The first line of an error, or its type's name."""
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__


def prepare(problem, names, cold, rules):
    """The peers that take a problem, in which way each, and why others do not."""
    bytes_a_set = max(problem.input_bytes(), 1 << 12)
    if cold:
        count = math.ceil(COLD_BYTES / bytes_a_set) + 1
    else:
        count = 2 if bytes_a_set > COLD_BYTES else WARM_SETS
    torch.manual_seed(0)
    first = problem.inputs()
    # Copies: caches know addresses, not values.
    sets = [first] + [tuple(tensor.clone() for tensor in first) for _ in range(count - 1)]
    expected = reference(problem, *first)
    peers, ways, skipped = {}, {}, {}
    for name in names:
        try:
            way, peers[name], failed = peer(name, problem, sets, expected, rules)
        except Exception as error:  # whatever a library raises: the others are timed, and the record names this one
            skipped[name] = reason_of(error)
            continue
        if way:
            ways[name] = way
        skipped.update((f"{name} ({way or 'default'})", reason) for way, reason in failed.items())
        release()  # what the ways held that were not the fastest
    return peers, ways, skipped


def release():
    """Gives memory back before the next problem takes its own."""
    gc.collect()
    torch.cuda.empty_cache()


def environment():
    """Versions, and what nvidia-smi says now."""
    found = {
        "device": torch.cuda.get_device_name(),
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }
    try:
        EnergyCounter(card() or "unknown")
        found["energy"] = "counted"
    except OSError as error:
        found["energy"] = f"not counted: {error}"
    if card() is not None:
        found["uuid"] = card()
    for package in ("fa3-fwd", "flash-attn-4", "flashinfer-python"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            pass  # not installed, or installed under another name
    fields = ["driver_version", "clocks.sm", "clocks.mem", "power.draw", "temperature.gpu"]
    query = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader", f"--id={card() or 0}"]
    try:
        line = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()[0]
        found.update(zip(fields, (value.strip() for value in line.split(","))))
    except (OSError, subprocess.SubprocessError, IndexError):
        pass
    return found


def serve(names):
    """One question and one answer a line, for `sdpa bench --peers`."""
    # Answers alone go to standard output: libraries like to print there.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    peers, meter = {}, meter_or_none()
    for line in sys.stdin:
        question = json.loads(line)
        try:
            if "hello" in question:
                answer = environment()
            elif "prepare" in question:
                asked = dict(question["prepare"])
                cold, rules = asked.pop("cold"), Rules(asked.pop("regime"), asked.pop("sample_ms"), meter)
                peers = {}
                release()
                peers, ways, skipped = prepare(Problem(**asked), names, cold, rules)
                answer = {"peers": list(peers), "ways": ways, "skipped": skipped}
            elif "sample" in question:
                us, joules = peers[question["sample"]].sample()
                answer = {"us": us} if joules is None else {"us": us, "joules": joules}
            elif "ceiling" in question:
                asked = question["ceiling"]
                peers = {}
                release()
                answer = ceiling(asked["dtype"], asked["samples"], Rules(asked["regime"], asked["sample_ms"]))
            else:
                answer = {"error": f"no such question: {', '.join(question)}"}
        except Exception as error:  # the asker decides what to do about it
            answer = {"error": f"{type(error).__name__}: {first_line(error)}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def meter_or_none():
    """What counts energy, where this machine has it; `environment` says why not."""
    try:
        return Meter(EnergyCounter(card() or "unknown"))
    except OSError:
        return None


def quartiles(samples):
    """Lower quartile, median and upper quartile, linear between neighbours."""
    return statistics.quantiles(samples, n=4, method="inclusive")


def measure(problem, names, samples, rules, cold):
    """A figure for each peer that takes the problem: its way, quartiles in microseconds, and joules a pass."""
    peers, ways, skipped = prepare(problem, names, cold, rules)
    taken = {name: [] for name in peers}
    for _ in range(samples):
        for name, replayed in peers.items():
            taken[name].append(replayed.sample())
    figures = {}
    for name, values in taken.items():
        joules = [joules for _, joules in values if joules is not None]
        enough = 2 * len(joules) > len(values)
        median = statistics.median(joules) if enough else None
        figures[name] = ways.get(name), quartiles([us for us, _ in values]), median
    return figures, skipped


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", action="append", metavar="B,H,L,d[,Hkv][,Lq]", help="may be given several times")
    parser.add_argument("--dtype", choices=DTYPES, default="f16")
    parser.add_argument("--mask", choices=["full", "causal", "both"], default="both")
    parser.add_argument("--peers", default=",".join(DEFAULT_PEERS), help=f"of {', '.join(EVERY_PEER)}")
    parser.add_argument("--regime", choices=REGIMES, default="short", help="how long turns are")
    parser.add_argument("--samples", type=int, help="of each peer; 15, or 5 in sustained turns")
    parser.add_argument("--cold", action="store_true", help="also with inputs that come from memory")
    parser.add_argument("--json", metavar="FILE", help="write the figures")
    parser.add_argument("--serve", action="store_true", help="answer questions of `sdpa bench --peers`")
    parser.add_argument("--profile", metavar="PEER", help="run one pass for a profiler, and time nothing")
    arguments = parser.parse_args()

    names = [arguments.profile] if arguments.profile else arguments.peers.split(",")
    unknown = [name for name in names if name not in EVERY_PEER]
    if unknown:
        parser.error(f"no such peer: {', '.join(unknown)}")
    samples = REGIMES[arguments.regime][0] if arguments.samples is None else arguments.samples
    if samples < 2:
        parser.error("--samples: at least 2, or there is no spread")
    shapes = []
    for text in arguments.shape or [",".join(map(str, shape)) for shape in ACCEPTANCE]:
        numbers = text.split(",")
        if not 4 <= len(numbers) <= 6 or not all(number.strip().isdigit() for number in numbers):
            parser.error(f"{text!r} is no shape: it is B,H,L,d[,Hkv][,Lq]")
        batch, heads, length, head_dim, *rest = map(int, numbers)
        shapes.append((batch, heads, rest[0] if rest else heads, rest[1] if len(rest) > 1 else length, length, head_dim))
    if not torch.cuda.is_available():
        sys.exit("error: PyTorch finds no GPU")
    if arguments.serve:
        return serve(names)

    masks = ["full", "causal"] if arguments.mask == "both" else [arguments.mask]
    if arguments.profile:
        for shape, mask in ((shape, mask) for shape in shapes for mask in masks):
            profile(arguments.profile, Problem(*shape, arguments.dtype, mask))
        return None

    figures, rules = [], Rules(arguments.regime, meter=meter_or_none())
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}")
    for shape in shapes:
        for mask in masks:
            problem = Problem(*shape, arguments.dtype, mask)
            print(f"\n{problem.describe()}")
            warm, skipped = measure(problem, names, samples, rules, False)
            release()
            cold = measure(problem, list(warm), samples, rules, True)[0] if arguments.cold else {}
            release()
            for name, (way, (low, median, high), joules) in warm.items():
                tflops = problem.flops() / median * 1e-6
                beside = f"  cold {cold[name][1][1]:9.2f}" if name in cold else ""
                beside += "" if joules is None else f"  {joules * 1e3:9.3f} mJ"
                beside += f"  ({way})" if way else ""
                print(f"  {name:<10} {median:9.2f} µs  ± {50 * (high - low) / median:4.1f} %  {tflops:6.1f} TFLOP/s{beside}")
                figure = {
                    "contender": name, **problem.fields(), "regime": arguments.regime, "median_us": median, "low_us": low,
                    "high_us": high, "tflops": tflops, "cold_median_us": cold[name][1][1] if name in cold else None,
                }
                if way:
                    figure["way"] = way
                if joules is not None:
                    figure.update(joules=joules, tflop_per_joule=problem.flops() / joules * 1e-12)
                figures.append(figure)
            for name, reason in skipped.items():
                print(f"  {name:<10} not timed: {reason}")
    if arguments.json:
        record = {"device": torch.cuda.get_device_name(), "environment": environment(), "figures": figures}
        folder = os.path.dirname(arguments.json) or "."
        with tempfile.NamedTemporaryFile("w", dir=folder, delete=False) as file:
            file.write(json.dumps(record, indent=2) + "\n")
        os.chmod(file.name, 0o644)
        os.replace(file.name, arguments.json)
        print(f"\nwrote {arguments.json}")


if __name__ == "__main__":
    main()
