"""Status, identities, certificates and checks as they are drawn, without an installation behind them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from meshpki.ca.description import CertificateDescription, MaterialDescription
from meshpki.ca.keys import KeyKind
from meshpki.errors import OperatorNeededError
from meshpki.hooks import ComponentStatus, Health, Mode, WorkloadStatus
from meshpki.identity import ServiceAccountRef, TrustDomain
from meshpki.provision.journal import Outcome, Run, RunKind
from meshpki.provision.mode import ChosenBy, ModeChoice
from meshpki.provision.status import InstallationStatus, Installed
from meshpki.provision.verify import Check, Verdict, VerifyReport
from meshpki_cli import consent, progress
from meshpki_cli.ca_view import show_material
from meshpki_cli.documents import as_json
from meshpki_cli.options import command_for
from meshpki_cli.page import Page
from meshpki_cli.status_view import show_status, show_workload_paths
from meshpki_cli.verify_view import show_checks
from support import command_line

NOW = 1_800_000_000
WIDTHS = (60, 80, 120, 200)
CLIENT = WorkloadStatus(
    ServiceAccountRef("default", "client"),
    Health.FRESH,
    spiffe_id="spiffe://mesh.local/ns/default/sa/client",
    not_after=NOW + 3599,
    sds_socket="/run/mesh/default.client/sds/sds.sock",
    directory="/run/mesh/default.client/certs",
)
SERVER = WorkloadStatus(ServiceAccountRef("default", "server"), Health.EXPIRED, not_after=NOW - 5, detail="no CA")
STATUS = InstallationStatus(
    state_dir="/run/mesh",
    installed=Installed.COMPLETE,
    platform="local",
    digest="sha256:" + "ab" * 32,
    choice=ModeChoice(Mode.SDS, ChosenBy.EVIDENCE, "the best there is"),
    last_run=Run(1, RunKind.PROVISION, "sha256:x", Outcome.DONE, "", NOW, NOW),
    components=(ComponentStatus("ca", Health.RUNNING, "pid 7"), ComponentStatus("agent", Health.STOPPED)),
    workloads=(CLIENT, SERVER),
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(params=WIDTHS)
def terminal(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("COLUMNS", str(request.param))
    monkeypatch.setenv("NO_COLOR", "1")
    return Terminal()


def fits(stream: Terminal, page: Page) -> str:
    """What was drawn; no line is wider than the terminal, unless a single word is."""
    shown = command_line.plain(stream.getvalue())
    longest_word = max(len(word) for word in shown.split())
    assert command_line.widest(shown) <= max(page.width, longest_word + 4)
    assert not [line for line in shown.splitlines() if line != line.rstrip()]
    return " ".join(shown.split())


def test_status(terminal: Terminal) -> None:
    page = Page(terminal)
    show_status(page, STATUS, NOW)
    shown = fits(terminal, page)
    for said in ("complete", "sds: the best there is", STATUS.digest, "provision, done", "ca", "running", "pid 7"):
        assert said in shown
    for said in ("agent", "stopped", "default/client", "fresh", "59m 59s", CLIENT.spiffe_id, "expired", "0s", "no CA"):
        assert said in shown


def test_status_of_a_run_that_failed_and_cannot_be_examined(terminal: Terminal) -> None:
    page = Page(terminal)
    failed = Run(2, RunKind.PROVISION, "sha256:x", Outcome.FAILED, "step 2 of 3: the disk is full", NOW, NOW)
    found = InstallationStatus("/run/mesh", Installed.UNFINISHED, last_run=failed, problem="the plugin is gone")
    show_status(page, found, NOW)
    shown = fits(terminal, page)
    assert "provision, failed: step 2 of 3: the disk is full" in shown
    assert "the plugin is gone" in shown


def test_status_as_a_document_has_accounts_as_they_are_typed() -> None:
    document = json.loads(as_json(STATUS))
    assert document["workloads"][0]["account"] == "default/client"
    assert document["choice"] == {"mode": "sds", "by": "evidence", "reason": "the best there is"}


def test_identities_say_where_they_are_and_how_envoy_takes_them(terminal: Terminal) -> None:
    page = Page(terminal)
    show_workload_paths(page, (CLIENT,))
    shown = fits(terminal, page)
    for said in (CLIENT.spiffe_id, CLIENT.sds_socket, CLIENT.directory, "`default`", "`ROOTCA`"):
        assert said in shown


def test_identities_without_a_socket_do_not_speak_of_envoy(terminal: Terminal) -> None:
    page = Page(terminal)
    show_workload_paths(page, (SERVER,))
    assert "Envoy" not in fits(terminal, page)


@pytest.mark.parametrize("left", [86_400, -1])
def test_a_ca_with_a_warning(terminal: Terminal, left: int) -> None:
    certificate = CertificateDescription(
        role="root",
        subject="CN=mesh.local root",
        key_kind=None,
        key_id="cd" * 20,
        fingerprint="ab" * 32,
        serial=255,
        not_before=NOW,
        not_after=NOW + left,
        remaining_seconds=left,
        warning="renew it",
    )
    page = Page(terminal)
    show_material(
        page, MaterialDescription(Path("/ca"), TrustDomain("mesh.local"), (certificate,), root_key_here=False)
    )
    shown = fits(terminal, page)
    for said in ("mesh.local", "elsewhere", "renew it", "serial ff", "ab" * 32, "2027-01-15T08:00:00Z"):
        assert said in shown
    assert ("left 1d" in shown) is (left > 0)
    assert str(KeyKind.EC_P256) not in shown


def test_checks_show_what_failed_in_full(terminal: Terminal) -> None:
    page = Page(terminal)
    report = VerifyReport(
        (
            Check("the CA is running", Verdict.PASSED, "pid 7", ("a lot of evidence",)),
            Check("a wrong token is refused", Verdict.FAILED, "it was accepted", ("serial 1",)),
            Check("an expired token is refused", Verdict.SKIPPED, "cannot be made here"),
        )
    )
    show_checks(page, report)
    shown = fits(terminal, page)
    assert "FAILED a wrong token is refused it was accepted; serial 1" in shown
    assert "skipped an expired token is refused cannot be made here" in shown
    assert "a lot of evidence" not in shown
    assert "1 of 3 checks passed, 1 failed." in shown


def test_what_made_several_checks_fail_is_written_once(terminal: Terminal) -> None:
    page = Page(terminal)
    why = "the CA at 127.0.0.1:15100 does not answer: see that it runs"
    away = [Check(f"number {number}", Verdict.FAILED, why) for number in range(3)]
    short = [Check(name, Verdict.FAILED, "stopped") for name in ("a", "b")]
    show_checks(page, VerifyReport((*away, *short, Check("the last", Verdict.FAILED, "another reason"))))
    shown = fits(terminal, page)
    assert shown.count(why) == 1
    assert "FAILED number 1 as above FAILED number 2 as above FAILED a stopped FAILED b stopped" in shown


def test_a_command_to_type_names_the_directory_only_where_it_must(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/xdg")
    assert command_for("status", "/xdg/meshpki") == "meshpki status"
    assert command_for("status", "/my place") == "meshpki status --state-dir '/my place'"


def test_consent_is_given_by_yes_and_by_nothing_else_without_a_terminal() -> None:
    consent.obtain("Do it?", yes=True, otherwise="")
    with pytest.raises(OperatorNeededError, match="no terminal"):
        consent.obtain("Do it?", yes=False, otherwise="or not")


def test_progress_is_a_line_each_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.reported("working") as told:
        told("step 1 of 2: this")
        told("half\x1b[2J done")
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "working\nstep 1 of 2: this\nhalf\\x1b[2J done\n")


def test_progress_on_a_terminal_keeps_the_steps_and_not_what_they_said(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr", terminal)
    with progress.reported() as told:
        told("step 1 of 2: this\x1b[2J")
        told("a long word of the step in hand " * 20)
        told("step 2 of 2: that")
    kept = [line.rsplit("\r", 1)[-1].strip() for line in command_line.plain(terminal.getvalue()).splitlines()]
    assert [line for line in kept if line.startswith("step")] == ["step 1 of 2: this\\x1b[2J", "step 2 of 2: that"]
