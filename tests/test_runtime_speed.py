"""What `bench` says of the C++ runtime. Nothing here depends on how long anything takes."""

import json

import pytest
from conftest import needs_compiler
from test_benchmark import CPU, TINY, Gain
from test_export import system
from test_runtime import STRICT

from klann_lightning import runtime_speed
from klann_lightning.benchmark import measure
from klann_lightning.runtime_speed import measure_runtime
from klann_lightning.speed_report import as_json, as_markdown, as_text

QUICK = ["-O0", "-DKLANN_OWN_ONLY", *STRICT]


@pytest.fixture(scope="module")
def report():
    """Compiled once, without optimising, and with warnings as errors."""
    models = {"small": system("small parallel"), "48 kHz": system("one channel"), "gain": Gain()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime_speed, "builds", lambda: {"a test": QUICK, "no": ["--no-such-option"]})
        return measure(models, TINY, CPU)


@needs_compiler
def test_every_klann_has_a_row_of_sane_figures(report):
    assert [(one.name, one.built) for one in report.runtime.speeds] == [
        ("small", "a test"),
        ("48 kHz", "a test"),
    ]
    for one, rate in zip(report.runtime.speeds, (44100, 48000), strict=True):
        assert 0 < one.latency_us.low <= one.latency_us.median <= one.latency_us.high
        assert one.latency_us.runs == TINY.runtime_repeats
        assert one.p999_us >= one.latency_us.low
        assert one.worst >= 1
        assert one.real_time == pytest.approx(64 / rate * 1e6 / one.latency_us.median)


@needs_compiler
def test_a_build_that_the_compiler_refuses_is_left_out_in_one_line(report):
    assert report.runtime.missing.startswith("It is not measured as built for no: ")
    assert "--no-such-option" in report.runtime.missing
    assert "\n" not in report.runtime.missing


@needs_compiler
def test_json_and_tables_have_the_rows(report):
    content = json.loads(as_json(report))["runtime"]
    assert set(content) == {"compiler", "missing", "speeds"}
    assert set(content["speeds"][0]) == {"name", "built", "latency_us", "p999_us", "real_time", "worst"}
    assert content["compiler"]
    assert "| C++ runtime, built for | a test |\n| --- | ---: |\n| small | " in as_markdown(report)
    lines = as_text(report).splitlines()
    assert max(map(len, lines)) <= 110
    assert any(line.startswith("C++ runtime, built for  ") for line in lines)


def only_line(runtime):
    assert runtime.speeds == []
    assert "\n" not in runtime.missing
    return runtime.missing


def test_without_a_compiler_one_line_says_so(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    models = {"small": system("small parallel")}
    said = only_line(measure_runtime(models, TINY))
    assert said == (
        "It is not measured: no C++ compiler was found, no-such-compiler. "
        "Install g++, or name a C++ compiler in CXX."
    )
    monkeypatch.setenv("KLANN_COMPILE", "0")
    assert "KLANN_COMPILE=0" in only_line(measure_runtime(models, TINY))


def test_what_is_no_klann_needs_no_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert measure_runtime({"gain": Gain()}, TINY) == runtime_speed.Runtime(None, None, [])
