import json

import pytest
from support.errors import refused
from support.work_parts import list_of

from bridge_core import MalformedFile, UsageError
from bridge_core.work import read_work_list


def test_a_list_is_read_back_as_it_was(tmp_path):
    work = list_of(tmp_path)
    again = read_work_list(work.to_text())
    assert again == work
    assert again.id == work.id


def test_lists_of_one_conversion_have_one_id_and_others_have_another(tmp_path):
    work = list_of(tmp_path)
    assert list_of(tmp_path, parts=2).id == work.id
    assert list_of(tmp_path, dtype="bfloat16").id != work.id
    assert list_of(tmp_path, max_shard_size=9000).id != work.id


def changed(work, *path, value):
    document = work.to_json()
    *outer, last = path
    place = document
    for name in outer:
        place = place[name]
    place[last] = value
    return json.dumps(document)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("destination",), "/elsewhere"),
        (("options", "to"), "torch"),
        (("options", "model"), "os:system"),
        (("source", "path"), "/other"),
        (("source", "files", 0, "size"), 1),
        (("plan",), "0" * 64),
        (("files", 0, "name"), "model.safetensors"),
        (("versions", "ckptbridge"), "9.9"),
        (("plugins", "added"), ["evil"]),
    ],
)
def test_a_list_that_was_edited_is_refused(tmp_path, path, value):
    text = changed(list_of(tmp_path), *path, value=value)
    with refused(MalformedFile, "work list", "edited", hint="work make"):
        read_work_list(text)


@pytest.mark.parametrize("parts", [[[1, 2]], [[1, 2, 3], [3, 4, 5, 6]], [[1, 2, 3, 4, 5, 6], []], [[0]]])
def test_parts_must_have_every_file_once(tmp_path, parts):
    with refused(MalformedFile, "every file once"):
        read_work_list(changed(list_of(tmp_path), "parts", value=parts))


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("version",), 2, "version 1"),
        (("version",), None, "version"),
        (("kind",), "other", "ckptbridge work list"),
        (("files",), 3, "files"),
        (("id",), "xyz", "id"),
        (("parts",), [1], "parts"),
        (("options",), [], "options"),
        (("files", 0, "name"), "../../x", "plain names"),
    ],
)
def test_a_field_of_another_type_is_named(tmp_path, path, value, named):
    with refused(MalformedFile, named):
        read_work_list(changed(list_of(tmp_path), *path, value=value))


@pytest.mark.parametrize("part", [0, 4, -1, True, "1"])
def test_a_part_that_is_not_there_is_refused(tmp_path, part):
    with refused(UsageError, "3 parts", hint="--part"):
        list_of(tmp_path).part(part)
