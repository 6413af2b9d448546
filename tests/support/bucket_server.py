"""A bucket on the loopback: as much of Cloud Storage's JSON API as gcsfs and TensorStore ask of it."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

#: Seconds since 1970 would do as well; a client only shows it.
_WHEN = "2026-01-01T00:00:00.000Z"


class Bucket(ThreadingHTTPServer):
    """objects: name -> (content, generation), of one bucket, whatever it is called."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, tuple[bytes, int]] = {}
        self.sessions: dict[str, tuple[str, bytearray]] = {}
        self.lock = threading.Lock()
        self.generation = 0
        self.full = False
        #: The object that fills the bucket; none after it is taken.
        self.last: str | None = None

    def handle_error(self, *_: object) -> None:
        """A client that breaks off is none of the server's errors."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def environment(self) -> dict[str, str]:
        """By which gcsfs and TensorStore take this server for Google's."""
        return {
            "STORAGE_EMULATOR_HOST": self.url,
            "TENSORSTORE_GCS_HTTP_URL": self.url,
            "TENSORSTORE_GCS_HTTP_VERSION": "1.1",
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        }

    def put(self, name: str, content: bytes) -> dict[str, Any]:
        self.generation += 1
        self.objects[name] = (content, self.generation)
        self.full = self.full or name == self.last
        return self.describe(name)

    def describe(self, name: str) -> dict[str, Any]:
        content, generation = self.objects[name]
        return {
            "kind": "storage#object", "name": name, "bucket": "bucket", "size": str(len(content)),
            "generation": str(generation), "metageneration": "1", "updated": _WHEN, "timeCreated": _WHEN,
            "etag": str(generation), "contentType": "application/octet-stream",
        }  # fmt: skip


@contextlib.contextmanager
def serving() -> Iterator[Bucket]:
    """A bucket, until the context ends."""
    with Bucket() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Bucket

    def log_message(self, *_: object) -> None:
        """Nothing is said."""

    def do_GET(self) -> None:
        self._answer()

    do_POST = do_PUT = do_DELETE = do_GET

    def _answer(self) -> None:
        body = self._body()
        with self.server.lock:
            self._route(self.command, self.path, body)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _send(self, status: int, content: bytes | dict[str, Any] = b"", **headers: str) -> None:
        if isinstance(content, dict):
            content, headers["Content-Type"] = json.dumps(content).encode(), "application/json"
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _route(self, method: str, path: str, body: bytes) -> None:
        parts = urlsplit(path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        result = re.fullmatch(
            r"(/upload|/download)?/storage/v1/b/([^/]+)(/o(?:/(.+))?)?", parts.path
        )
        if parts.path.startswith("/batch/"):
            self._batch(body)
        elif result is None:
            self._send(404, {"error": {"code": 404, "message": f"no {method} {path}"}})
        elif result[1] == "/upload":
            self._upload(method, query, body)
        elif result[3] is None:
            self._send(200, {"kind": "storage#bucket", "name": result[2], "id": result[2]})
        elif result[4] is None:
            self._list(query)
        elif copied := re.fullmatch(r"(.+)/(rewriteTo/b/[^/]+|moveTo)/o/(.+)", result[4]):
            self._copy(unquote(copied[1]), unquote(copied[3]), moved=copied[2] == "moveTo")
        elif method == "DELETE":
            self._send(*self._delete(unquote(result[4]), query))
        else:
            self._read(unquote(result[4]), query, bool(result[1]) or query.get("alt") == "media")

    def _missing(self, name: str) -> dict[str, Any]:
        return {"error": {"code": 404, "message": f"No such object: {name}"}}

    def _fits(self, name: str, query: dict[str, str]) -> bool:
        """Whether the object is of the generation that the client wants; 0 is none."""
        wanted = query.get("ifGenerationMatch")
        return wanted is None or int(wanted) == self.server.objects.get(name, (b"", 0))[1]

    def _read(self, name: str, query: dict[str, str], media: bool) -> None:
        if name not in self.server.objects:
            self._send(404, self._missing(name))
            return
        if not media:
            self._send(200, self.server.describe(name))
            return
        content, generation = self.server.objects[name]
        if not self._fits(name, query):
            self._send(412)
            return
        if query.get("ifGenerationNotMatch") == str(generation):
            self._send(304)
            return
        more = {"x_goog_generation": str(generation), "ETag": str(generation)}
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "")
        if wanted is None:
            self._send(200, content, **more)
            return
        first, last = wanted[1], wanted[2]
        start = int(first) if first else max(len(content) - int(last), 0)
        stop = min(int(last) + 1, len(content)) if first and last else len(content)
        if start >= len(content):
            self._send(416)
            return
        self._send(
            206, content[start:stop],
            Content_Range=f"bytes {start}-{stop - 1}/{len(content)}", **more,
        )  # fmt: skip

    def _list(self, query: dict[str, str]) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        items, folders = [], set()
        for name in sorted(self.server.objects):
            if not name.startswith(prefix) or name < query.get("startOffset", ""):
                continue
            if "endOffset" in query and name >= query["endOffset"]:
                continue
            rest = name[len(prefix) :]
            if delimiter and delimiter in rest:
                folders.add(prefix + rest.split(delimiter)[0] + delimiter)
            else:
                items.append(self.server.describe(name))
        self._send(200, {"kind": "storage#objects", "items": items, "prefixes": sorted(folders)})

    def _copy(self, source: str, target: str, *, moved: bool) -> None:
        if source not in self.server.objects:
            self._send(404, self._missing(source))
            return
        made = self.server.put(target, self.server.objects[source][0])
        if moved:
            del self.server.objects[source]
        self._send(200, {"kind": "storage#rewriteResponse", "done": True, "resource": made, **made})

    def _delete(self, name: str, query: dict[str, str]) -> tuple[int, dict[str, Any] | bytes]:
        if not self._fits(name, query):
            return 412, b""
        if self.server.objects.pop(name, None) is None:
            return 404, self._missing(name)
        return 204, b""

    def _upload(self, method: str, query: dict[str, str], body: bytes) -> None:
        kind = query.get("uploadType")
        if self.server.full:
            self._send(403, {"error": {"code": 403, "message": "the quota of the bucket is spent"}})
        elif "upload_id" in query:
            self._go_on(query["upload_id"], body)
        elif kind == "resumable":
            number = str(len(self.server.sessions))
            name = query.get("name") or json.loads(body)["name"]
            self.server.sessions[number] = (name, bytearray())
            place = f"{self.server.url}{urlsplit(self.path).path}?upload_id={number}"
            self._send(200, Location=place)
        else:
            name, content = query.get("name", ""), body
            if kind == "multipart":
                mark = re.search(r"boundary=['\"]?([^'\";]+)", self.headers["Content-Type"])
                assert mark is not None
                error, content = (
                    part.split(b"\n\n" if b"\r\n\r\n" not in part else b"\r\n\r\n", 1)[1]
                    for part in body.split(b"--" + mark[1].encode())[1:3]
                )
                name = json.loads(error)["name"]
                content = content.removesuffix(b"\n").removesuffix(b"\r")
            if self._fits(name, query):
                self._send(200, self.server.put(name, content))
            else:
                self._send(412)

    def _go_on(self, number: str, body: bytes) -> None:
        name, content = self.server.sessions[number]
        content += body
        total = (self.headers.get("Content-Range") or "").rpartition("/")[2]
        if total in ("", "*") or int(total) > len(content):
            if content:
                self._send(308, Range=f"bytes=0-{len(content) - 1}")
            else:
                self._send(308)
            return
        self._send(200, self.server.put(name, bytes(content)))

    def _batch(self, body: bytes) -> None:
        mark = re.search(r"boundary=['\"]?([^'\";]+)", self.headers["Content-Type"])
        assert mark is not None
        answers = []
        for part in body.split(b"--" + mark[1].encode())[1:-1]:
            asked = re.search(rb"DELETE \S*?/o/(\S+)", part)
            assert asked is not None, part
            status, content = self._delete(unquote(asked[1].split(b"?")[0].decode()), {})
            text = json.dumps(content) if content else ""
            answers.append(
                f"--answer\r\nContent-Type: application/http\r\n\r\nHTTP/1.1 {status} \r\n"
                f"Content-Length: {len(text)}\r\n\r\n{text}\r\n"
            )
        whole = "".join(answers) + "--answer--\r\n"
        self._send(200, whole.encode(), Content_Type="multipart/mixed; boundary=answer")
