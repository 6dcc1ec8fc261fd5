"""Define trainer callbacks: tokens per second, the cost of each step, a live chart."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from qwen3lab.measure import is_live, note

if TYPE_CHECKING:
    from transformers import TrainerCallback


def speed(every: int = 50) -> TrainerCallback:
    """Create a callback that prints throughput during training, for any trainer of transformers.

    It prints lines such as "time · step 50 of 200: 6,100 tokens/s". The tokens are the trainer's
    own count (`num_tokens` in TRL, padding left out), so it needs logging steps.
    """
    from transformers import TrainerCallback

    class Speed(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            self.started, self.printed = time.perf_counter(), 0

        def on_log(self, args, state, control, logs=None, **kwargs):
            if logs and "num_tokens" in logs and state.global_step >= self.printed + every:
                self.printed = state.global_step
                rate = logs["num_tokens"] / (time.perf_counter() - self.started)
                note(f"step {state.global_step} of {state.max_steps}: {rate:,.0f} tokens/s")

    return Speed()


COSTS = ("tokens_per_second", "memory_bytes", "utilisation")


def cost() -> TrainerCallback:
    """Create a callback that adds throughput, memory and utilisation to every logged step.

    They go into `Run.history` and into TensorBoard. tokens_per_second: since the previous logged
    step, padding not counted; memory_bytes: under CUDA the peak of torch's tensors since the start,
    on an Apple GPU their current size, on a CPU the current memory of the process; utilisation: of
    the GPU (Apple's does not tell: not a number), or of one CPU, in [0, 1] (a second busy CPU makes
    it 2).
    """
    import psutil
    from transformers import TrainerCallback

    class Cost(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            self.process, self.time, self.tokens = psutil.Process(), time.perf_counter(), None
            self.process.cpu_percent()  # starts the measurement

        def on_log(self, args, state, control, logs=None, model=None, **kwargs):
            if not logs or "loss" not in logs:
                return
            now, tokens = time.perf_counter(), logs.get("num_tokens", 0.0)
            read, self.time = now - self.time, now
            added = {
                "memory_bytes": _memory_now(self.process, model),
                "utilisation": _utilisation(self.process, model),
            }
            if (
                self.tokens is not None or not state.log_history[:-1]
            ):  # after a resume the first difference includes the earlier run's tokens
                added["tokens_per_second"] = (tokens - (self.tokens or 0)) / read
            self.tokens = tokens
            logs.update(added)
            state.log_history[-1].update(added)

    return Cost()


def _memory_now(process, model) -> int:
    kind = model.device.type if model is not None else "cpu"
    if kind == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(model.device)
    if kind == "mps":
        import torch

        return torch.mps.current_allocated_memory()
    return process.memory_info().rss


def _utilisation(process, model) -> float:
    kind = model.device.type if model is not None else "cpu"
    if kind == "mps":
        return float("nan")
    if kind == "cuda":
        import torch

        try:
            return torch.cuda.utilization(model.device) / 100
        except (ModuleNotFoundError, RuntimeError):  # needs NVIDIA's management library
            return float("nan")
    return process.cpu_percent() / 100


def log_last_step() -> TrainerCallback:
    """Log the last step of a run, whatever `logging_steps` is.

    Otherwise the loss and the tokens since the last logged step would be in no log.
    """
    from transformers import TrainerCallback

    class LogLastStep(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step >= state.max_steps or control.should_training_stop:
                control.should_log = True

    return LogLastStep()


def skipped_steps() -> TrainerCallback:
    """Create a callback that counts the steps left out by loss scaling, and prints how many.

    Under float16 the loss is scaled up, and a step whose gradients overflow changes nothing but the
    scale, which is halved. A few at the beginning, where the scale is found, are usual. What
    accelerate has for it, `step_was_skipped`, stays False with fused optimisers, which leave the
    step out themselves.
    """
    from transformers import TrainerCallback

    class SkippedSteps(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            self.skipped, self.begun = 0, state.global_step

        def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
            self.scaler = getattr(optimizer, "scaler", None)
            self.before = self.scaler.get_scale() if self.scaler else 0.0

        def on_optimizer_step(self, args, state, control, **kwargs):
            self.skipped += self.scaler is not None and self.scaler.get_scale() < self.before

        def on_train_end(self, args, state, control, **kwargs):
            if self.skipped:
                print(
                    f"left out {self.skipped} of {state.global_step - self.begun} steps: float16"
                    " overflowed, and the loss scale was halved each time (usual in the first"
                    " steps; if it goes on, train in float32)"
                )

    return SkippedSteps()


def live_chart(every: float = 2.0) -> TrainerCallback:
    """Create a callback that plots loss, learning rate and gradient norm during a run.

    It does nothing outside JupyterLab. `every`: minimum seconds between two drawings.
    """
    from transformers import TrainerCallback

    class Chart(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            self.handle, self.drawn = None, 0.0

        def on_log(self, args, state, control, logs=None, **kwargs):
            if "loss" in (logs or {}) and is_live() and time.perf_counter() - self.drawn >= every:
                self.draw(state)

        def on_train_end(self, args, state, control, **kwargs):
            if is_live():
                self.draw(state)

        def draw(self, state) -> None:
            import pandas as pd
            from IPython.display import display

            from qwen3lab.plots import training

            figure = training.training_curves(
                pd.DataFrame(
                    [
                        entry
                        for entry in state.log_history
                        if "loss" in entry or "eval_loss" in entry
                    ]
                )
            )
            if self.handle is None:
                self.handle = display(figure, display_id=True)
            else:
                self.handle.update(figure)
            self.drawn = time.perf_counter()

    return Chart()
