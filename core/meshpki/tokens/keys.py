"""Verification keys out of a JWKS document: each with the algorithms that it, and nothing else, decides."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.exceptions import PyJWTError

from meshpki.errors import InvalidValueError
from meshpki.tokens.algorithms import EC_CURVES, RSA_ALGORITHMS, SUPPORTED
from meshpki.tokens.encoding import StrictJsonError, decode_base64url, read_object
from meshpki.tokens.parse import MAX_KID
from meshpki.tokens.texts import quoted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from meshpki.tokens.parse import ParsedToken

MAX_JWKS_BYTES: Final = 256 * 1024
MAX_KEYS: Final = 256
MIN_RSA_BITS: Final = 2048
MAX_RSA_BITS: Final = 8192
"""Above it a verification takes milliseconds: a way to keep the server busy."""
_MIN_EXPONENT: Final = 65537
_MAX_EXPONENT: Final = 1 << 32
_NUMBERS: Final = {"RSA": ("n", "e"), "EC": ("x", "y")}


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A public key, its name, and the algorithms it may be used with."""

    kid: str | None
    algorithms: tuple[str, ...]
    """From the JWK's `alg`; without one, RS256 for an RSA key, and the one of its curve for an EC key."""
    public_key: RSAPublicKey | EllipticCurvePublicKey = field(repr=False)

    def verifies(self, parsed: ParsedToken) -> bool:
        """Whether the signature is this key's, under the algorithm of the header, which must be one of ours."""
        name = parsed.header.algorithm
        return name in self.algorithms and SUPPORTED[name].verify(
            parsed.signing_input, self.public_key, parsed.signature
        )


@dataclass(frozen=True, slots=True)
class KeySet:
    """The usable keys of a JWKS, and why others in it were left out. No keys means: trust nothing."""

    keys: tuple[VerificationKey, ...]
    skipped: tuple[str, ...] = ()
    _by_kid: Mapping[str, tuple[VerificationKey, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Raise InvalidValueError when one kid names two different keys for one algorithm."""
        by_kid: dict[str, tuple[VerificationKey, ...]] = {}
        for key in self.keys:
            if key.kid is None:
                continue
            namesakes = by_kid.get(key.kid, ())
            if any(set(other.algorithms) & set(key.algorithms) for other in namesakes):
                raise InvalidValueError(
                    f"the JWKS has two different keys with kid {quoted(key.kid)} for one algorithm",
                    wanted="a kid that names one key",
                )
            by_kid[key.kid] = (*namesakes, key)
        object.__setattr__(self, "_by_kid", by_kid)

    @classmethod
    def from_jwks(cls, data: bytes) -> KeySet:
        """Read a JWKS document (RFC 7517). Unknown kinds of keys are skipped, as the RFC wants, and so are weak ones.

        Raises InvalidValueError for a text that is no JWKS, is too large, names one kid twice, or holds a private key.
        """
        if len(data) > MAX_JWKS_BYTES:
            raise InvalidValueError(f"a JWKS of {len(data)} bytes", wanted=f"at most {MAX_JWKS_BYTES} bytes")
        try:
            entries = read_object(data).get("keys")
        except StrictJsonError as error:
            raise InvalidValueError(f"the JWKS: {error.seen}", wanted=error.wanted) from error
        if not isinstance(entries, list) or len(entries) > MAX_KEYS:
            raise InvalidValueError("the JWKS has no list `keys`, or a very long one", wanted=f"up to {MAX_KEYS} keys")
        return _collect(entries)

    def candidates(self, kid: str | None) -> Sequence[VerificationKey]:
        """The keys that may have signed a token: those of that kid; all of them for a token that names none."""
        return self.keys if kid is None else self._by_kid.get(kid, ())


class _UnusableKeyError(Exception):
    """A JWK to skip, with the reason as text."""


def _collect(entries: Iterable[object]) -> KeySet:
    keys: list[VerificationKey] = []
    skipped: list[str] = []
    for number, entry in enumerate(entries, start=1):
        try:
            key = _read_jwk(entry)
        except _UnusableKeyError as error:
            skipped.append(f"key {number}: {error}")
        else:
            if key not in keys:  # one key listed twice is one key
                keys.append(key)
    return KeySet(tuple(keys), tuple(skipped))


def _read_jwk(entry: object) -> VerificationKey:
    if not isinstance(entry, dict):
        raise _UnusableKeyError("no JSON object")
    kind = entry.get("kty")
    if not isinstance(kind, str) or kind not in _NUMBERS:
        raise _UnusableKeyError("kty is neither RSA nor EC")
    if "d" in entry:
        raise InvalidValueError(
            "the JWKS holds a private key",
            wanted="public keys alone",
            todo="make a new signing key: whoever has read this document can issue tokens",
        )
    _check_purpose(entry)
    algorithms = _algorithms(kind, entry)
    for name in _NUMBERS[kind]:
        number = entry.get(name)
        if not isinstance(number, str) or decode_base64url(number.encode("utf-8", "replace")) is None:
            raise _UnusableKeyError(f"{name} is no canonical base64url")
    try:
        # The library's own reader of one JWK: numbers to a key, with its checks of length and curve.
        public_key = SUPPORTED[algorithms[0]].from_jwk(entry)
    except (PyJWTError, ValueError) as error:
        raise _UnusableKeyError("its numbers make no key") from error
    if isinstance(public_key, RSAPublicKey):
        _check_rsa(public_key)
    return VerificationKey(_kid(entry), algorithms, public_key)


def _check_purpose(entry: Mapping[str, object]) -> None:
    """RFC 7517, sections 4.2 and 4.3: a key for another use must not verify signatures."""
    if "use" in entry and entry["use"] != "sig":
        raise _UnusableKeyError("its use is not sig")
    operations = entry.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        raise _UnusableKeyError("its key_ops do not allow verify")


def _algorithms(kind: str, entry: Mapping[str, object]) -> tuple[str, ...]:
    named = entry.get("alg")
    if kind == "EC":
        fitting = tuple(name for name, curve in EC_CURVES.items() if curve == entry.get("crv"))
        if not fitting:
            raise _UnusableKeyError("its crv is none of " + ", ".join(EC_CURVES.values()))
    else:
        fitting = RSA_ALGORITHMS
    if "alg" not in entry:
        return fitting[:1]
    if named not in fitting:
        raise _UnusableKeyError("its alg does not fit its kind")
    return (str(named),)


def _check_rsa(public_key: RSAPublicKey) -> None:
    if not MIN_RSA_BITS <= public_key.key_size <= MAX_RSA_BITS:
        raise _UnusableKeyError(f"an RSA key of {public_key.key_size} bits, not {MIN_RSA_BITS} to {MAX_RSA_BITS}")
    if not _MIN_EXPONENT <= public_key.public_numbers().e < _MAX_EXPONENT:
        raise _UnusableKeyError("an RSA key whose exponent is out of range; 65537 is usual")


def _kid(entry: Mapping[str, object]) -> str | None:
    kid = entry.get("kid", "")
    if not isinstance(kid, str) or len(kid) > MAX_KID:
        raise _UnusableKeyError("its kid is no text, or too long")
    return kid or None
