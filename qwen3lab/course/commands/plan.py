"""Implement `qwen3lab plan`: compute the memory that a model needs, and the GPUs that it fits."""

from __future__ import annotations

import argparse
import re
from typing import Any

from qwen3lab.course import commands
from qwen3lab.errors import Qwen3labError
from qwen3lab.family import shape
from qwen3lab.memory import activations, gpus
from qwen3lab.memory import planner as memory_planner


def add(into: Any) -> None:
    """Add the command and its options."""
    planner = commands.parser(
        into,
        call,
        "plan",
        "the memory that a model needs",
        "Plan the memory of a model by arithmetic: its parts, and the cards that it fits.",
        "qwen3lab plan 8B --method qlora --batch 4 --length 1024",
        "qwen3lab plan 30B-A3B --method qlora --experts-in-4bit",
        "qwen3lab plan 30B-A3B --method full --gpus 8 --shard zero3",
        "qwen3lab plan 32B --method inference --four-bit --length 32768",
        "qwen3lab plan VL-8B --picture 1280x720 --length 512",
    )
    planner.add_argument(
        "model",
        help="a model of the family (0.6B, 30B-A3B, VL-8B) or a bundled checkpoint (qwen3-tiny)",
    )
    planner.add_argument(
        "--method", choices=memory_planner.METHODS, default="lora", help="default: %(default)s"
    )
    planner.add_argument(
        "--batch", type=int, default=1, help="rows on each GPU at one time (default: %(default)s)"
    )
    planner.add_argument(
        "--length", type=int, default=2048, help="tokens a row (default: %(default)s)"
    )
    planner.add_argument(
        "--picture",
        metavar="WIDTHxHEIGHT",
        help="a picture in each row of a Qwen3-VL, whose tokens come on top of --length",
    )
    planner.add_argument(
        "--checkpointing",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="compute activations again instead of keeping them (default: yes)",
    )
    planner.add_argument("--padded", action="store_true", help="the rows differ in length")
    planner.add_argument(
        "--head",
        choices=activations.HEADS,
        default="trl",
        help="output head in tiles, as TRL has it, all logits at once, or loss and gradient of a"
        " frozen head in one pass",
    )
    planner.add_argument("--compiled", action="store_true", help="each decoder layer is compiled")
    planner.add_argument("--rank", type=int, default=16, help="of the LoRA (default: %(default)s)")
    planner.add_argument(
        "--targets",
        choices=("attention", "all-linear"),
        help="of the LoRA (default: all-linear, for a mixture of experts attention)",
    )
    planner.add_argument(
        "--optimiser",
        choices=memory_planner.OPTIMISERS,
        default="adamw",
        help="default: %(default)s",
    )
    planner.add_argument(
        "--float32", action="store_true", help="weights and products in float32 instead of bfloat16"
    )
    planner.add_argument(
        "--float16",
        action="store_true",
        help="float16 with loss scaling, as on a T4: what is trained is float32, also with QLoRA",
    )
    planner.add_argument("--four-bit", action="store_true", help="inference on 4-bit weights")
    planner.add_argument(
        "--experts-in-4bit", action="store_true", help="assume that 4 bits cover the experts too"
    )
    planner.add_argument(
        "--upcast", action="store_true", help="QLoRA after peft.prepare_model_for_kbit_training()"
    )
    planner.add_argument(
        "--gpus", type=int, default=1, help="split over so many GPUs (default: %(default)s)"
    )
    planner.add_argument(
        "--shard", choices=tuple(memory_planner.SHARDS), help="how they split (default: zero3)"
    )


def call(args: argparse.Namespace) -> int:
    """Print the memory plan of one model and method, the GPUs that it fits, and caveats."""
    pictured = _pictured(args)
    step = {"batch": args.batch, "length": args.length + pictured}
    if args.method != "inference":
        step |= {"checkpointing": args.checkpointing, "padded": args.padded, "head": args.head}
        step |= {"compiled": args.compiled}
    options = {
        "rank": args.rank,
        "targets": args.targets,
        "bytes_per_weight": 4 if args.float32 else 2,
        "float16": args.float16,
        "optimiser": args.optimiser,
        "four_bit": args.four_bit,
        "experts_in_4bit": args.experts_in_4bit,
        "upcast": args.upcast,
        "gpus": args.gpus,
        "shard": args.shard or ("zero3" if args.gpus > 1 else None),
    }
    made = memory_planner.plan(args.model, args.method, **options, **step)
    commands.say(made.table())
    rows = f"{args.batch} row{'s' * (args.batch != 1)} of {args.length + pictured:,} tokens"
    if args.gpus > 1 and args.method != "inference":
        rows = f"{rows} on each GPU"
    if args.method == "inference":
        commands.say(f"  for {rows}, prompt and answer")
    else:
        static = memory_planner.plan(args.model, args.method, **options).total
        commands.say(
            f"  for {rows}; without a batch {static / 1e9:.3f}"
            f" GB; highest moment without gradient accumulation {made.peak / 1e9:.3f} GB"
        )
    older = _for_older_cards(args, options, step)
    fits, small = gpus.fitting(made, older)
    if older is None:
        small += [card for card in fits if not card.bfloat16]
        fits = [card for card in fits if card.bfloat16]
    commands.say(
        "fits:         "
        + (
            ", ".join(f"{card.name} ({card.share(made):.0%})" for card in fits)
            or "none of the cards in the table"
        )
    )
    commands.say("does not fit: " + (", ".join(card.name for card in small) or "none"))
    for note in _notes(args, [*fits, *small]):
        commands.say(f"note: {note}")
    return 0


def _pictured(args: argparse.Namespace) -> int:
    """Count the tokens that the picture of --picture adds to a row, its two marks included.

    Raises:
        Qwen3labError: a size that cannot be read, or a model that sees no pictures.
    """
    if args.picture is None:
        return 0
    vision, size = (
        shape(args.model).vision,
        re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})", args.picture),
    )
    if vision is None or size is None:
        raise Qwen3labError(
            f"{args.model} cannot be given a picture of {args.picture!r}. Name a Qwen3-VL, such as"
            " VL-8B, and a size in pixels, such as 1280x720."
        )
    return vision.tokens(int(size[2]), int(size[1])) + 2


def _for_older_cards(
    args: argparse.Namespace, options: dict[str, Any], step: dict[str, Any]
) -> memory_planner.Plan | None:
    """Plan the same for cards without bfloat16; None where they cannot do what was asked for."""
    try:
        return memory_planner.plan(
            args.model, args.method, **options | {"float16": not args.float32}, **step
        )
    except Qwen3labError:
        return None


def _notes(args: argparse.Namespace, cards: list[gpus.Card]) -> list[str]:
    """List the caveats of the figures, one sentence each."""
    s, expert_lora = shape(args.model), args.targets == "all-linear"
    notes = [
        f"1 GB = 10^9 bytes; {gpus.RESERVE / 1e9:.0f} GB a card is kept free for driver and"
        " libraries; above 90 % it may still run out."
    ]
    if s.vision:
        side = s.vision.patch * s.vision.merge
        notes.append(
            f"A picture is one token for {side} x {side} pixels"
            + (f": here {_pictured(args) - 2:,} tokens and two marks. " if args.picture else ". ")
            + f"The vision encoder ({s.vision_parameters / 1e6:,.0f} M parameters) is counted as"
            " frozen, in 16 bits, without adapters; its activations are not counted."
            * (args.method in ("lora", "qlora"))
        )
    if args.method != "inference" and not args.padded:
        notes.append(
            "Rows of equal length (or packed); --padded adds the mask and the repeated keys and"
            " values of a padded batch."
        )
    if args.method == "qlora" and s.is_moe:
        notes.append(
            "Nothing but a patched loader quantises the experts, and adapters on such experts are"
            " refused."
            if args.experts_in_4bit
            else (
                "bitsandbytes leaves the experts in 16 bits; --experts-in-4bit shows what it would"
                " save."
            )
        )
        if not args.upcast:
            notes.append(
                "peft.prepare_model_for_kbit_training() would turn all that is not in 4 bits into"
                " float32; --upcast shows it."
            )
    if args.method in ("lora", "qlora") and s.is_moe and expert_lora and not args.checkpointing:
        notes.append(
            "Without checkpointing PEFT keeps a second copy of all experts for the backward pass."
        )
    if args.method == "full" and args.optimiser == "adamw":
        notes.append(
            "16 bytes a parameter: weight, gradient and two moments in float32, or the same in"
            " DeepSpeed's 2 + 2 + 12."
        )
    if not args.float32:
        notes += _float16(args, next(card.name for card in cards if not card.bfloat16))
    return notes


def _float16(args: argparse.Namespace, card: str) -> list[str]:
    """Say what a card without bfloat16 does instead."""
    if args.method == "inference":
        return [f"The {card} has no bfloat16: its weights are float16, of the same size."]
    if args.method == "full" and args.optimiser != "adamw":
        return [
            f"The {card} has no bfloat16: loss scaling needs float32 weights, which"
            f" {args.optimiser!r} does not keep."
        ]
    counts = "; --float16 counts it" if args.method == "qlora" and not args.float16 else ""
    return [
        f"The {card} has no bfloat16: float16 with loss scaling, what is trained in float32"
        f"{counts}. Steps that overflow are left out (float16 ends at 65,504)."
    ]
