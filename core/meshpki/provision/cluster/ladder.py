"""The ladder: every rung's verdict, the modes that they allow together, and what would lift the cluster one rung."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from meshpki.errors import UnavailableError
from meshpki.hooks import Detection, Evidence, Mode
from meshpki.provision.cluster import recorded as records
from meshpki.provision.cluster import version
from meshpki.provision.cluster.verdict import Answer, Rung, Verdict

if TYPE_CHECKING:
    from meshpki.hooks import Value
    from meshpki.provision.cluster.recorded import Recorded

PROOFS = (Rung.TOKEN, Rung.REVIEW, Rung.API_SERVER)
"""What `sds` rests on: a token for our audience, the API server's word for it, and that it opens nothing else."""
DECIDING = (Rung.VERSION, *PROOFS, Rung.CANARY)
"""What can refute `sds`."""
_QUESTIONS = {
    Rung.VERSION: "Which Kubernetes is it?",
    Rung.TOKEN_REQUEST: "Does it serve TokenRequest?",
    Rung.PERMISSIONS: "May we ask all of it?",
    Rung.TOKEN: "Does it issue a token for the mesh alone?",
    Rung.REVIEW: "Does it confirm such a token, and for whom?",
    Rung.API_SERVER: "Is the API server closed to such a token?",
    Rung.ISSUER: "Does it publish issuer and keys?",
    Rung.CERTIFICATES: "Can pods ask for certificates by themselves?",
    Rung.CANARY: "Do kubelets mount such a token?",
}


class Standing(StrEnum):
    """What the whole comes to."""

    PROVEN = "proven"
    """`sds`, by all of its proofs; or pod certificates, where `sds` is refuted."""
    FILE_MOUNT_ONLY = "file-mount-only"
    """Nothing but file-mounted keys, which takes the operator's word."""
    UNKNOWN = "could-not-tell"
    """About `sds`, whatever else is proven: what was not looked at may be a danger. Or about all that is left."""
    DANGER = "danger"


@dataclass(frozen=True, slots=True)
class Step:
    """What stands between a cluster and a mode."""

    mode: Mode
    todo: str


@dataclass(frozen=True, slots=True)
class Ladder:
    """What a cluster can do, and how we know."""

    verdicts: tuple[Verdict, ...]
    git_version: str
    """Empty when it could not be read."""
    distribution: str
    features: str
    """The release whose features it has, such as `1.37`."""
    emulated: str
    issuer: str
    """What its tokens say; empty without a token."""
    facts: tuple[tuple[str, Value], ...] = ()

    def __getitem__(self, rung: Rung) -> Verdict:
        """The verdict on that rung. Raises KeyError when it was not asked for."""
        for verdict in self.verdicts:
            if verdict.rung is rung:
                return verdict
        raise KeyError(rung)

    @property
    def sds(self) -> Answer:
        """Whether `sds` is possible: no by one refutation, yes by all proofs, else it could not be told."""
        proofs = [self[rung] for rung in PROOFS]
        if any(verdict.answer is Answer.DANGER for verdict in proofs):
            return Answer.DANGER
        deciding = [verdict for verdict in self.verdicts if verdict.rung in DECIDING]
        if any(verdict.answer is Answer.NO for verdict in deciding):
            return Answer.NO
        return Answer.YES if all(verdict.good for verdict in proofs) else Answer.UNKNOWN

    @property
    def modes(self) -> tuple[Mode, ...]:
        """The modes that the evidence allows, best first. File-mounted keys need nothing of the cluster."""
        best = (Mode.POD_CERTIFICATE,) if self[Rung.CERTIFICATES].good else ()
        return (*best, *((Mode.SDS,) if self.sds is Answer.YES else ()), Mode.FILE_MOUNT)

    @property
    def standing(self) -> Standing:
        """What the whole comes to: a danger before all, then what could not be told and would decide."""
        match self.sds, self[Rung.CERTIFICATES].answer:
            case Answer.DANGER, _:
                return Standing.DANGER
            case (Answer.UNKNOWN, _) | (Answer.NO, Answer.UNKNOWN):
                return Standing.UNKNOWN
            case Answer.NO, Answer.NO:
                return Standing.FILE_MOUNT_ONLY
            case _:
                return Standing.PROVEN

    @property
    def policies(self) -> tuple[str, ...]:
        """How a CA can authenticate this cluster's tokens (`clusters[].authentication`), best first."""
        if self.sds is not Answer.YES:
            return ()
        return ("hybrid", "tokenreview", "jwks") if self[Rung.ISSUER].good else ("tokenreview",)

    @property
    def lift(self) -> tuple[Step, ...]:
        """What to do first, find out, or do to get one rung up, most urgent first; empty on the highest."""
        certificates = self[Rung.CERTIFICATES]
        match self.standing:
            case Standing.DANGER:
                return (Step(Mode.SDS, self[Rung.API_SERVER].todo),)
            case Standing.PROVEN if certificates.good:
                return ()
            case Standing.PROVEN:
                return (Step(Mode.POD_CERTIFICATE, certificates.todo),)
            case Standing.UNKNOWN if self.sds is Answer.NO:
                return (Step(Mode.POD_CERTIFICATE, certificates.todo),)
            case Standing.UNKNOWN if self[Rung.PERMISSIONS].answer is Answer.NO:
                return (Step(Mode.SDS, self[Rung.PERMISSIONS].todo),)  # all that is missing, not right after right
        steps = [one.todo for one in self.verdicts if one.rung in DECIDING and one.answer is self.sds]
        return tuple(Step(Mode.SDS, step) for step in dict.fromkeys(filter(None, steps)))


def build(recorded: Recorded) -> Ladder:
    """Judge all that was recorded."""
    seen = recorded.version.found
    git_version = seen.git_version if seen else ""
    release = recorded.release
    minted = recorded.token.found if recorded.token else None
    return Ladder(
        verdicts=tuple(records.judge(recorded)),
        git_version=git_version,
        distribution=version.distribution(git_version),
        features=str(release) if release else "",
        emulated=seen.emulation if seen else "",
        issuer=minted.issuer if minted else "",
        facts=tuple(_facts(recorded).items()),
    )


def _facts(recorded: Recorded) -> dict[str, Value]:
    facts: dict[str, Value] = {"audience": recorded.audience}
    if recorded.token and (minted := recorded.token.found):
        facts |= {
            "issuer": minted.issuer,
            "token-algorithm": minted.algorithm,
            "token-names-key": bool(minted.kid),
            "token-has-id": minted.has_id,
        }
    if recorded.own_review and (refusal := recorded.own_review.found) and refusal.api_audiences:
        facts["api-audiences"] = refusal.api_audiences
    if (release := recorded.release) is not None:
        facts["pod-tokens-name-node"] = release >= version.NODE_CLAIMS
    return facts


def detection(ladder: Ladder, *, distribution: str = "", node_versions: tuple[str, ...] = ()) -> Detection:
    """Turn a ladder into a platform's answer to the hook `detect`; a plugin adds what it knows better.

    Nothing in it is volatile. Raises UnavailableError when a rung that decides a mode could not be told: an outage,
    or a missing permission, must lower nothing.
    """
    if ladder.sds is Answer.UNKNOWN:
        raise _untold(next(ladder[rung] for rung in PROOFS if not ladder[rung].good))
    if ladder[Rung.CERTIFICATES].answer is Answer.UNKNOWN:
        raise _untold(ladder[Rung.CERTIFICATES])
    return Detection(
        version=ladder.git_version,
        distribution=distribution or ladder.distribution,
        modes=ladder.modes,
        evidence=tuple(_evidence(verdict) for verdict in ladder.verdicts),
        facts={**dict(ladder.facts), "ca-policies": ladder.policies},
        emulated_version=ladder.emulated,
        node_versions=node_versions,
    )


def _evidence(verdict: Verdict) -> Evidence:
    sources = tuple(dict.fromkeys(seen.request for seen in verdict.evidence))
    source = "; ".join(sources[:2]) + (f" and {len(sources) - 2} more" if len(sources) > 2 else "")
    return Evidence(_QUESTIONS[verdict.rung], f"{verdict.answer}: {verdict.seen}", source)


def _untold(verdict: Verdict) -> UnavailableError:
    return UnavailableError(
        f"could not tell: {_QUESTIONS[verdict.rung]} {verdict.seen}",
        wanted="an answer, yes or no",
        todo=verdict.todo,
        evidence=tuple(f"{seen.request}: {seen.short}" for seen in verdict.evidence),
    )
