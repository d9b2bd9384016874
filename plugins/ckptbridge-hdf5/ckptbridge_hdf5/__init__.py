"""HDF5 files for ckptbridge."""

from ckptbridge_hdf5.format import Hdf5Format, bridge_formats

__all__ = ["bridge_formats", "Hdf5Format"]
