"""Optuna's storage, as a study uses it: opened with clear errors, and retried while its database is
unreachable."""

import json
import time
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from datetime import UTC
from functools import wraps
from typing import Any

import optuna
import sqlalchemy
from optuna.samplers import RandomSampler

from pressft.errors import MissingError, UsageError, meant
from pressft.spec import TrialSpec
from pressft.study.database import RETRY_FOR_S, address, is_unreachable, lock, with_retries
from pressft.study.trials import Trial

optuna.logging.set_verbosity(optuna.logging.ERROR)

DEFAULT = TrialSpec()
TIMES = ("started", "ended")  # milliseconds since 1970
FEW = 500  # trials, up to which they are selected by id
BRIEF_RETRY_S = 10.0  # instead of RETRY_FOR_S, after a signal asked us to stop


def _retrying(name: str) -> Callable[..., Any]:
    """A method of Optuna's storage that is retried while the database is unreachable."""
    call = getattr(optuna.storages.RDBStorage, name)

    @wraps(call)
    def retried(self: "RetryingStorage", *args: Any, **options: Any) -> Any:  # noqa: ANN401
        return with_retries(lambda: self.attempt(call, args, options), lambda: self.retry_for_s)

    return retried


class RetryingStorage(optuna.storages.RDBStorage):
    """Optuna's own storage, whose calls survive a restart of the database.

    A call that was executed but whose answer was lost is executed again: callers must cope with a
    trial that was created twice, or is closed already.
    """

    retry_for_s = RETRY_FOR_S
    last_failure = 0.0  # of a call because the database was unreachable, in seconds since 1970

    def attempt(
        self, call: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:  # noqa: ANN401
        """Call once, and note when the database was unreachable."""
        try:
            return call(self, *args, **options)
        except Exception as error:
            if is_unreachable(error):
                self.last_failure = time.time()
            raise

    def up_since(self) -> float:
        """Seconds since 1970 from which on the database has been reachable: the later of its last
        start, which only PostgreSQL reports, and the last failure seen by this process."""
        if self.engine.dialect.name != "postgresql":
            return self.last_failure

        def ask() -> float:
            with self.engine.connect() as connection:
                query = "SELECT extract(epoch FROM pg_postmaster_start_time())"
                return float(connection.execute(sqlalchemy.text(query)).scalar_one())

        return max(self.last_failure, float(with_retries(ask, lambda: self.retry_for_s)))

    def read(
        self, study_id: int, base: TrialSpec = DEFAULT, skip: Container[int] = ()
    ) -> list[Trial]:
        """All trials by number, without those numbered in `skip`; three plain queries, where
        Optuna builds objects: 10,000 trials in 0.5 s instead of 7."""
        return list(
            with_retries(lambda: [*self._trials(study_id, base, skip)], lambda: self.retry_for_s)
        )

    def _trials(self, study_id: int, base: TrialSpec, skip: Container[int]) -> Iterator[Trial]:
        from optuna.storages._rdb.models import TrialModel as Row
        from optuna.storages._rdb.models import TrialUserAttributeModel as Attribute
        from optuna.storages._rdb.models import TrialValueModel as Value

        times = Row._datetime_start_utc, Row._datetime_complete_utc
        trials = sqlalchemy.select(Row.trial_id, Row.number, Row.state, *times)
        with self.engine.connect() as connection:
            # states first: a trial that has ended by now has its value and its last attributes
            ordered = trials.where(Row.study_id == study_id).order_by(Row.number)
            new = [row for row in connection.execute(ordered) if row.number not in skip]
            ids = sqlalchemy.select(Row.trial_id).where(Row.study_id == study_id)
            if len(new) < FEW:
                ids = ids.where(Row.trial_id.in_([row.trial_id for row in new]))
            values = sqlalchemy.select(Value.trial_id, Value.value, Value.value_type)
            attributes = sqlalchemy.select(Attribute.trial_id, Attribute.key, Attribute.value_json)
            losses = {
                row.trial_id: Value.stored_repr_to_value(row.value, row.value_type)
                for row in connection.execute(values.where(Value.trial_id.in_(ids)))
            }
            attrs: dict[int, dict[str, Any]] = {row.trial_id: {} for row in new}
            for row in connection.execute(attributes.where(Attribute.trial_id.in_(ids))):
                if row.trial_id in attrs:
                    attrs[row.trial_id][row.key] = json.loads(row.value_json)
        stored: Any
        for stored in new:
            noted = attrs[stored.trial_id]
            # a trial that was not created by pressft has only Optuna's own params
            params = noted.pop("params", None) or self.get_trial(stored.trial_id).params
            value, state = losses.get(stored.trial_id), stored.state.name.lower()
            for name, at in zip(TIMES, stored[3:], strict=True):
                if at and name not in noted:  # earlier versions did not note them
                    noted[name] = int(at.replace(tzinfo=UTC).timestamp() * 1000)
            yield Trial(stored.number, state, params, value, noted, base, stored.trial_id)

    def extend_choices(self, study_id: int, name: str, distribution: str) -> None:
        """Extend the choices of a parameter in the stored trials: the new choices follow the old
        ones. Optuna itself has no way to do so."""
        from optuna.storages._rdb import models

        with self.engine.begin() as connection:
            trials = sqlalchemy.select(models.TrialModel.trial_id).where(
                models.TrialModel.study_id == study_id
            )
            connection.execute(
                sqlalchemy.update(models.TrialParamModel)
                .where(
                    models.TrialParamModel.param_name == name,
                    models.TrialParamModel.trial_id.in_(trials),
                )
                .values(distribution_json=distribution)
            )


for _name in (
    *("create_new_study", "set_study_user_attr", "get_study_id_from_name", "get_study_user_attrs"),
    *("get_study_system_attrs", "get_study_directions", "get_study_name_from_id"),
    *("get_all_studies", "_create_new_trial", "_get_trials", "get_trial", "set_trial_user_attr"),
    *("set_trial_intermediate_value", "set_trial_state_values", "get_trial_user_attrs"),
):
    setattr(RetryingStorage, _name, _retrying(_name))


def backend(storage: str) -> RetryingStorage:
    """The storage at an address.

    Raises:
        MissingError: it cannot be opened.
    """
    with opening():
        url = address(storage).render_as_string(hide_password=False)
        # processes that set up a new database at the same time break each other's tables
        with lock(storage, "set-up", retry_for_s=0.0):
            return RetryingStorage(url, engine_kwargs={"pool_pre_ping": True})


def outdated(storage: str) -> Callable[[], None] | None:
    """The upgrade of a storage's tables to the installed Optuna; None if they are up to date.

    Raises:
        MissingError: it cannot be opened.
    """
    with opening():
        url = address(storage).render_as_string(hide_password=False)
        found = optuna.storages.RDBStorage(url, skip_compatibility_check=True)
        current = found.get_current_version() == found.get_head_version()
    return None if current else found.upgrade


def connect(storage: RetryingStorage, name: str, *, create: bool) -> optuna.Study:
    """Open a study in a storage, or create it.

    Raises:
        UsageError: not `create`, and no such study; the message names the existing ones.
        MissingError: the storage cannot be read.
    """
    with opening():
        if create:
            return optuna.create_study(
                storage=storage,
                study_name=name,
                sampler=RandomSampler(),  # unused: every trial is created with its parameters
                load_if_exists=True,
            )
        known = optuna.get_all_study_names(storage)
        if name not in known:
            there = ", ".join(sorted(known)) or "none; run `pressft sweep experiments/smoke.py`"
            raise UsageError(f"no study {name!r}: the storage holds {there}{meant(name, known)}")
        return optuna.load_study(study_name=name, storage=storage)


@contextmanager
def opening() -> Iterator[None]:
    """Turn the errors of a storage into one line without its address, which may hold a password."""
    try:
        yield
    except (ImportError, OSError, RuntimeError, ValueError) as error:  # Runtime: old tables
        raise MissingError(f"study storage: {str(error).splitlines()[0]}") from error
    except Exception as error:
        if type(error).__module__.startswith(("sqlalchemy", "optuna")):
            raise MissingError(f"study storage cannot be used: {first_line(error)}") from error
        raise


def first_line(error: Exception) -> str:
    """First line of an error, without the SQL and the address that follow."""
    at = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else error
    return str(getattr(at, "orig", None) or at).strip().splitlines()[0]
