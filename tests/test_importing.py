"""The authors' results as checkpoints: the same sound as their equations, and a start for trainings."""

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import error_db
from scipy.signal import lfilter
from test_checkpoints import PICKLERS, Makes
from test_stages import CSV_LOGGER, SPECTRAL, STARTS, TIME, column, fit

from klann_lightning.cli import main
from klann_lightning.data.audio import read_audio, write_audio
from klann_lightning.errors import CheckpointError, ConfigError
from klann_lightning.importing import RECIPE, read_results
from klann_lightning.resolving import resolve
from klann_lightning.training.checkpoints import load_model, read_checkpoint

PAPER = Path(__file__).parents[1] / "sweeps" / "recipes" / "paper.yaml"
# class, layers, lift dimension, width of the maps between the filters
SIZES = [
    ("MODEL1", [3, 4, 5], 5, 0),
    ("MODEL1", [5, 10, 15], 15, 0),
    ("MODEL1", [3], 2, 0),
    ("MODEL2", [3, 4, 5], 5, 5),
    ("MODEL2", [5, 10, 15], 15, 15),
    ("MODEL2", [2, 6], 12, 3),
    ("MODEL2", [4], 1, 0),
]
sizes = pytest.mark.parametrize(("model", "layers", "lift_dim", "width"), SIZES)
SETTINGS = """data: la2a
model_train: {model}
layers: {layers}
layer: 5
n: {lift_dim}
N: 32768
MR-STFT: True
log dir: results/x/model_la2a
"""


def their_weights(model: str, layers: list[int], lift_dim: int, width: int) -> dict:
    """A state dict with the names and shapes of theirs, random numbers."""
    rng = np.random.default_rng(0)

    def linear(name: str, fan_in: int, fan_out: int) -> dict:
        scale = 1.5 / math.sqrt(fan_in)
        shapes = {"weight": (fan_out, fan_in), "bias": (fan_out,)}
        return {f"{name}.{part}": rng.normal(0, scale, shape) for part, shape in shapes.items()}

    state = {}
    for name, widths in (("mlp1", [1, *layers]), ("mlp2", [lift_dim, *layers[::-1]])):
        for index, (fan_in, gated) in enumerate(pairwise(widths)):
            state |= linear(f"{name}.{2 * index}", fan_in, 2 * gated)
        state |= linear(f"{name}.{2 * len(layers)}", widths[-1], lift_dim if name == "mlp1" else 1)
    filters = "filters" if model == "MODEL1" else "filter"
    for index in range(lift_dim):
        state |= {f"{filters}.{index}.{name}": rng.normal(0, 1, 1) for name in ("m_hp", "m_bp", "m_lp", "R")}
        state[f"{filters}.{index}.g"] = rng.uniform(-9, 2, 1)  # 3 Hz to 19 kHz
        if model == "MODEL2" and index:
            state |= linear(f"linear.{index - 1}.0", 2, 2 * width)
            state |= linear(f"linear.{index - 1}.2", width, 1)
    return {key: torch.from_numpy(value).float() for key, value in state.items()}


def write_results(folder: Path, model: str, layers: list[int], lift_dim: int, width: int) -> Path:
    folder.mkdir(parents=True)
    torch.save(their_weights(model, layers, lift_dim, width), folder / "model.pth")
    text = SETTINGS.format(model=model, layers=str(layers).replace(" ", ""), lift_dim=lift_dim)
    (folder / "parameters.txt").write_text(text)
    return folder


def their_output(weights: dict, model: str, x: np.ndarray) -> torch.Tensor:
    """Their equations in float64, from zero state: x [T] -> [T] (docs/mathematics.md)."""
    state = {key: value.double().numpy() for key, value in weights.items()}

    def network(name: str, u: np.ndarray) -> np.ndarray:
        places = sorted({int(key.split(".")[-2]) for key in state if key.startswith(f"{name}.")})
        for place in places:
            u = state[f"{name}.{place}.weight"] @ u + state[f"{name}.{place}.bias"][:, None]
            if place != places[-1]:
                half = len(u) // 2
                u = u[:half] / (1 + np.exp(-u[half:]))
        return u

    def filtered(index: int, u: np.ndarray) -> np.ndarray:
        name = f"{'filters' if model == 'MODEL1' else 'filter'}.{index}"
        names = ("g", "R", "m_hp", "m_bp", "m_lp")
        raw, damping, hp, bp, lp = (state[f"{name}.{key}"].item() for key in names)
        g, r = math.tan(math.pi / 2 / (1 + math.exp(-raw))), math.log1p(math.exp(damping))
        b = [g * g * lp + g * bp + hp, 2 * g * g * lp - 2 * hp, g * g * lp - g * bp + hp]
        a = [g * g + 2 * r * g + 1, 2 * g * g - 2, g * g - 2 * r * g + 1]
        return lfilter(b, a, u)

    lifted = network("mlp1", x[None])
    outputs: list[np.ndarray] = []
    for index, u in enumerate(lifted):
        if model == "MODEL2" and outputs:
            (u,) = network(f"linear.{index - 1}", np.stack([outputs[-1], u]))
        outputs.append(filtered(index, u))
    return torch.from_numpy(network("mlp2", np.stack(outputs))[0])


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    return np.random.default_rng(1).uniform(-0.8, 0.8, 8000).astype(np.float32)


@sizes
def test_an_imported_model_sounds_as_theirs(model, layers, lift_dim, width, noise, tmp_path):
    folder = write_results(tmp_path / "results", model, layers, lift_dim, width)
    main(["import", str(folder), str(tmp_path / "out.ckpt")])
    ours = load_model(tmp_path / "out.ckpt")
    expected = their_output(torch.load(folder / "model.pth", weights_only=True), model, noise.astype(float))
    for fused in (True, False):
        ours.fused = fused
        assert error_db(ours(torch.from_numpy(noise)[None])[0], expected) < -100
    assert (ours.input_level, ours.output_level, ours.sample_rate) == (1, 1, 44100)
    assert sum(part.numel() for part in ours.parameters()) == sum(
        part.numel() for part in torch.load(folder / "model.pth", weights_only=True).values()
    )


@pytest.mark.parametrize("block", [1, 64, 1000])
def test_an_imported_model_streams(block, noise, tmp_path):
    folder = write_results(tmp_path / "results", *SIZES[3])
    main(["import", str(folder), str(tmp_path / "out.ckpt")])
    model, x = load_model(tmp_path / "out.ckpt"), torch.from_numpy(noise)[None, :3000]
    with torch.no_grad():
        assert error_db(torch.cat(list(model.play(x.split(block, -1))), -1), model(x)) < -120


@pytest.mark.parametrize("size", [SIZES[0], SIZES[3]], ids=["MODEL1", "MODEL2"])
def test_process_plays_an_imported_model_at_its_rate(size, noise, tmp_path, capsys):
    folder, out = write_results(tmp_path / "results", *size), tmp_path / "new" / "any.name"
    main(["import", str(folder), str(out), "--sample_rate", "48000"])
    assert "hidden [3, 4, 5], lift_dim 5" in capsys.readouterr().out
    assert [path.name for path in out.parent.iterdir()] == ["any.name"]
    write_audio(tmp_path / "dry.wav", noise, 48000)
    main(["process", str(out), str(tmp_path / "dry.wav"), str(tmp_path / "wet.wav"), "--block", "777"])
    heard = torch.from_numpy(read_audio(tmp_path / "wet.wav"))
    expected = their_output(their_weights(*size), size[0], noise.astype(float))
    assert error_db(heard, expected) < -100


@pytest.mark.parametrize(
    "text",
    [
        "layers:[3, 4,5 ]\n\n  model_train :  MODEL1  \n",
        "\ufeffmodel_train: 'MODEL1'\r\nnonsense\r\nLayers: 3,4,5\r\n",
    ],
)
def test_the_settings_may_be_written_in_other_ways(text, tmp_path):
    folder = write_results(tmp_path / "results", *SIZES[0])
    (folder / "parameters.txt").write_bytes(text.encode())
    main(["import", str(folder), str(tmp_path / "out.ckpt")])
    assert load_model(tmp_path / "out.ckpt").lift.last.out_features == 5


def test_filter_parameters_may_have_any_shape_of_one_element(noise, tmp_path):
    folder = write_results(tmp_path / "results", *SIZES[3])
    weights = torch.load(folder / "model.pth", weights_only=True)
    shaped = {key: value.reshape(()) if key.endswith(".g") else value for key, value in weights.items()}
    shaped |= {key: value.reshape(1, 1, 1).double() for key, value in weights.items() if key.endswith("m_bp")}
    torch.save(shaped, folder / "model.pth")
    main(["import", str(folder), str(tmp_path / "out.ckpt")])
    heard = load_model(tmp_path / "out.ckpt")(torch.from_numpy(noise)[None])[0]
    assert error_db(heard, their_output(weights, "MODEL2", noise.astype(float))) < -100


def test_the_hyper_parameters_are_the_papers(tmp_path):
    main(["import", str(write_results(tmp_path / "results", *SIZES[0])), str(tmp_path / "out.ckpt")])
    paper = yaml.safe_load(PAPER.read_text())["model"]
    started = paper.pop("model")["init_args"]
    assert paper == RECIPE
    saved = read_checkpoint(tmp_path / "out.ckpt")["hyper_parameters"]
    assert {name: saved[name] for name in RECIPE} == RECIPE
    assert started.items() <= saved["model"]["init_args"].items()


@pytest.mark.parametrize("write", PICKLERS.values(), ids=PICKLERS)
@pytest.mark.parametrize("beside", [True, False], ids=["beside the weights", "alone"])
def test_importing_runs_no_code(write, beside, tmp_path):
    """A pickled module, or anything that would call something, is refused unread."""
    folder = write_results(tmp_path / "results", *SIZES[0])
    makes = Makes(tmp_path / "executed")
    write({**their_weights(*SIZES[0]), "extra": makes} if beside else makes, folder / "model.pth")
    refuse_import(folder, tmp_path)
    torch.save(torch.nn.Linear(1, 2), folder / "model.pth")
    refuse_import(folder, tmp_path)


def refuse_import(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model\.pth is damaged or holds more than a state dict"):
        main(["import", str(folder), str(tmp_path / "out.ckpt")])
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


def without(key: str):
    return lambda weights: weights.pop(key)


def with_value(key: str, value: object):
    return lambda weights: weights.update({key: value})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without("mlp1.2.bias"), r"model\.pth lacks mlp1\.2\.bias, unlike a MODEL2 with layers \[3, 4, 5\]"),
        (without("filter.4.R"), r"lacks filter\.4\.R, unlike"),
        (without("linear.3.2.weight"), r"lacks linear\.3\.2\.weight, unlike"),
        (with_value("mlp1.8.weight", torch.ones(5, 5)), r"has mlp1\.8\.weight, unlike"),
        (with_value("filter.5.g", torch.ones(1)), r"has filter\.5\.g, unlike"),
        (with_value("linear.4.0.bias", torch.ones(10)), r"has linear\.4\.0\.bias, unlike"),
        (with_value("extra", torch.ones(1)), "has extra, unlike"),
        (with_value("mlp2.0.weight", torch.ones(8, 5)), r"mlp2\.0\.weight has shape \[8, 5\].* \[10, 5\]\."),
        (with_value("linear.2.0.bias", torch.ones(8)), r"linear\.2\.0\.bias has shape \[8\].* \[10\]\."),
        (with_value("filter.1.m_lp", torch.ones(2)), r"filter\.1\.m_lp has shape \[2\].* one element"),
        (with_value("mlp1.6.weight", torch.ones(())), r"has filter\.1\.R, filter\.1\.g, .* more, unlike"),
        (with_value("filter.2.R", torch.tensor([math.nan])), r"filter\.2\.R has values that are not finite"),
        (
            with_value("mlp2.6.bias", torch.tensor([math.inf])),
            r"mlp2\.6\.bias has values that are not finite",
        ),
        (with_value("filter.2.R", 3.0), r"filter\.2\.R is not a tensor of real numbers"),
        (with_value("filter.2.R", torch.ones(1, dtype=torch.int64)), "is not a tensor of real numbers"),
        (lambda weights: weights.clear(), r"lacks mlp1\.0\.weight, .* and 13 more"),
    ],
)
def test_wrong_weights_are_named(change, said, tmp_path):
    folder = write_results(tmp_path / "results", *SIZES[3])
    weights = torch.load(folder / "model.pth", weights_only=True)
    change(weights)
    torch.save(weights, folder / "model.pth")
    with pytest.raises(CheckpointError, match=said) as raised:
        main(["import", str(folder), str(tmp_path / "out.ckpt")])
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.glob("*.ckpt"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("layers: [3,4,5]", r"parameters\.txt has no line 'model_train'"),
        ("model_train: MODEL2\nlayers:", "has no line 'layers'"),
        ("model_train: MODEL3\nlayers: [3,4,5]", "model_train is 'MODEL3'; only MODEL1 and MODEL2"),
        ("model_train: MODEL2\nlayers: [3,four]", r"layers is '\[3,four\]', not a list of widths"),
        ("model_train: MODEL2\nlayers: []", r"layers is '\[\]', not a list"),
        ("model_train: MODEL2\nlayers: [3,0,5]", r"layers is '\[3,0,5\]', not a list"),
        ("model_train: MODEL2\nlayers: [3,4]", r"has mlp1\.6\.bias, .*unlike a MODEL2 with layers \[3, 4\]"),
        ("model_train: MODEL2\nlayers: [3,4,6]", r"mlp1\.4\.weight has shape \[10, 4\].* \[12, 4\]\."),
        ("model_train: MODEL2\nlayers: [5,4,3]", r"mlp1\.0\.weight has shape \[6, 1\].* \[10, 1\]\."),
        (
            "model_train: MODEL1\nlayers: [3,4,5]",
            r"lacks filters\.0\.g, .* has filter\.0\.R, .*unlike a MODEL1",
        ),
        ("\x00\xff", "has no line 'model_train'"),
    ],
)
def test_wrong_settings_are_named(text, said, tmp_path):
    folder = write_results(tmp_path / "results", *SIZES[3])
    (folder / "parameters.txt").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match=said) as raised:
        main(["import", str(folder), str(tmp_path / "out.ckpt")])
    assert "\n" not in str(raised.value)


def test_what_is_missing_or_damaged_is_named(tmp_path):
    def refuses(said: str, folder: Path, out: Path = tmp_path / "out.ckpt") -> None:
        with pytest.raises(CheckpointError, match=said) as raised:
            main(["import", str(folder), str(out)])
        assert "\n" not in str(raised.value)

    whole = write_results(tmp_path / "whole", *SIZES[3])
    refuses("no such folder: .*nowhere", tmp_path / "nowhere")
    refuses("no such folder: .*model", whole / "model.pth")
    refuses("whole is a folder. Name the checkpoint's file", whole, whole)
    refuses(r"parameters\.txt.* cannot be written", whole, whole / "parameters.txt" / "out.ckpt")
    weights = (whole / "model.pth").read_bytes()
    for damaged in (weights[: len(weights) // 2], b"", b"no weights"):
        (whole / "model.pth").write_bytes(damaged)
        refuses(r"model\.pth is damaged or holds more than a state dict", whole)
    torch.save([torch.ones(1)], whole / "model.pth")
    refuses(r"model\.pth holds a list, not a state dict", whole)
    (whole / "model.pth").unlink()
    refuses(r"no such file: .*model\.pth", whole)
    (whole / "parameters.txt").unlink()
    refuses(r"no such file: .*parameters\.txt", whole)
    with pytest.raises(ConfigError, match="sample_rate must be at least 1 Hz, not 0"):
        main(["import", str(whole), str(tmp_path / "out.ckpt"), "--sample_rate", "0"])
    assert not list(tmp_path.glob("*.ckpt"))


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    folder, out = write_results(tmp_path / "results", *SIZES[0]), tmp_path / "out.ckpt"
    main(["import", str(folder), str(out)])
    before = out.read_bytes()

    def half(content, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(CheckpointError, match=r"out\.ckpt cannot be written: .*No space left on device"):
        main(["import", str(folder), str(out)])
    assert out.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.ckpt", "results"]


# Trainings that start from it, with the model of test_stages.fit: ParallelKlann, hidden [3], lift_dim 2.
STILL = TIME.replace("0.01", "0.0")
LIKE_THEIRS = ("--model.model.initial=zero", "--media=false")


@pytest.fixture
def imported(tmp_path) -> Path:
    main(["import", str(write_results(tmp_path / "theirs", *SIZES[2])), str(tmp_path / "imported.ckpt")])
    return tmp_path / "imported.ckpt"


def experiment_of(root: Path) -> list[str]:
    """What stands in a configuration beside the checkpoint; the model there is another one."""
    return [
        *("--data.device=tiny", f"--data.root={root}", f"--model.stages=[{TIME}]"),
        *("--model.model=klann_lightning.models.klann.ParallelKlann", "--model.model.hidden=[7]"),
        *("--model.model.lift_dim=1", "--trainer.logger=false"),
    ]


def recording(root: Path, split: str = "val") -> list[torch.Tensor]:
    """Its input and target [T]."""
    return [torch.from_numpy(read_audio(root / split / f"tiny-{side}.wav")) for side in ("input", "target")]


def their_esr_db(checkpoint: Path, root: Path, split: str = "val") -> float:
    weights = torch.load(checkpoint.parent / "theirs" / "model.pth", weights_only=True)
    source, target = recording(root, split)
    return error_db(their_output(weights, "MODEL1", source.double().numpy()), target)


def test_a_fit_starts_from_imported_weights(imported, tiny_root, tmp_path):
    """With a learning rate of zero it stays there; normalise, which is on, sets no levels."""
    more = (f"--model.init_from={imported}", *LIKE_THEIRS, f"--trainer.logger={CSV_LOGGER}")
    experiment = fit(tiny_root, tmp_path / "run", f"[{STILL}]", *more)
    expected = their_esr_db(imported, tiny_root)
    assert column(tmp_path / "run", "val/esr_db") == pytest.approx([expected] * 3, abs=1e-3)
    begun, ended = load_model(imported).state_dict(), experiment.model.model.state_dict()
    assert all(torch.equal(ended[key], value) for key, value in begun.items())
    power = recording(tiny_root, "train")[1].double().square().mean().item()
    assert experiment.model.target_power.item() == pytest.approx(power, rel=1e-5)


def test_a_fit_trains_on_from_imported_weights(imported, tiny_root, tmp_path):
    more = (f"--model.init_from={imported}", *LIKE_THEIRS, "--data.train.batches_per_epoch=20")
    fit(tiny_root, tmp_path / "run", f"[{TIME}, {SPECTRAL}]", *more)
    trained = load_model(tmp_path / "run" / "stage-2-spectral.ckpt")
    source, target = recording(tiny_root)
    assert error_db(trained(source[None])[0], target) < their_esr_db(imported, tiny_root) - 3
    assert trained.output_level == 1
    imported.unlink()  # nothing needs it any more
    assert load_model(tmp_path / "run" / "stage-2-spectral.ckpt").output_level == 1
    last = f"--ckpt_path={tmp_path / 'run' / 'last.ckpt'}"
    again = fit(tiny_root, tmp_path / "run", f"[{TIME}, {SPECTRAL}]", *more, last)
    assert (again.trainer.current_epoch, again.trainer.global_step) == (5, 100)
    heard = load_model(tmp_path / "run" / "last.ckpt")
    for command, split in (("validate", "val"), ("test", "test"), ("predict", "")):
        done = main([command, *experiment_of(tiny_root), last, f"--trainer.default_root_dir={tmp_path}"])
        if split:
            source, target = recording(tiny_root, split)
            expected = error_db(heard(source[None])[0], target)
            assert float(done.trainer.callback_metrics[f"{split}/esr_db"]) == pytest.approx(
                expected, abs=1e-3
            )
    source, _ = recording(tiny_root, "test")
    predicted = torch.from_numpy(read_audio(tmp_path / "predictions" / "tiny-output.wav"))
    assert error_db(predicted, heard(source[None])[0]) < -100


def test_a_fit_starts_from_a_trained_checkpoint_and_its_levels(tiny_root, tmp_path):
    trained = fit(tiny_root, tmp_path / "first", f"[{TIME}]", "--media=false").model.model.state_dict()
    start = f"--model.init_from={tmp_path / 'first' / 'stage-1-time.ckpt'}"
    for side in ("input", "target"):
        path = tiny_root / "train" / f"tiny-{side}.wav"
        write_audio(path, 0.5 * read_audio(path), 44100)
    ended = fit(tiny_root, tmp_path / "second", f"[{STILL}]", start, "--media=false").model.model.state_dict()
    assert trained["output_level"] != 1
    assert all(torch.equal(ended[key], value) for key, value in trained.items())


def test_the_first_of_several_starts_is_the_given_one(imported, tiny_root, tmp_path):
    more = (f"--model.init_from={imported}", *LIKE_THEIRS, f"--trainer.logger={CSV_LOGGER}")
    fit(tiny_root, tmp_path / "run", f"[{STARTS.replace('0.01', '0.0')}]", *more)
    scores = column(tmp_path / "run", "val/esr_db")
    assert scores[:2] == pytest.approx([their_esr_db(imported, tiny_root)] * 2, abs=1e-3)
    assert len({round(score, 4) for score in scores[:6]}) == 3


@pytest.mark.parametrize("command", ["validate", "test"])
def test_an_imported_checkpoint_is_scored(command, imported, tiny_root, tmp_path):
    """By its own model and rate, whatever else is configured; init_from is not read."""
    words = [command, *experiment_of(tiny_root), f"--ckpt_path={imported}", "--model.init_from=gone.ckpt"]
    split = {"validate": "val", "test": "test"}[command]
    scores = main([*words, f"--trainer.default_root_dir={tmp_path}"]).trainer.callback_metrics
    expected = their_esr_db(imported, tiny_root, split)
    assert float(scores[f"{split}/esr_db"]) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            ["--model.model=klann_lightning.models.klann.ParallelSeriesKlann", "--model.model.mid_width=2"],
            r"holds a ParallelKlann, the experiment configures a ParallelSeriesKlann\. "
            r"To start from it, configure --model\.model klann_lightning\.models\.klann\.ParallelKlann "
            r"--model\.model\.hidden '\[3\]' --model\.model\.lift_dim 2 --model\.model\.sections 1 "
            r"--model\.model\.initial zero\.",
        ),
        (["--model.model.lift_dim=3"], r"its lift\.last\.weight is \[2, 3\], the configured one's \[3, 3\]"),
        (
            ["--model.model.hidden=[3,3]"],
            r"its lift\.gated\.1\.weight is absent, the configured one's",
        ),
        (["--model.model.sections=2"], r"its bank\.cutoff is \[2, 1\], the configured one's \[2, 2\]"),
        (
            ["--model.model.initial=silence"],
            r"whose filters start from zero, the configured one's start from silence\. .*initial zero\.",
        ),
        (
            ["--data.sample_rate=48000"],
            r"is for 44100 Hz, the experiment for 48000 Hz\. Set data\.sample_rate to",
        ),
        (["--model.init_from=gone.ckpt"], r"no such checkpoint: gone\.ckpt"),
    ],
)
def test_a_start_that_does_not_fit_is_named_before_a_run(more, said, imported, tiny_root, tmp_path):
    with pytest.raises(CheckpointError, match=said):
        fit(tiny_root, tmp_path / "run", f"[{TIME}]", f"--model.init_from={imported}", *more)
    assert not (tmp_path / "run").exists()


def test_an_imported_checkpoint_is_no_training_to_resume(imported, tiny_root, tmp_path):
    with pytest.raises(
        CheckpointError, match=r"without a training to resume.* --model\.init_from .*imported\.ckpt"
    ):
        fit(tiny_root, tmp_path / "run", f"[{TIME}]", f"--ckpt_path={imported}")


def test_a_search_keeps_the_start_and_looks_for_it_first(imported, tiny_root, tmp_path):
    words = [*experiment_of(tiny_root), f"--model.init_from={imported}", f"--runs={tmp_path / 'runs'}"]
    assert resolve(words)["model"]["init_from"] == str(imported)
    imported.unlink()
    study = PAPER.parents[1] / "search" / "seeds.yaml"
    with pytest.raises(CheckpointError, match=r"no such checkpoint: .*imported\.ckpt"):
        main(["sweep", f"--study={study}", *words])
    assert not list((tmp_path / "runs").rglob("study.db"))


def test_weights_that_fit_another_network_are_no_start(tiny_root, tmp_path):
    """Of a GCN with other dilations every tensor has the same shape."""
    gcn = ["--model.model=klann_lightning.models.gcn.Gcn", "--model.model.blocks=1", "--model.model.layers=2"]
    words = [
        "fit",
        *(word for word in experiment_of(tiny_root) if not word.startswith("--model.model")),
        *gcn,
    ]
    words += ["--media=false", "--trainer.max_epochs=1", "--trainer.limit_train_batches=1"]
    main([*words, f"--trainer.default_root_dir={tmp_path / 'first'}"])
    start = tmp_path / "first" / "stage-1-time.ckpt"
    with pytest.raises(CheckpointError, match="remembers other samples than the configured one"):
        main([*words, "--model.model.growth=3", f"--model.init_from={start}"])


def test_both_names_of_the_filters_are_known(tmp_path):
    """Versions of their code differ in what MODEL2 calls them."""
    size = ("MODEL2", [3, 4, 5], 5, 5)
    plain, renamed = (write_results(tmp_path / name, *size) for name in ("plain", "renamed"))
    weights = their_weights(*size)
    torch.save(
        {key.replace("filter.", "filters."): part for key, part in weights.items()}, renamed / "model.pth"
    )
    ours, theirs = read_results(plain).weights, read_results(renamed).weights
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(theirs[key], part) for key, part in ours.items())
