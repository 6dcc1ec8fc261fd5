"""Write a run's report (HTML), its model card for the hub, and the commands that serve it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen3lab.evaluation.report_card import Card, Section, shorten
from qwen3lab.tuning import questions

if TYPE_CHECKING:
    import pandas as pd

    from qwen3lab.training.sft import Run

SHOWN = 5  # rows of each kind in the report


def report(record: dict[str, Any], run: Run, before: pd.DataFrame, after: pd.DataFrame) -> Card:
    """Build a run's report: data, training, scores before and after, answers, memory and time."""
    import pandas as pd

    from qwen3lab.plots import training

    counts = record["counts"]
    data = Section(
        "Rows",
        [
            f"{counts['read']:,} read, {counts['refused']:,} refused, {counts['copies']:,} exact"
            f" copies, {counts['train']:,} trained on, {counts['held_out']:,} held out. Rows whose"
            " prompts are near-copies are on one side."
        ],
    )
    trained = Section(
        "Training",
        [
            f"{run.summary()}.",
            f"Learning rate {run.settings['learning_rate']:g},"
            f" {run.settings['per_device_train_batch_size']} rows at a time, seed"
            f" {run.settings['seed']}. Base: {record['model']}.",
            f"On this machine: {run.cost()}.",
        ],
        chart=training.loss_curves({"training": run.history}),
        description="Loss by optimiser step.",
    )
    scores = Section(
        "Before and after",
        [
            "On rows that were held out, and on sixty questions for skills from before. Intervals"
            " of 95 % resample the questions (Wilson's for right or wrong); a difference is of the"
            " same questions."
        ],
        pd.DataFrame(record["scores"], columns=questions.COLUMNS),
    )
    return Card(f"Tuned: {record['model']}", [data, trained, scores, *_answers(before, after)])


def _answers(before: pd.DataFrame, after: pd.DataFrame) -> list[Section]:
    """Show answers by a fixed rule: the first five rows, then the five that score lowest."""
    own = after[(after.part == "own") & after.get("score", 0).notna()]
    if "score" not in after or own.empty:
        return []
    first = list(own.index[:SHOWN])
    rest = own.drop(first).sort_values("score", kind="stable").index[:SHOWN]
    sections = []
    for heading, places in (("The first answers", first), ("The worst of the others", rest)):
        texts = []
        for place in places:
            line = after.loc[place]
            texts += [
                (f"Asked: {line.id}, score {line.score:.2f}", line.asked),
                ("Wanted", line.reference),
                ("Before", before.loc[place].prediction),
                ("After", line.prediction),
            ]
        shown = [(label, shorten(str(text))) for label, text in texts]
        sections.append(Section(heading, examples=shown))
    return [section for section in sections if section.examples]


def licence(model: str) -> str | None:
    """Name the licence of a released Qwen3 model; None for any other, whose owner has to say."""
    name = model.rsplit("/", 1)[-1]
    return "apache-2.0" if model.startswith("Qwen/") and name.startswith("Qwen3-") else None


def model_card(record: dict[str, Any], extra: str = "") -> str:
    """Write a model card: front matter for the hub, use, data, exam, and what was not looked at.

    No row of the training data is in it. `extra`: further sections.
    """
    from huggingface_hub import ModelCardData

    full = record["method"] == "full"
    front = ModelCardData(
        base_model=record["model"],
        base_model_relation="finetune" if full else "adapter",
        library_name="transformers" if full else "peft",
        pipeline_tag="text-generation",
        license=licence(record["model"]),
        tags=["sft", "trl", *([] if full else ["lora"])],
    )
    counts, name = record["counts"], Path(record["model"]).name
    table = [questions.COLUMNS, ["---"] * len(questions.COLUMNS), *record["scores"]]
    scores = "\n".join(f"| {' | '.join(line)} |" for line in table)
    kind = "all weights" if full else f"a LoRA adapter (rank {record['adapter'].get('r')})"
    return f"""---
{front.to_yaml()}
---

# {name}, fine-tuned

{kind[0].upper()}{kind[1:]} of `{record["model"]}`, trained with TRL's `SFTTrainer`
on the last answer of each conversation.

## Use

```python
{_use(record)}
```
{extra}
## Data

{counts["train"]:,} conversations to train on, {counts["held_out"]:,} held out;
rows whose prompts are near-copies are on one side.
{counts["refused"]:,} rows of the file were refused.
{_thoughts(record)}

## Training

{record["steps"]:,} steps, {record["tokens"]:,} tokens, loss {record["loss"][0]:.3f} to
{record["loss"][1]:.3f}; {record["trained"]:,} of {record["parameters"]:,} parameters.
The settings are in `sft.yaml`, the libraries' versions in `run.json`. {record["date"]}.

## Exam

{scores}

Intervals of 95 % resample the questions. "Old skills" are sixty questions on reading a text,
refusing, adding and repeating.

## Not looked at

Safety, bias, other languages than those of the rows, and anything that the held-out rows do
not ask.
"""


def _thoughts(record: dict[str, Any]) -> str:
    thinks, n = record["thinks"], record["counts"]["train"]
    if not thinks:
        return "No row has thoughts: ask with `enable_thinking=False`."
    return f"{thinks:,} of {n:,} rows have thoughts: ask those with `enable_thinking=True`."


def _use(record: dict[str, Any]) -> str:
    """Write the lines of Python that load the result and ask it."""
    thinking = 2 * record["thinks"] > record["counts"]["train"]
    if record["method"] == "full":
        load = 'model = AutoModelForCausalLM.from_pretrained("FOLDER")'
        imports = "from transformers import AutoModelForCausalLM, AutoTokenizer"
    else:
        load = 'model = AutoPeftModelForCausalLM.from_pretrained("FOLDER")'
        imports = (
            "from peft import AutoPeftModelForCausalLM\nfrom transformers import AutoTokenizer"
        )
    return f"""{imports}

{load}
tokenizer = AutoTokenizer.from_pretrained("FOLDER")
messages = [{{"role": "user", "content": "…"}}]
inputs = tokenizer.apply_chat_template(
    messages, add_generation_prompt=True, enable_thinking={thinking},
    return_dict=True, return_tensors="pt",
)
out = model.generate(**inputs, max_new_tokens=256)
print(tokenizer.decode(out[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))"""
