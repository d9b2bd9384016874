"""Pages that are made from the code are what their scripts make of it, and cover all of it."""

import numpy as np
import pytest

import bridge_core.errors
from bridge_core import ArrayTensor, FlatState, StateMetadata
from bridge_core.errors import BridgeError, BridgeWarning
from pages import command_line, error_entries, errors, formats, installed
from pages.all_pages import DOCS, PAGES


@pytest.mark.parametrize("name", PAGES)
def test_page_is_up_to_date(name):
    if name != "recipes.md" and installed.missing():
        pytest.skip(f"not installed here: {', '.join(installed.missing())}")
    assert (DOCS / name).read_text(encoding="utf-8") == PAGES[name](), "run: .site/build --write"


def test_every_error_and_warning_has_an_entry():
    public = [getattr(bridge_core.errors, name) for name in bridge_core.errors.__all__]
    kinds = [kind for kind in public if issubclass(kind, (BridgeError, BridgeWarning))]
    entries = (*error_entries.ENTRIES, *error_entries.WARNINGS)
    assert {kind.__name__ for kind in kinds} - {"BridgeWarning"} == {entry.name for entry in entries}
    bare = [entry.name for entry in entries if not entry.example]
    assert bare == ["BridgeError", "ConversionError", "LossyCastError", "BadInputError", "OutOfMemory"]


def test_an_example_that_ends_otherwise_is_noticed():
    entry = error_entries.Entry(
        "SourceNotFound", "Never.", "None.", "bridge_core.open_state('model.safetensors')"
    )
    with pytest.raises(AssertionError, match="SourceNotFound"):
        errors._section(entry, "heading")


def test_every_format_has_its_facts():
    provided = installed.provided("formats", "folder_formats")
    assert provided.keys() <= formats.FACTS.keys()
    assert provided.keys() == formats.FACTS.keys() or installed.missing()


@pytest.mark.parametrize("name", formats.FACTS)
def test_tied_tensors_are_stored_as_the_page_says(name, tmp_path):
    one = installed.provided("formats", "folder_formats").get(name)
    if one is None:
        pytest.skip("not installed here")
    values = ArrayTensor(np.random.default_rng(0).random(1 << 14, "float32"))
    metadata = StateMetadata(ties={("b",): ("a",)})
    state = FlatState({("a",): values, ("b",): values}, layout="neutral", metadata=metadata)
    path = tmp_path / f"tied{one.extensions[0]}"
    bridge_core.save_state(state, path, format=name)
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    stored = sum(file.stat().st_size for file in files) / values.spec.nbytes
    assert ("twice" if stored > 1.5 else "once") == formats.ROWS["ties"](name, one).split(",")[0]
    with bridge_core.open_state(path) as read:
        assert read.metadata.ties == metadata.ties


def test_every_command_and_option_is_on_the_page():
    text = (DOCS / "command-line.md").read_text(encoding="utf-8")
    for words, command in command_line.commands():
        section = text.partition(f"\n## {words}\n")[2].partition("\n## ")[0]
        shared = command_line.shared_options()
        options = [
            name for one in command.params if one.name not in shared for name in one.opts if name[0] == "-"
        ]
        assert section
        assert [name for name in options if f"`{name}" not in section] == []
