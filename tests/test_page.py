"""A study's page: whatever things are called there, the names are text."""

import re
from html import escape
from html.parser import HTMLParser
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from klann_lightning.sweep.ledger import HOST, REASON, START
from klann_lightning.sweep.page import _figures, _readable, write_page

SCRIPT, LINK, BAR = "<script>alert(1)</script>", '<a href="https://x">b</a>', "x|y & 'z'</td>"
NAMES = ["cost", "val/esr_db"]


@pytest.fixture(scope="module")
def study() -> optuna.Study:
    """Everything that a user can name has a name that is a tag."""
    made = optuna.create_study(study_name=SCRIPT, directions=["minimize"] * 2)
    kinds = {
        f"model.{SCRIPT}": FloatDistribution(0, 1),
        "model.model": CategoricalDistribution([SCRIPT, LINK]),
    }
    for number in range(6):
        attributes: dict[str, Any] = {"val/esr_db": -1.0 * number, "cost": number + 1, HOST: LINK}
        attributes |= {START: [SCRIPT, LINK, BAR][number]} if number < 3 else {"nested": [{LINK: SCRIPT}]}
        made.add_trial(
            create_trial(
                values=[number + 1, -1.0 * number],
                params=dict(zip(kinds, [number / 10, [SCRIPT, LINK][number % 2]], strict=True)),
                distributions=kinds,
                user_attrs=attributes,
            )
        )
    made.add_trial(create_trial(state=TrialState.FAIL, user_attrs={REASON: BAR + SCRIPT}))
    return made


class Tags(HTMLParser):
    """The tags of a page, and its text outside scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        if self.tags[-1] != "script":
            self.text += f"{data}\n"


def test_names_do_not_become_tags_of_the_page(study, tmp_path):
    write_page(study, NAMES, tmp_path / "page.html")
    written, page = (tmp_path / "page.html").read_text(), Tags()
    page.feed(written)
    assert "a" not in page.tags
    assert SCRIPT not in written
    for name in (SCRIPT, LINK, BAR):
        assert name in page.text
    assert page.tags.count("tr") == 1 + 7
    assert page.tags.count("td") % 7 == 0


def strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [text for part in parts for text in strings(part)]


def test_plotly_is_given_no_tags_but_its_own(study):
    figures = list(_figures(_readable(study), NAMES))
    assert len(figures) > 4
    texts = [text for *_, figure in figures for text in strings(figure.to_plotly_json())]
    tags = {tag for text in texts for tag in re.findall(r"</?[a-z]+", text)}
    assert tags <= {"<br", "<extra", "</extra"}
    for name in (SCRIPT, LINK, "x|y"):
        assert any(escape(name, quote=False) in text.replace('\\"', '"') for text in texts)
