"""Make and load checkpoints of the notebooks' long cells, for workshop participants who join late.

`python -m qwen3lab.course.checkpoints` makes them. A checkpoint is a folder below
build/checkpoints. Training runs are stored as whole `Run`s: `run = checkpoints.load("qlora")`
replaces the cell that trains.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen3lab import cache, measure, paths, profiles
from qwen3lab.data import pdf, tasks
from qwen3lab.errors import Qwen3labError
from qwen3lab.models import loading
from qwen3lab.quantization import gguf as quantization_gguf
from qwen3lab.quantization import merging
from qwen3lab.quiet import quiet
from qwen3lab.retrieval import chunking
from qwen3lab.retrieval import index as retrieval_index
from qwen3lab.training import company, lora, sft

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


NUMBERS = (
    "seconds",
    "tokens_per_second",
    "peak_bytes",
    "method",
    "steps",
    "tokens",
    "trained",
    "parameters",
    "bytes",
    "best_step",
    "adapter",
)
KINDS = ("f16", "q8_0", "q4_k_m")


@dataclass(frozen=True)
class Checkpoint:
    """A workshop checkpoint: the cell that it replaces, the new line, and how to make it."""

    notebook: str
    cell: str
    line: str
    what: str
    make: Callable[[Path], None]
    needs: tuple[str, ...] = ()  # checkpoints that must exist first


def folder(name: str) -> Path:
    """Return the folder of a checkpoint for the current profile.

    Raises Qwen3labError for a name that is not in CHECKPOINTS.
    """
    if name not in CHECKPOINTS:
        raise Qwen3labError(
            f"There is no checkpoint {name!r}. Choose one of: {', '.join(CHECKPOINTS)}."
        )
    return paths.BUILD / "checkpoints" / (profiles.get().name + profiles.smoke_suffix()) / name


def save(run: sft.Run, where: str | Path) -> Path:
    """Save a whole run: model or adapter, tokenizer, history, encoded rows, the figures of `Run`.

    Returns the folder. If an adapter's base model is a bundled one, only its name is stored, so
    that the folder can be moved.
    """
    where = Path(where)
    where.mkdir(parents=True, exist_ok=True)
    run.model.save_pretrained(where)
    run.tokenizer.save_pretrained(where)
    source = _name(run.source)
    if run.method != "full":
        config = json.loads((where / "adapter_config.json").read_text(encoding="utf-8"))
        _write(where / "adapter_config.json", config | {"base_model_name_or_path": source})
    for name, rows in (("train", run.data), ("validation", run.held_out)):
        if rows is not None:
            (where / f"rows.{name}.jsonl").write_text(
                "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
            )
    settings = {key: value for key, value in run.settings.items() if key != "output_dir"}
    _write(
        where / "run.json",
        {name: getattr(run, name) for name in NUMBERS}
        | {
            "source": source,
            "settings": settings,
            "summary": run.summary(),
            "history": run.history.to_dict("list"),
        },
    )
    return where


def load(name: str | Path) -> sft.Run:
    """Load a run that `save` wrote, or the checkpoint of that name.

    It has the model in eval mode, tokenizer, history and figures. Raises Qwen3labError if there is
    none, and what `models.load` raises.
    """
    import pandas as pd
    from datasets import Dataset

    where = folder(name) if name in CHECKPOINTS else Path(name)
    try:
        read = json.loads((where / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Qwen3labError(
            f"{where.name!r} holds no saved run ({type(error).__name__}). Run `make checkpoints`."
        ) from error
    if read["method"] == "full":
        model, tokenizer = loading.load(where, dtype="float32")
    else:
        base, _ = sft.load(read["source"], read["method"])
        model, tokenizer = lora.load_adapter(where, base)
    rows = {
        part: [
            json.loads(line)
            for line in (where / f"rows.{part}.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        for part in ("train", "validation")
        if (where / f"rows.{part}.jsonl").is_file()
    }
    return sft.Run(
        model,
        tokenizer,
        pd.DataFrame(read["history"]),
        output_dir=where,
        **{key: read[key] for key in NUMBERS},
        source=str(loading.resolve(read["source"])),
        settings=read["settings"],
        data=Dataset.from_list(rows["train"]),
        held_out=Dataset.from_list(rows["validation"]) if "validation" in rows else None,
    )


def merged() -> merging.Merged:
    """Load the merged model's record, with the distances measured when it was made.

    Raises Qwen3labError if it does not exist.
    """
    where = folder("merged")
    _proof(where)
    return merging.Merged(
        where, **json.loads((where / "distances.json").read_text(encoding="utf-8"))
    )


def gguf() -> dict[str, Path]:
    """Return the GGUF files for llama.cpp by quantisation type.

    Raises Qwen3labError if they do not exist.
    """
    _proof(folder("gguf"))
    return {kind: folder("gguf") / f"company-{kind}.gguf" for kind in KINDS}


def index(embedder: SentenceTransformer | None = None) -> retrieval_index.Index:
    """Load the saved index of the handbook, for the profile's embedding model.

    Raises Qwen3labError as `retrieval.Index.load`.
    """
    return retrieval_index.Index.load(folder("index"), embedder or loading.load_embedding())


def _proof(where: Path) -> Path:
    if not (where / cache.MADE_FROM).is_file():
        raise Qwen3labError(f"The checkpoint {where.name!r} is not there. Run `make checkpoints`.")
    return where / cache.MADE_FROM


def _name(source: str) -> str:
    """Shorten a bundled model's path to its name; any other source stays as it is."""
    return Path(source).name if Path(source).parent == paths.MODELS else source


def _write(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


# What the notebooks train, with the settings of their cells; `main` compares the outcome with the
# committed output of the cell.


def _lora(where: Path) -> None:
    train, validation = (tasks.load("knowledge", split) for split in ("train", "validation"))
    run = sft.fine_tune("chat", train, validation=validation[::2], **company.company_recipe())
    save(run, where)
    company.company_adapter(run)  # for the notebooks after 03


def _qlora(where: Path) -> None:
    recipe = company.company_recipe() | {"lr_scheduler_type": "constant_with_warmup"}
    if "steps" in recipe:
        recipe["steps"] = 40
    rows = tasks.load("knowledge", "train")
    save(sft.fine_tune("chat", rows, **recipe | {"method": "qlora"}), where)


def _full(where: Path) -> None:
    recipe = (
        {"steps": 60, "batch_size": 32, "learning_rate": 2e-3}
        if profiles.get().name == "tiny"
        else {"epochs": 4}
    )
    save(sft.fine_tune("chat", tasks.load("knowledge", "train"), method="full", **recipe), where)


def _merged(where: Path) -> None:
    found = merging.merge("chat", company.company_adapter(), where)
    _write(
        where / "distances.json",
        {key: value for key, value in asdict(found).items() if key != "path"},
    )


def _gguf(where: Path) -> None:
    where.mkdir(parents=True, exist_ok=True)
    for kind in KINDS:
        quantization_gguf.to_gguf(folder("merged"), where / f"company-{kind}.gguf", kind)


def _index(where: Path) -> None:
    chunks = chunking.chunk(
        pdf.chapters(pdf.read_pdf(paths.HANDBOOK)), loading.load_tokenizer("chat")
    )
    retrieval_index.Index.build(chunks, loading.load_embedding()).save(where)


CHECKPOINTS = {
    "lora": Checkpoint(
        "03", "use-train", 'run = checkpoints.load("lora")', "the company's adapter", _lora
    ),
    "qlora": Checkpoint(
        "04",
        "train",
        'run = checkpoints.load("qlora")',
        "an adapter on the model in 4 bits",
        _qlora,
    ),
    "full": Checkpoint(
        "05", "train", 'run = checkpoints.load("full")', "the model with all weights trained", _full
    ),
    "merged": Checkpoint(
        "07",
        "merge-check",
        "out = checkpoints.merged()",
        "the adapter merged into the model",
        _merged,
        ("lora",),
    ),
    "gguf": Checkpoint(
        "07", "gguf", "files = checkpoints.gguf()", "three files for llama.cpp", _gguf, ("merged",)
    ),
    "index": Checkpoint(
        "08", "rag-save", "index = checkpoints.index()", "the index of the handbook", _index
    ),
}


def make(name: str) -> tuple[Path, bool]:
    """Make a checkpoint and its prerequisites unless they are up to date.

    It is made in a temporary folder and then moved, so that a stopped run leaves nothing that looks
    finished.

    Returns:
        The folder, and whether it was made.
    """
    target, one = folder(name), CHECKPOINTS[name]
    made = [make(other)[1] for other in one.needs]
    return target, cache.renew(target, _made_from(), one.make, again=any(made))


def _made_from() -> dict[str, Any]:
    """Collect the fingerprints of the models, the rows and the handbook, and the recipe."""
    return {role: loading.fingerprint(role) for role in ("chat", "embedding")} | {
        "rows": cache.fingerprint(paths.TASKS / "knowledge.train.jsonl"),
        "handbook": cache.fingerprint(paths.HANDBOOK),
        "recipe": company.company_recipe(),
    }


def equals_notebook(name: str) -> bool | None:
    """Check whether a run's summary is the line that the committed notebook printed in that cell.

    None for a checkpoint without a summary, and with another profile than the default.
    """
    from qwen3lab.course import notebooks

    file, one = folder(name) / "run.json", CHECKPOINTS[name]
    if not file.is_file() or profiles.get().name != profiles.DEFAULT:
        return None
    said = json.loads(file.read_text(encoding="utf-8"))["summary"]
    return any(
        said in text
        for cell, _, text in notebooks.outputs(notebooks.find([one.notebook])[0])
        if cell == one.cell
    )


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m qwen3lab.course.checkpoints",
        description="Make the checkpoints to join a workshop late from.",
    )
    parser.add_argument(
        "names", nargs="*", help=f"which; all without a name: {', '.join(CHECKPOINTS)}"
    )
    args = parser.parse_args(argv)
    quiet()
    for name in args.names or CHECKPOINTS:
        where, made = make(name)
        agrees = {
            True: "; the run of the committed notebook, to the last digit shown",
            False: "; not quite the committed notebook's run",
            None: "",
        }
        size, one = measure.folder_bytes(where) / 1e6, CHECKPOINTS[name]
        print(
            f"{name:<7} {'made' if made else 'there'}, {size:.1f} MB{agrees[equals_notebook(name)]}"
        )
        print(f"        notebook {one.notebook}: {one.line}", flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Qwen3labError as error:
        sys.exit(str(error))
