"""A visitor's own file in the report's page: what its WebAssembly plays is what the model makes of it."""

import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from axe_playwright_python.sync_playwright import Axe
from browsers import Watched, patiently, place_in, served, watching
from playwright.sync_api import Browser, Error, Page, expect
from report_pages import sample_page, sound
from scipy.io import wavfile
from test_export import exact, off_db, system

from klann_lightning.export.document import document
from klann_lightning.models.oversampled import oversampled
from klann_lightning.report.assets import write_model
from klann_lightning.report.contents import Playable
from klann_lightning.report.page import write_page

RATE = 44100
NAMES = {"small": "small series", "large": "large series", "slow": "one channel"}  # the last is for 48 kHz
DEVICES = {"small": "LA-2A", "large": "LA-2A", "slow": "<Fuzz>"}


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("own")
    models = []
    for key, name in NAMES.items():
        write_model(out, key, document(system(name)))
        models.append(Playable(key, f"KLANN {name}", DEVICES[key], system(name).sample_rate))
    return write_page(replace(sample_page(out, charted=False), models=models), out)


@pytest.fixture
def watch(browser: Browser) -> Iterator[Callable[..., Watched]]:
    yield from watching(browser)


def noise(seconds: float, seed: int = 0, rate: int = RATE) -> np.ndarray:
    """Nowhere the same, at most half of full scale, [T]."""
    return np.random.default_rng(seed).uniform(-0.5, 0.5, round(seconds * rate)).astype(np.float32)


def wav(samples: np.ndarray, rate: int = RATE) -> bytes:
    """[T] or [T, channels]"""
    bytes_ = io.BytesIO()
    wavfile.write(bytes_, rate, samples)
    return bytes_.getvalue()


def give(page: Page, content: bytes, name: str = "riff.wav", kind: str = "audio/wav") -> None:
    page.set_input_files("#own-file", {"name": name, "mimeType": kind, "buffer": content})


def take(page: Page, content: bytes, name: str = "riff.wav") -> None:
    give(page, content, name)
    expect(page.locator("#own-about")).to_contain_text(name)


def known(key: str, x: np.ndarray) -> torch.Tensor:
    return exact(system(NAMES[key]), torch.from_numpy(x))


def saved(page: Page) -> tuple[int, np.ndarray, str]:
    """Rate, samples [T] or [T, channels], name."""
    with page.expect_download() as download:
        page.click("#own-save")
    rate, samples = wavfile.read(download.value.path())
    return rate, samples, download.value.suggested_filename


def drums(watch: Callable[..., Watched], site: Path) -> tuple[Watched, Page, np.ndarray]:
    """A page that plays 2 s of drums and is recorded, and these [T]."""
    watched = watch(bypass_csp=True)
    page = watched.open(site)
    x = sound("target", "drums")[: 2 * RATE].astype(np.float32)
    take(page, wav(x))
    start(page)
    watched.record("live")
    return watched, page, x


def start(page: Page) -> None:
    page.click("#own-toggle")
    expect(page.locator("#own-toggle")).to_have_attribute("aria-label", "Pause your file")


def expect_place(page: Page, least: float) -> None:
    """Until so much of the file, in seconds, has been played."""
    for _ in range(200):
        if page.evaluate("klann.live.seconds") >= least:
            return
        page.wait_for_timeout(25)
    raise AssertionError(f"the file does not get to {least} s")


def test_a_saved_file_is_what_the_model_makes_of_it(watch, site: Path):
    page = watch().open(site)
    x = noise(2)
    take(page, wav(x), "my riff.wav")
    for key in ("small", "large"):
        page.select_option("#own-model", key)
        rate, samples, name = saved(page)
        assert (rate, samples.dtype, name) == (RATE, np.float32, f"my riff-{key}.wav")
        assert off_db(torch.from_numpy(samples), known(key, x)) < -100
    assert "times real time" in page.inner_text("#own-saved")


@pytest.mark.parametrize("times", [2, 4])
def test_an_oversampled_file_is_in_time_and_the_oversampled_models(watch, site: Path, times: int):
    page = watch().open(site)
    x = noise(1)
    take(page, wav(x))
    page.check(f"input[name=own-times][value='{times}']", force=True)
    _, samples, _ = saved(page)
    model = oversampled(system(NAMES["small"]), times)
    padded = torch.from_numpy(np.append(x, np.zeros(model.delay, np.float32)))
    assert off_db(torch.from_numpy(samples), exact(model, padded)[-len(x) :]) < -100


def test_drive_and_output_level_are_gains_before_and_behind_the_model(watch, site: Path):
    page = watch().open(site)
    x = noise(1)
    take(page, wav(x))
    page.fill("#own-drive", "12")
    page.fill("#own-level", "-6")
    assert page.inner_text("output[for=own-drive]") == "+12 dB"
    assert page.get_attribute("#own-level", "aria-valuetext") == "\N{MINUS SIGN}6 dB"
    _, samples, _ = saved(page)
    wanted = 10 ** (-6 / 20) * known("small", (10 ** (12 / 20) * x.astype(np.float64)).astype(np.float32))
    assert off_db(torch.from_numpy(samples), wanted) < -100


def test_channels_of_a_stereo_file_stay_apart(watch, site: Path):
    page = watch().open(site)
    x = np.stack([noise(1, 1), noise(1, 2)], 1)
    take(page, wav(x))
    expect(page.locator("#own-about")).to_contain_text("riff.wav · stereo · 44.1 kHz · 1.0 s")
    _, samples, _ = saved(page)
    for channel in (0, 1):
        assert off_db(torch.from_numpy(samples[:, channel]), known("small", x[:, channel])) < -100


@patiently
def test_live_sound_is_the_models_and_dry_is_the_file(watch, site: Path):
    watched = watch(bypass_csp=True)
    page = watched.open(site)
    x = noise(8)
    take(page, wav(x))
    page.fill("#own-drive", "6")
    start(page)
    watched.record("live")
    driven = (10 ** (6 / 20) * x.astype(np.float64)).astype(np.float32)
    _, heard = watched.heard(0.15)
    _, gain, error = place_in(heard[:4096], known("small", driven).numpy())
    assert error < -100
    assert gain == pytest.approx(1, abs=1e-5)
    page.check("input[name=own-hear][value='0']", force=True)
    page.wait_for_timeout(100)
    _, heard = watched.heard(0.15)
    _, gain, error = place_in(heard[:4096], x.astype(np.float64))
    assert error < -120
    assert gain == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("to", ["model", "input", "oversampling"])
@patiently
def test_a_switch_keeps_the_place_and_makes_no_step(watch, site: Path, to: str):
    watched, page, x = drums(watch, site)
    page.click("#own-toggle")
    page.wait_for_timeout(60)
    page.evaluate("klann.live.seek(0)")
    page.click("#own-toggle")
    page.wait_for_timeout(60)
    page.evaluate("heard.length = 0")
    page.wait_for_timeout(150)
    if to == "model":
        page.select_option("#own-model", "large")
    elif to == "input":
        page.check("input[name=own-hear][value='0']", force=True)
    else:
        page.check("input[name=own-times][value='4']", force=True)
    _, samples = watched.heard_since(0.6)
    before = known("small", x).numpy()
    if to == "model":
        after = known("large", x).numpy()
    elif to == "input":
        after = x.astype(np.float64)
    else:
        after = exact(oversampled(system(NAMES["small"]), 4), torch.from_numpy(x)).numpy()
    first, _, error = place_in(samples[:4096], before)
    assert error < -100
    last, _, error = place_in(samples[-4096:], after)
    assert error < -100
    assert last - first == len(samples) - 4096
    largest = max(np.abs(np.diff(before)).max(), np.abs(np.diff(after)).max())
    ramp = (np.abs(before).max() + np.abs(after).max()) / (0.01 * RATE)
    assert np.abs(np.diff(samples)).max() < largest + ramp


@patiently
def test_pause_seek_and_a_changed_level_make_no_step(watch, site: Path):
    watched, page, x = drums(watch, site)
    page.fill("#own-level", "-12")
    page.fill("#own-drive", "6")
    page.wait_for_timeout(60)
    page.evaluate("[1.5, 1.2, 0.4].forEach(klann.live.seek)")
    page.click("#own-toggle")
    page.wait_for_timeout(60)
    page.click("#own-toggle")
    _, samples = watched.heard_since(0.3)
    loud = known("small", (2 * x).astype(np.float32)).abs().max().item()
    assert np.abs(samples).max() > 0.01
    assert np.abs(np.diff(samples)).max() < 0.1 * loud


def test_behind_the_end_the_model_goes_on_and_the_next_start_is_the_beginning(watch, site: Path):
    watched = watch()
    page = watched.open(site)
    take(page, wav(noise(0.4)))
    start(page)
    expect(page.locator("#own-toggle")).to_have_attribute("aria-label", "Play your file")
    assert page.evaluate("klann.live.seconds") == 0
    assert page.inner_text("#own-time") == "0.0 / 0.4 s"
    page.check("#own-loop", force=True)
    start(page)
    page.wait_for_timeout(1000)
    assert page.evaluate("klann.live.playing"), "a loop has no end"
    page.uncheck("#own-loop", force=True)
    expect(page.locator("#own-toggle")).to_have_attribute("aria-label", "Play your file")


def test_another_rate_is_said_and_a_model_of_another_rate_keeps_the_place(watch, site: Path):
    watched = watch()
    page = watched.open(site)
    take(page, wav(noise(6, rate=48000), 48000))
    about = page.locator("#own-about")
    expect(about).to_contain_text("mono · 48 kHz · 6.0 s")
    expect(about).to_contain_text("The browser has resampled it to 44.1 kHz, the model's rate.")
    start(page)
    page.evaluate("klann.live.seek(2)")
    expect_place(page, 2.1)
    page.select_option("#own-model", "slow")
    expect(about).not_to_contain_text("resampled")
    expect_place(page, 2.3)
    assert page.evaluate("klann.live.context.sampleRate") == 48000
    assert page.evaluate("klann.live.seconds") < 4
    for model in ("small", "slow", "small"):  # the last counts, however late the others come
        page.select_option("#own-model", model)
    expect(about).to_contain_text("resampled")
    here = page.evaluate("klann.live.seconds")
    expect_place(page, here + 0.1)
    assert page.evaluate("klann.live.context.sampleRate") == 44100
    assert page.locator("#own-model optgroup").nth(1).get_attribute("label") == "<Fuzz>"


@pytest.mark.parametrize("kind", ["flac", "ogg", "mp3"])
def test_a_files_own_rate_is_read_from_its_header(watch, site: Path, tmp_path: Path, kind: str):
    path = tmp_path / f"x.{kind}"
    soundfile.write(path, noise(1, rate=32000), 32000)
    page = watch().open(site)
    take(page, path.read_bytes(), path.name)
    expect(page.locator("#own-about")).to_contain_text("mono · 32 kHz · 1.")


def test_a_rate_that_no_header_tells_is_not_made_up(watch, site: Path):
    """An M4A's header is not read, and bytes that look like an MPEG frame by chance are none."""
    page = watch().open(site)
    content = b"\x00\x00\x00\x20ftypM4A " + np.random.default_rng(0).bytes(100_000)
    rate = page.evaluate("(bytes) => klann.rateOf(new Uint8Array(bytes).buffer)", list(content))
    assert rate is None


def test_what_is_no_sound_is_refused_in_words(watch, site: Path):
    page = watch().open(site)
    alert = page.locator("#own-fault")
    for content in (b"no sound at all", wav(noise(1))[:50], b""):
        give(page, content, "notes.txt", "text/plain")
        expect(alert).to_have_text(
            "notes.txt is no sound that this browser can decode. Try a WAV, FLAC or MP3 file."
        )
        give(page, wav(noise(1)))
        expect(alert).to_be_empty()
    give(page, b"", "empty.wav")
    expect(alert).to_contain_text("empty.wav")
    assert page.locator("#own-panel").is_visible(), "the file before stays"


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("delete BaseAudioContext.prototype.audioWorklet", "This browser has no AudioWorklet"),
        ("delete window.WebAssembly", "This browser has WebAssembly switched off"),
    ],
)
def test_a_browser_that_cannot_is_told_so(watch, site: Path, missing: str, said: str):
    watched = watch()
    watched.page.add_init_script(missing)
    page = watched.open(site)
    give(page, wav(noise(1)))
    expect(page.locator("#own-fault")).to_contain_text(said)


def test_a_missing_model_is_told(watch, tmp_path: Path):
    models = [Playable("gone", "Gone", "LA-2A", RATE)]
    watched = watch()
    page = watched.open(write_page(replace(sample_page(tmp_path, charted=False), models=models), tmp_path))
    take(page, wav(noise(1)))
    page.click("#own-toggle")
    expect(page.locator("#own-fault")).to_have_text(
        "models/gone.js cannot be loaded. Is it still beside this page?"
    )
    page.click("#own-save")
    expect(page.locator("#own-fault")).to_contain_text("models/gone.js")
    watched.close()
    assert all("ERR_FILE_NOT_FOUND" in fault for fault in watched.faults)
    watched.faults.clear()


@pytest.mark.parametrize("host", ["disk", "web"])
def test_works_from_disk_and_from_a_web_host_under_the_pages_own_policy(watch, site: Path, host: str):
    watched = watch()
    with served(site.parent) as address:
        base = site.parent.as_uri() if host == "disk" else address
        page = watched.open(f"{base}/index.html")
        assert not [url for url in watched.requests if "wasm" in url or "/models/" in url]
        x = noise(3)
        take(page, wav(x))
        start(page)
        expect_place(page, 0.3)
        _, samples, _ = saved(page)
        assert off_db(torch.from_numpy(samples), known("small", x)) < -100
        if host == "web":
            with pytest.raises(Error, match="Content Security Policy"):
                page.add_script_tag(url="data:text/javascript,0")
            watched.faults.clear()
        assert all(url.startswith((base, "blob:", "data:")) for url in watched.requests), watched.requests
        watched.close()


def test_one_player_stops_the_other(watch, site: Path):
    page = watch().open(site)
    take(page, wav(noise(20)))
    page.click("button[aria-label='Play Target, Drums']")
    expect(page.locator("#player .toggle")).to_have_attribute("aria-label", "Pause")
    start(page)
    expect(page.locator("#player .toggle")).to_have_attribute("aria-label", "Play")
    page.click("button[aria-label='Play Input, Drums']")
    expect(page.locator("#player .toggle")).to_have_attribute("aria-label", "Pause")
    expect(page.locator("#own-toggle")).to_have_attribute("aria-label", "Play your file")


def test_the_meter_tells_what_is_over_full_scale(watch, site: Path):
    page = watch().open(site)
    take(page, wav(noise(20)))
    page.check("input[name=own-hear][value='0']", force=True)
    start(page)
    expect(page.locator("#own-peak")).to_have_text("\N{MINUS SIGN}6 dB")
    expect(page.locator("#own-over")).to_be_empty()
    page.fill("#own-level", "8")
    expect(page.locator("#own-over")).to_have_text("over full scale")
    expect(page.locator("#own-peak")).to_have_text("+2 dB")
    page.click("#own-toggle")
    expect(page.locator("#own-over")).to_be_empty()
    expect(page.locator("#own-peak")).to_be_empty()


def test_a_file_is_dropped_and_all_works_by_keys(watch, site: Path):
    page = watch().open(site)
    data = page.evaluate_handle(
        """(bytes) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "dropped.wav"));
            return data;
        }""",
        list(wav(noise(1))),
    )
    page.dispatch_event("#own-drop", "dragover", {"dataTransfer": data})
    page.dispatch_event("#own-drop", "drop", {"dataTransfer": data})
    expect(page.locator("#own-about")).to_contain_text("dropped.wav")
    page.focus("#own-file")
    reached = []
    for _ in range(9):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.name"))
    assert reached == [
        *("own-toggle", "own-place", "own-loop", "own-model", "own-hear", "own-times"),
        *("own-drive", "own-level", "own-save"),
    ]
    page.focus("#own-toggle")
    page.keyboard.press(" ")
    expect(page.locator("#own-toggle")).to_have_attribute("aria-label", "Pause your file")
    assert not page.evaluate("klann.engine.playing"), "the key is the button's alone"
    page.focus("#own-drive")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("output[for=own-drive]") == "+0.5 dB"


@pytest.mark.parametrize("width", [1280, 360])
def test_axe_finds_nothing_in_the_section(watch, site: Path, width: int):
    page = watch(bypass_csp=True, viewport={"width": width, "height": 800}).open(site)
    Axe().run(page, "#own", {"preload": False})
    take(
        page,
        wav(noise(20, rate=48000), 48000),
        "a name without any gap that is far too long.wav".replace(" ", "_"),
    )
    page.fill("#own-level", "12")
    start(page)
    expect(page.locator("#own-over")).to_have_text("over full scale")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        results = Axe().run(page, "#own", {"resultTypes": ["violations"], "preload": False})
        assert results.violations_count == 0, results.generate_report()


def test_on_paper_the_section_is_left_out(watch, site: Path):
    page = watch().open(site)
    page.emulate_media(media="print")
    assert not page.locator("#own").is_visible()
