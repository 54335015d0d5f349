#!/usr/bin/env python3
"""Hugging Face accelerate: layers that do not fit the device lie in host memory and are copied when they are needed."""
import work


def main():
    options = work.arguments(__doc__)
    from accelerate import dispatch_model, infer_auto_device_map
    config, directory = work.configuration(options.model)
    model = work.make_model(config, directory)
    if options.device == "cpu":
        device_map = {"": "cpu"}
    else:
        bytes_of_weights = sum(weight.numel() * weight.element_size() for weight in model.parameters())
        device_map = infer_auto_device_map(model, no_split_module_classes=model._no_split_modules,
                                           max_memory={0: int(bytes_of_weights * options.resident), "cpu": 1 << 50})
    work.generate(dispatch_model(model, device_map), config, options)


if __name__ == "__main__":
    main()
