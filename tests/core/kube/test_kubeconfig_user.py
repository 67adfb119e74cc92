"""Exactly one credential of a kind we know; programs and variables only as allowed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from meshpki.errors import UsageError
from meshpki.kube.credentials import ClientCertificate, ExecPlugin, NamedFile, TokenFile, TokenText
from meshpki.kube.errors import KubeCredentialError
from meshpki.kube.kubeconfig_file import Entry
from meshpki.kube.kubeconfig_user import ENVIRONMENT, EXEC_VERSIONS, credential
from support.kubeconfigs import SECRET, encoded

AWS = Path("/usr/local/bin/aws")
EXEC: dict[str, object] = {"apiVersion": EXEC_VERSIONS[1], "command": str(AWS), "args": ["eks", "get-token"]}


def user(**values: object) -> Entry:
    return Entry("user 'u1' of /etc/mesh/config", Path("/etc/mesh/config"), values)


def plugin(**values: object) -> Entry:
    return user(exec={key: value for key, value in {**EXEC, **values}.items() if value is not None})


def test_each_kind_of_credential_is_read() -> None:
    token, file = credential(user(token=SECRET)), credential(user(tokenFile="token"))
    pair = credential(user(**{"client-certificate-data": encoded("CERT"), "client-key": "key.pem"}))
    assert token == TokenText(SECRET)
    assert file == TokenFile(NamedFile(Path("/etc/mesh/token"), (Path("/etc/mesh"),)))
    assert pair == ClientCertificate(b"CERT", NamedFile(Path("/etc/mesh/key.pem"), (Path("/etc/mesh"),)))


def test_a_plugin_that_was_allowed_is_taken_over() -> None:
    taken = credential(
        plugin(env=[{"name": "AWS_PROFILE", "value": "prod"}], provideClusterInfo=True), allow_exec=[AWS]
    )
    assert taken == ExecPlugin(AWS, EXEC_VERSIONS[1], ("eks", "get-token"), (("AWS_PROFILE", "prod"),), True)


def test_nulls_as_tools_write_them_are_nothing() -> None:
    assert isinstance(credential(plugin(env=None, installHint="get it"), allow_exec=[AWS]), ExecPlugin)
    assert isinstance(credential(user(token=SECRET, username="", **{"auth-provider": None})), TokenText)
    assert isinstance(credential(user(exec={**EXEC, "env": None, "args": None}), allow_exec=[AWS]), ExecPlugin)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, "has no credential"),
        ({"token": ""}, "has no credential"),
        ({"token": SECRET, "tokenFile": "t"}, "has a token and a tokenFile"),
        ({"token": SECRET, "exec": EXEC}, "has a token and an exec plugin"),
        ({"token": 123456}, "'token' of user 'u1' of /etc/mesh/config is no text"),
        ({"token": f"{SECRET} x"}, "a space, a line break"),
        ({"token": f"{SECRET}\r\nX: y"}, "a space, a line break"),
        ({"token": f"{SECRET}é"}, "outside ASCII"),
        ({"tokenFile": "a\0b"}, "is no path"),
        ({"client-certificate-data": encoded("C")}, "has no client-key"),
        ({"client-key-data": encoded(SECRET)}, "has no client-certificate"),
        ({"client-certificate-data": "%", "client-key-data": SECRET + "%"}, "is no base64"),
        ({"auth-provider": {"name": "gcp"}}, "'auth-provider', which is refused; to do: kubectl itself took"),
        ({"username": "admin", "password": SECRET}, "'username', which is refused; to do: API servers know no pass"),
        ({"token": SECRET, "as": "system:admin"}, "'as', which is refused; to do: give a kubeconfig of the user"),
        ({"token": SECRET, "as-groups": ["system:masters"]}, "'as-groups', which is refused"),
        ({"token": SECRET, "impersonate": "x"}, "has 'impersonate', which is not known here"),
    ],
)
def test_anything_else_is_refused_in_one_line(values: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        credential(user(**values), allow_exec=[AWS])
    assert says in str(caught.value)
    assert SECRET not in str(caught.value) + repr(caught.value.__cause__) + repr(caught.value.__context__)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "allowed", "says"),
    [
        ({}, [], "wants to run '/usr/local/bin/aws', which was not allowed"),
        ({}, [], "to do: if you trust this kubeconfig and that program: --allow-exec /usr/local/bin/aws"),
        ({}, ["/opt/aws"], "which was not allowed"),
        ({}, ["/usr/local/bin"], "which was not allowed"),
        ({}, ["/usr/local/bin/../bin/aws"], "which was not allowed"),
        ({"command": "../bin/aws"}, [AWS], "wants to run '../bin/aws', which was not allowed"),
        ({"command": "./aws"}, [AWS], "which was not allowed"),
        ({"command": "/tmp/aws"}, [AWS], "which was not allowed"),
        ({"command": "aws"}, [], "--allow-exec /absolute/path/of/aws"),
        ({"command": "aws"}, [AWS, "/opt/aws"], "which was not allowed"),
        ({"command": "/usr/local/bin/aws\0x"}, [AWS], "which was not allowed"),
        ({"command": None}, [AWS], "which was not allowed"),
        ({}, ["aws"], "--allow-exec aws is no absolute path"),
        ({"apiVersion": "client.authentication.k8s.io/v1alpha1"}, [AWS], "to do: update the tool that wrote"),
        ({"apiVersion": None}, [AWS], "has apiVersion ''"),
        ({"interactiveMode": "Always"}, [AWS], "wants to ask at the terminal"),
        ({"args": [1]}, [AWS], "an item that is no text"),
        ({"args": "x"}, [AWS], "is no list"),
        ({"shell": True}, [AWS], "has 'shell', which is not known here"),
        ({"env": [{"name": "LD_PRELOAD", "value": "/tmp/x.so"}]}, [AWS], "sets the variable 'LD_PRELOAD'"),
        ({"env": [{"name": "PATH", "value": "/tmp"}]}, [AWS], "sets the variable 'PATH'"),
        ({"env": [{"name": "PYTHONPATH", "value": "/tmp"}]}, [AWS], "sets the variable 'PYTHONPATH'"),
        ({"env": [{"name": "AWS_CONFIG_FILE", "value": "/tmp/x"}]}, [AWS], "sets the variable 'AWS_CONFIG_FILE'"),
        ({"env": [{"name": "AWS_PROFILE", "value": "a\0b"}]}, [AWS], "sets the variable 'AWS_PROFILE'"),
        ({"env": ["AWS_PROFILE=x"]}, [AWS], "is no mapping"),
    ],
)
def test_a_plugin_that_was_not_allowed_never_runs(values: dict[str, object], allowed: list[str], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        credential(plugin(**values), allow_exec=[Path(path) for path in allowed])
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bare_name_runs_the_one_allowed_path_that_ends_in_it() -> None:
    """As clouds' tools write it; PATH is never searched."""
    taken = credential(plugin(command="aws"), allow_exec=[Path("/opt/kubelogin"), AWS, AWS])
    assert isinstance(taken, ExecPlugin)
    assert taken.command == AWS


def test_no_variable_that_loads_code_may_be_set() -> None:
    assert not [name for name in ENVIRONMENT if name.startswith(("LD_", "PYTHON", "PATH", "HOME")) or "_FILE" in name]


def test_no_credential_shows_its_secret() -> None:
    kinds = [
        credential(user(token=SECRET)),
        credential(user(**{"client-certificate-data": encoded(SECRET), "client-key-data": encoded(SECRET)})),
        credential(plugin(args=["--secret", SECRET], env=[{"name": "AWS_PROFILE", "value": SECRET}]), allow_exec=[AWS]),
    ]
    assert SECRET not in repr(kinds) + str(user(token=SECRET))


def test_a_file_is_judged_at_every_reading(tmp_path: Path) -> None:
    """A link that is turned later to our own pod's token is not followed."""
    home, foreign = tmp_path / "home", tmp_path / "var-run-secrets-token"
    home.mkdir()
    foreign.write_text(SECRET)
    (home / "mine").write_text("mine")
    (home / "token").symlink_to("mine")
    file = NamedFile(home / "token", (home,))
    assert file.read() == b"mine"
    (home / "token").unlink()
    (home / "token").symlink_to(foreign)
    with pytest.raises(KubeCredentialError, match=r"which is .*wanted: files below"):
        file.read()
    assert NamedFile(foreign).read() == SECRET.encode(), "what a user names himself may be anywhere"


@pytest.mark.parametrize("kind", ["nothing", "directory", "loop", "fifo", "large"])
def test_what_is_no_file_is_refused_and_does_not_block(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "token"
    match kind:
        case "directory":
            path.mkdir()
        case "loop":
            path.symlink_to(path)
        case "large":
            path.write_bytes(bytes((1 << 20) + 1))
        case "fifo":
            os.mkfifo(path)
    for file in (NamedFile(path), NamedFile(path, (tmp_path,))):
        with pytest.raises(KubeCredentialError):
            file.read()
