"""What a node says, and the form of its trust bundles: a table."""

from __future__ import annotations

import pytest
from envoy.config.core.v3 import base_pb2

from meshpki.agent.sds.node import Validation, validation_of
from meshpki.wire.sds_pb2 import Node

PLAIN, BY_NAME, SPIFFE = Validation.PLAIN, Validation.BY_NAME, Validation.SPIFFE


def node(version: tuple[int, int] | None, **metadata: object) -> Node:
    """As Envoy itself would spell it."""
    theirs = base_pb2.Node(id="sidecar~10.0.0.1~web.default~x", user_agent_name="envoy")
    if version is not None:
        theirs.user_agent_build_version.version.major_number = version[0]
        theirs.user_agent_build_version.version.minor_number = version[1]
    theirs.metadata.update(metadata)
    return Node.FromString(theirs.SerializeToString())


@pytest.mark.parametrize(
    ("version", "validation"),
    [(None, PLAIN), ((1, 17), PLAIN), ((0, 99), PLAIN), ((1, 18), BY_NAME), ((1, 40), BY_NAME), ((2, 0), BY_NAME)],
)
def test_an_envoy_that_says_nothing(version: tuple[int, int] | None, validation: Validation) -> None:
    assert validation_of(node(version)) is validation
    assert validation_of(node(version, CLUSTER_ID="east", INTERCEPTION_MODE="REDIRECT")) is validation


@pytest.mark.parametrize("yes", [True, "true", "True"])
@pytest.mark.parametrize("version", [None, (1, 17), (1, 40)])
def test_an_envoy_that_wants_plain_roots_gets_them(yes: object, version: tuple[int, int] | None) -> None:
    assert validation_of(node(version, disable_spiffe_cert_validation=yes)) is PLAIN
    assert validation_of(node(version, disable_spiffe_cert_validation=yes, spiffe_cert_validation=yes)) is PLAIN


@pytest.mark.parametrize("yes", [True, "true"])
@pytest.mark.parametrize(("version", "validation"), [(None, SPIFFE), ((1, 17), PLAIN), ((1, 40), SPIFFE)])
def test_an_envoy_that_wants_the_validator_gets_it_unless_it_has_none(
    yes: object, version: tuple[int, int] | None, validation: Validation
) -> None:
    assert validation_of(node(version, spiffe_cert_validation=yes)) is validation


@pytest.mark.parametrize("no", [False, "false", "", "yes please", 1, 0, None, ["true"], {"true": True}])
@pytest.mark.parametrize("key", ["disable_spiffe_cert_validation", "spiffe_cert_validation"])
def test_anything_else_is_no(key: str, no: object) -> None:
    assert validation_of(node((1, 40), **{key: no})) is BY_NAME


def test_a_plain_version_text_is_no_version() -> None:
    theirs = base_pb2.Node(user_agent_version="1.40.0")
    assert validation_of(Node.FromString(theirs.SerializeToString())) is PLAIN


def test_no_node_at_all() -> None:
    assert validation_of(Node()) is PLAIN
