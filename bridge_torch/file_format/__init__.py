"""torch's checkpoint files: zip archives and the legacy format."""

from typing import TYPE_CHECKING

from bridge_core.public import exports

if TYPE_CHECKING:
    from bridge_torch.file_format.format import TorchFormat as TorchFormat
else:
    __getattr__, __dir__, __all__ = exports(__name__, {"format": "TorchFormat"})
