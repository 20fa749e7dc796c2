#!/usr/bin/env python3
"""Times other people's attention kernels: PyTorch's SDPA backends, FlashAttention-3 (`fa3_fwd_interface`) and FlashAttention-4
(`flash_attn.cute`).

The method is that of `sdpa bench`: N(0, 1) inputs, CUDA graphs of many forward passes that rotate over several sets of
tensors, replays of at least 5 ms between two events, contenders in turn, the median of 15 samples. Each peer is checked
against f32 arithmetic on the problem before it is timed.

    python3 bench/peers.py --json results/peers.json             # the acceptance shapes, with and without causal mask
    python3 bench/peers.py --shape 8,16,2048,128 --dtype bf16    # B,H,L,d[,Hkv][,Lq]
    sdpa bench --peers                                           # in turn with our generations, through --serve

Tested with Python 3.12 and PyTorch 2.11.
"""

import argparse
import bisect
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
DEFAULT_PEERS = ["flash", "cudnn", "efficient", "fa3", "fa4"]
EVERY_PEER = [*BACKENDS, "fa3", "fa4"]

# As in crates/sdpa-bench/src/timing: the same rules, or a ratio would compare methods.
WARM_SETS = 4
COLD_BYTES = 128 << 20
PASSES_AT_LEAST = 20
RECORDING_AT_MOST_MS = 10.0
REFRESHING_MS = 5.0
WARM_UP_MS = 30.0

# Relative Frobenius error against f32 arithmetic: twice what rounding weights and output to the type costs.
CHECK = {"f16": 1e-3, "bf16": 8e-3}


class Unfit(Exception):
    """A peer does not take a problem; says why."""


class Problem:
    """What to attend over; field names as in the figures' files.

    What goes beyond dense attention comes from `sdpa bench` alone: where packed sequences begin and the longest of them, the
    keys on either side of the diagonal that a query sees (None: all), a soft cap, and of each query head a sink (None: none)
    and a slope, and how many keys each sequence of a batch uses.
    """

    EXTENSIONS = ["cu_seqlens_q", "window", "softcap", "sinks", "slopes", "key_lengths"]
    WORDS = ["packed sequences", "windows", "soft caps", "sinks", "slopes", "key lengths"]

    def __init__(self, batch, heads_q, heads_kv, len_q, len_kv, head_dim, dtype="f16", mask="full", cu_seqlens_q=None,
                 cu_seqlens_k=None, longest_q=None, longest_kv=None, window=None, softcap=None, sinks=None, slopes=None,
                 key_lengths=None):
        self.batch, self.heads_q, self.heads_kv = batch, heads_q, heads_kv
        self.len_q, self.len_kv, self.head_dim = len_q, len_kv, head_dim
        self.dtype, self.mask = dtype, mask
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

    def flops(self):
        pairs = self.len_q * self.len_kv * (0.5 if self.causal else 1.0)
        return 4.0 * self.batch * self.heads_q * pairs * self.head_dim

    def input_bytes(self):
        rows = self.heads_q * self.len_q + 2 * self.heads_kv * self.len_kv
        return 2 * self.batch * rows * self.head_dim

    def inputs(self):
        """Q, K and V, [batch, heads, length, head_dim], contiguous."""
        def tensor(heads, length):
            shape = (self.batch, heads, length, self.head_dim)
            return torch.randn(shape, device="cuda", dtype=torch.float32).to(DTYPES[self.dtype])

        return tensor(self.heads_q, self.len_q), tensor(self.heads_kv, self.len_kv), tensor(self.heads_kv, self.len_kv)

    def describe(self):
        heads = str(self.heads_q) if self.heads_q == self.heads_kv else f"{self.heads_q}/{self.heads_kv}"
        length = str(self.len_kv) if self.len_q == self.len_kv else f"{self.len_q}x{self.len_kv}"
        return f"({self.batch},{heads},{length},{self.head_dim}) {self.dtype} {self.mask}"

    def fields(self):
        return {name: value for name, value in vars(self).items() if value is not None}


def torch_pass(name, problem):
    """A PyTorch backend's forward pass, as a function of q, k, v."""
    if name == "flash" and problem.packed:
        return torch_packed_pass(problem)
    problem.takes_only()
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

    return run, lambda q, k, v: (q, k, v), lambda out: out


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


def fa3_pass(problem):
    """FlashAttention-3's forward pass."""
    try:
        import fa3_fwd_interface as fa3
    except ImportError as error:
        raise Unfit(f"not installed ({error})") from error
    # Its wheel is built without windows.
    problem.takes_only("cu_seqlens_q", "softcap")
    only_bottom_right(problem)
    arguments = {"causal": problem.causal}
    if problem.softcap is not None:
        arguments["softcap"] = problem.softcap
    return flash_pass(fa3, problem, arguments)


def fa4_pass(problem):
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
    return flash_pass(fa4, problem, arguments)


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


def pass_of(name, problem):
    """A peer's forward pass, and the ways to and from its layout."""
    named = {"fa3": fa3_pass, "fa4": fa4_pass}
    return named[name](problem) if name in named else torch_pass(name, problem)


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


class Replayed:
    """A pass over rotating sets, recorded, warm, and sampled by replays."""

    def __init__(self, run, sets, sample_ms):
        self.run, self.sets = run, sets
        one = self.record(1)
        self.replay(one, 1)
        pass_ms = max(self.replay(one, 1), 5e-4)
        rotations = math.ceil(PASSES_AT_LEAST / len(self.sets)) * len(self.sets)
        self.passes = max(1, min(rotations, int(RECORDING_AT_MOST_MS / pass_ms)))
        self.graph = self.record(self.passes)
        warm, replay_ms = 0.0, self.replay(self.graph, 1)
        while warm < WARM_UP_MS:
            replay_ms = self.replay(self.graph, 1)
            warm += replay_ms
        self.replays = max(1, math.ceil(sample_ms / replay_ms))
        self.refresh = replay_ms < REFRESHING_MS

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

    def sample(self):
        """Microseconds a pass."""
        if self.refresh:
            self.replay(self.graph, 1)
        return self.replay(self.graph, self.replays) * 1e3 / (self.replays * self.passes)


def peer(name, problem, sets, expected, sample_ms):
    """One peer on one problem, checked, recorded and warm."""
    run, to_native, to_bhld = pass_of(name, problem)
    native = [to_native(*tensors) for tensors in sets]
    try:
        out = to_bhld(aside(lambda: run(*native[0])))
    except RuntimeError as error:
        raise Unfit(first_line(error)) from error
    rows, truth = expected
    found = out[-1, -1][rows].float()
    # Empty rows are NaN by softmax and 0 by some kernels' convention; nobody is judged by them.
    finite = truth.isfinite().all(-1)
    error = ((found - truth)[finite].norm() / truth[finite].norm().clamp_min(1e-30)).item() if finite.any() else 0.0
    if not error <= CHECK[problem.dtype]:
        raise Unfit(f"it is wrong here: relative error {error:.1e}")
    del out, found
    return Replayed(run, native, sample_ms)


def aside(work):
    """Runs a pass once on another stream, as graphs demand of what they will record."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side), torch.no_grad():
        result = work()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    return result


def ceiling(dtype, samples, sample_ms):
    """What this device reaches now: TFLOP/s of a large matrix product, and GB/s of a large copy, read and written.

    The product's operands are N(0, 1) as the attention inputs are, since its power, and so its clock, depends on them.
    """
    size, megabytes = 8192, 1024

    def square():
        return torch.randn((size, size), device="cuda", dtype=torch.float32).to(DTYPES[dtype])

    def block():
        return torch.empty(megabytes << 20, dtype=torch.uint8, device="cuda").zero_()

    def median(run, sets):
        for tensors in sets:
            aside(lambda: run(*tensors))
        replayed = Replayed(run, sets, sample_ms)
        return statistics.median(replayed.sample() for _ in range(samples))

    product_us = median(lambda a, b, out: torch.mm(a, b, out=out), [(square(), square(), square()) for _ in range(2)])
    release()
    copy_us = median(lambda source, target: target.copy_(source), [(block(), block()) for _ in range(2)])
    release()
    return {
        "dtype": dtype,
        "matmul": f"{size} x {size} x {size}",
        "matmul_tflops": 2.0 * size**3 / product_us * 1e-6,
        "copy": f"{megabytes} MiB read and written",
        "copy_gb_s": 2.0 * (megabytes << 20) / copy_us * 1e-3,
    }


def profile(name, problem):
    """One pass between the profiler's start and stop, for `bench/ncu_table.py --peers`; one before it loads the kernels."""
    try:
        run, to_native, _ = pass_of(name, problem)
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


def prepare(problem, names, cold, sample_ms):
    """The peers that take a problem, and why others do not."""
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
    peers, skipped = {}, {}
    for name in names:
        try:
            peers[name] = peer(name, problem, sets, expected, sample_ms)
        except Unfit as reason:
            skipped[name] = str(reason)
        except Exception as error:  # whatever a library raises: the others are timed, and the record names this one
            torch.cuda.synchronize()
            skipped[name] = f"{type(error).__name__}: {first_line(error)}"
    return peers, skipped


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
    for package in ("fa3-fwd", "flash-attn-4"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            pass  # not installed, or installed under another name
    fields = ["driver_version", "clocks.sm", "clocks.mem", "power.draw", "temperature.gpu"]
    query = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader", "--id=0"]
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
    peers = {}
    for line in sys.stdin:
        question = json.loads(line)
        try:
            if "hello" in question:
                answer = environment()
            elif "prepare" in question:
                asked = dict(question["prepare"])
                cold, sample_ms = asked.pop("cold"), asked.pop("sample_ms")
                peers = {}
                release()
                peers, skipped = prepare(Problem(**asked), names, cold, sample_ms)
                answer = {"peers": list(peers), "skipped": skipped}
            elif "sample" in question:
                answer = {"us": peers[question["sample"]].sample()}
            elif "ceiling" in question:
                peers = {}
                release()
                answer = ceiling(**question["ceiling"])
            else:
                answer = {"error": f"no such question: {', '.join(question)}"}
        except Exception as error:  # the asker decides what to do about it
            answer = {"error": f"{type(error).__name__}: {first_line(error)}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def quartiles(samples):
    """Lower quartile, median and upper quartile, linear between neighbours."""
    return statistics.quantiles(samples, n=4, method="inclusive")


def measure(problem, names, samples, sample_ms, cold):
    """A figure for each peer that takes the problem."""
    peers, skipped = prepare(problem, names, cold, sample_ms)
    taken = {name: [] for name in peers}
    for _ in range(samples):
        for name, replayed in peers.items():
            taken[name].append(replayed.sample())
    return {name: quartiles(values) for name, values in taken.items()}, skipped


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", action="append", metavar="B,H,L,d[,Hkv][,Lq]", help="may be given several times")
    parser.add_argument("--dtype", choices=DTYPES, default="f16")
    parser.add_argument("--mask", choices=["full", "causal", "both"], default="both")
    parser.add_argument("--peers", default=",".join(DEFAULT_PEERS), help=f"of {', '.join(EVERY_PEER)}")
    parser.add_argument("--samples", type=int, default=15)
    parser.add_argument("--cold", action="store_true", help="also with inputs that come from memory")
    parser.add_argument("--json", metavar="FILE", help="write the figures")
    parser.add_argument("--serve", action="store_true", help="answer questions of `sdpa bench --peers`")
    parser.add_argument("--profile", metavar="PEER", help="run one pass for a profiler, and time nothing")
    arguments = parser.parse_args()

    names = [arguments.profile] if arguments.profile else arguments.peers.split(",")
    unknown = [name for name in names if name not in EVERY_PEER]
    if unknown:
        parser.error(f"no such peer: {', '.join(unknown)}")
    if arguments.samples < 2:
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

    figures = []
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}")
    for shape in shapes:
        for mask in masks:
            problem = Problem(*shape, arguments.dtype, mask)
            print(f"\n{problem.describe()}")
            warm, skipped = measure(problem, names, arguments.samples, 5.0, False)
            release()
            cold = measure(problem, list(warm), arguments.samples, 5.0, True)[0] if arguments.cold else {}
            release()
            for name, (low, median, high) in warm.items():
                tflops = problem.flops() / median * 1e-6
                beside = f"  cold {cold[name][1]:9.2f}" if name in cold else ""
                print(f"  {name:<10} {median:9.2f} µs  ± {50 * (high - low) / median:4.1f} %  {tflops:6.1f} TFLOP/s{beside}")
                figures.append({
                    "contender": name, **problem.fields(), "median_us": median, "low_us": low, "high_us": high,
                    "tflops": tflops, "cold_median_us": cold[name][1] if name in cold else None,
                })
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
