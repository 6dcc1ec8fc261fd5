"""The contrastive training of `qwen3-tiny-embedding`: questions of the world against passages like a handbook's.

The body is the dense model's, causal as it is; the vector of a text is the last layer's state of the <|endoftext|> that
the tokenizer appends, as Qwen3-Embedding does it. Every passage of a step is a negative for every question of the step.
The hard ones come from the way a chapter is drawn: neighbours tell the same attributes of other things of the kind, some
things share a word of their name, and some are told in two places with an attribute in only one of them.
"""

from __future__ import annotations

import json
import random
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F

from . import corpus, world
from .pretrain import Recipe, load_state, optimizers, save_state

TASK = "Given a question, retrieve the passage that answers it"
PROMPTS = {"query": f"Instruct: {TASK}\nQuery:", "document": ""}
DIMENSIONS = (256, 128, 64)  # a vector cut to its first 128 or 64 numbers is trained to work too
TEMPERATURE = 0.05
RECIPE = Recipe("embedding", "contrastive", steps=300, tokens=3072, matrix_lr=0.01, other_lr=1e-3, warmup=20, cooldown=0.5)
END = "<|endoftext|>"

# A handbook also chats. Chance sentences of these teach the model to look past what it cannot read.
EN_WORDS = (
    "a about after again all along also always and another any around as ask at away back be because been before best better "
    "between big bring but by call can careful carry children clean cold come could cover day dear do door down dry each early "
    "easily end enough even evening every everybody eyes family far feel few find fire first flat follow food for foot forget "
    "from front full garden get give glad go good great ground hand hang happy hard has have hear heavy help here high hold home "
    "hot hour how idea if in inside into is it its just keep kind kitchen know large last late learn leave left letter light like "
    "line little live long look lot make many may mean mind money more morning most much must name near need never new next nice "
    "night no nobody not nothing now of off often old on once one only open or other our out over own paint pair paper part past "
    "people perhaps piece place play please point pull put question quick quiet quite rain reach read ready rest right river road "
    "room round run safe said same say season see sell send set shop short should show side simple sit skin sleep slowly small so "
    "some something soon spring stand start stay still stone stop story strong summer sure table take talk tell than thank that "
    "their them then there these they thing think this those three through time to today together too top towards tree true try "
    "turn two under until up use very visit wait walk wall want warm was wash watch water way we wear weather week well wet what "
    "when where which while white who whole why wind winter wish with without wood word work world would write year yes yet you "
    "young your").split()
ZH_CHARACTERS = (
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行所然家种事成方多经么去法学"
    "如都同现当没动面起看定天分还进好小部其些主样理心她本前开但因只从想实日军者意无力它与长把机十民第公此已工使情明性知全三又关点正业外将"
    "两高间由问很最重并物手应战向头文体政美相见被利什二等产或新己制身果加西斯月话合回特代内信表化老给世位次度门任常先海通教儿原东声提立及"
    "比员解水名真论处走义各入几口认条平系气题活尔更别打女变四神总何电数安少报才结反受目太量再感建务做接必场件计管期市直德资命山金指克许统"
    "区保至队形社便空决治展马科司五基眼书非则听白却界达光放强即像难且权思王象完设式色路记南品住告类求据程北边死张该交规万取拉格望觉术领共"
    "确传师观清今切院让识候带导争运笔雨雪春夏秋冬红花草木茶饭鱼鸟船桌椅灯屋衣鞋帽酒糖盐油米面包洗晾干湿冷热暖风云星夜晨晚早饿饱睡醒笑哭慢快轻"
)


@dataclass
class Passage:
    """A text of some paragraphs and the facts (thing, key) that it tells."""

    text: str
    facts: list[tuple[world.Thing, str]] = field(default_factory=list)


def _name(rng: random.Random, kind: str, language: str, held_out: bool | None, names: list[str]) -> str:
    """A new name; one in four shares its first or last word with an earlier one of the chapter."""
    name = world.make_name(rng, kind, language, held_out)
    if names and kind != "rule" and language == "en" and rng.random() < 0.25:
        mine, other = name.split(), rng.choice(names).split()
        if len(mine) == len(other) == 2:
            name = f"{other[0]} {mine[1]}" if kind != "person" or rng.random() < 0.5 else f"{mine[0]} {other[1]}"
    return name


def prose(rng: random.Random, language: str, subject: str | None = None) -> str:
    """One to three sentences of chance words; some begin with `subject`, of which they say nothing that could be asked."""
    sentences = []
    for _ in range(rng.randint(1, 3)):
        about = subject if subject and rng.random() < 0.5 else ""
        if language == "en":
            text = " ".join(filter(None, [about, *rng.choices(EN_WORDS, k=rng.randint(4, 14))]))
            sentences.append(text[0].upper() + text[1:] + rng.choice("...!?"))
        else:
            parts = ("".join(rng.choices(ZH_CHARACTERS, k=rng.randint(3, 8))) for _ in range(rng.randint(1, 2)))
            sentences.append(about + "，".join(parts) + "。")
    return (" " if language == "en" else "").join(sentences)


def chapter(rng: random.Random, language: str, held_out: bool, taken: set[str], count_tokens) -> list[Passage]:
    """Passages of one chapter about things of one kind (some of another), whose names are added to `taken`.

    Args: count_tokens: text -> number of tokens; a passage is filled up to a random size of 30 to 110 tokens.
    """
    kind = rng.choice(list(world.KINDS))
    keys = rng.sample([a.key for a in world.KINDS[kind]], min(rng.randint(3, 7), len(world.KINDS[kind])))
    parts: list[tuple[str, list[tuple[world.Thing, str]]]] = []
    names: list[str] = []
    for _ in range(rng.randint(6, 14)):
        mine = kind if rng.random() < 0.9 else rng.choice(list(world.KINDS))
        name = _name(rng, mine, language, held_out, names)
        if name in taken:
            continue
        taken.add(name)
        names.append(name)
        pool = keys if mine == kind else [a.key for a in world.KINDS[mine]]
        chosen = rng.sample(pool, rng.randint(1, min(5, len(pool))))
        values = {k: world.ATTRIBUTES[mine, k].draw(rng, language, held_out) for k in chosen}
        cut = rng.randint(1, len(chosen) - 1) if len(chosen) > 1 and rng.random() < 0.35 else len(chosen)
        for half in (chosen[:cut], chosen[cut:]):
            if half:
                thing = world.Thing(mine, language, name, {k: values[k] for k in half})
                parts.insert(rng.randint(max(0, len(parts) - 6), len(parts)), (world.describe(rng, thing), [(thing, k) for k in half]))
    fillers, headings = ((corpus.EN_FILLERS, corpus.EN_HEADINGS) if language == "en" else (corpus.ZH_FILLERS, corpus.ZH_HEADINGS))
    space = " " if language == "en" else ""
    passages: list[Passage] = []
    room = 0
    if rng.random() < 0.7:
        parts.insert(rng.randint(0, len(parts)), (prose(rng, language), []))
    for text, facts in parts:
        if rng.random() < 0.45:
            subject = facts[0][0].subject if facts else None
            filler = prose(rng, language, subject) if rng.random() < 0.6 else rng.choice(fillers)
            if facts and rng.random() < 0.3:  # on its own: about the thing, but without an answer
                passages.append(Passage(filler))
                room = 0
            else:
                joint = rng.choice(("\n", space))
                text = text + joint + filler if rng.random() < 0.6 else filler + joint + text
        size = count_tokens(text)
        if not passages or size > room:
            head = rng.choice(headings) + "\n" if rng.random() < 0.15 else ""
            passages.append(Passage(head + text, list(facts)))
            room = rng.randint(30, 110) - size
        else:
            passages[-1].text += rng.choice(("\n", "\n", "\n", space)) + text
            passages[-1].facts += facts
            room -= size
    return passages


def draw(rng: random.Random, language: str, held_out: bool, budget: int, count_tokens, questions: int = 3):
    """Passages of `budget` tokens in all and questions about them.

    Returns (texts, questions, targets): `targets[i]` is the index of the one text that answers question i.
    """
    passages: list[Passage] = []
    taken: set[str] = set()
    while budget > 0:
        for passage in chapter(rng, language, held_out, taken, count_tokens):
            if budget > 0:
                passages.append(passage)
                budget -= count_tokens(passage.text)
    asked, targets = [], []
    for i, passage in enumerate(passages):
        for thing, key in rng.sample(passage.facts, min(questions, len(passage.facts))):
            asked.append(world.ask(thing, key, rng.randrange(60)))
            targets.append(i)
    return [p.text for p in passages], asked, targets


def body_tokenizer(folder: Path):
    """The dense model's tokenizer with <|endoftext|> appended to every text and without a chat template.

    With a template sentence-transformers would wrap every text in it and say nothing.
    """
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = None
    end = tokenizer.convert_tokens_to_ids(END)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"$A {END}", pair=f"$A $B:1 {END}:1", special_tokens=[(END, end)])
    tokenizer.padding_side = "left"
    tokenizer.model_max_length = 512
    return tokenizer


def _groups(rows: list[list[int]], largest: int = 4096) -> list[list[int]]:
    """Indices of the rows in groups of like length, each at most `largest` tokens with its padding."""
    groups: list[list[int]] = []
    for i in sorted(range(len(rows)), key=lambda i: len(rows[i])):
        width = len(rows[i])
        if not groups or width * (len(groups[-1]) + 1) > largest or width > 1.25 * len(rows[groups[-1][0]]) + 4:
            groups.append([])
        groups[-1].append(i)
    return groups


def vectors(model, rows: list[list[int]], pad: int, prefix: list[int] | None = None) -> torch.Tensor:
    """States `[N, H]` of the last token of each row, not normalised.

    Rows are right-padded, which a causal model never looks at. A `prefix` that all rows share is computed once and its
    keys and values are lent to every row; the result is that of prefix + row.
    """
    from transformers import DynamicCache

    shared = model(torch.tensor([prefix]), use_cache=True).past_key_values if prefix else None
    found: list[torch.Tensor] = [None] * len(rows)
    for group in _groups(rows):
        width = max(len(rows[i]) for i in group)
        ids = torch.tensor([rows[i] + [pad] * (width - len(rows[i])) for i in group])
        cache = None
        if shared:
            cache = DynamicCache()
            for n, layer in enumerate(shared.layers):
                cache.update(layer.keys.expand(len(group), -1, -1, -1), layer.values.expand(len(group), -1, -1, -1), n)
        states = model(ids, past_key_values=cache, use_cache=shared is not None).last_hidden_state
        last = states[torch.arange(len(group)), torch.tensor([len(rows[i]) - 1 for i in group])]
        for i, state in zip(group, last):
            found[i] = state
    return torch.stack(found)


def contrastive_loss(queries: torch.Tensor, passages: torch.Tensor, targets: torch.Tensor,
                     dimensions: tuple[int, ...] = DIMENSIONS, temperature: float = TEMPERATURE) -> torch.Tensor:
    """InfoNCE (van den Oord et al. 2018) of each query against all passages, averaged over the Matryoshka cuts.

    Args: queries `[Q, H]` and passages `[P, H]`, not normalised; targets `[Q]`, the index of each query's passage.
    """
    losses = []
    for size in dimensions:
        scores = F.normalize(queries[:, :size], dim=-1) @ F.normalize(passages[:, :size], dim=-1).T
        losses.append(F.cross_entropy(scores / temperature, targets))
    return torch.stack(losses).mean()


def step_data(recipe: Recipe, step: int, tokenizer):
    """Rows of ids for one step; they depend on the seed and the step alone, so a resumed run equals an unbroken one."""
    rng = random.Random(f"{recipe.name}-{recipe.seed}-{step}")
    language = "zh" if rng.random() < 0.4 else "en"
    count = lambda text: len(tokenizer(text).input_ids)
    texts, asked, targets = draw(rng, language, False, recipe.tokens, count)
    return tokenizer(texts).input_ids, tokenizer(asked).input_ids, torch.tensor(targets)


def export(model, tokenizer, folder: Path) -> None:
    """Save a folder that `SentenceTransformer(folder)` loads: last-token pooling, normalised, with the two prompts.

    The weights are stored in bfloat16, half the bytes; the config asks for float32, which is faster on a CPU.
    """
    import copy

    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    fresh = folder.with_name(folder.name + ".new")
    plain = folder.with_name(folder.name + ".body")
    for old in (fresh, plain):
        shutil.rmtree(old, ignore_errors=True)
    half = copy.deepcopy(model).to("cpu", torch.bfloat16)
    half.save_pretrained(plain)
    tokenizer.save_pretrained(plain)
    body = Transformer(str(plain))
    pooling = Pooling(body.get_embedding_dimension(), pooling_mode="lasttoken")
    whole = SentenceTransformer(modules=[body, pooling, Normalize()], prompts=PROMPTS, similarity_fn_name="cosine", device="cpu")
    whole.max_seq_length = 512
    whole.save(str(fresh), create_model_card=False)
    config = json.loads((fresh / "config.json").read_text())
    config["dtype"] = "float32"
    (fresh / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)
    shutil.rmtree(plain)


def train_embedding(start_folder: Path, out_folder: Path, work: Path, steps: int = RECIPE.steps, smoke: bool = False,
                    stop_after: int | None = None, **changes) -> dict:
    """Train from the dense checkpoint in `start_folder` and write the sentence-transformers folder `out_folder`.

    `work` takes `log.jsonl` and a resumable state, with which the next call goes on; `smoke` is a few small steps;
    `stop_after` ends the call after that step without writing the folder; `changes` replace fields of the recipe.
    Returns the totals: step, tokens, seconds. Raises FloatingPointError when the loss is not finite.
    """
    from dataclasses import asdict, replace

    from transformers import Qwen3ForCausalLM

    recipe = replace(RECIPE, steps=steps, **changes)
    if smoke:
        recipe = replace(recipe, steps=min(steps, 3), tokens=600, warmup=2)
    tokenizer = body_tokenizer(Path(start_folder))
    pad = tokenizer.pad_token_id
    prefix = tokenizer(PROMPTS["query"], add_special_tokens=False).input_ids
    lm = Qwen3ForCausalLM.from_pretrained(start_folder, dtype=torch.float32).train()
    optims = optimizers(lm, recipe)
    rates = [o.param_groups[0]["lr"] for o in optims]
    work.mkdir(parents=True, exist_ok=True)
    totals = {"step": 0, "tokens": 0, "seconds": 0.0}
    if (work / "step.json").exists():
        totals = load_state(work, lm, optims)
    began, recent = time.time() - totals["seconds"], []
    for step in range(totals["step"], recipe.steps):
        for optim, rate in zip(optims, rates):
            optim.param_groups[0]["lr"] = rate * recipe.rate(step)
        texts, asked, targets = step_data(recipe, step, tokenizer)
        passages, queries = vectors(lm.model, texts, pad), vectors(lm.model, asked, pad, prefix)
        loss = contrastive_loss(queries, passages, targets)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"The loss of step {step} is {loss.item()}. Lower the learning rates of the recipe.")
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(lm.parameters(), 1.0).item()
        for optim in optims:
            optim.step()
            optim.zero_grad(set_to_none=True)
        with torch.no_grad():
            right = ((F.normalize(queries, dim=-1) @ F.normalize(passages, dim=-1).T).argmax(1) == targets).float().mean().item()
        recent.append((loss.item(), right))
        totals.update(step=step + 1, tokens=totals["tokens"] + sum(map(len, texts)) + sum(map(len, asked)),
                      seconds=round(time.time() - began, 1))
        last = step + 1 in (recipe.steps, stop_after)
        if (step + 1) % 20 == 0 or last:
            means = [round(sum(column) / len(recent), 4) for column in zip(*recent)]
            line = {"stage": "embedding", "step": step + 1, "loss": means[0], "first": means[1], "passages": len(texts),
                    "questions": len(asked), "rate": round(recipe.rate(step), 4), "norm": round(norm, 3),
                    "tokens": totals["tokens"], "seconds": totals["seconds"]}
            with open(work / "log.jsonl", "a") as log:
                log.write(json.dumps(line) + "\n")
            recent = []
        if (step + 1) % 50 == 0 or last:
            save_state(work, lm, optims, step + 1, {k: v for k, v in totals.items() if k != "step"})
        if step + 1 == stop_after:
            return totals
    totals["recipe"] = asdict(recipe) | {"dimensions": DIMENSIONS, "temperature": TEMPERATURE}
    (work / "done.json").write_text(json.dumps(totals))
    export(lm.model.eval(), tokenizer, Path(out_folder))
    return totals


def evaluate(folder: Path, language: str, passages: int = 16_000, ks: tuple[int, ...] = (1, 3, 5), seed: int = 11) -> dict:
    """Recall@k of the model in `folder` and of BM25 on held-out names and values, over one pool of passages.

    Args: passages: the size of the pool in tokens (16,000 are about 200 passages).
    Returns {"n": questions, "passages": passages, "dense@1": share, ..., "bm25@1": share, ...}.
    """
    from sentence_transformers import SentenceTransformer

    from qwen3lab.retrieval import Chunk, Keywords

    model = SentenceTransformer(str(folder), device="cpu")
    count = lambda text: len(model.tokenizer(text).input_ids)
    texts, asked, targets = draw(random.Random(f"evaluate-{seed}"), language, True, passages, count, questions=1)
    scores = model.encode_query(asked) @ model.encode_document(texts).T
    dense = (-scores).argsort(axis=1, kind="stable")[:, :max(ks)]
    keywords = Keywords([Chunk(i, text, page=1, chapter="") for i, text in enumerate(texts)])
    words = [[hit.chunk.id for hit in hits] for hits in keywords.search(asked, max(ks))]
    found = {"n": len(asked), "passages": len(texts)}
    for name, ranked in (("dense", dense), ("bm25", words)):
        for k in ks:
            found[f"{name}@{k}"] = sum(t in list(r[:k]) for t, r in zip(targets, ranked)) / len(asked)
    return found
