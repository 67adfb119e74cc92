"""What the documentation shows is what happens: commands are run, configurations are loaded, links lead somewhere."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from meshpki.ca import config as ca_config
from meshpki.ca.config_clusters import Authentication, ClusterSettings
from meshpki.ca.server.calls.method_table import SERVER_BUSY
from meshpki.ca.server.calls.waiting_room import REQUEST_MISSING, WITHOUT_REQUEST
from meshpki.ca.server.health import HEALTH_BUSY
from meshpki.errors import UsageError
from meshpki.tokens.reasons import UnjudgedReason
from meshpki_demo import leftovers
from meshpki_demo.envoy import find_envoy
from support import refusals
from support.command_line import invoke
from support.doc_pages import ROOT, Shell, blocks, commands, matches, normalised, pages

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)]*)?\)")
RUN = {"console"}
CHECKED = {"demo", "detect", "verify", "yaml", "envoy", "envoy-cluster", "python", "toml", "sh", "text", "mermaid"}
NAMES = [str(page.relative_to(ROOT)) for page in pages()]
WITH_COMMANDS = [name for name in NAMES if blocks(ROOT / name, "console")]


@pytest.fixture
def shell() -> Iterator[Shell]:
    directory = Path(tempfile.mkdtemp(prefix="mp-"))
    yield Shell(directory)
    leftovers.end(directory)
    shutil.rmtree(directory)


@pytest.mark.e2e
@pytest.mark.parametrize("name", WITH_COMMANDS)
def test_commands_do_what_the_page_shows(name: str, shell: Shell) -> None:
    for block in blocks(ROOT / name, "console"):
        for command in commands(block):
            real = shell.run(command.line)
            shown, came = normalised(command.shown), normalised(real)
            assert matches(shown, came), f"$ {command.line}\n" + "\n".join(real)
    assert leftovers.processes_in(shell.directory) == (), "a page cleans up what it starts"


@pytest.mark.parametrize(
    ("shown", "real", "same"),
    [
        ((), (), True),
        ((), ("a",), False),
        (("a",), (), False),
        (("a", "b"), ("a", "b"), True),
        (("a",), ("a", "b"), False),
        (("...",), (), True),
        (("a", "...", "d"), ("a", "b", "c", "d"), True),
        (("...", "d"), ("a", "e"), False),
    ],
)
def test_three_dots_stand_for_any_lines(shown: tuple[str, ...], real: tuple[str, ...], same: bool) -> None:
    assert matches(shown, real) is same


def test_only_what_changes_from_run_to_run_is_not_compared() -> None:
    first = normalised(("a 2026-11-23T10:00:00Z  127.0.0.1:40123 in 0.4 s", "0123456789abcdef"))
    assert first == normalised(("a 2027-01-01T00:00:00Z 127.0.0.1:5 in 12 s", "fedcba9876543210"))
    assert first != normalised(("b 2026-11-23T10:00:00Z  127.0.0.1:40123 in 0.4 s", "0123456789abcdef"))


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    page = ROOT / name
    missing = [found[1] for found in LINK.finditer(page.read_text()) if not (page.parent / found[1]).exists()]
    assert missing == []


@pytest.mark.parametrize("name", NAMES)
def test_every_block_says_what_it_is(name: str) -> None:
    """A block in a language that no test knows would be a block that no test looks at."""
    fences = re.findall(r"^```(\w*[-\w]*)$", (ROOT / name).read_text(), re.MULTILINE)
    assert set(fences[::2]) <= RUN | CHECKED
    assert set(fences[1::2]) <= {""}


@pytest.mark.parametrize("name", NAMES)
def test_make_targets_exist(name: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for block in blocks(ROOT / name, "sh"):
        for line in block.text.splitlines():
            words = shlex.split(line, comments=True)
            assert words[0] == "make", f"{line}: a command belongs into a console block"
            for target in words[1:]:
                assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), target


def test_the_index_names_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    names = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert {name for name in names if f"({name})" not in index} == set()


def test_every_decision_is_listed_and_has_its_parts() -> None:
    folder = ROOT / "docs" / "adr"
    index = (folder / "README.md").read_text()
    decisions = [path for path in folder.glob("[0-9]*.md") if path.name != "0000-template.md"]
    numbers = sorted(path.name[:4] for path in decisions)
    assert numbers == [f"{number:04d}" for number in range(1, len(decisions) + 1)]
    for path in decisions:
        text = path.read_text()
        assert f"({path.name})" in index
        assert re.match(rf"# {path.name[:4]}: ", text)
        for heading in ("## Context", "## Options", "## Decision", "## Consequences", "- Good:", "- Bad:", "- Status:"):
            assert heading in text, f"{path.name}: {heading}"


def test_refused_tokens_are_listed_as_they_are_refused() -> None:
    page = ROOT / "docs" / "token-refusals.md"
    assert page.read_text() == refusals.render(), "PYTHONPATH=tests python -m support.refusals > docs/token-refusals.md"


def test_every_reason_to_send_a_call_away_is_explained() -> None:
    page = (ROOT / "docs" / "ca-configuration.md").read_text()
    unjudged = {UnjudgedReason.KEYS, UnjudgedReason.KEY_NOT_SEEN_YET, UnjudgedReason.REVIEW_BUSY}
    for reason in (SERVER_BUSY, HEALTH_BUSY, *(WITHOUT_REQUEST - {REQUEST_MISSING}), *unjudged):
        assert re.search(rf"^\| .*`{reason}`.* \| .+ \| .+ \|$", page, re.MULTILINE), reason


def test_the_ca_configuration_is_one() -> None:
    (block,) = blocks(ROOT / "docs" / "ca-configuration.md", "yaml")
    config = ca_config.parse(block.text.encode(), base=Path("/etc/meshpki"))
    assert [cluster.name for cluster in config.clusters] == ["east", "west", "prod"]


def test_what_each_way_to_authenticate_needs_is_what_the_page_says() -> None:
    text = (ROOT / "docs" / "ca-configuration.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)`[^|]*\| (\w+)[^|]* \| (?:needed|only for .*) \|$", text, re.MULTILINE))
    assert set(rows) == set(Authentication)
    for how in Authentication:
        cluster = {"name": "x", "issuer": "https://x.example", "authentication": how.value}
        asked = {**cluster, "api_server": {"kubeconfig": "x"}}
        assert _is_taken({**asked, "jwks": {"api_server": True}}) == (rows[how] == "needed")
        assert _is_taken(asked) == (rows[how] == "refused")
        assert _is_taken({**cluster, "jwks": {"file": "x"}}) == (how is Authentication.JWKS), "without an API server"


def _is_taken(cluster: Mapping[str, object]) -> bool:
    (whole,) = blocks(ROOT / "docs" / "ca-configuration.md", "yaml")
    document = {**yaml.safe_load(whole.text), "clusters": [cluster]}
    try:
        ca_config.parse(yaml.safe_dump(document).encode(), base=Path("/etc/meshpki"))
    except UsageError:
        return False
    return True


def test_the_manifests_speak_of_keys_that_there_are() -> None:
    """In backquotes, as configuration has them."""
    known = {each.name for each in fields(ClusterSettings)} | {how.value for how in Authentication}
    for manifest in (ROOT / "deploy" / "kubernetes").glob("ca*.yaml"):
        comments = [line for line in manifest.read_text().splitlines() if line.startswith("#")]
        for quoted in re.findall(r"`([^`]+)`", " ".join(comments)):
            assert quoted.partition(":")[0] in known, f"{manifest.name}: {quoted}"


def test_the_clusters_on_the_page_about_real_ones_are_some() -> None:
    (whole,) = blocks(ROOT / "docs" / "ca-configuration.md", "yaml")
    for block in blocks(ROOT / "docs" / "real-clusters.md", "yaml"):
        document = {**yaml.safe_load(whole.text), **yaml.safe_load(block.text)}
        (cluster,) = ca_config.parse(yaml.safe_dump(document).encode(), base=Path("/etc/meshpki")).clusters
        assert cluster.api_server is not None


def test_the_defaults_in_the_ca_configuration_are_the_defaults() -> None:
    (block,) = blocks(ROOT / "docs" / "ca-configuration.md", "yaml")
    shown = ca_config.parse(block.text.encode(), base=Path("/etc/meshpki"))
    document = yaml.safe_load(block.text)
    least = {name: document[name] for name in ("trust_domain", "listen", "http", "server_names", "issuer", "audit")}
    needed = ("name", "issuer", "jwks", "authentication", "api_server")
    clusters = [{name: cluster[name] for name in needed if name in cluster} for cluster in document["clusters"]]
    text = yaml.safe_dump({**least, "clusters": clusters}).encode()
    assert ca_config.parse(text, base=Path("/etc/meshpki")) == shown


def test_the_agents_arguments_exist() -> None:
    (block,) = blocks(ROOT / "docs" / "agent-and-envoy.md", "yaml")
    arguments = yaml.safe_load(block.text)["containers"][0]["args"]
    help_text = invoke("agent", "run", "--help").out
    assert arguments[:2] == ["agent", "run"]
    for argument in arguments[2:]:
        assert argument.split("=")[0] in help_text


@pytest.mark.e2e
def test_envoy_reads_the_configurations_to_copy(tmp_path: Path) -> None:
    page = ROOT / "docs" / "agent-and-envoy.md"
    (server,) = blocks(page, "envoy")
    (transport,) = blocks(page, "envoy-cluster")
    config = yaml.safe_load(server.text)
    config["static_resources"]["clusters"][0]["transport_socket"] = yaml.safe_load(transport.text)
    path = tmp_path / "envoy.json"
    path.write_text(json.dumps(config))
    argv: list[str | Path] = [find_envoy(), "--mode", "validate", "-c", path, "--log-level", "error"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_plugin_to_copy_is_one() -> None:
    from meshpki import hooks, plugins
    from meshpki.provision.cluster.findings import addition

    page = ROOT / "docs" / "plugins.md"
    (block,) = blocks(page, "python")
    namespace: dict[str, object] = {"__name__": "meshpki_acme"}
    exec(compile(block.text, str(page), "exec"), namespace)  # noqa: S102 - our own page
    named = {hook.__name__ for hook in hooks.HOOKS}
    implemented = {name for name in named if hasattr(namespace.get(name), f"{plugins.PROJECT}_impl")}
    assert {"platform", "detect", "plan_token_projection"} <= implemented
    platform = namespace["platform"]
    assert callable(platform)
    assert platform().api_version == hooks.API_VERSION
    seen = hooks.Detection("v1", "k", (hooks.Mode.SDS,), (hooks.Evidence("a?", "b", "c"),))
    cluster = hooks.ClusterSeen(hooks.ClusterRef(None, "prod"), seen)
    detect = namespace["detect"]
    assert callable(detect)
    answer = detect(hooks.DetectRequest(Path("/nowhere"), {"region": "moon-1"}, cluster))
    assert addition("acme", "meshpki-acme 1.0", seen, answer).evidence[0].answer == "moon-1"


def test_every_hook_is_in_the_page_on_plugins() -> None:
    from meshpki import hooks

    text = (ROOT / "docs" / "plugins.md").read_text()
    assert [hook.__name__ for hook in hooks.HOOKS if f"| `{hook.__name__}` |" not in text] == []


def test_every_exit_status_is_in_the_page_on_errors() -> None:
    from meshpki.errors import ExitCode

    text = (ROOT / "docs" / "errors.md").read_text()
    assert [code for code in ExitCode if f"\n| {code.value} | " not in text] == []
