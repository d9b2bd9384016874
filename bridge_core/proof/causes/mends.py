"""What to write where: the line that mends a cause, in the framework of the side that is to change."""

from __future__ import annotations

from typing import Any

from bridge_core.proof.causes.site import ModuleView

__all__ = ["mend", "shown"]

ARGUMENTS = {
    "torch": {
        "eps": "eps",
        "stride": "stride",
        "dilation": "dilation",
        "padding": "padding",
        "groups": "num_groups",
        "window": "kernel_size",
    },
    "flax": {
        "eps": "epsilon",
        "stride": "strides",
        "dilation": "kernel_dilation",
        "padding": "padding",
        "groups": "num_groups",
        "window": "window_shape",
    },
}
"""Framework -> setting -> the argument of its layers."""

CALLS = {
    ("torch", "gelu"): "torch.nn.functional.gelu(x)",
    ("torch", "gelu_tanh"): 'torch.nn.functional.gelu(x, approximate="tanh")',
    ("torch", "quick_gelu"): "x * torch.sigmoid(1.702 * x)",
    ("torch", "sigmoid"): "torch.sigmoid(x)",
    ("torch", "tanh"): "torch.tanh(x)",
    ("torch", "hard_swish"): "torch.nn.functional.hardswish(x)",
    ("torch", "hard_sigmoid"): "torch.nn.functional.hardsigmoid(x)",
    ("torch", "hard_tanh"): "torch.nn.functional.hardtanh(x)",
    ("torch", "relu_squared"): "torch.nn.functional.relu(x).square()",
    ("torch", "soft_sign"): "torch.nn.functional.softsign(x)",
    ("torch", "softmax"): "torch.softmax(x, dim=-1)",
    ("torch", "log_softmax"): "torch.log_softmax(x, dim=-1)",
    ("flax", "gelu"): "jax.nn.gelu(x, approximate=False)",
    ("flax", "gelu_tanh"): "jax.nn.gelu(x, approximate=True)",
    ("flax", "quick_gelu"): "x * jax.nn.sigmoid(1.702 * x)",
    ("flax", "mish"): "jax.nn.mish(x)",
    ("flax", "tanh"): "jnp.tanh(x)",
    ("flax", "relu_squared"): "jnp.square(jax.nn.relu(x))",
    ("flax", "identity"): "x",
    ("torch", "identity"): "x",
    ("torch", "sin"): "torch.sin(x)",
    ("torch", "cos"): "torch.cos(x)",
    ("flax", "sin"): "jnp.sin(x)",
    ("flax", "cos"): "jnp.cos(x)",
}
"""(framework, activation) -> how it is written, where that is not the function of its name."""


def mend(view: ModuleView, changes: list[tuple[str, Any]]) -> str:
    """Return what to write so that a target's layer computes as the source's.

    Args:
        view: The target's module.
        changes: (setting, the source's value) pairs.
    """
    names = ARGUMENTS.get(view.framework, {})
    own = not view.type.startswith(("torch.nn.", "flax."))
    layer = view.type.rpartition(".")[2]
    arguments = [
        f"{names[setting]}={_argument(view, setting, value)}"
        for setting, value in changes
        if setting in names
    ]
    calls = [sentence for setting, value in changes if (sentence := _sentence(view, setting, value))]
    where = f"In the target, at {'.'.join(map(str, view.path)) or 'the model'}"
    if arguments and not own:
        calls.insert(0, f"nn.{layer}({', '.join(arguments)})")
    elif arguments:
        calls = [
            f"set {setting} to {shown(setting, value)}" for setting, value in changes if setting in names
        ] + calls
    return f"{where}: {'; '.join(calls) or 'compute as the source does'}."


def _argument(view: ModuleView, setting: str, value: Any) -> str:
    if view.framework == "torch" and setting == "padding":
        if all(low == high for low, high in value):
            return repr(tuple(low for low, _ in value) if len({low for low, _ in value}) > 1 else value[0][0])
        flat = ", ".join(f"{low}, {high}" for low, high in reversed(value))
        return f"0 after torch.nn.functional.pad(x, ({flat}))"
    if isinstance(value, tuple) and setting in ("stride", "dilation", "window"):
        return repr(value)
    return repr(value)


def _sentence(view: ModuleView, setting: str, value: Any) -> str:
    """Return what to do about a setting that is not an argument of the layer."""
    if setting == "activation":
        return call_of(view.framework, str(value))
    running = "model.eval()" if view.framework == "torch" else "use_running_average=True"
    training = "model.train()" if view.framework == "torch" else "use_running_average=False"
    over = {
        "running": f"normalise by the running statistics: {running}",
        "batch": f"normalise by the statistics of the batch: {training}",
    }
    texts = {
        "over": over.get(str(value), f"normalise over {OVER.get(str(value), value)}"),
        "centred": "subtract the mean (layer norm)" if value else "do not subtract the mean (RMS norm)",
        "variance": f"use the {value} variance",
        "eps_place": f"add epsilon {value} the root",
        "added": "multiply by 1 + scale" if value else "multiply by the scale, without 1 +",
        "scale": "multiply by the scale" if isinstance(value, str) else f"multiply by {value}",
        "bias": f"add the bias {_times(value)}",
        "transposed": "multiply by the transposed weight"
        if value
        else "multiply by the weight, not transposed",
        "offset": f"look up row id + {value}" if value else "look up row id",
        "flipped": "flip the kernel along its axes of space" if value else "do not flip the kernel",
        "swapped": "transpose the axes of space of the kernel",
        "zero_row": f"return zeros for row {value}" if value is not None else "do not zero a row",
        "how": f"use {value} pooling",
        "take": f"take the {value} {'token' if value in ('first', 'last') else 'over tokens'}",
        "padding_mode": f"pad with {PADDING.get(str(value), value)}",
    }
    return texts.get(setting, "")


OVER = {
    "features": "the features of each token",
    "batch": "batch and space (statistics of the batch)",
    "running": "running statistics",
    "instance": "space, each sample and channel by itself",
    "sample": "all of each sample",
    "tokens": "the tokens",
    "group": "groups of channels",
}


PADDING = {"edge": "the border's values", "reflect": "reflected values", "wrap": "the other end's values"}


def _times(value: Any) -> str:
    if value is None or value == 0:
        return "not at all"
    return {2: "twice", 3: "three times"}.get(value, "once") if isinstance(value, int) else "once"


def call_of(framework: str, activation: str) -> str:
    """Return how an activation is written in a framework."""
    plain, _, parameter = activation.partition("(")
    if (framework, plain) in CALLS and not parameter:
        return CALLS[framework, plain]
    if plain == "softcap":
        tanh = {"torch": "torch.tanh", "flax": "jnp.tanh"}.get(framework, "tanh")
        return f"{parameter[:-1]} * {tanh}(x / {parameter[:-1]})"
    room = {"torch": "torch.nn.functional.", "flax": "jax.nn."}.get(framework, "")
    return f"{room}{plain}(x{', ' + parameter[:-1] if parameter else ''})"


def shown(setting: str, value: Any) -> str:
    """Return a value of a setting for people."""
    if setting == "over":
        return OVER.get(str(value), str(value))
    if setting == "bias" and (value is None or isinstance(value, int)):
        return _times(value)
    if setting == "centred":
        return "mean subtracted" if value else "mean not subtracted"
    if setting == "added":
        return "1 + scale" if value else "scale"
    if isinstance(value, tuple) and len(set(value)) == 1 and setting != "padding":
        return str(value[0])
    if isinstance(value, float):
        return f"{value:g}"
    if value is None:
        return "none"
    return str(value).replace("True", "yes").replace("False", "no") if isinstance(value, bool) else str(value)
