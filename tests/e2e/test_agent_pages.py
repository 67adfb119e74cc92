"""docs/agent-workload-api.md and docs/agent-files.md as written: their code is run, their tables are the program's."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from meshpki.agent.files import command as file_command
from meshpki.agent.files import notice as file_notice
from meshpki.agent.files import set as file_set
from meshpki.agent.files import teller as file_teller
from meshpki.agent.workload import api as workload_api
from meshpki.agent.workload.service import OFF, STREAMS
from support.agent_process import AgentFiles, AgentProcess, wait_until
from support.command_line import invoke
from support.doc_pages import ROOT, blocks
from support.fake_ca import SPIFFE_ID, FakeCa

if TYPE_CHECKING:
    from collections.abc import Iterator

WORKLOAD_API = ROOT / "docs" / "agent-workload-api.md"
FILES = ROOT / "docs" / "agent-files.md"
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])}


@pytest.fixture
def short_dir() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="mpd-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


def python_of(page: Path) -> str:
    (block,) = blocks(page, "python")
    return block.text


@pytest.mark.e2e
def test_the_python_client_prints_what_the_page_says(short_dir: Path) -> None:
    """With the variable as the page sets it, but for the directory."""
    (block,) = blocks(WORKLOAD_API, "yaml")
    (variable,) = yaml.safe_load(block.text)["containers"][0]["env"]
    files = AgentFiles(short_dir)
    address = variable["value"].replace("/var/run/meshpki", str(short_dir))
    assert address == f"unix://{files.socket}"
    with FakeCa() as ca:
        files.roots.write_bytes(ca.authority.roots_pem)
        files.write_token(expires_at=time.time() + 3600)
        with AgentProcess(files.config(ca), files.log):
            wait_until(files.socket.is_socket, "a socket")
            done = subprocess.run(
                [sys.executable, "-c", python_of(WORKLOAD_API)],
                capture_output=True,
                text=True,
                check=True,
                timeout=60,
                env={**ENVIRONMENT, variable["name"]: address},
            )
    assert done.stdout.splitlines() == [SPIFFE_ID, "2 certificates, the leaf first; 1 root"]


def test_every_method_and_status_is_on_the_page() -> None:
    text = WORKLOAD_API.read_text()
    rows = dict(re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| (.+) \|$", text, re.MULTILINE))
    answers = {name: answer for names, answer in rows.items() for name in re.findall(r"`(\w+)`", names)}
    for path in (*STREAMS, *OFF):
        assert answers.pop(path.rpartition("/")[2]).startswith("`UNIMPLEMENTED`") is (path in OFF)
    assert set(re.findall(r"^\| `([A-Z_]+)` \|", text, re.MULTILINE)) == set(workload_api.Status)


def test_every_file_and_every_option_for_files_is_on_the_page() -> None:
    text = FILES.read_text()
    listed = set(re.findall(r"^\| `([\w.-]+\.pem)` \|", text, re.MULTILINE))
    assert listed == set(file_set.NAMES)
    help_text = invoke("agent", "run", "--help").out
    assert set(re.findall(r"^\| `(--[\w-]+)` \|", text, re.MULTILINE)) == set(re.findall(r"--files-\w+", help_text))
    (block,) = blocks(FILES, "yaml")
    for argument in yaml.safe_load(block.text)["args"]:
        assert argument.split("=")[0] in help_text


def test_the_numbers_on_the_page_are_the_programs() -> None:
    text = " ".join(FILES.read_text().split())
    assert f"It has {file_notice.COMMAND_SECONDS:g} seconds" in text
    assert file_command.MAX_OUTPUT == 4096
    assert (file_teller.ATTEMPTS, file_teller.RETRY_SECONDS) == (3, 5.0)
    assert f"`{file_command.DIRECTORY_VARIABLE}`" in text


_ROTATE = """
import sys, time
from pathlib import Path
from meshpki.agent.files.set import FileSet
from support.fake_ca import FakeAuthority
from support.real_snapshots import real_snapshot
authority = FakeAuthority()
pool = [real_snapshot(authority) for _ in range(20)]
files = FileSet(Path(sys.argv[1]))
files.write(pool[0])
print("ready", flush=True)
while True:
    for snapshot in pool:
        files.write(snapshot)
"""


@pytest.mark.e2e
def test_the_code_to_copy_never_loads_a_mixed_pair_and_the_plain_way_does(tmp_path: Path) -> None:
    """OpenSSL itself says whether key and certificate belong together; the files change all the time."""
    import ssl

    namespace: dict[str, object] = {}
    exec(compile(python_of(FILES), str(FILES), "exec"), namespace)  # noqa: S102 - our own page
    load = namespace["load"]
    assert callable(load)
    directory = tmp_path / "certs"
    with subprocess.Popen(
        [sys.executable, "-c", _ROTATE, directory], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as writer:
        assert writer.stdout is not None
        try:
            assert writer.stdout.readline() == "ready\n"
            for _ in range(1000):
                load(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), str(directory))
            wait_until(lambda: is_mixed(directory), "the control: by one path, opened twice", 60)
        finally:
            writer.kill()


def is_mixed(directory: Path) -> bool:
    import ssl

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(directory / "credential-bundle.pem")
    except FileNotFoundError:
        return False
    except ssl.SSLError as error:
        return "KEY_VALUES_MISMATCH" in str(error)
    return False
