"""A stand-in for the Hugging Face hub on this machine, with the faults that servers have.

The hub is ``http://127.0.0.1:PORT``. Large files are redirected to ``http://localhost:PORT``, another host,
which accepts signed addresses only, and refuses every request that carries a token.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

LFS_FROM = 1024
"""Bytes from which a file is stored on the other host."""


@dataclass
class Repo:
    """A repository: commits, each a dict of files, and the branches and tags that name them."""

    kind: str
    gated: bool = False
    private: bool = False
    readers: frozenset[str] = frozenset()
    writers: frozenset[str] = frozenset()
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, files, branch="main", message=""):
        """Add a commit, and return its name."""
        text = repr(sorted((name, sha256(data)) for name, data in files.items())) + str(len(self.commits))
        commit = hashlib.sha1(text.encode()).hexdigest()
        self.commits[commit] = dict(files)
        self.branches[branch] = commit
        self.messages.append(message)
        return commit

    def resolved(self, revision):
        """Return the commit that a revision names, or None."""
        return {**self.tags, **self.branches, **{name: name for name in self.commits}}.get(revision)

    @property
    def files(self):
        """The files of the main branch."""
        return self.commits[self.branches["main"]]


@dataclass(frozen=True)
class Request:
    """A request that the server got; the names of its headers are in lower case."""

    method: str
    host: str
    target: str
    headers: dict[str, str]

    @property
    def is_to_hub(self):
        return self.host == "127.0.0.1"


@dataclass
class Fault:
    """What goes wrong with requests whose method and path match a pattern.

    Args:
        pattern: Searched in ``"GET 127.0.0.1 /path"``.
        status: Answered in place of the right status; None for another fault.
        body: The body of that answer.
        headers: Its headers.
        change: Changes the right answer to a range: a function of status, headers and body.
        times: How often.
    """

    pattern: str
    status: int | None = None
    body: bytes = b"failed as asked"
    headers: dict[str, str] = field(default_factory=dict)
    change: Callable | None = None
    times: int = 1 << 30


def complete(status, headers, body, data):
    """Ignore the range, and send the complete file."""
    headers.pop("Content-Range")
    return 200, headers, data


def unmarked(status, headers, body, data):
    """Send the right range with the status of a complete file."""
    return 200, headers, body


def shifted(status, headers, body, data):
    """Send the range that is one byte later."""
    first, last, size = map(int, re.findall(r"\d+", headers["Content-Range"]))
    return status, {**headers, "Content-Range": f"bytes {first + 1}-{last + 1}/{size}"}, body


def truncated(status, headers, body, data):
    """Declare the right length, and close the connection after half of it."""
    return (
        status,
        {**headers, "Content-Length": str(len(body)), "Connection": "close"},
        body[: len(body) // 2],
    )


def short(status, headers, body, data):
    """Send one byte less, and declare that as the length."""
    return status, headers, body[:-1]


def other_version(status, headers, body, data):
    """Send another ETag."""
    return status, {**headers, "ETag": '"another"'}, body


class HubServer:
    """A hub with repositories in memory; a context manager.

    Attributes:
        repos: ``"org/name"`` -> repository.
        moved: Old name -> new name of a repository.
        requests: What was asked, in order.
        faults: What goes wrong.
        page: Entries of one page of a listing.
        lifetime: Seconds for which a signed address is valid.
        withdrawn: Signatures that are not accepted any more.
    """

    def __init__(self):
        self.repos, self.moved, self.requests, self.faults = {}, {}, [], []
        self.uploads, self.tokens, self.signed, self.withdrawn = {}, set(), [], set()
        self.page, self.lifetime = 1000, 3600.0
        self.lock = threading.Lock()

    def __enter__(self):
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def port(self):
        return self._server.server_address[1]

    @property
    def endpoint(self):
        """The address of the hub."""
        return f"http://127.0.0.1:{self.port}"

    def add(self, name, files, *, kind="model", branch="main", **more):
        """Add a repository, or a commit to one; return the commit."""
        for group in ("readers", "writers"):
            more[group] = frozenset(more.get(group, ()))
            self.tokens |= more[group]
        repo = self.repos.setdefault(name, Repo(kind, **more))
        return repo.commit(files, branch)

    def fail(self, pattern, status=None, *, body=b"failed as asked", change=None, times=1 << 30, **headers):
        """Let something go wrong from now on; underscores in names of headers are hyphens."""
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.faults.append(Fault(pattern, status, body, headers, change, times))

    def used_by(self, monkeypatch):
        """Let huggingface_hub of this process ask this hub, without a token of the machine."""
        from huggingface_hub import constants, file_download

        monkeypatch.setattr(constants, "ENDPOINT", self.endpoint)
        template = self.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        for module in (constants, file_download):
            monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)  # uploads as of old
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nonexistent/token")
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)

    def asked(self, pattern=""):
        """Return the requests whose ``"GET 127.0.0.1 /path"`` matches a pattern."""
        return [one for one in self.requests if re.search(pattern, f"{one.method} {one.host} {one.target}")]

    def expire(self):
        """Withdraw all signed addresses that were given out."""
        self.withdrawn.update(self.signed)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    hub: HubServer

    def handle(self):
        with contextlib.suppress(ConnectionError):  # a client may go
            super().handle()

    def log_message(self, *args):
        pass

    def do_GET(self):
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.body = self.rfile.read(int(headers.get("content-length", 0)))
        host = headers["host"].partition(":")[0]
        request = Request(self.command, host, self.path, headers)
        self.token = headers.get("authorization", "").removeprefix("Bearer ") or None
        with self.hub.lock:
            self.hub.requests.append(request)
            line = f"{self.command} {host} {self.path}"
            faults = (one for one in self.hub.faults if one.times and re.search(one.pattern, line))
            self.fault = next(faults, None)
            if self.fault:
                self.fault.times -= 1
        if self.fault and self.fault.status is not None:
            self.reply(self.fault.status, self.fault.body, **self.fault.headers)
        elif request.is_to_hub:
            self.of_hub()
        else:
            self.of_storage()

    do_HEAD = do_POST = do_PUT = do_GET

    def reply(self, status, body=b"", **headers):
        if not isinstance(body, bytes):
            body, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def error(self, status, code, message=""):
        self.reply(status, {"error": "refused"}, X_Error_Code=code, X_Error_Message=message)

    def ranged(self, data, etag, **headers):
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        status, body, headers = 200, data, {**headers, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        if span:
            first, last = int(span[1]), min(int(span[2]), len(data) - 1)
            if first > last:
                return self.reply(416, Content_Range=f"bytes */{len(data)}")
            status, body = 206, data[first : last + 1]
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        if self.fault and self.fault.change:
            status, headers, body = self.fault.change(status, headers, body, data)
        return self.reply(status, body, **headers)

    # The other host

    def of_storage(self):
        if self.token:
            return self.reply(400, b"a token was sent to the wrong host")
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        signature = query.get("Signature", [""])[0]
        if (
            signature not in self.hub.signed
            or signature in self.hub.withdrawn
            or float(query["Expires"][0]) < time.time()
        ):
            return self.reply(403, b"<Error>AccessDenied</Error>")
        oid = url.path.rpartition("/")[2]
        if self.command == "PUT":
            if sha256(self.body) != oid:
                return self.reply(400)
            self.hub.uploads[oid] = self.body
            return self.reply(200)
        data = self.hub.uploads[oid]
        return self.ranged(data, hashlib.md5(data).hexdigest())  # not the hub's name of the content

    def address(self, oid):
        signature = f"secret-{len(self.hub.signed)}"
        self.hub.signed.append(signature)
        query = urlencode({"Expires": time.time() + self.hub.lifetime, "Signature": signature})
        return f"http://localhost:{self.hub.port}/objects/{oid}?{query}"

    # The hub

    def of_hub(self):
        url = urlsplit(self.path)
        self.query, path = parse_qs(url.query), url.path
        if self.token and self.token not in self.hub.tokens:
            return self.error(401, "", "Invalid credentials in Authorization header")
        if path == "/api/validate-yaml":
            return self.reply(200, {"errors": [], "warnings": []})
        api = re.fullmatch(
            r"/api/(model|dataset|space)s/(.+?)(?:/(revision|tree|paths-info|refs|preupload|commit)(?:/(.*))?)?",
            path,
        )
        if api:
            return self.of_repo(api[1], api[2], api[3] or "revision", api[4] or "")
        other = re.fullmatch(r"/(?:(dataset|space)s/)?(.+?)(/resolve/|\.git/info/lfs/objects/)(.+)", path)
        if other:
            what = "resolve" if "resolve" in other[3] else "batch"
            return self.of_repo(other[1] or "model", other[2], what, other[4])
        return self.reply(404)

    def of_repo(self, kind, name, what, rest):
        if name in self.hub.moved:
            new = self.path.replace(f"/{name}/", f"/{self.hub.moved[name]}/", 1)
            return self.reply(307, Location=new)
        self.name, self.repo = name, self.hub.repos.get(name)
        writes = what in ("preupload", "batch", "commit")
        if (
            self.repo is None
            or self.repo.kind != kind
            or (self.repo.private and self.token not in self.repo.readers | self.repo.writers)
        ):
            return self.error(404 if self.token else 401, "RepoNotFound", "Repository not found")
        if writes and self.token not in self.repo.writers:
            return self.error(403 if self.token else 401, "", "Forbidden")
        if what in ("refs", "batch"):
            return getattr(self, f"on_{what}")()
        revision, _, sub = rest.partition("/")
        self.revision, sub = unquote(revision) or "main", unquote(sub)
        self.commit = self.repo.resolved(self.revision)
        if self.commit is None:
            return self.error(404, "RevisionNotFound")
        self.files = self.repo.commits[self.commit]
        return getattr(self, "on_" + what.replace("-", "_"))(sub)

    def on_revision(self, sub):
        info = {"_id": "1", "id": self.name, "sha": self.commit}
        if "expand" not in self.query:
            info |= {"siblings": [{"rfilename": name} for name in self.files], "private": False, "tags": []}
        self.reply(200, info)

    def on_refs(self):
        def listed(sort, names):
            return [
                {"name": name, "ref": f"refs/{sort}/{name}", "targetCommit": commit}
                for name, commit in names.items()
            ]

        branches, tags = listed("heads", self.repo.branches), listed("tags", self.repo.tags)
        self.reply(200, {"branches": branches, "tags": tags, "converts": []})

    def record(self, path):
        """Return what the hub lists of a path; None for nothing."""
        if path not in self.files:
            is_folder = any(name.startswith(f"{path}/") for name in self.files)
            return {"type": "directory", "path": path, "size": 0, "oid": "0" * 40} if is_folder else None
        data = self.files[path]
        record = {"type": "file", "path": path, "size": len(data), "oid": blob(data)}
        if len(data) >= LFS_FROM:
            record["lfs"] = {"oid": sha256(data), "size": len(data), "pointerSize": 130}
        return record

    def on_paths_info(self, sub):
        is_json = self.body.startswith(b"{")
        paths = json.loads(self.body)["paths"] if is_json else parse_qs(self.body.decode())["paths"]
        self.reply(200, [record for path in paths if (record := self.record(path))])

    def on_tree(self, sub):
        below = f"{sub}/" if sub else ""
        depth = below.count("/") + 1
        names = sorted(
            {"/".join(name.split("/")[:depth]) for name in self.files if name.startswith(below)} - {sub}
        )
        if not names:
            return self.error(404, "EntryNotFound")
        first = int(self.query.get("cursor", ["0"])[0])
        following = first + self.hub.page
        url = f"{self.hub.endpoint}{urlsplit(self.path).path}?cursor={following}"
        link = {"Link": f'<{url}>; rel="next"'} if following < len(names) else {}
        return self.reply(200, [self.record(name) for name in names[first:following]], **link)

    def on_resolve(self, sub):
        if self.repo.gated and self.token not in self.repo.readers:
            return self.error(403 if self.token else 401, "GatedRepo")
        if sub not in self.files:
            return self.error(404, "EntryNotFound")
        data = self.files[sub]
        if len(data) < LFS_FROM:
            return self.ranged(data, blob(data), X_Repo_Commit=self.commit)
        self.hub.uploads[sha256(data)] = data
        return self.reply(
            302,
            Location=self.address(sha256(data)),
            ETag='"that of the redirect"',
            X_Repo_Commit=self.commit,
            X_Linked_Size=str(len(data)),
            X_Linked_ETag=f'"{sha256(data)}"',
        )

    def on_preupload(self, sub):
        files = json.loads(self.body)["files"]
        modes = [
            {
                "path": one["path"],
                "uploadMode": "lfs" if one["size"] >= LFS_FROM else "regular",
                "shouldIgnore": False,
            }
            for one in files
        ]
        self.reply(200, {"files": modes})

    def on_batch(self):
        objects = [
            {**one, "actions": {"upload": {"href": self.address(one["oid"])}}}
            for one in json.loads(self.body)["objects"]
        ]
        self.reply(200, {"transfer": "basic", "objects": objects})

    def on_commit(self, sub):
        lines = [json.loads(line) for line in self.body.splitlines()]
        files, message = dict(self.files), ""
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                message = value["summary"]
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.uploads[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        commit = self.repo.commit(files, self.revision, message)
        url = f"{self.hub.endpoint}/{quote(self.name)}/commit/{commit}"
        self.reply(200, {"commitUrl": url, "commitOid": commit, "success": True})


def sha256(data):
    """Return the hub's name of the content of a large file."""
    return hashlib.sha256(data).hexdigest()


def blob(data):
    """Return git's name of a content, which is the hub's name of a small file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
