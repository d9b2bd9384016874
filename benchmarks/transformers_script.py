"""How transformers 4 converts a Llama of torch to Flax: one file in, the whole model in memory, one file out.

python benchmarks/transformers_script.py SOURCE_FOLDER DESTINATION_FOLDER
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import jax.numpy as jnp
from transformers import FlaxLlamaForCausalLM


def main(source: Path, destination: Path) -> None:
    model = FlaxLlamaForCausalLM.from_pretrained(source, from_pt=True, dtype=jnp.bfloat16)
    model.save_pretrained(destination)
    for file in destination.iterdir():
        fd = os.open(file, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
