"""What a stream remarks on its client, heard before anything bounds or logs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from meshpki.agent.sds.rules import Remarks

Remark = tuple[str, Mapping[str, object]]


@dataclass
class Heard:
    unknown: list[Remark] = field(default_factory=list)
    rejected: list[Remark] = field(default_factory=list)

    @property
    def remarks(self) -> Remarks:
        return Remarks(
            unknown=lambda kind, extra: self.unknown.append((kind, extra)),
            rejected=lambda kind, extra: self.rejected.append((kind, extra)),
        )
