"""From the kind of a change to the effect that makes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshpki_local.effects.ca_config import CaConfig
from meshpki_local.effects.ca_material import CaMaterial
from meshpki_local.effects.supervisor import SupervisorProcess
from meshpki_local.effects.token_issuer import TokenIssuer
from meshpki_local.effects.workloads import Workloads
from meshpki_local.layout import Layout
from meshpki_local.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from meshpki.hooks import Effect, Params


def token_issuer(state_dir: Path, params: Params) -> Effect:
    """Make the effect of `local.token-issuer`, which has no parameters."""
    del params
    return TokenIssuer(Layout(state_dir))


def ca_material(state_dir: Path, params: Params) -> Effect:
    """Make the effect of `local.ca-material`."""
    return CaMaterial(Layout(state_dir), Settings.from_params(params).trust_domain)


def ca_config(state_dir: Path, params: Params) -> Effect:
    """Make the effect of `local.ca-config`."""
    return CaConfig(Layout(state_dir), Settings.from_params(params))


def workloads(state_dir: Path, params: Params) -> Effect:
    """Make the effect of `local.workloads`."""
    return Workloads(Layout(state_dir), Settings.from_params(params))


def supervisor(state_dir: Path, params: Params) -> Effect:
    """Make the effect of `local.supervisor`."""
    return SupervisorProcess(Layout(state_dir), Settings.from_params(params))
