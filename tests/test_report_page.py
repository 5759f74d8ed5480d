"""The page as text: nothing that a user typed becomes markup, and what it links to is there."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_pages import big_page, sample_page

from klann_lightning.report.contents import Page, Playable, Table
from klann_lightning.report.page import PLAYING_SCRIPTS, POLICY, SCRIPTS, write_page

HOSTILE = [
    "<img src=x onerror=alert(1)>.wav",
    "</script><script>alert(1)</script>",
    "\"'><b onclick='x'>{{ 7 * 7 }}",
]


class Tags(HTMLParser):
    """All tags of a page, as (name, attributes), and the text between."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def all(self, attribute: str) -> list[str]:
        return [found for _, attributes in self.tags if (found := attributes.get(attribute)) is not None]


def render(page: Page, out: Path) -> Tags:
    return Tags(write_page(page, out).read_text(encoding="utf-8"))


def content(html: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="content">(.*)</script>', html).group(1))


def hostile(page: Page, text: str) -> Page:
    """The page with this text wherever a user's could stand."""
    take = replace(page.takes[0], name=text, device=text)
    take.versions[2] = replace(take.versions[2], label=text)
    take.versions[2].charts[0] = replace(take.versions[2].charts[0], title=text, note=text)
    row = replace(page.rows[2], label=text, group=text, note=text)
    reading = replace(page.readings[0], label=text, summary=[text])
    reading.charts[0] = replace(reading.charts[0], title=text, note=text)
    return replace(
        page,
        title=text,
        takes=[take, *page.takes[1:]],
        rows=[*page.rows[:2], row, *page.rows[3:]],
        readings=[reading],
        tables=[Table(text, text, [text, text], [[text, text]])],
        making=[(text, text)],
        configurations=[(text, text)],
    )


@pytest.mark.parametrize("text", HOSTILE)
def test_what_users_typed_stays_text(text: str, tmp_path: Path):
    plain = sample_page(tmp_path)
    tame, odd = (
        render(hostile(plain, "tame"), tmp_path / "tame"),
        render(hostile(plain, text), tmp_path / "odd"),
    )
    assert [tag for tag, _ in odd.tags] == [tag for tag, _ in tame.tags]
    assert not [name for _, attributes in odd.tags for name in attributes if name.startswith("on")]
    assert odd.text.count(text) >= 15
    assert content((tmp_path / "odd" / "index.html").read_text(encoding="utf-8"))["takes"][0]["name"] == text


def test_links_of_configurations_cannot_leave_the_page(tmp_path: Path):
    page = replace(
        sample_page(tmp_path), configurations=[("x", "javascript:alert(1)"), ("y", "a b/c#d?.yaml")]
    )
    links = render(page, tmp_path).all("href")
    assert "javascript%3Aalert%281%29" in links
    assert "a%20b/c%23d%3F.yaml" in links


def test_everything_linked_is_there(tmp_path: Path):
    (tmp_path / "configurations").mkdir()
    (tmp_path / "configurations" / "small.yaml").write_text("model: {}\n")
    tags = render(sample_page(tmp_path), tmp_path)
    ids = tags.all("id")
    assert len(ids) == len(set(ids))
    for link in tags.all("href") + tags.all("src"):
        if link.startswith("#"):
            assert link[1:] in ids, link
        else:
            assert (tmp_path / link).is_file(), link
    for key in tags.all("data-figure"):
        assert (tmp_path / "figures" / f"{key}.js").is_file()
    for key in tags.all("data-version"):
        assert (tmp_path / "audio" / f"{key}.js").is_file()
    for key in tags.all("aria-labelledby") + tags.all("aria-describedby") + tags.all("aria-controls"):
        assert key in ids, key


def test_nothing_comes_from_elsewhere_or_runs_inline(tmp_path: Path):
    tags = render(sample_page(tmp_path), tmp_path)
    assert not [link for link in tags.all("href") + tags.all("src") if "//" in link or link.startswith("/")]
    assert all(
        attributes.get("src") or attributes.get("type") for tag, attributes in tags.tags if tag == "script"
    )
    policy = POLICY.format(scripts=SCRIPTS)
    assert policy in tags.all("content")
    assert "unsafe-inline" not in policy.split("script-src")[1].split(";")[0]


def test_the_anchor_is_in_no_row_and_the_best_is_bold(tmp_path: Path):
    tags = render(sample_page(tmp_path), tmp_path)
    assert not [key for key in tags.all("data-version") if "anchor" in key]
    assert tags.all("class").count("best") == 2
    assert "\N{MINUS SIGN}26.0 dB · 0.400" in tags.text
    assert "3 systems on 2 recordings." in tags.text
    assert "Play KLANN large, Bass" in tags.all("aria-label")


def test_numbers_without_end_become_valid_json(tmp_path: Path):
    page = sample_page(tmp_path)
    page.takes[0].versions[2] = replace(
        page.takes[0].versions[2], match_db=float("inf"), esr_db=float("-inf")
    )
    tags = render(page, tmp_path)
    html = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "Infinity" not in html
    assert "NaN" not in html
    assert content(html)["takes"][0]["versions"][2]["match_db"] == 0
    assert "\N{MINUS SIGN}∞ dB" in tags.text


def test_a_page_without_sounds_has_no_player(tmp_path: Path):
    page = replace(sample_page(tmp_path), takes=[], rows=[])
    tags = render(page, tmp_path)
    assert "player" not in tags.all("id")
    assert not [link for link in tags.all("src") if "engine" in link]
    assert tags.all("href").count("#listen") == 0


def test_only_a_page_with_models_plays_a_visitors_file(tmp_path: Path):
    plain = sample_page(tmp_path)
    tags = render(plain, tmp_path / "plain")
    assert "own" not in tags.all("id")
    assert "#own" not in tags.all("href")
    assert not (tmp_path / "plain/page/klann.wasm.js").exists()
    assert "wasm" not in tags.all("content")[0]
    odd = "</option><script>alert(1)</script>"
    models = [Playable("small", odd, odd, 44100), Playable("large", "KLANN large", odd, 44100)]
    for page in (replace(plain, models=models), replace(plain, models=models, takes=[], rows=[])):
        tags = render(page, tmp_path / "playing")
        assert "Play your own" in tags.text
        assert tags.all("label") == [odd]
        assert tags.text.count(odd) >= 1
        assert POLICY.format(scripts=PLAYING_SCRIPTS) in tags.all("content")
        assert (tmp_path / "playing/page/klann.wasm.js").read_text().startswith('klann.runtime("AGFzb')


def test_thirty_systems_are_a_small_page(tmp_path: Path):
    assert write_page(big_page(tmp_path), tmp_path).stat().st_size < 250_000
