"""What a command tells while it works, and that it tells nothing under --quiet."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

QUIET = "KLANN_QUIET"  # environment variable, so that processes that a command starts are quiet too


def hushed() -> bool:
    """Whether nothing is to be told but results and errors."""
    return bool(os.environ.get(QUIET))


def watched() -> bool:
    """Whether somebody looks on: then a line may change while it is seen."""
    return sys.stderr.isatty() and not hushed()


def say(line: str) -> None:
    """How a command gets on."""
    if not hushed():
        print(line, file=sys.stderr, flush=True)


def tell(line: str, end: str = "\n") -> None:
    """The same on standard output, of a course that is worth keeping."""
    if not hushed():
        print(line, end=end, flush=True)


@contextmanager
def quietly(quiet: bool) -> Iterator[None]:
    """For as long as it lasts, `hushed`, if quiet."""
    before = os.environ.get(QUIET)
    if quiet:
        os.environ[QUIET] = "1"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(QUIET, None)
        else:
            os.environ[QUIET] = before
