"""What stands on a report's page, as data: `gathering` fills it in, `page` renders it.

Everything that is shown is plain text and may hold anything a user has typed; keys are made by us, of
lower-case letters, digits and dashes, each once on a page: they serve as file names and as ids in HTML.
"""

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["input", "target", "model", "extra", "anchor"]  # the last: for rating tests alone


@dataclass(frozen=True)
class Chart:
    """A figure in `figures/<key>.js`, loaded when it comes into view."""

    key: str
    title: str
    note: str  # what is to be seen, in a sentence or two: it stands for the figure where none can be seen
    height: int  # pixels


@dataclass(frozen=True)
class Version:
    """One sound of a take: `audio/<key>.flac`, and in `audio/<key>.js`, which a page from disk can read.

    All versions of a take are aligned, equally long, and begin at the same instant of it.
    """

    key: str
    label: str
    kind: Kind
    match_db: float  # makes it as loud as the target
    esr_db: float | None = None
    mr_stft: float | None = None
    charts: list[Chart] = field(default_factory=list)  # the first is the track: what moves with the player


@dataclass(frozen=True)
class Take:
    """A column of the listening table: one recording of a device."""

    key: str
    name: str
    device: str
    seconds: float  # that are heard
    sample_rate: int  # Hz
    lowered_db: float  # all of its sounds lie so much below the recordings, for none to clip
    versions: list[Version]  # input and target first


@dataclass(frozen=True)
class Row:
    """A row of the listening table."""

    label: str
    group: str  # rows of one group stand together: the stages of one run, or what one folder holds
    note: str  # such as "435 parameters"
    cells: dict[str, str]  # take's key -> version's key


@dataclass(frozen=True)
class Table:
    """Numbers, as text."""

    title: str
    note: str
    columns: list[str]  # the first is the name of the rows
    rows: list[list[str]]


@dataclass(frozen=True)
class Reading:
    """What is inside one model."""

    key: str
    label: str
    summary: list[str]  # sentences
    channels: Table | None  # a row a channel, the last column a sentence
    charts: list[Chart]
    pruning: Table | None


@dataclass(frozen=True)
class Playable:
    """A model in `models/<key>.js`, which plays a visitor's own file."""

    key: str
    label: str
    device: str
    sample_rate: int  # Hz


@dataclass(frozen=True)
class Page:
    """All of it."""

    title: str
    made: str  # date and time
    takes: list[Take]
    rows: list[Row]
    readings: list[Reading]
    tables: list[Table]
    making: list[tuple[str, str]]  # what the page was made by: command, versions, data, settings
    configurations: list[tuple[str, str]]  # label, path beside the page
    models: list[Playable] = field(default_factory=list)  # those of one device stand together
