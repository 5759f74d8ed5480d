"""The documentation site: built with warnings as errors, whole, and asking nothing of other hosts."""

import importlib.util
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from browsers import served, watching
from conftest import once

ROOT = Path(__file__).parents[1]
LOADS = {"script": "src", "img": "src", "iframe": "src", "source": "src", "audio": "src", "video": "src"}
STYLE_LOADS = re.compile(r"""url\(\s*['"]?([^'")]+)|@import\s+['"]([^'"]+)""")


@pytest.fixture
def watch(browser):
    yield from watching(browser)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The built site. No warning is let through; a docstring, a link or an anchor may be what is wrong."""
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("mkdocs is not installed (pip install 'klann_lightning[docs]')")
    return once(tmp_path_factory, "site", build)


def build(out: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr


class Loaded(HTMLParser):
    """What a page makes a browser load, and where it can lead a reader to on the site."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.tables = self.wide = 0
        self.anchors: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag in LOADS and given.get(LOADS[tag]):
            self.loads.append(given[LOADS[tag]])
        if tag == "link" and given.get("rel") not in ("next", "prev", "canonical"):
            self.loads.append(given["href"])
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        self.loads += [one.split()[0] for one in given.get("srcset", "").split(",") if one.strip()]
        self.loads += [first or second for first, second in STYLE_LOADS.findall(given.get("style", ""))]
        self.tables += tag == "table"
        self.wide += tag == "div" and given.get("class") == "wide"


def elsewhere(address: str) -> bool:
    return bool(re.match(r"(https?:)?//", address))


def test_docstrings_become_markdown():
    pytest.importorskip("griffe")
    spec = importlib.util.spec_from_file_location("docstrings", ROOT / "docs" / "site" / "docstrings.py")
    docstrings = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(docstrings)
    equation = "With e:\n  y = e x\nas said."
    assert docstrings.as_markdown(equation) == "With e:\n\n```text\n  y = e x\n```\n\nas said."
    doctest = "Adds.\n\n>>> 1 + 1\n2"
    assert docstrings.as_markdown(doctest) == "Adds.\n\n\n```pycon\n>>> 1 + 1\n2\n```"
    section = "Sizes.\n\nArgs:\n    rows: of a batch,\n        at least 1."
    assert docstrings.as_markdown(section) == section


def test_pages_load_nothing_from_other_hosts(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 100
    assert [(page.name, load) for page in pages for load in Loaded(page).loads if elsewhere(load)] == []


def test_styles_load_nothing_from_other_hosts(site):
    for style in site.rglob("*.css"):
        loads = [first or second for first, second in STYLE_LOADS.findall(style.read_text(encoding="utf-8"))]
        assert not [load for load in loads if elsewhere(load)], style
        relative = [load for load in loads if not load.startswith("data:")]
        assert all((style.parent / load).exists() for load in relative), style


def test_every_link_between_pages_leads_somewhere(site):
    """Also what mkdocs does not look at: raw HTML, the reference's own links, files from the repository."""
    pages = {page: Loaded(page) for page in site.rglob("*.html") if page.name != "404.html"}
    lost = []
    for page, found in pages.items():
        for link in found.links + found.loads:
            path, _, anchor = link.partition("#")
            if re.match(r"[a-z]+:|//", link):
                continue
            target = (page.parent / path).resolve() if path else page
            known = pages[target].anchors if target in pages else None
            if not target.exists() or (anchor and known is not None and anchor not in known):
                lost.append((str(page.relative_to(site)), link))
    assert lost == []


def test_every_module_has_a_page(site):
    modules = [path.relative_to(ROOT) for path in (ROOT / "klann_lightning").rglob("*.py")]
    for module in modules:
        if module.stem == "__main__":
            continue
        place = module.with_suffix("") if module.stem != "__init__" else module.with_name("index")
        page = site / "reference" / place.with_suffix(".html")
        assert page.is_file(), f"{module} has no page"


def test_files_outside_the_pages_are_beside_them(site):
    assert (site / "source" / "klann_lightning" / "runtime" / "klann.schema.json").is_file()
    assert 'href="readme.html"' in (site / "index.html").read_text(encoding="utf-8")
    assert 'href="tutorial.html"' in (site / "readme.html").read_text(encoding="utf-8")
    assert not list(site.rglob("*.py")) or {path.parent.name for path in site.rglob("*.py")} == {"examples"}


def test_examples_are_on_their_page_as_they_are(site):
    text = "".join(re.split(r"<[^>]+>", (site / "extending.html").read_text(encoding="utf-8")))
    for example in (ROOT / "docs" / "examples").glob("*.*"):
        assert escape(example.read_text(encoding="utf-8").strip(), quote=False) in text, example.name
    pages = [path for path in site.rglob("*.html") if "--8" in path.read_text(encoding="utf-8")]
    assert pages == []


def test_formulas_are_mathml_that_parses(site):
    text = (site / "mathematics.html").read_text(encoding="utf-8")
    formulas = re.findall(r"<math.*?</math>", text, re.DOTALL)
    assert len(formulas) > 100
    assert "arithmatex" not in text
    for formula in formulas:
        ElementTree.fromstring(re.sub(r"&(?!amp;|lt;|gt;|#)\w+;", "", formula))


def test_tables_scroll_within_the_page(site):
    for name in ("results", "recipe", "mathematics", "readme"):
        page = Loaded(site / f"{name}.html")
        assert page.tables == page.wide
        assert page.tables > 0


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_pages_show_without_a_fault_and_without_scrolling_sideways(site, watch, scheme, width):
    with served(site) as address:
        reader = watch(color_scheme=scheme, viewport={"width": width, "height": 800})
        written = [path.stem for path in (ROOT / "docs").glob("*.md")]
        for name in (*written, "readme", "reference/klann_lightning/dsp/svf"):
            page = reader.open(f"{address}/{name}.html")
            assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, name
        assert [request for request in reader.requests if not request.startswith(address)] == []
        page = reader.open(f"{address}/mathematics.html")
        page.evaluate("document.fonts.ready")
        assert page.evaluate("document.fonts.check('16px Formulas')")
        heights = page.eval_on_selector_all(
            ".formula math", "all => all.map((one) => one.getBoundingClientRect().height)"
        )
        assert min(heights) > 10
