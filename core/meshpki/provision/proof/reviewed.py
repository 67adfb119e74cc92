"""What the API server says of a mesh token: that it is good for the mesh, and for nothing else. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from meshpki.errors import RefusedError

if TYPE_CHECKING:
    from meshpki.provision.cluster.review import ReviewSeen
    from meshpki.provision.proof.question import Question

_OPEN: Final = "A MESH TOKEN OPENS THE API SERVER"


def confirmed(seen: ReviewSeen, question: Question) -> str:
    """Demand that it is authenticated, for our audience, as our account; a sentence. Raises RefusedError."""
    if not seen.authenticated or seen.error:
        raise RefusedError(
            f"the API server refuses the token that it issued: {seen.error or 'without saying why'}",
            todo="see what `meshpki detect` says of this cluster",
        )
    if question.audience not in seen.audiences:
        raise RefusedError(
            f"the API server took it for {', '.join(seen.audiences) or 'no audience at all'}: audiences are ignored",
            wanted=f"a review that confirms {question.audience}",
            todo="look for an authentication webhook that does not know audiences, or upgrade",
        )
    if seen.user != question.account.subject:
        raise RefusedError(f"the API server took it for {seen.user!a}", wanted=question.account.subject)
    return f"authenticated for {question.audience} as {seen.user}"


def closed(seen: ReviewSeen, question: Question) -> str:
    """Demand that the API server does not take it for itself; a sentence. Raises RefusedError: a red finding."""
    if not seen.authenticated:
        own = seen.api_audiences
        return "refused" + (f": its own audiences are {', '.join(own)}" if own else "")
    if question.audience in seen.audiences:
        raise RefusedError(
            f"{_OPEN}: {question.audience} is among its own audiences",
            todo=f"take {question.audience} out of --api-audiences of every API server",
        )
    raise RefusedError(
        f"{_OPEN}: it takes tokens whatever their audience is",
        todo="look for an authentication webhook that does not know audiences, or upgrade",
    )


def shut_out(status: int) -> str:
    """Demand 401 for a request with the mesh token as its credential; a sentence. Raises RefusedError."""
    if status == 401:
        return "401 Unauthorized"
    if status == 429 or status >= 500:
        raise RefusedError(f"could not tell: HTTP {status}", wanted="401", todo="look into the API server's log")
    raise RefusedError(
        f"{_OPEN}: it answered HTTP {status} to whoever brings one",
        wanted="401",
        todo="look at --api-audiences of every API server, and for an authentication webhook",
    )
