"""Loading into meshes and saving from them, with real processes and several devices on a host."""

import numpy as np
import pytest
from support.mesh_processes import run_mesh
from support.mesh_work import make_checkpoint

ALL = 4 * 3 * 256 * 256 * 4 + 4 * 1024 * 4 + 4 * 1024 * 256 * (2 + 1) + 2048 * 256 * (2 + 2 * 4)
"""Bytes of the checkpoint's tensors."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    result = tmp_path_factory.mktemp("mesh")
    make_checkpoint(result)
    return result


def share(results):
    """Check that each process read what it owns, and return what they own together."""
    for result in results:
        print("read / own:", result["read"] / result["own"])
        assert result["shardings_equal"]
        assert result["own"] <= result["read"] + 0.05 * result["own"]
        assert result["read"] <= 1.1 * result["own"], result
    return sum(result["own"] for result in results)


@pytest.mark.slow
def test_a_host_reads_each_byte_once_for_eight_devices(folder):
    assert share(run_mesh("loads", folder, processes=1, devices=8)) == ALL


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "devices", "kind"),
    [(1, 1, "auto"), (2, 4, "auto"), (4, 2, "auto"), (4, 2, "explicit"), (2, 4, "mixed")],
)
def test_each_process_reads_only_the_bytes_that_it_owns(folder, processes, devices, kind):
    replicated = 4 * 256 * 256 * 4
    total = share(run_mesh("loads", folder, processes=processes, devices=devices, kind=kind))
    assert total >= ALL + (processes - 1) * replicated


@pytest.mark.slow
def test_processes_save_the_files_of_one_checkpoint(folder):
    first, second = run_mesh("saves", folder, processes=2, devices=2)
    assert first["files"] == second["files"]
    assert first["files"][-1] == "model.safetensors.index.json"
    assert len(first["files"]) > 2
    assert first["total"] == second["total"]
    for result in (first, second):
        assert result["refused"][0] == "DestinationExists"
        assert "other hosts" in result["unread"][1]


@pytest.mark.slow
def test_if_one_process_fails_all_raise_and_nothing_is_left(folder):
    *others, failed = run_mesh("one_fails", folder, processes=2, devices=2)
    assert failed["planning"][0] == "SourceNotFound"
    assert "the disk is broken" in failed["reading"][1]
    assert "the disk is broken" in failed["writing"][1]
    for other in others:
        for step, reason in (
            ("planning", "does not exist"),
            ("reading", "the disk is broken"),
            ("writing", "the disk is broken"),
        ):
            kind, text = other[step]
            assert kind == "ConversionError"
            assert "process 1 failed" in text
            assert reason in text
    for result in (*others, failed):
        assert "do not do the same" in result["unequal"][1]
        assert "do not do the same" in result["different"][1]
        assert result["left"] == []
        assert np.isfinite(result["again"])
