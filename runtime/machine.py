"""What this runtime and the machine under it are: a proof holds for them and for no others."""

from __future__ import annotations

import functools
import hashlib
import platform
import re
from importlib.metadata import version
from pathlib import Path

from axlebox.firmware_bundle.skew import Runtime
from axlebox.runtime import own_sets
from axlebox.runtime.features import known_sets
from axlebox.runtime.version import VERSION

_CPUINFO = Path("/proc/cpuinfo")
_MAX_CPUINFO_BYTES = 64 * 1024
_CPU = re.compile(r"^(?:vendor_id|model name|cpu family|model|stepping|flags|CPU \w+|Features)\s*:.*$", re.M)


@functools.cache
def this_runtime() -> Runtime:
    """This runtime, with versions, other packages' feature sets and processor as its fingerprint."""
    libraries = ", ".join(f"{name} {version(name)}" for name in ("onnxruntime", "numpy"))
    parts = [f"axlebox {VERSION}", libraries, *own_sets.suppliers(), f"{platform.machine()} {processor(_CPUINFO)}"]
    return Runtime(VERSION, known_sets(), ", ".join(parts))


def processor(cpuinfo: Path) -> str:
    """What tells one processor from another, in 16 hex digits; `unknown` where a sandbox hides it.

    Its feature flags count: they choose among the kernels of numpy and onnxruntime.
    """
    try:
        with open(cpuinfo, encoding="utf-8", errors="replace") as file:
            first, _, _ = file.read(_MAX_CPUINFO_BYTES).partition("\n\n")
    except OSError:
        return "unknown"
    told = "\n".join(_CPU.findall(first))
    return hashlib.sha256(told.encode()).hexdigest()[:16] if told else "unknown"
