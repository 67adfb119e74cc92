"""The flows of provision, apply, status, verify and deprovision, on the platform that is a directory."""

from __future__ import annotations

import json
import pkgutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import yaml

from meshpki import plugins
from meshpki.hooks import Mode
from meshpki.provision import verify
from meshpki.provision.verify import Check, Verdict, VerifyReport
from meshpki.testing.platform import DirectoryPlatform, plugin_set
from support import command_line, plugin_distribution
from support.command_line import Ran

PASSED = VerifyReport((Check("it works", Verdict.PASSED, "seen"),))
FAILED = VerifyReport((Check("it works", Verdict.FAILED, "it does not"), *PASSED.checks))


@pytest.fixture
def platform(monkeypatch: pytest.MonkeyPatch) -> DirectoryPlatform:
    """The one platform there is; its verification passes."""
    made = DirectoryPlatform()
    monkeypatch.setattr(plugins, "load", lambda **_: plugin_set(made))
    monkeypatch.setattr(verify, "verify", lambda *_, **__: PASSED)
    return made


@pytest.fixture
def run(platform: DirectoryPlatform, tmp_path: Path) -> Callable[..., Ran]:
    """Run a command on the state directory of this test; `provision` also on the platform."""

    def command(name: str, *args: str) -> Ran:
        own = ["--platform", "directory"] if name == "provision" else []
        return command_line.invoke(name, *own, "--state-dir", str(tmp_path / "state"), *args)

    return command


def test_a_dry_run_shows_the_plan_and_touches_nothing(run: Callable[..., Ran], tmp_path: Path) -> None:
    ran = run("provision", "--dry-run")
    assert (ran.code, ran.err) == (3, "")
    assert not (tmp_path / "state").exists()
    for shown in ("sha256:", "new      file a (file.a)", "why", "undo", "+ file a", "3 to change, 0 to keep."):
        assert shown in ran.out


def test_without_a_terminal_and_without_yes_nothing_is_changed(run: Callable[..., Ran], tmp_path: Path) -> None:
    ran = run("provision")
    assert ran.code == 3
    assert "--yes" in ran.err
    assert "--plan-out" in ran.err
    assert not (tmp_path / "state").exists()


def test_provision_applies_verifies_and_says_what_is_next(run: Callable[..., Ran], tmp_path: Path) -> None:
    ran = run("provision", "--yes")
    assert ran.code == 0
    assert (tmp_path / "state" / "files" / "a").read_text().endswith("first")
    assert "Applied: 3 made." in ran.out
    assert "1 of 1 checks passed" in ran.out
    assert f"meshpki status --state-dir {tmp_path / 'state'}" in ran.out
    steps = [line for line in ran.err.splitlines() if line.startswith("step ")]
    assert steps == ["step 1 of 3: directory files", "step 2 of 3: file a", "step 3 of 3: file b"]
    assert "step" not in ran.out


def test_a_second_run_changes_nothing_and_says_so(run: Callable[..., Ran], platform: DirectoryPlatform) -> None:
    run("provision", "--yes")
    platform.calls.clear()
    ran = run("provision")  # no word is needed to change nothing
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("Nothing to change: all 3 parts stand as planned (sha256:")
    assert platform.calls == []
    assert run("provision", "--dry-run").code == 0


def test_a_changed_option_changes_what_it_must(run: Callable[..., Ran]) -> None:
    run("provision", "--yes")
    ran = run("provision", "--yes", "--file", "a=other", "--output", "json")
    assert ran.code == 0
    document = json.loads(ran.out)
    assert [(one["id"], one["deed"]) for one in document["results"]] == [
        ("root", "kept"),
        ("file.a", "updated"),
        ("file.b", "removed"),
    ]
    assert document["changed"] is True


def test_what_the_plan_shows_of_changes_and_removals(run: Callable[..., Ran]) -> None:
    run("provision", "--yes")
    shown = run("provision", "--dry-run", "--file", "a=other").out
    for line in ("keep     directory files (root)", "change   file a (file.a)", "remove   file b (file.b)"):
        assert f"  {line}" in shown.splitlines()
    assert "1 to change, 1 to keep, 1 to remove." in shown


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_documents_have_stable_keys(run: Callable[..., Ran], form: str) -> None:
    read: Callable[[str], dict[str, object]] = json.loads if form == "json" else yaml.safe_load
    planned = read(run("provision", "--dry-run", "-o", form).out)
    assert list(planned) == ["digest", "pending", "observed", "plan"]
    done = read(run("provision", "--yes", "-o", form).out)
    assert list(done) == ["digest", "changed", "results", "verified", "workloads"]
    assert done["digest"] == planned["digest"]
    again = read(run("provision", "-o", form).out)
    assert (again["changed"], again["results"], again["verified"]) == (False, [], None)
    status = read(run("status", "-o", form).out)
    assert list(status) == ["healthy", "installation"]
    checks = read(run("verify", "-o", form).out)
    assert list(checks) == ["passed", "checks"]
    removed = read(run("deprovision", "--yes", "-o", form).out)
    assert list(removed) == ["state_dir", "removed", "left", "running"]


def test_a_failed_verification_is_an_exit_status(run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "verify", lambda *_, **__: FAILED)
    ran = run("provision", "--yes")
    assert ran.code == 1
    assert "FAILED  it works  it does not" in ran.out
    assert run("verify").code == 1
    monkeypatch.setattr(verify, "verify", lambda *_, **__: PASSED)
    assert run("verify").code == 0


def test_a_failed_change_is_told_with_what_remains(run: Callable[..., Ran], platform: DirectoryPlatform) -> None:
    platform.faults.add("gate:file.a")
    ran = run("provision", "--yes")
    assert ran.code == 1
    assert "error: gate of file.a fails" in ran.err
    assert "evidence: file a: taken back" in ran.err
    assert "meshpki deprovision" in ran.err
    assert run("status").code == 1
    assert "unfinished" in run("status").out
    platform.faults.clear()
    assert run("provision", "--yes").code == 0
    assert run("status").code == 0


def test_what_is_not_ours_blocks_before_anything_is_made(run: Callable[..., Ran], tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    (state / "files").mkdir()
    (state / "files" / "a").write_text("precious")
    ran = run("provision", "--yes")
    assert ran.code == 3
    assert "BLOCKED" in ran.out
    assert "1 blocked, 1 to change, 1 to keep." in ran.out
    assert "evidence: file a: " in ran.err
    assert sorted(path.name for path in state.iterdir()) == ["files"]
    assert (state / "files" / "a").read_text() == "precious"


def test_an_interrupted_run_says_where_and_how_to_go_on(run: Callable[..., Ran], platform: DirectoryPlatform) -> None:
    platform.faults.add("interrupt:file.b")
    ran = run("provision", "--yes")
    assert ran.code == 130
    assert "interrupted: at step 3 of 3: file b" in ran.err
    assert "run the same command again" in ran.err
    platform.faults.clear()
    assert "to change" in run("provision", "--dry-run").out
    assert run("provision", "--yes").code == 0
    assert run("status").code == 0


@pytest.mark.parametrize(
    ("command", "place", "said"),
    [
        ("provision", "meshpki.provision.engine.apply", "as provision began, or when all of it was done"),
        ("provision", "meshpki_cli.provisioning.verified", "everything is applied"),
        ("provision", "meshpki_cli.provisioning._workloads", "everything is applied"),
        ("deprovision", "meshpki.provision.engine.deprovision", "as deprovision began, or when all of it was done"),
    ],
)
def test_ctrl_c_when_all_is_done_does_not_say_that_nothing_was(
    command: str, place: str, said: str, run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    if command == "deprovision":
        run("provision", "--yes")
    real = pkgutil.resolve_name(place)

    def then_ctrl_c(*args: object, **named: object) -> None:
        real(*args, **named)
        raise KeyboardInterrupt

    monkeypatch.setattr(place, then_ctrl_c)
    ran = run(command, "--yes")
    assert ran.code == 130
    assert f"interrupted: {said}" in ran.err
    assert "nothing was changed" not in ran.err
    assert "meshpki status --state-dir" in ran.err


def test_the_fallback_is_the_operators_word(run: Callable[..., Ran], platform: DirectoryPlatform) -> None:
    assert "file-mount: the operator's word" in run("provision", "--dry-run", "--fallback", "file-mount").out
    platform.modes = ()
    ran = run("provision", "--yes")
    assert ran.code == 3
    assert "no mode is possible" in ran.err
    platform.modes = (Mode.SDS,)
    assert run("provision", "--dry-run", "--fallback", "ladder").code == 2


def test_a_plan_is_saved_reviewed_and_applied(run: Callable[..., Ran], tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    ran = run("provision", "--plan-out", str(file))
    assert ran.code == 3
    assert f"meshpki apply {file}" in ran.err
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not (tmp_path / "state").exists()
    refused = command_line.invoke("apply", str(file))
    assert refused.code == 3
    assert "--yes" in refused.err
    applied = command_line.invoke("apply", str(file), "--yes")
    assert applied.code == 0
    assert "Applied: 3 made." in applied.out
    again = command_line.invoke("apply", str(file))
    assert again.code == 0
    assert "Nothing to change" in again.out
    assert run("provision", "--plan-out", str(file)).code == 0


def test_a_plan_whose_facts_have_changed_is_refused_with_what_changed(
    run: Callable[..., Ran], platform: DirectoryPlatform, tmp_path: Path
) -> None:
    file = tmp_path / "plan.json"
    run("provision", "--plan-out", str(file))
    platform.version = "v2.0"
    ran = command_line.invoke("apply", str(file), "--yes")
    assert (ran.code, ran.out) == (3, "")
    assert "v1.0 -> v2.0" in ran.err
    assert not (tmp_path / "state").exists()


def test_a_plan_from_before_another_run_is_refused_with_what_that_changed(
    run: Callable[..., Ran], tmp_path: Path
) -> None:
    file, state = tmp_path / "plan.json", tmp_path / "state"
    run("provision", "--yes")
    run("provision", "--file", "a=first", "--plan-out", str(file))
    run("provision", "--yes", "--file", "c=third")
    ran = command_line.invoke("apply", str(file), "--yes")
    assert (ran.code, ran.out) == (3, "")
    assert "another run changed what stands since the plan was made" in ran.err
    assert "evidence: made file.c: now file c" in ran.err
    assert [path.name for path in (state / "files").iterdir()] == ["c"]


def test_a_plan_that_removes_is_applied_once_and_then_says_so(run: Callable[..., Ran], tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    run("provision", "--yes")
    run("provision", "--file", "a=first", "--plan-out", str(file))
    assert "1 removed" in command_line.invoke("apply", str(file), "--yes").out
    again = command_line.invoke("apply", str(file))
    assert again.code == 0
    assert "Nothing to change" in again.out


def test_an_edited_plan_is_refused(run: Callable[..., Ran], tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    run("provision", "--plan-out", str(file))
    file.write_text(file.read_text().replace("first", "fourth"))
    ran = command_line.invoke("apply", str(file), "--yes")
    assert (ran.code, ran.out) == (1, "")
    assert "was changed after it was saved" in ran.err
    file.write_text("{}")
    assert command_line.invoke("apply", str(file), "--yes").code == 2


def test_yes_and_a_look_exclude_each_other(run: Callable[..., Ran], tmp_path: Path) -> None:
    for look in (["--dry-run"], ["--plan-out", str(tmp_path / "plan")]):
        ran = run("provision", "--yes", *look)
        assert (ran.code, ran.out) == (2, "")


def test_deprovision_shows_what_goes_and_takes_a_word(run: Callable[..., Ran], tmp_path: Path) -> None:
    run("provision", "--yes")
    (tmp_path / "state" / "mine").touch()
    ran = run("deprovision")
    assert (ran.code, ran.out) == (3, "")
    assert "- file b (file.b)\n    undo  what was there before comes back\n" in ran.err
    assert (tmp_path / "state" / "files" / "b").exists()
    ran = run("deprovision", "--yes")
    assert ran.code == 0
    assert "Removed: 3 parts" in ran.out
    assert "mine" in ran.out
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["mine"]


def test_of_a_lost_journal_every_command_says_what_it_means(run: Callable[..., Ran], tmp_path: Path) -> None:
    state = tmp_path / "state"
    run("provision", "--yes")
    (state / "journal.db").unlink()
    status = run("status")
    assert status.code == 1
    assert "no journal is there, and yet there are files/a, files/b: if meshpki made them" in status.out
    removed = run("deprovision", "--yes")
    assert "Nothing was provisioned" in removed.out
    assert "Left there, because no journal says that meshpki made it: files/a, files/b" in removed.out
    for _ in range(2):
        again = run("provision", "--yes")
        assert "Nothing to change: all 3 parts stand as planned" in again.out
        assert "3 of them stood there before, and no journal says that meshpki made them" in again.out
        assert "deprovision will leave them (root, file.a, file.b)" in again.out
    removed = run("deprovision", "--yes")
    assert "Still running, for the same reason: file.a, file.b" in removed.out
    assert sorted(path.name for path in (state / "files").iterdir()) == ["a", "b"]


@pytest.mark.parametrize("command", ["provision --platform directory", "status", "verify", "deprovision --yes"])
def test_an_empty_state_directory_is_not_where_we_stand(command: str, platform: DirectoryPlatform) -> None:
    """As of `--state-dir "$UNSET"`."""
    ran = command_line.invoke(*command.split(), "--state-dir", "")
    assert (ran.code, ran.out) == (2, "")
    assert "'--state-dir'" in ran.err
    assert "it is empty; wanted: a path" in ran.err


def test_nothing_provisioned(run: Callable[..., Ran]) -> None:
    status = run("status")
    assert (status.code, status.err) == (1, "")
    assert "absent" in status.out
    assert "meshpki provision" in status.out
    verified = run("verify")
    assert (verified.code, verified.out) == (3, "")
    removed = run("deprovision")
    assert (removed.code, removed.err) == (0, "")
    assert "Nothing was provisioned" in removed.out


def test_a_platform_that_keeps_itself_running_has_nothing_to_run(run: Callable[..., Ran]) -> None:
    ran = run("run", "--platform", "directory")
    assert (ran.code, ran.out) == (2, "")
    assert "nothing to run" in ran.err


def test_the_state_directory_has_a_default_and_a_variable(
    platform: DirectoryPlatform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shown(env: Mapping[str, str]) -> str:
        ran = command_line.invoke("provision", "--platform", "directory", "--dry-run", "-o", "json", env=env)
        return str(json.loads(ran.out)["plan"]["state_dir"])

    home = {"HOME": str(tmp_path), "XDG_STATE_HOME": "", "MESHPKI_STATE_DIR": ""}
    assert shown(home) == str(tmp_path / ".local/state/meshpki")
    assert shown({**home, "XDG_STATE_HOME": str(tmp_path / "xdg")}) == str(tmp_path / "xdg/meshpki")
    assert shown({**home, "XDG_STATE_HOME": "relative"}) == str(tmp_path / ".local/state/meshpki")
    monkeypatch.chdir(tmp_path)
    assert shown({**home, "MESHPKI_STATE_DIR": "here"}) == str(tmp_path / "here")


# On a terminal, and as processes.


@pytest.fixture
def vendor(tmp_path: Path) -> Mapping[str, str]:
    place = tmp_path / "site"
    place.mkdir()
    return plugin_distribution.install(place, "directory", plugin_distribution.DIRECTORY)


@pytest.mark.parametrize("columns", [60, 80, 160])
def test_on_a_terminal_it_asks(vendor: Mapping[str, str], tmp_path: Path, columns: int) -> None:
    args = ["provision", "--platform", "directory", "--state-dir", str(tmp_path / "s")]
    no = command_line.on_terminal(*args, columns=columns, typed=b"n\n", after=b"[y/N]", env=vendor)
    assert no.code == 3
    assert "Apply this plan? [y/N]" in no.out
    assert "nothing was changed" in command_line.plain(no.out)
    assert not (tmp_path / "s").exists()
    yes = command_line.on_terminal(*args, columns=columns, typed=b"y\n", after=b"[y/N]", env=vendor)
    shown = command_line.plain(yes.out)
    assert (tmp_path / "s" / "files" / "a").exists()
    assert "step 3 of 3: file b" in shown
    assert "a directory has no CA" in shown  # what a real verification finds here
    assert yes.code == 1


@pytest.mark.parametrize("columns", [60, 80, 160])
def test_the_plan_fits_the_terminal(vendor: Mapping[str, str], tmp_path: Path, columns: int) -> None:
    args = ["provision", "--platform", "directory", "--state-dir", str(tmp_path / "s"), "--dry-run"]
    shown = command_line.plain(command_line.on_terminal(*args, columns=columns, env=vendor).out)
    longest_word = max(len(word) for word in shown.split())
    assert command_line.widest(shown) <= max(columns, longest_word + 4)


def test_colour_is_for_terminals_and_for_those_who_want_it(vendor: Mapping[str, str], tmp_path: Path) -> None:
    args = ["provision", "--platform", "directory", "--state-dir", str(tmp_path / "s"), "--dry-run"]
    assert "\x1b[" in command_line.on_terminal(*args, env=vendor).out
    piped = command_line.spawn(*args, env=vendor)
    assert "\x1b" not in piped.out + piped.err
    for wish in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        shown = command_line.on_terminal(*args, env={**vendor, **wish}).out
        assert not command_line.COLOUR.search(shown)


def test_it_asks_until_it_knows(vendor: Mapping[str, str], tmp_path: Path) -> None:
    args = ["provision", "--platform", "directory", "--state-dir", str(tmp_path / "s")]
    ran = command_line.on_terminal(*args, typed=b"perhaps\nNO\n", after=b"[y/N]", env=vendor)
    assert (ran.code, ran.out.count("[y/N]")) == (3, 2)
    assert "y or n, please." in ran.out
    gone = command_line.on_terminal(*args, typed=b"\x04", after=b"[y/N]", env=vendor)  # the end of the input
    assert gone.code == 130
    assert not (tmp_path / "s").exists()


def test_what_changes_while_it_asks_is_refused(vendor: Mapping[str, str], tmp_path: Path) -> None:
    state = tmp_path / "s"
    own = ["provision", "--platform", "directory", "--state-dir", str(state)]

    def other(*args: str) -> Callable[[], object]:
        return lambda: command_line.spawn(*own, "--yes", *args, env=vendor)

    def asked(*args: str, meanwhile: Callable[[], object]) -> str:
        ran = command_line.on_terminal(
            *args, columns=200, typed=b"y\n", after=b"[y/N]", meanwhile=meanwhile, env=vendor
        )
        assert ran.code == 3, ran.out
        return command_line.plain(ran.out)

    def files() -> list[str]:
        return sorted(path.name for path in (state / "files").iterdir())

    said = asked(*own, "--file", "x=1", meanwhile=other("--file", "y=2"))
    assert "another run changed what stands since the plan was made" in said
    assert "evidence: made file.y: now file y" in said
    assert files() == ["y"], "what the other run made is there, and nothing of ours"

    said = asked(*own, "--file", "x=1", "--file", "y=2", meanwhile=(state / "files" / "y").unlink)
    assert "stood as planned when the plan was shown" in said
    assert files() == []

    said = asked("deprovision", "--state-dir", str(state), meanwhile=other("--file", "z=3"))
    assert "another run changed what stands since the list was shown" in said
    assert files() == ["z"]

    plan = str(tmp_path / "plan.json")
    command_line.spawn(*own, "--file", "x=1", "--plan-out", plan, env=vendor)
    said = asked("apply", plan, meanwhile=other("--file", "y=2"))
    assert "evidence: made file.z: no longer file z" in said
    assert files() == ["y"]


def test_a_refusal_after_a_removal_leaves_nothing(vendor: Mapping[str, str], tmp_path: Path) -> None:
    place = ["--state-dir", str(tmp_path / "s")]
    own = ["provision", "--platform", "directory", *place]
    command_line.spawn(*own, "--yes", env=vendor)
    ran = command_line.on_terminal(
        *(*own, "--file", "x=1"),
        typed=b"y\n",
        after=b"[y/N]",
        meanwhile=lambda: command_line.spawn("deprovision", "--yes", *place, env=vendor),
        env=vendor,
    )
    assert ran.code == 3
    assert not (tmp_path / "s").exists()


def test_ctrl_c_at_the_question_changes_nothing(vendor: Mapping[str, str], tmp_path: Path) -> None:
    args = ["provision", "--platform", "directory", "--state-dir", str(tmp_path / "s")]
    ran = command_line.on_terminal(*args, typed=b"\x03", after=b"[y/N]", env=vendor)
    assert ran.code == 130
    assert "interrupted: nothing was changed" in ran.out
    assert not (tmp_path / "s").exists()


def test_sigint_in_the_midst_of_a_change(tmp_path: Path) -> None:
    place = tmp_path / "site"
    place.mkdir()
    env = plugin_distribution.install(place, "directory", plugin_distribution.SLOW)
    state = tmp_path / "s"
    process = subprocess.Popen(
        [*command_line.COMMAND, "provision", "--platform", "directory", "--state-dir", str(state), "--yes"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=command_line.environment(env),
    )
    deadline = time.monotonic() + command_line.BOUND_SECONDS
    while not (state / "files" / "at-work").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=command_line.BOUND_SECONDS)
    assert process.returncode == 130
    assert "interrupted: at step 2 of 3: file a" in err
    assert "to do: run the same command again" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_for_a_program_stderr_holds_one_document_or_nothing(
    vendor: Mapping[str, str], tmp_path: Path, form: str, platform_that_fails: Mapping[str, str]
) -> None:
    read: Callable[[str], dict[str, object]] = json.loads if form == "json" else yaml.safe_load
    state = ["--state-dir", str(tmp_path / "s"), "-o", form]
    own = ["provision", "--platform", "directory", *state]
    for args, env, code in (
        (own, vendor, 3),
        ([*own, "--yes"], platform_that_fails, 1),
        ([*own, "--yes", "--file", "noequals"], vendor, 1),
    ):
        ran = command_line.spawn(*args, env=env)
        assert (ran.code, ran.out) == (code, "")
        assert read(ran.err)["exit_code"] == code
    for args, code in (
        ([*own, "--plan-out", str(tmp_path / "plan")], 3),
        ([*own, "--yes"], 1),  # what a real verification finds: a directory has no CA
        (["verify", *state], 1),
        (["deprovision", "--yes", *state], 0),
    ):
        ran = command_line.spawn(*args, env=vendor)
        assert (ran.code, ran.err) == (code, ""), ran
        assert read(ran.out)


@pytest.fixture
def platform_that_fails(tmp_path: Path) -> Mapping[str, str]:
    place = tmp_path / "failing"
    place.mkdir()
    code = plugin_distribution.DIRECTORY + "plugin.faults.add('gate:file.b')\n"
    return plugin_distribution.install(place, "directory", code)


def test_how_to_apply_a_saved_plan_can_be_typed(run: Callable[..., Ran], tmp_path: Path) -> None:
    place = tmp_path / "a b"
    place.mkdir()
    ran = run("provision", "--plan-out", str(place / "plan.json"))
    assert f"meshpki apply '{place}/plan.json'" in ran.err
