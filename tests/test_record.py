"""What a record may hold, and in which form it may say so."""

import json
import os
import zipfile

import pytest
from record_server import (
    BOTH,
    FUZZ,
    LA2A,
    NUMBER,
    RecordServer,
    get,
    kept,
    recordings,
    refused,
    sends,
    tarred,
    wav,
    zipped,
)

pytestmark = pytest.mark.usefixtures("no_proxy")


MACS = {
    "__MACOSX/train/._la2a-input.wav": b"x",
    "train/._la2a-target.wav": b"x",
    "train/.DS_Store": b"x",
    "__MACOSX/val/x-input.wav": b"x",
}
LAID = {
    "a zip": {"d.zip": zipped(BOTH)},
    "stored, deep in folders": {
        "d.ZIP": zipped({f"a b/c/{k}": v for k, v in BOTH.items()}, zipfile.ZIP_STORED)
    },
    "a zip of a Mac": {"d.zip": zipped(BOTH | MACS)},
    "a zip of a Windows": {"d.zip": zipped({k.replace("/", "\\"): v for k, v in BOTH.items()})},
    "a tar": {"d.tar": tarred({f"./{k}": v for k, v in BOTH.items()})},
    "a tar.gz": {"d.tar.gz": tarred(BOTH, "w:gz")},
    "a tgz": {"d.tgz": tarred(BOTH, "w:gz")},
    "a tar.bz2": {"d.tar.bz2": tarred(BOTH, "w:bz2")},
    "a tar.xz": {"d.tar.xz": tarred(BOTH, "w:xz")},
    "a zip a device": {"x.zip": zipped(LA2A), "y.zip": zipped(FUZZ), "README.md": b"# read"},
    "a zip a split": {
        f"{split}.zip": zipped({k[len(split) + 1 :]: v for k, v in BOTH.items() if k.startswith(split)})
        for split in ("train", "val", "test")
    },
    "recordings": dict(BOTH),
    "an archive and recordings": {"x.tar": tarred(LA2A), **FUZZ},
    "large and small letters": {"d.zip": zipped({k.replace("train", "Train"): v for k, v in BOTH.items()})},
    "hash and blank in a name": {"fuzz #1 & 50%.zip": zipped(BOTH)},
}


@pytest.mark.parametrize("files", LAID.values(), ids=LAID)
def test_every_way_to_lay_them(tmp_path, files):
    with RecordServer(files) as server:
        get(server, tmp_path)
    assert recordings(tmp_path) == BOTH
    assert kept(tmp_path) in (["contents.json"], [])


def test_single_recordings_are_fetched_only_if_wanted(tmp_path):
    with RecordServer(dict(BOTH)) as server:
        get(server, tmp_path, "la2a")
        assert recordings(tmp_path) == LA2A
        assert {path for path, _ in server.asked[1:]} == {server.path(name) for name in LA2A}
        get(server, tmp_path, "la2a")
    assert len(server.asked) == 8
    assert kept(tmp_path) == []


def test_archives_that_are_named_after_devices_are_fetched_only_if_wanted(tmp_path):
    with RecordServer({"la2a.zip": zipped(LA2A), "fuzz-A1.tar": tarred(FUZZ)}) as server:
        get(server, tmp_path, "la2a")
        assert recordings(tmp_path) == LA2A
        assert server.ranges("fuzz-A1.tar") == []
        get(server, tmp_path, "fuzz", "la2a")
        assert recordings(tmp_path) == BOTH
        assert server.ranges("la2a.zip") == [""]
    assert kept(tmp_path) == ["contents.json"]


def test_a_device_is_named_by_its_beginning_as_for_a_fit(tmp_path):
    takes = {f"train/la2a-take{take}-{side}.wav": wav() for take in "12" for side in ("input", "target")}
    with RecordServer({"d.zip": zipped(takes | FUZZ)}) as server:
        get(server, tmp_path, "la2a")
    assert recordings(tmp_path) == takes


def test_an_archives_name_leads_nowhere(tmp_path):
    with RecordServer({"../../../out.zip": zipped(BOTH)}) as server:
        get(server, tmp_path / "root", "la2a")
    assert kept(tmp_path / "root") == ["contents.json", "kept-.._.._.._out.zip"]
    assert os.listdir(tmp_path) == ["root"]


def test_strange_names_are_no_devices(tmp_path):
    strange = {f"train/{name}-input.wav": wav() for name in ("\x1b[2J", "-rf", ".hidden", "a:b", "a?")}
    with RecordServer({"d.zip": zipped(LA2A | strange)}) as server:
        get(server, tmp_path)
    assert recordings(tmp_path) == LA2A


def test_of_two_archives_that_differ_the_first_counts(tmp_path):
    later = zipped(LA2A | {"val/la2a-input.wav": wav()})
    with RecordServer({"v1.zip": zipped(LA2A), "v2.zip": later}) as server:
        get(server, tmp_path)
    assert recordings(tmp_path) == LA2A


def rdm(record):
    """As InvenioRDM answers, whose `self` is a description of the file."""
    files = {
        file["key"]: {
            **file,
            "links": {
                "self": file["links"]["self"].removesuffix("/content"),
                "content": file["links"]["self"],
            },
        }
        for file in record["files"]
    }
    metadata = {
        "title": "Fuzz and compressors",
        "publication_date": "2022-11-02",
        "creators": [
            {"person_or_org": {"type": "personal", "name": "Comunità, Marco"}},
            {"person_or_org": {"type": "personal", "name": "Reiss, Joshua D."}},
        ],
        "rights": [{"id": "cc-by-4.0", "title": {"en": "Creative Commons Attribution 4.0"}}],
    }
    return {
        "id": str(NUMBER),
        "pids": {"doi": {"identifier": f"10.5281/zenodo.{NUMBER}", "provider": "datacite"}},
        "metadata": metadata,
        "files": {"enabled": True, "count": len(files), "entries": files},
    }


def dead_links(record):
    """As for some weeks in 2023: an identifier in place of the name."""
    for file in record["files"]:
        file["links"] = {"self": file["links"]["self"].replace("data.zip/content", "39922d36-4a0f")}
    return record


@pytest.mark.parametrize("form", [rdm, dead_links])
def test_forms_of_a_record(server, tmp_path, form):
    get(server, tmp_path / "plain")
    server.change = form
    get(server, tmp_path / "other")
    assert recordings(tmp_path / "other") == BOTH
    name = f"zenodo-{NUMBER}.CITATION.txt"
    assert (tmp_path / "other" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()


def test_a_list_of_files_apart_from_the_record(server, tmp_path):
    whole = rdm(server.record())
    listed = {"enabled": True, "entries": list(whole["files"].pop("entries").values())}
    server.change = lambda _: whole
    data = json.dumps(listed).encode()
    server.plan[f"/api/records/{NUMBER}/files"] = [sends(data, len(data))]
    get(server, tmp_path)
    assert recordings(tmp_path) == BOTH


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (b"<html>sorry</html>", r"records/7271558 answers no JSON: Expecting value.*To do without: open "),
        (b"\xff\xfe", r"answers no JSON: "),
        (b"[1, 2]", r"records/7271558 has nothing at .*|lists no files that everyone may fetch"),
        (
            b'{"files": [3, {"key": "a.zip"}, {"key": 5, "size": 3}]}',
            "lists no files that everyone may fetch",
        ),
        (
            b'{"files": [{"key": "a.rar", "size": 9, "checksum": 3}, {"key": "b.wav", "size": 9}]}',
            r"has neither zip or tar archives nor recordings in folders, but only: a\.rar, b\.wav\. To do",
        ),
    ],
)
def test_records_of_no_use(server, tmp_path, record, words):
    server.plan[f"/api/records/{NUMBER}"] = [sends(record, len(record))]
    server.plan[f"/api/records/{NUMBER}/files"] = [sends(b"{}", 2)]
    refused(server, tmp_path, words)


def test_a_record_that_names_nobody(server, tmp_path):
    server.change = lambda record: {"files": record["files"]}
    get(server, tmp_path)
    page = server.api.replace("/api", "")
    assert (tmp_path / f"zenodo-{NUMBER}.CITATION.txt").read_text() == (
        f"Untitled\nCite: Unknown authors. Untitled [Data set]. 127.0.0.1. {page}\n"
        f"Licence: none named; ask the authors\nSource: {page}\n"
    )


def test_an_archive_without_recordings(tmp_path):
    with RecordServer({"d.zip": zipped({"la2a-input.wav": wav()})}) as server:
        refused(server, tmp_path, r"no archive of .* has a file \.\.\./{train,val,test}/DEVICE-")
