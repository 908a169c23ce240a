"""A Hugging Face Hub on 127.0.0.1: repositories' files enter, and leave over HTTP to the real client libraries.

It speaks what huggingface_hub and datasets need for reading, and for uploading a model; a subprocess finds it through its environment:

    with Hub() as hub:
        commit = hub.add("dataset", "someone/news", {"data/train-00000-of-00001.parquet": content})
        subprocess.run([sys.executable, "-c", code], env=hub.environment(tmp_path), check=True)
        assert ("GET", f"/datasets/someone/news/resolve/{commit}/data/train-00000-of-00001.parquet") in hub.requests
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import parse_qs, unquote, urlsplit

Kind = Literal["model", "dataset"]
Files = dict[str, bytes]
#: Revisions come quoted, so that "refs/pr/1" is one part of a path.
ABOUT = re.compile(r"/api/(model|dataset)s/([^/]+/[^/]+)(?:/(revision|tree|discussions)(?:/([^/]+)(?:/(.+))?)?)?")
FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
UPLOAD = re.compile(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main")
LARGE = re.compile(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch")
#: Settings of whoever runs the tests: their Hub, cache and token, and the way there.
FOREIGN = re.compile(r"(HF|HUGGING_?FACE|TRANSFORMERS)_.*|(HTTPS?|ALL|NO)_PROXY", re.IGNORECASE)
#: Message and code by which the client tells one refusal from another.
MISSING = ("Repository not found", "RepoNotFound")
REFUSALS = {401: MISSING, 403: ("Forbidden", ""), 404: MISSING}
DATE = "2024-01-01T00:00:00.000Z"


class Refusal(Exception):
    def __init__(self, status: int, message: str, code: str = "", **headers: str):
        super().__init__(message)
        self.status, self.headers = status, {"X-Error-Message": message, "X-Error-Code": code, **headers}


@dataclass
class Repository:
    refs: dict[str, str] = field(default_factory=dict)  # branch -> commit
    commits: dict[str, Files] = field(default_factory=dict)  # a commit stays when its branch moves on
    pulls: list[dict] = field(default_factory=list)
    visibility: str = "public"


class Hub:
    """The server, started and stopped as a context manager; repositories may change while it runs."""

    def __init__(self):
        self.requests: list[tuple[str, str]] = []  # (method, path as sent, without the query)
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.token = "hf_of_a_test"  # what writing takes
        self.large: dict[str, bytes] = {}  # files that came by themselves, by their SHA-256
        self.failures: dict[str, tuple[int, bool]] = {}
        self._interruptions: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("HubHandler", (Handler,), {"hub": self}))
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Hub:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def environment(self, home: Path) -> dict[str, str]:
        """A whole environment for a subprocess: this Hub, and nothing of the user's cache, token or proxies."""
        own = {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "NO_PROXY": "*"}
        quiet = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}  # both would leave this machine
        return {name: value for name, value in os.environ.items() if not FOREIGN.fullmatch(name)} | own | quiet

    def add(self, kind: Kind, repo_id: str, files: Files, revision: str = "main") -> str:
        """Make these files all that a revision holds; its commit, a hash of them, is returned."""
        ids = [(name, blob_id(content)) for name, content in sorted(files.items())]
        commit = hashlib.sha1(repr((kind, repo_id, revision, ids)).encode()).hexdigest()
        repository = self.repositories.setdefault((kind, repo_id), Repository())
        repository.commits[commit] = dict(files)
        repository.refs[revision] = commit
        return commit

    def pull_request(self, repo_id: str, number: int, title: str, author: str, files: Files) -> str:
        """Open a pull request to a model; its commit, which is returned, is also the revision refs/pr/number."""
        commit = self.add("model", repo_id, files, revision=f"refs/pr/{number}")
        pull = {"num": number, "title": title, "author": {"name": author}, "status": "open", "createdAt": DATE}
        pull |= {"isPullRequest": True, "repo": {"name": repo_id, "type": "model"}}
        self.repositories["model", repo_id].pulls.append(pull)
        return commit

    def fail(self, repo_id: str, status: int = 401, gated: bool = False) -> None:
        """Answer every request about a repository with a status, until it is healed.

        401 and 404 say that there is no such repository, which the Hub says of private ones, too. Of a gated one
        (401: not logged in, 403: not admitted) only the files are refused; what it holds is public.
        """
        self.failures[repo_id] = (status, gated)

    def interrupt(self, repo_id: str, filename: str, times: int | None = None) -> None:
        """Break the connection off half way through a file: the first few times that it is read, or always."""
        self._interruptions[repo_id, filename] = float("inf") if times is None else times

    def heal(self, repo_id: str) -> None:
        """End what ``fail`` and ``interrupt`` began."""
        self.failures.pop(repo_id, None)
        with self._lock:
            self._interruptions = {key: left for key, left in self._interruptions.items() if key[0] != repo_id}

    def breaks_off(self, repo_id: str, filename: str) -> bool:
        with self._lock:
            left = self._interruptions.get((repo_id, filename), 0)
            self._interruptions[repo_id, filename] = max(left - 1, 0)
        return left > 0


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"  # clients keep their connection
    disable_nagle_algorithm = True  # else every body waits 40 ms for its headers to be acknowledged

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        self.hub.requests.append((self.command, url.path))
        try:
            if match := ABOUT.fullmatch(url.path):
                kind, repo_id, what, *place = match.groups()
                self._about(kind, repo_id, what, [unquote(part or "") for part in place], parse_qs(url.query))
            elif match := FILE.fullmatch(url.path):
                self._file("dataset" if match[1] else "model", match[2], unquote(match[3]), unquote(match[4]))
            else:
                raise Refusal(404, "Not found")
        except Refusal as refusal:
            self._send(refusal.status, {"error": str(refusal)}, refusal.headers)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        """What an upload asks for: a repository, how each file is to come, where large ones go, and the commit."""
        path, body = urlsplit(self.path).path, self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.hub.requests.append((self.command, path))
        try:
            if self.headers.get("Authorization") != f"Bearer {self.hub.token}":
                raise Refusal(401, "Invalid credentials in Authorization header")
            if path == "/api/repos/create":
                self._create(json.loads(body))
            elif path == "/api/validate-yaml":
                self._send(200, {"errors": [], "warnings": []})
            elif match := UPLOAD.fullmatch(path):
                self._upload(match[1], match[2], body)
            elif match := LARGE.fullmatch(path):
                self._repository("model", match[1], public=True)
                self._send(200, {"objects": [
                    {**file, "actions": {"upload": {"href": f"{self.hub.endpoint}/large/{file['oid']}"}}}
                    for file in json.loads(body)["objects"]
                ]})  # fmt: skip
            else:
                raise Refusal(404, "Not found")
        except Refusal as refusal:
            self._send(refusal.status, {"error": str(refusal)}, refusal.headers)

    def do_PUT(self) -> None:
        path, body = urlsplit(self.path).path, self.rfile.read(int(self.headers["Content-Length"]))
        self.hub.requests.append((self.command, path))
        self.hub.large[hashlib.sha256(body).hexdigest()] = body
        self._send(200, {})

    def _create(self, wanted: dict) -> None:
        repo_id = f"{wanted['organization']}/{wanted['name']}"
        if ("model", repo_id) in self.hub.repositories:
            return self._send(
                409, {"error": "You already created this model repo", "url": f"{self.hub.endpoint}/{repo_id}"}
            )
        self.hub.add("model", repo_id, {})
        self.hub.repositories["model", repo_id].visibility = wanted.get("visibility", "public")
        self._send(200, {"url": f"{self.hub.endpoint}/{repo_id}"})

    def _upload(self, repo_id: str, what: str, body: bytes) -> None:
        _, files = self._commit(self._repository("model", repo_id, public=True), "main")
        if what == "preupload":
            modes = [
                {"path": file["path"], "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]  # fmt: skip
            return self._send(200, {"files": modes})
        files = dict(files)
        for entry in map(json.loads, body.splitlines()):
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
        commit = self.hub.add("model", repo_id, files)
        self._send(200, {"commitUrl": f"{self.hub.endpoint}/{repo_id}/commit/{commit}", "commitOid": commit})

    def _about(self, kind: str, repo_id: str, what: str | None, place: list[str], query: dict[str, list[str]]) -> None:
        repository = self._repository(kind, repo_id, public=True)
        if what == "discussions":
            authors, pulls = query.get("author"), repository.pulls if query.get("type") != ["discussion"] else []
            pulls = [pull for pull in pulls if not authors or pull["author"]["name"] in authors]
            return self._send(200, {"discussions": pulls, "count": len(pulls), "start": 0})
        commit, files = self._commit(repository, place[0] or "main")
        if what == "tree":
            return self._send(200, tree(files, place[1], "true" in query.get("recursive", [])))
        self._send(200, {
            "id": repo_id, "sha": commit, "author": repo_id.partition("/")[0], "createdAt": DATE, "lastModified": DATE,
            "private": False, "disabled": False, "gated": "manual" if self.hub.failures.get(repo_id) else False,
            "tags": [], "siblings": [{"rfilename": name} for name in sorted(files)],
        })  # fmt: skip

    def _file(self, kind: str, repo_id: str, revision: str, name: str) -> None:
        commit, files = self._commit(self._repository(kind, repo_id, public=False), revision)
        if name not in files:
            # With the commit, for then the client remembers that there is no such file.
            raise Refusal(404, "Entry not found", "EntryNotFound", **{"X-Repo-Commit": commit})
        content, start, end, status = files[name], 0, len(files[name]), 200
        headers = {"X-Repo-Commit": commit, "ETag": f'"{blob_id(content)}"'}
        if part := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):  # a download is taken up again
            start, end, status = int(part[1]), min(int(part[2] or end) + 1, end), 206
            if start >= end:
                raise Refusal(416, "Range not satisfiable")
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
        headers["Content-Length"] = str(end - start)
        if self.command == "GET" and self.hub.breaks_off(repo_id, name):
            # Half of the file, not of what is left of it: else every try would get further, and none would fail.
            end, self.close_connection = min(end, len(content) // 2), True
        self._send(status, content[start:end], headers)

    def _repository(self, kind: str, repo_id: str, public: bool) -> Repository:
        status, gated = self.hub.failures.get(repo_id, (200, False))
        if gated and not public:
            raise Refusal(status, f"Access to {kind} {repo_id} is restricted", "GatedRepo")
        if status != 200 and not gated:
            raise Refusal(status, *REFUSALS.get(status, ("Internal error", "")))
        if (kind, repo_id) not in self.hub.repositories:  # a stranger must not learn which private ones there are
            raise Refusal(404 if "Authorization" in self.headers else 401, *MISSING)
        return self.hub.repositories[kind, repo_id]

    @staticmethod
    def _commit(repository: Repository, revision: str) -> tuple[str, Files]:
        commit = repository.refs.get(revision, revision)
        if commit not in repository.commits:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit, repository.commits[commit]

    def _send(self, status: int, body: bytes | dict | list, headers: dict[str, str] | None = None) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        """Nothing: ``Hub.requests`` is the log."""


def blob_id(content: bytes) -> str:
    """A file's id in git: every file here is in git itself, none in LFS or Xet."""
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


def tree(files: Files, folder: str, recursive: bool) -> list[dict]:
    """The files and folders below a folder."""
    inside = f"{folder}/" if folder else ""
    below = {name: content for name, content in files.items() if name.startswith(inside)}
    if folder and not below:
        raise Refusal(404, f"{folder} does not exist on this revision", "EntryNotFound")
    listed = {name: {"type": "file", "oid": blob_id(body), "size": len(body)} for name, body in below.items()}
    for path in (str(parent) for name in below for parent in PurePosixPath(name).parents):
        if path.startswith(inside) and path != ".":
            listed[path] = {"type": "directory", "oid": blob_id(path.encode()), "size": 0}
    depth = inside.count("/")
    return [{**about, "path": path} for path, about in sorted(listed.items()) if recursive or path.count("/") == depth]
