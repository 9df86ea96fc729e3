"""`aiotask config`: the settings in force."""

from collections.abc import Mapping
from typing import Any

import click

from aiotask.cli.errors import DONE, say
from aiotask.cli.options import FOLDER, broker_options, json_option
from aiotask.cli.output import echo_json, echo_table
from aiotask.cli.session import load_app
from aiotask.settings import Settings
from aiotask.settings.checked import Setting
from aiotask.urls import mask_url


@click.command()
@click.argument("target", required=False)
@click.option("--show-origin", is_flag=True, help="Say where each value came from.")
@click.option("--all", "every", is_flag=True, help="Every setting, not only those that differ from their default.")
@json_option
@broker_options
@click.option("--app-dir", default=".", type=FOLDER, help="The folder that TARGET is imported from; the current one.")
def config(
    target: str | None,
    show_origin: bool,
    every: bool,
    as_json: bool,
    app_dir: str,
    broker: str | None,
    result_backend: str | None,
) -> int:
    """Show the settings of the app TARGET, MODULE or MODULE:ATTRIBUTE; without it, of the default app.

    They are those of a worker: the modules in the setting `imports` may set some, and are imported with TARGET. Secrets
    are not shown.
    """
    imports = target is not None
    conf = load_app(target, app_dir, imports=imports, broker_url=broker, result_backend=result_backend).conf
    names = available() if every else changed(conf)
    if as_json:
        echo_json([_document(conf, name) for name in names])
        return DONE
    headers = ["NAME", "VALUE", *["ORIGIN"][:show_origin]]
    echo_table(headers, [[name, conf.shown(name), *[conf.origin(name)][:show_origin]] for name in names])
    if not names:
        say("Every setting has its default; --all lists them.")
    return DONE


def available() -> list[str]:
    """Return the names of the settings that this version can honour."""
    return [name for name, setting in Settings.catalogue().items() if setting.available]


def changed(conf: Settings) -> list[str]:
    """Return the names of the settings whose value is not the default."""
    return [name for name in available() if getattr(conf, name) != Settings.catalogue()[name].default]


def _document(conf: Settings, name: str) -> dict[str, Any]:
    setting = Settings.catalogue()[name]
    return {
        "name": name,
        "value": _public(setting, getattr(conf, name)),
        "default": _public(setting, setting.default),
        "origin": conf.origin(name),
    }


def _public(setting: Setting[Any, Any], value: Any) -> Any:
    return "***" if setting.kind.secret and value is not None else _masked(value)


def _masked(value: Any) -> Any:
    """Return `value` with the passwords of URLs masked, however deep they are."""
    if isinstance(value, str):
        return mask_url(value)
    if isinstance(value, Mapping):
        # The keys of routes may be regular expressions.
        return {key if isinstance(key, str) else repr(key): _masked(item) for key, item in value.items()}
    return [_masked(item) for item in value] if isinstance(value, list) else value
