"""Answers that must not be served, one for each check, and those that must be."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from meshpki.agent.rotation.acceptance import AnswerError, accept, accept_held, is_trusted
from meshpki.agent.rotation.key_request import KeyRequest, KeyType, new_key_request
from meshpki.agent.rotation.snapshot import Snapshot
from support.fake_ca import BACKDATE, SPIFFE_ID, FakeAuthority, Party, make_ca, make_leaf, pem

NOW = int(time.time())


@dataclass(frozen=True)
class Scene:
    authority: FakeAuthority
    request: KeyRequest

    @property
    def key(self) -> ec.EllipticCurvePublicKey:
        key = x509.load_pem_x509_csr(self.request.csr_pem.encode()).public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        return key

    def leaf(self, issuer: Party | None = None, **how: object) -> str:
        return pem(make_leaf(issuer or self.authority.issuer, self.key, now=NOW, **how))  # type: ignore[arg-type]  # a table's values

    def accept(self, answer: list[str], *, roots: bytes | None = None, now: float = NOW) -> Snapshot:
        return accept(answer, self.request, roots_pem=roots or self.authority.roots_pem, now=now)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene(FakeAuthority(now=NOW), new_key_request(KeyType.EC_P256))


def certificates(chain: bytes) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(chain)


def test_the_chain_is_served_without_the_root(scene: Scene) -> None:
    authority = scene.authority
    held = scene.accept(authority.answer(scene.request.csr_pem))
    leaf, issuer = certificates(held.chain_pem)
    assert issuer == authority.issuer.certificate
    assert held.bundle_pem == authority.roots_pem
    assert (str(held.spiffe_id), held.serial) == (SPIFFE_ID, leaf.serial_number)
    assert held.not_after == int(leaf.not_valid_after_utc.timestamp())
    assert held.not_before == int(leaf.not_valid_before_utc.timestamp())
    key = serialization.load_pem_private_key(held.key_pem, None)
    assert key.public_key() == leaf.public_key()
    assert held.key_pem.startswith(b"-----BEGIN PRIVATE KEY-----"), "PKCS#8"
    assert "PRIVATE" not in repr(held)
    assert "PRIVATE" not in repr(scene.request)


def test_a_root_that_signs_leaves_itself(scene: Scene) -> None:
    root = scene.authority.root
    held = scene.accept([scene.leaf(root), root.pem])
    assert len(certificates(held.chain_pem)) == 1


def test_a_root_among_the_intermediates_is_dropped(scene: Scene) -> None:
    leaf, issuer, root = scene.authority.answer(scene.request.csr_pem)
    assert len(certificates(scene.accept([leaf, issuer, root, root]).chain_pem)) == 2
    assert len(certificates(scene.accept([leaf, issuer + root, root]).chain_pem)) == 2


def test_a_longer_path(scene: Scene) -> None:
    lower = make_ca("lower", scene.authority.issuer)
    held = scene.accept([scene.leaf(lower), lower.pem, scene.authority.issuer.pem, scene.authority.root.pem])
    assert len(certificates(held.chain_pem)) == 3


def test_old_and_new_root_are_served_together(scene: Scene) -> None:
    leaf, issuer, root = scene.authority.answer(scene.request.csr_pem)
    other = make_ca("next root")
    held = scene.accept([leaf, issuer, other.pem + root])
    assert len(certificates(held.bundle_pem)) == 2


def test_an_rsa_key() -> None:
    authority, request = FakeAuthority(now=NOW), new_key_request(KeyType.RSA_2048)
    held = accept(authority.answer(request.csr_pem), request, roots_pem=authority.roots_pem, now=NOW)
    key = serialization.load_pem_private_key(held.key_pem, None)
    assert getattr(key, "key_size", 0) == 2048


def test_the_request_says_nothing_but_the_key(scene: Scene) -> None:
    csr = x509.load_pem_x509_csr(scene.request.csr_pem.encode())
    assert csr.is_signature_valid
    assert not list(csr.subject)
    assert not list(csr.extensions)


Broken: TypeAlias = Callable[[Scene], list[str]]


def answer(scene: Scene) -> list[str]:
    return scene.authority.answer(scene.request.csr_pem)


def with_leaf(**how: object) -> Broken:
    return lambda s: [s.leaf(**how), *answer(s)[1:]]  # type: ignore[arg-type]  # a table's values


def other_key(scene: Scene) -> list[str]:
    return scene.authority.answer(new_key_request(KeyType.EC_P256).csr_pem)


def other_key_kind(scene: Scene) -> list[str]:
    return scene.authority.answer(new_key_request(KeyType.RSA_2048).csr_pem)


def other_root(scene: Scene) -> list[str]:
    """A whole other CA: consistent in itself, but not ours."""
    return FakeAuthority(now=NOW).answer(scene.request.csr_pem)


def grafted_root(scene: Scene) -> list[str]:
    """Another CA's chain, with our root beside its own: ours signed none of it."""
    leaf, issuer, root = FakeAuthority(now=NOW).answer(scene.request.csr_pem)
    return [leaf, issuer, root + scene.authority.root.pem]


def signed_by_a_leaf(scene: Scene) -> list[str]:
    fraud = make_ca("fraud", scene.authority.issuer, ca=False)
    return [scene.leaf(fraud), fraud.pem, *answer(scene)[1:]]


def stale_issuer(scene: Scene) -> list[str]:
    stale = make_ca("stale", scene.authority.root, now=NOW - 400 * 86400)
    return [scene.leaf(stale), stale.pem, scene.authority.root.pem]


def namesake_issuer(scene: Scene) -> list[str]:
    """An issuer with the right name and another key."""
    return [answer(scene)[0], make_ca("test issuer", scene.authority.root).pem, scene.authority.root.pem]


@pytest.mark.parametrize(
    ("reason", "broken"),
    [
        ("chain_length", lambda s: []),
        ("chain_length", lambda s: answer(s)[:1]),
        ("chain_length", lambda s: answer(s) + [s.authority.root.pem] * 10),
        ("chain_malformed", lambda s: ["", *answer(s)[1:]]),
        ("chain_malformed", lambda s: [answer(s)[0], "garbage"]),
        ("chain_malformed", lambda s: [answer(s)[0], "ümlaut", answer(s)[2]]),
        ("chain_malformed", lambda s: [answer(s)[0][:200] + answer(s)[0][-40:], *answer(s)[1:]]),
        ("chain_malformed", lambda s: ["".join(answer(s)[:2]), answer(s)[2]]),
        ("other_key", other_key),
        ("other_key", other_key_kind),
        ("certificate_expired", with_leaf(begins=-7200, ends=0)),
        ("certificate_expired", with_leaf(begins=-7200, ends=-3600)),
        ("certificate_not_yet_valid", with_leaf(begins=61, ends=3600)),
        ("not_an_svid", with_leaf(uris=())),
        ("not_an_svid", with_leaf(uris=(), dns=("web.default.svc",))),
        ("not_an_svid", with_leaf(uris=(SPIFFE_ID, SPIFFE_ID + "2"))),
        ("not_an_svid", with_leaf(uris=("https://mesh.test/ns/default/sa/web",))),
        ("not_an_svid", with_leaf(uris=("spiffe://mesh.test",))),
        ("not_an_svid", with_leaf(uris=("spiffe://mesh.test/ns/../sa/web",))),
        ("not_an_svid", with_leaf(ca=True)),
        ("chain_broken", lambda s: [answer(s)[0], s.authority.root.pem]),
        ("unknown_root", lambda s: answer(s)[:2]),
        ("chain_broken", namesake_issuer),
        ("chain_broken", signed_by_a_leaf),
        ("chain_broken", stale_issuer),
        ("unknown_root", other_root),
        ("unknown_root", grafted_root),
    ],
)
def test_an_answer_that_must_not_be_served(scene: Scene, reason: str, broken: Broken) -> None:
    with pytest.raises(AnswerError) as caught:
        scene.accept(broken(scene))
    assert caught.value.reason == reason


@pytest.mark.parametrize("roots", [b"", b"garbage"])
def test_a_broken_file_of_roots(scene: Scene, roots: bytes) -> None:
    with pytest.raises(AnswerError) as caught:
        accept(answer(scene), scene.request, roots_pem=roots, now=NOW)
    assert caught.value.reason == "roots_malformed"


@pytest.mark.parametrize(
    ("skew", "reason"),
    [(-600, "certificate_not_yet_valid"), (-BACKDATE - 50, ""), (3500, ""), (3601, "certificate_expired")],
)
def test_clocks_that_differ_are_named(scene: Scene, skew: int, reason: str) -> None:
    fresh = [scene.leaf(), *answer(scene)[1:]]
    if not reason:
        assert str(scene.accept(fresh, now=NOW + skew).spiffe_id) == SPIFFE_ID
        return
    with pytest.raises(AnswerError, match=str(NOW + skew)) as caught:
        scene.accept(fresh, now=NOW + skew)
    assert caught.value.reason == reason


def held_again(held: Snapshot, roots: bytes, *, bundle: bytes | None = None, now: float = NOW) -> Snapshot:
    bundle = held.bundle_pem if bundle is None else bundle
    return accept_held(held.chain_pem, bundle, held.key_pem, roots_pem=roots, now=now)


def test_what_was_accepted_once_is_accepted_again(scene: Scene) -> None:
    held = scene.accept(scene.authority.answer(scene.request.csr_pem))
    assert held_again(held, scene.authority.roots_pem) == held
    assert held_again(held, scene.authority.roots_pem, bundle=b"").bundle_pem == b"", "the configured roots are enough"


def test_what_was_held_is_examined_as_an_answer_is(scene: Scene) -> None:
    held = scene.accept(scene.authority.answer(scene.request.csr_pem))
    other = FakeAuthority(now=NOW)
    with pytest.raises(AnswerError) as caught:
        held_again(held, other.roots_pem)
    assert caught.value.reason == "unknown_root"
    with pytest.raises(AnswerError) as caught:
        held_again(held, scene.authority.roots_pem, now=held.not_after)
    assert caught.value.reason == "certificate_expired"
    leaf = scene.leaf(uris=("https://mesh.test",)).encode() + scene.authority.issuer.pem.encode()
    with pytest.raises(AnswerError) as caught:
        accept_held(leaf, b"", held.key_pem, roots_pem=scene.authority.roots_pem, now=NOW)
    assert caught.value.reason == "not_an_svid"


def test_a_chain_is_trusted_while_its_root_is_configured(scene: Scene) -> None:
    held, other = scene.accept(scene.authority.answer(scene.request.csr_pem)), FakeAuthority(now=NOW).roots_pem
    assert is_trusted(held.chain_pem, other + scene.authority.roots_pem, NOW)
    assert not is_trusted(held.chain_pem, other, NOW)
    assert not is_trusted(held.chain_pem, scene.authority.roots_pem, NOW + 400 * 86400), "the root is over"
