"""Docstrings as Markdown: equations and doctests become code, fields' comments their descriptions."""

import re
from typing import Any

import griffe

SECTION = re.compile(r"(Args|Returns|Raises|Yields|Attributes|Examples):$")
COMMENT = re.compile(r"\S {2}# (.+)$")
LANGUAGES = {"text": "text", "doctest": "pycon"}


class Docstrings(griffe.Extension):
    """An extension of griffe, which reads the package for mkdocstrings."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value)
        elif obj.is_attribute and obj.lineno and (said := COMMENT.search(obj.lines[0])):
            obj.docstring = griffe.Docstring(said[1], parent=obj)


def as_markdown(text: str) -> str:
    """Indented lines outside of sections and lists, and doctests, as blocks of code.

    >>> as_markdown("With e = 1:" + chr(10) + "  y = e x").splitlines()
    ['With e = 1:', '', '```text', '  y = e x', '```']
    """
    lines: list[str] = []
    block = ""  # the kind of code that is open
    plain = False  # within a section or a list, where an indented line goes on with the one before
    for line in text.splitlines():
        if line and not line.startswith(" "):
            plain = bool(SECTION.match(line)) or line.startswith("- ")
        if line.startswith(">>>") or (block == "doctest" and line):
            kind = "doctest"
        else:
            kind = "text" if line.startswith("  ") and not plain else ""
        if kind != block:
            lines += ["```", ""] if block else []
            lines += ["", f"```{LANGUAGES[kind]}"] if kind else []
        lines.append(line)
        block = kind
    return "\n".join([*lines, "```"] if block else lines)
