"""The metadata of a state, and its text in a file.

All that a later conversion needs is plain data: which layers were recognised, what is still undecided, which
tensors are tied, and what a target had no place for. `dump_metadata` and `load_metadata` convert it to and
from one JSON text, which every format can store.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from bridge_core.io import parse_json
from bridge_core.public import renamed
from bridge_core.state.dtypes import dtype_named
from bridge_core.state.keys import Key, LeafKey, join_key, leaf_path, split_name
from bridge_core.state.left_out import LeftOut
from bridge_core.state.metadata_schema import VERSION, check_schema

__all__ = [
    "dump_metadata",
    "LayerInfo",
    "load_metadata",
    "MARKER",
    "ModuleInfo",
    "AuxiliaryTensor",
    "RecordedRule",
    "StateMetadata",
]

MARKER = "ckptbridge"
"""The name under which formats store the text of `dump_metadata`."""


@renamed(forms="transforms", factors="axis_splits")
@dataclass(frozen=True, slots=True)
class LayerInfo:
    """What is known about one layer of a neutral state.

    Args:
        kind: Name of the layer kind; None while undecided.
        evidence: The evidence that decided the kind: rule, module, template, metadata, structure or guess;
            ``undecided``, or ``unclaimed`` if no layer takes any leaf.
        leaves: Names of the leaves that belong to the layer, or that are known to be plain parameters.
        candidates: Transforms that remain possible while undecided; the leaves then have the axes and
            names of the source. Of unclaimed leaves: transforms of the module's type that do not fit.
        transforms: Framework -> transform, if the source did not use the kind's first transform.
        axis_splits: Axis of the kind -> the sizes into which a framework splits it, e.g.
            ``(num_heads, head_dim)``.
        unclaimed: Names of the leaves at the path that no evidence explains; they have the names and axes
            of their origin.
        origin: The framework that gave names and axes to the leaves that belong to no decided layer.
        doubted: Whether an undecided layer may have another order of axes than its candidates, or unclaimed
            leaves another order than their names suggest.
    """

    kind: str | None
    evidence: str
    leaves: tuple[str, ...]
    candidates: tuple[str, ...] = ()
    transforms: Mapping[str, str] = field(default_factory=dict)
    axis_splits: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    unclaimed: tuple[str, ...] = ()
    origin: str = ""
    doubted: bool = False


@dataclass(frozen=True, slots=True)
class ModuleInfo:
    """The type of a live module, as evidence.

    Args:
        types: Qualified names of its class and base classes, most derived first.
        settings: Plain values of its options, e.g. ``{"transpose_kernel": True}``.
        parameters: Names of the leaves that the module owns itself, buffers included.
    """

    types: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    parameters: tuple[str, ...] = ()


@dataclass(frozen=True)
class AuxiliaryTensor:
    """A small tensor that a layout has no place for; the metadata stores it.

    Args:
        dtype: Name of the dtype.
        shape: The shape.
        data: The row-major little-endian bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    data: bytes

    @classmethod
    def of(cls, array: np.ndarray[Any, Any]) -> AuxiliaryTensor:
        """Return an auxiliary tensor with a copy of an array's values."""
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        return cls(array.dtype.name, tuple(array.shape), little.tobytes())

    def array(self) -> np.ndarray[Any, np.dtype[Any]]:
        """Return the values as a new array of native byte order."""
        dtype = dtype_named(self.dtype)
        flat = np.frombuffer(self.data, dtype.newbyteorder("<")).astype(dtype)
        return flat.reshape(self.shape)


@dataclass(frozen=True, slots=True)
class RecordedRule:
    """A rule that a neutral state was made with, and what it still has to rearrange.

    Args:
        text: The rule as in a rule file, as JSON; see `bridge_core.rules`.
        layouts: The layouts of the two sides; the second is empty if the rule does not name it.
        label: The place where the rule was written, or its action.
        pending: Keys of the tensors that the rule rearranges, unchanged so far.
    """

    text: str
    layouts: tuple[str, str]
    label: str
    pending: tuple[Key, ...] = ()


@renamed(residuals="auxiliary_tensors", forms="tree_form")
@dataclass(frozen=True)
class StateMetadata:
    """All that is known of a state in addition to its tensors.

    Args:
        layers: Layer path (in the state's own names) -> record of the layer.
        modules: Layer path -> live module type. Not stored in files.
        ties: Key -> key whose values it shares.
        collections: Key -> Flax collection or NNX variable type, if it is not the role's usual one.
        auxiliary_tensors: Neutral key -> small tensor that this layout has no place for.
        empty: Paths of empty nodes.
        tree_form: Framework -> ``"variables"`` if keys begin with a collection, or another form of the tree.
        rules: The rules that a neutral state was made with; None for a file that does not record them.
        extra: Texts of a file for other readers.
        provenance: Where the state comes from, for reports. Not stored in files.
        providers: Layer kind of a plugin -> the distribution that provides it.
        notes: What a report should mention about how the state was read. Not stored in files.
        source_names: Neutral key -> key of the tensor in the object or file that the neutral state was made
            from; messages name the tensor by it. Not stored in files.
        separators: Framework -> what joins the parts of its names in flat files, where that is not a dot;
            the empty name is for the layout of the state itself, where that was not known.
        boxes: Key -> last part of the framework's key that only names the array in a box, such as
            ``value``; for keys that do not have that part themselves.
        left_out: What the object or file holds besides the weights that were read. Not stored in files.
    """

    layers: Mapping[Key, LayerInfo] = field(default_factory=dict)
    modules: Mapping[Key, ModuleInfo] = field(default_factory=dict)
    ties: Mapping[Key, Key] = field(default_factory=dict)
    collections: Mapping[Key, str] = field(default_factory=dict)
    auxiliary_tensors: Mapping[Key, AuxiliaryTensor] = field(default_factory=dict)
    empty: tuple[Key, ...] = ()
    tree_form: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, str] = field(default_factory=dict)
    rules: tuple[RecordedRule, ...] | None = ()
    providers: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    source_names: Mapping[Key, Key] = field(default_factory=dict, compare=False)
    separators: Mapping[str, str] = field(default_factory=dict)
    boxes: Mapping[Key, str] = field(default_factory=dict)
    left_out: tuple[LeftOut, ...] = field(default=(), compare=False)

    def with_(self, **changes: Any) -> StateMetadata:
        """Return a copy with some fields replaced."""
        return replace(self, **changes)

    def owner(self, key: Key) -> LeafKey:
        """Return the path of the layer that a key belongs to, and the name of the leaf there."""
        return self._nested.get(key) or (key[:-1], key[-1])

    def owners(self, keys: Iterable[Key]) -> list[LeafKey]:
        """Return what `owner` gives for each of many keys."""
        if self._nested:
            return [self.owner(key) for key in keys]
        return [(key[:-1], key[-1]) for key in keys]

    @functools.cached_property
    def _nested(self) -> dict[Key, LeafKey]:
        nested_leaves: dict[int, list[str]] = {}  # layers that are alike have one record
        for info in self.layers.values():
            if id(info) not in nested_leaves:
                leaves = (*info.leaves, *info.unclaimed)
                nested_leaves[id(info)] = [leaf for leaf in leaves if "." in leaf]
        return {
            leaf_path(path, leaf): (path, leaf)
            for path, info in self.layers.items()
            for leaf in nested_leaves[id(info)]
        }

    def map_keys(self, rename: Callable[[Key], Key]) -> StateMetadata:
        """Return a copy with every key and path renamed."""
        return replace(
            self,
            layers={rename(k): v for k, v in self.layers.items()},
            modules={rename(k): v for k, v in self.modules.items()},
            ties={rename(k): rename(v) for k, v in self.ties.items()},
            collections={rename(k): v for k, v in self.collections.items()},
            auxiliary_tensors={rename(k): v for k, v in self.auxiliary_tensors.items()},
            empty=tuple(rename(k) for k in self.empty),
            rules=self.rules_renamed(rename),
            source_names={rename(k): v for k, v in self.source_names.items()},
            boxes={rename(k): v for k, v in self.boxes.items()},
        )

    def separator(self, layout: str | None) -> str:
        """Return what joins the parts of names in a flat file of a state in some layout."""
        return self.separators.get(layout or "") or self.separators.get("", ".")

    def without_own_separator(self, layout: str | None) -> StateMetadata:
        """Return a copy with only the separators of other layouts."""
        others = {name: text for name, text in self.separators.items() if name not in ("", layout)}
        return self if others == self.separators else self.with_(separators=others)

    def rules_renamed(self, rename: Callable[[Key], Key]) -> tuple[RecordedRule, ...] | None:
        """Return the rules with their pending keys renamed."""
        if not self.rules:
            return self.rules
        return tuple(replace(rule, pending=tuple(map(rename, rule.pending))) for rule in self.rules)

    def rules_restricted(self, keys: Collection[Key]) -> tuple[RecordedRule, ...] | None:
        """Return the rules with only those of their pending keys that are in ``keys``."""
        if not self.rules:
            return self.rules
        return tuple(
            replace(rule, pending=tuple(key for key in rule.pending if key in keys)) for rule in self.rules
        )


def dump_metadata(layout: str | None, metadata: StateMetadata, *, escaped_names: bool = False) -> str:
    """Return the JSON text that `load_metadata` reads; equal metadata gives equal text.

    Args:
        layout: The state's layout; None if unknown.
        metadata: The metadata; ``modules``, ``provenance``, ``notes`` and ``extra`` are left out.
        escaped_names: Whether the file's flat names are escaped (see `flat_names`).
    """
    groups: dict[str, dict[str, Any]] = {}
    for path, info in metadata.layers.items():
        head = {
            "kind": info.kind,
            "evidence": info.evidence,
            "leaves": list(info.leaves),
            "candidates": list(info.candidates),
            "forms": dict(sorted(info.transforms.items())),
            "factors": {axis: list(sizes) for axis, sizes in sorted(info.axis_splits.items())},
            "unclaimed": list(info.unclaimed),
            "origin": info.origin,
            "doubted": info.doubted,
        }
        head = {name: value for name, value in head.items() if value or name == "kind"}
        group = groups.setdefault(json.dumps(head), {**head, "paths": []})
        group["paths"].append(_name(path))
    document: dict[str, Any] = {
        "version": VERSION,
        "layout": layout,
        "escaped_names": escaped_names,
        "layers": list(groups.values()),
        "ties": {_name(k): _name(v) for k, v in metadata.ties.items()},
        "collections": {_name(k): v for k, v in metadata.collections.items()},
        "residuals": {
            _name(k): [r.dtype, list(r.shape), r.data.hex()] for k, r in metadata.auxiliary_tensors.items()
        },
        "empty": [_name(k) for k in metadata.empty],
        "forms": dict(sorted(metadata.tree_form.items())),
        "providers": dict(sorted(metadata.providers.items())),
        "separators": dict(sorted(metadata.separators.items())),
        "boxes": _grouped(metadata.boxes),
    }
    document = {name: value for name, value in document.items() if value}
    if metadata.rules or (metadata.rules is not None and layout == "neutral"):
        document["rules"] = [_rule_row(rule) for rule in metadata.rules]
    return json.dumps(document, separators=(",", ":"), ensure_ascii=True)


def load_metadata(text: str | bytes, *, path: str = "") -> tuple[str | None, StateMetadata, bool]:
    """Read the text that `dump_metadata` wrote.

    Args:
        text: The JSON text.
        path: The file, for errors.

    Returns:
        The layout, the metadata, and whether flat names are escaped.

    Raises:
        MalformedFile: The text does not follow the schema, or is of a newer version.
    """
    document = parse_json(text, path=path, what="the bridge's own metadata")
    check_schema(document, path)
    layers = {
        _path(name): info
        for group in document.get("layers", ())
        for info in (_layer_info(group),)
        for name in group["paths"]
    }
    metadata = StateMetadata(
        layers=layers,
        ties={_key(k): _key(v) for k, v in document.get("ties", {}).items()},
        collections={_key(k): v for k, v in document.get("collections", {}).items()},
        auxiliary_tensors={
            _key(k): AuxiliaryTensor(dtype, tuple(shape), bytes.fromhex(data))
            for k, (dtype, shape, data) in document.get("residuals", {}).items()
        },
        empty=tuple(map(_path, document.get("empty", ()))),
        tree_form=document.get("forms", {}),
        rules=_recorded_rules(document),
        providers=document.get("providers", {}),
        separators=document.get("separators", {}),
        boxes={_key(name): box for box, names in document.get("boxes", {}).items() for name in names},
    )
    return document.get("layout"), metadata, document.get("escaped_names", False)


def _layer_info(group: Mapping[str, Any]) -> LayerInfo:
    return LayerInfo(
        kind=group.get("kind"),
        evidence=group.get("evidence", ""),
        leaves=tuple(group.get("leaves", ())),
        candidates=tuple(group.get("candidates", ())),
        transforms=group.get("forms", {}),
        axis_splits={axis: tuple(sizes) for axis, sizes in group.get("factors", {}).items()},
        unclaimed=tuple(group.get("unclaimed", ())),
        origin=group.get("origin", ""),
        doubted=group.get("doubted", False),
    )


def _grouped(boxes: Mapping[Key, str]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for key, box in boxes.items():
        grouped.setdefault(box, []).append(_name(key))
    return grouped


def _name(key: Key) -> str:
    return join_key(key, escape=True)


def _path(name: str) -> Key:
    return () if name == "" else _key(name)


def _key(name: str) -> Key:
    return split_name(name, escaped=True)


def _rule_row(rule: RecordedRule) -> dict[str, Any]:
    row = {
        "rule": json.loads(rule.text),
        "layouts": list(rule.layouts),
        "label": rule.label,
        "pending": [_name(key) for key in rule.pending],
    }
    return {name: value for name, value in row.items() if value or name == "rule"}


def _recorded_rules(document: Mapping[str, Any]) -> tuple[RecordedRule, ...] | None:
    if "rules" not in document and document.get("layout") == "neutral":
        return None
    return tuple(map(_recorded_rule, document.get("rules", ())))


def _recorded_rule(row: Mapping[str, Any]) -> RecordedRule:
    source, target = row["layouts"]
    text = json.dumps(row["rule"], sort_keys=True)
    return RecordedRule(
        text, (source, target), row.get("label", ""), tuple(map(_key, row.get("pending", ())))
    )
