"""Who works on which trial, over every storage: nothing is lost, nothing is done twice."""

import sys
from concurrent.futures import ThreadPoolExecutor

import optuna
import pytest
from optuna.trial import TrialState, create_trial
from servers import GrpcProxy

from klann_lightning.errors import ConfigError
from klann_lightning.sweep.ledger import (
    ALIVE,
    LOST,
    REASON,
    RETRY_OF,
    START,
    UNCOUNTED,
    Ledger,
    Watch,
    attempts,
    claimable,
    counted,
    numbers,
    slots,
)
from klann_lightning.sweep.storage import StorageGoneError, open_storage, patiently, redacted

STATES = {"W": TrialState.WAITING, "R": TrialState.RUNNING, "F": TrialState.FAIL, "C": TrialState.COMPLETE}
optuna.logging.set_verbosity(optuna.logging.WARNING)


def disconnect(storage):
    """As the end of a process would."""
    if engine := getattr(getattr(storage, "_backend", None), "engine", None):
        storage.remove_session()
        engine.dispose()


def trials(*described):
    """From pairs of a state's letter and user attributes."""
    study = optuna.create_study()
    for letter, attributes in described:
        value = 1.0 if letter == "C" else None
        study.add_trial(create_trial(state=STATES[letter], value=value, user_attrs=attributes))
    return study.get_trials()


def test_a_retry_is_the_same_trial_that_was_asked_for():
    found = trials(("F", {}), ("C", {}), ("C", {RETRY_OF: 0}), ("W", {}))
    assert [numbers(slot) for slot in slots(found)] == [[0, 2], [1], [3]]
    assert numbers(counted(found)) == [2, 1, 3]
    assert attempts(found, 2) == [2, 0]


def test_what_two_processes_asked_for_counts_once():
    """Twice the same start, twice a retry of the same trial, and one that was not needed."""
    found = trials(
        *(("C", {START: "small"}), ("W", {START: "small"}), ("F", {})),
        *(("R", {RETRY_OF: 2}), ("W", {RETRY_OF: 2}), ("W", {UNCOUNTED: "asked for twice"})),
    )
    assert [numbers(slot) for slot in slots(found)] == [[0], [2, 3]]
    assert claimable(found, None) == []


def test_a_retry_waits_until_its_trial_has_failed():
    assert claimable(trials(("R", {}), ("W", {RETRY_OF: 0})), None) == []
    assert numbers(claimable(trials(("F", {}), ("W", {RETRY_OF: 0})), None)) == [1]
    assert claimable(trials(("C", {}), ("W", {RETRY_OF: 0})), None) == []


def test_nothing_beyond_the_budget_is_claimed():
    found = trials(("C", {}), ("W", {}), ("W", {}), ("W", {}))
    assert numbers(claimable(found, 2)) == [1]
    assert numbers(claimable(found, None)) == [1, 2, 3]


def test_a_sign_of_life_that_moves_keeps_a_trial():
    now = [0.0]
    watch = Watch(10, clock=lambda: now[0])
    first, second = trials(("R", {ALIVE: "a 1"})), trials(("R", {ALIVE: "a 2"}))
    for seconds, seen, lost in ((0, first, []), (9, first, []), (11, second, []), (20, second, [])):
        now[0] = seconds
        assert watch.look(seen) == lost
    now[0] = 22
    assert numbers(watch.look(second)) == [0]
    watch.forget()
    assert watch.look(second) == []


@pytest.fixture(params=["sqlite", "journal", "grpc", "postgres"])
def url(request, tmp_path):
    """One of each kind of storage."""
    sqlite = f"sqlite:///{tmp_path / 'study.db'}"
    if request.param == "grpc":
        proxy = GrpcProxy(sys.executable, sqlite)
        yield proxy.url
        proxy.remove()
    elif request.param == "postgres":
        yield request.getfixturevalue("postgres").url
    else:
        yield sqlite if request.param == "sqlite" else f"journal://{tmp_path / 'study.log'}"


@pytest.fixture
def opened(url, request):
    """Makes a ledger of one study, each over a storage of its own, as different processes have it."""
    storage = open_storage(url)
    study = optuna.create_study(study_name=request.node.name, storage=storage)
    storages = [storage]

    def open_ledger(retries=1, clock=None):
        own = open_storage(url)
        storages.append(own)
        watch = Watch(10, **({"clock": clock} if clock else {}))
        return Ledger(optuna.load_study(study_name=study.study_name, storage=own), own, retries, watch)

    yield open_ledger
    optuna.delete_study(study_name=study.study_name, storage=storage)
    for each in storages:
        disconnect(each)


def test_each_trial_is_claimed_once(opened):
    opened().top_up(12)
    ledgers = [opened() for _ in range(4)]

    def claim_all(ledger):
        claimed = list(iter(lambda: ledger.claim(10), None))
        ledger.storage.remove_session()  # this thread's
        return claimed

    with ThreadPoolExecutor(4) as pool:
        claimed = [number for part in pool.map(claim_all, ledgers) for number in part]
    assert sorted(claimed) == list(range(10))


def test_a_trial_that_was_put_back_keeps_its_number_and_values(opened):
    one, other = opened(), opened()
    one.top_up(2)
    number = one.claim(2)
    trial = optuna.trial.Trial(one.study, one.id_of(number))
    value = trial.suggest_float("x", 0, 1)
    one.put_back(number)
    assert other.claim(2) == number
    again = optuna.trial.Trial(other.study, other.id_of(number))
    assert again.suggest_float("x", 0, 1) == value


def test_a_lost_trial_is_tried_again_by_one_of_those_who_notice(opened):
    now = [0.0]
    lost, *others = (opened(clock=lambda: now[0]) for _ in range(3))
    lost.top_up(2)
    assert lost.claim(2) == 0
    trial = optuna.trial.Trial(lost.study, lost.id_of(0))
    trial.suggest_float("x", 0, 1)
    trial.report(0.5, 4)
    trial.set_constraint("parameters", -1)
    trial.set_user_attr(ALIVE, "there 1")
    for ledger in others:
        assert ledger.replace_lost() == []
    now[0] = 11.0
    assert sum(len(ledger.replace_lost()) for ledger in others) == 1
    found = others[0].trials()
    assert [numbers(slot) for slot in slots(found)] == [[0, 2], [1]]
    assert found[0].state == TrialState.FAIL
    assert found[0].user_attrs[REASON] == "no sign of life of its worker for 10 s"
    assert found[2].params == found[0].params
    assert found[2].intermediate_values == {4: 0.5}
    assert found[2].constraints == {}
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        trial.set_user_attr(ALIVE, "there 2")  # as the lost one finds when it comes back
    assert [others[0].claim(2), others[1].claim(2), others[1].claim(2)] == [2, 1, None]


def test_a_lost_trial_that_nobody_asks_for_again_is_asked_for(opened):
    """The process that had failed it was killed before it could add the copy."""
    now = [0.0]
    ledger = opened(clock=lambda: now[0])
    ledger.top_up(1)
    trial_id = ledger.id_of(ledger.claim(1))
    ledger.storage.set_trial_user_attr(trial_id, LOST, True)
    ledger.storage.set_trial_state_values(trial_id, TrialState.FAIL)
    for seconds, count in ((0, 1), (9, 1), (11, 2), (30, 2)):
        now[0] = seconds
        ledger.replace_lost()
        assert len(ledger.trials()) == count
    assert ledger.claim(1) == 1


def test_a_trial_is_tried_again_only_so_often(opened):
    now = [0.0]
    ledger = opened(retries=1, clock=lambda: now[0])
    ledger.top_up(1)
    for number in (0, 1):
        assert ledger.claim(1) == number
        ledger.replace_lost()
        now[0] += 11
        assert numbers(ledger.replace_lost()) == [number]
    assert ledger.claim(1) is None
    (last,) = counted(ledger.trials())
    assert last.user_attrs[REASON].endswith("as 1 times before; not tried again")


def test_surplus_is_closed_and_what_is_needed_stays(opened):
    ledger = opened()
    ledger.ask({"x": 1.0}, **{START: "small"})
    ledger.ask({"x": 1.0}, **{START: "small"})
    ledger.ask()
    ledger.close_surplus()
    assert [trial.state for trial in ledger.trials()] == [STATES["W"], STATES["F"], STATES["W"]]
    assert numbers(counted(ledger.trials())) == [0, 2]


def test_without_a_budget_a_trial_is_asked_for_when_none_waits(opened):
    ledger = opened()
    assert [ledger.claim(None), ledger.claim(None)] == [0, 1]


def test_an_outage_is_waited_out(postgres):
    name = "outage"
    storage = open_storage(postgres.url)
    optuna.create_study(study_name=name, storage=storage)
    rested = []

    def rest(seconds):
        rested.append(seconds)
        if len(rested) == 2:
            postgres.start()

    postgres.stop("immediate")
    study = patiently(lambda: optuna.load_study(study_name=name, storage=storage), rest)
    assert study.study_name == name
    assert len(rested) >= 2
    disconnect(storage)


def test_an_outage_without_end_is_an_error(monkeypatch):
    def away():
        raise ConnectionError("nobody there")

    monkeypatch.setattr("klann_lightning.sweep.storage.OUTAGE_SECONDS", 0.0)
    with pytest.raises(StorageGoneError, match="away for 0 s: nobody there"):
        patiently(away, lambda seconds: None)


def test_a_mistake_is_no_outage():
    with pytest.raises(ZeroDivisionError):
        patiently(lambda: 1 / 0, lambda seconds: None)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("study.db", "not a storage. There are sqlite:///FILE"),
        ("sqlite://", "not a storage"),
        ("oracl://x/y", "Can't load plugin"),
        ("mysql://me@localhost/x", r"needs pymysql: pip install 'klann_lightning\[mysql\]'"),
        ("grpc://localhost", "give host and port"),
        ("postgresql://me:secret@127.0.0.1:1/x", r"postgresql://me:\*\*\*@127.* cannot be opened: .*refused"),
        ("journal:///dev/null/x", "cannot be opened"),
    ],
)
def test_a_storage_that_cannot_be_opened_is_named(url, words, monkeypatch):
    monkeypatch.setattr("klann_lightning.sweep.storage.OPENING_SECONDS", 0.0)
    with pytest.raises(ConfigError, match=words) as raised:
        open_storage(url)
    assert "secret" not in str(raised.value)


def test_passwords_are_not_shown():
    assert redacted("postgresql://me:secret@host/x") == "postgresql://me:***@host/x"
