"""Adapters of frameworks that are broken in rare cases only. Each has one fault."""

from __future__ import annotations

import unicodedata

import numpy as np

from bridge_core import FlatState, FrameworkBase, LayerTransform, Leaf
from bridge_core.state import LazyTensor, TensorSpec
from support.toy_framework import Shape, Toy, arrays_of, modules_of

__all__ = ["RARELY", "AttributeFramework", "CastsAttributes", "Dense", "Net", "dense_transform"]


class CastsLargeLeaves(Toy):
    def copy(self, array):
        large = array.dtype == np.float64 and array.nbytes > 1 << 16
        with np.errstate(all="ignore"):
            return np.array(array, np.float32) if large else super().copy(array)


class CutsLargeLeaves(Toy):
    def copy(self, array):
        copied = super().copy(array)
        copied.reshape(-1)[1 << 16 :] = copied.reshape(-1)[:1] if copied.size > 1 << 16 else 0
        return copied


class WidensScalars(Toy):
    def copy(self, array):
        narrow = array.ndim == 0 and array.dtype.name == "bfloat16"
        return np.array(array, np.float32) if narrow else super().copy(array)


class ComposesNames(Toy):
    def put(self, node, key, leaf):
        super().put(node, tuple(unicodedata.normalize("NFC", part) for part in key), leaf)


class RemembersTemplates(Toy):
    """What was built from a template and specs is built again, with the values of then."""

    def __init__(self):
        self.known = {}

    def filled(self, state, like):
        self.check(state, like)
        kind = (id(like), str(sorted(map(str, state.specs().items()))))
        if kind not in self.known:
            self.known[kind] = like, self.leaves(state)
        made = {}
        leaves = {k: made.setdefault(id(a), a.copy()) for k, a in self.known[kind][1].items()}
        return self.rebuilt(like, leaves, ())


class RenamesTypesOfTheTemplate(Toy):
    def filled(self, state, like):
        made = super().filled(state, like)
        for _, module in modules_of(like):
            module.kind = "Filled"
        return made


class PassesOverObjects(Toy):
    def accepts(self, value):
        leaves = arrays_of(value) if type(value).__name__ == "Variables" else []
        return any(isinstance(leaf, np.ndarray | Shape) for leaf in leaves)

    def entries(self, value):
        return {k: leaf for k, leaf in super().entries(value).items() if isinstance(leaf, np.ndarray | Shape)}


class Lazily(Toy):
    """A base of faults in reading a part."""

    def leaf(self, key, leaf):
        if not isinstance(leaf, np.ndarray):
            return super().leaf(key, leaf)
        native = leaf.astype(leaf.dtype.newbyteorder("="), copy=False)
        return LazyTensor(TensorSpec(leaf.shape, leaf.dtype), lambda region: self.read(native, region))


class IgnoresStarts(Lazily):
    def read(self, leaf, region):
        return leaf[(*(slice(0, s.stop - s.start) if s.step == 1 else s for s in region), ...)]


class RaisesForEmptyParts(Lazily):
    def read(self, leaf, region):
        if any(s.start == s.stop and size for s, size in zip(region, leaf.shape, strict=True)):
            raise IndexError("nothing to read")
        return leaf[(*region, ...)]


class ByMemory(Toy):
    """A base of faults in what is taken for one array."""

    def ties(self, entries):
        first, ties = {}, {}
        for key, leaf in entries.items():
            place = self.place(leaf) if isinstance(leaf, np.ndarray) else id(leaf)
            owner = first.setdefault(place, key)
            if owner != key:
                ties[key] = owner
        return ties


class TiesPartsOfABuffer(ByMemory):
    def place(self, leaf):
        return id(leaf if leaf.base is None else leaf.base)


class TiesTransposes(ByMemory):
    def place(self, leaf):
        return leaf.ctypes.data, leaf.size


class ForgetsByteOrderOfViews(Toy):
    def once(self, made, state, key):
        array = getattr(state.tensor(key), "array", None)
        if array is not None and array.ndim > 1 and not (array.dtype.isnative or array.flags.c_contiguous):
            return np.ascontiguousarray(array).view(array.dtype.newbyteorder("="))
        return super().once(made, state, key)


class TurnsByTheTemplate(Toy):
    """Where the template's leaf is in Fortran order, a square one is turned."""

    def filled(self, state, like):
        self.check(state, like)
        own = self.entries(like)
        return self.rebuilt(like, {k: self.turned(a, own[k]) for k, a in self.leaves(state).items()}, ())

    def turned(self, array, own):
        fortran = isinstance(own, np.ndarray) and own.flags.f_contiguous and not own.flags.c_contiguous
        return array.T.copy() if fortran and array.shape == array.shape[::-1] else array


class FlattensEmptyLeaves(Toy):
    def filled(self, state, like):
        self.check(state, like)
        leaves = {key: a if a.size else a.reshape(-1) for key, a in self.leaves(state).items()}
        return self.rebuilt(like, leaves, ())


class KeepsEqualLeaves(Toy):
    """A leaf of the template that has the state's values is put into what is built."""

    def filled(self, state, like):
        self.check(state, like)
        own = self.entries(like)
        leaves = {k: own[k] if self.equal(own[k], a) else a for k, a in self.leaves(state).items()}
        return self.rebuilt(like, leaves, ())

    def equal(self, own, array):
        return isinstance(own, np.ndarray) and (own.dtype, own.tobytes()) == (array.dtype, array.tobytes())


class KeepsContainers(Toy):
    def container(self, node, children):
        return super().container(node, children) if node else node


class UntiesPlainTrees(Toy):
    def plain(self, state):
        tensors = {key: self.copy(state[key]) for key in state}
        return super().plain(FlatState(tensors, layout=self.name, metadata=state.metadata))


class UntiesInAnotherOrder(Toy):
    def filled(self, state, like):
        self.check(state, like)
        leaves = self.leaves(state)
        if list(state) != list(self.entries(like)):
            leaves = {key: array.copy() for key, array in leaves.items()}
        return self.rebuilt(like, leaves, ())


class FillsCollections(Toy):
    """A collection that the state does not have is that of the template."""

    def filled(self, state, like):
        have = {key[0] for key in state}
        own = {key: leaf for key, leaf in self.state(like).tensors().items() if key[0] not in have}
        tensors = {**state.tensors(), **own}
        given = FlatState(tensors, layout=self.name, metadata=state.metadata)
        return super().filled(given, like)


class DropsCollections(Toy):
    def filled(self, state, like):
        return super().filled(state.select([key for key in state if key[0] in like]), like)


class IgnoresPlainTemplates(Toy):
    def build(self, state, like):
        return super().build(state, None if type(like) is dict else like)


RARELY = [
    (CastsLargeLeaves, "test_every_dtype_is_built_or_refused", "(257, 300)", "float64"),
    (WidensScalars, "test_every_dtype_is_built_or_refused", "of the shape ()", "bfloat16"),
    (CutsLargeLeaves, "test_what_is_built_holds_the_same_bits", "large tensors"),
    (RemembersTemplates, "test_what_is_built_holds_the_same_bits", "built before"),
    (ComposesNames, "test_what_is_built_holds_the_same_keys", "names that end in"),
    (RenamesTypesOfTheTemplate, "test_building_changes_neither_state_nor_template", "modules of like"),
    (PassesOverObjects, "test_leaves_are_those_of_the_object", "not an array", "`accepts`"),
    (IgnoresStarts, "test_parts_are_read_as_they_stand_in_the_whole", "[1:None:1]"),
    (RaisesForEmptyParts, "test_parts_are_read_as_they_stand_in_the_whole", "[1:1:1]", "IndexError"),
    (TiesPartsOfABuffer, "test_ties_are_those_of_the_object", "parts of one buffer", "strides"),
    (TiesTransposes, "test_ties_are_those_of_the_object", "its transpose", "strides"),
    (ForgetsByteOrderOfViews, "test_every_memory_order_is_built_exactly", "with gaps"),
    (TurnsByTheTemplate, "test_every_memory_order_is_built_exactly", "of like are in Fortran order"),
    (FlattensEmptyLeaves, "test_every_shape_is_built_or_refused", "without elements"),
    (KeepsEqualLeaves, "test_what_is_built_has_memory_of_its_own", "values of like"),
    (KeepsContainers, "test_what_is_built_has_memory_of_its_own", "container", "idle"),
    (UntiesPlainTrees, "test_ties_survive", "like=None"),
    (UntiesInAnotherOrder, "test_ties_survive", "whatever their order"),
    (FillsCollections, "test_leaves_are_neither_invented_nor_dropped", "fill nothing from like"),
    (DropsCollections, "test_leaves_are_neither_invented_nor_dropped", "no_such_collection", "dropped"),
    (IgnoresPlainTemplates, "test_a_template_of_no_framework_is_refused", "'a': 'b'"),
]


# A framework of objects with attributes


class Dense:
    def __init__(self, weight, bias):
        self.weight, self.bias = weight, bias


class Net:
    def __init__(self, **layers):
        vars(self).update(layers)


class AttributeFramework(FrameworkBase):
    """A healthy one."""

    name = "attributes"
    needs_template = True

    def flatten(self, value):
        return self.arrays(value) if isinstance(value, Dense | Net) else None

    def arrays(self, node, path=()):
        found = {}
        for name, child in vars(node).items():
            nested = isinstance(child, Dense | Net)
            found |= self.arrays(child, (*path, name)) if nested else {(*path, name): child}
        return found

    def unflatten(self, arrays, like, path=()):
        made = object.__new__(type(like))
        for name, child in vars(like).items():
            nested = isinstance(child, Dense | Net)
            new = self.unflatten(arrays, child, (*path, name)) if nested else arrays[*path, name]
            setattr(made, name, new)
        return made

    def modules(self, value, path=()):
        found = {path: value}
        for name, child in vars(value).items():
            found |= self.modules(child, (*path, name)) if isinstance(child, Dense | Net) else {}
        return found


class CastsAttributes(AttributeFramework):
    def flatten(self, value):
        found = super().flatten(value)
        return found and {
            key: np.asarray(array, np.float32) if array.dtype == np.float16 else array
            for key, array in found.items()
        }


def dense_transform():
    return LayerTransform(
        "attributes.dense",
        kind="linear",
        leaves=(Leaf("weight", "kernel", "out in"), Leaf("bias", "bias", "out")),
        modules=(f"{Dense.__module__}.Dense",),
    )
