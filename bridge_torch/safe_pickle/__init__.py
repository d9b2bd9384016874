"""Pickles read by an interpreter that builds plain data and imports nothing, and written."""

from typing import TYPE_CHECKING

from bridge_core.public import exports

if TYPE_CHECKING:
    from bridge_torch.safe_pickle.machine import Limits as Limits
    from bridge_torch.safe_pickle.unpickler import (
        Unpickled as Unpickled,
        unpickle as unpickle,
        unsafe_names as unsafe_names,
    )
    from bridge_torch.safe_pickle.values import (
        Global as Global,
        Opaque as Opaque,
        Storage as Storage,
        TensorRef as TensorRef,
        UnsupportedTensor as UnsupportedTensor,
        parts_of as parts_of,
    )
    from bridge_torch.safe_pickle.writer import Slot as Slot, write_pickle as write_pickle
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "machine": "Limits",
            "unpickler": "Unpickled unpickle unsafe_names",
            "values": "Global Opaque Storage TensorRef UnsupportedTensor parts_of",
            "writer": "Slot write_pickle",
        },
    )
