"""Ways on that the refusals of several modules offer."""

from __future__ import annotations

__all__ = ["FETCH_AGAIN", "SAVE_WEIGHTS", "UNTRUSTED"]

SAVE_WEIGHTS = 'torch.save(model.state_dict(), "weights.pt")'
"""The call that writes a state dict."""

FETCH_AGAIN = "The file is damaged: fetch it again, or save it again with torch.save."

UNTRUSTED = "torch.save writes no such name: do not load the file, and ask where it comes from."
