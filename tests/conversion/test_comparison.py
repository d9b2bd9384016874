"""`verify` takes every model that `convert` takes, passes what it wrote, and finds one value that differs."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from support.errors import refused

from bridge_core import UsageError, convert, open_state, save_state, verify


class TorchNet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(4, 4)
        self.emb = torch.nn.Embedding(4, 4)
        self.bn = torch.nn.BatchNorm1d(4)


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, ids):
        x = nn.Dense(4, name="fc")(nn.Embed(4, 4, name="emb")(ids))
        return nn.BatchNorm(name="bn", use_running_average=True)(x)


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.fc = nnx.Linear(4, 4, rngs=rngs)
        self.emb = nnx.Embed(4, 4, rngs=rngs)
        self.bn = nnx.BatchNorm(4, rngs=rngs)


def torch_net():
    return TorchNet()


def linen_variables():
    return LinenNet().init(jax.random.key(0), jnp.zeros((1, 2), "int32"))


def nnx_net():
    return NnxNet(nnx.Rngs(0))


MODELS = {"torch": torch_net, "linen": linen_variables, "nnx": nnx_net}
WAYS = [
    ("s.pt", "flax", "r.msgpack"),
    ("s.msgpack", "torch", "r.safetensors"),
    ("s.pt", "torch", "r.safetensors"),
]


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Write one model's weights in both layouts."""
    folder = tmp_path_factory.mktemp("sources")
    net = TorchNet()
    with torch.no_grad():
        for number, value in enumerate(net.state_dict().values()):
            size = value.numel()
            value.copy_(torch.arange(size).reshape(value.shape) + 10 * number + 1)
    torch.save(net.state_dict(), folder / "s.pt")
    convert(folder / "s.pt", folder / "s.msgpack", to="flax", model=net)
    return folder


def with_one_value_changed(path, target):
    with open_state(path) as state:
        changed = next(key for key in state if len(state.spec(key).shape) == 2)
        value = np.array(state[changed])
        value[1, 2] += 1
        rest = state.select(lambda key: key != changed)
        save_state(rest.union({changed: value}), target)
    return changed


@pytest.mark.parametrize(
    ("name", "live"), [("torch", True), ("torch", False), ("linen", True), ("nnx", False)], ids=str
)
@pytest.mark.parametrize(("source", "to", "target"), WAYS, ids=lambda value: value)
def test_a_model_of_either_framework(sources, tmp_path, source, to, target, name, live):
    model = MODELS[name]() if live else f"{__name__}:{MODELS[name].__name__}"
    source, target = sources / source, tmp_path / target
    if to == "torch" and source.suffix == ".pt" and name != "torch":
        with refused(UsageError, "flax", "torch", hint="model of torch"):
            verify(source, source, model=model)
        return
    convert(source, target, to=to, model=model)
    assert verify(source, target, model=model).equal
    changed = with_one_value_changed(target, tmp_path / f"changed{target.suffix}")
    compared = verify(source, tmp_path / f"changed{target.suffix}", model=model)
    assert [(d.key, d.elements) for d in compared.differing] == [(changed, 1)]
    assert compared.only_left == compared.only_right == ()


def test_a_template_model_shows_what_the_result_lacks(sources, tmp_path):
    convert(sources / "s.pt", tmp_path / "r.msgpack", to="flax", model=nnx_net())
    with open_state(tmp_path / "r.msgpack") as state:
        save_state(state.select(lambda key: key[-1] != "embedding"), tmp_path / "less.msgpack")
    compared = verify(sources / "s.pt", tmp_path / "less.msgpack", model=nnx_net())
    assert [key[-1] for key in compared.only_left] == ["embedding"]


def test_what_stayed_unfilled_is_not_compared(sources, tmp_path):
    options = {"model": nnx_net(), "allow_missing": "extra.*"}
    options["model"].extra = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
    report = convert(sources / "s.pt", tmp_path / "r.msgpack", to="flax", **options)
    assert len(report.unfilled) == 2
    assert verify(sources / "s.pt", tmp_path / "r.msgpack", **options).equal


def test_a_result_without_a_layout_cannot_be_verified(tmp_path):
    np.savez(tmp_path / "r.npz", x=np.ones(3))
    ways = ("ckptbridge diff", f'open_state("{tmp_path / "r.npz"}", layout=')
    with refused(UsageError, tmp_path / "r.npz", "layout of the result", "(x)", hint=ways):
        verify({"fc.weight": np.ones((2, 3)), "fc.bias": np.ones(2)}, tmp_path / "r.npz")
