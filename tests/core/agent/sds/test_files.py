"""Secrets in real files: below the operator's directories and nowhere else, followed while somebody asks."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from meshpki.agent.sds.file_names import parse
from meshpki.agent.sds.files import MAX_HELD, FileReader, SecretFiles, read_below
from meshpki.errors import InvalidValueError, MachineError
from meshpki.runtime.files import write_atomically
from meshpki.runtime.repeats import MOST_KINDS
from meshpki.runtime.watch import Watcher
from meshpki.wire.sds_pb2 import Secret
from support.fake_ca import key_pem, make_ca, make_leaf, pem

ROOT, OTHER = make_ca("root"), make_ca("other")
ROOT_PEM, OTHER_PEM = ROOT.pem.encode(), OTHER.pem.encode()


def pair() -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    return pem(make_leaf(ROOT, key.public_key())).encode(), key_pem(key)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    (allowed / "ca.pem").write_bytes(ROOT_PEM)
    return allowed


def read(directory: Path, name: str) -> bytes:
    secret = Secret.FromString(FileReader([directory]).read(name, parse(name)).body)
    assert secret.name == name
    return secret.validation_context.trusted_ca.inline_bytes or secret.tls_certificate.certificate_chain.inline_bytes


def test_a_file_below_a_directory_is_read(directory: Path) -> None:
    assert read(directory, f"file-root:{directory}/ca.pem") == ROOT_PEM
    (directory / "deep" / "er").mkdir(parents=True)
    chain, key = pair()
    (directory / "deep" / "tls.crt").write_bytes(chain)
    (directory / "deep" / "er" / "tls.key").write_bytes(key)
    assert read(directory, f"file-cert:{directory}/deep/tls.crt~{directory}/deep/er/tls.key") == chain


def test_no_directory_means_no_file(directory: Path) -> None:
    name = f"file-root:{directory}/ca.pem"
    with pytest.raises(InvalidValueError, match="outside"):
        FileReader([]).read(name, parse(name))


def test_a_file_outside_is_refused_before_it_is_touched(directory: Path, tmp_path: Path) -> None:
    for outside in (tmp_path / "ca.pem", tmp_path / "allowed-not" / "ca.pem", Path("/etc/passwd")):
        for name in (f"file-root:{outside}", f"file-cert:{directory}/ca.pem~{outside}"):
            with pytest.raises(InvalidValueError, match="outside"):
                FileReader([directory]).paths(parse(name))


def test_links_may_lead_about_inside_and_not_out(directory: Path, tmp_path: Path) -> None:
    """A kubelet's volumes are made of links that stay inside."""
    (directory / "..2026").mkdir()
    (directory / "..2026" / "tls.crt").write_bytes(OTHER_PEM)
    (directory / "..data").symlink_to("..2026")
    (directory / "tls.crt").symlink_to("..data/tls.crt")
    assert read(directory, f"file-root:{directory}/tls.crt") == OTHER_PEM
    (tmp_path / "secret.pem").write_bytes(ROOT_PEM)
    (directory / "out.pem").symlink_to("../secret.pem")
    (directory / "up").symlink_to(tmp_path)
    (tmp_path / "allowed-not").mkdir()
    (tmp_path / "allowed-not" / "ca.pem").write_bytes(ROOT_PEM)
    (directory / "next").symlink_to("../allowed-not")
    for name in ("out.pem", "up/secret.pem", "next/ca.pem"):
        with pytest.raises(InvalidValueError, match="outside"):
            read(directory, f"file-root:{directory}/{name}")


def test_the_operators_directory_may_itself_be_a_link(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(directory)
    assert read(tmp_path / "link", f"file-root:{tmp_path}/link/ca.pem") == ROOT_PEM


def test_a_link_that_changes_while_it_is_read_never_lets_out(directory: Path, tmp_path: Path) -> None:
    """What is looked at is what is read: the swap between the two is too late."""
    (tmp_path / "secret.pem").write_bytes(OTHER_PEM)
    path, real = directory / "swapped.pem", os.readlink
    path.symlink_to("ca.pem")

    def swap(place: str) -> str:
        found = real(place)
        path.unlink()
        path.symlink_to("../secret.pem")
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "readlink", swap)
        assert read_below(path, [directory], limit=10_000) == ROOT_PEM
    with pytest.raises(InvalidValueError):
        read_below(path, [directory], limit=10_000)


def test_only_regular_files_of_a_bounded_size_are_read(directory: Path) -> None:
    os.mkfifo(directory / "pipe")
    (directory / "large.pem").write_bytes(b"x" * 2_000_000)
    for name, said in (
        ("pipe", "no regular file"),
        ("", "no regular file"),
        ("large.pem", "larger"),
        ("none", "No such"),
    ):
        with pytest.raises(MachineError, match=said):
            read(directory, f"file-root:{directory}/{name}".rstrip("/"))


def test_the_systems_roots_need_no_directory(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.crt"
    bundle.write_bytes(ROOT_PEM)
    reader = FileReader([], [tmp_path / "none.crt", bundle])
    found = Secret.FromString(reader.read("file-root:system", parse("file-root:system")).body)
    assert found.validation_context.trusted_ca.inline_bytes == ROOT_PEM
    with pytest.raises(InvalidValueError, match="no bundle"):
        FileReader([], [tmp_path / "none.crt"]).read("file-root:system", parse("file-root:system"))


Scene = Callable[[SecretFiles], Awaitable[None]]


def following(directory: Path, scene: Scene) -> None:
    async def main() -> None:
        watcher = Watcher()
        files = SecretFiles(FileReader([directory]), watcher)
        try:
            async with asyncio.timeout(90):
                await scene(files)
        finally:
            watcher.close()
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1, "nothing is followed when nobody asks"

    asyncio.run(main())


def body(files: SecretFiles, name: str) -> bytes | None:
    resource = files.resource(name)
    if resource is None:
        return None
    secret = Secret.FromString(resource.body)
    return secret.validation_context.trusted_ca.inline_bytes or secret.tls_certificate.certificate_chain.inline_bytes


async def until(files: SecretFiles, name: str, content: bytes | None, seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while body(files, name) != content:
            await asyncio.sleep(0.01)


def test_a_change_is_served_and_waking_is_for_changes_only(directory: Path) -> None:
    name = f"file-root:{directory}/ca.pem"

    async def scene(files: SecretFiles) -> None:
        with closing(files.open()) as view:
            await view.want([name, "default"])
            assert {name: ROOT_PEM} == {name: body(files, name) for name in view.current}
            changed = view.changes()
            write_atomically(directory / "ca.pem", ROOT_PEM)
            await asyncio.sleep(0.3)
            assert not changed.done(), "the same content is no change"
            write_atomically(directory / "ca.pem", OTHER_PEM)
            await asyncio.wait_for(changed, 30)
            assert body(files, name) == OTHER_PEM

    following(directory, scene)


def test_one_of_two_writes_is_never_served(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A program that replaces the certificate and then the key: the old pair stays until the new one is whole."""
    crt, key = directory / "tls.crt", directory / "tls.key"
    old, new = pair(), pair()
    write_atomically(crt, old[0])
    write_atomically(key, old[1])
    name = f"file-cert:{crt}~{key}"

    async def scene(files: SecretFiles) -> None:
        with closing(files.open()) as view:
            await view.want([name])
            assert body(files, name) == old[0]
            write_atomically(crt, new[0])
            async with asyncio.timeout(30):
                while not caplog.records:
                    await asyncio.sleep(0.01)
            assert body(files, name) == old[0]
            for certificate in (pair()[0], new[0]):  # the same complaint is made once
                write_atomically(crt, certificate)
                await asyncio.sleep(0.2)
            assert body(files, name) == old[0]
            write_atomically(key, new[1])
            await until(files, name, new[0])

    with caplog.at_level(logging.WARNING):
        following(directory, scene)
    (record,) = caplog.records
    assert "not that of the first certificate" in vars(record)["seen"]
    assert old[1].decode().splitlines()[1] not in str(vars(record))


def test_a_file_that_is_being_replaced_is_not_gone_and_one_that_is_gone_is(directory: Path) -> None:
    path = directory / "ca.pem"
    name = f"file-root:{path}"

    async def scene(files: SecretFiles) -> None:
        with closing(files.open()) as view:
            await view.want([name])
            changed = view.changes()
            path.unlink()
            await asyncio.sleep(0.3)
            assert body(files, name) == ROOT_PEM
            path.write_bytes(ROOT_PEM)
            await asyncio.sleep(1.5)
            assert body(files, name) == ROOT_PEM
            assert not changed.done()
            path.unlink()
            await until(files, name, None)
            path.write_bytes(OTHER_PEM)
            await until(files, name, OTHER_PEM)

    following(directory, scene)


def test_a_name_is_followed_for_as_long_as_one_stream_asks(directory: Path) -> None:
    name = f"file-root:{directory}/ca.pem"

    async def scene(files: SecretFiles) -> None:
        with closing(files.open()) as one:
            with closing(files.open()) as two:
                await asyncio.gather(one.want([name]), two.want([name]))
                assert set(one.current) == set(two.current) == {name}
                await one.want(["default"])
                assert not one.current
                assert set(two.current) == {name}
            assert files.resource(name) is None
            await one.want([name])
            assert set(one.current) == {name}

    following(directory, scene)


def test_a_stream_that_ends_while_it_waits_leaves_nothing_behind(directory: Path) -> None:
    name = f"file-root:{directory}/ca.pem"

    async def scene(files: SecretFiles) -> None:
        async def ask() -> None:
            with closing(files.open()) as view:
                await view.want([name])

        task = asyncio.create_task(ask())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert files.resource(name) is None
        await ask()

    following(directory, scene)


@pytest.mark.parametrize("rest", ["/etc/passwd", "relative", "{0}/none.pem", "{0}/../x", "{0}/ca.pem~{0}/ca.pem"])
def test_what_cannot_be_served_is_unknown_and_said_once(
    directory: Path, rest: str, caplog: pytest.LogCaptureFixture
) -> None:
    names = [prefix + rest.format(directory) for prefix in ("file-root:", "file-cert:")]

    async def scene(files: SecretFiles) -> None:
        with closing(files.open()) as view:
            await view.want(names)
            await view.want(names)
            assert not view.current

    with caplog.at_level(logging.WARNING):
        following(directory, scene)
    assert [vars(record)["secret"] for record in caplog.records] == sorted(names)


def test_names_that_are_made_up_are_bounded(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scene(files: SecretFiles) -> None:
        with closing(files.open()) as view:
            await view.want([f"file-root:{directory}/{number}" for number in range(MAX_HELD)])
            with closing(files.open()) as other:
                await other.want([f"file-root:{directory}/ca.pem"])
                assert not other.current
            await view.want([f"file-root:{directory}/ca.pem"])
            assert len(view.current) == 1
            for round_ in range(6):
                await view.want([f"file-root:made-up-{round_}-{number}" for number in range(MAX_HELD)])

    with caplog.at_level(logging.WARNING):
        following(directory, scene)
    said = [record.getMessage() for record in caplog.records if "again and again" not in record.getMessage()]
    assert said.count("too many secrets in files are asked for") == 1
    assert said.count("a secret in a file is not served, or not anew") == MOST_KINDS + 1
