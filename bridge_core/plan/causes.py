"""Quantised layers and adapters in a source, recognised by names and dtypes, and what to do about them.

Their tensors mean nothing without each other, so no refusal advises to leave some of them out.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from bridge_core.messages import listed
from bridge_core.plan.weight_forms import (
    ADAPTER_NAMES,
    INNER_NAMES,
    QUANTISED_FORMS,
    SCALE_NAME,
    WEIGHT_SCALE_NAME,
    QuantisedForm,
)
from bridge_core.state import Key, TensorSpec, join_key, key_family

__all__ = ["Cause", "adapter_details", "causes_of", "may_show_cause"]

_DEQUANTISE = (
    "dequantise it first, since its weights mean nothing without their scales: load it with the library that "
    "quantised it, let that dequantise the weights, save them, and convert the result"
)
_MERGE = (
    "merge it into its base model first, since neither is the fine-tuned model without the other: load both "
    "with the library that trained it (PEFT: merge_and_unload), save the merged model, and convert the result"
)
_MULTIPLY = "multiply them into the weights first, or pass a target that has them as well"

_ANY_ADAPTER = re.compile("|".join(expression.pattern for _, expression in ADAPTER_NAMES))
_ANY_LEAF = re.compile(
    "|".join(
        (*(form.names.pattern for form in QUANTISED_FORMS), SCALE_NAME.pattern, WEIGHT_SCALE_NAME.pattern)
    ),
    re.IGNORECASE,
)

_INDEX = re.compile(r"bias|mask|ind(ex|ices)|ids|pos", re.IGNORECASE)
"""Names of small integers that a layer of plain weights may hold."""


@dataclass(frozen=True)
class Cause:
    """Why some tensors are not a layer's plain weights.

    Args:
        code: ``quantised``, ``adapter``, or ``scaled`` for floating-point weights with scales of their own.
        what: What the source is or holds, e.g. "quantised in blocks of fp8", "an adapter (LoRA)".
        keys: The tensors that show it: scales, zero points, packed codes, the parts of an adapter.
        way: What to do first.
        layers: Text path of each layer that has such tensors.
        codes: Tensors in the layers that hold codes under a weight's own name.
    """

    code: str
    what: str
    keys: tuple[Key, ...]
    way: str
    layers: frozenset[str] = frozenset()
    codes: tuple[Key, ...] = ()

    @property
    def text(self) -> str:
        """What the source is or holds, and the tensors that show it."""
        return f"{self.statement}: {listed(map(join_key, self.keys))}"

    @property
    def statement(self) -> str:
        """What the source is or holds."""
        return f"the source {'is' if self.code == 'quantised' else 'holds'} {self.what}"

    def holds(self, key: Key) -> bool:
        """Return whether a tensor is of one of the layers."""
        name = _text(key)
        above = {name[:end] for end, character in enumerate(f"{name}.") if character == "."}
        return not above.isdisjoint(self.layers) or (above == {name} and "" in self.layers)

    def described(self, config: Mapping[str, Any] | None, adapter: Mapping[str, Any] | None) -> Cause:
        """Return it with details from the configs next to the weights.

        Args:
            config: The model's config, if there is one.
            adapter: The adapter's config, if there is one.
        """
        if self.code == "quantised":
            details = _of_quantisation(config)
        else:
            details = adapter_details(adapter) if self.code == "adapter" else ""
        return replace(self, what=f"{self.what} ({details})") if details else self


def causes_of(specs: Mapping[Key, TensorSpec]) -> tuple[Cause, ...]:
    """Return the causes that names and dtypes show; none if all may be plain weights.

    Args:
        specs: The source's specs, in any layout.
    """
    names = {_text(key): key for key in specs}
    special_layers = tuple(_layers(names, specs))
    # What belongs to a weight may be below its name, and what belongs to its inputs next to it.
    what_of = {o.path.rpartition(".")[0]: o.what for o in special_layers if o.code == "quantised"}
    layers_of: dict[tuple[str, str], list[_Layer]] = {}
    for layer in special_layers:
        if layer.code in ("scaled", "beside") and layer.path in what_of:
            layer = replace(layer, code="quantised", what=what_of[layer.path])
        if layer.code == "beside":
            continue
        layers_of.setdefault((layer.code, layer.what), []).append(layer)
    adapters = [layer for (code, _), layers in layers_of.items() if code == "adapter" for layer in layers]
    causes = [_cause(code, what, layers) for (code, what), layers in layers_of.items() if code != "adapter"]
    if adapters:
        kinds = ", ".join(dict.fromkeys(layer.what for layer in adapters))
        causes.append(_cause("adapter", f"an adapter ({kinds})", adapters))
    return tuple(causes)


def may_show_cause(key: Key) -> bool:
    """Return whether a tensor's name may be that of a cause.

    This is a quick test, which is true for many plain weights.
    """
    return _may_show_cause(key_family(key))


@functools.lru_cache(maxsize=1024)  # the tensors of a list's entries have the same names
def _may_show_cause(key: Key) -> bool:
    name = _text(key)
    leaf = _split(name)[1]
    return leaf == "alpha" or bool(_ANY_LEAF.fullmatch(leaf) or _ANY_ADAPTER.search(name))


@dataclass(frozen=True)
class _Layer:
    """A layer that is not plain, and its tensors.

    Its code is that of a cause, or ``beside`` for scales that are a sign only next to a quantised layer.
    """

    path: str
    code: str
    what: str
    keys: tuple[Key, ...]
    codes: tuple[Key, ...] = ()


def _cause(code: str, what: str, layers: Iterable[_Layer]) -> Cause:
    layers = tuple(layers)
    way = {"quantised": _DEQUANTISE, "adapter": _MERGE, "scaled": _MULTIPLY}[code]
    return Cause(
        code,
        what,
        tuple(dict.fromkeys(key for layer in layers for key in layer.keys)),
        way,
        frozenset(layer.path for layer in layers),
        tuple(dict.fromkeys(key for layer in layers for key in layer.codes)),
    )


def _text(key: Key) -> str:
    """Return a name whose parts are joined by dots, however its own text separates them."""
    return join_key(key).replace("/", ".").replace(":", ".")


def _split(name: str) -> tuple[str, str]:
    """Return the path of a tensor's layer and the name within it."""
    path, _, leaf = name.rpartition(".")
    while path and path.rpartition(".")[2] in INNER_NAMES:
        path, _, inner = path.rpartition(".")
        leaf = f"{inner}.{leaf}"
    return path, leaf


def _layers(names: Mapping[str, Key], specs: Mapping[Key, TensorSpec]) -> Iterator[_Layer]:
    """Yield the layers that are not plain."""
    children: dict[str, dict[str, Key]] = {}
    for name, key in names.items():
        path, leaf = _split(name)
        children.setdefault(path, {})[leaf] = key
    adapted: list[_Layer] = []
    for name, key in names.items():
        adapted += _of_adapter_layer(name, key, children)
    yield from adapted
    of_adapters = {key for layer in adapted for key in layer.keys}
    for path, leaves in children.items():
        rest = {leaf: key for leaf, key in leaves.items() if key not in of_adapters}
        yield from _quantised(path, rest, names.get(path), specs)


def _of_adapter_layer(name: str, key: Key, children: Mapping[str, Mapping[str, Key]]) -> Iterator[_Layer]:
    """Yield what a name of an adapter's tensor shows; kohya's `alpha` goes with it."""
    for kind, expression in ADAPTER_NAMES if _ANY_ADAPTER.search(name) else ():
        match = expression.search(name)
        if match is not None:
            path = name[: match.start()]
            alpha = children.get(path, {}).get("alpha")
            yield _Layer(path, "adapter", kind, (key,) if alpha is None else (key, alpha))
            return


def _quantised(
    path: str, leaves: Mapping[str, Key], itself: Key | None, specs: Mapping[Key, TensorSpec]
) -> Iterator[_Layer]:
    """Yield a layer if its leaves are those of a quantised one, or scales of a weight.

    Args:
        path: Its path.
        leaves: Name -> key.
        itself: The tensor whose name is the path: what libraries save of a weight may be below its name.
        specs: The source's specs.
    """
    codes = {leaf: key for leaf, key in leaves.items() if _is_code(leaf, specs[key])}
    own = tuple(codes.values())
    if itself is not None and _is_code("", specs[itself]):
        own = (itself, *own)
    for form, first in _named_forms(frozenset(leaves)):
        if not form.integers or any(specs[leaves[leaf]].dtype.kind in "iu" for leaf in first):
            keys = tuple(key for leaf, key in leaves.items() if form.names.fullmatch(leaf))
            what = _of_packing(leaves, specs) or form.what
            yield _Layer(path, "quantised", f"quantised {what}", keys, own)
            return
    scales = {leaf: m["of"] for leaf in leaves if (m := SCALE_NAME.fullmatch(leaf)) is not None}
    of_codes = tuple(leaves[leaf] for leaf, of in scales.items() if _scales_codes(of, codes))
    if of_codes:
        bits = "fp8" if any("float8" in specs[key].dtype.name for key in own) else "integers"
        yield _Layer(path, "quantised", f"quantised as {bits} with scales", of_codes, own)
        return
    named = {leaf: m[1] for leaf in leaves if (m := WEIGHT_SCALE_NAME.fullmatch(leaf)) is not None}
    if named:
        code = "scaled" if any(of in leaves for of in named.values()) else "beside"
        yield _Layer(path, code, "weights with scales of their own", tuple(map(leaves.__getitem__, named)))


@functools.lru_cache(maxsize=1024)
def _named_forms(names: frozenset[str]) -> tuple[tuple[QuantisedForm, frozenset[str]], ...]:
    """Return the forms that the names at a layer prove, each with the names of its first proof."""
    forms = []
    for form in QUANTISED_FORMS:
        matching = [frozenset(filter(expression.fullmatch, names)) for expression in form.proof]
        if all(matching):
            forms.append((form, matching[0]))
    return tuple(forms)


def _of_packing(leaves: Mapping[str, Key], specs: Mapping[Key, TensorSpec]) -> str:
    """Return which of the two libraries that share names packed a layer, and with how many bits.

    GPTQ packs the inputs of an output into integers, AWQ outputs of an input; both store a packed zero point
    for each scale.
    """
    shapes = [specs[leaves[name]].shape for name in ("qweight", "qzeros", "scales") if name in leaves]
    if len(shapes) < 3 or any(len(shape) != 2 or 0 in shape for shape in shapes):
        return ""
    (_, columns), (_, packed), (_, outputs) = shapes
    bits, rest = divmod(32 * packed, outputs)
    if rest or bits not in (2, 3, 4, 8):
        return ""
    if columns in (outputs, packed):
        return f"by {'GPTQ' if columns == outputs else 'AWQ'} with {bits} bits"
    return ""


def _scales_codes(of: str | None, codes: Mapping[str, Key]) -> bool:
    """Return whether a scale belongs to one of the codes next to it, by its name."""
    if of is None or WEIGHT_SCALE_NAME.fullmatch(f"{of}_scale"):
        return bool(codes)
    return of in codes


def _is_code(leaf: str, spec: TensorSpec) -> bool:
    """Return whether a tensor holds codes of 8 bits or fewer, or such that are packed into a weight."""
    dtype = spec.dtype
    if len(spec.shape) < 2 or dtype.kind == "b" or _INDEX.search(leaf):
        return False
    return dtype.itemsize == 1 or (leaf in ("weight", "kernel") and dtype.kind in "iu")


def _of_quantisation(config: Mapping[str, Any] | None) -> str:
    """Return the quantisation in a model's config as text; values of other types are ignored."""
    settings = config.get("quantization_config") if config is not None else None
    if not isinstance(settings, Mapping):
        return ""
    details = []
    method, bits, block = (settings.get(name) for name in ("quant_method", "bits", "weight_block_size"))
    if _is_word(method):
        details.append(str(method))
    if type(bits) is int:
        details.append(f"{bits} bits")
    if isinstance(block, list) and block and all(type(size) is int for size in block):
        details.append(f"blocks of {' x '.join(map(str, block[:4]))}")
    return f"config.json: {', '.join(details)}" if details else ""


def adapter_details(config: Mapping[str, Any] | None) -> str:
    """Return an adapter's kind and base model, from its config, as text; may be empty."""
    if config is None:
        return ""
    kind, base = config.get("peft_type"), config.get("base_model_name_or_path")
    details = [str(kind)] if _is_word(kind) else []
    details += [f"of {base!r}"] if isinstance(base, str) and base else []
    return f"adapter_config.json: {' '.join(details)}" if details else ""


def _is_word(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 40 and value.isprintable()
