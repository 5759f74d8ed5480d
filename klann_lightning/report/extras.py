"""What others have made of the recordings, to be heard beside the models: files, or folders of files."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from klann_lightning.comparison.scoring import Recordings, Samples, Take
from klann_lightning.errors import ConfigError
from klann_lightning.report.sources import named_path

ENDINGS = (".wav", ".flac")


@dataclass(frozen=True)
class Extra:
    """One system of somebody else's."""

    name: str  # as the user calls it, or its folder
    system: str  # what of a folder it is; else ""
    played: dict[str, dict[str, Samples]] = field(default_factory=dict)  # by device and take, [T]


def find_extras(words: Sequence[str], devices: Mapping[str, Recordings]) -> list[Extra]:
    """What the words [NAME=]PATH name: a file made of one take, or a folder of files `<take>-<system>.wav`.

    Which take a file was made of is seen by how its name begins; where there is but one take, it is that.
    Raises ConfigError for what is not there or was made of none of the takes, PairError for another length
    or sample rate than the take's.
    """
    extras: dict[tuple[str, str], Extra] = {}
    for word in words:
        name, path = named_path(word)
        found = list(_in_folder(path, devices) if path.is_dir() else _lone(path, devices))
        if not found:
            raise ConfigError(
                f"{path} has no recording that is called after a take, <take>-<system>.wav. The takes are "
                f"{', '.join(take.name for recordings in devices.values() for take in recordings.takes)}."
            )
        for file, system, device, take in found:
            called = name or (path.resolve().name if path.is_dir() else path.stem)
            extra = extras.setdefault((called, system), Extra(called, system))
            if take.name in extra.played.setdefault(device, {}):
                raise ConfigError(
                    f"--extra names two outputs of {take.name} {called!r}. Give each its own name."
                )
            extra.played[device][take.name] = devices[device].output_of(file, take)
    return list(extras.values())


Found = Iterator[tuple[Path, str, str, Take]]  # file, system, device, take


def _in_folder(folder: Path, devices: Mapping[str, Recordings]) -> Found:
    for file in sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS):
        for device, take in _taken(f"{file.stem}", devices, "-"):
            yield file, file.stem.removeprefix(f"{take.name}-"), device, take


def _lone(file: Path, devices: Mapping[str, Recordings]) -> Found:
    if not file.is_file():
        raise ConfigError(f"no such file or folder: {file}. --extra takes NAME=FILE.wav or NAME=FOLDER.")
    every = [(device, take) for device, recordings in devices.items() for take in recordings.takes]
    for device, take in _taken(file.stem, devices, "") or every * (len(every) == 1):
        yield file, "", device, take


def _taken(stem: str, devices: Mapping[str, Recordings], end: str) -> list[tuple[str, Take]]:
    """The take with the longest name that a file's name begins with, of every device that has it."""
    fitting = [
        (device, take)
        for device, recordings in devices.items()
        for take in recordings.takes
        if stem.startswith(f"{take.name}{end}")
    ]
    longest = max((len(take.name) for _, take in fitting), default=0)
    return [(device, take) for device, take in fitting if len(take.name) == longest]
