"""Kill `qwen3lab tune` at random moments, call it again, and compare with a run left alone.

`python tests/killed.py FOLDER [KILLS]`; every run is a process of its own, killed by SIGKILL.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

from planted import rehearsed

from qwen3lab.tuning import folder

WEIGHTS = "adapter_model.safetensors"


def start(source: Path, out: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "qwen3lab.course.cli", "tune", str(source), "--out", str(out)]
    options = ["--steps", "40", "--answered", "10", "--batch", "8"]
    return subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def main(place: Path, kills: int = 10) -> None:
    """Run once alone, then killed and resumed; print each moment and the comparison."""
    source, rng = folder.write_rows(place / "rows.jsonl", rehearsed(100)), random.Random(0)
    begun = time.monotonic()
    alone = start(source, place / "alone")
    said, _ = alone.communicate()
    assert alone.returncode == 0, said
    whole = time.monotonic() - begun
    wanted = folder.read(place / "alone")
    print(f"alone: {whole:.0f} s, loss {wanted['loss']}", flush=True)
    done, runs, same = 0, 0, 0
    while done < kills or not same == runs:
        out, runs = place / f"killed-{runs}", runs + 1
        while True:
            process = start(source, out)
            moment = rng.uniform(2, whole)
            try:
                said, _ = process.communicate(timeout=moment if done < kills else None)
                break
            except subprocess.TimeoutExpired:
                process.kill()
                said, _ = process.communicate()
                done += 1
                last = said.strip().splitlines()[-1:] or ["nothing said yet"]
                print(f"kill {done} after {moment:.1f} s: {last[0]}", flush=True)
        assert process.returncode == 0, said
        found = folder.read(out)
        equal = (out / WEIGHTS).read_bytes() == (place / "alone" / WEIGHTS).read_bytes()
        keys = ("loss", "tokens", "steps", "scores")
        same += equal and all(found[key] == wanted[key] for key in keys)
        print(f"finished: loss {found['loss']}, weights equal: {equal}", flush=True)
    print(f"{done} kills, {runs} runs finished, {same} equal to the one left alone")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:3]))
