"""Names of tensors that are not a layer's plain weights: of quantised layers, and of adapters.

Each form is recognised by a set of names at one layer, never by one word that a layer may have itself:
a norm's ``scale``, a ``logit_scale`` or an ``alpha`` is not a sign of one.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = [
    "ADAPTER_NAMES",
    "INNER_NAMES",
    "QUANTISED_FORMS",
    "SCALE_NAME",
    "WEIGHT_SCALE_NAME",
    "QuantisedForm",
]


class QuantisedForm(NamedTuple):
    """How a library stores a quantised layer.

    Args:
        what: Its name in messages.
        names: Expression of the names at the layer that only such layers have next to each other.
        proof: Expressions of which each must be the name of a tensor at the layer.
        integers: Whether the tensor of the first proof must hold integers for the names to count.
    """

    what: str
    names: re.Pattern[str]
    proof: tuple[re.Pattern[str], ...]
    integers: bool = False


def _form(what: str, names: str, *proof: str, integers: bool = False) -> QuantisedForm:
    return QuantisedForm(what, re.compile(names), tuple(map(re.compile, proof)), integers)


QUANTISED_FORMS = (
    _form(
        "with 4 bits by bitsandbytes",
        r"(nested_)?(absmax|quant_map)|quant_state\.\w+",
        r"absmax",
        r"quant_\S+",
    ),
    _form("with 8 bits by bitsandbytes", r"SCB|weight_format", r"SCB"),
    _form("by GPTQ", r"qweight|qzeros|scales|g_idx|perm", r"qweight", r"g_idx"),
    _form("by GPTQ or AWQ", r"qweight|qzeros|scales|g_idx", r"qweight|qzeros"),
    _form(
        "by compressed-tensors",
        r"weight_(packed|shape|scale|global_scale|zero_point|g_idx)|input_(global_)?(scale|zero_point)",
        r"weight_packed",
    ),
    _form("in blocks of NVFP4", r"weight_scale(_2)?|input_scale", r"weight_scale_2"),
    _form("in blocks of fp8", r"\w+_scale_inv|(activation|input)_scale", r"\w+_scale_inv"),
    _form("in blocks of MXFP4", r"(\w+_)?(blocks|scales)", r"(\w+_)?blocks", r"(\w+_)?scales", integers=True),
    _form(
        "by torchao or quanto",
        r"_(data|scale|shift|zero_?point)(\._\w+)?|(in|out)put_scale",
        r"_data(\._\w+)?",
        r"_scale",
    ),
    _form("by torchao", r"_?weight_(qdata|scale|zero_point)", r"_?weight_qdata"),
    _form("by ModelOpt", r"\w+_quantizer\._\w+", r"weight_quantizer\._(double_)?scale"),
    _form("by MLX", r"scales|biases", r"weight", r"scales", r"biases", integers=True),
    _form("by gpt-fast", r"scales_and_zeros", r"weight", r"scales_and_zeros", integers=True),
    _form("by HQQ", r"W_q|scale|zero|meta(\.\w+)?|nbits|group_size|axis|shape|packing", r"W_q"),
    _form("by AQLM", r"codes|codebooks|scales", r"codes", r"codebooks", integers=True),
    _form("by EXL2", r"q_(weight|scale|scale_max|groups|group_map|perm|invperm)", r"q_weight", r"q_scale"),
    _form("by EXL3", r"trellis|su|sv|suh|svh|mcg|mul1", r"trellis", r"suh?"),
    _form("by QuIP#", r"Qidxs(_\w+)?|SU|SV|Wscale|codebook_id", r"Qidxs(_\w+)?"),
    _form("by SpQR", r"dense_weights|row_offsets|col_vals|in_perm", r"dense_weights", r"row_offsets"),
    _form(
        "by VPTQ",
        r"((outlier|res)_)?indices|weight_(scale|bias)|perm",
        r"indices",
        r"weight_scale",
        r"weight_bias",
        integers=True,
    ),
    _form("for Marlin kernels", r"B|B_24|B_meta|s|workspace", r"B(_24)?", r"s", integers=True),
    _form("by torch.ao", r"_packed_params(\.\w+)?|scale|zero_point", r"_packed_params(\.\w+)?"),
)
"""The forms, those that need more names first."""

INNER_NAMES = frozenset(
    {
        "_data",
        "_packed_params",
        "input_quantizer",
        "meta",
        "output_quantizer",
        "quant_state",
        "weight_quantizer",
    }
)
"""Parts of names that are not a layer's: what is below them belongs to the layer above."""

SCALE_NAME = re.compile(
    r"((?P<of>\w+)_)?(scales?|scale_inv|zeros?|zero_points?|absmax|scb|codebooks?)", re.IGNORECASE
)
"""What is next to codes of 8 bits or fewer, of which it names the tensor, or of the one at its path."""

WEIGHT_SCALE_NAME = re.compile(r"(weight|kernel|input|output|activation)_(scales?|zero_points?)")
"""Scales of a layer, of which the first two may be next to a weight in floating point."""

ADAPTER_NAMES = tuple(
    (what, re.compile(rf"(^|\.)({names})(\.|$)"))
    for what, names in (
        ("DoRA", r"lora_magnitude_vector|dora_scale"),
        (
            "LoRA",
            r"lora_([AaBb]\d*|E|embedding_A|embedding_B|down|up|mid|bias|ranknum)|(\w+_)?lora(?=\.(up|down|mid|A|B|a|b)\.)",
        ),
        ("IA3", r"ia3_\w+"),
        ("LoHa", r"hada_\w+"),
        ("LoKr", r"lokr_\w+"),
        ("OFT", r"oft_\w+"),
        ("BOFT", r"boft_\w+"),
        ("VeRA", r"vera_\w+"),
        ("HRA", r"hra_\w+"),
        ("FourierFT", r"fourierft_\w+"),
        ("VB-LoRA", r"vblora_\w+"),
        ("RandLoRA", r"randlora_\w+"),
    )
)
"""Kind of adapter -> a part of the names of its tensors."""
