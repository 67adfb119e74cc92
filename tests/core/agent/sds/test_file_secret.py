"""PEM out of files: what goes out, what never does, and a key that is another certificate's."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from meshpki.agent.sds.file_secret import certificate_from, roots_from
from meshpki.errors import IntegrityError, InvalidValueError, MeshpkiError
from meshpki.wire.sds_pb2 import Secret
from support.fake_ca import Party, key_pem, make_ca, make_leaf, pem

ROOT = make_ca("root")
KEY = ec.generate_private_key(ec.SECP256R1())
LEAF = pem(make_leaf(ROOT, KEY.public_key())).encode()
CHAIN = LEAF + ROOT.pem.encode()


def parts(chain: bytes, key: bytes) -> tuple[bytes, bytes]:
    certificate = Secret.FromString(certificate_from("file-cert:/c~/k", chain, key).body).tls_certificate
    return certificate.certificate_chain.inline_bytes, certificate.private_key.inline_bytes


def test_a_pair_is_served_as_it_is() -> None:
    assert parts(CHAIN, key_pem(KEY)) == (CHAIN, key_pem(KEY))


def test_chain_and_key_may_lie_in_one_file_and_neither_holds_the_other() -> None:
    both = b"a line of text\n" + key_pem(KEY) + CHAIN
    assert parts(both, both) == (CHAIN, key_pem(KEY))


def test_an_older_form_of_key_goes_out_as_pkcs8() -> None:
    old = KEY.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    assert b"EC PRIVATE KEY" in old
    assert parts(CHAIN, old) == (CHAIN, key_pem(KEY))


def test_a_key_of_another_certificate_is_never_served() -> None:
    with pytest.raises(IntegrityError, match="not that of the first certificate"):
        certificate_from("n", CHAIN, key_pem(ec.generate_private_key(ec.SECP256R1())))
    with pytest.raises(IntegrityError):
        certificate_from("n", ROOT.pem.encode() + LEAF, key_pem(KEY))


LOCKED = KEY.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"password")
)


@pytest.mark.parametrize(
    ("chain", "key"),
    [
        (b"", key_pem(KEY)),
        (CHAIN, b""),
        (CHAIN, LOCKED),
        (CHAIN, key_pem(KEY)[:-40]),
        (CHAIN[:-40], key_pem(KEY)),
        (CHAIN, LEAF),
        (key_pem(KEY), key_pem(KEY)),
        (b"\xff" * 10, b"\xff" * 10),
    ],
    # Names of their own: keys differ in every process, and pytest-xdist wants the same tests in all.
    ids=["no-chain", "no-key", "locked-key", "cut-key", "cut-chain", "certificate-as-key", "key-as-chain", "garbage"],
)
def test_what_is_no_pair_is_refused_and_nothing_of_it_is_said(chain: bytes, key: bytes) -> None:
    with pytest.raises(InvalidValueError) as caught:
        certificate_from("n", chain, key)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert all(line not in str(caught.value) for line in key_pem(KEY).decode().splitlines()[1:-1])


def test_roots_are_certificates_and_nothing_else() -> None:
    """Asked for as roots, a file with a key in it gives its certificates; a file with a key alone gives nothing."""
    other = make_ca("other")
    mixed = f"# ours\n{ROOT.pem}{other.pem}".encode() + key_pem(KEY)
    context = Secret.FromString(roots_from("file-root:/r", mixed).body).validation_context
    assert context.trusted_ca.inline_bytes == (ROOT.pem + other.pem).encode()
    with pytest.raises(MeshpkiError):
        roots_from("file-root:/r", key_pem(KEY))


def test_versions_follow_the_content_and_tell_nothing_of_the_key() -> None:
    one = certificate_from("n", CHAIN, key_pem(KEY))
    renewed = pem(make_leaf(ROOT, KEY.public_key())).encode()
    assert certificate_from("n", renewed, key_pem(KEY)).version != one.version
    assert certificate_from("m", b"text\n" + CHAIN, key_pem(KEY)).version == one.version
    assert roots_from("n", ROOT.pem.encode()).version != roots_from("n", make_ca("x").pem.encode()).version
    assert "PRIVATE" not in repr(one)


@pytest.mark.parametrize("party", [ROOT, make_ca("middle", ROOT)], ids=["root", "middle"])
def test_a_ca_certificate_may_be_served_too(party: Party) -> None:
    chain = x509.load_pem_x509_certificates(parts(party.pem.encode(), key_pem(party.key))[0])
    assert chain == [party.certificate]
