"""Rungs 5 and 6: the token under review, with our audience, and without any, by which an API server would take it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from meshpki.provision.cluster.evidence import Outcome, member, text, texts
from meshpki.provision.cluster.permission import TOKEN_REVIEW
from meshpki.provision.cluster.token import FOREIGN
from meshpki.provision.cluster.verdict import Answer, Reason, Rung, Verdict, could_not_tell, not_asked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshpki.provision.cluster.evidence import Exchange, Members
    from meshpki.provision.cluster.token import Asked

PATH: Final = "/apis/authentication.k8s.io/v1/tokenreviews"
_NO_TOKEN: Final = "there is no token to review"
_TARGETS: Final = re.compile(r"for the target audiences \[([^\]]*)\]")
_QUOTED: Final = re.compile(r'"([^"]*)"')
_CRYPTOGRAPHY: Final = "error in cryptographic primitive"
_NO_AUDIENCES: Final = "error validating audiences"


@dataclass(frozen=True, slots=True)
class ReviewSeen:
    """What of a TokenReview's status matters."""

    authenticated: bool
    audiences: tuple[str, ...] = ()
    user: str = ""
    error: str = ""

    @property
    def for_its_audience(self) -> bool:
        """Whether it was refused because it is for others. An authenticator that was away refuses, too."""
        return _TARGETS.search(self.error) is not None

    @property
    def api_audiences(self) -> tuple[str, ...]:
        """The API server's own audiences, which it names when it refuses a token for not being meant for them."""
        found = _TARGETS.search(self.error)
        return tuple(_QUOTED.findall(found[1])) if found else ()


def request(token: str, audiences: Sequence[str]) -> dict[str, object]:
    """The TokenReview; without audiences the API server takes its own."""
    spec: dict[str, object] = {"token": token}
    if audiences:
        spec["audiences"] = list(audiences)
    return {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec}


def read(members: Members) -> ReviewSeen | None:
    """Read a TokenReview's answer; None unless it is one with a status."""
    if text(members, "kind") != "TokenReview" or not isinstance(member(members, "status"), dict):
        return None
    return ReviewSeen(
        member(members, "status", "authenticated") is True,
        texts(members, "status", "audiences"),
        text(members, "status", "user", "username"),
        text(members, "status", "error"),
    )


def judge(seen: Exchange[ReviewSeen] | None, asked: Asked) -> Verdict:
    """Whether the API server confirms the token for just the audience that it was asked about, and whose it is."""
    if seen is None:
        return not_asked(Rung.REVIEW, _NO_TOKEN)
    if seen.found is None:
        if seen.outcome is Outcome.SERVER_ERROR and _NO_AUDIENCES in seen.message:
            text = f"the API server cannot check an audience: {seen.message}"
            todo = "start every API server with --service-account-issuer and --api-audiences"
            return Verdict(Rung.REVIEW, Answer.NO, Reason.NO_AUDIENCES, text, todo, (seen,))
        return could_not_tell(Rung.REVIEW, seen, TOKEN_REVIEW)
    found = seen.found
    if not found.authenticated or found.error:
        return _refused(seen, found)
    if FOREIGN not in found.audiences:
        text = f"the token was accepted for {', '.join(found.audiences) or 'no audience at all'}: audiences are ignored"
        todo = "look for an authentication webhook that does not know audiences, or upgrade"
        return Verdict(Rung.REVIEW, Answer.NO, Reason.AUDIENCE_NOT_CONFIRMED, text, todo, (seen,))
    if found.user != asked.subject:
        text = f"the token was taken for {found.user!a}, not {asked.subject!a}"
        todo = "look for an authentication webhook that renames users"
        return Verdict(Rung.REVIEW, Answer.NO, Reason.OTHER_SUBJECT, text, todo, (seen,))
    text = "the API server confirms the token, its account, and the audience it was asked about"
    return Verdict(Rung.REVIEW, Answer.YES, Reason.AUDIENCE_CONFIRMED, text, evidence=(seen,))


def _refused(seen: Exchange[ReviewSeen], found: ReviewSeen) -> Verdict:
    text = f"the API server refuses the token that it issued: {found.error or 'without saying why'}"
    todo = "compare issuer and keys of all API servers behind this address, and look into their logs"
    if _CRYPTOGRAPHY in found.error:
        todo = (
            "put the public half of --service-account-signing-key-file among --service-account-key-file "
            "of every API server"
        )
    return Verdict(Rung.REVIEW, Answer.NO, Reason.NOT_AUTHENTICATED, text, todo, (seen,))


def judge_closed(seen: Exchange[ReviewSeen] | None, minted: Verdict, confirmed: Verdict, asked: Asked) -> Verdict:
    """Whether the API server keeps a mesh token out of itself: a review without audiences has to refuse it.

    `minted` is the verdict on the token: one for other audiences than the mesh's proves nothing here. `confirmed` is
    the verdict on the review with our audience: only what passed there can prove anything by failing here.
    """
    if seen is None:
        return not_asked(Rung.API_SERVER, _NO_TOKEN)
    if seen.found is None:
        return could_not_tell(Rung.API_SERVER, seen, TOKEN_REVIEW)
    if minted.reason is Reason.AUDIENCE_NOT_AS_ASKED:
        text = "the token is not for the mesh: whether it is let in proves nothing"
        return Verdict(Rung.API_SERVER, Answer.UNKNOWN, Reason.PROVES_NOTHING, text, "see the token above", (seen,))
    if seen.found.authenticated:
        return _open(seen, seen.found, asked.audiences[0])
    if not confirmed.good:
        text = "the token was refused, as it was with an audience: that proves nothing"
        return Verdict(Rung.API_SERVER, Answer.UNKNOWN, Reason.PROVES_NOTHING, text, "see the rung above", (seen,))
    if not seen.found.for_its_audience:
        text = f"the token was refused, and not for its audience: {seen.found.error or 'nobody says why'}"
        todo = "see to what it says, and try again: whether it is let in when that is mended is not known"
        return Verdict(Rung.API_SERVER, Answer.UNKNOWN, Reason.PROVES_NOTHING, text, todo, (seen,))
    own = seen.found.api_audiences
    text = "a mesh token does not open the API server" + (f", whose own audiences are {', '.join(own)}" if own else "")
    return Verdict(Rung.API_SERVER, Answer.YES, Reason.CLOSED, text, evidence=(seen,))


def _open(seen: Exchange[ReviewSeen], found: ReviewSeen, audience: str) -> Verdict:
    head = "A MESH TOKEN OPENS THE API SERVER: whoever gets hold of one acts as that workload there"
    if audience in found.audiences:
        text = f"{head}; {audience} is among its own audiences"
        todo = f"take {audience} out of --api-audiences of every API server; nothing in the mesh needs it there"
        return Verdict(Rung.API_SERVER, Answer.DANGER, Reason.OPEN_BY_AUDIENCE, text, todo, (seen,))
    text = f"{head}; it takes tokens whatever their audience is"
    todo = "look for an authentication webhook that does not know audiences, or upgrade"
    return Verdict(Rung.API_SERVER, Answer.DANGER, Reason.OPEN_TO_ANY, text, todo, (seen,))
