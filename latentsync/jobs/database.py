"""The jobs database: tables, and opening it as an SQLite file or in Postgres."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

from latentsync.errors import DiskFull, RecordUnavailable
from latentsync.public_errors import to_database_error

_SQLITE = "sqlite"
_OLDEST_SQLITE = (3, 37)
_SQLITE_WITH_MILLISECONDS = (3, 42)  # the first whose unixepoch('subsec') returns them
_BUSY_MS = 10_000  # how long a writer waits for another
# For libpq: detect a server that drops packets within seconds instead of a quarter of an hour.
_POSTGRES_TIMEOUTS = {
    "connect_timeout": "5",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "2",
    "tcp_user_timeout": "10000",  # ms
}
_INTAKE_LOCK = 0x6C617473796E63  # "latsync"; an arbitrary key for the advisory lock
_TRIES, _TRY_AGAIN_S = 10, 0.2

tables = sa.MetaData()
_Number = sa.BigInteger().with_variant(sa.Integer(), _SQLITE)  # SQLite autoincrements only INTEGER

jobs = sa.Table(
    "latentsync_jobs",
    tables,
    sa.Column("number", _Number, primary_key=True, autoincrement=True),
    sa.Column("id", sa.String(80), nullable=False, unique=True),
    sa.Column("owner", sa.String(64), nullable=False),
    sa.Column("idempotency_key", sa.String(255)),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("status", sa.String(12), nullable=False),
    sa.Column("request", sa.JSON, nullable=False),
    sa.Column("webhook", sa.JSON(none_as_null=True)),
    sa.Column("input_bytes", sa.BigInteger, nullable=False, default=0),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("started_at", sa.Double),
    sa.Column("finished_at", sa.Double),
    sa.Column("stage", sa.String(40), nullable=False, default=""),
    sa.Column("fraction", sa.Double, nullable=False, default=0.0),
    sa.Column("frames_done", sa.Integer, nullable=False, default=0),
    sa.Column("frames_total", sa.Integer, nullable=False, default=0),
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    sa.Column("host", sa.String(120)),
    sa.Column("cancel_requested", sa.Boolean, nullable=False, default=False),
    sa.Column("error", sa.JSON(none_as_null=True)),
    sa.Column("result_key", sa.String(255)),
    sa.Column("result_bytes", sa.BigInteger),
    sa.Column("details", sa.JSON(none_as_null=True)),
    sa.UniqueConstraint("owner", "idempotency_key"),
    sa.Index("latentsync_jobs_by_status", "status", "number"),
    sa.Index("latentsync_jobs_by_owner", "owner", "number"),
    sa.Index("latentsync_jobs_by_load", "owner", "status", "input_bytes"),
    sqlite_autoincrement=True,  # numbers are never reused, even after a delete
)

events = sa.Table(
    "latentsync_job_events",
    tables,
    sa.Column("number", _Number, primary_key=True, autoincrement=True),
    sa.Column("job_id", sa.String(80), nullable=False),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("kind", sa.String(12), nullable=False),
    sa.Column("data", sa.JSON, nullable=False),
    sa.Index("latentsync_job_events_by_job", "job_id", "number"),
    sqlite_autoincrement=True,
)

erasures = sa.Table(
    "latentsync_erasures",
    tables,
    sa.Column("number", _Number, primary_key=True, autoincrement=False),  # of the job
    sa.Column("job_id", sa.String(80), nullable=False),
    sa.Column("asked_at", sa.Double, nullable=False),
    sa.Column("done_at", sa.Double),
)

hosts = sa.Table(
    "latentsync_roster",
    tables,
    sa.Column("name", sa.String(120), primary_key=True),
    sa.Column("holder", sa.String(32), nullable=False),
    sa.Column("seen_at", sa.Double, nullable=False),
    sa.Column("memory_used_bytes", sa.BigInteger),  # of its device; null without a GPU
    sa.Column("memory_total_bytes", sa.BigInteger),
)

# A table of its own rather than columns of hosts, so that create_all upgrades older databases.
host_engines = sa.Table(
    "latentsync_roster_engines",
    tables,
    sa.Column(
        "name", sa.String(120), sa.ForeignKey(hosts.c.name, ondelete="CASCADE"), primary_key=True
    ),
    sa.Column("survey", sa.JSON, nullable=False),  # see latentsync.pipelines.registry
)


def open_database(url: str, *, connections: int = 8) -> sa.Engine:
    """Open the database and create missing tables.

    Args:
        url: ``sqlite:///path`` or ``postgresql+psycopg://…``; its query may override the timeouts.
        connections: maximum size of the connection pool.

    Raises:
        DBAPIError: the database cannot be opened.
        RecordUnavailable: the SQLite library of this Python is too old.
    """
    address = sa.make_url(url)
    is_file = address.get_backend_name() == _SQLITE
    if is_file:
        check_sqlite_version()
    else:
        address = address.set(query={**_POSTGRES_TIMEOUTS, **address.query})
    if is_file and address.database:
        Path(address.database).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    engine = sa.create_engine(
        address,
        pool_size=connections,
        max_overflow=0,
        hide_parameters=True,  # errors are logged, and requests may contain secrets
        pool_pre_ping=not is_file,  # the server may have restarted
    )
    if is_file:
        event.listen(engine, "connect", _prepare_sqlite)
    try:
        _make_tables(engine)
    except BaseException:
        engine.dispose()
        raise
    return engine


def check_sqlite_version() -> None:
    """Raise RecordUnavailable if the SQLite library of this Python is too old."""
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        needed = ".".join(map(str, _OLDEST_SQLITE))
        raise RecordUnavailable(
            f"This Python has SQLite {sqlite3.sqlite_version}; the jobs database needs {needed} "
            "or later. Set LATENTSYNC_DATABASE_URL to use Postgres instead."
        )


def lock_admission(connection: sa.Connection) -> None:
    """Begin a transaction that inserts jobs; only one can be open at a time.

    Quotas read in it stay valid until it commits, and jobs become visible in the order of their
    numbers.
    """
    if connection.dialect.name == _SQLITE:
        # Python's driver would begin the transaction only at the first write, after the reads.
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_INTAKE_LOCK)))


@contextmanager
def translate_database_full() -> Iterator[None]:
    """Translate "no space left" errors of the database to DiskFull."""
    try:
        yield
    except sa.exc.DBAPIError as error:
        if isinstance(fault := to_database_error(error), DiskFull):
            raise fault from error
        raise


def _make_tables(engine: sa.Engine) -> None:
    """Create missing tables; several processes may do so at once."""
    for number in range(_TRIES):
        try:
            tables.create_all(engine)
        except sa.exc.DBAPIError as error:
            is_away = isinstance(error, sa.exc.OperationalError) and engine.name != _SQLITE
            # Otherwise another process created a table after this one had checked.
            if is_away or number == _TRIES - 1:
                raise
            time.sleep(_TRY_AGAIN_S)
        else:
            return


@event.listens_for(sa.Engine, "connect")  # DBOS opens an engine of its own for its tables
def _add_unixepoch(connection: object, _record: object) -> None:
    """Provide ``unixepoch('subsec')``, which DBOS uses, on older SQLite libraries.

    From Python 3.12 on DBOS uses it, also as a column default. SQLite before 3.42 returns NULL for
    it, and before 3.38 has no such function. A database may be opened by another Python than the
    one that created it, so every connection gets the function.
    """
    if (
        isinstance(connection, sqlite3.Connection)
        and sqlite3.sqlite_version_info < _SQLITE_WITH_MILLISECONDS
    ):
        # Deterministic, so that SQLite calls it once per statement instead of once per row.
        connection.create_function("unixepoch", 1, _unixepoch, deterministic=True)
        # Some builds refuse such a function in a column default otherwise.
        connection.execute("PRAGMA trusted_schema=ON")


def _unixepoch(modifier: object) -> float:
    if modifier != "subsec":
        raise ValueError(f"unixepoch supports only 'subsec' here, not {modifier!r}")
    return round(time.time(), 3)


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = "IMMEDIATE"  # writers wait instead of failing midway
    for pragma in (
        f"busy_timeout={_BUSY_MS}",
        "journal_mode=WAL",  # readers do not wait for writers
        "synchronous=FULL",  # accepted jobs survive a power failure
        "foreign_keys=ON",
        "secure_delete=ON",  # deleted data is not left in free pages
        "cache_size=-512",  # kB per connection; the OS caches the file anyway
    ):
        connection.execute(f"PRAGMA {pragma}")
