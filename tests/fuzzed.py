"""Feed damaged bytes to the intake until the time is up: `python fuzzed.py FOLDER SECONDS SEED`.

A process of its own, so that a crash of a library shows. The file that did it stays in FOLDER.
"""

import faulthandler
import io
import json
import random
import resource
import sys
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import soundfile

from klann_lightning.doctor.intake import inspect

SLOW_SECONDS = 20  # a file that takes longer hangs
MEMORY = 6 << 30  # bytes of address space


def whole_files() -> list[tuple[str, bytes]]:
    """A short file of every format and encoding that libsndfile writes: suffix and content."""
    noise = np.random.default_rng(0).normal(0, 0.1, (5000, 2)).astype(np.float32)
    files = []
    for kind in sorted(set(soundfile.available_formats()) - {"SD2"}):  # that writes a second file beside it
        for encoding in soundfile.available_subtypes(kind):
            for channels, rate in ((1, 44100), (2, 44100), (1, 8000)):
                file = io.BytesIO()
                try:
                    soundfile.write(file, noise[:, :channels], rate, encoding, format=kind)
                except soundfile.SoundFileError:
                    continue
                files.append((kind.lower(), file.getvalue()))
    return files


def damaged(content: bytes, dice: random.Random) -> bytes:
    """One of the ways in which bytes go wrong, most of them in the header."""
    changed = bytearray(content)
    for _ in range(dice.choice([1, 1, 2, 4, 16])):
        end = len(changed) if dice.random() < 0.2 else min(len(changed), 128)
        if end < 8:
            break
        place = dice.randrange(end - 4)
        match dice.randrange(6):
            case 0:
                changed[place] ^= 1 << dice.randrange(8)
            case 1:
                changed[place] = dice.choice([0, 1, 0x7F, 0x80, 0xFF])
            case 2:
                changed[place : place + 4] = dice.choice([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff"])
            case 3:
                changed[place : place + 4] = dice.randbytes(4)
            case 4:
                del changed[place : place + dice.randrange(1, 64)]
            case 5:
                changed[place:place] = dice.randbytes(dice.randrange(1, 64))
    if dice.random() < 0.3:
        del changed[dice.randrange(len(changed) + 1) :]
    return bytes(changed)


def main(folder: Path, seconds: float, seed: int) -> None:
    faulthandler.enable()
    warnings.simplefilter("error")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    dice, files, names = random.Random(seed), whole_files(), Counter[str]()
    slowest, end = (0.0, ""), time.monotonic() + seconds
    while time.monotonic() < end:
        suffix, content = dice.choice(files)
        if dice.random() < 0.1:
            content = content[: dice.choice([0, 4, 12])] + dice.randbytes(dice.randrange(3000))
        path = folder / f"{sum(names.values())}.{suffix}"
        path.write_bytes(damaged(content, dice))
        began = time.monotonic()
        faulthandler.dump_traceback_later(SLOW_SECONDS, exit=True)
        try:
            _, findings = inspect(path, dice.choice(["input", "target"]))
        except BaseException:
            print(path, file=sys.stderr)
            traceback.print_exc()
            raise SystemExit(1) from None
        faulthandler.cancel_dump_traceback_later()
        slowest = max(slowest, (time.monotonic() - began, path.name))
        names[max(findings, key=lambda found: found.severity == "blocks").name if findings else "fine"] += 1
        path.unlink()
    # not getrusage, whose peak outlives exec and may be that of the tests' own process
    status = Path("/proc/self/status").read_text().splitlines()
    memory = int(next(line.split()[1] for line in status if line.startswith("VmHWM"))) // 1024
    summary = {"files": sum(names.values()), "slowest_s": slowest[0], "memory_mb": memory, "ends": names}
    (folder / "summary.json").write_text(json.dumps(summary))  # libsndfile writes to the standard output


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
