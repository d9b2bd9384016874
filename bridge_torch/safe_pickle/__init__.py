"""Pickles read by an interpreter that builds plain data and imports nothing, and written."""

from typing import TYPE_CHECKING

from bridge_core.public import exports

if TYPE_CHECKING:
    from bridge_torch.safe_pickle.machine import Limits as Limits
    from bridge_torch.safe_pickle.unpickler import Unpickled as Unpickled, unpickle as unpickle
    from bridge_torch.safe_pickle.values import (
        Storage as Storage,
        TensorRef as TensorRef,
        UnsupportedTensor as UnsupportedTensor,
    )
    from bridge_torch.safe_pickle.writer import Slot as Slot, write_pickle as write_pickle
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "machine": "Limits",
            "unpickler": "Unpickled unpickle",
            "values": "Storage TensorRef UnsupportedTensor",
            "writer": "Slot write_pickle",
        },
    )
