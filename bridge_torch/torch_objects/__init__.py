"""Live objects of torch; no other part of the package imports torch."""

from bridge_torch.torch_objects.array_ops import TorchOps
from bridge_torch.torch_objects.loading import fill, loading_together, read_template
from bridge_torch.torch_objects.running import example_inputs, model_weights, run_model
from bridge_torch.torch_objects.settings import model_settings
from bridge_torch.torch_objects.tensors import build_state_dict, read_state

__all__ = [
    "TorchOps",
    "build_state_dict",
    "example_inputs",
    "fill",
    "loading_together",
    "model_settings",
    "model_weights",
    "read_state",
    "read_template",
    "run_model",
]
