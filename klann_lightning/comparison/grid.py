"""The grid file of a comparison: which devices, which systems, how often, for how long."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from jsonargparse import ArgumentError, ArgumentParser

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
        parts = self.device, self.system, str(self.seed)
        return "/".join(part.replace("/", "-").replace(" ", "_") for part in parts)


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
    if not grid.minutes > 0:
        raise ConfigError(f"minutes must be above 0, not {grid.minutes:g}")
    for name, values in (("devices", grid.devices), ("systems", grid.systems), ("seeds", grid.seeds)):
        if not values:
            raise ConfigError(f"{name} are none; name at least one")
    if len(set(grid.seeds)) < len(grid.seeds):
        raise ConfigError(f"seeds {grid.seeds} name one twice")
    for name, system in grid.systems.items():
        known = set(grid.devices)
        if unknown := sorted({*system.epochs, *(system.devices or [])} - known):
            raise ConfigError(
                f"system {name} speaks of {', '.join(unknown)}; the devices are {', '.join(grid.devices)}"
            )
