"""A pod is read from what the API server says, and from nothing that it might mean."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshpki.errors import InvalidValueError
from meshpki.identity import ServiceAccountRef
from meshpki.kube.pods import PodFacts, read_pod


def document(**changes: Any) -> dict[str, Any]:
    whole = {
        "metadata": {"name": "web-1", "namespace": "shop", "uid": "u-1"},
        "spec": {"serviceAccountName": "web", "nodeName": "n-1"},
        "status": {"phase": "Running"},
    }
    return whole | changes


def test_a_running_pod() -> None:
    assert read_pod(document()) == PodFacts("web-1", "u-1", ServiceAccountRef("shop", "web"), "n-1", "Running")


def test_what_is_not_said_is_empty() -> None:
    pod = read_pod({"metadata": {"name": "web-1", "namespace": "shop", "uid": "u-1"}})
    assert (pod.node, pod.phase, pod.account) == ("", "", ServiceAccountRef("shop", "default"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"metadata": {}},
        {"metadata": {"name": "web-1", "namespace": "shop"}},
        {"metadata": {"namespace": "shop", "uid": "u-1"}},
        {"metadata": {"name": "web-1", "uid": "u-1"}},
        {"metadata": {"name": "web-1", "namespace": "../x", "uid": "u-1"}},
        {"metadata": []},
        {"spec": {"serviceAccountName": "a/b"}},
    ],
)
def test_what_is_no_pod(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidValueError):
        read_pod(document(**wrong))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(metadata=JSON, spec=JSON, status=JSON)
def test_any_json_is_a_pod_or_refused(metadata: object, spec: object, status: object) -> None:
    try:
        read_pod({"metadata": metadata, "spec": spec, "status": status})
    except InvalidValueError:
        return
    assert isinstance(metadata, dict)
