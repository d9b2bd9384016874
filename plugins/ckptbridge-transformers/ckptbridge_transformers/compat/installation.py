"""Installing the functions in transformers 4.57, and removing them again.

A function is replaced only if it has the arguments that it has in the releases of transformers 4.57.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import os
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

from bridge_core import MissingDependency, UsageError
from ckptbridge_transformers.classes import version
from ckptbridge_transformers.compat.names import rename_key_and_reshape_tensor
from ckptbridge_transformers.compat.to_flax import (
    convert_pytorch_sharded_state_dict_to_flax,
    convert_pytorch_state_dict_to_flax,
    load_pytorch_checkpoint_in_flax_state_dict,
)
from ckptbridge_transformers.compat.to_torch import (
    LOADING_INFO,
    load_flax_checkpoint_in_pytorch_model,
    load_flax_weights_in_pytorch_model,
)

__all__ = ["install", "Installation", "installed"]

_FUNCTIONS = (
    convert_pytorch_sharded_state_dict_to_flax,
    convert_pytorch_state_dict_to_flax,
    load_flax_checkpoint_in_pytorch_model,
    load_flax_weights_in_pytorch_model,
    load_pytorch_checkpoint_in_flax_state_dict,
    rename_key_and_reshape_tensor,
)
_CONVERSION = "transformers.modeling_flax_pytorch_utils"
_FLAX = "transformers.modeling_flax_utils"
_TORCH = "transformers.modeling_utils"
_LONGT5 = "transformers.models.longt5.modeling_longt5"
_INDEX = "flax_model.msgpack.index.json"
_lock = threading.Lock()


class Installation:
    """What `install` changed; as a context manager it reverts the changes at the end."""

    current: Installation | None = None

    def __init__(self, changes: list[tuple[Any, str, Any]]) -> None:
        """Make the changes: owner, name and new value."""
        self._old = [(owner, name, inspect.getattr_static(owner, name)) for owner, name, _ in changes]
        for owner, name, new in changes:
            setattr(owner, name, new)

    @property
    def active(self) -> bool:
        """Whether the functions are in place."""
        return Installation.current is self

    def uninstall(self) -> None:
        """Restore the original functions; a second call has no effect."""
        with _lock:
            if self.active:
                for owner, name, old in self._old:
                    setattr(owner, name, old)
                Installation.current = None

    def __enter__(self) -> Installation:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Revert the changes."""
        self.uninstall()


def install() -> Installation:
    """Install the functions of this package in transformers 4.57.

    Its loading and saving then use them.

    Afterwards ``from_pretrained`` and ``save_pretrained`` of every Flax class, and ``from_flax=True`` of
    every torch class, use ckptbridge. A second call changes nothing and returns the same object.

    Raises:
        UsageError: The installed transformers is not 4.57, or differs from its release.
        MissingDependency: torch, JAX or Flax is not installed.
    """
    with _lock:
        if Installation.current is None:
            Installation.current = Installation(_checked_changes())
        return Installation.current


@contextlib.contextmanager
def installed() -> Iterator[Installation]:
    """Install the functions for a ``with`` block.

    Functions that were installed before stay installed.
    """
    before = Installation.current
    installation = install()
    try:
        yield installation
    finally:
        if before is None:
            installation.uninstall()


def _checked_changes() -> list[tuple[Any, str, Any]]:
    if version().split(".")[:2] != ["4", "57"]:
        raise UsageError(
            f"install() expected transformers 4.57, got transformers {version()}.",
            hint='Run `pip install "transformers==4.57.6"`, or use ckptbridge_transformers.flax_weights and '
            "torch_weights, which work without install().",
        )
    try:
        changes = _changes()
    except ImportError as err:
        raise MissingDependency(
            f"install() needs the Flax classes of transformers, and importing them failed: {err}.",
            hint='Run: pip install "ckptbridge-transformers[flax]"',
        ) from err
    odd = [f"{_name(owner)}.{name}" for owner, name, new in changes if not _alike(owner, name, new)]
    if odd:
        raise UsageError(
            f"transformers {version()} differs from its release: {len(odd)} functions are missing or have "
            f"other arguments: {', '.join(odd)}.",
            hint='Run `pip install --force-reinstall "transformers==4.57.6"`, and call install() before '
            "other code changes transformers.",
        )
    return changes


def _changes() -> list[tuple[Any, str, Any]]:
    conversion, flax, torch, longt5 = map(importlib.import_module, (_CONVERSION, _FLAX, _TORCH, _LONGT5))
    from ckptbridge_transformers.compat.pretrained import from_pretrained
    from ckptbridge_transformers.compat.saving import save_pretrained

    model = flax.FlaxPreTrainedModel
    resolve = getattr(torch, "_get_resolved_checkpoint_files", None)
    torch_model, long_model = torch.PreTrainedModel, longt5.LongT5PreTrainedModel
    changes: list[tuple[Any, str, Any]] = [(conversion, each.__name__, each) for each in _FUNCTIONS]
    name = load_pytorch_checkpoint_in_flax_state_dict.__name__
    return [
        *changes,
        (flax, name, load_pytorch_checkpoint_in_flax_state_dict),
        (model, "from_pretrained", classmethod(_plainly(from_pretrained))),
        (model, "save_pretrained", _plainly(save_pretrained)),
        (torch_model, "_load_from_flax", classmethod(_load_from_flax)),
        (torch_model, "from_pretrained", _with_loading_info(torch_model.from_pretrained, long_model)),
        (long_model, "from_pretrained", _with_own_loading_info(long_model.from_pretrained)),
        (torch, "_get_resolved_checkpoint_files", _with_flax_shards(resolve) if resolve else None),
    ]


def _plainly(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a new function, so that attributes that others set on the method are not set on ours."""

    @functools.wraps(function)
    def method(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return method


def _alike(owner: Any, name: str, new: Any) -> bool:
    """Return whether the function to replace has the same arguments as the new one."""
    old = inspect.getattr_static(owner, name, None)
    return old is not None and _arguments(old) == _arguments(new)


def _arguments(function: Any) -> list[tuple[str, Any]]:
    function = getattr(function, "__func__", function)
    return [(p.name, p.kind) for p in inspect.signature(function).parameters.values()]


def _name(owner: Any) -> str:
    return owner.__name__ if inspect.ismodule(owner) else f"{owner.__module__}.{owner.__qualname__}"


def _load_from_flax(cls: type[Any], model: Any, checkpoint_files: list[str]) -> Any:
    only = checkpoint_files[0] if len(checkpoint_files) == 1 else checkpoint_files
    return load_flax_checkpoint_in_pytorch_model(model, only)


def _with_loading_info(original: Any, longt5: type[Any]) -> Any:
    """Return ``from_pretrained``, with the loading info for Flax, where transformers gives None.

    LongT5's own method ties all that is missing to the embeddings, as old checkpoints of torch need; here it
    is told of nothing.
    """

    @functools.wraps(original.__func__)
    def from_pretrained(cls: type[Any], *args: Any, **kwargs: Any) -> Any:
        loaded = original.__func__(cls, *args, **kwargs)
        if not isinstance(loaded, tuple) or loaded[1] is not None:
            return loaded
        info = LOADING_INFO.get(loaded[0])
        return loaded[0], {**info, "missing_keys": []} if info and issubclass(cls, longt5) else info

    return classmethod(from_pretrained)


def _with_own_loading_info(original: Any) -> Any:
    """Return LongT5's ``from_pretrained``, with all that was missing where the weights are Flax's."""

    @functools.wraps(original.__func__)
    def from_pretrained(self: type[Any], *args: Any, **kwargs: Any) -> Any:
        loaded = original.__func__(self, *args, **kwargs)
        info = LOADING_INFO.get(loaded[0]) if isinstance(loaded, tuple) else None
        return loaded if info is None else (loaded[0], info)

    return classmethod(from_pretrained)


def _with_flax_shards(resolve: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function that finds a torch model's files, extended by the index of Flax's shards."""

    @functools.wraps(resolve)
    def resolved(*args: Any, **kwargs: Any) -> Any:
        given = inspect.signature(resolve).bind(*args, **kwargs).arguments
        name = given.get("pretrained_model_name_or_path")
        if not given.get("from_flax") or name is None or not os.path.isdir(name):  # noqa: PTH112
            return resolve(*args, **kwargs)
        folder = os.path.join(name, given.get("subfolder") or "")  # noqa: PTH118
        single, index = (os.path.join(folder, file) for file in ("flax_model.msgpack", _INDEX))  # noqa: PTH118
        if os.path.isfile(single) or not os.path.isfile(index):  # noqa: PTH113
            return resolve(*args, **kwargs)
        return [index], None

    return resolved
