"""The round as data: what is done in which order, under which name, and what each step needs to be of any use."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from meshpki.provision.proof.question import Question


class Thing(StrEnum):
    """What a step brings and later ones need."""

    PROBE = "probe account and pod"
    TOKEN = "token"
    CONFIRMED = "confirmed token"
    CA = "answer from the CA"
    """Had until a call is answered by nobody: whoever is not there refuses nothing."""
    CERTIFICATE = "certificate for a good token"
    OTHER = "other cluster (--other-context)"


class Act(StrEnum):
    """What is done."""

    STAND = "stand"
    MINT = "mint"
    REVIEW = "review"
    REVIEW_FOR_ITSELF = "review-for-itself"
    KNOCK = "knock"
    CERTIFICATE = "certificate"
    OTHER_AUDIENCE = "other-audience"
    NO_TOKEN = "no-token"
    GARBAGE = "garbage"
    OTHER_KEY = "other-key"
    LEGACY = "legacy"
    OTHER_CLUSTER = "other-cluster"
    POD_GONE = "pod-gone"


@dataclass(frozen=True, slots=True)
class Step:
    """One check of the round."""

    act: Act
    name: str
    """With {account}, {audience} and {namespace}."""
    needs: tuple[Thing, ...] = ()
    gives: Thing | None = None

    def title(self, question: Question) -> str:
        """The check's name in the report."""
        if self.act is Act.OTHER_CLUSTER and question.other_trusted:
            return "the other cluster's token gets one, too"
        return self.name.format(account=question.account, audience=question.audience, namespace=question.namespace)

    def lacks(self, have: AbstractSet[Thing]) -> str:
        """Why it is of no use; empty when it is."""
        missing = [thing for thing in self.needs if thing not in have]
        return f"there is no {missing[0]}" if missing else ""


ORDER: Final = (
    Step(Act.STAND, "the probe {account} stands", gives=Thing.PROBE),
    Step(Act.MINT, "TokenRequest: a token for {audience}, bound to a pod", (Thing.PROBE,)),
    Step(Act.REVIEW, "TokenReview confirms it for {audience}", (Thing.TOKEN,), Thing.CONFIRMED),
    Step(Act.REVIEW_FOR_ITSELF, "TokenReview refuses it for the API server", (Thing.CONFIRMED,)),
    Step(Act.KNOCK, "the API server refuses it as a credential", (Thing.CONFIRMED,)),
    Step(Act.CERTIFICATE, "{account} gets a certificate for it", (Thing.TOKEN, Thing.CA), Thing.CERTIFICATE),
    Step(Act.OTHER_AUDIENCE, "a token for another audience is refused", (Thing.TOKEN, Thing.CA)),
    Step(Act.NO_TOKEN, "a request without a token is refused", (Thing.CA,)),
    Step(Act.GARBAGE, "a token that is garbage is refused", (Thing.CA,)),
    Step(Act.OTHER_KEY, "the same token signed by another key is refused", (Thing.TOKEN, Thing.CA)),
    Step(Act.LEGACY, "a legacy token is refused", (Thing.PROBE, Thing.CA)),
    Step(Act.OTHER_CLUSTER, "another cluster's token is refused", (Thing.OTHER, Thing.CA)),
    Step(
        Act.POD_GONE, "a token whose pod is gone is refused", (Thing.CERTIFICATE, Thing.CA)
    ),  # last: after it there is no pod
)
CLEAN: Final = "what was made is removed"
"""The name of the check at the end, which is made in any case."""
STEPS: Final = len(ORDER) + 1
