"""Tokens of the shape a Kubernetes API server issues, valid and broken in every way, with keys of their own.

Signed with `cryptography` and put together by hand, so that tests do not lean on the library that verifies.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from meshpki.tokens.keys import KeySet
from meshpki.tokens.policy import ClusterPolicy
from meshpki.tokens.reasons import TokenReason
from meshpki.tokens.trusted_cluster import TrustedCluster
from meshpki.tokens.verify import TokenVerifier

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from meshpki.tokens.keys import VerificationKey

NOW = 1_800_000_000
"""A fixed moment for tests that need no real clock: 2027-01-15T08:00:00Z."""
ISSUER = "https://cluster.test"
KID = "key-1"
ABSENT = object()
"""As the value of a claim or header: leave it out."""
_HASHES: dict[str, Callable[[], hashes.HashAlgorithm]] = {
    "256": hashes.SHA256,
    "384": hashes.SHA384,
    "512": hashes.SHA512,
}
_CURVES: dict[str, tuple[type[ec.EllipticCurve], int, str]] = {
    "ES256": (ec.SECP256R1, 32, "P-256"),
    "ES384": (ec.SECP384R1, 48, "P-384"),
    "ES512": (ec.SECP521R1, 66, "P-521"),
}


def b64url(data: bytes) -> bytes:
    """Base64url without padding (RFC 7515, appendix C)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def compact(value: object) -> bytes:
    """JSON as Go's encoder writes it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


@functools.cache
def rsa_key(slot: int = 0, bits: int = 2048) -> rsa.RSAPrivateKey:
    """The test process's RSA key number `slot`: made once, for keys are slow."""
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


@functools.cache
def ec_key(slot: int = 0, algorithm: str = "ES256") -> ec.EllipticCurvePrivateKey:
    """The test process's EC key number `slot` for that algorithm."""
    return ec.generate_private_key(_CURVES[algorithm][0]())


def public_jwk(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> dict[str, object]:
    """The bare members of a public JWK (RFC 7518, section 6): kty and the numbers."""
    if isinstance(key, rsa.RSAPrivateKey):
        numbers = key.public_key().public_numbers()
        return {
            "kty": "RSA",
            "n": b64url(numbers.n.to_bytes((numbers.n.bit_length() + 7) // 8)).decode(),
            "e": b64url(numbers.e.to_bytes((numbers.e.bit_length() + 7) // 8)).decode(),
        }
    point = key.public_key().public_numbers()
    size = (key.curve.key_size + 7) // 8
    name = next(name for curve, _, name in _CURVES.values() if isinstance(key.curve, curve))
    return {
        "kty": "EC",
        "crv": name,
        "x": b64url(point.x.to_bytes(size)).decode(),
        "y": b64url(point.y.to_bytes(size)).decode(),
    }


@dataclass(frozen=True)
class BrokenToken:
    """A token that must be refused by a policy of `TokenMaker.issuer` for audience istio-ca, and why."""

    name: str
    token: bytes = field(repr=False)
    reason: TokenReason

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class TokenMaker:
    """An issuer of tokens. Two makers with other `slot`s have other keys, whatever their `kid`.

    `maker.token(now=time.time())` is a good pod token for audience istio-ca; keyword arguments change it.
    """

    issuer: str = ISSUER
    kid: str | None = KID
    algorithm: str = "RS256"
    slot: int = 0

    @property
    def key(self) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey:
        return ec_key(self.slot, self.algorithm) if self.algorithm.startswith("ES") else rsa_key(self.slot)

    def jwk(self, **changes: object) -> dict[str, object]:
        """This maker's public JWK as a Kubernetes API server publishes it; ABSENT leaves a member out."""
        jwk = {"use": "sig", "kid": self.kid or "", "alg": self.algorithm, **public_jwk(self.key), **changes}
        return {name: value for name, value in jwk.items() if value is not ABSENT}

    def jwks(self, *others: TokenMaker) -> bytes:
        """The JWKS document with this maker's key, and those of others."""
        return compact({"keys": [maker.jwk() for maker in (self, *others)]})

    def public_pem(self) -> bytes:
        return self.key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def claims(
        self,
        *,
        now: float = NOW,
        namespace: str = "default",
        name: str = "web",
        audience: object = ("istio-ca",),
        lifetime: int = 3600,
        pod: str | None = "web-7d4b9c6f5-x2x9k",
        node: str | None = "node-a",
        **changes: object,
    ) -> dict[str, object]:
        """Claims as Kubernetes 1.32 issues them; `changes` replace claims, ABSENT leaves one out."""
        bound: dict[str, object] = {"namespace": namespace}
        if node is not None:
            bound["node"] = {"name": node, "uid": "7d6ffb4f-1f0c-4c9b-9f7a-0f5f1d1a2b3c"}
        if pod is not None:
            bound["pod"] = {"name": pod, "uid": "0b0e4f3a-8f1e-4a57-9b6e-3d2c1b0a9f8e"}
        bound["serviceaccount"] = {"name": name, "uid": "5a4b3c2d-1e0f-4a9b-8c7d-6e5f4a3b2c1d"}
        claims: dict[str, object] = {
            "aud": list(audience) if isinstance(audience, tuple) else audience,
            "exp": int(now) + lifetime,
            "iat": int(now),
            "iss": self.issuer,
            "jti": "c2b1a0f9-e8d7-4c6b-a5f4-e3d2c1b0a9f8",
            "kubernetes.io": bound,
            "nbf": int(now),
            "sub": f"system:serviceaccount:{namespace}:{name}",
            **changes,
        }
        return {claim: value for claim, value in claims.items() if value is not ABSENT}

    def header(self, **changes: object) -> dict[str, object]:
        """The header that Kubernetes writes: alg and kid; ABSENT leaves one out."""
        header = {"alg": self.algorithm, "kid": ABSENT if self.kid is None else self.kid, **changes}
        return {name: value for name, value in header.items() if value is not ABSENT}

    def signature(self, signing_input: bytes) -> bytes:
        digest = _HASHES[self.algorithm[2:]]()
        if isinstance(self.key, ec.EllipticCurvePrivateKey):
            size = _CURVES[self.algorithm][1]
            r, s = decode_dss_signature(self.key.sign(signing_input, ec.ECDSA(digest)))
            return r.to_bytes(size) + s.to_bytes(size)
        if self.algorithm.startswith("PS"):
            pss = padding.PSS(padding.MGF1(digest), padding.PSS.DIGEST_LENGTH)
            return self.key.sign(signing_input, pss, digest)
        return self.key.sign(signing_input, padding.PKCS1v15(), digest)

    def sign_raw(self, header: bytes, payload: bytes) -> bytes:
        """Sign these exact bytes of header and payload, whatever they say."""
        signing_input = b64url(header) + b"." + b64url(payload)
        return signing_input + b"." + b64url(self.signature(signing_input))

    def sign(self, claims: Mapping[str, object], header: Mapping[str, object] | None = None) -> bytes:
        return self.sign_raw(compact(self.header() if header is None else header), compact(claims))

    def token(self, header: Mapping[str, object] | None = None, /, **claims: object) -> bytes:
        """A signed token. Keywords are those of `claims`, so `token(now=t, lifetime=600)` is valid at t."""
        return self.sign(self.claims(**claims), header)  # type: ignore[arg-type]  # keywords are checked by claims()

    def legacy_token(self) -> bytes:
        """A secret-based token of Kubernetes before 1.24, signed by this key: no audience, no expiry, no pod."""
        prefix = "kubernetes.io/serviceaccount"
        return self.sign(
            {
                "iss": "kubernetes/serviceaccount",
                f"{prefix}/namespace": "default",
                f"{prefix}/secret.name": "web-token-abcde",
                f"{prefix}/service-account.name": "web",
                f"{prefix}/service-account.uid": "5a4b3c2d-1e0f-4a9b-8c7d-6e5f4a3b2c1d",
                "sub": "system:serviceaccount:default:web",
            }
        )

    def old_token(self, *, now: float = NOW, pod: str | None = "web-0") -> bytes:
        """A token as Kubernetes 1.13 issues it: empty kid, no jti, no node."""
        return self.sign(self.claims(now=now, pod=pod, node=None, jti=ABSENT), {"alg": self.algorithm, "kid": ""})

    def unsigned(self, *, now: float = NOW, algorithm: str = "none") -> bytes:
        """A good token's claims under alg `none`, with an empty signature."""
        header = compact(self.header(alg=algorithm))
        return b64url(header) + b"." + b64url(compact(self.claims(now=now))) + b"."

    def public_key_as_secret(self, *, now: float = NOW) -> bytes:
        """A good token's claims under HS256, keyed with the PEM of the public key (key confusion)."""
        signing_input = b64url(compact(self.header(alg="HS256"))) + b"." + b64url(compact(self.claims(now=now)))
        return signing_input + b"." + b64url(hmac.new(self.public_pem(), signing_input, hashlib.sha256).digest())

    def broken(self, now: float = NOW) -> list[BrokenToken]:
        """The catalogue of tokens that a server must refuse at `now`, each with its reason.

        Every one has exactly one fault; all but those whose fault is the signature are signed by this key.
        """
        good = self.claims(now=now)
        bound = good["kubernetes.io"]
        assert isinstance(bound, dict)
        text = compact(good)
        head = compact(self.header())
        other = TokenMaker(self.issuer, self.kid, self.algorithm, self.slot + 1)
        first, payload, last = self.sign(good).split(b".")
        far = int(now) + 7200

        def claims(**changes: object) -> bytes:
            return self.token(now=now, **changes)

        def kube(**changes: object) -> bytes:
            members = {**bound, **changes}
            return claims(**{"kubernetes.io": {k: v for k, v in members.items() if v is not ABSENT}})

        def header(**changes: object) -> bytes:
            return self.sign(good, self.header(**changes))

        reason = TokenReason
        table: list[tuple[str, bytes, TokenReason]] = [
            ("empty", b"", reason.MALFORMED),
            ("garbage", b"not a token at all", reason.MALFORMED),
            ("two parts", first + b"." + payload, reason.MALFORMED),
            ("four parts", b".".join((first, payload, last, last)), reason.MALFORMED),
            ("one mebibyte", b"A" * (1 << 20), reason.TOO_LARGE),
            ("padding", self.sign(good) + b"==", reason.MALFORMED),
            ("other alphabet", first + b"." + payload[:-2] + b"+/." + last, reason.MALFORMED),
            ("line break", first + b"." + payload + b"\n." + last, reason.MALFORMED),
            ("payload no object", self.sign_raw(head, b"[1]"), reason.MALFORMED),
            ("payload no JSON", self.sign_raw(head, b"{"), reason.MALFORMED),
            ("payload no UTF-8", self.sign_raw(head, text[:-1] + b',"x":"\xff"}'), reason.MALFORMED),
            ("payload UTF-16", self.sign_raw(head, text.decode().encode("utf-16")), reason.MALFORMED),
            ("NaN", self.sign_raw(head, text[:-1] + b',"x":NaN}'), reason.MALFORMED),
            ("infinite float", self.sign_raw(head, text[:-1] + b',"x":1e999}'), reason.MALFORMED),
            (
                "deep nesting",
                self.sign_raw(head, text[:-1] + b',"x":' + b"[" * 99 + b"]" * 99 + b"}"),
                reason.MALFORMED,
            ),
            ("duplicate sub", self.sign_raw(head, text[:-1] + b',"sub":"x"}'), reason.DUPLICATE_MEMBER),
            ("duplicate sub, escaped", self.sign_raw(head, text[:-1] + b',"s\\u0075b":"x"}'), reason.DUPLICATE_MEMBER),
            (
                "duplicate member inside",
                self.sign_raw(head, text.replace(b'"namespace":', b'"namespace":"kube-system","namespace":')),
                reason.DUPLICATE_MEMBER,
            ),
            ("duplicate alg", self.sign_raw(b'{"alg":"none",' + head[1:], text), reason.DUPLICATE_MEMBER),
            ("alg none", self.unsigned(now=now), reason.ALGORITHM_NOT_ALLOWED),
            ("alg nOnE", self.unsigned(now=now, algorithm="nOnE"), reason.ALGORITHM_NOT_ALLOWED),
            ("alg HS256 with the public key", self.public_key_as_secret(now=now), reason.ALGORITHM_NOT_ALLOWED),
            ("alg missing", header(alg=ABSENT), reason.ALGORITHM_NOT_ALLOWED),
            ("alg a number", header(alg=5), reason.ALGORITHM_NOT_ALLOWED),
            ("another algorithm than the key's", header(alg="PS512"), reason.ALGORITHM_NOT_ALLOWED),
            ("typ at+jwt", header(typ="at+jwt"), reason.HEADER_NOT_ALLOWED),
            ("crit", header(crit=["exp"]), reason.HEADER_NOT_ALLOWED),
            ("b64", header(b64=False), reason.HEADER_NOT_ALLOWED),
            ("jwk", header(jwk=other.jwk()), reason.HEADER_NOT_ALLOWED),
            ("jku", header(jku="https://attacker.test/jwks"), reason.HEADER_NOT_ALLOWED),
            ("x5u", header(x5u="https://attacker.test/cert"), reason.HEADER_NOT_ALLOWED),
            ("x5c", header(x5c=["MIIB"]), reason.HEADER_NOT_ALLOWED),
            ("kid a number", header(kid=7), reason.HEADER_NOT_ALLOWED),
            ("unknown kid", header(kid="../../etc/passwd"), reason.UNKNOWN_KEY),
            ("another key under the same kid", other.sign(good), reason.BAD_SIGNATURE),
            (
                "signature of another token",
                first + b"." + payload + b"." + claims(jti="x").split(b".")[2],
                reason.BAD_SIGNATURE,
            ),
            ("empty signature", first + b"." + payload + b".", reason.BAD_SIGNATURE),
            ("legacy", self.legacy_token(), reason.LEGACY),
            (
                "legacy claims under our issuer",
                claims(**{"kubernetes.io/serviceaccount/namespace": "x"}),
                reason.LEGACY,
            ),
            ("other issuer", claims(iss="https://other.test"), reason.UNKNOWN_ISSUER),
            ("issuer with a slash more", claims(iss=self.issuer + "/"), reason.UNKNOWN_ISSUER),
            ("no issuer", claims(iss=ABSENT), reason.CLAIM_MISSING),
            ("issuer a list", claims(iss=[self.issuer]), reason.CLAIM_INVALID),
            ("other audience", claims(audience=["https://kubernetes.default.svc"]), reason.WRONG_AUDIENCE),
            ("other audience as text", claims(audience="istio-ca-x"), reason.WRONG_AUDIENCE),
            ("audience that begins like ours", claims(audience=["istio"]), reason.WRONG_AUDIENCE),
            ("empty audience", claims(audience=[]), reason.NO_AUDIENCE),
            ("no audience", claims(audience=ABSENT), reason.NO_AUDIENCE),
            ("audience null", claims(audience=None), reason.CLAIM_INVALID),
            ("audience of numbers", claims(audience=[1]), reason.CLAIM_INVALID),
            ("expired", claims(iat=int(now) - 3600, nbf=int(now) - 3600, exp=int(now) - 600), reason.EXPIRED),
            ("not yet valid", claims(nbf=int(now) + 600), reason.NOT_YET_VALID),
            ("issued in the future", claims(iat=int(now) + 600, nbf=ABSENT), reason.NOT_YET_VALID),
            ("no exp", claims(exp=ABSENT), reason.CLAIM_MISSING),
            ("no iat", claims(iat=ABSENT), reason.CLAIM_MISSING),
            ("exp text", claims(exp=str(far)), reason.CLAIM_INVALID),
            ("exp float", claims(exp=far + 0.5), reason.CLAIM_INVALID),
            ("exp bool", claims(exp=True), reason.CLAIM_INVALID),
            ("exp out of range", claims(exp=10**15), reason.CLAIM_INVALID),
            ("iat float", claims(iat=float(int(now))), reason.CLAIM_INVALID),
            ("nbf text", claims(nbf=str(int(now))), reason.CLAIM_INVALID),
            ("nbf null", claims(nbf=None), reason.CLAIM_INVALID),
            ("expires before it was issued", claims(exp=int(now) - 1, iat=int(now)), reason.CLAIM_INVALID),
            ("lives a year", claims(lifetime=31_536_000), reason.LIFETIME_TOO_LONG),
            ("no pod", claims(pod=None), reason.NOT_BOUND),
            ("no sub", claims(sub=ABSENT), reason.CLAIM_MISSING),
            ("sub a list", claims(sub=["system:serviceaccount:default:web"]), reason.BAD_SUBJECT),
            ("sub of a person", claims(sub="alice"), reason.BAD_SUBJECT),
            ("sub of another account", claims(sub="system:serviceaccount:default:api"), reason.BAD_SUBJECT),
            ("sub of another namespace", claims(sub="system:serviceaccount:kube-system:web"), reason.BAD_SUBJECT),
            ("name with a slash", claims(name="../x"), reason.BAD_SUBJECT),
            ("name in upper case", claims(name="Web"), reason.BAD_SUBJECT),
            ("namespace with a colon", claims(namespace="default:x"), reason.BAD_SUBJECT),
            ("no kubernetes.io", claims(**{"kubernetes.io": ABSENT}), reason.CLAIM_MISSING),
            ("kubernetes.io a text", claims(**{"kubernetes.io": "x"}), reason.CLAIM_INVALID),
            ("no serviceaccount", kube(serviceaccount=ABSENT), reason.CLAIM_MISSING),
            ("serviceaccount without uid", kube(serviceaccount={"name": "web"}), reason.CLAIM_INVALID),
            ("pod a text", kube(pod="web-0"), reason.CLAIM_INVALID),
            ("pod without uid", kube(pod={"name": "web-0"}), reason.CLAIM_INVALID),
            ("pod uid with a line break", kube(pod={"name": "web-0", "uid": "a\nb"}), reason.CLAIM_INVALID),
            ("node null", kube(node=None), reason.CLAIM_INVALID),
            ("warnafter text", kube(warnafter="soon"), reason.CLAIM_INVALID),
            ("jti a number", claims(jti=1), reason.CLAIM_INVALID),
        ]
        return [BrokenToken(*row) for row in table]


@dataclass(frozen=True)
class StaticKeys:
    """A key source that always has the same keys."""

    key_set: KeySet

    @classmethod
    def of(cls, *makers: TokenMaker) -> StaticKeys:
        return cls(KeySet.from_jwks(makers[0].jwks(*makers[1:])))

    def keys(self, kid: str | None, now: float) -> Sequence[VerificationKey]:
        return self.key_set.candidates(kid)

    def at_once(self, kid: str | None, now: float) -> bool:
        return True

    def known(self) -> Sequence[VerificationKey]:
        return self.key_set.keys

    def may_be_behind(self, issued_at: float, now: float) -> bool:
        return False


def verifier(*makers: TokenMaker, **policy: object) -> TokenVerifier:
    """A verifier that trusts these makers as clusters c1, c2, ...; keywords go into every ClusterPolicy."""
    return TokenVerifier(
        [
            TrustedCluster(
                ClusterPolicy(cluster=f"c{number}", issuer=maker.issuer, **policy),  # type: ignore[arg-type]
                StaticKeys.of(maker),
            )
            for number, maker in enumerate(makers, start=1)
        ]
    )
