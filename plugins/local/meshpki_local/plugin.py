"""The platform `local`: answers the hooks for this machine. Each answer imports what it needs when it is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from meshpki.hooks import API_VERSION, Platform, Projection, Propagation, SignerOffer
from meshpki.plugins import hookimpl
from meshpki_local import planning
from meshpki_local.layout import Layout
from meshpki_local.planning import Kind
from meshpki_local.settings import OPTIONS

if TYPE_CHECKING:
    from pathlib import Path

    from meshpki.hooks import Detection, DetectRequest, Effect, EffectFactory, Params, PlanRequest, Signer


def _factory(name: str) -> EffectFactory:
    """The factory of that name in `effects.factories`, imported when it is called."""

    def make(state_dir: Path, params: Params) -> Effect:
        from meshpki_local.effects import factories

        factory: EffectFactory = getattr(factories, name)
        return factory(state_dir, params)

    return make


_PLATFORM: Final = Platform(
    name="local",
    summary="This machine, no cluster: a token issuer, a CA and an agent per workload, supervised",
    api_version=API_VERSION,
    options=OPTIONS,
    effects={kind.value: _factory(kind.name.lower()) for kind in Kind},
)


@hookimpl
def platform() -> Platform:
    """Who this is."""
    return _PLATFORM


@hookimpl
def detect(request: DetectRequest) -> Detection:
    """Look at this machine."""
    from meshpki_local import detect as machine

    return machine.detect(request)


@hookimpl
def plan_token_projection(request: PlanRequest) -> Projection:
    """An issuer of our own, since there is no API server."""
    del request
    return Projection((planning.token_issuer(),))


@hookimpl
def signer(request: PlanRequest) -> SignerOffer:
    """A root and an issuing certificate in files."""
    layout = Layout(request.state_dir)

    def open_signer() -> Signer:
        from meshpki.ca.signer import SoftwareSigner

        return SoftwareSigner.load(layout.issuer_certificate, layout.issuer_key, layout.root_certificate)

    return SignerOffer((planning.ca_material(planning.settings_for(request, request.mode)),), open_signer)


@hookimpl
def propagate(request: PlanRequest) -> Propagation:
    """The CA, the workloads and the process that keeps them."""
    from meshpki_local.probe import LocalProbe

    settings = planning.settings_for(request, request.mode)
    changes = (planning.ca_config(settings), planning.workloads(settings), planning.supervisor(settings))
    return Propagation(changes, LocalProbe(Layout(request.state_dir), settings))


@hookimpl
def run(state_dir: Path) -> int:
    """Supervise in the foreground."""
    from meshpki_local.supervisor import supervise

    return supervise(Layout(state_dir.absolute()))
