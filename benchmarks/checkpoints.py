"""Checkpoints of any size to measure with. Values cost a memory copy to make, so that 8 GB take seconds."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np

from bridge_core import FlatState, TensorSpec, save_state
from bridge_core.state import LazyTensor
from bridge_core.transfer import parse_size

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_VOCABULARY = 32_000
_POOL = (4 << 20) + 12_289
"""Values that repeat; a length that no width divides keeps rows and tensors different."""


@dataclass(frozen=True)
class Llama:
    """A Llama of bfloat16 weights, with separate input and output embeddings."""

    hidden: int
    layers: int

    @classmethod
    def of(cls, total_bytes: int) -> Llama:
        """Return one of about that many bytes; widths are powers of two, as models' are."""
        widths = ((4096, 6e9), (2048, 4e8), (1024, 1.5e8), (512, 0))
        hidden = next(width for width, least in widths if total_bytes >= least)
        ends = 2 * 2 * _VOCABULARY * hidden
        one_layer = 2 * sum(int(np.prod(shape)) for shape in cls(hidden, 1).layer().values())
        return cls(hidden, max(1, round((total_bytes - ends) / one_layer)))

    @property
    def intermediate(self) -> int:
        """Width inside the feed-forward layers."""
        return self.hidden * 11 // 4

    def layer(self) -> dict[str, tuple[int, ...]]:
        """Return the weights of one layer."""
        hidden, inner = self.hidden, self.intermediate
        return {
            "self_attn.q_proj.weight": (hidden, hidden),
            "self_attn.k_proj.weight": (hidden // 4, hidden),
            "self_attn.v_proj.weight": (hidden // 4, hidden),
            "self_attn.o_proj.weight": (hidden, hidden),
            "mlp.gate_proj.weight": (inner, hidden),
            "mlp.up_proj.weight": (inner, hidden),
            "mlp.down_proj.weight": (hidden, inner),
            "input_layernorm.weight": (hidden,),
            "post_attention_layernorm.weight": (hidden,),
        }

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return every weight by its name in torch."""
        return {
            "model.embed_tokens.weight": (_VOCABULARY, self.hidden),
            **{
                f"model.layers.{i}.{name}": shape
                for i in range(self.layers)
                for name, shape in self.layer().items()
            },
            "model.norm.weight": (self.hidden,),
            "lm_head.weight": (_VOCABULARY, self.hidden),
        }

    def state(self) -> FlatState:
        """Return the weights in torch's layout."""
        tensors = {name: noise(shape, i) for i, (name, shape) in enumerate(self.shapes().items())}
        return FlatState(tensors, layout="torch")

    def config(self) -> dict[str, object]:
        """Return what transformers wants to know of the model."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.hidden // 64,
            "num_key_value_heads": self.hidden // 256,
            "head_dim": 64,
            "vocab_size": _VOCABULARY,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
        }


def noise(shape: tuple[int, ...], seed: int = 0) -> LazyTensor:
    """Return a bfloat16 tensor of values like a trained model's; any region can be read."""
    steps = [int(np.prod(shape[axis + 1 :], dtype=np.int64)) for axis in range(len(shape))]

    def read(region: tuple[slice, ...]) -> np.ndarray:
        pool = _pool()
        sizes = [len(range(s.start, s.stop, s.step)) for s in region]
        first = sum(s.start * step for s, step in zip(region, steps, strict=True)) + seed * 100_003
        moves = [s.step * step for s, step in zip(region, steps, strict=True)]
        count = int(np.prod(sizes, dtype=np.int64))
        if sum((n - 1) * move for n, move in zip(sizes, moves, strict=True)) != count - 1:
            where = np.full((), first)
            for n, move in zip(sizes, moves, strict=True):
                where = where[..., None] + np.arange(n) * move
            return pool[where % _POOL]
        out = np.empty(count, BFLOAT16)
        done = 0
        while done < count:
            begin = (first + done) % _POOL
            taken = min(count - done, len(pool) - begin)
            out[done : done + taken] = pool[begin : begin + taken]
            done += taken
        return out.reshape(sizes)

    return LazyTensor(TensorSpec(shape, BFLOAT16), read)


@functools.cache
def _pool() -> np.ndarray:
    values = np.random.default_rng(0).standard_normal(_POOL, dtype=np.float32) * 0.02
    return np.concatenate([values.astype(BFLOAT16)] * 2)


def sharded(work: Path, size: str, shard: str) -> Path:
    """Return a folder with a sharded safetensors checkpoint of torch, written unless it is there."""
    folder = work / f"torch-{size}-in-{shard}"
    if not folder.exists():
        save_state(Llama.of(parse_size(size)).state(), folder, format="safetensors", max_shard_size=shard)
    return folder


def single(work: Path, size: str) -> Path:
    """Return a folder with one safetensors file of torch and the configuration that transformers reads."""
    folder = work / f"torch-{size}"
    if not folder.exists():
        model = Llama.of(parse_size(size))
        save_state(model.state(), f"{folder}/", format="safetensors")
        (folder / "config.json").write_text(json.dumps(model.config()))
    return folder


def bytes_in(path: Path) -> int:
    """Return the size of a file, or of all files in a folder."""
    return sum(f.stat().st_size for f in path.iterdir()) if path.is_dir() else path.stat().st_size
