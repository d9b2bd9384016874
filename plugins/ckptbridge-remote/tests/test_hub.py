from __future__ import annotations

import random
import re
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.errors import refused
from support.hub_server import (
    HubServer,
    complete,
    other_version,
    sha256,
    shifted,
    short,
    truncated,
    unmarked,
)

from bridge_core.errors import (
    AccessDenied,
    BridgeError,
    MissingDependency,
    RemoteFailure,
    SourceNotFound,
    UsageError,
)
from bridge_core.io import CommitsFolders, FileSystem, RemoteEntry, RemotePath
from ckptbridge_remote import Hub, bridge_filesystems, hub_client
from ckptbridge_remote.hub_place import HubPlace

pytest.importorskip("huggingface_hub")
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=")  # of httpx, by huggingface_hub 1

BIG = random.Random(0).randbytes(50_000)
FILES = {
    "config.json": b'{"model_type": "bert"}',
    "model.safetensors": BIG,
    "unet/weights.bin": BIG[:2000],
    "unet/odd name#1?%41.bin": b"odd",
}
TOKEN = "hf_ThisTokenIsASecret"


@pytest.fixture
def server(monkeypatch):
    with HubServer() as server:
        server.used_by(monkeypatch)
        server.add("org/model", FILES)
        yield server


@pytest.fixture
def hub(server):
    return Hub()


@pytest.fixture
def opened(hub, server):
    """Return the entry and the URL of a file at its commit; requests are counted from here."""

    def opened(path="model.safetensors", repo="org/model"):
        url = hub.pinned(f"hf://{repo}") + "/" + path
        entry = hub.entry(url)
        server.requests.clear()
        return url, entry

    return opened


# URLs


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("hf://org/model", ("model", "org/model", None, "")),
        ("hf://org/model/", ("model", "org/model", None, "")),
        ("hf://models/org/model/a.bin", ("model", "org/model", None, "a.bin")),
        ("hf://org/model@main/a/b.bin", ("model", "org/model", "main", "a/b.bin")),
        ("hf://org/model@feature%2Fx/a.bin", ("model", "org/model", "feature/x", "a.bin")),
        ("hf://org/model@feature/a.bin", ("model", "org/model", "feature", "a.bin")),
        ("hf://org/model@refs/pr/12/a.bin", ("model", "org/model", "refs/pr/12", "a.bin")),
        ("hf://org/model@refs/pr/12", ("model", "org/model", "refs/pr/12", "")),
        ("hf://org/model@refs%2Fpr%2F12/a.bin", ("model", "org/model", "refs/pr/12", "a.bin")),
        (
            "hf://datasets/org/data@refs/convert/parquet/x",
            ("dataset", "org/data", "refs/convert/parquet", "x"),
        ),
        ("hf://spaces/org/app/model.onnx", ("space", "org/app", None, "model.onnx")),
        ("hf://gpt2@main/model.safetensors", ("model", "gpt2", "main", "model.safetensors")),
        ("hf://org/model/image@2x.bin", ("model", "org/model", None, "image@2x.bin")),
        ("hf://org/model/a%20b%23.bin", ("model", "org/model", None, "a b#.bin")),
    ],
)
def test_urls_are_read_as_huggingface_hub_reads_them(url, place):
    read = HubPlace.parse(url)
    assert (read.kind, read.repo, read.revision, read.path) == place
    assert HubPlace.parse(read.url) == read


@pytest.mark.parametrize(
    "url",
    [
        "hf://",
        "hf://datasets",
        "hf://org/",
        "hf:///model",
        "hf://org/model@",
        "hf://org/model@/a.bin",
        "hf://org/../a.bin",
        "hf://org/model/../../other/a.bin",
        "hf://org/model/%2E%2E/a.bin",
        "hf://org/model/a%2F..%2Fb.bin",
        "hf://org/mo del",
        "hf://org/model/a.bin?download=true",
        "hf://org/model/a.bin#part",
        "hf://buckets/org/name/a.bin",
        "hf://user:pass@org/model",
    ],
)
def test_other_urls_are_refused_before_anything_is_asked(hub, server, url):
    if url == "hf://org/":  # one name: the oldest models have no organization
        assert HubPlace.parse(url).repo == "org"
        return
    with refused(UsageError, hint="hf://org/model") as caught:
        hub.pinned(url)
    assert "pass" not in "".join(traceback.format_exception(caught.value))
    assert not server.requests


def test_a_token_in_a_url_is_refused_and_not_shown(hub, server):
    with refused(UsageError, "HF_TOKEN") as caught:
        hub.pinned(f"hf://{TOKEN}@org/model")
    assert TOKEN not in "".join(traceback.format_exception(caught.value))
    assert not server.requests


# Pinning


@pytest.mark.parametrize("revision", ["", "@main", "@v1.0", "@feature%2Fx", "@refs/pr/1"])
def test_a_revision_becomes_a_commit_with_one_request(hub, server, revision):
    repo = server.repos["org/model"]
    commit = repo.branches["main"]
    repo.tags["v1.0"] = repo.branches["feature/x"] = repo.branches["refs/pr/1"] = commit
    assert hub.pinned(f"hf://org/model{revision}/unet") == f"hf://org/model@{commit}/unet"
    (request,) = server.requests
    assert request.target.endswith("?expand=sha")  # not a list of all files
    assert hub.pinned(f"hf://org/model@{commit}/unet") == f"hf://org/model@{commit}/unet"


def test_what_is_pinned_stays_when_the_branch_moves(hub, server):
    url = hub.pinned("hf://org/model") + "/config.json"
    server.add("org/model", {"config.json": b"something else"})
    entry = hub.entry(url)
    assert bytes(hub.read(url, 0, entry.size, entry).data) == FILES["config.json"]
    assert hub.entry(hub.pinned("hf://org/model/config.json")).size == len(b"something else")


@pytest.mark.parametrize("kind", ["dataset", "space"])
def test_data_sets_and_spaces(hub, server, kind):
    server.add("org/other", {"a.bin": BIG}, kind=kind)
    url = hub.pinned(f"hf://{kind}s/org/other/a.bin")
    assert bytes(hub.read(url, 10, 90, hub.entry(url)).data) == BIG[10:100]
    with refused(SourceNotFound, "org/other"):
        hub.pinned("hf://org/other")


def test_models_without_an_organization(hub, server):
    commit = server.add("gpt2", {"model.safetensors": BIG})
    for url in ("hf://gpt2", "hf://gpt2@main"):
        assert hub.pinned(url) == f"hf://gpt2@{commit}"
    url = hub.pinned("hf://gpt2/model.safetensors")
    assert url == f"hf://gpt2@{commit}/model.safetensors"
    assert hub.entry(url).size == len(BIG)
    with refused(SourceNotFound, "gpt2/none"):
        hub.pinned("hf://gpt2/none@main")
    with refused(SourceNotFound, "nothing/model"):
        hub.pinned("hf://nothing/model")


def test_what_is_above_a_repository_is_nothing_and_is_not_asked(hub, server):
    assert not RemotePath(hub, hub.pinned("hf://org/model")).parent.exists()
    assert len(server.requests) == 1


def test_a_repository_that_moved_is_found_with_the_token(hub, server, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    server.tokens.add(TOKEN)
    server.moved["old/name"] = "org/model"
    url = hub.pinned("hf://old/name/model.safetensors")
    assert bytes(hub.read(url, 1, 5, hub.entry(url)).data) == BIG[1:6]
    assert all("authorization" in one.headers for one in server.asked("127.0.0.1"))


# Files and folders


def test_a_folder_is_listed_with_one_request(hub, server):
    url = hub.pinned("hf://org/model")
    server.requests.clear()
    assert {one.name: one.size for one in hub.entries(url)} == {
        "config.json": 22,
        "model.safetensors": len(BIG),
        "unet": None,
    }
    assert len(server.requests) == 1
    unet = {one.name: one for one in hub.entries(url + "/unet")}
    assert unet["weights.bin"] == RemoteEntry("weights.bin", 2000, sha256(BIG[:2000]))
    assert unet["odd name#1?%41.bin"].size == 3
    with refused(SourceNotFound, "none"):
        hub.entries(url + "/none")


def test_long_listings_have_pages(hub, server):
    server.page = 7
    names = {f"{number:02}.bin": b"x" for number in range(40)}
    server.add("org/many", names)
    assert [one.name for one in hub.entries(hub.pinned("hf://org/many"))] == sorted(names)


def test_a_page_on_another_host_is_not_asked_for(hub, server):
    url = hub.pinned("hf://org/model")
    server.fail("/tree/", 200, body=b"[]", Link=f'<http://localhost:{server.port}/next>; rel="next"')
    with refused(RemoteFailure, "another host"):
        hub.entries(url)
    assert not server.asked("localhost")


def test_one_entry_takes_one_request(hub, server):
    url = hub.pinned("hf://org/model")
    server.requests.clear()
    entry = hub.entry(url + "/model.safetensors")
    assert entry == RemoteEntry("model.safetensors", len(BIG), sha256(BIG))
    assert hub.entry(url + "/unet") == RemoteEntry("unet")
    assert hub.entry(url + "/none.bin") is None
    assert len(server.requests) == 3
    assert hub.entry(url) == RemoteEntry("model")
    assert len(server.requests) == 3


def test_a_path_at_a_url_reads_files_with_odd_names(hub):
    folder = RemotePath(hub, hub.pinned("hf://org/model")) / "unet"
    odd = folder / "odd name#1?%41.bin"
    assert odd.read_bytes() == b"odd"
    assert sorted(one.name for one in folder.iterdir()) == ["odd name#1?%41.bin", "weights.bin"]
    assert not (folder / "odd name").exists()


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b'{"a": 1}',
        b"[1]",
        b'[{"path": "x"}]',
        b'[{"path": "x", "type": "file", "size": -1, "oid": "a"}]',
        b'[{"path": "..", "type": "directory"}]',
        b'[{"path": "a\\u0000", "type": "file", "size": 1, "oid": "a"}]',
        b"[" * 100_000,
    ],
)
def test_answers_that_are_no_listing_are_refused(hub, server, body, monkeypatch):
    url = hub.pinned("hf://org/model")
    server.fail("/tree/", 200)
    monkeypatch.setattr("ckptbridge_remote.hub_client.Answer.body", lambda self, nbytes: bytearray(body))
    with refused(RemoteFailure):
        hub.entries(url)


# Reading


def test_any_range_of_a_large_file(hub, opened):
    url, entry = opened()
    draw = random.Random(1)
    ranges = [(0, 1), (0, len(BIG)), (len(BIG) - 1, 1)]
    ranges += [(start := draw.randrange(len(BIG)), draw.randint(1, len(BIG) - start)) for _ in range(20)]
    for start, nbytes in ranges:
        answer = hub.read(url, start, nbytes, entry)
        assert bytes(answer.data) == BIG[start : start + nbytes]
        assert answer.version == entry.version


def test_the_first_range_takes_two_requests_and_each_other_one(hub, server, opened):
    url, entry = opened()
    for start in (0, 100, 2000):
        hub.read(url, start, 100, entry)
    assert [one.is_to_hub for one in server.requests] == [True, False, False, False]
    assert all(one.headers["accept-encoding"] == "identity" for one in server.requests)


def test_a_small_file_comes_from_the_hub_with_one_request(hub, server, opened):
    url, entry = opened("config.json")
    assert bytes(hub.read(url, 1, 4, entry).data) == FILES["config.json"][1:5]
    assert [one.is_to_hub for one in server.requests] == [True]


def test_threads_ask_the_hub_once(hub, server, opened):
    url, entry = opened()
    ready = threading.Barrier(8)

    def read(number):
        ready.wait()
        return bytes(hub.read(url, number * 1000, 1000, entry).data)

    with ThreadPoolExecutor(8) as pool:
        assert b"".join(pool.map(read, range(8))) == BIG[:8000]
    assert len(server.asked("GET 127.0.0.1")) == 1
    assert len(server.asked("GET localhost")) == 8


def test_an_address_that_expired_is_asked_for_again_once(hub, server, opened):
    url, entry = opened()
    hub.read(url, 0, 10, entry)
    server.expire()
    assert bytes(hub.read(url, 5, 10, entry).data) == BIG[5:15]
    assert len(server.asked("GET 127.0.0.1")) == 2
    server.fail("GET localhost", 403)
    with refused(RemoteFailure, "localhost", "403") as caught:
        hub.read(url, 5, 10, entry)
    assert not caught.value.is_temporary
    assert len(server.asked("GET 127.0.0.1")) == 3


def test_an_address_is_not_used_to_its_last_second(hub, server, opened):
    url, entry = opened()
    server.lifetime = 5.0
    for _ in range(2):
        hub.read(url, 0, 10, entry)
    assert len(server.asked("GET 127.0.0.1")) == 2


# The token


@pytest.fixture
def private(server, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    server.add("org/private", FILES, private=True, readers=[TOKEN])


@pytest.mark.usefixtures("private")
def test_the_token_is_sent_to_the_hub_only(hub, server, opened):
    url, entry = opened(repo="org/private")
    assert bytes(hub.read(url, 7, 100, entry).data) == BIG[7:107]
    assert {one.host: one.headers.get("authorization") for one in server.requests} == {
        "127.0.0.1": f"Bearer {TOKEN}",
        "localhost": None,
    }


def test_the_token_is_read_for_each_request(hub, server, private, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with refused(SourceNotFound, "org/private", "private", hint="HF_TOKEN"):
        hub.pinned("hf://org/private")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert hub.pinned("hf://org/private").startswith("hf://org/private@")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    with refused(SourceNotFound, "no token was sent"):
        hub.pinned("hf://org/private")
    assert Hub(endpoint=server.endpoint, token=TOKEN).pinned("hf://org/private")


# What goes wrong


def test_missing_and_private_repositories_look_alike_to_the_hub(hub, server, private, monkeypatch):
    with refused(SourceNotFound, "org/none", "private", "token does not give access", hint="Check the name"):
        hub.pinned("hf://org/none")
    monkeypatch.delenv("HF_TOKEN")
    for name in ("org/none", "org/private"):
        with refused(SourceNotFound, name, "does not exist", "private", hint=("HF_TOKEN", "hf auth login")):
            hub.pinned(f"hf://{name}")


@pytest.mark.parametrize("token", [None, TOKEN])
def test_a_gated_repository_names_its_conditions(hub, server, monkeypatch, token):
    server.add("org/gated", FILES, gated=True)
    if token:
        server.tokens.add(token)
        monkeypatch.setenv("HF_TOKEN", token)
    url = hub.pinned("hf://org/gated/model.safetensors")
    with refused(
        AccessDenied, "org/gated", "gated", hint=(f"{server.endpoint}/org/gated", "HF_TOKEN", "hf auth login")
    ):
        hub.read(url, 0, 10, hub.entry(url))


def test_a_wrong_token(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with refused(AccessDenied, "token", hint=("settings/tokens", "HF_TOKEN")):
        hub.pinned("hf://org/model")


def test_a_missing_revision_names_the_nearest(hub, server):
    server.repos["org/model"].tags["v1.0"] = server.repos["org/model"].branches["main"]
    with refused(SourceNotFound, "'mian'", hint="'main'"):
        hub.pinned("hf://org/model@mian")
    with refused(SourceNotFound, "'zzz'", hint="main, v1.0"):
        hub.pinned("hf://org/model@zzz")
    server.fail("/refs", 500)
    with refused(SourceNotFound, "'zzz'") as caught:
        hub.pinned("hf://org/model@zzz")
    assert caught.value.hint is None


def test_a_missing_file_names_the_nearest(hub, opened):
    url, entry = opened()
    with refused(SourceNotFound, "'model.safetensor'", hint="'model.safetensors'"):
        hub.read(url.removesuffix("s"), 0, 1, entry)


STATUS = {408: True, 429: True, 500: True, 503: True, 504: True, 520: True, 400: False, 418: False}


@pytest.mark.parametrize(("status", "is_temporary"), STATUS.items())
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_failure_of_the_server_is_not_repeated_here(hub, server, opened, host, status, is_temporary):
    url, entry = opened()
    server.fail(f"GET {host}", status, Retry_After="7")
    with refused(RemoteFailure, host, str(status)) as caught:
        hub.read(url, 0, 10, entry)
    assert caught.value.is_temporary is is_temporary
    assert caught.value.retry_after == (7.0 if is_temporary else None)
    assert len(server.asked(f"GET {host}")) == (2 if (host, status) == ("localhost", 400) else 1)


def test_a_failure_is_not_taken_for_a_missing_repository(hub, server):
    server.fail("revision", 500)
    with refused(RemoteFailure, "500"):
        hub.pinned("hf://org/model")
    assert len(server.requests) == 1


def test_the_hubs_own_way_to_ask_for_a_pause(hub, server):
    server.fail("revision", 429, RateLimit='"api";r=0;t=55')
    with refused(RemoteFailure, "429") as caught:
        hub.pinned("hf://org/model")
    assert caught.value.retry_after == 55.0


def test_a_date_to_come_back_at(hub, server):
    server.fail("revision", 503, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT")
    with refused(RemoteFailure, "503") as caught:
        hub.pinned("hf://org/model")
    assert caught.value.retry_after == 0.0


@pytest.mark.parametrize("status", [401, 403, 451])
def test_other_refusals_are_about_access(hub, server, status):
    server.fail("revision", status, X_Error_Code="SomethingNew")
    with refused(AccessDenied, str(status), hint="HF_TOKEN"):
        hub.pinned("hf://org/model")


@pytest.mark.parametrize("path", ["model.safetensors", "config.json"])
@pytest.mark.parametrize(
    ("change", "is_temporary"),
    [(complete, False), (unmarked, False), (shifted, False), (truncated, True), (short, True)],
)
def test_an_answer_that_is_not_the_range_is_refused(hub, server, opened, path, change, is_temporary):
    url, entry = opened(path)
    server.fail("GET (localhost|.*resolve)", change=change)
    with refused(RemoteFailure) as caught:
        hub.read(url, 2, 10, entry)
    assert caught.value.is_temporary is is_temporary


def test_a_complete_file_is_refused_before_it_is_read(hub, server, opened, monkeypatch):
    url, entry = opened()
    monkeypatch.setattr("ckptbridge_remote.hub_client.Answer.body", lambda self, nbytes: b"")
    server.fail("GET localhost", change=complete)
    with refused(RemoteFailure, "206", "200", "bytes 0-9/50000"):
        hub.read(url, 0, 10, entry)


def test_another_size_is_another_range(hub, opened):
    url, entry = opened()
    with refused(RemoteFailure, "bytes 0-9/50001"):
        hub.read(url, 0, 10, RemoteEntry(entry.name, entry.size + 1, entry.version))


def test_a_version_that_changes_at_the_address(hub, server, opened):
    url, entry = opened()
    assert hub.read(url, 0, 10, entry).version == entry.version
    server.fail("GET localhost", change=other_version)
    assert hub.read(url, 0, 10, entry).version != entry.version


@pytest.mark.parametrize("path", ["model.safetensors", "config.json"])
def test_a_version_that_is_not_the_listed_one(hub, opened, path):
    url, entry = opened(path)
    assert hub.read(url, 0, 10, RemoteEntry(entry.name, entry.size, "0" * 64)).version == entry.version


@pytest.mark.parametrize("target", ["ftp://localhost/a", "file:///etc/passwd"])
def test_redirects_lead_to_addresses_of_http_only(hub, server, opened, target):
    url, entry = opened()
    server.fail("resolve", 302, Location=target)
    with refused(RemoteFailure, "redirects"):
        hub.read(url, 0, 10, entry)


def test_redirects_of_the_other_host_are_not_followed(hub, server, opened):
    url, entry = opened()
    server.fail("GET localhost", 302, Location=f"{server.endpoint}/stolen")
    with refused(RemoteFailure, "302"):
        hub.read(url, 0, 10, entry)
    assert not server.asked("stolen")


def test_redirects_in_a_circle_end(hub, server):
    server.fail("revision", 307, Location="/api/models/org/model/revision/main")
    with refused(RemoteFailure, "without an end"):
        hub.pinned("hf://org/model")
    assert len(server.requests) < 10


def test_no_connection_is_a_failure_that_may_pass(server):
    with refused(RemoteFailure, "127.0.0.1") as caught:
        Hub(endpoint=gone()).pinned("hf://org/model")
    assert caught.value.is_temporary


def test_offline_mode_asks_nothing(hub, server, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for call in (hub.pinned, lambda url: hub.upload_folder(url, tmp_path, ["a"])):
        with refused(RemoteFailure, "HF_HUB_OFFLINE", hint="Unset") as caught:
            call("hf://org/model")
        assert not caught.value.is_temporary
    assert not server.requests


def test_without_huggingface_hub(hub, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with refused(MissingDependency, "huggingface_hub", hint="pip install 'ckptbridge[hf]'"):
        hub.pinned("hf://org/model")


def gone():
    """Return the address of a server that is not there any more."""
    with HubServer() as server:
        return server.endpoint


FAULTS = {
    "gated": lambda server: setattr(server.repos["org/private"], "gated", True) or server.tokens.clear(),
    "storage 403": lambda server: server.fail("GET localhost", 403),
    "storage 503": lambda server: server.fail("GET localhost", 503),
    "hub 500": lambda server: server.fail("GET 127.0.0.1", 500, X_Error_Message=f"Bearer {TOKEN}"),
    "complete": lambda server: server.fail("GET localhost", change=complete),
    "truncated": lambda server: server.fail("GET localhost", change=truncated),
    "redirect": lambda server: server.fail("resolve", 302, Location="ftp://x/?Signature=secret-1"),
    "bad redirect": lambda server: server.fail("resolve", 302, Location="http://[x/?Signature=secret-1"),
    "no host": lambda server: server.fail("resolve", 302, Location=f"{gone()}/?Signature=secret-1"),
}


@pytest.mark.usefixtures("private")
@pytest.mark.parametrize("fault", FAULTS)
def test_no_error_shows_the_token_or_a_signature(hub, server, opened, fault):
    url, entry = opened(repo="org/private")
    FAULTS[fault](server)
    with pytest.raises(BridgeError) as caught:
        hub.read(url, 0, 10, entry)
    text = "".join(traceback.format_exception(caught.value)) + repr(caught.value.__dict__)
    assert not re.search(f"{TOKEN}|Signature|secret-", text)


# Writing


@pytest.fixture
def folder(tmp_path):
    for name, data in {"config.json": b"{}", "model.safetensors": BIG[::-1], "extra/a.bin": BIG}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    (tmp_path / "not this").write_bytes(b"x")
    return tmp_path


NAMES = ["config.json", "model.safetensors", "extra/a.bin"]


@pytest.fixture
def writable(server, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_PROGRESS_BARS", True)
    server.add("org/mine", {"README.md": b"read me", "config.json": b"old"}, writers=[TOKEN])
    return server.repos["org/mine"]


def test_a_folder_is_one_commit(hub, server, writable, folder):
    url = hub.upload_folder("hf://org/mine", folder, NAMES)
    assert url == f"hf://org/mine@{writable.branches['main']}"
    assert writable.messages == ["", "Add weights converted by ckptbridge"]
    assert writable.files == {
        "README.md": b"read me",
        **{name: (folder / name).read_bytes() for name in NAMES},
    }
    assert bytes(hub.read(f"{url}/extra/a.bin", 3, 9, hub.entry(f"{url}/extra/a.bin")).data) == BIG[3:12]
    assert all("authorization" not in one.headers for one in server.asked("localhost"))


def test_the_same_commit_removes_files(hub, server, writable, folder):
    hub.upload_folder("hf://org/mine/flax", folder, NAMES)
    commits = len(writable.commits)
    hub.upload_folder("hf://org/mine/flax/", folder, NAMES[:1], NAMES[1:])
    assert len(writable.commits) == commits + 1
    assert {*writable.files} == {"README.md", "config.json", f"flax/{NAMES[0]}"}


def test_a_folder_below_the_root_on_a_branch(hub, writable, folder):
    writable.branches["next"] = writable.branches["main"]
    url = hub.upload_folder("hf://org/mine@next/flax/", folder, ["config.json"])
    assert url == f"hf://org/mine@{writable.branches['next']}/flax"
    assert writable.files["config.json"] == b"old"
    assert writable.commits[writable.branches["next"]]["flax/config.json"] == b"{}"


@pytest.mark.parametrize(
    ("pattern", "status"), [("PUT localhost", 403), ("commit/main", 400), ("/batch", 400), ("preupload", 400)]
)
def test_an_upload_that_fails_changes_nothing(hub, server, writable, folder, pattern, status):
    server.fail(pattern, status)
    with refused(RemoteFailure) as caught:
        hub.upload_folder("hf://org/mine", folder, NAMES)
    assert len(writable.commits) == 1
    text = "".join(traceback.format_exception(caught.value))
    assert not re.search(f"{TOKEN}|Signature|secret-", text)


@pytest.mark.usefixtures("writable")
def test_where_nothing_can_be_written(hub, server, folder, monkeypatch):
    with refused(SourceNotFound, "org/none", hint="hf repo create org/none"):
        hub.upload_folder("hf://org/none", folder, NAMES)
    with refused(SourceNotFound, "org/data", hint="hf repo create org/data --repo-type dataset"):
        hub.upload_folder("hf://datasets/org/data", folder, NAMES)
    with refused(SourceNotFound, "'none'"):
        hub.upload_folder("hf://org/mine@none", folder, NAMES)
    with refused(AccessDenied, "writing", "org/model", hint="settings/tokens"):
        hub.upload_folder("hf://org/model", folder, NAMES)
    monkeypatch.delenv("HF_TOKEN")
    with refused(AccessDenied, "writing", "org/mine", "token", hint="HF_TOKEN"):
        hub.upload_folder("hf://org/mine", folder, NAMES)
    with refused(UsageError, "commit", hint="branch"):
        hub.upload_folder(f"hf://org/mine@{'0' * 40}", folder, NAMES)


# The stand-in, and the plugin


def test_huggingface_hub_itself_reads_the_stand_in(server, tmp_path):
    from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_url

    api = HfApi(endpoint=server.endpoint, token=False)
    commit = api.model_info("org/model").sha
    assert {one.path: one.size for one in api.list_repo_tree("org/model") if hasattr(one, "size")} == {
        "config.json": 22,
        "model.safetensors": len(BIG),
    }
    assert [one.lfs.sha256 for one in api.get_paths_info("org/model", ["model.safetensors"])] == [sha256(BIG)]
    for name, size in (("model.safetensors", len(BIG)), ("config.json", 22)):
        url = hf_hub_url("org/model", name, revision=commit, endpoint=server.endpoint)
        assert get_hf_file_metadata(url, token=False).size == size
    path = Path(api.hf_hub_download("org/model", "config.json", cache_dir=tmp_path))
    assert path.read_bytes() == FILES["config.json"]


def test_a_body_that_comes_too_slowly(hub, opened, monkeypatch):
    url, entry = opened()
    monkeypatch.setattr(hub_client, "_READING", -1.0)
    monkeypatch.setattr(hub_client, "_CHUNK", 1000)
    with refused(RemoteFailure, "localhost", "only 1000 bytes") as caught:
        hub.read(url, 0, 5000, entry)
    assert caught.value.is_temporary
    monkeypatch.setattr(hub_client, "_READING", 600.0)
    assert bytes(hub.read(url, 0, 5000, entry).data) == BIG[:5000]


def test_the_plugin_provides_the_hub():
    hub = next(one for one in bridge_filesystems() if one.name == "hub")
    assert isinstance(hub, FileSystem)
    assert isinstance(hub, CommitsFolders)


def test_an_address_that_failed_is_asked_for_again(hub, server, opened):
    url, entry = opened()
    assert bytes(hub.read(url, 0, 10, entry).data) == BIG[:10]
    server.fail("GET localhost", 503, times=1)
    with pytest.raises(RemoteFailure) as caught:
        hub.read(url, 0, 10, entry)
    assert caught.value.is_temporary
    before = sum(request.is_to_hub for request in server.requests)
    assert bytes(hub.read(url, 10, 10, entry).data) == BIG[10:20]
    assert sum(request.is_to_hub for request in server.requests) == before + 1
