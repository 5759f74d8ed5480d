"""How fast the C++ runtime plays: `runtime/bench.cpp`, compiled and run here, one core, in blocks."""

import json
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from klann_lightning.errors import ConfigError
from klann_lightning.export.document import document, write_document
from klann_lightning.measuring import figure
from klann_lightning.models.base import AudioModel
from klann_lightning.native.build import FAULTS, TIMEOUT, find_compiler, reason, wanted
from klann_lightning.speed_figures import Runtime, RuntimeSpeed, Sizes

SOURCE = Path(__file__).parent / "runtime" / "bench.cpp"
FLAGS = ["-O3", "-std=c++17"]


def builds() -> dict[str, list[str]]:
    """What a player may be built for, and the compiler's options for it."""
    kind = platform.machine()
    every = {f"any {kind}": [], "this processor": ["-march=native"]}
    return every | ({"SSE2 alone": ["-DKLANN_OWN_ONLY"]} if kind in ("x86_64", "AMD64") else {})


def measure_runtime(models: Mapping[str, AudioModel], sizes: Sizes) -> Runtime:
    """Each of the models that can be written as C++, by each build that the compiler makes."""
    documents = dict(_documents(models))
    if not documents:
        return Runtime(None, None, [])
    if not wanted():
        return Runtime(None, "KLANN_COMPILE=0 keeps it from being built. Leave that out.", [])
    try:
        with TemporaryDirectory() as folder:
            return _measured(documents, sizes, Path(folder))
    except FAULTS as error:
        return Runtime(None, _missing("", error), [])


def _measured(documents: Mapping[str, dict[str, Any]], sizes: Sizes, folder: Path) -> Runtime:
    compiler = find_compiler()
    version = _output([*compiler, "--version"]).partition("\n")[0]
    programs, faults = _programs(compiler, folder)
    speeds = []
    for name, content in documents.items():
        write_document(folder / "model.json", content)
        duration = sizes.runtime_block / content["sample_rate"]
        for built, program in programs.items():
            often = sizes.runtime_block, sizes.runtime_blocks, sizes.runtime_repeats
            try:
                found = json.loads(_output([program, folder / "model.json", *often]))
            except FAULTS as error:
                faults.append(f"{name} as built for {built} does not run: {reason(error)}.")
            else:
                speeds.append(_speed(name, built, found, duration))
    return Runtime(version, " ".join(faults) or None, speeds)


def _documents(models: Mapping[str, AudioModel]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, model in models.items():
        try:
            yield name, document(model)
        except ConfigError:  # no KLANN: there is no C++ of it
            continue


def _programs(compiler: list[str], folder: Path) -> tuple[dict[str, Path], list[str]]:
    """The builds that could be made, and why others could not."""
    made: dict[str, Path] = {}
    faults = []
    for built, flags in builds().items():
        program = folder / built.replace(" ", "-")
        try:
            _output([*compiler, *FLAGS, *flags, SOURCE, "-o", program], TIMEOUT)
            made[built] = program
        except FAULTS as error:
            faults.append(_missing(f" as built for {built}", error))
    return made, faults


def _missing(which: str, error: Exception) -> str:
    return f"It is not measured{which}: {reason(error)}. Install g++, or name a C++ compiler in CXX."


def _speed(name: str, built: str, found: Mapping[str, Any], duration: float) -> RuntimeSpeed:
    """`duration`: seconds of sound in a block."""
    latency_us = figure(found["latency_us"])
    real_time = duration * 1e6 / latency_us.median
    worst = found["worst_us"] / found["quickest_us"]
    return RuntimeSpeed(name, built, latency_us, found["p999_us"], real_time, worst)


def _output(command: Sequence[object], timeout: float | None = None) -> str:
    words = [str(word) for word in command]
    return subprocess.run(words, capture_output=True, text=True, timeout=timeout, check=True).stdout
