"""Rung 7: whether the issuer's document and keys are published where we can fetch them, and are those of the token."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from meshpki.provision.cluster import version
from meshpki.provision.cluster.evidence import objects, text
from meshpki.provision.cluster.permission import ISSUER_DOCUMENT, ISSUER_KEYS
from meshpki.provision.cluster.verdict import Answer, Reason, Rung, Verdict, could_not_tell

if TYPE_CHECKING:
    from meshpki.provision.cluster.evidence import Exchange, Members
    from meshpki.provision.cluster.review import ReviewSeen
    from meshpki.provision.cluster.token import TokenSeen
    from meshpki.provision.cluster.version import Release

DOCUMENT_PATH: Final = "/.well-known/openid-configuration"
KEYS_PATH: Final = "/openid/v1/jwks"
"""Asked for at the address that we talk to: `jwks_uri` has the advertised one, which may lead nowhere from here."""
_NOT_FOUND: Final = 404
_PUBLISHABLE: Final = re.compile(r"https://[^?#]+")
"""As OpenID Connect Discovery wants it; for any other issuer an API server only logs that it publishes nothing."""


@dataclass(frozen=True, slots=True)
class DocumentSeen:
    """What of the discovery document matters."""

    issuer: str
    jwks_uri: str


@dataclass(frozen=True, slots=True)
class KeysSeen:
    """What of the JWKS matters."""

    kids: tuple[str, ...]
    verifies: bool | None
    """Whether a published key verifies the token's signature; None when there was no token."""


def read_document(members: Members) -> DocumentSeen | None:
    """Read the discovery document; None unless it names an issuer."""
    issuer = text(members, "issuer")
    return DocumentSeen(issuer, text(members, "jwks_uri")) if issuer else None


def read_keys(members: Members, *, verifies: bool | None) -> KeysSeen | None:
    """Read a JWKS; None unless it has a list of keys."""
    if not isinstance(members.get("keys"), list):
        return None
    return KeysSeen(tuple(text(key, "kid") for key in objects(members, "keys")), verifies)


@dataclass(frozen=True, slots=True)
class Known:
    """What earlier rungs found out."""

    release: Release | None
    token: TokenSeen | None
    refusal: ReviewSeen | None
    """Of the review without audiences."""

    @property
    def other_issuers(self) -> tuple[str, ...]:
        """Audiences of the API server beside the token's issuer: by default they are the issuers that it accepts."""
        own = self.refusal.api_audiences if self.refusal else ()
        issuer = self.token.issuer if self.token else ""
        return tuple(name for name in own if name != issuer) if issuer in own else ()


def judge(document: Exchange[DocumentSeen], keys: Exchange[KeysSeen] | None, known: Known) -> Verdict:
    """Whether a CA can verify tokens by the published keys; where not, it can still have them reviewed."""
    evidence = (document, keys) if keys is not None else (document,)
    if document.status == _NOT_FOUND:
        return _not_served(document, known)
    if document.found is None:
        return could_not_tell(Rung.ISSUER, document, ISSUER_DOCUMENT)
    issuer = document.found.issuer
    if known.token is not None and known.token.issuer != issuer:
        text = f"published is {issuer}, the token says {known.token.issuer}"
        todo = "compare the first --service-account-issuer of all API servers; until then let the CA use tokenreview"
        return Verdict(Rung.ISSUER, Answer.NO, Reason.ISSUER_DIFFERS, text, todo, evidence)
    if keys is None or keys.found is None:
        return could_not_tell(Rung.ISSUER, keys if keys is not None else document, ISSUER_KEYS)
    if keys.found.verifies is False:
        text = f"published is {issuer}, {_keys(keys.found.kids)}, and none verifies the token"
        todo = "publish the signing key's public half on every API server; until then let the CA use tokenreview"
        return Verdict(Rung.ISSUER, Answer.NO, Reason.KEY_NOT_PUBLISHED, text, todo, evidence)
    text = f"{issuer}, {_keys(keys.found.kids)}" + (", one verifies the token" if keys.found.verifies else "")
    if known.other_issuers:
        text += f"; new tokens say so, and it may accept {', '.join(known.other_issuers)} as issuer too"
        return Verdict(Rung.ISSUER, Answer.YES, Reason.ONE_OF_SEVERAL, text, evidence=evidence)
    return Verdict(Rung.ISSUER, Answer.YES, Reason.PUBLISHED, text, evidence=evidence)


def _keys(kids: tuple[str, ...]) -> str:
    return f"{len(kids)} key{'s' if len(kids) != 1 else ''}"


def _not_served(document: Exchange[DocumentSeen], known: Known) -> Verdict:
    """A 404 is no word about the cluster by itself: API servers have no Status for such a path, as proxies have none.

    It is a no where the issuer or the release explains it.
    """
    issuer = known.token.issuer if known.token else ""
    release = known.release
    said = "not published"
    use = "let the CA use tokenreview"
    if issuer and not _PUBLISHABLE.fullmatch(issuer):
        is_url = issuer.startswith("https://")
        reason = Reason.ISSUER_NOT_HTTPS
        text = f"{said}: the issuer {issuer} " + ("has a ? or a #" if is_url else "is no https URL")
        todo = f"{use}, or change --service-account-issuer to an https URL, with both accepted for a while"
        if release is not None and release < version.DISCOVERY:
            todo = use
    elif release is not None and release < version.DISCOVERY:
        reason, text = Reason.ISSUER_TOO_OLD, f"{said}: {release} cannot, {version.DISCOVERY} and later can"
        todo = f"{use}, or give it the public half of --service-account-signing-key-file"
    elif release is not None and release < version.DISCOVERY_BY_DEFAULT:
        reason, text = Reason.ISSUER_TOO_OLD, f"{said}: by default only {version.DISCOVERY_BY_DEFAULT} and later do"
        todo = f"{use}, or set --feature-gates=ServiceAccountIssuerDiscovery=true on every API server"
    else:
        text = f"{document.request}: {document.short}"
        todo = f"{use}; an issuer that is no https URL, a proxy or a wrong path in the server's address hides it"
        return Verdict(Rung.ISSUER, Answer.UNKNOWN, Reason.ISSUER_HIDDEN, text, todo, (document,))
    return Verdict(Rung.ISSUER, Answer.NO, reason, text, todo, (document,))
