"""The examples of folder formats pass the contract; broken ones are in test_broken_formats.py."""

from __future__ import annotations

import inspect

import pytest
from support.folder_format import RAW_FOLDERS, StepFolders

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
