"""Lets the model files of packages be imported without what the packages need to train, log or read images.

``bare("tunix")`` comes before ``imported("tunix.models.llama3.model")``.
"""

from __future__ import annotations

import importlib
import sys
import types
import warnings
from pathlib import Path

__all__ = ["bare", "imported", "stub_gemma", "stub_kauldron", "stub_torchvision", "stub_tunix"]


def imported(name):
    """Return a module; what warns while it is imported is not this project's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


def bare(*packages):
    """Make packages whose modules can be imported though their ``__init__`` is not run, outer ones first."""
    for package in packages:
        if package in sys.modules:
            continue
        folders = (Path(folder, *package.split(".")) for folder in sys.path)
        found = next((str(folder) for folder in folders if folder.is_dir()), None)
        if found is None:
            raise ModuleNotFoundError(f"no package {package!r} on the path.", name=package)
        _put(package, __path__=[found])


def stub_tunix():
    """For google-tunix: its ``__init__`` imports trainers and their loggers."""
    bare("tunix")


def stub_gemma():
    """For gemma: its ``__init__`` files import samplers, tokenizers and data sets."""
    stub_kauldron()
    bare("gemma")
    bare(*(f"gemma.{name}" for name in ("gm", "multimodal")))
    bare(*(f"gemma.gm.{name}" for name in ("ckpts", "math", "nn", "text", "utils", "vision")))
    _put("gemma.gm.text._tokenizer", Gemma3Tokenizer=types.SimpleNamespace(special_tokens=_Any))
    # It reads kauldron's annotations, to flatten a batch of several axes.
    imported("gemma.gm.utils._jax_utils").flatten_unflatten_batch_dim = lambda: lambda function: function


def stub_kauldron():
    """For packages that use kauldron's annotations and keys only; all of it needs TensorFlow."""
    if "kauldron" in sys.modules:
        return
    from flax import linen

    class Identity(linen.Module):
        """Returns what it is given."""

        def __call__(self, x):
            return x

    def annotation(name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _Any

    typing = types.ModuleType("kauldron.typing")
    typing.__getattr__ = annotation
    typing.typechecked = lambda function: function
    kontext = types.ModuleType("kauldron.kontext")
    kontext.Key, kontext.REQUIRED = str, "__required__"
    nothing = types.SimpleNamespace(
        ShardingTree=_Any, REPLICATED=None, with_sharding_constraint=lambda tree, sharding: tree
    )
    _put("kauldron", typing=typing, kontext=kontext)
    sys.modules.update({"kauldron.typing": typing, "kauldron.kontext": kontext})
    _put(
        "kauldron.kd",
        typing=typing,
        kontext=kontext,
        nn=types.SimpleNamespace(Identity=Identity),
        sharding=nothing,
        ckpts=types.SimpleNamespace(AbstractPartialLoader=object),
    )


def stub_torchvision():
    """For torchvision's build for CUDA with PyTorch's for the CPU: models do not use its kernels."""
    sys.modules.setdefault("torchvision._meta_registrations", types.ModuleType("_meta_registrations"))


class _Any:
    """Stands for an annotation, with or without axes."""

    def __class_getitem__(cls, axes):
        return object


def _put(name, **attributes):
    module = types.ModuleType(name)
    vars(module).update(attributes)
    sys.modules[name] = module
    outer, _, last = name.rpartition(".")
    if outer:
        setattr(sys.modules[outer], last, module)
    return module
