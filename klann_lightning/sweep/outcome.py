"""What a study has found: leaderboard, Pareto front, importances; as rows, files and a terminal table."""

import csv
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from klann_lightning.files import write_whole
from klann_lightning.fitting import write_config
from klann_lightning.sweep.ledger import REASON, START, Slot, counted, outcome, slots
from klann_lightning.sweep.study import SCORES, SIZES

Row = dict[str, Any]
SHOWN = 12  # rows of the terminal's table


def leaderboard(study: optuna.Study) -> list[Row]:
    """A row for every trial that was asked for: finished ones by the first objective, then the others."""
    front = {trial.number for trial in front_of(study)}
    order = [TrialState.COMPLETE, TrialState.PRUNED]

    def rank(slot: Slot) -> tuple[int, float]:
        trial = outcome(slot)
        state = order.index(trial.state) if trial.state in order else len(order)
        return state, (trial.values or [float("inf")])[0]

    rows = []
    for slot in sorted(slots(study.get_trials(deepcopy=False)), key=rank):
        trial = outcome(slot)
        rows.append(
            {
                "trial": trial.number,
                "state": trial.state.name,
                "front": trial.number in front,
                "start": trial.user_attrs.get(START, ""),
                **{name: trial.user_attrs.get(name) for name in (*SCORES, *SIZES)},
                "seconds": round(trial.duration.total_seconds(), 1) if trial.duration else None,
                "retries": len(slot) - 1,
                "reason": trial.user_attrs.get(REASON, ""),
                **trial.params,
            }
        )
    return rows


def completed(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that count and have scores."""
    trials = counted(study.get_trials(deepcopy=False))
    return [trial for trial in trials if trial.state == TrialState.COMPLETE]


def front_of(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that no other beats in every objective, best in the first one first."""
    if len(study.directions) == 1:
        return best_of(study, 1)
    numbers = {trial.number for trial in completed(study)}
    best = [trial for trial in study.best_trials if trial.number in numbers]
    return sorted(best, key=lambda trial: trial.values[0])


def best_of(study: optuna.Study, count: int) -> list[FrozenTrial]:
    """The best in the first objective, of several objectives out of the front."""
    if len(study.directions) > 1:
        return front_of(study)[:count]
    return sorted(completed(study), key=lambda trial: trial.values[0])[:count]


def importances(study: optuna.Study, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """For each objective, how much of its variation each parameter explains; none of too few trials."""
    found: dict[str, dict[str, float]] = {}
    if not completed(study):
        return found
    for place, name in enumerate(names):

        def target(trial: FrozenTrial, place: int = place) -> float:
            return float(trial.values[place])

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that few trials say little
                found[name] = optuna.importance.get_param_importances(study, target=target)
        except (ValueError, RuntimeError):  # too few trials, or all alike
            found[name] = {}
    return found


def write_files(
    study: optuna.Study, names: Sequence[str], folder: Path, configs: dict[int, Row]
) -> list[Path]:
    """leaderboard.csv, importances.csv, and front/ with these configurations, ready for `fit --config`."""
    rows = leaderboard(study)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    _write_csv(folder / "leaderboard.csv", columns, [[row.get(name) for name in columns] for row in rows])
    found = importances(study, names)
    shares = [[name, key, share] for name, parts in found.items() for key, share in parts.items()]
    _write_csv(folder / "importances.csv", ["objective", "parameter", "importance"], shares)
    front = folder / "front"
    kept = [front / f"trial-{number:04d}.yaml" for number in configs]
    for path, config in zip(kept, configs.values(), strict=True):
        write_config(path, config)
    for path in front.glob("trial-*.yaml"):
        if path not in kept:
            path.unlink(missing_ok=True)
    return [folder / "leaderboard.csv", folder / "importances.csv", front]


def table(study: optuna.Study) -> str:
    """The head of the leaderboard as text, or all of the front."""
    rows = leaderboard(study)
    complete = [row for row in rows if row["state"] == TrialState.COMPLETE.name]
    several = len(study.directions) > 1
    shown = [row for row in complete if row["front"] or row["start"]] if several else complete[:SHOWN]
    lines = [f"{'trial':<32}{'val ESR dB':>12}{'val MR-STFT':>13}{'cost':>8}{'parameters':>12}{'s':>6}"]
    for row in shown:
        mark = "*" if row["front"] else " "
        name = f"{mark} {row['trial']:>4} {row['start']}"
        lines.append(
            f"{name:<32}{row['val/esr_db']:>12.2f}{row['val/mr_stft']:>13.3f}"
            f"{row['cost']:>8}{row['parameters']:>12}{row['seconds']:>6.0f}"
        )
    states = [row["state"] for row in rows]
    counts = ", ".join(f"{states.count(state)} {state.lower()}" for state in dict.fromkeys(states))
    return "\n".join(
        [*(lines if shown else []), f"{counts or 'no trial yet'}" + "; * on the front" * bool(shown)]
    )


def _write_csv(path: Path, columns: list[str], rows: list[list[Any]]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([columns, *rows])
    write_whole(path, text.getvalue())
