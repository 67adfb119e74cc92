"""The token file as a credential: read anew, and waited for without missing a change or taking a touch for one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from meshpki.agent.renewal.credential import TokenCredential
from meshpki.agent.renewal.token_file import TokenFileError
from meshpki.agent.renewal.token_source import TokenFileSource
from meshpki.runtime.watch import Watcher
from support.agent_process import CANARY, fake_token

NOW = 1_800_000_000.0


def put(path: Path, mark: str = "") -> str:
    token = fake_token(expires_at=NOW + 600, mark=mark)
    beside = path.with_suffix(".new")
    beside.write_text(token)
    beside.replace(path)
    return token


def sourcing(path: Path, scene: Callable[[TokenFileSource], Awaitable[None]]) -> None:
    async def main() -> None:
        watcher = Watcher()
        try:
            await scene(TokenFileSource(path, watcher))
        finally:
            watcher.close()

    asyncio.run(asyncio.wait_for(main(), 20))


async def is_changed(source: TokenFileSource, seconds: float) -> bool:
    try:
        await asyncio.wait_for(source.changed(), seconds)
    except TimeoutError:
        return False
    return True


def test_each_read_gives_what_is_there_now(tmp_path: Path) -> None:
    path = tmp_path / "token"

    async def scene(source: TokenFileSource) -> None:
        for mark in ("one", "two"):
            token = put(path, mark)
            credential = await source.read(NOW, None)
            assert credential == TokenCredential(token)
            assert CANARY not in repr(credential)

    sourcing(path, scene)


def test_a_change_before_anybody_waits_is_not_missed(tmp_path: Path) -> None:
    path = tmp_path / "token"
    put(path)

    async def scene(source: TokenFileSource) -> None:
        await source.read(NOW, None)
        put(path, "next")
        assert await is_changed(source, 30)

    sourcing(path, scene)


def test_a_change_while_waiting_is_noticed_and_a_touch_or_a_neighbour_is_none(tmp_path: Path) -> None:
    path = tmp_path / "token"
    put(path)

    async def scene(source: TokenFileSource) -> None:
        await source.read(NOW, None)
        waiting = asyncio.create_task(source.changed())
        await asyncio.sleep(0.05)
        path.chmod(0o600)
        os.chown(path, -1, -1)
        put(tmp_path / "other")
        done, _ = await asyncio.wait([waiting], timeout=0.2)
        assert not done
        put(path, "next")
        await asyncio.wait_for(waiting, 30)

    sourcing(path, scene)


def test_a_file_that_is_not_there_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "later" / "token"

    async def scene(source: TokenFileSource) -> None:
        with pytest.raises(TokenFileError):
            await source.read(NOW, None)
        waiting = asyncio.create_task(source.changed())
        await asyncio.sleep(0)
        path.parent.mkdir()
        put(path)
        await asyncio.wait_for(waiting, 30)

    sourcing(path, scene)
