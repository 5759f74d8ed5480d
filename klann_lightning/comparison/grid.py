"""The grid file of a comparison: which devices, which systems, how often, for how long."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from jsonargparse import ArgumentError, ArgumentParser

from klann_lightning.configs import plain_name
from klann_lightning.errors import ConfigError


@dataclass
class System:
    """One line of the table."""

    fit: list[str]  # what fit's command line has besides the device's
    epochs: dict[str, int] = field(default_factory=dict)  # by device: as many as the minutes leave time for
    devices: list[str] | None = None  # only these


@dataclass
class Grid:
    """A grid file as it is written; docs/compare.md describes each field."""

    minutes: float  # of training, for every cell alike
    seeds: list[int]
    devices: dict[str, list[str]]  # name, and fit's command line
    systems: dict[str, System]


@dataclass(frozen=True)
class Cell:
    """One training of the grid."""

    device: str
    system: str
    seed: int
    words: tuple[str, ...]  # of fit's command line

    @property
    def name(self) -> str:
        """As its folder is called."""
        return "/".join(map(file_name, (self.device, self.system, str(self.seed))))


def file_name(name: str) -> str:
    """What a device or system is called on disk.

    >>> file_name("LSTM 32/64")
    'LSTM_32-64'
    """
    return name.replace("/", "-").replace(" ", "_")


def read_grid(path: Path) -> Grid:
    """The checked grid of a YAML file; ConfigError names the file and the mistake."""
    if not path.is_file():
        raise ConfigError(f"no such grid file: {path}. Those that come with it lie in sweeps/compare/.")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--seeds", type=list[int], default=[0])
    parser.add_argument("--devices", type=dict[str, list[str]], required=True)
    parser.add_argument("--systems", type=dict[str, System], required=True)
    try:
        grid = Grid(**vars(parser.instantiate(parser.parse_path(path))))
        _check(grid)
    except (ArgumentError, ConfigError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from error
    return grid


def cells(grid: Grid, words: tuple[str, ...]) -> Iterator[Cell]:
    """Every training, seed by seed, so that a table is soon there. `words` hold for all."""
    for seed in grid.seeds:
        for device, recording in grid.devices.items():
            for name, system in grid.systems.items():
                if system.devices is None or device in system.devices:
                    epochs = system.epochs.get(device, -1)  # -1: all of the recipe's
                    own = (*recording, *system.fit, f"--trainer.max_epochs={epochs}")
                    yield Cell(device, name, seed, (*own, *words))


def _check(grid: Grid) -> None:
    if not 0 < grid.minutes < math.inf:
        raise ConfigError(f"minutes must be above 0, not {grid.minutes:g}")
    for name, values in (("devices", grid.devices), ("systems", grid.systems), ("seeds", grid.seeds)):
        if not values:
            raise ConfigError(f"{name} are none; name at least one")
    if len(set(grid.seeds)) < len(grid.seeds) or min(grid.seeds) < 0:
        raise ConfigError(f"seeds {grid.seeds} are to be 0 or more, and none there twice")
    for name, system in grid.systems.items():
        _check_system(name, system, grid)
    for kind, names in (("device", grid.devices), ("system", grid.systems)):
        counts = Counter(plain_name(file_name(name), f"{kind} {name!r}: its folder") for name in names)
        if bad := [name for name in names if counts[file_name(name)] > 1]:
            raise ConfigError(f"{kind} {', '.join(map(repr, bad))}: folders need names, each its own")
    covered = {cell.device for cell in cells(grid, ())}
    if idle := [device for device in grid.devices if device not in covered]:
        raise ConfigError(f"no system is for device {', '.join(idle)}; leave it out, or name it in a system")


def _check_system(name: str, system: System, grid: Grid) -> None:
    if unknown := sorted({*system.epochs, *(system.devices or [])} - set(grid.devices)):
        raise ConfigError(
            f"system {name} speaks of {', '.join(unknown)}; the devices are {', '.join(grid.devices)}"
        )
    if system.devices == []:
        raise ConfigError(f"system {name} is for no device; name one, or leave out `devices` for all")
    if wrong := {device: epochs for device, epochs in system.epochs.items() if epochs < 1}:
        raise ConfigError(f"system {name} has epochs {wrong}; they are to be 1 or more")
