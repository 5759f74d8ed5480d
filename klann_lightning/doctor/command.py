"""The `doctor` command: one pair or a folder of them, in words or JSON, mended and split on demand."""

import ctypes
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from klann_lightning.doctor.diagnose import Diagnosis, diagnose
from klann_lightning.doctor.findings import worst
from klann_lightning.doctor.mend import mend_pair
from klann_lightning.doctor.picture import save_figure
from klann_lightning.doctor.splits import input_levels, parse_shares, plan_splits, write_splits
from klann_lightning.doctor.telling import table, told
from klann_lightning.errors import ConfigError, PairError
from klann_lightning.manners import watched

STATUS = {None: 0, "note": 0, "harms": 1, "blocks": 2}
ROLES = {"input": "target", "dry": "wet"}
LEAST_GAP_SECONDS = 1.0  # between train, val and test, however short the device's memory


def run(
    paths: Sequence[Path],
    fix: Path | None = None,
    split: str | None = None,
    to: Path | None = None,
    figure: Path | None = None,
    as_json: bool = False,
) -> int:
    """Diagnose, print, mend; the exit status: 0 ready, 1 harmed, 2 blocked.

    Raises ConfigError for options that do not go together, PairError where mending or splitting fails.
    """
    if (split is None) != (to is None):
        raise ConfigError("--split and --to go together: --split 70/15/15 --to ROOT/DEVICE")
    pairs, many = _pairs(paths)
    if many and (to or figure):
        raise ConfigError("--split, --to and --figure are for one pair: name its input and target")
    shares = parse_shares(split) if split else None
    diagnoses = []
    with _clean_output():
        for index, (dry, wet) in enumerate(pairs):
            if many and watched():
                print(f"\r{index + 1} of {len(pairs)}", end="", file=sys.stderr, flush=True)
            diagnoses.append(diagnose(dry, wet))
    if many and watched():
        print("\r", end="", file=sys.stderr)
    said = [] if as_json else [table(diagnoses) if many else told(diagnoses[0])]
    for diagnosis in diagnoses:
        if fix is not None:
            said += _mend(diagnosis, _place(fix, diagnosis.input, paths) if many else fix)
    if shares and to:
        said += _split(diagnoses[0], shares, to)
    if figure is not None:
        save_figure(diagnoses[0], figure)
        said.append(f"figure: {figure}")
    if as_json:
        objects = [diagnosis.to_dict() for diagnosis in diagnoses]
        print(json.dumps(objects if many else objects[0], indent=2))
        said = [line for line in said if line]
        print("\n".join(said), file=sys.stderr, end="\n" if said else "")
    else:
        print("\n".join(said))
    return max(STATUS[worst(diagnosis.findings)] for diagnosis in diagnoses)


@contextmanager
def _clean_output() -> Iterator[None]:
    """What libsndfile prints about damaged files goes to standard error, not into the JSON."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        with suppress(OSError, TypeError, AttributeError):  # where C's library is not found by that name
            ctypes.CDLL(None).fflush(None)  # what waits in its buffer
        os.dup2(kept, 1)
        os.close(kept)


def _pairs(paths: Sequence[Path]) -> tuple[list[tuple[Path, Path]], bool]:
    """The pairs that are meant, and whether they were named by folders."""
    if len(paths) == 2 and not any(path.is_dir() for path in paths):
        return [(paths[0], paths[1])], False
    if not paths or not all(path.is_dir() for path in paths):
        raise ConfigError("name an input and a target, or folders that hold pairs")
    found = [pair for path in paths for pair in pairs_below(path)]
    if not found:
        raise PairError(
            f"no pairs below {', '.join(map(str, paths))}: a pair is NAME-input and NAME-target, or input "
            "and target in a folder of their own, of any audio format."
        )
    return found, True


def pairs_below(folder: Path) -> list[tuple[Path, Path]]:
    """Files that differ in nothing but input and target, or dry and wet, at the end of their names."""
    found = []
    for path in sorted(folder.rglob("*")):
        for dry, wet in ROLES.items():
            start = path.stem[: -len(dry)]
            if path.stem.lower().endswith(dry) and (not start or start[-1] in "-_ ."):
                others = [path.with_name(f"{start}{name}{path.suffix}") for name in (wet, wet.capitalize())]
                partner = next((other for other in others if other.is_file()), None)
                if path.is_file() and partner:
                    found.append((path, partner))
    return found


def _place(fix: Path, dry: Path, roots: Sequence[Path]) -> Path:
    """Below `fix`, as deep as the pair lies below the folder that was named: two may have one name."""
    own = next(root for root in roots if dry.is_relative_to(root))
    return fix / dry.parent.relative_to(own)


def _mend(diagnosis: Diagnosis, folder: Path) -> list[str]:
    if diagnosis.recipe is None:
        return ["", f"{diagnosis.input} is not mended: nothing is known of how to."]
    names = _names(diagnosis)
    sentences = mend_pair(diagnosis.input, diagnosis.target, diagnosis.recipe, folder, names)
    return ["", f"mended: {folder / names[0]}, {folder / names[1]}", *(f"  {one}" for one in sentences)]


def _names(diagnosis: Diagnosis) -> tuple[str, str]:
    """Names as `fit` wants them."""
    name = diagnosis.input.stem
    for role in ROLES:
        if name.lower().endswith(role):
            name = name[: -len(role)].rstrip("-_ .")
    name = name or diagnosis.input.resolve().parent.name or "pair"
    return f"{name}-input.wav", f"{name}-target.wav"


def _split(diagnosis: Diagnosis, shares: tuple[float, float, float], to: Path) -> list[str]:
    recipe, character = diagnosis.recipe, diagnosis.character
    if recipe is None:
        return ["", f"{diagnosis.input} is not split: nothing is known of how to mend it."]
    memory = character.memory_seconds if character and character.memory_seconds > 0 else 0.0
    gap, rate = max(memory, LEAST_GAP_SECONDS), recipe.sample_rate
    with TemporaryDirectory(prefix="klann-mended-") as folder:
        dry, wet = (Path(folder, name) for name in _names(diagnosis))
        mend_pair(diagnosis.input, diagnosis.target, recipe, Path(folder), (dry.name, wet.name))
        spans = plan_splits(input_levels(dry), recipe.frames, shares, gap, rate)
        results = write_splits((dry, wet), spans, to.parent, to.name)
    return ["", f"mended, and split with gaps of {gap:.2f} s or more:"] + [
        f"  {files[0].parent.name}: {span.start / rate:.2f} to {span.stop / rate:.2f} s -> {files[0]}"
        for span, files in zip(spans, results, strict=True)
    ]
