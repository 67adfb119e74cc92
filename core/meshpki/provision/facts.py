"""Facts: what was found out about a platform, by whom, and under which options. All of it enters the plan's digest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshpki import records
from meshpki.errors import InvalidValueError, UsageError
from meshpki.hooks import Detection, DetectRequest, Platform
from meshpki.provision import codec

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import TypeAlias

    from meshpki.hooks import Params, Value
    from meshpki.plugins import PluginSet

    Given: TypeAlias = Mapping[str, Value]
    """The options that the operator gave, by name without the dashes."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What planning rests on."""

    platform: str
    origin: str
    """The distribution, and its version, whose plugin said so."""
    api_version: int
    options: Params
    """Every option of the platform, with its default where the operator gave none."""
    detection: Detection


def detect(plugins: PluginSet, platform: str, state_dir: Path, given: Given) -> Facts:
    """Complete the options and ask the platform what is there; changes nothing.

    Raises UsageError for an option that the platform does not have, UnavailableError when it could not be found
    out, PluginError for a broken plugin.
    """
    plugin = plugins.plugin(platform)
    record = plugins.platform(platform)
    options = complete_options(record, given)
    detection = plugins.detect(platform, DetectRequest(absolute(state_dir), options))
    return Facts(platform, plugin.origin, record.api_version, options, detection)


def absolute(state_dir: Path) -> Path:
    """Return the directory's absolute name, `..` and links in its parents resolved; the last part may be a link."""
    return (state_dir.parent.resolve() / state_dir.name) if state_dir.name not in {"", ".."} else state_dir.resolve()


def complete_options(platform: Platform, given: Given) -> dict[str, Value]:
    """Check the operator's options and add the defaults. Raises UsageError."""
    known = {option.name: option for option in platform.options}
    for name in given:
        if name not in known:
            raise UsageError(
                f"platform {platform.name!r} has no option {name!r:.80}", wanted=f"one of {codec.names(known)}"
            )
    try:
        return {
            name: records.check_option_value(option, given.get(name, option.default))
            for name, option in sorted(known.items())
        }
    except InvalidValueError as error:
        raise UsageError(error.seen, wanted=error.wanted) from error
