"""Models of Hugging Face transformers on the interpreter, beside their own attention. Without transformers it says so."""

import os
import unittest
import warnings

try:
    import torch
    import transformers
except ImportError as error:
    raise unittest.SkipTest(f"PyTorch or transformers is not installed: {error}") from error

import evo_sdpa
from evo_sdpa import _torch

SMALL = {
    "vocab_size": 99,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "head_dim": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    # Scores of one and more, so that their scale and each key matter.
    "initializer_range": 0.12,
}
DECODER = {**SMALL, "num_key_value_heads": 2, "max_position_embeddings": 128}


def made(kind, config):
    torch.manual_seed(3)
    return kind(config).to(torch.bfloat16).eval()


@unittest.skipUnless(os.environ.get("SDPA_DEVICE") == "interpreter", "CPU tensors need SDPA_DEVICE=interpreter")
class Models(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.name = evo_sdpa.register_with_transformers()
        torch.set_grad_enabled(False)

    @classmethod
    def tearDownClass(cls):
        torch.set_grad_enabled(True)

    def setUp(self):
        generator = torch.Generator().manual_seed(5)
        self.tokens = torch.randint(3, 99, (3, 23), generator=generator)
        self.calls = 0
        function = _torch._compute

        def counted(*given):
            self.calls += 1
            return function(*given)

        _torch._compute = counted
        self.addCleanup(setattr, _torch, "_compute", function)

    def outputs(self, model, implementation, there=None, **given):
        """The last hidden states, or the logits."""
        model.set_attn_implementation(implementation)
        self.calls = 0
        found = model(self.tokens, attention_mask=there, **given)[0].float()
        return found if there is None else found[there.bool()]

    def same(self, model, there=None, other="sdpa", **given):
        wanted = self.outputs(model, other, there, **given)
        self.assertEqual(self.calls, 0)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = self.outputs(model, self.name, there, **given)
        self.assertEqual(self.calls, model.config.num_hidden_layers, "our attention was not used")
        close = torch.nn.functional.cosine_similarity(found, wanted, dim=-1).min()
        self.assertGreater(float(close), 0.9995)
        return found

    def padding(self, left):
        there = torch.ones(3, 23, dtype=torch.int64)
        for row, length in enumerate([23, 9, 1]):
            there[row, : 23 - length] = 0
            if not left:
                there[row] = there[row].flip(0)
        return there

    def test_an_encoder(self):
        config = transformers.BertConfig(**{name: SMALL[name] for name in SMALL if name != "head_dim"})
        model = made(transformers.BertModel, config)
        whole = self.same(model)
        padded = self.same(model, self.padding(left=False))
        self.assertFalse(torch.equal(whole[1, 0], padded[23]), "padding changed nothing")
        self.same(model, self.padding(left=True))

    def test_an_encoder_with_windows(self):
        config = transformers.ModernBertConfig(
            **{name: SMALL[name] for name in SMALL if name != "head_dim"},
            local_attention=8,
            global_attn_every_n_layers=2,
        )
        model = made(transformers.ModernBertModel, config)
        self.same(model)
        self.same(model, self.padding(left=False))

    def test_decoders(self):
        llama = made(transformers.LlamaForCausalLM, transformers.LlamaConfig(**DECODER))
        self.same(llama)
        self.same(llama, self.padding(left=True))
        self.same(llama, self.padding(left=False))
        windows = made(transformers.MistralForCausalLM, transformers.MistralConfig(**DECODER, sliding_window=6))
        all_keys = made(transformers.MistralForCausalLM, transformers.MistralConfig(**DECODER, sliding_window=None))
        found = self.same(windows)
        self.assertFalse(torch.allclose(found, self.same(all_keys), atol=0.05), "the window changed nothing")
        self.same(windows, self.padding(left=True))

    def test_soft_caps(self):
        config = transformers.Gemma2Config(**DECODER, attn_logit_softcapping=0.3, sliding_window=7, query_pre_attn_scalar=1)
        # PyTorch's has no soft caps.
        self.same(made(transformers.Gemma2ForCausalLM, config), other="eager")

    def test_sinks(self):
        config = transformers.GptOssConfig(**DECODER, num_local_experts=2, num_experts_per_tok=1, sliding_window=8)
        model = made(transformers.GptOssForCausalLM, config)
        for layer in model.model.layers:
            layer.self_attn.sinks.copy_(torch.linspace(-2, 3, 4))
        self.same(model, other="eager")

    def test_decoding(self):
        model = made(transformers.LlamaForCausalLM, transformers.LlamaConfig(**DECODER))
        for there in (None, self.padding(left=True)):
            logits = []
            for implementation in ("sdpa", self.name):
                model.set_attn_implementation(implementation)
                self.calls = 0
                cache, steps = transformers.DynamicCache(config=model.config), []
                for begin, end in [(0, 12), (12, 17), *((step, step + 1) for step in range(17, 23))]:
                    mask = None if there is None else there[:, :end]
                    out = model(self.tokens[:, begin:end], attention_mask=mask, past_key_values=cache, use_cache=True)
                    steps.append(out.logits.float())
                logits.append(torch.cat(steps, 1))
            self.assertEqual(self.calls, 16, "two layers, eight steps")
            close = torch.nn.functional.cosine_similarity(*logits, dim=-1)
            self.assertGreater(float((close if there is None else close[there.bool()]).min()), 0.9995)

    def test_generation(self):
        model = made(transformers.LlamaForCausalLM, transformers.LlamaConfig(**DECODER))
        model.set_attn_implementation(self.name)
        model.generate(self.tokens, attention_mask=self.padding(left=True), max_new_tokens=5, do_sample=False)
        self.assertEqual(self.calls, 10, "two layers, five steps")

    def test_another_mask_is_pytorchs(self):
        model = made(transformers.LlamaForCausalLM, transformers.LlamaConfig(**DECODER))
        mask = torch.rand(3, 1, 23, 23) > 0.3
        mask |= torch.eye(23, dtype=torch.bool)
        wanted = self.outputs_with(model, "sdpa", mask)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found = self.outputs_with(model, self.name, mask)
        self.assertIn("no kernels for this mask: PyTorch's", str(said[0].message))
        self.assertTrue(torch.equal(found, wanted))
        self.assertEqual(self.calls, 0)

    def outputs_with(self, model, implementation, mask):
        model.set_attn_implementation(implementation)
        return model(self.tokens, attention_mask=mask)[0]

    def test_packed_positions_are_not_mixed_up(self):
        model = made(transformers.LlamaForCausalLM, transformers.LlamaConfig(**DECODER))
        positions = torch.cat([torch.arange(9), torch.arange(14)])[None]
        self.tokens = self.tokens[:1]
        model.set_attn_implementation("sdpa")
        wanted = model(self.tokens, position_ids=positions, use_cache=False)[0]
        model.set_attn_implementation(self.name)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found = model(self.tokens, position_ids=positions, use_cache=False)[0]
        self.assertIn("no kernels for this mask", str(said[0].message))
        self.assertTrue(torch.equal(found, wanted))
        # With the lengths said, they are packed sequences.
        begins = torch.tensor([0, 9, 23], dtype=torch.int32)
        lengths = {"cu_seq_lens_q": begins, "cu_seq_lens_k": begins, "max_length_q": 14, "max_length_k": 14}
        self.calls = 0
        found = model(self.tokens, position_ids=positions, use_cache=False, **lengths)[0]
        self.assertEqual(self.calls, 2)
        close = torch.nn.functional.cosine_similarity(found.float(), wanted.float(), dim=-1).min()
        self.assertGreater(float(close), 0.9995)

    def test_compiled(self):
        model = made(transformers.LlamaForCausalLM, transformers.LlamaConfig(**DECODER))
        model.set_attn_implementation(self.name)
        wanted = model(self.tokens)[0]
        operators = []

        def backend(graph, _):
            operators.extend(str(node.target) for node in graph.graph.nodes)
            return graph

        # Without a cache transformers compiles a mask for packed positions, which PyTorch computes.
        found = torch.compile(model, fullgraph=True, backend=backend)(self.tokens)[0]
        self.assertEqual(operators.count("evo_sdpa.attention.default"), 2, operators)
        model(self.tokens, use_cache=False)
        torch.compile(model, fullgraph=True, backend="eager")(self.tokens, self.padding(left=True), use_cache=False)
        close = torch.nn.functional.cosine_similarity(found.float(), wanted.float(), dim=-1).min()
        self.assertGreater(float(close), 0.999)


if __name__ == "__main__":
    unittest.main()
