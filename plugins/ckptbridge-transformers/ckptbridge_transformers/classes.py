"""The config of a checkpoint folder, and the torch and Flax model classes that it names.

No code of a checkpoint is ever run, and nothing is fetched.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from bridge_core import MissingDependency, UsageError
from bridge_core.checkpoint import read_config as config_in
from bridge_core.io import Location, RemotePath, exists_beside

__all__ = [
    "CONFIG",
    "class_named",
    "config_from",
    "config_of",
    "flax_class_of",
    "is_known",
    "library",
    "quiet",
    "read_config",
    "torch_class_beside",
    "torch_class_of",
    "version",
]

CONFIG = "config.json"
_WITHOUT = 'pass model="none" (--model none) to do without the model\'s class'
_TORCH_NAMES = {"BertForCausalLM": "BertLMHeadModel"}
"""Name of a Flax class without ``Flax`` -> torch's name, where it is another."""
_FLAX_NAMES = {torch: flax for flax, torch in _TORCH_NAMES.items()}


def library() -> ModuleType:
    """Import transformers.

    Raises:
        MissingDependency: Importing it failed.
    """
    try:
        import transformers
    except ImportError as err:
        raise MissingDependency(
            f"this checkpoint needs the package transformers, and importing it failed: {err}.",
            hint=f"Run `pip install transformers`, or {_WITHOUT}.",
        ) from err
    module: ModuleType = transformers
    return module


def version() -> str:
    """Return the version of transformers."""
    return str(library().__version__)


def read_config(folder: Location) -> Mapping[str, Any] | None:
    """Return the content of a folder's ``config.json``, or None if there is no such file.

    Raises:
        MalformedFile: The file is not a JSON object.
        LimitExceeded: The file is larger than any config.
        SystemFailure: The file cannot be read.
    """
    path = folder / CONFIG
    return config_in(path) if exists_beside(path) else None


def config_of(folder: Location) -> Any:
    """Return a folder's config as an object of transformers.

    Raises:
        UsageError: This version of transformers cannot read it.
    """
    transformers = library()
    with quiet(), _local(folder) as path:
        try:
            config = transformers.AutoConfig.from_pretrained(
                path, local_files_only=True, trust_remote_code=False
            )
        except Exception as err:  # config classes check what they read, each in its own way
            raise UsageError(
                f"transformers {version()} cannot read the config: {_first_line(err)}.",
                path=folder / CONFIG,
                hint=f"Correct the config, or {_WITHOUT}.",
            ) from err
    config._name_or_path = ""  # the folder's path must not become part of what is written
    return config


@contextlib.contextmanager
def _local(folder: Location) -> Iterator[str]:
    """Give the path of a folder, or that of a temporary one that has the config of a folder at a URL."""
    if not isinstance(folder, RemotePath):
        yield str(folder)
        return
    with tempfile.TemporaryDirectory() as name:
        text = json.dumps(config_in(folder / CONFIG))
        (Path(name) / CONFIG).write_text(text, encoding="utf-8")
        yield name


def config_from(config: Any, entries: Mapping[str, Any]) -> Any:
    """Return a config of the same class as another, with other entries.

    Raises:
        UsageError: The class refuses the entries.
    """
    with quiet():
        try:
            return type(config).from_dict(dict(entries))
        except Exception as err:  # config classes check what they read, each in its own way
            raise UsageError(f"transformers {version()} refuses the config: {_first_line(err)}.") from err


def is_known(config: Mapping[str, Any]) -> bool:
    """Return whether transformers knows a config's model type, or else a class that the config names."""
    if config["model_type"] in library().CONFIG_MAPPING:
        return True
    names = config.get("architectures")
    return isinstance(names, list) and any(_torch_class(str(name)) for name in names)


def class_named(name: str, *, path: Location | None = None) -> type[Any]:
    """Return a torch model class by its name.

    Args:
        name: The name, with or without ``Flax`` in front.
        path: The config that names the class in ``architectures``; None if the caller names it.

    Raises:
        UsageError: transformers has no such class.
    """
    model_class = _torch_class(name)
    if model_class is None:
        import difflib

        close = difflib.get_close_matches(name, library().__all__)
        near = next((other for other in close if _torch_class(other)), "BertModel")
        what = (
            f"model={name!r}" if path is None else f"the config field 'architectures' names {name!r}, which"
        )
        raise UsageError(
            f"{what} is not a model class of transformers {version()}.",
            path=path,
            hint=f'Pass a class such as model="{near}" (--model {near}), or {_WITHOUT}.',
        )
    return model_class


def torch_class_of(config: Any, folder: Location) -> type[Any]:
    """Return the class that a folder's config names, or else the bare model of its type.

    Raises:
        UsageError: transformers has no class of that name, or no model for the type.
    """
    names = getattr(config, "architectures", None) or ()
    if names:
        return class_named(str(names[0]), path=folder / CONFIG)
    bare: Any = library().AutoModel._model_mapping.get(type(config), None)
    model_class: type[Any] | None = bare[0] if isinstance(bare, list | tuple) else bare
    if model_class is None:
        raise UsageError(
            f"the config has no field 'architectures', and transformers {version()} has no bare model for "
            f"its model_type {config.model_type!r}.",
            path=folder / CONFIG,
            hint='Pass the class of the weights, such as model="BertModel" (--model BertModel).',
        )
    return model_class


def _torch_class(name: str) -> type[Any] | None:
    """Return the torch model class of a name, which may begin with ``Flax``; None if there is none."""
    transformers = library()
    name = name.removeprefix("Flax")
    name = _TORCH_NAMES.get(name, name)
    value = getattr(transformers, name, None) if name.isidentifier() else None
    is_model = inspect.isclass(value) and issubclass(value, transformers.PreTrainedModel)
    return value if is_model else None


def flax_class_of(torch_class: type[Any]) -> type[Any] | None:
    """Return the Flax class of the same model; None if this version of transformers has none."""
    transformers = library()
    base = getattr(transformers, "FlaxPreTrainedModel", None)
    name = _FLAX_NAMES.get(torch_class.__name__, torch_class.__name__)
    flax_class = getattr(transformers, f"Flax{name}", None)
    if not inspect.isclass(base) or not inspect.isclass(flax_class):
        return None
    try:
        return flax_class if issubclass(flax_class, base) else None
    except ImportError:  # transformers' dummy of a class that needs a framework which is not installed
        return None


def torch_class_beside(flax_class: type[Any]) -> type[Any] | None:
    """Return the torch class of the same model, or None; a subclass counts as the class that it extends."""
    for base in flax_class.__mro__:
        if base.__name__ == "FlaxPreTrainedModel":  # torch's base class of all models is not a model
            break
        if model_class := _torch_class(base.__name__):
            return model_class
    return None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress transformers' log messages; errors and notes contain what matters."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(level)


def _first_line(err: BaseException) -> str:
    text = str(err).strip().split("\n")[0].rstrip(".")
    return f"{type(err).__name__}: {text}" if text else type(err).__name__
