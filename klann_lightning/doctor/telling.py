"""A diagnosis in words, and many in one table."""

import math
from collections.abc import Sequence

from klann_lightning.doctor.diagnose import Diagnosis
from klann_lightning.doctor.findings import Finding, worst

VERDICTS = {
    "blocks": "cannot be trained on as it is",
    "harms": "can be trained on, but not at its best",
    "note": "ready",
    None: "ready",
}
WIDTH = 100


def told(diagnosis: Diagnosis) -> str:
    """All about one pair, the verdict first."""
    lines = [
        f"{diagnosis.input}",
        f"{diagnosis.target}",
        f"  {VERDICTS[worst(diagnosis.findings)]}",
        "",
    ]
    lines += [f"  {name:<20} {value}" for name, value in _figures(diagnosis)]
    for finding in diagnosis.findings:
        lines += ["", *_finding(finding)]
    return "\n".join(lines)


def _figures(diagnosis: Diagnosis) -> list[tuple[str, str]]:
    """Names and values of what was measured."""
    found = []
    for side, track in (("input", diagnosis.dry), ("target", diagnosis.wet)):
        if track:
            low, high = track.level_db
            found.append(
                (
                    side,
                    f"{track.seconds:.2f} s, {track.sample_rate} Hz, {track.channels} ch, {track.subtype}, "
                    f"peak {_db(track.peak, 20)}, 10 ms levels {low:.0f} to {high:.0f} dB",
                )
            )
    if diagnosis.aligned:
        alignment = diagnosis.aligned.alignment
        found += [
            (
                "delay",
                f"{alignment.delay:+.2f} samples, give or take {max(diagnosis.aligned.sd, 0.01):.2f} "
                f"(confidence {alignment.confidence:.2f}); positive where the target is late",
            ),
            ("drift", f"{alignment.drift_ppm:+.2f} ppm"),
            ("polarity", f"{alignment.polarity:+d} (confidence {alignment.polarity_confidence:.2f})"),
        ]
    if character := diagnosis.character:
        found += [
            ("kind", f"{character.kind}. {character.kind_evidence}"),
            ("ESR of best gain", _db(character.esr_best_gain, 10)),
            ("ESR of best filter", _db(character.esr_best_linear, 10)),
            ("ESR floor", f"{_db(character.floor.esr, 10)} (from {character.floor.origin})"),
            ("memory", f"{character.memory_seconds:.3g} s"),
        ]
    return found


def _finding(finding: Finding) -> list[str]:
    return [f"  {finding.severity}: {finding.name}", f"    {finding.evidence}", f"    -> {finding.cure}"]


def table(diagnoses: Sequence[Diagnosis]) -> str:
    """One line a pair, the worst first, and a count."""
    rows = [("pair", "delay", "conf", "drift ppm", "pol", "best filter", "kind", "findings")]
    for diagnosis in diagnoses:
        alignment = diagnosis.aligned.alignment if diagnosis.aligned else None
        character = diagnosis.character
        rows.append(
            (
                str(diagnosis.input),
                f"{alignment.delay:+.2f}" if alignment else "-",
                f"{alignment.confidence:.2f}" if alignment else "-",
                f"{alignment.drift_ppm:+.1f}" if alignment else "-",
                f"{alignment.polarity:+d}" if alignment else "-",
                _db(character.esr_best_linear, 10) if character else "-",
                character.kind if character else "-",
                ", ".join(
                    f"{finding.name}{'' if finding.severity == 'note' else f' ({finding.severity})'}"
                    for finding in diagnosis.findings
                )
                or "-",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    lines = [
        "  ".join([cell.ljust(width) for cell, width in zip(row, widths, strict=False)] + [row[-1]])
        for row in rows
    ]
    severities = [worst(diagnosis.findings) for diagnosis in diagnoses]
    lines.append(
        f"{len(diagnoses)} pairs: {severities.count('blocks')} blocked, {severities.count('harms')} harmed, "
        f"{len(diagnoses) - severities.count('blocks') - severities.count('harms')} ready"
    )
    return "\n".join(lines)


def _db(ratio: float, factor: int) -> str:
    if math.isnan(ratio):
        return "not known"
    return f"{factor * math.log10(ratio):.1f} dB" if ratio > 0 else "-inf dB"
