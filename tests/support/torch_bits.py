"""The bytes of torch tensors and numpy arrays alike."""

import numpy as np
import torch


def bits_of(value):
    """Return the row-major bytes of a tensor or an array."""
    if isinstance(value, torch.Tensor):
        flat = value.detach().contiguous().reshape(-1)
        return bytes(flat.view(torch.uint8).numpy()) if flat.numel() else b""
    return np.asarray(value).tobytes()
