"""Which equations two leaves may have, and what decides between them."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from bridge_core.proof.matching.equations import LETTERS, Alignment, Form, alignments, forms
from bridge_core.proof.matching.folding import NodePath, Side
from bridge_core.proof.matching.transforms import UNCHANGED, Way, Ways

__all__ = ["Draft", "LeafEvidence", "name_of"]


@dataclass(frozen=True, eq=False)
class Draft:
    """Two folded leaves that belong together.

    Args:
        source: Path to the leaf of the source.
        target: Path to that of the target.
        forms: The equations that remain, each with the numbers that it pairs; one if that is settled.
        reason: What decided the pair.
        confidence: From 0 to 1.
        by_shape: Whether only one equation fits the shapes.
        usual: Whether it may be a linear layer or an embedding as both frameworks store it, if it has two
            axes.
    """

    source: NodePath
    target: NodePath
    forms: tuple[tuple[Form, Alignment], ...]
    reason: str = ""
    confidence: float = 1.0
    by_shape: bool = False
    usual: bool = True


def name_of(path: NodePath) -> str:
    """Return the last part of a path's name."""
    return path[-1].text[1:]


@dataclass(frozen=True, eq=False)
class LeafEvidence:
    """What is known of leaves: the ways between both layouts, and the types of live modules."""

    ways: Ways
    source: Side
    target: Side
    usual: bool = True
    """Whether names of linear layers' leaves show the order of axes."""
    _known: dict[Hashable, Draft | None] = field(default_factory=dict, repr=False)

    def draft(self, source: NodePath, target: NodePath) -> Draft | None:
        """Return how one leaf may be another; None if it cannot be."""
        at = (*_facts(source, self.source), *_facts(target, self.target))
        if at not in self._known:
            self._known[at] = self._judged(source, target)
        known = self._known[at]
        return None if known is None else replace(known, source=source, target=target)

    def _judged(self, source: NodePath, target: NodePath) -> Draft | None:
        draft = self._draft(source, target)
        if draft is None or 2 not in (len(source[-1].shape or ()), len(target[-1].shape or ())):
            return draft
        ways = (*self.ways.linear, UNCHANGED) if _may_be_table(source, target) else self.ways.linear
        left = {(aligned.pairs, aligned.flat, form.sign) for form, aligned in draft.forms}
        return draft if left & self._forms(ways, source, target).keys() else replace(draft, usual=False)

    def speaks_against(self, draft: Draft) -> bool:
        """Return whether a decided pair shows that linear layers are not stored as usual.

        That is a leaf with two axes, of which the shape shows their order, and with the name of a linear
        layer's or a bias next to it.
        """
        paths = (draft.source, draft.target)
        linear = self._is_linear(draft.source, self.ways.source_roles) and self._is_linear(
            draft.target, self.ways.target_roles
        )
        biased = all(_bias_sizes(path) is not None for path in paths)
        return draft.by_shape and not draft.usual and (linear or biased)

    def _is_linear(self, path: NodePath, roles: Mapping[str, frozenset[tuple[str, str]]]) -> bool:
        return any(kind == "linear" for kind, _ in roles.get(name_of(path), ()))

    def _draft(self, source: NodePath, target: NodePath) -> Draft | None:
        if source[-1].sort != target[-1].sort:
            return None
        typed = self._typed(self.ways.all, source, target)
        ways = tuple(way for way in self._named(source, target) if not way.by_module or way in typed)
        every = self._forms(self.ways.all, source, target)
        if not every:
            return None
        by_shape = len(every) == 1
        named = self._forms(ways, source, target)
        if not named and source[-1].shape == target[-1].shape and len(source[-1].shape or ()) == 2:
            named = self._forms((UNCHANGED,), source, target)  # a linear layer stored in another order
        if not named:
            return None
        if len(named) == 1:
            exact = name_of(source) in self.ways.source_roles or name_of(target) in self.ways.target_roles
            return Draft(source, target, _plain(named), "", 1.0 if by_shape or not exact else 0.95, by_shape)
        for narrower in (self._typed, self._with_bias, self._without_transposed):
            ways = narrower(ways, source, target)
            left = self._forms(ways, source, target)
            if len(left) == 1:
                return Draft(source, target, _plain(left), "", 0.9, False)
            named = left or named
        return Draft(source, target, _plain(named), "", 0.9, False)

    def _forms(
        self, ways: Iterable[Way], source: NodePath, target: NodePath
    ) -> dict[tuple[object, ...], tuple[Form, Alignment]]:
        """Return the equations that differ in what they do."""
        ours = [node.count for node in source if node.count > 1]
        theirs = [node.count for node in target if node.count > 1]
        by_sign: dict[tuple[object, ...], tuple[Form, Alignment]] = {}
        own = any(path[-1].count > 1 for path in (source, target))
        for aligned in alignments(ours, theirs):
            if aligned.flat and own:  # numbers of leaves are names, as in wi_0, and count nothing else
                continue
            lists = [(LETTERS[i], ours[i]) for i in aligned.source_axes]
            others = [(LETTERS[len(ours) + i], theirs[i]) for i in aligned.target_axes]
            for way in ways:
                for form in forms(way, source[-1].shape or (), target[-1].shape or (), lists, others):
                    by_sign.setdefault((aligned.pairs, aligned.flat, form.sign), (form, aligned))
        return by_sign

    def _named(self, source: NodePath, target: NodePath) -> tuple[Way, ...]:
        """Return the ways that the leaves' names, and their collections, allow."""
        ways = self.ways
        ours, theirs = name_of(source), name_of(target)
        known = (ours in ways.source_roles, theirs in ways.target_roles)
        allowed = tuple(
            way
            for way in ways.all
            if way.identity
            or way.is_einsum
            or (
                (not known[0] or way.source_leaf == ours)
                and (not known[1] or way.target_leaf == theirs)
                and _in_collection(way.role, source[-1].collection, ways.source_collections)
                and _in_collection(way.role, target[-1].collection, ways.target_collections)
            )
        )
        if not self._collections_agree(source, target):
            return ()
        if all(known):
            square = not self.usual and len(source[-1].shape or ()) == 2
            layers = tuple(way for way in allowed if (square or not way.identity) and not way.is_einsum)
            return layers or (allowed if ours == theirs else ())
        return allowed

    def _collections_agree(self, source: NodePath, target: NodePath) -> bool:
        """Return whether a leaf's known name may be in the other's collection."""
        for one, roles, other, collections in (
            (source, self.ways.source_roles, target, self.ways.target_collections),
            (target, self.ways.target_roles, source, self.ways.source_collections),
        ):
            own = roles.get(name_of(one))
            if (
                own
                and other[-1].collection
                and not any(_in_collection(role, other[-1].collection, collections) for _, role in own)
            ):
                return False
        return True

    def _typed(self, ways: tuple[Way, ...], source: NodePath, target: NodePath) -> tuple[Way, ...]:
        """Return the ways of the live modules' types, where they are known."""
        for path, side, attribute in (
            (source, self.source, "source_types"),
            (target, self.target, "target_types"),
        ):
            types = side.types_of(path)
            fitting = tuple(way for way in ways if types & getattr(way, attribute))
            ways = fitting or tuple(way for way in ways if not way.by_module)
        return ways

    def _with_bias(self, ways: tuple[Way, ...], source: NodePath, target: NodePath) -> tuple[Way, ...]:
        """Return the ways in which a bias next to each leaf has the size of its outputs."""
        sizes = [_bias_sizes(path) for path in (source, target)]
        if any(size is None for size in sizes) or not (self.usual or len(source[-1].shape or ()) != 2):
            return ways
        fitting = []
        for way in ways:
            axes = way.source.split()
            shape = source[-1].shape or ()
            if way.identity or "out" not in axes or len(axes) < 2:
                continue
            at = (
                axes.index("out")
                if "+k" not in axes or axes.index("+k") > axes.index("out")
                else axes.index("out") - len(axes)
            )
            if -len(shape) <= at < len(shape) and shape[at] == sizes[0]:
                fitting.append(way)
        return tuple(fitting) or ways

    def _without_transposed(
        self, ways: tuple[Way, ...], source: NodePath, target: NodePath
    ) -> tuple[Way, ...]:
        """Return only convolutions, where both names say so and none hints at a transposed one."""
        texts = [_module_text(path) for path in (source, target)]
        words = {word for way in ways if "transpose" in way.kind for word in way.hints}
        if not all("conv" in text for text in texts) or any(word in text for word in words for text in texts):
            return ways
        return tuple(way for way in ways if way.kind == "conv") or ways


def _may_be_table(*paths: NodePath) -> bool:
    """Return whether leaves may be an embedding: it has no bias, and hardly ever is in a list of layers."""
    return all(
        _bias_sizes(path) is None
        and all(node.count == 1 for node in path)
        and not any(node.numbers for node in path[:-2])
        for path in paths
    )


def _module_text(path: NodePath) -> str:
    return "".join(node.text for node in path).lower()


def _facts(path: NodePath, side: Side) -> tuple[Hashable, ...]:
    """Return all that decides the equations of a leaf."""
    leaf = path[-1]
    return (
        leaf.shape,
        leaf.sort,
        leaf.collection,
        name_of(path),
        tuple(node.count for node in path if node.count > 1),
        leaf.count > 1,
        _bias_sizes(path),
        side.types_of(path),
        _module_text(path) if len(leaf.shape or ()) > 2 else "",
    )


def _plain(found: dict[tuple[object, ...], tuple[Form, Alignment]]) -> tuple[tuple[Form, Alignment], ...]:
    return tuple(found.values())


def _in_collection(role: str, collection: str, collections: object) -> bool:
    if not collection or not isinstance(collections, dict) or collection not in collections:
        return True
    named = {name for names in collections.values() for name in names}
    return role in collections[collection] if collections[collection] else role not in named


def _bias_sizes(path: NodePath) -> int | None:
    """Return the size of the only tensor with one axis next to a leaf; None if there is not one."""
    if len(path) < 2:
        return None
    others = [node for node in path[-2].children if node.is_leaf and node is not path[-1]]
    others = [node for node in others if node.text != path[-1].text]
    if len(others) != 1 or len(others[0].shape or ()) == 0:
        return None
    size = 1
    for n in others[0].shape or ():
        size *= n
    return size
