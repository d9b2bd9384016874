"""Inception v3 for FID: torchvision's blocks, pooled as pytorch-fid does, against jax-fid's."""

import inspect
import sys
import types

import jax
import numpy as np
import pytest
import torch
from flax.traverse_util import flatten_dict, unflatten_dict
from stubs import imported, stub_torchvision
from support.rule_proofs import RECIPES, assert_same_outputs, randomised, stored_tree, torch_file
from torch.nn import functional

from bridge_core import convert

pytestmark = pytest.mark.proof

PICTURES = np.random.default_rng(0).standard_normal((2, 107, 107, 3)).astype(np.float32)


def jax_model():
    """Return jax-fid's model, with the width that its repository has corrected since 0.0.2."""
    library = imported("jax_fid.inception")
    text = inspect.getsource(library)
    before, branch, after = text.partition("params_dict=utils.get(self.params_dict, 'branch7x7dbl_5')")
    start, width, kernel = before.rpartition("out_channels=self.channels_7x7")
    assert branch
    assert width
    assert "BasicConv2d(" not in kernel
    module = types.ModuleType("jax_fid.corrected")
    vars(module)["__package__"] = "jax_fid"
    corrected = f"{start}out_channels=192{kernel}{branch}{after}"
    sys.modules[module.__name__] = module
    exec(compile(corrected, "corrected", "exec"), vars(module))
    return module.InceptionV3(pretrained=False)


def torch_model():
    stub_torchvision()
    model = imported("torchvision.models").inception_v3(num_classes=5, init_weights=False, aux_logits=False)
    return randomised(model)


def features(model, pictures, monkeypatch):
    """Return what pytorch-fid makes of pictures: no padding in averages, and a last maximum."""
    average = functional.avg_pool2d

    def pool(x, kernel_size, stride=1, padding=0):
        if model.in_last_block:
            return functional.max_pool2d(x, kernel_size, stride, padding)
        return average(x, kernel_size, stride, padding, count_include_pad=False)

    monkeypatch.setattr(functional, "avg_pool2d", pool)
    model.in_last_block = False
    model.Mixed_7c.register_forward_pre_hook(lambda *_: setattr(model, "in_last_block", True))
    model.fc = model.dropout = torch.nn.Identity()
    with torch.no_grad():
        return model(torch.from_numpy(pictures.transpose(0, 3, 1, 2)))


@pytest.mark.parametrize("wrong", [False, True], ids=["right", "control"])
def test_the_features_are_those_of_torch(wrong, tmp_path, monkeypatch):
    rules = tmp_path / "rules.toml"
    text = (RECIPES / "inception-fid.toml").read_text()
    change = ('weight = "scale", bias = "bias"', 'weight = "bias", bias = "scale"')
    assert text.count(change[0]) == 1
    rules.write_text(text.replace(*change) if wrong else text)
    model = torch_model()
    source = torch_file(model, tmp_path / "torch" / "model.safetensors")
    convert(source, tmp_path / "made.msgpack", to="flax", layout="torch", rules=rules)
    wanted = features(model, PICTURES, monkeypatch)
    variables = {k: v for k, v in stored_tree(tmp_path / "made.msgpack").items() if "/Dense_0/" not in k}
    net = jax_model()
    abstract = jax.eval_shape(lambda: net.init(jax.random.key(0), PICTURES, train=False))
    shapes = {name: leaf.shape for name, leaf in flatten_dict(dict(abstract), sep="/").items()}
    assert shapes == {name: value.shape for name, value in variables.items()}
    with jax.default_matmul_precision("highest"):
        found = net.apply(unflatten_dict(variables, sep="/"), PICTURES, train=False)[:, 0, 0]
    if not wrong:
        assert_same_outputs(found, wanted)
        return
    with pytest.raises(AssertionError):
        assert_same_outputs(found, wanted)
