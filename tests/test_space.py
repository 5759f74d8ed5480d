"""Study files and search spaces: what they suggest, what they write into an experiment, what they refuse."""

import optuna
import pytest
import yaml

from klann_lightning.errors import ConfigError
from klann_lightning.models.klann import ParallelKlann, ParallelSeriesKlann
from klann_lightning.sizing import model_size
from klann_lightning.sweep.space import assign, extract, look_up, samples, suggest
from klann_lightning.sweep.study import Entry, read_study

PARALLEL = "klann_lightning.models.klann.ParallelKlann"
SERIES = "klann_lightning.models.klann.ParallelSeriesKlann"
TOPOLOGY = "model.model.class_path"
ARGUMENTS = "model.model.init_args"
SPACE = {
    TOPOLOGY: Entry("categorical", choices=[PARALLEL, SERIES]),
    f"{ARGUMENTS}.hidden": Entry("int", 1, 9, length=[1, 3]),
    f"{ARGUMENTS}.lift_dim": Entry("int", 1, 8, log=True),
    f"{ARGUMENTS}.mid_width": Entry("int", 2, 6, when={TOPOLOGY: SERIES}),
    "model.stages.1.weights.mr_stft": Entry("float", 0.001, 0.1, log=True),
}


def experiment(**more):
    arguments = {"hidden": [3, 4, 5], "lift_dim": 5, "mid_width": 5, "low_hz": 1.0, **more}
    stages = [{"name": "a", "weights": {"esr": 1.0}}, {"name": "b", "weights": {"mr_stft": 0.03}, "lr": 0.1}]
    model = {"model": {"class_path": SERIES, "init_args": arguments}, "stages": stages}
    return {"data": {"sample_rate": 44100}, "model": model}


class Fixed:
    """Suggests what it was given, and keeps what it was asked."""

    def __init__(self, **values):
        self.values, self.asked = values, {}

    def _answer(self, name, *asked, **more):
        self.asked[name] = (*asked, more)
        return self.values[name.rpartition("init_args.")[2].rpartition("model.model.")[2]]

    suggest_float = suggest_int = suggest_categorical = _answer


def test_only_what_its_condition_allows_is_suggested():
    values = {"class_path": PARALLEL, "hidden.length": 2, "hidden.0": 4, "hidden.1": 7, "lift_dim": 3}
    trial = Fixed(**values, **{"model.stages.1.weights.mr_stft": 0.01})
    assert suggest(trial, SPACE) == {
        TOPOLOGY: PARALLEL,
        f"{ARGUMENTS}.hidden": [4, 7],
        f"{ARGUMENTS}.lift_dim": 3,
        "model.stages.1.weights.mr_stft": 0.01,
    }
    assert f"{ARGUMENTS}.mid_width" not in trial.asked
    assert trial.asked[f"{ARGUMENTS}.lift_dim"] == (1, 8, {"step": 1, "log": True})
    trial.values |= {"class_path": SERIES, "mid_width": 6}
    assert suggest(trial, SPACE)[f"{ARGUMENTS}.mid_width"] == 6


def test_a_class_drops_the_arguments_that_it_does_not_have():
    before = experiment()
    after = assign(before, {TOPOLOGY: PARALLEL, f"{ARGUMENTS}.hidden": [2], "model.stages.1.lr": 0.5})
    assert after["model"]["model"] == {
        "class_path": PARALLEL,
        "init_args": {"hidden": [2], "lift_dim": 5, "low_hz": 1.0},
    }
    assert after["model"]["stages"][1] == {"name": "b", "weights": {"mr_stft": 0.03}, "lr": 0.5}
    assert before == experiment()


def test_what_is_read_from_an_experiment_writes_it_again():
    wanted = experiment(hidden=[2, 9], lift_dim=8, mid_width=2)
    chosen, parameters = extract(wanted, SPACE)
    assert assign(experiment(), chosen) == wanted
    assert parameters == {
        TOPOLOGY: SERIES,
        **{f"{ARGUMENTS}.hidden.length": 2, f"{ARGUMENTS}.hidden.0": 2, f"{ARGUMENTS}.hidden.1": 9},
        **{f"{ARGUMENTS}.lift_dim": 8, f"{ARGUMENTS}.mid_width": 2, "model.stages.1.weights.mr_stft": 0.03},
    }


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"lift_dim": 9}, r"lift_dim is 9, outside 1 to 8"),
        ({"hidden": [1, 2, 3, 4]}, r"hidden\.length is 4, outside 1 to 3"),
        ({"hidden": [1, 20]}, r"hidden\.1 is 20, outside 1 to 9"),
        ({"mid_width": None}, r"mid_width is None, outside 2 to 6"),
    ],
)
def test_an_experiment_outside_the_space_is_named(more, words):
    with pytest.raises(ConfigError, match=words):
        extract(experiment(**more), SPACE)


def test_a_value_between_two_steps_is_named():
    space = {"model.model.init_args.lift_dim": Entry("int", 1, 9, step=2)}
    assert extract(experiment(lift_dim=7), space)[0] == {"model.model.init_args.lift_dim": 7}
    with pytest.raises(ConfigError, match="lift_dim is 6, which is no step of 2 from 1"):
        extract(experiment(lift_dim=6), space)


def test_a_key_called_length_is_not_a_lists():
    space = {"data.length": Entry("int", 10, 99)}
    assert extract({"data": {"length": 64, "other": 1}}, space)[0] == {"data.length": 64}


def test_samples_reach_what_depends_on_each_of_three_choices():
    space = {
        "a": Entry("categorical", choices=["x", "y", "z"]),
        "b": Entry("categorical", choices=["u", "v"], when={"a": "y"}),
        "c": Entry("float", 1, 2, when={"b": ["v"]}),
        "length": Entry("int", 3, 4),
    }
    seen = list(samples(space))
    assert {sample["a"] for sample in seen} == {"x", "y", "z"}
    assert {sample.get("b") for sample in seen} == {None, "u", "v"}
    assert {sample.get("c") for sample in seen} == {None, 1, 2}
    assert {sample["length"] for sample in seen} == {3, 4}


def test_samples_reach_every_entry_both_ends_and_all_choices():
    seen = list(samples(SPACE))
    assert {sample[TOPOLOGY] for sample in seen} == {PARALLEL, SERIES}
    assert {tuple(sample[f"{ARGUMENTS}.hidden"]) for sample in seen} == {(1,), (9, 9, 9)}
    assert {sample.get(f"{ARGUMENTS}.mid_width") for sample in seen} >= {2, 6}


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("model.modle.lr", r"model\.modle\.lr: the experiment has no 'modle' there"),
        ("model.stages.7.lr", r"no 7 there"),
        ("model.stages.lr", r"no 'lr' there"),
        ("model.model.init_args.lift_dim.x", r"no 'x' there"),
    ],
)
def test_a_key_that_leads_nowhere_is_named(key, words):
    with pytest.raises(ConfigError, match=words):
        assign(experiment(), {key: 1})


def test_a_value_that_is_missing_is_named():
    with pytest.raises(ConfigError, match=r"model\.lr: the experiment has no such value"):
        look_up(experiment(), "model.lr")


@pytest.mark.parametrize("sections", [1, 2])
def test_the_size_is_the_models(sections):
    series = ParallelSeriesKlann([3, 4, 5], 5, 5, sections=sections)
    parallel = ParallelKlann([2], 3, sections=sections)
    smaller = assign(
        experiment(sections=sections),
        {TOPOLOGY: PARALLEL, f"{ARGUMENTS}.hidden": [2], f"{ARGUMENTS}.lift_dim": 3},
    )
    for model, config in ((series, experiment(sections=sections)), (parallel, smaller)):
        parameters = sum(part.numel() for part in model.parameters())
        assert model_size(config) == (model.multiply_adds(), parameters)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"lift_dim": 0}, "must be at least 1"),
        ({"low_hz": 1e6}, "cutoffs' grid"),
        ({"lfit_dim": 3}, "'lfit_dim' is not accepted"),
    ],
)
def test_a_model_that_cannot_be_made_is_a_configuration_error(more, words):
    with pytest.raises(ConfigError, match=words):
        model_size(experiment(**more))


def write(tmp_path, **fields):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"objectives": ["val/esr_db"], "space": {}, "trials": 3, **fields}))
    return path


def test_a_study_file_has_defaults(tmp_path):
    study = read_study(write(tmp_path, start=["../a.yaml"]))
    assert (study.name, study.seeds, study.retries, study.pruner) == ("mine", 1, 2, None)
    assert study.start == [tmp_path / "../a.yaml"]
    assert type(study.make_sampler(3)).__name__ == "TPESampler"


@pytest.mark.parametrize("sampler", ["TPESampler", "GPSampler", "NSGAIISampler", "RandomSampler"])
def test_samplers_get_their_seed(tmp_path, sampler):
    study = read_study(write(tmp_path, sampler={"class_path": f"optuna.samplers.{sampler}"}))
    assert type(study.make_sampler(7)).__name__ == sampler

    def first(seed):
        search = optuna.create_study(sampler=study.make_sampler(seed))
        return search.ask({"x": optuna.distributions.FloatDistribution(0, 1)}).params["x"]

    assert first(7) == first(7) != first(8)


@pytest.mark.parametrize("pruner", ["HyperbandPruner", "PercentilePruner"])
def test_pruners_are_made_from_their_arguments(tmp_path, pruner):
    arguments = {"percentile": 40.0} if pruner == "PercentilePruner" else {"max_resource": 80}
    study = read_study(write(tmp_path, pruner={"class_path": pruner, "init_args": arguments}))
    assert type(study.make_pruner()).__name__ == pruner


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"objectives": ["val/esr"]}, r"objectives: val/esr; there are val/esr_db, val/mr_stft, cost"),
        ({"objectives": []}, "objectives: none"),
        (
            {"space": {"a": {"type": "float", "low": 2, "high": 1}}},
            "a: the range is empty, low 2 is above high 1",
        ),
        ({"space": {"a": {"type": "categorical", "choices": []}}}, "a: the range is empty"),
        ({"space": {"a": {"type": "categorical", "choices": [[1]]}}}, r"a: choice \[1\] is neither"),
        ({"space": {"a": {"type": "float", "low": 0, "high": 1, "log": True}}}, "a: a logarithmic range"),
        ({"space": {"a": {"type": "int", "low": 0.5, "high": 1}}}, "a: low and high of an int"),
        ({"space": {"a": {"type": "float", "low": 0}}}, "a: give low and high"),
        ({"space": {"a": {"type": "flat"}}}, "Literal"),
        ({"space": {"a": {"type": "int", "low": 1, "high": 2, "length": [3, 2]}}}, r"a: length \[3, 2\]"),
        ({"space": {"a": {"type": "int", "low": 1, "high": 2, "when": {"b": 1}}}}, "a: `when` names b"),
        (
            {"sampler": {"class_path": "HypeSampler"}},
            "sampler: there is no HypeSampler; optuna has .*TPESampler",
        ),
        ({"sampler": {"class_path": "TPESampler", "init_args": {"sed": 1}}}, "'sed' is not accepted"),
        (
            {"pruner": {"class_path": "NoPruner"}},
            "pruner: there is no NoPruner; optuna has .*HyperbandPruner",
        ),
        (
            {"objectives": ["val/esr_db", "cost"], "pruner": {"class_path": "NopPruner"}},
            "pruner: trials can be compared under way by one objective",
        ),
        ({"constraints": {"val/esr_db": 3}}, "val/esr_db is not known before training"),
        ({"seeds": 0}, "seeds must be at least 1"),
        ({"samples": 3}, "'samples' is not accepted"),
        ({"name": "../mine"}, r"name '\.\./mine' cannot be the name of one file or folder"),
    ],
)
def test_a_study_files_mistake_is_named(tmp_path, fields, words):
    with pytest.raises(ConfigError, match=rf"mine\.yaml: .*{words}"):
        read_study(write(tmp_path, **fields))


def test_a_missing_study_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"no such study file: .*none\.yaml"):
        read_study(tmp_path / "none.yaml")
