"""Models that flatten feature maps, and norms over channels and space: warned of, and right with the rule."""

import re
import warnings
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest
import torch

import bridge_core
import bridge_flax
import bridge_torch
from bridge_core.errors import ConversionWarning


class TorchNet(torch.nn.Module):
    """An encoder that flattens, and a decoder that unflattens."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3, padding=1)
        self.ln = torch.nn.LayerNorm((4, 4, 4))
        self.fc = torch.nn.Linear(64, 6)
        self.up = torch.nn.Linear(6, 8 * 4)
        self.out = torch.nn.Conv2d(8, 3, 1)
        generator = torch.Generator().manual_seed(1)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)

    def forward(self, x):
        x = torch.tanh(self.fc(self.ln(self.conv(x)).flatten(1)))
        return self.out(self.up(x).reshape(-1, 8, 2, 2))


class LinenNet(nn.Module):
    """The same, channels last."""

    @nn.compact
    def __call__(self, x):
        axes = (-3, -2, -1)
        x = nn.Conv(4, (3, 3), name="conv")(x)
        x = nn.LayerNorm(reduction_axes=axes, feature_axes=axes, epsilon=1e-5, name="ln")(x)
        x = nn.tanh(nn.Dense(6, name="fc")(x.reshape(x.shape[0], -1)))
        return nn.Conv(3, (1, 1), name="out")(nn.Dense(32, name="up")(x).reshape(-1, 2, 2, 8))


IMAGES = np.random.default_rng(0).standard_normal((2, 3, 4, 4), np.float32)


@pytest.fixture(scope="module")
def template():
    return bridge_flax.template(LinenNet(), jax.ShapeDtypeStruct((1, 4, 4, 3), "float32"))


def outputs(variables):
    return np.asarray(LinenNet().apply(variables, IMAGES.transpose(0, 2, 3, 1))).transpose(0, 3, 1, 2)


def rule_file(found, path, source, target):
    rules = "\n".join(warning.rule for warning in found)
    path.write_text(f'source = "{source}"\ntarget = "{target}"\n\n{rules}')
    return str(path)


def named(found):
    return {(warning.code, bridge_core.join_key(warning.keys[0]).rpartition(".")[0]) for warning in found}


ALL = {("flatten", "fc"), ("flatten", "up"), ("norm_axes", "ln")}


@pytest.mark.parametrize("with_template", [True, False], ids=["template", "none"])
@pytest.mark.parametrize("live", [True, False], ids=["module", "dict"])
def test_the_rules_of_the_warnings_make_the_outputs_equal_and_come_back(
    live, with_template, template, tmp_path
):
    model = TorchNet()
    arrays = {name: value.numpy() for name, value in model.state_dict().items()}
    source = model if live else arrays
    like = template if with_template else None
    options = {"to": "flax", "layout": "torch", "like": like}
    plan = bridge_core.plan_conversion(source, **options)
    assert named(plan.warnings) == ALL
    rules = rule_file(plan.warnings, tmp_path / "r.toml", "torch", "flax")
    report = bridge_core.convert(source, tmp_path / "f.msgpack", **options, rules=rules)
    assert report.warnings == ()
    assert report.exact
    neutral = bridge_torch.to_neutral(model, rules=rules)
    variables = bridge_flax.from_neutral(neutral, like=template, rules=rules)
    with torch.no_grad():
        expected = model(torch.from_numpy(IMAGES)).numpy()
    np.testing.assert_allclose(outputs(variables), expected, rtol=1e-3, atol=1e-3)
    with bridge_core.open_state(tmp_path / "f.msgpack") as state:
        read = bridge_flax.from_neutral(bridge_flax.to_neutral(state), like=template)
    for one, other in zip(*map(jax.tree.leaves, (read, variables)), strict=True):
        np.testing.assert_array_equal(one, other)
    back = bridge_torch.from_neutral(
        bridge_flax.to_neutral(variables, module=template, rules=rules),
        like=model if with_template else None,
        rules=rules,
    )
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name].numpy(), array)


def test_from_flax_the_rules_go_the_other_way(template, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConversionWarning)
        variables = bridge_flax.from_neutral(bridge_torch.to_neutral(TorchNet()), like=template)
    plan = bridge_core.plan_conversion(variables, to="torch", like=TorchNet())
    assert named(plan.warnings) == {(code, f"params.{path}") for code, path in ALL}
    rules = rule_file(plan.warnings, tmp_path / "r.toml", "flax", "torch")
    model = TorchNet()
    neutral = bridge_flax.to_neutral(variables, rules=rules)
    model.load_state_dict(bridge_torch.from_neutral(neutral, like=model, rules=rules))
    with torch.no_grad():
        made = model(torch.from_numpy(IMAGES)).numpy()
    np.testing.assert_allclose(made, outputs(variables), rtol=1e-3, atol=1e-3)


def test_live_tensors_warn_in_python_and_name_the_callers_line(template):
    neutral = bridge_torch.to_neutral(TorchNet())
    with pytest.warns(ConversionWarning) as caught:
        bridge_flax.from_neutral(neutral, like=template)
    assert len(caught) == len(ALL)
    assert {warning.filename for warning in caught} == {__file__}
    assert any("fc.kernel" in str(warning.message) for warning in caught)


@pytest.mark.parametrize(
    ("shape", "beside", "equation"),
    [
        ((4, 3, 2), (), "c h w -> h w c"),
        ((4, 3, 2, 5), (), "c d h w -> d h w c"),
        ((4, 9), ("conv",), "c l -> l c"),
        ((4, 9), (), None),
        ((4, 1, 1), (), None),
        ((4,), ("conv",), None),
    ],
    ids=str,
)
def test_a_norm_over_space_is_warned_of(shape, beside, equation):
    state = {"ln.weight": np.ones(shape), "ln.bias": np.ones(shape)}
    if beside:
        state |= {"conv.weight": np.ones((4, 3, 3)), "conv.bias": np.ones(4)}
    plan = bridge_core.plan_conversion(state, to="flax", layout="torch")
    found = [warning for warning in plan.warnings if warning.code == "norm_axes"]
    assert [f'rearrange = "{equation}"' in warning.rule for warning in found] == [True] * bool(equation)
    assert all(warning.rule.count("[[rule]]") == 2 for warning in found)


def test_the_rule_in_the_guide_is_that_of_a_warning(tmp_path):
    guide = (Path(__file__).parents[2] / "docs" / "right-weights-other-outputs.md").read_text()
    (text,) = re.findall(r"```toml\n(.*?)```", guide, re.DOTALL)
    state = {
        "conv.weight": np.ones((4, 3, 3, 3)),
        "conv.bias": np.ones(4),
        "fc.weight": np.ones((5, 24)),
        "fc.bias": np.ones(5),
    }
    (warning,) = bridge_core.plan_conversion(state, to="flax", layout="torch").warnings
    assert text.endswith(warning.rule)
    (tmp_path / "r.toml").write_text(text)
    plan = bridge_core.plan_conversion(state, to="flax", layout="torch", rules=str(tmp_path / "r.toml"))
    assert plan.exact
    assert plan.warnings == ()
