"""Where a study lives: a URL opened as one of Optuna's storages, and patience while it is away."""

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, GrpcStorageProxy, JournalStorage, RDBStorage, get_storage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from klann_lightning.errors import ConfigError, KlannError
from klann_lightning.manners import tell

FORMS = (
    "sqlite:///FILE, journal://FILE, postgresql://USER:PASSWORD@HOST/DATABASE, "
    "mysql://USER:PASSWORD@HOST/DATABASE, grpc://HOST:PORT"
)
DRIVERS = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql"}  # those that we name in the extras
# That a storage has to answer: SQLite while others write, a server before it counts as away.
TIMEOUTS: dict[str, dict[str, int]] = {
    "sqlite": {"timeout": 60},
    "postgresql+psycopg": {
        **{"connect_timeout": 10, "tcp_user_timeout": 60_000},
        **{"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3},
    },
    "mysql+pymysql": {"connect_timeout": 10, "read_timeout": 60, "write_timeout": 60},
}
OPENING_SECONDS = 10.0  # a server that is not there for so long at the start is an error
OUTAGE_SECONDS = 600.0  # that it may be away later

Result = TypeVar("Result")


class StorageGoneError(KlannError):
    """The storage has been away for too long."""


def open_storage(url: str) -> BaseStorage:
    """The storage of a URL; its tables or its file are made where they are missing."""
    kind, separator, rest = url.partition("://")
    if not separator or not rest.strip("/"):
        raise ConfigError(f"--storage {url}: not a storage. There are {FORMS}.")
    try:
        if kind == "journal":
            Path(rest).parent.mkdir(parents=True, exist_ok=True)
            return JournalStorage(JournalFileBackend(rest))
        if kind == "grpc":
            return _open_proxy(rest)
        if kind == "sqlite":
            Path(rest.removeprefix("/")).parent.mkdir(parents=True, exist_ok=True)
        return _open_tables(DRIVERS.get(kind, kind) + separator + rest)
    except ImportError as error:
        missing = str(error.name or getattr(error.__context__, "name", None))
        extra = {"psycopg": "postgres", "pymysql": "mysql", "grpc": "grpc"}.get(missing)
        cure = f"pip install 'klann_lightning[{extra}]'" if extra else f"install {missing}"
        raise ConfigError(f"--storage {redacted(url)} needs {missing}: {cure}.") from error
    except (ArgumentError, NoSuchModuleError) as error:
        raise ConfigError(f"--storage {redacted(url)}: {error}. There are {FORMS}.") from error
    except (SQLAlchemyError, StorageInternalError, OSError) as error:
        reason = " ".join(str(error.__cause__ or error).split("\n")[0].split())
        raise ConfigError(f"--storage {redacted(url)} cannot be opened: {reason}") from error


def redacted(url: str) -> str:
    """The URL without its password."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return url


def patiently(action: Callable[[], Result], rest: Callable[[float], None]) -> Result:
    """What the storage answers, however long it is away, within reason; `rest` waits some seconds."""
    since: float | None = None
    while True:
        try:
            return action()
        except Exception as error:
            if not is_outage(error):
                raise
            if since is None:
                since = time.monotonic()
                reason = str(error.__cause__ or error).partition("\n")[0]
                tell(f"the storage does not answer; waiting for it ({reason})")
            if time.monotonic() - since > OUTAGE_SECONDS:
                raise StorageGoneError(f"the storage is away for {OUTAGE_SECONDS:g} s: {error}") from error
        rest(1.0)


def is_outage(error: BaseException) -> bool:
    """Whether the storage itself has failed, as a server does that is being restarted."""
    names = {f"{kind.__module__}.{kind.__name__}" for kind in type(error).__mro__}
    return isinstance(error, StorageInternalError | SQLAlchemyError | OSError) or "grpc.RpcError" in names


def _open_tables(url: str) -> BaseStorage:
    # pre_ping: a connection that a restart has cut is replaced.
    options = {"pool_pre_ping": True, "connect_args": TIMEOUTS.get(url.partition(":")[0], {})}
    # Two that make the tables at once get in each other's way, and the second one's next try finds them.
    storage = _again(lambda: RDBStorage(url, engine_kwargs=options))
    if url.startswith("sqlite"):
        _lock_from_the_start(storage.engine)
    return get_storage(storage)  # cached: what has ended is read once


def _lock_from_the_start(engine: Engine) -> None:
    """SQLite's driver opens a transaction at the first write only, and SQLite knows no SELECT FOR UPDATE: of
    two workers that read WAITING at the same time, both would claim the trial. (SQLAlchemy, pysqlite dialect,
    "Serializable isolation".)
    """

    @event.listens_for(engine, "connect")
    def leave_transactions_to_us(connection: Any, _: Any) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def lock(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    engine.dispose()  # the connections that were opened before


def _open_proxy(place: str) -> GrpcStorageProxy:
    host, _, port = place.partition(":")
    if not port.isdigit():
        raise ConfigError(f"--storage grpc://{place}: give host and port, as in grpc://localhost:13000")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        proxy = GrpcStorageProxy(host=host, port=int(port))
    try:
        proxy.wait_server_ready(timeout=OPENING_SECONDS)
    except Exception as error:  # grpc's own kind
        raise ConfigError(f"--storage grpc://{place} does not answer") from error
    return proxy


def _again(action: Callable[[], Result]) -> Result:
    end = time.monotonic() + OPENING_SECONDS
    while True:
        try:
            return action()
        except (SQLAlchemyError, StorageInternalError) as error:
            if isinstance(error, ArgumentError | NoSuchModuleError) or time.monotonic() > end:
                raise
            time.sleep(0.5)
