"""The C++ player against the PyTorch scan in 64 bit: every signal, every compiler, any cut into blocks."""

import copy
import json
import os
import random
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import once
from test_export import SYSTEMS, exact, off_db, system

from klann_lightning.data.audio import read_audio, write_audio
from klann_lightning.export.cpp import baked, write_cpp
from klann_lightning.export.document import document, write_document
from klann_lightning.models.oversampled import oversampled

RUNTIME = Path(__file__).parents[1] / "klann_lightning" / "runtime"
STRICT = ["-std=c++17", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror"]
SANITIZED = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
BUILDS = {
    "g++": ["g++", "-O2"],
    "g++ sse2": ["g++", "-O2", "-DKLANN_OWN_ONLY"],
    "g++ avx2": ["g++", "-O3", "-mavx2", "-mfma", "-DKLANN_OWN_ONLY"],
    "g++ native": ["g++", "-O3", "-march=native"],
    "g++ sanitized": ["g++", *SANITIZED],
    "clang++": ["clang++", "-O2"],
    "clang++ sse2": ["clang++", "-O2", "-DKLANN_OWN_ONLY"],
    "clang++ native": ["clang++", "-O3", "-march=native"],
    "clang++ sanitized": ["clang++", *SANITIZED],
}
FUZZ = int(os.environ.get("KLANN_FUZZ_DOCUMENTS", "2000"))


def needs(*programs: str) -> None:
    """Skip where one is missing, and is not required to be there."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing and not os.environ.get("KLANN_TEST_RUNTIME"):
        pytest.skip(f"not installed: {', '.join(missing)}")
    assert not missing, f"KLANN_TEST_RUNTIME is set, but {', '.join(missing)} are not installed"


def compiled(folder: Path, build: str, source: Path, *more: str) -> Path:
    compiler, *options = BUILDS[build]
    needs(compiler)
    program = folder / build.replace(" ", "-")
    command = [compiler, *STRICT, *options, f"-I{RUNTIME}", *more, str(source), "-o", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return program


@pytest.fixture(scope="module")
def players(tmp_path_factory):
    """Each build of the tests' own program, made when it is first asked for."""

    def player(build: str = "g++ native") -> Path:
        needs(BUILDS[build][0])
        name, source = build.replace(" ", "-"), Path(__file__).with_name("player.cpp")
        return once(tmp_path_factory, f"player-{name}", lambda folder: compiled(folder, build, source)) / name

    return player


def play(program, model, x, kind="float", blocks="64", channels=1, oversampling=1):
    """What the program makes of x [channels * T], as it is given it."""
    folder = model.parent
    dtype = np.float32 if kind == "float" else np.float64
    np.asarray(x, dtype).tofile(folder / "in.raw")
    settings = [kind, blocks, channels, oversampling]
    command = [program, model, *settings, folder / "in.raw", folder / "out.raw"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return np.fromfile(folder / "out.raw", dtype)


def written(model, folder):
    write_document(folder / "model.json", document(model))
    return folder / "model.json"


def signals():
    rng = np.random.default_rng(0)
    noise = rng.uniform(-1, 1, 30_000)
    time = np.arange(30_000)
    return {
        "noise": noise,
        "quiet noise": 1e-4 * noise,
        "silence": np.zeros(30_000),
        "square": np.where(time // 50 % 2, 1.0, -1.0),
        "click": np.where(time == 100, 1.0, 0.0),
        "denormal tail": noise * np.exp(-time / 100),
    }


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("build", ["g++", "g++ sse2", "g++ avx2", "g++ native", "clang++"])
def test_samples_are_the_models(name, build, players, tmp_path):
    model = system(name)
    path = written(model, tmp_path)
    for signal, x in signals().items():
        x = x.astype(np.float32)
        known = exact(model, torch.from_numpy(x))
        for kind, most_db in (("float", -100), ("double", -200)):
            played = play(players(build), path, x, kind)
            assert np.isfinite(played).all(), signal
            assert off_db(torch.from_numpy(played), known) < most_db, (signal, kind)


def test_a_sound_far_too_loud_is_as_near_as_32_bits_allow(players, tmp_path):
    """A thousand times full scale: rounding moves gates whose sums are thousands, and torch's own no less."""
    for name in ("small parallel", "large series"):
        model, x = system(name), (1000 * signals()["noise"]).astype(np.float32)
        known = exact(model, torch.from_numpy(x))
        with torch.no_grad():
            theirs = off_db(model.play_whole(torch.from_numpy(x)), known)
        for kind, most_db in (("float", theirs + 10), ("double", -150)):
            played = torch.from_numpy(play(players(), written(model, tmp_path), x, kind))
            assert off_db(played, known) < most_db


@pytest.mark.parametrize("device", ["la2a", "facebender-rndamp"])
def test_recordings_come_out_alike(device, recordings, players, tmp_path):
    x = read_audio(recordings / "val" / f"{device}-input.wav")
    for name in ("small series", "large series"):
        model = system(name)
        known = exact(model, torch.from_numpy(x))
        assert off_db(torch.from_numpy(play(players(), written(model, tmp_path), x)), known) < -100


@pytest.mark.parametrize("build", ["g++", "g++ sse2", "g++ native", "clang++", "clang++ sse2"])
@pytest.mark.parametrize("kind", ["float", "double"])
def test_any_cut_into_blocks_gives_the_same_bits(build, kind, players, tmp_path):
    x = signals()["noise"][:9_000]
    for name in ("small parallel", "large series", "stacked", "cascades"):
        path = written(system(name), tmp_path)
        whole = play(players(build), path, x, kind, "9000")
        for blocks in ("1", "2", "63", "64", "65", "1,7,64,1000,33", "512"):
            np.testing.assert_array_equal(play(players(build), path, x, kind, blocks), whole)


@pytest.mark.parametrize("build", ["g++", "g++ sse2", "g++ avx2", "clang++"])
@pytest.mark.parametrize("factor", [2, 4])
def test_oversampling_is_that_of_the_models(factor, build, players, tmp_path):
    """As near as without, in float and double; any cut into blocks still gives the same bits."""
    for name in ("small series", "large parallel"):
        model = system(name)
        path = written(model, tmp_path)
        for signal in ("square", "denormal tail", "noise"):
            x = signals()[signal][:9_000].astype(np.float32)
            known = exact(oversampled(model, factor), torch.from_numpy(x))
            for kind, most_db in (("float", -100), ("double", -200)):
                played = play(players(build), path, x, kind, oversampling=factor)
                assert off_db(torch.from_numpy(played), known) < most_db, (signal, kind)
        for blocks in ("1", "63", "1,7,64,1000,33"):
            np.testing.assert_array_equal(
                play(players(build), path, x, kind, blocks, oversampling=factor), played
            )


def test_channels_do_not_hear_each_other(players, tmp_path):
    path = written(system("large parallel"), tmp_path)
    x = np.stack([signals()[name] for name in ("noise", "square", "click")])
    for factor in (1, 2):
        options = {"blocks": "1,500,64", "channels": 3, "oversampling": factor}
        together = play(players(), path, x.ravel(), **options).reshape(3, -1)
        for row, heard in zip(x, together, strict=True):
            np.testing.assert_array_equal(play(players(), path, row, oversampling=factor), heard)


@pytest.mark.parametrize("build", ["g++ sanitized", "clang++ sanitized"])
def test_nothing_undefined_happens(build, players, tmp_path):
    for name in SYSTEMS:
        path = written(system(name), tmp_path)
        x = np.concatenate(list(signals().values()))[::7].copy()
        x[[5, 77, 1000]] = np.nan, np.inf, -np.inf
        for kind in ("float", "double"):
            for factor in (1, 2, 4) if name == "small series" else (1,):
                played = play(players(build), path, x, kind, "1,64,100,9", oversampling=factor)
                assert np.isfinite(played).all()


def test_what_is_not_a_number_counts_as_silence(players, tmp_path):
    path = written(system("small parallel"), tmp_path)
    x = signals()["noise"][:5000].copy()
    x[100:200] = 0
    silent = play(players(), path, x)
    x[100:200] = np.nan
    np.testing.assert_array_equal(play(players(), path, x), silent)
    assert np.isfinite(play(players(), path, x, oversampling=2)).all()


def test_ten_minutes_stay_in_step(players, tmp_path):
    model = system("small parallel")
    x = np.random.default_rng(3).uniform(-1, 1, 600 * 44100).astype(np.float32)
    known = exact(model, torch.from_numpy(x))[-44100:]
    played = torch.from_numpy(play(players(), written(model, tmp_path), x)[-44100:])
    assert off_db(played, known) < -100


def test_a_damaged_document_is_refused_and_never_crashes(players, tmp_path):
    """Bytes changed, cut, doubled; numbers exchanged for others: under both sanitizers' eyes."""
    text = (written(system("stacked"), tmp_path)).read_text()
    content = json.loads(text)
    content["snapshot"] = {"input": [0.5], "output": [0.25]}
    text = json.dumps(content)
    dice, paths = random.Random(0), []
    tokens = [
        "-1",
        "0",
        "1e999",
        "1e30",
        "99999999999",
        "null",
        "[]",
        "{}",
        '"filter"',
        "[[",
        "0.5",
        "-0",
        "NaN",
    ]
    for number in range(FUZZ):
        damaged = text
        for _ in range(dice.choice([1, 1, 2, 5])):
            place = dice.randrange(max(len(damaged), 1))
            match dice.randrange(4):
                case 0:
                    damaged = damaged[:place] + chr(dice.randrange(1, 127)) + damaged[place + 1 :]
                case 1:
                    damaged = damaged[:place] + damaged[place + dice.randrange(200) :]
                case 2:
                    damaged = damaged[:place] + dice.choice(tokens) + damaged[place + dice.randrange(8) :]
                case 3:
                    damaged = damaged[: place + dice.randrange(100)] + damaged[place:]
        paths.append(tmp_path / f"{number}.json")
        paths[-1].write_text(damaged)
    deep = tmp_path / "deep.json"
    deep.write_text("[" * 1_000_000)
    command = [str(players("g++ sanitized")), "--load", *map(str, [*paths, deep])]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    said = done.stdout.splitlines()
    assert len(said) == FUZZ + 1
    assert said.count("fine") < FUZZ / 2
    assert said[-1].startswith("not JSON")


def loaded(players, tmp_path, **changes):
    content = {**copy.deepcopy(document(system("small parallel"))), **changes}
    (tmp_path / "m.json").write_text(json.dumps(content))
    done = subprocess.run(
        [str(players()), "--load", str(tmp_path / "m.json")], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_the_loader_says_what_is_wrong(players, tmp_path):
    assert loaded(players, tmp_path) == "fine"
    assert loaded(players, tmp_path, version=7) == "version 7 is not known; this reads version 1"
    assert loaded(players, tmp_path, format="nam").startswith("no model of a KLANN")
    assert loaded(players, tmp_path, sample_rate=0) == "no usable sample_rate"
    assert loaded(players, tmp_path, filters=[]) == "operation 4 is not usable"
    assert loaded(players, tmp_path, operations=[]) == "no list of operations"


def test_the_folder_builds_and_filters_a_file(tmp_path):
    """As the command says it: CMake, the check against the snapshot, a wav file of each kind."""
    needs("cmake")
    model, out = system("small series"), tmp_path / "amp"
    write_cpp(out, document(model))
    for words in (["-S", out, "-B", out / "build"], ["--build", out / "build", "--target", "filter_wav"]):
        done = subprocess.run(["cmake", *map(str, words)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "warning" not in done.stdout + done.stderr
    program = str(out / "build" / "filter_wav")
    done = subprocess.run(
        [program, "--check", "--model", str(out / "model.json")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    x = signals()["noise"].astype(np.float32) / 2
    known = exact(model, torch.from_numpy(x))
    write_audio(tmp_path / "in.wav", x, 44100)
    for options in ([], ["--block", "1000"], ["--model", str(out / "model.json")], ["--double"]):
        words = [program, *options, str(tmp_path / "in.wav"), str(tmp_path / "out.wav")]
        assert "times real time" in subprocess.run(words, capture_output=True, text=True, check=True).stdout
        assert off_db(torch.from_numpy(read_audio(tmp_path / "out.wav")), known) < -100
    words = [program, "--oversampling", "2", str(tmp_path / "in.wav"), str(tmp_path / "out.wav")]
    subprocess.run(words, capture_output=True, check=True)
    late = exact(oversampled(model, 2), torch.from_numpy(np.append(x, np.zeros(64, np.float32))))[64:]
    assert off_db(torch.from_numpy(read_audio(tmp_path / "out.wav")), late) < -100
    (tmp_path / "no.wav").write_text("no sound")
    done = subprocess.run([program, str(tmp_path / "no.wav"), "x.wav"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, f"error: {tmp_path / 'no.wav'} is no wav file\n")


@pytest.mark.parametrize("factor", [1, 2])
def test_a_plugin_plays_the_model(factor, tmp_path):
    """In a host of its own: lv2apply of Debian's lilv-utils, which needs lv2-dev too."""
    needs("cmake", "lv2apply")
    model, out = system("small parallel"), tmp_path / "amp"
    write_cpp(out, document(model))
    settings = ["-S", out, "-B", out / "build", f"-DOVERSAMPLING={factor}"]
    for words in (settings, ["--build", out / "build", "--target", "plugin"]):
        subprocess.run(["cmake", *map(str, words)], capture_output=True, check=True)
    x = signals()["noise"].astype(np.float32) / 10
    write_audio(tmp_path / "in.wav", x, 44100)
    words = ["lv2apply", "-i", str(tmp_path / "in.wav"), "-o", str(tmp_path / "out.wav"), "urn:klann:model"]
    done = subprocess.run(
        words, env={**os.environ, "LV2_PATH": str(out / "build")}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    played = torch.from_numpy(read_audio(tmp_path / "out.wav"))[: len(x)]
    known = exact(oversampled(model, factor), torch.from_numpy(x))
    assert off_db(played, known) < -80  # the host writes 16 or 24 bit


def test_a_baked_model_is_a_constant(tmp_path):
    (tmp_path / "model.hpp").write_text(baked(document(system("large series"))))
    (tmp_path / "main.cpp").write_text(
        '#include "model.hpp"\nstatic_assert(model::MODEL.filter_count == 15);\n'
        "static_assert(model::MODEL.sample_rate == 44100);\nint main() {}\n"
    )
    compiled(tmp_path, "g++", tmp_path / "main.cpp", f"-I{tmp_path}")


@pytest.mark.parametrize("precision", ["float32", "float16", "int16"])
def test_a_baked_model_is_that_of_its_document(precision, tmp_path):
    """Their samples are equal to the bit, whatever the weights are kept as."""
    write_cpp(tmp_path, document(system("large series"), precision=precision))
    program = compiled(tmp_path, "g++", tmp_path / "filter_wav.cpp", f"-I{tmp_path}")
    write_audio(tmp_path / "in.wav", signals()["noise"].astype(np.float32), 44100)
    heard = []
    for options in ([], ["--model", str(tmp_path / "model.json")]):
        words = [str(program), *options, "--double", str(tmp_path / "in.wav"), str(tmp_path / "out.wav")]
        subprocess.run(words, capture_output=True, check=True)
        heard.append(read_audio(tmp_path / "out.wav"))
    np.testing.assert_array_equal(*heard)
