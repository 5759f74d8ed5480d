"""The line of a training on a terminal, and what is told where nobody looks on."""

import io
import re
import sys

import pytest
from rich.console import Console
from test_stages import SPECTRAL, TIME, fit

from klann_lightning.cli import main
from klann_lightning.errors import leave
from klann_lightning.manners import hushed, quietly, say, watched
from klann_lightning.training import bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


def told(text):
    """What has been on the terminal, without its escapes."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)


def test_it_says_stage_epochs_error_and_time(tiny_root, tmp_path, monkeypatch):
    screen = Terminal()
    console = Console(file=screen, force_terminal=True, width=120)
    monkeypatch.setattr(bar, "Console", lambda **_: console)
    monkeypatch.setattr("klann_lightning.experiment.watched", lambda: True)
    update = bar.Progress.update

    def seen(self, *arguments, **fields):  # a real one is drawn ten times a second
        update(self, *arguments, **fields)
        self.refresh()

    monkeypatch.setattr(bar.Progress, "update", seen)
    before = [sys.stdout, sys.stderr]
    fit(tiny_root, tmp_path, f"[{TIME}, {SPECTRAL}]")
    assert [sys.stdout, sys.stderr] == before
    text = told(screen.getvalue())
    assert re.search(
        r"stage 1/2 time .* 1/3 epochs  ESR -?\d+\.\d dB, best -?\d+\.\d  0:\d\d left in it", text
    )
    assert re.search(r"stage 2/2 spectral .* 1/2 epochs", text)


def test_there_is_none_where_nobody_looks_on(tiny_root, tmp_path, capsys):
    experiment = fit(tiny_root, tmp_path, f"[{TIME}]")
    assert experiment.bar not in experiment.trainer.callbacks
    assert "left in it" not in capsys.readouterr().err


def test_another_bar_takes_its_place(tiny_root, tmp_path):
    words = ["--trainer.callbacks+=lightning.pytorch.callbacks.TQDMProgressBar"]
    experiment = fit(tiny_root, tmp_path, f"[{TIME}]", *words, "--trainer.enable_progress_bar=true")
    assert experiment.bar not in experiment.trainer.callbacks
    assert type(experiment.trainer.progress_bar_callback).__name__ == "TQDMProgressBar"


def test_quiet_leaves_results_and_errors(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert watched()
    with quietly(True):
        assert hushed()
        assert not watched()
        say("not heard")
    assert not hushed()
    say("heard")
    assert sys.stderr.getvalue() == "heard\n"
    main(["simulate", "fuzz", str(tmp_path), "--seconds", "5", "--quiet"])
    assert "train/fuzz" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--quiet", "no-such-command"])
    assert "no command is called 'no-such-command'" in sys.stderr.getvalue()
    assert not hushed()


@pytest.mark.parametrize("quiet", [[], ["--quiet"]])
def test_quiet_silences_a_training_but_for_its_table(quiet, tiny_root, tmp_path, capsys, caplog):
    fit(tiny_root, tmp_path, f"[{TIME}, {SPECTRAL}]", *quiet)
    assert "ESR dB" in capsys.readouterr().out
    assert any("ended after epoch" in line for line in caplog.messages) != bool(quiet)


@pytest.mark.parametrize("terminal", [False, True])
def test_an_error_is_one_line_with_cause_and_cure_apart(terminal, monkeypatch):
    screen = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    with pytest.raises(SystemExit) as left:
        leave("dry.wav is 44100 Hz [not 48000].\nResample it, " + "very " * 50 + "well.")
    assert left.value.code == 2
    line = screen.getvalue()
    assert line.count("\n") == 1
    assert told(line).startswith("error: dry.wav is 44100 Hz [not 48000]. Resample it, very")
    assert ("\x1b[32mResample it" in line) == terminal
