"""How a checkpoint is to be written: read and checked once, before anything is opened."""

import pytest
from support.errors import refused

from bridge_core import UsageError, convert, default_registry
from bridge_core.checkpoint import WriteOptions, is_weights_name, weight_files


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_shard_size": "5 gigs"},
        {"max_shard_size": 0},
        {"max_ram": 10},
        {"max_ram": "x"},
        {"workers": 0},
        {"base_name": ""},
        {"base_name": "a/b"},
    ],
    ids=str,
)
def test_what_means_nothing_is_refused_at_once(tmp_path, wrong):
    with pytest.raises(UsageError):
        WriteOptions(**wrong)
    if "base_name" not in wrong:
        with pytest.raises(UsageError):
            convert(tmp_path / "not there", tmp_path / "a.npz", to="flax", **wrong)


def test_sizes_are_read_once():
    options = WriteOptions(max_shard_size="5GB", max_ram="64MiB", workers=2)
    assert options.shard_nbytes == 5 * 10**9
    assert (options.budget.threads, options.budget.max_ram) == (2, 64 << 20)
    assert WriteOptions().shard_nbytes is None


def test_a_folder_is_filled_for_shards_by_its_name_or_since_it_is_one(tmp_path):
    path = tmp_path / "a"
    assert not WriteOptions().fills_folder(path)
    assert WriteOptions(max_shard_size="5GB").fills_folder(path)
    assert WriteOptions().fills_folder(f"{path}/")
    path.mkdir()
    assert WriteOptions().fills_folder(path)
    with refused(UsageError, "empty"):
        WriteOptions().fills_folder("")


def test_patterns_of_usual_names_are_made_for_the_first_name(monkeypatch):
    made = []
    names = weight_files._names
    monkeypatch.setattr(weight_files, "_names", lambda formats: made.append(1) or names(formats))
    is_weights = is_weights_name(default_registry().formats.values())
    assert not made
    assert is_weights("model.safetensors")
    assert not is_weights("config.json")
    assert made == [1]
