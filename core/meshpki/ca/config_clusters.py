"""What a CA's configuration says of a cluster: its tokens' terms, its keys, and the way to its API server."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from meshpki.ca.config_values import DAY, Seconds
from meshpki.errors import InvalidValueError
from meshpki.identity import ServiceAccountRef
from meshpki.tokens.policy import DEFAULT_AUDIENCE, ClusterPolicy

DEFAULT_LEEWAY: Final = Seconds(30)
DEFAULT_REVIEW_CACHE: Final = Seconds(30)
MAX_REVIEW_CACHE: Final = Seconds(600)


class Authentication(StrEnum):
    """By whose word a cluster's tokens are believed."""

    JWKS = "jwks"
    """Its keys' alone: no API server is asked, and what was deleted is believed until its tokens expire."""
    TOKENREVIEW = "tokenreview"
    """Its API server's alone."""
    HYBRID = "hybrid"
    """Its keys' first, then its API server's: nothing that was not signed reaches it, and what is gone is refused."""


@dataclass(frozen=True, slots=True)
class ApiServerSettings:
    """How to reach a cluster's API server, and as whom: one of three ways."""

    url: str | None = None
    ca_file: Path | None = None
    token_file: Path | None = None
    in_cluster: bool = False
    """As the pod that the CA runs in."""
    kubeconfig: Path | None = None
    context: str | None = None
    """None: the kubeconfig's current one."""
    allow_exec: tuple[Path, ...] = ()
    """Credential programs that the kubeconfig may name."""

    def __post_init__(self) -> None:
        """Raise InvalidValueError unless exactly one way is given, in full."""
        explicit = (self.url, self.ca_file, self.token_file)
        ways = [any(part is not None for part in explicit), self.in_cluster, self.kubeconfig is not None]
        of_kubeconfig = self.context is not None or bool(self.allow_exec)
        whole = not ways[0] or None not in explicit
        if sum(ways) != 1 or not whole or (of_kubeconfig and self.kubeconfig is None):
            raise InvalidValueError(
                "an API server that is not reached in exactly one way",
                wanted="`url`, `ca_file` and `token_file`; or `in_cluster: true`; or `kubeconfig`, with `context` and "
                "`allow_exec` where needed",
            )


@dataclass(frozen=True, slots=True)
class JwksSettings:
    """Where a cluster's keys come from: a file, an https address with its authority, or the API server itself."""

    file: Path | None = None
    url: str | None = None
    ca_file: Path | None = None
    api_server: bool = False
    """From /openid/v1/jwks of the cluster's `api_server`, which wants a credential there."""

    def __post_init__(self) -> None:
        """Raise InvalidValueError unless exactly one of the three is given in full."""
        sources = (self.file is not None) + (self.url is not None) + self.api_server
        if sources != 1 or (self.url is None) != (self.ca_file is None):
            raise InvalidValueError(
                "a JWKS that is not exactly one source",
                wanted="`file`; or `url` together with `ca_file`; or `api_server: true`",
            )


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """A cluster whose tokens are believed; see `meshpki.tokens.policy.ClusterPolicy`."""

    name: str
    issuer: str
    jwks: JwksSettings | None = None
    audiences: tuple[str, ...] = (DEFAULT_AUDIENCE,)
    require_pod: bool = True
    leeway: Seconds = DEFAULT_LEEWAY
    max_token_lifetime: Seconds = DAY
    authentication: Authentication = Authentication.JWKS
    api_server: ApiServerSettings | None = None
    review_cache: Seconds = DEFAULT_REVIEW_CACHE
    """How long the API server's good word may be used; what is deleted meanwhile is believed for so long."""
    node_proxies: tuple[ServiceAccountRef, ...] = ()
    """Accounts that may act for the pods of their own node, as ztunnel does; see `meshpki.ca.impersonation`."""

    def __post_init__(self) -> None:
        """Raise InvalidValueError when the way of authentication lacks something, or something is given for nothing."""
        how, jwks = self.authentication, self.jwks
        if (jwks is None) != (how is Authentication.TOKENREVIEW):
            raise InvalidValueError(
                f"cluster {self.name!r} with authentication {how} " + ("and" if jwks else "without") + " `jwks`",
                wanted="`jwks` for jwks and hybrid, and none for tokenreview",
            )
        wants_server = (
            how is not Authentication.JWKS or (jwks is not None and jwks.api_server) or bool(self.node_proxies)
        )
        if wants_server != (self.api_server is not None):
            raise InvalidValueError(
                f"cluster {self.name!r} with authentication {how} "
                + ("and" if self.api_server else "without")
                + " `api_server`",
                wanted="`api_server` for tokenreview, hybrid, keys from it (jwks: {api_server: true}), node_proxies; "
                "else none",
                todo="say `authentication: hybrid` if tokens shall be reviewed" if self.api_server else "",
            )
        if self.review_cache > MAX_REVIEW_CACHE:
            raise InvalidValueError(f"a review_cache of {self.review_cache} s", wanted=f"at most {MAX_REVIEW_CACHE} s")

    def policy(self) -> ClusterPolicy:
        """The terms for this cluster's tokens. Raises InvalidValueError."""
        return ClusterPolicy(
            cluster=self.name,
            issuer=self.issuer,
            audiences=self.audiences,
            leeway_seconds=self.leeway,
            max_lifetime_seconds=self.max_token_lifetime,
            require_pod=self.require_pod,
        )
