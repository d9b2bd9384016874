"""Recording calls of modules while a model runs, also inside loops and functions that JAX compiles."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from bridge_core import Key
from bridge_core.messages import listed
from bridge_core.plugins import ModuleCall
from bridge_core.state import Array
from bridge_flax.trees.callbacks import packed
from bridge_flax.trees.named_arrays import is_plain, named_leaves, to_numpy

__all__ = ["CallRecorder"]


@dataclass
class _Open:
    """A call that has begun: its place among the calls, and its arguments."""

    path: Key
    type: str
    began: int
    inputs: dict[str, Array]
    plain: dict[str, Any]


@dataclass
class CallRecorder:
    """Notes calls of modules with copies of their arrays.

    While JAX traces (`jax.jit`, a scan, a rematerialised block) there are no values: there a callback is
    put into the computation, which notes each call when it is computed, one for each step of a loop.
    Under `jax.vmap` calls are computed together and cannot be told apart; they are left out and noted.

    Args:
        callbacks: Whether callbacks may be used.
    """

    callbacks: bool = True
    calls: list[ModuleCall] = field(default_factory=list)
    unseen: dict[Key, None] = field(default_factory=dict)
    used_callbacks: bool = False
    _hidden: bool = False
    _stack: list[Key] = field(default_factory=list)
    _open: list[_Open] = field(default_factory=list)
    _count: int = 0
    _attempt: int = 0
    _lock: Any = field(default_factory=threading.Lock)

    def record(self, path: Key, kind: str, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Call a module's method and note the call.

        A method that the module's own method calls is a part of it, and not noted by itself.

        Args:
            path: The module's path.
            kind: Qualified name of its class.
            function: The method, which takes the arguments.
            args: Its positional arguments, without the module.
            kwargs: Those by keyword.
        """
        if self._hidden or (self._stack and self._stack[-1] == path):
            return function(*args, **kwargs)
        named = [
            *_named(args),
            *((n, v) for key, value in kwargs.items() for n, v in named_leaves(value, key)),
        ]
        arrays = {name: value for name, value in named if _is_array(value)}
        plain = {name: value for name, value in named if is_plain(value)}
        staged = isinstance(jnp.zeros(()), jax.core.Tracer)
        if not self._can_note(arrays, staged=staged):
            self.unseen.setdefault(path)
            self._hidden = staged or any(_is_batched(value) for value in arrays.values())
            try:
                return function(*args, **kwargs)
            finally:
                self._hidden = False
        attempt = self._attempt
        begin = functools.partial(self._begin, attempt, path, kind, plain)
        self._stack.append(path)
        try:
            self._note(begin, arrays, staged=staged)
            result = function(*args, **kwargs)
            outputs = {name: value for name, value in named_leaves(result) if _is_array(value)}
            self._note(functools.partial(self._end, attempt, path), outputs, staged=staged)
            return result
        except BaseException:
            if len(self._stack) == 1:  # the model is tried again, or has failed
                self.forget()
            raise
        finally:
            self._stack.pop()

    def forget(self) -> None:
        """Begin anew: what was noted belongs to an attempt that failed."""
        with self._lock:
            self._attempt += 1
            self._count = 0
            self.calls.clear()
            self._open.clear()
            self.unseen.clear()

    def finished(self) -> tuple[ModuleCall, ...]:
        """Return the calls in the order in which they began, when all callbacks have been run."""
        jax.effects_barrier()
        with_arrays = [call for call in self.calls if call.outputs]
        return tuple(sorted(with_arrays, key=lambda call: call.began))

    def saw(self, paths: Iterable[Key]) -> bool:
        """Return whether something was seen of each module, or is known to be out of sight."""
        jax.effects_barrier()
        known = {call.path for call in self.calls} | {*self.unseen}
        return all(path in known for path in paths)

    def notes(self) -> tuple[str, ...]:
        """Return what could not be seen, for people."""
        seen = {call.path for call in self.calls}
        paths = [".".join(path) or "the model itself" for path in self.unseen if path not in seen]
        if not paths:
            return ()
        return (
            f"the calls of {listed(paths)} could not be seen: JAX compiles them, or computes them for many "
            "inputs at once (vmap).",
        )

    def _can_note(self, arrays: dict[str, Any], *, staged: bool) -> bool:
        if staged:
            return self.callbacks and not any(_is_batched(value) for value in arrays.values())
        return not any(isinstance(value, jax.core.Tracer) for value in arrays.values())

    def _note(self, note: Callable[[dict[str, Any]], None], arrays: dict[str, Any], *, staged: bool) -> None:
        if not staged:
            note(arrays)
            return
        self.used_callbacks = True
        names = [*arrays]  # JAX would sort them
        callback, values = packed(
            lambda *given: note(dict(zip(names, given, strict=True))), [*arrays.values()]
        )
        jax.debug.callback(callback, *values, ordered=True)

    def _begin(
        self, attempt: int, path: Key, kind: str, plain: dict[str, Any], arrays: dict[str, Any]
    ) -> None:
        inputs = _copies(arrays)
        with self._lock:
            if attempt != self._attempt:
                return
            self._open.append(_Open(path, kind, self._count, inputs, plain))
            self._count += 1

    def _end(self, attempt: int, path: Key, arrays: dict[str, Any]) -> None:
        outputs = _copies(arrays)
        with self._lock:
            if attempt != self._attempt:
                return
            while self._open:
                call = self._open.pop()
                if call.path == path:
                    self.calls.append(
                        ModuleCall(path, call.type, call.inputs, outputs, call.plain, call.began, self._count)
                    )
                    break
            self._count += 1


def _named(args: tuple[Any, ...]) -> list[tuple[str, Any]]:
    return [leaf for i, value in enumerate(args) for leaf in named_leaves(value, str(i))]


def _is_array(value: Any) -> bool:
    return hasattr(value, "dtype") and hasattr(value, "shape") and not isinstance(value, jax.ShapeDtypeStruct)


def _copies(arrays: dict[str, Any]) -> dict[str, Array]:
    return {name: to_numpy(value) for name, value in arrays.items() if not isinstance(value, jax.core.Tracer)}


def _is_batched(value: Any) -> bool:
    # JAX's class of what vmap maps over is not public.
    return type(value).__name__ == "BatchTracer"
