"""`./scripts/fuzz`: one target of tests/fuzz/targets.py under atheris (libFuzzer for Python).

fuzz_atheris.py TARGET [libFuzzer's own options and corpus folders]

Blind noise seldom leaves a checksum or a JSON document whole, and would go no further than that.
So half of the inputs are changed by somebody who knows the format.
"""

from __future__ import annotations

import copy
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "fuzz"))

with atheris.instrument_imports(include=["axlebox", "targets", "tuf", "securesystemslib"]):
    import targets

    from axlebox.firmware_bundle.container import BLOCK, pack, unpack
    from axlebox.firmware_bundle.errors import AxleboxError

ODD_VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 1, 2**31, 2**63, 2**64, 10**400, 0.5, 1e308, -0.0, 1e-320),
    *("", "a", "any", "../a", "a\n", "\0", "\ud800", "1.2.3", "9" * 40, "x" * 300),
    *("0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2026-02-30T00:00:00Z", "2026-01-01T00:00:00"),
    *([], {}, [[]], {"": {}}, ["a"] * 40, [1, 2], {"a": 1}),
)


def mutate_container(data: bytes, max_size: int, dice: random.Random) -> bytes:
    """Noise under checksums that fit."""
    changed = bytearray(atheris.Mutate(data, max_size))
    for at in range(0, len(changed) - BLOCK + 1, BLOCK):
        header = changed[at : at + BLOCK]
        if header[257:262] == b"ustar":
            changed[at + 148 : at + 156] = b"%06o\0 " % (sum(header) - sum(header[148:156]) + sum(b" " * 8))
    return bytes(changed)


def mutate_json(data: bytes, max_size: int, dice: random.Random) -> bytes:
    """One value of a document taken away, replaced, or put where another was."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return bytes(atheris.Mutate(data, max_size))
    places: list[tuple[Any, Any]] = []
    waiting = [document]
    while waiting:
        value = waiting.pop()
        keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
        places += [(value, key) for key in keys]
        waiting += [value[key] for key in keys]
    if not places:
        return bytes(atheris.Mutate(data, max_size))
    holder, key = dice.choice(places)
    other_holder, other_key = dice.choice(places)
    match dice.randrange(4):
        case 0:
            del holder[key]
        case 1:
            holder[key] = copy.deepcopy(other_holder[other_key])
        case 2 if isinstance(holder, dict):
            holder[str(dice.choice(ODD_VALUES))] = holder.pop(key)
        case _:
            holder[key] = dice.choice(ODD_VALUES)
    return json.dumps(document, indent=1, sort_keys=True).encode()


def mutate_bundle(data: bytes, max_size: int, dice: random.Random) -> bytes:
    """A change inside one member, or of its name."""
    try:
        members = unpack(data)
    except AxleboxError:
        return bytes(atheris.Mutate(data, max_size))
    name = dice.choice(sorted(members))
    if dice.randrange(16) == 0:
        members[dice.choice(["2.root.json", "a", "golden.json", "targets.json"])] = members.pop(name)
    elif name.endswith(".json") and dice.randrange(4):
        members[name] = mutate_json(members[name], max_size, dice)
    else:
        members[name] = bytes(atheris.Mutate(members[name], len(members[name]) + 64))
    return pack(members)


MUTATORS: dict[str, Callable[[bytes, int, random.Random], bytes]] = {
    "bundle": mutate_bundle,
    "container": mutate_container,
    "manifest": mutate_json,
    "metadata": mutate_json,
}


def main() -> None:
    target = sys.argv[1]

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        dice = random.Random(seed)  # noqa: S311  libFuzzer's own dice
        if target in MUTATORS and dice.randrange(2):
            changed = MUTATORS[target](data, max_size, dice)
            if len(changed) <= max_size:
                return changed
        return bytes(atheris.Mutate(data, max_size))

    options = [f"-max_len={targets.MAX_BYTES[target]}", "-timeout=5", "-rss_limit_mb=512"]
    atheris.Setup([sys.argv[0], *options, *sys.argv[2:]], lambda data: targets.run(target, data), custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
