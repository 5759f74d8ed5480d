"""What can go wrong for a user. Every message says what, where, how much, and how to repair it."""

import sys
from argparse import ArgumentError
from typing import NoReturn


class KlannError(Exception):
    """Base of every error that a user can cause and mend; the command line prints it as one line."""

    exit_code = 2


class ConfigError(KlannError):
    """A configuration that cannot be trained as it is written."""


class PairError(KlannError):
    """Two recordings that cannot be trained on as they are."""

    def __init__(self, evidence: str, cure: str = "", name: str = "unfit") -> None:
        """What is wrong, what mends it (where the evidence has not said so), and the cause's name."""
        super().__init__(f"{evidence} {cure}".strip())
        self.evidence, self.cure, self.name = evidence, cure, name


class CheckpointError(KlannError):
    """A checkpoint that cannot be read, or that does not fit what it is used for."""


class DownloadError(KlannError):
    """Recordings that cannot be fetched, or not be written where they belong."""


class DivergedError(KlannError):
    """A training whose loss was no number, again and again."""


class HaltedError(KlannError):
    """A training that was told to stop by a signal, and has kept what it needs to go on."""

    def __init__(self, message: str, number: int) -> None:
        """`number` is the signal's; the exit code is a shell's for a program that it has ended."""
        super().__init__(message)
        self.exit_code = 128 + number


def leave(message: str, exit_code: int = KlannError.exit_code) -> NoReturn:
    """End the program with the message on one line of standard error; on a terminal, cause and cure apart."""
    from rich.console import Console
    from rich.text import Text

    cause, stop, cure = " ".join(message.split()).partition(". ")
    line = Text.assemble(("error: ", "bold red"), cause, stop, (cure, "green"))
    Console(stderr=True, soft_wrap=True, highlight=False).print(line)
    sys.exit(exit_code)


class OneLineErrors:
    """For a jsonargparse parser: what is wrong in one line, without the usage before it."""

    exit_on_error: bool

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # a part of the configuration, tried on behalf of the whole
            raise ArgumentError(None, message) from ex
        leave(message)
