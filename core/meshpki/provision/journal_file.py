"""Where the journal lives: its directory made and removed in one step, its lock, its file checked before it is used.

A state directory that we make is prepared beside its place and renamed, journal inside; one that we remove is renamed
away first. So there is never one without the journal that says who made it, wherever the process is killed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sqlite3
import stat
import time
from itertools import islice
from pathlib import Path
from shlex import quote as quoted
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from meshpki.errors import IntegrityError, MachineError, OperatorNeededError
from meshpki.runtime import files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FILE: Final = "journal.db"
SCHEMA: Final = 1
APPLICATION_ID: Final = 0x6D70_6B69
"""`mpki`, in the SQLite header: tells our journal from anybody else's database."""
OUR_FILES: Final = frozenset({FILE, f"{FILE}-wal", f"{FILE}-shm"})
BUSY_SECONDS: Final = 5.0
MAX_OTHERS: Final = 100
PATIENCE: Final = 1.0
"""Seconds: longer than anybody who only looks holds the lock."""

_TABLES: Final = (
    "CREATE TABLE installation (one INTEGER PRIMARY KEY CHECK (one = 1), made_directory INTEGER NOT NULL,"
    " holder INTEGER NOT NULL)",
    "CREATE TABLE runs (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, digest TEXT NOT NULL, plan TEXT NOT NULL,"
    " outcome TEXT NOT NULL, reason TEXT NOT NULL, started INTEGER NOT NULL, ended INTEGER NOT NULL)",
    "CREATE TABLE steps (id INTEGER PRIMARY KEY, run INTEGER NOT NULL REFERENCES runs (id), action TEXT NOT NULL,"
    " change TEXT NOT NULL, kind TEXT NOT NULL, title TEXT NOT NULL, params TEXT NOT NULL, record TEXT NOT NULL,"
    " state TEXT NOT NULL, reason TEXT NOT NULL, started INTEGER NOT NULL, ended INTEGER NOT NULL)",
    "CREATE UNIQUE INDEX one_open_step ON steps (change, action) WHERE state = 'intent'",
    "CREATE TABLE applied (change TEXT PRIMARY KEY, position INTEGER NOT NULL UNIQUE, kind TEXT NOT NULL,"
    " title TEXT NOT NULL, params TEXT NOT NULL, record TEXT NOT NULL)",
)


def exists(path: Path) -> bool:
    """Say whether anything stands there, be it a dangling link. Raises MachineError when that cannot be told."""
    with files.machine_errors("could not examine", path):
        return _stat(path) is not None


def aside(state_dir: Path) -> Path:
    """Return where a state directory is prepared, and where it goes to be removed."""
    return state_dir.with_name(f".{state_dir.name}.meshpki-aside")


def make_aside(state_dir: Path) -> Path:
    """Make the directory in which a state directory is prepared. Raises MachineError, with the name that is known."""
    place = aside(state_dir)
    try:
        files.private_directory(place)
    except MachineError as error:
        if not isinstance(error.__cause__, OSError):
            raise
        with files.machine_errors("could not make directory", state_dir):
            raise error.__cause__ from None
    return place


def sweep(state_dir: Path) -> None:
    """Remove what a killed run left beside the state directory. Raises MachineError for what is not ours."""
    place = aside(state_dir)
    with files.machine_errors("could not examine", state_dir):  # its parent is at fault, and that is both's
        if _stat(place) is None:
            return
    files.check_private_directory(place)
    with lock(place, state_dir), files.machine_errors("could not remove", place):
        empty(place)
        place.rmdir()


def empty(directory: Path) -> None:
    """Remove the journal's files, the one that counts last."""
    for name in sorted(OUR_FILES, reverse=True):
        (directory / name).unlink(missing_ok=True)


@contextlib.contextmanager
def lock(directory: Path, state_dir: Path) -> Iterator[None]:
    """Keep other runs out of a state directory for the body; the lock follows the directory when it is renamed.

    The kernel gives it up when this process dies, however it dies. Raises OperatorNeededError with the holder's
    process id when another run has it.
    """
    with files.machine_errors("could not lock", directory):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        deadline = time.monotonic() + PATIENCE
        while not _take(descriptor, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                raise _busy(directory, state_dir)
            time.sleep(0.02)
        here, there = os.fstat(descriptor), _stat(directory)
        if there is None or (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino):
            raise _busy(directory, state_dir)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def at_rest(directory: Path) -> Iterator[bool]:
    """Say whether no run is at work; if so, none begins during the body."""
    with files.machine_errors("could not open", directory):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield _take(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def _take(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _busy(directory: Path, state_dir: Path) -> OperatorNeededError:
    holder = _holder(directory / FILE)
    return OperatorNeededError(
        f"another run is at work on {state_dir}" + (f": process {holder}" if holder else ", just beginning or ending"),
        wanted="one run at a time",
        todo="wait until it has ended, then run the same command again",
    )


def _holder(path: Path) -> int:
    try:
        with contextlib.closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as connection:
            return int(connection.execute("SELECT holder FROM installation").fetchone()[0])
    except (sqlite3.Error, TypeError):
        return 0


def initialise(path: Path, *, made_directory: bool) -> None:
    """Make the journal's tables unless it has them, in one transaction; the file is 0600 from its first moment."""
    with files.machine_errors("could not make", path), contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, files.PRIVATE_FILE))
    _check_file(path)
    with errors(path), contextlib.closing(_open(path)) as connection:
        if _number(connection, "application_id") or connection.execute("SELECT 1 FROM sqlite_master").fetchone():
            return
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("BEGIN IMMEDIATE")
        for table in _TABLES:
            connection.execute(table)
        connection.execute("INSERT INTO installation VALUES (1, ?, 0)", (int(made_directory),))
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA}")
        connection.execute("COMMIT")
    with files.machine_errors("could not make", path):
        files.sync_directory(path.parent)


def connect(path: Path) -> sqlite3.Connection:
    """Open a journal, once it is known to be ours, whole and of a schema that we know. The caller closes it.

    Raises MachineError for a file that is not ours, IntegrityError for one that is no journal, or damaged.
    """
    _check_file(path)
    with errors(path):
        connection = _open(path)
        try:
            _check_content(connection, path)
        except BaseException:
            connection.close()
            raise
        return connection


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"file:{quote(str(path))}?mode=rw", uri=True, isolation_level=None, timeout=BUSY_SECONDS
    )
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def _check_file(path: Path) -> None:
    with files.machine_errors("could not examine", path):
        status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise MachineError(f"{path} is no regular file", wanted="the journal", todo="move it away after a look at it")
    if status.st_uid != os.geteuid():
        raise MachineError(
            f"{path} belongs to user {status.st_uid}",
            wanted=f"a journal of user {os.geteuid()}, as whom this runs",
            todo="run as its owner, or name another state directory",
        )
    if status.st_mode & 0o077:
        raise MachineError(
            f"{path} has mode {stat.S_IMODE(status.st_mode):04o}: others may have written to it",
            wanted="mode 0600",
            todo=f"chmod 600 {quoted(str(path))} after a look at it",
        )


def _check_content(connection: sqlite3.Connection, path: Path) -> None:
    if _number(connection, "application_id") != APPLICATION_ID:
        raise IntegrityError(
            f"{path} is a database, but no journal of meshpki",
            wanted="a journal, or no file of that name",
            todo="move it away, or name another state directory",
        )
    if (schema := _number(connection, "user_version")) != SCHEMA:
        raise IntegrityError(
            f"{path} is a journal of schema {schema}",
            wanted=f"schema {SCHEMA}",
            todo="use the version of meshpki that wrote it",
        )
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise damaged(path, str(verdict))


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    return int(connection.execute(f"PRAGMA {pragma}").fetchone()[0])


@contextlib.contextmanager
def errors(path: Path) -> Iterator[None]:
    """Translate SQLite's errors: MachineError where the machine refuses, IntegrityError where the file is damaged."""
    try:
        yield
    except sqlite3.Error as error:
        advice = _ADVICE.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)
        if advice is not None:
            raise MachineError(f"could not write the journal {path}: {error}", todo=advice) from error
        raise damaged(path, str(error)) from error


_ADVICE: Final = {
    sqlite3.SQLITE_FULL: "free some space on its file system, then run the same command again",
    # SQLite's word for a full disk, too, where it is its shared memory that finds no room.
    sqlite3.SQLITE_IOERR: "see whether its file system is full (df), and the system log for errors of the disk;"
    " then run the same command again",
    sqlite3.SQLITE_READONLY: "make its file system writable, then run the same command again",
    sqlite3.SQLITE_CANTOPEN: "check the permissions of its directory",
    sqlite3.SQLITE_PERM: "check its permissions",
    sqlite3.SQLITE_BUSY: "another program reads or writes it: wait until that has ended",
    sqlite3.SQLITE_LOCKED: "another program reads or writes it: wait until that has ended",
}


def damaged(path: Path, detail: str) -> IntegrityError:
    """Build the error for a journal that cannot be read any more."""
    return IntegrityError(
        f"the journal {path} is damaged: {detail[:200]}",
        wanted="the journal as meshpki wrote it",
        todo="put back a copy of it; without one move it away, and remove by hand what stands in the way of a new run",
    )


def remove(state_dir: Path, *, whole: bool, checkpoint: Callable[[str], None]) -> None:
    """Remove a closed journal; with `whole` also the directory, which must hold nothing else. Raises MachineError."""
    with files.machine_errors("could not remove", state_dir):
        if whole:
            place = aside(state_dir)
            state_dir.rename(place)
            files.sync_directory(place.parent)
            checkpoint("journal.aside")
            empty(place)
            checkpoint("journal.emptied")
            place.rmdir()
            files.sync_directory(place.parent)
        else:
            empty(state_dir)
            checkpoint("journal.emptied")
            files.sync_directory(state_dir)


def others(state_dir: Path) -> tuple[str, ...]:
    """Return what a state directory holds beside the journal: its files, and the directories with nothing in them.

    Relative to it, sorted; of many the first hundred that are met. Nothing where there is no directory.
    """
    if not exists(state_dir):
        return ()
    with files.machine_errors("could not read", state_dir):
        found = (path.relative_to(state_dir) for path in islice(_leaves(state_dir), MAX_OTHERS))
        return tuple(sorted(name for path in found if (name := str(path)) not in OUR_FILES))


def _leaves(directory: Path) -> Iterator[Path]:
    for path in sorted(directory.iterdir()):
        if path.is_symlink() or not path.is_dir() or not os.access(path, os.R_OK | os.X_OK) or not any(path.iterdir()):
            yield path
        else:
            yield from _leaves(path)


def rename_into_place(prepared: Path, state_dir: Path) -> None:
    """Give a prepared directory its name, unless something with content stands there by now. Raises MachineError."""
    with files.machine_errors("could not make directory", state_dir):
        try:
            prepared.rename(state_dir)
        except OSError as error:
            if error.errno in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
                raise MachineError(
                    f"{state_dir} appeared while this run began", todo="run the same command again"
                ) from error
            raise
        files.sync_directory(state_dir.parent)
