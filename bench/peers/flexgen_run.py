#!/usr/bin/env python3
"""FlexGen: a share of every tensor stays on the device, the rest lies in host memory; OPT alone, random weights.

Sheng et al., arXiv 2303.06865. Its own command line asks the model hub for a tokenizer; this calls what lies behind it.
"""
import tempfile

import work


def main():
    options = work.arguments(__doc__)
    if options.device != "cuda" or options.model not in work.SHAPES:
        raise SystemExit("flexgen runs on cuda alone, and its models are " + ", ".join(work.SHAPES))
    import numpy
    import torch
    from flexgen.compression import CompressionConfig
    from flexgen.flex_opt import DUMMY_WEIGHT, OptLM, Policy
    from flexgen.opt_config import get_opt_config
    from flexgen.pytorch_backend import TorchDevice, TorchDisk, TorchMixedDevice
    from flexgen.timer import timers
    from flexgen.utils import ExecutionEnv
    with tempfile.TemporaryDirectory() as folder:
        gpu, cpu, disk = TorchDevice("cuda:0"), TorchDevice("cpu"), TorchDisk(folder)
        env = ExecutionEnv(gpu=gpu, cpu=cpu, disk=disk, mixed=TorchMixedDevice([gpu, cpu, disk]))
        none = CompressionConfig(num_bits=4, group_size=64, group_dim=0, symmetric=False)
        resident = round(100 * options.resident)
        policy = Policy(options.batch, 1, resident, 100 - resident, 100, 0, 100, 0, True, True, True, False, 1.0, False, none,
                        False, none)
        model = OptLM(get_opt_config(options.model), env, DUMMY_WEIGHT, policy)
        prompts = numpy.random.default_rng(0).integers(10, 50000, (options.batch, options.prompt)).tolist()
        try:
            model.generate(prompts, max_new_tokens=2, verbose=0)
            timers("generate").reset()
            torch.cuda.reset_peak_memory_stats()
            model.generate(prompts, max_new_tokens=options.output, verbose=0)
            times = [0.0]
            for cost in timers("generate").costs:
                times.append(times[-1] + cost)
        finally:
            env.close_copy_threads()
    if len(times) != options.output + 1:
        raise SystemExit(f"{len(times) - 1} tokens were timed, not {options.output}")
    work.show(times, options, torch.cuda.max_memory_reserved())


if __name__ == "__main__":
    main()
