"""What checkpoints and folders of torch's trainers hold besides weights: listed, with sizes."""

import argparse

import pytest
from safetensors.torch import save_file

import bridge_core

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def trained():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    return model, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 1)


def converted(source, tmp_path):
    report = bridge_core.convert(source, tmp_path / "out.safetensors", to="torch", overwrite=True)
    with bridge_core.open_state(tmp_path / "out.safetensors") as state:
        names = {".".join(key) for key in state}
    return names, {row["name"]: (row["reason"], row["bytes"]) for row in report.to_json()["left_out"]}


MOMENTS = 2 * 4 * (12 + 4 + 4 + 4) + 4 * 4


def test_a_checkpoint_of_lightning(trained, tmp_path):
    model, optimizer, scheduler = trained
    checkpoint = {
        "state_dict": model.state_dict(),
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [scheduler.state_dict()],
        "epoch": 3,
        "callbacks": {"best": torch.ones(2)},
        "hyper_parameters": {"lr": 1e-3},
    }
    torch.save(checkpoint, tmp_path / "x.ckpt")
    names, rows = converted(tmp_path / "x.ckpt", tmp_path)
    assert names == set(model.state_dict())
    assert rows == {
        "optimizer_states": ("optimizer state", MOMENTS),
        "lr_schedulers": ("state of the training", 0),
        "epoch": ("no tensors", 0),
        "callbacks": ("state of the training", 8),
        "hyper_parameters": ("no tensors", 0),
    }


def test_a_checkpoint_with_another_set_of_weights(trained, tmp_path):
    model, optimizer, scheduler = trained
    checkpoint = {
        "model": model.state_dict(),
        "model_ema": {name: value + 1 for name, value in model.state_dict().items()},
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": scheduler.state_dict(),
        "args": argparse.Namespace(lr=1),
        "rng": torch.zeros(8, dtype=torch.uint8),
        "losses": [torch.ones(3), torch.ones(3)],
    }
    torch.save(checkpoint, tmp_path / "x.pth")
    names, rows = converted(tmp_path / "x.pth", tmp_path)
    assert names == set(model.state_dict())
    assert rows["optimizer"] == ("optimizer state", MOMENTS)
    assert rows["model_ema"] == ("other tensors", 4 * (12 + 5 * 4) + 8)
    assert rows["rng"] == ("a tensor", 8)
    assert rows["losses"] == ("tensors in a list", 24)
    assert rows["args"] == ("no tensors", 0)


def test_a_size_is_never_larger_than_the_file(tmp_path):
    value = torch.ones(2).expand(1_000_000, 2)
    torch.save({"model": {"w": torch.ones(2)}, "optimizer": {"m": value}}, tmp_path / "x.pt")
    _, rows = converted(tmp_path / "x.pt", tmp_path)
    assert rows["optimizer"] == ("optimizer state", 8)


@pytest.mark.parametrize("suffix", ["pt", "bin"])
def test_files_of_a_trainer_next_to_the_weights(trained, tmp_path, suffix):
    model, optimizer, scheduler = trained
    folder = tmp_path / "checkpoint-500"
    folder.mkdir()
    save_file(model.state_dict(), folder / "model.safetensors")
    torch.save(optimizer.state_dict(), folder / f"optimizer.{suffix}")
    torch.save(scheduler.state_dict(), folder / f"scheduler.{suffix}")
    torch.save({"cpu": torch.get_rng_state()}, folder / "rng_state.pth")
    (folder / "trainer_state.json").write_text("{}")
    names, rows = converted(folder, tmp_path)
    assert names == set(model.state_dict())
    assert set(rows) == {f"optimizer.{suffix}", f"scheduler.{suffix}", "rng_state.pth", "trainer_state.json"}
    reason, size = rows[f"optimizer.{suffix}"]
    assert reason.startswith("optimizer state")
    assert size == (folder / f"optimizer.{suffix}").stat().st_size
