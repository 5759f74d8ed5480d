"""What is wrong with one file, judged from its numbers."""

from collections.abc import Callable

from klann_lightning.data.audio import not_finite
from klann_lightning.doctor.findings import Finding, Severity, of_error
from klann_lightning.doctor.loudness import LOUDNESS_FAULTS
from klann_lightning.doctor.samples import decibels
from klann_lightning.doctor.track import Side, Track
from klann_lightning.files import shown

Fault = Callable[[Track, Side], Finding | None]

SHORTEST_SECONDS = 0.5
LONG_SILENCE_SECONDS = 1.0
LEAST_ACTIVE = 0.1  # of the time
EQUAL_DB = -50.0  # channels that differ by less, relative to the first, carry one signal
SILENT_CHANNEL_DB = -60.0  # below the loudest channel
COMMON_RATES = (32000, 44100, 48000, 88200, 96000, 176400, 192000, 352800, 384000, 705600, 768000)
UPSAMPLED = 0.6  # of the Nyquist frequency: a recording that ends below it could do with a lower rate
POOR_HZ, GOOD_HZ = 10_000, 18_500  # a bandwidth below which a model suffers; one that nobody misses
LOSSY = {
    "MPEG_LAYER_I": "MPEG layer I",
    "MPEG_LAYER_II": "MP2",
    "MPEG_LAYER_III": "MP3",
    "VORBIS": "Vorbis",
    "OPUS": "Opus",
    "ULAW": "mu-law",
    "ALAW": "A-law",
    "GSM610": "GSM",
    "G721_32": "G.721 ADPCM",
    "G723_24": "G.723 ADPCM",
    "G723_40": "G.723 ADPCM",
    "IMA_ADPCM": "IMA ADPCM",
    "MS_ADPCM": "Microsoft ADPCM",
    "VOX_ADPCM": "VOX ADPCM",
    "NMS_ADPCM_16": "NMS ADPCM",
    "NMS_ADPCM_24": "NMS ADPCM",
    "NMS_ADPCM_32": "NMS ADPCM",
}


def faults(track: Track, side: Side) -> list[Finding]:
    """Every finding about one file; where one blocks training, those that block alone."""
    blocking = [found for fault in BLOCKING if (found := fault(track, side))]
    return blocking or [found for fault in (*LOUDNESS_FAULTS, *OTHERS) if (found := fault(track, side))]


def _not_finite(track: Track, side: Side) -> Finding | None:
    if not track.not_finite:
        return None
    return of_error(not_finite(track.path, track.sample_rate, track.first_not_finite, track.not_finite))


def _silent(track: Track, side: Side) -> Finding | None:
    if track.highest != track.lowest or track.not_finite:
        return None
    what = "zero" if track.peak == 0 else f"{track.highest:g}"
    return Finding(
        "silent",
        "blocks",
        f"{shown(track.path)} is silent: all {track.frames} samples ({track.seconds:.3f} s) are {what}.",
        "Check the connection to the device, then record or export it again.",
    )


def _too_short(track: Track, side: Side) -> Finding | None:
    if track.seconds >= SHORTEST_SECONDS:
        return None
    return Finding(
        "too_short",
        "blocks",
        f"{shown(track.path)} is {track.seconds:.3f} s long ({track.frames} samples at {track.sample_rate} "
        f"Hz); nothing can be learned from less than {SHORTEST_SECONDS} s.",
        "Record more: some minutes are best.",
    )


def _silent_channel(track: Track, side: Side) -> Finding | None:
    if not 0 < len(_silent_channels(track)) < track.channels:
        return None
    names = ", ".join(str(channel + 1) for channel in _silent_channels(track))
    return Finding(
        "silent_channel",
        "note",
        f"{shown(track.path)} has {track.channels} channels; silent, or {-SILENT_CHANNEL_DB:.0f} dB below "
        f"the loudest, are: {names}.",
        f"Nothing needs to be done: channel {track.channel + 1} is used.",
    )


def _several_channels(track: Track, side: Side) -> Finding | None:
    silent = _silent_channels(track)
    sounding = [channel for channel in range(track.channels) if channel not in silent]
    if len(sounding) < 2:
        return None
    own, reference = f"{shown(track.path)} has {track.channels} channels", track.channel_rms[0]
    apart = max(decibels(track.difference[c] / reference) if reference else 0.0 for c in sounding)
    if apart < EQUAL_DB:
        how = "all are equal" if apart <= -200 else f"they differ by {apart:.0f} dB of the signal"
        return Finding(
            "equal_channels",
            "note",
            f"{own}; {how}.",
            "The first one is used. `fit` wants files of one channel: `--data.align auto` keeps one of them, "
            "`doctor --fix DIR` writes it.",
        )
    inverted = reference and all(decibels(track.sum[c] / reference) < EQUAL_DB for c in sounding[1:])
    levels = ", ".join(f"{decibels(rms):.1f} dB" for rms in track.channel_rms[:8])
    return Finding(
        "several_channels",
        "harms",
        f"{own} that differ{', the others being the first upside down' if inverted else ''} (RMS: {levels}). "
        f"Channel {track.channel + 1}, the loudest, is used.",
        "Keep the channel that carries the device's signal, and the same one in both files "
        f"(sox: remix {track.channel + 1}).",
    )


def _silent_channels(track: Track) -> list[int]:
    loudest = max(track.channel_rms)
    return [
        channel
        for channel, rms in enumerate(track.channel_rms)
        if channel != track.channel and (rms == 0 or decibels(rms / loudest) < SILENT_CHANNEL_DB)
    ]


def _gaps(track: Track, side: Side) -> Finding | None:
    if not track.gaps:
        return None
    first, lengths = track.gaps[0], [gap.length for gap in track.gaps]
    return Finding(
        "gaps",
        "harms",
        f"{shown(track.path)} drops out {len(lengths)} times: its sound breaks off into {min(lengths)} to "
        f"{max(lengths)} zeros, first at sample {first.start} ({first.start / track.sample_rate:.3f} s).",
        "Record again with a longer buffer of the audio interface, or cut these places out of both files.",
    )


def _silence_at_ends(track: Track, side: Side) -> Finding | None:
    ends = {"begins": track.leading_zeros, "ends": track.trailing_zeros}
    long = [
        f"{end} with {zeros / track.sample_rate:.1f} s of zeros"
        for end, zeros in ends.items()
        if zeros >= LONG_SILENCE_SECONDS * track.sample_rate
    ]
    if not long:
        return None
    return Finding(
        "silence_at_ends",
        "note",
        f"{shown(track.path)} {' and '.join(long)}.",
        "Nothing needs to be done; to train faster, cut the same part off both files.",
    )


def _mostly_silent(track: Track, side: Side) -> Finding | None:
    if track.active_share >= LEAST_ACTIVE:
        return None
    return Finding(
        "mostly_silent",
        "harms",
        f"{shown(track.path)} holds sound, at most 60 dB below its loudest part, in only "
        f"{100 * track.active_share:.2g} % of its {track.seconds:.1f} s.",
        "Cut the silence out of both files, or record more playing.",
    )


def _lossy(track: Track, side: Side) -> Finding | None:
    if track.subtype not in LOSSY:
        return None
    severity: Severity = "note" if side == "input" else "harms"
    return Finding(
        "lossy",
        severity,
        f"{shown(track.path)} is coded as {LOSSY[track.subtype]}, which adds noise and may shift the sound.",
        "If the device was fed with this very file, that does no harm; else export it as WAV or FLAC."
        if side == "input"
        else "A model would learn the coder's noise too: export the recording again as WAV or FLAC.",
    )


def _band_limited(track: Track, side: Side) -> Finding | None:
    cliff = track.cliff
    if (
        cliff is None
        or track.subtype in LOSSY
        or (cliff.hz > GOOD_HZ and cliff.hz > UPSAMPLED * track.sample_rate / 2)
    ):
        return None
    severity: Severity = "harms" if side == "input" and cliff.hz < POOR_HZ else "note"
    return Finding(
        "band_limited",
        severity,
        f"{shown(track.path)} holds nothing above {cliff.hz / 1000:.1f} kHz: there its spectrum falls "
        f"by {cliff.drop_db:.0f} dB at once. It was resampled from a lower rate, coded as MP3, or made so.",
        "What the device does above is not learned. If there is a better copy, use that.",
    )


def _unusual_rate(track: Track, side: Side) -> Finding | None:
    if track.sample_rate in COMMON_RATES:
        return None
    low = track.sample_rate < COMMON_RATES[0]
    return Finding(
        "unusual_rate",
        "note",
        f"{shown(track.path)} has a sample rate of {track.sample_rate} Hz, which is "
        f"{'low for audio' if low else 'not one that converters have'}.",
        "If it was recorded at another rate, export it again at that one; if not, nothing needs to be done.",
    )


BLOCKING: tuple[Fault, ...] = (_not_finite, _silent, _too_short)
OTHERS: tuple[Fault, ...] = (
    _several_channels,
    _silent_channel,
    _gaps,
    _mostly_silent,
    _silence_at_ends,
    _lossy,
    _band_limited,
    _unusual_rate,
)
