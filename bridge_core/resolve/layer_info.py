"""What a neutral state records of a layer, and of the tensors at its path that no layer takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bridge_core.layers import usual_transforms
from bridge_core.plugins import Registry
from bridge_core.resolve.evidence import PARAMETER, Detection
from bridge_core.resolve.grouping import Group
from bridge_core.resolve.leaf_names import LayerNames
from bridge_core.state import LayerInfo, leaf_path

__all__ = ["is_usual", "layer_info", "parameter_evidence"]


def parameter_evidence(group: Group, name: str, detection: Detection, own_names: Iterable[LayerNames]) -> str:
    """Return the evidence that a leaf is a plain parameter; ``unclaimed`` without evidence.

    Args:
        group: The leaves at its path.
        name: The leaf, which no layer takes.
        detection: What the group is.
        own_names: For each other framework, which names are a layer's.
    """
    info = group.info
    if detection.is_parameters:
        partly = detection.rule is None and info is not None and info.kind == PARAMETER and info.origin
        return "unclaimed" if partly and info and name not in info.leaves else detection.evidence
    if group.module is None or detection.misfits or detection.missing:
        return "unclaimed"
    key = leaf_path(group.path, name)
    is_own = not any(names.why(key, group.specs, group.has_children) for names in own_names)
    return "module" if is_own and name in group.module.parameters else "unclaimed"


def layer_info(
    framework: str,
    group: Group,
    detection: Detection,
    roles: tuple[str, ...],
    parameters: Mapping[str, str],
    way_back: LayerNames,
) -> LayerInfo:
    """Return the record of a layer.

    Args:
        framework: The framework it comes from.
        group: The leaves at its path.
        detection: What it is.
        roles: Names of the layer's leaves in neutral form.
        parameters: Leaf at the path that no layer takes -> the evidence that it is a plain parameter.
        way_back: Which names are a layer's for those that come back to the framework from anywhere.
    """
    evidence, transform = detection.evidence, detection.transform
    next_to_layer = transform is not None or bool(detection.candidates)

    def is_named(name: str, found: str) -> bool:
        # What is known to be its module's own next to a layer needs no record where its name shows that.
        key = leaf_path(group.path, name)
        return found == "unclaimed" or (
            next_to_layer and bool(way_back.why(key, group.specs, group.has_children))
        )

    unclaimed = tuple(name for name, found in parameters.items() if is_named(name, found))
    origin = framework if parameters or detection.candidates else ""
    info = group.info
    transforms = dict(info.transforms) if info is not None else {}
    if unclaimed and info is not None and info.origin and {*unclaimed} <= {*info.unclaimed}:
        origin = info.origin
        if transform is None:
            transforms[framework] = PARAMETER
    if transform is not None:
        transforms[framework] = transform.name
        return LayerInfo(
            transform.kind, evidence, roles, (), transforms, detection.axis_splits, unclaimed, origin
        )
    if detection.candidates:
        names = detection.candidate_names
        return LayerInfo(
            None,
            evidence,
            detection.leaves,
            names,
            transforms,
            unclaimed=unclaimed,
            origin=origin,
            doubted=detection.doubted,
        )
    known = {name: found for name, found in parameters.items() if found != "unclaimed"}
    if known:
        evidence = next(iter(known.values()))
        return LayerInfo(PARAMETER, evidence, tuple(known), (), transforms, {}, unclaimed, origin)
    unfitting = tuple(t.name for t in detection.misfits) or (detection.missing,) * bool(detection.missing)
    return LayerInfo(None, "unclaimed", (), unfitting, transforms, {}, unclaimed, origin)


def is_usual(registry: Registry, framework: str, name: str) -> bool:
    """Return whether a transform is what a framework has for its kind where no record names another."""
    transforms = registry.transforms_of.get(framework, ())
    kind = next((t.kind for t in transforms if t.name == name), None)
    return name == next((t.name for t in usual_transforms(transforms, kind or "")), None)
