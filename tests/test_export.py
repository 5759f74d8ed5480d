"""What export writes is the model: read back by us, by onnxruntime and by torch, to the sample."""

import copy
import json
import re
import sys

import numpy as np
import onnxruntime
import pytest
import torch
from jsonschema import Draft202012Validator
from test_cli import checkpoint  # noqa: F401

from klann_lightning.cli import main
from klann_lightning.data.audio import read_audio, write_audio
from klann_lightning.errors import CheckpointError, ConfigError
from klann_lightning.export.document import document, model_from, read_document, schema, write_document
from klann_lightning.export.graph import first_state, step_graph, whole_graph
from klann_lightning.export.program import BLOCK, export_program, player
from klann_lightning.export.rates import rate_error_db
from klann_lightning.models.gcn import Gcn
from klann_lightning.models.klann import ParallelKlann, ParallelSeriesKlann
from klann_lightning.models.lstm import Lstm
from klann_lightning.models.stacked import StackedKlann

SYSTEMS = {
    "small parallel": lambda: ParallelKlann([3, 4, 5], 5),
    "small series": lambda: ParallelSeriesKlann([3, 4, 5], 5, 5),
    "large parallel": lambda: ParallelKlann([5, 10, 15], 15),
    "large series": lambda: ParallelSeriesKlann([5, 10, 15], 15, 15),
    "stacked": lambda: StackedKlann([3, 5], 4, banks=3, mid_width=6),
    "cascades": lambda: ParallelKlann([2], 3, sections=3, initial="zero"),
    "one channel": lambda: ParallelSeriesKlann([2], 1, 4, sample_rate=48000),
    "no gates": lambda: ParallelKlann([], 2),
}


def system(name):
    """Its filters and levels as training could leave them."""
    torch.manual_seed(list(SYSTEMS).index(name))
    model = SYSTEMS[name]()
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, torch.nn.Linear):
                layer.weight.mul_(2)
        model.bank.cutoff.add_(torch.randn_like(model.bank.cutoff))
        model.bank.damping.add_(torch.randn_like(model.bank.damping))
        model.bank.mix.add_(torch.randn_like(model.bank.mix))
    model.set_levels(0.137, 0.271)
    return model.eval()


@pytest.fixture(params=list(SYSTEMS))
def model(request):
    return system(request.param)


@pytest.fixture(scope="module")
def noise():
    return torch.rand(20_000, generator=torch.Generator().manual_seed(1)) * 2 - 1


def off_db(played, known):
    """The error's energy over that of what moves in the known sound, where that is more than a click."""
    known = known.double()
    moving = (known - known.mean()).square().sum()
    scale = moving if moving > 1e-3 * known.square().sum() else known.square().sum()
    return float(10 * torch.log10((played.double() - known).square().sum() / scale + 1e-30))


@torch.no_grad()
def exact(model, x):
    return copy.deepcopy(model).double().play_whole(x.double())


def test_a_document_gives_the_checkpoints_samples(model, noise, tmp_path):
    content = document(model, {"epoch": 3})
    Draft202012Validator.check_schema(schema())
    Draft202012Validator(schema()).validate(content)
    write_document(tmp_path / "model.json", content)
    again = model_from(read_document(tmp_path / "model.json"))
    assert type(again) is type(model)
    assert again.sample_rate == model.sample_rate
    with torch.no_grad():
        torch.testing.assert_close(again.play_whole(noise), model.play_whole(noise), rtol=0, atol=0)
    snapshot = {name: torch.tensor(part, dtype=torch.float64) for name, part in content["snapshot"].items()}
    assert off_db(exact(again, snapshot["input"]), snapshot["output"]) < -250


@pytest.mark.parametrize(("precision", "least_db", "most_db"), [("float16", -90, -45), ("int16", -110, -60)])
def test_rounded_weights_cost_what_is_said(precision, least_db, most_db, model, noise):
    content = document(model, precision=precision)
    rounded = model_from(content)
    assert least_db < off_db(exact(rounded, noise), exact(model, noise)) < most_db
    assert document(rounded, precision=precision)["operations"] == content["operations"]
    assert content["filters"][0]["mix"] == document(model)["filters"][0]["mix"]


def test_a_weight_that_no_half_holds_is_named():
    model = system("small parallel")
    with torch.no_grad():
        model.lift.last.weight[0, 0] = 1e5
    with pytest.raises(ConfigError, match=r"which float16 cannot hold\. Take int16"):
        document(model, precision="float16")
    with pytest.raises(ConfigError, match="no precision 'int8'; there are float32, float16, int16"):
        document(model, precision="int8")


def other(content, **changes):
    return {**copy.deepcopy(content), **changes}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: other(c, version=2), "version 2 of the format; .* reads version 1"),
        (lambda c: other(c, format="nam"), "its format is not 'klann'"),
        (lambda c: {k: v for k, v in c.items() if k != "filters"}, "'filters' is a required property"),
        (lambda c: other(c, filters=c["filters"][:-1]), "does not hold the ParallelKlann that it says"),
        (lambda c: other(c, system={**c["system"], "lift_dim": 4}), "its operations are those of another"),
        (lambda c: other(c, system={**c["system"], "name": "os.system"}), "damaged at system/name"),
        (lambda c: other(c, input_level="loud"), "damaged at input_level"),
        (
            lambda c: other(c, operations=[{**c["operations"][0], "bias": [1, None]}]),
            "damaged at operations/0",
        ),
    ],
)
def test_what_is_no_document_is_named(change, said, tmp_path):
    content = change(document(system("small parallel")))
    (tmp_path / "model.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=said):
        model_from(read_document(tmp_path / "model.json"))


@pytest.mark.parametrize("text", ["", "{", "[1]", "[" * 100_000, '{"format": "klann"', "\x00\xff"])
def test_what_is_no_json_is_named(text, tmp_path):
    (tmp_path / "model.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"is not JSON, or cut off|its format is not"):
        read_document(tmp_path / "model.json")


def session(made):
    return onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])


def test_an_onnx_step_is_the_model_in_blocks_of_any_size(model, noise):
    content = document(model)
    step, state, outputs, at = session(step_graph(content)), first_state(content), [], 0
    for size in (1, 1, 63, 64, 65, 128, 1000, 7, 5000):
        y, state = step.run(None, {"x": noise[None, at : at + size].numpy(), "state": state})
        outputs.append(torch.from_numpy(y[0]))
        at += size
    assert off_db(torch.cat(outputs), exact(model, noise[:at])) < -100


def test_a_whole_onnx_graph_plays_any_length_and_number(model, noise):
    whole = session(whole_graph(document(model)))
    for length in (1, 64, 12_345):
        x = torch.stack([noise[:length], -noise[:length], 0 * noise[:length]])
        (y,) = whole.run(None, {"x": x.numpy()})
        for row, played in zip(x, y, strict=True):
            assert off_db(torch.from_numpy(played), exact(model, row)) < -100


def test_a_torch_program_is_the_model(noise, tmp_path):
    for made in (system("small series"), Lstm(8).eval()):
        (tmp_path / "model.pt2").write_bytes(export_program(made))
        played = player(tmp_path / "model.pt2", made.init_state(1))(noise[: 20 * BLOCK])
        assert off_db(played, exact(made, noise[: 20 * BLOCK])) < -100


def test_another_rate_costs_what_filters_near_nyquist_do():
    """At its own rate nothing; and a model of low-pass filters the less, the lower they lie."""
    low, high = copy.deepcopy(system("small parallel")), copy.deepcopy(system("small parallel"))
    with torch.no_grad():
        for model, raw in ((low, -6.0), (high, 1.0)):  # 55 Hz, 16 kHz
            model.bank.cutoff.fill_(raw)
            model.bank.mix.copy_(torch.tensor([1.0, 0.0, 0.0]).expand_as(model.bank.mix))
    errors = [rate_error_db(document(one), 48000) for one in (low, high)]
    assert errors[0] < errors[1] - 10
    assert rate_error_db(document(high), 44100) < -200
    assert -40 < errors[1] < 0
    beyond = {**document(high), "sample_rate": 96000}
    beyond["filters"] = [{**one, "cutoff_hz": 45_700.0} for one in beyond["filters"]]
    assert -60 < rate_error_db(beyond, 48000) < 10


def test_other_models_are_refused_by_name():
    with pytest.raises(ConfigError, match="a Gcn is not made of layers and filters"):
        document(Gcn(1, 3))


@pytest.mark.parametrize("kind", ["json", "cpp", "onnx", "torch"])
def test_the_command_says_how_near_it_is(kind, checkpoint, tmp_path, capsys):  # noqa: F811
    main(["export", str(checkpoint), str(tmp_path / "out.pt2"), "--format", kind])
    said = capsys.readouterr().out
    assert "out.pt2" in said
    near = re.search(r"its samples are the model's to -(\d+)", said)
    assert kind == "cpp" or int(near[1]) >= 100
    assert ("at 48000 Hz it is off by -" in said) == (kind in ("json", "cpp"))
    assert (tmp_path / "out.pt2" / "klann.hpp").is_file() == (kind == "cpp")


def test_the_command_says_what_rounding_costs(checkpoint, tmp_path, capsys):  # noqa: F811
    for kind in ("json", "cpp", "onnx"):
        main(["export", str(checkpoint), str(tmp_path / kind), "--format", kind, "--precision", "int16"])
        assert "its weights in int16 cost -" in capsys.readouterr().out
    assert read_document(tmp_path / "json")["precision"] == "int16"


def test_an_exported_document_plays(checkpoint, noise, tmp_path):  # noqa: F811
    write_audio(tmp_path / "in.wav", noise.numpy(), 44100)
    main(["export", str(checkpoint), str(tmp_path / "model.json")])
    for model, out in ((checkpoint, "a.wav"), (tmp_path / "model.json", "b.wav")):
        main(["process", str(model), str(tmp_path / "in.wav"), str(tmp_path / out)])
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav"), read_audio(tmp_path / "b.wav"))
    training = read_document(tmp_path / "model.json")["training"]
    assert training["stages"][0]["name"] == "time"
    assert training["scores"]["val/loss"] > 0


@pytest.mark.parametrize("library", ["onnx", "onnxruntime"])
def test_a_missing_library_is_told_before_anything_is_written(library, checkpoint, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, "klann_lightning.export.graph", raising=False)
    with pytest.raises(ConfigError, match=rf"{library} is missing. Install it: pip install"):
        main(["export", str(checkpoint), str(tmp_path / "x.onnx"), "--format=onnx"])
    assert not list(tmp_path.glob("x*"))


def test_no_such_format_and_no_such_place(checkpoint, tmp_path):  # noqa: F811
    with pytest.raises(ConfigError, match="there is no format 'vst'; there are json, cpp, onnx, torch"):
        main(["export", str(checkpoint), str(tmp_path / "x"), "--format=vst"])
    (tmp_path / "file").write_text("")
    for kind in ("json", "cpp", "onnx", "torch"):
        with pytest.raises(CheckpointError, match=r"cannot be written|is a file"):
            main(["export", str(checkpoint), str(tmp_path / "file" / "x.pt2"), f"--format={kind}"])
    with pytest.raises(ConfigError, match=r"end in \.pt2: name it .*x\.pt2"):
        main(["export", str(checkpoint), str(tmp_path / "x.pth"), "--format=torch"])
