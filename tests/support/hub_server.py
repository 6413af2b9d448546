"""A Hugging Face hub on the loopback: as much of its HTTP API as `huggingface_hub` asks of it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest


class Hub(ThreadingHTTPServer):
    """commits: (repository, commit) -> name -> content. refs: (repository, branch or tag) -> commit."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.commits: dict[tuple[str, str], dict[str, bytes]] = {}
        self.refs: dict[tuple[str, str], str] = {}
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def push(self, repository: str, folder: Path, branch: str = "main") -> str:
        """Commits the files of a folder; returns the commit."""
        files = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        commit = hashlib.sha1(repr(files).encode()).hexdigest()
        self.commits[repository, commit] = files
        self.refs[repository, branch] = commit
        return commit

    def files(self, repository: str, revision: str) -> tuple[str, Mapping[str, bytes]] | None:
        commit = self.refs.get((repository, revision), revision)
        files = self.commits.get((repository, commit))
        return None if files is None else (commit, files)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.server.asked.append(path)
        parts = path.split("/")
        if parts[:2] == ["api", "models"] and len(parts) >= 4:
            repository, rest = "/".join(parts[2:4]), parts[4:]
            kind, revision = (rest[0], "/".join(rest[1:])) if rest else ("revision", "main")
            self._api(repository, kind, revision)
        elif len(parts) >= 5 and parts[2] == "resolve":
            self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        else:
            self._missing("EntryNotFound")

    do_HEAD = do_GET

    def _api(self, repository: str, kind: str, revision: str) -> None:
        if not any(name == repository for name, _ in self.server.commits):
            self._missing("RepoNotFound")
        elif (held := self.server.files(repository, revision)) is None:
            self._missing("RevisionNotFound")
        elif kind == "tree":
            entries = [
                {"type": "file", "path": name, "size": len(content), "oid": _etag(content)}
                for name, content in held[1].items()
            ]
            self._json(entries)
        else:
            siblings = [{"rfilename": name} for name in held[1]]
            self._json({"id": repository, "modelId": repository, "sha": held[0],
                        "private": False, "tags": [], "siblings": siblings})  # fmt: skip

    def _file(self, repository: str, revision: str, name: str) -> None:
        held = self.server.files(repository, revision)
        if held is None or name not in held[1]:
            self._missing("RevisionNotFound" if held is None else "EntryNotFound")
            return
        content = held[1][name]
        self._send(200, content, {"ETag": f'"{_etag(content)}"', "X-Repo-Commit": held[0]})

    def _json(self, content: Any) -> None:
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _missing(self, code: str) -> None:
        self._send(404, b"{}", {"X-Error-Code": code})

    def _send(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Nothing: the tests' output is the tests'."""


def _etag(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextlib.contextmanager
def serving(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that this process asks for what it downloads, into a cache of its own."""
    from huggingface_hub import constants

    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        # What HF_ENDPOINT and HF_HUB_CACHE set when the library is imported.
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
