"""The loader, against real distributions: trees of modules and dist-info directories on sys.path."""

from __future__ import annotations

import itertools
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy
import pytest

from meshpki import hooks, plugins
from meshpki.errors import MachineError, PluginError, UsageError
from meshpki.plugins import GROUP, PluginSet, Stage

if TYPE_CHECKING:
    from collections.abc import Callable

GOOD = """
from meshpki import hooks
from meshpki.plugins import hookimpl

@hookimpl
def platform():
    return hooks.Platform(name={name!r}, summary="of the test", api_version={version})

@hookimpl
def detect(request):
    return hooks.Detection(version={answer!r}, distribution="test", modes=())
"""


class Site:
    """Directories on sys.path with distributions in them."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.monkeypatch = monkeypatch
        self.directories: list[str] = []

    def add(
        self,
        distribution: str,
        entries: dict[str, str],
        modules: dict[str, str] | None = None,
        *,
        version: str = "1.0",
        directory: str = "site",
    ) -> None:
        place = self.root / directory
        if str(place) not in self.directories:
            place.mkdir()
            self.directories.append(str(place))
            self.monkeypatch.syspath_prepend(str(place))
        info = place / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        lines = "\n".join(f"{name} = {value}" for name, value in entries.items())
        (info / "entry_points.txt").write_text(f"[{GROUP}]\n{lines}\n")
        for module, source in (modules or {}).items():
            path = place / (module.replace(".", "/") + ".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source)

    def vendor(self, name: str, source: str | None = None, *, version: int = hooks.API_VERSION, **more: str) -> None:
        """Add a distribution `meshpki-<name>` whose module is good unless `source` says otherwise."""
        module = f"vendor_{self.root.name.replace('-', '_')}_{name}"
        text = GOOD.format(name=name, version=version, answer=f"from {name}") if source is None else source
        self.add(f"meshpki-{name}", {name: module}, {module: text}, **more)

    def load(self, **arguments: Any) -> PluginSet:
        """Load what is in our directories; the real site-packages would add plugins that are not the test's."""
        found = [
            entry
            for distribution in metadata.distributions(path=self.directories)
            for entry in distribution.entry_points
            if entry.group == GROUP
        ]
        return plugins.load(found, **arguments)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(tmp_path, monkeypatch)


def request(platform: str = "acme") -> hooks.DetectRequest:
    return hooks.DetectRequest(Path("/nowhere"), {})


def test_a_vendors_plugin_is_found_loaded_and_asked(site: Site) -> None:
    site.vendor("acme")
    loaded = site.load()
    assert loaded.failures == ()
    (plugin,) = loaded.plugins
    assert (plugin.name, plugin.origin, plugin.hooks) == ("acme", "meshpki-acme 1.0", ("platform", "detect"))
    assert loaded.detect("acme", request()).version == "from acme"


def test_installed_distributions_are_searched_without_being_told(site: Site) -> None:
    site.vendor("acme")
    assert "acme" in [plugin.name for plugin in plugins.load().plugins]


def test_metadata_that_cannot_be_read_is_that_distributions_fault_alone(site: Site) -> None:
    site.vendor("acme")
    site.vendor("latin")
    (broken,) = (
        Path(place) / "entry_points.txt" for d in site.directories for place in Path(d).glob("*latin*.dist-info")
    )
    broken.write_bytes("[meshpki.plugins]\nlatín = x\n".encode("latin-1"))
    loaded = plugins.load()
    assert {"local", "acme"} <= {plugin.name for plugin in loaded.plugins}
    (failure,) = loaded.failures
    assert (failure.name, failure.origin, failure.stage) == ("meshpki-latin", "meshpki-latin 1.0", Stage.IMPORT)
    assert "entry_points.txt cannot be read: UnicodeDecodeError" in failure.reason


def test_who_has_no_name_is_called_so(tmp_path: Path) -> None:
    info = tmp_path / "x-1.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_text("[meshpki.plugins]\nacme = no_such_module\n")
    (found,) = metadata.distributions(path=[str(tmp_path)])
    (failure,) = plugins.load(found.entry_points).failures
    assert failure.origin == "(no distribution) no_such_module"


def test_what_a_plugin_prints_while_it_loads_is_not_our_output(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    hello = "\n".join(["print('hello')", GOOD.format(name="acme", version=1, answer="")])
    site.vendor("acme", hello)
    assert [plugin.name for plugin in site.load().plugins] == ["acme"]
    assert capsys.readouterr() == ("", "hello\n")


BROKEN = {
    "import": ("import no_such_module_anywhere", Stage.IMPORT, "no_such_module_anywhere"),
    "syntax": ("def platform(:", Stage.IMPORT, "SyntaxError"),
    "exit": ("raise SystemExit(3)", Stage.IMPORT, "SystemExit: 3"),
    "base": ("class Odd(BaseException): pass\nraise Odd('odd')", Stage.IMPORT, "Odd: odd"),
    "speechless": (
        "class Odd(Exception):\n  def __str__(self): raise ValueError('boo')\nraise Odd",
        Stage.IMPORT,
        "Odd",
    ),
    "mumbling": ("class Odd(Exception):\n  def __str__(self): return 5\nraise Odd", Stage.IMPORT, "Odd"),
    "unknown": (
        GOOD.format(name="unknown", version=1, answer="") + "\n@hookimpl\ndef explode(request): pass\n",
        Stage.REGISTER,
        "unknown hook 'explode'",
    ),
    "arguments": (
        GOOD.format(name="arguments", version=1, answer="") + "\n@hookimpl\ndef signer(request, key): pass\n",
        Stage.REGISTER,
        "'key'",
    ),
    "raises": (
        "from meshpki.plugins import hookimpl\n@hookimpl\ndef platform(): raise SystemExit('no')",
        Stage.VALIDATE,
        "SystemExit: no",
    ),
    "nonsense": (
        "from meshpki.plugins import hookimpl\n@hookimpl\ndef platform(): return {'name': 'nonsense'}",
        Stage.VALIDATE,
        "is dict; wanted: a Platform",
    ),
    "prickly": (
        "from meshpki.plugins import hookimpl\nclass Odd:\n  @property\n  def __class__(self): raise OSError('off')\n"
        "@hookimpl\ndef platform(): return Odd()",
        Stage.VALIDATE,
        "failed in the answer to platform(): OSError: off",
    ),
    "silent": (
        "from meshpki.plugins import hookimpl\n@hookimpl\ndef platform(): return None",
        Stage.VALIDATE,
        "is NoneType",
    ),
    "alias": (GOOD.format(name="local", version=1, answer=""), Stage.VALIDATE, "calls its platform 'local'"),
    "future": (GOOD.format(name="future", version=99, answer=""), Stage.API_VERSION, "update meshpki"),
    "past": (GOOD.format(name="past", version=0, answer=""), Stage.API_VERSION, "oldest known"),
    "odd": (GOOD.format(name="odd", version="'1'", answer=""), Stage.API_VERSION, "wanted an integer"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plugin_is_data_and_the_others_work(name: str, site: Site) -> None:
    source, stage, reason = BROKEN[name]
    site.vendor("acme")
    site.vendor(name, source)
    site.vendor("zenith")
    loaded = site.load()
    assert [plugin.name for plugin in loaded.plugins] == ["acme", "zenith"]
    (failure,) = loaded.failures
    assert (failure.name, failure.origin, failure.stage) == (name, f"meshpki-{name} 1.0", stage)
    assert reason in failure.reason
    assert "\n" not in failure.reason
    assert failure.broken
    with pytest.raises(PluginError, match=f"meshpki-{name} 1.0"):
        loaded.plugin(name)


@pytest.mark.parametrize("name", BROKEN)
def test_strict_raises_and_names_plugin_and_distribution(name: str, site: Site) -> None:
    site.vendor(name, BROKEN[name][0])
    with pytest.raises(PluginError, match=f"plugin '{name}' of meshpki-{name} 1.0"):
        site.load(strict=True)


def test_ctrl_c_during_an_import_is_not_swallowed(site: Site) -> None:
    site.vendor("slow", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        site.load()


LOCAL = GOOD.format(name="local", version=1, answer="ours")
HIJACK = GOOD.format(name="local", version=1, answer="HIJACKED")


@pytest.mark.parametrize("ours_first", [True, False])
@pytest.mark.parametrize("same_directory", [True, False])
def test_nobody_takes_a_built_in_name_whatever_the_scan_order(
    ours_first: bool, same_directory: bool, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "meshpki_local.plugin", raising=False)
    monkeypatch.delitem(sys.modules, "meshpki_local", raising=False)
    # Ours is a stand-in of the real name and module, so that the rule is the real one.
    steps: list[Callable[[], None]] = [
        lambda: site.add(
            "meshpki",
            {"local": "meshpki_local.plugin"},
            {"meshpki_local.__init__": "", "meshpki_local.plugin": LOCAL},
            version="0.1.0",
            directory="a",
        ),
        lambda: site.add(
            "evil", {"local": "evil_plugin"}, {"evil_plugin": HIJACK}, directory="a" if same_directory else "b"
        ),
    ]
    for step in steps if ours_first else reversed(steps):
        step()
    loaded = site.load()
    monkeypatch.delitem(sys.modules, "meshpki_local.plugin", raising=False)
    monkeypatch.delitem(sys.modules, "meshpki_local", raising=False)
    assert loaded.detect("local", request()).version == "ours"
    (failure,) = loaded.failures
    assert (failure.name, failure.origin, failure.stage) == ("local", "evil 1.0", Stage.DUPLICATE)
    assert "belongs to meshpki" in failure.reason
    assert "evil_plugin" not in sys.modules, "it must not even be imported"


@pytest.mark.parametrize("name", ["local", "generic", "onprem", "gke"])
def test_a_name_of_ours_is_kept_also_while_nothing_of_ours_has_it(name: str, site: Site) -> None:
    site.add("evil", {name: "evil_plugin_2"}, {"evil_plugin_2": HIJACK})
    loaded = site.load()
    assert loaded.plugins == ()
    assert [(failure.origin, failure.stage) for failure in loaded.failures] == [("evil 1.0", Stage.DUPLICATE)]


def test_calling_itself_meshpki_does_not_help(site: Site) -> None:
    site.add("meshpki", {"local": "evil_plugin_3"}, {"evil_plugin_3": HIJACK}, version="99")
    loaded = site.load()
    assert loaded.plugins == ()
    assert loaded.failures[0].stage is Stage.DUPLICATE
    assert "evil_plugin_3" not in sys.modules


@pytest.mark.parametrize("order", list(itertools.permutations(["one", "two"])))
def test_two_who_claim_a_name_both_lose_and_are_both_named(order: tuple[str, str], site: Site) -> None:
    for distribution in order:
        module = f"dup_{distribution}"
        site.add(distribution, {"acme": module}, {module: GOOD.format(name="acme", version=1, answer=distribution)})
    site.vendor("zenith")
    loaded = site.load()
    assert [plugin.name for plugin in loaded.plugins] == ["zenith"]
    (failure,) = loaded.failures
    assert failure.stage is Stage.DUPLICATE
    assert failure.origin == "one 1.0 and two 1.0"
    assert "one 1.0 and by two 1.0" in failure.reason
    assert not {"dup_one", "dup_two"} & set(sys.modules)


def test_a_disabled_plugin_is_not_imported_and_not_broken(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.vendor("acme", "raise SystemExit('imported')")
    site.vendor("zenith")
    monkeypatch.setenv("MESHPKI_DISABLED_PLUGINS", "other, acme,")
    loaded = site.load(strict=True)
    assert [plugin.name for plugin in loaded.plugins] == ["zenith"]
    assert [(failure.name, failure.stage, failure.broken) for failure in loaded.failures] == [
        ("acme", Stage.DISABLED, False)
    ]
    assert loaded.broken == ()
    with pytest.raises(PluginError, match="MESHPKI_DISABLED_PLUGINS"):
        loaded.platform("acme")


def test_ours_come_first_then_the_others_by_name(site: Site) -> None:
    for name in ("zenith", "acme", "mono"):
        site.vendor(name)
    site.add("evil", {"gke": "no_module"})
    site.add("other", {"broken": "no_module"})
    loaded = site.load()
    assert [plugin.name for plugin in loaded.plugins] == ["acme", "mono", "zenith"]
    assert [failure.name for failure in loaded.failures] == ["gke", "broken"]


@pytest.mark.parametrize("name", ["Acme", "acme_x", "9acme", "a" * 64, "acme.x"])
def test_a_plugins_name_is_lower_case_words(name: str, site: Site) -> None:
    site.add("odd", {name: "odd_name"}, {"odd_name": GOOD.format(name=name, version=1, answer="")})
    (failure,) = site.load().failures
    assert (failure.name, failure.stage) == (name, Stage.REGISTER)


def test_an_unknown_platform_is_a_mistake_of_the_command_line(site: Site) -> None:
    site.vendor("acme")
    with pytest.raises(UsageError, match="one of acme"):
        site.load().plugin("nothere")


class Giving:
    """A plugin whose hooks answer, or raise, what the test says."""

    def __init__(self, answer: object = None, error: BaseException | None = None) -> None:
        self.answer = answer
        self.error = error

    @plugins.hookimpl
    def platform(self) -> hooks.Platform:
        effects = {"acme.file": lambda state_dir, params: self._give()}
        return hooks.Platform("acme", "gives what it is told", hooks.API_VERSION, effects=effects)

    def _give(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.answer

    @plugins.hookimpl
    def detect(self, request: hooks.DetectRequest) -> Any:
        return self._give()

    @plugins.hookimpl
    def plan_token_projection(self, request: hooks.PlanRequest) -> Any:
        return self._give()

    @plugins.hookimpl
    def propagate(self, request: hooks.PlanRequest) -> Any:
        return self._give()

    @plugins.hookimpl
    def run(self, state_dir: Path) -> Any:
        return self._give()


def given(answer: object = None, error: BaseException | None = None) -> PluginSet:
    return plugins.of_objects({"acme": Giving(answer, error)}, origin="acme 7")


PLAN = hooks.PlanRequest(Path("/nowhere"), {}, hooks.Detection("1", "d", ()), hooks.Mode.SDS)


def test_our_own_errors_pass_as_they_are() -> None:
    with pytest.raises(MachineError, match="full"):
        given(error=MachineError("full")).detect("acme", request())


@pytest.mark.parametrize("error", [ValueError("deep"), SystemExit(1), GeneratorExit()])
def test_whatever_else_a_hook_raises_names_plugin_and_distribution(error: BaseException) -> None:
    with pytest.raises(PluginError, match=r"plugin 'acme' of acme 7 failed in detect\(\)") as caught:
        given(error=error).detect("acme", request())
    assert caught.value.__cause__ is error


def test_ctrl_c_in_a_hook_passes() -> None:
    with pytest.raises(KeyboardInterrupt):
        given(error=KeyboardInterrupt()).detect("acme", request())


def test_an_effect_that_cannot_be_built_names_the_plugin() -> None:
    with pytest.raises(PluginError, match="acme 7"):
        given(error=KeyError("x")).effect("acme", "acme.file", Path("/nowhere"), {})
    with pytest.raises(PluginError, match=r"does not know the kind of change 'acme\.other'"):
        given().effect("acme", "acme.other", Path("/nowhere"), {})


CHANGE = hooks.Change("a", "acme.file", "title", "why", {})


@pytest.mark.parametrize(
    "answer",
    [None, {}, hooks.SignerOffer((), lambda: None), hooks.Projection([CHANGE]), hooks.Projection((CHANGE, CHANGE))],  # type: ignore[arg-type,return-value]  # wrong on purpose
)
def test_a_nonsense_answer_names_plugin_distribution_and_hook(answer: object) -> None:
    with pytest.raises(PluginError, match=r"plugin 'acme' of acme 7 .*plan_token_projection\(\)"):
        given(answer).plan_token_projection("acme", PLAN)


def test_a_refusal_to_plan_is_an_answer() -> None:
    refusal = hooks.NotPossible("too old", ("upgrade",))
    assert given(refusal).plan_token_projection("acme", PLAN) == refusal
    with pytest.raises(PluginError, match="the reason"):
        given(hooks.NotPossible("", ())).plan_token_projection("acme", PLAN)


def test_a_hook_that_is_not_there() -> None:
    with pytest.raises(PluginError, match="does not implement the hook 'signer'"):
        given().signer("acme", PLAN)


@pytest.mark.parametrize(("answer", "status"), [(0, 0), (3, 3)])
def test_run_answers_an_exit_status(answer: int, status: int) -> None:
    assert given(answer).run("acme", Path("/nowhere")) == status
    with pytest.raises(PluginError, match="exit status"):
        given(True).run("acme", Path("/nowhere"))


def test_hooks_of_two_platforms_never_mix(site: Site) -> None:
    site.vendor("acme")
    site.vendor(
        "zenith", GOOD.format(name="zenith", version=1, answer="from zenith").replace("def detect", "def other")
    )
    loaded = site.load()
    assert [failure.name for failure in loaded.failures] == ["zenith"]
    site.vendor("mute", GOOD.format(name="mute", version=1, answer="").replace("@hookimpl\ndef detect", "def detect"))
    with pytest.raises(PluginError, match=r"plugin 'mute' of .* does not implement the hook 'detect'"):
        site.load().detect("mute", request())


def test_a_plugin_without_a_platform_is_listed_and_offers_none(site: Site) -> None:
    site.vendor("tools", "import os")
    loaded = site.load()
    assert loaded.plugins[0].platform is None
    assert loaded.platforms == ()
    with pytest.raises(UsageError, match="no platform 'tools'"):
        loaded.plugin("tools")


def test_our_marker_is_pluggys() -> None:
    def ours() -> None: ...

    def theirs() -> None: ...

    plugins.hookimpl(ours)
    pluggy.HookimplMarker("meshpki")(theirs)
    assert vars(ours) == vars(theirs)


def test_the_real_built_in_is_loaded_or_its_failure_says_why() -> None:
    loaded = plugins.load()
    assert "local" in {plugin.name for plugin in loaded.plugins} | {failure.name for failure in loaded.failures}


def test_importing_the_loader_imports_nothing_heavy() -> None:
    program = (
        "import sys, meshpki.plugins, meshpki.hooks\n"
        "heavy = {'pluggy', 'importlib.metadata', 'grpc', 'cryptography', 'yaml', 'cattrs', 'urllib3', 'sqlite3'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
