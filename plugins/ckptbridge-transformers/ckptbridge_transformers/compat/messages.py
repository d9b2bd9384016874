"""What loading logs: the messages of transformers 4.57, which programs match, where they are true.

Lists are sorted. What only this package knows, as the reason why a tensor is left out, is logged besides.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from bridge_core import Key, join_key
from ckptbridge_transformers.loading import Loaded, left_out_text

__all__ = ["log_loading_flax", "log_loading_torch", "log_narrow"]

_TRAIN = (
    "You should probably TRAIN this model on a down-stream task to be able to use it for predictions and "
    "inference."
)


def log_loading_torch(
    logger: logging.Logger, model: Any, loaded: Loaded, missing: Iterable[str], computed: Mapping[str, str]
) -> None:
    """Log how a torch model was filled with weights of Flax.

    Args:
        logger: Where to.
        model: The model.
        loaded: The weights.
        missing: Names of parameters that have their initial values.
        computed: Names of parameters that Flax's class does not have, with the reason.
    """
    name, missing = type(model).__name__, sorted(missing)
    if loaded.unexpected:
        logger.warning(
            "Some weights of the Flax model were not used when initializing the PyTorch model %s: %s\n"
            "- This IS expected if you are initializing %s from a Flax model trained on another task or with "
            "another architecture (e.g. initializing a BertForSequenceClassification model from a "
            "FlaxBertForPreTraining model).\n"
            "- This IS NOT expected if you are initializing %s from a Flax model that you expect to be "
            "exactly identical (e.g. initializing a BertForSequenceClassification model from a "
            "FlaxBertForSequenceClassification model).",
            *(name, sorted(map(join_key, loaded.unexpected)), name, name),
        )
    else:
        logger.warning("All Flax model weights were used when initializing %s.\n", name)
    _log_reasons(logger, name, loaded)
    if computed:
        own = "; ".join(f"{each} ({reason})" for each, reason in sorted(computed.items()))
        logger.info("%s computes or does not use what Flax's class does not have: %s.", name, own)
    if missing:
        logger.warning(
            "Some weights of %s were not initialized from the Flax model and are newly initialized: %s\n%s",
            *(name, missing, _TRAIN),
        )
    else:
        logger.warning(
            "All the weights of %s were initialized from the Flax model.\n"
            "If your task is similar to the task the model of the checkpoint was trained on, you can already "
            "use %s for predictions without further training.",
            *(name, name),
        )


def log_loading_flax(
    logger: logging.Logger,
    model: Any,
    source: str,
    loaded: Loaded,
    missing: Iterable[Key],
    *,
    do_init: bool,
) -> None:
    """Log how a Flax model's weights were loaded.

    Args:
        logger: Where to.
        model: The model.
        source: The checkpoint, as the caller named it.
        loaded: The weights.
        missing: Keys of parameters that have no source, without those of other shapes.
        do_init: Whether these were initialised; they are not in the params otherwise.
    """
    name, missing = type(model).__name__, _keys(missing)
    if missing and not do_init:
        logger.warning(
            "The checkpoint %s is missing required keys: %s. Make sure to call model.init_weights to "
            "initialize the missing weights.",
            *(source, missing),
        )
    if loaded.unexpected:
        logger.warning(
            "Some weights of the model checkpoint at %s were not used when initializing %s: %s\n"
            "- This IS expected if you are initializing %s from the checkpoint of a model trained on another "
            "task or with another architecture (e.g. initializing a BertForSequenceClassification model from "
            "a BertForPreTraining model).\n"
            "- This IS NOT expected if you are initializing %s from the checkpoint of a model that you "
            "expect to be exactly identical (initializing a BertForSequenceClassification model from a "
            "BertForSequenceClassification model).",
            *(source, name, _keys(loaded.unexpected), name, name),
        )
    elif not loaded.mismatched:
        logger.info("All model checkpoint weights were used when initializing %s.\n", name)
    _log_reasons(logger, name, loaded)
    if missing and do_init:
        logger.warning(
            "Some weights of %s were not initialized from the model checkpoint at %s and are newly "
            "initialized: %s\n%s",
            *(name, source, missing, _TRAIN),
        )
    elif not missing and not loaded.mismatched:
        logger.info(
            "All the weights of %s were initialized from the model checkpoint at %s.\n"
            "If your task is similar to the task the model of the checkpoint was trained on, you can already "
            "use %s for predictions without further training.",
            *(name, source, name),
        )
    if loaded.mismatched:
        pairs = "\n".join(
            f"- {pair.target}: found shape {pair.found.shape} in the checkpoint and {pair.expected.shape} in "
            "the model instantiated"
            for pair in loaded.mismatched
        )
        done = "are newly initialized" if do_init else "are missing from the params"
        logger.warning(
            "Some weights of %s were not initialized from the model checkpoint at %s and %s because the "
            "shapes did not match:\n%s\n%s",
            *(name, source, done, pairs, _TRAIN),
        )


def log_narrow(logger: logging.Logger, model: Any, source: str, dtypes: Mapping[Key, str]) -> None:
    """Log which parameters of a Flax model are of half precision.

    Args:
        logger: Where to.
        model: The model.
        source: The checkpoint, as the caller named it.
        dtypes: The name of each parameter's dtype.
    """
    for narrow in ("float16", "bfloat16"):
        keys = sorted(key for key, dtype in dtypes.items() if dtype == narrow)
        if keys:
            logger.warning(
                "Some of the weights of %s were initialized in %s precision from the model checkpoint at "
                "%s:\n%s\nYou should probably UPCAST the model weights to float32 if this was not intended. "
                "See [`~FlaxPreTrainedModel.to_fp32`] for further information on how to do this.",
                *(type(model).__name__, narrow, source, keys),
            )


def _log_reasons(logger: logging.Logger, name: str, loaded: Loaded) -> None:
    if loaded.left_out:
        logger.info("%s does not use %s of the checkpoint.", name, left_out_text(loaded))
    for warning in loaded.warnings:
        logger.warning("%s", warning.message)


def _keys(keys: Iterable[Key]) -> list[Key]:
    return sorted(map(tuple, keys))
