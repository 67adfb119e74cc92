"""What may stand as an API server's address, and what an Access shows of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshpki.errors import MeshpkiError, UsageError
from meshpki.kube import access, in_cluster
from meshpki.kube.access import Access, https_address
from meshpki.kube.credentials import TokenFile, TokenText
from meshpki.kube.errors import KubeCredentialError
from support.kubeconfigs import CA_PEM, SECRET

if TYPE_CHECKING:
    from pathlib import Path

TOKEN = TokenText(SECRET)


@pytest.mark.parametrize(
    ("url", "stripped"),
    [
        ("https://10.0.0.1:6443", "https://10.0.0.1:6443"),
        ("https://kube.example.com/", "https://kube.example.com"),
        ("https://rancher.example.com/k8s/clusters/c-m-abc", "https://rancher.example.com/k8s/clusters/c-m-abc"),
        ("https://[fd00::1]:6443", "https://[fd00::1]:6443"),
    ],
)
def test_https_addresses_are_taken_without_the_last_slash(url: str, stripped: str) -> None:
    assert Access(url, CA_PEM.encode(), TOKEN).server == stripped


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://10.0.0.1:8080", "without TLS"),
        ("HTTP://10.0.0.1:8080", "without TLS"),
        ("10.0.0.1:6443", "wanted: https://HOST"),
        ("", "wanted: https://HOST"),
        ("https://", "wanted: https://HOST"),
        ("https://host:port", "wanted: https://HOST"),
        ("https://host:99999", "wanted: https://HOST"),
        ("https://[::1", "wanted: https://HOST"),
        ("https://user:pass@host", "a user in its address"),
        ("https://host/?token=x", "and no more"),
        ("https://host/#part", "and no more"),
        ("https://host/a/../b", "and no more"),
        ("https://ho st", "wanted: https://HOST"),
        ("https://host\n.evil", "wanted: https://HOST"),
        ("https://host\\@evil", "wanted: https://HOST"),
        ("https://hőst", "wanted: https://HOST"),
        ("ftp://host", "wanted: https://HOST"),
    ],
)
def test_other_addresses_are_refused_in_one_line(url: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        Access(url, CA_PEM.encode(), TOKEN, where="context 'prod'")
    assert says in str(caught.value)
    assert "pass" not in str(caught.value)
    assert "\n" not in str(caught.value)


@settings(deadline=None)
@given(st.text(max_size=60) | st.text(max_size=40).map("https://{}".format))
def test_any_text_is_an_address_or_a_usage_error(text: str) -> None:
    try:
        address = https_address(text, "the test")
    except UsageError:
        return
    assert address.startswith("https://")
    assert address.isascii()
    assert not set(address) & set(" \n\r\t\\@?#")


BROKEN_ROOTS = [
    b"",
    b"\x30\x82\x01",
    b"-----BEGIN CERTIFICATE-----\n\xff\n-----END CERTIFICATE-----\n",
    b"-----BEGIN CERTIFICATE-----\nMIIBejCCASGgAwIBAgIU\n-----END CERTIFICATE-----\n",
    CA_PEM.encode()[:-60],
    b"-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIA==\n-----END PRIVATE KEY-----\n",
]


@pytest.mark.parametrize("roots", BROKEN_ROOTS)
def test_roots_that_are_none_are_refused_before_anybody_is_asked(roots: bytes) -> None:
    with pytest.raises(UsageError, match="the certificate authority of context 'prod' is no PEM of certificates"):
        Access("https://host", roots, TOKEN, where="context 'prod'")


def test_no_repr_shows_a_secret() -> None:
    shown = Access("https://host", CA_PEM.encode(), TOKEN, where="context 'prod'")
    assert SECRET not in repr(shown) + str(shown)
    assert CA_PEM[40:60] not in repr(shown)


def test_explicit_names_its_files_and_reads_the_roots_only(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text(CA_PEM)
    made = access.explicit("https://host", tmp_path / "ca.pem", tmp_path / "token")
    assert made.ca_pem == CA_PEM.encode()
    assert isinstance(made.credential, TokenFile)
    assert made.credential.file.path == tmp_path / "token"
    assert made.ca_file is not None


def test_explicit_without_its_roots_says_which_file(tmp_path: Path) -> None:
    with pytest.raises(KubeCredentialError, match=r"could not read .*ca\.pem: No such file"):
        access.explicit("https://host", tmp_path / "ca.pem", tmp_path / "token")


@pytest.mark.parametrize(
    ("host", "port", "server"),
    [("10.96.0.1", "443", "https://10.96.0.1:443"), ("fd00::1", "6443", "https://[fd00::1]:6443")],
)
def test_in_cluster_is_what_a_pod_is_given(tmp_path: Path, host: str, port: str, server: str) -> None:
    (tmp_path / "ca.crt").write_text(CA_PEM)
    made = in_cluster.load({"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}, tmp_path)
    assert made.server == server
    assert isinstance(made.credential, TokenFile)
    assert made.credential.file.path == tmp_path / "token"


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"KUBERNETES_SERVICE_HOST": "10.96.0.1"},
        {"KUBERNETES_SERVICE_PORT": "443"},
        {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "tcp://10.96.0.1:443"},
    ],
)
def test_outside_a_cluster_it_says_so(environment: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"runs in no pod.*to do: name a kubeconfig"):
        in_cluster.load(environment, tmp_path)


def test_a_pod_without_mounted_roots_says_which_file(tmp_path: Path) -> None:
    with pytest.raises(MeshpkiError, match=r"ca\.crt"):
        in_cluster.load({"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}, tmp_path)
