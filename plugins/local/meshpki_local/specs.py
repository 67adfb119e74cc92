"""Which processes an installation consists of, and how each is started."""

from __future__ import annotations

import hashlib
import sys
from typing import TYPE_CHECKING, Final

import meshpki
from meshpki.hooks import Mode
from meshpki.runtime.files import read_capped
from meshpki_local.children import ChildSpec
from meshpki_local.layout import NODE_AGENT, agent_name
from meshpki_local.settings import CLUSTER, SERVER_NAME, Agents

if TYPE_CHECKING:
    from pathlib import Path

    from meshpki.identity import ServiceAccountRef
    from meshpki_local.layout import Layout
    from meshpki_local.ports import Ports
    from meshpki_local.settings import Settings

CA: Final = "ca"
CA_RANK: Final = 0
AGENT_RANK: Final = 1
_LIMIT: Final = 1 << 20


def wanted_children(layout: Layout, settings: Settings, ports: Ports) -> tuple[ChildSpec, ...]:
    """The CA, then an agent per workload, or one for all. Reads what decides over a restart; raises MachineError."""
    if settings.agent is Agents.NODE:
        return (_ca(layout), _node_agent(layout, settings, ports))
    agents = tuple(_agent(layout, settings, ports, account) for account in settings.workloads)
    return (_ca(layout), *agents)


def agent_of(account: ServiceAccountRef, settings: Settings) -> str:
    """The name of the child that serves this workload."""
    return NODE_AGENT if settings.agent is Agents.NODE else agent_name(account)


def _ca(layout: Layout) -> ChildSpec:
    argv = _meshpki("ca", "serve", "--config", str(layout.ca_config))
    return ChildSpec(CA, argv, fingerprint(argv, [layout.ca_config, layout.issuer_certificate]), CA_RANK)


def _agent(layout: Layout, settings: Settings, ports: Ports, account: ServiceAccountRef) -> ChildSpec:
    paths = layout.workload(account)
    sockets = ("--sds-socket", str(paths.socket)) if settings.mode is Mode.SDS else ()
    renewal = ("--ca-renewal-address", ports.renewal_address) if ports.renewal else ()
    argv = _meshpki(
        *("agent", "run"),
        *("--ca-address", ports.grpc_address),
        *renewal,
        *("--ca-roots", str(layout.root_certificate)),
        *("--ca-server-name", SERVER_NAME),
        *("--token-file", str(paths.token)),
        *sockets,
        *("--files", str(paths.certificates)),
        *("--cache", str(paths.cache)),
        *("--cluster", CLUSTER),
        *("--ttl", f"{settings.certificate_ttl}s"),
        *("--status-file", str(paths.status)),
    )
    return ChildSpec(agent_name(account), argv, fingerprint(argv, [layout.root_certificate]), AGENT_RANK)


def _node_agent(layout: Layout, settings: Settings, ports: Ports) -> ChildSpec:
    argv = _meshpki(
        *("agent", "run", "--node"),
        *("--ca-address", ports.grpc_address),
        *("--ca-roots", str(layout.root_certificate)),
        *("--ca-server-name", SERVER_NAME),
        *("--sds-socket", str(layout.node_socket)),
        *("--cluster", CLUSTER),
        *("--ttl", f"{settings.certificate_ttl}s"),
    )
    return ChildSpec(NODE_AGENT, argv, fingerprint(argv, [layout.root_certificate]), AGENT_RANK)


def _meshpki(*arguments: str) -> tuple[str, ...]:
    """Our own command by this interpreter. -P: no module is taken from the directory it happens to be started in."""
    return (sys.executable, "-P", "-m", "meshpki_cli", *arguments)


def fingerprint(argv: tuple[str, ...], files: list[Path]) -> str:
    """What a running child was started from: program, version, arguments and the content of its files, as a digest."""
    digest = hashlib.sha256("\0".join((meshpki.__version__, *argv)).encode())
    for path in files:
        digest.update(hashlib.sha256(read_capped(path, limit=_LIMIT)).digest())
    return digest.hexdigest()[:32]
