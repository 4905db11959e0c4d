"""Every flipped bit and every cut of a real bundle is refused, also where more signatures than needed are there.

The bundle has 3 signatures of 2 needed on its root and on targets.json, a real model, and all other
members. A verifier that stops at the second good signature accepts flips in the third.

By default the lowest bit of every byte is flipped, and the other bits and the cuts are sampled.
All of them, in some minutes on one core:

    AXLEBOX_EXHAUSTIVE=1 python -m pytest -s tests/firmware_bundle/test_flips.py
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from tuf.api.metadata import Metadata

from axlebox.firmware_bundle import tuf_client
from axlebox.firmware_bundle.container import unpack
from axlebox.firmware_bundle.errors import AxleboxError
from axlebox.firmware_bundle.manifest import Golden, GoldenRow, encode
from axlebox.firmware_bundle.skew import Runtime
from axlebox.firmware_bundle.trust import Bundle, verify

EXHAUSTIVE = os.environ.get("AXLEBOX_EXHAUSTIVE") == "1"
STRIDE = 1 if EXHAUSTIVE else 61
"""A prime, so that the samples meet every place of a 512-byte block."""

ROOT_KEYS = ("root", "root2", "root3")
TARGETS_KEYS = ("targets", "targets2", "targets3")
REFUSALS = range(10, 16)
"""Exit codes of a bundle that is not good. 20 (runtime too old) is none of them: no changed byte is
read as a manifest before its digest has been compared with the signed one."""


@pytest.fixture(scope="module")
def root(world: Any) -> bytes:
    return bytes(world.root(root_keys=ROOT_KEYS, targets_keys=TARGETS_KEYS, threshold=2))


@pytest.fixture(scope="module")
def bundle(world: Any, root: bytes) -> bytes:
    golden = Golden((GoldenRow("2026-03-01T00:00:00Z", "temperature", 100.0, 0.5, False),))
    files = {
        "card.md": b"# bearing-temp 1\n",
        "golden.json": encode(golden),
        "manifest.json": encode(world.manifest(1)),
        "model.onnx": world.tiny_model,
        "provenance.json": b"{}\n",
        "sbom.cdx.json": b"{}\n",
    }
    return bytes(world.bundle(roots={"1.root.json": root}, files=files, targets_keys=TARGETS_KEYS))


def check(data: bytes, root: bytes) -> Bundle:
    now = datetime(2026, 4, 1, tzinfo=UTC)
    runtime = Runtime("0.1.0", frozenset({("value", 1)}))
    return verify(data, root, now, 0, "rail-box-a", "T204", runtime=runtime)


def flips(data: bytes, bits: Iterable[int], stride: int = 1) -> Iterator[bytes]:
    """The same file with one bit flipped, for each of these bits of every `stride`-th byte."""
    changed = bytearray(data)
    for at in range(0, len(data), stride):
        for bit in bits:
            changed[at] ^= 1 << bit
            yield bytes(changed)
            changed[at] ^= 1 << bit


def answers(what: str, files: Iterable[bytes], root: bytes) -> Counter[str]:
    """How often each answer came; an error that is not ours ends the test."""
    started = time.perf_counter()
    found: Counter[str] = Counter()
    codes = set()
    for data in files:
        try:
            check(data, root)
        except AxleboxError as error:
            codes.add(error.exit_code)
            found[type(error).__name__] += 1
        else:
            found["accepted"] += 1
    seconds = time.perf_counter() - started
    print(f"\n{what}: {found.total()} files, {found['accepted']} accepted, {seconds:.0f} s: {dict(found)}")
    assert codes <= set(REFUSALS)
    return found


def test_the_bundle_is_good_and_has_more_signatures_than_it_needs(bundle: bytes, root: bytes) -> None:
    good = check(bundle, root)
    assert (len(good.signed_by), good.signatures_needed) == (3, 2)
    assert len(unpack(bundle)) == 10
    print(f"\n{len(bundle)} bytes")


def test_the_lowest_bit_of_every_byte_counts(bundle: bytes, root: bytes) -> None:
    found = answers("lowest bit", flips(bundle, [0]), root)
    assert found.total() == len(bundle)
    assert found["accepted"] == 0


def test_every_bit_counts(bundle: bytes, root: bytes) -> None:
    found = answers("every bit", flips(bundle, range(8), STRIDE), root)
    assert found.total() == 8 * len(range(0, len(bundle), STRIDE))
    assert found["accepted"] == 0


def test_every_cut_is_refused(bundle: bytes, root: bytes) -> None:
    found = answers("cut short", (bundle[:length] for length in range(0, len(bundle), STRIDE)), root)
    assert found.total() == len(range(0, len(bundle), STRIDE))
    assert found["accepted"] == 0


def test_these_flips_find_a_verifier_that_ignores_surplus_signatures(
    bundle: bytes, root: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same flips, with the check of surplus signatures switched off: this is how the tests above fail."""
    strict = tuf_client.check_signatures

    def forgiving(metadata: Metadata[Any], name: str, *how: Any) -> list[tuple[str, ...]]:
        """Enough good signatures are enough; those that do not verify are not counted, as in python-tuf."""
        good = {}
        for key_id, signature in metadata.signatures.items():
            with contextlib.suppress(AxleboxError):
                strict(Metadata(metadata.signed, {key_id: signature}), name, how[0], complete=False)
                good[key_id] = signature
        return strict(Metadata(metadata.signed, good), name, *how)

    monkeypatch.setattr(tuf_client, "check_signatures", forgiving)
    found = answers("lowest bit, surplus signatures forgiven", flips(bundle, [0], 1 if EXHAUSTIVE else 7), root)
    assert found["accepted"] > 0
