"""`from_flax=True` and the meta device, for every Flax model class: no tensor is left without values.

What the model computes itself, and no checkpoint of Flax holds, has the values of a model that was made as
usual: tables of positions, frequencies, masks.
"""

import pytest
import torch
from support.compat_models import alarms, warnings_of
from zoo import folders, harness
from zoo.test_zoo import BUILT, SAMPLE

from bridge_core import default_registry, save_state
from ckptbridge_transformers import compat

DEFAULT = ("llama-causal-lm",)
"""Cases of the default run."""

SLOW = (*SAMPLE, "t5-conditional-generation-gated-untied")

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*generation:UserWarning"),
    # LongT5 gives one_hot floats.
    pytest.mark.filterwarnings("ignore:jax.nn.one_hot input should be integer-typed:DeprecationWarning"),
]

every_case = pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            case,
            id=case.name,
            marks=() if case.name in DEFAULT else pytest.mark.slow if case.name in SLOW else pytest.mark.zoo,
        )
        for case in BUILT
    ],
)


def held(model):
    """Return all tensors of a model by name: parameters, buffers, saved or not, and plain attributes."""
    found = {}
    for path, module in model.named_modules(remove_duplicate=False):
        own = {**module._parameters, **module._buffers, **vars(module)}
        found.update({f"{path}.{name}": t for name, t in own.items() if isinstance(t, torch.Tensor)})
    return found


def assert_as_made(found, case, source):
    """Compare a loaded model with the one whose weights were saved."""
    unused = source.state_dict().keys() - folders.kept(case, source).keys()
    computed = {name for name, value in source.named_parameters() if not value.requires_grad}
    loaded, wanted = held(found), held(source)
    assert loaded.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert not loaded[name].is_meta, name
        bare = name.removeprefix(".")
        if bare in unused - computed:
            continue
        expected = torch.zeros_like(tensor) if name.endswith(".num_batches_tracked") else tensor
        assert loaded[name].dtype == tensor.dtype, name
        assert torch.equal(loaded[name], expected), name


@every_case
def test_nothing_is_left_without_values(case, tmp_path):
    with harness.old_clip():
        source = harness.build_torch(case)
        params = harness.to_flax(source, harness.build_flax(case))
    torch_class = harness.find_class(case.torch)
    source.config.save_pretrained(tmp_path)
    save_state(default_registry().framework("flax").state(params), tmp_path / "flax_model.msgpack")
    with compat.installed(), warnings_of("modeling_flax_pytorch_utils") as told:
        found = torch_class.from_pretrained(
            tmp_path, from_flax=True, attn_implementation="eager", **case.torch_kwargs
        )
    assert_as_made(found, case, source)
    assert alarms(told) == []
    assert len(told) == 2
    with torch.device("meta"):
        empty = torch_class(source.config, **case.torch_kwargs)
    assert_as_made(compat.load_flax_weights_in_pytorch_model(empty, params), case, source)
