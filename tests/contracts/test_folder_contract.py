"""The example of a folder format passes the contract, and formats that break it are noticed."""

import inspect
import json

import numpy as np
import pytest
from support.folder_format import RAW_FOLDERS, StepFolders

from bridge_core.errors import MalformedFile, UsageError
from bridge_core.formats import FolderContents
from bridge_core.testing import FolderFormatContract


class TestTheExampleOfTheHook(FolderFormatContract):
    format = RAW_FOLDERS()
    has_steps = has_items = False


@pytest.mark.parametrize(
    "test",
    [
        "test_sniffing_knows_its_own_folders_and_no_others",
        "test_a_folder_by_itself_is_one_item",
        "test_steps_are_listed_and_the_latest_is_read",
        "test_items_are_listed_and_read_by_name",
    ],
)
def test_a_format_with_steps_and_items_passes(test, tmp_path):
    class Contract(FolderFormatContract):
        format = StepFolders()

    given = {"path": tmp_path / "folder", "tmp_path": tmp_path}
    method = getattr(FolderFormatContract, test)
    wanted = inspect.signature(method).parameters
    method(Contract(), **{name: value for name, value in given.items() if name in wanted})


def test_the_contract_notices_a_latest_step_by_text(tmp_path):
    class Textual(StepFolders):
        def contents(self, folder, step=None):
            known = super().contents(folder, step)
            latest = int(max(map(str, known.steps))) if known.steps and step is None else known.step
            return FolderContents(known.steps, latest, known.items, known.item)

    class Contract(FolderFormatContract):
        format = Textual()

    with pytest.raises(AssertionError):
        Contract().test_steps_are_listed_and_the_latest_is_read(tmp_path / "root")


def test_the_contract_notices_a_missing_file_that_reads_as_zeros(tmp_path):
    class Zeros(RAW_FOLDERS):
        def open_folder(self, folder, *, step=None, item=None):
            for number in range(len(json.loads(folder.read("tensors.json", 1000))["tensors"])):
                if not folder.place(f"{number}.bin").exists():
                    folder.place(f"{number}.bin").write_bytes(bytes(240))
            return super().open_folder(folder, step=step, item=item)

    class Contract(FolderFormatContract):
        format = Zeros()

        def sample(self):
            return self.state_of({("m", "grid"): np.arange(60, dtype=np.float32)})

    with pytest.raises(AssertionError):
        Contract().test_a_file_that_is_missing_or_cut_off_is_found_or_harmless(tmp_path / "folder")


def test_the_contract_notices_an_error_of_another_class(tmp_path):
    class Raw(RAW_FOLDERS):
        def open_folder(self, folder, *, step=None, item=None):
            json.loads(folder.read("tensors.json", 1000))
            return super().open_folder(folder, step=step, item=item)

    class Contract(FolderFormatContract):
        format = Raw()

    with pytest.raises(ValueError, match="Expecting") as caught:
        Contract().test_a_file_that_is_missing_or_cut_off_is_found_or_harmless(tmp_path / "folder")
    assert not isinstance(caught.value, MalformedFile | UsageError)
