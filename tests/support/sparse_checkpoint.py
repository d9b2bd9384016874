"""A sharded safetensors checkpoint of any size that takes almost no disk: files of headers and holes.

The names are those of DeepSeek-V3, whose many experts make many tensors.
"""

import json
import struct
from pathlib import Path

__all__ = ["TERABYTE", "deepseek_shapes", "make_sparse"]

TERABYTE = {"layers": 61, "dense_layers": 3, "experts": 519, "width": 7168, "expert_width": 768}
"""Sizes for `deepseek_shapes` that make 1.03 TB of bfloat16 in 91,099 tensors."""


def deepseek_shapes(*, layers, dense_layers, experts, width, expert_width, vocabulary=129_280, heads=128):
    """Return name -> shape of a DeepSeek-V3 with these sizes, in the order of its layers."""
    shapes = {"model.embed_tokens.weight": (vocabulary, width)}
    for i in range(layers):
        layer = f"model.layers.{i}."
        shapes |= {
            f"{layer}input_layernorm.weight": (width,),
            f"{layer}self_attn.q_a_proj.weight": (1536, width),
            f"{layer}self_attn.q_a_layernorm.weight": (1536,),
            f"{layer}self_attn.q_b_proj.weight": (heads * 192, 1536),
            f"{layer}self_attn.kv_a_proj_with_mqa.weight": (576, width),
            f"{layer}self_attn.kv_a_layernorm.weight": (512,),
            f"{layer}self_attn.kv_b_proj.weight": (heads * 256, 512),
            f"{layer}self_attn.o_proj.weight": (width, heads * 128),
            f"{layer}post_attention_layernorm.weight": (width,),
        }
        if i < dense_layers:
            shapes |= _feed_forward(f"{layer}mlp.", width, 18432)
            continue
        shapes |= {f"{layer}mlp.gate.weight": (experts, width)}
        for expert in range(experts):
            shapes |= _feed_forward(f"{layer}mlp.experts.{expert}.", width, expert_width)
        shapes |= _feed_forward(f"{layer}mlp.shared_experts.", width, expert_width)
    return shapes | {"model.norm.weight": (width,), "lm_head.weight": (vocabulary, width)}


def _feed_forward(prefix, width, inner):
    return {
        f"{prefix}gate_proj.weight": (inner, width),
        f"{prefix}up_proj.weight": (inner, width),
        f"{prefix}down_proj.weight": (width, inner),
    }


def make_sparse(folder, shapes, shards):
    """Write a set of that many shards of bfloat16 zeros, none of which is stored, and return their bytes."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    total = sum(map(_nbytes, shapes.values()))
    weight_map, groups, used = {}, [[] for _ in range(shards)], 0
    for name, shape in shapes.items():
        groups[used * shards // total].append(name)
        used += _nbytes(shape)
    for number, names in enumerate(groups, 1):
        shard = f"model-{number:05d}-of-{shards:05d}.safetensors"
        header, end = {}, 0
        for name in names:
            begin, end = end, end + _nbytes(shapes[name])
            header[name] = {"dtype": "BF16", "shape": shapes[name], "data_offsets": [begin, end]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        with (folder / shard).open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            file.truncate(8 + len(text) + end)
        weight_map.update(dict.fromkeys(names, shard))
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    return total


def _nbytes(shape):
    size = 2
    for length in shape:
        size *= length
    return size
