"""A server here that answers as Zenodo does and fails as a test wants it to, and recordings for it."""

import email.utils
import hashlib
import io
import json
import re
import tarfile
import threading
import time
import wave
import zipfile
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
import pytest

from klann_lightning.download.command import download
from klann_lightning.download.fetch import BLOCK as BLOCK
from klann_lightning.download.fetch import amount
from klann_lightning.download.link import Patience
from klann_lightning.errors import DownloadError

NUMBER = 7271558
Act = Callable[["Handler", bytes], None]


class Handler(BaseHTTPRequestHandler):
    """A request is answered by the next act that is planned for its path, or as it should be."""

    protocol_version = "HTTP/1.1"
    server: "RecordServer"

    def do_GET(self) -> None:
        path = unquote(self.path)
        self.server.asked.append((path, dict(self.headers)))
        planned = self.server.plan.get(path, [])
        body = self.server.body(path)
        try:
            if planned:
                planned.pop(0)(self, body or b"")
            elif body is None:
                status(404)(self, b"")
            else:
                proper(self, body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def head(self, code: int, length: int | None = None, **headers: str) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if length is None:  # its end is that of the connection
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


class RecordServer(ThreadingHTTPServer):
    """`files` are the record's, `plan` the acts for a path, `asked` the paths and headers that came."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.ended = files, threading.Event()
        self.plan: dict[str, list[Act]] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.change: Callable[[dict[str, Any]], Any] = lambda record: record
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def __exit__(self, *_: Any) -> None:
        self.ended.set()
        self.shutdown()
        self._thread.join()
        self.server_close()

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/api/records/{NUMBER}"

    def path(self, name: str) -> str:
        return f"/api/records/{NUMBER}/files/{name}/content"

    def ranges(self, name: str) -> list[str]:
        """Of every request for a file, the range; empty where all of it was asked for."""
        return [headers.get("Range", "") for path, headers in self.asked if path == self.path(name)]

    def body(self, path: str) -> bytes | None:
        if path == f"/api/records/{NUMBER}":
            return json.dumps(self.change(self.record())).encode()
        return next((data for name, data in self.files.items() if path == self.path(name)), None)

    def record(self) -> dict[str, Any]:
        """As Zenodo has answered since 2023."""
        return {
            "id": NUMBER,
            "doi": f"10.5281/zenodo.{NUMBER}",
            "title": "Fuzz and compressors",
            "links": {"self": self.api},
            "metadata": {
                "title": "Fuzz and compressors",
                "doi": f"10.5281/zenodo.{NUMBER}",
                "publication_date": "2022-11-02",
                "creators": [
                    {"name": "Comunità, Marco", "affiliation": "QMUL"},
                    {"name": "Reiss, Joshua D."},
                ],
                "license": {"id": "cc-by-4.0"},
            },
            "files": [
                {
                    "id": "0b7c",
                    "key": name,
                    "size": len(data),
                    "checksum": f"md5:{hashlib.md5(data).hexdigest()}",
                    "links": {"self": f"{self.api}/files/{quote(name, safe='')}/content"},
                }
                for name, data in self.files.items()
            ],
        }


def tag_of(data: bytes) -> str:
    return f'"md5:{hashlib.md5(data).hexdigest()}"'


def proper(handler: Handler, body: bytes, most: int | None = None, pause: float = 0.0) -> None:
    """What was asked for, a range too, if it is of this version; at most so many bytes of it, and slowly."""
    found = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    start = int(found[1]) if found and handler.headers.get("If-Range") in (None, tag_of(body)) else 0
    headers = {"ETag": tag_of(body)}
    if start >= len(body) > 0:
        handler.head(416, 0, Content_Range=f"bytes */{len(body)}")
        return
    if start:
        headers["Content_Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
    handler.head(206 if start else 200, len(body) - start, **headers)
    part = body[start:] if most is None else body[start : start + most]
    for first in range(0, len(part), 1 << 16):
        handler.wfile.write(part[first : first + (1 << 16)])
        time.sleep(pause)
    handler.close_connection = most is not None


def breaks(after: int) -> Act:
    return lambda handler, body: proper(handler, body, most=after)


def slow(pause: float) -> Act:
    return lambda handler, body: proper(handler, body, pause=pause)


def no_ranges(after: int | None = None) -> Act:
    def act(handler: Handler, body: bytes) -> None:
        del handler.headers["Range"]
        proper(handler, body, most=after)

    return act


def sends(data: bytes, length: int | None = None, code: int = 200, **headers: str) -> Act:
    """Whatever was asked for."""

    def act(handler: Handler, _: bytes) -> None:
        handler.head(code, length, **headers)
        handler.wfile.write(data)
        handler.close_connection = length is None

    return act


def status(code: int, **headers: str) -> Act:
    return sends(b"", 0, code, **headers)


def hangs(handler: Handler, _: bytes) -> None:
    handler.server.ended.wait(10)
    handler.close_connection = True


def http_date(seconds: float) -> str:
    return email.utils.formatdate(time.time() + seconds, usegmt=True)


QUICK = Patience(tries=4, pause=0.001, longest=30, silence=5)
RANDOM = np.random.default_rng(0)


def wav(frames: int = 40_000, rate: int = 44100) -> bytes:
    """Noise, 16 bit, mono."""
    made = io.BytesIO()
    with wave.open(made, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(RANDOM.integers(-(2**15), 2**15, frames, dtype=np.int16).tobytes())
    return made.getvalue()


def pairs(*devices: str) -> dict[str, bytes]:
    names = (
        f"{split}/{device}-{side}.wav"
        for device in devices
        for split in ("train", "val", "test")
        for side in ("input", "target")
    )
    return {name: wav() for name in names}


LA2A, FUZZ = pairs("la2a"), pairs("fuzz-A1")
BOTH = LA2A | FUZZ


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return made.getvalue()


def tarred(members: dict[str, bytes], mode: str = "w", **info: object) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode=mode) as file:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            for key, value in info.items():
                setattr(member, key, value)
            file.addfile(member, io.BytesIO(data))
    return made.getvalue()


ARCHIVE = zipped({f"data/{name}": data for name, data in BOTH.items()} | {"data/README.md": b"# read\n"})
SIZE = amount(len(ARCHIVE))


def recordings(root: Path) -> dict[str, bytes]:
    found = (path for split in ("train", "val", "test") for path in (root / split).glob("*"))
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in found}


def kept(root: Path) -> list[str]:
    return sorted(path.name for path in (root / ".download").iterdir() if path.name != "lock")


def get(server: RecordServer, root: Path, *devices: str, patience: Patience = QUICK) -> None:
    download(devices, root, server.api, patience)


def refused(server: RecordServer, root: Path, words: str, *devices: str, patience: Patience = QUICK) -> str:
    with pytest.raises(DownloadError, match=words) as caught:
        get(server, root, *devices, patience=patience)
    return str(caught.value)
