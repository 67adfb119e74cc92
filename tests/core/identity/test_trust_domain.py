"""Trust domains, by SPIFFE-ID section 2.1."""

from __future__ import annotations

import pytest

from meshpki.errors import InvalidValueError
from meshpki.identity import TrustDomain


@pytest.mark.parametrize("name", ["cluster.local", "a", "1.2.3.4", "a_b-c.d", "-", "x" * 255])
def test_valid(name: str) -> None:
    assert TrustDomain(name).name == name
    assert str(TrustDomain(name)) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "x" * 256,
        "Cluster.local",
        "cluster.local\n",
        "a b",
        "a/b",
        "a:443",
        "user@a",
        "%61",
        "ä",
        "a?b",
        "a#b",
        "[::1]",
        "a\x00",
        "١",  # a digit, not an ASCII one
    ],
)
def test_invalid(name: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        TrustDomain(name)
    assert caught.value.wanted
    assert len(str(caught.value)) < 500


def test_it_is_a_value() -> None:
    assert TrustDomain("a") == TrustDomain("a")
    assert len({TrustDomain("a"), TrustDomain("a"), TrustDomain("b")}) == 2
    with pytest.raises(AttributeError):
        TrustDomain("a").name = "b"  # type: ignore[misc]
