"""The zip reader that npz and torch files share: where the archive's two descriptions disagree."""

from __future__ import annotations

import io
import struct
import zipfile

from support.errors import refused

from bridge_core import SourceFile
from bridge_core.errors import LimitExceeded, MalformedFile, TruncatedFile, UnsupportedFeature
from bridge_core.formats import NewMember, read_directory, read_member, read_members, zip_image

STREAMED = 0x8


def written(path, *members, **options):
    """An archive of these ``(name, content)``, as `zip_image` lays it out."""
    image = zip_image([NewMember(name, content) for name, content in members], **options)
    data = bytearray(image.size)
    for offset, part in (*image.segments, *image.finish({})):
        data[offset : offset + len(part)] = part
    path.write_bytes(data)
    return data


def read(path, content, **options):
    path.write_bytes(content)
    with SourceFile(path) as file:
        return read_members(file, **options)


def streamed(local_crc):
    """An archive whose member has its checksum behind its bytes, and this one before them."""
    data = bytearray()

    class Pipe:
        def write(self, part):
            data.extend(part)
            return len(part)

        def flush(self):
            pass

    with zipfile.ZipFile(Pipe(), "w") as archive:
        archive.writestr("a", b"content")
    assert struct.unpack_from("<H", data, 6) == (STREAMED,)
    struct.pack_into("<I", data, 14, local_crc)
    return data


def test_what_is_laid_out_is_read_here_and_by_zipfile(tmp_path):
    contents = {"r/a": b"one", "r/é": b"", "b": bytes(300)}
    written(tmp_path / "x", *contents.items(), padding_id=0x4246, padding=b"Z")
    with SourceFile(tmp_path / "x") as file:
        members = read_members(file)
        assert {m.name: read_member(file, m) for m in members} == contents
        assert read_member(file, members[2], 5) == bytes(5)
        assert all(m.offset % 64 == 0 for m in members)
        assert b"r/a" in read_directory(file)[0]
    with zipfile.ZipFile(tmp_path / "x") as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == contents


def test_a_streamed_member_may_lack_its_checksum_and_have_no_other(tmp_path):
    crc = zipfile.ZipFile(io.BytesIO(streamed(0))).getinfo("a").CRC
    for own in (0, crc):
        assert [m.crc for m in read(tmp_path / "x", streamed(own))] == [crc]
    with refused(MalformedFile, "CRC-32", key="a"):
        read(tmp_path / "x", streamed(crc ^ 1))


def test_names_without_a_mark_are_in_the_encoding_that_is_given(tmp_path):
    data = written(tmp_path / "x", ("é", b"content"))
    for at in (6, data.index(b"PK\1\2") + 8):
        assert struct.unpack_from("<H", data, at) == (0x800,)
        struct.pack_into("<H", data, at, 0)
    assert [m.name for m in read(tmp_path / "x", data, encoding="utf-8")] == ["é"]
    assert [m.name for m in read(tmp_path / "x", data)] == ["é".encode().decode("cp437")]
    with refused(MalformedFile, "UTF-8", b"\xff\xfe"):
        read(tmp_path / "x", data.replace("é".encode(), b"\xff\xfe"), encoding="utf-8")


def test_bytes_behind_the_end_give_the_error_that_is_asked_for(tmp_path):
    data = written(tmp_path / "x", ("a", b"content")) + b"x"
    for kind in (MalformedFile, TruncatedFile):
        with refused(kind, f"byte {len(data) - 1}", "1 byte"):
            read(tmp_path / "x", data, longer=kind)


def test_a_method_that_is_not_read_is_refused_at_once(tmp_path):
    with zipfile.ZipFile(tmp_path / "x", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a", b"content")
    with refused(UnsupportedFeature, 14, key="a"):
        read(tmp_path / "x", (tmp_path / "x").read_bytes())


def test_a_count_that_differs_from_the_one_of_zip64_is_malformed(tmp_path, monkeypatch):
    monkeypatch.setattr("bridge_core.formats.zip_layout.FULL16", 2)  # so that two members need zip64
    data = written(tmp_path / "x", ("a", b""), ("b", b""))
    assert b"PK\6\6" in data
    assert len(read(tmp_path / "x", data)) == 2
    struct.pack_into("<HH", data, len(data) - 14, 5, 5)
    with refused(MalformedFile, "zip64"):
        read(tmp_path / "x", data)


def test_too_many_members_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("bridge_core.formats.zip_archive._MAX_MEMBERS", 2)
    read(tmp_path / "x", written(tmp_path / "x", ("a", b""), ("b", b"")))
    with refused(LimitExceeded, "3 entries"):
        read(tmp_path / "x", written(tmp_path / "x", ("a", b""), ("b", b""), ("c", b"")))
