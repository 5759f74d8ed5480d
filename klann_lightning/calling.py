"""From the words of a command line to a call of the function that is the command."""

from collections.abc import Callable, Container, Mapping, Sequence
from inspect import signature

from klann_lightning.errors import OneLineErrors


def call(
    function: Callable[..., None],
    words: Sequence[str],
    program: str,
    repeated: Mapping[str, str],
    switches: Mapping[str, str],
) -> None:
    """Call `function` with what the words say; SystemExit where they do not parse, or ask for help.

    Its docstring and its parameters describe the command: those before a star are positional, a starred one
    takes any number of words, or, called `fit_options`, all options that are not its own; the others are
    options. `repeated` may be given several times, `switches` have no value: options, and their help.
    """
    from docstring_parser import parse
    from jsonargparse import ArgumentParser

    class Parser(OneLineErrors, ArgumentParser):
        """With errors of one line."""

    about = str(function.__doc__).partition("Args:")[0]  # each argument's part stands beside it
    parser = Parser(prog=program, description=about)
    if "fit_options" in signature(function).parameters:
        parser.add_function_arguments(function, as_positional=False)
        own, others = _divide(words, signature(function).parameters)
        function(*others, **parser.parse_args(own).as_dict())
        return
    parameters = signature(function).parameters
    parser.add_function_arguments(function, as_positional=True, skip={*repeated, *switches})
    several = [part for part in parameters.values() if part.kind is part.VAR_POSITIONAL]
    helps = {part.arg_name: part.description for part in parse(str(function.__doc__)).params}
    for part in several:  # *args, which jsonargparse leaves out
        parser.add_argument(part.name, nargs="*", type=part.annotation, default=[], help=helps.get(part.name))
    for option, said in repeated.items():
        parser.add_argument(f"--{option}", action="append", type=str, default=[], help=f"{said}; repeatable")
    for option, said in switches.items():
        parser.add_argument(f"--{option}", action="store_true", help=said)
    values = parser.parse_args(_sorted(words, switches) if several else words).as_dict()
    others = [value for part in several for value in values.pop(part.name)]
    before = [
        values.pop(name) for name, part in parameters.items() if part.kind is part.POSITIONAL_OR_KEYWORD
    ]
    function(*before, *others, **values)


def _sorted(words: Sequence[str], switches: Container[str]) -> list[str]:
    """What is no option first, where the parser can take any number of it.

    >>> _sorted(["out", "--prune", "a", "--seconds", "3", "b", "--split=val"], ["prune"])
    ['out', 'a', 'b', '--prune', '--seconds', '3', '--split=val']
    """
    unnamed: list[str] = []
    options: list[str] = []
    into = unnamed
    for word in words:
        if word.startswith("-"):
            options.append(word)
            alone = "=" in word or word.lstrip("-") in switches or word == "-h"
            into = unnamed if alone else options
        else:
            into.append(word)
            into = unnamed
    return [*unnamed, *options]


def _divide(words: Sequence[str], names: Container[str]) -> tuple[list[str], list[str]]:
    """The words of a command's own options, and all others."""
    own: list[str] = []
    others: list[str] = []
    into = others
    for word in words:
        option = word.startswith("-")
        if option:
            name = word.lstrip("-").partition("=")[0]
            into = own if name in names or name in ("h", "help") else others
        into.append(word)
        if not option or "=" in word:
            into = others
    return own, others
