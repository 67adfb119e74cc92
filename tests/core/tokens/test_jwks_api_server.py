"""A cluster's keys from its own API server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from meshpki.errors import UnavailableError
from meshpki.kube.answer import Answer
from meshpki.tokens.jwks_api_server import api_server_keys, read_keys
from support.reviews import answer
from support.tokens import NOW, TokenMaker

MAKER = TokenMaker()


@dataclass
class Api:
    """Answers GET /openid/v1/jwks."""

    now: Answer
    asked: list[tuple[str, str]] = field(default_factory=list)

    def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        *,
        timeout: float | None = None,
        retry: bool = True,
    ) -> Answer:
        assert (body, retry) == (None, False)
        assert timeout is not None
        self.asked.append((method, path))
        return self.now


def test_keys() -> None:
    api = Api(answer(MAKER.jwks(), 200))
    keys = api_server_keys(api, "east")
    assert keys.known() is None
    assert [key.kid for key in keys.keys(MAKER.kid, NOW)] == [MAKER.kid]
    assert keys.keys(MAKER.kid, NOW) == keys.known()
    assert api.asked == [("GET", "/openid/v1/jwks")]


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "under `api_server`"),
        (403, "system:service-account-issuer-discovery"),
        (404, "tokenreview"),
        (302, "302"),
        (500, "500"),
    ],
)
def test_what_is_missing_is_named_and_refuses_nobody(status: int, said: str) -> None:
    with pytest.raises(UnavailableError) as caught:
        read_keys(answer(MAKER.jwks(), status))
    assert said in str(caught.value)
    with pytest.raises(UnavailableError):
        api_server_keys(Api(answer(b"", status)), "east").keys(None, NOW)


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"keys": 5}'])
def test_garbage_refuses_nobody(body: bytes) -> None:
    with pytest.raises(UnavailableError):
        api_server_keys(Api(answer(body, 200)), "east").keys(None, NOW)
