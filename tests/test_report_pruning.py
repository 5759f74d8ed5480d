"""A KLANN without idle channels: the same sound to rounding, and a checkpoint like any other."""

import copy

import pytest
import torch
from conftest import error_db
from test_klann import noise, randomised
from test_reading import CONTEXT, RATE, compressor, frozen, some_model, swelling, takes_of

from klann_lightning.errors import CheckpointError, ConfigError
from klann_lightning.importing import RECIPE
from klann_lightning.inside import esr_db, moments
from klann_lightning.models.base import AudioModel
from klann_lightning.models.klann import Klann, ParallelKlann, ParallelSeriesKlann
from klann_lightning.models.stacked import StackedKlann
from klann_lightning.models.surgery import removable, without
from klann_lightning.report.pruning import prune, write_pruned
from klann_lightning.training.checkpoints import (
    fitting_model,
    load_model,
    read_checkpoint,
    write_weights,
)

SIZES = {
    ParallelKlann: {"hidden": [3, 4], "lift_dim": 4},
    ParallelSeriesKlann: {"hidden": [3, 4], "lift_dim": 4, "mid_width": 3},
    StackedKlann: {"hidden": [3, 4], "lift_dim": 3, "banks": 3, "mid_width": 3},
}
FILTERS = {"sections": 2, "start": "log", "low_hz": 2.0, "high_hz": 3000.0}
CASES = [
    pytest.param(kind, gone, id=f"{kind.__name__}-{'-'.join(map(str, gone))}")
    for kind, rows in {
        ParallelKlann: [[0], [2], [3]],
        ParallelSeriesKlann: [[1], [2], [3]],
        StackedKlann: [[6, 7, 8]],
    }.items()
    for gone in rows
]


def of(kind, **more):
    return some_model(lambda **rest: kind(**SIZES[kind], **rest), **more)


def count(model):
    return sum(part.numel() for part in model.parameters())


@pytest.mark.parametrize("initial", ["silence", "zero"])
@pytest.mark.parametrize(("kind", "gone"), CASES)
def test_the_smaller_model_is_the_larger_one_with_channels_frozen(kind, gone, initial):
    """From the first sample on, in whatever state the filters begin."""
    model = of(kind, initial=initial)
    x = noise(600, dtype=torch.float64)
    means = moments(model, [(x, x)], 100)[0]
    smaller = without(model, gone, means)
    assert type(smaller) is kind
    assert len(smaller.bank.cutoff) == len(model.bank.cutoff) - len(gone)
    assert count(smaller) < count(model)
    expected = frozen(model, x, {index: float(means.leaving[index]) for index in gone})
    assert error_db(AudioModel.play_whole(smaller, x), expected) < -150  # of scipy's direct form
    still = AudioModel.play_whole(without_gain(model, gone, means), x)
    assert error_db(AudioModel.play_whole(smaller, x), still) < -200


@torch.no_grad()
def without_gain(model, gone, means):
    """The larger model with no weight on what has gone, by hand."""
    other = copy.deepcopy(model)
    other.bank.mix[gone] = 0
    first = other.down.gated[0]
    for index in gone:
        first.bias += first.weight[:, index] * means.leaving[index]
        if isinstance(model, ParallelSeriesKlann) and index < len(model.mids):
            following = other.mids[index].gated[0]
            following.bias += following.weight[:, 0] * means.leaving[index]
    return other


@pytest.mark.parametrize("initial", ["silence", "zero"])
def test_a_place_in_all_banks_goes_with_its_way_past_the_filters(initial):
    """By the equation, bank after bank: z and u of the place stand at their means."""
    model = of(StackedKlann, initial=initial)
    x = noise(600, dtype=torch.float64)
    means = moments(model, [(x, x)], 100)[0]
    gone = [1, 4, 7]
    smaller = without(model, gone, means)
    held = {index: float(means.leaving[index]) for index in gone}
    larger = copy.deepcopy(model)
    with torch.no_grad():
        for bank, mixed in enumerate(larger.maps):
            layer = mixed.gated[0]
            layer.bias += layer.weight[:, 3 + 1] * means.entering[3 * bank + 1]
            layer.weight[:, 3 + 1] = 0
    assert error_db(AudioModel.play_whole(smaller, x), frozen(larger, x, held)) < -150
    assert smaller.channel_names() == [f"bank {k}, channel {i}" for k in (1, 2, 3) for i in (1, 2)]


@pytest.mark.parametrize(
    ("kind", "gone", "words"),
    [
        (
            ParallelSeriesKlann,
            [0],
            "channel 1 cannot be taken out exactly: .* the only one whose filter has no",
        ),
        (StackedKlann, [4], "bank 2, channel 2 cannot be taken out exactly: .* equally wide"),
        (StackedKlann, [0, 1, 2], "bank 1, channel 3 cannot .* Take out the same place in all banks"),
    ],
)
def test_what_no_smaller_model_equals_is_refused(kind, gone, words):
    model = of(kind)
    x = noise(300, dtype=torch.float64)
    with pytest.raises(ConfigError, match=words):
        without(model, gone, moments(model, [(x, x)], 100)[0])


@pytest.mark.parametrize(
    "model",
    [
        ParallelKlann([2], 1),
        ParallelSeriesKlann([2], 1, mid_width=2),
        StackedKlann([2], 1, banks=1, mid_width=2),
    ],
)
def test_the_last_channel_stays(model):
    x = noise(300)
    assert removable(model) == []
    assert prune(model, [(x, x)], 100, allowed_db=1000).removed == []


class Unknown(Klann):
    """A topology of somebody else."""

    linear = ParallelKlann.linear
    write_linear = ParallelKlann.write_linear


def test_unknown_topologies_are_refused():
    with pytest.raises(ConfigError, match="not known how the channels of a Unknown go on"):
        removable(Unknown([2], 2))


def test_where_nothing_can_be_measured_nothing_goes():
    """Over silence there is no ESR."""
    x = noise(300)
    assert prune(ParallelKlann([2], 3), [(x, torch.zeros(300))], 100, allowed_db=1000).removed == []


def test_an_idle_channel_goes_and_nothing_else():
    model = compressor()
    pruned = prune(model, takes_of(model), CONTEXT)
    assert pruned.removed == ["channel 3"]
    assert pruned.model.lift.last.out_features == 2
    assert pruned.steps[-1].esr_db == pytest.approx(pruned.steps[0].esr_db, abs=1e-6)
    # a row of the lift, a filter, and a column of 8 on the way down
    assert pruned.steps[0].parameters - pruned.steps[-1].parameters == (4 + 1) + 5 + 8
    assert pruned.steps[0].multiply_adds - pruned.steps[-1].multiply_adds == 4 + 9 + 8
    x = swelling(1.0)
    assert error_db(AudioModel.play_whole(pruned.model, x), AudioModel.play_whole(model, x)) < -200


@pytest.mark.parametrize("kind", SIZES)
def test_steps_are_what_they_say(kind):
    """Down to the smallest model, each step one model of it; the names are the first one's."""
    model = of(kind, sections=1)
    x = noise(2000, dtype=torch.float64)
    takes = [(x, AudioModel.play_whole(model, x) + 0.01 * noise(2000, seed=4, dtype=torch.float64))]
    pruned = prune(model, takes, CONTEXT, allowed_db=1000)
    assert len(pruned.model.bank.cutoff) == 1
    assert len(set(pruned.removed)) == len(model.bank.cutoff) - 1
    assert set(pruned.removed) < set(model.channel_names())
    assert pruned.steps[-1].esr_db == pytest.approx(
        esr_db([AudioModel.play_whole(pruned.model, x)], takes, CONTEXT)
    )
    sizes = [step.parameters for step in pruned.steps]
    assert sizes == sorted(set(sizes), reverse=True)
    assert pruned.steps[-1].parameters == count(pruned.model)
    assert AudioModel.play_whole(pruned.model, x).isfinite().all()
    costs = [step.esr_db - pruned.steps[0].esr_db for step in pruned.steps]
    first = pruned.steps[1].removed
    assert tuple(prune(model, takes, CONTEXT, costs[1] + 1e-9).removed[: len(first)]) == first
    assert prune(model, takes, CONTEXT, costs[1] - 1e-9).removed == []


def larger_checkpoint(path, kind):
    torch.manual_seed(2)
    init_args = {**SIZES[kind], **FILTERS}
    model = randomised(kind(**init_args, sample_rate=RATE))
    hyper_parameters = {
        "model": {
            "class_path": f"{kind.__module__}.{kind.__name__}",
            "init_args": {**init_args, "initial": "silence", "sample_rate": RATE},
        },
        **RECIPE,
    }
    weights = {f"model.{name}": value for name, value in model.state_dict().items()}
    write_weights(path, hyper_parameters, {"target_power": torch.tensor(0.25), **weights})
    return load_model(path)


@pytest.mark.parametrize("kind", SIZES)
def test_a_written_model_is_the_pruned_one(kind, tmp_path):
    model = larger_checkpoint(tmp_path / "larger.ckpt", kind)
    x = noise(3000)
    pruned = prune(model, [(x, AudioModel.play_whole(model, x) + 0.01 * x)], CONTEXT, allowed_db=1000)
    out = tmp_path / "new" / "smaller.ckpt"
    write_pruned(pruned, tmp_path / "larger.ckpt", out)
    assert torch.equal(AudioModel.play_whole(load_model(out), x), AudioModel.play_whole(pruned.model, x))
    sizes = {**SIZES[kind], "lift_dim": 1} | ({"banks": 1} if kind is StackedKlann else {})
    fitting_model(out, kind(**sizes, sections=2, sample_rate=RATE, high_hz=3000.0), "model.init_from")
    old, new = read_checkpoint(tmp_path / "larger.ckpt"), read_checkpoint(out)
    assert new["state_dict"]["target_power"] == 0.25
    assert "optimizer_states" not in new
    arguments = [content["hyper_parameters"]["model"]["init_args"] for content in (old, new)]
    assert arguments[1] == {**arguments[0], **sizes}
    others = [
        {name: value for name, value in content["hyper_parameters"].items() if name != "model"}
        for content in (old, new)
    ]
    assert others[0] == others[1]


def test_a_pruned_model_can_restart():
    """With parameters as a new model of its size has them, its filters where the channel's own began."""
    kind, options = ParallelKlann, {**FILTERS, "sample_rate": RATE}
    model = randomised(kind(**SIZES[kind], **options))
    x = noise(600)
    smaller = without(model, [1], moments(model, [(x, x)], 100)[0])
    torch.manual_seed(3)
    fresh = kind([3, 4], 3, **options).state_dict()
    fresh["bank.cutoff"] = kind(**SIZES[kind], **options).bank.cutoff[[0, 2, 3]]
    fresh |= {name: model.state_dict()[name] for name in ("input_level", "output_level")}  # they stay
    torch.manual_seed(3)
    smaller.restart()
    for name, value in smaller.state_dict().items():
        torch.testing.assert_close(value, fresh[name], rtol=0, atol=0, msg=name)


def test_another_models_checkpoint_is_refused(tmp_path):
    model = larger_checkpoint(tmp_path / "larger.ckpt", ParallelKlann)
    larger_checkpoint(tmp_path / "other.ckpt", StackedKlann)
    x = noise(3000)
    pruned = prune(model, [(x, AudioModel.play_whole(model, x) + 0.01 * x)], CONTEXT, allowed_db=1000)
    with pytest.raises(CheckpointError, match="does not hold the ParallelKlann that was pruned"):
        write_pruned(pruned, tmp_path / "other.ckpt", tmp_path / "out.ckpt")
    write_pruned(pruned, tmp_path / "larger.ckpt", tmp_path / "smaller.ckpt")
    with pytest.raises(CheckpointError, match="does not hold"):
        write_pruned(pruned, tmp_path / "smaller.ckpt", tmp_path / "out.ckpt")
    with pytest.raises(CheckpointError, match="is a folder"):
        write_pruned(pruned, tmp_path / "larger.ckpt", tmp_path)


def test_pruning_leaves_the_model_as_it_is():
    model = compressor()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    prune(model, takes_of(model, 2.0), CONTEXT, allowed_db=1000)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
