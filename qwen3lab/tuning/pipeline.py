"""Tune a model on a file of rows: read, split, plan, examine, train, examine again, write.

`qwen3lab tune` is this function on the command line. Each stage says in a line what it did; a run
that was stopped goes on where it was when it is called again with the same arguments.
"""

from __future__ import annotations

import datetime
import functools
import importlib.metadata
import json
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from qwen3lab import profiles
from qwen3lab.data import cleaning, formats, splits
from qwen3lab.data.rows import conversation
from qwen3lab.errors import Qwen3labError
from qwen3lab.models import beside, loading
from qwen3lab.quiet import quiet
from qwen3lab.training import export, sft
from qwen3lab.tuning import cards, deploy, fitting, folder, questions

LIMIT = 20_000  # rows that a run draws from a file at most, unless told otherwise
LEAST_HELD_OUT = 10
LIBRARIES = ("torch", "transformers", "trl", "peft", "qwen3lab")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a run was asked for; the defaults are those of `qwen3lab tune`."""

    source: str  # a file, a folder, a sample's name or a hub id, as in `formats.load`
    model: str = "chat"
    method: str = "lora"
    columns: dict[str, str] = field(default_factory=dict)  # of the file, to the names we know
    epochs: float | None = None
    steps: int | None = None
    rate: float | None = None
    batch: int | None = None
    accumulate: int = 1
    rank: int = 16
    targets: str | None = None  # "attention" or "all-linear"
    held_out: float = 0.15  # share of the rows
    answered: int = 100  # held-out rows that are answered, before and after
    limit: int = LIMIT
    clean: bool = False
    drop_long: bool = False
    compile: bool | None = None  # as in `fine_tune`; None: where it gains
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Forms:
    """What else a run's folder gets; each needs the one before, which is then made too."""

    merge: bool = False
    gguf: str | None = None  # of `quantization.gguf.GGUF_TYPES`
    ollama: bool = False
    push_to_hub: str | None = None  # a repository's id


@dataclass
class Rows:
    """The rows of a run, and what was said about them."""

    train: list[dict[str, Any]]
    held_out: list[dict[str, Any]]
    said: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)


def _says_full_disk(function: Callable) -> Callable:
    """Turn the libraries' errors about a full disk into one sentence."""

    @functools.wraps(function)
    def call(settings: Settings, out: str | Path, **options: Any) -> dict[str, Any]:
        try:
            return function(settings, Path(out), **options)
        except (OSError, SafetensorError) as error:
            if "No space left" not in str(error):
                raise
            raise Qwen3labError(
                f"The disk is full. What {Path(out).name!r} holds is whole: free some space, and"
                " call again to go on."
            ) from error

    return call


@_says_full_disk
def tune(
    settings: Settings,
    out: str | Path,
    *,
    forms: Forms = Forms(),
    dry_run: bool = False,
    say: Callable[[str], None] = print,
    progress: bool = False,
) -> dict[str, Any]:
    """Tune a model on rows of a file and write one folder; returns the run's record.

    The folder holds the adapter (or model) with its tokenizer, the rows as conversations,
    `sft.yaml` for `trl sft`, the report `report.html` and a model card, `README.md`.

    Args:
        forms: what else is made of the result; also of a run that is finished.
        out: the folder. One that holds the same run, unfinished, goes on; a finished one is read.
        dry_run: stop before anything is trained or written.
        say: takes each line of the transcript.
        progress: show the trainer's progress bar.
    Raises:
        Qwen3labError: rows, model, memory, disk or folder do not do; each says what to do.
    """
    quiet()
    # 1. The rows, read and split.
    rows = read(settings)
    for line in rows.said:
        say(line)
    # 2. The model, the length of the rows in its tokens, and what it all needs.
    source = loading.resolve(settings.model)
    tokenizer = loading.load_tokenizer(settings.model)
    encoded = check_lengths(settings, tokenizer, rows, say)
    ask = plan(settings, max(len(row["input_ids"]) for row in encoded))
    say(f"memory   {fitting.check_memory(ask)}")
    merges, converts = _wanted(forms, settings)
    say(f"disk     {fitting.check_disk(out, ask, merges, bool(converts))}")
    if dry_run:
        say("stopped  before the training, as asked (--dry-run)")
        return {"state": "planned", "rows": rows.counts}
    # 3. A folder of its own, or the one in which this run stopped.
    record = folder.claim(out, identity(settings, rows))
    if record["state"] == "finished":
        say(f"finished already: {out.name}. Name another folder with --out for a new run.")
        make_forms(out, record, forms, settings, say)
        return record
    if record["state"] == "begun":
        folder.write_rows(out / folder.CONVERSATIONS / "train.jsonl", rows.train)
        folder.write_rows(out / folder.CONVERSATIONS / "held_out.jsonl", rows.held_out)
    # 4. The exam before, the training, the exam after.
    # The model is loaded once, in the form that is trained and for which the memory was planned.
    model, tokenizer = sft.load(settings.model, settings.method)
    before = _exam(out, "before", settings, rows, model, tokenizer, say)
    run = _train(settings, out, encoded, model, tokenizer, progress)
    say(f"trained  {run.summary()}")
    after = _exam(out, "after", settings, rows, run.model, run.tokenizer, say)
    # 5. The folder's contents, and last of all the record.
    record |= describe(settings, source, run, rows) | _compared(before, after)
    for line in record["scores"]:
        say("score    " + "  ".join(line))
    write(out, record, run, settings, before, after)
    shutil.rmtree(out / folder.TRAINING, ignore_errors=True)
    make_forms(out, record, forms, settings, say)
    return record


def read(settings: Settings) -> Rows:
    """Read a file's conversations, and split off the rows that are held out.

    The file is read row by row; of more than `limit` conversations as many are drawn, each with the
    same chance. Nothing is cleaned unless asked for: exact copies are counted and said. Near-copies
    of a prompt stay on one side of the split.

    Raises:
        Qwen3labError: no conversations, with what the file holds instead.
    """
    drawn, report = draw(settings)
    said = [f"rows     {line}" for line in str(report).split("\n")]
    counts = {"read": report.counts.total(), "refused": report.counts["rejected"]}
    if len(drawn) < report.counts["rows"]:
        said.append(f"drawn    {len(drawn):,} conversations by seed {settings.seed} (--limit)")
    counts["drawn"] = len(drawn)
    rows, copies = cleaning.drop_copies(drawn)
    if copies and not settings.clean:
        repeat = "row repeats" if len(copies) == 1 else "rows repeat"
        said.append(f"copies   {len(copies):,} {repeat} another; kept (--clean drops them)")
        rows = drawn
    if settings.clean:
        rows, cleaned = cleaning.clean_rows(drawn)
        said += [f"cleaned  {line}" for line in cleaned.table().to_string().split("\n")]
    counts["copies"] = len(copies)
    train, held_out = split(rows, settings.held_out, settings.seed)
    said.append(f"split    {len(train):,} to train on, {len(held_out):,} held out")
    if not held_out:
        said[-1] += ": too few different rows to hold any back, so nothing is examined"
    counts |= {"train": len(train), "held_out": len(held_out)}
    return Rows(train, held_out, said, counts)


# Where rows go that are no conversations.
ELSEWHERE = {
    "preferences": "preferences are for DPO, trl.DPOTrainer",
    "labelled": "labelled answers are for KTO, trl.KTOTrainer",
    "texts": "plain texts are for continued pre-training, in notebook 05",
}


def draw(settings: Settings) -> tuple[list[dict[str, Any]], formats.Report]:
    """Draw up to `limit` conversations of a file, in its order, without holding the others.

    Vitter 1985, "Random Sampling with a Reservoir", algorithm R.
    """
    report, rng = formats.Report(Path(settings.source).name), random.Random(settings.seed)
    kept: list[tuple[int, dict[str, Any]]] = []
    columns = settings.columns or None
    for kind, row in formats.stream(settings.source, columns=columns, report=report):
        if kind != "rows":
            continue
        seen = report.counts["rows"]
        if len(kept) < settings.limit:
            kept.append((seen, row))
        elif (place := rng.randrange(seen)) < settings.limit:
            kept[place] = (seen, row)
    if not kept:
        others = [told for kind, told in ELSEWHERE.items() if report.counts[kind]]
        told = "; ".join(str(report).split("\n"))
        advice = "; ".join(others) or "give rows with a prompt and an answer"
        raise Qwen3labError(
            f"{Path(settings.source).name!r} holds no conversation to train on ({told})."
            f" {advice[0].upper()}{advice[1:]}."
        )
    return [row for _, row in sorted(kept, key=lambda pair: pair[0])], report


def split(
    rows: Sequence[dict[str, Any]], share: float, seed: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Split rows into (training, held out); rows whose prompts are near-copies stay together.

    At least ten are held out, if the rows are at least five times as many.
    """
    if not 0 <= share < 1:
        raise Qwen3labError(
            f"A share of {share} cannot be held out. Give --held-out a number from 0 to 0.9."
        )
    least = LEAST_HELD_OUT / len(rows) if len(rows) >= 5 * LEAST_HELD_OUT and share else 0.0
    asked = [row | {"messages": row["messages"][:-1]} for row in rows]
    groups = splits.groups(asked)
    if len(groups) < 2:
        return list(rows), []
    random.Random(seed).shuffle(groups)
    wanted, train, held_out = round(max(share, least) * len(rows)), [], []
    for group in groups:
        side = held_out if len(held_out) + len(group) <= wanted else train
        side += [rows[place] for place in group]
    return train, held_out


def check_lengths(
    settings: Settings, tokenizer: Any, rows: Rows, say: Callable[[str], None]
) -> list[dict[str, list[int]]]:
    """Encode the rows and count their tokens; those too long are dropped only if asked for.

    Returns the encoded rows to train on, as `training.encode` makes them.

    Raises:
        Qwen3labError: rows of more tokens than the profile's `max_length`.
    """
    most = profiles.get().max_length
    encoded: dict[str, list[dict[str, list[int]]]] = {}
    for name in ("train", "held_out"):
        part = getattr(rows, name)
        encoded[name] = [sft.encode(tokenizer, row) for row in part]
        sizes = [len(row["input_ids"]) for row in encoded[name]]
        long = sum(size > most for size in sizes)
        if long and not settings.drop_long:
            raise Qwen3labError(
                f"{long} of {len(sizes)} rows have more than {most} tokens (the longest has"
                f" {max(sizes):,}). Shorten them, leave them out with --drop-long, or take a"
                " profile with longer rows (QWEN3LAB_PROFILE)."
            )
        if long:
            say(f"dropped  {long:,} rows of more than {most} tokens")
            kept = [row for row, size in zip(part, sizes) if size <= most]
            setattr(rows, name, kept)
            rows.counts[name] = len(kept)
            encoded[name] = [row for row in encoded[name] if len(row["input_ids"]) <= most]
    if not encoded["train"]:
        raise Qwen3labError(f"No row has {most} tokens or fewer. Shorten the rows.")
    sizes = sorted(len(row["input_ids"]) for row in encoded["train"])
    middle = sizes[len(sizes) // 2]
    say(
        f"tokens   {sum(sizes):,} to train on; the median row has {middle}, the longest {sizes[-1]}"
    )
    return encoded["train"]


def plan(settings: Settings, longest: int) -> fitting.Ask:
    """Describe the training's step for the planner."""
    batch = settings.batch or profiles.get().batch_size
    return fitting.Ask(settings.model, settings.method, batch, longest, settings.rank)


def identity(settings: Settings, rows: Rows) -> dict[str, Any]:
    """Describe what makes a run the same: settings, rows and model, without their paths."""
    own = asdict(settings) | {"source": Path(settings.source).name}
    return own | {
        "rows": folder.digest([rows.train, rows.held_out]),
        "base": loading.fingerprint(settings.model),
        "profile": profiles.get().name,
    }


def duration(settings: Settings, model: Any) -> dict[str, Any]:
    """Choose how long to train: as asked, else 3 epochs; small models the profile's steps."""
    if settings.steps is not None or settings.epochs is not None:
        return {"steps": settings.steps, "epochs": settings.epochs}
    small = model.num_parameters() < loading.SMALL_MODEL
    return {"steps": profiles.get().steps} if small else {"epochs": 3}


def _exam(out: Path, when: str, settings: Settings, rows: Rows, model, tokenizer, say: Callable):
    """Examine the model on held-out rows and old skills, or read what was examined already."""
    import pandas as pd

    file = out / f"exam.{when}.jsonl"
    if not file.is_file():
        parts = [questions.examine(model, tokenizer, questions.old_skills()).assign(part="old")]
        if rows.held_out:
            own = questions.examine(model, tokenizer, rows.held_out, settings.answered)
            parts.insert(0, own.assign(part="own"))
        frame = pd.concat(parts, ignore_index=True)
        lines = frame.astype(object).where(frame.notna(), None).to_dict("records")
        folder.write_rows(file, lines)
    found = pd.DataFrame(folder.read_rows(file))
    own = found[found.part == "own"]
    if len(own):
        say(f"{when:<8} loss a token {(own.nll / own.tokens).mean():.3f} on held-out rows")
    return found


def _compared(before: Any, after: Any) -> dict[str, Any]:
    """Compare both exams: each part's scores as `questions.Score`, and as lines of a table."""
    found = []
    for part, label in (("own", ""), ("old", "old skills: ")):
        first, second = (frame[frame.part == part] for frame in (before, after))
        if len(first):
            chosen = [f.reset_index(drop=True) for f in (first, second)]
            found += questions.compare(*chosen, label=label)
    return {"exam": [asdict(score) for score in found], "scores": [s.cells() for s in found]}


def _train(
    settings: Settings, out: Path, encoded: list, model: Any, tokenizer: Any, progress: bool
) -> sft.Run:
    """Train, or go on from the last checkpoint, in the run's folder."""
    lora = {"r": settings.rank, "lora_alpha": 2 * settings.rank}
    if settings.targets:
        attention = settings.targets == "attention"
        lora["target_modules"] = sft.ATTENTION if attention else "all-linear"
    length = duration(settings, model)
    options = (
        {"gradient_accumulation_steps": settings.accumulate} if settings.accumulate > 1 else {}
    )
    batch = min(settings.batch or profiles.get().batch_size, len(encoded))
    a_step = batch * settings.accumulate
    steps = length.get("steps") or -(-int(length["epochs"] * len(encoded)) // a_step)
    run = sft.fine_tune(
        model,
        encoded,
        tokenizer=tokenizer,
        method=settings.method,
        steps=max(1, steps),
        learning_rate=settings.rate,
        batch_size=batch,
        lora={} if settings.method == "full" else lora,
        output_dir=out / folder.TRAINING,
        save_every=max(1, steps // 10),
        resume=True,
        compile=settings.compile,
        seed=settings.seed,
        disable_tqdm=not progress,
        **options,
    )
    return run


def name_of(model: str, source: Path | str) -> str:
    """Name a model for cards: its hub id where it has one, else its folder's name."""
    asked = getattr(profiles.get(), model) if model in loading.ROLES else model
    is_id = asked.count("/") == 1 and not asked.startswith((".", "~", "/"))
    return asked if is_id and not Path(asked).is_dir() else Path(source).name


def describe(settings: Settings, source: Any, run: sft.Run, rows: Rows) -> dict[str, Any]:
    """Describe a finished training for its record, without machine paths."""
    losses = run.history.loss.dropna()
    return {
        "model": name_of(settings.model, source),
        "asked": asdict(settings) | {"source": Path(settings.source).name},
        "counts": rows.counts,
        "method": run.method,
        "adapter": run.adapter,
        "steps": run.steps,
        "tokens": run.tokens,
        "trained": run.trained,
        "parameters": run.parameters,
        "loss": [float(losses.iloc[0]), float(losses.iloc[-1])],
        "speed": list(run.reasons),
        "seconds": round(run.seconds, 1),
        "peak_bytes": run.peak_bytes,
        "thinks": sum(conversation(row)[1] for row in rows.train),
        "template": folder.digest(run.tokenizer.chat_template),
        "dtype": str(run.model.dtype).removeprefix("torch."),
        "libraries": {name: importlib.metadata.version(name) for name in LIBRARIES},
        "date": datetime.date.today().isoformat(),
    }


def write(
    out: Path, record: dict[str, Any], run: sft.Run, settings: Settings, before: Any, after: Any
) -> None:
    """Write the result into the run's folder: weights, tokenizer, rows, settings, pages."""
    made = out / folder.TRAINING
    run.tokenizer.save_pretrained(made)
    if settings.method == "full":
        run.model.generation_config.save_pretrained(made)
    elif "/" in record["model"]:  # a model of the hub, though a mirror on this machine was read
        _name_base(made / "adapter_config.json", record["model"])
    names = [file.name for file in made.iterdir() if file.is_file() and file.name != "README.md"]
    names += [str(file.relative_to(made)) for file in made.glob("additional_chat_templates/*")]
    folder.move_whole(made, out, names)
    export.export(run, out)
    folder.write_text(out / "report.html", cards.report(record, run, before, after).html)
    folder.write_text(out / "README.md", cards.model_card(record, deploy.commands(out, record)))
    record["state"] = "finished"
    folder.write_json(out / folder.RECORD, record)


def _name_base(config: Path, name: str) -> None:
    fields = json.loads(config.read_text(encoding="utf-8"))
    folder.write_json(config, fields | {"base_model_name_or_path": name})


def _wanted(forms: Forms, settings: Settings) -> tuple[bool, str | None]:
    """What has to be made: (a merged model, the type of a GGUF file or None)."""
    outtype = forms.gguf or ("q4_k_m" if forms.ollama else None)
    return settings.method != "full" and (forms.merge or bool(outtype)), outtype


def make_forms(
    out: Path, record: dict[str, Any], forms: Forms, settings: Settings, say: Callable[[str], None]
) -> None:
    """Make the merged model, the GGUF file and the Modelfile that were asked for, and upload."""
    merges, outtype = _wanted(forms, settings)
    source = deploy.merged(out, settings.model) if merges else out
    if outtype:
        file = deploy.gguf_file(out, source, outtype)
        if forms.ollama:
            thinking = 2 * record["thinks"] > record["counts"]["train"]
            sampling = beside.generation(source)
            text = deploy.modelfile(loading.load_tokenizer(out), file.name, thinking, sampling)
            folder.write_text(out / folder.MODELFILE, text)
    if merges or outtype:
        card = cards.model_card(record, deploy.commands(out, record))
        folder.write_text(out / "README.md", card)
    say(f"written  {out.name}: " + ", ".join(sorted(file.name for file in out.iterdir())))
    if forms.push_to_hub:
        say(f"pushed   {deploy.push(out, forms.push_to_hub)} (private)")
