"""The one error that a learner is meant to read."""


class Qwen3labError(RuntimeError):
    """Something that the learner can put right.

    The message is one sentence that says what is wrong and one that says what to do.
    """
