"""Which program is taken from an answer, however the answer is laid out."""

from __future__ import annotations

import textwrap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from qwen3lab.evaluation.answered_code import called, code_of

F = "def half(x):\n    return x / 2\n"
TESTS = ["assert half(8) == 4", "assert sorted([half(2), half(0)]) == [0, 1]"]
FENCED = f"```python\n{F}```\n"


@pytest.mark.parametrize(
    "answer",
    [
        f"```Python\n{F}```",
        f"```py\n{F}```",
        f"```python3\n{F}```",
        f"```PYTHON3.11\n{F}```",
        f"``` python\n{F}```",
        f"```{{.python}}\n{F}```",
        f"```{{python}}\n{F}```",
        f"```python title=half.py\n{F}```",
        f"```python:half.py\n{F}```",
        f"```\n{F}```",
        f"```text\n{F}```",
        f"~~~\n{F}~~~",
        f"~~~python\n{F}~~~~",
        f"````python\n{F}````",
        f"｀｀｀python\n{F}｀｀｀",
        f"　```python\n{F}```",
        FENCED.replace("\n", "\r\n"),
        FENCED.replace("\n", "\r"),
        f"Here it is: {FENCED}That was it.",
        f"这是代码：```python\n{F}```\n希望有帮助！",
        f"**Solution** （full-width）：\n{FENCED}",
        f"<answer>\n{FENCED}</answer>",
        f"<think>\nMaybe ```python\nno\n``` is right?\n</think>\n\n{FENCED}",
        f"def wrong(): pass\n</think>\n{FENCED}",
        "1. Write this:\n" + textwrap.indent(FENCED, "    ") + "2. Done.",
        "1. Write this:\n" + textwrap.indent(FENCED, "        ") + "2. Done.",
        "- " + textwrap.indent(FENCED, "  ")[2:] + "- Done.",
        textwrap.indent(FENCED, "> "),
        textwrap.indent(FENCED, "\t"),
        f"```python\n{textwrap.indent(F, '    ')}```",
        f"```python\n{F[:-1]}```",
        f"```python\n{F[:-1]}``` and so on",
        f"```python\n{F}",
        f"```bash\npip install half\n```\n{FENCED}",
        f"{FENCED}Output:\n```\n4.0\n```",
        f"{FENCED}Tests:\n```python\nassert half(8) == 4\n```",
        f"{FENCED}Another way:\n```python\ndef half(x): return 0.5 * x\n```",
        f"Call it so:\n```python\nprint(half(8))\n```\nThe program:\n{FENCED}",
        f"```python\n>>> half(8)\n4.0\n```\n{FENCED}",
        F,
        textwrap.indent(F, "    "),
        f"Here is the function:\n\n{F}\nI hope it helps!",
        f"The function:\n{F}Thanks",
        f"{F}\nhalf\n",
        ">>> def half(x):\n...     return x / 2\n...\n>>> half(8)\n4.0\n",
        "```pycon\n>>> def half(x):\n...     return x / 2\n\n>>> half(8)\n4.0\n```",
        "Try:\n>>> def half(x):\n...     return x / 2\n",
    ],
)  # fmt: skip
def test_the_program_is_found_in_every_spelling_of_a_fence(answer):
    for tests in (TESTS, ()):
        code = code_of(answer, tests)
        space: dict = {}
        exec(compile(code, "<answer>", "exec"), {} | space, space)
        assert space["half"](9) == 4.5, (code, tests)
        lines = [line for line in code.splitlines() if line.strip() and line != "half(8)"]
        assert lines in (F.splitlines(), [*F.splitlines(), "half"]), code


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (
            "```python\nimport math\n```\nand\n```python\nHALF = 0.5\ndef help(x): return x\n```\n"
            "then\n```python\nhelp('me')\n```\nand at last\n" + FENCED,
            "import math\nHALF = 0.5\ndef help(x): return x\n" + F,
        ),
        ("```python\ndef other(x): return x\n```\n" + FENCED, "def other(x): return x\n" + F),
        ("```python\ndef half(x) return x\n```\n```\n4\n```", "def half(x) return x\n"),
        ("```python\ndef half(x):\n    return '```'\n```", "def half(x):\n    return '```'\n"),
        (
            '````python\ndef half(x):\n    """Use:\n    ```\n    half(8)\n    ```\n    """\n````',
            'def half(x):\n    """Use:\n    ```\n    half(8)\n    ```\n    """\n',
        ),
        (
            '```python\ndef half(x):\n    """Use:\n\n        ```\n        half(8)\n        ```\n'
            '    """\n```',
            'def half(x):\n    """Use:\n\n        ```\n        half(8)\n        ```\n    """\n',
        ),
        (
            "```python\ndef half(x):\n    '''\n    >>> half(8)\n    4.0\n    '''\n```",
            "def half(x):\n    '''\n    >>> half(8)\n    4.0\n    '''\n",
        ),
        ("`def half(x): return x / 2`", "def half(x): return x / 2"),
        ("Use ```python def half(x): return x / 2```.", "def half(x): return x / 2"),
        ("```python\ndef half（x）：return x\n```", "def half（x）：return x\n"),  # no Python
        ("```python\nhalf = lambda x: x / 2\n```", "half = lambda x: x / 2\n"),
        ("```python\nfrom math import sqrt as half\n```", "from math import sqrt as half\n"),
        ("The answer is 4.", "The answer is 4."),
        ("half", "half"),
        ("", ""),
        ("```", ""),
        ("<think>\nstill thinking", ""),
    ],
)
def test_what_is_taken_is_taken_as_it_is_written(answer, code):
    assert code_of(answer, TESTS) == code


def test_the_names_that_tests_call_are_theirs_and_not_those_of_python():
    assert called(TESTS) == {"half"}
    assert called(["assert [f(x) for x in range(2)] == [0, 1]", "assert g(f(1)).h() == 2"]) == {
        "f",
        "g",
    }
    assert called(["assert f("]) == set()


# Answers put together at random: the program is the same in all of them.

PROSE = st.lists(
    st.sampled_from(
        ["Here it is.", "这是代码：", "O(n) time!", "", "1. First", "- so", "（ｆｕｌｌ）", "# T"]
    ),
    max_size=4,
).map("\n".join)  # fmt: skip
OTHERS = st.lists(
    st.sampled_from(
        [
            "```\n4.0\n```",
            "```text\nhalf(8) -> 4.0\n```",
            "~~~bash\npython half.py\n~~~",
            "```python\nprint(half(8))\n```",
            "```python\nassert half(8) == 4\n```",
            "```pycon\n>>> half(8)\n4.0\n```",
            '```json\n{"half": 4}\n```',
        ]
    ),
    max_size=3,
).map("\n\n".join)
PROGRAMS = st.sampled_from(
    [
        F,
        "def half(x): return x / 2\n",
        "import math\n\n\nclass A:\n    pass\n\n\ndef half(x):\n    # `half`\n    return x / 2\n",
        'def half(x):\n    """Use:\n\n    >>> half(8)\n    4.0\n    """\n    return x / 2\n',
        "def half(x):\n\tif x:\n\t\treturn x / 2\n\treturn '红'\n",
    ]
)
MARKS = st.sampled_from(["```", "````", "~~~", "~~~~~"])
LABELS = st.sampled_from(["", "python", "Python", "py", "python3", " python", "python title=a.py"])


@given(PROSE, OTHERS, PROGRAMS, MARKS, LABELS, OTHERS, PROSE, st.booleans(), st.data())
@settings(max_examples=200, deadline=None)
def test_text_around_a_program_changes_nothing(
    before, others, program, mark, label, after, end, thought, data
):
    indent = data.draw(st.sampled_from(["", "  ", "    ", "\t"]))
    block = textwrap.indent(f"{mark}{label}\n{program}{mark}", indent, lambda line: True)
    ends = data.draw(st.sampled_from(["\n", "\r\n"]))
    text = "\n".join(filter(None, [before, others, block, after, end]))
    text = "<think>\n```python\ndef half(x): return 0\n```\n</think>\n\n" * thought + text
    assert code_of(text.replace("\n", ends), TESTS) == program
    if not thought and indent != "\t":
        blocks = MarkdownIt("commonmark", {"html": False}).parse("\n\n".join([before, block]))
        fences = [token.content for token in blocks if token.type == "fence"]
        assert fences in ([program], []), "the library reads fences with less than four spaces"
        assert fences or len(indent) == 4
