"""Puts recorded weights (OIHW kernels, `conv1.norm.running_var`) into our layers."""

import numpy as np

_SUFFIXES = {
    "conv/kernel": "weight",
    "conv/depthwise_kernel": "weight",
    "conv/bias": "bias",
    "norm/gamma": "norm.weight",
    "norm/beta": "norm.bias",
    "norm/moving_mean": "norm.running_mean",
    "norm/moving_variance": "norm.running_var",
}


def weights_of(file, block=""):
    """The arrays `<block>w:<name>` of a recorded file, by name."""
    prefix = block + "w:"
    return {key[len(prefix) :]: file[key] for key in file.files if key.startswith(prefix)}


def assign(layer, weights, modules):
    """Assigns every weight to one variable of the layer.

    Args:
      layer: a built layer.
      weights: arrays by recorded name.
      modules: recorded module by ours: {'depthwise': 'convs.1.depthwise'}.
    """
    unused = dict(weights)
    for variable in layer.variables:
        parts = variable.name.split(":")[0].split("/")
        path = parts[parts.index(layer.name) + 1 :]
        suffix = _SUFFIXES["/".join(path[-2:])]
        module = modules.get("/".join(path[:-2]), ".".join(path[:-2]))
        value = unused.pop(f"{module}.{suffix}".lstrip("."))
        if value.ndim == 4:
            depthwise = path[-1] == "depthwise_kernel"
            value = value.transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0))
        assert tuple(variable.shape) == value.shape, variable.name
        variable.assign(value)
    assert not unused, sorted(unused)


def nhwc(array):
    """[N, C, H, W] -> [N, H, W, C]."""
    return np.transpose(array, (0, 2, 3, 1))
