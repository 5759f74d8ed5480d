"""Every command line of ours that README and docs set apart: run on small recordings, for a few steps.

What takes long (searches, comparisons, downloads, measurements) is parsed here as it is written and run by
tests of its own; what has to be compiled by test_runtime.py.
"""

import contextlib
import re
import shlex
import shutil
import subprocess
import sys
from functools import partial
from inspect import signature
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from klann_lightning import cli
from klann_lightning.data.audio import write_audio
from klann_lightning.data.devices import simulate

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), ROOT / "data" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OURS = re.compile(
    r"(?:\w+=\S+ )*(?:klann|(?:\.venv/bin/)?python -m klann_lightning|\S*torchrun .*?-m klann_lightning) "
)
DEVICES = (
    "la2a",
    "facebender-rndamp",
    "mcomp-rndamp-A1msR1000ms",
    "compressor",
    "fuzz",
    "crossover",
    "amp",
    "pedal",
)
SHORT = {  # what makes a command short
    "fit": [
        "--trainer.fast_dev_run=true",
        "--data.context_seconds=0.1",
        "--trainer.devices=1",
        "--trainer.strategy=auto",
        "--trainer.num_nodes=1",
    ],
    "report": ["--seconds=0.5"],
}
ELSEWHERE = {  # run in full by tests of their own; here their words are read, and what they name is there
    "sweep": "test_sweep.py",
    "compare": "test_compare.py",
    "download": "test_download.py",
    "bench": "test_benchmark.py",
}


def lines_of(page):
    """Command lines of a page: what is set in by four spaces or fenced, continued lines joined."""
    text, fenced = page.read_text().replace("\\\n", " "), False
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            command = line.strip().removeprefix("$ ").partition("  #")[0]
            yield " ".join(command.split())


def commands():
    """Each command line of ours once, and the pages that have it."""
    found = {}
    for page in PAGES:
        for line in lines_of(page):
            if OURS.match(f"{line} "):
                found.setdefault(line, page.name)
    return found


COMMANDS = commands()


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    """A folder as the pages suppose one: recordings of all devices they name, a run, sweeps/, two files."""
    folder = tmp_path_factory.mktemp("workshop")
    for own in ("sweeps", "docs/examples"):
        shutil.copytree(ROOT / own, folder / own)
    dry, wet = simulate("compressor", 26.0, 44100, 0)
    for device in DEVICES:
        for split in ("train", "val", "test"):
            for side, samples in (("input", dry), ("target", wet)):
                write_audio(folder / "data" / split / f"{device}-{side}.wav", samples[: 3 * 44100], 44100)
    shutil.copytree(folder / "data", folder / "sim")
    write_audio(folder / "dry.wav", dry, 44100)
    write_audio(folder / "wet.wav", wet, 44100)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        small = [
            "--trainer.max_epochs=3",
            "--trainer.logger=false",
            "--media=false",
            "--data.context_seconds=0.1",
        ]
        cli.main(["fit", "--config=sweeps/demo.yaml", *small, "--trainer.default_root_dir=runs/demo/time"])
    for experiment in ("la2a", "amp", "pedal", "paper"):
        shutil.copytree(folder / "runs/demo/time", folder / "runs" / experiment / "time")
    return folder


def filled(line, folder):
    """Its words, with what a reader puts in for names in capitals and <time>."""
    named = {
        "OUT": "page",
        "CHECKPOINT": "runs/demo/time/stage-3-spectral.ckpt",
        "N": "1",
        "$seed": "0",
        "OPTION": "",
        "...": "",
    }
    named |= {"INPUT": "dry.wav", "TARGET": "wet.wav", "FOLDER": "extra", "authors=FOLDER": "authors=extra"}
    words = shlex.split(OURS.sub("", line, count=1))
    return [word.replace("<time>", "time") for word in (named.get(word, word) for word in words) if word]


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_pages_runs(line, workshop, monkeypatch, capsys):
    monkeypatch.chdir(workshop)
    name, *words = filled(line, workshop)
    (workshop / "extra").mkdir(exist_ok=True)
    for take in DEVICES:
        write_audio(workshop / "extra" / f"{take}-authors.wav", np.zeros(3 * 44100, np.float32), 44100)
    for device in [Path(word).name for option, word in pairwise(words) if option == "--to"]:
        for file in workshop.glob(f"data/*/{device}-*"):
            file.unlink()  # what is written there anew
    if name in ELSEWHERE:
        seen = {}
        function = cli.COMMANDS[name]
        monkeypatch.setitem(cli.COMMANDS, name, recording(function, seen))
        cli.main([name, *words])
        for path in [*seen.values(), *(word for word in words if word.startswith("sweeps/"))]:
            if str(path).startswith("sweeps/"):
                assert (workshop / path).is_file(), path
        assert (ROOT / "tests" / ELSEWHERE[name]).is_file()
        return
    with pytest.MonkeyPatch.context() as patch:
        for setting in re.findall(r"(\w+)=(\S+) ", line.partition("klann")[0]):
            (patch.syspath_prepend if setting[0] == "PYTHONPATH" else partial(patch.setenv, setting[0]))(
                setting[1]
            )
        verdict = pytest.raises(SystemExit) if name == "doctor" else contextlib.nullcontext()
        with verdict as left:
            cli.main([name, *words, *SHORT.get(name, [])])
            if name == "doctor":
                sys.exit(0)
    assert left is None or left.value.code in (0, 1)


def recording(function, seen):
    """In place of a command: its parameters, for the parser, and what it was called with."""

    def called(*arguments, **named):
        seen.update(named)

    called.__signature__ = signature(function)
    called.__doc__ = function.__doc__
    called.__annotations__ = function.__annotations__
    return called


def test_there_are_commands():
    assert len(COMMANDS) > 20


def test_targets_of_make_are_there():
    named = {line.split()[1] for page in PAGES for line in lines_of(page) if re.match(r"make [a-z]", line)}
    assert {"demo", "test"} <= named
    for target in named:
        done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_the_page_of_commands_names_all_of_them_and_options_that_are_there():
    page = (ROOT / "docs" / "commands.md").read_text()
    rows = [row.split(" | ")[0] for row in page.splitlines() if row.startswith("| `")]
    spans = [span for row in rows for span in re.findall("`([^`]+)`", row)]
    named = {span.split()[0] for span in spans if not span.startswith("-")}
    assert named == {*cli.COMMANDS, *cli.TRAINER_COMMANDS}
    for row in rows:
        name = row.strip("|` ").split()[0].rstrip("`,")
        options = set(re.findall(r"--([a-z_]+)", row))
        if name in cli.COMMANDS:
            known = signature(cli.COMMANDS[name]).parameters
            own = options - {"config"} if "fit_options" in known else options
            assert own <= set(known), f"{name}: {own - set(known)}"
