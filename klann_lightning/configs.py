"""Complete configurations, as fit has resolved them, beside each other."""

from collections.abc import Container
from typing import Any


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
