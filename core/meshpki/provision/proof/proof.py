"""The round itself: makes a probe, has it judged by the cluster and by the CA, and takes all of it away again."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeAlias

from meshpki.errors import MeshpkiError, RefusedError, UnavailableError
from meshpki.provision.ca_questions import GARBAGE, OTHER_AUDIENCE, UNAUTHENTICATED
from meshpki.provision.checks import Check, Verdict, VerifyReport, failed, settled, skipped
from meshpki.provision.cluster import version
from meshpki.provision.cluster.asking import LOGIN, not_accepted
from meshpki.provision.cluster.evidence import Outcome, record
from meshpki.provision.cluster.throw_away import this_run
from meshpki.provision.cluster.uninterrupted import stopped_once, uninterrupted
from meshpki.provision.proof import claims, reviewed, stranger
from meshpki.provision.proof.listening import ASK_AGAIN_SECONDS, Listening
from meshpki.provision.proof.pace import Pace
from meshpki.provision.proof.probe import Probe
from meshpki.provision.proof.question import BUDGET_SECONDS, NAME
from meshpki.provision.proof.steps import CLEAN, ORDER, STEPS, Act, Step, Thing
from meshpki.provision.proof.trouble import line
from meshpki.tokens.caller import BoundObject
from meshpki.tokens.reasons import TokenReason

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from meshpki.hooks import Progress
    from meshpki.provision.ca_questions import CaQuestions
    from meshpki.provision.cluster.asking import Login
    from meshpki.provision.cluster.evidence import Asker
    from meshpki.provision.proof.question import Question

Knock: TypeAlias = "Callable[[str], int]"
"""Asks the API server for something with this token as the only credential; the HTTP status. Raises MeshpkiError."""

POLL_SECONDS: Final = 0.5
UNSEEN_SECONDS: Final = 10.0
_STRANGERS: Final = (
    TokenReason.UNKNOWN_ISSUER, TokenReason.UNKNOWN_KEY, TokenReason.BAD_SIGNATURE, TokenReason.NOT_AUTHENTICATED,
)  # fmt: skip
_GONE: Final = (TokenReason.POD_GONE, TokenReason.NOT_AUTHENTICATED)


class LeftBehindError(MeshpkiError):
    """Something that the round made could not be removed."""


def prove(
    asker: Asker,
    ca: CaQuestions,
    question: Question,
    *,
    knock: Knock,
    login: Login = lambda: LOGIN,
    other: Asker | None = None,
    progress: Progress | None = None,
    pace: Pace | None = None,
) -> VerifyReport:
    """Make every check; a failure is part of the report. Leaves nothing in the clusters, after Ctrl-C neither.

    `login` says what to do when the first cluster answers 401. Raises what the asker raises when the first question
    brings no answer at all, RefusedError when the cluster does not accept the credential, LeftBehindError when an
    interrupted round could not remove what it had made.
    """
    return _Round(
        asker,
        ca,
        question,
        knock=knock,
        login=login,
        other=other,
        say=progress or (lambda _: None),
        pace=pace or Pace(),
    ).all()


class _Round:
    def __init__(
        self,
        asker: Asker,
        ca: CaQuestions,
        question: Question,
        *,
        knock: Knock,
        login: Login,
        other: Asker | None,
        say: Progress,
        pace: Pace,
    ) -> None:
        self._asker = asker
        self._question = question
        self._knock = knock
        self._login = login
        self._say = say
        self._pace = pace
        run = this_run()
        self._probe = Probe(asker, question.namespace, run)
        self._other = Probe(other, question.namespace, run) if other is not None else None
        self._probes = [probe for probe in (self._probe, self._other) if probe is not None]
        self._have = {Thing.CA, Thing.OTHER} if other is not None else {Thing.CA}
        self._token = ""
        self._deadline = pace.monotonic() + BUDGET_SECONDS
        self._listening = Listening(ca.sign, pace, say, self._deadline)
        self._ca = ca = replace(ca, sign=self._listening.once)
        self._patient_ca = replace(ca, sign=self._listening.until_settled)
        self._left: tuple[str, ...] | None = None
        self._acts: Mapping[Act, Callable[[str], Check]] = {
            Act.STAND: self._stand,
            Act.MINT: self._mint,
            Act.REVIEW: self._review,
            Act.REVIEW_FOR_ITSELF: self._review_for_itself,
            Act.KNOCK: self._knocks,
            Act.CERTIFICATE: self._certificate,
            Act.OTHER_AUDIENCE: self._other_audience,
            Act.NO_TOKEN: lambda name: ca.refusal(name, lambda: "", TokenReason.MISSING),
            Act.GARBAGE: lambda name: ca.refusal(name, lambda: GARBAGE, TokenReason.MALFORMED),
            Act.OTHER_KEY: self._other_key,
            Act.LEGACY: self._legacy,
            Act.OTHER_CLUSTER: self._other_cluster,
            Act.POD_GONE: self._pod_gone,
        }

    def all(self) -> VerifyReport:
        """Make the checks in their order; take away what was made, whatever happens."""
        self._reach()
        with stopped_once():
            try:
                try:
                    checks = [self._made(step, number) for number, step in enumerate(ORDER, start=1)]
                finally:
                    self._remove()
                return VerifyReport((*checks, self._clean()))
            except BaseException:
                if self._left is None:  # stopped before that had begun; now nothing stops it any more
                    self._remove()
                if self._left:
                    raise self._left_behind() from None
                raise

    def _reach(self) -> None:
        """Without any answer to the first question there is nothing to prove."""
        seen = record(f"GET {version.PATH}", self._asker.request("GET", version.PATH), version.read)
        if seen.outcome is Outcome.UNAUTHORIZED:
            raise not_accepted(seen, self._login())

    def _made(self, step: Step, number: int) -> Check:
        name = step.title(self._question)
        self._say(f"step {number} of {STEPS}: {name}")
        if why := step.lacks(self._have):
            return skipped(name, why)
        if self._pace.monotonic() > self._deadline:
            return Check(name, Verdict.FAILED, f"not begun: the round took longer than {BUDGET_SECONDS:.0f} s")
        try:
            check = self._acts[step.act](name)
        except MeshpkiError as error:
            check = failed(name, error)
        if self._listening.silent:
            self._have.discard(Thing.CA)
        if check.passed and step.gives is not None:
            self._have.add(step.gives)
        return check

    def _remove(self) -> None:
        """Take everything away, whoever wants us to stop meanwhile; `_left` is what could not be, and why."""
        with uninterrupted():
            self._say(f"step {STEPS} of {STEPS}: {CLEAN}")
            if sys.exception() is not None:
                self._say("Ctrl-C waits until that is done")
            left: tuple[str, ...] = ()
            for probe in self._probes:
                left += probe.remove()
            self._left = left

    def _clean(self) -> Check:
        if self._left:
            return failed(CLEAN, self._left_behind())
        return Check(CLEAN, Verdict.PASSED, "nothing is left", self._removals())

    def _removals(self) -> tuple[str, ...]:
        return tuple(line for probe in self._probes for line in probe.told if line.startswith("DELETE "))

    def _left_behind(self) -> LeftBehindError:
        return LeftBehindError(
            "; ".join(self._left or ()),
            wanted="nothing of this round left on the cluster",
            todo=f"kubectl -n {self._question.namespace} delete secret,pod,serviceaccount {NAME}",
            evidence=self._removals(),
        )

    # --- the cluster's part

    def _stand(self, name: str) -> Check:
        evidence = self._probe.stand()
        return Check(name, Verdict.PASSED, "without rights, never scheduled", evidence)

    def _mint(self, name: str) -> Check:
        before = len(self._probe.told)
        self._token = self._probe.mint(self._question.audience)
        evidence = self._probe.told[before:]
        self._have.add(Thing.TOKEN)
        said = claims.examine(
            self._token,
            audience=self._question.audience,
            account=self._question.account,
            account_uid=self._probe.account_uid,
            pod=BoundObject(NAME, self._probe.pod_uid),
            now=self._pace.now(),
        )
        return Check(name, Verdict.PASSED, said, evidence)

    def _review(self, name: str) -> Check:
        seen = self._probe.review(self._token, self._question.audience)
        assert seen.found is not None
        said = reviewed.confirmed(seen.found, self._question)
        return Check(name, Verdict.PASSED, said, (f"{line(seen)}, for {', '.join(seen.found.audiences)}",))

    def _review_for_itself(self, name: str) -> Check:
        seen = self._probe.review(self._token)
        assert seen.found is not None
        said = reviewed.closed(seen.found, self._question)
        return Check(name, Verdict.PASSED, said, (f"{line(seen)}: {seen.found.error}",))

    def _knocks(self, name: str) -> Check:
        status = self._knock(self._token)
        evidence = (f"a request with the token as its only credential: HTTP {status}",)
        return Check(name, Verdict.PASSED, reviewed.shut_out(status), evidence)

    # --- the CA's part

    def _certificate(self, name: str) -> Check:
        return self._issued(name, self._patient_ca.ask(self._token))

    def _issued(self, name: str, chain: Sequence[str]) -> Check:
        said = self._ca.examine(chain, self._question.spiffe_id, self._pace.now())
        seen = f"CreateCertificate at {self._ca.endpoint.address}: OK, {len(chain)} certificates"
        return Check(name, Verdict.PASSED, said, (seen,))

    def _other_audience(self, name: str) -> Check:
        return self._ca.refusal(name, lambda: self._probe.mint(OTHER_AUDIENCE), TokenReason.WRONG_AUDIENCE)

    def _other_key(self, name: str) -> Check:
        return self._ca.refusal(
            name, lambda: stranger.resigned(self._token), TokenReason.BAD_SIGNATURE, TokenReason.NOT_AUTHENTICATED
        )

    def _legacy(self, name: str) -> Check:
        check = self._ca.refusal(name, self._legacy_token, TokenReason.LEGACY)
        self._probe.remove_secret()  # at once: a legacy token is good for as long as its Secret stands
        return check

    def _legacy_token(self) -> str:
        self._probe.make_secret()
        seconds = self._question.legacy_seconds

        def filled() -> bool:
            return bool(self._probe.legacy_token())

        if not self._within(seconds, POLL_SECONDS, filled):
            raise RefusedError(f"no controller filled the Secret within {seconds:.0f} s")
        return self._probe.legacy_token()

    def _other_cluster(self, name: str) -> Check:
        assert self._other is not None
        self._other.stand()
        token = self._other.mint(self._question.audience)
        if self._question.other_trusted:
            return self._issued(name, self._patient_ca.ask(token))
        return self._patient_ca.refusal(name, lambda: token, *_STRANGERS)

    def _pod_gone(self, name: str) -> Check:
        """Tokens that the CA never saw tell whether it asks; the one that it took tells how soon it asks again."""
        unseen = self._unseen(2)
        self._probe.remove_pod()
        began = self._pace.monotonic()
        refused = self._refused(unseen[0])
        if not refused:
            self._pace.sleep(ASK_AGAIN_SECONDS)  # for an API server that has not heard of the deletion yet
            refused = self._refused(unseen[1])
        if not refused:
            return self._unrevoked(name)
        seconds = self._question.revocation_seconds
        if not self._within(seconds, ASK_AGAIN_SECONDS, lambda: bool(self._refused(self._token))):
            return Check(
                name,
                Verdict.FAILED,
                f"{refused} for one that the CA had not seen, but {seconds:.0f} s later it still took the one that it "
                "had taken while the pod was there; to do: shorten review_cache in the CA's configuration, or give it "
                "longer (--revocation-within)",
            )
        taken = self._pace.monotonic() - began
        seen = (f"unseen by the CA: {refused}", f"taken by it before: refused {taken:.0f} s after the pod was removed")
        return Check(name, Verdict.PASSED, f"{refused} ({taken:.0f} s)", seen)

    def _unseen(self, count: int) -> list[str]:
        """Tokens that the CA has not seen. 1.13 writes no jti: two tokens of one second are the same."""
        tokens = [self._token]

        def another() -> bool:
            token = self._probe.mint(self._question.audience)
            tokens.extend([token] if token not in tokens else [])
            return len(tokens) > count

        if not self._within(UNSEEN_SECONDS, POLL_SECONDS, another):
            raise UnavailableError(f"the API server gave the same token for {UNSEEN_SECONDS:.0f} s")
        return tokens[1:]

    def _unrevoked(self, name: str) -> Check:
        said = (
            "not checked by this CA: it issued a certificate, as one does that goes by keys alone "
            "(authentication: jwks); such a token is good until it expires; to do: authentication: hybrid"
        )
        return settled(name, False, said) if self._question.require_revocation else skipped(name, said)

    def _refused(self, token: str) -> str:
        """How the CA refuses it for its pod is gone; empty if it issues. Raises MeshpkiError for any other answer."""
        from meshpki.agent.renewal.ca_client import CaRefusedError

        try:
            self._ca.ask(token)
        except CaRefusedError as error:
            if error.status == UNAUTHENTICATED and error.reason in {reason.value for reason in _GONE}:
                return f"{error.status}: {error.reason}"
            raise
        return ""

    def _within(self, seconds: float, pause: float, true: Callable[[], bool]) -> bool:
        """Ask until it is true; false when it was not in time."""
        end = min(self._pace.monotonic() + seconds, self._deadline)
        while not true():
            if self._pace.monotonic() >= end:
                return False
            self._pace.sleep(pause)
        return True
