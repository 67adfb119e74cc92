"""An authority on disk: four files that appear together or not at all, and are never replaced."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from meshpki.ca.chain import check_chain, trust_domain_of
from meshpki.ca.description import MaterialDescription, describe_chain
from meshpki.ca.hierarchy import ISSUER_SECONDS, ROOT_SECONDS, build_hierarchy
from meshpki.ca.keys import KeyKind, private_pem
from meshpki.ca.signer import SoftwareSigner, load_certificates
from meshpki.errors import MachineError, UsageError
from meshpki.runtime import files

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meshpki.ca.hierarchy import Authority
    from meshpki.identity import TrustDomain

ROOT_CERTIFICATE: Final = "root-cert.pem"
ROOT_KEY: Final = "root-key.pem"
"""Needed to renew the issuing certificate and for nothing else: put it away. No server ever opens it."""
ISSUER_CERTIFICATE: Final = "issuer-cert.pem"
ISSUER_KEY: Final = "issuer-key.pem"
ALL: Final = (ROOT_CERTIFICATE, ROOT_KEY, ISSUER_CERTIFICATE, ISSUER_KEY)
NEEDED: Final = (ROOT_CERTIFICATE, ISSUER_CERTIFICATE, ISSUER_KEY)


def create(
    directory: Path,
    *,
    trust_domain: TrustDomain,
    now: float,
    key_type: KeyKind = KeyKind.EC_P256,
    root_seconds: int = ROOT_SECONDS,
    issuer_seconds: int = ISSUER_SECONDS,
) -> bool:
    """Make a root and an issuing authority with new keys in `directory`; True if this call made them.

    The files are written into a directory beside it, which is then renamed: killed at any instruction, it leaves the
    whole set or none of it, and the next call sweeps up and goes on. An authority that is there already stays as it
    is. The directory gets mode 0700, keys 0600, certificates 0644. `now` is epoch seconds.

    Raises MachineError when the disk refuses or something else is in the way, UsageError when the authority there is
    another trust domain's.
    """
    if exists(directory):
        _check_trust_domain(directory, trust_domain)
        return False
    _check_named(directory)
    _check_empty(directory)
    hierarchy = build_hierarchy(
        trust_domain, now=now, key_type=key_type, root_seconds=root_seconds, issuer_seconds=issuer_seconds
    )
    with files.machine_errors("could not make", directory):
        directory.parent.mkdir(parents=True, exist_ok=True)
        _sweep(directory)
        with _staging(directory) as staging:
            _write(staging, hierarchy.root, ROOT_CERTIFICATE, ROOT_KEY)
            _write(staging, hierarchy.issuer, ISSUER_CERTIFICATE, ISSUER_KEY)
            made = _publish(staging, directory)
    if not made:
        return create(directory, trust_domain=trust_domain, now=now, key_type=key_type)
    return True


def exists(directory: Path) -> bool:
    """Whether an authority is there that can issue; the root's key may have been put away.

    Raises MachineError when some of its files are there and others are not: nothing of ours leaves that behind.
    """
    there = [name for name in ALL if os.path.lexists(directory / name)]
    missing = [name for name in NEEDED if name not in there]
    if there and missing:
        raise MachineError(
            f"{directory} holds {', '.join(there)} and lacks {', '.join(missing)}",
            wanted="the files of one authority together, or none of them",
            todo="put the missing files back from a backup, or move these away and make a new authority",
        )
    return bool(there)


def load(directory: Path) -> SoftwareSigner:
    """Open the issuing authority in `directory`, without its root's key. Raises as `SoftwareSigner.load` does."""
    return SoftwareSigner.load(
        directory / ISSUER_CERTIFICATE, directory / ISSUER_KEY, root_path=directory / ROOT_CERTIFICATE
    )


def describe(directory: Path, now: float) -> MaterialDescription:
    """Read and examine the authority in `directory`; opens no root key. `now` is epoch seconds.

    Raises MachineError for files that are missing or not private, InvalidValueError for a chain that no validator
    would follow, IntegrityError when the issuing key is another's.
    """
    return describe_signer(load(directory), directory, now)


def describe_signer(signer: SoftwareSigner, directory: Path, now: float) -> MaterialDescription:
    """Examine an authority that was opened from files, the issuing certificate of which is in `directory`.

    Raises InvalidValueError for a chain that no validator would follow.
    """
    chain = [x509.load_der_x509_certificate(each) for each in signer.chain]
    check_chain(chain)
    return MaterialDescription(
        directory=directory,
        trust_domain=trust_domain_of(chain[0]),
        certificates=describe_chain(chain, now),
        root_key_here=(directory / ROOT_KEY).exists(),
    )


def _check_trust_domain(directory: Path, wanted: TrustDomain) -> None:
    found = trust_domain_of(load_certificates(directory / ISSUER_CERTIFICATE)[0])
    if found is not None and found != wanted:
        raise UsageError(
            f"{directory} holds the authority of {found}",
            wanted=f"an authority of {wanted}, or an empty directory",
            todo="name another directory, or the trust domain that is there",
        )


def _check_named(directory: Path) -> None:
    if directory.name in {"", ".."}:
        raise UsageError(
            f"{directory} as an authority's directory",
            wanted="its name: another directory takes its place, and nobody may stand in it",
            todo="name it from the directory above",
        )


def _check_empty(directory: Path) -> None:
    with files.machine_errors("could not examine", directory):
        if not os.path.lexists(directory):
            return
        files.check_private_directory(directory)
        if any(directory.iterdir()):
            raise MachineError(
                f"{directory} holds other files", wanted="an empty directory, or none", todo="name another directory"
            )


def _prefix(directory: Path) -> str:
    return f".{directory.name}.new."


def _sweep(directory: Path) -> None:
    """Remove what killed calls left. A call that lives holds a lock on its directory; the kernel ends it with it."""
    for left in directory.parent.glob(f"{glob.escape(_prefix(directory))}*"):
        descriptor = _lock(left)
        if descriptor is not None:
            shutil.rmtree(left)
            os.close(descriptor)


def _lock(path: Path) -> int | None:
    """Lock a directory; None when it is gone, or somebody else's."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.exists():  # It may have been swept away before it was locked.
            return descriptor
    os.close(descriptor)
    return None


@contextlib.contextmanager
def _staging(directory: Path) -> Iterator[Path]:
    """A new private directory beside `directory`, locked by this process, removed unless it was renamed."""
    descriptor = None
    while descriptor is None:
        staging = directory.with_name(_prefix(directory) + os.urandom(8).hex())
        staging.mkdir(mode=files.PRIVATE_DIRECTORY)
        descriptor = _lock(staging)
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        os.close(descriptor)


def _write(staging: Path, authority: Authority, certificate: str, key: str) -> None:
    files.write_atomically(staging / key, private_pem(authority.key))
    pem = authority.certificate.public_bytes(Encoding.PEM)
    files.write_atomically(staging / certificate, pem, mode=files.PUBLIC_FILE)


def _publish(staging: Path, directory: Path) -> bool:
    """Rename, which replaces an empty directory and nothing else; False when another call was first."""
    try:
        staging.rename(directory)
    except OSError as error:
        if error.errno in {errno.ENOTEMPTY, errno.EEXIST}:
            return False
        raise
    files.sync_directory(directory.parent)
    return True
