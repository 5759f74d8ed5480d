"""What a training must know of a pair, kept on the disk: a search trains on the same pair again and again."""

import json
import os
from contextlib import suppress
from dataclasses import asdict
from functools import cache, lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from klann_lightning.doctor.alignment import Alignment, Jump
from klann_lightning.doctor.diagnose import Diagnosis, diagnose, to_mend
from klann_lightning.doctor.findings import Finding
from klann_lightning.files import stamp, write_whole

MOST_KEPT = 512


class Verdict(NamedTuple):
    """The part of a diagnosis by which a pair is admitted, and mended."""

    findings: list[Finding]
    channels: tuple[int, int]  # of input and target, from 0, that carry the signal
    found: Alignment | None  # None where nothing is known of it, or one has nothing to do with the other
    mending: Alignment | None  # what of it is to be mended
    sd: float  # samples, of the delay
    sure_of_place: float  # from 0 to 1


def verdict(input_path: Path, target_path: Path) -> Verdict:
    """As `diagnose` says it; read from the cache where neither the files nor the doctor have changed."""
    return _verdict(input_path, target_path, stamp(input_path), stamp(target_path))


@lru_cache(maxsize=MOST_KEPT)
def _verdict(input_path: Path, target_path: Path, *stamps: tuple[int, int] | None) -> Verdict:
    told = [str(input_path), str(target_path), str(Path.cwd()), *stamps, _doctor()]
    folder = _cache()
    if folder is None or None in stamps:
        return _judged(diagnose(input_path, target_path, device=False))
    file = folder / f"{sha256(repr(told).encode()).hexdigest()[:32]}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        return _read(json.loads(file.read_text(encoding="utf-8")))
    judged = _judged(diagnose(input_path, target_path, device=False))
    with suppress(OSError):
        write_whole(file, json.dumps(_plain(judged)))
        for old in sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime)[:-MOST_KEPT]:
            old.unlink(missing_ok=True)
    return judged


def _cache() -> Path | None:
    """Where verdicts are kept; None for a user without a home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "klann_lightning/verdicts"
    except RuntimeError:
        return None


@cache
def _doctor() -> str:
    """Of the doctor himself, and of how files are read: another one may judge otherwise."""
    here = Path(__file__).parent
    sources = [*sorted(here.glob("*.py")), *sorted((here.parent / "data").glob("*.py"))]
    return sha256(b"\n".join(path.read_bytes() for path in sources)).hexdigest()


def _judged(diagnosis: Diagnosis) -> Verdict:
    aligned, dry, wet = diagnosis.aligned, diagnosis.dry, diagnosis.wet
    if aligned is None or dry is None or wet is None or diagnosis.recipe is None:
        return Verdict(diagnosis.findings, (0, 0), None, None, 0.0, 0.0)
    return Verdict(
        diagnosis.findings,
        (dry.channel, wet.channel),
        aligned.alignment,
        to_mend(aligned),
        float(aligned.sd),
        float(aligned.sure_of_place),
    )


def _plain(judged: Verdict) -> dict[str, Any]:
    findings = [asdict(finding) for finding in judged.findings]
    alignments = {
        name: one and one._asdict() for name, one in (("found", judged.found), ("mending", judged.mending))
    }
    return judged._asdict() | {"findings": findings} | alignments


def _read(kept: dict[str, Any]) -> Verdict:
    first, second = kept["channels"]
    return Verdict(
        [Finding(**fields) for fields in kept["findings"]],
        (int(first), int(second)),
        _alignment(kept["found"]),
        _alignment(kept["mending"]),
        float(kept["sd"]),
        float(kept["sure_of_place"]),
    )


def _alignment(kept: dict[str, Any] | None) -> Alignment | None:
    if kept is None:
        return None
    return Alignment(**kept | {"jumps": tuple(Jump(int(at), float(by)) for at, by in kept["jumps"])})
