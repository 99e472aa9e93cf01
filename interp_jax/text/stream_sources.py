"""Where the documents of a stream come from: files, data sets, generated puzzles, docstrings.

A source hands out documents in one fixed order, each with the place after it, and can go on from
any such place. Files are opened at that place, so resuming does not read what came before.
"""

from __future__ import annotations

import ast
import itertools
import json
import platform
import sysconfig
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from interp_jax.runtime.errors import UserError

#: A text, or the messages of a chat.
Document = str | list[dict[str, Any]]
#: Whole numbers that only the source understands; empty for the start.
Place = list[int]

SUFFIXES = (".jsonl", ".parquet", ".txt")


class Source(Protocol):
    """Documents in a fixed order.

    Attributes:
        name: what it is; two sources of one name give the same documents.
    """

    name: str

    def read(self, place: Place) -> Iterator[tuple[Document, Place]]:
        """Documents from `place` on (`[]`: the first), each with the place after it."""


class FileSource:
    """Local files, one after the other in the order of their names.

    `.jsonl` and `.parquet` have a document per record, `.txt` is one document.

    Args:
        path: a file, or a folder of files (subfolders too).
        text_field: name of a text in a record.
        messages_field: name of a chat (messages with `role` and `content`) in a record; where a
            record has both, the chat is taken.

    Raises:
        UserError: no such file, or a folder without any; while reading: a broken or empty line,
            or a record without a text, by file and line.
    """

    def __init__(
        self, path: str | Path, *, text_field: str = "text", messages_field: str = "messages"
    ):
        path = Path(path)
        if path.is_dir():
            files = sorted(p for p in path.rglob("*") if p.suffix in SUFFIXES and p.is_file())
        else:
            files = [path] if path.is_file() else []
        if not files or files[0].suffix not in SUFFIXES:
            raise UserError(
                found=f"{path}" + (", a file of another kind" if files else " without such a file"),
                expected=f"a {', '.join(SUFFIXES)} file, or a folder of them",
                do="check the path",
            )
        self.files, self._fields = files, (text_field, messages_field)
        sizes = [(file.name, file.stat().st_size) for file in files]
        self.name = f"files {json.dumps([sizes, self._fields])}"

    def read(self, place: Place) -> Iterator[tuple[Document, Place]]:
        """See `Source`; a place is the file's number and a place in the file."""
        first, *inside = place or [0]
        readers = {".jsonl": self._jsonl, ".parquet": self._parquet, ".txt": self._text}
        for number in range(first, len(self.files)):
            file = self.files[number]
            for document, after in readers[file.suffix](file, inside):
                yield document, [number, *after]
            inside = []

    def _jsonl(self, file: Path, place: Place) -> Iterator[tuple[Document, Place]]:
        offset, line = place or (0, 0)
        with file.open("rb") as lines:
            lines.seek(offset)
            for raw in lines:
                offset, line = offset + len(raw), line + 1
                where = f"{file}, line {line}"
                try:
                    record = json.loads(raw)
                except ValueError as error:
                    what = f"no JSON ({error})" if raw.strip() else "an empty line"
                    raise UserError(
                        found=f"{what} in {where}", expected="one JSON object on each line",
                        do="correct or remove the line",
                    ) from None
                yield record_document(record, where, *self._fields), [offset, line]

    def _parquet(self, file: Path, place: Place) -> Iterator[tuple[Document, Place]]:
        parquet = _parquet_reader()
        table = parquet.ParquetFile(file)
        columns = [name for name in self._fields if name in table.schema_arrow.names]
        start, first = place[0] if place else 0, 0
        for group in range(table.num_row_groups):
            count = table.metadata.row_group(group).num_rows
            if first + count > start:
                rows = table.read_row_group(group, columns=columns).to_pylist()
                for row in range(max(start - first, 0), count):
                    number = first + row + 1
                    where = f"{file}, row {number}"
                    yield record_document(rows[row], where, *self._fields), [number]
            first += count

    def _text(self, file: Path, place: Place) -> Iterator[tuple[Document, Place]]:
        if place:
            return
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UserError(
                found=f"{file}, which is not UTF-8 ({error})", expected="UTF-8 text",
                do="convert the file",
            ) from None
        yield record_document({"text": text}, str(file), "text", ""), [1]


class RecordSource:
    """Records of any iterable, such as a streamed data set.

    Args:
        records: how many to pass over -> the records after them. It must give the same ones each
            time.
        name: what they are, for people and for `Source.name`.
        text_field: as in `FileSource`.
        messages_field: as in `FileSource`.
    """

    def __init__(
        self, records: Callable[[int], Iterable[Mapping[str, Any]]], name: str, *,
        text_field: str = "text", messages_field: str = "messages",
    ):  # fmt: skip
        self._records, self._label, self._fields = records, name, (text_field, messages_field)
        self.name = f"records {json.dumps([name, self._fields])}"

    def read(self, place: Place) -> Iterator[tuple[Document, Place]]:
        """See `Source`; a place is the number of records before it."""
        start = place[0] if place else 0
        for number, record in enumerate(self._records(start), start + 1):
            where = f"{self._label}, record {number}"
            yield record_document(record, where, *self._fields), [number]


def dataset_source(
    name: str, *, split: str = "train", config: str | None = None, revision: str | None = None,
    text_field: str = "text", messages_field: str = "messages",
) -> RecordSource:  # fmt: skip
    """A data set of the `datasets` package (extra `data`), streamed: a hub id or a local folder.

    Raises:
        UserError: the package is absent.
    """
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            found="no datasets package", expected="the extra 'data' for data sets by name",
            do="install interp_jax[data]",
        ) from error

    def records(skip: int):
        whole = datasets.load_dataset(name, config, split=split, revision=revision, streaming=True)
        return whole.skip(skip)

    label = ":".join(part for part in (name, config, split, revision) if part)
    return RecordSource(records, label, text_field=text_field, messages_field=messages_field)


class PuzzleSource:
    """Puzzles of reasoning_gym as chats with worked answers, by number and without end.

    Word problems come with their solution in steps, the others with their answer.

    Args:
        seed: of the generators.
        datasets: their names, taken in turn.

    Raises:
        UserError: the package (extra `demo`) is absent.
    """

    DATASETS = ("gsm_symbolic", "chain_sum", "gcd", "simple_equations", "leg_counting")
    _ROUND = 64  # puzzles made at once: some generators prepare all they are asked for
    _APART = 1_000_000_007  # generators seed item i with seed + i; this keeps two seeds apart

    def __init__(self, seed: int = 0, datasets: tuple[str, ...] = DATASETS):
        try:
            import reasoning_gym
        except ImportError as error:
            raise UserError(
                found="no reasoning-gym package", expected="the extra 'demo' for generated text",
                do="install interp_jax[demo]",
            ) from error
        self._make, self._datasets, self._seed = reasoning_gym.create_dataset, datasets, seed
        self.name = f"puzzles {json.dumps([seed, datasets, _version('reasoning_gym')])}"

    def read(self, place: Place) -> Iterator[tuple[Document, Place]]:
        """See `Source`; a place is the number of puzzles before it."""
        made: dict[str, Any] = {}
        now = None
        for number in itertools.count(place[0] if place else 0):
            index, which = divmod(number, len(self._datasets))
            round_, index = divmod(index, self._ROUND)
            if round_ != now:
                now, base = round_, self._seed * self._APART + round_ * self._ROUND
                made = {
                    one: self._make(one, size=self._ROUND, seed=base) for one in self._datasets
                }
            entry = made[self._datasets[which]][index]
            worked = entry["metadata"].get("answer_cot") or f"The answer is {entry['answer']}."
            yield [
                {"role": "user", "content": entry["question"].strip()},
                {"role": "assistant", "content": worked.strip()},
            ], [number + 1]


class DocstringSource:
    """The docstrings of Python's standard library: prose that is on every machine.

    Files in the order of their names, in each its docstrings of `shortest` characters or more.
    Nothing is imported: sources are parsed. Which texts there are depends on the Python version.

    Args:
        shortest: characters of the shortest docstring that is taken.
    """

    _SKIPPED = {"test", "tests", "site-packages", "dist-packages", "idle_test", "lib2to3"}

    def __init__(self, shortest: int = 120):
        self._root, self._shortest = Path(sysconfig.get_paths()["stdlib"]), shortest
        self._files = [
            path for path in sorted(self._root.rglob("*.py"))
            if not self._SKIPPED & set(path.relative_to(self._root).parts)
        ]  # fmt: skip
        self.name = f"docstrings {json.dumps([platform.python_version(), shortest])}"

    def read(self, place: Place) -> Iterator[tuple[Document, Place]]:
        """See `Source`; a place is the file's number and the number of docstrings before it."""
        first, before = place or (0, 0)
        for number in range(first, len(self._files)):
            found = self._docstrings(self._files[number])
            for index in range(before, len(found)):
                yield found[index], [number, index + 1]
            before = 0

    def _docstrings(self, path: Path) -> list[str]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of their escapes, which are not ours to mend
                tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            return []  # templates and examples of old syntax lie among the sources
        owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        texts = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, owners)]
        return [text for text in texts if text and len(text.strip()) >= self._shortest]


def open_source(
    spec: str, *, seed: int = 0, text_field: str = "text", messages_field: str = "messages"
) -> Source:
    """A source by one line of text, as a flag gives it.

    Args:
        spec: a file or a folder; `puzzles`; `docstrings`; or `datasets:NAME` or
            `datasets:NAME:SPLIT`.
        seed: of puzzles.
        text_field: as in `FileSource`.
        messages_field: as in `FileSource`.

    Raises:
        UserError: as the sources themselves.
    """
    if spec == "puzzles":
        return PuzzleSource(seed)
    if spec == "docstrings":
        return DocstringSource()
    fields = {"text_field": text_field, "messages_field": messages_field}
    if spec.startswith("datasets:"):
        name, _, split = spec.removeprefix("datasets:").partition(":")
        return dataset_source(name, split=split or "train", **fields)
    return FileSource(spec, **fields)


def record_document(record: Any, where: str, text_field: str, messages_field: str) -> Document:
    """The text or the chat of a record; others are refused by name.

    Raises:
        UserError: neither a text that is not blank nor messages of `role` and `content`.
    """
    fields = record if isinstance(record, Mapping) else {}
    messages, text = fields.get(messages_field), fields.get(text_field)
    if messages is not None:
        whole = isinstance(messages, list) and messages
        if whole and all(_is_message(message) for message in messages):
            return [{k: v for k, v in message.items() if v is not None} for message in messages]
    elif isinstance(text, str) and text.strip():
        return text
    shown = f"fields {sorted(map(str, fields))}" if fields else "no object"
    wanted = f"a text under {text_field!r}"
    if messages_field:
        wanted += f", or messages with role and content under {messages_field!r}"
    raise UserError(
        found=f"no document ({shown}) in {where}", expected=wanted,
        do="correct or remove it, or name the fields",
    )


def _is_message(message: Any) -> bool:
    return isinstance(message, Mapping) and all(
        isinstance(message.get(key), str) for key in ("role", "content")
    )


def _parquet_reader():
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(
            found="no pyarrow package", expected="the extra 'data' for .parquet files",
            do="install interp_jax[data]",
        ) from error
    return pyarrow.parquet


def _version(package: str) -> str:
    from importlib import metadata

    return metadata.version(package)
