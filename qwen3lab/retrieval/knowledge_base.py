"""Ask a folder of documents: `retrieval.from_folder("docs").ask("…")`.

One object keeps documents, chunks, vectors and models together. Files can be added, removed and
read again when they change. The search is dense and BM25, fused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qwen3lab.chat import plain_ids
from qwen3lab.data import documents
from qwen3lab.data.pdf_layout import Chapter
from qwen3lab.errors import Qwen3labError
from qwen3lab.retrieval import follow_ups
from qwen3lab.retrieval.answering import Answer, answer_all, passage
from qwen3lab.retrieval.chunking import Chunk, chunk
from qwen3lab.retrieval.embedding import embed
from qwen3lab.retrieval.fusion import fuse
from qwen3lab.retrieval.index import Hit, Index, Keywords

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from qwen3lab.retrieval.chat_panel import ChatPanel

LIST = "documents.json"  # beside the index: the files and the hashes of their contents
DEPTH = 10  # hits of each search that are fused
LONGEST = 400  # tokens of a chunk, where the prompt has room for five of them


@dataclass(frozen=True)
class Document:
    """A document that was read: the hash of its content, its chunks and their vectors `[N, D]`."""

    sha256: str
    chunks: tuple[Chunk, ...]
    vectors: np.ndarray


class KnowledgeBase:
    """Documents that can be searched and asked.

    `problems` maps a file that was not read to the reason, and a file of which a part may be
    missing to what is known of it.
    """

    def __init__(
        self,
        embedder: SentenceTransformer | None = None,
        chat: tuple[PreTrainedModel, PreTrainedTokenizerBase] | None = None,
        *,
        max_tokens: int | None = None,
        k: int = 3,
    ):
        """Start without documents.

        Args:
            embedder, chat: the embedding model, and the chat model with its tokenizer; default: the
                profile's. The chat model is loaded at the first question.
            max_tokens: tokens of a chunk with its heading; default: a fifth of the profile's
                length, at most 400.
            k: chunks to read for an answer.
        """
        from qwen3lab import models, profiles

        self.embedder = embedder or models.load_embedding()
        self.max_tokens = max_tokens or min(LONGEST, profiles.get().max_length // 5)
        self.k = k
        self.folder: Path | None = None
        self.documents: dict[str, Document] = {}
        self.problems: dict[str, str] = {}
        self._chat = chat
        self._searches: tuple[Index, Keywords] | None = None

    # Documents

    def add(self, path: str | Path, name: str = "") -> str:
        """Read a file, or read it again; returns the name that it has here (its file name).

        Raises as `documents.read`; the base is then as it was before.
        """
        path = Path(path)
        name = name or path.name
        parts, notes = documents.read(path)
        chunks = [
            replace(piece, file=name)
            for part in parts
            for piece in titled(part, self.embedder.tokenizer, self.max_tokens)
        ]
        vectors = embed(self.embedder, [piece.text for piece in chunks])
        self.documents[name] = Document(_sha256(path), tuple(chunks), vectors)
        self.problems.pop(name, None)
        if notes:
            self.problems[name] = " ".join(notes)
        self._searches = None
        return name

    def remove(self, name: str) -> None:
        """Remove a document by its name; raises Qwen3labError where there is none."""
        if name not in self.documents:
            raise Qwen3labError(
                f"There is no document {name!r}. Use one of: {', '.join(self.documents) or 'none'}."
            )
        del self.documents[name]
        self.problems.pop(name, None)
        self._searches = None

    def refresh(self, folder: str | Path | None = None) -> dict[str, list[str]]:
        """Bring the base up to a folder and its subfolders, by the content of the files.

        A file counts as changed if its content is another one, whatever its date says. Hidden files
        are passed over; what cannot be read is in `problems`.

        Args:
            folder: default: that of the last time.
        Returns:
            The names of the files that were added, changed and removed.
        Raises:
            Qwen3labError: no folder was ever given, or there is none of this name.
        """
        self.folder = Path(folder) if folder is not None else self.folder
        if self.folder is None:
            raise Qwen3labError("No folder of documents is known yet. Give one.")
        if self.folder.is_file():
            raise Qwen3labError(f"{self.folder.name!r} is a file. Name the folder it is in.")
        if not self.folder.is_dir():
            raise Qwen3labError(f"There is no folder {self.folder.name!r}. Check its path.")
        files = {
            path.relative_to(self.folder).as_posix(): path
            for path in sorted(self.folder.rglob("*"))
            if path.is_file()
            and not any(p.startswith((".", "~$")) for p in path.relative_to(self.folder).parts)
        }
        told: dict[str, list[str]] = {"added": [], "changed": [], "removed": []}
        self.problems = {name: why for name, why in self.problems.items() if name in self.documents}
        for name, path in files.items():
            known = self.documents.get(name)
            try:
                if known and known.sha256 == _sha256(path):
                    continue
                self.add(path, name)
                told["changed" if known else "added"].append(name)
            except Qwen3labError as error:
                self.documents.pop(name, None)  # what it held before is no longer there
                self._searches = None
                self.problems[name] = str(error)
        for name in [name for name in self.documents if name not in files]:
            self.remove(name)
            told["removed"].append(name)
        return told

    # Questions

    def search(self, questions: Sequence[str], k: int = 3) -> list[list[Hit]]:
        """Search with vectors and words, fused by ranks; the best `k` chunks of each question.

        Raises Qwen3labError where there are no documents.
        """
        index, keywords = self.searches()
        depth = max(k, DEPTH)
        return fuse(index.search(questions, depth), keywords.search(questions, depth), k=k)

    def ask(self, question: str, before: Answered | None = None) -> Answered:
        """Answer a question from the documents, with the file and the page or heading.

        Args:
            before: the last answer, if the question may refer to it; see `follow_ups.standalone`.
        Raises:
            Qwen3labError: there are no documents.
        """
        if before:
            read = passage(before, before.hits)
            question = follow_ups.standalone(question, before.question, read)
        (answer,) = self.ask_all([question])
        return answer

    def ask_all(self, questions: Sequence[str]) -> list[Answered]:
        """Answer questions in batches, each by itself; raises as `ask`."""
        found = self.search(questions, self.k)
        answers = answer_all(*self.chat, questions, found)
        return [
            Answered(**vars(answer), question=question, hits=tuple(hits))
            for question, answer, hits in zip(questions, answers, found, strict=True)
        ]

    def panel(self, **options) -> ChatPanel:
        """Open a chat that understands follow-up questions; options as for `ChatPanel`."""
        from qwen3lab.retrieval.chat_panel import ChatPanel, locally

        options = {
            "k": self.k,
            "rewrite": follow_ups.standalone,
            "title": "Ask the documents",
        } | options
        return ChatPanel(self, locally(*self.chat), self.chat[1], **options)

    @property
    def chat(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Return the chat model and its tokenizer, loaded at the first use."""
        if self._chat is None:
            from qwen3lab import models

            self._chat = models.load("chat")
        return self._chat

    @property
    def chunks(self) -> list[Chunk]:
        """Return the chunks of all documents, numbered through."""
        pieces = [piece for document in self.documents.values() for piece in document.chunks]
        return [replace(piece, id=number) for number, piece in enumerate(pieces)]

    def searches(self) -> tuple[Index, Keywords]:
        """Return the vector index and the BM25 index, built anew after every change."""
        if not self.documents:
            why = next(
                iter(self.problems.values()), "Add a file, or name a folder that holds some."
            )
            raise Qwen3labError(f"There are no documents to search. {why}")
        if self._searches is None:
            vectors = np.concatenate([document.vectors for document in self.documents.values()])
            chunks = self.chunks
            self._searches = Index(chunks, vectors, self.embedder), Keywords(chunks)
        return self._searches

    # Keeping

    def save(self, folder: str | Path) -> Path:
        """Write the index and the list of documents into `folder` and return it; no pickle."""
        folder = self.searches()[0].save(folder)
        listed = {
            "max_tokens": self.max_tokens,
            "k": self.k,
            "documents": {
                name: {"sha256": document.sha256, "chunks": len(document.chunks)}
                for name, document in self.documents.items()
            },
        }
        text = json.dumps(listed, indent=2, ensure_ascii=False)
        (folder / LIST).write_text(text + "\n", encoding="utf-8")
        return folder

    @classmethod
    def load(cls, folder: str | Path, embedder: SentenceTransformer | None = None, chat=None):
        """Load what `save` wrote; `refresh(folder)` then reads only the files that changed.

        Raises Qwen3labError as `Index.load`.
        """
        folder = Path(folder)
        base = cls(embedder, chat)
        index = Index.load(folder, base.embedder)
        vectors = index.faiss.reconstruct_n(0, index.faiss.ntotal)
        try:
            listed = json.loads((folder / LIST).read_text(encoding="utf-8"))
            base.max_tokens, base.k = int(listed["max_tokens"]), int(listed["k"])
            sizes = {
                name: (line["sha256"], int(line["chunks"]))
                for name, line in listed["documents"].items()
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise Qwen3labError(
                f"{folder.name!r} holds no whole list of documents ({type(error).__name__}). Build"
                " the base again and save it."
            ) from error
        start = 0
        for name, (sha256, count) in sizes.items():
            part = slice(start, start + count)
            base.documents[name] = Document(sha256, tuple(index.chunks[part]), vectors[part])
            start += count
        if start != len(index.chunks):
            raise Qwen3labError(
                f"The parts of the base {folder.name!r} do not belong together. Build it again and"
                " save it."
            )
        return base

    def __repr__(self) -> str:
        lines = [f"{len(self.documents)} documents, {len(self.chunks)} chunks"]
        lines += [f"  {name}: {why}" for name, why in self.problems.items()]
        return "\n".join(lines)


@dataclass(frozen=True)
class Answered(Answer):
    """An answer with the standalone question that was asked, and the hits that were read."""

    question: str = ""
    hits: tuple[Hit, ...] = ()


def from_folder(folder: str | Path, **options) -> KnowledgeBase:
    """Read all documents of a folder: PDF, Markdown, HTML, text and Word.

    Args:
        folder: its subfolders are read too.
        options: as for `KnowledgeBase`.
    Raises:
        Qwen3labError: there is no such folder, or no file in it could be read.
    """
    base = KnowledgeBase(**options)
    base.refresh(folder)
    base.searches()
    return base


def titled(part: Chapter, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> list[Chunk]:
    """Cut a chapter into chunks of at most `max_tokens` tokens that begin with its last heading.

    In many documents only the heading says what a paragraph is about. A heading of more than a
    third of a chunk is left out.
    """
    title = part.title.split(" / ")[-1]
    cost = len(plain_ids(tokenizer, title + "\n")) if title else 0
    if not title or cost > max_tokens // 3 or part.paragraphs[0][0] == title:
        return chunk([part], tokenizer, max_tokens)
    shift = len(title) + 1
    return [
        replace(
            piece,
            text=f"{title}\n{piece.text}",
            turns=tuple((position + shift, page) for position, page in piece.turns),
        )
        for piece in chunk([part], tokenizer, max_tokens - cost)
    ]


def _sha256(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise Qwen3labError(
            f"{path.name!r} cannot be read ({error.strerror}). Give a file that you may open."
        ) from None
