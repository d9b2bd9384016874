"""The contract of frameworks catches adapters that are broken in one way, each in the test meant for it."""

from __future__ import annotations

import numpy as np
import pytest
from support.broken_adapters import (
    RARELY,
    AttributeFramework,
    CastsAttributes,
    Dense,
    Net,
    dense_transform,
)
from support.broken_plugins import check_caught, check_fault, check_healthy, every, fault, parameters
from support.toy_framework import (
    Module,
    Shape,
    Toy,
    Variables,
    arrays_of,
    plain_sample,
    registry_of,
    sample,
    walk,
)

from bridge_core import FlatState, default_registry
from bridge_core.state import LazyTensor, TensorSpec
from bridge_core.testing import FrameworkContract


class ToyContract(FrameworkContract):
    framework = Toy()
    registry = registry_of(framework)

    def samples(self):
        return sample(), plain_sample()

    def abstract(self):
        return (sample(Shape),)


# Declarations and recognising


class WrongFormat(Toy):
    default_format = "nope"


class AcceptsNone(Toy):
    def accepts(self, value):
        return value is None or super().accepts(value)


class AcceptsEmpty(Toy):
    """What ``all`` of no leaf gives."""

    def accepts(self, value):
        return isinstance(value, dict) and all(
            isinstance(leaf, np.ndarray | Shape) for leaf in arrays_of(value)
        )


class AcceptsClasses(Toy):
    def accepts(self, value):
        return value is Variables or super().accepts(value)


class AcceptsWhatBreaks(Toy):
    """An object that cannot be looked at is taken for its own."""

    def accepts(self, value):
        try:
            hasattr(value, "shape")
        except RuntimeError:
            return True
        return super().accepts(value)


class OwnsNothingAtAll(Toy):
    def owns(self, names):
        return all(len(key) > 1 and key[0] in self.collections for key in names)


class OwnsOthers(Toy):
    def owns(self, names):
        return any(key[-1] in ("weight", "matrix") for key in names)


class OwnsByIndex(Toy):
    def owns(self, names):
        return {"weights": True, "running": True}[next(iter(names))[1]]


# Reading


class WrongLayout(Toy):
    def state(self, value):
        return super().state(value).replace(layout="torch")


class EmptyParts(Toy):
    """One leaf has an empty name below its own."""

    def entries(self, value):
        return {(*key, "") if key[-1] == "var" else key: leaf for key, leaf in super().entries(value).items()}

    def leaves(self, state):
        return {key[:-1] if not key[-1] else key: leaf for key, leaf in super().leaves(state).items()}


class SpecsLie(Toy):
    """The dtype of the spec is always the same."""

    def leaf(self, key, leaf):
        if leaf.dtype != np.float16 or not isinstance(leaf, np.ndarray):
            return super().leaf(key, leaf)
        return LazyTensor(TensorSpec(leaf.shape, np.dtype("float32")), lambda region: leaf[region])


def lazily(read):
    """Return the method of an adapter whose leaves are read by a function of array and region."""

    def leaf(self, key, leaf):
        if not isinstance(leaf, np.ndarray):
            return Toy.leaf(self, key, leaf)
        return LazyTensor(TensorSpec(leaf.shape, leaf.dtype), lambda region: read(leaf, region))

    return leaf


def native(array):
    return array.astype(array.dtype.newbyteorder("="), copy=False)


class IgnoresSteps(Toy):
    def read(leaf, region):
        return native(
            leaf[
                (
                    *(slice(s.start, s.start + len(range(leaf.shape[0])[s])) for s in region[:1]),
                    *region[1:],
                    ...,
                )
            ]
        )

    leaf = lazily(read)


class ReadsTransposed(Toy):
    """And builds transposed again, so that it comes back."""

    def leaf(self, key, leaf):
        return leaf.T if isinstance(leaf, np.ndarray) else super().leaf(key, leaf)

    def copy(self, array):
        return np.array(array.T, order="C")

    def check(self, state, like):
        assert set(self.entries(like)) == set(state)


class LosesScalars(Toy):
    def entries(self, value):
        return {
            key: leaf for key, leaf in super().entries(value).items() if leaf.shape or isinstance(leaf, Shape)
        }


class PassesOverNarrow(Toy):
    """Only usual dtypes are read, the others are passed over."""

    def entries(self, value):
        usual = ("float32", "float16", "int64")
        return {key: leaf for key, leaf in super().entries(value).items() if leaf.dtype.name in usual}


class IgnoresByteOrder(Toy):
    def leaf(self, key, leaf):
        swapped = isinstance(leaf, np.ndarray) and not leaf.dtype.isnative
        return leaf.view(leaf.dtype.newbyteorder("=")) if swapped else super().leaf(key, leaf)


class ReadsInMemoryOrder(Toy):
    def leaf(self, key, leaf):
        if isinstance(leaf, np.ndarray):
            return leaf.ravel(order="K").reshape(leaf.shape)
        return super().leaf(key, leaf)


class MakesRows(Toy):
    def leaf(self, key, leaf):
        return np.atleast_1d(leaf) if isinstance(leaf, np.ndarray) else super().leaf(key, leaf)


class ReversesKeys(Toy):
    def entries(self, value):
        return dict(reversed(super().entries(value).items()))


class ForgetsTies(Toy):
    def ties(self, entries):
        return {}


class TiesWhatIsNot(Toy):
    """Whatever has one name is tied."""

    def ties(self, entries):
        names = [key for key in entries if key[-2:] in (("first", "shift"), ("norm", "shift"))]
        return {
            **super().ties(entries),
            **dict([names] if len(names) == 2 and not isinstance(entries[names[0]], Shape) else []),
        }


class TiesToNothing(Toy):
    def ties(self, entries):
        return {key: (*other[:-1], "gone") for key, other in super().ties(entries).items()}


class NamesShortTypes(Toy):
    def modules(self, value):
        found = super().modules(value)
        return {
            path: type(info)((info.types[0].split(".")[-1], *info.types), {}, info.parameters)
            for path, info in found.items()
        }


class NamesLeavesThatAreNot(Toy):
    def modules(self, value):
        return {
            p: type(info)(info.types, {}, (*info.parameters, "bias"))
            for p, info in super().modules(value).items()
        }


class ForgetsEmpty(Toy):
    def empty(self, value):
        return ()


class SortsTheObject(Toy):
    def state(self, value):
        self.sort(value)
        return super().state(value)

    def sort(self, node):
        for name in sorted(node):
            node[name] = node.pop(name)
            if isinstance(node[name], dict):
                self.sort(node[name])


class RemembersObjects(Toy):
    def __init__(self):
        self.known = {}

    def state(self, value):
        if id(value) not in self.known:
            state = super().state(value)
            copies = {
                k: t if isinstance(t, LazyTensor) else np.array(state[k]) for k, t in state.tensors().items()
            }
            self.known[id(value)] = value, state.replace(tensors=copies, metadata=state.metadata)
        return self.known[id(value)][1]


class LooksUpLater(Toy):
    """A tensor finds its array in the object when it is read."""

    def state(self, value):
        state = super().state(value)

        def reader(key):
            return lambda region: native(self.entries(value)[key][(*region, ...)])

        tensors = {
            key: tensor if isinstance(tensor, LazyTensor) else LazyTensor(tensor.spec, reader(key))
            for key, tensor in state.tensors().items()
        }
        return state.replace(tensors=tensors, metadata=state.metadata)


class CachesWholes(Toy):
    """The whole is stored when it is first read, and parts come from the object."""

    def leaf(self, key, leaf):
        if not isinstance(leaf, np.ndarray):
            return super().leaf(key, leaf)
        stored = []

        def read(region):
            part = native(leaf[(*region, ...)])
            if part.shape == leaf.shape and all(s.step == 1 for s in region):
                stored.append(part.copy())
                return stored[0]
            return part

        return LazyTensor(TensorSpec(leaf.shape, leaf.dtype), read)


class AbstractZeros(Toy):
    def leaf(self, key, leaf):
        return np.zeros(leaf.shape, leaf.dtype) if isinstance(leaf, Shape) else leaf


class AbstractFloat32(Toy):
    def leaf(self, key, leaf):
        return super().leaf(key, Shape(leaf.shape[::-1], np.float64) if isinstance(leaf, Shape) else leaf)


class ForgetsModules(Toy):
    """Without types the two orders of axes of its linear layers cannot be told apart."""

    def modules(self, value):
        return {}


# Building


class BuildsAnotherType(Toy):
    def plain(self, state):
        return dict(super().plain(state))

    def state(self, value):
        return super().state(Variables(value) if type(value) is dict else value)


class LosesLeaves(Toy):
    def plain(self, state):
        return super().plain(state.select([key for key in state if key[-1] != "wide"]))


class MixesInTheTemplate(Toy):
    def filled(self, state, like):
        is_abstract = any(isinstance(leaf, Shape) for leaf in self.entries(like).values())
        if is_abstract:
            return super().filled(state, like)
        own = {key: np.array(leaf) for key, leaf in self.entries(like).items() if key[-1] == "shift"}
        ties = {key: leaf for key, leaf in self.leaves(state).items()}
        self.check(state, like)
        return self.rebuilt(like, {**ties, **own}, ())


class Quietens(Toy):
    """NaNs lose their payloads."""

    def copy(self, array):
        return (
            np.where(np.isnan(array), np.float32("nan"), array)
            if array.dtype == np.float32
            else super().copy(array)
        )


class Widens(Toy):
    def copy(self, array):
        return np.array(array, np.float32 if array.dtype == np.float16 else None)


class CastsToTheTemplate(Toy):
    def filled(self, state, like):
        self.check(state, like)
        specs = self.state(like).specs()
        with np.errstate(all="ignore"):
            made = {
                key: np.array(array, specs[key].dtype) if array.dtype.kind == "f" else array
                for key, array in self.leaves(state).items()
            }
        for key, other in state.metadata.ties.items():
            made[key] = made[other]
        return self.rebuilt(like, made, ())


class LosesAxes(Toy):
    def copy(self, array):
        return np.atleast_1d(np.array(array))


class Squeezes(Toy):
    def copy(self, array):
        return super().copy(array.squeeze() if array.size == 1 and array.ndim > 1 else array)


class Exchanges(Toy):
    """Two modules of one type and one shape."""

    def rebuilt(self, node, leaves, path):
        one, other = (("weights", "first", "shift"), ("weights", "block", "second", "shift"))
        if not path and one in leaves and other in leaves:
            leaves = {**leaves, one: leaves[other], other: leaves[one]}
        return super().rebuilt(node, leaves, path)


class ExchangesPlain(Toy):
    def plain(self, state):
        last = list(state)[-2:]
        swap = (
            dict(zip(last, last[::-1], strict=True))
            if len({str(state.spec(key)) for key in last}) == 1 and len(state) == 3
            else {}
        )
        return super().plain(
            FlatState(
                {key: state.tensor(swap.get(key, key)) for key in state},
                layout="toy",
                metadata=state.metadata,
            )
        )


class GoesByOrder(Toy):
    """Leaves and tensors are put together in the order in which both come."""

    def filled(self, state, like):
        self.check(state, like)
        leaves = self.leaves(state)
        return self.rebuilt(like, dict(zip(self.entries(like), leaves.values(), strict=True)), ())


class ComparesByIdentity(Toy):
    def rebuilt(self, node, leaves, path):
        if not path:
            names = {key[0] for key, _ in walk(node)}
            leaves = {key: leaf for key, leaf in leaves.items() if any(key[0] is name for name in names)}
        return super().rebuilt(node, leaves, path)


class SortsPlain(Toy):
    def plain(self, state):
        return super().plain(
            FlatState(dict(sorted(state.tensors().items())), layout="toy", metadata=state.metadata)
        )


class FollowsTheState(Toy):
    """The order of entries is that of the state."""

    def rebuilt(self, node, leaves, path):
        made = super().rebuilt(node, leaves, path)
        order = {key[: len(path) + 1]: None for key in leaves}
        ranks = {key: number for number, key in enumerate(order)}
        entries = sorted(made.items(), key=lambda item: ranks.get((*path, item[0]), -1))
        return self.container(made, dict(entries))


class KeepsStrides(Toy):
    """Copies the memory, not the array."""

    def copy(self, array):
        if array.flags.c_contiguous or array.base is None:
            return super().copy(array)
        return np.array(array.ravel(order="K")).reshape(array.shape)


class WritesIntoWhatItGets(Toy):
    def copy(self, array):
        if array.ndim:
            array.flags.writeable = True
        return super().copy(array)


class ReadsTwice(Toy):
    def filled(self, state, like):
        [state[key] for key in state]
        return super().filled(state, like)


class IgnoresTheTemplate(Toy):
    def filled(self, state, like):
        self.check(state, like)
        order = {key: state.tensor(key) for key in self.entries(like)}
        empty = self.empty(like)
        return self.plain(FlatState(order, layout="toy", metadata=state.metadata.with_(empty=empty)))


class LosesTypes(Toy):
    def container(self, node, children):
        if isinstance(node, Module):
            return Module("Unknown", children)
        return super().container(node, children)


class UntiesWhatItBuilds(Toy):
    def once(self, made, state, key):
        return self.copy(state[key])


class TiesEqualValues(Toy):
    def ties(self, entries):
        first, ties = {}, {}
        for key, leaf in entries.items():
            content = leaf.tobytes() if isinstance(leaf, np.ndarray) else id(leaf)
            owner = first.setdefault((content, leaf.shape), key)
            if owner != key:
                ties[key] = owner
        return ties


class LosesEmpty(Toy):
    def rebuilt(self, node, leaves, path):
        made = super().rebuilt(node, leaves, path)
        return self.container(
            made, {name: child for name, child in made.items() if isinstance(child, np.ndarray) or child}
        )


class LosesTheForm(Toy):
    """Only objects with types of modules are known to have collections."""

    def metadata(self, value, entries):
        known = super().metadata(value, entries)
        return (
            known
            if isinstance(value, Variables) and not getattr(value, "built", False)
            else known.with_(tree_form={})
        )

    def filled(self, state, like):
        made = super().filled(state, like)
        made.built = True
        return made


class FillsFromTheTemplate(Toy):
    def check(self, state, like):
        pass

    def filled(self, state, like):
        own = {key: np.array(leaf) for key, leaf in self.entries(like).items() if key not in state}
        return self.rebuilt(like, {**own, **self.leaves(state)}, ())


class DropsWhatIsMore(Toy):
    def check(self, state, like):
        super().check(state.select([key for key in state if key in self.entries(like)]), like)


class CutsToTheTemplate(Toy):
    def check(self, state, like):
        assert set(self.entries(like)) == set(state)

    def leaves(self, state):
        return {
            k: a[..., 0].copy() if a.ndim and a.shape[-1] == 3 and a.ndim > 1 and not any(a.tobytes()) else a
            for k, a in super().leaves(state).items()
        }


class AcceptsAnyTemplate(Toy):
    def build(self, state, like):
        return super().build(state, like if isinstance(like, dict) else None)


class FillsTheTemplateItself(Toy):
    def filled(self, state, like):
        self.check(state, like)
        made = super().filled(state, like)
        for leaf in self.entries(like).values():
            if isinstance(leaf, np.ndarray) and leaf.shape == (4, 4):
                leaf[...] = 0
        return made


class ChangesTheState(Toy):
    def copy(self, array):
        copied = super().copy(array)
        if array.flags.writeable and array.dtype == np.float32:
            array[...] = 0
        return copied


class BuildsViews(Toy):
    def copy(self, array):
        return np.asarray(array, order="C")


class BuildsOnce(Toy):
    """What was built is returned again for the same values."""

    def __init__(self):
        self.known = {}

    def copy(self, array):
        content = (array.shape, array.dtype.name, np.ascontiguousarray(array).tobytes())
        return self.known.setdefault(content, super().copy(array)).view()


class NeedsValues(Toy):
    """An abstract object is not filled."""

    def filled(self, state, like):
        if any(isinstance(leaf, Shape) for leaf in self.entries(like).values()):
            return like
        return super().filled(state, like)


FOREIGN, OWN = "test_accepts_its_own_objects_and_no_others", "test_owns_no_names_of_others"
LEAVES, ARRAYS = (
    "test_leaves_are_those_of_the_object",
    "test_arrays_of_every_memory_order_and_shape_are_read_exactly",
)
TIES, MODULES = "test_ties_are_those_of_the_object", "test_modules_name_what_is_there"
BITS, DTYPES = "test_what_is_built_holds_the_same_bits", "test_every_dtype_is_built_or_refused"
SHAPES, EXCHANGED = "test_every_shape_is_built_or_refused", "test_leaves_of_one_shape_are_not_exchanged"
BY_NAME, ORDER = "test_values_go_by_name_and_not_by_order", "test_keys_keep_their_order"
MEMORY, OWN_MEMORY = "test_every_memory_order_is_built_exactly", "test_what_is_built_has_memory_of_its_own"
NEITHER, CHANGES = (
    "test_leaves_are_neither_invented_nor_dropped",
    "test_building_changes_neither_state_nor_template",
)

FAULTS = [
    (WrongFormat, "test_is_a_framework_with_usable_declarations", "nope"),
    (AcceptsNone, FOREIGN, "None"),
    (AcceptsEmpty, FOREIGN, "holds no weights"),
    (AcceptsClasses, FOREIGN, "Variables"),
    (AcceptsWhatBreaks, FOREIGN, "attributes raise"),
    (OwnsNothingAtAll, OWN, "without tensors"),
    (OwnsOthers, OWN, "torch"),
    (OwnsByIndex, OWN, "KeyError"),
    (WrongLayout, "test_states_are_in_its_layout_with_usable_keys", "'toy'", "'torch'"),
    (EmptyParts, "test_states_are_in_its_layout_with_usable_keys", "empty part"),
    (SpecsLie, "test_specs_tell_the_real_shapes_and_dtypes", "float32[5]", "float16[5]"),
    (IgnoresSteps, "test_parts_are_read_as_they_stand_in_the_whole", "region"),
    (ReadsTransposed, LEAVES, "is read as float32"),
    (LosesScalars, ARRAYS, "without axes"),
    (PassesOverNarrow, ARRAYS, "of dtype", "at none of the state's keys"),
    (IgnoresByteOrder, ARRAYS, "in the other byte order"),
    (ReadsInMemoryOrder, ARRAYS, "in Fortran order"),
    (MakesRows, ARRAYS, "without axes"),
    (ReversesKeys, "test_keys_are_in_the_order_of_the_object", "other order"),
    (ForgetsTies, TIES, "weights.head.table", "one array"),
    (TiesWhatIsNot, TIES, "has other values"),
    (TiesToNothing, TIES, "gone", "not in the state"),
    (NamesShortTypes, MODULES, "qualified names"),
    (NamesLeavesThatAreNot, MODULES, "'bias'", "no key has"),
    (ForgetsModules, "test_module_types_are_given_where_transforms_need_them", "toy.Dense", "modules"),
    (ForgetsEmpty, "test_empty_nodes_are_recorded", "weights.block.idle"),
    (SortsTheObject, "test_reading_changes_no_object", "changed the Variables"),
    (RemembersObjects, "test_a_changed_object_is_read_anew", "old values"),
    (LooksUpLater, "test_a_state_agrees_with_itself_when_its_object_changes", "was replaced"),
    (CachesWholes, "test_a_state_agrees_with_itself_when_its_object_changes", "view or a copy"),
    (AbstractZeros, "test_abstract_objects_have_specs", "no values"),
    (AbstractFloat32, "test_abstract_objects_have_the_specs_of_live_ones", "float64"),
    (BuildsAnotherType, "test_what_is_built_is_accepted", "dict"),
    (LosesLeaves, "test_what_is_built_holds_the_same_keys", "weights.zeta.wide"),
    (MixesInTheTemplate, BITS, "template's values"),
    (Quietens, BITS, "other values"),
    (Widens, DTYPES, "float16", "float32"),
    (CastsToTheTemplate, DTYPES, "expected float16[4, 4], got float32[4, 4]"),
    (LosesAxes, SHAPES, "float32[]", "float32[1]"),
    (Squeezes, SHAPES, "[1, 1]"),
    (Exchanges, EXCHANGED, "weights.first.shift", "weights.block.second.shift"),
    (ExchangesPlain, EXCHANGED, "weights.mid", "weights.alpha"),
    (GoesByOrder, BY_NAME, "in reverse order"),
    (ComparesByIdentity, BY_NAME, "new texts", "=="),
    (SortsPlain, ORDER, "like=None: expected the keys in the order"),
    (FollowsTheState, ORDER, "expected the keys in the order"),
    (KeepsStrides, MEMORY, "in Fortran order"),
    (WritesIntoWhatItGets, MEMORY, "read-only"),
    (ReadsTwice, "test_each_value_is_read_once", "2 times"),
    (IgnoresTheTemplate, "test_what_is_built_has_the_structure_of_its_template", "Module", "dict"),
    (LosesTypes, "test_module_types_survive", "toy.Net"),
    (UntiesWhatItBuilds, "test_ties_survive", "weights.head.table"),
    (TiesEqualValues, "test_equal_values_are_no_ties", "memory"),
    (LosesEmpty, "test_empty_nodes_survive", "idle"),
    (LosesTheForm, "test_collections_and_forms_survive", "tree_form"),
    (FillsFromTheTemplate, NEITHER, "fill nothing from like"),
    (DropsWhatIsMore, NEITHER, "no_such_leaf", "dropped"),
    (CutsToTheTemplate, NEITHER, "MismatchError"),
    (AcceptsAnyTemplate, "test_a_template_of_no_framework_is_refused", "like=3"),
    (FillsTheTemplateItself, CHANGES, "like"),
    (ChangesTheState, CHANGES, "the state"),
    (BuildsViews, OWN_MEMORY, "the state", "np.array"),
    (BuildsOnce, OWN_MEMORY, "built next"),
    (NeedsValues, "test_abstract_objects_serve_as_templates", "abstract Variables"),
]
SAMPLE = ("Exchanges",)


def entry(broken, test, *words):
    adapter = broken()
    return fault(
        ToyContract, test, *words, name=broken.__name__, framework=adapter, registry=registry_of(adapter)
    )


class AttributesContract(FrameworkContract):
    framework = AttributeFramework()
    registry = default_registry().extend(framework, dense_transform())

    def samples(self):
        random = np.random.default_rng(0)

        def dense(dtype):
            return Dense(random.normal(size=(4, 4)).astype(dtype), random.normal(size=4).astype(dtype))

        return [Net(first=dense("float32"), block=Net(second=dense("float16")), last=dense("float32"))]


def of_attributes(broken, test, *words):
    adapter = broken()
    registry = default_registry().extend(adapter, dense_transform())
    return fault(AttributesContract, test, *words, name=broken.__name__, framework=adapter, registry=registry)


TABLE = [
    *(entry(*row) for row in (*FAULTS, *RARELY)),
    of_attributes(CastsAttributes, "test_leaves_are_those_of_the_object", "other dtypes", "change none"),
]


@pytest.mark.parametrize("one", every(TABLE))
def test_a_broken_framework_is_caught(one, tmp_path):
    check_caught(one, tmp_path)


TWICE = ("SpecsLie", "GoesByOrder", "CutsToTheTemplate")


@pytest.mark.parametrize("one", parameters(TABLE, SAMPLE, TWICE))
def test_a_broken_framework_fails_no_other_test(one, tmp_path):
    check_fault(one, tmp_path)


@pytest.mark.slow
def test_the_toy_framework_is_healthy(tmp_path):
    check_healthy(ToyContract, tmp_path, TABLE)


@pytest.mark.slow
def test_a_framework_of_attributes_is_healthy(tmp_path):
    check_healthy(AttributesContract, tmp_path, TABLE)
