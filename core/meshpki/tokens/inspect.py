"""Whether a token is trustworthy, explained line by line and offline, to the person who holds it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from meshpki.tokens import policy as rules
from meshpki.tokens.claims import LEGACY_ISSUER, check_legacy, read_bound, read_issuer, read_kubernetes, read_token_id
from meshpki.tokens.parse import ParsedToken, check_header, parse, read_part, split
from meshpki.tokens.reasons import TokenReason, TokenRefusedError
from meshpki.tokens.texts import listed, moment, quoted
from meshpki.tokens.verify import check_signature

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from meshpki.tokens.keys import KeySet

    Claims = Mapping[str, object]
_INSPECTED = "inspected"
_ASK = "see what was to write it: the volume that is mounted, or the command before the pipe"


class Verdict(StrEnum):
    """What a line, or the whole inspection, comes to."""

    OK = "ok"
    PROBLEM = "problem"
    UNKNOWN = "unknown"
    """It could not be examined: nothing wrong was found, nothing was proven."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: what was looked at, how it is, what was seen, and what to do if it is not well."""

    subject: str
    """form, algorithm, issuer, audience, expiry, account, binding or signature."""
    verdict: Verdict
    text: str
    todo: str = ""
    reason: str = ""
    """The value of the TokenReason with which the CA would refuse the token; empty if it would not."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """The findings in the order in which a reader wants them. Holds claims, but neither token nor signature."""

    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> Verdict:
        """PROBLEM if there is one; else UNKNOWN if anything could not be examined; else OK."""
        verdicts = {finding.verdict for finding in self.findings}
        return next((v for v in (Verdict.PROBLEM, Verdict.UNKNOWN) if v in verdicts), Verdict.OK)

    @property
    def trustworthy(self) -> bool:
        """Whether everything was examined and found well. What was not proven is not trustworthy."""
        return self.verdict is Verdict.OK


def inspect(
    token: bytes,
    *,
    now: float,
    audience: str = rules.DEFAULT_AUDIENCE,
    issuer: str | None = None,
    keys: KeySet | None = None,
    require_pod: bool = True,
) -> Inspection:
    """Examine a token as the CA would, but all of it, and say what it claims. `now` is epoch seconds.

    Without `issuer` or `keys` those lines are UNKNOWN. Raises InvalidValueError for an empty audience or issuer.
    """
    if not token:
        nothing = "no token came: what was read is empty"
        return Inspection((Finding("form", Verdict.PROBLEM, nothing, _ASK, TokenReason.MALFORMED.value),))
    try:
        head, payload, _ = split(token)
        header = read_part(head, "header")
        claims = read_part(payload, "payload")
    except TokenRefusedError as error:
        return Inspection((_problem("form", error),))
    policy = rules.ClusterPolicy(
        cluster=_INSPECTED,
        issuer=issuer or _claimed_issuer(claims),
        audiences=(audience,),
        require_pod=require_pod,
    )
    return Inspection(
        (
            Finding("form", Verdict.OK, f"three parts of canonical base64url and strict JSON, {len(token)} bytes"),
            _algorithm(header),
            _issuer(claims, issuer),
            _line("audience", lambda: _audience(claims, policy)),
            _line("expiry", lambda: _expiry(claims, policy, now)),
            _line("account", lambda: _account(claims)),
            _line("binding", lambda: _binding(claims, policy)),
            _signature(token, keys),
        )
    )


def _line(subject: str, examine: Callable[[], str]) -> Finding:
    try:
        return Finding(subject, Verdict.OK, examine())
    except TokenRefusedError as error:
        return _problem(subject, error)


def _problem(subject: str, error: TokenRefusedError) -> Finding:
    text = error.seen + (f"; wanted: {error.wanted}" if error.wanted else "")
    return Finding(subject, Verdict.PROBLEM, text, error.todo, error.reason.value)


def _algorithm(header: Claims) -> Finding:
    try:
        checked = check_header(header)
    except TokenRefusedError as error:
        says = header.get("alg")
        shown = f"alg {quoted(says)}: " if isinstance(says, str) else ""
        finding = _problem("algorithm", error)
        return Finding(finding.subject, finding.verdict, shown + finding.text, finding.todo, finding.reason)
    kid = f"kid {quoted(checked.kid)}" if checked.kid else "no kid (as Kubernetes 1.13 writes)"
    return Finding("algorithm", Verdict.OK, f"{checked.algorithm}, {kid}")


def _issuer(claims: Claims, wanted: str | None) -> Finding:
    try:
        check_legacy(claims)
        seen = read_issuer(claims)
    except TokenRefusedError as error:
        return _problem("issuer", error)
    if wanted is None:
        todo = "give the issuer that the cluster should have (--issuer)"
        return Finding("issuer", Verdict.UNKNOWN, f"{quoted(seen)}; not compared with any", todo)
    if seen != wanted:
        todo = "use a token of that cluster, or configure this issuer"
        reason = TokenReason.UNKNOWN_ISSUER.value
        return Finding("issuer", Verdict.PROBLEM, f"{quoted(seen)}; wanted: {quoted(wanted)}", todo, reason)
    return Finding("issuer", Verdict.OK, quoted(seen))


def _audience(claims: Claims, policy: rules.ClusterPolicy) -> str:
    rules.check_audience(claims, policy)
    audience = claims["aud"]
    names = [audience] if isinstance(audience, str) else [str(name) for name in _items(audience)]
    others = [name for name in names if name not in policy.audiences]
    return listed(names) + ("; it is good at those other audiences too" if others else "")


def _items(value: object) -> Iterator[object]:
    if isinstance(value, list):
        yield from value


def _expiry(claims: Claims, policy: rules.ClusterPolicy, now: float) -> str:
    times = rules.check_times(claims, policy, now)
    text = (
        f"until {moment(times.expires_at)}, {int(times.expires_at - now)} s from now"
        f" (issued {moment(times.issued_at)} for {times.expires_at - times.issued_at} s)"
    )
    if times.warn_after is not None:
        text += f"; Kubernetes extended it and warns from {moment(times.warn_after)} on"
    return text


def _account(claims: Claims) -> str:
    account, uid = rules.check_subject(claims, read_kubernetes(claims))
    return f"service account {account}, uid {uid}"


def _binding(claims: Claims, policy: rules.ClusterPolicy) -> str:
    kube = read_kubernetes(claims)
    pod = rules.check_pod(kube, policy)
    node = read_bound(kube, "node")
    token_id = read_token_id(claims)
    parts = [
        f"pod {pod.name}, uid {pod.uid}" if pod else "bound to no pod, and none is demanded",
        f"node {node.name}, uid {node.uid}" if node else "no node (Kubernetes below 1.29, or no pod)",
        f"jti {token_id}" if token_id else "no jti (Kubernetes below 1.29)",
    ]
    return "; ".join(parts)


def _signature(token: bytes, keys: KeySet | None) -> Finding:
    try:
        parsed: ParsedToken = parse(token)
        if keys is None:
            todo = "give the cluster's public keys (--jwks): anybody can write a token, only its issuer can sign it"
            return Finding("signature", Verdict.UNKNOWN, "not checked: no keys were given", todo)
        check_signature(parsed, keys.candidates(parsed.header.kid))
    except TokenRefusedError as error:
        return _problem("signature", error)
    return Finding("signature", Verdict.OK, f"checked with the {parsed.header.algorithm} key that the token names")


def _claimed_issuer(claims: Claims) -> str:
    """Stands in for an issuer that was not given; the issuer's own line says that nothing was compared."""
    issuer = claims.get("iss")
    return issuer if isinstance(issuer, str) and issuer and issuer != LEGACY_ISSUER else _INSPECTED
