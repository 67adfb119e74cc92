"""What provision will do on this machine, as changes for a reviewer. The same settings give the same changes."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

from meshpki.hooks import Change, Mode
from meshpki_local import installation
from meshpki_local.layout import Layout
from meshpki_local.ports import HOST
from meshpki_local.settings import (
    AUDIENCE,
    ISSUER,
    KUBERNETES_MINIMUM,
    Agents,
    Settings,
    renewal_bound,
    settle,
    show_count,
    show_duration,
)

if TYPE_CHECKING:
    from meshpki.hooks import DetectRequest, PlanRequest


class Kind(StrEnum):
    """The kinds of change that this platform makes."""

    TOKEN_ISSUER = "local.token-issuer"
    CA_MATERIAL = "local.ca-material"
    CA_CONFIG = "local.ca-config"
    WORKLOADS = "local.workloads"
    SUPERVISOR = "local.supervisor"


_UNTOUCHED: Final = "nothing of somebody else's stands at these paths"


def settings_for(request: DetectRequest | PlanRequest, mode: Mode) -> Settings:
    """The operator's options over what is installed. Raises UsageError, MachineError."""
    return settle(request.options, mode, installation.read(Layout(request.state_dir).installation))


def token_issuer() -> Change:
    """The key that signs tokens."""
    return Change(
        id="token.issuer",
        kind=Kind.TOKEN_ISSUER,
        title="Make the key that issues service-account tokens",
        why="No Kubernetes API server runs here, so this machine issues trustworthy tokens itself: bound to an "
        "audience and a pod, expiring, rewritten at 80 % of their life as a kubelet does.",
        params={},
        diff=("+ tokens/issuer-key.pem (RSA 2048, mode 0600)", f"+ tokens/jwks.json (issuer {ISSUER})"),
        precondition=_UNTOUCHED,
        undo="remove the key: no token that it signed is accepted any more",
    )


def ca_material(settings: Settings) -> Change:
    """The certificates and keys of the CA. Of the settings only what the material depends on is in the change."""
    return Change(
        id="ca.material",
        kind=Kind.CA_MATERIAL,
        title=f"Make root and issuing certificate for {settings.trust_domain}",
        why="Certificates need a signer. The root's key signs the issuing certificate once; the CA never loads it.",
        params=settings.params("trust_domain"),
        diff=tuple(f"+ ca/{name}" for name in ("root-cert.pem", "root-key.pem", "issuer-cert.pem", "issuer-key.pem")),
        precondition=_UNTOUCHED,
        undo="remove certificates and keys: every identity issued under them ends",
        gate="key and certificate belong together, and the chain holds",
    )


def ca_config(settings: Settings) -> Change:
    """The CA's configuration."""
    port = f"port {settings.ca_port}" if settings.ca_port else "the installed port, or a free one that is then kept"
    bound = renewal_bound(settings)
    renewal = f"+ ca.yaml: renewal by certificate for {show_duration(bound)} after the last token, on a free port"
    return Change(
        id="ca.config",
        kind=Kind.CA_CONFIG,
        title="Configure the CA",
        why=f"It accepts tokens of {ISSUER} for the audience {AUDIENCE}, on {HOST} only, and writes down what it "
        "issues.",
        params=settings.params("trust_domain", "ca_port", "certificate_ttl"),
        diff=(
            f"+ ca.yaml: {HOST}, {port}",
            f"+ ca.yaml: certificates of {show_duration(settings.certificate_ttl)} for {settings.trust_domain}",
            *((renewal,) if bound else ()),
            "+ audit/issuance.jsonl",
        ),
        precondition="a port that is asked for is free",
        undo="remove it and the issuance log: copy audit/ first if you need it",
        gate="the CA's own reader accepts it",
    )


def workloads(settings: Settings) -> Change:
    """The set of workloads."""
    short = f", shorter than the {show_duration(KUBERNETES_MINIMUM)} that Kubernetes grants"
    life = f"tokens of {show_duration(settings.token_ttl)}" + (short if settings.token_ttl < KUBERNETES_MINIMUM else "")
    if settings.agent is Agents.NODE:
        agents = "one agent for all of them turns into certificates, served by Envoy SDS on one socket"
    else:
        face = "Envoy SDS and files" if settings.mode is Mode.SDS else "files"
        agents = f"an agent that turns them into certificates, served by {face}"
    return Change(
        id="workloads",
        kind=Kind.WORKLOADS,
        title=f"Give {show_count(len(settings.workloads), 'workload')} an identity",
        why=f"Each gets {life}, {'which' if settings.agent is Agents.NODE else 'and'} {agents}.",
        params=settings.params("trust_domain", "mode", "certificate_ttl", "token_ttl", "workloads", "agent"),
        diff=tuple(f"+ {account}: workloads/{account.namespace}.{account.name}" for account in settings.workloads),
        precondition=_UNTOUCHED,
        undo="remove tokens, keys and certificates of the workloads",
    )


def supervisor(settings: Settings) -> Change:
    """The process that keeps it all running."""
    count = len(settings.workloads)
    agents = (f"+ {show_count(count, 'agent')}",) if count else ()
    if settings.agent is Agents.NODE:
        agents = ("+ 1 agent for all workloads",)
    return Change(
        id="supervisor",
        kind=Kind.SUPERVISOR,
        title="Run the CA and the agents",
        why="One process rewrites tokens and restarts what dies. It runs in the background until deprovision or "
        "reboot; after a reboot run provision again, or have your service manager `meshpki run --platform local`.",
        params=settings.params(),
        diff=("+ 1 supervisor", "+ 1 CA", *agents),
        precondition="the CA's ports are free",
        undo="stop it and all that it started, remove its logs",
        gate="the CA is ready, and every workload has its certificate",
    )
