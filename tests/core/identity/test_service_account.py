"""Service accounts, by Kubernetes' rules for names."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshpki.errors import InvalidValueError
from meshpki.identity import ServiceAccountRef

ALNUM = string.ascii_lowercase + string.digits
LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)


@pytest.mark.parametrize(
    ("namespace", "name"),
    [("default", "web"), ("a", "0"), ("kube-system", "a.b-c.d"), ("n" * 63, "s" * 253), ("1", "1.2.3")],
)
def test_valid(namespace: str, name: str) -> None:
    account = ServiceAccountRef(namespace, name)
    assert str(account) == f"{namespace}/{name}"
    assert ServiceAccountRef.parse(str(account)) == account
    assert account.subject == f"system:serviceaccount:{namespace}:{name}"
    assert ServiceAccountRef.from_subject(account.subject) == account


@pytest.mark.parametrize(
    "namespace", ["", "-a", "a-", "a.b", "A", "a_b", "n" * 64, "a\n", "ä", "..", "a/b", "a:b", "a b"]
)
def test_invalid_namespace(namespace: str) -> None:
    with pytest.raises(InvalidValueError, match="namespace"):
        ServiceAccountRef(namespace, "web")


@pytest.mark.parametrize(
    "name", ["", "-a", "a-", ".a", "a.", "a..b", "a.-b", "A", "a_b", "s" * 254, "a\n", "ä", "..", "../x", "a:b"]
)
def test_invalid_name(name: str) -> None:
    with pytest.raises(InvalidValueError, match="service account name"):
        ServiceAccountRef("default", name)


@pytest.mark.parametrize("text", ["", "web", "/", "default/", "/web", "default/web/x", "default\\web"])
def test_not_as_an_operator_writes_it(text: str) -> None:
    with pytest.raises(InvalidValueError):
        ServiceAccountRef.parse(text)


@pytest.mark.parametrize(
    "subject",
    [
        "",
        "web",
        "system:serviceaccount",
        "system:serviceaccount:default",
        "system:serviceaccount:default:",
        "system:serviceaccount::web",
        "system:serviceaccount:default:web:x",
        "system:serviceaccounts:default:web",
        "System:serviceaccount:default:web",
        " system:serviceaccount:default:web",
        "system:serviceaccount:default:web\n",
        "system:node:default:web",
        "x:system:serviceaccount:default:web",
    ],
)
def test_no_subject_of_a_service_account(subject: str) -> None:
    with pytest.raises(InvalidValueError):
        ServiceAccountRef.from_subject(subject)


@given(LABEL, st.lists(LABEL, min_size=1, max_size=4))
def test_every_subject_reads_back(namespace: str, labels: list[str]) -> None:
    account = ServiceAccountRef(namespace, ".".join(labels))
    assert ServiceAccountRef.from_subject(account.subject) == account


@given(st.text(max_size=60))
def test_any_text_is_read_exactly_or_refused(text: str) -> None:
    subject = "system:serviceaccount:" + text
    try:
        assert ServiceAccountRef.from_subject(subject).subject == subject
    except InvalidValueError as error:
        assert len(str(error)) < 600


def test_a_hostile_name_costs_no_time() -> None:
    with pytest.raises(InvalidValueError):
        ServiceAccountRef("default", "a" * 100_000 + "!")
    with pytest.raises(InvalidValueError):
        ServiceAccountRef("default", "a-" * 126)
