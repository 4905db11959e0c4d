"""What the service must be allowed so that a configuration can work, and no more: network, folders, devices.

Judged by the configuration's words alone: the unit may be printed before the box has its sensors.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from axlebox.firmware_bundle.errors import UsageError
from axlebox.runtime.config import Config
from axlebox.runtime.sinks import check_sinks
from axlebox.runtime.sources import KNOWN as SOURCES

RUNTIME = "axlebox"
"""Of /run: the daemon's own folder there."""
_HIDDEN = tuple(map(Path, ("/home", "/root", "/run/user", "/tmp", "/var/tmp", "/dev")))  # noqa: S108 - they are refused
"""What ProtectHome, PrivateTmp and PrivateDevices take from a service's sight."""
_SYSTEM = frozenset(map(Path, ("/", "/boot", "/etc", "/proc", "/run", "/sys", "/usr", "/var", "/var/lib")))
"""Folders with too much beside one sink's file in them."""
_FILE_SOURCES = ("file", "follow", "fifo", "unix", "canlog")
_REPLAYS = ("file", "canlog")
_LOCAL = "localhost"
"""As IPAddressAllow says it: 127.0.0.0/8 and ::1."""


@dataclass(frozen=True, slots=True)
class Needs:
    families: tuple[str, ...] = ()
    """Of sockets, beside AF_UNIX. With any, the service sees the box's network."""
    addresses: frozenset[str] | None = frozenset()
    """What IP may reach or be reached from; None: any address, since none can be named."""
    folders: tuple[Path, ...] = ()
    """Written to, beside the data folder and those of `runtime`; a lamp is written itself."""
    runtime: tuple[str, ...] = (RUNTIME,)
    """Folders of /run that are made for the service."""
    device: str | None = None
    """Opened by the daemon itself, for reading and writing."""
    lamps: tuple[Path, ...] = ()
    replays: bool = False
    """The source has an end, behind which nothing is to begin anew."""


def needs_of(config: Config) -> Needs:
    """Raises UsageError where no service could work by this configuration."""
    check_sinks(config)
    _check_source(config.source)
    for name, path in named_paths(config):
        check_seen(name, path)
    families, addresses = _network(config)
    folders = {_folder(name, path) for name, path in _written(config)}
    runtime = {folder.name for folder in folders if folder.parent == Path("/run")}
    lamps = tuple(_files(config, "lamp"))
    return Needs(
        families=families,
        addresses=addresses,
        folders=(*lamps, *sorted(folder for folder in folders if folder.parent != Path("/run"))),
        runtime=(RUNTIME, *sorted(runtime - {RUNTIME})),
        device=_device(config),
        lamps=lamps,
        replays=config.source.partition(":")[0] in _REPLAYS,
    )


def check_seen(name: str, path: Path) -> None:
    """Raise UsageError for a path that means another file, or none, to a service. `name` says what names it."""
    if not path.is_absolute():
        raise UsageError(f"{name}: {path} is not a whole path, and a service begins in /. DO: name it from / on")
    plain = Path(os.path.normpath(path))
    for place in _HIDDEN:
        if plain.is_relative_to(place):
            raise UsageError(f"{name}: {path} is below {place}, which the service does not see. DO: move it elsewhere")


def _check_source(uri: str) -> None:
    scheme, colon, rest = uri.partition(":")
    known = {one.partition(":")[0]: bool(one.partition(":")[2]) for one in SOURCES.split(", ")}
    if not colon or known.get(scheme) != bool(rest):
        raise UsageError(f"source {uri!r} is none of {SOURCES}")


# -- paths ----------------------------------------------------------------------------------------


def named_paths(config: Config) -> Iterator[tuple[str, Path]]:
    """Every path that the daemon opens by this configuration, with what names it."""
    scheme, _, rest = config.source.partition(":")
    if scheme in _FILE_SOURCES:
        yield f"source {config.source}", Path(rest)
    for uri in config.sinks:
        if uri.partition(":")[0] in ("file", "textfile", "lamp"):
            yield f"sink {uri}", Path(uri.partition(":")[2])
    if scheme == "hwmon":
        yield from ((f"hwmon.sensors.{sensor}", Path(pattern)) for sensor, pattern in config.hwmon.sensors.items())
    settings = {
        "can.dbc": config.can.dbc if scheme in ("can", "canlog") else None,
        "lamp.status_file": config.lamp.status_file if list(_files(config, "lamp")) else None,
        **(_mqtt_files(config) if _uses_mqtt(config) else {}),
    }
    yield from ((name, Path(path)) for name, path in settings.items() if path is not None)


def _mqtt_files(config: Config) -> dict[str, str | None]:
    names = ("password_file", "ca_file", "cert_file", "key_file")
    return {f"mqtt.{name}": getattr(config.mqtt, name) for name in names}


def _files(config: Config, wanted: str) -> Iterator[Path]:
    """Paths of the sinks of one scheme."""
    for uri in config.sinks:
        scheme, _, rest = uri.partition(":")
        if scheme == wanted:
            yield Path(rest)


def _written(config: Config) -> Iterator[tuple[str, Path]]:
    """Files that are replaced or rotated, for which their folder must be writable."""
    for scheme in ("file", "textfile"):
        yield from ((f"sink {scheme}:{path}", path) for path in _files(config, scheme))
    if config.lamp.status_file is not None and list(_files(config, "lamp")):
        yield "lamp.status_file", Path(config.lamp.status_file)


def _folder(name: str, path: Path) -> Path:
    folder = Path(os.path.normpath(path)).parent
    if folder in _SYSTEM:
        raise UsageError(
            f"{name}: the service may not write to all of {folder}. DO: give {path.name} a folder of its own"
        )
    return folder


# -- network and devices --------------------------------------------------------------------------


def _uses_mqtt(config: Config) -> bool:
    return "mqtt:" in (config.source, *config.sinks)


def _network(config: Config) -> tuple[tuple[str, ...], frozenset[str] | None]:
    """Needs.families and Needs.addresses."""
    families = ["AF_CAN"] if config.source == "can:" and config.can.interface == "socketcan" else []
    hosts = [config.mqtt.host] if _uses_mqtt(config) else []
    served = any(uri.startswith("prometheus:") for uri in config.sinks)
    if not hosts and not served:
        return tuple(families), frozenset()
    addresses = [_address(host) for host in hosts]
    if served:  # whoever fetches from another box is not known here
        addresses.append(_LOCAL if _address(config.metrics.address) == _LOCAL else None)
    known = [one for one in addresses if one is not None]
    return (*families, "AF_INET", "AF_INET6"), frozenset(known) if len(known) == len(addresses) else None


def _address(host: str) -> str | None:
    """A host as IPAddressAllow names it; None for a name, whose address is found out by asking others."""
    if host == _LOCAL:
        return _LOCAL
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return _LOCAL if address.is_loopback else str(address)


def _device(config: Config) -> str | None:
    """The serial device of a CAN adapter."""
    can = config.can
    if config.source != "can:" or can.interface in ("socketcan", "virtual"):
        return None
    if not can.channel.startswith("/dev/"):
        raise UsageError(
            f"can.interface = {can.interface!r}: what device {can.channel!r} needs is not known here. "
            "DO: use socketcan, or a channel below /dev"
        )
    return can.channel
