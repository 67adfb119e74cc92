"""Keeps every workload's token file fresh, and says what it could not do."""

from __future__ import annotations

import logging
import platform
import re
from typing import TYPE_CHECKING, Final

from meshpki.errors import MeshpkiError
from meshpki_local import issuer_key, token_files

if TYPE_CHECKING:
    from meshpki.identity import ServiceAccountRef
    from meshpki_local.layout import Layout
    from meshpki_local.settings import Settings

_log = logging.getLogger(__name__)
_RETRY: Final = 5.0


def node_name() -> str:
    """This machine's name as a node's: lower case, of the characters that Kubernetes lets a node's name have."""
    return re.sub(r"[^a-z0-9.-]+", "-", platform.node().lower()).strip("-.")[:63] or "localhost"


class TokenKeeper:
    """Remembers when each file is due, so that a wake-up without work costs a comparison."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._due: dict[ServiceAccountRef, float] = {}
        self.problems: dict[ServiceAccountRef, str] = {}

    def reset(self) -> None:
        """Look at every file again: the settings or the key may be new."""
        self._due.clear()
        self.problems.clear()

    def refresh(self, settings: Settings, now: float) -> float:
        """Write what is due; return when to come again (epoch seconds). Never raises for a file: it tries again."""
        for account in settings.workloads:
            # A due time more than a day away means that the clock was set back: look again.
            if not now < self._due.get(account, 0) <= now + 86400:
                self._due[account] = self._refresh_one(settings, account, now)
        return min(self._due[account] for account in settings.workloads) if settings.workloads else now + _RETRY

    def _refresh_one(self, settings: Settings, account: ServiceAccountRef, now: float) -> float:
        path = self._layout.workload(account).token
        try:
            key = issuer_key.load(self._layout.token_key)
            due = token_files.refresh(path, account, key, lifetime=settings.token_ttl, node=node_name(), now=now)
        except MeshpkiError as error:
            if account not in self.problems:
                _log.error("token not written", extra={"workload": str(account), "reason": str(error)})
            self.problems[account] = f"token of {account}: {error}"
            return now + _RETRY
        if self.problems.pop(account, None):
            _log.info("token written again", extra={"workload": str(account)})
        _log.debug("token looked at", extra={"workload": str(account), "due_in_seconds": round(due - now)})
        return due
