"""How a page was made, so that it can be made again: command, versions, data, checkpoints, configurations."""

import hashlib
import platform
import shlex
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch

from klann_lightning import __version__
from klann_lightning.data.pairs import find_pairs
from klann_lightning.measuring import machine
from klann_lightning.report.heard import Namer
from klann_lightning.report.sources import Source

CONFIGURATIONS = "configurations"


class Wanted(NamedTuple):
    """What a page is to show, as the command line says it."""

    checkpoints: Sequence[str]
    extra: Sequence[str] = ()
    root: Path | None = None
    device: str | None = None
    split: str = "test"
    seconds: float = 30.0  # of every take that are heard
    title: str | None = None
    prune: bool = False

    def command(self, out: Path) -> str:
        """The command line that makes the page again.

        >>> Wanted(["a b.ckpt"], split="val").command(Path("out"))
        "python -m klann_lightning report out 'a b.ckpt' --split=val"
        """
        words = [str(out), *self.checkpoints, *(f"--extra={word}" for word in self.extra)]
        for name in ("root", "device", "split", "seconds", "title"):
            if (value := getattr(self, name)) != self._field_defaults[name]:
                words.append(f"--{name}={value}")
        words += ["--prune"] * self.prune
        return f"python -m klann_lightning report {shlex.join(words)}"


def facts(
    settings: Mapping[str, dict[str, Any]], sources: Sequence[Source], out: Path, wanted: Wanted
) -> list[tuple[str, str]]:
    """What stands on the page of it, by name; `settings` are each device's of PairedDataModule."""
    here = machine(torch.device("cpu"))
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "lightning", "numpy", "scipy"))
    told = [
        ("Command", wanted.command(out)),
        ("Versions", f"klann_lightning {__version__}, Python {platform.python_version()}, {libraries}"),
        ("Machine", f"{here.device}, {here.threads} threads"),
    ]
    for device, data in settings.items():
        names = [data["device"]] if isinstance(data["device"], str) else data["device"]
        for pair in find_pairs(Path(data["root"]), wanted.split, names):
            digests = [f"{path.name} {_digest(path)}" for path in pair]
            told.append((f"Recordings of {device}, SHA-256", "\n".join(digests)))
    for source in sources:
        name = ", ".join(filter(None, (source.device, source.system, source.stage)))
        told.append((name, f"{source.checkpoint}\nSHA-256 {_digest(source.checkpoint)}"))
    return told


def copied_configurations(sources: Sequence[Source], out: Path, key: Namer) -> list[tuple[str, str]]:
    """Each run's configuration, which `fit --config FILE` trains again: what it is called, and where."""
    found = {source.config: source for source in sources if source.config is not None}
    listed = []
    for path, source in found.items():
        place = out / CONFIGURATIONS / f"{key('configuration', source.device, source.system)}.yaml"
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
        listed.append((f"{source.device}, {source.system}", place.relative_to(out).as_posix()))
    return listed


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
