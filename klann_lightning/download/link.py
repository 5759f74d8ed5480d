"""Questions over HTTP, asked again where the network or the server fails only for a while."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import requests
from requests import exceptions as web
from tqdm import tqdm
from urllib3 import exceptions as wire
from urllib3.util import Retry

from klann_lightning import __version__
from klann_lightning.errors import DownloadError
from klann_lightning.manners import hushed

LONGEST_PAUSE = 60.0  # seconds between two tries, where the server does not ask for more
PASSING = (408, 425, 429)  # what a server answers, besides 5xx, that may be otherwise in a while
HOPELESS = (web.MissingSchema, web.InvalidSchema, web.InvalidURL, web.TooManyRedirects)

Result = TypeVar("Result")


class Patience(NamedTuple):
    """How long a server is waited for, and how often it is asked. Times in seconds."""

    tries: int = 5  # in a row that bring nothing new
    pause: float = 1.0  # before the second try; each further one is twice as long
    longest: float = 300.0  # wait that a server may ask for
    silence: float = 30.0  # without a byte


class ServerError(DownloadError):
    """What only the server or the network can mend, or the user by doing without them."""


class PassingError(Exception):
    """What may be otherwise on another try, `after` some seconds."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.after = after


class AbsentError(Exception):
    """The server has nothing at this address."""


class Link:
    """HTTP with patience, one connection to a server for all questions."""

    def __init__(self, patience: Patience) -> None:
        self.patience = patience
        self._session = requests.Session()
        # Zenodo blocks the library's own name at times (github.com/fatiando/pooch/issues/502).
        self._session.headers["User-Agent"] = f"klann_lightning/{__version__}"

    def __enter__(self) -> "Link":
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def json(self, url: str) -> Any:
        """What a server says in JSON. Raises ServerError if it says none, or nothing."""

        def attempt() -> bytes:
            with self.asked(url, {"Accept": "application/json"}) as answer:
                return answer.content

        try:
            return json.loads(self.patiently(url, attempt, lambda: 0))
        except AbsentError:
            raise ServerError(f"{host_of(url)} has nothing at {url}.") from None
        except ValueError as error:
            raise ServerError(f"{url} answers no JSON: {error}.") from error

    @contextmanager
    def asked(self, url: str, headers: dict[str, str]) -> Iterator[requests.Response]:
        """The answer to a GET, its body still to come; status 200, 206, or 416: no such range.

        Raises PassingError, AbsentError, and ServerError for what no other try can change.
        """
        silence = self.patience.silence
        try:
            with self._session.get(url, headers=headers, stream=True, timeout=silence) as answer:
                _judge(answer)
                yield answer
        except HOPELESS as error:
            raise ServerError(f"cannot ask {url}: {str(error).rstrip('.')}.") from error
        except (requests.RequestException, wire.HTTPError) as error:
            raise PassingError(_reason(error, host_of(url), silence)) from error

    def patiently(self, what: str, attempt: Callable[[], Result], have: Callable[[], int]) -> Result:
        """The attempt's result, after however many tries, as long as they get farther.

        `have` counts the bytes that have come. Raises ServerError after `patience.tries` in a row that
        brought none, or where the server asks for a longer wait than `patience.longest`.
        """
        tries, pause, longest, _ = self.patience
        failures, most = 0, have()
        while True:
            try:
                return attempt()
            except PassingError as error:
                failures = failures + 1 if have() <= most else 1
                most = max(most, have())
                kept = " What has come is kept, and the same command goes on from there." if have() else ""
                if failures >= tries:
                    raise ServerError(f"{what}: {error} (tried {failures} times).{kept}") from error
                if error.after > longest:
                    wait = f"asks to wait {error.after:.0f} s: run the same command then"
                    raise ServerError(f"{what}: {error} and {wait}.{kept}") from error
                seconds = max(error.after, min(pause * 2.0 ** (failures - 1), LONGEST_PAUSE))
                say(f"{what}: {error}; again in {seconds:.3g} s")
                time.sleep(seconds)


def say(line: str) -> None:
    """A line on standard error; a progress bar moves out of its way."""
    if not hushed():
        tqdm.write(line, file=sys.stderr)


def host_of(url: str) -> str:
    """
    >>> host_of("https://zenodo.org/api/records/7271558")
    'zenodo.org'
    """
    return urlsplit(url).hostname or url


def _judge(answer: requests.Response) -> None:
    status = answer.status_code
    said = f"{host_of(answer.url)} answers {status} {answer.reason}"
    if status in (200, 206, 416):
        return
    if status in (404, 410):
        raise AbsentError
    if status in PASSING or status >= 500:
        raise PassingError(said, _seconds(answer.headers.get("Retry-After", "")))
    raise ServerError(f"{said} to {answer.url}. Try again later, or from another network.")


def _seconds(retry_after: str) -> float:
    """Of a Retry-After header, which names seconds or a date; 0 for anything else."""
    try:
        return float(Retry().parse_retry_after(retry_after))
    except (wire.InvalidHeader, ValueError, OverflowError):  # the last two: thousands of digits
        return 0.0


def _reason(error: Exception, host: str, silence: float) -> str:
    """Why a request or its answer failed, in a few words."""
    inner = next(iter(error.args), None)  # of requests' errors: urllib3's, which names a connection's reason
    causes = (error, inner, getattr(inner, "reason", None))
    for kinds, said in (
        ((web.ProxyError, wire.ProxyError), "the proxy of this network does not let it through"),
        ((web.SSLError, wire.SSLError), f"the certificate of {host} is not trusted"),
        ((wire.NewConnectionError,), f"{host} cannot be reached; is there a network?"),
        ((web.Timeout, wire.TimeoutError), f"{host} has been silent for {silence:.3g} s"),
        ((web.ConnectionError, web.ChunkedEncodingError, wire.ProtocolError), f"{host} broke off"),
    ):
        if any(isinstance(cause, kinds) for cause in causes):
            return said
    return f"{host}: {error}"
