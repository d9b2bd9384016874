"""The file systems keep the contract of all file systems, with servers of this machine."""

from __future__ import annotations

import contextlib
import urllib.parse

import pytest
from support.http_server import HttpServer
from support.hub_server import HubServer, complete, truncated
from support.s3_server import BUCKET, emptied

from bridge_core import default_registry
from bridge_core.testing import FileSystemContract
from ckptbridge_remote import AmazonS3, GoogleStorage, Hub, Web

pytestmark = pytest.mark.slow  # the tests of each file system are quick, and more exact
TOKEN = "hf_ThisTokenMayWrite"
STATUS = {"denied": 403, "unavailable": 503}


class Contract(FileSystemContract):
    """Each test has a file system of its own, since they remember connections and addresses."""

    def use(self, system):
        self.system = system
        self.registry = default_registry().with_tables(filesystems={}).extend(system)


class TestHub(Contract):
    @pytest.fixture(autouse=True)
    def _server(self, monkeypatch):
        pytest.importorskip("huggingface_hub")
        with HubServer() as self.server:
            self.server.used_by(monkeypatch)
            monkeypatch.setenv("HF_TOKEN", TOKEN)
            self.use(Hub())
            yield

    def put(self, place, files):
        folder = place.as_posix().strip("/")
        known = self.server.repos["org/model"].files if self.server.repos else {}
        new = {f"{folder}/{name}": content for name, content in files.items()}
        self.server.add("org/model", {**known, **new}, writers=[TOKEN])
        return f"hf://org/model/{urllib.parse.quote(folder)}"

    @contextlib.contextmanager
    def failing(self, fault):
        changes = {"no ranges": complete, "cut": truncated}
        self.server.fail("", STATUS.get(fault), change=changes.get(fault))
        try:
            yield
        finally:
            self.server.faults.clear()


class StoreContract(Contract):
    @pytest.fixture(autouse=True)
    def _server(self, monkeypatch):
        self.server = emptied(monkeypatch)
        self.use(self.made())

    def put(self, place, files):
        folder = place.as_posix().strip("/")
        for name, content in files.items():
            self.server.put(f"{folder}/{name}", content)
        return f"{self.system.schemes[0]}://{BUCKET}/{urllib.parse.quote(folder)}"

    def failing(self, fault):
        return self._with_status(STATUS[fault]) if fault in STATUS else None

    @contextlib.contextmanager
    def _with_status(self, status):
        fault = self.server.fail(status)
        try:
            yield
        finally:
            fault.times = 0


class TestAmazonS3(StoreContract):
    made = AmazonS3


class TestGoogleStorage(StoreContract):
    made = GoogleStorage
    long_listing = 3  # pages are those of S3


class TestWeb(Contract):
    lists_folders = False

    @pytest.fixture(autouse=True)
    def _server(self):
        pytest.importorskip("obstore")
        with HttpServer() as self.server:
            self.use(Web())
            yield

    def put(self, place, files):
        folder = place.as_posix().strip("/")
        self.server.files.update({f"{folder}/{name}": content for name, content in files.items()})
        return f"{self.server.url}/{urllib.parse.quote(folder)}"

    @contextlib.contextmanager
    def failing(self, fault):
        self.server.fail(STATUS.get(fault) or {"no ranges": "complete", "cut": "truncated"}[fault])
        try:
            yield
        finally:
            self.server.heal()
