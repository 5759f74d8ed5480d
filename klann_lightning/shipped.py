"""The experiments that come with the package, copied into a folder of one's own."""

import shutil
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from tempfile import TemporaryDirectory

from klann_lightning.errors import ConfigError

NAME = "sweeps"
SOURCE = Path(__file__).parents[1] / NAME  # where the package is used from its source
MARK = "recipes/fast.yaml"  # a file that tells the folder from another one of that name


def experiments() -> Path:
    """The folder of the experiments: the source's, or what an installation has put beside its programs."""
    if (SOURCE / MARK).is_file():
        return SOURCE
    try:
        installed = [Path(str(file.locate())) for file in files("klann_lightning") or []]
    except PackageNotFoundError:
        installed = []
    for path in installed:
        if path.as_posix().endswith(f"{NAME}/{MARK}"):
            return path.resolve().parents[1]
    raise ConfigError(
        f"the experiments ({NAME}/) are neither beside the package nor installed with it. Install "
        "klann_lightning by pip, or use it from its source."
    )


def write_experiments(folder: Path) -> Path:
    """Copy them into `folder`/sweeps, which must not be there -> that folder."""
    out = folder / NAME
    if out.exists():
        raise ConfigError(f"{out} is there already, and nothing is overwritten. Name another folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder) as aside:  # all of it, or nothing
            shutil.copytree(experiments(), Path(aside) / NAME).rename(out)
    except OSError as error:
        raise ConfigError(
            f"{out} cannot be written: {error.strerror or error}. Name another folder."
        ) from error
    return out
