"""The throw-away account and pod: made, marked as ours, removed in any case; what a killed run left is cleaned up."""

from __future__ import annotations

import calendar
import email.utils
import hashlib
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from meshpki.errors import MeshpkiError
from meshpki.provision.cluster.evidence import Exchange, Outcome, member, record, text, unanswered
from meshpki.provision.cluster.permission import NAME
from meshpki.provision.cluster.token import Account, AccountSeen
from meshpki.provision.cluster.uninterrupted import uninterrupted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meshpki.provision.cluster.evidence import Answer, Asker, Members

COMPONENT: Final = "app.kubernetes.io/component"
LABELS: Final = {"app.kubernetes.io/managed-by": "meshpki", COMPONENT: "detect"}
MARK: Final = "meshpki.io/run"
STALE_SECONDS: Final = 600
"""After this a run of another machine counts as dead: no run makes anything stand longer (`climb.BUDGET_SECONDS`,
`proof.question.BUDGET_SECONDS`), and its token is dead by then."""


@dataclass(frozen=True, slots=True)
class Run:
    """Who made an object: which machine and process namespace, which process, which run of it."""

    place: str
    process: int
    nonce: str

    @property
    def annotations(self) -> dict[str, str]:
        """The mark as it stands on what the run makes."""
        return {MARK: f"{self.place}.{self.process}.{self.nonce}"}


def this_run() -> Run:
    """A mark that no other run has. Raises nothing: without /proc other runs of this machine count as elsewhere."""
    import os

    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        place = f"{boot.strip()} {Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        place = secrets.token_hex(16)
    return Run(hashlib.sha256(place.encode()).hexdigest()[:16], os.getpid(), secrets.token_hex(8))


@dataclass(frozen=True, slots=True)
class Standing:
    """An object of our name that stands there already."""

    uid: str
    ours: bool
    """Whether the same command made it."""
    mark: str
    age_seconds: float


def read_standing(members: Members, now: float, labels: Mapping[str, str] = LABELS) -> Standing | None:
    """Read who made an object, and when; None unless it has a UID. `now` is the server's time, epoch seconds."""
    uid = text(members, "metadata", "uid")
    found, annotations = member(members, "metadata", "labels"), member(members, "metadata", "annotations")
    if not uid:
        return None
    mark = annotations.get(MARK) if isinstance(annotations, dict) else None
    ours = isinstance(found, dict) and labels.items() <= found.items() and isinstance(mark, str)
    return Standing(uid, ours, mark if isinstance(mark, str) else "", now - _made_at(members, now))


def _made_at(members: Members, now: float) -> float:
    try:
        return calendar.timegm(time.strptime(text(members, "metadata", "creationTimestamp"), "%Y-%m-%dT%H:%M:%SZ"))
    except ValueError:
        return now


def is_left_over(standing: Standing, here: Run, *, alive: bool) -> bool:
    """Whether whoever made it is dead. `alive`: whether the process that it names runs, if it is one of this place."""
    if not standing.ours:
        return False
    if standing.age_seconds > STALE_SECONDS:
        return True
    return standing.mark.split(".")[0] == here.place and not alive


def _process_of(mark: str) -> int:
    number = [*mark.split("."), ""][1]
    return int(number) if number.isascii() and number.isdigit() else 0


def _server_time(answer: Answer) -> float:
    """The server's clock, as its header tells it; ours where it tells none."""
    said = next((value for name, value in answer.headers.items() if name.lower() == "date"), "")
    try:
        return email.utils.parsedate_to_datetime(said).timestamp()
    except ValueError:
        return time.time()


class ThrowAway:
    """One object of a namespace, by the one name that a command always uses, so that RBAC can name it."""

    def __init__(
        self, asker: Asker, collection: str, kind: str, run: Run, *, name: str = NAME, component: str = "detect"
    ) -> None:
        self._asker = asker
        self._collection = collection
        self._name = name
        self._path = f"{collection}/{name}"
        self._kind = kind
        self._run = run
        self._labels = {**LABELS, COMPONENT: component}
        self._may_exist = False
        self.uid = ""

    @property
    def metadata(self) -> dict[str, object]:
        """What a body of it must carry, or it is not found again."""
        return {"name": self._name, "labels": self._labels, "annotations": self._run.annotations}

    def make(self, body: Members) -> Exchange[AccountSeen]:
        """Create it; remove a left-over first. What may have been made without our hearing, `remove` looks for."""
        seen = self._create(body, Account.MADE)
        if seen.outcome is not Outcome.CONFLICT:
            return seen
        standing = self._look()
        if not isinstance(standing, Standing):
            return standing
        if not standing.ours:
            return self._stands(seen, Account.FOREIGN)
        alive = Path(f"/proc/{_process_of(standing.mark)}").exists()
        if not is_left_over(standing, self._run, alive=alive):
            return self._stands(seen, Account.IN_USE)
        removed = self._delete(standing.uid)
        return removed if removed is not None else self._create(body, Account.MADE_ANEW)

    def _stands(self, seen: Exchange[AccountSeen], state: Account) -> Exchange[AccountSeen]:
        return Exchange(seen.request, seen.status, Outcome.DONE, seen.message, seen.about, AccountSeen(state))

    def _create(self, body: Members, state: Account) -> Exchange[AccountSeen]:
        self._may_exist = True

        def read(members: Members) -> AccountSeen | None:
            self.uid = text(members, "metadata", "uid")
            return AccountSeen(state) if self.uid else None

        request = f"POST {self._collection}"
        try:
            seen = record(request, self._asker.request("POST", self._collection, body), read)
        except MeshpkiError as error:
            return unanswered(request, error.seen)
        # 1.13.0 makes an object now and then and says nothing (kubernetes#71696).
        standing = self._look() if seen.outcome is Outcome.UNREADABLE else None
        if isinstance(standing, Standing) and standing.mark == self._run.annotations[MARK]:
            self.uid = standing.uid
            return self._stands(seen, state)
        # A clear refusal made nothing; after a broken answer nobody knows.
        self._may_exist = seen.outcome in {Outcome.DONE, Outcome.UNREADABLE, Outcome.SERVER_ERROR}
        return seen

    def _look(self) -> Standing | Exchange[AccountSeen]:
        found: list[Standing] = []
        request = f"GET {self._path}"
        try:
            answer = self._asker.request("GET", self._path)
        except MeshpkiError as error:
            return unanswered(request, error.seen)
        now = _server_time(answer)

        def read(members: Members) -> AccountSeen | None:
            standing = read_standing(members, now, self._labels)
            found.extend([standing] if standing else [])
            return AccountSeen(Account.IN_USE) if standing else None

        seen = record(request, answer, read)
        return found[0] if found else seen

    def _delete(self, uid: str) -> Exchange[AccountSeen] | None:
        """Remove the object of that UID and no other; None when it is gone, else what went wrong."""
        request = f"DELETE {self._path}"
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}, "gracePeriodSeconds": 0}
        try:
            answer = self._asker.request("DELETE", self._path, options)
        except MeshpkiError as error:
            return unanswered(request, error.seen)
        seen = record(request, answer, lambda _: AccountSeen(Account.MADE))
        if seen.outcome is Outcome.UNREADABLE and isinstance(looked := self._look(), Exchange):
            seen = looked  # as above: done, and nothing said
        # A conflict is about the UID: what stands there now is not what we made.
        return None if seen.outcome in {Outcome.DONE, Outcome.NOT_FOUND, Outcome.CONFLICT} else seen

    def remove(self) -> str:
        """Take away what this run made, Ctrl-C or not; empty when nothing is left, else what is, and why."""
        if not self._may_exist:
            return ""
        with uninterrupted():
            failed = self._delete(self.uid) if self.uid else self._remove_unseen()
        if failed is None:
            self._may_exist = False
            return ""
        return f"{self._kind} {self._path} could not be removed ({failed.short})"

    def _remove_unseen(self) -> Exchange[AccountSeen] | None:
        """The creation brought no answer, so it may have been made or not: look for this very run's mark."""
        standing = self._look()
        if isinstance(standing, Standing):
            return self._delete(standing.uid) if standing.mark == self._run.annotations[MARK] else None
        return None if standing.outcome is Outcome.NOT_FOUND else standing
