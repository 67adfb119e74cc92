"""What a client's node says about itself, and the form of trust bundles that follows from it (ADR 0010)."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from meshpki.wire.sds_pb2 import Node

DISABLE_KEY: Final = "disable_spiffe_cert_validation"
"""SPIRE's key in a node's metadata."""
ENABLE_KEY: Final = "spiffe_cert_validation"
FIRST_ENVOY_WITH_VALIDATOR: Final = (1, 18)


class Validation(StrEnum):
    """How Envoy is told to check peers."""

    PLAIN = "plain"
    """`trusted_ca`, under every name: whoever chains to one of the roots."""
    BY_NAME = "by-name"
    """Istio's name `ROOTCA` is plain; SPIRE's `ALL` and a trust domain's ID are Envoy's SPIFFE validator."""
    SPIFFE = "spiffe"
    """Envoy's SPIFFE validator, under every name: the peer's trust domain chooses the roots."""


def validation_of(node: Node) -> Validation:
    """Decide by a stream's first request, the only one that is sure to say who the node is (spire#4608)."""
    version = _envoy_version(node)
    too_old = version is not None and version < FIRST_ENVOY_WITH_VALIDATOR
    if _says_yes(node, DISABLE_KEY) or too_old:
        return Validation.PLAIN
    if _says_yes(node, ENABLE_KEY):
        return Validation.SPIFFE
    return Validation.PLAIN if version is None else Validation.BY_NAME


def _envoy_version(node: Node) -> tuple[int, int] | None:
    if not node.HasField("user_agent_build_version"):
        return None
    version = node.user_agent_build_version.version
    return version.major_number, version.minor_number


def _says_yes(node: Node, key: str) -> bool:
    """A bool, or its text, as people write in YAML with quotes and without."""
    if key not in node.metadata.fields:
        return False
    value = node.metadata.fields[key]
    return value.bool_value or value.string_value.lower() == "true"
