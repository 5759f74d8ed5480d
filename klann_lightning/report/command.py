"""`report`: one folder with a page to listen to, look at and read models by."""

import shutil
from pathlib import Path

from klann_lightning.errors import ConfigError, KlannError
from klann_lightning.manners import say
from klann_lightning.measuring import prepare
from klann_lightning.report.assets import FIGURES, MODELS, PICTURES, SOUNDS
from klann_lightning.report.gathering import Gathering
from klann_lightning.report.making import CONFIGURATIONS, Wanted
from klann_lightning.report.page import BESIDE, write_page
from klann_lightning.report.sources import find_sources

MARK = ".klann-report"  # in a folder that a report has written


class ReportError(KlannError):
    """A report that cannot be written."""


def run(out: Path, wanted: Wanted) -> Path:
    """Write the page -> its index.html.

    Raises KlannError of a kind for what cannot be read, ReportError for what cannot be written.
    """
    if not wanted.seconds > 0:
        raise ConfigError(f"--seconds is to be above 0, not {wanted.seconds:g}")
    sources = find_sources(wanted.checkpoints, wanted.root, wanted.device)
    prepare("cpu", None)
    try:
        gathering = Gathering(sources, wanted)  # finds what is wrong before a former report is gone
        _claim(out)
        return write_page(gathering.write(out, say), out)
    except OSError as error:
        raise ReportError(
            f"cannot write {error.filename or out}: {error.strerror or error}. Free some space, or name "
            "another folder."
        ) from error


def _claim(out: Path) -> None:
    """Take the folder, unless it holds something else than a report; smaller checkpoints there stay."""
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / MARK).is_file()):
        raise ConfigError(f"{out} is there already and is no report. Name a new folder.")
    out.mkdir(parents=True, exist_ok=True)
    for name in (SOUNDS, FIGURES, PICTURES, MODELS, BESIDE, CONFIGURATIONS):
        shutil.rmtree(out / name, ignore_errors=True)
    (out / MARK).write_text("A report lies here; the next one may replace it.\n", encoding="utf-8")
    (out / "index.html").unlink(missing_ok=True)  # until all that it needs is there
