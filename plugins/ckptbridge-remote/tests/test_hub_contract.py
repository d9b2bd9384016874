from __future__ import annotations

import contextlib
import hashlib

import pytest
from support.hub_server import HubServer, complete, truncated

from bridge_core.testing import FileSystemContract
from ckptbridge_remote import Hub

pytest.importorskip("huggingface_hub")


class TestHub(FileSystemContract):
    @pytest.fixture(autouse=True)
    def _server(self, monkeypatch):
        with HubServer() as server:
            server.used_by(monkeypatch)
            self.server, self.system = server, Hub(token="hf_secret")
            server.tokens.add("hf_secret")
            yield

    def put(self, place, files):
        name = f"org/{hashlib.sha1(str(place).encode()).hexdigest()}"
        repo = self.server.repos.get(name)
        self.server.add(name, {**(repo.files if repo else {}), **files}, writers=["hf_secret"])
        return f"hf://{name}"

    def failing(self, fault):
        faults = {
            "denied": {"status": 403},
            "unavailable": {"status": 503},
            "no ranges": {"change": complete},
            "cut": {"change": truncated},
        }
        return self._failing(**faults[fault]) if fault in faults else None

    @contextlib.contextmanager
    def _failing(self, **fault):
        self.server.fail("", **fault)
        yield
        self.server.faults.clear()
