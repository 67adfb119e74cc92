"""The supervisor's children as processes: started, adopted, signalled, and noticed when they end."""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import signal
from typing import TYPE_CHECKING

from meshpki.errors import MachineError
from meshpki_local import children as pure
from meshpki_local import processes
from meshpki_local.children import Child, ChildSpec, Kill, Phase, Start, Terminate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from meshpki_local.children import Action
    from meshpki_local.layout import Layout

_log = logging.getLogger(__name__)


class Family:
    """Every child by name, with a pidfd for each that runs, so that no pid is ever guessed at."""

    def __init__(self, layout: Layout, selector: selectors.BaseSelector) -> None:
        self._layout = layout
        self._selector = selector
        self._descriptors: dict[str, int] = {}
        self.children: dict[str, Child] = {}
        self.changed = True
        """Set whenever a child changes; the reader of it clears it."""

    @property
    def running(self) -> bool:
        """Whether any process is left."""
        return bool(self._descriptors)

    def adopt(self, wanted: Sequence[ChildSpec], known: Mapping[str, int], now: float) -> None:
        """Take over what runs already; end what runs twice."""
        adoption = pure.adopt(processes.find(self._layout.state), wanted, known, now)
        for ref in adoption.surplus:
            _log.warning("a second process of the same child is ended", extra={"pid": ref.pid})
        processes.stop(adoption.surplus, pure.STOP_SECONDS)
        for name, child in adoption.children.items():
            descriptor = processes.open_pidfd(child.ref) if child.ref else None
            if descriptor is not None:
                self._keep(child, descriptor)
                _log.info("child adopted", extra={"child": name, "pid": child.ref.pid if child.ref else 0})

    def perform(self, action: Action, now: float) -> None:
        """Do one thing that was decided. A start that fails is remembered, not raised."""
        self.changed = True
        match action:
            case Start(spec):
                self._start(spec, now)
            case Terminate(child):
                self._signal(child, signal.SIGTERM)
                self.children[child.name] = pure.terminating(child, now)
            case Kill(child):
                _log.warning("child does not end, so it is killed", extra={"child": child.name})
                self._signal(child, signal.SIGKILL)
                self.children[child.name] = pure.terminating(child, now)

    def _start(self, spec: ChildSpec, now: float) -> None:
        previous = self.children.get(spec.name)
        environment = {
            **processes.clean_environment(os.environ),
            processes.MARK: processes.mark(spec.name, spec.fingerprint, self._layout.state),
        }
        try:
            ref = processes.spawn(spec.argv, environment, self._layout.log(spec.name))
        except MachineError as error:
            _log.error("child does not start", extra={"child": spec.name, "reason": str(error)})
            self.children[spec.name] = pure.failed_to_start(spec, previous, now, str(error))
            return
        _log.info("child started", extra={"child": spec.name, "pid": ref.pid})
        # Ours and not yet reaped: the pid cannot be another's, even if it has ended already.
        self._keep(pure.started(spec, previous, ref, now), os.pidfd_open(ref.pid))

    def _keep(self, child: Child, descriptor: int) -> None:
        self.children[child.name] = child
        self._descriptors[child.name] = descriptor
        self._selector.register(descriptor, selectors.EVENT_READ, child.name)
        self.changed = True

    def _signal(self, child: Child, number: signal.Signals) -> None:
        _log.info("child signalled", extra={"child": child.name, "signal": number.name})
        with contextlib.suppress(ProcessLookupError):  # It has ended; its descriptor says so next.
            signal.pidfd_send_signal(self._descriptors[child.name], number)

    def has_ended(self, name: str, now: float) -> None:
        """Note the end of a child whose descriptor became readable."""
        descriptor = self._descriptors.pop(name)
        self._selector.unregister(descriptor)
        reason = _reap(descriptor)
        os.close(descriptor)
        child = self.children.pop(name)
        if (after := pure.ended(child, now, reason)) is None:
            _log.info("child ended as asked", extra={"child": name, "reason": reason})
        else:
            self.children[name] = after
            _log.warning(
                "child ended unasked",
                extra={"child": name, "reason": reason, "again_in_seconds": round(after.due - now, 2)},
            )
        self.changed = True

    def forget_waiting(self) -> None:
        """At shutdown nothing is started any more."""
        self.children = {name: child for name, child in self.children.items() if child.phase is not Phase.WAITING}


def _reap(descriptor: int) -> str:
    """Take our own child's remains away and say how it ended; of an adopted one only init is told."""
    try:
        result = os.waitid(os.P_PIDFD, descriptor, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        return "ended; it was adopted, so its exit status is not known"
    if result is None:
        return "ended"
    if result.si_code == os.CLD_EXITED:
        return f"exit status {result.si_status}"
    return f"killed by {signal.Signals(result.si_status).name}"
