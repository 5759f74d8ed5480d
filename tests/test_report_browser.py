"""The report's page in a real browser: what it plays to the sample, what it loads, who can use it."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from browsers import StarvedError, Watched, patiently, place_in, served, watching
from playwright.sync_api import Browser, expect
from report_pages import LABELS, MATCH_DB, TAKES, big_page, sample_page, sound
from scipy.stats import binomtest

from klann_lightning.report.page import write_page

HOSTILE = "<img src=x onerror=alert(1)></script><script>alert(2)</script>.wav"
EXACT_DB = -90  # sounds are kept in 24 bit and played in 32 bit floats: any wrong sample is far louder


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("report")
    return write_page(sample_page(out), out)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory) -> Path:
    """The same without charts: quicker, where only listening is tried."""
    out = tmp_path_factory.mktemp("sounds")
    return write_page(sample_page(out, charted=False), out)


@pytest.fixture
def watch(browser: Browser) -> Iterator[Callable[..., Watched]]:
    yield from watching(browser)


@pytest.fixture
def watched(watch) -> Watched:
    """A page whose audio can be recorded: its security policy would keep the recorder out."""
    return watch(bypass_csp=True)


def cell(label: str, take: str = "Drums") -> str:
    return f"button[aria-label='Play {label}, {take}']"


def play(watched: Watched, label: str, take: str = "Drums") -> None:
    watched.page.click(cell(label, take))
    expect(watched.page.locator(cell(label, take))).to_have_attribute("aria-pressed", "true")


def hears(watched: Watched, known: dict[str, np.ndarray]) -> tuple[str, float]:
    """Which of these sounds is played, to the sample, and at what gain; a busy machine may take its time."""
    for _ in range(20):
        _, samples = watched.heard(0.07)
        found = {name: place_in(samples[:2048], whole) for name, whole in known.items()}
        name = min(found, key=lambda one: found[one][2])
        if found[name][2] < EXACT_DB:
            return name, found[name][1]
    raise AssertionError(f"none of {', '.join(known)} is heard: {found}")


def test_opens_from_disk_without_a_network_or_a_complaint(watch, site: Path):
    watched = watch()  # with the page's own security policy
    page = watched.open(site)
    play(watched, "KLANN large")
    page.wait_for_selector("#charts .js-plotly-plot")
    page.evaluate("klann.charts.drawAll()")
    for name in ("small", "large"):
        expect(page.locator(f"[data-figure=reading-{name}-energy] .main-svg").first).to_be_attached()
    assert all(url.startswith(site.parent.as_uri()) for url in watched.requests), watched.requests
    assert page.evaluate(
        "performance.getEntriesByType('resource').every(({name}) => name.startsWith('file:'))"
    )


@pytest.mark.parametrize("take", TAKES)
@patiently
def test_every_button_plays_its_sound_to_the_sample(watched: Watched, sounds: Path, take: str):
    page = watched.open(sounds)
    play(watched, "Input", take.capitalize())
    watched.record()
    assert page.evaluate("klann.engine.context.sampleRate") == TAKES[take][0]
    page.check("#loop", force=True)
    for name in LABELS:
        if name != "input":
            play(watched, LABELS[name], take.capitalize())
        expect(page.locator(cell(LABELS[name], take.capitalize()))).to_have_attribute("aria-pressed", "true")
        _, gain = hears(watched, {name: np.tile(sound(name, take), 2)})
        assert gain == pytest.approx(1, abs=1e-3), name
        assert page.inner_text("#now-version") == LABELS[name]


@pytest.mark.parametrize("switch", ["1", "table", "radio"])
@patiently
def test_a_switch_keeps_the_place_to_the_sample_and_makes_no_click(
    watched: Watched, sounds: Path, switch: str
):
    page = watched.open(sounds)
    play(watched, "KLANN small")
    page.wait_for_function("klann.deck.samples(klann.deck.choice.take.versions[0])")
    watched.record()
    page.wait_for_timeout(150)
    act = {
        "1": lambda: page.keyboard.press("1"),
        "table": lambda: page.click(cell("Input")),
        "radio": lambda: page.locator("#versions input").first.check(force=True),
    }
    clock, place = page.evaluate("[klann.engine.context.currentTime * 44100, klann.engine.place]")
    act[switch]()
    frame, samples = watched.heard_since(0.3)
    before, after = sound("small", "drums"), sound("input", "drums")
    first, _, error = place_in(samples[:2048], before)
    assert error < EXACT_DB
    if first != round(place + frame - clock):
        raise StarvedError("the browser left out blocks of the first sound while its clock went on")
    last, _, error = place_in(samples[-2048:], after)
    assert error < EXACT_DB
    assert last - first == len(samples) - 2048
    largest = max(np.abs(np.diff(before)).max(), np.abs(np.diff(after)).max())
    ramp = (np.abs(before).max() + np.abs(after).max()) / (0.01 * 44100)
    assert np.abs(np.diff(samples)).max() < largest + ramp


def test_the_place_follows_the_audio_clock_through_switches(watched: Watched, sounds: Path):
    page = watched.open(sounds)
    play(watched, "Target")
    page.wait_for_timeout(200)
    clocks = "[klann.deck.seconds, klann.engine.context.currentTime]"
    place, clock = page.evaluate(clocks)
    for key in ("3", "4", "a", "b", "x", "m", "r", "r"):
        page.keyboard.press(key)
        page.wait_for_timeout(40)
    later, end = page.evaluate(clocks)
    assert later - place == pytest.approx(end - clock, abs=0.001)


@patiently
def test_a_loop_stays_in_what_the_chart_shows_and_starts_over_to_the_sample(watched: Watched, sounds: Path):
    page = watched.open(sounds)
    play(watched, "Target")
    watched.record()
    page.evaluate("klann.deck.set({ range: [0.5, 0.6], loop: true })")
    page.wait_for_timeout(150)
    places = []
    for _ in range(20):
        places.append(page.evaluate("klann.deck.seconds"))
        page.wait_for_timeout(10)
    assert min(places) >= 0.4999
    assert max(places) < 0.6
    assert max(places) - min(places) > 0.05
    frame, samples = watched.heard(0.35)
    known = sound("target", "drums")[22050:26460]
    start, _, error = place_in(samples[: 3 * 4410], np.tile(known, 5))
    assert error < EXACT_DB
    now, place = page.evaluate("[klann.engine.context.currentTime * 44100, klann.engine.place]")
    assert (start + round(now) - frame) % 4410 == pytest.approx(round(place) - 22050, abs=2)


@patiently
def test_match_loudness_changes_the_level_by_match_db(watched: Watched, sounds: Path):
    page = watched.open(sounds)
    play(watched, "KLANN small")
    watched.record()
    before = hears(watched, {"small": sound("small", "drums")})[1]
    assert before == pytest.approx(1, abs=1e-3)
    page.keyboard.press("m")
    page.wait_for_timeout(200)
    _, gain = hears(watched, {"small": sound("small", "drums")})
    assert 20 * np.log10(gain) == pytest.approx(MATCH_DB["small"], abs=0.01)


@patiently
def test_a_residual_is_the_difference_and_of_the_target_itself_silent(watched: Watched, sounds: Path):
    page = watched.open(sounds)
    play(watched, "KLANN large")
    watched.record()
    page.check("#loop", force=True)
    page.keyboard.press("r")
    wanted = sound("target", "drums")
    difference = sound("large", "drums") - wanted
    _, gain = hears(watched, {"residual": np.tile(difference, 2)})
    assert gain == pytest.approx(1, abs=1e-3)
    page.keyboard.press("m")
    page.wait_for_timeout(200)
    raised = np.sqrt(np.mean(wanted**2) / np.mean(difference**2))
    _, gain = hears(watched, {"residual": np.tile(difference, 2)})
    assert gain == pytest.approx(raised, rel=1e-3)
    page.keyboard.press("5")
    page.wait_for_timeout(300)
    _, samples = watched.heard(0.1)
    assert page.evaluate("klann.engine.playing")
    assert np.abs(samples).max() == 0
    assert page.inner_text("#now-take") == "Drums · residual"


@patiently
def test_the_end_fades_out_and_the_next_start_is_the_beginning(watched: Watched, sounds: Path):
    page = watched.open(sounds)
    play(watched, "Target", "Bass")
    watched.record()
    page.evaluate("klann.deck.seek(3.7)")
    _, samples = watched.heard_since(0.6)
    expect(page.locator(cell("Target", "Bass"))).to_have_attribute("aria-pressed", "false")
    last = np.flatnonzero(samples)[-1]
    peak = np.abs(sound("target", "bass")).max()
    assert np.abs(samples[last - 2000 : last - 600]).max() > 0.9 * peak
    assert np.abs(samples[last - 48 : last]).max() < 0.15 * peak
    assert np.abs(np.diff(samples)).max() < np.abs(np.diff(sound("target", "bass"))).max() + 2 * peak / 480
    assert len(samples) - last > 100
    assert page.evaluate("klann.deck.seconds") == 0


def test_all_of_listening_works_by_keys_alone(watched: Watched, sounds: Path):
    page = watched.open(sounds)
    choice = "klann.deck.choice.version.label"
    page.click("h1")  # the page itself may take the focus, but has no use for keys
    page.keyboard.press("4")
    page.wait_for_function("klann.engine.playing")
    assert page.evaluate(choice) == "KLANN large"
    for key, expected in [("a", "Target"), ("b", "KLANN large"), ("x", "Target"), ("x", "KLANN large")]:
        page.keyboard.press(key)
        assert page.evaluate(choice) == expected
    page.click("h1")
    page.keyboard.press(" ")
    assert not page.evaluate("klann.engine.playing")
    here = page.evaluate("klann.deck.seconds")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("klann.deck.seconds") == pytest.approx(here + 1, abs=0.001)
    page.keyboard.press("Control+1")
    assert page.evaluate(choice) == "KLANN large"
    page.focus("#pick-b")
    page.keyboard.press("1")
    assert page.evaluate(choice) == "KLANN large", "a select has its own use for keys"
    page.focus(cell("Input", "Bass"))
    page.keyboard.press(" ")
    page.wait_for_function("klann.engine.playing")
    assert page.evaluate("klann.deck.choice.take.name") == "Bass"
    page.keyboard.press(" ")
    assert not page.evaluate("klann.engine.playing"), "a button's own key must act once"
    page.focus("#versions input:checked")
    page.keyboard.press("ArrowRight")
    assert page.evaluate(choice) == "Target"
    page.focus("#keys-on") if page.locator(".keys[open]").count() else page.click(".keys summary")
    page.uncheck("#keys-on")
    page.keyboard.press("1")
    assert page.evaluate(choice) == "Target", "single keys can be switched off"


def test_the_track_moves_seeks_and_selects(watched: Watched, site: Path):
    page = watched.open(site)
    play(watched, "KLANN small")
    plot = page.locator("#charts .plot").first
    page.wait_for_selector("#charts .js-plotly-plot .main-svg")
    plot.scroll_into_view_if_needed()
    page.wait_for_function("document.querySelector('#charts .plot').dataset.wired")
    box = plot.bounding_box()
    inner = box["width"] - 80  # less the figure's margins, 60 and 20 pixels
    at = lambda share: (box["x"] + 60 + share * inner, box["y"] + 120)  # noqa: E731
    page.evaluate("klann.deck.pause()")
    page.mouse.click(*at(0.25))
    assert page.evaluate("klann.deck.seconds") == pytest.approx(1.25, abs=0.02)
    head = page.locator(".playhead").bounding_box()
    assert head["x"] + 1 == pytest.approx(at(0.25)[0], abs=2)
    page.mouse.move(*at(0.5))
    page.mouse.down()
    page.mouse.move(*at(0.6), steps=4)
    page.mouse.up()
    page.wait_for_function("klann.deck.choice.range")
    from_, to = page.evaluate("klann.deck.choice.range")
    assert (from_, to) == pytest.approx((2.5, 3.0), abs=0.03)
    page.wait_for_function("document.querySelector('#charts .plot').data[1].x[0] > 1")
    x, y = page.evaluate("(({x, y}) => [[...x], [...y]])(document.querySelector('#charts .plot').data[1])")
    inside = sound("small", "drums")[int(from_ * 44100) : int(to * 44100)]
    assert x[0] == pytest.approx(from_, abs=0.001)
    assert max(y) == pytest.approx(inside.max(), abs=1e-4)
    assert min(y) == pytest.approx(inside.min(), abs=1e-4)
    page.keyboard.press("4")
    page.wait_for_function("document.querySelector('#seen').textContent.startsWith('KLANN large')")
    assert page.evaluate("klann.deck.choice.range") == [from_, to]
    page.click("#zoom-out")
    assert page.evaluate("klann.deck.choice.range")[1] > to
    page.click("#zoom-all")
    assert page.evaluate("klann.deck.choice.range") is None


def begin_test(page, kind: str) -> None:
    page.click("#blind-open")
    page.locator(f"input[name=test][value={kind}]").check(force=True)


def saved(page) -> dict:
    with page.expect_download() as download:
        page.click("#blind-save")
    assert download.value.suggested_filename.endswith(".json")
    return json.loads(Path(download.value.path()).read_text(encoding="utf-8"))


@patiently
def test_abx_plays_its_secret_and_saves_what_was_answered(watched: Watched, sounds: Path):
    page = watched.open(sounds)
    play(watched, "KLANN large")
    begin_test(page, "abx")
    page.fill("#abx-trials", "4")
    page.check("#blind-match")
    page.click("#blind-begin")
    page.wait_for_selector("#blind-abx:visible")
    watched.record()
    heard, answers = [], []
    for trial in range(4):
        expect(page.locator("#abx-trial")).to_have_text(f"Trial {trial + 1} of 4")
        expect(page.locator("#abx-is-a")).to_be_disabled()
        page.keyboard.press("x")
        heard.append(hears(watched, {"A": sound("target", "drums"), "B": sound("large", "drums")})[0])
        answers.append("A" if trial == 0 else heard[-1])
        page.keyboard.press("a")
        shown = page.locator("body").inner_text() + page.locator("#player").inner_html()
        assert page.inner_text("#now-version") == "Blind test"
        assert page.locator("#versions input:checked").count() == 0
        assert "correct" not in shown
        page.click(f"#abx-is-{answers[-1].lower()}")
    result = saved(page)
    correct = sum(x == answer for x, answer in zip(heard, answers, strict=True))
    assert [(trial["x"], trial["answer"]) for trial in result["trials"]] == list(
        zip(heard, answers, strict=True)
    )
    assert all(0 < trial["seconds"] < 20 for trial in result["trials"])
    assert (result["correct"], result["of"], result["loudness_matched"]) == (correct, 4, True)
    assert result["p"] == pytest.approx(binomtest(correct, 4, alternative="greater").pvalue)
    assert (result["a"]["label"], result["b"]["label"], result["take"]) == ("Target", "KLANN large", "Drums")
    expect(page.locator(".score")).to_have_text(f"{correct} of 4 correct")
    page.click("#blind-result .blind-close")
    page.click("#player .toggle")
    assert hears(watched, {one: sound(one, "drums") for one in ("target", "large")})[0] == "large"
    assert page.inner_text("#now-version") == "KLANN large"


def test_p_is_the_binomial_one(watched: Watched, sounds: Path):
    page = watched.open(sounds)
    for correct, of in [(0, 1), (9, 10), (10, 10), (61, 100), (100, 100), (50, 99)]:
        p = page.evaluate(f"klann.abx.chance({correct}, {of})")
        assert p == pytest.approx(binomtest(correct, of, alternative="greater").pvalue, rel=1e-9)


@patiently
def test_rating_hides_reference_and_anchor_until_all_are_rated(watched: Watched, sounds: Path):
    page = watched.open(sounds)
    play(watched, "KLANN large")
    begin_test(page, "rating")
    page.locator("#rated input").nth(2).uncheck()
    page.click("#blind-begin")
    page.wait_for_selector("#blind-rating:visible")
    watched.record()
    names = {"small": None, "large": None, "target": None, "anchor": None}
    rows = page.locator("#rating-stimuli li")
    assert rows.count() == 4
    assert not any(label in page.inner_text("#blind-rating") for label in LABELS.values())
    left, submit = page.locator("#rating-left"), page.locator("#rating-submit")
    rows.nth(3).locator("input").fill("99")  # rated, and not played
    for index, letter in enumerate("ABCD"):
        expect(submit).to_be_disabled()
        expect(left).to_contain_text(letter)
        rows.nth(index).locator("button").click()
        if index < 3:
            expect(left).to_contain_text(letter)
        name, _ = hears(watched, {one: sound(one, "drums") for one in names})
        names[name] = 20 * index + 5
        rows.nth(index).locator("input").fill(str(names[name]))
    submit.click()
    result = saved(page)
    roles = {"target": "hidden reference", "anchor": "anchor"}
    rated = {one["key"].removeprefix("drums-"): (one["rating"], one["role"]) for one in result["stimuli"]}
    assert rated == {name: (rating, roles.get(name, "version")) for name, rating in names.items()}
    assert page.locator("#blind-outcome tbody tr").count() == 4
    assert page.locator("#blind-outcome tbody tr td").first.inner_text() in [*LABELS.values(), "Anchor"]


def test_hostile_names_stay_text_where_scripts_show_them(watch, tmp_path: Path):
    page_of = sample_page(tmp_path, {"large": HOSTILE})
    watched = watch()
    page = watched.open(write_page(page_of, tmp_path))
    page.locator("button.play").nth(6).click()
    expect(page.locator("button.play").nth(6)).to_have_attribute("aria-pressed", "true")
    page.wait_for_selector("#charts .js-plotly-plot")
    page.click("#blind-open")
    assert page.inner_text("#now-version") == HOSTILE
    assert page.locator("img").count() == 0
    assert page.locator("#pick-b option").nth(3).inner_text() == HOSTILE
    assert page.locator("#rated label").nth(1).text_content().strip() == HOSTILE


@pytest.mark.parametrize(("width", "dialogs"), [(1280, "dark"), (360, "light")])
def test_axe_finds_nothing(watch, site: Path, width: int, dialogs: str):
    watched = watch(bypass_csp=True, viewport={"width": width, "height": 800})
    page = watched.open(site)
    play(watched, "KLANN large")
    page.wait_for_selector("#charts .js-plotly-plot")
    page.evaluate("klann.charts.drawAll()")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if width == 360:
        page.click("#more")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        clean(page)
    page.emulate_media(color_scheme=dialogs)
    page.click("#blind-open")
    clean(page, "dialog")
    for kind in ("abx", "rating"):
        page.locator(f"input[name=test][value={kind}]").check(force=True)
        page.click("#blind-begin")
        page.wait_for_selector(f"#blind-{kind}:visible")
        clean(page, "dialog")
        page.click(f"#blind-{kind} .blind-close")
        page.click("#blind-open")


def clean(page, part: str | None = None) -> None:
    results = Axe().run(page, part, {"resultTypes": ["violations"], "preload": False})
    assert results.violations_count == 0, results.generate_report()


def test_thirty_systems_open_within_a_second_and_load_nothing_early(watch, tmp_path: Path):
    index = write_page(big_page(tmp_path), tmp_path)
    watched = watch()
    page = watched.open(index)
    page.wait_for_timeout(300)
    ready, painted = page.evaluate(
        """[performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd,
            performance.getEntriesByName('first-contentful-paint')[0].startTime]"""
    )
    assert max(ready, painted) < 1000
    assert page.locator("button.play").count() == 96
    page.evaluate("klann.deck.set({ version: klann.deck.choice.take.versions.at(-1) })")
    assert page.evaluate("[scrollY, document.querySelector('#versions').scrollLeft > 1000]") == [0, True]
    assert not [url for url in watched.requests if "plotly" in url or "/audio/" in url or "/figures/" in url]


def test_works_on_a_web_host(watch, site: Path):
    watched = watch()
    with served(site.parent) as address:
        page = watched.open(f"{address}/index.html")
        play(watched, "Target", "Bass")
        page.wait_for_selector("#charts .js-plotly-plot")
        assert all(url.startswith(address) for url in watched.requests)
        watched.close()  # before its server goes: what else a take has is still being loaded


def test_a_missing_sound_is_told_in_the_bar(watch, tmp_path: Path):
    index = write_page(sample_page(tmp_path, charted=False), tmp_path)
    (tmp_path / "audio" / "drums-large.js").unlink()
    (tmp_path / "audio" / "drums-small.js").write_text('klann.sound("drums-small", "bm8gYXVkaW8=");\n')
    watched = watch()
    page = watched.open(index)
    alert = page.locator("#player [role=alert]")
    page.click(cell("KLANN large"))
    expect(alert).to_have_text("audio/drums-large.js cannot be loaded. Is it still beside this page?")
    page.click(cell("KLANN small"))
    expect(alert).to_have_text("The browser cannot decode audio/drums-small.flac (KLANN small).")
    play(watched, "Target")
    expect(alert).to_be_empty()
    watched.close()  # after which no more of them come
    assert all("ERR_FILE_NOT_FOUND" in fault for fault in watched.faults)
    watched.faults.clear()


def test_the_theme_is_chosen_and_remembered(watched: Watched, sounds: Path):
    page = watched.open(sounds)
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.click("#theme")
    assert page.evaluate(ground) == light
    page.click("#theme")
    assert page.evaluate(ground) != light
    page.reload()
    assert page.inner_text("#theme") == "Theme: dark"
    assert page.evaluate(ground) != light


def test_print_unfolds_and_draws_everything_first(watched: Watched, site: Path):
    page = watched.open(site)
    page.evaluate("() => { window.print = () => { window.printed = true; }; }")
    page.click("#print")
    page.wait_for_function("window.printed")
    assert page.evaluate("[...document.querySelectorAll('.plot')].every((p) => p.querySelector('.main-svg'))")
    assert page.locator("main details:not([open])").count() == 0
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    widths = page.evaluate("[...document.querySelectorAll('.plot .main-svg')].map((s) => s.clientWidth)")
    assert 300 < max(widths) <= 720
    page.evaluate("dispatchEvent(new Event('afterprint'))")


def test_without_scripts_each_sound_is_a_link(watch, site: Path):
    watched = watch(java_script_enabled=False)
    page = watched.open(site)
    assert page.locator("td a:visible").count() == 10
    assert page.locator("button.play:visible").count() == 0
