#!/usr/bin/env python3
"""Golden logits of one tiny random model for each family, made with Hugging Face transformers in f32 on the CPU.

Weights come from an integer hash, so that the tests make the same model without torch: value i of the tensor `name` is

    u = ((random_hash(fnv1a_64(name), i) >> 40) - 2^23) / 2^23            in [-1, 1), exact in f32
    f32(f32(u) * f32(scale)) + f32(centre)                                rounded to the tensor's dtype

with random_hash() as base/random.c has it. The output holds each model's config.json, its tensors as
[name, shape, centre, scale], token ids, and the logits of some positions: `logits` with keys and values rounded to
f16 on their way into the cache, as the server keeps them, and `plain` of the last position without that.

Needs torch and transformers (made with 2.15.0 and 5.23.0):
    make_family_goldens.py tests/data/family_logits.json
"""

import json
import math
import sys

import numpy
import torch
import transformers
from transformers.cache_utils import DynamicCache

POSITIONS = [0, 9, 23]
MASK = (1 << 64) - 1

LLAMA = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "vocab_size": 80, "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
         "hidden_act": "silu", "rope_theta": 10000.0, "tie_word_embeddings": False}

# Fields as the published files have them; name: (dtype of the weights, config.json)
FAMILIES = {
    "llama": ("F32", {"model_type": "llama", **LLAMA}),
    "llama3": ("BF16", {"model_type": "llama", **LLAMA, "rope_theta": 500000.0, "rope_scaling": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16}}),
    "mistral": ("F32", {"model_type": "mistral", **LLAMA, "head_dim": 24, "sliding_window": 8}),
    "qwen2": ("F16", {"model_type": "qwen2", **LLAMA, "tie_word_embeddings": True, "use_sliding_window": False,
                      "sliding_window": 16, "max_window_layers": 1, "rope_scaling": {
                          "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}}),
    "qwen3": ("F32", {"model_type": "qwen3", **{k: v for k, v in LLAMA.items() if k != "rope_theta"}, "head_dim": 32,
                      "attention_bias": False,
                      "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0}}),
    "gemma3": ("F32", {"model_type": "gemma3_text", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4,
                       "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 32, "vocab_size": 80,
                       "max_position_embeddings": 128, "rms_norm_eps": 1e-6,
                       "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 32, "sliding_window": 8,
                       "sliding_window_pattern": 2, "rope_theta": 1000000.0, "rope_local_base_freq": 10000.0,
                       "rope_scaling": {"rope_type": "linear", "factor": 8.0}, "attn_logit_softcapping": None,
                       "final_logit_softcapping": None}),
    "opt": ("F32", {"model_type": "opt", "hidden_size": 64, "ffn_dim": 96, "num_hidden_layers": 2,
                    "num_attention_heads": 4, "vocab_size": 80, "max_position_embeddings": 64,
                    "activation_function": "relu", "do_layer_norm_before": True, "word_embed_proj_dim": 64,
                    "_remove_final_layer_norm": False}),
    "gpt2": ("F32", {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "n_inner": None, "vocab_size": 80,
                     "n_positions": 64, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5}),
}


def splitmix64(state):
    """The mixed value of one step from `state`."""
    z = (state + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def random_hash(a, b):
    return splitmix64(splitmix64(a) ^ b)


def fnv1a_64(text):
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = ((value ^ byte) * 0x100000001B3) & MASK
    return value


def tensor_values(name, shape, centre, scale, dtype):
    key = fnv1a_64(name)
    count = math.prod(shape)
    unit = numpy.array([(random_hash(key, i) >> 40) - (1 << 23) for i in range(count)], numpy.float32)
    values = unit / numpy.float32(1 << 23) * numpy.float32(scale) + numpy.float32(centre)
    tensor = torch.from_numpy(values.reshape(shape))
    return tensor.to({"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[dtype]).float()


def distribution(name, shape, family):
    """Centre and scale that keep activations near 1."""
    if len(shape) == 1:
        gain = name.endswith(".weight")
        return (1 if gain and family != "gemma3" else 0), 0.3
    if "embed" in name or "wte" in name or "wpe" in name:
        return 0, (0.2 if family == "gemma3" else 0.5)
    inputs = shape[0] if family == "gpt2" and "lm_head" not in name else shape[1]
    return 0, round(1.7 / math.sqrt(inputs), 6)


class RoundingCache(DynamicCache):
    """Keeps keys and values in f16."""

    def update(self, key_states, value_states, *args, **kwargs):
        return super().update(key_states.half().float(), value_states.half().float(), *args, **kwargs)


def run(model, cache, ids):
    with torch.no_grad():
        return model(torch.tensor([ids]), past_key_values=cache, use_cache=True).logits[0].numpy()


def rounded(row):
    return [float(f"{value:.7g}") for value in row]


def make(family, dtype, fields):
    config = transformers.AutoConfig.for_model(**fields)
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    tied = model.config.tie_word_embeddings
    tensors = []
    state = model.state_dict()
    for name, tensor in state.items():
        if not (tied and name == "lm_head.weight"):
            tensors.append([name, list(tensor.shape), *distribution(name, list(tensor.shape), family)])
    for spec in tensors:
        state[spec[0]].copy_(tensor_values(*spec, dtype))
    ids = [(7 * i * i + 3 * i + len(family)) % fields["vocab_size"] for i in range(POSITIONS[-1] + 1)]
    logits = run(model, RoundingCache(config=model.config), ids)
    plain = run(model, DynamicCache(config=model.config), ids)
    difference = numpy.linalg.norm(logits - plain) / numpy.linalg.norm(plain)
    print(f"{family}: |logits| {numpy.abs(logits).max():.3g}, f16 cache changes them by {difference:.2g}")
    return {"name": family, "dtype": dtype, "config": fields, "tensors": tensors, "ids": ids, "positions": POSITIONS,
            "logits": [rounded(logits[position]) for position in POSITIONS], "plain": rounded(plain[-1])}


def main():
    families = [make(name, dtype, fields) for name, (dtype, fields) in FAMILIES.items()]
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        file.write('{"families": [\n')
        for i, family in enumerate(families):
            parts = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in family.items()]
            file.write(" {\n" + ",\n".join(parts) + "\n }" + ("," if i + 1 < len(families) else "") + "\n")
        file.write("]}\n")


if __name__ == "__main__":
    main()
