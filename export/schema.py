"""The published JSON Schema of manifest.json: `python -m axlebox.export.schema > docs/manifest.schema.json`."""

from __future__ import annotations

import json

import msgspec

from axlebox.firmware_bundle.manifest import FORMAT, Manifest


def manifest_schema() -> str:
    """JSON Schema (2020-12) of the manifest's current format."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"axlebox manifest, format {FORMAT}",
        **msgspec.json.schema(Manifest),
    }
    return json.dumps(schema, indent=2) + "\n"


if __name__ == "__main__":
    print(manifest_schema(), end="")
