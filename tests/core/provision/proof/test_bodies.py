"""The objects of a round do nothing, and go with their account."""

from __future__ import annotations

import pytest

from meshpki.provision.cluster.evidence import member
from meshpki.provision.proof import bodies, stranger
from meshpki.provision.proof.question import NAME
from meshpki.tokens.keys import KeySet
from meshpki.tokens.parse import parse
from meshpki.tokens.reasons import TokenReason, TokenRefusedError
from meshpki.tokens.verify import check_signature
from support.tokens import TokenMaker

METADATA = {"name": NAME, "labels": {"a": "b"}, "annotations": {"mark": "x"}}


def test_the_pod_is_restricted_and_nobody_schedules_it() -> None:
    pod = bodies.pod(METADATA, "uid-1")
    assert member(pod, "spec", "schedulerName") == bodies.NOBODY
    assert member(pod, "spec", "automountServiceAccountToken") is False
    containers = member(pod, "spec", "containers")
    assert isinstance(containers, list)
    (container,) = containers
    assert container["imagePullPolicy"] == "Never"
    # https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert member(pod, "spec", "securityContext", "runAsNonRoot") is True
    assert member(pod, "spec", "securityContext", "seccompProfile") == {"type": "RuntimeDefault"}


@pytest.mark.parametrize("body", [bodies.pod(METADATA, "uid-1"), bodies.legacy_secret(METADATA, "uid-1")])
def test_marks_are_kept_and_the_account_owns_it(body: dict[str, object]) -> None:
    assert member(body, "metadata", "labels", "a") == "b"
    assert member(body, "metadata", "annotations", "mark") == "x"
    owner = {"apiVersion": "v1", "kind": "ServiceAccount", "name": NAME, "uid": "uid-1"}
    assert member(body, "metadata", "ownerReferences") == [owner]


def test_the_account_gets_no_token_of_its_own() -> None:
    assert bodies.account(METADATA)["automountServiceAccountToken"] is False


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "ES384", "PS256"])
def test_a_strangers_token_differs_by_its_signature_alone(algorithm: str) -> None:
    maker = TokenMaker(algorithm=algorithm)
    token = maker.token().decode()
    forged = stranger.resigned(token)
    assert forged != token
    assert forged.rpartition(".")[0] == token.rpartition(".")[0]
    keys = KeySet.from_jwks(maker.jwks())
    check_signature(parse(token.encode()), keys.candidates(maker.kid))
    with pytest.raises(TokenRefusedError) as caught:
        check_signature(parse(forged.encode()), keys.candidates(maker.kid))
    assert caught.value.reason is TokenReason.BAD_SIGNATURE
