"""Which model classes a checkpoint folder means: its config, and the torch and Flax classes that it names.

The only file of the plugin that imports transformers, together with `templates`. No code of a checkpoint
is ever run, and nothing is fetched.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from bridge_core import MissingDependency, UsageError
from bridge_core.checkpoint import read_config as config_in

__all__ = [
    "CONFIG",
    "class_named",
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
_TORCH_NAMES = {"BertForCausalLM": "BertLMHeadModel"}
"""Name of a Flax class without ``Flax`` -> torch's name, where it is another."""
_FLAX_NAMES = {torch: flax for flax, torch in _TORCH_NAMES.items()}


def library() -> ModuleType:
    """Import transformers.

    Raises:
        MissingDependency: It is not there, or broken.
    """
    try:
        import transformers
    except ImportError as err:
        raise MissingDependency(
            f"checkpoints of transformers need it, and importing it failed: {err}.",
            hint="Run `pip install transformers`, or do without the model's classes: --model none.",
        ) from err
    module: ModuleType = transformers
    return module


def version() -> str:
    """Return the version of transformers."""
    return str(library().__version__)


def read_config(folder: Path) -> Mapping[str, Any] | None:
    """Return a folder's ``config.json`` as it stands, or None if it has none.

    Raises:
        MalformedFile: It is not a JSON object.
        LimitExceeded: It is too large to be one.
        SystemFailure: It cannot be read.
    """
    path = folder / CONFIG
    return config_in(path) if path.is_file() else None


def config_of(folder: Path) -> Any:
    """Return a folder's config as an object of transformers.

    Raises:
        UsageError: This version of transformers does not know it.
    """
    transformers = library()
    with quiet():
        try:
            config = transformers.AutoConfig.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            )
        except Exception as err:  # config classes check what they read, each in its own way
            raise UsageError(
                f"transformers {version()} cannot read the config: {_first_line(err)}.",
                path=folder / CONFIG,
                hint="Correct it, or do without the model's classes: --model none.",
            ) from err
    config._name_or_path = ""  # where it stands says nothing of the model
    return config


def is_known(config: Mapping[str, Any]) -> bool:
    """Tell whether transformers knows a config's model type, or else a class that the config names."""
    transformers = library()
    if config["model_type"] in transformers.CONFIG_MAPPING:
        return True
    names = config.get("architectures")
    for name in names if isinstance(names, list) else ():
        with contextlib.suppress(UsageError):
            class_named(str(name).removeprefix("Flax"))
            return True
    return False


def class_named(name: str) -> type[Any]:
    """Return a torch model class by its name.

    Raises:
        UsageError: transformers has no such class.
    """
    transformers = library()
    name = _TORCH_NAMES.get(name, name)
    found = getattr(transformers, name, None) if name.isidentifier() else None
    if not inspect.isclass(found) or not issubclass(found, transformers.PreTrainedModel):
        raise UsageError(
            f"transformers {version()} has no torch model class {name!r}.",
            hint="Name one such as BertModel, or do without the model's classes: --model none.",
        )
    return found


def torch_class_of(config: Any) -> type[Any]:
    """Return the class that a config names, or else the bare model of its type.

    Raises:
        UsageError: It names a class that transformers lacks, or its type has no model.
    """
    names = getattr(config, "architectures", None) or ()
    if names:
        return class_named(str(names[0]).removeprefix("Flax"))
    bare: Any = library().AutoModel._model_mapping.get(type(config), None)
    found = bare[0] if isinstance(bare, list | tuple) else bare
    if found is None:
        raise UsageError(
            f"the config names no architecture, and transformers {version()} has no model for its type "
            f"{config.model_type!r}.",
            hint="Name the class: --model CLASS.",
        )
    known: type[Any] = found
    return known


def flax_class_of(torch_class: type[Any]) -> type[Any] | None:
    """Return the Flax class beside a torch class; None where this version of transformers has none."""
    transformers = library()
    base = getattr(transformers, "FlaxPreTrainedModel", None)
    name = _FLAX_NAMES.get(torch_class.__name__, torch_class.__name__)
    found = getattr(transformers, f"Flax{name}", None)
    if not inspect.isclass(base) or not inspect.isclass(found):
        return None
    try:
        return found if issubclass(found, base) else None
    except ImportError:  # a stand-in for a class whose framework is not installed
        return None


def torch_class_beside(flax_class: type[Any]) -> type[Any] | None:
    """Return the torch class beside a Flax class, or None; a subclass goes by the class that it extends."""
    for base in flax_class.__mro__:
        if base.__name__ == "FlaxPreTrainedModel":  # torch's base class of all models is none itself
            break
        with contextlib.suppress(UsageError):
            return class_named(base.__name__.removeprefix("Flax"))
    return None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' log messages back; what matters is told in errors and notes."""
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
