"""A kubeconfig, read strictly and by us: one context of it becomes an Access, or one sentence says why not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from meshpki.errors import MachineError, UsageError
from meshpki.kube import kubeconfig_user
from meshpki.kube.access import Access
from meshpki.kube.credentials import NamedFile
from meshpki.kube.kubeconfig_file import merge, parse
from meshpki.runtime.files import read_capped

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from meshpki.kube.kubeconfig_file import Entry, Kubeconfig

MAX_KUBECONFIG_BYTES: Final = 4 << 20
MAX_FILES: Final = 64
_CLUSTER_KEYS: Final = (
    "server", "certificate-authority", "certificate-authority-data", "tls-server-name", "disable-compression",
    "extensions", "insecure-skip-tls-verify", "proxy-url",
)  # fmt: skip
_CONTEXT_KEYS: Final = ("cluster", "user", "namespace", "extensions")


def load(
    path: Path | None,
    context: str | None,
    *,
    allow_exec: Sequence[Path] = (),
    allow_files: Sequence[Path] = (),
    environment: Mapping[str, str] | None = None,
) -> Access:
    """Read the context called `context`, or the current one, of the kubeconfig at `path`.

    Without a path: the files that KUBECONFIG lists, put together as kubectl does, or ~/.kube/config. Files that a
    kubeconfig names must lie below its own directory or below one of `allow_files`; programs that it names run only
    if they are in `allow_exec`. Raises UsageError, MachineError, KubeCredentialError: one sentence each, no value.
    """
    whole = _whole(path, environment)
    name, chosen = _context(whole, context)
    cluster = _named(chosen, "cluster", whole.clusters)
    user = _named(chosen, "user", whole.users)
    server, tls_server_name = _server(cluster)
    ca_pem, ca_file = _authority(cluster, allow_files)
    return Access(
        server=server,
        ca_pem=ca_pem,
        credential=kubeconfig_user.credential(user, allow_exec=allow_exec, allow_files=allow_files),
        tls_server_name=tls_server_name,
        where=chosen.where,
        context=name,
        kubeconfig=whole.names,
        ca_file=ca_file,
    )


def contexts(path: Path | None, *, environment: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """The names of all contexts, the current one first. Raises UsageError, MachineError."""
    whole = _whole(path, environment)
    return tuple(sorted(whole.contexts, key=lambda name: (name != whole.current_context, name)))


def _whole(path: Path | None, environment: Mapping[str, str] | None) -> Kubeconfig:
    files = _files(path, os.environ if environment is None else environment)
    return merge([parse(_content(file), file) for file in files])


def _content(path: Path) -> bytes:
    if path.is_dir():
        raise MachineError(f"{path} is a directory", wanted="a kubeconfig", todo="name the file in it")
    return read_capped(path, limit=MAX_KUBECONFIG_BYTES)


def _files(path: Path | None, environment: Mapping[str, str]) -> list[Path]:
    if path is not None:
        return [_present(path.expanduser(), "--kubeconfig names it")]
    listed = [Path(name) for name in environment.get("KUBECONFIG", "").split(os.pathsep) if name]
    if len(listed) > MAX_FILES:
        raise UsageError(f"KUBECONFIG lists {len(listed)} files", wanted=f"at most {MAX_FILES}")
    present = [file for file in listed if file.exists()]
    if present:
        return present
    if listed:
        return [_present(listed[0], "KUBECONFIG names it")]
    home = environment.get("HOME", "")
    if not home:
        raise UsageError("neither KUBECONFIG nor HOME is set", todo="name a kubeconfig: --kubeconfig FILE")
    return [_present(Path(home) / ".kube" / "config", "neither --kubeconfig nor KUBECONFIG names another")]


def _present(path: Path, why: str) -> Path:
    if not path.exists():
        raise MachineError(
            f"there is no kubeconfig at {path} ({why})",
            wanted="a kubeconfig: what kubectl uses for this cluster",
            todo="name it with --kubeconfig FILE, or set KUBECONFIG",
        )
    return path


def _context(whole: Kubeconfig, name: str | None) -> tuple[str, Entry]:
    wanted = whole.current_context if name is None else name
    if not wanted:
        raise UsageError(f"{whole.names} has no current-context", todo=f"choose one with --context: {_choice(whole)}")
    chosen = whole.contexts.get(wanted)
    if chosen is None:
        which = "current-context" if name is None else "context"
        raise UsageError(
            f"{whole.names} has no context {wanted[:200]!a}" + ("" if name else f", though its {which} says so"),
            todo=f"choose one with --context: {_choice(whole)}",
        )
    chosen.only(_CONTEXT_KEYS)
    return wanted, chosen


def _choice(whole: Kubeconfig) -> str:
    names = sorted(whole.contexts)
    shown = ", ".join(ascii(name[:80]).strip("'") for name in names[:8])
    return (shown + (f" and {len(names) - 8} more" if len(names) > 8 else "")) or "there is none in it"


def _named(context: Entry, kind: str, entries: Mapping[str, Entry]) -> Entry:
    name = context.text(kind)
    entry = entries.get(name) if name else None
    if entry is None:
        what = f"the {kind} {name[:200]!a}, which is not there" if name else f"no {kind}"
        raise UsageError(f"{context.where} names {what}", wanted=f"a {kind} that stands in the kubeconfig")
    return entry


def _server(cluster: Entry) -> tuple[str, str]:
    cluster.only(_CLUSTER_KEYS)
    if cluster.flag("insecure-skip-tls-verify"):
        raise UsageError(
            f"{cluster.where} has insecure-skip-tls-verify: whoever is on the way could be the server",
            wanted="the roots of the API server's certificate",
            todo="put them in as certificate-authority-data, and take insecure-skip-tls-verify out",
        )
    if cluster.text("proxy-url"):
        raise UsageError(
            f"{cluster.where} has a proxy-url; proxies are not used",
            todo="run this where the API server is reached directly, or make a tunnel, set server to its end "
            "and tls-server-name to the server's name",
        )
    if not cluster.text("server"):
        raise UsageError(f"{cluster.where} names no server", wanted="https://HOST[:PORT]")
    return cluster.text("server"), cluster.text("tls-server-name")


def _authority(cluster: Entry, allowed: Sequence[Path]) -> tuple[bytes | None, NamedFile | None]:
    embedded = cluster.data("certificate-authority-data")
    if embedded is not None:  # as for kubectl: what is embedded wins over a path beside it
        return embedded, None
    file = kubeconfig_user.named_file(cluster, "certificate-authority", allowed)
    return (None, None) if file is None else (file.read(), file)
