"""The options that a platform brings: asked of its plugin, offered as if they stood in our own code."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Annotated, Final

import typer
import typer.main

from meshpki import plugins
from meshpki.errors import UsageError
from meshpki.hooks import OptionKind
from meshpki_cli.lazy import Command

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from typer._click.core import Context, Parameter
    from typer._click.formatting import HelpFormatter

    from meshpki.hooks import Option, Platform, Value
    from meshpki.plugins import PluginSet

_META: Final = "meshpki.platform"
_TYPES: Final = {
    OptionKind.TEXT: str,
    OptionKind.INTEGER: int,
    OptionKind.FLAG: bool,
    OptionKind.LIST: list[str],
}


@dataclass(frozen=True, slots=True)
class Chosen:
    """The plugins that were loaded to read the command line, the platform in it, and that platform's options."""

    plugins: PluginSet
    platform: Platform
    options: Mapping[str, Value]


def chosen(ctx: typer.Context) -> Chosen:
    """What `PlatformCommand` found on the command line."""
    found = chosen_if_any(ctx)
    assert found is not None
    return found


def chosen_if_any(ctx: typer.Context) -> Chosen | None:
    """What `MaybePlatformCommand` found on the command line; None without --platform."""
    found = ctx.meta.get(_META)
    assert found is None or isinstance(found, Chosen)
    return found


class PlatformCommand(Command):
    """A command with `--platform NAME`, which offers that platform's options too."""

    needs_one = True
    platform = ""
    brought: Sequence[Parameter] = ()
    """The parameters of the platform's own options."""

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        """Look for the platform first, add its options, then read the command line as a whole."""
        name = named_platform(args)
        if name is None:
            if self.needs_one and not {"-h", "--help"} & set(args):
                raise _no_platform(strict="--strict-plugins" in args)
            return super().parse_args(ctx, args)
        loaded = plugins.load(strict="--strict-plugins" in args)
        platform = loaded.platform(name)
        ours = {flag: parameter for parameter in self.params for flag in parameter.opts}
        shared = {option.name: ours[flag] for option in platform.options if (flag := f"--{option.name}") in ours}
        own = [option for option in platform.options if option.name not in shared]
        self.brought = parameters(own)
        self.platform = name
        self.params = [*self.params, *self.brought]
        rest = super().parse_args(ctx, args)
        options = {option.name: _value(option, ctx.params.pop(_key(option))) for option in own}
        options |= {name: _plain(ctx.params[str(of.name)]) for name, of in shared.items() if _is_given(ctx, of)}
        ctx.meta[_META] = Chosen(loaded, platform, options)
        return rest

    def format_options(self, ctx: Context, formatter: HelpFormatter) -> None:
        """Write our own options, then those of the platform under its name."""
        all_of_them = self.params
        try:
            self.params = [parameter for parameter in all_of_them if parameter not in self.brought]
            super().format_options(ctx, formatter)
        finally:
            self.params = all_of_them
        if self.brought:
            records = [parameter.get_help_record(ctx) for parameter in self.brought]
            with formatter.section(f"Options of the platform {self.platform}"):
                formatter.write_dl([record for record in records if record is not None])


class MaybePlatformCommand(PlatformCommand):
    """A command that asks a platform only if it is named.

    An option that it shares with the platform, such as --context, is given once and is for both.
    """

    needs_one = False


def _is_given(ctx: Context, parameter: Parameter) -> bool:
    source = ctx.get_parameter_source(str(parameter.name))
    return source is not None and source.name != "DEFAULT"


def _plain(parsed: object) -> Value:
    """What our own parser made of an option, as a platform's option has it."""
    if isinstance(parsed, list | tuple):
        return tuple(str(item) for item in parsed)
    return parsed if isinstance(parsed, bool | int) else str(parsed)


def named_platform(args: Sequence[str]) -> str | None:
    """The value of `--platform` in a command line that nobody has parsed yet; the last one counts."""
    name = None
    for word, following in zip_longest(args, args[1:]):
        if word == "--platform":
            name = following
        elif word.startswith("--platform="):
            name = word.partition("=")[2]
    return name


def parameters(options: Sequence[Option]) -> list[Parameter]:
    """Make Typer's parameters for a platform's options: by a signature, as if a function had been written for them."""

    def written(**_values: object) -> None:
        """Stand in for a function with these parameters."""

    signature = [_parameter(option) for option in options]
    written.__signature__ = inspect.Signature(signature)  # type: ignore[attr-defined]
    written.__annotations__ = {parameter.name: parameter.annotation for parameter in signature}
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(written)
    return list(typer.main.get_command(app).params)


def _parameter(option: Option) -> inspect.Parameter:
    flag = f"--{option.name}"
    declared = f"{flag}/--no-{option.name}" if option.default is True else flag
    default = list(option.default) if isinstance(option.default, tuple) else option.default
    info = typer.Option(
        declared, help=option.help, metavar=option.metavar or None, show_default=default not in ("", [], False)
    )
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(_key(option), kind, default=default, annotation=Annotated[_TYPES[option.kind], info])


def _key(option: Option) -> str:
    """A name that no parameter of our own has."""
    return "platform_" + option.name.replace("-", "_")


def _value(option: Option, parsed: object) -> Value:
    if option.kind is OptionKind.LIST:
        assert isinstance(parsed, list | tuple | None)
        return tuple(parsed or ())
    assert isinstance(parsed, str | int)
    return parsed


def _no_platform(*, strict: bool) -> UsageError:
    known = plugins.load(strict=strict).platforms
    return UsageError(
        "no platform was named",
        wanted=f"--platform NAME, with one of: {', '.join(platform.name for platform in known) or '(none found)'}",
        todo="name one; `--platform NAME --help` shows its options, `meshpki plugins` what was found",
    )
