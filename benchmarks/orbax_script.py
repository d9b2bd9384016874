"""The script that people write: restore a checkpoint with Orbax, transpose the kernels, save safetensors.

    python benchmarks/orbax_script.py SOURCE_FOLDER DESTINATION_FILE

It is what `orbax_checkpoints.py` compares with. It syncs what it wrote to the disk, as the conversion does.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file


def main(source: Path, destination: Path) -> None:
    saver = ocp.PyTreeCheckpointer()
    tree = saver.metadata(source).item_metadata.tree
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
    tensors = {}
    for name, array in flatten_dict(saver.restore(source, restore_args=as_numpy)["params"], sep=".").items():
        if name.endswith("embedding"):
            tensors[name.removesuffix("embedding") + "weight"] = array
        elif array.ndim == 2:
            tensors[name.removesuffix("kernel") + "weight"] = np.ascontiguousarray(array.T)
        else:
            tensors[name.removesuffix("scale") + "weight"] = array
    save_file(tensors, destination)
    fd = os.open(destination, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
