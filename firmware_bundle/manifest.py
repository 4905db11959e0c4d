"""The manifest: what a release is, whom it is for, and everything its detectors need.

`Manifest` is the signed member manifest.json; docs/manifest.schema.json is its JSON Schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from axlebox.firmware_bundle.errors import Malformed, RuntimeTooOld

FORMAT = 1
ANY_HARDWARE = "any"

# Python's $ also matches before a last line end; (?!\n) means the same to every reader of the schema.
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]
BundleName = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$(?!\n)")]
Identifier = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,63}$(?!\n)")]
MemberName = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,98}$(?!\n)")]
VERSION_PATTERN = r"[0-9]{1,9}(\.[0-9]{1,9}){0,7}"
Version = Annotated[str, Meta(pattern=rf"^{VERSION_PATTERN}$(?!\n)")]
Text = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f-\x9f]{0,200}$(?!\n)")]
"""A line for people: nothing in it moves a terminal's cursor."""
Label = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f-\x9f]{1,64}$(?!\n)")]
FileName = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f-\x9f/]{1,255}$(?!\n)")]
Count = Annotated[int, Meta(ge=0)]
Span = Annotated[float, Meta(gt=0)]
Positive = Annotated[int, Meta(ge=1)]
Sequence = Annotated[int, Meta(ge=0, le=999_999_999)]


class MustSee(Struct, frozen=True, forbid_unknown_fields=True):
    """A fault that the box must see in time: what `axleboxd drill` puts to the proof on the vehicle."""

    fault: Literal["step", "ramp", "stuck", "silent"]
    size: Span | None
    """Degrees of a step, degrees a day of a ramp; None for the others."""
    within_s: Span


class Kind(Struct, frozen=True, forbid_unknown_fields=True):
    """What is expected of every sensor of one kind. Temperatures in `unit`; None switches a check off."""

    unit: Label = "C"
    period_s: Span | None = None
    """Expected seconds between two readings."""
    range: tuple[float, float] | None = None
    """What the sensor can physically report; a hot reading lies inside it."""
    max_rate_per_s: Span | None = None
    stuck_after_s: Span | None = None
    stale_after_s: Span | None = None
    warn: float | None = None
    critical: float | None = None
    action: Text | None = None
    """What the person who sees an event of this kind should do."""
    must_see: tuple[MustSee, ...] = ()
    """What the box must see of every sensor of this kind."""


class Sensor(Struct, frozen=True, forbid_unknown_fields=True):
    kind: Label
    group: Label | None = None
    """Sensors of one group are siblings: alike, on one vehicle, at the same moment."""
    offset: float = 0.0
    """Commissioning offset, added to every reading of this sensor."""


class Contract(Struct, frozen=True, forbid_unknown_fields=True):
    """The data contract. An unknown sensor id is served when there is only one kind."""

    kinds: dict[Label, Kind]
    sensors: dict[Label, Sensor] = {}

    def kind_of(self, sensor: str) -> str | None:
        """The kind of a sensor id, or None where it cannot be known."""
        known = self.sensors.get(sensor)
        if known is not None:
            return known.kind
        return next(iter(self.kinds)) if len(self.kinds) == 1 else None

    def members(self, sensor: str) -> list[str]:
        """The ids of a sensor's group, its own among them; its own alone where it has none."""
        known = self.sensors.get(sensor)
        if known is None or known.group is None:
            return [sensor]
        return [name for name, one in self.sensors.items() if one.group == known.group]

    def only_sensor(self) -> str:
        """The sensor that two-column readings belong to."""
        return next(iter(self.sensors)) if len(self.sensors) == 1 else "temperature"


class FeatureSet(Struct, frozen=True, forbid_unknown_fields=True):
    """A named, versioned list of features with its frozen constants (times in seconds)."""

    name: Label
    version: Positive
    constants: dict[Label, float] = {}


class EventRules(Struct, frozen=True, forbid_unknown_fields=True):
    """When anomaly events of a detector are raised and told again, while its features suspect something."""

    extreme_at: Span
    """One reading whose sum of tails reaches this raises an event at once."""
    need: Positive
    of: Annotated[int, Meta(ge=1, le=62)]
    """So many flags among the last so many readings raise one too."""
    collect: Positive
    """A peak is told so many readings after it began."""
    hold_s: Span
    """So long a peak hides later ones that are no higher."""


class DetectorSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """One model and all that surrounds it, for one kind of sensor."""

    kind: Label
    model: MemberName
    features: FeatureSet
    threshold: float
    """Anomaly threshold of the score (0..1, higher is more anomalous), for people to read.

    The graph decides by its own cut on the depth sum, which no rounding of a power can move.
    """
    warmup: Count = 0
    """Readings of a sensor that pass before its first model event."""
    events: EventRules | None = None
    """None: an event is raised with the first flag and cleared with the first reading that has none."""


class ParityProof(Struct, frozen=True, forbid_unknown_fields=True):
    """What was compared between scikit-learn and the exported graph, run by the vehicle's Scorer."""

    rows: Count
    boundary_rows: Count
    """Rows at a split value or one float32 step beside it."""
    training_rows: Count
    special_rows: Count
    """Rows with NaN, infinities, zeros of both signs, subnormals and the largest numbers."""
    split_values: Count
    offsets: Count
    """Anomaly offsets swept, each with a graph of its own."""
    offset_flags: Count
    """Flags compared in the sweep."""
    flags_differing: Count
    largest_score_difference: float


Plain = bool | int | float | Text | None
_Table = Annotated[dict[Label, Plain], Meta(max_length=4096)]
_Row = Annotated[dict[Label, Plain | _Table], Meta(max_length=64)]
Setting = Plain | _Table | Annotated[tuple[Plain | _Row, ...], Meta(max_length=256)]


class FileFormat(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a file was read by, where its content alone does not say it. A record for the workstation: no box reads
    such files."""

    reader: Label
    settings: Annotated[dict[Label, Setting], Meta(max_length=64)] = {}
    files: Annotated[dict[Label, Sha256], Meta(max_length=8)] = {}
    """Files that it needs beside the readings (a DBC file), by the setting that names them."""
    distribution: Label | None = None
    """The package and version of a reader that is not axlebox's own."""


class DataFile(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    name: FileName
    sha256: Sha256
    rows: Count
    invalid: Count
    """Rows that training did not use, for whatever reason."""
    format: FileFormat | None = None
    """None: the content says it all, as in CSV, JSON lines and Parquet."""


class Code(Struct, frozen=True, forbid_unknown_fields=True):
    """What made a release."""

    axlebox: Label
    source_sha256: Sha256
    """Over axlebox's installed source files: a workspace may be no git checkout."""
    commit: Label | None = None
    """The workspace's commit where it has one, `-dirty` appended where files differed from it."""


class Lineage(Struct, frozen=True, forbid_unknown_fields=True):
    """Where a release comes from."""

    run: Label
    data: tuple[DataFile, ...]
    parameters: dict[str, Any]
    code: Code
    versions: dict[Label, Label]


class Manifest(Struct, frozen=True, forbid_unknown_fields=True):
    format: Positive
    name: BundleName
    version: Annotated[int, Meta(ge=1, le=999_999_999)]
    hardware: tuple[Identifier, ...]
    """Hardware ids that the release is for; `any` matches all."""
    vehicles: tuple[Identifier, ...]
    """Vehicle ids that the release is for; none named: all of the hardware."""
    min_sequence: Sequence
    """Releases below this version may never run again, not even as a fallback."""
    min_runtime: Version
    """Oldest runtime version that can run this release, as in 1.2.3."""
    proved_on: dict[Label, Label]
    """The runtime that the proof was made on: versions of axlebox, onnxruntime and numpy, and the machine."""
    contract: Contract
    detectors: Annotated[tuple[DetectorSpec, ...], Meta(min_length=1, max_length=16)]
    parity: dict[str, ParityProof]
    """The proof of each detector, by the name of its model."""
    lineage: Lineage


class GoldenRow(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    time: str
    sensor: str
    value: float
    score: float
    flag: bool


class Golden(Struct, frozen=True, forbid_unknown_fields=True):
    """Readings with what the release must answer to them, in order."""

    rows: Annotated[tuple[GoldenRow, ...], Meta(min_length=1, max_length=10_000)]


class Head(Struct, frozen=True):
    """What a manifest of every format has."""

    format: int
    min_runtime: str = "0"


T = TypeVar("T")


def decode(data: bytes, what: type[T], name: str) -> T:
    """A strictly checked record from JSON bytes, or Malformed naming the field."""
    try:
        return msgspec.json.decode(data, type=what)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"{name}: {error}") from error


def encode(record: Struct | Mapping[str, Any]) -> bytes:
    """JSON bytes, the same for equal records: keys sorted, indented for people."""
    return msgspec.json.format(msgspec.json.encode(record, order="deterministic"), indent=1) + b"\n"


def decode_manifest(data: bytes) -> Manifest:
    """A manifest of the current format. Raises RuntimeTooOld where its format is newer, else Malformed."""
    found = decode(data, Head, "manifest.json").format
    if found > FORMAT:
        raise RuntimeTooOld(f"manifest.json has format {found}, this runtime reads {FORMAT}. DO: update the runtime")
    manifest = decode(data, Manifest, "manifest.json")
    if manifest.min_sequence > manifest.version:
        raise Malformed(
            f"manifest.json of release {manifest.version} forbids itself: min_sequence is {manifest.min_sequence}"
        )
    models = [detector.model for detector in manifest.detectors]
    kinds = [detector.kind for detector in manifest.detectors]
    if len(set(kinds)) < len(kinds) or len(set(models)) < len(models) or set(manifest.parity) != set(models):
        raise Malformed("manifest.json: each detector needs a kind, a model and a parity proof of its own")
    unknown = {detector.kind for detector in manifest.detectors} - set(manifest.contract.kinds)
    if unknown:
        raise Malformed(f"manifest.json: no kind {', '.join(sorted(unknown))} in the contract")
    return manifest
