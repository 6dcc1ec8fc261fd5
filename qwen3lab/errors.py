"""The course's exception, whose message a learner can act on."""


class Qwen3labError(RuntimeError):
    """Error that the learner can fix.

    The message is one sentence that says what is wrong and one that says what to do.
    """
