"""Credentials in URLs: nothing that is printed, logged, raised or written shows them."""

from __future__ import annotations

import json
import traceback
from pathlib import Path

import pytest
from support.memory_filesystem import MemoryFileSystem
from support.remote_systems import SYSTEMS, WEIGHTS, Ran, write_sources

import bridge_core
from bridge_core import convert, default_registry, open_state, save_state, verify
from bridge_core.errors import BridgeError


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Return a folder with one model in every form."""
    return write_sources(tmp_path_factory.mktemp("sources"))


class Guarded(MemoryFileSystem):
    """A file system whose URLs hold a password, and of one file a signature."""

    def __init__(self, folder):
        super().__init__(folder=folder, lists=False)
        self.without_password = []

    def _plain(self, url):
        return "mem://" + url.partition("?")[0].partition("@")[2]

    def entry(self, url):
        self._look_at("entry", url)
        key = self._plain(url).removeprefix("mem://")
        return self._entry(key) if key in self.files else None

    def read(self, url, start, nbytes, entry):
        self._look_at("read", url)
        return super().read(self._plain(url), start, nbytes, entry)

    def _look_at(self, method, url):
        if "PASSWORD@" not in url:
            self.without_password.append((method, url))


@pytest.fixture
def guarded(sources):
    system = Guarded(sources)
    return system, default_registry().extend(system)


SECRETS = ("PASSWORD", "SIGNATURE", "someone")


def secret(name):
    return f"mem://someone:PASSWORD@host/{name}?X-Signature=SIGNATURE"


def assert_no_secret(*texts):
    for text in texts:
        for word in SECRETS:
            assert word not in text, text[max(0, text.find(word) - 80) :][:200]


def commands():
    source, sharded = secret("a.pt"), secret("sharded/model.safetensors.index.json")
    flax, gone = secret("a.msgpack"), secret("gone.npz")
    to = ("--to", "flax")
    return [
        ("inspect", source),
        ("inspect", sharded),
        ("inspect", gone),
        ("plan", source, *to),
        ("plan", source, *to, "--html", "plan.html"),
        ("plan", flax, "--to", "torch", "--like", source),
        ("plan", source, *to, f"--like={secret('folder/model.safetensors')}"),
        ("plan", secret("folder/config.json"), *to),
        ("plan", secret("unclear.pt"), *to),
        ("convert", source, "out.msgpack", *to),
        ("convert", sharded, "out/", *to, "--max-shard-size", "300"),
        ("convert", gone, "out2.npz", *to),
        ("convert", source, "mem://someone:PASSWORD@host/out.npz?SIGNATURE", *to),
        ("convert", source, "out3.npz", *to, "--entry", "none"),
        ("convert", source, "out4.npz", *to, "--only", "nothing.*"),
        ("verify", source, flax),
        ("verify", flax, flax),
        ("diff", source, flax),
        ("diff", source, gone),
        ("explain", source, "layers.0.fc.weight", *to),
        ("explain", source, "nothing", *to),
        ("match", source, "--like", flax),
        ("match", source, "--like", gone),
        ("rules", "check", "rules.toml", "--source", source, "--like", flax),
    ]


@pytest.mark.parametrize("words", commands())
@pytest.mark.parametrize("options", [("-vv",), ("--json",)], ids=" ".join)
def test_no_command_shows_a_secret(guarded, words, options, tmp_path, monkeypatch):
    system, registry = guarded
    monkeypatch.chdir(tmp_path)
    Path("rules.toml").write_text('[[rule]]\nsource = "lay.*"\ntarget = "x.*"\n')
    ran = Ran(registry, monkeypatch, *words, *options)
    assert ran.out or ran.err
    written = [path.read_bytes().decode("latin-1") for path in tmp_path.rglob("*") if path.is_file()]
    names = [str(path) for path in tmp_path.rglob("*")]
    assert_no_secret(ran.out, ran.err, *written, *names)
    assert not system.without_password


def test_a_refusal_repeats_the_command_without_a_secret(guarded, monkeypatch):
    ran = Ran(guarded[1], monkeypatch, "plan", secret("unclear.pt"), "--to", "flax")
    assert "plan mem://host/unclear.pt" in ran.err.partition("Most likely to go on")[2]


def test_no_error_shows_a_secret(guarded, tmp_path, monkeypatch):
    system, registry = guarded
    monkeypatch.setattr("bridge_core.io.retries.sleep", lambda *_: None)
    uses = [
        lambda: open_state(secret("gone.npz"), registry=registry),
        lambda: open_state(secret("sharded"), registry=registry),
        lambda: open_state(secret("folder/config.json"), registry=registry),
        lambda: open_state(secret("a.pt"), step=3, registry=registry),
        lambda: open_state(secret("a.pt").replace("mem:", "ftp:"), registry=registry),
        lambda: open_state(secret("a.pt").replace("mem:", "file:"), registry=registry),
        lambda: save_state(WEIGHTS, secret("out.npz").replace("mem:", "https:"), registry=registry),
        lambda: convert(secret("a.pt"), tmp_path / "o", to="flax", rules=secret("r.toml"), registry=registry),
        lambda: convert(
            secret("a.npz"), tmp_path / "o.npz", to="flax", like=secret("a.pt"), registry=registry
        ),
        lambda: convert(secret("a.pt"), tmp_path / "o.npz", to="flax", model="No", registry=registry),
        lambda: verify(secret("a.pt"), secret("gone"), registry=registry),
        lambda: bridge_core.from_neutral({}, framework="torch", like=secret("a.pt"), registry=registry),
    ]
    for use in uses:
        with pytest.raises(BridgeError) as caught:
            use()
        shown = "".join(traceback.format_exception(caught.value))
        lines = [line for line in shown.splitlines() if "secret(" not in line]
        assert_no_secret(*lines, repr(caught.value), json.dumps(caught.value.to_json()))
    system.fail(RuntimeError(secret("a.pt")), methods=["read"])
    with pytest.raises(BridgeError) as caught:
        open_state(secret("a.pt"), registry=registry)
    assert_no_secret("".join(traceback.format_exception(caught.value)))
    assert not list(tmp_path.iterdir())


def test_the_metadata_of_a_state_and_of_a_written_file_has_no_secret(guarded, tmp_path):
    _, registry = guarded
    with open_state(secret("sharded/model.safetensors.index.json"), registry=registry) as state:
        assert_no_secret(repr(state), repr(state.metadata), repr(state.location), str(state.location))
        assert state.metadata.provenance["path"] == "mem://host/sharded/model.safetensors.index.json"
        assert state.check_unchanged() is None
    report = convert(secret("a.pt"), tmp_path / "o.npz", to="neutral", registry=registry)
    assert_no_secret(json.dumps(report.to_json()), (tmp_path / "o.npz").read_bytes().decode("latin-1"))


def test_the_credentials_of_a_web_server_are_sent_and_not_shown(sources, tmp_path, monkeypatch):
    with SYSTEMS["web"](sources) as served:
        url = served.url("a.pt").replace("://", "://someone:PASSWORD@") + "?sig=SIGNATURE"
        for words in (
            ("convert", url, tmp_path / "o.msgpack", "--to", "flax", "-vv"),
            ("inspect", url, "--json"),
        ):
            ran = Ran(served.registry, monkeypatch, *words)
            assert ran.code == 0, ran.err
            assert_no_secret(ran.out, ran.err)
        with pytest.raises(BridgeError) as caught:
            open_state(url.replace("a.pt", "gone.pt"), registry=served.registry)
        shown = "".join(traceback.format_exception(caught.value))
        assert_no_secret(*(line for line in shown.splitlines() if "replace(" not in line))
