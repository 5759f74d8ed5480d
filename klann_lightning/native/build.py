"""Builds the compiled passes over audio for this processor, once, and loads them."""

import atexit
import ctypes
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import threading
from functools import cache
from hashlib import sha256
from pathlib import Path

FOLDER = Path(__file__).parent
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
CHOICES = [["-march=native", "-fopenmp"], ["-march=native", "-fopenmp-simd"], ["-fopenmp-simd"], []]
TIMEOUT = 120  # seconds that the compiler may take; it needs four
FAULTS = (OSError, subprocess.SubprocessError, RuntimeError, ValueError)  # of all that is tried here

_lock = threading.Lock()


def wanted() -> bool:
    """Whether the user lets us compile."""
    return os.environ.get("KLANN_COMPILE") != "0"


def start() -> None:
    """Build in the background, while the caller imports what it needs; `library` says what went wrong."""
    if wanted():
        threading.Thread(target=_built).start()


@cache
def library() -> ctypes.CDLL | None:
    """The compiled passes, built first where the cache lacks them; None where they cannot be.

    The cache is `klann_lightning/` in XDG_CACHE_HOME or ~/.cache, a file for every source, compiler and
    processor. Without a compiler a line is logged, and everything runs slower, with the same results to
    rounding. CXX in the environment names another compiler; KLANN_COMPILE=0 leaves all of this out.
    """
    if not wanted():
        return None
    for _ in range(2):  # once more for a file that is damaged, or of another system that shares the folder
        built = _built()
        if isinstance(built, Exception):
            fault = built
            break
        try:
            return ctypes.CDLL(str(built))
        except OSError as error:
            fault = error
            built.unlink(missing_ok=True)
            _build.cache_clear()
    logging.getLogger(__name__).warning(
        "training and playing will be several times slower: %s. Install g++, or name a C++ compiler in "
        "CXX; KLANN_COMPILE=0 silences this.",
        reason(fault),
    )
    return None


def _built() -> "Path | Exception":
    """The library's file, or what kept it from being built; tried once a process."""
    with _lock:
        return _build()


@cache
def _build() -> Path | Exception:
    try:
        compiler = find_compiler()
        name = f"native-{_fingerprint(compiler)}.so"
        cached = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "klann_lightning"
        if (cached / name).is_file():
            return cached / name
        target = (cached if _writable(cached) else _private_folder()) / name
        _compile(compiler, target)
        return target
    except FAULTS as error:
        return error


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _private_folder() -> Path:
    """For this process alone: the cache would be code that others could have put there."""
    folder = Path(tempfile.mkdtemp(prefix="klann_lightning-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def find_compiler() -> list[str]:
    """The command of a C++ compiler."""
    named = shlex.split(os.environ.get("CXX", ""))
    for command in [named] if named else [["c++"], ["g++"], ["clang++"]]:
        if shutil.which(command[0]):
            return command
    raise FileNotFoundError(
        f"no C++ compiler was found, {named[0] if named else 'neither c++ nor g++ nor clang++'}"
    )


def _fingerprint(compiler: list[str]) -> str:
    """Of all that decides what the library is: source, flags, compiler, processor, C library."""
    decisive = [path.read_bytes() for path in sorted(FOLDER.glob("*.[ch]pp"))]
    for flags in (["-march=native"], []):  # macros name the compiler's version and the processor's abilities
        macros = [*compiler, *flags, "-E", "-dM", "-x", "c++", os.devnull]
        decisive.append(subprocess.run(macros, capture_output=True, timeout=TIMEOUT).stdout)
    decisive.append(repr((FLAGS, CHOICES, platform.machine(), platform.libc_ver())).encode())
    return sha256(b"\n".join(decisive)).hexdigest()[:16]


def _compile(compiler: list[str], target: Path) -> None:
    """Compile to `target`; a process that is stopped half-way leaves nothing under that name."""
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        output, empty = Path(folder) / target.name, Path(folder) / "empty.cpp"
        empty.touch()
        for choice in CHOICES:  # tried on nothing, so that no other failure counts as a refusal
            command = [*compiler, *FLAGS, *choice, "-o", str(output)]
            if not _run([*command, str(empty)], check=choice == CHOICES[-1]):
                _run([*command, *map(str, sorted(FOLDER.glob("*.cpp")))], check=True)
                os.replace(output, target)
                return


def _run(command: list[str], check: bool) -> int:
    """The compiler's exit code; one that was stopped by a signal is always an error."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, errors="replace")
    if done.returncode < 0 or check:
        done.check_returncode()
    return done.returncode


def reason(error: Exception) -> str:
    """One line."""
    said = getattr(error, "stderr", None) or str(error) or type(error).__name__
    lines = (said.decode(errors="replace") if isinstance(said, bytes) else said).splitlines()
    telling = (line for line in lines if "error" in line and not line.startswith("collect2"))
    return next(telling, lines[0]).strip().rstrip(".")
