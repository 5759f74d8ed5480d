"""A reading of a KLANN in sentences."""

from collections.abc import Iterator, Sequence

from klann_lightning.inside import SLOW_HZ, TINY
from klann_lightning.reading import IDLE_DB, TONE_HZ, ChannelReading, KlannReading
from klann_lightning.units import hertz, seconds

# Shares of variance from which on something is said.
MOST, MUCH, SOME = 0.7, 0.5, 0.2
NEARLY_STRAIGHT, CLIPPED = 0.05, 0.05  # of what is no line, and of the odd part of that
CLIPS = 0.5  # steepness of the curve
SLOWER = 1.5  # times, from which on another time constant is named beside the first
STANDS_STILL = 1e-3  # deviation over the mean
RINGING = 5.0  # quality factor


def summary(reading: KlannReading) -> list[str]:
    """The model in a few sentences."""
    working = [channel for channel in reading.channels if not channel.idle]
    costly = sorted(working, key=lambda channel: -channel.cost_db)
    names = [f"{channel.name} ({channel.cost_db:.1f} dB)" for channel in costly[:3]]
    lines = [f"{len(working)} of its {len(reading.channels)} channels carry the output."]
    if names:
        lines[0] = f"{lines[0][:-1]}; leaving one out costs most with {', '.join(names)}."
    if idle := [channel.name for channel in reading.channels if channel.idle]:
        lines.append(f"Idle, at less than {IDLE_DB} dB each: {', '.join(idle)}.")
    lines += _lasting(reading, working)
    levels = [channel.name for channel in working if "follows the level" in sentence(channel)]
    if levels:
        lines.append(f"The level is followed by {', '.join(levels)}.")
    lines.append(
        f"A steady tone at {hertz(TONE_HZ)}, as loud as the recordings, comes out with harmonics at "
        f"{reading.odd_harmonics_db:.0f} dB (odd) and {reading.even_harmonics_db:.0f} dB (even)."
    )
    return lines


def _lasting(reading: KlannReading, working: Sequence[ChannelReading]) -> Iterator[str]:
    """The slowest that a channel's output mostly is, and the slowest pole there is, if it is another."""
    mostly = max(((c.time_constant_ms, c.name) for c in working if c.mode_share > SOME), default=(0.0, ""))
    poles = [(ms, c.name) for c in working for biquad in c.biquads for ms in biquad.time_constants_ms]
    slowest = max(poles, default=(0.0, ""))
    if mostly[0]:
        yield f"Of what channels mostly give, the slowest has {_lasts(reading, *mostly)}."
    if slowest[0] > SLOWER * mostly[0]:
        yield f"The slowest pole has {_lasts(reading, *slowest)}."


def _lasts(reading: KlannReading, milliseconds: float, name: str) -> str:
    beyond = f", more than recordings of {reading.scored_seconds:.1f} s can tell"
    said = f"a time constant of {seconds(milliseconds)}, in {name}"
    return f"{said}{beyond}" if milliseconds / 1000 > reading.scored_seconds else said


def sentence(channel: ChannelReading) -> str:
    """What it does, where that is clear; else empty."""
    if channel.deviation <= STANDS_STILL * abs(channel.mean):
        return "holds a constant"
    if channel.idle:
        return f"idle: leaving it out costs {max(channel.cost_db, 0):.2f} dB"
    clauses = [(channel.slow_share, _slow_clause(channel)), (1 - channel.slow_share, _sound_clause(channel))]
    said = [clause for share, clause in sorted(clauses, reverse=True) if share >= SOME and clause]
    if _rings(channel) and channel.mode.frequency_hz >= SLOW_HZ:
        said.append(f"rings at {hertz(channel.mode.frequency_hz)}")
    return "; ".join(said)


def _rings(channel: ChannelReading) -> bool:
    return channel.mode.quality > RINGING and channel.mode_share > MUCH


def _slow_clause(channel: ChannelReading) -> str:
    lasts = f", time constant {seconds(channel.time_constant_ms)}" if channel.mode_share > SOME else ""
    if _rings(channel) and channel.mode.frequency_hz < SLOW_HZ:
        lasts += f", ringing at {hertz(channel.mode.frequency_hz)}"
    if channel.slow.even > MOST and abs(channel.curve.rises) > MOST:
        return f"follows the level{lasts}"
    if channel.slow.memory > MOST and channel.before:
        return f"follows what {channel.before} gives, below {SLOW_HZ:.0f} Hz{lasts}"
    return ""


def _sound_clause(channel: ChannelReading) -> str:
    straight, odd, even, memory = channel.sound
    own = straight + odd + even
    if channel.before and memory > MOST:
        return f"carries on what {channel.before} gives{_limits(channel)}"
    mixed = f", mixed with what {channel.before} gives" if channel.before and memory > SOME else ""
    bent = (odd + even) / max(own, TINY)
    if even > MUCH * own:
        kind = "carries the rectified sound"
    elif odd > CLIPPED * own and channel.curve.steepness < CLIPS:
        kind = "carries the clipped sound" if odd > even else "carries the sound, clipped unevenly"
    elif bent < NEARLY_STRAIGHT:
        kind = "carries the sound, nearly straight"
    else:
        kind = f"carries the sound, bent ({100 * bent:.0f} % of it is not straight)"
    return f"{kind}{_limits(channel)}{mixed}"


def _limits(channel: ChannelReading) -> str:
    """Of the filter, where its output lies between them; else of its slopes, on which the output lies."""
    low, high = channel.shape.low_hz, channel.shape.high_hz
    slopes = [f"rising up to {hertz(low)}"] if low is not None and low >= SLOW_HZ else []
    slopes += [f"falling from {hertz(high)} on"] if high is not None else []
    if channel.within < MUCH and slopes:
        return f", {' and '.join(slopes)}"
    if low is not None and high is not None:
        return f", from {hertz(low)} to {hertz(high)}"
    if low is not None:
        return f", above {hertz(low)}" if low >= SLOW_HZ else ""
    return f", below {hertz(high)}" if high is not None else ""
