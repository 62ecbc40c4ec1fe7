"""A stand-in for Google Cloud Storage on loopback: its JSON API, as far as our libraries use it.

gcsfs and google-cloud-storage find it by STORAGE_EMULATOR_HOST, TensorStore by
TENSORSTORE_GCS_HTTP_URL: they speak real HTTP to it, from any process. Objects are held in memory,
and as in the real one each write gives an object a new generation, that a condition can name;
there are no folders, no renames and no appends.

gcp-storage-emulator (2026.7) was tried and ignores conditions on generations, which locks and
appends stand on; it also cannot stop a request half-way, for a client to be killed just there.
"""

import base64
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, unquote, urlsplit

PAGE = 50
"""Names in one answer to a listing; small, so that pages are turned."""


ENVIRONMENT = {
    # Nobody is asked who they are; the libraries would look for Google's machines first.
    "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
    "FSSPEC_GCS_TOKEN": "anon",
    # It asks by gRPC, which is not spoken here, for the kind of each bucket.
    "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
}
"""To be set before the libraries are imported, which read some of it then."""


@dataclass
class Object:
    """One object: its bytes, which never change, and the generation that they are."""

    data: bytes
    generation: int
    created: str
    metadata: dict[str, str] = field(default_factory=dict)


class Refused(Exception):
    """An answer other than success."""

    def __init__(self, status: int, reason: str) -> None:
        self.status, self.reason = status, reason


class BucketServer:
    """Buckets on a free port of loopback; a context manager.

    `objects` maps (bucket, name) to Object and may be read and changed by a test.
    """

    def __init__(self, *buckets: str) -> None:
        self.buckets = set(buckets)
        self.objects: dict[tuple[str, str], Object] = {}
        self.uploaded: Counter[str] = Counter()
        """Bytes sent to be stored, by object name."""
        self.downloads: Counter[str] = Counter()
        """Requests for the content of an object, by its name."""
        self.requests: Counter[str] = Counter()
        """Requests by method."""
        self.lock = threading.RLock()
        self.sessions: dict[str, tuple[str, str, dict[str, str], bytes]] = {}
        self._generation = int(time.time() * 1e6)
        self._holds: Callable[[str, str], bool] = lambda method, name: False
        self.held, self._released = threading.Event(), threading.Event()
        self._loses: Callable[[str, str], bool] = lambda method, name: False
        self.refuses: Callable[[str, str], bool] = lambda method, name: False
        self.refusal = 403
        outer = self

        class Handler(_Handler):
            server_of = outer

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self.environment = ENVIRONMENT | {
            "STORAGE_EMULATOR_HOST": self.url,
            "TENSORSTORE_GCS_HTTP_URL": self.url,
        }

    def __enter__(self) -> "BucketServer":
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
        self._http.shutdown()
        self._http.server_close()

    def names(self, bucket: str, prefix: str = "") -> list[str]:
        """Names of the objects there are, in order."""
        with self.lock:
            return sorted(n for b, n in self.objects if b == bucket and n.startswith(prefix))

    def hold(self, when: Callable[[str, str], bool]) -> None:
        """Let the first request for which `when(method, name)`, and all after it, go unanswered.

        `held` is set when that request has come. It was not carried out and never is, as that of a
        client that dies.
        """
        self.held.clear()
        self._released.clear()
        self._holds = when

    def lose_answer(self, when: Callable[[str, str], bool]) -> None:
        """Carry out the next request for which `when(method, name)`, and drop its connection."""
        self._loses = when

    def refuse(self, when: Callable[[str, str], bool]) -> None:
        """Forbid the requests for which `when(method, name)`."""
        self.refuses = when

    def loses(self, method: str, name: str) -> bool:
        if not self._loses(method, name):
            return False
        self._loses = lambda method, name: False
        return True

    def release(self) -> None:
        """Answer again; what was held is dropped."""
        self._holds = lambda method, name: False
        self._released.set()

    def wait_if_held(self, method: str, name: str) -> bool:
        """Whether this request is to be dropped, once it is known."""
        if not self.held.is_set() and not self._holds(method, name):
            return False
        if self._released.is_set():
            return False
        self.held.set()
        self._released.wait()
        self.held.clear()
        return True

    def put(self, bucket: str, name: str, data: bytes, query: dict[str, str]) -> Object:
        with self.lock:
            self.check(bucket, name, query)
            self._generation += 1
            now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + ".000Z"
            made = self.objects[bucket, name] = Object(data, self._generation, now)
            return made

    def check(self, bucket: str, name: str, query: dict[str, str]) -> Object | None:
        """The object, if the conditions of a request on it hold."""
        if bucket not in self.buckets:
            raise Refused(404, "The specified bucket does not exist.")
        found = self.objects.get((bucket, name))
        generation = found.generation if found else 0
        if "ifGenerationMatch" in query and int(query["ifGenerationMatch"]) != generation:
            raise Refused(412, "At least one of the pre-conditions you specified did not hold.")
        if "ifGenerationNotMatch" in query and int(query["ifGenerationNotMatch"]) == generation:
            raise Refused(304, "Not modified.")
        if "generation" in query and int(query["generation"]) != generation:
            raise Refused(404, f"No such object: {bucket}/{name}")
        return found

    def get(self, bucket: str, name: str, query: dict[str, str]) -> Object:
        with self.lock:
            found = self.check(bucket, name, query)
            if found is None:
                raise Refused(404, f"No such object: {bucket}/{name}")
            return found

    def resource(self, bucket: str, name: str, item: Object) -> dict[str, object]:
        """What the API tells of an object."""
        import google_crc32c

        crc = google_crc32c.value(item.data).to_bytes(4, "big")
        place = f"/storage/v1/b/{bucket}/o/{quote(name, safe='')}"
        return {
            "kind": "storage#object",
            "id": f"{bucket}/{name}/{item.generation}",
            "name": name,
            "bucket": bucket,
            "generation": str(item.generation),
            "metageneration": "1",
            "contentType": "application/octet-stream",
            "storageClass": "STANDARD",
            "size": str(len(item.data)),
            "crc32c": base64.b64encode(crc).decode(),
            "etag": str(item.generation),
            "timeCreated": item.created,
            "updated": item.created,
            "selfLink": self.url + place,
            "mediaLink": f"{self.url}/download{place}?generation={item.generation}&alt=media",
        }

    def listing(self, bucket: str, query: dict[str, str]) -> dict[str, object]:
        if bucket not in self.buckets:
            raise Refused(404, "The specified bucket does not exist.")
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        most = min(int(query.get("maxResults", PAGE)), PAGE)
        start, end = query.get("startOffset", ""), query.get("endOffset", "")
        items, prefixes, token, last = [], set(), query.get("pageToken", ""), ""
        with self.lock:
            for name in self.names(bucket, prefix):
                head, found, _ = name[len(prefix) :].partition(delimiter or "\0")
                shown = prefix + head + delimiter if delimiter and found else name
                if name < start or (end and name >= end) or (token and shown <= token):
                    continue
                if len(items) + len(prefixes) == most and shown not in prefixes:
                    answer = {"items": items, "prefixes": sorted(prefixes)}
                    return answer | {"kind": "storage#objects", "nextPageToken": last}
                if shown != name or (delimiter and found):
                    prefixes.add(shown)
                else:
                    items.append(self.resource(bucket, name, self.objects[bucket, name]))
                last = shown
        return {"kind": "storage#objects", "items": items, "prefixes": sorted(prefixes)}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    silent = False
    server_of: BucketServer

    def log_message(self, *_: object) -> None:
        pass

    def handle(self) -> None:
        with suppress(ConnectionError):  # a client was killed
            super().handle()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def _answer(self) -> None:
        server = self.server_of
        url = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        body = self._body()
        match = re.fullmatch(
            r"(/upload|/download|/resumable)?/storage/v1/b/([^/]+)(?:/o(?:/([^/]+))?(/.*)?)?",
            url.path,
        )
        if match is None:
            return self._send(404, b"{}")
        kind, bucket, name, action = match.groups()
        name = unquote(name or query.get("name", ""))
        if kind == "/upload" and not name:
            name = _named_in(self.headers, body)
        server.requests[self.command] += 1
        if server.wait_if_held(self.command, name):
            self.close_connection = True
            return None
        self.silent = server.loses(self.command, name + (action or ""))
        try:
            if server.refuses(self.command, name):
                raise Refused(server.refusal, "You do not have storage.objects.create access.")
            self._carry_out(kind, bucket, name, action, query, body, "/o" in url.path)
        except Refused as refusal:
            error = {"error": {"code": refusal.status, "message": refusal.reason}}
            self._send(refusal.status, b"" if refusal.status == 304 else json.dumps(error).encode())

    def _carry_out(
        self,
        kind: str | None,
        bucket: str,
        name: str,
        action: str | None,
        query: dict[str, str],
        body: bytes,
        of_objects: bool,
    ) -> None:
        server = self.server_of
        if kind in ("/upload", "/resumable"):
            return self._upload(bucket, name, query, body)
        if not of_objects:
            if bucket not in server.buckets:
                raise Refused(404, "The specified bucket does not exist.")
            return self._json({"kind": "storage#bucket", "name": bucket, "id": bucket})
        if not name:
            return self._json(server.listing(bucket, query))
        if action == "/compose":
            return self._compose(bucket, name, query, json.loads(body))
        if action:
            target = re.fullmatch(r"/(?:rewriteTo|copyTo)/b/([^/]+)/o/([^/]+)", action)
            if target is None:
                raise Refused(404, action)
            found = server.get(bucket, name, {})
            to_bucket, to_name = target[1], unquote(target[2])
            made = server.put(to_bucket, to_name, found.data, query)
            resource, size = server.resource(to_bucket, to_name, made), len(made.data)
            return self._json(
                {
                    "done": True,
                    "resource": resource,
                    "objectSize": size,
                    "totalBytesRewritten": size,
                }
            )
        if self.command == "DELETE":
            with server.lock:
                server.get(bucket, name, query)
                del server.objects[bucket, name]
            return self._send(204, b"")
        found = server.get(bucket, name, query)
        if query.get("alt") == "media":
            server.downloads[name] += 1
            return self._media(found)
        return self._json(server.resource(bucket, name, found))

    def _media(self, found: Object) -> None:
        headers = {"x-goog-generation": str(found.generation), "ETag": f'"{found.generation}"'}
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            return self._send(200, found.data, headers)
        size = len(found.data)
        start = int(wanted[1]) if wanted[1] else max(size - int(wanted[2]), 0)
        stop = min(int(wanted[2]) + 1, size) if wanted[1] and wanted[2] else size
        if start >= size:
            return self._send(416, b"", {"Content-Range": f"bytes */{size}"})
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        return self._send(206, found.data[start:stop], headers)

    def _compose(self, bucket: str, name: str, query: dict[str, str], asked: dict) -> None:
        server = self.server_of
        with server.lock:
            parts = []
            for source in asked["sourceObjects"]:
                parts.append(server.get(bucket, source["name"], {}).data)
            made = server.put(bucket, name, b"".join(parts), query)
        self._json(server.resource(bucket, name, made))

    def _upload(self, bucket: str, name: str, query: dict[str, str], body: bytes) -> None:
        """In one request, as media or with its metadata, or in a session of several."""
        server = self.server_of
        if "upload_id" in query:
            return self._continue(query["upload_id"], body)
        if query["uploadType"] == "resumable":
            with server.lock:
                server.check(bucket, name, query)
                session = f"{len(server.sessions)}"
                server.sessions[session] = (bucket, name, query, b"")
            place = f"{server.url}/resumable/storage/v1/b/{bucket}/o?upload_id={session}"
            return self._send(200, b"{}", {"Location": place})
        if query["uploadType"] == "multipart":
            body = _parts(self.headers, body)[1]
        server.uploaded[name] += len(body)
        made = server.put(bucket, name, body, query)
        return self._json(server.resource(bucket, name, made))

    def _continue(self, session: str, body: bytes) -> None:
        server = self.server_of
        bucket, name, query, data = server.sessions[session]
        server.uploaded[name] += len(body)
        data += body
        server.sessions[session] = (bucket, name, query, data)
        if self.headers["Content-Range"].endswith("/*"):
            return self._send(308, b"", {"Range": f"bytes=0-{len(data) - 1}"})
        made = server.put(bucket, name, data, query)
        return self._json(server.resource(bucket, name, made))

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        if self.silent:
            self.close_connection = True
            return
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        if status not in (204, 304):
            self.send_header("Content-Length", str(len(body)))
        # One write: two, with the kernel waiting to join them, cost 40 ms.
        self._headers_buffer.append(b"\r\n" + body)
        self.flush_headers()


def _parts(headers: object, body: bytes) -> tuple[bytes, bytes]:
    """The two parts of a multipart upload: metadata, and the bytes to store."""
    boundary = re.search(r'boundary="?([^";]+)"?', headers["Content-Type"])[1].encode()  # type: ignore
    _, first, rest = body.split(b"--" + boundary, 2)
    second = rest[: rest.rindex(b"--" + boundary)]
    contents = []
    for part in (first, second):
        part = part.removeprefix(b"\r").removeprefix(b"\n")
        head = re.search(rb"\r?\n\r?\n", part)
        assert head is not None
        contents.append(part[head.end() :])
    data = contents[1]
    data = data[:-2] if data.endswith(b"\r\n") else data.removesuffix(b"\n")
    return contents[0], data


def _named_in(headers: object, body: bytes) -> str:
    """The name that is told in the metadata of an upload, where the URL has none."""
    kind = headers["Content-Type"] or ""  # type: ignore
    metadata = _parts(headers, body)[0] if kind.startswith("multipart") else body
    try:
        return json.loads(metadata)["name"]
    except (ValueError, KeyError):
        return ""


def forget_clients() -> None:
    """Drop what the libraries keep of a server for the life of a process."""
    import fsspec
    from etils.epath import backend

    from gpt_jax.train import storage

    storage._client.cache_clear()
    fsspec.get_filesystem_class("gcs").clear_instance_cache()
    backend.fsspec_backend._get_filesystem.cache_clear()
