"""Configurations: the names in them, and complete ones, as fit has resolved them, beside each other."""

import re
from collections.abc import Container
from typing import Any

from klann_lightning.errors import ConfigError


def plain_name(name: str, what: str) -> str:
    """The name, if a file or folder can have it without lying elsewhere; else ConfigError says of `what`.

    >>> plain_name("la2a, small", "experiment")
    'la2a, small'
    """
    if not name or name.startswith(".") or re.search(r"[/\\\x00-\x1f\x7f-\x9f]", name):
        raise ConfigError(
            f"{what} {name!r} cannot be the name of one file or folder. Give it a name without / and \\, "
            "without control characters, and without a dot at its start."
        )
    return name


def differences(one: Any, other: Any, ignored: Container[str] = (), key: str = "") -> list[str]:
    """Dotted names of the fields in which two configurations differ; what is ignored may.

    >>> differences({"a": 1, "b": {"c": [2, 5]}}, {"a": 1, "b": {"c": [3, 5], "d": 4}})
    ['b.c.0', 'b.d']
    """
    if one == other or key in ignored:
        return []
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        one, other = dict(enumerate(one)), dict(enumerate(other))
    if isinstance(one, dict) and isinstance(other, dict) and one and other:
        parts = [
            differences(one.get(name), other.get(name), ignored, f"{key}.{name}".lstrip("."))
            for name in dict.fromkeys([*one, *other])
        ]
        return [place for part in parts for place in part]
    return [key]
