"""Files of any kind are read by their first bytes, row by row, and what cannot be read says why."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import tracemalloc

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3lab.data import encodings, sources, tables
from qwen3lab.errors import Qwen3labError

ROWS = [
    {"prompt": "Hi", "completion": "007"},
    {"prompt": 'two\nlines, "quoted"; and\ttabs', "completion": "你好 é"},
    {"prompt": " spaces ", "completion": ""},
]


def table(rows, delimiter=",", line="\r\n"):
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter, lineterminator=line)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def json_lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def parquet(rows):
    data = io.BytesIO()
    pd.DataFrame(rows).to_parquet(data)
    return data.getvalue()


KINDS = {
    "JSON": lambda rows: json.dumps(rows).encode(),
    "JSON over several lines": lambda rows: json.dumps(rows, indent=1).encode(),
    "JSON lines": lambda rows: json_lines(rows).encode(),
    "objects over several lines": lambda rows: "\n".join(
        json.dumps(row, indent=2) for row in rows
    ).encode(),
    "an object around the rows": lambda rows: json.dumps({"data": rows}, indent=2).encode(),
    "CSV": lambda rows: table(rows).encode(),
    "CSV with line feeds": lambda rows: table(rows, line="\n").encode(),
    "CSV with a mark": lambda rows: codecs.BOM_UTF8 + table(rows).encode(),
    "CSV with semicolons": lambda rows: table(rows, ";").encode(),
    "Excel's sep=": lambda rows: ("sep=;\r\n" + table(rows, ";")).encode(),
    "TSV": lambda rows: table(rows, "\t").encode(),
    "Parquet": parquet,
    "UTF-16 CSV": lambda rows: table(rows).encode("utf-16"),
    "big-endian UTF-16 lines": lambda rows: (
        codecs.BOM_UTF16_BE + json_lines(rows).encode("utf-16-be")
    ),
    "UTF-16 JSON": lambda rows: json.dumps(rows, ensure_ascii=False).encode("utf-16"),
}


@pytest.mark.parametrize("packed", [False, True], ids=["", "gzip"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_rows_under_any_name(kind, packed, tmp_path):
    data = KINDS[kind](ROWS)
    data = gzip.compress(data) if packed else data
    for name in (
        "rows.json",
        "rows.jsonl",
        "rows.csv",
        "rows.tsv",
        "rows.txt",
        "rows",
        "r.parquet",
    ):
        (tmp_path / name).write_bytes(data)
        assert sources.read_raw(tmp_path / name) == ROWS, name


cells = st.text(
    st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=("Cs",)), max_size=12
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.fixed_dictionaries({"prompt": cells, "completion": cells}), min_size=1, max_size=4),
    st.sampled_from([",", ";", "\t"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_a_written_table_is_read_back(tmp_path_factory, rows, delimiter, encoding):
    path = tmp_path_factory.mktemp("table") / "rows.csv"
    path.write_bytes(table(rows, delimiter).encode(encoding))
    assert sources.read_raw(path) == rows


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet='ab",;\t\n\r é\0', max_size=60))
def test_no_line_of_a_table_is_lost(tmp_path_factory, text):
    """Every letter of a file comes out, in a row or in a broken record, or the file is refused."""
    path = tmp_path_factory.mktemp("any") / "rows.csv"
    path.write_bytes(("prompt,completion\n" + text).encode())
    try:
        rows = sources.read_raw(path)
    except Qwen3labError as error:
        assert "rows.csv" in str(error) and not any(letter in text for letter in "abé")
        return
    said = "".join("".join(filter(None, r.values())) if isinstance(r, dict) else r for r in rows)
    for letter in "abé":
        assert said.count(letter) == text.count(letter)


def broken(tmp_path, text, name="rows.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return [
        (str(row), row.reason, row.why) if isinstance(row, tables.Broken) else row
        for row in sources.stream(path)
    ]


def test_records_that_do_not_fit_are_kept_with_the_reason(tmp_path):
    misfit = tables.MISFIT
    found = broken(tmp_path, 'prompt,completion\na,b\nc,d,e\nf\ng\0,h\n"i "j" k",l\nm,n,,\n')
    assert found == [
        {"prompt": "a", "completion": "b"},
        ("c,d,e", misfit, "3 cells under a header of 2 columns"),
        {"prompt": "f", "completion": None},
        ("g\0,h", misfit, "a null byte"),
        (
            '"i "j" k",l',
            misfit,
            "a quote that is not closed or not doubled (',' expected after '\"')",
        ),
        {"prompt": "m", "completion": "n"},
    ]
    assert isinstance(sources.read_raw(tmp_path / "rows.csv")[2], tables.Ragged)


def test_a_quote_that_never_closes_costs_its_own_line_alone(tmp_path):
    found = broken(tmp_path, 'prompt,completion\na,"b\nc,d\n"e\nf",g\n')
    assert [row if isinstance(row, dict) else row[0] for row in found] == [
        'a,"b',
        {"prompt": "c", "completion": "d"},
        {"prompt": "e\nf", "completion": "g"},
    ]


def test_tabs_need_no_quotes_and_one_column_no_delimiter(tmp_path):
    found = broken(tmp_path, 'prompt\tcompletion\n"Hello" she said\tyes\n', "rows.tsv")
    assert found == [{"prompt": '"Hello" she said', "completion": "yes"}]
    assert broken(tmp_path, "text\nOne, two.\nThree\n") == [
        {"text": "One, two."},
        {"text": "Three"},
    ]


def test_the_delimiter_is_the_one_that_fits_most_records(tmp_path):
    found = broken(tmp_path, "prompt, long;completion\na;b, c\nd;e\n")
    assert found == [
        {"prompt, long": "a", "completion": "b, c"},
        {"prompt, long": "d", "completion": "e"},
    ]


LONG = "für die Größe, à la carte: “quoted” text"


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.csv", b"", "a.csv holds no rows"),
        ("a.csv", b"prompt,completion\n", "holds a header and no rows below it"),
        ("a.jsonl.gz", gzip.compress(b""), "holds no rows"),
        ("a.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 50)[:-9], "is damaged or cut off"),
        ("a.csv.gz", gzip.compress(b"a,b\n" * 50)[:12] + b"xxxxxxxxxxx", "is damaged or cut off"),
        ("a.parquet", parquet(ROWS)[:-9], "is a damaged Parquet file"),
        ("a.parquet", b"PAR1" + b"x" * 50 + b"PAR1", "is a damaged Parquet file"),
        ("a.xlsx", b"PK\x03\x04rest", "is a ZIP archive or an Excel workbook. Unpack it, or save"),
        ("a.pdf", b"%PDF-1.7", "is a PDF document"),
        ("a.txt", b"Once upon a time\nthere was\n", "neither JSON nor a table: its first line is"),
        ("a.csv", b"Is it open?,Yes.\nAnd now?,No.\n", "seems to have no header: its first line"),
        ("a.csv", b"1,2\n3,4\n", "seems to have no header"),
        ("a.csv", b"prompt,answer,answer\na,b,c\n", "column 'answer' stands twice in the header"),
        ("a.csv", f"prompt,completion\na,{LONG}\n".encode("cp1252"), "`iconv -f CP1252 -t UTF-8`"),
        ("a.json", json_lines([{"a": LONG}]).encode("cp1252"), "looks like CP1252"),
        ("a.csv", "prompt,completion\n你好,再见\n".encode("gbk"), r"byte 19\); it looks like GBK"),
        ("a.csv", table(ROWS).encode("utf-16-le"), "`iconv -f UTF-16LE -t UTF-8`"),
        ("a.json", json.dumps(ROWS).encode("utf-16-be"), "`iconv -f UTF-16BE -t UTF-8`"),
        ("a.csv", b"prompt,completion\n\x81\xff,b\n", "its encoding cannot be told from its bytes"),
        ("a.csv", table(ROWS).encode("utf-16")[:-1], "is damaged .truncated data in utf-16"),
    ],
)
def test_files_that_cannot_be_read_are_one_clear_sentence(name, data, message, tmp_path):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(Qwen3labError, match=message) as caught:
        sources.read_raw(tmp_path / name)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(("a.", "The column"))


def test_a_table_with_one_wrong_line_is_read_and_the_line_shows_it(tmp_path):
    data = "prompt,completion\n你好,é\n".encode() + "für,b\n".encode("cp1252")
    assert broken(tmp_path, data) == [
        {"prompt": "你好", "completion": "é"},
        {"prompt": "f\ufffdr", "completion": "b"},
    ]


words = st.sampled_from("für Größe café naïve señor Straße déjà Übung l’été “so” 20 € groß".split())
chinese = st.text(
    st.sampled_from("你好吗我们今天去商店买东西的人是在有不，。？"), min_size=1, max_size=6
)
english = st.lists(st.sampled_from("the box is open on Monday".split()), max_size=4).map(" ".join)


@given(st.lists(st.tuples(words, english), min_size=1, max_size=8), st.lists(chinese, min_size=1))
def test_the_encoding_is_told_by_the_bytes(western, eastern):
    western = " ".join(f"{word} {other}" for word, other in western)
    if not western.isascii():
        assert encodings.guess(western.encode("cp1252")) == "CP1252"
    eastern = " and ".join(eastern)
    assert encodings.guess(eastern.encode("gbk")) == "GBK"
    for name in ("UTF-16LE", "UTF-16BE"):
        assert encodings.guess(f'{{"prompt": "{eastern[:4]}"}}'.encode(name)) == name


def test_parquet_numbers_are_spelled_and_nested_rows_kept(tmp_path):
    messages = [[{"role": "user", "content": "a"}], [{"role": "user", "content": "b"}]]
    frame = pd.DataFrame({"answer": [7, -3], "score": [0.5, None], "messages": messages})
    frame.to_parquet(tmp_path / "rows.parquet")
    assert sources.read_raw(tmp_path / "rows.parquet") == [
        {"answer": "7", "score": 0.5, "messages": messages[0]},
        {"answer": "-3", "score": None, "messages": messages[1]},
    ]


def test_a_folder_is_read_by_splits(tmp_path):
    for name, text in {
        "train-0.csv": "prompt,completion\na,1\n",
        "train-1.jsonl": '{"prompt": "b", "completion": "2"}\n',
        "dev/rows.tsv": "prompt\tcompletion\nc\t3\n",
        "README.md": "train",
        ".hidden.csv": "x,y\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    names = {
        split: [p.name for p in sources.files(tmp_path, split)[0]]
        for split in ("train", "validation", "all")
    }
    assert names == {
        "train": ["train-0.csv", "train-1.jsonl"],
        "validation": ["rows.tsv"],
        "all": ["rows.tsv", "train-0.csv", "train-1.jsonl"],
    }
    assert [path.name for path in sources.files(tmp_path)[1]] == ["README.md"]
    assert [row["completion"] for row in sources.stream(tmp_path)] == ["1", "2"]
    assert [path.name for path in sources.files(tmp_path / "dev")[0]] == ["rows.tsv"]
    with pytest.raises(
        Qwen3labError, match=r"no data files for the split 'test' \(it names: dev, t"
    ):
        sources.files(tmp_path, "test")


@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv", "jsonl.gz", "csv.gz", "parquet"])
def test_many_rows_pass_with_little_memory(kind, tmp_path):
    """Ten times the rows need no more memory; what Python holds, as tracemalloc sees it."""
    peaks = []
    for count in (2_000, 20_000):
        rows = [
            {"prompt": f"Code of box {i}? " + "x" * 80, "completion": f"{i}"} for i in range(count)
        ]
        path = tmp_path / f"rows{count}.{kind}"
        if kind == "parquet":
            pd.DataFrame(rows).to_parquet(path)
        else:
            text = (
                json_lines(rows) if "json" in kind else table(rows, "\t" if kind == "tsv" else ",")
            )
            data = text.encode()
            path.write_bytes(gzip.compress(data) if kind.endswith("gz") else data)
        del rows
        next(sources.stream(path))  # what is imported on the way
        tracemalloc.start()
        assert sum(1 for _ in sources.stream(path)) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] + 200_000
