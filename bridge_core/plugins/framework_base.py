"""A framework adapter from two methods: objects to named arrays, and named arrays to objects.

What both methods do is checked when it is used: an object that was built wrong is an error, not a result.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, NoReturn

import numpy as np

from bridge_core.errors import MismatchError, PluginError, UnsupportedFeature, UsageError, about_tensor
from bridge_core.messages import listed, shown
from bridge_core.state import (
    Array,
    ArrayTensor,
    FlatState,
    Key,
    LazyTensor,
    ModuleInfo,
    Region,
    StateMetadata,
    Tensor,
    TensorSpec,
    as_key,
    as_tensor,
    equal_values,
    join_key,
)
from bridge_core.transfer import load_values

__all__ = ["FrameworkBase"]


class FrameworkBase(ABC):
    """A framework adapter; subclass it, name it, and write `flatten` and `unflatten`.

    Attributes:
        name: The framework's name, and that of its layout. The names of its transforms begin with it.
        default_format: Name of the format to write where the destination does not determine one.
        collections: As in `Framework`; empty where keys have no collections.
        own_leaves: Last parts of keys that only this framework has, such as ``"W"``. A file with one of them
            is taken for this framework's. Empty: no file is, so that ``layout=`` (``--from``) has to name it.
        needs_template: Whether objects can only be built in the structure of another, ``like=``.
    """

    name: str
    default_format: str = "npz"
    collections: Mapping[str, tuple[str, ...]] = {}
    own_leaves: ClassVar[Iterable[str]] = ()
    needs_template: ClassVar[bool] = False

    @abstractmethod
    def flatten(self, value: Any) -> Mapping[Any, Any] | None:
        """Return an object's arrays by name; None if the object is not this framework's.

        Args:
            value: Any object; it is not changed.

        Returns:
            Key (a tuple of texts, or a dotted name) -> array, or whatever numpy reads as one; a `TensorSpec`
            for an array without values. Nested mappings and lists are flattened. Keys of one array are tied.
        """

    @abstractmethod
    def unflatten(self, arrays: Mapping[Key, Array], like: Any) -> Any:
        """Return a new object with these arrays.

        Args:
            arrays: Key -> new numpy array, which the object may take as its own; tied keys have one array.
            like: The object that has the structure, with the same keys and shapes; it is not changed. None
                for the framework's plain tree.
        """

    def modules(self, value: Any) -> Mapping[Any, Any]:
        """Return the layers in an object, by path; their types are evidence of what they are.

        Transforms name the types, ``modules=("package.module.Class",)``. By default there are no layers, and
        only names and shapes show what leaves are.

        Args:
            value: An object that `flatten` returned arrays for.

        Returns:
            Path (a tuple of texts, or a dotted name) -> the layer, or its class.
        """
        del value
        return {}

    # What follows from these

    def owns(self, names: Mapping[Key, TensorSpec]) -> bool:
        """Return whether one of the names ends in a leaf that only this framework has."""
        own = frozenset(self.own_leaves)
        return any(key[-1] in own for key in names if key)

    def accepts(self, value: Any) -> bool:
        """Return whether `flatten` takes an object for this framework's, with at least one array."""
        return bool(self._flattened(value))

    def state(self, value: Any) -> FlatState:
        """Return an object's tensors, which view its arrays, with the types of its modules.

        Raises:
            UsageError: The object is not this framework's.
            UnsupportedFeature: Something in it is not an array of numbers.
            PluginError: `flatten` or `modules` returned something else than it must.
        """
        flat = self._flattened(value)
        if flat is None:
            raise UsageError(f"expected an object of {self.name}, got {_type_of(value)}.")
        given = FlatState({}) if not flat else FlatState(_with_lazy(flat))
        tensors = {key: _read_only(key, tensor) for key, tensor in given.tensors().items()}
        ties = _ties(tensors)
        tensors |= {key: tensors[first] for key, first in ties.items()}
        modules = {as_key(path): layer for path, layer in self.modules(value).items()}
        metadata = StateMetadata(
            modules=_described(modules, tensors),
            ties=ties,
            empty=given.metadata.empty,
            provenance={"source": f"a live {_type_of(value)}"},
        )
        return FlatState(tensors, layout=self.name, metadata=metadata)

    def build(self, state: FlatState, like: Any) -> Any:
        """Return a new object with the state's tensors, each read once into memory of its own.

        Args:
            state: Tensors in this framework's layout.
            like: An object of this framework with the same keys and shapes, which is not changed; None for
                the framework's plain tree.

        Raises:
            MismatchError: ``like`` has other keys or shapes; the attributes list all of them.
            UsageError: ``like`` is not this framework's, or is None where one is needed.
            PluginError: `unflatten` returned something else than an object with these arrays, or changed
                ``like``.
        """
        if like is None and self.needs_template:
            raise UsageError(
                f"objects of {self.name} can only be made in the structure of another.",
                hint="Pass an object of the same structure: like=model.",
            )
        before = None if like is None else self.state(like)
        if before is not None:
            _check_like(state, before)
        loaded = load_values(state, shared=True)
        arrays = {key: _array_of(loaded.tensor(key)) for key in loaded}
        # The object may take over what it was given, so that what is compared is noted before.
        places = {key: _place(array) for key, array in arrays.items()}
        built = self.unflatten(dict(arrays), like)
        if built is like and like is not None:
            raise self._wrong("returned like= itself", "Return a new object: copy like= first.")
        self._check_built(built, arrays, places)
        if before is not None:
            self._check_unchanged(like, before, places)
        return built

    def _flattened(self, value: Any) -> Mapping[Any, Any] | None:
        if value is None or isinstance(value, FlatState):
            return None
        flat = self.flatten(value)
        if flat is not None and not isinstance(flat, Mapping):
            raise PluginError(
                f"framework {self.name}: expected flatten to return a mapping from keys to arrays, or None, "
                f"got {shown(flat)}."
            )
        return flat

    def _check_built(self, built: Any, arrays: Mapping[Key, Array], places: Mapping[Key, object]) -> None:
        """Refuse an object that does not hold each array under its own key."""
        if not arrays:
            return
        if not self.accepts(built):
            raise self._wrong(
                f"returned {_type_of(built)}, for which flatten returns nothing",
                "Let flatten take what unflatten returns.",
            )
        built_state = self.state(built)
        for what, keys in (
            ("lost", [key for key in arrays if key not in built_state]),
            ("added", [key for key in built_state if key not in arrays]),
        ):
            if keys:
                raise self._wrong(f"{what} {listed(map(join_key, keys))}", "Use each key of arrays= once.")
        for key, tensor in built_state.tensors().items():
            given = as_tensor(arrays[key])
            if tensor.spec != given.spec:
                raise self._wrong(
                    f"changed {join_key(key)!r}: expected {given.spec}, got {tensor.spec}",
                    "Take the arrays unchanged, and cast nothing.",
                )
            if _place_of(tensor) != places[key] and not equal_values(tensor, given):
                raise self._wrong(
                    f"put other values at {join_key(key)!r}",
                    "Look each array up by its key, not by its order, and take none of like=.",
                )

    def _check_unchanged(self, like: Any, before: FlatState, places: Mapping[Key, object]) -> None:
        """Refuse an `unflatten` that put the new arrays into ``like``."""
        after = self.state(like)
        new = {place for place in places.values() if place is not None}
        changed = [
            key
            for key, tensor in after.tensors().items()
            if key not in before or tensor.spec != before.spec(key) or _place_of(tensor) in new
        ]
        if changed or len(after) != len(before):
            raise self._wrong(f"changed like=: {listed(map(join_key, changed))}", "Copy like= first.")

    def _wrong(self, did: str, hint: str) -> PluginError:
        return PluginError(f"framework {self.name}: unflatten {did}.", hint=hint)


def _type_of(value: object) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _with_lazy(flat: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return the mapping with a tensor that cannot be read in place of each bare spec."""
    return {
        name: _without_values(value)
        if isinstance(value, TensorSpec)
        else _with_lazy(value)
        if isinstance(value, Mapping)
        else value
        for name, value in flat.items()
    }


def _without_values(spec: TensorSpec) -> LazyTensor:
    def read(region: Region) -> NoReturn:
        raise UsageError("the object has shapes and no values, so that it can only be a template, like=.")

    return LazyTensor(spec, read)


def _read_only(key: Key, tensor: Tensor) -> Tensor:
    if not isinstance(tensor, ArrayTensor):
        return tensor
    with about_tensor(key):
        array = np.asarray(tensor.array)
        if array.dtype.hasobject:
            raise UnsupportedFeature("expected an array of numbers, got one of Python objects.")
    view = array.view()
    view.flags.writeable = False
    return as_tensor(view)


def _array_of(tensor: Tensor) -> Array:
    assert isinstance(tensor, ArrayTensor)
    return tensor.array


def _place(array: Array) -> object:
    """Return what is equal for arrays that are the same elements of the same memory; None if empty."""
    if not array.size:
        return None
    return (array.__array_interface__["data"][0], array.shape, array.strides, array.dtype.str)


def _place_of(tensor: Tensor) -> object:
    return _place(tensor.array) if isinstance(tensor, ArrayTensor) else None


def _ties(tensors: Mapping[Key, Tensor]) -> dict[Key, Key]:
    ties: dict[Key, Key] = {}
    first: dict[object, Key] = {}
    for key, tensor in tensors.items():
        place = _place_of(tensor)
        if place is not None and first.setdefault(place, key) != key:
            ties[key] = first[place]
    return ties


def _described(modules: Mapping[Key, Any], keys: Iterable[Key]) -> dict[Key, ModuleInfo]:
    leaves: dict[Key, list[str]] = {path: [] for path in modules}
    for key in keys:
        path = next((key[:i] for i in range(len(key) - 1, -1, -1) if key[:i] in modules), None)
        if path is not None:
            leaves[path].append(".".join(key[len(path) :]))
    return {
        path: ModuleInfo(_types(layer), _settings(layer), tuple(leaves[path]))
        for path, layer in modules.items()
    }


def _types(layer: Any) -> tuple[str, ...]:
    cls = layer if isinstance(layer, type) else type(layer)
    return tuple(f"{base.__module__}.{base.__qualname__}" for base in cls.__mro__ if base is not object)


def _settings(layer: Any) -> dict[str, Any]:
    values = {} if isinstance(layer, type) else getattr(layer, "__dict__", {})
    return {name: value for name, value in values.items() if not name.startswith("_") and _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _check_like(state: FlatState, like: FlatState) -> None:
    """Refuse a template with other keys or shapes.

    Raises:
        MismatchError: It has; the attributes list all of them.
    """
    specs = like.specs()
    missing = tuple(join_key(key) for key in specs if key not in state)
    unexpected = tuple(join_key(key) for key in state if key not in specs)
    mismatched = tuple(
        f"{join_key(key)}: expected {spec}, got {state.spec(key)}"
        for key, spec in specs.items()
        if key in state and state.spec(key).shape != spec.shape
    )
    lists = {"missing": missing, "unexpected": unexpected, "of another shape": mismatched}
    text = "; ".join(f"{len(names)} {what}: {listed(names)}" for what, names in lists.items() if names)
    if text:
        raise MismatchError(
            f"the state does not match the object to fill. {text}.",
            missing=missing,
            unexpected=unexpected,
            mismatched=mismatched,
        )
