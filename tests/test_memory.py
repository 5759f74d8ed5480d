"""The length of a recording costs no memory in validation: it goes through in blocks."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from klann_lightning.data.audio import AudioWriter, write_audio

SCRIPT = """
import sys
from pathlib import Path
import lightning.pytorch as pl
from klann_lightning.data.datamodule import PairedDataModule
from klann_lightning.training.recipe import LossStage
from klann_lightning.models.klann import ParallelKlann
from klann_lightning.training.module import EffectModule

module = EffectModule(ParallelKlann([3, 4, 5], 5), [LossStage("time", {"esr": 1.0}, epochs=1)])
trainer = pl.Trainer(logger=False, enable_progress_bar=False, enable_model_summary=False)
trainer.validate(module, PairedDataModule("long", Path(sys.argv[1])), verbose=False)
# not getrusage, whose peak outlives exec and is that of the tests' own process
(peak,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(int(peak.split()[1]) // 1024)
"""


def peak_megabytes(root: Path, seconds: int) -> int:
    """Of a process that validates the small system on noise of that length."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 44100).astype(np.float32)
    for side in ("input", "target"):
        with AudioWriter(root / "val" / f"long-{side}.wav", 44100) as writer:
            for _ in range(seconds):
                writer.write(noise)
        write_audio(root / "train" / f"long-{side}.wav", noise, 44100)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, str(root)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout.splitlines()[-1])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_validation_needs_no_more_memory_for_longer_files(tmp_path):
    """Two minutes more of two float32 files would be 42 MB each; all activations, gigabytes."""
    short, long = peak_megabytes(tmp_path / "short", 10), peak_megabytes(tmp_path / "long", 130)
    assert long - short < 40
    assert long < 2000
