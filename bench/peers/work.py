"""What the peers' programs share: the work, a clock of tokens, and the one line of JSON that each prints at its end.

The work is a batch of prompts of equal length, of random tokens, and answers of equal length, greedy. Weights are those of
a directory, or random ones of OPT's shape: no time depends on their values.
"""

import argparse
import json
import time

# layers, width, feed-forward, heads: Zhang et al., arXiv 2205.01068
SHAPES = {"opt-125m": (12, 768, 3072, 12), "opt-1.3b": (24, 2048, 8192, 32), "opt-6.7b": (32, 4096, 16384, 32),
          "opt-13b": (40, 5120, 20480, 40), "opt-30b": (48, 7168, 28672, 56)}


def arguments(description):
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", required=True, help="a Hugging Face directory, or one of " + ", ".join(SHAPES))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--output", type=int, default=32)
    parser.add_argument("--resident", type=float, default=0.5, help="share of the weights that stays on the device")
    parser.add_argument("--device", default="cuda", help="cpu shows that it runs, and measures nothing")
    return parser.parse_args()


def configuration(model):
    """The model's configuration, and its directory, or None if its weights are to be random."""
    from transformers import AutoConfig, OPTConfig
    if model not in SHAPES:
        return AutoConfig.from_pretrained(model), model
    layers, width, feed_forward, heads = SHAPES[model]
    return OPTConfig(num_hidden_layers=layers, hidden_size=width, ffn_dim=feed_forward, num_attention_heads=heads,
                     word_embed_proj_dim=width, vocab_size=50272, max_position_embeddings=2048), None


def make_model(config, directory, type_name="float16"):
    """In host memory, evaluating."""
    import torch
    from transformers import AutoModelForCausalLM
    dtype = getattr(torch, type_name)
    if directory:
        return AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, local_files_only=True).eval()
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        return AutoModelForCausalLM.from_config(config).eval()
    finally:
        torch.set_default_dtype(before)


class Clock:
    """When each token was there. It stands where transformers' generate() calls its logits processors: once a token."""

    def __init__(self, cuda):
        self.cuda = cuda
        self.times = []

    def tick(self):
        if self.cuda:
            import torch
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())

    def __call__(self, _ids, scores):
        self.tick()
        return scores


def generate(model, config, work):
    """Runs the work twice, times the second, and prints what it took."""
    import torch
    from transformers import LogitsProcessorList
    cuda = work.device == "cuda"
    ids = torch.randint(10, config.vocab_size - 1, (work.batch, work.prompt),
                        generator=torch.Generator().manual_seed(0)).to(work.device)
    for tokens in (2, work.output):
        clock = Clock(cuda)
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        clock.tick()
        with torch.inference_mode():
            model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, min_new_tokens=tokens,
                           do_sample=False, use_cache=True, logits_processor=LogitsProcessorList([clock]))
    if len(clock.times) != work.output + 1:
        raise SystemExit(f"{len(clock.times) - 1} tokens came, not {work.output}")
    show(clock.times, work, torch.cuda.max_memory_reserved() if cuda else 0)


def show(times, work, device_peak_bytes):
    seconds, rest = times[-1] - times[0], times[-1] - times[1]
    print(json.dumps({"ttft_ms": 1e3 * (times[1] - times[0]), "tpot_ms": 1e3 * rest / max(1, work.output - 1),
                      "tokens_per_s": work.batch * work.output / seconds, "device_peak_bytes": device_peak_bytes}))
