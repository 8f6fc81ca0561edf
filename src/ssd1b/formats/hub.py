"""Fetch a pipeline from the model hub: allow-listed files of one commit, resumed, cached, offline.

Uses huggingface_hub, its cache, and its environment (HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE, HF_TOKEN). Knows
no pipelines: what comes back is a folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

from ssd1b.base.errors import DamagedFileError, HubError, UserError
from ssd1b.base.files import full_disk_named, sha256_file, write_atomic
from ssd1b.base.units import human_bytes
from ssd1b.formats.diffusers_folder import open_folder
from ssd1b.formats.hub_files import TOKENIZERS, chosen, refuse_strange_parts

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}(@[A-Za-z0-9][\w./-]{0,120})?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_BRANCH = "main"


def _unheard(*_: object) -> None:
    """What nobody listens to."""


@dataclass(frozen=True, slots=True)
class Listener:
    """Hears of a download: `note` one line for the user, `on_bytes` (bytes done, bytes in all)."""

    note: Callable[[str], None] = _unheard
    on_bytes: Callable[[int, int], None] = _unheard


@dataclass(frozen=True, slots=True)
class _Repo:
    """One repository as the cache of huggingface_hub knows it."""

    repo_id: str
    revision: str
    storage: Path

    @property
    def ref(self) -> Path:
        return self.storage / "refs" / self.revision

    def snapshot(self, commit: str) -> Path:
        return self.storage / "snapshots" / commit

    def cached(self) -> Path | None:
        """The complete snapshot of this revision, if it is on the disk."""
        pinned = _COMMIT.fullmatch(self.revision)
        commit = self.revision if pinned else (self.ref.read_text().strip() if self.ref.is_file() else "")
        folder = self.snapshot(commit)
        return folder if commit and _complete(folder) else None


def is_id(name: str) -> bool:
    """Whether `name` has the form of a hub id: "owner/model" or "owner/model@revision"."""
    return _ID.fullmatch(name) is not None and ".." not in name


def split_id(name: str) -> tuple[str, str | None]:
    """Take "owner/model@revision" apart; the revision is a commit, a tag or a branch."""
    repo_id, _, revision = name.partition("@")
    return repo_id, revision or None


def fetch(repo_id: str, revision: str | None = None, *, listener: Listener | None = None) -> Path:
    """Return a folder with the pipeline `repo_id`, downloading what is not in the cache yet.

    Branches are resolved to a commit first and every file is of that commit. Interrupted files go on where
    they stopped, also in another process. Without network, or in offline mode, the cached copy is used.

    Raises:
        HubError: no such model or revision, no access, no network and no copy, or files that are not allowed.
        DamagedFileError: a file arrived with another hash than the hub says.
        DiskFullError: no room left.
    """
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    listener = listener or Listener()
    if not is_id(f"{repo_id}@{revision or _BRANCH}"):
        raise HubError(f"'{repo_id}@{revision}' is not a hub id. Write owner/model or owner/model@revision.")
    cache = Path(constants.HF_HUB_CACHE)
    repo = _Repo(repo_id, revision or _BRANCH, cache / repo_folder_name(repo_id=repo_id, repo_type="model"))
    if _COMMIT.fullmatch(repo.revision) and (folder := repo.cached()):
        return folder
    if constants.is_offline_mode():
        return _from_cache(repo, "offline mode is on (HF_HUB_OFFLINE)", listener=None)
    try:
        with full_disk_named(cache), _said_plainly(repo, constants.ENDPOINT):
            return _download(repo, constants.ENDPOINT, listener)
    except _Unreachable as error:
        return _from_cache(repo, str(error), listener)


def on_disk(repo_id: str, revision: str | None = None) -> Path | None:
    """The complete copy of a pipeline in the cache, or None; the network is left alone."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    storage = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo_id, repo_type="model")
    return _Repo(repo_id, revision or _BRANCH, storage).cached()


def fetch_tokenizers(repo_id: str) -> Path:
    """Return a folder with the two tokenizers of a pipeline (2 MB), without its weights.

    Raises:
        HubError: they cannot be had.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.file_download import repo_folder_name

    cache = Path(constants.HF_HUB_CACHE)
    repo = _Repo(repo_id, _BRANCH, cache / repo_folder_name(repo_id=repo_id, repo_type="model"))
    if constants.is_offline_mode():
        raise HubError("offline mode is on (HF_HUB_OFFLINE).")
    try:
        with full_disk_named(cache), _said_plainly(repo, constants.ENDPOINT):
            api = HfApi(endpoint=constants.ENDPOINT, library_name="ssd1b")
            info = api.model_info(repo_id, revision=_BRANCH, timeout=20)
            for file in info.siblings or []:
                if file.rfilename in TOKENIZERS:
                    _fetch_small(api, repo, str(info.sha), file.rfilename)
            return repo.snapshot(str(info.sha))
    except _Unreachable as error:
        raise HubError(f"{error}.") from error


class _Unreachable(Exception):
    """The hub does not answer: a copy from the cache will do."""


def _from_cache(repo: _Repo, why: str, listener: Listener | None) -> Path:
    folder = repo.cached()
    if folder is None:
        raise HubError(
            f"{repo.repo_id}@{repo.revision} is not (completely) in the cache {repo.storage.parent}, and "
            f"{why}. Run again with the hub in reach (a download goes on where it stopped), or give a "
            "folder as the model."
        )
    if listener is not None:
        listener.note(f"Using the cached copy of {repo.repo_id} ({folder.name[:8]}): {why}.")
    return folder


def _complete(folder: Path) -> bool:
    try:
        open_folder(folder)
    except UserError:
        return False
    return True


def _download(repo: _Repo, endpoint: str, listener: Listener) -> Path:
    """Resolve the revision, choose files, fetch them; the branch points to the commit once all are there."""
    from huggingface_hub import HfApi

    api = HfApi(endpoint=endpoint, library_name="ssd1b")
    info = api.model_info(repo.repo_id, revision=repo.revision, files_metadata=True, timeout=20)
    commit = str(info.sha)
    if not _COMMIT.fullmatch(commit):
        raise HubError(f"{endpoint} names no commit for {repo.repo_id}; it does not seem to be a model hub.")
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
    names = chosen(repo.repo_id, sizes)
    _refuse_strangers(repo, _fetch_small(api, repo, commit, "model_index.json"))
    folder = repo.snapshot(commit)
    todo = [name for name in names if not (folder / name).exists()]
    if todo:
        total = sum(sizes[name] for name in todo)
        listener.note(f"Fetching {repo.repo_id} ({commit[:8]}): {len(todo)} files, {human_bytes(total)}.")
        _fetch_all(api, repo, commit, todo, _Count(total, listener.on_bytes))
    open_folder(folder)
    if not _COMMIT.fullmatch(repo.revision):
        write_atomic(repo.ref, commit)
    return folder


def _refuse_strangers(repo: _Repo, path: Path) -> None:
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise HubError(f"{repo.repo_id} has a model_index.json that is not JSON ({error}).") from error
    refuse_strange_parts(repo.repo_id, index if isinstance(index, dict) else {})


class _Count:
    """Adds up the bytes of all files; also the class of bar, and the bar, that huggingface_hub reports to."""

    def __init__(self, total: int, on_bytes: Callable[[int, int], None]) -> None:
        self.done, self.total, self.on_bytes = 0, total, on_bytes

    def __call__(self, **_: object) -> _Count:
        return self

    def __enter__(self) -> _Count:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        return None

    def update(self, n_bytes: int) -> None:
        """Bytes that arrived since the last call."""
        self.done += n_bytes
        self.on_bytes(self.done, self.total)


def _fetch_all(api: HfApi, repo: _Repo, commit: str, names: list[str], count: _Count) -> None:
    for name in names:
        if name.endswith(".safetensors"):
            _fetch_blob(api, repo, commit, name, count)
            _fetch_small(api, repo, commit, name)
        else:
            count.update(_fetch_small(api, repo, commit, name).stat().st_size)


def _fetch_small(api: HfApi, repo: _Repo, commit: str, name: str) -> Path:
    """Fetch a file in one go (or only link it, where its blob is in the cache)."""
    return Path(api.hf_hub_download(repo.repo_id, name, revision=commit, cache_dir=repo.storage.parent))


def _fetch_blob(api: HfApi, repo: _Repo, commit: str, name: str, count: _Count) -> None:
    """Fetch a large file into the cache, going on where an earlier process stopped.

    huggingface_hub resumes within one call only; a file cut short would start again from nothing.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils._fixes import WeakFileLock
    from huggingface_hub.utils._headers import build_hf_headers

    url = hf_hub_url(repo.repo_id, name, revision=commit, endpoint=api.endpoint)
    facts = get_hf_file_metadata(url, endpoint=api.endpoint)
    if not facts.etag or not re.fullmatch(r"[\w.-]+", facts.etag):
        raise HubError(f"{url} comes without a usable ETag; the endpoint does not seem to be a model hub.")
    blob = repo.storage / "blobs" / facts.etag
    part = blob.with_name(f"{blob.name}.ssd1b.incomplete")
    blob.parent.mkdir(parents=True, exist_ok=True)
    own = facts.location.startswith(api.endpoint + "/")  # a token is for the hub, not for its storage
    with WeakFileLock(f"{part}.lock"), part.open("ab") as file:
        if blob.exists():
            return
        count.update(start := file.tell())
        headers = build_hf_headers(token=None if own else False)
        size, bar = facts.size, cast("type[Any]", count)
        with _wrong_size_named(part, name):
            http_get(
                facts.location, file, resume_size=start, headers=headers, expected_size=size, tqdm_class=bar
            )
        file.flush()
        _refuse_other_hash(part, facts.etag, name)
        part.replace(blob)


@contextmanager
def _wrong_size_named(part: Path, name: str) -> Iterator[None]:
    """huggingface_hub raises a bare OSError when more or fewer bytes arrive than were announced."""
    try:
        yield
    except OSError as error:
        if type(error) is not OSError or error.errno is not None:
            raise
        part.unlink()
        raise DamagedFileError(
            f"{name} arrived with a wrong number of bytes. Run the command again."
        ) from error


def _refuse_other_hash(part: Path, etag: str, name: str) -> None:
    """Large files carry their SHA-256 as ETag; one that does not match is thrown away."""
    if _SHA256.fullmatch(etag) and sha256_file(part) != etag:
        part.unlink()
        raise DamagedFileError(
            f"{name} arrived damaged (its SHA-256 is not the hub's). Run the command again."
        )


@contextmanager
def _said_plainly(repo: _Repo, endpoint: str) -> Iterator[None]:
    """Turn the exceptions of huggingface_hub into sentences."""
    from huggingface_hub import errors

    where = f"{repo.repo_id}@{repo.revision}"
    try:
        yield
    except errors.GatedRepoError as error:
        raise HubError(
            f"{where} is gated: accept its terms on {endpoint}/{repo.repo_id}, then run `hf auth login`."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise HubError(
            f"There is no model '{repo.repo_id}' on {endpoint}, or it is private. Check the spelling; for a "
            "private model run `hf auth login` first. A folder of that name is not here either."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise HubError(
            f"{repo.repo_id} has no revision '{repo.revision}'. Check it on {endpoint}."
        ) from error
    except errors.EntryNotFoundError as error:
        raise HubError(f"{where} lacks a file that it lists ({error}). Try again later.") from error
    except errors.HTTPError as error:  # type: ignore[attr-defined]  # the base of all network errors
        raise _Unreachable(f"{endpoint} does not answer as it should ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
