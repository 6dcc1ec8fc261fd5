"""Implement the self-checking exercise: hidden cases, known mistakes, hints, verdict and stub."""

from __future__ import annotations

import ast
import copy
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from qwen3lab.exercises import progress
from qwen3lab.exercises.compare import difference, same, short
from qwen3lab.locale import language, translate
from qwen3lab.quiet import quiet

REFUSED = type(
    "Refused", (), {"__repr__": lambda self: "an error"}
)()  # expected result of a case that the answer must reject by raising
_BLANK = (None, ..., NotImplemented)
_told: set[str] = set()  # faults of the progress file that this process has reported


@dataclass(frozen=True)
class Case:
    """A hidden test case: arguments, expected result, and a note that names the input."""

    args: tuple
    expect: Any
    note: str


@dataclass(frozen=True)
class Mistake:
    """A known wrong answer: the code that produces it, and the sentence that names the mistake."""

    answer: Callable
    message: str


@dataclass(frozen=True)
class Verdict:
    """The result of a check: "blank", "right", "wrong" or "error", and the text for the learner."""

    state: str
    text: str


@dataclass(frozen=True)
class _Raised:
    """The outcome of an answer that raised."""

    error: Exception


def case(*args: Any, expect: Any, note: str = "") -> Case:
    """Create a hidden test case; without a `note` its expected value is never shown."""
    return Case(args, expect, note)


def exercise(
    *, why: str, hints: tuple[str, ...], ask: Callable | None = None, tolerance: float = 1e-5
) -> Callable[[Callable], Exercise]:
    """Turn a solution into an `Exercise` of the same name; its docstring is the task.

    A solution with parameters asks for a function, one without for the value that it returns.

    Args:
        why: one line shown for a right answer: why it is right.
        hints: from a nudge to nearly everything.
        ask: what to do with an answer and a case's arguments; default: call the function, or take
            the value as it is.
        tolerance: relative and absolute, for floats and for arrays.
    """
    return lambda solution: Exercise(solution, why, hints, ask, tolerance)


@dataclass(eq=False)
class Exercise:
    """An exercise of a notebook; learners use `check`, `hint` and `solution`."""

    answer: Callable
    why: str
    hints: tuple[str, ...]
    ask: Callable | None = None
    tolerance: float = 1e-5
    mistakes: list[Mistake] = field(default_factory=list)
    _make_cases: Callable[[], Iterable[Case]] | None = None
    _hints_shown: int = 0

    @property
    def name(self) -> str:
        """Return its name in the module."""
        return self.answer.__name__

    @property
    def notebook(self) -> str:
        """Return the two digits of its notebook."""
        return self.answer.__module__.rsplit(".ex", 1)[-1]

    @property
    def id(self) -> str:
        """Return its id in code and in the progress file, for example "ex01.qk_norm"."""
        return f"ex{self.notebook}.{self.name}"

    @property
    def title(self) -> str:
        """Return number and name, for example "Exercise 1.3, qk_norm".

        The number is its position in the module.
        """
        neighbours = of_module(sys.modules[self.answer.__module__])
        place = neighbours.index(self) + 1 if self in neighbours else 0
        return f"Exercise {self.notebook.lstrip('0')}.{place}, {self.name}"

    @property
    def task(self) -> str:
        """Return the task, the solution's docstring, on one line."""
        return " ".join((inspect.getdoc(self.answer) or "").split())

    @property
    def wants_function(self) -> bool:
        """Check whether the answer is a function rather than a value."""
        return bool(inspect.signature(self.answer).parameters)

    def __repr__(self) -> str:
        return translate(
            f"{self.title}: {self.task}\nTry {self.id}.check(answer), {self.id}.hint() or"
            f" {self.id}.solution().",
            "exercise",
        )

    # What the files ex01, ex02, ... use to describe an exercise.

    def cases(self, make: Callable[[], Iterable[Case]]) -> Callable:
        """Register, as a decorator, the function that yields the hidden cases.

        It is called at the first check, so it may have slow imports.
        """
        self._make_cases = make
        return make

    def mistake(self, message: str) -> Callable[[Callable], Callable]:
        """Register, as a decorator, a known wrong answer with the signature of the solution."""

        def add(answer: Callable) -> Callable:
            self.mistakes.append(Mistake(answer, message))
            return answer

        return add

    # What learners use.

    def check(self, answer: Any = ...) -> None:
        """Print whether the answer is right, and if not, what is wrong with it."""
        verdict = self.judge(answer)
        colon = ": " if language() == "en" else "："
        print(translate(self.title, "exercise") + colon + translate(verdict.text, "exercise"))
        if verdict.state != "blank":  # an untouched notebook leaves no trace
            self._note(tried=True, solved=verdict.state == "right")

    def hint(self) -> None:
        """Print the next hint."""
        if self._hints_shown == len(self.hints):
            _say(
                f"{self.title}: these were all {len(self.hints)} hints. {self.id}.solution() shows"
                " the code."
            )
            return
        self._hints_shown += 1
        _say(
            f"{self.title}, hint {self._hints_shown} of {len(self.hints)}:"
            f" {self.hints[self._hints_shown - 1]}"
        )
        self._note(hints=self._hints_shown)

    def solution(self) -> None:
        """Print the code of the solution."""
        print(self.source)
        self._note(solution=True)

    # What tests and answer sheets use too.

    @property
    def stub(self) -> str:
        """Return the code that a notebook gives as a start."""
        if self.wants_function:
            return f"def {self.name}{inspect.signature(self.answer)}:\n    ...  # your code"
        return f"{self.name} = ...  # your answer"

    @cached_property
    def source(self) -> str:
        """Return the solution's code as a learner would write it in the notebook."""
        text = textwrap.dedent(inspect.getsource(self.answer))
        function = ast.parse(text).body[0]
        lines = text.splitlines()
        if self.wants_function:
            return "\n".join(lines[function.lineno - 1 :])
        first = function.body[1] if ast.get_docstring(function) else function.body[0]
        body = textwrap.dedent("\n".join(lines[first.lineno - 1 :])).splitlines()
        at = function.body[-1].lineno - first.lineno
        body[at] = body[at].replace("return", f"{self.name} =", 1)
        return "\n".join(body)

    def judge(self, answer: Any) -> Verdict:
        """Check an answer without printing or recording anything.

        Changes neither the answer nor any random state.
        """
        blank = Verdict(
            "blank",
            f"not attempted yet. Write your own in place of the dots; {self.id}.hint() helps.",
        )
        if _is_blank(answer):
            return blank
        if self.wants_function and not callable(answer):
            return Verdict(
                "wrong",
                f"check() wants the function itself. Write {self.id}.check({self.name}), without"
                " brackets behind the name.",
            )
        if not self.wants_function and callable(answer):
            return Verdict(
                "wrong",
                f"check() wants a value, and this is a function. Write {self.id}.check({self.name})"
                " with what it returns.",
            )
        outcomes = self._outcomes(answer)
        wrong = [
            place
            for place in range(len(outcomes))
            if not self._fits(outcomes[place], self._cases[place])
        ]
        if not wrong:
            return Verdict("right", f"right. {self.why}")
        if any(
            isinstance(outcomes[place], _Raised)
            and isinstance(outcomes[place].error, NotImplementedError)
            for place in wrong
        ):
            return blank
        mistake = self._recognise(outcomes)
        if mistake:
            return Verdict("wrong", f"not yet. {mistake.message}")
        return self._explain(outcomes[wrong[0]], self._cases[wrong[0]])

    @cached_property
    def _cases(self) -> list[Case]:
        quiet()  # the cases may be the first to import transformers
        return list(self._make_cases())

    def _outcomes(self, answer: Any) -> list[Any]:
        return [self._run(answer, hidden) for hidden in self._cases]

    def _run(self, answer: Any, hidden: Case) -> Any:
        args = copy.deepcopy(
            hidden.args
        )  # an answer that changes its arguments must not affect the next check
        try:
            if self.ask:
                return self.ask(answer, *args)
            return answer(*args) if self.wants_function else answer
        except Exception as error:
            return _Raised(error)

    def _fits(self, outcome: Any, hidden: Case) -> bool:
        if hidden.expect is REFUSED or isinstance(outcome, _Raised):
            return (
                hidden.expect is REFUSED
                and isinstance(outcome, _Raised)
                and not isinstance(outcome.error, NotImplementedError)
            )
        return same(outcome, hidden.expect, self.tolerance)

    def _recognise(self, outcomes: list[Any]) -> Mistake | None:
        """Find the known mistake that explains most cases.

        On every input where the mistake goes wrong, this answer must have gone wrong in the same
        way.
        """
        found, most = None, 0
        for mistake in self.mistakes:
            theirs = self._outcomes(mistake.answer if self.wants_function else mistake.answer())
            telling = [
                place
                for place, hidden in enumerate(self._cases)
                if not self._fits(theirs[place], hidden)
            ]
            if len(telling) > most and all(
                _alike(outcomes[place], theirs[place], self.tolerance) for place in telling
            ):
                found, most = mistake, len(telling)
        return found

    def _explain(self, outcome: Any, hidden: Case) -> Verdict:
        """Explain a wrong answer that matches no known mistake."""
        where = f" on {hidden.note}" if hidden.note else ""
        if isinstance(outcome, _Raised):
            text = (
                f"your answer stopped{where} with {type(outcome.error).__name__}:"
                f" {_first_line(outcome.error)}."
            )
            if "ellipsis" in str(outcome.error):
                text += " There is still a ... to fill in."
            return Verdict("error", text)
        if hidden.expect is REFUSED:
            return Verdict(
                "wrong",
                f"not yet. Your answer accepts {hidden.note} and gives {short(outcome)}; it should"
                " raise a ValueError.",
            )
        if self.wants_function and outcome is None:
            return Verdict(
                "wrong",
                f"not yet. Your function gives back nothing{where}. Is there a `return` on every"
                " way through it?",
            )
        if self.wants_function and _is_blank(outcome):
            return Verdict(
                "wrong",
                f"not yet. Your function still gives back dots{where}. Put your result in their"
                " place.",
            )
        if hidden.note:
            return Verdict(
                "wrong",
                f"not yet. On {hidden.note} your answer {difference(outcome, hidden.expect)}.",
            )
        return Verdict("wrong", f"not yet. It is not {short(outcome)}. {self.id}.hint() helps.")

    def _note(self, **what: Any) -> None:
        fault = progress.note(self.id, **what)
        if fault and fault not in _told:
            _told.add(fault)
            _say(fault)


def _say(text: str) -> None:
    print(translate(text, "exercise"))


def _is_blank(answer: Any) -> bool:
    """Check for an untouched stub: None, `...`, NotImplemented, or a function that returns one.

    A function is judged by its bytecode, without calling it: one that computes and forgets its
    `return` is an attempt.
    """
    if any(answer is blank for blank in _BLANK):
        return True
    code = getattr(answer, "__code__", None)
    if code is None or code.co_nlocals > code.co_argcount + code.co_kwonlyargcount + bool(
        code.co_flags & 4
    ) + bool(code.co_flags & 8):
        return False
    names = set(code.co_names)
    if not names <= {"NotImplemented", "NotImplementedError"} or _uses_values(code):
        return False
    words = (
        {answer.__doc__}
        if "NotImplementedError" not in names
        else {const for const in code.co_consts if isinstance(const, str)}
    )
    return all(
        const in words or any(const is blank for blank in _BLANK) for const in code.co_consts
    )


def _uses_values(code: Any) -> bool:
    """Check whether bytecode does more than load constants and globals, call, raise and return."""
    import dis

    idle = (
        "RESUME",
        "NOP",
        "CACHE",
        "POP_TOP",
        "PUSH_NULL",
        "PRECALL",
        "CALL",
        "LOAD_GLOBAL",
        "LOAD_CONST",
        "LOAD_COMMON_CONSTANT",
        "RETURN_CONST",
        "RETURN_VALUE",
        "RAISE_VARARGS",
        "NOT_TAKEN",
    )
    return any(step.opname not in idle for step in dis.get_instructions(code))


def _alike(mine: Any, theirs: Any, tolerance: float) -> bool:
    """Check whether two wrong outcomes are the same mistake; integers may differ by rounding."""
    if isinstance(mine, _Raised) or isinstance(theirs, _Raised):
        return type(mine) is type(theirs) and repr(mine.error) == repr(theirs.error)
    return same(mine, theirs, max(tolerance, 1e-6), exact=False)


def _first_line(error: Exception) -> str:
    text = (str(error).strip().splitlines() or [""])[0].rstrip(".")
    return (text if len(text) <= 150 else text[:149] + "…") or "no further words"


def of_module(module: Any) -> list[Exercise]:
    """List the exercises of a module in the order of their definition."""
    return [thing for thing in vars(module).values() if isinstance(thing, Exercise)]
