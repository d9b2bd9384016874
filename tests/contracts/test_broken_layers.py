"""The contract of layer transforms catches broken ones, each in the test meant for its fault."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

import pytest
from support.broken_plugins import check_caught, check_fault, check_healthy, every, fault, parameters

from bridge_core import LayerKind, LayerTransform, Leaf, Registry, default_registry, hookimpl
from bridge_core.axes import parse_axes
from bridge_core.testing import LayerContract

KINDS = (
    LayerKind("bilinear", {"kernel": "in1 in2 out", "bias": "out"}),
    LayerKind("mixer", {"kernel": "in heads", "gain": "heads", "bias": "heads"}, zeros=("bias",)),
)
BILINEAR = LayerTransform(
    "torch.bilinear",
    "bilinear",
    (Leaf("weight", "kernel", "out in1 in2"), Leaf("bias", "bias", "out", optional=True)),
    ("torch.nn.modules.linear.Bilinear",),
)
MIXER = LayerTransform(
    "torch.mixer",
    "mixer",
    (
        Leaf("mix", "kernel", "heads in"),
        Leaf("gain", "gain", "heads"),
        Leaf("bias", "bias", "heads", optional=True),
    ),
    ("my.Mixer",),
    axis_splits={"heads": "num_heads"},
    identifying_leaves=("mix", "gain"),
)
OTHERS = (
    LayerTransform(
        "flax.mixer",
        "mixer",
        (
            Leaf("kernel", "kernel", "in heads/2"),
            Leaf("gain", "gain", "heads/2"),
            Leaf("bias", "bias", "heads/2", optional=True),
        ),
        ("my.FlaxMixer",),
    ),
    LayerTransform(
        "torch.mixer_old",
        "mixer",
        (Leaf("old_mix", "kernel", "heads in"), Leaf("old_gain", "gain", "heads")),
        ("my.OldMixer",),
        axis_splits={"heads": "num_heads"},
        unsupported_leaves={"bias": "the old mixer adds none"},
    ),
)


def registry_of(transform):
    """Return the registry of everything built in, with the transform, its kinds and their others."""

    class Plugin:
        @hookimpl
        def bridge_layer_kinds(self):
            return KINDS

        @hookimpl
        def bridge_layer_transforms(self):
            return (transform, *OTHERS)

    return default_registry().extend(Plugin(), name="mixers")


class BilinearContract(LayerContract):
    transforms = (BILINEAR,)
    registry: Registry = registry_of(BILINEAR)


class MixerContract(LayerContract):
    transforms = (MIXER,)
    registry: Registry = registry_of(MIXER)


def leaves(transform, **changes):
    """Return a transform whose leaves have other attributes, by name; None leaves one out."""
    changed = [replace(leaf, **(changes.get(leaf.name, {}) or {})) for leaf in transform.leaves]
    return replace(
        transform, leaves=tuple(leaf for leaf in changed if changes.get(leaf.name, {}) is not None)
    )


@dataclass(frozen=True)
class FitsAnything(LayerTransform):
    def fits(self, shapes):
        return self.has_names(shapes)


@dataclass(frozen=True)
class IgnoresRanks(LayerTransform):
    def fits(self, shapes):
        cut = {
            n: s[: len(parse_axes(self.by_name()[n].axes))] for n, s in shapes.items() if n in self.by_name()
        }
        return super().fits(cut)


@dataclass(frozen=True)
class NeedsNothing(LayerTransform):
    def has_names(self, names):
        return True


@dataclass(frozen=True)
class ComparesByIdentity(LayerTransform):
    def fits(self, shapes):
        names = [leaf.name for leaf in self.leaves]
        return all(any(name is own for own in names) for name in shapes) and super().fits(shapes)


@dataclass(frozen=True)
class IsItself(LayerTransform):
    """Two of one value are not equal, so that the one that is registered is another."""

    __hash__ = object.__hash__

    def __eq__(self, other):
        return self is other


@dataclass(frozen=True)
class AnotherWayBack(Leaf):
    """A leaf whose axes are in another order on the way back."""

    def axes_of(self, index):
        back = sys._getframe(1).f_code.co_name == "from_neutral_ops"
        return " ".join(reversed(self.axes.split())) if back else self.axes


@dataclass(frozen=True)
class FitsSmallOnly(LayerTransform):
    def fits(self, shapes):
        return super().fits(shapes) and all(size < 100 for shape in shapes.values() for size in shape)


@dataclass(frozen=True)
class FitsInOrderOnly(LayerTransform):
    def fits(self, shapes):
        return list(shapes) == [leaf.name for leaf in self.leaves if leaf.name in shapes] and super().fits(
            shapes
        )


@dataclass(frozen=True)
class ConsumesShapes(LayerTransform):
    def fits(self, shapes):
        found = super().fits(dict(shapes))
        if isinstance(shapes, dict):
            shapes.clear()
        return found


@dataclass(frozen=True)
class RaisesForOthers(LayerTransform):
    def fits(self, shapes):
        return bool([self.by_name()[name] for name in shapes]) and super().fits(shapes)


@dataclass(frozen=True)
class FitsNothing(LayerTransform):
    """Or rather, it fits where there is nothing."""

    def fits(self, shapes):
        return not shapes or super().fits(shapes)


@dataclass(frozen=True)
class ExchangedOnTheWayBack(Leaf):
    """A leaf of which two axes are exchanged on the way back."""

    def axes_of(self, index):
        back = sys._getframe(1).f_code.co_name == "from_neutral_ops"
        return "out in2 in1" if back else self.axes


def as_class(cls, transform):
    return cls(**{name: getattr(transform, name) for name in transform.__dataclass_fields__})


REGISTERED, ROLES = "test_everything_that_is_named_is_registered", "test_every_role_has_its_own_leaf"
AXES, OPTIONAL = (
    "test_leaves_have_the_axes_of_their_layer",
    "test_optional_leaves_are_those_that_a_layer_may_lack",
)
FIT, MISFIT = "test_shapes_that_belong_together_fit", "test_shapes_that_do_not_belong_together_do_not_fit"
IDENTIFY, TYPES = (
    "test_identifying_leaves_identify_no_other_layer",
    "test_types_of_modules_belong_to_one_transform",
)


def entry(name, contract, transform, test, *words, registered=None):
    return fault(
        contract,
        test,
        *words,
        name=name,
        transforms=(transform,),
        registry=registry_of(transform if registered is None else registered),
    )


def not_itself():
    return entry(
        "IsItself",
        BilinearContract,
        as_class(IsItself, BILINEAR),
        REGISTERED,
        "other values",
        registered=as_class(IsItself, BILINEAR),
    )


BOTH_WAYS = "test_every_leaf_goes_to_the_axes_of_its_kind_and_back"
RARELY = [
    entry(
        "FitsSmallOnly", BilinearContract, as_class(FitsSmallOnly, BILINEAR), "test_large_shapes_fit", "130"
    ),
    entry("FitsInOrderOnly", BilinearContract, as_class(FitsInOrderOnly, BILINEAR), FIT, "in any order"),
    entry("ConsumesShapes", BilinearContract, as_class(ConsumesShapes, BILINEAR), FIT, "changed the shapes"),
    entry("RaisesForOthers", BilinearContract, as_class(RaisesForOthers, BILINEAR), MISFIT, "return False"),
    entry(
        "FitsNothing",
        BilinearContract,
        as_class(FitsNothing, BILINEAR),
        "test_a_layer_that_lacks_a_leaf_does_not_fit",
        "'weight'",
    ),
    entry(
        "ExchangedOnTheWayBack",
        BilinearContract,
        replace(
            BILINEAR, leaves=(ExchangedOnTheWayBack("weight", "kernel", "out in1 in2"), BILINEAR.leaves[1])
        ),
        BOTH_WAYS,
        "must not change",
    ),
    entry(
        "IdentifiedByBiases",
        BilinearContract,
        replace(BILINEAR, identifying_leaves=("bias",)),
        IDENTIFY,
        "torch.conv",
    ),
    entry(
        "TakesConvolutions",
        BilinearContract,
        replace(BILINEAR, modules=("torch.nn.modules.conv.Conv1d",)),
        TYPES,
        "torch.conv",
    ),
]

TABLE = [
    *RARELY,
    entry(
        "RolesExchanged",
        MixerContract,
        leaves(MIXER, gain={"role": "bias"}, bias={"role": "gain", "optional": False}),
        ROLES,
        "'gain'",
        "exchange",
    ),
    entry(
        "HidesALeaf",
        MixerContract,
        replace(leaves(MIXER, gain=None), identifying_leaves=None),
        ROLES,
        "'gain'",
        "unsupported_leaves",
    ),
    entry(
        "SaysUnsupportedToo",
        MixerContract,
        replace(MIXER, unsupported_leaves={"gain": "none"}),
        ROLES,
        "'gain'",
        "unsupported_leaves",
    ),
    entry(
        "AxisMissing", BilinearContract, leaves(BILINEAR, weight={"axes": "in1 in2"}), AXES, "'out'", "add it"
    ),
    entry(
        "EverythingOptional",
        BilinearContract,
        leaves(BILINEAR, weight={"optional": True}),
        OPTIONAL,
        "every leaf",
    ),
    entry("OptionalUnlikeOthers", MixerContract, leaves(MIXER, gain={"optional": True}), OPTIONAL, "'gain'"),
    entry("FitsAnything", BilinearContract, as_class(FitsAnything, BILINEAR), MISFIT, "torch.bilinear: fits"),
    entry("IgnoresRanks", BilinearContract, as_class(IgnoresRanks, BILINEAR), MISFIT, "axes do not allow"),
    entry(
        "NeedsNothing",
        BilinearContract,
        as_class(NeedsNothing, BILINEAR),
        "test_a_layer_that_lacks_a_leaf_does_not_fit",
        "'weight'",
    ),
    entry("ComparesByIdentity", BilinearContract, as_class(ComparesByIdentity, BILINEAR), FIT, "=="),
    not_itself(),
    entry(
        "NotItsOwnInverse",
        BilinearContract,
        replace(BILINEAR, leaves=(AnotherWayBack("weight", "kernel", "out in1 in2"), BILINEAR.leaves[1])),
        "test_every_leaf_goes_to_the_axes_of_its_kind_and_back",
        "torch.bilinear",
    ),
    entry(
        "IdentifiesConvolutions",
        BilinearContract,
        replace(BILINEAR, identifying_leaves=("weight",)),
        IDENTIFY,
        "torch.conv",
        "identifying_leaves",
    ),
    entry(
        "TakesLinearModules",
        BilinearContract,
        replace(leaves(BILINEAR, weight={"axes": "out in1"}), modules=("torch.nn.modules.linear.Linear",)),
        TYPES,
        "torch.linear",
    ),
    entry(
        "TakesTheBiasOfAChild",
        BilinearContract,
        leaves(BILINEAR, bias={"name": "proj.bias"}),
        "test_nested_leaves_are_not_parts_of_other_layers",
        "'bias'",
        "'proj'",
    ),
    entry(
        "LosesSplits",
        MixerContract,
        replace(MIXER, axis_splits={}),
        "test_axes_that_others_split_name_their_setting",
        "'heads'",
        "axis_splits",
    ),
]


@pytest.mark.parametrize("one", every(TABLE))
def test_a_broken_transform_is_caught(one, tmp_path):
    check_caught(one, tmp_path)


@pytest.mark.parametrize("one", parameters(TABLE, sample=["FitsAnything"]))
def test_a_broken_transform_fails_no_other_test(one, tmp_path):
    check_fault(one, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("contract", [BilinearContract, MixerContract])
def test_transforms_of_a_stranger_are_healthy(contract, tmp_path):
    check_healthy(contract, tmp_path, TABLE)
