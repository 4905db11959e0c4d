"""The conformance adaptor against a tiny TUF repository on loopback; the public suite itself is not needed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp

from axlebox.firmware_bundle.tuf_client import serialise

CLIENT = Path(__file__).with_name("client.py")
ARTIFACT = "models/bearing.onnx"
CONTENT = b"a model"


@dataclass
class Repository:
    """One key for each role, and what a server serves; `publish` signs a role's next version."""

    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    roles: dict[str, Root | Timestamp | Snapshot | Targets] = field(default_factory=dict)
    signers: dict[str, list[CryptoSigner]] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    """The newest version of each role."""

    def __post_init__(self) -> None:
        expires = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
        self.root = Root(expires=expires, consistent_snapshot=True)
        self.timestamp = Timestamp(expires=expires)
        self.snapshot = Snapshot(expires=expires)
        self.targets = Targets(expires=expires)
        self.roles = {one.type: one for one in (self.root, self.timestamp, self.snapshot, self.targets)}
        for role in self.roles:
            self.rotate(role)
        self.add(ARTIFACT, CONTENT)
        self.publish("root", "targets", "snapshot", "timestamp")

    def rotate(self, role: str) -> None:
        """Give a role another key; the next root is signed by the old root key as well."""
        for key_id in tuple(self.root.roles[role].keyids):
            self.root.revoke_key(key_id, role)
        signer = CryptoSigner.generate_ed25519()
        self.root.add_key(signer.public_key, role)
        self.signers[role] = [*self.signers.get(role, []), signer] if role == "root" else [signer]

    def add(self, name: str, content: bytes) -> None:
        target = TargetFile.from_data(name, content, ["sha256"])
        self.targets.targets[name] = target
        above, _, last = name.rpartition("/")
        self.files[f"targets/{above}/{target.hashes['sha256']}.{last}"] = content

    def publish(self, *roles: str) -> None:
        for role in roles:
            signed = self.roles[role]
            signed.version = self.versions[role] = self.versions.get(role, 0) + 1
            metadata = Metadata(signed)
            for signer in self.signers[role]:
                metadata.sign(signer, append=True)
            name = "timestamp" if role == "timestamp" else f"{signed.version}.{role}"
            self.files[f"metadata/{name}.json"] = serialise(metadata)
            if role == "root":
                self.signers["root"] = self.signers["root"][-1:]
            if role == "targets":
                self.snapshot.meta["targets.json"] = MetaFile(signed.version)
            if role == "snapshot":
                self.timestamp.snapshot_meta = MetaFile(signed.version)

    def published(self, name: str) -> bytes:
        return self.files[f"metadata/{name}"]


@pytest.fixture
def repository() -> Repository:
    return Repository()


@pytest.fixture
def url(repository: Repository) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.lstrip("/")
            repository.asked.append(name)
            data = repository.files.get(name)
            if data is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *words: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@dataclass
class Client:
    """The adaptor as the suite calls it: each command in a process of its own."""

    folder: Path
    url: str

    def run(self, *words: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, CLIENT, "--metadata-dir", self.folder / "metadata", *words]
        return subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, timeout=60)

    def init(self, root: bytes) -> int:
        for name in ("metadata", "artifacts"):
            (self.folder / name).mkdir()
        path = self.folder / "initial_root.json"
        path.write_bytes(root)
        return self.run("init", path).returncode

    def refresh(self) -> subprocess.CompletedProcess[str]:
        return self.run("--metadata-url", f"{self.url}/metadata/", "refresh")

    def download(self, name: str = ARTIFACT) -> subprocess.CompletedProcess[str]:
        urls = ("--metadata-url", f"{self.url}/metadata/", "--target-base-url", f"{self.url}/targets/")
        return self.run(*urls, "--target-name", name, "--target-dir", self.folder / "artifacts", "download")

    def kept(self, name: str) -> bytes:
        return (self.folder / "metadata" / name).read_bytes()

    def artifacts(self) -> list[bytes]:
        return [path.read_bytes() for path in (self.folder / "artifacts").iterdir()]


@pytest.fixture
def client(repository: Repository, url: str, tmp_path: Path) -> Client:
    """A client that trusts the repository's first root."""
    client = Client(tmp_path, url)
    assert client.init(repository.published("1.root.json")) == 0
    return client


def test_the_suite_can_start_it() -> None:
    assert os.access(CLIENT, os.X_OK)


def test_a_refresh_asks_once_for_each_file_and_keeps_it_as_it_came(repository: Repository, client: Client) -> None:
    assert client.refresh().returncode == 0
    assert repository.asked == [f"metadata/{name}.json" for name in ("2.root", "timestamp", "1.snapshot", "1.targets")]
    assert client.kept("root.json") == repository.published("1.root.json")
    assert client.kept("timestamp.json") == repository.published("timestamp.json")
    assert client.kept("snapshot.json") == repository.published("1.snapshot.json")
    assert client.kept("targets.json") == repository.published("1.targets.json")


def test_an_artifact_is_downloaded_once(repository: Repository, client: Client) -> None:
    assert client.download().returncode == 0
    assert client.artifacts() == [CONTENT]
    repository.asked.clear()
    assert client.download().returncode == 0
    assert repository.asked == ["metadata/2.root.json", "metadata/timestamp.json"]


def test_a_changed_artifact_takes_the_place_of_the_old_one(repository: Repository, client: Client) -> None:
    assert client.download().returncode == 0
    repository.add(ARTIFACT, b"a newer model")
    repository.publish("targets", "snapshot", "timestamp")
    assert client.download().returncode == 0
    assert client.artifacts() == [b"a newer model"]


@pytest.mark.parametrize("wrong", [b"A model", b"a model, and more"])
def test_a_wrong_artifact_is_refused_and_not_stored(repository: Repository, client: Client, wrong: bytes) -> None:
    (path,) = (name for name in repository.files if name.startswith("targets/"))
    repository.files[path] = wrong
    done = client.download()
    assert done.returncode == 1 and "bearing.onnx" in done.stderr
    assert client.artifacts() == []


def test_an_artifact_that_nobody_signed_is_not_asked_for(repository: Repository, client: Client) -> None:
    repository.files["targets/other"] = CONTENT
    assert client.download("other").returncode == 1
    assert not any(name.startswith("targets/") for name in repository.asked)


def test_a_name_that_climbs_stays_in_the_folder(repository: Repository, client: Client) -> None:
    repository.add("../..", CONTENT)
    repository.publish("targets", "snapshot", "timestamp")
    assert client.download("../..").returncode == 0
    assert client.artifacts() == [CONTENT]


def test_an_older_timestamp_is_refused(repository: Repository, client: Client) -> None:
    older = repository.published("timestamp.json")
    repository.publish("timestamp")
    newer = repository.published("timestamp.json")
    assert client.refresh().returncode == 0
    repository.files["metadata/timestamp.json"] = older
    done = client.refresh()
    assert done.returncode == 1 and "older than 2" in done.stderr
    assert client.kept("timestamp.json") == newer


def test_older_targets_are_refused(repository: Repository, client: Client) -> None:
    repository.publish("targets", "snapshot", "timestamp")
    assert client.refresh().returncode == 0
    repository.versions["targets"] = 0
    repository.publish("targets", "snapshot", "timestamp")
    done = client.refresh()
    assert done.returncode == 1 and "older than 2" in done.stderr
    assert client.kept("snapshot.json") == repository.published("2.snapshot.json")


def test_a_rotation_of_root_keys_is_followed(repository: Repository, client: Client) -> None:
    for _ in range(2):
        repository.rotate("root")
        repository.publish("root")
    assert client.refresh().returncode == 0
    assert client.kept("root.json") == repository.published("3.root.json")


def test_a_root_that_the_old_key_did_not_sign_is_refused(repository: Repository, client: Client) -> None:
    repository.rotate("root")
    repository.signers["root"] = repository.signers["root"][-1:]
    repository.publish("root")
    assert client.refresh().returncode == 1
    assert client.kept("root.json") == repository.published("1.root.json")
    assert repository.asked == ["metadata/2.root.json"]


def test_kept_metadata_of_a_key_that_was_rotated_away_is_ignored(repository: Repository, client: Client) -> None:
    """So that a fleet recovers from a stolen key that signed a version far ahead."""
    repository.versions["timestamp"] = 999
    repository.publish("timestamp")
    assert client.refresh().returncode == 0
    repository.rotate("timestamp")
    repository.versions["timestamp"] = 0
    repository.publish("root", "timestamp")
    assert client.refresh().returncode == 0
    assert client.kept("timestamp.json") == repository.published("timestamp.json")


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_an_expired_file_is_refused_and_not_kept(repository: Repository, client: Client, role: str) -> None:
    assert client.refresh().returncode == 0
    before = client.kept(f"{role}.json")
    repository.roles[role].expires = datetime(2020, 1, 1, tzinfo=UTC)
    repository.publish("targets", "snapshot", "timestamp")
    done = client.refresh()
    assert done.returncode == 1 and f"{role}.json expired" in done.stderr
    assert client.kept(f"{role}.json") == before


def test_an_expired_root_leads_to_its_successor(repository: Repository, client: Client) -> None:
    later, repository.root.expires = repository.root.expires, datetime(2020, 1, 1, tzinfo=UTC)
    repository.publish("root")
    done = client.refresh()
    assert done.returncode == 1 and "the root expired" in done.stderr
    assert client.kept("root.json") == repository.published("2.root.json")
    repository.root.expires = later
    repository.publish("root")
    assert client.refresh().returncode == 0


def test_endless_metadata_is_refused(repository: Repository, client: Client) -> None:
    repository.files["metadata/timestamp.json"] = b" " * (1024 * 1024)
    done = client.refresh()
    assert done.returncode == 1 and "timestamp.json has more than" in done.stderr


def test_a_first_root_that_does_not_sign_itself_is_refused(repository: Repository, url: str, tmp_path: Path) -> None:
    client = Client(tmp_path, url)
    assert client.init(repository.published("1.root.json").replace(b'"version": 1', b'"version": 2')) == 1
    assert client.refresh().returncode == 1
    assert repository.asked == []
