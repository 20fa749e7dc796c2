#!/usr/bin/env python3
"""PyTorch's context_parallel over the GPUs of this host, one process each:

    python3 -m torch.distributed.run --nproc-per-node 2 bench/context_parallel.py --shape 1,32,131072,128,8 --both

Prints one line of JSON for each backend (flash, cuDNN), way of moving keys (allgather, alltoall) and mask. What a backend
declines is a line with the reason. Times are medians of samples, from one barrier to the next, as `sdpa bench --ranks` takes them.
"""

import argparse
import contextlib
import json
import os
import statistics
import time

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

try:
    from torch.distributed.tensor.experimental import _attention as attention
except ImportError:
    from torch.distributed.tensor.experimental._context_parallel import _attention as attention
from torch.distributed.tensor.experimental import context_parallel

BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}


def options():
    """PyTorch's switches, wherever this version keeps them."""
    for module in (attention, getattr(attention, "_context_parallel", None)):
        if module is not None and hasattr(module, "_cp_options"):
            return module._cp_options
    from torch.distributed.tensor.experimental._context_parallel import _attention

    return _attention._cp_options


def set_rotate(method):
    if hasattr(attention, "set_rotate_method"):
        attention.set_rotate_method(method)
        return
    from torch.distributed.tensor.experimental._context_parallel import _attention

    _attention.set_rotate_method(method)


def seconds(work, passes, samples):
    """The median of some samples, after one that warms up."""
    taken = []
    for _ in range(samples + 1):
        dist.barrier()
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(passes):
            work()
        torch.cuda.synchronize()
        dist.barrier()
        torch.cuda.synchronize()
        taken.append((time.perf_counter() - started) / passes)
    return statistics.median(taken[1:])


def measure(mesh, shape, causal, backend, rotate, arguments):
    batch, heads, length, width, heads_kv = shape
    torch.manual_seed(0)
    tensor = lambda count: torch.randn(batch, count, length, width, device="cuda", dtype=getattr(torch, arguments.dtype))
    query, key, value = tensor(heads), tensor(heads_kv), tensor(heads_kv)
    set_rotate(rotate)
    # PyTorch balances causal masks alone.
    options().enable_load_balance = causal
    flops = 4 * batch * heads * length * length * width / (2 if causal else 1)
    passes = max(2, min(200, int(0.4 * 5e14 / (flops / mesh.size()))))
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(sdpa_kernel(BACKENDS[backend]))
        stack.enter_context(context_parallel(mesh, buffers=[query, key, value], buffer_seq_dims=[2, 2, 2]))
        grouped = heads != heads_kv

        def native():
            return F.scaled_dot_product_attention(query, key, value, is_causal=causal, enable_gqa=grouped)

        def repeated():
            group = heads // heads_kv
            wide = (key.repeat_interleave(group, 1), value.repeat_interleave(group, 1))
            return F.scaled_dot_product_attention(query, *wide, is_causal=causal)

        work, how = native, "grouped heads" if grouped else "as they are"
        try:
            work()
            torch.cuda.synchronize()
        except Exception:
            if not grouped:
                raise
            work, how = repeated, "key heads repeated"
            work()
        return {"seconds": seconds(work, passes, arguments.samples), "heads": how, "passes": passes}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="1,32,131072,128,8", help="B,H,L,d,Hkv")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16"])
    parser.add_argument("--causal", action="store_true")
    parser.add_argument("--both", action="store_true", help="without and with a causal mask")
    parser.add_argument("--samples", type=int, default=5)
    arguments = parser.parse_args()
    shape = [int(number) for number in arguments.shape.split(",")]
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl", device_id=torch.device("cuda", int(os.environ["LOCAL_RANK"])))
    mesh = dist.device_mesh.init_device_mesh("cuda", (dist.get_world_size(),))
    for causal in [False, True] if arguments.both else [arguments.causal]:
        for backend in BACKENDS:
            for rotate in ["allgather", "alltoall"]:
                figure = {
                    "peer": "torch context_parallel",
                    "backend": backend,
                    "rotate": rotate,
                    "shape": shape,
                    "causal": causal,
                    "ranks": dist.get_world_size(),
                    "torch": torch.__version__,
                }
                try:
                    figure |= measure(mesh, shape, causal, backend, rotate, arguments)
                except Exception as error:  # a backend that declines is a result
                    figure["declined"] = f"{type(error).__name__}: {error}".splitlines()[0][:300]
                torch.cuda.empty_cache()
                if dist.get_rank() == 0:
                    print(json.dumps(figure), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
