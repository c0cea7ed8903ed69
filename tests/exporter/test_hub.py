"""Checkpoints from the hub, played by a server on this machine: only needed files, pinned, offline, and failing."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from transformers import PreTrainedModel

from qvl_runtime.bundle import read_manifest
from tests.oracles import tiny

pytestmark = pytest.mark.slow

REPO = "acme/tiny-vl"
COMMIT, OLDER = "c0ffee" + "0" * 34, "beef" + "0" * 36
REVISIONS = {"main": COMMIT, COMMIT: COMMIT, "v1": OLDER, OLDER: OLDER}
UNNEEDED = {"pytorch_model.bin": b"pickle", "README.md": b"# tiny", "onnx/model.onnx": b"graph", "model.gguf": b"GGUF"}


class Hub(ThreadingHTTPServer):
    """One repository, served as huggingface.co does; remembers the files that were requested."""

    daemon_threads = True

    def __init__(self, directory: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {path.name: path.read_bytes() for path in directory.iterdir()} | UNNEEDED
        self.fetched: set[tuple[str, str]] = set()
        self.endpoint = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """The three addresses that a download of a snapshot uses."""

    server: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if not path.removeprefix("/api/models").startswith(f"/{REPO}/"):
            return self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})
        kind, revision, *rest = path.split(f"{REPO}/")[1].split("/")
        if revision not in REVISIONS:
            return self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
        if kind == "revision":
            return self.json({"id": REPO, "sha": REVISIONS[revision], "siblings": []})
        if kind == "tree":
            return self.json([self.described(name) for name in self.server.files])
        return self.file("/".join(rest), REVISIONS[revision])

    def described(self, name: str) -> dict[str, object]:
        content = self.server.files[name]
        return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

    def file(self, name: str, commit: str) -> None:
        if name not in self.server.files:
            return self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        self.server.fetched.add((commit, name))
        content = self.server.files[name]
        self.answer(200, content, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": commit})

    def json(self, value: object) -> None:
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def source(oracle: Callable[[str, str], PreTrainedModel], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in shards."""
    return tiny.save(oracle("qwen2_5_vl", "small"), tmp_path_factory.mktemp("sharded"), max_shard_size="300KB")


@pytest.fixture
def hub(source: Path) -> Iterator[Hub]:
    with Hub(source) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def export(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `qvl-export export REPO out` against an endpoint with a Hugging Face home of its own."""

    def run(endpoint: str, *options: str, repo: str = REPO, **extra: str) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        environment = {**kept, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf"), **extra}
        command = [str(Path(sys.executable).parent / "qvl-export"), "export", repo, str(tmp_path / "out"), "--quiet"]
        return subprocess.run(
            [*command, *options], capture_output=True, text=True, timeout=120, env=environment, cwd=tmp_path
        )

    return run


Export = Callable[..., subprocess.CompletedProcess[str]]


def assert_refused(done: subprocess.CompletedProcess[str], says: str, directory: Path) -> None:
    """One line, exit code 2, no bundle."""
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: ") and says in done.stderr, done.stderr
    assert not (directory / "out").exists()


def test_only_needed_files_are_fetched_and_the_cache_serves_offline(
    hub: Hub, export: Export, source: Path, tmp_path: Path
) -> None:
    done = export(hub.endpoint)
    assert (done.returncode, done.stderr) == (0, "")
    expected = {path.name for path in source.iterdir()}
    assert len([name for name in expected if name.endswith(".safetensors")]) > 1
    assert hub.fetched == {(COMMIT, name) for name in expected}
    manifest = read_manifest(tmp_path / "out")
    assert (manifest.provenance.checkpoint, manifest.provenance.revision) == (REPO, COMMIT)
    again = export("http://127.0.0.1:9", "--force", HF_HUB_OFFLINE="1")
    assert (again.returncode, again.stderr) == (0, "")
    assert read_manifest(tmp_path / "out").files == manifest.files


def test_the_revision_is_the_requested_one(hub: Hub, export: Export, tmp_path: Path) -> None:
    assert export(hub.endpoint, "--revision", "v1").returncode == 0
    assert {commit for commit, _ in hub.fetched} == {OLDER}
    assert read_manifest(tmp_path / "out").provenance.revision == OLDER


def test_a_revision_that_does_not_exist(hub: Hub, export: Export, tmp_path: Path) -> None:
    assert_refused(export(hub.endpoint, "--revision", "v9"), f"{REPO}: has no revision v9", tmp_path)


def test_a_repository_that_does_not_exist(hub: Hub, export: Export, tmp_path: Path) -> None:
    done = export(hub.endpoint, repo="acme/unknown")
    assert_refused(done, "acme/unknown: is neither a local directory nor a repository", tmp_path)


def test_a_shard_that_the_hub_lost(hub: Hub, export: Export, tmp_path: Path) -> None:
    lost = max(name for name in hub.files if name.endswith(".safetensors"))
    del hub.files[lost]
    assert_refused(export(hub.endpoint), f"{lost} is missing", tmp_path)


def drop_weights(hub: Hub) -> None:
    """No safetensors, and no index of them."""
    for name in [name for name in hub.files if ".safetensors" in name]:
        del hub.files[name]


def test_shards_are_those_that_the_index_names(hub: Hub, export: Export, tmp_path: Path) -> None:
    """Qwen3.5 calls them model.safetensors-00001-of-00003.safetensors; others may have any name."""
    index = json.loads(hub.files["model.safetensors.index.json"])
    shards = sorted(set(index["weight_map"].values()))
    renamed = {name: name.replace("model-", "model.safetensors-") for name in shards}
    index["weight_map"] = {tensor: renamed[name] for tensor, name in index["weight_map"].items()}
    for old, new in renamed.items():
        hub.files[new] = hub.files.pop(old)
    hub.files["model.safetensors.index.json"] = json.dumps(index).encode()
    hub.files["model-extra.safetensors"] = b"not requested"
    done = export(hub.endpoint)
    assert (done.returncode, done.stderr) == (0, "")
    fetched = {name for _, name in hub.fetched if name.endswith(".safetensors")}
    assert fetched == set(renamed.values())
    assert read_manifest(tmp_path / "out").provenance.revision == COMMIT
    assert export("http://127.0.0.1:9", "--force", HF_HUB_OFFLINE="1").returncode == 0


def test_shards_are_of_the_requested_revision(hub: Hub, export: Export) -> None:
    assert export(hub.endpoint, "--revision", "v1").returncode == 0
    assert {commit for commit, name in hub.fetched if name.endswith(".safetensors")} == {OLDER}


def test_a_whole_file_is_fetched_instead_of_shards(hub: Hub, export: Export, checkpoint: Any, tmp_path: Path) -> None:
    hub.files["model.safetensors"] = (checkpoint("qwen2_5_vl", "small") / "model.safetensors").read_bytes()
    assert export(hub.endpoint).returncode == 0
    assert {name for _, name in hub.fetched if name.endswith(".safetensors")} == {"model.safetensors"}
    drop_weights(hub)  # and without an index
    hub.files["model.safetensors"] = (checkpoint("qwen2_5_vl", "small") / "model.safetensors").read_bytes()
    assert export(hub.endpoint, "--force", HF_HOME=str(tmp_path / "other")).returncode == 0


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("pytorch_model.bin", "only pickled weights (.bin)"),
        ("pytorch_model-00001-of-00002.bin", "only pickled weights (.bin)"),
        ("tiny-Q4_K_M.gguf", "only GGUF files"),
    ],
)
def test_weights_of_another_kind_are_called_by_their_name(
    hub: Hub, export: Export, tmp_path: Path, name: str, says: str
) -> None:
    drop_weights(hub)
    hub.files.pop("pytorch_model.bin")
    hub.files[name] = b"weights"
    assert_refused(export(hub.endpoint), f"{REPO}: model.safetensors is missing: there are {says}", tmp_path)
    assert name not in {fetched for _, fetched in hub.fetched}


def test_a_family_that_is_not_supported_is_refused_before_its_weights_come(
    hub: Hub, export: Export, tmp_path: Path
) -> None:
    hub.files["config.json"] = json.dumps({"model_type": "qwen9_vl"}).encode()
    assert_refused(export(hub.endpoint), "model_type 'qwen9_vl' is not supported", tmp_path)
    assert [name for _, name in hub.fetched if name.endswith(".safetensors")] == []


def test_an_index_that_leaves_the_repository(hub: Hub, export: Export, tmp_path: Path) -> None:
    hub.files["model.safetensors.index.json"] = b'{"weight_map": {"a": "../x.safetensors"}}'
    assert_refused(export(hub.endpoint), "'../x.safetensors' leaves", tmp_path)


def test_a_server_that_is_down(export: Export, tmp_path: Path) -> None:
    assert_refused(export("http://127.0.0.1:9"), f"{REPO}: is not a local directory", tmp_path)


def test_offline_without_a_cache(export: Export, tmp_path: Path) -> None:
    done = export("http://127.0.0.1:9", HF_HUB_OFFLINE="1")
    assert_refused(done, "HF_HUB_OFFLINE", tmp_path)
