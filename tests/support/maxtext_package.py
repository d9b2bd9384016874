"""Runs MaxText's own models on a CPU, without the packages that only training and accelerators need."""

import importlib.abc
import importlib.machinery
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen
from flax.traverse_util import flatten_dict, unflatten_dict

__all__ = ["maxtext_model", "run_maxtext"]

ABSENT = (
    *(
        "aqt",
        "cloud_accelerator_diagnostics",
        "datasets",
        "drjax",
        "google.cloud",
        "google_cloud_mldiagnostics",
    ),
    *("grain", "jaxtyping", "ml_goodput_measurement", "pathwaysutils", "qwix", "tensorboardX", "tensorflow"),
    *("tiktoken", "tokamax", "maxtext.kernels", "maxtext.input_pipeline", "jax.experimental.pallas.ops.tpu"),
)


class Anything(type):
    """A class whose attributes, items and calls are again nothing in particular; it may be a base."""

    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return anything(name)

    def __call__(cls, *args, **options):
        if "is_stub" not in cls.__dict__:
            return super().__call__(*args, **options)
        return args[0] if len(args) == 1 and callable(args[0]) and not options else None

    def __or__(cls, other):
        return cls

    __ror__ = __or__

    def __getitem__(cls, key):
        return cls


def anything(name):
    return Anything(name, (), {"is_stub": True})


class Stub(types.ModuleType):
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        setattr(self, name, anything(name))
        return self.__dict__[name]


class StubFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if any(name == one or name.startswith(f"{one}.") for one in ABSENT):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        module = Stub(spec.name)
        module.__path__ = []
        return module

    def exec_module(self, module):
        pass


class Float32:
    """``jax.numpy`` for a module that rounds to bfloat16: the tied head's logits."""

    bfloat16 = jnp.float32

    def __getattr__(self, name):
        return getattr(jnp, name)


def maxtext_model(name, *, scanned, length, **sizes):
    """Return a Linen model of MaxText that computes in float32.

    Args:
        name: MaxText's name of the model.
        scanned: Whether its layers are stacked.
        length: Of the longest sequence.
        sizes: Entries of its configuration in place of the model's.
    """
    if not any(isinstance(finder, StubFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, StubFinder())
    import maxtext
    from maxtext.configs import pyconfig
    from maxtext.layers import embeddings
    from maxtext.models import models

    embeddings.jnp = Float32()
    given = {
        "model_name": name,
        "scan_layers": scanned,
        "override_model_config": True,
        "run_name": "proof",
        "enable_checkpointing": False,
        "skip_jax_distributed_system": True,
        "hardware": "cpu",
        "max_target_length": length,
        "max_prefill_predict_length": 4,
        "dtype": "float32",
        "weight_dtype": "float32",
        "attention": "dot_product",
        "matmul_precision": "highest",
        "float32_qk_product": True,
        "float32_logits": True,
        "logits_dot_in_fp32": True,
        "sparse_matmul": False,
        "megablox": False,
        "capacity_factor": -1.0,
        "dataset_type": "synthetic",
        "log_config": False,
        **sizes,
    }
    base = Path(next(iter(maxtext.__path__))) / "configs" / "base.yml"
    config = pyconfig.initialize(["", str(base)], **given)
    devices = np.array(jax.devices()[:1]).reshape((1,) * len(config.mesh_axes))
    return models.transformer_as_linen(config, jax.sharding.Mesh(devices, config.mesh_axes), None)


def run_maxtext(model, tree, tokens):
    """Return logits; the variables must be those that the model has."""
    places = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    keys = {name: jax.random.key(0) for name in ("params", "dropout", "aqt")}
    made = jax.eval_shape(lambda: model.init(keys, tokens, places, enable_dropout=False))
    shapes = {name: leaf.shape for name, leaf in flatten_dict(linen.unbox(made), sep="/").items()}
    assert shapes == {name: value.shape for name, value in tree.items()}
    given = {"decoder_segment_ids": jnp.ones_like(places), "enable_dropout": False, "mutable": False}
    out = model.apply(unflatten_dict(tree, sep="/"), jnp.asarray(tokens), places, **given)
    return np.asarray(out[0] if isinstance(out, tuple) else out)
