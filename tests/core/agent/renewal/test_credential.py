"""Which credential goes to the CA: a fresh token always first, then the certificate that is held, else none."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from meshpki.agent.renewal.credential import (
    CertificateCredential,
    Credential,
    TokenCredential,
    certificate_in_place_of_token,
)
from meshpki.agent.renewal.renewing_source import RenewingSource, TokenFault
from meshpki.agent.renewal.token_file import TokenFileError
from meshpki.errors import MachineError, MeshpkiError
from meshpki.tokens.reasons import TokenReason
from support.snapshots import snapshot as make_snapshot

if TYPE_CHECKING:
    from meshpki.agent.rotation.snapshot import Snapshot

NOW = 1_800_000_000
HELD = replace(make_snapshot(), not_before=NOW - 60, not_after=NOW + 600)
GONE = TokenFileError(TokenReason.MISSING, "there is no token file", todo="see why")
LATE = TokenFileError(TokenReason.EXPIRED, "the token expired", todo="see why")


class Tokens:
    """A source of tokens that gives, or raises, what it is told to."""

    def __init__(self, *answers: str | MeshpkiError) -> None:
        self._answers = list(answers)
        self.changes = asyncio.Event()

    async def read(self, now: float, held: Snapshot | None) -> Credential:
        answer = self._answers.pop(0)
        if isinstance(answer, str):
            return TokenCredential(answer)
        raise answer

    async def changed(self) -> None:
        await self.changes.wait()


def read(tokens: Tokens, held: Snapshot | None = HELD, *, now: float = NOW, times: int = 1) -> list[Credential]:
    source = RenewingSource(tokens)

    async def several() -> list[Credential]:
        return [await source.read(now, held) for _ in range(times)]

    return asyncio.run(several())


@pytest.mark.parametrize(
    ("held", "renewable", "now", "given"),
    [
        (HELD, True, NOW, True),
        (HELD, True, HELD.not_before, True),
        (HELD, True, HELD.not_after - 0.5, True),
        (HELD, True, HELD.not_after, False),
        (HELD, True, HELD.not_after + 1, False),
        (HELD, True, HELD.not_before - 1, False),
        (HELD, False, NOW, False),
        (None, True, NOW, False),
        (None, False, NOW, False),
    ],
)
def test_a_certificate_is_a_credential_while_it_is_valid(
    held: Snapshot | None, renewable: bool, now: float, given: bool
) -> None:
    found = certificate_in_place_of_token(held, renewable=renewable, now=now)
    assert found == (CertificateCredential(HELD.chain_pem, HELD.key_pem) if given else None)


def test_a_token_always_comes_first() -> None:
    assert read(Tokens("fresh")) == [TokenCredential("fresh")]


@pytest.mark.parametrize("error", [GONE, LATE, MachineError("could not read the token: too many open files")])
def test_without_a_token_the_certificate_is_taken_and_the_fault_is_said(
    error: MeshpkiError, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert read(Tokens(error)) == [CertificateCredential(HELD.chain_pem, HELD.key_pem)]
    (record,) = caplog.records
    assert record.__dict__["seen"] == error.seen
    assert record.__dict__["reason"] == getattr(error, "reason", "file")


@pytest.mark.parametrize(("held", "now"), [(None, NOW), (HELD, HELD.not_after), (HELD, HELD.not_after + 100)])
@pytest.mark.parametrize("error", [GONE, LATE])
def test_without_either_the_tokens_fault_is_the_failure(
    error: TokenFileError, held: Snapshot | None, now: float
) -> None:
    with pytest.raises(TokenFileError) as caught:
        read(Tokens(error), held, now=now)
    assert caught.value is error


def test_a_fault_that_stays_is_said_once_and_another_one_again(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        read(Tokens(GONE, GONE, LATE, LATE, "fresh", LATE), times=6)
    assert [record.__dict__["reason"] for record in caplog.records] == [
        "token_missing",
        "token_expired",
        "token_expired",
    ]


def test_since_when_the_certificate_stands_in_for_the_token_is_known_until_there_is_one() -> None:
    """The CA bounds how long: somebody has to see it before that is over, though all renewals go well."""

    async def act() -> None:
        source = RenewingSource(Tokens(GONE, LATE, GONE, "fresh", LATE))
        assert source.fault is None
        found: list[TokenFault | None] = []
        for later in (0, 60, -10, 120, 180):
            await source.read(NOW + later, HELD)
            found.append(source.fault)
        assert found == [
            TokenFault("token_missing", NOW),
            TokenFault("token_expired", NOW),
            TokenFault("token_missing", NOW - 10),
            None,
            TokenFault("token_expired", NOW + 180),
        ]

    asyncio.run(act())


def test_neither_key_nor_token_shows() -> None:
    credential = certificate_in_place_of_token(HELD, renewable=True, now=NOW)
    assert HELD.key_pem.decode() not in repr(credential)
    assert "key_pem" not in repr(credential)
    assert "secret" not in repr(TokenCredential("secret"))


def test_a_new_token_is_what_it_waits_for() -> None:
    async def wait() -> None:
        tokens = Tokens()
        waiting = asyncio.create_task(RenewingSource(tokens).changed())
        await asyncio.sleep(0)
        assert not waiting.done()
        tokens.changes.set()
        await asyncio.wait_for(waiting, 30)

    asyncio.run(wait())
