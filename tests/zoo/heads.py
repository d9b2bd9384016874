"""A base model's checkpoint for a headed model, and the other way: what must be reported, by name."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from flax import traverse_util
from zoo import harness
from zoo.case import Case

from bridge_core import MismatchError
from ckptbridge_transformers import Loaded, flax_weights, torch_weights
from ckptbridge_transformers.families import rules_for

__all__ = ["Direction", "base_of", "directions", "flat"]

PARTIAL = ("BartForCausalLM", "WhisperForAudioClassification")
"""Classes that hold a part of their family's base model alone."""

WITHOUT_PREFIX = ("t5", "mt5", "longt5")
"""Families whose headed classes hold the parts of the base model as their own."""

WEIGHTS = ("kernel", "scale", "embedding")


RENAMED = {"proj_out": "lm_head"}
"""torch's names of heads that a rule renames; in two steps what is left over is told by its new name."""


def base_of(case: Case, cases: Iterable[Case]) -> Case | None:
    """Return the base model of a headed case, with the same config; None where there is none."""
    ending = re.fullmatch(r"(.+?)(For\w+|LMHeadModel|MTModel)", case.torch)
    if ending is None or case.torch in PARTIAL:
        return None
    bases = [c for c in cases if c.torch == f"{ending[1]}Model" and not c.no_flax]
    if not bases:
        return None
    return replace(case, name=f"{case.name}-base", flax=bases[0].flax, torch=bases[0].torch, torch_kwargs={})


def common_name(name: str, prefix: str = "") -> str:
    """Return a name without the prefix, and with torch's word for weights."""
    path, dot, leaf = name.removeprefix(prefix).rpartition(".")
    path = RENAMED.get(path, path)
    return f"{path}{dot}{'weight' if leaf in WEIGHTS else leaf}"


def flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return the leaves of a Flax tree by name, without collections."""
    collections = tree.values() if set(tree) <= {"params", "batch_stats"} else [tree]
    return {k: v for part in collections for k, v in traverse_util.flatten_dict(part, sep=".").items()}


@dataclass(frozen=True)
class Names:
    """What a headed and a base model hold, in common names.

    Args:
        head: What the headed model has beside its base.
        lacks: What the headed model's base lacks of the base model.
        extra: What it has beyond the base model.
    """

    head: frozenset[str]
    lacks: frozenset[str]
    extra: frozenset[str]

    @classmethod
    def of(cls, headed: Mapping[str, Any], base: Mapping[str, Any], prefix: str) -> Names:
        """Sort the names of two models; what is tied to the base is no part of the head."""
        bases = {common_name(name) for name in base}
        if prefix:
            inside = {name: value for name, value in headed.items() if name.startswith(prefix)}
        else:
            inside = {name: value for name, value in headed.items() if common_name(name) in bases}
        shared = {_identity(value) for value in inside.values()}
        head = {common_name(n) for n, v in headed.items() if n not in inside and _identity(v) not in shared}
        inner = {common_name(name, prefix) for name in inside}
        return cls(frozenset(head), frozenset(bases - inner), frozenset(inner - bases))


def _identity(value: Any) -> int:
    return value.data_ptr() if isinstance(value, torch.Tensor) else id(value)


@dataclass(frozen=True)
class Direction:
    """One conversion between a base and a headed model.

    Args:
        name: E.g. ``"torch headed -> flax base"``.
        convert: Does it strictly.
        load: Does it with `flax_weights` or `torch_weights`, and everything allowed.
        missing: What must be reported as missing, in common names.
        unexpected: Likewise.
        prefix: Prefix of the headed model's names.
        wanted: Right values of the result by name; every other name of it was missing.
    """

    name: str
    convert: Callable[[], Any]
    load: Callable[..., Loaded]
    missing: frozenset[str]
    unexpected: frozenset[str]
    prefix: str
    wanted: Mapping[str, Any]

    def common(self, names: Iterable[str]) -> set[str]:
        """Return reported names as common names."""
        bare = (name.removeprefix("params.").removeprefix("batch_stats.") for name in names)
        return {common_name(name, self.prefix) for name in bare}

    def check(self) -> None:
        """Do it both ways, and compare what is reported by name and what is made bit for bit."""
        if self.missing or self.unexpected:
            with pytest.raises(MismatchError) as caught:
                self.convert()
            self._check_reported(caught.value.missing, caught.value.unexpected)
            assert not caught.value.mismatched, self.name
        else:
            self.convert()
        loaded = self.load(allow_missing=True, allow_unexpected=True)
        self._check_reported(map(".".join, loaded.missing), map(".".join, loaded.unexpected))
        assert not loaded.mismatched, self.name
        made = loaded.weights if self.name.endswith("in torch") else flat(loaded.weights)
        for name, value in self.wanted.items():
            assert name in made, f"{self.name}: {name}"
            assert bits(made[name]) == bits(value), f"{self.name}: {name}"

    def _check_reported(self, missing: Iterable[str], unexpected: Iterable[str]) -> None:
        assert self.common(missing) == self.missing, f"{self.name}: missing"
        assert self.common(unexpected) == self.unexpected, f"{self.name}: unexpected"


def bits(value: Any) -> bytes:
    return np.asarray(value.detach() if isinstance(value, torch.Tensor) else value).tobytes()


def directions(case: Case, base: Case) -> list[Direction]:
    """Return the four conversions: from and to the headed model, from and to each framework."""
    headed, plain = harness.build_torch(case), harness.build_torch(base, seed=1)
    flax_headed, flax_plain = harness.build_flax(case), harness.build_flax(base)
    prefix = f"{headed.base_model_prefix}." if case.family not in WITHOUT_PREFIX else ""
    state, plain_state = (harness.without_counters(model.state_dict()) for model in (headed, plain))
    params = harness.to_flax(headed, flax_headed)
    plain_params = harness.to_flax(plain, flax_plain)
    leaves, plain_leaves = flat(params), flat(plain_params)
    in_torch = Names.of(state, plain_state, prefix)
    in_flax = Names.of(leaves, plain_leaves, prefix)
    ruled_out = _ruled_out(case, plain_state, prefix)

    def inside(values: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
        found = {n.removeprefix(prefix): v for n, v in values.items() if n.startswith(prefix)}
        return {n: v for n, v in found.items() if n in known and common_name(n) not in ruled_out}

    def outside(values: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
        found = {n: v for n, v in values.items() if common_name(n) not in ruled_out}
        return {prefix + n: v for n, v in found.items() if prefix + n in known}

    return [
        Direction(
            "torch headed -> base in flax",
            lambda: harness.to_flax(headed, flax_plain),
            functools.partial(flax_weights, headed, flax_plain),
            in_torch.lacks,
            in_torch.head | in_torch.extra,
            prefix,
            inside(leaves, plain_leaves),
        ),
        Direction(
            "torch base -> headed in flax",
            lambda: harness.to_flax(plain, flax_headed),
            functools.partial(flax_weights, plain, flax_headed),
            in_flax.head | in_flax.extra,
            in_flax.lacks - ruled_out,
            prefix,
            outside(plain_leaves, leaves),
        ),
        Direction(
            "flax headed -> base in torch",
            lambda: harness.to_torch(params, flax_headed, plain),
            functools.partial(torch_weights, params, plain),
            in_flax.lacks,
            in_flax.head | in_flax.extra,
            prefix,
            inside(state, plain_state),
        ),
        Direction(
            "flax base -> headed in torch",
            lambda: harness.to_torch(plain_params, flax_plain, headed),
            functools.partial(torch_weights, plain_params, headed),
            in_torch.head | in_torch.extra,
            in_torch.lacks | (ruled_out & set(map(common_name, plain_leaves))),
            prefix,
            outside(plain_state, state),
        ),
    ]


def _ruled_out(case: Case, names: Iterable[str], prefix: str) -> set[str]:
    """What the family's rules leave out of torch's names, in common names."""
    rules = [rule for rule in rules_for(case.config(), case.flax) if rule.action == "drop"]
    return {
        common_name(name)
        for name in names
        if any(rule.source.match(tuple((prefix + name).split("."))) is not None for rule in rules)
    }
