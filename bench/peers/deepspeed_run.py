#!/usr/bin/env python3
"""DeepSpeed's ZeRO-Inference: all weights in pinned host memory, fetched layer by layer, some kept by their size."""
import os

import work


def main():
    options = work.arguments(__doc__)
    for name, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "1"), ("MASTER_ADDR", "127.0.0.1"),
                        ("MASTER_PORT", "29731")):
        os.environ.setdefault(name, value)
    import deepspeed
    from transformers.integrations import HfDeepSpeedConfig
    config, directory = work.configuration(options.model)
    layer = 4 * config.hidden_size * config.hidden_size + 2 * config.hidden_size * config.ffn_dim
    kept = int(options.resident * layer * config.num_hidden_layers)
    half = "fp16" if options.device == "cuda" else "bf16"  # on a CPU it has no fp16
    settings = {half: {"enabled": True}, "train_micro_batch_size_per_gpu": options.batch,
                "zero_optimization": {"stage": 3, "offload_param": {"device": "cpu", "pin_memory": options.device == "cuda"},
                                      "stage3_prefetch_bucket_size": 2 * layer,
                                      "stage3_param_persistence_threshold": config.hidden_size,
                                      "stage3_max_live_parameters": max(kept, 2 * layer)}}
    kept_alive = HfDeepSpeedConfig(settings)  # transformers looks for it while it loads
    model = work.make_model(config, directory, "float16" if half == "fp16" else "bfloat16")
    engine = deepspeed.initialize(model=model, config=settings)[0]
    engine.module.eval()
    work.generate(engine.module, config, options)
    del kept_alive


if __name__ == "__main__":
    main()
