"""What the doctor says: a cause by its name, how much it matters, the numbers that show it, and the cure."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from klann_lightning.errors import PairError

Severity = Literal["blocks", "harms", "note"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)  # the worst first


@dataclass(frozen=True)
class Finding:
    """One thing about a file or a pair. Name: snake_case, the same for the same cause in every release."""

    name: str
    severity: Severity  # blocks training, harms it, worth knowing
    evidence: str  # whole sentences, with numbers and units
    cure: str  # the same; what to do, or why nothing needs to be done


def of_error(error: PairError) -> Finding:
    """What stopped the reading of a file."""
    return Finding(error.name, "blocks", error.evidence, error.cure)


def worst(findings: Iterable[Finding]) -> Severity | None:
    """The severity of the worst of them, None where there are none."""
    there = {finding.severity for finding in findings}
    return next((severity for severity in SEVERITIES if severity in there), None)
