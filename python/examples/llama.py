"""A Llama of random weights with our attention: prefill and decoding, beside PyTorch's: python3 examples/llama.py

It needs evo-sdpa, torch and transformers. Logits are compared with those of the same model in float32: ours may be wrong by
half more than PyTorch's in the same type. On a GPU prefill and decoding are timed, too. The last line is JSON; it ends with 1
if logits are wrong.

Without a GPU: SDPA_DEVICE=interpreter python3 examples/llama.py --small
"""

import argparse
import copy
import json
import statistics
import sys
import time

import torch
import transformers

import evo_sdpa

SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
SMALL = dict(zip(SIZES, (64, 128, 2, 4, 2), strict=True))
USUAL = dict(zip(SIZES, (2048, 8192, 16, 32, 8), strict=True))


def run(model, tokens, prompt):
    """Logits of all positions: the prompt at once, then token by token from the cache."""
    cache = transformers.DynamicCache(config=model.config)
    steps = [model(tokens[:, :prompt], past_key_values=cache, use_cache=True).logits]
    for step in range(prompt, tokens.shape[1]):
        steps.append(model(tokens[:, step : step + 1], past_key_values=cache, use_cache=True).logits)
    return torch.cat(steps, 1).float()


def timed(model, tokens, prompt, rounds=5):
    """Medians over rounds: ms of the prefill, and tokens per second of decoding."""
    prefills, decodings = [], []
    for _ in range(rounds + 1):
        cache = transformers.DynamicCache(config=model.config)
        torch.cuda.synchronize()
        begin = time.perf_counter()
        model(tokens[:, :prompt], past_key_values=cache, use_cache=True)
        torch.cuda.synchronize()
        middle = time.perf_counter()
        for step in range(prompt, tokens.shape[1]):
            model(tokens[:, step : step + 1], past_key_values=cache, use_cache=True)
        torch.cuda.synchronize()
        prefills.append((middle - begin) * 1e3)
        decodings.append(tokens.shape[0] * (tokens.shape[1] - prompt) / (time.perf_counter() - middle))
    # The first round loads kernels.
    return {
        "prefill_ms": round(statistics.median(prefills[1:]), 3),
        "tokens_per_second": round(statistics.median(decodings[1:]), 1),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="two layers, and a prompt that the interpreter reads in seconds")
    parser.add_argument("--prompt", type=int, help="tokens of the prompt")
    parser.add_argument("--new", type=int, help="tokens that are decoded")
    given = parser.parse_args()
    torch.set_grad_enabled(False)
    torch.manual_seed(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    prompt = given.prompt or (33 if given.small else 2048)
    length = prompt + (given.new or (4 if given.small else 64))
    config = transformers.LlamaConfig(
        vocab_size=1000 if given.small else 32000,
        max_position_embeddings=length,
        # Scores far from 0, so that each key matters.
        initializer_range=0.12 if given.small else 0.03,
        **(SMALL if given.small else USUAL),
    )
    exact = transformers.LlamaForCausalLM(config).eval().to(device)
    tokens = torch.randint(0, config.vocab_size, (2, length), device=device)
    # Rounded once, so that float32 has the same weights.
    model = copy.deepcopy(exact).to(torch.bfloat16)
    exact = exact.to(torch.bfloat16).float()
    exact.set_attn_implementation("eager")
    wanted = run(exact, tokens, prompt)
    del exact

    name = evo_sdpa.register_with_transformers()
    result = {"example": "llama", "device": torch.cuda.get_device_name() if device == "cuda" else "interpreter"}
    result |= {"layers": config.num_hidden_layers, "prompt": prompt, "new": length - prompt, "batch": 2}
    errors = {}
    for who, implementation in [("pytorch", "sdpa"), ("evo_sdpa", name)]:
        model.set_attn_implementation(implementation)
        logits = run(model, tokens, prompt)
        errors[who] = [
            float((logits[:, part] - wanted[:, part]).norm() / wanted[:, part].norm())
            for part in (slice(0, prompt), slice(prompt, length))
        ]
        result[who] = {"prefill_error": round(errors[who][0], 6), "decoding_error": round(errors[who][1], 6)}
        if device == "cuda":
            result[who] |= timed(model, tokens, prompt)
    wrong = [
        f"{part}: {ours:.2e} beside PyTorch's {theirs:.2e}"
        for part, ours, theirs in zip(("prefill", "decoding"), errors["evo_sdpa"], errors["pytorch"], strict=True)
        if not ours <= 1.5 * theirs
    ]
    result["ok"] = not wrong
    print(json.dumps(result))
    if wrong:
        sys.exit(f"logits are wrong: {'; '.join(wrong)}")


if __name__ == "__main__":
    main()
