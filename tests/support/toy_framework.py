"""A small framework of the tests' own: nested dicts of numpy arrays in collections, with types of modules."""

import numpy as np

from bridge_core import FlatState, LayerTransform, Leaf, MismatchError, UsageError, default_registry, hookimpl
from bridge_core.state import LazyTensor, ModuleInfo, StateMetadata, TensorSpec

COLLECTIONS = {"weights": (), "running": ("mean", "var")}


class Variables(dict):
    """The root: collection -> modules."""


class Module(dict):
    """A module of a class, with its leaves and its children."""

    def __init__(self, kind, *args, **children):
        super().__init__(*args, **children)
        self.kind = kind


class Shape:
    """A leaf without values."""

    def __init__(self, shape, dtype):
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)


def walk(node, path=()):
    for name, child in node.items():
        if isinstance(child, dict) and child:
            yield from walk(child, (*path, name))
        else:
            yield (*path, name), child


def arrays_of(node):
    return [leaf for _, leaf in walk(node) if not isinstance(leaf, dict)]


def modules_of(node, path=()):
    for name, child in node.items():
        if isinstance(child, Module):
            yield (*path, name), child
        if isinstance(child, dict):
            yield from modules_of(child, (*path, name))


class Toy:
    """An adapter that fulfils the contract; each subclass breaks it in one way."""

    name = "toy"
    collections = COLLECTIONS
    default_format = "npz"

    def owns(self, names):
        return bool(names) and all(len(key) > 1 and key[0] in self.collections for key in names)

    def accepts(self, value):
        leaves = arrays_of(value) if type(value) is Variables else []
        return bool(leaves) and all(isinstance(leaf, np.ndarray | Shape) for leaf in leaves)

    def leaf(self, key, leaf):
        """Return the tensor of a leaf."""
        if isinstance(leaf, Shape):

            def read(region):
                raise UsageError("the leaf has no values.", key=key)

            return LazyTensor(TensorSpec(leaf.shape, leaf.dtype), read)
        return leaf

    def entries(self, value):
        """Return key -> leaf."""
        return {key: leaf for key, leaf in walk(value) if not isinstance(leaf, dict)}

    def ties(self, entries):
        first, ties = {}, {}
        for key, leaf in entries.items():
            owner = first.setdefault(id(leaf), key)
            if owner != key:
                ties[key] = owner
        return ties

    def empty(self, value):
        return tuple(key for key, leaf in walk(value) if isinstance(leaf, dict))

    def modules(self, value):
        found = {}
        for path, module in modules_of(value):
            leaves = tuple(name for name, child in module.items() if not isinstance(child, dict))
            found[path[1:]] = ModuleInfo((f"toy.{module.kind}",), {}, leaves)
        return found

    def metadata(self, value, entries):
        return StateMetadata(
            ties=self.ties(entries),
            empty=self.empty(value),
            modules=self.modules(value),
            tree_form={self.name: "variables"},
        )

    def state(self, value):
        entries = self.entries(value)
        tensors = {key: self.leaf(key, leaf) for key, leaf in entries.items()}
        return FlatState(tensors, layout=self.name, metadata=self.metadata(value, entries))

    def copy(self, array):
        """Return a leaf with the values of a tensor."""
        return np.array(array, order="C")

    def leaves(self, state):
        """Return key -> new array; tied keys have one."""
        made = {}
        return {key: self.once(made, state, key) for key in state}

    def once(self, made, state, key):
        tensor = state.tensor(key)
        if id(tensor) not in made:
            made[id(tensor)] = self.copy(state[key])
        return made[id(tensor)]

    def build(self, state, like):
        if like is None:
            return self.plain(state)
        if not self.accepts(like):
            raise UsageError(f"expected variables of the toy, got a {type(like).__name__}.")
        return self.filled(state, like)

    def plain(self, state):
        """Return the plain tree of a state."""
        root = Variables()
        for key, array in self.leaves(state).items():
            self.put(root, key, array)
        for path in state.metadata.empty:
            self.put(root, path, {})
        return root

    def put(self, node, key, leaf):
        for part in key[:-1]:
            node = node.setdefault(part, {})
        node.setdefault(key[-1], leaf)

    def check(self, state, like):
        """Refuse leaves that the template does not have in this shape."""
        specs = self.state(like).specs()
        if set(specs) != set(state):
            raise MismatchError(f"the leaves differ: {sorted(set(specs) ^ set(state))}.")
        for key, spec in specs.items():
            if state.spec(key).shape != spec.shape:
                raise MismatchError(f"expected {spec}, got {state.spec(key)}.", key=key)

    def filled(self, state, like):
        """Return the structure of a template with a state's values."""
        self.check(state, like)
        return self.rebuilt(like, self.leaves(state), ())

    def rebuilt(self, node, leaves, path):
        children = {
            name: self.rebuilt(child, leaves, (*path, name))
            if isinstance(child, dict)
            else leaves[*path, name]
            for name, child in node.items()
        }
        return self.container(node, children)

    def container(self, node, children):
        """Return a container like another."""
        return Module(node.kind, children) if isinstance(node, Module) else type(node)(children)


TRANSFORMS = (
    LayerTransform(
        "toy.dense",
        "linear",
        (Leaf("matrix", "kernel", "in out"), Leaf("shift", "bias", "out", optional=True)),
        ("toy.Dense",),
    ),
    LayerTransform(
        "toy.turned",
        "linear",
        (Leaf("matrix", "kernel", "out in"), Leaf("shift", "bias", "out", optional=True)),
        ("toy.Turned",),
    ),
    LayerTransform("toy.table", "embedding", (Leaf("table", "embedding", "num features"),), ("toy.Table",)),
    LayerTransform(
        "toy.norm",
        "batch_norm",
        tuple(
            Leaf(name, role, "features")
            for name, role in (("gain", "scale"), ("shift", "bias"), ("mean", "mean"), ("var", "var"))
        ),
        ("toy.Norm",),
    ),
)


def sample(make=None):
    """Return variables; ``make`` makes a leaf of a shape and a dtype."""
    make = make or _random
    table = make((4, 4), np.float32)
    return Variables(
        weights=Module(
            "Net",
            table=Module("Table", table=table),
            first=Module("Dense", matrix=make((4, 4), np.float32), shift=make((4,), np.float32)),
            block=Module(
                "Block",
                second=Module("Turned", shift=make((4,), np.float32), matrix=make((4, 4), np.float32)),
                idle={},
            ),
            norm=Module("Norm", gain=make((4,), np.float32), shift=make((4,), np.float32)),
            head=Module("Table", table=table),
        ),
        running={"norm": {"mean": make((4,), np.float32), "var": make((4,), np.float32)}},
    )


_COUNT = iter(range(10**9))


def _random(shape, dtype):
    return np.random.default_rng(next(_COUNT)).standard_normal(shape).astype(dtype)


def plain_sample():
    """Return a plain tree: no types of modules, other shapes."""
    return Variables(
        weights={
            "zeta": {"wide": _random((2, 3), np.float32)},
            "alpha": _random((5,), np.float16),
            "mid": _random((1,), np.float32),
        }
    )


def registry_of(framework):
    """Return the registry of everything built in, with the framework and its layers.

    Flax is left out, since it takes any nested dictionary of arrays for its own.
    """

    class Plugin:
        @hookimpl
        def bridge_frameworks(self):
            return [framework]

        @hookimpl
        def bridge_layer_transforms(self):
            return TRANSFORMS

    known = default_registry()
    others = {name: other for name, other in known.frameworks.items() if name != "flax"}
    return known.with_tables(frameworks=others).extend(Plugin(), name="toy")
