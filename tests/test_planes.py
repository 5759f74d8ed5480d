"""The compiled pass against its plain twin: the same samples, the same gradients, from any start."""

import copy
import pickle

import pytest
import torch
from conftest import error_db, needs_compiler
from torch.nn.utils import prune

from klann_lightning.models.klann import ParallelKlann, ParallelSeriesKlann
from klann_lightning.models.stacked import StackedKlann
from klann_lightning.native.calls import callable_with

pytestmark = needs_compiler

SMALL, LARGE = {"hidden": [3, 4, 5], "lift_dim": 5}, {"hidden": [5, 10, 15], "lift_dim": 15}
SYSTEMS = [
    pytest.param(lambda: ParallelKlann(**SMALL), id="small-parallel"),
    pytest.param(lambda: ParallelSeriesKlann(**SMALL, mid_width=5), id="small-parallel-series"),
    pytest.param(lambda: ParallelKlann(**LARGE), id="large-parallel"),
    pytest.param(lambda: ParallelSeriesKlann(**LARGE, mid_width=15), id="large-parallel-series"),
    pytest.param(lambda: ParallelKlann(**SMALL, sections=3), id="sections"),
    pytest.param(lambda: ParallelSeriesKlann([2], 3, 1, sections=2), id="series-of-sections"),
    pytest.param(lambda: ParallelKlann([1], 1), id="one-channel"),
    pytest.param(lambda: ParallelSeriesKlann([9], 1, 1), id="series-of-one"),
    pytest.param(lambda: ParallelKlann([33, 7], 19), id="odd-widths"),
    pytest.param(lambda: StackedKlann([4], 5, banks=3, mid_width=4), id="stacked"),
    pytest.param(lambda: StackedKlann([3, 2], 2, banks=4, mid_width=1, sections=2), id="stacked-sections"),
]
systems = pytest.mark.parametrize("system", SYSTEMS)
# dB of value and gradient; float32 is held against float64
PRECISIONS = [pytest.param(torch.float64, -220, id="float64"), pytest.param(torch.float32, -90, id="float32")]
precisions = pytest.mark.parametrize(("dtype", "floor_db"), PRECISIONS)


@pytest.fixture(autouse=True)
def same_start():
    """Models start alike in any order of the tests."""
    torch.manual_seed(0)


def randomised(model, spread=0.3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += spread * torch.randn(parameter.shape, generator=generator)
    model.set_levels(0.25, 0.125)
    return model


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def results(model, fused, x, state):
    """Output, state after, and the gradients of a weighing of both: in x, the state and every parameter."""
    model.fused = fused
    model.zero_grad()
    x, state = x.detach().requires_grad_(), state.detach().requires_grad_()
    y, (after,) = model.step(x, (state,))
    weights, state_weights = normal(*y.shape, seed=1), normal(*after.shape, seed=2)
    ((y * weights).sum() + (after * state_weights).sum()).backward()
    return {
        "output": y.detach(),
        "state": after.detach(),
        "input's gradient": x.grad,
        "state's gradient": state.grad,
        **{f"gradient of {name}": part.grad for name, part in model.named_parameters()},
    }


@systems
@precisions
@pytest.mark.parametrize(("batch", "samples"), [(1, 1), (2, 63), (1, 64), (3, 65), (2, 1000 + 37)])
def test_equals_the_plain_path(system, dtype, floor_db, batch, samples):
    model = randomised(system()).double()
    x = 0.3 * normal(batch, samples)
    state = normal(*model.init_state(batch)[0].shape, seed=3)
    expected = results(model, False, x, state)
    found = results(model.to(dtype), True, x.to(dtype), state.to(dtype))
    largest = max(value.abs().max() for value in expected.values())
    for name, value in expected.items():
        # a single gradient may be what is left of larger terms, and then has their rounding
        scale = max(value.abs().max(), 0.1 * largest)
        assert (found[name] - value).abs().max() <= 10 ** (floor_db / 20) * scale, name


@precisions
def test_long_rows_and_slow_filters_stay_exact(dtype, floor_db):
    """Two seconds; the first filter's time constant is a third of one."""
    model = randomised(ParallelKlann(**SMALL, low_hz=0.5)).double()
    x = 0.3 * normal(1, 88211)
    state = model.init_state(1)[0]
    expected = results(model, False, x, state)
    found = results(model.to(dtype), True, x.to(dtype), state.to(dtype))
    for name, value in expected.items():
        assert error_db(found[name], value) < (-170 if dtype == torch.float64 else -80), name


def test_gradients_are_those_of_finite_differences():
    model = randomised(ParallelSeriesKlann([2], 2, 1, sections=2)).double()
    names, values = zip(*model.named_parameters(), strict=True)

    def run(x, state, *parameters):
        given = dict(zip(names, parameters, strict=True))
        y, (after,) = torch.func.functional_call(model, given, (x, state))
        return y, after

    model.forward = lambda x, state: model.step(x, (state,))
    x, state = 0.3 * normal(2, 70), normal(2, 2, 2, 2, seed=3)
    inputs = [part.detach().requires_grad_() for part in (x, state, *values)]
    assert torch.autograd.gradcheck(run, inputs)


def test_limits_of_the_controls_have_the_plain_gradients():
    """Beyond the limits nothing moves; at the edge of float32 all is finite."""
    model = randomised(ParallelKlann(**SMALL)).double()
    with torch.no_grad():
        model.bank.cutoff[:, 0] = torch.tensor([-20.0, 20.0, -15.9, 15.9, 0.0])
        model.bank.damping[:, 0] = torch.tensor([0.0, 25.0, -20.0, -15.9, 120.0])
    x, state = 0.3 * normal(2, 300), torch.zeros(2, 5, 1, 2, dtype=torch.float64)
    expected, found = (results(model, fused, x, state) for fused in (False, True))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-7, atol=1e-9, msg=name)
    assert (found["gradient of bank.cutoff"][:2] == 0).all()
    assert found["gradient of bank.damping"][2] == 0
    assert found["gradient of bank.damping"][4] == 0


@precisions
def test_saturated_gates_are_those_of_sigmoid(dtype, floor_db):
    model = randomised(ParallelKlann(**SMALL), spread=30.0).double()
    x, state = 3 * normal(2, 200), torch.zeros(2, 5, 1, 2, dtype=torch.float64)
    expected = results(model, False, x, state)
    found = results(model.to(dtype), True, x.to(dtype), state.to(dtype))
    assert error_db(found["output"], expected["output"]) < floor_db
    assert all(torch.isfinite(value).all() for value in found.values())


def test_what_is_not_a_number_is_not_hidden():
    model, x = randomised(ParallelKlann(**SMALL)), normal(1, 300).float()
    x[0, 100] = torch.nan
    output = model(x)
    assert torch.isfinite(output[0, :64]).all()
    assert output[0, 100:].isnan().all()
    with torch.no_grad():
        model.down.gated[0].bias[-1] = torch.nan  # of a gate
    assert model(x).isnan().all()


def test_threads_do_not_change_a_bit():
    model, x = randomised(ParallelSeriesKlann(**SMALL, mid_width=5)), normal(5, 5000).float()
    state, runs = model.init_state(5)[0], []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            runs.append(results(model, True, x, state))
    finally:
        torch.set_num_threads(1)
    for name, value in runs[0].items():
        assert all(torch.equal(value, other[name]) for other in runs[1:]), name


def test_any_layout_of_the_input_is_read_right():
    model, x = randomised(ParallelKlann(**SMALL)), normal(300, 4).float()
    assert torch.equal(model(x.T), model(x.T.contiguous()))
    assert torch.equal(model(x.T[:, ::2]), model(x.T[:, ::2].contiguous()))


def test_changed_parameters_are_seen():
    model, other = randomised(ParallelKlann(**SMALL)), randomised(ParallelKlann(**SMALL), seed=1)
    x = normal(1, 100).float()
    before = model(x)
    model.load_state_dict(other.state_dict(), assign=True)
    assert torch.equal(model(x), other(x))
    assert not torch.equal(model(x), before)


def test_copies_run_by_themselves():
    model, x = randomised(ParallelKlann(**SMALL)), normal(1, 100).float()
    expected = model(x)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x), expected)
        with torch.no_grad():
            other.down.last.bias += 1
        assert not torch.equal(other(x), expected)
        assert torch.equal(model(x), expected)


def test_frozen_parameters_and_no_gradients():
    model, x = randomised(ParallelKlann(**SMALL)), normal(1, 100).float()
    with torch.no_grad():
        assert not model(x).requires_grad
    model.lift.requires_grad_(False)
    model(x).sum().backward()
    assert model.lift.last.weight.grad is None
    assert model.down.last.weight.grad is not None


def test_gradients_in_any_layout_are_read_right():
    model, x = randomised(ParallelKlann(**SMALL, sections=2)).double(), 0.3 * normal(3, 100)
    gradients = []
    for fused in (True, False):
        model.fused = fused
        state = model.init_state(3)[0].detach().requires_grad_()
        y, (after,) = model.step(x, (state,))
        weights = normal(2, 100, 3).permute(2, 0, 1), normal(5, 3, 2, 2, seed=1)
        loss = (y[:, None] * weights[0]).sum() + (after.permute(1, 0, 2, 3) * weights[1]).sum()
        gradients.append(torch.autograd.grad(loss, state)[0])
    assert error_db(*gradients) < -200


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda x, state: (x.double(), state), id="input of another type"),
        pytest.param(lambda x, state: (x, state.double()), id="state of another type"),
        pytest.param(lambda x, state: (x, state[:1]), id="too few states"),
        pytest.param(lambda x, state: (x[0], state), id="no rows"),
        pytest.param(lambda x, state: (x.half(), state.half()), id="half precision"),
    ],
)
def test_what_c_cannot_read_goes_the_plain_way(spoil):
    """There it works, or torch says what is wrong with it."""
    model = randomised(ParallelKlann(**SMALL))
    x, state = spoil(normal(2, 100).float(), model.init_state(2)[0])
    outcomes = []
    for fused in (True, False):
        model.fused = fused
        try:
            outcomes.append(model.step(x, (state,))[0])
        except Exception as error:
            outcomes.append(str(error))
    assert type(outcomes[0]) is type(outcomes[1])
    assert outcomes[0] == outcomes[1] if isinstance(outcomes[0], str) else torch.equal(*outcomes)


def test_another_device_goes_the_plain_way():
    assert callable_with(torch.zeros(1))
    assert not callable_with(torch.zeros(1), torch.zeros(1, device="meta"))
    assert ParallelKlann(**SMALL).to("meta")(torch.zeros(2, 100, device="meta")).shape == (2, 100)


def test_automatic_mixed_precision_works():
    model, x = randomised(ParallelKlann(**SMALL)), normal(2, 300).float()
    expected = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(x)
    assert error_db(output, expected) < -20


def test_inside_torchs_transforms_the_plain_path_runs():
    model, x = randomised(ParallelKlann(**SMALL)).double(), normal(3, 100)
    values = {name: part.detach() for name, part in model.named_parameters()}

    def energy(given):
        return torch.func.functional_call(model, given, (x,)).square().sum()

    found = torch.func.grad(energy)(values)
    model(x).square().sum().backward()
    for name, part in model.named_parameters():
        assert error_db(found[name], part.grad) < -200, name


def test_pruned_layers_are_played_the_plain_way():
    model, x = randomised(ParallelKlann(**SMALL)), normal(1, 100).float()
    with torch.no_grad():
        model.down.last.weight[0, 1] = 0
    expected = model(x)
    pruned = copy.deepcopy(model)
    prune.custom_from_mask(pruned.down.last, "weight", (model.down.last.weight != 0).float())
    assert pruned.compiled is None
    assert error_db(pruned(x), expected) < -100


def test_a_second_derivative_is_refused():
    model = randomised(ParallelKlann(**SMALL))
    weight = model.down.last.weight
    with pytest.raises(RuntimeError, match=r"no second derivatives; set model\.fused = False"):
        torch.autograd.grad(model(normal(1, 100).float()).sum(), weight, create_graph=True)
