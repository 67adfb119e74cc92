"""`local.ca-config`: ca.yaml, with ports that are chosen once and kept."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from meshpki.errors import MachineError
from meshpki.hooks import EffectState, Observation
from meshpki.runtime.files import private_directory, read_capped, write_atomically
from meshpki_local import belongings
from meshpki_local.ca_config import is_ours, render
from meshpki_local.ports import choose, read_ports
from meshpki_local.settings import renewal_bound
from meshpki_local.standing import first_obstacle, foreign, remove_file

if TYPE_CHECKING:
    from meshpki.hooks import Params, Progress
    from meshpki_local.layout import Layout
    from meshpki_local.settings import Settings

_LIMIT: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class CaConfig:
    """A port that is installed is kept unless another is asked for, so that agents elsewhere still find the CA."""

    layout: Layout
    settings: Settings

    def observe(self) -> Observation:
        """FOREIGN for a ca.yaml that provision did not write."""
        if found := first_obstacle(files=(self.layout.ca_config,), directories=(self.layout.audit,)):
            return foreign(found)
        content = self._installed()
        if content is None:
            return Observation(EffectState.ABSENT)
        if not is_ours(content):
            return foreign(f"{self.layout.ca_config} was not written by provision; move it away")
        ports = read_ports(content)
        if ports is not None and self.settings.ca_port in {0, ports.grpc}:
            if renewal_bound(self.settings) and not ports.renewal:
                return Observation(EffectState.DIFFERENT, "+renewal: by certificate, on a free port")
            wanted = render(self.settings, ports)
            if content == wanted and self.layout.audit.is_dir():
                return Observation(EffectState.DONE, f"port {ports.grpc}")
            return Observation(EffectState.DIFFERENT, _difference(content, wanted))
        return Observation(EffectState.DIFFERENT, f"port {ports.grpc if ports else 'not readable'}")

    def undo_record(self) -> Params:
        """The file as it stands."""
        return {"before": (self._installed() or b"").decode(errors="replace")}

    def apply(self, progress: Progress) -> None:
        """Choose ports where none are installed, and write. Raises MachineError when the asked port is taken."""
        content = self._installed()
        installed = read_ports(content) if content else None
        ports = choose(self.settings.ca_port, installed, renewal=bool(renewal_bound(self.settings)))
        private_directory(self.layout.audit)
        write_atomically(self.layout.ca_config, render(self.settings, ports))
        progress(f"the CA will listen on {ports.grpc_address}, its health is at http://{ports.http_address}")

    def gate(self, progress: Progress) -> None:
        """Have the CA's own reader read it."""
        from meshpki.ca import config

        config.load(self.layout.ca_config)
        progress("the CA can read its configuration")

    def undo(self, record: Params, progress: Progress) -> None:
        """Write the file as it was; where there was none, remove it, and the issuance log that its CA wrote."""
        before = record.get("before")
        if not isinstance(before, str):
            raise MachineError("the journal does not say what ca.yaml was", todo="remove it by hand")
        if before:
            write_atomically(self.layout.ca_config, before.encode())
            progress("ca.yaml is as it was")
            return
        remove_file(self.layout.ca_config)
        if not belongings.audit(self.layout).take_away():
            progress(f"{self.layout.audit} is kept: it holds files that are not ours")

    def _installed(self) -> bytes | None:
        return read_capped(self.layout.ca_config, limit=_LIMIT) if self.layout.ca_config.exists() else None


def _difference(content: bytes, wanted: bytes) -> str:
    before, after = (text.decode(errors="replace").splitlines() for text in (content, wanted))
    lines = [line for line in difflib.unified_diff(before, after, n=0) if line[:2] not in {"--", "++", "@@"}]
    return "; ".join(lines) or "the directory of the issuance log is missing"
