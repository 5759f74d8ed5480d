"""What `bench` counts and writes. Nothing here depends on how long anything takes."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from test_stages import TIME, fit
from torch import nn

from klann_lightning import benchmark, measuring, runtime_speed, speed_figures
from klann_lightning.benchmark import SYSTEMS, choose, measure, measure_system, sampled_step, scan_step
from klann_lightning.cli import main
from klann_lightning.errors import ConfigError
from klann_lightning.measuring import copy_speed, figure, peak_bytes, prepare, synchronises
from klann_lightning.models.base import AudioModel
from klann_lightning.models.klann import ParallelKlann
from klann_lightning.speed_figures import Sizes
from klann_lightning.speed_report import as_json, as_markdown, as_text, between_markers

CPU = torch.device("cpu")
TINY = Sizes(
    runs=3,
    run_seconds=0,
    batch=2,
    frames=256,
    paper_batch=3,
    paper_frames=64,
    paper_counted=16,
    playing=0.01,
    blocks=(16, 64),
    calls=5,
    copied=2**16,
    grow_frames=(64, 128),
    grow_batch=(1, 2),
    grow_lift_dim=(1, 5),
    grow_sections=(1, 2),
    runtime_blocks=40,
    runtime_repeats=3,
)
FIGURE = {"median", "low", "high", "runs"}


class Gain(AudioModel):
    """The least that can be trained; remembers which states it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))
        self.seen: list[float] = []

    def init_state(self, batch):
        return (torch.zeros(batch, 1),)

    def step(self, x, state):
        self.seen.append(float(state[0][0, 0]))
        assert not state[0].requires_grad
        return self.gain * x, (state[0] + self.gain / self.gain,)


@pytest.fixture(scope="module", autouse=True)
def nothing_is_compiled():
    """The C++ runtime has tests of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime_speed, "builds", dict)
        yield


@pytest.fixture
def half_a_second(monkeypatch):
    """Every call of anything takes exactly that long."""

    def seconds(action, device, calls=1):
        action()
        return 0.5

    monkeypatch.setattr(measuring, "seconds", seconds)
    monkeypatch.setattr(benchmark, "seconds", seconds)


@pytest.fixture(scope="module")
def report():
    return measure({"small_parallel": ParallelKlann([3, 4, 5], 5), "gain": Gain()}, TINY, CPU)


def test_a_figure_is_the_median_between_quartiles():
    assert figure([3.0]) == (measuring.Figure(3.0, 3.0, 3.0, 1))
    assert figure([5.0, 1.0, 2.0]) == measuring.Figure(2.0, 1.5, 3.5, 3)


@pytest.mark.parametrize("floats", [1000, 250_000])
def test_peak_memory_is_what_is_alive_at_a_time(floats):
    def two_of_three():
        torch.ones(floats)
        first, second = torch.ones(floats), torch.ones(floats)
        return first.sum_to_size(floats), second

    assert peak_bytes(two_of_three, CPU) == 2 * 4 * floats
    assert peak_bytes(lambda: [torch.ones(floats) for _ in range(3)], CPU) == 3 * 4 * floats


def test_peak_memory_leaves_out_what_was_there_before():
    held = [torch.ones(100_000)]

    def replace():
        held.clear()
        held.append(torch.ones(1000))

    assert peak_bytes(replace, CPU) == 4000
    assert peak_bytes(replace, CPU) == 4000


def test_peak_memory_of_a_step_is_linear_in_its_length():
    def peak(frames):
        step = scan_step(ParallelKlann([3, 4, 5], 5), 4, frames, CPU)
        step()
        return peak_bytes(step, CPU)

    assert peak(4096) / peak(2048) == pytest.approx(2, rel=0.1)


def test_throughput_counts_the_samples_that_enter_the_loss(half_a_second):
    speed = measure_system("small", ParallelKlann([3, 4, 5], 5), TINY, 10_000.0, CPU)
    assert speed.scan.median == 2 * 256 / 0.5
    assert speed.part_of_best == 2 * 256 / 0.5 / 10_000
    assert speed.paper.median == 3 * 16 / 0.5
    assert speed.ratio.median == pytest.approx(2 * 256 / (3 * 16))
    assert speed.playing.median == 0.01 / 0.5
    assert [(block.samples, block.real_time) for block in speed.blocks] == [
        (samples, pytest.approx(samples / 44100 / 0.5)) for samples in TINY.blocks
    ]
    assert speed.blocks[0].p99_us == pytest.approx(0.5e6)
    assert [part.samples for part in speed.memory] == [2 * 256, 2 * 512]
    assert speed.memory[0].bytes_per_value == speed.memory[0].bytes / (2 * 256 * 5)


def test_slow_steps_of_the_paper_are_run_less_often(half_a_second):
    sizes = Sizes(**{**asdict(TINY), "runs": 9, "paper_runs": 4, "paper_seconds": 1.0})
    speed = measure_system("small", ParallelKlann([3, 4, 5], 5), sizes, 1.0, CPU)
    assert (speed.paper.runs, speed.ratio.runs, speed.scan.runs) == (4, 4, 4)


def test_the_scan_step_carries_its_state_and_trains():
    model = Gain()
    step = scan_step(model, 2, 16, CPU)
    for _ in range(3):
        step()
    assert model.seen == [0, 1, 2]
    assert model.gain.item() > 1  # the target is louder


def test_the_paper_s_step_counts_the_end_only(monkeypatch):
    model = ParallelKlann([3], 2)
    given = []
    monkeypatch.setattr(benchmark, "mse", lambda y, target, power: given.append(y.shape) or (y - target) ** 2)
    before = model.bank.cutoff.clone()
    sampled_step(model, 3, 64, 16, CPU)()
    assert given == [(3, 16)]
    assert not torch.equal(before, model.bank.cutoff)


def test_the_systems_are_those_of_the_sweeps():
    """Those with filters, that is; what stands beside them is measured from a checkpoint."""
    every = sorted((Path(__file__).parents[1] / "sweeps" / "systems").glob("*.yaml"))
    files = [path for path in every if "Klann" in path.read_text()]
    assert sorted(SYSTEMS) == [path.stem for path in files]
    parser = ArgumentParser()
    parser.add_subclass_arguments(AudioModel, "model")
    for path in files:
        config = parser.parse_object(yaml.safe_load(path.read_text())["model"])
        theirs, ours = parser.instantiate_classes(config).model, SYSTEMS[path.stem]()
        assert str(ours) == str(theirs)


def test_copying_counts_what_is_read_and_what_is_written(half_a_second):
    assert copy_speed(2**20, 3, CPU, 0.0) == measuring.Figure(*[2 * 2**20 / 0.5] * 3, runs=3)


def test_only_a_cuda_device_can_be_waited_for():
    assert synchronises(lambda: None, CPU) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_waiting_for_a_cuda_device_is_noticed():
    device = torch.device("cuda")
    ones = torch.ones(3, device=device)
    assert synchronises(lambda: ones + 1, device) is False
    assert synchronises(ones.sum().item, device) is True
    assert peak_bytes(lambda: torch.ones(2**18, device=device), device) == 2**20


def test_json_is_plain_and_complete(report):
    content = json.loads(as_json(report))
    assert set(content) == {"machine", "sizes", "copying", "best", "systems", "runtime", "growth"}
    assert set(content["machine"]) == {"device", "threads", "torch", "load_average", "date"}
    assert set(content["copying"]) == FIGURE
    assert content["best"] == content["copying"]["median"] / 28
    small, gain = content["systems"]
    assert small["parameters"] == 291
    assert small["channels"] == 5
    for name in ("scan", "paper", "ratio", "playing"):
        assert set(small[name]) == FIGURE
        assert 0 < small[name]["low"] <= small[name]["median"] <= small[name]["high"]
    assert gain["paper"] is None
    assert gain["paper_memory"] is None
    assert [block["samples"] for block in small["blocks"]] == [16, 64]
    assert set(small["blocks"][0]) == {"samples", "latency_us", "p99_us", "real_time"}
    assert [(row["dimension"], row["value"]) for row in content["growth"]] == [
        *(("T", 64), ("T", 128), ("B", 1), ("B", 2)),
        *(("D", 1), ("D", 5), ("sections", 1), ("sections", 2)),
    ]
    assert set(content["growth"][0]) == {"dimension", "value", "scan", "memory", "playing"}


def test_the_table_fits_a_terminal(report):
    lines = as_text(report).splitlines()
    assert max(map(len, lines)) <= 110
    for start in ("small_parallel  ", "gain  ", "T = 64 ", "sections = 2 "):
        assert any(line.startswith(start) for line in lines)
    assert "Scan steps that wait" not in as_text(report)


def test_growth_belongs_to_the_small_system(half_a_second):
    alone = measure({"gain": Gain()}, TINY, CPU)
    assert alone.growth == []
    assert "sections = " not in as_text(alone)


def test_markdown_replaces_what_stands_between_the_markers(report, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Title\n\n<!-- speed -->\nold\n<!-- /speed -->\n\nAfter `<!-- speed -->`.\n")
    for _ in range(2):
        page.write_text(between_markers(page, as_markdown(report)))
    text = page.read_text()
    assert text.startswith("# Title\n\n<!-- speed -->\n\n")
    assert text.endswith(" |\n\n<!-- /speed -->\n\nAfter `<!-- speed -->`.\n")
    assert "old" not in text
    assert text.count("| small_parallel | 291 |") == 1


@pytest.mark.parametrize(
    "text", ["", "<!-- speed -->\n", "<!-- /speed -->\n<!-- speed -->\n", "<!-- speed -->\n" * 2]
)
def test_a_page_without_markers_is_refused(tmp_path, text):
    (tmp_path / "page.md").write_text(text)
    with pytest.raises(
        ConfigError, match=r"page\.md has no place for the table: give it the lines <!-- speed"
    ):
        between_markers(tmp_path / "page.md", "table")


def test_nothing_is_measured_for_a_file_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "measure", lambda *_: pytest.fail("measured"))
    (tmp_path / "file").touch()
    for option in ("--json", "--profile"):
        for name in ("", "file/speed.json"):
            with pytest.raises(ConfigError, match="cannot write"):
                main(["bench", option, str(tmp_path / name)])
    with pytest.raises(ConfigError, match=r"cannot read .*none\.md"):
        main(["bench", "--markdown", str(tmp_path / "none.md"), "--json", str(tmp_path / "new" / "s.json")])
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_checkpoints_of_one_name_are_told_apart(monkeypatch):
    monkeypatch.setattr(benchmark, "load_model", lambda path: Gain())
    assert list(choose("", [Path("a/x.ckpt"), Path("b/x.ckpt"), Path("y.ckpt")])) == [
        "a/x.ckpt",
        "b/x.ckpt",
        "y",
    ]


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(ConfigError, match="no system is called huge; there are small_parallel, "):
        choose("small_parallel,huge", [])
    with pytest.raises(ConfigError, match="nothing to measure"):
        choose("", [])
    with pytest.raises(ConfigError, match="runs must be at least 1, not 0"):
        main(["bench", "--runs", "0"])
    with pytest.raises(ConfigError, match="threads must be at least 1, not 0"):
        prepare("cpu", 0)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no CUDA device"):
            prepare("cuda", None)


def test_the_command_measures_checkpoints_and_writes_every_file(tiny_root, tmp_path, monkeypatch, capsys):
    fit(tiny_root, tmp_path, f"[{TIME}]", "--trainer.max_epochs=1", "--trainer.limit_train_batches=1")
    page, numbers, trace = tmp_path / "page.md", tmp_path / "new" / "speed.json", tmp_path / "trace.json"
    page.write_text("<!-- speed -->\n<!-- /speed -->\n")
    monkeypatch.setattr(speed_figures, "Sizes", lambda runs: Sizes(**{**asdict(TINY), "runs": runs}))
    capsys.readouterr()
    files = [f"--json={numbers}", f"--markdown={page}", f"--profile={trace}"]
    main(["bench", str(tmp_path / "stage-1-time.ckpt"), "--systems=", "--runs=2", "--threads=1", *files])
    assert "\nstage-1-time  " in capsys.readouterr().out
    assert json.loads(numbers.read_text())["systems"][0]["name"] == "stage-1-time"
    assert json.loads(numbers.read_text())["sizes"]["runs"] == 2
    assert "| stage-1-time |" in page.read_text()
    assert any("Adam" in event.get("name", "") for event in json.loads(trace.read_text())["traceEvents"])


def test_the_command_measures_all_systems_by_default(monkeypatch):
    monkeypatch.setattr(benchmark, "measure", lambda models, *_: pytest.fail(" ".join(models)))
    with pytest.raises(pytest.fail.Exception, match=" ".join(SYSTEMS)):
        main(["bench"])
