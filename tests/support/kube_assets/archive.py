"""An official archive: downloaded whole, its hash compared, and only then opened."""

from __future__ import annotations

import hashlib
import http.client
import re
import shutil
import tarfile
import urllib.error
import urllib.request
from contextlib import closing
from typing import TYPE_CHECKING

from support.kube_assets.failures import AssetError, UnreachableError
from support.kube_assets.releases import PROGRAM

if TYPE_CHECKING:
    from pathlib import Path

    from support.kube_assets.choosing import Archive
    from support.kube_assets.progress import Progress

REACH_SECONDS = 5.0
"""To hear anything from the host; many networks let nothing out, and do not say so."""
READ_SECONDS = 30.0
MEMBER = f"kubernetes/server/bin/{PROGRAM}"
_HASHES = {"sha512": 128, "sha256": 64}
_CHUNK = 1 << 20


def fetch(archive: Archive, work: Path, progress: Progress) -> Path:
    """The program out of the archive, in `work`; raises AssetError."""
    algorithm, wanted = ("sha512", archive.sha512) if archive.sha512 else _published(archive.url)
    file = work / "archive.tar.gz"
    found = _download(archive.url, file, algorithm, progress)
    if found != wanted:
        raise AssetError(f"{archive.url} has the {algorithm} {found}, published is {wanted}: refused")
    return _extract(file, work)


def _published(url: str) -> tuple[str, str]:
    """The algorithm and the hash beside the archive: the better one that is there."""
    for algorithm, length in _HASHES.items():
        try:
            with closing(_open(f"{url}.{algorithm}", REACH_SECONDS)) as answer:
                text = answer.read(1024).decode("ascii", "replace")
        except urllib.error.HTTPError as error:
            error.close()
            continue
        if found := re.match(rf"([0-9a-f]{{{length}}})\b", text):
            return algorithm, found[1]
        raise AssetError(f"{url}.{algorithm} holds no {algorithm}")
    raise AssetError(f"no hash is published beside {url}")


def _open(url: str, timeout: float) -> http.client.HTTPResponse:
    try:
        answer: http.client.HTTPResponse = urllib.request.urlopen(url, timeout=timeout)  # noqa: S310 - ours, see choosing
    except urllib.error.HTTPError:
        raise
    except (OSError, http.client.HTTPException) as error:
        raise UnreachableError(f"{url} cannot be reached: {getattr(error, 'reason', error)}") from error
    return answer


def _download(url: str, file: Path, algorithm: str, progress: Progress) -> str:
    """Write the file; its hash."""
    digest, done = hashlib.new(algorithm), 0
    try:
        with closing(_open(url, READ_SECONDS)) as answer, file.open("wb") as out:
            total = int(answer.headers.get("Content-Length") or 0)
            while chunk := answer.read(_CHUNK):
                digest.update(chunk)
                out.write(chunk)
                done += len(chunk)
                progress.tick(f"{done >> 20} of {total >> 20} MB")
    except urllib.error.HTTPError as error:
        error.close()
        raise AssetError(f"{url}: HTTP {error.code}") from error
    except (OSError, http.client.HTTPException) as error:
        raise AssetError(f"{url} broke off after {done} bytes: {error}") from error
    if total and done != total:
        raise AssetError(f"{url} broke off after {done} of {total} bytes")
    return digest.hexdigest()


def _extract(file: Path, work: Path) -> Path:
    out = work / PROGRAM
    try:
        with tarfile.open(file) as archive:
            member = archive.extractfile(MEMBER)
            if member is None:
                raise AssetError(f"{MEMBER} in the archive is no file")
            with member, out.open("wb") as target:
                shutil.copyfileobj(member, target, _CHUNK)
    except (KeyError, tarfile.TarError, EOFError, OSError) as error:
        raise AssetError(f"the archive holds no readable {MEMBER}: {error}") from error
    return out
