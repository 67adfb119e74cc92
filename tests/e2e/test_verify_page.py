"""docs/verify.md shows what `meshpki verify` prints of a real cluster, and explains every check that there is."""

from __future__ import annotations

import pytest

from meshpki.identity import TrustDomain
from meshpki.provision.proof.question import Question
from meshpki.provision.proof.steps import CLEAN, ORDER
from support import verify_page
from support.kube import ApiServer

HOW = "PYTHONPATH=tests python -m support.verify_page"


@pytest.mark.xdist_group("kube-137")
@pytest.mark.parametrize("number", [0, 1], ids=["hybrid", "keys alone"])
def test_the_page_shows_what_is_printed(kube_137: ApiServer, kube_130: ApiServer, number: int) -> None:
    command, lines = verify_page.shown()[number]
    now = verify_page.run(command, verify_page.policy_of(command), kube_137, kube_130)
    assert verify_page.steady(lines) == verify_page.steady(now), HOW


def test_every_check_is_shown() -> None:
    question = Question(TrustDomain("mesh.local"), namespace="default")
    _, lines = verify_page.shown()[0]
    text = " ".join(" ".join(lines).split())
    for name in [*(step.title(question) for step in ORDER), CLEAN]:
        assert name in text
