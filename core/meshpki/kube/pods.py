"""What may be known of a pod, read from the API server's JSON: who it runs as, where, and in which phase. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshpki.errors import InvalidValueError
from meshpki.identity import ServiceAccountRef

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class PodFacts:
    """A pod as the API server tells of it."""

    name: str
    uid: str
    account: ServiceAccountRef
    node: str
    """Empty until it is scheduled."""
    phase: str


def read_pod(document: Mapping[str, object]) -> PodFacts:
    """Read a v1 Pod; what is not said is empty. Raises InvalidValueError for a pod without a name, UID or account."""
    metadata, spec, status = (_part(document, name) for name in ("metadata", "spec", "status"))
    name, uid = _text(metadata, "name"), _text(metadata, "uid")
    if not name or not uid:
        raise InvalidValueError("a pod without a name or a UID", wanted="a v1 Pod")
    account = ServiceAccountRef(_text(metadata, "namespace"), _text(spec, "serviceAccountName") or "default")
    return PodFacts(name, uid, account, _text(spec, "nodeName"), _text(status, "phase"))


def _part(document: Mapping[str, object], name: str) -> Mapping[str, object]:
    part = document.get(name)
    return part if isinstance(part, dict) else {}


def _text(part: Mapping[str, object], name: str) -> str:
    value = part.get(name)
    return value if isinstance(value, str) else ""
