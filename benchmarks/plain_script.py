"""The script that people write: load each shard, transpose the kernels, save it again.

    python benchmarks/plain_script.py SOURCE_FOLDER DESTINATION_FOLDER [--no-sync]

It is what `file_to_file.py` compares with. It goes shard by shard, which keeps its memory low, and syncs what
it wrote to the disk, as the conversion does.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file


def main(source: Path, destination: Path, *, sync: bool) -> None:
    destination.mkdir()
    for shard in sorted(source.glob("*.safetensors")):
        tensors = {}
        for name, tensor in load_file(shard).items():
            if name.endswith("embed_tokens.weight"):
                tensors[name.removesuffix("weight") + "embedding"] = tensor
            elif tensor.ndim == 2:
                tensors[name.removesuffix("weight") + "kernel"] = tensor.T.contiguous()
            else:
                tensors[name.removesuffix("weight") + "scale"] = tensor
        save_file(tensors, destination / shard.name)
        if sync:
            fd = os.open(destination / shard.name, os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sync="--no-sync" not in sys.argv)
