"""Finds, checks and calls plugins: the one place that touches pluggy.

Every plugin lives in a pluggy manager of its own, so a platform's hooks come from the plugin that declared that
platform and from nowhere else, whatever the order in which distributions are found. What is wrong with a plugin is
data (`PluginFailure`); it never takes the program down, unless `strict` asks for that.
"""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, TypeVar

from meshpki import hooks, records
from meshpki.errors import InvalidValueError, MeshpkiError, PluginError, UsageError
from meshpki.plugin_sources import cut, installed, one_line, origin_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from importlib.metadata import EntryPoint
    from pathlib import Path

    import pluggy

    from meshpki.hooks import Params
    from meshpki.plugin_sources import Origin

    _F = TypeVar("_F", bound=Callable[..., object])

_T = TypeVar("_T")
_P = TypeVar("_P", hooks.Projection, hooks.SignerOffer, hooks.Propagation)

PROJECT: Final = "meshpki"
GROUP: Final = "meshpki.plugins"
"""The entry-point group in which a distribution names its plugins."""
DISABLED_VARIABLE: Final = "MESHPKI_DISABLED_PLUGINS"
"""Environment variable: names of plugins, separated by commas, that are not even imported."""
BUILT_IN: Final = ("local", "generic", "onprem", "gke")
"""Names that belong to the distribution `meshpki`, built or to be built. Nobody else's plugin ever gets one."""
_PLAIN: Final = {
    "wrapper": False,
    "hookwrapper": False,
    "optionalhook": False,
    "tryfirst": False,
    "trylast": False,
    "specname": None,
}


def hookimpl(function: _F) -> _F:
    """Mark a function or method of a plugin as its implementation of the hook of the same name.

    Leaves the mark that `pluggy.HookimplMarker("meshpki")` leaves, without importing pluggy.
    """
    setattr(function, f"{PROJECT}_impl", dict(_PLAIN))
    return function


class Stage(StrEnum):
    """How far a plugin got before it failed."""

    DISABLED = "disabled"
    DUPLICATE = "duplicate"
    """Several entry points claim the name, or somebody else claims one of ours."""
    IMPORT = "import"
    REGISTER = "register"
    """It implements an unknown hook, or a known one with arguments that the hook does not have."""
    VALIDATE = "validate"
    """Its answer to `platform()` is not usable."""
    API_VERSION = "api-version"


@dataclass(frozen=True, slots=True)
class PluginFailure:
    """A plugin that is not in use, and why."""

    name: str
    origin: str
    """`<distribution> <version>`; where several claim a name, all of them."""
    stage: Stage
    reason: str

    @property
    def broken(self) -> bool:
        """False only for a plugin that the operator disabled."""
        return self.stage is not Stage.DISABLED

    def error(self) -> PluginError:
        """Build the error to raise where this plugin was needed."""
        return PluginError(
            f"plugin {self.name!r} of {self.origin} cannot be used ({self.stage}): {self.reason}",
            todo=f"unset it in {DISABLED_VARIABLE}" if not self.broken else "update or remove that distribution",
        )


@dataclass(frozen=True, slots=True)
class Plugin:
    """A plugin that loaded and was found in order. `platform` is None when it offers none."""

    name: str
    origin: str
    platform: hooks.Platform | None
    hooks: tuple[str, ...]
    """Names of the hooks that it implements, in the contract's order."""
    manager: pluggy.PluginManager = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class PluginSet:
    """The plugins in use, sorted with our own first, and the failures; one typed method per hook."""

    plugins: tuple[Plugin, ...] = ()
    failures: tuple[PluginFailure, ...] = ()

    @property
    def broken(self) -> tuple[PluginFailure, ...]:
        """The failures that somebody has to repair."""
        return tuple(failure for failure in self.failures if failure.broken)

    @property
    def platforms(self) -> tuple[hooks.Platform, ...]:
        """Every platform on offer."""
        return tuple(plugin.platform for plugin in self.plugins if plugin.platform is not None)

    def plugin(self, platform: str) -> Plugin:
        """Return the plugin that declared `platform`. Raises PluginError if it is broken, UsageError if unknown."""
        for plugin in self.plugins:
            if plugin.platform is not None and plugin.platform.name == platform:
                return plugin
        for failure in self.failures:
            if failure.name == platform:
                raise failure.error()
        raise UsageError(
            f"there is no platform {platform!r:.80}",
            wanted=f"one of {', '.join(known.name for known in self.platforms) or '(no plugin offers any)'}",
            todo="install the distribution that brings it, or see `meshpki plugins`",
        )

    def platform(self, name: str) -> hooks.Platform:
        """Return the record of a platform. Raises as `plugin` does."""
        platform = self.plugin(name).platform
        assert platform is not None
        return platform

    def detect(self, platform: str, request: hooks.DetectRequest) -> hooks.Detection:
        """Ask the platform what is there. Raises PluginError for a broken plugin, and what the hook raises."""
        plugin = self.plugin(platform)
        return _checked(plugin, "detect", records.check_detection, _call(plugin, "detect", request=request))

    def plan_token_projection(self, platform: str, request: hooks.PlanRequest) -> hooks.Projection | hooks.NotPossible:
        """Ask for the changes that make the platform issue trustworthy tokens. Raises as `detect` does."""
        return self._planned(platform, "plan_token_projection", hooks.Projection, request)

    def signer(self, platform: str, request: hooks.PlanRequest) -> hooks.SignerOffer | hooks.NotPossible:
        """Ask what signs. Raises as `detect` does."""
        return self._planned(platform, "signer", hooks.SignerOffer, request)

    def propagate(self, platform: str, request: hooks.PlanRequest) -> hooks.Propagation | hooks.NotPossible:
        """Ask how keys and roots reach workloads. Raises as `detect` does."""
        return self._planned(platform, "propagate", hooks.Propagation, request)

    def run(self, platform: str, state_dir: Path) -> int:
        """Keep an installation running in the foreground. Raises UsageError for a platform that has no `run`."""
        plugin = self.plugin(platform)
        if "run" not in plugin.hooks:
            raise UsageError(f"platform {platform!r} keeps itself running: there is nothing to run in the foreground")
        return _checked(plugin, "run", _check_status, _call(plugin, "run", state_dir=state_dir))

    def effect(self, platform: str, kind: str, state_dir: Path, params: Params) -> hooks.Effect:
        """Build the effect of a change of that kind. Raises PluginError for a kind that the platform lacks."""
        plugin = self.plugin(platform)
        assert plugin.platform is not None
        factory = plugin.platform.effects.get(kind)
        if factory is None:
            raise PluginError(
                f"plugin {plugin.name!r} of {plugin.origin} does not know the kind of change {kind!r:.80}",
                todo="use the version of the plugin that made the plan",
            )
        return isolated(plugin, f"effects[{kind!r}]", lambda: factory(state_dir, params))

    def _planned(self, platform: str, hook: str, kind: type[_P], request: hooks.PlanRequest) -> _P | hooks.NotPossible:
        plugin = self.plugin(platform)
        answer = _call(plugin, hook, request=request)
        return _checked(plugin, hook, lambda given: _check_planned(given, kind, plugin), answer)


def isolated(plugin: Plugin, what: str, call: Callable[[], _T]) -> _T:
    """Call into a plugin: our errors and Ctrl-C pass, whatever else it raises becomes a PluginError that names it."""
    try:
        return call()
    except (MeshpkiError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise PluginError(
            f"plugin {plugin.name!r} of {plugin.origin} failed in {what}: {one_line(error)}",
            todo="report it to the plugin's authors, with the traceback that `meshpki --debug` shows",
        ) from error


def load(
    entry_points: Iterable[EntryPoint] | None = None,
    *,
    disabled: Iterable[str] | None = None,
    strict: bool = False,
) -> PluginSet:
    """Find and load every plugin: ours first, then the others sorted by name.

    `entry_points` are those of the installed distributions unless given; `disabled` is read from
    MESHPKI_DISABLED_PLUGINS unless given. With `strict` the first broken plugin raises PluginError.
    """
    unread: Mapping[Origin, str] = {}
    if entry_points is None:
        entry_points, unread = installed(GROUP)
    if disabled is None:
        disabled = os.environ.get(DISABLED_VARIABLE, "").split(",")
    blocked = {name.strip() for name in disabled}
    claims: dict[str, list[EntryPoint]] = {}
    for entry_point in entry_points:
        claims.setdefault(entry_point.name, []).append(entry_point)
    found: list[Plugin | PluginFailure] = []
    with contextlib.redirect_stdout(sys.stderr):  # that of the program is not for what a module prints when imported
        for name in sorted(claims, key=lambda name: (name not in BUILT_IN, name)):
            found += _settle(name, claims[name], blocked)
    found += [PluginFailure(of.name, str(of), Stage.IMPORT, reason) for of, reason in unread.items()]
    return _collect(found, strict=strict)


def of_objects(plugins: Mapping[str, object], *, origin: str = "(given) 0", strict: bool = True) -> PluginSet:
    """Make a set of plugins that are at hand, by name: for tests of plugins, and for programs that embed us."""
    return _collect([_register(name, origin, plugin) for name, plugin in plugins.items()], strict=strict)


def _collect(found: Sequence[Plugin | PluginFailure], *, strict: bool) -> PluginSet:
    loaded = PluginSet(
        plugins=tuple(item for item in found if isinstance(item, Plugin)),
        failures=tuple(item for item in found if isinstance(item, PluginFailure)),
    )
    if strict and loaded.broken:
        raise loaded.broken[0].error()
    return loaded


def _settle(name: str, claims: Sequence[EntryPoint], blocked: set[str]) -> list[Plugin | PluginFailure]:
    """Decide who gets `name`, by who the claimants are and never by their order."""
    origins = sorted(origin_of(claim) for claim in claims)
    if name in blocked:
        return [PluginFailure(name, " and ".join(origins), Stage.DISABLED, f"named in {DISABLED_VARIABLE}")]
    if name in BUILT_IN:
        own = [claim for claim in claims if _is_ours(name, claim)]
        refused: list[Plugin | PluginFailure] = [
            PluginFailure(
                name,
                origin_of(claim),
                Stage.DUPLICATE,
                f"the name {name!r} belongs to {PROJECT} itself; {origin_of(claim)} claims it with {claim.value!r:.80}",
            )
            for claim in sorted(claims, key=origin_of)
            if not _is_ours(name, claim)
        ]
        return [*(_import(name, claim) for claim in own[:1]), *refused]
    if len(claims) > 1:
        reason = f"claimed by {' and by '.join(origins)}: none of them is used"
        return [PluginFailure(name, " and ".join(origins), Stage.DUPLICATE, reason)]
    return [_import(name, claims[0])]


def _is_ours(name: str, claim: EntryPoint) -> bool:
    """Ask both who says so and what would be imported: a distribution can give itself any name."""
    return (
        claim.dist is not None
        and claim.dist.name.lower().replace("_", "-") == PROJECT
        and claim.value == f"{PROJECT}_{name}.plugin"
    )


def _import(name: str, claim: EntryPoint) -> Plugin | PluginFailure:
    origin = origin_of(claim)
    try:
        plugin: object = claim.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - SystemExit at import must not end our process
        return PluginFailure(name, origin, Stage.IMPORT, one_line(error))
    return _register(name, origin, plugin)


def _register(name: str, origin: str, plugin: object) -> Plugin | PluginFailure:
    import pluggy

    try:
        records.check_name(name, "plugin name")
        manager = _manager()
        manager.register(plugin, name)
        manager.check_pending()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - a plugin object can raise anything when it is looked into
        known = isinstance(error, (pluggy.PluginValidationError, InvalidValueError))
        return PluginFailure(name, origin, Stage.REGISTER, cut(str(error)) if known else one_line(error))
    callers = {caller.name for caller in manager.get_hookcallers(plugin) or ()}
    implemented = tuple(hook.__name__ for hook in hooks.HOOKS if hook.__name__ in callers)
    return _introduce(Plugin(name, origin, None, implemented, manager))


def _introduce(plugin: Plugin) -> Plugin | PluginFailure:
    """Ask a registered plugin for its platform, and check the answer."""
    if "platform" not in plugin.hooks:
        return plugin
    try:
        platform = _checked(
            plugin,
            "platform",
            lambda answer: records.check_platform(answer, name=plugin.name),
            _call(plugin, "platform"),
        )
    except MeshpkiError as error:
        return PluginFailure(plugin.name, plugin.origin, Stage.VALIDATE, cut(str(error)))
    if problem := records.api_version_problem(platform):
        return PluginFailure(plugin.name, plugin.origin, Stage.API_VERSION, problem)
    return Plugin(plugin.name, plugin.origin, platform, plugin.hooks, plugin.manager)


def _manager() -> pluggy.PluginManager:
    """Make an empty manager that knows our hooks."""
    import pluggy

    mark = pluggy.HookspecMarker(PROJECT)
    for hook in hooks.HOOKS:
        mark(hook, firstresult=True)
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(hooks)
    return manager


# Any: the answer of a plugin is untyped until a check of `records` has seen it.
def _call(plugin: Plugin, hook: str, **arguments: Any) -> object:
    if hook not in plugin.hooks:
        raise PluginError(
            f"plugin {plugin.name!r} of {plugin.origin} does not implement the hook {hook!r}",
            todo="use a version of the plugin that does",
        )
    caller = getattr(plugin.manager.hook, hook)
    return isolated(plugin, f"{hook}()", lambda: caller(**arguments))


def _checked(plugin: Plugin, hook: str, check: Callable[[object], _T], answer: object) -> _T:
    try:
        return isolated(plugin, f"the answer to {hook}()", lambda: check(answer))
    except InvalidValueError as error:
        raise PluginError(
            f"plugin {plugin.name!r} of {plugin.origin} gave an unusable answer to {hook}(): {error.seen}",
            wanted=error.wanted,
            todo="report it to the plugin's authors",
        ) from error


def _check_planned(answer: object, kind: type[_P], plugin: Plugin) -> _P | hooks.NotPossible:
    if isinstance(answer, hooks.NotPossible):
        return records.check_not_possible(answer)
    if not isinstance(answer, kind):
        raise InvalidValueError(f"it is {type(answer).__name__}", wanted=f"{kind.__name__} or NotPossible")
    assert plugin.platform is not None
    return replace(answer, changes=records.check_changes(answer.changes, plugin.platform))


def _check_status(answer: object) -> int:
    if isinstance(answer, bool) or not isinstance(answer, int):
        raise InvalidValueError(f"it is {type(answer).__name__}", wanted="an exit status")
    return answer
