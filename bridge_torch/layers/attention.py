"""torch's attention as data: query, key and value one after the other in one tensor, or in three tensors."""

from __future__ import annotations

from bridge_core import LayerKind, LayerTransform, Leaf

__all__ = ["KINDS", "TRANSFORMS"]

_MULTIHEAD = "torch.nn.modules.activation.MultiheadAttention"

_HEADS = {"query": "heads", "key": "kv_heads", "value": "kv_heads"}

_QKV = "(heads kv_heads kv_heads)"

KINDS = (
    LayerKind(
        "attention_bias_kv",
        {
            **{f"{name}.kernel": f"in {axis}" for name, axis in _HEADS.items()},
            **{f"{name}.bias": axis for name, axis in _HEADS.items()},
            "out.kernel": "heads out",
            "out.bias": "out",
            "bias_k": "kv_heads",
            "bias_v": "kv_heads",
        },
    ),
)
"""Layer kinds that only torch has: they have a neutral form, and can only be converted back to torch."""


def _attention(
    name: str, kind: str, *, fused: bool, extra: tuple[Leaf, ...] = (), unsupported: str = ""
) -> LayerTransform:
    """Return one native layout of attention: the three input projections in one tensor, or in three."""
    kernels: tuple[Leaf, ...]
    if fused:
        roles = tuple(f"{part}.kernel" for part in _HEADS)
        kernels = (Leaf("in_proj_weight", roles, f"{_QKV} in"),)
    else:
        kernels = tuple(
            Leaf(f"{part[0]}_proj_weight", f"{part}.kernel", f"{axis} in") for part, axis in _HEADS.items()
        )
    needed = (*kernels, Leaf("out_proj.weight", "out.kernel", "out heads"), *extra)
    return LayerTransform(
        f"torch.{name}",
        kind=kind,
        leaves=(
            *needed,
            Leaf("in_proj_bias", tuple(f"{part}.bias" for part in _HEADS), _QKV, optional=True),
            Leaf("out_proj.bias", "out.bias", "out", optional=True),
        ),
        modules=(_MULTIHEAD,),
        identifying_leaves=tuple(leaf.name for leaf in needed),
        independent_axes=() if fused else ("in",),
        equal_axes=(("heads", "kv_heads"),),
        axis_splits={"heads": "num_heads", "kv_heads": "num_heads"},
        unsupported=unsupported,
    )


_BIAS_KV = (Leaf("bias_k", "bias_k", "1 1 kv_heads"), Leaf("bias_v", "bias_v", "1 1 kv_heads"))

_NO_BIAS_KV = (
    "add_bias_kv gives the attention one more key and value that are learned (bias_k, bias_v); "
    "no layer of another framework has them"
)

TRANSFORMS = (
    _attention("multihead_attention", "attention", fused=True),
    _attention("multihead_attention_separate", "attention", fused=False),
    _attention("attention_bias_kv", "attention_bias_kv", fused=True, extra=_BIAS_KV, unsupported=_NO_BIAS_KV),
    _attention(
        "attention_bias_kv_separate",
        "attention_bias_kv",
        fused=False,
        extra=_BIAS_KV,
        unsupported=_NO_BIAS_KV,
    ),
)
