"""Recording what each module of a model is called with, and what it returns.

Arrays are copied when they are seen, so that an operation in place cannot change a record later. All of
them are in memory at the same time: tracing is for small models.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch

from bridge_core import Key
from bridge_core.plugins import ModuleCall
from bridge_core.state import Array
from bridge_torch.torch_objects.tensors import layers_of, type_of
from bridge_torch.torch_objects.values import named_arrays, named_plain

__all__ = ["Tracer"]


@dataclass(eq=False)
class _Open:
    """A call that has not returned yet."""

    module: torch.nn.Module
    began: int
    inputs: dict[str, Array]
    plain: dict[str, Any]
    in_forward: bool = False


@dataclass(eq=False)
class Tracer:
    """Records the calls of all modules while it is entered.

    Modules are seen through hooks, which run after the module's own, and through their ``forward`` where it
    is called directly. Of a scripted module neither the modules inside it are seen, nor what it is given by
    keyword.

    Args:
        model: A module that belongs to the caller: its hooks are changed while the tracer is entered.
    """

    model: torch.nn.Module
    calls: list[ModuleCall] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    _open: list[_Open] = field(default_factory=list)
    _clock: int = 0
    _paths: dict[int, Key] = field(default_factory=dict)
    _undo: list[Callable[[], None]] = field(default_factory=list)

    def __enter__(self) -> Tracer:
        for path, module in layers_of(self.model).items():
            if id(module) in self._paths:
                continue
            self._paths[id(module)] = path
            if isinstance(module, torch.jit.ScriptModule):
                continue
            before = module.register_forward_pre_hook(self._before, with_kwargs=True)
            after = module.register_forward_hook(self._after, with_kwargs=True)
            self._undo += [before.remove, after.remove]
            if not hasattr(module, "_orig_mod"):
                self._wrap_forward(module)
        if any(isinstance(module, torch.jit.ScriptModule) for module in self.model.modules()):
            # They take no hooks of their own; those of all modules do not show keywords.
            every = torch.nn.modules.module
            self._undo.append(every.register_module_forward_pre_hook(self._before_scripted).remove)
            self._undo.append(every.register_module_forward_hook(self._after_scripted).remove)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for undo in reversed(self._undo):
            undo()
        self.calls.sort(key=lambda call: call.began)

    def unseen(self) -> list[Key]:
        """Return the paths of modules that own weights and were not called.

        Weights that a module which was called has too are not counted, and the output projection of torch's
        attention is a part of it.
        """
        called = {call.path for call in self.calls}
        layers = layers_of(self.model)
        shown = {id(p) for path in called for p in layers[path].parameters(recurse=False)}
        for module in layers.values():
            if isinstance(module, torch.nn.MultiheadAttention):
                shown |= {id(p) for p in module.parameters()}
        unseen: dict[int, Key] = {}
        for path, module in layers.items():
            if any(id(p) not in shown for p in module.parameters(recurse=False)) and path not in called:
                unseen.setdefault(id(module), path)
        return [*unseen.values()]

    def _wrap_forward(self, module: torch.nn.Module) -> None:
        forward = module.forward
        own = module.__dict__.get("forward")

        @functools.wraps(forward)
        def recording(*args: Any, **kwargs: Any) -> Any:
            top = self._open[-1] if self._open else None
            if top is not None and top.module is module and not top.in_forward:
                top.in_forward = True
                return forward(*args, **kwargs)
            opened = self._begin(module, args, kwargs)
            opened.in_forward = True
            try:
                result = forward(*args, **kwargs)
            except BaseException:
                self._drop(opened)
                raise
            self._end(opened, result)
            return result

        def undo() -> None:
            if own is None:
                del module.__dict__["forward"]
            else:
                module.__dict__["forward"] = own

        module.__dict__["forward"] = recording
        self._undo.append(undo)

    def _before(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._begin(module, args, kwargs)

    def _after(
        self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        opened = next((call for call in reversed(self._open) if call.module is module), None)
        if opened is not None:
            self._end(opened, output)

    def _before_scripted(self, module: torch.nn.Module, args: tuple[Any, ...]) -> None:
        if isinstance(module, torch.jit.ScriptModule) and id(module) in self._paths:
            self._begin(module, args, {})

    def _after_scripted(self, module: torch.nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if isinstance(module, torch.jit.ScriptModule):
            self._after(module, args, {}, output)

    def _begin(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Open:
        arguments = {**{str(place): value for place, value in enumerate(args)}, **kwargs}
        opened = _Open(module, self._tick(), named_arrays(arguments, self.problems), named_plain(arguments))
        self._open.append(opened)
        return opened

    def _end(self, opened: _Open, output: Any) -> None:
        self._drop(opened)
        outputs = named_arrays(output, self.problems)
        path, name = self._paths[id(opened.module)], type_of(opened.module)
        self.calls.append(
            ModuleCall(path, name, opened.inputs, outputs, opened.plain, opened.began, self._tick())
        )

    def _drop(self, opened: _Open) -> None:
        """Close a call, and those inside it that did not return."""
        if opened in self._open:
            del self._open[self._open.index(opened) :]

    def _tick(self) -> int:
        self._clock += 1
        return self._clock - 1
