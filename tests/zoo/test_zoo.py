"""Every Flax model class of the library, both ways: weights bit for bit, outputs to 1e-5."""

import itertools

import jax
import ml_dtypes
import numpy as np
import pytest
import torch
from support.errors import OutputsDiffer
from zoo import folders, harness, heads, seq2seq, speech, text, vision

from bridge_core import MismatchError

CASES = (*text.CASES, *seq2seq.CASES, *vision.CASES, *speech.CASES)
BUILT = tuple(case for case in CASES if not case.no_flax)


DEFAULT = ("bert-masked-lm", "gpt2-cross-lm")
"""Cases in the default run; the other fast ones are slow for it."""

SAMPLE = ("bart-conditional-generation", "llama-causal-lm", "resnet-image-classification-basic")
"""Slow cases of the tests that ask the same of every model: what differs is in its outputs and bits."""


def marks(case, slow=None):
    if case.name in DEFAULT:
        return ()
    return pytest.mark.slow if (case.fast if slow is None else case.name in slow) else pytest.mark.zoo


def parameters(cases, slow=None):
    return [pytest.param(case, id=case.name, marks=marks(case, slow)) for case in cases]


# LongT5 gives one_hot floats.
pytestmark = pytest.mark.filterwarnings(
    "ignore:jax.nn.one_hot input should be integer-typed:DeprecationWarning"
)

every_case = pytest.mark.parametrize("case", parameters(BUILT))
every_head = pytest.mark.parametrize(
    "case", parameters((c for c in BUILT if heads.base_of(c, CASES)), SAMPLE)
)


@pytest.fixture(autouse=True)
def clip():
    with harness.old_clip():
        yield


@pytest.fixture(scope="module")
def ran():
    """How many tests ran."""
    return itertools.count(1)


@pytest.fixture(autouse=True)
def freed(ran):
    """Similar families share what JAX has compiled; that of all of them takes gigabytes."""
    if next(ran) % 100 == 0:
        jax.clear_caches()


def test_table_is_complete():
    listed = {case.flax for case in CASES}
    defined = harness.flax_model_classes()
    assert len(defined) == 133
    assert listed >= defined, f"not in the table: {sorted(defined - listed)}"
    assert listed <= defined, f"no model classes: {sorted(listed - defined)}"


def test_names_are_unique():
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)


def test_default_cases_are_in_the_table():
    assert {case.name for case in BUILT if case.fast} >= set(DEFAULT)


def test_library_exports_no_other_flax_model_class():
    import transformers

    exported = {name for name in dir(transformers) if name.startswith("Flax") and "Auto" not in name}
    models = {name for name in exported if harness.is_model(getattr(transformers, name))}
    assert models <= harness.flax_model_classes()


@every_case
def test_outputs_and_bits(case):
    source, model = harness.build_torch(case), harness.build_flax(case)
    params = harness.to_flax(source, model)
    back = harness.to_torch(params, model, source)
    harness.assert_same_bits(back, harness.without_counters(source.state_dict()))
    if case.skip_outputs:
        return
    found, wanted = harness.run_flax(case, model, params), harness.run_torch(case, source)
    harness.assert_same_outputs(found, wanted, case.tolerance)
    unlike = harness.build_torch(case, seed=1)
    with pytest.raises(OutputsDiffer):
        harness.assert_same_outputs(found, harness.run_torch(case, unlike), case.tolerance)


@pytest.mark.parametrize("case", parameters(BUILT, SAMPLE))
def test_half_precision(case):
    source, model = harness.build_torch(case, dtype=torch.bfloat16), harness.build_flax(case)
    params = harness.to_flax(source, model)
    dtypes = {
        leaf.dtype for name, leaf in heads.flat(params).items() if not harness.made(name, source.config)
    }
    assert dtypes == {np.dtype(ml_dtypes.bfloat16)}
    back = harness.to_torch(params, model, source)
    harness.assert_same_bits(back, harness.without_counters(source.state_dict()))


@every_head
def test_base_and_head(case):
    for direction in heads.directions(case, heads.base_of(case, CASES)):
        direction.check()


every_folder = pytest.mark.parametrize("case", parameters((c for c in BUILT if not c.torch_kwargs), SAMPLE))


@every_folder
def test_folder(case, tmp_path):
    source = harness.build_torch(case)
    there, back = folders.convert(source, tmp_path)
    folders.assert_holds(there, heads.flat(harness.to_flax(source, harness.build_flax(case))))
    folders.assert_holds(back, folders.kept(case, source), aliases=folders.aliases(source))


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=case.name, marks=() if case.name == DEFAULT[0] else marks(case, SAMPLE))
        for case in BUILT
        if case.fast
    ],
)
def test_command(case, tmp_path):
    source = harness.build_torch(case)
    there, back = folders.convert(source, tmp_path, by=folders.command)
    folders.assert_holds(there, heads.flat(harness.to_flax(source, harness.build_flax(case))))
    folders.assert_holds(back, folders.kept(case, source), aliases=folders.aliases(source))
    flax_class = harness.find_class(case.flax)
    model, params = flax_class.from_pretrained(there, _do_init=False, **case.flax_kwargs)
    wanted = harness.run_torch(case, source)
    harness.assert_same_outputs(harness.run_flax(case, model, params), wanted, case.tolerance)


def test_folder_does_not_tell_the_options_of_a_constructor(tmp_path):
    case = next(case for case in text.CASES if case.name == "bert-no-pooling-model")
    with pytest.raises(MismatchError) as caught:
        folders.convert(harness.build_torch(case), tmp_path)
    assert caught.value.missing == ("pooler.dense.bias", "pooler.dense.kernel")
