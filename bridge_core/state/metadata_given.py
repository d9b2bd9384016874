"""Checking metadata that a caller made, by the schema of that in files."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from bridge_core.errors import BridgeError, UsageError
from bridge_core.state.metadata import AuxiliaryTensor, LayerInfo, ModuleInfo, RecordedRule, StateMetadata
from bridge_core.state.metadata_schema import (
    Misfit,
    check_auxiliary,
    check_layer,
    check_rule,
    check_separator,
)

__all__ = ["check_given"]


def check_given(metadata: StateMetadata) -> None:
    """Check the types and values of all fields; equal records of layers are checked once.

    Args:
        metadata: The metadata of a state in memory.

    Raises:
        UsageError: A field holds a value that `StateMetadata` does not document.
    """
    try:
        _check_layers(metadata.layers)
        _check_keys("modules", metadata.modules, root=True)
        for module in metadata.modules.values():
            _of_type("modules", module, ModuleInfo)
        _check_keys("ties", (*metadata.ties, *metadata.ties.values()))
        _check_texts("collections", metadata.collections, keys=True)
        _check_texts("boxes", metadata.boxes, keys=True)
        if "" in metadata.boxes.values():
            raise Misfit("a value in boxes", "the name of a box", "")
        _check_texts("separators", metadata.separators)
        for separator in metadata.separators.values():
            check_separator(separator, "separators")
        _check_keys("auxiliary_tensors", metadata.auxiliary_tensors)
        for tensor in metadata.auxiliary_tensors.values():
            _of_type("auxiliary_tensors", tensor, AuxiliaryTensor)
            check_auxiliary([tensor.dtype, list(tensor.shape), tensor.data.hex()], "auxiliary_tensors")
        _check_keys("empty", metadata.empty, root=True)
        for rule in metadata.rules or ():
            _check_recorded(rule)
        _check_texts("tree_form", metadata.tree_form)
        for field in ("providers", "extra", "provenance"):
            _check_texts(field, getattr(metadata, field))
        _check_notes(metadata.notes)
        _check_keys("source_names", (*metadata.source_names, *metadata.source_names.values()))
    except Misfit as err:
        raise _error(str(err)) from None
    except BridgeError:
        raise
    except (AttributeError, TypeError, ValueError) as err:
        raise _error(f"a field has a value of the wrong type: {err}") from err


def _error(problem: str) -> UsageError:
    return UsageError(
        f"the metadata of the state is not valid: {problem}.",
        hint="Use the types that StateMetadata and LayerInfo document, or remove the metadata.",
    )


def _check_layers(layers: Mapping[Any, Any]) -> None:
    seen: set[object] = set()
    _check_keys("layers", layers, root=True)
    for info in layers.values():
        _of_type("layers", info, LayerInfo)
        signature = (
            *(info.kind, info.evidence, info.leaves, info.candidates, info.unclaimed, info.origin),
            tuple(info.transforms.items()),
            tuple(info.axis_splits.items()),
        )
        if signature in seen:
            continue
        seen.add(signature)
        splits = {axis: list(sizes) for axis, sizes in info.axis_splits.items()}
        document = {
            "kind": info.kind,
            "evidence": info.evidence,
            "forms": dict(info.transforms),
            "factors": splits,
            "origin": info.origin,
            "paths": [],
            **{name: _listed(name, getattr(info, name)) for name in ("leaves", "candidates", "unclaimed")},
        }
        check_layer(document, "a layer's record")


def _listed(where: str, names: Any) -> list[Any]:
    if isinstance(names, str):
        raise Misfit(f"a layer's {where}", "a tuple of names", names)
    return list(names)


def _check_recorded(rule: Any) -> None:
    _of_type("rules", rule, RecordedRule)
    _check_keys("rules", rule.pending)
    document = {"rule": json.loads(rule.text), "layouts": list(rule.layouts), "label": rule.label}
    check_rule(document, "a recorded rule")


def _check_keys(where: str, keys: Iterable[Any], *, root: bool = False) -> None:
    join: Callable[[Collection[str]], str] = "".join
    for key in keys:
        if type(key) is not tuple or not (key or root):
            raise Misfit(f"a key of {where}", "a tuple of names", key)
        join(key)


def _check_texts(where: str, texts: Mapping[Any, Any], *, keys: bool = False) -> None:
    if keys:
        _check_keys(where, texts)
    for text in texts.values() if keys else (*texts, *texts.values()):
        _of_type(where, text, str)


def _check_notes(notes: Any) -> None:
    if not isinstance(notes, tuple):
        raise Misfit("notes", "a tuple of texts", notes)
    for note in notes:
        _of_type("notes", note, str)


def _of_type(where: str, value: Any, expected: type) -> None:
    if not isinstance(value, expected):
        raise Misfit(f"a value in {where}", expected.__name__, value)
