"""Where the trials of a sweep are recorded: a journal file in its folder, or a database that several machines share."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError, StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import StudyDirection
from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError

from dynconv.errors import DynconvError
from dynconv.validation import flat, shown

JOURNAL = "journal.log"
_DEFINITION = "definition"
_TRIES = 4
_PATIENCE = 30.0  # seconds for the worker that has begun the sweep to describe it


def open_study(
    folder: Path, url: str | None, definition: Mapping[str, Any], pruner: optuna.pruners.BasePruner, *, maximise: bool
) -> optuna.Study:
    """The study that records the sweep in `folder`, begun if it does not exist.

    Args:
        url: of a database, such as postgresql://host/name; by default a journal file in the folder. In a database, the
            study has the name of the folder.
        definition: all that makes two sweeps the same, as plain values for JSON.

    Raises:
        DynconvError: the storage cannot be used, or what it holds under this name is another sweep.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    name = folder.resolve().name
    direction = StudyDirection.MAXIMIZE if maximise else StudyDirection.MINIMIZE
    where = place(folder, url)
    with storage_errors(where):
        storage = _storage(folder, url)
        try:
            study = optuna.create_study(storage=storage, study_name=name, direction=direction, pruner=pruner)
        except DuplicatedStudyError:
            study = optuna.load_study(storage=storage, study_name=name, pruner=pruner)
            _require_same(study, definition, f"{name} in {where}")
            return study
        if any(folder.glob("trial-*")):
            optuna.delete_study(storage=storage, study_name=name)
            raise DynconvError(f"{folder}: holds the trials of another sweep; choose another --output")
        study.set_user_attr(_DEFINITION, dict(definition))
    return study


@contextmanager
def storage_errors(where: str, advice: str = "") -> Iterator[None]:
    """Turns the errors of a storage into one line."""
    try:
        yield
    except (SQLAlchemyError, StorageInternalError, ImportError) as error:
        # StorageInternalError says only that something has failed; what it was is the cause.
        reason = str(getattr(error.__cause__, "orig", None) or error.__cause__ or error)
        first = (reason.strip().splitlines() or [type(error).__name__])[0]
        raise DynconvError(f"storage {where}: cannot be used ({first}){advice}") from error
    except OSError as error:
        raise DynconvError(f"storage {where}: cannot be used ({error.strerror or error}){advice}") from error


def place(folder: Path, url: str | None) -> str:
    """The storage as messages name it: the file, or the URL without its password."""
    if not url:
        return str(folder / JOURNAL)
    try:
        return make_url(url).render_as_string(hide_password=True)
    except SQLAlchemyError:
        raise DynconvError("--storage: not the URL of a database, as in postgresql://user@host/name") from None


def _storage(folder: Path, url: str | None) -> BaseStorage:
    if url:
        return _database(url)
    # The lock is a file that must not exist yet, which works on shared folders too.
    journal = str((folder / JOURNAL).resolve())
    try:
        return JournalStorage(JournalFileBackend(journal, JournalFileOpenLock(journal)))
    except ValueError as error:
        raise DynconvError(f"{folder / JOURNAL}: damaged ({error}); choose another --output") from error


def _database(url: str) -> BaseStorage:
    for _ in range(_TRIES - 1):
        try:
            return _connect(url)
        except SQLAlchemyError:  # of workers that start together, one creates the tables and the others fail
            time.sleep(0.5)
    return _connect(url)


def _connect(url: str) -> BaseStorage:
    parts = make_url(url)
    if parts.drivername == "postgresql":  # SQLAlchemy 2.0 would look for the driver before psycopg
        url = parts.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
    # Tests a connection before it is used: the server may have closed it during a long trial.
    return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})


def _require_same(study: optuna.Study, definition: Mapping[str, Any], where: str) -> None:
    deadline = time.monotonic() + _PATIENCE
    while (found := study.user_attrs.get(_DEFINITION)) is None:
        if time.monotonic() > deadline:
            raise DynconvError(f"{where}: not a sweep of dynconv; choose another --output")
        time.sleep(0.1)
    ours, theirs = flat(dict(definition)), flat(found)
    for name in [*ours, *theirs]:
        if ours.get(name) != theirs.get(name):
            asked, there = (shown(each.get(name, "nothing")) for each in (ours, theirs))
            raise DynconvError(
                f"{where}: has {name} {there}, not {asked}; restore the file, or choose another --output"
            )
