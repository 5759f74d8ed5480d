"""Transfers that go wrong in every way that a server and a network have."""

import hashlib
import re
import sys
import time
import zipfile
from types import SimpleNamespace

import pytest
from record_server import (
    ARCHIVE,
    BLOCK,
    BOTH,
    NUMBER,
    QUICK,
    SIZE,
    RecordServer,
    breaks,
    get,
    hangs,
    http_date,
    kept,
    no_ranges,
    recordings,
    refused,
    sends,
    slow,
    status,
    tag_of,
    zipped,
)

from klann_lightning.download import fetch, link
from klann_lightning.download.command import download
from klann_lightning.download.link import Patience
from klann_lightning.errors import DownloadError

pytestmark = pytest.mark.usefixtures("no_proxy")


@pytest.fixture
def asleep(monkeypatch):
    """The pauses that were made, in seconds; none takes any time."""
    pauses: list[float] = []
    monkeypatch.setattr(link, "time", SimpleNamespace(sleep=pauses.append))
    return pauses


def test_a_broken_transfer_goes_on(server, tmp_path, capsys):
    server.plan[server.path("data.zip")] = [breaks(3 * BLOCK + 5)]
    get(server, tmp_path)
    assert server.ranges("data.zip") == ["", f"bytes={3 * BLOCK}-"]
    headers = server.asked[-1][1]
    assert headers["If-Range"] == tag_of(ARCHIVE)
    assert headers["Accept-Encoding"] == "identity"
    assert recordings(tmp_path) == BOTH
    err = capsys.readouterr().err
    assert "data.zip: 127.0.0.1 broke off; again in 0.001 s\n" in err
    assert f"data.zip: goes on after 196.6 kB of {SIZE}\n" in err
    assert f"data.zip: {SIZE} fetched\n" in err


def test_as_often_as_it_gets_farther(server, tmp_path, asleep):
    server.plan[server.path("data.zip")] = [breaks(2 * BLOCK)] * 7
    get(server, tmp_path)
    assert server.ranges("data.zip") == ["", *(f"bytes={2 * part * BLOCK}-" for part in range(1, 8))]
    assert asleep == [0.001] * 7
    assert recordings(tmp_path) == BOTH


def test_until_it_gets_no_farther_and_then_on_in_another_call(server, tmp_path, asleep):
    server.plan[server.path("data.zip")] = [breaks(2 * BLOCK), breaks(BLOCK), *[breaks(9)] * 3]
    words = (
        r"^data\.zip: 127\.0\.0\.1 broke off \(tried 4 times\)\. What has come is kept, and the same command "
        rf"goes on from there\. To do without: open http://127.*/records/7271558 in a browser, and lay the "
        rf"recordings into {tmp_path}/train, val and test as DEVICE-input\.wav and DEVICE-target\.wav\.$"
    )
    refused(server, tmp_path, words)
    assert asleep == [0.001, 0.001, 0.002, 0.004]
    assert kept(tmp_path) == ["kept-data.zip.part", "kept-data.zip.part.tag"]
    assert (tmp_path / ".download" / "kept-data.zip.part").read_bytes() == ARCHIVE[: 3 * BLOCK]
    get(server, tmp_path)
    assert server.ranges("data.zip")[-1] == f"bytes={3 * BLOCK}-"
    assert recordings(tmp_path) == BOTH


def test_a_server_without_ranges_begins_anew(server, tmp_path):
    server.plan[server.path("data.zip")] = [breaks(3 * BLOCK), no_ranges()]
    get(server, tmp_path)
    assert server.ranges("data.zip") == ["", f"bytes={3 * BLOCK}-"]
    assert recordings(tmp_path) == BOTH


def test_a_server_without_ranges_that_always_breaks_is_given_up(server, tmp_path, asleep):
    server.plan[server.path("data.zip")] = [no_ranges(2 * BLOCK) for _ in range(9)]
    refused(server, tmp_path, r"broke off \(tried 4 times\)")
    assert server.ranges("data.zip") == ["", *[f"bytes={2 * BLOCK}-"] * 3]
    (tmp_path / ".download" / "kept-data.zip.part").unlink()
    server.asked.clear()
    server.plan[server.path("data.zip")] = [no_ranges(blocks * BLOCK) for blocks in (3, 1, 2, 3, 1, 2, 3)]
    refused(server, tmp_path, r"broke off \(tried 4 times\)")
    assert server.ranges("data.zip") == ["", *[f"bytes={blocks * BLOCK}-" for blocks in (3, 1, 2)]]


def test_another_version_of_the_file_begins_anew(server, tmp_path):
    """The tag of the first has come with its part; the record tells of the second."""
    newer = zipped(BOTH, zipfile.ZIP_STORED)
    server.plan[server.path("data.zip")] = [breaks(3 * BLOCK), *[status(503)] * 4]
    refused(server, tmp_path, "503")
    server.files["data.zip"] = newer
    get(server, tmp_path)
    assert server.asked[-1][1]["If-Range"] == tag_of(ARCHIVE)
    assert len(server.ranges("data.zip")) == 6
    assert recordings(tmp_path) == BOTH


@pytest.mark.parametrize(
    "said",
    [
        f"bytes {BLOCK}-{len(ARCHIVE) - 1}/{len(ARCHIVE)}",
        f"bytes {2 * BLOCK}-99/{2 * BLOCK}",
        "bytes 5",
        None,
    ],
)
def test_a_part_that_was_not_asked_for(server, tmp_path, said, capsys):
    headers = {"Content_Range": said} if said else {}
    odd = sends(ARCHIVE[BLOCK:], len(ARCHIVE) - BLOCK, 206, **headers)
    server.plan[server.path("data.zip")] = [breaks(2 * BLOCK), odd]
    get(server, tmp_path)
    assert server.ranges("data.zip") == ["", f"bytes={2 * BLOCK}-", ""]
    assert recordings(tmp_path) == BOTH
    expected = (
        f"came wrong: asked for bytes 131072 to {len(ARCHIVE)}, 127.0.0.1 sends '{said or 'others'}'; once"
    )
    assert expected in capsys.readouterr().err


def test_a_part_longer_than_the_servers_file(server, tmp_path, capsys):
    server.plan[server.path("data.zip")] = [breaks(2 * BLOCK), status(416)]
    get(server, tmp_path)
    assert server.ranges("data.zip") == ["", f"bytes={2 * BLOCK}-", ""]
    assert recordings(tmp_path) == BOTH
    assert (
        "127.0.0.1 has less of it than the 131072 bytes that came before; once more"
        in capsys.readouterr().err
    )


def test_a_part_longer_than_the_records_file(server, tmp_path):
    (tmp_path / ".download").mkdir()
    (tmp_path / ".download" / "kept-data.zip.part").write_bytes(ARCHIVE + b"x")
    get(server, tmp_path)
    assert server.ranges("data.zip") == [""]


def test_a_whole_part_is_only_checked(server, tmp_path):
    """The process was killed between the last byte and the checksum."""
    (tmp_path / ".download").mkdir()
    (tmp_path / ".download" / "kept-data.zip.part").write_bytes(ARCHIVE)
    get(server, tmp_path)
    assert server.ranges("data.zip") == []
    assert recordings(tmp_path) == BOTH


WRONG = {
    "bytes": (
        sends(b"x" * len(ARCHIVE), len(ARCHIVE)),
        r"its md5 checksum is [0-9a-f]{32}, not [0-9a-f]{32}",
    ),
    "too few": (sends(b"<html>", 6), rf"127\.0\.0\.1 sends 6 bytes, not {len(ARCHIVE)}"),
    "too many": (sends(ARCHIVE + b"x"), rf"127\.0\.0\.1 sends more than its {len(ARCHIVE)} bytes"),
}


@pytest.mark.parametrize(("act", "words"), WRONG.values(), ids=WRONG)
def test_what_comes_wrong_once_is_fetched_again(server, tmp_path, capsys, act, words):
    server.plan[server.path("data.zip")] = [act]
    get(server, tmp_path)
    assert server.ranges("data.zip") == ["", ""]
    assert recordings(tmp_path) == BOTH
    assert re.search(f"data.zip came wrong: {words}; once more from the start\n", capsys.readouterr().err)


@pytest.mark.parametrize(("act", "words"), WRONG.values(), ids=WRONG)
def test_what_comes_wrong_twice_is_an_error(server, tmp_path, act, words):
    server.plan[server.path("data.zip")] = [act] * 2
    refused(
        server,
        tmp_path,
        rf"^data\.zip came wrong from 127\.0\.0\.1, twice: {words}\. What came is thrown away\. Try",
    )
    assert server.ranges("data.zip") == ["", ""]
    assert kept(tmp_path) == []
    assert recordings(tmp_path) == {}


def test_an_end_without_a_length_is_a_break(server, tmp_path):
    server.plan[server.path("data.zip")] = [sends(ARCHIVE[:BLOCK], ETag=tag_of(ARCHIVE))]
    get(server, tmp_path)
    assert server.ranges("data.zip") == ["", f"bytes={BLOCK}-"]


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_redirects_are_followed_to_another_host_with_the_range(server, tmp_path, code):
    with RecordServer({"elsewhere": ARCHIVE}) as other:
        there = f"http://localhost:{other.server_port}{other.path('elsewhere')}"
        server.plan[server.path("data.zip")] = [status(code, Location=there)] * 2
        other.plan[other.path("elsewhere")] = [breaks(BLOCK)]
        get(server, tmp_path)
        assert other.ranges("elsewhere") == ["", f"bytes={BLOCK}-"]
    assert recordings(tmp_path) == BOTH


def test_redirects_that_lead_nowhere(server, tmp_path):
    path = server.path("data.zip")
    server.plan[path] = [status(302, Location=path)] * 99
    refused(
        server, tmp_path, r"^cannot ask http://127.*data\.zip/content: Exceeded 30 redirects\. To do without"
    )
    server.plan[path] = [status(302, Location="file:///etc/passwd")]
    refused(server, tmp_path, r"^cannot ask http://127.*No connection adapters were found for 'file:")


def test_no_record(server, tmp_path):
    server.plan[f"/api/records/{NUMBER}"] = [status(404)]
    refused(server, tmp_path, r"^127\.0\.0\.1 has nothing at http://127.*7271558\. To do without: open ")
    server.plan[f"/api/records/{NUMBER}"] = [status(410)]
    refused(server, tmp_path, "has nothing at")
    assert len(server.asked) == 2


def test_no_file(server, tmp_path):
    server.plan[server.path("data.zip")] = [status(404)] * 9
    refused(
        server, tmp_path, r"^127\.0\.0\.1 has no file data\.zip, though its list names it\. To do without"
    )
    assert len(server.ranges("data.zip")) == 1


@pytest.mark.parametrize("code", [401, 403])
def test_a_server_that_will_not(server, tmp_path, code):
    server.plan[server.path("data.zip")] = [status(code)] * 9
    refused(
        server,
        tmp_path,
        rf"^127\.0\.0\.1 answers {code} \w+ to http://127.*/content\. Try again later, or from ",
    )
    server.plan[f"/api/records/{NUMBER}"] = [status(418)]
    refused(
        server,
        tmp_path,
        r"^127\.0\.0\.1 answers 418 I'm a Teapot to http://127.*7271558\. Try again .*\. To do",
    )
    assert len(server.asked) == 3


@pytest.mark.parametrize("code", [429, 503])
@pytest.mark.parametrize("where", ["record", "file"])
def test_a_server_that_asks_for_time_gets_it(server, tmp_path, asleep, code, where):
    path = server.path("data.zip") if where == "file" else f"/api/records/{NUMBER}"
    server.plan[path] = [status(code, Retry_After="7"), status(code, Retry_After=http_date(9)), status(code)]
    get(server, tmp_path)
    assert asleep[0] == 7
    assert 7 < asleep[1] <= 9
    assert asleep[2:] == [0.004]
    assert recordings(tmp_path) == BOTH


def test_a_server_that_asks_for_too_much_time(server, tmp_path, asleep):
    server.plan[server.path("data.zip")] = [status(429, Retry_After="3600")]
    refused(
        server,
        tmp_path,
        r"^data\.zip: 127\.0\.0\.1 answers 429 Too Many Requests and asks to wait 3600 s: run the same "
        r"command then\. To do without",
    )
    assert asleep == []


def test_a_server_that_keeps_failing(server, tmp_path, asleep, capsys):
    server.plan[server.path("data.zip")] = [status(500, Retry_After="soon")] * 9
    refused(
        server, tmp_path, r"^data\.zip: 127\.0\.0\.1 answers 500 Internal Server Error \(tried 4 times\)\. To"
    )
    assert asleep == [0.001, 0.002, 0.004]
    assert len(server.ranges("data.zip")) == 4


def test_a_time_without_end_is_none(server, tmp_path, asleep):
    server.plan[server.path("data.zip")] = [status(429, Retry_After="9" * 5000)]
    get(server, tmp_path)
    assert asleep == [0.001]


def test_pauses_grow_to_a_minute(server, tmp_path, asleep):
    server.plan[f"/api/records/{NUMBER}"] = [status(500)] * 9
    refused(server, tmp_path, "tried 9 times", patience=Patience(tries=9))
    assert asleep == [1, 2, 4, 8, 16, 32, 60, 60]


def test_a_silent_server_is_not_waited_for(server, tmp_path):
    patience = Patience(tries=2, pause=0.001, silence=1)
    server.plan[server.path("data.zip")] = [hangs, breaks(BLOCK), hangs]
    words = r"^data\.zip: 127\.0\.0\.1 has been silent for 1 s \(tried 2 times\)\. What has come is kept"
    since = time.monotonic()
    refused(server, tmp_path, words, patience=patience)
    assert time.monotonic() - since < 8
    assert server.ranges("data.zip") == ["", "", f"bytes={BLOCK}-"]


def test_a_server_that_falls_silent_half_way(server, tmp_path):
    def act(handler, body):
        handler.head(200, len(body), ETag=tag_of(body))
        handler.wfile.write(body[:BLOCK])
        hangs(handler, body)

    server.plan[server.path("data.zip")] = [act]
    get(server, tmp_path, patience=Patience(tries=2, pause=0.001, silence=1))
    assert server.ranges("data.zip") == ["", f"bytes={BLOCK}-"]
    assert recordings(tmp_path) == BOTH


def test_no_network(server, tmp_path):
    with pytest.raises(
        DownloadError,
        match=r"^http://127\.0\.0\.1:1/api/records/5: 127\.0\.0\.1 cannot be reached; is there a network\? "
        r"\(tried 4 times\)\. To do without: open http://127\.0\.0\.1:1/records/5 in a browser",
    ):
        download([], tmp_path, "http://127.0.0.1:1/api/records/5", QUICK)
    with pytest.raises(DownloadError, match=r"no\.invalid cannot be reached; is there a network\? \(tried 1"):
        download([], tmp_path, "http://no.invalid/api/records/5", Patience(tries=1))


def test_a_server_that_speaks_no_tls(server, tmp_path):
    with pytest.raises(DownloadError, match=r"the certificate of 127\.0\.0\.1 is not trusted"):
        download([], tmp_path, server.api.replace("http:", "https:"), Patience(tries=1))


def test_a_proxy_that_is_not_there(server, tmp_path, monkeypatch):
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with pytest.raises(DownloadError, match=r"the proxy of this network does not let it through"):
        download([], tmp_path, "http://no.invalid/api/records/5", Patience(tries=1))


@pytest.mark.parametrize("kind", ["md5", "sha256", "SHA512", "none"])
def test_checksums(server, tmp_path, kind):
    total = "" if kind == "none" else f"{kind}:{hashlib.new(kind, ARCHIVE).hexdigest().upper()}"

    def change(record):
        record["files"][0]["checksum"] = total
        return record

    server.change = change
    get(server, tmp_path)
    assert recordings(tmp_path) == BOTH


@pytest.mark.parametrize("kind", ["xyz", "shake_128"])
def test_an_unknown_checksum_shows_before_the_transfer(server, tmp_path, kind):
    def change(record):
        record["files"][0]["checksum"] = f"{kind}:00"
        return record

    server.change = change
    refused(server, tmp_path, f"data.zip has a checksum of the kind '{kind}', which is none of md5, ")
    assert server.ranges("data.zip") == []


def test_progress_without_a_terminal_is_a_line_now_and_then(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fetch, "EVERY", 0.0)
    get(server, tmp_path)
    lines = [line for line in capsys.readouterr().err.splitlines() if f" of {SIZE}" in line]
    assert lines[0] == f"data.zip: 65.5 kB of {SIZE}"
    assert lines[-1] == f"data.zip: {SIZE} of {SIZE}"
    assert len(lines) == len(ARCHIVE) // BLOCK + 1


def test_progress_on_a_terminal_is_a_bar(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(fetch, "EVERY", 0.0)
    server.plan[server.path("data.zip")] = [slow(0.02)]
    get(server, tmp_path)
    err = capsys.readouterr().err
    assert re.search(r"\rdata\.zip: +\d+%\|.*\| \d+k/96\dk \[", err)
    assert "kB of" not in err
