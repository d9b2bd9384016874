"""Live objects of torch; no other part of the package imports torch."""

from bridge_torch.torch_objects.tensors import build_state_dict, read_state

__all__ = ["build_state_dict", "read_state"]
