"""A single-file checkpoint turned, once, into the diffusers folder that loading wants.

Kept in the cache of this program and found again as long as the file does not change.
Does not know how models are run.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from ssd1b.base.errors import HubError, MissingFileError
from ssd1b.base.files import cache_folder, finished_folder
from ssd1b.base.units import human_bytes
from ssd1b.formats import hub
from ssd1b.formats.diffusers_folder import read_json
from ssd1b.formats.pipeline import NewUNet, Pipeline, as_json, write_pipeline
from ssd1b.formats.single_file import open_single_file
from ssd1b.formats.tokenizer_files import with_tokenizers

TOKENIZERS_FROM = "segmind/SSD-1B"
_EMBEDDING = "text_model.embeddings.token_embedding.weight"


def unpacked(path: Path, listener: hub.Listener) -> Path:
    """Return the diffusers folder of a single file, writing it on first use.

    Single files carry no tokenizers: they come from an embedded model where the vocabulary fits, else from
    the hub's cache, else from the hub.

    Raises:
        MissingFileError, DamagedFileError, LayoutError: the file is not a complete SDXL checkpoint.
        DiskFullError: no room for the folder.
    """
    folder = _place(path)
    if folder.is_dir():
        return folder
    pipeline = _with_tokenizers(open_single_file(path), listener)
    total = sum(view.n_bytes for view in pipeline.unet.tensors.values()) + pipeline.carried_bytes()
    listener.note(
        f"Unpacking {path.name} once into {folder} ({human_bytes(total)}; delete it whenever you like)."
    )
    done = 0

    def on_bytes(more: int) -> None:
        nonlocal done
        done += more
        listener.on_bytes(done, total)

    unet = NewUNet(pipeline.unet.tensors, {"format": "pt"}, as_json(pipeline.unet_config))
    with finished_folder(folder, replace=True) as part:
        write_pipeline(pipeline, part, unet, on_bytes=on_bytes)
    return folder


def _place(path: Path) -> Path:
    facts = path.stat()
    print_of = f"{path.resolve()}\0{facts.st_size}\0{facts.st_mtime_ns}"
    return (
        cache_folder()
        / "single-files"
        / f"{path.stem}-{hashlib.blake2b(print_of.encode(), digest_size=8).hexdigest()}"
    )


def _with_tokenizers(pipeline: Pipeline, listener: hub.Listener) -> Pipeline:
    twin = _embedded_twin(_vocabulary(pipeline))
    if twin is not None:
        return with_tokenizers(pipeline, twin)
    try:
        return with_tokenizers(pipeline, None)
    except MissingFileError as missing:
        listener.note(f"{pipeline.path.name} carries no tokenizers; taking those of {TOKENIZERS_FROM}.")
        try:
            return with_tokenizers(pipeline, hub.fetch_tokenizers(TOKENIZERS_FROM))
        except HubError as error:
            raise MissingFileError(
                f"{pipeline.path} is a single file, single files carry no tokenizers, and those of "
                f"{TOKENIZERS_FROM} cannot be had ({error}) Run once with the hub in reach, or give a "
                "diffusers folder."
            ) from missing


def _vocabulary(pipeline: Pipeline) -> int:
    """How many words the first text encoder knows."""
    weights = next(part.weights for part in pipeline.parts if part.name == "text_encoder")
    assert weights is not None, "a text encoder has weights"
    return weights.tensors[_EMBEDDING].shape[0]


def _embedded_twin(words: int) -> Path | None:
    """The parts of the embedded models, if their vocabulary has this many words."""
    from ssd1b.mini import embedded

    try:
        folder = embedded.folder(embedded.PARTS)
    except MissingFileError:
        return None
    known = read_json(folder / "text_encoder" / "config.json").get("vocab_size")
    return folder if known == words else None
