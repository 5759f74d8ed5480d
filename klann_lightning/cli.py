"""The command line: `python -m klann_lightning COMMAND ...`."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from klann_lightning import __version__
from klann_lightning.calling import call
from klann_lightning.errors import HaltedError, KlannError, leave
from klann_lightning.handshake import INTERRUPTED
from klann_lightning.manners import quietly
from klann_lightning.native.host import after_torch, before_torch

PLAY_BLOCK = 2**16


def init(folder: Path = Path()) -> None:
    """Copy the experiments that come with the package, sweeps/, into a folder to work in.

    Args:
        folder: that gets sweeps/, which must not be there yet; the current one without it.
    """
    from klann_lightning.shipped import write_experiments

    out = write_experiments(folder)
    print(
        f"{out}: experiments, systems, recipes and searches. To begin: {_called()} simulate compressor data, "
        f"and {_called()} fit --config {out / 'demo.yaml'}"
    )


def simulate(
    device: str, root: Path, seconds: float = 120.0, sample_rate: int = 44100, seed: int = 0
) -> None:
    """Write a simulated device's train, val and test pairs under ROOT.

    Args:
        device: `fuzz` or `compressor`.
        root: folder that gets train/, val/ and test/.
        seconds: of training audio; val and test get a fifth of it each.
        sample_rate: in Hz.
        seed: the same seed gives the same samples on every machine.
    """
    from klann_lightning.data.audio import write_audio
    from klann_lightning.data.devices import simulate as simulated

    for index, (split, part) in enumerate({"train": 1.0, "val": 0.2, "test": 0.2}.items()):
        dry, wet = simulated(device, part * seconds, sample_rate, seed * 3 + index)
        for side, samples in (("input", dry), ("target", wet)):
            write_audio(root / split / f"{device}-{side}.wav", samples, sample_rate)
        print(f"{root / split / device}-{{input,target}}.wav: {len(dry) / sample_rate:.1f} s")


def download(*devices: str, root: Path = Path("data"), api: str | None = None) -> None:
    """Fetch the paper's public recordings and lay them under ROOT, for fit's --data.root.

    What is there stays, and the same command goes on with a transfer that broke off.

    Args:
        devices: names, or how they begin, such as la2a, facebender-rndamp, mcomp-rndamp-A1msR1000ms; without
            any, all that the record has.
        root: folder that gets train/, val/ and test/, and the data's citation and licence.
        api: address of another record, or of a mirror, for programs; https://zenodo.org/api/records/7271558
            without it.
    """
    from klann_lightning.download.command import ZENODO
    from klann_lightning.download.command import download as fetch

    fetch(devices, root, api or ZENODO)


def doctor(
    *paths: Path,
    fix: Path | None = None,
    split: str | None = None,
    to: Path | None = None,
    figure: Path | None = None,
    json: bool = False,
) -> None:
    """Say what is wrong with a pair of recordings, or with all in a folder, and mend it.

    Exit status: 0 ready, 1 a model trains but not at its best, 2 nothing trains on it as it is.

    Args:
        paths: an input and its target, or folders with pairs: NAME-input and NAME-target.
        fix: folder that gets the mended pair: aligned, of one channel, rate and length.
        split: shares of train, val and test, such as 70/15/15, into which the mended pair is cut.
        to: ROOT/DEVICE, as which the parts are written: ROOT/{train,val,test}/DEVICE-{input,target}.wav.
        figure: .png, .pdf or .svg to draw the pair into.
        json: print one object for programs instead.
    """
    from klann_lightning.doctor.command import run as examine

    status = examine(paths, fix, split, to, figure, json)
    if status:
        sys.exit(status)


def process(
    checkpoint: Path,
    *files: Path,
    block: int = PLAY_BLOCK,
    as_recorded: bool = False,
    live: bool = False,
    oversampling: int = 1,
) -> None:
    """Play a recording through a trained model: process CHECKPOINT INPUT OUTPUT; or play live.

    Args:
        checkpoint: of a fit, or a model.json that export has written.
        files: a mono recording at the model's sample rate, and what to write: .wav (32-bit float) or .flac.
        block: samples that the model is given at once; any size gives the same sound.
        as_recorded: undo what --data.align auto did: the output lies as the targets were recorded.
        live: play from the sound card's input to its output instead, until Ctrl-C.
        oversampling: 2 or 4: less aliasing, at as many times the cost.
    """
    if len(files) != (0 if live else 2) or block < 1:
        leave(
            "name the recording and the output: process CHECKPOINT INPUT OUTPUT; or play --live, without "
            "files. --block is at least 1."
        )
    before_torch()
    from klann_lightning.playing import play, trained

    after_torch()
    if live:
        from klann_lightning.live import play_live
        from klann_lightning.models.oversampled import oversampled

        print(play_live(oversampled(trained(checkpoint)[0], oversampling), block))
        return
    source, output = files
    print(play(checkpoint, source, output, block, as_recorded, oversampling))


def export(checkpoint: Path, out: Path, format: str = "json", precision: str = "float32") -> None:
    """Write a trained model that runs without Python, or without us.

    Args:
        checkpoint: of a fit.
        out: a file; for cpp a folder.
        format: json (one documented file), cpp (a C++17 header and examples), onnx or torch (torch.export).
        precision: of the layers' weights: float32, or in half the memory float16 or int16.
    """
    before_torch()
    from klann_lightning.export.command import run

    after_torch()
    print(run(checkpoint, out, format, precision))


def import_results(results_dir: Path, out: Path, sample_rate: int = 44100) -> None:
    """Make a checkpoint of a model that the paper's authors' own code has trained.

    Args:
        results_dir: their results/NAME, with parameters.txt and model.pth.
        out: the checkpoint, for process, validate, test, predict and fit's --model.init_from.
        sample_rate: of the recordings that it was trained on, in Hz.
    """
    from klann_lightning.importing import read_results, write_checkpoint

    results = read_results(results_dir, sample_rate)
    write_checkpoint(results, out)
    print(f"{out}: {results}")


def bench(
    *checkpoints: Path,
    json: Path | None = None,
    markdown: Path | None = None,
    profile: Path | None = None,
    runs: int = 7,
    threads: int | None = None,
    device: Literal["cpu", "cuda"] = "cpu",
    systems: str = "small_parallel,small_parallel_series,small_stacked,"
    "large_parallel,large_parallel_series,large_stacked",
) -> None:
    """Measure how fast the systems, and any checkpoints, train and play here, in Python and as exported C++.

    Args:
        checkpoints: of fits, measured beside the systems.
        json: file for every number, with its spread.
        markdown: file that gets the tables between its lines <!-- speed --> and <!-- /speed -->.
        profile: file for a torch profiler trace of three training steps of the small parallel system.
        runs: of each measurement.
        threads: that a computation is spread over; torch's choice without it.
        device: cpu or cuda.
        systems: names from sweeps/systems/ with commas between.
    """
    before_torch()
    for name, value in (("KINETO_LOG_LEVEL", "99"), ("TORCH_CPP_LOG_LEVEL", "ERROR")):
        os.environ.setdefault(name, value)  # the profiler, which weighs memory, would narrate
    from klann_lightning.benchmark import run

    run(systems, checkpoints, runs, threads, device, json, markdown, profile)


def sweep(
    *fit_options: str,
    study: Path,
    trials: int | None = None,
    minutes: float | None = None,
    workers: int = 1,
    storage: str | None = None,
    name: str | None = None,
    best: int = 0,
) -> None:
    """Search an experiment's settings by an Optuna study; the same command goes on with it.

    Every option that is not named here is one of fit's: `--config sweeps/la2a.yaml --data.root recordings`.

    Args:
        fit_options: the experiment, as fit takes it.
        study: file that says what is searched and what for, see sweeps/search/.
        trials: of the whole study, finished ones included; else the study file says how many.
        minutes: after which no trial is begun.
        workers: processes here, each training one trial at a time, on a GPU of its own where there are any.
        storage: sqlite:///FILE, journal://FILE, postgresql://..., mysql://... or grpc://HOST:PORT; any number
            of sweeps on any machines join in one study. A file in the study's folder without it.
        name: of the study; <experiment>-<study file> without it. Its folder is <runs>/<name>.
        best: so many of the best are trained anew on the full recipe and scored on the test recordings.
    """
    before_torch()
    _wandb_offline()
    from klann_lightning.sweep.command import run

    run(study, fit_options, trials, minutes, workers, storage, name, best)


def compare(*fit_options: str, grid: Path, out: Path, played: Path | None = None) -> None:
    """Train systems on devices, all for the same time, and write one table; the same command goes on.

    Every option that is not named here is one of fit's and holds for all trainings: `--data.root recordings`.

    Args:
        fit_options: for every training, as fit takes them.
        grid: file that names devices, systems, seeds and minutes, see sweeps/compare/.
        out: folder for the trainings, and for the table as Markdown, CSV and LaTeX.
        played: folder of what others made of the test recordings, `<device>-<system>.wav`, scored beside.
    """
    before_torch()
    _wandb_offline()
    from klann_lightning.comparison.command import run

    run(grid, out, fit_options, played)


def report(
    out: Path,
    *checkpoints: str,
    extra: Sequence[str] = (),
    root: Path | None = None,
    device: str | None = None,
    split: Literal["test", "val", "train"] = "test",
    seconds: float = 30.0,
    title: str | None = None,
    prune: bool = False,
) -> None:
    """Write a page to listen to models, to look at them, and to read what is inside.

    Args:
        out: a new folder, or that of an earlier report; its index.html opens from disk, and on any web host.
        checkpoints: [NAME=]PATH of a checkpoint, a run's folder (all its stages), an experiment's (its newest
            run) or a comparison's (all its models).
        extra: [NAME=]PATH of what others made of the recordings, a file or a folder of <take>-<system>.wav.
        root: folder of the recordings, in place of what each run was trained on.
        device: whose recordings, where nothing beside a checkpoint says so.
        split: test, val or train.
        seconds: of each recording, at most, that are heard and drawn; scores are over all of it.
        title: of the page; the devices' names without it.
        prune: also take out of every KLANN the channels that nothing is lost by, into OUT/pruned.
    """
    before_torch()
    from klann_lightning.report.command import run
    from klann_lightning.report.making import Wanted

    wanted = Wanted(tuple(checkpoints), tuple(extra), root, device, split, seconds, title, prune)
    print(run(out, wanted))


COMMANDS: dict[str, Callable[..., None]] = {
    "init": init,
    "sweep": sweep,
    "compare": compare,
    "simulate": simulate,
    "download": download,
    "doctor": doctor,
    "process": process,
    "import": import_results,
    "bench": bench,
    "report": report,
    "export": export,
}
REPEATED = {  # options that may be given several times, and what they are
    "report": {
        "extra": "[NAME=]PATH of what others made of the recordings: a file, or a folder of TAKE-SYSTEM.wav"
    }
}
SWITCHES = {  # options without a value
    "doctor": {"json": "print one object for programs instead"},
    "process": {
        "as_recorded": "undo what --data.align auto did: the output lies as the targets were recorded",
        "live": "play from the sound card's input to its output instead, until Ctrl-C",
    },
    "report": {"prune": "take out of every KLANN the channels that nothing is lost by, into OUT/pruned"},
}
LEFT = {  # by what was interrupted
    "simulate": "recordings that are there are whole; the same command writes all of them",
    "doctor": "recordings are as they were, and none is written in part; the same command begins anew",
    "process": "the output is not written",
    "bench": "nothing is written; measuring begins anew",
    "report": "the page is not there until it is whole; the same command writes it anew",
    "export": "the same command writes it anew",
}
TRAINER_COMMANDS = {
    "fit": "Train a model of a device on its recordings.",
    "validate": "Score a checkpoint on the val recordings.",
    "test": "Score a checkpoint on the test recordings.",
    "predict": "Write what a checkpoint makes of the test recordings.",
}


def main(args: Sequence[str] | None = None) -> object:
    """Run one command; `args` replaces sys.argv so tests and sweeps can call it.

    Returns the finished Experiment of fit, validate, test and predict, else None.
    Raises KlannError for what a user can mend, SystemExit for a command line that does not parse.
    """
    words = list(sys.argv[1:] if args is None else args)
    with quietly("--quiet" in words):
        return _run_command([word for word in words if word != "--quiet"])


def _run_command(words: list[str]) -> object:
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
    elif words == ["--version"]:
        print(__version__)
    elif words[0] in COMMANDS:
        name, repeated, switches = words[0], REPEATED.get(words[0], {}), SWITCHES.get(words[0], {})
        call(COMMANDS[name], words[1:], f"{_called()} {name}", repeated, switches)
    elif words[0] in TRAINER_COMMANDS:
        before_torch()
        _wandb_offline()
        from klann_lightning.experiment import Experiment

        return Experiment(words)
    else:
        leave(f"no command is called {words[0]!r}. There are: {', '.join([*TRAINER_COMMANDS, *COMMANDS])}.")
    return None


def run() -> None:
    """As `main`, for a shell: a KlannError is one line, and exit code 2 or that of a stopped program."""
    try:
        main()
    except HaltedError as halt:
        if int(os.environ.get("LOCAL_RANK", 0)) > 0:  # the first rank speaks for all
            sys.exit(0)
        print(halt, file=sys.stderr)
        sys.exit(halt.exit_code)
    except KlannError as error:
        leave(str(error), error.exit_code)
    except KeyboardInterrupt:
        left = LEFT.get(next((word for word in sys.argv[1:] if word != "--quiet"), ""))
        print("interrupted" + (f": {left}" if left else ""), file=sys.stderr)
        sys.exit(INTERRUPTED)


def _wandb_offline() -> None:
    """No account and no network unless the user asks for them."""
    for name, value in (("MODE", "offline"), ("SILENT", "true"), ("ERROR_REPORTING", "false")):
        os.environ.setdefault(f"WANDB_{name}", value)


def _overview() -> str:
    said = {**TRAINER_COMMANDS, **{name: str(function.__doc__) for name, function in COMMANDS.items()}}
    lines = [f"  {name:<10}{text.partition(chr(10))[0]}" for name, text in said.items()]
    return "\n".join(
        [
            f"usage: {_called()} COMMAND ...",
            "",
            *lines,
            "",
            "COMMAND --help says more; --quiet leaves out all but results and errors; --version.",
        ]
    )


def _called() -> str:
    """How this program was started."""
    name = Path(sys.argv[0]).stem
    return name if name == "klann" else "python -m klann_lightning"
