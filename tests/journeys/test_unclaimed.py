"""Tensors that no evidence explains: refused where the name is a layer's, else copied and listed."""

from __future__ import annotations

import json
import re
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from support.commands import assert_refused
from support.errors import refused
from torch.nn.utils import parametrizations, prune, spectral_norm

import bridge_core
import bridge_flax
import bridge_torch
from bridge_core import AmbiguousLayerError, ConversionError, UnclaimedTensorError
from bridge_core.cli import main
from bridge_core.state import LayerInfo


def run(*args):
    result = CliRunner().invoke(main, [str(arg) for arg in args])
    return SimpleNamespace(code=result.exit_code, out=result.stdout, err=result.stderr)


def filled(module):
    """Give every parameter and buffer of a module other numbers."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for value in module.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return module.eval()


def model(**layers):
    module = torch.nn.Module()
    for name, layer in layers.items():
        module.add_module(name, layer)
    return filled(module)


def numbers(*shape, dtype="float32"):
    return torch.from_numpy(np.arange(1, 1 + np.prod(shape, dtype=int)).reshape(shape).astype(dtype))


def weight_norm(layer, name="weight", dim=0):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.nn.utils.weight_norm(layer, name, dim)


def pruned(layer, name="weight"):
    prune.l1_unstructured(layer, name, 0.5)
    return layer


class Doubled(torch.nn.Module):
    def forward(self, weight):
        return 2 * weight


def parametrized(layer, name="weight"):
    torch.nn.utils.parametrize.register_parametrization(layer, name, Doubled())
    return layer


class Turned(torch.nn.Linear):
    def __init__(self, inputs, outputs, bias):
        super().__init__(inputs, outputs, bias=bias)
        self.weight = torch.nn.Parameter(torch.zeros(inputs, outputs))


class TurnedConv(torch.nn.Conv2d):
    def __init__(self):
        super().__init__(2, 5, 3, bias=False)
        self.weight = torch.nn.Parameter(torch.zeros(2, 5, 3, 3))


BESIDE = {
    "a grouped transposed convolution": lambda: torch.nn.ConvTranspose2d(4, 8, 3, groups=2),
    "a grouped transposed convolution in one dimension": lambda: torch.nn.ConvTranspose1d(4, 2, 4, groups=2),
    "a grouped transposed convolution in three": lambda: torch.nn.ConvTranspose3d(
        4, 6, 2, groups=2, bias=False
    ),
    "weight norm on an LSTM": lambda: weight_norm(torch.nn.LSTM(3, 4), "weight_hh_l0"),
    "weight norm on a GRU": lambda: weight_norm(torch.nn.GRU(4, 4), "weight_ih_l0"),
    "weight norm on a GRU cell": lambda: weight_norm(torch.nn.GRUCell(4, 4), "weight_hh"),
    "weight norm along the other axis": lambda: weight_norm(torch.nn.Linear(4, 4), dim=1),
    "weight norm over everything": lambda: weight_norm(torch.nn.Linear(4, 4), dim=None),
    "parametrized weight norm along the other axis": lambda: parametrizations.weight_norm(
        torch.nn.Conv1d(4, 4, 3), dim=1
    ),
    "a pruned linear layer": lambda: pruned(torch.nn.Linear(4, 4)),
    "a pruned bias": lambda: pruned(torch.nn.Linear(4, 4), "bias"),
    "a pruned convolution": lambda: pruned(torch.nn.Conv2d(4, 4, 3)),
    "a pruned embedding": lambda: pruned(torch.nn.Embedding(6, 4)),
    "an orthogonal weight": lambda: parametrizations.orthogonal(torch.nn.Linear(4, 4)),
    "a parametrization of the user's": lambda: parametrized(torch.nn.Linear(4, 4, bias=False)),
    "a parametrized embedding": lambda: parametrized(torch.nn.Embedding(6, 4)),
    "two parametrizations": lambda: parametrized(parametrized(torch.nn.Conv1d(4, 4, 4))),
    "a spectral norm of a bilinear layer": lambda: spectral_norm(torch.nn.Bilinear(4, 4, 4)),
    "a bilinear layer": lambda: torch.nn.Bilinear(4, 4, 4),
    "a turned linear layer": lambda: Turned(4, 6, bias=True),
    "an LSTM with a projection": lambda: torch.nn.LSTM(3, 4, proj_size=2),
}


@pytest.mark.parametrize("live", [True, False], ids=["module", "state dict"])
@pytest.mark.parametrize("name", BESIDE)
def test_layers_beside_the_usual_ones_are_refused_by_name(name, live, tmp_path):
    made = model(mid=BESIDE[name](), last=torch.nn.Linear(4, 3))
    with pytest.raises(ConversionError) as caught:
        bridge_core.convert(made if live else made.state_dict(), tmp_path / "f.msgpack", to="flax")
    assert any(key.startswith("mid.") for key in caught.value.keys)
    assert caught.value.hint
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", BESIDE)
def test_within_torch_they_go_as_they_are(name, tmp_path):
    source = model(mid=BESIDE[name]()).state_dict()
    bridge_core.convert(source, tmp_path / "n.safetensors", to="neutral")
    report = bridge_core.convert(tmp_path / "n.safetensors", tmp_path / "t.pt", to="torch")
    with bridge_core.open_state(tmp_path / "t.pt") as back:
        for key, value in source.items():
            np.testing.assert_array_equal(back[bridge_core.as_key(key)], value.numpy())
    assert not report.unclaimed


@pytest.mark.parametrize("layer", [Turned(4, 6, bias=False), TurnedConv()], ids=["linear", "convolution"])
def test_a_live_layer_without_a_bias_whose_settings_deny_its_shape_is_refused(layer, tmp_path):
    with refused(UnclaimedTensorError) as caught:
        bridge_core.convert(model(mid=layer), tmp_path / "f.msgpack", to="flax")
    assert set(caught.value.reasons) == {"mid.weight"}


def test_a_layer_whose_weight_was_cut_is_still_what_its_type_says():
    made = model(fc=torch.nn.Linear(4, 6))
    made.fc.weight = torch.nn.Parameter(made.fc.weight[:5])
    made.fc.bias = torch.nn.Parameter(made.fc.bias[:5])
    tree = bridge_flax.from_neutral(bridge_torch.to_neutral(made))
    np.testing.assert_array_equal(tree["fc"]["kernel"], made.fc.weight.detach().numpy().T)


FOREIGN = {
    "GPTQ": {"fc.qweight": numbers(2, 4, dtype="int32"), "fc.scales": numbers(2, 4), "fc.g_idx": numbers(8)},
    "AWQ without weights": {"fc.qzeros": numbers(2, 4, dtype="int32"), "fc.scales": numbers(2, 4)},
    "bitsandbytes": {"fc.weight": numbers(4, 4, dtype="int8"), "fc.bias": numbers(4), "fc.SCB": numbers(4)},
    "an int8 weight with its scale": {
        "fc.weight": numbers(4, 4, dtype="int8"),
        "fc.bias": numbers(4),
        "fc.scale": numbers(4),
    },
    "a block scale": {
        "fc.weight": numbers(4, 4).to(torch.float8_e4m3fn),
        "fc.bias": numbers(4),
        "fc.weight_scale_inv": numbers(2, 2),
    },
    "an input scale": {
        "fc.weight": numbers(4, 4).to(torch.float8_e4m3fn),
        "fc.bias": numbers(4),
        "fc.input_scale": numbers(1),
    },
    "FSDP": {"_fsdp_wrapped_module._flat_param": numbers(40)},
    "FSDP 2": {"encoder._fsdp_wrapped_module.flat_param_0": numbers(40)},
    "an EMA copy without dots": {"ema.blocks0fcweight": numbers(4, 6), "ema.decay": numbers()},
    "low-rank factors": {"fc.lora_A": numbers(2, 4), "fc.lora_B": numbers(6, 2)},
    "low-rank factors of an adapter": {"fc.lora_embedding_A.default": numbers(2, 4)},
    "Haiku": {"mlp.linear_0.w": numbers(4, 4), "mlp.linear_0.b": numbers(4)},
    "a gate of the user's": {"mixer.gate_weight": numbers(4, 4)},
    "a kernel of the user's": {"mixer.conv_kernel": numbers(4)},
    "a statistic alone": {"bn.running_mean": numbers(4)},
    "a stack of matrices": {"experts.weight": numbers(3, 4, 5)},
}


@pytest.mark.parametrize("guesses", [False, True])
@pytest.mark.parametrize("name", [name for name in FOREIGN if name != "a stack of matrices"])
def test_tensors_with_a_layers_name_do_not_cross_unasked(name, guesses, tmp_path):
    value = {**FOREIGN[name], "norm.weight": numbers(4), "norm.bias": numbers(4)}
    first = next(iter(key for key in value if "norm" not in key)).rpartition(".")[0]
    with refused(UnclaimedTensorError) as caught:
        bridge_core.convert(value, tmp_path / "f.msgpack", to="flax", accept_guesses=guesses)
    assert any(key.startswith(first) for key in caught.value.reasons)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", FOREIGN)
def test_the_caller_may_let_them_through(name, tmp_path):
    value = FOREIGN[name]
    report = bridge_core.convert(value, tmp_path / "f.npz", to="flax", allow_unclaimed="**")
    with bridge_core.open_state(tmp_path / "f.npz") as made:
        for key in report.unclaimed:
            expected = value[".".join(key)].reshape(-1).view(torch.uint8).numpy()
            assert made[key].tobytes() == expected.tobytes()
    assert report.unclaimed
    assert report.to_json()["unclaimed"] == [".".join(key) for key in report.unclaimed]
    assert report.to_json()["evidence"]["unclaimed"] == len(report.unclaimed)


OWN = {
    "cls_token": numbers(1, 1, 4),
    "pos_embed": numbers(1, 5, 4),
    "mixer.A_log": numbers(4, 4),
    "mixer.D": numbers(4),
    "blocks.0.ls1.gamma_1": numbers(4),
    "blocks.0.layer_scale_parameter": numbers(4),
    "attn.relative_position_bias_table": numbers(9, 2),
    "head.bias": numbers(4),
}


@pytest.mark.parametrize("route", ["file", "dict", "two steps"])
def test_names_of_their_own_are_copied_and_listed(route, tmp_path):
    from safetensors.torch import save_file

    source = {**OWN, "fc.weight": numbers(5, 4), "fc.bias": numbers(5)}
    if route == "file":
        save_file(source, tmp_path / "t.safetensors")
        source = tmp_path / "t.safetensors"
    if route == "two steps":
        bridge_core.convert(source, tmp_path / "n.safetensors", to="neutral")
        source = tmp_path / "n.safetensors"
    report = bridge_core.convert(source, tmp_path / "f.npz", to="flax")
    with bridge_core.open_state(tmp_path / "f.npz", layout="flax") as made:
        for key, value in OWN.items():
            np.testing.assert_array_equal(made[bridge_core.as_key(key)], value.numpy())
    assert {".".join(key) for key in report.unclaimed} == OWN.keys()


def test_a_live_module_vouches_for_parameters_of_its_own():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.cls_token = torch.nn.Parameter(torch.zeros(1, 1, 4))
            self.register_buffer("steps", torch.zeros(3))
            self.fc = torch.nn.Linear(4, 4)

    plan = bridge_core.plan_conversion(filled(Net()), to="flax")
    assert not plan.unclaimed
    assert plan.evidence == {"module": 4}


def test_a_live_module_does_not_vouch_for_a_weight():
    class Mixer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.gate_weight = torch.nn.Parameter(torch.zeros(4, 4))
            self.gain = torch.nn.Parameter(torch.zeros(4))

    made = model(mixer=Mixer(), fc=torch.nn.Linear(4, 4))
    with refused(UnclaimedTensorError) as caught:
        bridge_core.plan_conversion(made, to="flax")
    assert list(caught.value.reasons) == ["mixer.gate_weight"]
    plan = bridge_core.plan_conversion(made, to="flax", allow_unclaimed="mixer.gate_weight")
    assert plan.unclaimed == (("mixer", "gate_weight"),)


def test_a_template_with_the_name_and_shape_is_evidence():
    value = {"mixer.gate_weight": numbers(4, 4), "fc.weight": numbers(5, 4), "fc.bias": numbers(5)}
    like = {
        "mixer": {"gate_weight": np.zeros((4, 4), "float32")},
        "fc": {"kernel": np.zeros((4, 5), "float32"), "bias": np.zeros(5, "float32")},
    }
    plan = bridge_core.plan_conversion(value, to="flax", like=like)
    assert not plan.unclaimed
    assert plan.evidence == {"template": 1, "structure": 2}


def test_a_rule_is_evidence_and_is_remembered(tmp_path):
    rules = tmp_path / "r.toml"
    rules.write_text('source = "torch"\ntarget = "flax"\n\n[[rule]]\nsource = "mixer"\nlayer = "parameter"\n')
    value = {"mixer.gate_weight": numbers(4, 4)}
    report = bridge_core.convert(value, tmp_path / "f.safetensors", to="flax", rules=str(rules))
    assert not report.unclaimed
    back = bridge_core.convert(tmp_path / "f.safetensors", tmp_path / "t.safetensors", to="torch")
    assert back.evidence == {"metadata": 1}


def test_nothing_unknown_is_stored_as_if_it_were_known(tmp_path):
    value = {"mixer.gate_weight": numbers(4, 4), "cls_token": numbers(4)}
    bridge_core.convert(value, tmp_path / "n.npz", to="neutral")
    with bridge_core.open_state(tmp_path / "n.npz") as state:
        assert {info.evidence for info in state.metadata.layers.values()} == {"unclaimed"}
        assert all(info.kind is None and info.origin == "torch" for info in state.metadata.layers.values())
    with refused(UnclaimedTensorError) as caught:
        bridge_core.convert(tmp_path / "n.npz", tmp_path / "f.npz", to="flax")
    assert list(caught.value.reasons) == ["mixer.gate_weight"]
    bridge_core.convert(tmp_path / "n.npz", tmp_path / "f.npz", to="flax", allow_unclaimed="mixer.*")
    with bridge_core.open_state(tmp_path / "f.npz") as state:
        assert {info.evidence for info in state.metadata.layers.values()} == {"unclaimed"}


@pytest.mark.parametrize("step", ["neutral", None])
def test_what_was_let_through_goes_back_and_within_its_layouts_unasked(step, tmp_path):
    """The file says where the tensor comes from: as it is there, it is right there."""
    value = {"mixer.gate_weight": numbers(4, 4), "fc.weight": numbers(4, 4), "fc.bias": numbers(4)}
    value["fc.kernel_mask"] = numbers(4, 4)
    bridge_core.convert(value, tmp_path / "f.npz", to="flax", allow_unclaimed="**")
    source = tmp_path / "f.npz"
    if step:
        bridge_core.convert(source, tmp_path / "n.npz", to=step)
        source = tmp_path / "n.npz"
    for to in ("flax", "torch"):
        report = bridge_core.convert(source, tmp_path / f"{to}.npz", to=to)
        assert not report.unclaimed
        with bridge_core.open_state(tmp_path / f"{to}.npz") as made:
            for name in ("mixer.gate_weight", "fc.kernel_mask"):
                np.testing.assert_array_equal(made[name], value[name].numpy())


def test_records_of_the_first_version_do_not_vouch(tmp_path):
    info = LayerInfo("parameter", "structure", ("gate_weight",))
    linear = LayerInfo("linear", "structure", ("kernel",), transforms={"torch": "torch.linear"})
    metadata = bridge_core.StateMetadata(layers={("mixer",): info, ("fc",): linear})
    tensors = {("mixer", "gate_weight"): numbers(4, 4).numpy(), ("fc", "kernel"): numbers(4, 5).numpy()}
    state = bridge_core.FlatState(tensors, layout="neutral", metadata=metadata)
    with refused(UnclaimedTensorError) as caught:
        bridge_flax.from_neutral(state)
    assert list(caught.value.reasons) == ["mixer.gate_weight"]
    assert set(bridge_torch.from_neutral(state)) == {"mixer.gate_weight", "fc.weight"}


def test_the_refusal_lists_one_line_for_a_pattern_and_ends_with_commands(tmp_path):
    from safetensors.torch import save_file

    value = {f"h.{i}.mixer.gate_weight": numbers(4, 4) for i in range(12)}
    value |= {f"h.{i}.q.weight": numbers(4, 4) for i in range(12)}
    save_file(value, tmp_path / "t.safetensors")
    done = run("convert", tmp_path / "t.safetensors", tmp_path / "f.msgpack", "--to", "flax")
    assert_refused(done, AmbiguousLayerError)
    lines = done.err.splitlines()
    assert sum("gate_weight" in line for line in lines) == 1
    assert sum("h.{0..11}.q.weight" in line for line in lines) == 1
    ways = ["--like FILE", "--accept-guesses --allow-unclaimed 'h.**'"]
    assert [line.partition("--to flax ")[2] for line in lines[-2:]] == ways
    assert all(line.startswith("  ckptbridge convert ") for line in lines[-2:])
    done = run(
        *("convert", tmp_path / "t.safetensors", tmp_path / "f.msgpack", "--to", "flax"),
        *("--accept-guesses", "--allow-unclaimed", "h.**", "--json"),
    )
    assert done.code == 0
    assert len(json.loads(done.out)["unclaimed"]) == 24


def test_what_was_given_is_not_proposed_again(tmp_path):
    """A template with as many inputs as outputs leaves open whether a convolution is a transposed one."""
    from safetensors.torch import save_file

    save_file({"up.weight": numbers(4, 4, 3, 3), "up.bias": numbers(4)}, tmp_path / "t.safetensors")
    tree = {"up": {"kernel": np.zeros((3, 3, 4, 4), "float32"), "bias": np.zeros(4, "float32")}}
    bridge_core.save_state(tree, tmp_path / "like.msgpack", layout="flax")
    arguments = ("plan", tmp_path / "t.safetensors", "--to", "flax", "--like", tmp_path / "like.msgpack")
    done = run(*arguments)
    assert_refused(done, AmbiguousLayerError, "up.weight", "up.bias")
    proposed = [line for line in done.err.splitlines() if line.startswith("  ckptbridge ")]
    assert proposed == [f"  ckptbridge {' '.join(map(str, arguments))} --accept-guesses"]


def test_a_name_cannot_add_a_line_to_the_refusal(tmp_path):
    value = {"a\n  forged.gate_weight": numbers(4, 4)}
    with refused(UnclaimedTensorError) as caught:
        bridge_core.convert(value, tmp_path / "f.npz", to="flax")
    assert "\n  forged" not in str(caught.value)


def test_verify_takes_the_same_permission(tmp_path):
    from safetensors.torch import save_file

    value = {"mixer.gate_weight": numbers(4, 4), "fc.weight": numbers(5, 4), "fc.bias": numbers(5)}
    save_file(value, tmp_path / "t.safetensors")
    source, target = tmp_path / "t.safetensors", tmp_path / "f.safetensors"
    bridge_core.convert(source, target, to="flax", allow_unclaimed="**")
    assert bridge_core.verify(source, target, allow_unclaimed="**").equal


@pytest.mark.parametrize("where", ["h.0.attn.c_attn", "h.1.attn.c_attn", "head"])
def test_a_square_weight_is_not_proven_where_a_sibling_denies_the_axes(where, tmp_path):
    value = {
        f"{where}.weight": numbers(8, 24),
        f"{where}.bias": numbers(24),
        "h.0.attn.c_proj.weight": numbers(8, 8),
        "h.0.attn.c_proj.bias": numbers(8),
    }
    plan = bridge_core.plan_conversion(value, to="flax", check=False)
    assert ("h", "0", "attn", "c_proj", "weight") in plan.ambiguous


def test_a_nearer_sibling_that_proves_the_axes_counts_more():
    value = {
        "decoder.c_attn.weight": numbers(8, 24),
        "decoder.c_attn.bias": numbers(24),
        "encoder.attn.q.weight": numbers(8, 8),
        "encoder.attn.q.bias": numbers(8),
        "encoder.mlp.weight": numbers(24, 8),
        "encoder.mlp.bias": numbers(24),
    }
    plan = bridge_core.plan_conversion(value, to="flax", check=False)
    assert {key[0] for key in plan.ambiguous} == {"decoder"}


def test_flax_kernels_that_deny_their_axes_take_the_proof_from_those_without_a_bias():
    tree = {
        "a": {"kernel": np.zeros((24, 8), "float32"), "bias": np.zeros(24, "float32")},
        "b": {"kernel": np.zeros((8, 6), "float32")},
    }
    plan = bridge_core.plan_conversion(tree, to="torch", layout="flax", check=False)
    assert ("b", "kernel") in plan.ambiguous
    assert ("a", "kernel") in plan.unclaimed


@pytest.mark.parametrize("shape", [(3, 4, 4), (4, 4, 4), (2, 4, 6)])
@pytest.mark.parametrize("bias", [True, False])
def test_stacked_layers_are_not_read_as_one(shape, bias, tmp_path):
    tree = {"params": {"blocks": {"mlp": {"kernel": np.zeros(shape, "float32")}}}}
    if bias:
        tree["params"]["blocks"]["mlp"]["bias"] = np.zeros((shape[0], shape[2]), "float32")
    name = "params.blocks.mlp.kernel"
    with pytest.raises((AmbiguousLayerError, UnclaimedTensorError)) as caught:
        bridge_core.convert(tree, tmp_path / "t.safetensors", to="torch")
    assert name in caught.value.keys
    if isinstance(caught.value, UnclaimedTensorError):
        assert re.search(rf"\b{shape[0]}\b", caught.value.reasons[name])


def test_a_tensor_that_is_added_next_to_a_recorded_layer_is_not_vouched_for():
    class Net(torch.nn.Linear):
        def __init__(self):
            super().__init__(4, 5)
            self.steps = torch.nn.Parameter(torch.zeros(3))

    state = bridge_torch.to_neutral(model(fc=Net()))
    tensors = {**state.tensors(), ("fc", "gate_weight"): numbers(4, 4).numpy()}
    with refused(UnclaimedTensorError) as caught:
        bridge_flax.from_neutral(state.replace(tensors=tensors))
    assert list(caught.value.reasons) == ["fc.gate_weight"]
    assert set(bridge_flax.from_neutral(state)["fc"]) == {"kernel", "bias", "steps"}
