"""docs/detect.md shows what `meshpki detect` prints of four clusters, and says of rungs and answers what there is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from meshpki.provision.cluster.ladder import Standing
from meshpki.provision.cluster.verdict import Answer
from meshpki_cli.detect_view import NAMES
from support import detect_page
from support.doc_pages import normalised

if TYPE_CHECKING:
    from collections.abc import Mapping

    from support.kube.api_server import ApiServer
    from support.kube.pool import ApiServerPool

HOW = "PYTHONPATH=tests python -m support.detect_page"


def compare(contexts: Mapping[str, ApiServer]) -> None:
    page, now = detect_page.shown(), detect_page.run(contexts)
    for context in contexts:
        assert normalised(tuple(page[context])) == normalised(tuple(now[context])), HOW


def test_the_founding_age(kube_113_without_requests: ApiServer, kube_113_old_issuer: ApiServer) -> None:
    compare({"as-it-came": kube_113_without_requests, "with-flags": kube_113_old_issuer})


def test_today(kube_137: ApiServer, shared_api_servers: ApiServerPool) -> None:
    compare({"modern": kube_137, "careless": shared_api_servers(kube_137.release, detect_page.OPEN)})


def test_four_clusters_are_shown() -> None:
    assert list(detect_page.shown()) == ["as-it-came", "with-flags", "modern", "careless"]


@pytest.mark.parametrize("name", NAMES.values())
def test_every_rung_is_explained(name: str) -> None:
    assert f"\n| {name} | " in detect_page.PAGE.read_text()


def test_every_answer_and_standing_is_named() -> None:
    text = detect_page.PAGE.read_text()
    assert [answer for answer in Answer if f"*{answer}*" not in text] == []
    assert [standing for standing in Standing if f"`{standing}`" not in text] == []
