"""What only a GPU can show, with nothing but the wheel and PyTorch: python3 gpu.py

Every function is compared with attention in float32 by PyTorch's own operations. Then: no copies of tensors, CUDA graphs,
torch.compile, streams, and what a call costs. Each line says one thing; the last is JSON. It ends with 1 if anything failed.

SDPA_DEVICE=interpreter python3 gpu.py --device cpu asks what needs no GPU of it, on shorter sequences.
"""

import argparse
import json
import math
import shutil
import statistics
import sys
import threading
import time
import traceback

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import evo_sdpa

torch.backends.cuda.matmul.allow_tf32 = False
torch.set_grad_enabled(False)


class Suite:
    """Runs checks by name, and keeps what they said."""

    def __init__(self, device):
        self.device = device
        self.passed, self.failed, self.figures = 0, [], {}

    def check(self, name, check, *given, **more):
        try:
            said = check(self, *given, **more)
        except Exception as error:
            self.failed.append(name)
            where = traceback.extract_tb(error.__traceback__)[-1]
            print(f"FAILED  {name}: {type(error).__name__}: {error} ({where.filename}:{where.lineno})", flush=True)
        else:
            self.passed += 1
            print(f"passed  {name}{': ' + said if said else ''}", flush=True)

    def randn(self, *shape, dtype=torch.float16, seed=0):
        generator = torch.Generator().manual_seed(seed + sum(shape))
        return torch.randn(shape, generator=generator).to(dtype).to(self.device)


def require(condition, words):
    if not condition:
        raise AssertionError(words)


def attention(q, k, v, dtype, scale=None, causal=False, top_left=False, window=(-1, -1), softcap=0.0, slopes=None, sinks=None):
    """Output and log-sum-exp of [batch, length, heads, head_dim], step by step with every step in dtype."""
    q, k, v = (tensor.transpose(1, 2).to(dtype) for tensor in (q, k, v))
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    len_q, len_kv = q.shape[2], k.shape[2]
    scores = (q @ k.transpose(2, 3)).float() * (q.shape[3] ** -0.5 if scale is None else scale)
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    own = torch.arange(len_q, device=q.device)[:, None] + (0 if top_left else len_kv - len_q)
    distance = own - torch.arange(len_kv, device=q.device)[None]
    if slopes is not None:
        scores = scores - slopes[:, None, None] * distance.abs()
    left, right = window[0], 0 if causal or top_left else window[1]
    hidden = torch.zeros_like(distance, dtype=torch.bool)
    if left >= 0:
        hidden |= distance > left
    if right >= 0:
        hidden |= distance < -right
    scores = scores.masked_fill(hidden, -math.inf)
    if sinks is not None:
        column = sinks[None, :, None, None].expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, column], -1)
    lse = torch.logsumexp(scores, -1)
    weights = torch.exp(scores - torch.where(lse.isfinite(), lse, 0.0)[..., None])[..., :len_kv]
    return (weights.to(dtype) @ v).transpose(1, 2), lse


def compare(found, q, k, v, lse=None, **meant):
    """The error is at most twice that of the same steps in the tensors' own type, and a little."""
    wanted, sums = attention(q, k, v, torch.float32, **meant)
    usual, _ = attention(q, k, v, q.dtype, **meant)
    require(found.shape == wanted.shape and found.dtype == q.dtype, f"{found.dtype}{list(found.shape)}")
    require(bool(found.isfinite().all()), "not finite")
    error = float((found.float() - wanted).abs().max())
    limit = 2 * float((usual.float() - wanted).abs().max()) + (2e-3 if q.dtype == torch.bfloat16 else 2.5e-4)
    require(error <= limit, f"error {error:.2e} above {limit:.2e}")
    if lse is not None:
        require(lse.dtype == torch.float32 and lse.shape == sums.shape, f"lse is {lse.dtype}{list(lse.shape)}")
        same = (lse == sums) | ((lse - sums).abs() <= 2e-3)
        require(bool(same.all()), f"lse differs by {float((lse - sums).abs().nan_to_num().max()):.2e}")
    return f"error {error:.1e}, limit {limit:.1e}"


# --- every function against float32


def dense(suite, dtype, q_shape, k_shape, layout="BLHD", **meant):
    batch, len_q, heads, head_dim = q_shape
    _, len_kv, heads_kv, _ = k_shape
    if layout == "thirds":
        q, k, v = suite.randn(batch, len_q, 3, heads, head_dim, dtype=dtype).unbind(2)
    elif layout == "BHLD":
        q = suite.randn(batch, heads, len_q, head_dim, dtype=dtype).transpose(1, 2)
        k, v = (suite.randn(batch, heads_kv, len_kv, head_dim, dtype=dtype, seed=s).transpose(1, 2) for s in (1, 2))
    else:
        q = suite.randn(*q_shape, dtype=dtype)
        k, v = (suite.randn(*k_shape, dtype=dtype, seed=s) for s in (1, 2))
    names = {"scale": "softmax_scale", "window": "window_size", "slopes": "alibi_slopes"}
    asked = {names.get(name, name): value for name, value in meant.items()}
    out, lse, _ = evo_sdpa.flash_attn_func(q, k, v, return_attn_probs=True, **asked)
    return compare(out, q, k, v, lse, **meant)


def sdpa(suite, dtype, shape, len_kv=None, heads_kv=None, **given):
    batch, heads, length, head_dim = shape
    q = suite.randn(*shape, dtype=dtype)
    other = (batch, heads_kv or heads, len_kv or length, head_dim)
    k, v = (suite.randn(*other, dtype=dtype, seed=seed) for seed in (1, 2))
    out = evo_sdpa.scaled_dot_product_attention(q, k, v, enable_gqa=bool(heads_kv), **given)
    require(out.stride() == q.stride(), f"strides are {out.stride()}")
    theirs = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), enable_gqa=bool(heads_kv), **given)
    meant = {"scale": given.get("scale"), "top_left": given.get("is_causal", False)}
    rows = [tensor.transpose(1, 2) for tensor in (q, k, v)]
    difference = float((out.float() - theirs).abs().max())
    require(difference < (3e-2 if dtype == torch.bfloat16 else 4e-3), f"PyTorch's differs by {difference:.2e}")
    return compare(out.transpose(1, 2), *rows, **meant)


def packed(suite, dtype, lengths_q, lengths_k, heads, heads_kv, head_dim, **meant):
    cu_q, cu_k = (
        torch.tensor([0, *lengths], device=suite.device).cumsum(0).to(torch.int32) for lengths in (lengths_q, lengths_k)
    )
    q = suite.randn(sum(lengths_q), heads, head_dim, dtype=dtype)
    k, v = (suite.randn(sum(lengths_k), heads_kv, head_dim, dtype=dtype, seed=seed) for seed in (1, 2))
    asked = {"window_size" if name == "window" else name: value for name, value in meant.items()}
    out, lse, _ = evo_sdpa.flash_attn_varlen_func(
        q, k, v, cu_q, cu_k, max(lengths_q), max(lengths_k), return_attn_probs=True, **asked
    )
    said = ""
    for one in range(len(lengths_q)):
        queries, keys = (slice(int(cu[one]), int(cu[one + 1])) for cu in (cu_q, cu_k))
        if lengths_q[one]:
            rows = (q[None, queries], k[None, keys], v[None, keys])
            said = compare(out[None, queries], *rows, lse[None, :, queries], **meant)
    return f"{len(lengths_q)} sequences, the last with {said}"


def cache(suite, dtype, lengths, most, len_q, heads, heads_kv, head_dim, causal):
    q = suite.randn(len(lengths), len_q, heads, head_dim, dtype=dtype)
    k, v = (suite.randn(len(lengths), most, heads_kv, head_dim, dtype=dtype, seed=seed) for seed in (1, 2))
    # What is not used may be anything.
    for one, length in enumerate(lengths):
        k[one, length:] = math.nan
    used = torch.tensor(lengths, dtype=torch.int32, device=suite.device)
    out, lse = evo_sdpa.flash_attn_with_kvcache(q, k, v, cache_seqlens=used, causal=causal, return_softmax_lse=True)
    for one, length in enumerate(lengths):
        rows = (q[one : one + 1], k[one : one + 1, :length], v[one : one + 1, :length])
        compare(out[one : one + 1], *rows, lse[one : one + 1], causal=causal)
    least = min(lengths)
    same = evo_sdpa.flash_attn_with_kvcache(q, k, v, cache_seqlens=least, causal=causal)
    compare(same, q, k[:, :least], v[:, :least], causal=causal)


def stored(suite, dtype, lengths, most, heads, heads_kv, head_dim):
    """A cache of 8 bits, whose scales are powers of two: what it holds is exact in `dtype`."""
    q = suite.randn(len(lengths), 1, heads, head_dim, dtype=dtype)
    shape = (len(lengths), most, heads_kv, head_dim)
    caches = [suite.randn(*shape, dtype=dtype, seed=seed).to(torch.float8_e4m3fn) for seed in (1, 2)]
    scales = [2.0 ** torch.arange(first, first + heads_kv, device=suite.device, dtype=torch.float32) for first in (-2, -1)]
    used = torch.tensor(lengths, dtype=torch.int32, device=suite.device)
    given = {"k_descale": scales[0], "v_descale": scales[1]}
    out, lse = evo_sdpa.flash_attn_with_kvcache(q, *caches, cache_seqlens=used, return_softmax_lse=True, **given)
    k, v = (cache.to(dtype) * scale.to(dtype)[:, None] for cache, scale in zip(caches, scales, strict=True))
    for one, length in enumerate(lengths):
        rows = (q[one : one + 1], k[one : one + 1, :length], v[one : one + 1, :length])
        compare(out[one : one + 1], *rows, lse[one : one + 1])


def appending(suite, dtype, size, recorded=False):
    """Steps of a server, by calls or by replays of one graph: each appends a key of each sequence, or two, and attends."""
    lengths, new, room = [14, 0, 61], 2, 80
    q, k, v = (suite.randn(3, new, heads, 64, dtype=dtype) for heads in (8, 2, 2))
    used = torch.tensor(lengths, dtype=torch.int32, device=suite.device)
    columns = room // (size or room)
    table = torch.arange(3 * columns, device=suite.device).flip(0).view(3, columns).int() if size else None
    caches = [suite.randn(3 * columns, size or room, 2, 64, dtype=dtype, seed=seed) for seed in (3, 4)]
    whole = [(cache[table.long()] if size else cache).reshape(3, room, 2, 64).clone() for cache in caches]
    result = {}

    def step():
        result["out"] = evo_sdpa.flash_attn_with_kvcache(q, *caches, k, v, cache_seqlens=used, block_table=table, causal=True)
        used.add_(new)

    take = step
    if recorded:
        before = [tensor.clone() for tensor in (used, *caches)]
        step()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        for tensor, old in zip((used, *caches), before, strict=True):
            tensor.copy_(old)
        take = graph.replay
    for turn in range(4):
        for seed, tensor in enumerate((q, k, v)):
            tensor.copy_(suite.randn(*tensor.shape, dtype=dtype, seed=10 * turn + seed))
        take()
        for one, length in enumerate(lengths):
            end = length + new * (turn + 1)
            for rows, added in zip(whole, (k, v), strict=True):
                rows[one, end - new : end] = added[one]
            keys = [rows[one : one + 1, :end] for rows in whole]
            compare(result["out"][one : one + 1], q[one : one + 1], *keys, causal=True)
    for cache, rows in zip(caches, whole, strict=True):
        found = cache[table.long()].reshape(rows.shape) if size else cache
        require(torch.equal(found, rows), "the cache differs from what a loop writes")


def agreement(suite):
    small = suite.device == "cpu"
    long = 80 if small else 2048
    for dtype in (torch.float16, torch.bfloat16):
        kind = str(dtype).removeprefix("torch.")
        for layout in ("BLHD", "BHLD", "thirds"):
            shape = (2, long // 2, 4, 64)
            suite.check(f"flash_attn_func {kind} {layout}", dense, dtype, shape, shape, layout)
            suite.check(f"flash_attn_func {kind} {layout} causal", dense, dtype, shape, shape, layout, causal=True)
        for head_dim in (32, 64, 128) if small else (32, 64, 72, 96, 128, 192, 256):
            q, k = (2, long + 3, 8, head_dim), (2, long + 40, 2, head_dim)
            if small:
                q, k = (1, 70, 4, head_dim), (1, 90, 2, head_dim)
            suite.check(f"flash_attn_func {kind} grouped, head_dim {head_dim}", dense, dtype, q, k)
            suite.check(f"flash_attn_func {kind} grouped, causal, head_dim {head_dim}", dense, dtype, q, k, causal=True)
        shape = (2, long // 2 + 5, 4, 64)
        heads = torch.linspace(0.05, 0.5, 4, device=suite.device)
        for name, meant in [
            ("scale", {"scale": 0.3}),
            ("window", {"window": (30, 12)}),
            ("causal window", {"causal": True, "window": (30, -1)}),
            ("softcap", {"softcap": 5.0}),
            ("slopes", {"slopes": heads, "causal": True}),
            ("sinks", {"sinks": heads * 4, "causal": True}),
        ]:
            suite.check(f"flash_attn_func {kind} {name}", dense, dtype, shape, shape, **meant)
        decode = (3, 1, 8, 128)
        suite.check(f"flash_attn_func {kind} decoding", dense, dtype, decode, (3, 2 * long + 1, 2, 128), causal=True)
        suite.check(f"scaled_dot_product_attention {kind}", sdpa, dtype, (2, 4, long // 4, 64))
        suite.check(f"scaled_dot_product_attention {kind} causal", sdpa, dtype, (2, 4, long // 4, 64), is_causal=True)
        more = {"is_causal": True, "scale": 0.2, "len_kv": long // 4 + 9, "heads_kv": 2}
        suite.check(f"scaled_dot_product_attention {kind} causal, top-left", sdpa, dtype, (2, 4, long // 4, 64), **more)
        lengths = [5, 0, 40, 1, 18] if small else [5, 0, 400, 1, 128, 127, 77, 333]
        keys = [length + extra for length, extra in zip(lengths, (0, 3, 4, 16, 0, 1, 9, 2), strict=False)]
        for name, meant in [("", {}), (" causal", {"causal": True}), (" window", {"window": (16, 16)})]:
            heads_of = (4, 4, 64) if name else (4, 2, 128)
            suite.check(f"flash_attn_varlen_func {kind}{name}", packed, dtype, lengths, keys, *heads_of, **meant)
        used = [40, 7, 33] if small else [900, 1, 513, 1024]
        suite.check(f"flash_attn_with_kvcache {kind}", cache, dtype, used, max(used) + 5, 1, 8, 2, 64, False)
        suite.check(f"flash_attn_with_kvcache {kind} causal", cache, dtype, [7, *used[2:]], max(used), 5, 8, 2, 64, True)
        suite.check(f"flash_attn_with_kvcache {kind} of 8 bits", stored, dtype, used, max(used) + 5, 8, 2, 64)
        for size in (None, 16):
            name = f"in pages of {size}" if size else "contiguous"
            suite.check(f"flash_attn_with_kvcache {kind} appends, {name}", appending, dtype, size)


# --- the checks themselves


def rejects(suite):
    q, k, v = (suite.randn(1, 64, 2, 64, seed=seed) for seed in range(3))
    right = evo_sdpa.flash_attn_func(q, k, v)
    faults = {
        "a causal mask": evo_sdpa.flash_attn_func(q, k, v, causal=True),
        "a key that is missing": evo_sdpa.flash_attn_func(q, k[:, 1:], v[:, 1:]),
        "another scale": evo_sdpa.flash_attn_func(q, k, v, softmax_scale=0.15),
        "a wrong row": torch.cat([right[:, 1:2], right[:, 1:]], 1),
        "a hole": right.index_fill(1, torch.tensor([9], device=suite.device), math.nan),
    }
    compare(right, q, k, v)
    for name, wrong in faults.items():
        try:
            compare(wrong, q, k, v)
        except AssertionError:
            continue
        raise AssertionError(f"{name} was not noticed")
    return f"{len(faults)} faults"


def declines(suite):
    q = suite.randn(1, 16, 2, 64)
    misaligned = q.flatten()[4:68].view(1, 1, 1, 64)
    calls = [
        (ValueError, lambda: evo_sdpa.flash_attn_func(q.float(), q.float(), q.float())),
        (ValueError, lambda: evo_sdpa.flash_attn_func(q, q[..., ::2], q)),
        (NotImplementedError, lambda: evo_sdpa.flash_attn_func(q, q, q, 0.1)),
        (NotImplementedError, lambda: evo_sdpa.scaled_dot_product_attention(q, q, q, attn_mask=q[0, :, 0])),
    ]
    if suite.device == "cuda":  # elsewhere it is copied
        calls.append((ValueError, lambda: evo_sdpa.flash_attn_func(misaligned, q[:, :, :1], q[:, :, :1])))
    for error, call in calls:
        try:
            call()
        except error:
            continue
        raise AssertionError(f"no {error.__name__}")
    with torch.enable_grad():
        try:
            evo_sdpa.flash_attn_func(q.clone().requires_grad_(), q, q)
        except NotImplementedError:
            return None
    raise AssertionError("a gradient was not declined")


# --- what only a GPU has


def memory(suite):
    """A call takes memory for its output, and for nothing else that PyTorch would see; the driver's is what it was."""
    projected = suite.randn(4, 1024, 3, 8, 128, dtype=torch.bfloat16)
    q, k, v = projected.unbind(2)

    def peak(call):
        call()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        kept = call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before, kept

    used, out = peak(lambda: evo_sdpa.flash_attn_func(q, k, v, causal=True))
    bytes_out = out.numel() * out.element_size()
    require(used == bytes_out, f"{used} bytes for an output of {bytes_out}")
    copied, _ = peak(lambda: evo_sdpa.flash_attn_func(q.contiguous(), k, v, causal=True))
    require(copied > bytes_out, "a copy was not noticed")
    free, _ = torch.cuda.mem_get_info()
    decode = suite.randn(2, 1, 32, 128, dtype=torch.bfloat16)
    keys = suite.randn(2, 8192, 8, 128, dtype=torch.bfloat16)
    reserved = torch.cuda.memory_reserved()
    for _ in range(300):
        evo_sdpa.flash_attn_func(q, k, v, causal=True)
        evo_sdpa.flash_attn_func(decode, keys, keys)
    torch.cuda.synchronize()
    leaked = free - torch.cuda.mem_get_info()[0] - (torch.cuda.memory_reserved() - reserved)
    # Loaded kernels, and the workspace that the driver's pool keeps.
    require(leaked < 64 << 20, f"{leaked} bytes more in use after 600 calls")
    return f"{used} bytes for the output; {leaked} bytes in use after 600 calls"


CAPTURED = {
    "short": ((1, 512, 8, 64), (1, 512, 8, 64), {}),
    "decoding": ((2, 1, 32, 128), (2, 4096, 8, 128), {}),
    "long causal": ((2, 2048, 8, 128), (2, 2048, 8, 128), {"causal": True}),
    "window": ((2, 1024, 8, 64), (2, 1024, 8, 64), {"window_size": (64, 64)}),
}


def captured(suite, q_shape, k_shape, asked):
    q = suite.randn(*q_shape, dtype=torch.bfloat16)
    k, v = (suite.randn(*k_shape, dtype=torch.bfloat16, seed=seed) for seed in (1, 2))
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        evo_sdpa.flash_attn_func(q, k, v, **asked)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    # Recorded on a stream that nothing ran on yet.
    with torch.cuda.graph(graph, stream=torch.cuda.Stream()):
        first = evo_sdpa.flash_attn_func(q, k, v, **asked)
        second = evo_sdpa.flash_attn_func(first, k, v, **asked)
    for seed in range(3):
        q.copy_(suite.randn(*q_shape, dtype=torch.bfloat16, seed=10 + seed))
        graph.replay()
        torch.cuda.synchronize()
        wanted = evo_sdpa.flash_attn_func(q, k, v, **asked)
        require(torch.equal(first, wanted), "the replay differs from the call")
        require(
            torch.equal(second, evo_sdpa.flash_attn_func(wanted, k, v, **asked)),
            "the second call of the replay differs",
        )


def captured_packed(suite):
    """A recorded graph serves other lengths."""
    q, k, v = (suite.randn(300, 4, 64, seed=seed) for seed in range(3))
    cu_seqlens = torch.tensor([0, 100, 180, 300], dtype=torch.int32, device=suite.device)
    call = lambda: evo_sdpa.flash_attn_varlen_func(q, k, v, cu_seqlens, cu_seqlens, 150, 150, causal=True)
    call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = call()
    before = None
    for lengths in ([100, 80, 120], [150, 1, 149], [30, 120, 150]):
        cu_seqlens[1:] = torch.tensor(lengths, device=suite.device).cumsum(0)
        graph.replay()
        require(torch.equal(out, call()), f"the replay differs from the call for {lengths}")
        require(before is None or not torch.equal(out, before), "other lengths changed nothing")
        before = out.clone()


def cold_capture(suite):
    """What was never called before is refused in words, and the recording goes on."""
    q = suite.randn(1, 40, 2, 248)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        doubled = q * 2
        try:
            evo_sdpa.flash_attn_func(q, q, q, softcap=3.0)
        except RuntimeError as error:
            said = str(error)
        else:
            said = ""
    graph.replay()
    torch.cuda.synchronize()
    require("once before the recording" in said, f"it said {said!r}")
    require(torch.equal(doubled, q * 2), "the recording was harmed")
    return said


def compiled(suite, mode=None, dynamic=None):
    torch._dynamo.reset()
    length = 40 if suite.device == "cpu" else 256

    def block(q, k, v, cu_seqlens, used):
        out, lse, _ = evo_sdpa.flash_attn_func(q, k, v, causal=True, return_attn_probs=True)
        heads = (tensor.transpose(1, 2) for tensor in (q, k, v))
        other = evo_sdpa.scaled_dot_product_attention(*heads, is_causal=True, enable_gqa=True)
        rows = (tensor.flatten(0, 1) for tensor in (q, k, v))
        third = evo_sdpa.flash_attn_varlen_func(*rows, cu_seqlens, cu_seqlens, q.shape[1], q.shape[1])
        fourth = evo_sdpa.flash_attn_with_kvcache(q, k, v, cache_seqlens=used)
        return torch.relu(out) + 1, lse, other, third, fourth

    said, how = None, {"mode": mode}
    if shutil.which("cc") is None and shutil.which("gcc") is None:
        # Inductor builds its launchers with a C compiler; the graph is the same without it.
        how = {"backend": "cudagraphs" if mode else "aot_eager"}
        said = f"by {how['backend']}, since there is no C compiler"
    made = torch.compile(block, fullgraph=True, dynamic=dynamic, **how)
    for grown in (0, 0, 8 if dynamic else 0):
        q = suite.randn(2, length + grown, 4, 64)
        k, v = (suite.randn(2, length + grown, 2, 64, seed=seed) for seed in (1, 2))
        cu_seqlens = torch.arange(3, dtype=torch.int32, device=suite.device) * (length + grown)
        used = torch.tensor([length, 9], dtype=torch.int32, device=suite.device)
        given = (q, k, v, cu_seqlens, used)
        found = [tensor.clone() for tensor in made(*given)]
        for one, (first, second) in enumerate(zip(found, block(*given), strict=True)):
            require(torch.equal(first, second), f"result {one} differs")
    return said


def streams(suite):
    """Work is queued on the current stream, behind what made its inputs."""
    side = torch.cuda.Stream()
    q = suite.randn(2, 512, 8, 64)
    wanted = evo_sdpa.flash_attn_func(q + 1, q, q)
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        torch.cuda._sleep(200_000_000)
        late = q + 1
        out = evo_sdpa.flash_attn_func(late, q, q)
        require(not side.query(), "the stream is done already: nothing was shown")
    side.synchronize()
    require(torch.equal(out, wanted), "it did not wait for its stream")


def threads(suite):
    """Threads compute at once, each on a stream of its own, and each gets its own results."""
    asked = []
    for heads, len_q, len_k, head_dim in [(8, 512, 512, 64), (16, 1, 4096, 128), (4, 1000, 1000, 96), (8, 3, 2048, 64)]:
        asked.append([suite.randn(2, length, heads, head_dim, seed=seed) for seed, length in enumerate((len_q, len_k, len_k))])
    wanted = [evo_sdpa.flash_attn_func(*tensors) for tensors in asked]
    torch.cuda.synchronize()
    found = [[] for _ in asked]

    def work(index):
        # Inference mode is each thread's own.
        with torch.inference_mode(), torch.cuda.stream(torch.cuda.Stream()) as _:
            for _ in range(100):
                found[index].append(evo_sdpa.flash_attn_func(*asked[index]))
            torch.cuda.current_stream().synchronize()

    workers = [threading.Thread(target=work, args=(index,)) for index in range(len(asked))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for index, outs in enumerate(found):
        require(len(outs) == 100, f"thread {index} ended after {len(outs)} calls")
        require(all(torch.equal(out, wanted[index]) for out in outs), f"thread {index} got something else")
    return f"{len(asked)} threads, 100 calls each"


def second_gpu(suite):
    if torch.cuda.device_count() < 2:
        return "not asked: there is one GPU"
    q = suite.randn(2, 512, 8, 64)
    wanted = evo_sdpa.flash_attn_func(q, q, q)
    other = q.to("cuda:1")
    found = evo_sdpa.flash_attn_func(other, other, other)
    require(torch.cuda.current_device() == 0, "the current device has changed")
    require(torch.equal(found.to("cuda:0"), wanted), "the second GPU computes something else")
    require(torch.ones(1, device="cuda").device.index == 0, "the current device has changed")
    return None


# --- times


def per_call(call, calls=200, rounds=15):
    """Median over rounds of the host's µs for a call, while the GPU keeps up or not: it is not waited for."""
    for _ in range(50):
        call()
    torch.cuda.synchronize()
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        for _ in range(calls):
            call()
        times.append((time.perf_counter() - begin) / calls * 1e6)
        torch.cuda.synchronize()
    return statistics.median(times)


def on_device(call, calls=50, rounds=15):
    """Median over rounds of the GPU's µs for a call in a recorded graph."""
    call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            call()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    graph.replay()
    times = []
    for _ in range(rounds):
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) / calls * 1e3)
    return statistics.median(times)


def times(suite):
    """µs of the host for a call, beside PyTorch's, on a problem so small that the GPU waits; and µs of the GPU."""

    def theirs(backend, *given, **more):
        def call():
            return F.scaled_dot_product_attention(*given, **more)

        with sdpa_kernel(backend):
            return per_call(call), on_device(call)

    figures = {}
    for name, (batch, heads, heads_kv, len_q, len_kv, head_dim), causal in [
        ("tiny (1,1,64,64)", (1, 1, 1, 64, 64, 64), False),
        ("short (1,8,512,64)", (1, 8, 8, 512, 512, 64), False),
        ("decoding (1,32/8,1×4096,128)", (1, 32, 8, 1, 4096, 128), False),
        ("long (2,16,4096,128) causal", (2, 16, 16, 4096, 4096, 128), True),
    ]:
        q = suite.randn(batch, heads, len_q, head_dim, dtype=torch.bfloat16)
        k, v = (suite.randn(batch, heads_kv, len_kv, head_dim, dtype=torch.bfloat16, seed=seed) for seed in (1, 2))
        grouped = heads != heads_kv
        more = {"is_causal": causal, "enable_gqa": grouped}
        rows = [tensor.transpose(1, 2) for tensor in (q, k, v)]
        calls = {
            "scaled_dot_product_attention": lambda: evo_sdpa.scaled_dot_product_attention(q, k, v, **more),
            "flash_attn_func": lambda: evo_sdpa.flash_attn_func(*rows, causal=causal),
            "torch.ops.evo_sdpa.attention": lambda: torch.ops.evo_sdpa.attention(
                q, k, v, 0, int(causal), None, -1, -1, 0.0, *[None] * 8, 0, 0, False
            ),
        }
        found = {what: (per_call(call), on_device(call)) for what, call in calls.items()}
        for what, backend in [("torch flash", SDPBackend.FLASH_ATTENTION), ("torch cudnn", SDPBackend.CUDNN_ATTENTION)]:
            try:
                found[what] = theirs(backend, q, k, v, **more)
            except RuntimeError as error:
                print(f"        {name}: {what} does not take it: {str(error).splitlines()[0]}")
        figures[name] = {what: {"host_us": host, "gpu_us": gpu} for what, (host, gpu) in found.items()}
        for what, (host, gpu) in found.items():
            print(f"        {name}: {what}: {host:.2f} µs of the host, {gpu:.2f} µs of the GPU", flush=True)
    suite.figures["times"] = figures


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--no-times", action="store_true", help="leave out what is only timed")
    parser.add_argument("--out", help="also write the last line's JSON to this file")
    given = parser.parse_args()
    suite = Suite(given.device)
    environment = {"evo_sdpa": evo_sdpa.__version__, "torch": torch.__version__, "device": given.device}
    if given.device == "cuda":
        environment["gpu"] = torch.cuda.get_device_name()
    print(json.dumps(environment), flush=True)

    suite.check("the comparison rejects what is wrong", rejects)
    suite.check("what has no kernel is declined", declines)
    agreement(suite)
    suite.check("torch.compile, full graph", compiled)
    suite.check("torch.compile, full graph, any shape", compiled, dynamic=True)
    if given.device == "cuda":
        suite.check("torch.compile, full graph, reduce-overhead", compiled, mode="reduce-overhead")
        suite.check("nothing is copied, nothing leaks", memory)
        for name, (q_shape, k_shape, asked) in CAPTURED.items():
            suite.check(f"CUDA graph, {name}", captured, q_shape, k_shape, asked)
        suite.check("CUDA graph, packed", captured_packed)
        for size in (None, 16):
            name = f"in pages of {size}" if size else "contiguous"
            suite.check(f"CUDA graph, appending, {name}", appending, torch.bfloat16, size, True)
        suite.check("CUDA graph without a call before", cold_capture)
        suite.check("streams", streams)
        suite.check("threads", threads)
        suite.check("a second GPU", second_gpu)
        if not given.no_times:
            suite.check("times", times)
    result = {"example": "python", **environment, "passed": suite.passed, "failed": suite.failed, **suite.figures}
    line = json.dumps(result, ensure_ascii=False)
    if given.out:
        with open(given.out, "w", encoding="utf-8") as file:
            file.write(line + "\n")
    print(line)
    return 1 if suite.failed else 0


if __name__ == "__main__":
    sys.exit(main())
