"""What can go wrong for a user. Every message says what, where, how much, and how to repair it."""


class KlannError(Exception):
    """Base of every error that a user can cause and mend; the command line prints it as one line."""


class ConfigError(KlannError):
    """A configuration that cannot be trained as it is written."""


class PairError(KlannError):
    """Two recordings that cannot be trained on as they are."""


class CheckpointError(KlannError):
    """A checkpoint that cannot be read, or that does not fit what it is used for."""
