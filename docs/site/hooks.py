"""What mkdocs.yml leaves to code: pages and files from outside docs/, formulas as MathML, tables that scroll.

Pages link to files of the repository as a git host shows them: ../README.md, ../sweeps/demo.yaml. README.md
and data/README.md are pages of the site; every other file that a page links to is laid beside the pages,
under source/. A link to what does not exist is left as it is, and mkdocs then warns.
"""

import html
import posixpath
import re
from importlib.resources import files as files_of
from io import BytesIO
from pathlib import Path

from fontTools import subset
from fontTools.ttLib import TTFont
from math_core import LatexToMathML
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

PAGES = {"README.md": "readme.md", "data/README.md": "recordings.md"}  # in the repository -> on the site
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
TABLE = re.compile(r"<table>.*?</table>", re.DOTALL)
ITALICS = [*range(0x1D434, 0x1D468), *range(0x1D6FC, 0x1D71C)]  # Latin and Greek; h is U+210E
FONT = "assets/fonts/stix-two-math.woff"  # as extra.css names it
to_mathml = LatexToMathML(fancy_error=False)
drawn_with: set[str] = set()  # the characters of all formulas


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and files from outside docs/, which live in the repository."""
    root = Path(config.config_file_path).parent
    for source, place in PAGES.items():
        files.append(File.generated(config, place, abs_src_path=str(root / source)))
    for file in list(files.documentation_pages()):
        source = _in_repository(file.src_uri)
        for target in LINK.findall(file.content_string):
            path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
            place = _on_site(path)
            if (root / path).is_file() and place.startswith("source/") and place not in files.src_uris:
                files.append(File.generated(config, place, abs_src_path=str(root / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links that lead out of docs/, or come from outside, to where their targets lie on the site."""
    source, here = _in_repository(page.file.src_uri), posixpath.dirname(page.file.src_uri)

    def moved(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link[1]))
        place = _on_site(path)
        return posixpath.relpath(place, here or ".") if place in files.src_uris else link[1]

    return LINK.sub(moved, markdown)


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Formulas become MathML, which browsers draw without a script; an error in one ends the build."""

    def drawn(found: re.Match[str]) -> str:
        block = found[2] == "["
        mathml = to_mathml.convert_with_local_state(html.unescape(found[3].strip()), displaystyle=block)
        drawn_with.update(html.unescape(re.sub(r"<[^>]+>", "", mathml)))
        return f'<div class="formula">{mathml}</div>' if block else mathml

    return TABLE.sub(r'<div class="wide" tabindex="0">\g<0></div>', FORMULA.sub(drawn, content))


def on_post_build(config: MkDocsConfig) -> None:
    """Lay a mathematical font beside the pages: what formulas need of STIX Two Math, which ziamath carries.

    Without one browsers set indices and fractions by guess, and few systems have one.
    """
    font = TTFont(BytesIO(files_of("ziamath").joinpath("fonts/STIXTwoMath-Regular.ttf").read_bytes()))
    options = subset.Options(flavor="woff", layout_features=["*"], notdef_outline=True)
    part = subset.Subsetter(options)
    part.populate(unicodes=[*map(ord, drawn_with), 0x221A, 0x210E, *ITALICS])  # roots, and letters as drawn
    part.subset(font)
    path = Path(config.site_dir) / FONT
    path.parent.mkdir(parents=True, exist_ok=True)
    subset.save_font(font, str(path), options)


def _in_repository(place: str) -> str:
    """Where a page of the site lies in the repository."""
    return {site: source for source, site in PAGES.items()}.get(place, f"docs/{place}")


def _on_site(path: str) -> str:
    """Where a file of the repository lies on the site."""
    return PAGES.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else f"source/{path}")
