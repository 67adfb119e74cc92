"""A user of a kubeconfig becomes a credential: exactly one kind, and nothing that reaches beyond what was named."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from meshpki.errors import UsageError
from meshpki.kube.credentials import ClientCertificate, ExecPlugin, NamedFile, TokenFile, TokenText

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshpki.kube.credentials import Credential
    from meshpki.kube.kubeconfig_file import Entry

EXEC_VERSIONS: Final = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")
_REFUSED: Final = {
    "auth-provider": "kubectl itself took auth-provider out in 1.26: let the provider's tool write an `exec` entry",
    "username": "API servers know no passwords since 1.19: use a token or a client certificate",
    "password": "API servers know no passwords since 1.19: use a token or a client certificate",
    "as": "give a kubeconfig of the user himself: this one acts as another",
    "as-uid": "give a kubeconfig of the user himself: this one acts as another",
    "as-groups": "give a kubeconfig of the user himself: this one acts as another",
    "as-user-extra": "give a kubeconfig of the user himself: this one acts as another",
}
_USER_KEYS: Final = (
    "token", "tokenFile", "client-certificate", "client-certificate-data", "client-key", "client-key-data", "exec",
    "extensions",
)  # fmt: skip
_EXEC_KEYS: Final = (
    "apiVersion", "command", "args", "env", "installHint", "interactiveMode", "provideClusterInfo",
)  # fmt: skip
ENVIRONMENT: Final = frozenset(
    {
        "AAD_LOGIN_METHOD", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_REGION", "AWS_STS_REGIONAL_ENDPOINTS",
        "AZURE_CLOUD_NAME", "CLOUDSDK_ACTIVE_CONFIG_NAME", "CLOUDSDK_CORE_ACCOUNT", "CLOUDSDK_CORE_PROJECT",
        "USE_GKE_GCLOUD_AUTH_PLUGIN",
    }
)  # fmt: skip
"""Variables that a kubeconfig may set for its plugin: names of accounts and regions. Any other could make an allowed
program load or run what nobody allowed (LD_PRELOAD, PYTHONPATH, CLOUDSDK_PYTHON, AWS_CONFIG_FILE)."""
_TOKEN: Final = re.compile(r"[\x21-\x7e]+", re.ASCII)


def credential(user: Entry, *, allow_exec: Sequence[Path] = (), allow_files: Sequence[Path] = ()) -> Credential:
    """Read a user's one credential. Raises UsageError; no file is read here but its path is checked."""
    for key, todo in _REFUSED.items():
        if user.values.get(key) not in (None, "", [], {}):
            raise UsageError(f"{user.where} has {key!r}, which is refused", todo=todo)
    user.only((*_USER_KEYS, *_REFUSED))
    found: list[Credential] = []
    if user.text("token"):
        found.append(TokenText(token_text(user.text("token"), f"the token of {user.where}")))
    token_file = named_file(user, "tokenFile", allow_files)
    if token_file:
        found.append(TokenFile(token_file))
    certificate = _certificate(user, allow_files)
    if certificate:
        found.append(certificate)
    program = user.child("exec")
    if program:
        found.append(_exec(program, allow_exec))
    if len(found) != 1:
        seen = "no credential" if not found else " and ".join(_NAMES[type(item)] for item in found)
        raise UsageError(
            f"{user.where} has {seen}",
            wanted="exactly one of: token, tokenFile, client certificate with key, exec",
            todo="log in again with the tool that wrote it" if not found else "take the others out",
        )
    return found[0]


_NAMES: Final = {
    TokenText: "a token",
    TokenFile: "a tokenFile",
    ClientCertificate: "a client certificate",
    ExecPlugin: "an exec plugin",
}


def token_text(token: str, where: str) -> str:
    """Check that a token can stand in a header. Raises UsageError that shows nothing of it."""
    if not _TOKEN.fullmatch(token):
        raise UsageError(f"{where} has a space, a line break or a character outside ASCII in it", wanted="one token")
    return token


def named_file(entry: Entry, key: str, allowed: Sequence[Path]) -> NamedFile | None:
    """The file at `key`, relative to the kubeconfig's directory, which (or `allowed`) it must not leave."""
    text = entry.text(key)
    if not text:
        return None
    if "\0" in text:
        raise UsageError(f"{key!r} of {entry.where} is no path", wanted="a path")
    home = entry.path.absolute().parent
    return NamedFile(home / text, (home, *(path.absolute() for path in allowed)))


def _certificate(user: Entry, allowed: Sequence[Path]) -> ClientCertificate | None:
    certificate = user.data("client-certificate-data") or named_file(user, "client-certificate", allowed)
    key = user.data("client-key-data") or named_file(user, "client-key", allowed)
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        missing = "client-certificate" if certificate is None else "client-key"
        raise UsageError(f"{user.where} has no {missing}", wanted="both, or their -data")
    return ClientCertificate(certificate, key)


def _exec(program: Entry, allowed: Sequence[Path]) -> ExecPlugin:
    program.only(_EXEC_KEYS)
    version = program.text("apiVersion")
    if version not in EXEC_VERSIONS:
        raise UsageError(
            f"{program.where} has apiVersion {version[:80]!a}",
            wanted=" or ".join(EXEC_VERSIONS),
            todo="update the tool that wrote the kubeconfig, and let it write it again",
        )
    if program.text("interactiveMode") == "Always":
        raise UsageError(f"{program.where} wants to ask at the terminal", wanted="interactiveMode IfAvailable or Never")
    return ExecPlugin(
        command=_allowed(program, allowed),
        api_version=version,
        arguments=program.texts("args"),
        environment=_environment(program),
        provide_cluster_info=program.flag("provideClusterInfo"),
    )


def _allowed(program: Entry, allowed: Sequence[Path]) -> Path:
    """The program to run. A bare name stands for the one allowed path that ends in it; PATH is never searched."""
    command = program.text("command")
    for path in allowed:
        if not path.is_absolute():
            raise UsageError(f"--allow-exec {path} is no absolute path", wanted="the absolute path of the program")
    matches = {path for path in allowed if str(path) == command or ("/" not in command and path.name == command)}
    if len(matches) != 1 or not command:
        shown = ascii(command[:200]).strip("'")
        wish = command if command.startswith("/") else f"/absolute/path/of/{Path(command).name or 'the-program'}"
        raise UsageError(
            f"{program.where} wants to run {shown!r}, which was not allowed",
            wanted="a program that was allowed by its absolute path",
            todo=f"if you trust this kubeconfig and that program: --allow-exec {ascii(wish[:200]).strip(chr(39))}",
        )
    return matches.pop()


def _environment(program: Entry) -> tuple[tuple[str, str], ...]:
    pairs = []
    for item in program.children("env"):
        item.only(("name", "value"))
        name, value = item.text("name"), item.text("value")
        if name not in ENVIRONMENT or "\0" in value:
            raise UsageError(
                f"{program.where} sets the variable {name[:80]!a} for its program",
                wanted="no variable but " + ", ".join(sorted(ENVIRONMENT)),
                todo="take it out; what your own environment has for the program is passed on",
            )
        pairs.append((name, value))
    return tuple(pairs)
