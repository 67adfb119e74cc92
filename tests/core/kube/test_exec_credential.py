"""What plugins are told and what they answer, without running any."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshpki.kube.access import Access
from meshpki.kube.credentials import ExecPlugin
from meshpki.kube.errors import KubeCredentialError
from meshpki.kube.exec_credential import ExecCredential, exec_info, read
from meshpki.kube.exec_plugin import plugin_environment
from support.kubeconfigs import CA_PEM, SECRET, encoded

V1, BETA = "client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1"
PLUGIN = ExecPlugin(Path("/opt/login"), V1)
KEY = f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----\n"


def answer(version: str = V1, kind: str = "ExecCredential", **status: object) -> bytes:
    return json.dumps({"apiVersion": version, "kind": kind, "status": status}).encode()


def test_a_token_with_its_end_is_read() -> None:
    got = read(answer(token=SECRET, expirationTimestamp="2026-11-23T17:00:00Z"), PLUGIN)
    assert got == ExecCredential(token=SECRET, expires_at=1795453200.0)
    assert SECRET not in repr(got)


def test_a_certificate_with_its_key_is_read() -> None:
    got = read(answer(clientCertificateData=CA_PEM, clientKeyData=KEY), PLUGIN)
    assert (got.certificate, got.key, got.expires_at) == (CA_PEM.encode(), KEY.encode(), None)
    assert SECRET not in repr(got)


@pytest.mark.parametrize("text", ["2026-11-23T17:00:00+00:00", "2026-11-23T18:00:00+01:00", "2026-11-23T17:00:00.0Z"])
def test_every_spelling_of_a_moment_is_the_same_moment(text: str) -> None:
    assert read(answer(token="x", expirationTimestamp=text), PLUGIN).expires_at == 1795453200.0


@pytest.mark.parametrize(
    ("output", "says"),
    [
        (b"", "is no ExecCredential"),
        (SECRET.encode(), "is no ExecCredential"),
        (b"\xff", "is no ExecCredential"),
        (b"[" * 100_000, "is no ExecCredential"),
        (b"[]", "is no ExecCredential"),
        (answer(kind="Secret", token=SECRET), "is no ExecCredential"),
        (answer(BETA, token=SECRET), "is of another apiVersion than the kubeconfig says"),
        (answer(), "has no credential"),
        (answer(token=""), "has no credential"),
        (answer(token=[SECRET]), "has no credential"),
        (answer(token=f"{SECRET}\n"), "a space, a line break"),
        (answer(clientCertificateData=CA_PEM), "only one half of a pair"),
        (answer(token=SECRET, clientKeyData=KEY), "only one half of a pair"),
        (answer(clientCertificateData="x", clientKeyData=KEY), "no PEM"),
        (answer(token=SECRET, expirationTimestamp="tomorrow"), "no time"),
        (answer(token=SECRET, expirationTimestamp="2026-11-23T17:00:00"), "no time"),
        (answer(token=SECRET, expirationTimestamp=1), "no time"),
    ],
)
def test_other_answers_are_refused_and_never_shown(output: bytes, says: str) -> None:
    with pytest.raises(KubeCredentialError) as caught:
        read(output, PLUGIN)
    assert says in str(caught.value)
    assert "/opt/login" in str(caught.value)
    assert SECRET not in f"{caught.value} {caught.value.__cause__!r} {caught.value.__context__!r}"


@settings(deadline=None)
@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(json.dumps).map(str.encode)
)
def test_any_output_is_a_credential_or_a_credential_error(output: bytes) -> None:
    with pytest.raises(KubeCredentialError):
        read(output, PLUGIN)


def test_the_cluster_is_told_only_if_the_kubeconfig_wants_it() -> None:
    access = Access("https://host:6443", CA_PEM.encode(), PLUGIN, tls_server_name="kube")
    assert json.loads(exec_info(PLUGIN, access)) == {
        "apiVersion": V1,
        "kind": "ExecCredential",
        "spec": {"interactive": False},
    }
    told = json.loads(exec_info(dataclasses.replace(PLUGIN, provide_cluster_info=True), access))
    assert told["spec"]["cluster"] == {
        "server": "https://host:6443",
        "certificate-authority-data": encoded(CA_PEM),
        "tls-server-name": "kube",
    }


def test_only_what_plugins_need_of_our_environment_is_passed_on() -> None:
    ours = dict.fromkeys(["HOME", "PATH", "LANG", "LC_ALL", "AWS_PROFILE", "https_proxy", "XDG_CONFIG_HOME"], "x")
    kept_back = dict.fromkeys(
        ["LD_PRELOAD", "PYTHONPATH", "GITHUB_TOKEN", "MESHPKI_X", "KUBECONFIG", "DATABASE_URL", "LD_LIBRARY_PATH"], "x"
    )
    plugin = dataclasses.replace(PLUGIN, environment=(("AWS_PROFILE", "prod"),))
    assert plugin_environment(ours | kept_back, plugin) == ours | {"AWS_PROFILE": "prod"}
