"""Neutral -> a framework with a template: match names, settle every layer, fill every key."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from bridge_core.layers import LayerKind, LayerTransform
from bridge_core.ops import Fill, Parallel, RequireEqual, simplify_chain
from bridge_core.plan import Dropped, Mismatch, Plan, Step
from bridge_core.resolve.evidence import Reading
from bridge_core.resolve.grouping import Group, group_state, has_heads
from bridge_core.resolve.interpretations import View, native_views, transform_view
from bridge_core.resolve.leaf_matching import Outcome, settle
from bridge_core.resolve.neutral_layers import NeutralLayer, neutral_layers
from bridge_core.resolve.path_matching import PathMatch, match_paths
from bridge_core.resolve.plan_builder import Assembly, Filled, Request, open_options
from bridge_core.state import FlatState, Key, TensorSpec, join_key

__all__ = ["Templated"]


@dataclass(frozen=True)
class _Sides:
    """Both sides of a match."""

    layers: Mapping[Key, NeutralLayer]
    groups: Mapping[Key, Group]
    readings: Mapping[Key, Reading]
    match: PathMatch

    def agree(self, path: Key, kind: str | None) -> bool:
        """Tell whether a layer of the source meets one of its kind."""
        target = self.match.targets.get(path)
        transform = self.readings[target].transform if target is not None else None
        return transform is not None and transform.kind == kind

    def agree_at(self, target: Key, kinds: Mapping[str, LayerKind]) -> bool:
        """Tell whether a composite layer of the template meets one of its kind."""
        path = next(p for p, found in self.match.targets.items() if found == target)
        layer = self.layers[path]
        return _is_composite(layer.kind, kinds) and self.agree(path, layer.kind)


def _is_composite(kind: str | None, kinds: Mapping[str, LayerKind]) -> bool:
    return kind in kinds and kinds[kind or ""].composite


class Templated(Assembly):
    """A plan towards the keys of a template."""

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        self._settled: dict[object, tuple[Outcome, ...]] = {}
        self._differ: set[Key] = set()

    def resolve(self, like: FlatState) -> Plan:
        """Return the plan, problems included."""
        heads = has_heads(like, self.framework)
        places = {key[1:] if heads else key: key for key in like}
        self.obey(places.__getitem__)
        ordered = {places[name] for name in self.request.ordered.targets}
        sides = self._aligned(like.select(lambda key: key not in ordered) if ordered else like)
        views: dict[object, tuple[View, ...]] = {}
        self._note_prefix(sides.match.removed, "removed from")
        self._note_prefix(sides.match.added, "added to")
        reached: set[Key] = set()
        for path, layer in sides.layers.items():
            target_path = sides.match.targets.get(path)
            if layer.unsupported is not None and layer.unsupported.framework != self.framework.name:
                self.refuse(layer)
                continue
            if target_path is None:
                self.leave(layer, layer.group.keys)
                continue
            group, reading = sides.groups[target_path], sides.readings[target_path]
            reached.add(target_path)
            signature = (tuple((n, s.shape) for n, s in group.specs.items()), _identity(reading))
            if signature not in views:
                views[signature] = native_views(reading, self.request.registry.kinds, group.specs)
            self._match_layer(layer, group, reading, views[signature], signature)
        for path, group in sides.groups.items():
            if path not in reached:
                for name, key in group.keys.items():
                    self._unfilled(key, group, name, sides.readings[path])
        # A tie between layers of other axes, as a file records it, is not one tensor: both are filled.
        ties = {k: v for k, v in like.metadata.ties.items() if like.tensor(k) is like.tensor(v)}
        self._tie(ties, ordered)
        form = "variables" if heads else like.metadata.tree_form.get(self.framework.name, "params")
        order = {key: i for i, key in enumerate(like)}
        self.filled = dict(sorted(self.filled.items(), key=lambda item: order[item[0]]))
        self.shared.sort(key=lambda step: min(order[key] for key in step.targets))
        return self.plan(form, like.metadata.empty)

    def _aligned(self, like: FlatState) -> _Sides:
        """Match the layers of both sides, each as whole as the other side has it.

        A layer that holds layers, as an attention does, is one layer where both sides have it so. Where one
        side has the parts for themselves, the other side's falls apart.
        """
        sides = self._sides(like, {}, (), ())
        kinds = self.request.registry.kinds
        wanted = {
            reading.transform.kind: reading.transform
            for reading in sides.readings.values()
            if reading.transform is not None and kinds[reading.transform.kind].composite
        }
        together = self._composites(wanted)
        if together:
            sides = self._sides(like, together, (), ())
        source_apart = {
            path
            for path, layer in sides.layers.items()
            if _is_composite(layer.kind, kinds) and not sides.agree(path, layer.kind)
        }
        agreeing = {target for path, target in sides.match.targets.items() if path not in source_apart}
        target_apart = {
            path
            for path, reading in sides.readings.items()
            if reading.transform is not None
            and kinds[reading.transform.kind].composite
            and not (path in agreeing and sides.agree_at(path, kinds))
        }
        if not source_apart and not target_apart:
            return sides
        kept = {path: kind for path, kind in together.items() if path not in source_apart}
        return self._sides(like, kept, source_apart, target_apart)

    def _sides(
        self,
        like: FlatState,
        together: Mapping[Key, str],
        source_apart: Collection[Key],
        target_apart: Collection[Key],
    ) -> _Sides:
        request = self.request
        layers = request.layers
        if together or source_apart:
            layers = neutral_layers(
                request.state, request.registry, request.rules, together=together, apart=source_apart
            )
        groups = group_state(like, self.framework, request.transforms, apart=target_apart)
        readings = {path: self.reader.read(group) for path, group in groups.items()}
        return _Sides(layers, groups, readings, match_paths(layers, groups))

    def _composites(self, wanted: Mapping[str, LayerTransform]) -> dict[Key, str]:
        """Return the paths of the source that hold all the parts of a kind that the template has whole."""
        found: dict[Key, str] = {}
        for kind, transform in wanted.items():
            leaves = [leaf for leaf in transform.leaves if not leaf.optional]
            needed = [role.split(".") for leaf in leaves for role in leaf.roles]
            first, rest = tuple(needed[0]), needed[1:]
            for key in self.request.state:
                path = key[: -len(first)]
                if key[-len(first) :] == first and all((*path, *role) in self.request.state for role in rest):
                    found.setdefault(path, kind)
        return found

    def _note_prefix(self, prefix: Key, what: str) -> None:
        if prefix:
            self.notes.append(f"the prefix {join_key(prefix)!r} was {what} the source's names")

    def _match_layer(
        self,
        layer: NeutralLayer,
        group: Group,
        reading: Reading,
        views: tuple[View, ...],
        signature: object,
    ) -> None:
        auxiliary_tensors = frozenset(role for _, role in self.auxiliary_tensors)
        key = (id(layer.views), signature)
        outcomes = self._settled.get(key)
        if outcomes is None:
            views += self._partial_views(layer, group, reading, views)
            views += self._hidden_views(layer, group, reading)
            outcomes = self._settled[key] = settle(layer.views, views, auxiliary_tensors)
        if len(outcomes) > 1 and self.request.permissions.accept_guesses:
            outcomes = self.guessed(layer, outcomes)
        if len(outcomes) > 1:
            kinds = open_options(outcomes)
            for name in layer.claimed:
                self.ambiguous[layer.group.keys[name]] = kinds
            return
        if not outcomes:
            self.leave(layer, layer.group.keys)
            for name, target in group.keys.items():
                self._unfilled(target, group, name, reading)
            return
        outcome = outcomes[0]
        differing = _split_otherwise(layer, reading, outcome)
        if differing:
            self.unsupported.update((layer.group.keys[name], differing) for name in layer.claimed)
            return
        form = self.request.registry.transforms.get(outcome.target.transform or "")
        evidence = self._evidence(layer, reading)
        self.take(layer, outcome, evidence, {name: group.keys[name] for name in group.keys})
        for found, wanted in outcome.mismatched:
            keys = (layer.group.keys[found], group.keys[wanted])
            self._differing(Mismatch(*keys, layer.group.specs[found], group.specs[wanted]))
        for name, roles in outcome.missing.items():
            if all(role[0] and role[1] in outcome.target.zeros for role in roles):
                self.fill_zeros(group.keys[name], group.specs[name], outcome.target.kind, roles)
            else:
                self._unfilled(group.keys[name], group, name, reading, layer, form)
        self.leave(layer, outcome.unexpected, group.path, form)
        self.keep(layer, outcome, group.path)
        self.keep_info(group.path, layer, outcome, evidence, tuple(group.keys))

    def _partial_views(
        self, layer: NeutralLayer, group: Group, reading: Reading, views: tuple[View, ...]
    ) -> tuple[View, ...]:
        """Read a template as the source's kind where it has only some of the leaves.

        A bare params tree holds a batch norm without its statistics, which then looks like a norm.
        """
        known = reading.evidence in ("rule", "module", "metadata")
        if layer.kind is None or known or any(view.kind == layer.kind for view in views):
            return ()
        kind = self.request.registry.kinds[layer.kind]
        fitting = [
            t
            for t in self.request.transforms
            if t.kind == layer.kind and not t.needs_module and group.specs.keys() <= t.by_name().keys()
        ]
        found = (transform_view(transform, kind, group.specs) for transform in fitting)
        return tuple(view for view in found if view is not None)

    def _hidden_views(self, layer: NeutralLayer, group: Group, reading: Reading) -> tuple[View, ...]:
        """Read a template without types as what only types show, where the source's layer is of that sort.

        A library's own linear layer has a counterpart of the library's own, which may run the other way.
        """
        registry = self.request.registry
        written_with = [registry.transforms.get(name) for name in layer.transforms.values()]
        if reading.evidence in ("rule", "module", "metadata") or layer.kind is None:
            return ()
        if not any(transform is not None and transform.needs_module for transform in written_with):
            return ()
        kind = registry.kinds[layer.kind]
        fitting = [
            t
            for t in self.request.transforms
            if t.kind == layer.kind and t.needs_module and group.specs.keys() <= t.by_name().keys()
        ]
        found = (transform_view(transform, kind, group.specs) for transform in fitting)
        return tuple(view for view in found if view is not None)

    def _evidence(self, layer: NeutralLayer, reading: Reading) -> str:
        if layer.kind is not None or layer.evidence == "rule":
            return layer.evidence
        return "module" if reading.evidence == "module" else "template"

    def _differing(self, mismatch: Mismatch) -> None:
        """Account for tensors that belong together and differ in shape: by permission both are left out."""
        target = mismatch.target
        if self.request.permissions.may_differ(target, target[1:]):
            reason = f"allowed to differ: {mismatch.found} does not fit {mismatch.expected}"
            self.dropped.append(Dropped(mismatch.source, reason))
            if target not in self._differ:  # which each part of a fused tensor does
                self._differ.add(target)
                self.allowed_missing.append(target)
        else:
            self.mismatched.append(mismatch)

    def _unfilled(
        self,
        key: Key,
        group: Group,
        name: str,
        reading: Reading,
        layer: NeutralLayer | None = None,
        form: LayerTransform | None = None,
    ) -> None:
        transform = reading.transform or form
        leaf = transform.by_name().get(name) if transform is not None else None
        role = leaf.role if leaf is not None and isinstance(leaf.role, str) else ""
        residual = self.auxiliary_tensors.get((transform.kind, role)) if transform is not None else None
        lacking = self._lacking(layer, role)
        if residual is not None:
            neutral = (*group.path, role)
            kind = transform.kind if transform is not None else ""
            fill = Fill(0, TensorSpec(residual.shape, residual.dtype))
            self.constants.append(Step((), (key,), (fill,), kind, "residual", neutral))
        elif self.request.permissions.may_miss(key, key[1:]):
            self.allowed_missing.append(key)
        elif lacking:
            self.unsupported[key] = lacking
        else:
            self.missing.append(key)

    def _lacking(self, layer: NeutralLayer | None, role: str) -> str:
        """Return why the framework that a layer comes from has no such leaf."""
        names = layer.transforms.values() if layer is not None else ()
        known = (self.request.registry.transforms.get(name) for name in names)
        return next(
            (
                form.unsupported_leaves[role]
                for form in known
                if form is not None and role in form.unsupported_leaves
            ),
            "",
        )

    def _tie(self, ties: Mapping[Key, Key], ordered: Collection[Key]) -> None:
        """Make the template's ties: each names one tensor, and what would fill it must agree.

        A rule that makes both names settles it; one that makes the kept tensor alone gives it to the other.
        """
        groups: dict[Key, list[Key]] = {}
        for alias, keeper in ties.items():
            if alias not in ordered:
                groups.setdefault(keeper, []).append(alias)
        for keeper, aliases in groups.items():
            if keeper not in ordered:
                self._tie_group(keeper, aliases)
                continue
            unfilled = [alias for alias in aliases if alias not in self.filled]
            self.missing = [key for key in self.missing if key not in unfilled]
            self.ties.update(dict.fromkeys(unfilled, keeper))

    def _tie_group(self, keeper: Key, aliases: Sequence[Key]) -> None:
        """Make one tensor of all its names, from whichever of them the source fills."""
        names = (keeper, *aliases)
        given = [self.filled.pop(name) for name in names if name in self.filled]
        if not given:
            if self._differ.intersection(names):  # they are one tensor, and it may differ
                self.allowed_missing += [key for key in names if key in self.missing]
                self.missing = [key for key in self.missing if key not in names]
            return
        self.missing = [key for key in self.missing if key not in names]
        self.allowed_missing = [key for key in self.allowed_missing if key not in names]
        self.ties.update(dict.fromkeys(aliases, keeper))
        known = self.request.state.metadata.ties
        kept: list[Filled] = []
        tensors: dict[Key, Key] = {}
        for one in given:
            source = one.sources[0]
            tensor = known.get(source, source)
            if len(one.sources) == 1 and tensor in tensors:
                del self.used[source]
                self.dropped.append(Dropped(source, f"tied to {join_key(tensors[tensor])}", tensors[tensor]))
                continue
            if len(one.sources) == 1:
                tensors[tensor] = source
            kept.append(one)
        if len(kept) > 1:
            self.constants.append(self._same(kept, keeper))
            return
        self.filled[keeper] = kept[0]
        self.used.update(dict.fromkeys(kept[0].sources, keeper))

    def _same(self, given: Sequence[Filled], target: Key) -> Step:
        counts = tuple(len(one.sources) for one in given)
        ops = simplify_chain((Parallel(tuple(one.ops for one in given), counts), RequireEqual(len(given))))
        sources = tuple(source for one in given for source in one.sources)
        return Step(sources, (target,), ops, given[0].kind, given[0].evidence)


def _split_otherwise(layer: NeutralLayer, reading: Reading, outcome: Outcome) -> str:
    """Tell where both sides know into what an axis is split, as into heads, and do not agree."""
    known = {**reading.axis_splits, **outcome.target.axis_splits}
    for axis, sizes in layer.axis_splits.items():
        wanted = known.get(axis, sizes)
        if outcome.source.kind == layer.kind and wanted != sizes:
            texts = [" x ".join(map(str, parts)) for parts in (sizes, wanted)]
            return f"{axis} are {texts[0]} in the source and {texts[1]} in the target"
    return ""


def _identity(reading: Reading) -> object:
    transform = reading.transform.name if reading.transform else None
    candidates = tuple(c.name if c is not None else None for c in reading.candidates)
    return (reading.evidence, transform, candidates, reading.claimed)
