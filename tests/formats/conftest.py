"""Tiny teachers on disk, made once: as diffusers writes them, in halves, in shards, and as a single file."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.tiny import tiny_pipeline

from ssd1b.formats.diffusers_folder import open_folder
from ssd1b.formats.safetensors_io import write_file
from ssd1b.formats.single_file import to_single_file


@pytest.fixture(scope="session")
def sdxl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline(tmp_path_factory.mktemp("teachers") / "sdxl", "tiny-sdxl")


@pytest.fixture(scope="session")
def sharded_half_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teachers") / "sharded"
    return tiny_pipeline(folder, "tiny-sdxl", variant="fp16", max_shard_size="600KB")


@pytest.fixture(scope="session")
def ssd_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline(tmp_path_factory.mktemp("teachers") / "ssd", "tiny-ssd")


@pytest.fixture(scope="session")
def single_file(sdxl_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The teacher as A1111 would have it, but with its configs in the metadata: it is smaller than life."""
    path = tmp_path_factory.mktemp("teachers") / "sdxl.safetensors"
    file = to_single_file(open_folder(sdxl_folder))
    write_file(path, file.tensors, metadata=file.metadata)
    return path
