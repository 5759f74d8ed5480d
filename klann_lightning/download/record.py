"""What a Zenodo record says of itself: title, authors, licence, files. Any InvenioRDM server says the same.

Two forms of JSON are in use. Zenodo's own: `files` is a list of {key, size, checksum, links: {self}}, and
the metadata names `creators: [{name}]`, `license: {id}`, `doi`. That of InvenioRDM: `files: {entries: {KEY:
...}}` with `links: {content}`, or no entries, and then `<record>/files` lists them; the metadata names
`creators: [{person_or_org: {name}}]`, `rights: [{id}]`; `pids: {doi: {identifier}}` stands beside it.
"""

from typing import Any, NamedTuple
from urllib.parse import quote, urljoin

from klann_lightning.download.fetch import Remote
from klann_lightning.download.link import Link, ServerError, host_of


class Record(NamedTuple):
    """A published data set."""

    page: str  # in a browser
    citation: str  # four lines: the title, how to cite it, its licence and its page
    files: tuple[Remote, ...]


def page_of(api: str) -> str:
    """
    >>> page_of("https://zenodo.org/api/records/7271558")
    'https://zenodo.org/records/7271558'
    """
    return api.replace("/api/", "/", 1)


def read_record(link: Link, api: str) -> Record:
    """The record at `api`. Raises ServerError if there is none, or none that lists files."""
    data = link.json(api)
    entries = _entries(_at(data, "files")) or _entries(link.json(f"{api}/files"))
    files = tuple(remote for entry in entries if (remote := _remote(entry, api)))
    if not files:
        raise ServerError(f"{page_of(api)} lists no files that everyone may fetch.")
    return Record(page_of(api), _citation(data, page_of(api)), files)


def _citation(data: Any, page: str) -> str:
    metadata = _at(data, "metadata")
    creators, rights = _each(_at(metadata, "creators")), _each(_at(metadata, "rights"))
    names = [_text(who, "name") or _text(who, "person_or_org", "name") for who in creators]
    licences = [_text(part, "id") or _text(part, "title", "en") for part in rights]
    title = _text(metadata, "title") or _text(data, "title") or "Untitled"
    date = _text(metadata, "publication_date")  # 2022-11-02
    doi = _text(data, "doi") or _text(metadata, "doi") or _text(data, "pids", "doi", "identifier")
    licence = _text(metadata, "license", "id") or ", ".join(filter(None, licences))
    who = "; ".join(filter(None, names)) or "Unknown authors"
    year = f" ({date[:4]})" if date else ""
    where = f"https://doi.org/{doi}" if doi else page
    return (
        f"{title}\n"
        f"Cite: {who}{year}. {title} [Data set]. {host_of(page)}. {where}\n"
        f"Licence: {licence or 'none named; ask the authors'}\n"
        f"Source: {page}\n"
    )


def _entries(files: Any) -> list[Any]:
    """Of a record's `files`, in either form, or of what its list of files answers."""
    if isinstance(files, dict):
        files = files.get("entries")
    return list(files.values()) if isinstance(files, dict) else _each(files)


def _remote(entry: Any, api: str) -> Remote | None:
    name, size = _text(entry, "key"), _at(entry, "size")
    if not name or not isinstance(size, int) or size < 0:
        return None
    # Beside `content`, `self` is the file's description, not the file; and Zenodo has named dead addresses.
    given = _text(entry, "links", "content") or _text(entry, "links", "self")
    by_rule = f"{api}/files/{quote(name)}/content"
    urls = tuple(dict.fromkeys([urljoin(api, given or by_rule), by_rule]))
    return Remote(name, urls, size, _text(entry, "checksum"))


def _at(data: Any, *keys: str) -> Any:
    for key in keys:
        data = data.get(key) if isinstance(data, dict) else None
    return data


def _each(data: Any) -> list[Any]:
    return data if isinstance(data, list) else []


def _text(data: Any, *keys: str) -> str:
    """A line of text that a terminal can be given."""
    found = _at(data, *keys)
    return "".join(filter(str.isprintable, " ".join(found.split()))) if isinstance(found, str) else ""
