"""A trained model between the sound card's input and its output, until it is stopped."""

import math
import time

import numpy as np

from klann_lightning.errors import ConfigError
from klann_lightning.models.base import AudioModel
from klann_lightning.streaming import StreamingRunner

EVERY = 0.2  # seconds between two lines of the meter
SILENCE_DB = -99.0


class Meter:
    """What has been heard since the last look, and what went wrong so far."""

    def __init__(self) -> None:
        self.input, self.output = 0.0, 0.0  # peaks
        self.lost = 0  # blocks that came too late, or not at all: xruns

    def hear(self, given: np.ndarray, made: np.ndarray, late: bool) -> None:
        self.input = max(self.input, float(np.abs(given).max(initial=0)))
        self.output = max(self.output, float(np.abs(made).max(initial=0)))
        self.lost += late

    def line(self, runner: StreamingRunner) -> str:
        """The levels, and start anew."""
        levels = [20 * math.log10(peak) if peak > 0 else SILENCE_DB for peak in (self.input, self.output)]
        self.input = self.output = 0.0
        busy = 100 / runner.real_time_factor if runner.real_time_factor else 0.0
        return f"in {levels[0]:6.1f} dB   out {levels[1]:6.1f} dB   busy {busy:3.0f} %   xruns {self.lost}"


def play_live(model: AudioModel, block: int, seconds: float | None = None) -> str:
    """Play until Ctrl-C, or for so many seconds; what went on, in words. ConfigError without a sound card."""
    try:
        import sounddevice
    except (ImportError, OSError) as error:  # OSError: without PortAudio
        raise ConfigError(
            "--live needs python-sounddevice and PortAudio. Install them: pip install "
            "'klann_lightning[live]', and Debian's libportaudio2."
        ) from error
    runner, meter = StreamingRunner(model), Meter()

    def callback(given: np.ndarray, made: np.ndarray, frames: int, when: object, status: object) -> None:
        made[:] = runner.process(np.ascontiguousarray(given[:, 0]))[:, None]
        meter.hear(given, made, bool(status))

    end = math.inf if seconds is None else time.monotonic() + seconds
    try:
        with sounddevice.Stream(
            model.sample_rate, block, channels=1, dtype="float32", callback=callback
        ) as stream:
            late_ms = 1000 * (sum(stream.latency) + runner.latency / model.sample_rate)
            print(
                f"playing at {model.sample_rate} Hz in blocks of {block}, {late_ms:.1f} ms late; "
                "Ctrl-C ends it"
            )
            while time.monotonic() < end:
                time.sleep(EVERY)
                print(f"\r{meter.line(runner)}", end="", flush=True)
    except KeyboardInterrupt:
        pass
    except sounddevice.PortAudioError as error:
        raise ConfigError(
            f"the sound card cannot play at {model.sample_rate} Hz in blocks of {block}: {error}. Try "
            "another --block, or another sound card in the system's settings."
        ) from error
    print()
    return f"{runner.played_seconds:.1f} s played, {meter.lost} xruns"
