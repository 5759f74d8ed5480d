"""Builds the compiled passes over audio for this processor, once, loads and calls them."""

import ctypes
import logging
import os
import shlex
import shutil
import subprocess
import tempfile
import threading
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

SOURCES = sorted(Path(__file__).parent.glob("*.cpp"))
DTYPES = {"torch.float32": "float32", "torch.float64": "float64"}  # that every pass is compiled for
FLAGS = [
    "-O3",
    "-std=c++17",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fPIC",
    "-shared",
]
# The first that the compiler takes is used: Apple's has no OpenMP, and not every one knows its processor.
CHOICES = [["-march=native", "-fopenmp"], ["-march=native"], []]
TIMEOUT = 120  # seconds that the compiler may take; it needs four

_lock = threading.Lock()


def start() -> None:
    """Build in the background, while the caller imports what it needs; `library` says what went wrong."""

    def quietly() -> None:
        with suppress(OSError, subprocess.SubprocessError):
            _built()

    if wanted():
        threading.Thread(target=quietly).start()


def wanted() -> bool:
    """Whether the user lets us compile."""
    return os.environ.get("KLANN_COMPILE") != "0"


@cache
def library() -> ctypes.CDLL | None:
    """The compiled passes, built first where the cache lacks them; None where they cannot be.

    The cache is `klann_lightning/` in XDG_CACHE_HOME or ~/.cache, a file for every source, compiler and
    processor. Without a compiler a line is logged, and everything runs slower, with the same results to
    rounding. CXX in the environment names another compiler; KLANN_COMPILE=0 leaves all of this out.
    """
    if not wanted():
        return None
    try:
        return ctypes.CDLL(str(_built()))
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).splitlines()
        reason = next((line for line in said if "error" in line), said[0])
        logging.getLogger(__name__).warning("training and playing will be several times slower: %s", reason)
        return None


def call(name: str, dtype: object, *arguments: Any) -> None:
    """A function of the library for a torch dtype; tensors, which must be contiguous, go as pointers."""
    function = getattr(library(), f"klann_{name}_{DTYPES[str(dtype)]}")
    function(*(_as_c(argument) for argument in arguments))


def _as_c(value: Any) -> Any:
    if isinstance(value, int):
        return ctypes.c_int64(value)
    if isinstance(value, float):
        return ctypes.c_double(value)
    return ctypes.c_void_p(value.data_ptr()) if hasattr(value, "data_ptr") else value


def _built() -> Path:
    """The library's file; raises OSError or SubprocessError."""
    with _lock:
        compiler = _compiler()
        name = f"native-{_fingerprint(compiler)}.so"
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "klann_lightning"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return _compiled(compiler, folder / name)
        except PermissionError:
            return _compiled(compiler, Path(_private_folder()) / name)


@cache
def _private_folder() -> str:
    return tempfile.mkdtemp(prefix="klann_lightning-")


def _compiler() -> list[str]:
    """The command of a C++ compiler."""
    named = os.environ.get("CXX")
    for candidate in [named] if named else ["c++", "g++", "clang++"]:
        if shutil.which(shlex.split(candidate)[0]):
            return shlex.split(candidate)
    raise FileNotFoundError(f"no C++ compiler, neither {named or 'c++ nor g++ nor clang++'}, was found")


def _fingerprint(compiler: list[str]) -> str:
    """Of all that decides what the library is: source, flags, compiler, and what the processor can do."""
    macros = [*compiler, "-march=native", "-E", "-dM", "-x", "c++", os.devnull]
    processor = subprocess.run(macros, capture_output=True, timeout=TIMEOUT).stdout
    decisive = [*(source.read_bytes() for source in SOURCES), repr(FLAGS + CHOICES).encode(), processor]
    return sha256(b"\n".join(decisive)).hexdigest()[:16]


def _compiled(compiler: list[str], target: Path) -> Path:
    """Compile to `target` unless it is there; a process stopped half-way leaves nothing under its name."""
    if target.is_file():
        return target
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        output = Path(folder) / target.name
        for choice in CHOICES:
            command = [*compiler, *FLAGS, *choice, *map(str, SOURCES), "-o", str(output)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
            if done.returncode == 0:
                os.replace(output, target)
                return target
    raise subprocess.CalledProcessError(done.returncode, command, stderr=f"{compiler[0]}: {done.stderr}")
