"""Train with rewards that a program computes: GRPO, and rejection sampling beside it.

The loop is short so that it can be read. `trl.GRPOTrainer` does the same with more settings;
`tests/training/test_rewards.py` compares advantages, loss and gradient.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from qwen3lab import profiles
from qwen3lab.data import tasks
from qwen3lab.data.rows import ask
from qwen3lab.evaluation.scoring import exact_match, is_refusal
from qwen3lab.from_scratch.grpo import group_advantages, policy_loss
from qwen3lab.models import batching, generation

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Reward = Callable[..., list[float]]
EACH = 100  # questions of the exam with an answer, and as many without


def reading_rows() -> list[dict[str, Any]]:
    """Select the rehearsal rows that ask on a text; their names are not in the exam."""
    return [
        row for row in tasks.load("chat", "train") if row["task"] in ("context", "unanswerable")
    ]


def reading_exam() -> list[dict[str, Any]]:
    """Select the first test rows that ask on a text, with and without an answer."""
    return tasks.load("context", "test")[:EACH] + tasks.load("unanswerable", "test")[:EACH]


def right(completions: Sequence[Any], answer: Sequence[str], **_: Any) -> list[float]:
    """Reward an exact match with 1 and all else with 0; the arguments are those of TRL.

    Args:
        completions: one a sample: text, or a list whose first message holds it.
        answer: the reference of each.
    """
    return [float(exact_match(_text(said), wanted)) for said, wanted in zip(completions, answer)]


def right_or_silent(completions: Sequence[Any], answer: Sequence[str], **_: Any) -> list[float]:
    """Reward a refusal with 0, whatever was asked, a right answer with 1, a wrong one with -1."""
    texts = list(map(_text, completions))
    return [
        0.0 if is_refusal(said) else 2 * float(exact_match(said, wanted)) - 1
        for said, wanted in zip(texts, answer)
    ]


def _text(completion: Any) -> str:
    return completion if isinstance(completion, str) else completion[0]["content"]


def sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    draws: int,
    *,
    longest: int = 16,
    temperature: float = 1.0,
) -> list[list[int]]:
    """Draw answers to encoded prompts; each prompt is read once for all its draws.

    Returns:
        `draws` answers to the first prompt, then those to the second, and so on: new ids with their
        end token; without one, where `longest` tokens came first.
    """
    import torch

    ends = torch.tensor(generation.end_tokens(tokenizer, model), device=model.device)
    fill = generation.pad_token(tokenizer)
    ids, mask = batching.pad(prompts, fill, "left", model.device)
    with batching.reading(model, most_threads=1):  # one token at a time gains nothing from two
        read = model(
            ids, attention_mask=mask, position_ids=batching.positions(mask), use_cache=True
        )
        cache = read.past_key_values
        cache.batch_repeat_interleave(draws)
        logits = read.logits[:, -1].repeat_interleave(draws, 0)
        mask = mask.repeat_interleave(draws, 0)
        drawn: list[torch.Tensor] = []
        over = torch.zeros(len(logits), dtype=torch.bool, device=model.device)
        while True:
            token = torch.multinomial((logits / temperature).softmax(-1), 1)
            token[over] = fill
            drawn.append(token)
            over = over | torch.isin(token[:, 0], ends)
            if over.all() or len(drawn) == longest:
                break
            mask = torch.cat([mask, torch.ones_like(token)], 1)
            place = batching.positions(mask)[:, -1:]
            step = model(token, attention_mask=mask, position_ids=place, past_key_values=cache)
            logits = step.logits[:, -1]
    return [_ended(row, set(ends.tolist())) for row in torch.cat(drawn, 1).tolist()]


def _ended(row: list[int], ends: set[int]) -> list[int]:
    """Cut an answer behind its first end token."""
    return row[: next((at + 1 for at, token in enumerate(row) if token in ends), len(row))]


def log_probs(
    model: PreTrainedModel, prompts: Sequence[list[int]], answers: Sequence[list[int]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute ln p of each token of the answers, with gradient: (log_probs, mask), [rows, length].

    Each prompt is read once, and its keys and values serve all its answers.

    Args:
        prompts: encoded.
        answers: as many to each prompt, those to one prompt side by side, as `sample` gives them.
    """
    import torch

    draws = len(answers) // len(prompts)
    asked, seen = batching.pad(prompts, 0, "left", model.device)
    said, mask = batching.pad(answers, 0, "right", model.device)
    read = model(asked, attention_mask=seen, position_ids=batching.positions(seen), use_cache=True)
    cache = read.past_key_values
    cache.batch_repeat_interleave(draws)
    both = torch.cat([seen.repeat_interleave(draws, 0), mask], 1)[:, :-1]
    places = batching.positions(both)[:, asked.shape[1] :]
    rest = model(said[:, :-1], attention_mask=both, position_ids=places, past_key_values=cache)
    first = read.logits[:, -1:].repeat_interleave(draws, 0)
    logits = torch.cat([first, rest.logits], 1)
    return logits.log_softmax(-1).gather(-1, said[..., None])[..., 0], mask


def draw(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[dict[str, Any]],
    reward: Reward,
    draws: int,
    **settings: Any,
) -> tuple[list[list[int]], list[list[int]], list[str], list[float]]:
    """Draw answers to rows and reward them: (prompts, answers, texts, rewards).

    The last three have `draws` entries for each row, side by side.
    """
    prompts = [ask(tokenizer, row) for row in rows]
    answers = sample(model, tokenizer, prompts, draws, **settings)
    texts = [tokenizer.decode(answer, skip_special_tokens=True).strip() for answer in answers]
    wanted = [row["answer"] for row in rows for _ in range(draws)]
    return prompts, answers, texts, reward(completions=texts, answer=wanted)


def grpo(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[dict[str, Any]],
    reward: Reward = right,
    *,
    steps: int = 24,
    prompts: int = 8,
    draws: int = 8,
    learning_rate: float = 1e-4,
    longest: int = 16,
    seed: int = 0,
) -> pd.DataFrame:
    """Train all weights of a model, in place, by group relative policy optimisation.

    Answers whose group agrees have an advantage of 0 and therefore no gradient: they are left out
    of the backward pass, which saves most of the time on a task that is nearly solved.

    Args:
        rows: of `data/tasks`; they are asked in a random order, again and again.
        reward: a function of `completions` and `answer`, as TRL calls it.
    Returns:
        One line a step: step, reward (mean of all draws), refused (share), agreed (share of the
        groups without a gradient), loss, seconds (of one processor).
    """
    import pandas as pd
    import torch

    torch.manual_seed(seed)
    steps = profiles.smoke_steps(steps)
    order, queue = random.Random(seed), []
    model.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0)
    lines = []
    for step in range(1, steps + 1):
        start = time.process_time()
        if len(queue) < prompts:
            queue = order.sample(list(rows), len(rows))
        batch, queue = queue[:prompts], queue[prompts:]
        # 1. Eight answers to each of eight questions, and what each is worth.
        asked, answers, texts, rewards = draw(
            model, tokenizer, batch, reward, draws, longest=longest
        )
        # 2. Better or worse than the other answers to the same question?
        worth = group_advantages(torch.tensor(rewards), draws)
        # 3. One step that makes the better ones likelier.
        groups = [one for one in range(len(batch)) if worth[one * draws : (one + 1) * draws].any()]
        used = [one * draws + at for one in groups for at in range(draws)]
        loss = torch.zeros(())
        if groups:
            new, mask = log_probs(
                model, [asked[one] for one in groups], [answers[place] for place in used]
            )
            share = mask.sum() / sum(map(len, answers))  # the mean is over the tokens of all draws
            loss = policy_loss(new, new.detach(), worth[used].to(model.device), mask) * share
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        lines.append(
            {
                "step": step,
                "reward": sum(rewards) / len(rewards),
                "refused": sum(map(is_refusal, texts)) / len(texts),
                "agreed": 1 - len(used) / len(answers),
                "loss": float(loss.detach()),
                "seconds": time.process_time() - start,
            }
        )
    model.eval()
    return pd.DataFrame(lines)


def accepted(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[dict[str, Any]],
    reward: Reward = right,
    *,
    draws: int = 8,
    longest: int = 16,
    seed: int = 0,
    batch_size: int = 16,
) -> list[dict[str, Any]]:
    """Draw answers and keep those of the highest reward, 1: the rows of rejection sampling.

    Returns rows for `fine_tune`, each different answer to a question once.
    """
    import torch

    torch.manual_seed(seed)
    kept: dict[tuple[int, str], dict[str, Any]] = {}
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        found = draw(model, tokenizer, batch, reward, draws, longest=longest)
        for place, (text, worth) in enumerate(zip(found[2], found[3])):
            if worth >= 1:
                row = batch[place // draws]
                kept[start + place // draws, text] = row | {"answer": text}
    return list(kept.values())
