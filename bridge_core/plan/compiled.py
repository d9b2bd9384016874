"""A plan as a pure function of live arrays: the same ops, in the operations of a framework."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from bridge_core.errors import KeyConflict, PlanError, UnsupportedFeature, UsageError, about_tensor
from bridge_core.messages import count, listed
from bridge_core.ops import ArrayOps, Op, emit_chain
from bridge_core.plan.step import Step
from bridge_core.public import public_name
from bridge_core.state import Key, TensorSpec, as_key, join_key

if TYPE_CHECKING:
    from bridge_core.plan.plan import Plan

_Result = TypeVar("_Result")

__all__ = ["Compiles", "CompiledPlan", "compile_plan"]


@dataclass(frozen=True, eq=False)
class CompiledPlan:
    """A pure function from a plan's source arrays to its target arrays.

    It reads no value, so it can be traced: pass it to `jax.jit`, with shardings and donation. Results have
    the bits that `Plan.apply` gives for the same arrays.

    Args:
        framework: Name of the framework whose arrays it takes.
        sources: Source key -> spec of the arrays that it needs.
        targets: Target name -> spec of the arrays that it returns, ties included.
        ignored: Source keys of the plan that it does not need; they may be passed.
    """

    framework: str
    sources: Mapping[Key, TensorSpec]
    targets: Mapping[str, TensorSpec]
    ignored: frozenset[Key]
    _steps: tuple[Step, ...]
    _ties: Mapping[str, str]
    _source_ties: Mapping[Key, Key]
    _branches: frozenset[Key]
    _array_ops: ArrayOps

    def __call__(self, arrays: Mapping[Any, Any]) -> dict[str, Any]:
        """Return target name -> array; tied names share one array.

        Args:
            arrays: The source arrays by key, by name joined with dots, or as nested mappings; or the object
                that the plan was made for, such as a module, an NNX state or a train state. They are not
                changed. Arrays that the plan leaves out may be missing.

        Raises:
            PlanError: A source is missing, an array is not the plan's, or has another shape or dtype.
            UsageError: A value is not an array of the framework, or arrays have shardings that do not fit.
            UnsupportedFeature: JAX has no arrays of 64 bits any more, since they were switched off.
        """
        given = self._checked(self._by_key(arrays))
        ops = self._array_ops.near(tuple(given.values()))
        outputs_of: dict[tuple[Any, ...], Any] = {}
        results: dict[str, Any] = {}
        for step in self._steps:
            identity = (step.sources, step.ops) if step.sources else (step.targets,)
            if identity not in outputs_of:
                specs = tuple(self.sources[key] for key in step.sources)
                inputs = tuple(given[key] for key in step.sources)
                with about_tensor(step.targets[0]):
                    outputs_of[identity] = emit_chain(ops, step.ops, inputs, specs)
            results.update(zip(map(join_key, step.targets), outputs_of[identity], strict=True))
        results.update({name: results[other] for name, other in self._ties.items()})
        return results

    def _checked(self, arrays: Mapping[Key, Any]) -> dict[Key, Any]:
        """Return the arrays that are needed, by key.

        Raises:
            PlanError: They are not those of the plan.
        """
        known = self.sources.keys() | self.ignored
        foreign = [join_key(key) for key in arrays if key not in known and not self._is_left_out(key)]
        needed = {key: arrays.get(key, arrays.get(self._source_ties.get(key, key))) for key in self.sources}
        missing = [join_key(key) for key, array in needed.items() if array is None]
        if missing or foreign:
            first = f"{count(len(missing), 'source array')} missing, {listed(missing)}" if missing else ""
            second = f"{count(len(foreign), 'array')} not in the plan, {listed(foreign)}" if foreign else ""
            raise PlanError(
                "expected the arrays that the plan was made for: "
                f"{' and '.join(filter(None, (first, second)))}.",
                hint="Pass the arrays by the source's names, or plan the conversion of these.",
            )
        for key, array in needed.items():
            spec = self._named(key, self._array_ops.spec, array)
            if spec != self.sources[key]:
                raise PlanError(
                    f"expected {self.sources[key]}, as when the plan was made, got {spec}.",
                    key=key,
                    hint="Pass an array of that shape and dtype, or plan the conversion of these arrays.",
                )
        return {key: self._named(key, self._array_ops.taken, array) for key, array in needed.items()}

    def _by_key(self, arrays: Mapping[Any, Any]) -> dict[Key, Any]:
        given: dict[Key, Any] = {}
        for path, array in self._flat(arrays):
            key = self._key_of(path)
            if key in given:
                raise PlanError(
                    "expected one array, got two by this name.", key=key, hint="Pass each array once."
                )
            given[key] = array
        return given

    @functools.cached_property
    def _keys(self) -> dict[str, Key]:
        """Key of the plan by its name joined with dots, where no other has the name."""
        names = [(join_key(key), key) for key in (*self.ignored, *self.sources)]
        times = Counter(name for name, _ in names)
        return {name: key for name, key in names if times[name] == 1}

    def _key_of(self, key: Key) -> Key:
        """Return the plan's key that a caller's key is, or has the name of: parts may contain dots."""
        if key in self.sources or key in self.ignored:
            return key
        name = join_key(key)
        return self._keys.get(name) or as_key(name)

    def _is_left_out(self, key: Key) -> bool:
        return any(key[:depth] in self._branches for depth in range(1, len(key) + 1))

    def _flat(self, value: Any, path: Key = ()) -> Iterator[tuple[Key, Any]]:
        """Yield each array of the caller's object, by key."""
        value = self._array_ops.opened(value)
        if isinstance(value, Mapping):
            for name, child in value.items():
                parts = (name,) if isinstance(name, str) else as_key(name)
                yield from self._flat(child, (*path, *parts))
        elif path:
            yield path, value
        else:
            raise UsageError(
                f"expected a mapping from names to arrays, got {type(value).__name__}.",
                hint="Pass module.state_dict(), or the tree of parameters.",
            )

    @staticmethod
    def _named(key: Key, function: Callable[[Any], _Result], array: Any) -> _Result:
        try:
            return function(array)
        except (UnsupportedFeature, UsageError) as err:
            err.key = key
            raise


def compile_plan(plan: Plan, array_ops: ArrayOps, *, skip_checks: bool = False) -> CompiledPlan:
    """Return a plan as a function of a framework's arrays.

    Args:
        plan: The plan.
        array_ops: The primitives of the framework.
        skip_checks: Whether to compile ops that check values in `Plan.apply` without these checks.

    Raises:
        ConversionError: The plan cannot be run; the classes are those of `Plan.check`.
        KeyConflict: Two target keys join to one name.
        UnsupportedFeature: An op checks values, is not written in these primitives, or has results with
            other bits in this framework; the message names the op and the first tensor.
    """
    plan.check()
    steps = tuple(step for step in plan.steps if step.targets)
    sources = {key: plan.specs[key] for step in steps for key in step.sources}
    specs = plan.target_specs()
    traced: set[tuple[Any, ...]] = set()
    for step in steps:
        inputs = tuple(sources[key] for key in step.sources)
        identity = (inputs, step.ops)
        if identity not in traced:
            traced.add(identity)
            _check_step(step, inputs, tuple(specs[key] for key in step.targets), array_ops, skip_checks)
    names = _target_names(specs)
    return CompiledPlan(
        array_ops.framework,
        sources,
        {name: specs[key] for key, name in names.items()},
        frozenset(plan.specs) - sources.keys(),
        steps,
        {names[key]: names[other] for key, other in plan.ties.items()},
        {key: other for key, other in plan.source_ties.items() if key in sources},
        frozenset(as_key(branch.name) for branch in plan.branches),
        array_ops,
    )


def _target_names(keys: Iterable[Key]) -> dict[Key, str]:
    """Return the name of each target.

    Raises:
        KeyConflict: Two have one name.
    """
    names: dict[Key, str] = {}
    owners: dict[str, Key] = {}
    for key in keys:
        name = names[key] = join_key(key)
        if owners.setdefault(name, key) != key:
            raise KeyConflict(
                f"the target keys {owners[name]!r} and {key!r} have one name, {name!r}.",
                hint="Rename one of them by a rule, rules=... (--rules FILE).",
            )
    return names


def _check_step(
    step: Step, inputs: tuple[TensorSpec, ...], expected: tuple[TensorSpec, ...], ops: ArrayOps, skip: bool
) -> None:
    """Refuse a step that cannot be compiled, by a run on arrays without values."""
    checking = next((op for op in _flattened(step.ops) if op.checks_values), None)
    if checking is not None and not skip:
        raise UnsupportedFeature(
            f"{checking} checks values and refuses some, which a compiled function cannot do.",
            key=step.targets[0],
            hint="Run the plan once with plan.apply, which checks them, and pass skip_checks=True.",
        )
    try:
        results = ops.traced(lambda near, arrays: emit_chain(near, step.ops, arrays, inputs), inputs)
    except UnsupportedFeature as err:
        err.key = err.key or step.targets[0]
        raise
    if results != expected:
        texts = (", ".join(map(str, specs)) for specs in (expected, results))
        raise PlanError(
            "the ops give other arrays than they declare: expected {}, got {}.".format(*texts),
            key=step.targets[0],
            hint="Correct the emit method of the op.",
        )


def _flattened(chain: tuple[Op, ...]) -> Iterator[Op]:
    from bridge_core.ops import Parallel

    for op in chain:
        if isinstance(op, Parallel):
            for inner in op.chains:
                yield from _flattened(inner)
        else:
            yield op


class Compiles:
    """What a plan offers for live arrays."""

    def compile(
        self: Any, framework: str, *, registry: Any = None, skip_checks: bool = False
    ) -> CompiledPlan:
        """Return the plan as a pure function from source arrays to target arrays.

        Values that only a file's metadata stores are not among the arrays. Targets that `apply` would restore
        from there get the constants that a source without metadata gives them.

        Args:
            framework: Name of the framework whose arrays it takes and returns: ``"flax"`` or ``"torch"``,
                whatever the layouts of the plan are.
            registry: The plugins; None for those installed.
            skip_checks: Whether ops that refuse some values in `apply` are compiled without these checks, so
                that results are right only for values that `apply` accepts. By default they are refused.

        Raises:
            ConversionError: The plan cannot be run; the classes are those of `check`.
            UnsupportedFeature: The framework does not compute plans, or an op cannot have the same bits
                in it; the message names the op and the tensor.
            UsageError: No plugin provides the framework.
            MissingDependency: The framework's package is not installed.
        """
        array_ops_of: Callable[..., ArrayOps] = public_name("bridge_core.plugins:array_ops_of")
        return compile_plan(self, array_ops_of(framework, registry), skip_checks=skip_checks)

    def to_jax(self, *, skip_checks: bool = False) -> CompiledPlan:
        """Return ``compile("flax")``: a pure function of JAX arrays."""
        return self.compile("flax", skip_checks=skip_checks)

    def to_torch(self, *, skip_checks: bool = False) -> CompiledPlan:
        """Return ``compile("torch")``: a pure function of torch tensors."""
        return self.compile("torch", skip_checks=skip_checks)
