"""How this machine reaches Python packages, handed to an image build without leaving a trace in the image.

pip and uv may be set up here for a mirror or a private CA, by environment or by files. A build step needs the same, but
neither the image nor its history may show it, so the settings travel as build secrets: files that exist under
/run/secrets during one step only. With nothing set, the files are empty and the public defaults hold.
"""

from __future__ import annotations

import configparser
import json
import os
from collections.abc import Mapping
from pathlib import Path

PIP_KEYS = ("index-url", "extra-index-url", "trusted-host")
PIP_FILES = ("~/.config/pip/pip.conf", "~/.pip/pip.conf", "/etc/pip.conf")
UV_FILES = ("~/.config/uv/uv.toml", "/etc/uv/uv.toml")
CA_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/ssl/cert.pem")


def pip_settings(env: Mapping[str, str]) -> dict[str, str]:
    """What pip would use of the settings that matter here: the environment wins over files, the nearest file wins."""
    found: dict[str, str] = {}
    files = [env["PIP_CONFIG_FILE"]] if "PIP_CONFIG_FILE" in env else list(PIP_FILES)
    for name in reversed(files):
        parser = configparser.RawConfigParser()
        try:
            parser.read(Path(name).expanduser())
        except configparser.Error:
            continue
        for section in ("global", "install"):
            if parser.has_section(section):
                found |= {key: value for key, value in parser.items(section) if key in PIP_KEYS}
    for key in PIP_KEYS:
        value = env.get("PIP_" + key.upper().replace("-", "_"))
        if value:
            found[key] = value
    return found


def pip_conf(settings: Mapping[str, str]) -> str:
    # configparser hands multi-line values back with plain line breaks; pip wants the continuation indented.
    lines = [f"{key} = " + "\n    ".join(value.split()) for key, value in settings.items()]
    return "\n".join(["[global]", *lines, ""]) if lines else ""


def uv_toml(env: Mapping[str, str], pip: Mapping[str, str]) -> str:
    """uv's own settings where it has some, else pip's translated: people often configure just pip."""
    default = env.get("UV_DEFAULT_INDEX") or env.get("UV_INDEX_URL")
    extra = env.get("UV_INDEX") or env.get("UV_EXTRA_INDEX_URL") or ""
    insecure = env.get("UV_INSECURE_HOST", "")
    if not (default or extra or insecure):
        files = [env["UV_CONFIG_FILE"]] if "UV_CONFIG_FILE" in env else list(UV_FILES)
        for name in files:
            file = Path(name).expanduser()
            if file.is_file():
                return file.read_text()
        default, extra = pip.get("index-url"), pip.get("extra-index-url", "")
        insecure = pip.get("trusted-host", "")
    lines = [f"allow-insecure-host = {json.dumps(insecure.split())}"] if insecure else []
    # A named index is written NAME=URL in uv's variables.
    for url in extra.split():
        lines += ["[[index]]", f"url = {json.dumps(url.partition('=')[2] if _is_named(url) else url)}"]
    if default:
        lines += ["[[index]]", f"url = {json.dumps(default.partition('=')[2] if _is_named(default) else default)}"]
        lines += ["default = true"]
    return "".join(line + "\n" for line in lines)


def _is_named(url: str) -> bool:
    return "=" in url.partition("://")[0]


def ca_bundle(env: Mapping[str, str]) -> Path | None:
    for name in (env.get("SSL_CERT_FILE", ""), *CA_BUNDLES):
        if name and Path(name).is_file():
            return Path(name)
    return None


def uv_cache(env: Mapping[str, str]) -> Path:
    """uv's cache on this machine, which test environments fill as well: several GB not to be fetched again."""
    named = env.get("UV_CACHE_DIR")
    return Path(named) if named else Path(env.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "uv"


def write_secrets(folder: Path) -> list[str]:
    """Writes the files and returns buildah's arguments for them."""
    pip = pip_settings(os.environ)
    files = {"pip.conf": pip_conf(pip), "uv.toml": uv_toml(os.environ, pip)}
    bundle = ca_bundle(os.environ)
    files["ca.pem"] = bundle.read_text() if bundle else ""
    arguments = []
    for name, text in files.items():
        path = folder / name
        path.write_text(text)
        path.chmod(0o600)
        arguments += ["--secret", f"id={name},src={path}"]
    return arguments
