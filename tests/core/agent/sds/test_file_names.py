"""Names of secrets in files, as Istio spells them, and every way to mean another file."""

from __future__ import annotations

from pathlib import PurePosixPath as Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshpki.agent.sds.file_names import CertificateFiles, RootsFile, SystemRoots, is_file_name, parse
from meshpki.errors import InvalidValueError


def test_the_three_forms() -> None:
    assert parse("file-cert:/etc/certs/tls.crt~/etc/certs/tls.key") == CertificateFiles(
        Path("/etc/certs/tls.crt"), Path("/etc/certs/tls.key")
    )
    assert parse("file-root:/etc/certs/ca.crt") == RootsFile(Path("/etc/certs/ca.crt"))
    assert parse("file-root:/system") == RootsFile(Path("/system"))
    assert parse("file-root:system") == SystemRoots()


@pytest.mark.parametrize(
    "name",
    [
        "file-cert:/a",
        "file-cert:/a~",
        "file-cert:~/a",
        "file-cert:/a~/b~/c",
        "file-cert:/a~b",
        "file-cert:a~/b",
        "file-cert:/a~/b/../c",
        "file-cert:system",
        "file-root:",
        "file-root:etc/ca.crt",
        "file-root:./ca.crt",
        "file-root://etc/ca.crt",
        "file-root:/etc//ca.crt",
        "file-root:/etc/./ca.crt",
        "file-root:/etc/../etc/ca.crt",
        "file-root:/etc/ca.crt/",
        "file-root:/etc/ca~.crt",
        "file-root:/etc/ca.crt~/etc/crl.pem",
        "file-root:/etc/ca\0.crt",
        "file-root:/" + "x" * 4096,
        "file-root:/" + "\u00e4" * 2048,
        "file-root:System",
        "FILE-ROOT:/etc/ca.crt",
        "default",
        "",
    ],
)
def test_everything_else_is_refused(name: str) -> None:
    with pytest.raises(InvalidValueError, match="secret name"):
        parse(name)


@pytest.mark.parametrize(
    ("name", "file"),
    [("file-cert:x", True), ("file-root:", True), ("file-", False), ("default", False), ("spiffe://file-root:", False)],
)
def test_which_names_speak_of_files(name: str, file: bool) -> None:
    assert is_file_name(name) is file


@given(st.text(st.sampled_from("/.~a:\0 -"), max_size=24))
def test_what_is_accepted_has_one_spelling_and_is_absolute(rest: str) -> None:
    for prefix in ("file-cert:", "file-root:"):
        try:
            found = parse(prefix + rest)
        except InvalidValueError:
            continue
        match found:
            case CertificateFiles(certificate, key):
                assert f"{certificate}~{key}" == rest
            case RootsFile(path):
                assert str(path) == rest
                assert ".." not in path.parts
