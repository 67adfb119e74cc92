"""What the operator wants to know of a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from meshpki.errors import InvalidValueError, UsageError
from meshpki.identity import ServiceAccountRef
from meshpki.provision.cluster import canary, permission

AUDIENCE: Final = "istio-ca"


@dataclass(frozen=True, slots=True)
class Canary:
    """The canary pod that the operator asked for."""

    image: str = canary.IMAGE
    seconds: float = canary.SECONDS
    """How long to wait for a kubelet; at most `canary.MAX_SECONDS`."""

    def __post_init__(self) -> None:
        if not 0 <= self.seconds <= canary.MAX_SECONDS:
            raise UsageError(f"{self.seconds:.0f} s for the canary pod", wanted=f"0 to {canary.MAX_SECONDS:.0f} s")


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, and where the throw-away account may stand. Raises UsageError for what cannot be meant."""

    namespace: str = "default"
    audience: str = AUDIENCE
    """The mesh's: what the CA accepts."""
    canary: Canary | None = None

    def __post_init__(self) -> None:
        try:
            ServiceAccountRef(self.namespace, permission.NAME)
        except InvalidValueError as error:
            raise UsageError(
                f"namespace {self.namespace!r:.80}",
                wanted="a namespace's name",
                todo="name one that `kubectl get namespaces` shows",
            ) from error
        if not self.audience or not self.audience.isprintable():
            raise UsageError(
                f"audience {self.audience!r:.80}",
                wanted="the audience that the CA accepts",
                todo="see `audiences` in the CA's configuration; by default it is istio-ca",
            )
