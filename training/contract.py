"""Reading conf/base/contract.yml."""

from __future__ import annotations

from pathlib import Path

import msgspec
import yaml

from axlebox.firmware_bundle.errors import Malformed, UsageError
from axlebox.firmware_bundle.manifest import Contract
from axlebox.runtime.contract import check_contract


def load_contract(path: Path) -> Contract:
    """The data contract of a workspace. Raises Malformed naming the field that does not fit.

    Kinds and sensors come by name, as in the manifest: training must not depend on the order in the file.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        contract = msgspec.convert(raw, Contract)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise Malformed(f"{path}: {error}") from error
    check_contract(contract)
    if not contract.kinds:
        raise Malformed(f"{path}: no kind of sensors")
    by_name = {"kinds": dict(sorted(contract.kinds.items())), "sensors": dict(sorted(contract.sensors.items()))}
    return msgspec.structs.replace(contract, **by_name)
