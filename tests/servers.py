"""A PostgreSQL server of the tests' own, and where its programs are."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def postgres_programs() -> Path | None:
    """The folder of initdb and pg_ctl, which Debian keeps off the path."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "pg_ctl").is_file()), None)


class Postgres:
    """A server on a free port of this machine, with an empty database; it refuses to be root's."""

    def __init__(self, programs: Path) -> None:
        self.programs = programs
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="klann-postgres-"))
        self.user = None
        if os.getuid() == 0:
            self.user = "postgres" if _exists("postgres") else "nobody"
            shutil.chown(self.folder, self.user)
        self._run("initdb", "--auth=trust", "--username=postgres", "--no-sync")
        self.start()
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        self._run("pg_ctl", "start", "--wait", f"--log={self.folder / 'log'}", f"--options={options}")

    def stop(self, mode: str = "fast") -> None:
        self._run("pg_ctl", "stop", "--wait", f"--mode={mode}")

    def remove(self) -> None:
        self.stop("immediate")
        shutil.rmtree(self.folder)

    def _run(self, program: str, *words: str) -> None:
        command = [str(self.programs / program), f"--pgdata={self.folder / 'data'}", *words]
        log = self.folder.parent / f"{self.folder.name}.out"
        with log.open("ab") as output:  # a pipe would stay open as long as the server
            subprocess.run(command, check=True, user=self.user, stdout=output, stderr=output, cwd="/")
        log.unlink()


class GrpcProxy:
    """Optuna's gRPC proxy before a storage, in a process of its own."""

    def __init__(self, python: str, url: str) -> None:
        port = free_port()
        script = (
            "from optuna.storages import run_grpc_proxy_server as serve; "
            "from klann_lightning.sweep.storage import open_storage; "
            f"serve(open_storage({url!r}), host='127.0.0.1', port={port})"
        )
        self.process = subprocess.Popen([python, "-W", "ignore", "-c", script], stderr=subprocess.DEVNULL)
        self.url = f"grpc://127.0.0.1:{port}"
        wait_until(lambda: _listens(port), 60)

    def remove(self) -> None:
        self.process.kill()
        self.process.wait()


def wait_until(holds, seconds: float, every: float = 0.1) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(every)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True
