"""What can go wrong for a user. Every message says what, where, how much, and how to repair it."""

import sys
from argparse import ArgumentError
from typing import NoReturn


class KlannError(Exception):
    """Base of every error that a user can cause and mend; the command line prints it as one line."""


class ConfigError(KlannError):
    """A configuration that cannot be trained as it is written."""


class PairError(KlannError):
    """Two recordings that cannot be trained on as they are."""


class CheckpointError(KlannError):
    """A checkpoint that cannot be read, or that does not fit what it is used for."""


def leave(message: str) -> NoReturn:
    """End the program with the message on one line of standard error, and exit code 2."""
    print("error:", " ".join(message.split()), file=sys.stderr)
    sys.exit(2)


class OneLineErrors:
    """For a jsonargparse parser: what is wrong in one line, without the usage before it."""

    exit_on_error: bool

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # a part of the configuration, tried on behalf of the whole
            raise ArgumentError(None, message) from ex
        leave(message)
