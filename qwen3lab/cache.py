"""Content-addressed cache for expensive checkpoints, verified by hash on every use."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from qwen3lab import paths
from qwen3lab.errors import Qwen3labError

PROOF = "kept.json"  # what a folder was made from, and the hash of each of its files
MADE_FROM = "made_from.json"  # the same for a folder of a fixed name, without hashes
SETTINGS = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "additional_chat_templates/*",
    "generation_config.json",
)
COMMITTED = paths.DATA / "quantised"


def fingerprint(source: Path | str | Sequence[str]) -> str:
    """Compute the SHA-256 of a file, of a folder's weights and tokenizer, or of texts.

    It does not depend on the folder's path.

    Raises:
        Qwen3labError: the folder holds no weights.
    """
    digest = hashlib.sha256()
    if not isinstance(source, (str, Path)):
        digest.update(json.dumps(list(source), ensure_ascii=False).encode())
        return digest.hexdigest()
    source = Path(source)
    files = (
        [source]
        if source.is_file()
        else [*sorted(source.glob("*.safetensors")), *source.glob("tokenizer.json")]
    )
    if not files:
        raise Qwen3labError(
            f"{source.name!r} holds no weights to tell it by. Give a checkpoint folder or a file."
        )
    for file in files:
        digest.update(file.name.encode() + _hash(file).encode())
    return digest.hexdigest()


def beside(folder: Path | str) -> str:
    """Compute the SHA-256 of what lies beside a folder's weights and vocabulary.

    That is the tokenizer's settings, chat templates and generation settings.
    """
    folder, digest = Path(folder), hashlib.sha256()
    for pattern in SETTINGS:
        for file in sorted(folder.glob(pattern)):
            digest.update(file.relative_to(folder).as_posix().encode() + _hash(file).encode())
    return digest.hexdigest()


def recipe(source: Path | str, method: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Build a checkpoint's cache key: its source's hash, the method, and JSON settings."""
    return {
        "source": fingerprint(source),
        "method": method,
        "settings": json.loads(json.dumps(settings)),
    }


def name(made_from: dict[str, Any]) -> str:
    """Name the folder of a recipe: the method and the first 16 digits of the recipe's SHA-256."""
    digest = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()
    return f"{made_from['method']}-{digest[:16]}"


def keep(
    source: Path | str,
    method: str,
    settings: dict[str, Any],
    make: Callable[[Path], Any],
    *,
    folder: Path | None = None,
) -> Path:
    """Return the cached checkpoint of a recipe, or make it now by `make(empty folder)`.

    It is written to a temporary folder first and renamed when it is complete, so two processes may
    make it at once.

    Args:
        source: checkpoint folder or file; its content counts, not its path.
        method, settings: the rest of the recipe, see `recipe`.
        make: writes the checkpoint into an empty folder.
        folder: where checkpoints are kept; default: "quantised" in `paths.CACHE`.
    Returns:
        The folder of the checkpoint.
    Raises:
        Qwen3labError: the cached checkpoint is damaged; and whatever `make` raises.
    """
    made_from = recipe(source, method, settings)
    place = (folder or paths.CACHE / "quantised") / name(made_from)

    def whole(draft: Path) -> None:
        make(draft)
        write_proof(draft, made_from)

    if not place.exists():
        write_whole(place, whole, replace=False)
    check(place)
    return place


def write_proof(folder: Path, made_from: dict[str, Any]) -> None:
    """Write what a folder was made from, and the hash of each of its files, as kept.json."""
    files = {
        file.relative_to(folder).as_posix(): _hash(file)
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file != folder / PROOF
    }
    (folder / PROOF).write_text(
        json.dumps(made_from | {"files": files}, indent=1) + "\n", encoding="utf-8"
    )


def renew(
    place: Path, made_from: dict[str, Any], make: Callable[[Path], Any], *, again: bool = False
) -> bool:
    """Make a folder under a fixed name unless it was made from the same; return whether it was.

    Args:
        made_from: JSON values, kept as made_from.json in the folder.
        make: writes into an empty folder.
        again: make it in any case.
    """
    proof, now = place / MADE_FROM, json.dumps(made_from, indent=1)
    if not again and proof.is_file() and proof.read_text(encoding="utf-8") == now:
        return False

    def whole(draft: Path) -> None:
        make(draft)
        (draft / MADE_FROM).write_text(now, encoding="utf-8")

    write_whole(place, whole, replace=True)
    return True


def write_whole(place: Path, make: Callable[[Path], Any], *, replace: bool) -> None:
    """Write a folder elsewhere and rename it when it is complete, so that half a one is never seen.

    Args:
        replace: put it in the place of an older one; else the first of two processes wins.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=place.parent))
    try:
        make(draft)
        draft.chmod(0o755)
        if replace:
            shutil.rmtree(place, ignore_errors=True)
        if not place.exists():
            try:
                draft.rename(place)
            except OSError:  # another process was faster
                if not place.exists():
                    raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def check(place: Path) -> dict[str, Any]:
    """Verify the hash of every file of a cached folder; return its record.

    The record holds source, method, settings and files.

    Raises:
        Qwen3labError: the record is missing, or a file is missing or was changed.
    """
    try:
        proof = json.loads((place / PROOF).read_text(encoding="utf-8"))
        files = dict(proof["files"])
    except (OSError, ValueError, KeyError, TypeError):
        raise Qwen3labError(
            f"{place.name!r} has no readable {PROOF}, so nobody knows what it was made from. "
            f"Delete the folder {place} and run this again."
        ) from None
    wrong = next(
        (
            file
            for file, digest in files.items()
            if not (place / file).is_file() or _hash(place / file) != digest
        ),
        None,
    )
    if wrong:
        raise Qwen3labError(
            f"The kept checkpoint {place.name!r} is damaged ({wrong}). Delete the folder {place}"
            " and run this again."
        )
    return proof


def find(
    source: Path | str, method: str, settings: dict[str, Any], *, folder: Path | None = None
) -> Path | None:
    """Find a cached checkpoint of this recipe, in the cache or in data/quantised, else None.

    Raises:
        Qwen3labError: the checkpoint is damaged.
    """
    made_from = recipe(source, method, settings)
    candidates = [
        (folder or paths.CACHE / "quantised") / name(made_from),
        *sorted(COMMITTED.glob("*")),
    ]
    for place in candidates:
        if (place / PROOF).is_file():
            proof = check(place)
            if {key: proof.get(key) for key in made_from} == made_from:
                return place
    return None


def _hash(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
