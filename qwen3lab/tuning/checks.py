"""Audit a run: look at what usually goes wrong, on this run's own files and answers.

Each check gives one line or more: ok, warning or fault, with a figure and what to do. A check that
cannot be made (no rows, no merged model) says so and is no fault.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from qwen3lab import chat
from qwen3lab.data import rows as kinds
from qwen3lab.errors import Qwen3labError
from qwen3lab.locale import language, translate
from qwen3lab.models import beside, loading
from qwen3lab.models.generation import generate_ids, split_answer
from qwen3lab.quiet import quiet
from qwen3lab.tuning import comparing, folder, questions

OK, WARNING, FAULT, SKIPPED = "ok", "warning", "fault", "skipped"
PROBES = 20  # held-out prompts on which models are asked and compared

# Bounds, chosen before any run was audited; each is far from what healthy runs of this course show.
LOST = 0.10  # share of rows dropped or refused, above which it is worth a look
STOPS = 0.90  # share of answers that end by themselves
THOUGHTS_KEPT = 0.5  # of the share that thought before
SAME_LOSS = 0.02  # relative difference of the held-out loss to the recorded one
# KL divergence in nats an answer token, by the form's precision (notebook 07's ladder).
SAME_MODEL = {"merged": 0.001, "f32": 0.001, "f16": 0.001, "bf16": 0.001, "q8_0": 0.005}
SAME_MODEL_4BIT = 0.05
ROUNDING = 0.2  # of a merged weight, relative to the adapter's update


@dataclass(frozen=True)
class Line:
    """A check's result: its level, what was looked at, the figure, and what to do."""

    level: str
    check: str
    figure: str
    advice: str = ""

    def __str__(self) -> str:
        check, figure, advice = (
            translate(text, "command") for text in (self.check, self.figure, self.advice)
        )
        if language() != "en":
            return f"{self.level:<8} {check}：{figure}。{advice}"
        told = f"{self.level:<8} {check}: {figure}"
        return f"{told}. {advice}" if advice else f"{told}."


class Run:
    """A run's folder, opened for the audit; models are loaded when a check first needs them."""

    def __init__(self, path: str | Path, model: str | None = None, rows: Any = None):
        """Open a folder of `qwen3lab tune`, or any folder with an adapter or a model.

        Args:
            model: the base; default: the one that the record or the adapter names.
            rows: held-out rows to ask; default: those of the run.
        """
        self.path = Path(path)
        self.record = folder.read(self.path)
        self.given, self.rows = model, rows
        config = self.path / "adapter_config.json"
        self.config = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
        if not (self.config or self.record or (self.path / "config.json").is_file()):
            raise Qwen3labError(
                f"{self.path.name!r} holds neither an adapter nor a model. Give the folder that a"
                " training wrote."
            )

    @property
    def base_name(self) -> str:
        """The base model's id or folder."""
        return str(self._named or beside.base(self.path))

    @property
    def _named(self) -> str | None:
        """The base model that the caller or the record names."""
        return self.given or self.record.get("asked", {}).get("model")

    @property
    def is_adapter(self) -> bool:
        """Whether the run trained an adapter, and not all weights."""
        return bool(self.config) or self.record.get("method") in ("lora", "qlora")

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer that lies beside the result, or the base's if there is none."""
        return loading.load_tokenizer(self.path, self._named)

    @property
    def end(self) -> str | None:
        """The token that the chat template writes behind an answer."""
        return chat.end_of_turn(self.tokenizer)

    @cached_property
    def model(self) -> Any:
        """The tuned model in float32, so that forms are compared with the exact one."""
        from qwen3lab.training import lora

        quiet()
        if not self.is_adapter:
            return loading.load(self.path, dtype="float32")[0]
        base, _ = loading.load(self.base_name, dtype="float32")
        return lora.load_adapter(self.path, base)[0]

    @cached_property
    def base(self) -> Any:
        """The base model; with an adapter ask it through `without_adapter`."""
        return self.model if self.is_adapter else loading.load(self.base_name, dtype="float32")[0]

    @cached_property
    def held_out(self) -> list[Any]:
        """Rows to ask: those given, else those that the run held out."""
        file = self.path / folder.CONVERSATIONS / "held_out.jsonl"
        if self.rows is not None:
            return kinds.records(self.rows)
        return folder.read_rows(file) if file.is_file() else []

    @cached_property
    def probes(self) -> list[dict[str, Any]]:
        """The first held-out rows as exams."""
        return kinds.as_exams(self.held_out[:PROBES])

    @cached_property
    def trained_rows(self) -> list[dict[str, list[int]]]:
        """The rows as they were trained: input_ids and labels."""
        file = self.path / "rows" / "train.jsonl"
        return folder.read_rows(file) if file.is_file() else []

    @cached_property
    def conversations(self) -> list[dict[str, Any]]:
        """The same rows as conversations."""
        file = self.path / folder.CONVERSATIONS / "train.jsonl"
        return folder.read_rows(file) if file.is_file() else []

    def answers(self, prompts: Sequence[list[int]], base: bool = False, limit: int = 64):
        """Greedy answers of the tuned model, or of its base."""
        if base and self.is_adapter:
            with self.model.disable_adapter():
                return generate_ids(self.model, self.tokenizer, prompts, max_new_tokens=limit)
        model = self.base if base else self.model
        return generate_ids(model, self.tokenizer, prompts, max_new_tokens=limit)


def mask(run: Run) -> Iterator[Line]:
    """Check that what was trained is the last answer with its end, and nothing else."""
    rows, told = run.trained_rows, run.conversations
    if not rows:
        yield Line(SKIPPED, "mask", "no rows as they were trained (rows/train.jsonl)")
        return
    end = run.tokenizer.convert_tokens_to_ids(run.end)
    wrong: dict[str, int] = {}
    for place, row in enumerate(rows):
        try:
            whole = len(told) == len(rows)
            wanted = kinds.encode(run.tokenizer, told[place]) if whole else None
            found = _mask_fault(row, wanted, end)
        except Qwen3labError:  # the folder's template cannot write this row at all
            found = "other template"
        if found:
            wrong[found] = wrong.get(found, 0) + 1
    tokens = sum(len(row["labels"]) for row in rows)
    trained = sum(label != chat.IGNORED for row in rows for label in row["labels"])
    advice = {
        "wrong mask": "Train the last answer and its end alone: chat.example, or TRL's completion"
        " mask",
        "cut answers": "Raise the maximum length, or drop long rows: a cut answer never ends",
        "other template": "Train and ask with one template: that of the tokenizer beside the model",
    }
    for name, n in wrong.items():
        yield Line(FAULT, name, f"{n:,} of {len(rows):,} rows", advice[name])
    if not wrong:
        yield Line(
            OK, "mask", f"{trained:,} of {tokens:,} tokens trained: each last answer and its end"
        )


def _mask_fault(row: dict, wanted: dict | None, end: int) -> str | None:
    """Name the fault of one encoded row; `wanted` is how it should be, if that is known."""
    ids, labels = list(row["input_ids"]), list(row["labels"])
    trained = [place for place, label in enumerate(labels) if label != chat.IGNORED]
    if wanted is None:
        whole = bool(trained) and trained == list(range(trained[0], len(ids)))
        if whole and ids[-1] == end:
            return None
        return "cut answers" if whole else "wrong mask"
    if ids == wanted["input_ids"]:
        return None if labels == wanted["labels"] else "wrong mask"
    if len(ids) < len(wanted["input_ids"]) and ids == wanted["input_ids"][: len(ids)]:
        return "cut answers"
    return "other template"


def decoded_masks(run: Run, n: int = 3) -> list[tuple[str, str]]:
    """Decode the first rows as they were trained: what is trained stands between ⟦ and ⟧."""
    shown = []
    for number, row in enumerate(run.trained_rows[:n], start=1):
        spans: list[tuple[bool, list[int]]] = []
        for token, label in zip(row["input_ids"], row["labels"]):
            trained = label != chat.IGNORED
            if not spans or spans[-1][0] != trained:
                spans.append((trained, []))
            spans[-1][1].append(token)  # decoded together: a character may have several tokens
        texts = [(trained, run.tokenizer.decode(ids)) for trained, ids in spans]
        told = "".join(f"⟦{text}⟧" if trained else text for trained, text in texts)
        shown.append((f"row {number}", told))
    return shown


def rows_lost(run: Run) -> Iterator[Line]:
    """Check how many rows of the file were refused or dropped."""
    counts = run.record.get("counts")
    if not counts:
        yield Line(SKIPPED, "rows", "no record of what was read")
        return
    dropped = counts["drawn"] - counts["train"] - counts["held_out"]
    refused, read = counts["refused"], counts["read"]
    figure = f"{refused:,} of {read:,} refused, {dropped:,} of {counts['drawn']:,} drawn dropped"
    level = WARNING if refused > LOST * read or dropped > LOST * counts["drawn"] else OK
    advice = "Look at the reasons that `tune` printed" if level == WARNING else ""
    yield Line(level, "rows", figure, advice)


def template(run: Run) -> Iterator[Line]:
    """Check that training, the folder and its other forms ask with one chat template."""
    own = run.tokenizer.chat_template
    advice = "Save the tokenizer that the training used beside the model"
    trained = run.record.get("template")
    if trained and trained != folder.digest(own):
        yield Line(FAULT, "other template", "the folder's is not that of the training", advice)
    elif trained:
        yield Line(OK, "template", "the folder's is that of the training")
    if run.is_adapter and loading.load_tokenizer(run.base_name).chat_template != own:
        yield Line(
            WARNING,
            "template",
            "the base has another",
            "Serve with the folder's tokenizer: a server that takes the base's asks otherwise",
        )
    merged = run.path / folder.MERGED
    if merged.is_dir() and loading.load_tokenizer(merged).chat_template != own:
        yield Line(FAULT, "other template", "the merged model has another", advice)
    for file in sorted(run.path.glob("*.gguf")):
        if comparing.gguf_template(file) != own:
            yield Line(
                FAULT,
                "GGUF with another template",
                file.name,
                "Convert again from a folder with the right tokenizer",
            )


def thinking(run: Run) -> Iterator[Line]:
    """Check whether thoughts survived: the share of answers that think, asked to, before and after.

    Asked are sums, which a model that thinks thinks about.
    """
    asks = [row["messages"] for row in questions.old_skills() if row["task"] == "addition"]
    try:
        on = [chat.encode(run.tokenizer, messages, thinking=True) for messages in asks]
        off = [chat.encode(run.tokenizer, messages) for messages in asks]
    except Qwen3labError as error:
        yield Line(SKIPPED, "thinking", error.what)
        return
    if on == off:
        yield Line(SKIPPED, "thinking", "the template has no switch for it")
        return
    shares = {}
    for when in (True, False):
        answers = run.answers(on, base=when, limit=48)
        thought = [split_answer(run.tokenizer, ids, thinking=True)[0] for ids in answers]
        shares[when] = sum(map(bool, thought)) / len(thought)
    silent = [run.tokenizer.decode(ids) for ids in run.answers(off, limit=48)]
    loud = sum("<think>" in text for text in silent) / len(silent)
    figure = f"asked to think, {shares[True]:.0%} did before and {shares[False]:.0%} after"
    if shares[False] < THOUGHTS_KEPT * shares[True]:
        yield Line(
            FAULT,
            "thoughts erased",
            figure,
            "Mix rows with thoughts into the training, or ask without thinking",
        )
    elif loud > 0.1:
        figure = f"asked not to think, {loud:.0%} did"
        yield Line(WARNING, "thinking", figure, "Train with the empty think block in the prompt")
    else:
        yield Line(OK, "thinking", figure)


def adapter(run: Run) -> Iterator[Line]:
    """Check the adapter: there, finite, not as it was at the start, scaled as in the training."""
    import torch
    from safetensors.torch import load_file

    if not run.is_adapter:
        return
    file = run.path / "adapter_model.safetensors"
    again = "Save with trainer.save_model() after the training, or tune again"
    if not file.is_file() or not run.config:
        yield Line(FAULT, "adapter not saved", "no adapter_model.safetensors or no config", again)
        return
    weights = load_file(file)
    outer = [w for name, w in weights.items() if "lora_B" in name]
    if not all(torch.isfinite(w).all() for w in weights.values()):
        yield Line(FAULT, "adapter", "weights that are not finite", "Train with a lower rate")
    elif not outer or all(not w.any() for w in outer):
        yield Line(FAULT, "adapter not saved", "all B matrices are zero, as at the start", again)
    else:
        moved = sum(bool(w.any()) for w in outer)
        yield Line(OK, "adapter", f"{moved} of {len(outer)} B matrices differ from the start")
    recorded = run.record.get("adapter") or {}
    changed = [
        f"{key} {recorded[key]} then, {run.config.get(key)} now"
        for key in ("r", "lora_alpha", "use_rslora", "use_dora")
        if key in recorded and recorded[key] != run.config.get(key)
    ]
    if changed:
        put_back = "Put the value of the training back into adapter_config.json"
        yield Line(FAULT, "alpha changed", "; ".join(changed), put_back)


def trained_share(run: Run) -> Iterator[Line]:
    """Check the trained share by kind of weight, and that experts were not missed unintended."""
    from qwen3lab.training import lora

    if not run.is_adapter or not run.config:
        return
    table = lora.coverage(run.model)
    whole = list(table.index[table["rank"] > 0])  # loaded frozen, so nothing counts as trained
    experts = [name for name in table.index if name.startswith("experts")]
    targets = run.record.get("adapter", {}).get("target_modules", run.config.get("target_modules"))
    names = [targets] if isinstance(targets, str) else sorted(targets or [])
    named = ("all-linear", "gate_proj", "up_proj", "gate_up_proj", "down_proj")
    wanted = any(name.rsplit(".", 1)[-1] in named for name in names)
    missed = [name for name in experts if name not in whole] if wanted else []
    if missed:
        share = table.weights[missed].sum() / table.weights.sum()
        yield Line(
            FAULT,
            "experts missed",
            f"no adapter on {', '.join(missed)}, {share:.0%} of the weights, though the targets"
            f" name {', '.join(names)}",
            "Name them in target_parameters (mlp.experts.gate_up_proj, mlp.experts.down_proj)",
        )
    elif "router" in whole:
        yield Line(
            WARNING,
            "adapted",
            f"{', '.join(whole)}",
            "all-linear adapts the router too, which changes who answers: name the targets",
        )
    else:
        note = "; experts left as they are" if experts and not set(experts) & set(whole) else ""
        yield Line(OK, "adapted", (", ".join(whole) or "none") + note)


def ends(run: Run) -> Iterator[Line]:
    """Check padding and end tokens: padding must not be the token that ends an answer."""
    pad, eos, end = run.tokenizer.pad_token, run.tokenizer.eos_token, run.end
    if end and pad == end:
        yield Line(
            FAULT,
            "pad = eos",
            f"padding is {pad}, which ends every answer",
            "Set pad_token to <|endoftext|>: what masks padding masks the end too",
        )
    elif end and eos != end:
        figure = f"the end token is {eos}, answers end with {end}"
        yield Line(FAULT, "end token", figure, f"Set eos_token to {end}")
    else:
        yield Line(OK, "pad and end", f"padding {pad}, end {eos}")


def base(run: Run) -> Iterator[Line]:
    """Check that the base is the one that was trained on."""
    then = run.record.get("identity", {}).get("base")
    if not then:
        yield Line(SKIPPED, "base", "no record of its weights")
    elif loading.fingerprint(run.base_name) == then:
        yield Line(OK, "base", f"{run.record['model']}, same weights as in the training")
    else:
        yield Line(
            FAULT,
            "base changed",
            f"the weights of {run.record['model']} are not those of the training",
            "Take the revision that was trained on, or tune again",
        )


def reproduces(run: Run) -> Iterator[Line]:
    """Check that the folder's model has the held-out loss that its record says."""
    file = run.path / "exam.after.jsonl"
    if run.rows is not None or not file.is_file() or not run.held_out:
        yield Line(SKIPPED, "result", "no recorded exam on held-out rows")
        return
    then = [line for line in folder.read_rows(file) if line["part"] == "own"]
    was = sum(line["nll"] for line in then) / sum(line["tokens"] for line in then)
    now = questions.examine(run.model, run.tokenizer, run.held_out, answered=0)
    loss = now.nll.sum() / now.tokens.sum()
    figure = f"held-out loss {was:.4f} after the training, {loss:.4f} now"
    if abs(loss - was) > SAME_LOSS * max(was, 0.05):
        yield Line(FAULT, "result", figure, "The folder does not hold the model that was examined")
    else:
        yield Line(OK, "result", figure)


def forms(run: Run) -> Iterator[Line]:
    """Check the merged model and GGUF files against base plus adapter, on held-out answers."""
    merged, files = run.path / folder.MERGED, sorted(run.path.glob("*.gguf"))
    if not merged.is_dir() and not files:
        yield Line(SKIPPED, "other forms", "no merged model and no GGUF file")
        return
    if merged.is_dir() and run.is_adapter:
        distance, in_4bit = comparing.merge_distance(run.model, merged)
        if distance > ROUNDING:
            name = "4-bit merge" if in_4bit else "merged model"
            figure = f"weights are off by {distance:.0%} of the adapter's update"
            yield Line(FAULT, name, figure, "Merge into the base in float32: quantization.merge")
        else:
            yield Line(OK, "merged weights", f"off by {distance:.1%} of the adapter's update")
    examples = kinds.encoded(run.tokenizer, run.held_out[:PROBES])
    if not examples:
        yield Line(SKIPPED, "answers of other forms", "no held-out rows")
        return
    for name, path in [("merged", merged)] * merged.is_dir() + [(f.name, f) for f in files]:
        agreement, divergence, tokens = comparing.compare(run.model, run.tokenizer, path, examples)
        kind = "merged" if name == "merged" else path.stem.rsplit("-", 1)[-1]
        bound = SAME_MODEL.get(kind, SAME_MODEL_4BIT)
        figure = f"top-1 {agreement:.1%}, KL {divergence:.5f} nats a token (n={tokens})"
        far = divergence > bound
        advice = f"Up to {bound:g} is usual for this form: convert again" if far else ""
        yield Line(FAULT if far else OK, name, figure, advice)


def stops(run: Run) -> Iterator[Line]:
    """Check that answers to held-out prompts end by themselves."""
    if not run.probes:
        yield Line(SKIPPED, "stops", "no held-out rows")
        return
    limit = questions.answer_limit(run.tokenizer, run.probes)
    prompts = [kinds.ask(run.tokenizer, row) for row in run.probes]
    share = sum(len(ids) < limit for ids in run.answers(prompts, limit=limit)) / len(prompts)
    figure = f"{share:.0%} of {len(prompts)} answers end within {limit} tokens"
    if share >= STOPS:
        yield Line(OK, "stops", figure)
    else:
        never = share < 0.5
        yield Line(
            FAULT if never else WARNING,
            "never stops" if never else "stops",
            figure,
            f"Train {run.end} after each answer, and generate with it as end token",
        )


def forgotten(run: Run) -> Iterator[Line]:
    """Check what the model could do before and cannot now, by the recorded exams."""
    found = [s for s in run.record.get("exam", []) if s["name"] == "old skills: exact match"]
    if not found:
        yield Line(SKIPPED, "old skills", "no recorded exam")
        return
    (score,) = found
    low, high = score["interval"]
    figure = (
        f"{score['before']:.3f} right before, {score['after']:.3f} after (n={score['n']}, paired"
        f" {score['difference']:+.3f}, {low:+.3f} to {high:+.3f})"
    )
    if high < 0:
        mix = "Mix rows of the old skills in, train shorter, or at a lower rate"
        yield Line(WARNING, "forgotten", figure, mix)
    else:
        yield Line(OK, "old skills", figure)


CHECKS = (
    mask,
    rows_lost,
    ends,
    template,
    base,
    adapter,
    trained_share,
    reproduces,
    stops,
    thinking,
    forgotten,
    forms,
)


def audit(
    path: str | Path,
    model: str | None = None,
    rows: Any = None,
    *,
    say: Callable[[str], None] = lambda line: None,
    page: bool = True,
) -> list[Line]:
    """Audit a run's folder; returns one `Line` a finding, and writes audit.html beside the run.

    Args:
        path: a folder of `qwen3lab tune`, or any with an adapter or model.
        model: the base; default: the one that the record or the adapter names.
        rows: held-out rows to ask; default: those of the run.
        say: takes each line as it is found.
        page: write audit.html.
    Raises:
        Qwen3labError: no folder, nothing to audit in it, or a base that is not there.
    """
    run, lines = Run(path, model, rows), []
    broken = False
    for check in CHECKS:
        if broken and check in (trained_share, reproduces, stops, thinking, forms):
            continue  # there is no model to ask
        for line in _made(check, run):
            lines.append(line)
            say(str(line))
            broken |= line.check == "adapter not saved" and "no adapter" in line.figure
    if page:
        folder.write_text(run.path / "audit.html", report(run, lines).html)
    return lines


def _made(check: Callable[[Run], Iterator[Line]], run: Run) -> Iterator[Line]:
    """Make a check; what it cannot do because of the run's files is a fault of the run."""
    try:
        yield from check(run)
    except Qwen3labError as error:
        yield Line(FAULT, check.__name__.replace("_", " "), error.what, error.advice)


def report(run: Run, lines: Sequence[Line]) -> Any:
    """Build the audit's page: its lines as a table, and three rows with what was trained."""
    import pandas as pd

    from qwen3lab.evaluation.report_card import Card, Section

    class Words(Section):
        """A section whose table holds words, which are read from the left."""

        def to_html(self) -> str:
            cell = '<td style="text-align:left">'
            return super().to_html().replace("<td>", cell)

    counts = {level: sum(line.level == level for line in lines) for level in (OK, WARNING, FAULT)}
    told = ", ".join(f"{n} {level}" for level, n in counts.items())
    table = pd.DataFrame(
        [[line.check, line.level, line.figure, line.advice] for line in lines],
        columns=["looked at", "found", "figure", "what to do"],
    )
    masks = Section(
        "Trained tokens",
        ["The first rows as they were trained; ⟦ ⟧ hold what the loss counts."],
        examples=decoded_masks(run),
    )
    return Card(f"Audit: {run.path.resolve().name}", [Words("Findings", [told], table), masks])
