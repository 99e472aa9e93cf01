"""Sources of documents: every kind of file, places to go on from, and what is refused."""

from __future__ import annotations

import itertools

import pytest

from interp_jax.runtime.errors import UserError
from interp_jax.text.stream_sources import (
    DocstringSource,
    FileSource,
    PuzzleSource,
    RecordSource,
    dataset_source,
    open_source,
)
from tests.text.stream_words import write_lines

TEXTS = [{"text": f"w{i}"} for i in range(7)]
CHAT = [{"role": "user", "content": "w1"}, {"role": "assistant", "content": "w2"}]


def goes_on_from_every_place(source, limit=12):
    whole = list(itertools.islice(source.read([]), limit))
    for n, (_, place) in enumerate(whole):
        rest = list(itertools.islice(source.read(place), limit - n - 1))
        assert rest == whole[n + 1 :], n
    return [document for document, _ in whole]


def test_a_folder_is_read_in_the_order_of_names(tmp_path):
    (tmp_path / "sub").mkdir()
    write_lines(tmp_path / "b.jsonl", TEXTS)
    (tmp_path / "a.txt").write_text("all of\n\nthis", encoding="utf-8")
    write_lines(tmp_path / "sub" / "c.jsonl", [{"messages": CHAT, "text": "not this"}])
    (tmp_path / "notes.md").write_text("not read")
    found = goes_on_from_every_place(FileSource(tmp_path))
    assert found == ["all of\n\nthis", *(t["text"] for t in TEXTS), CHAT]


def test_fields_are_named_by_argument(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", [{"body": "w1", "talk": None}, {"talk": CHAT}])
    source = open_source(str(path), text_field="body", messages_field="talk")
    assert goes_on_from_every_place(source) == ["w1", CHAT]
    assert source.name != FileSource(path).name


def test_parquet_is_read_by_row_groups(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    table = pyarrow.table({"text": [t["text"] for t in TEXTS], "other": list(range(7))})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=3)
    found = goes_on_from_every_place(FileSource(tmp_path / "a.parquet"))
    assert found == [t["text"] for t in TEXTS]
    parquet.write_table(pyarrow.table({"text": ["w", None]}), tmp_path / "b.parquet")
    with pytest.raises(UserError, match=r"b\.parquet, row 2"):
        list(FileSource(tmp_path / "b.parquet").read([]))


@pytest.mark.parametrize(
    "line, said",
    [
        ("", "an empty line in .*a.jsonl, line 2"),
        ('{"text": ', "no JSON .* in .*a.jsonl, line 2"),
        ('{"body": "w"}', r"no document \(fields \['body'\]\) in .*a.jsonl, line 2"),
        ("[1]", r"no document \(no object\) in .*line 2"),
        ('{"text": " "}', "a text under 'text'"),
        ('{"messages": [{"role": "user"}]}', "messages with role and content"),
        ('{"messages": []}', "messages with role and content"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, said):
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"text": "w"}}\n{line}\n{{"text": "w"}}\n')
    reader = FileSource(path).read([])
    next(reader)
    with pytest.raises(UserError, match=said):
        next(reader)


def test_a_path_without_such_files_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "none.jsonl"):
        with pytest.raises(UserError, match="without such a file"):
            FileSource(path)
    (tmp_path / "a.csv").write_text("w")
    with pytest.raises(UserError, match="a file of another kind"):
        open_source(str(tmp_path / "a.csv"))
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not UTF-8"):
        list(FileSource(tmp_path / "a.txt").read([]))


def test_records_of_any_iterable():
    source = RecordSource(lambda skip: iter(TEXTS[skip:]), "some")
    assert goes_on_from_every_place(source) == [t["text"] for t in TEXTS]
    with pytest.raises(UserError, match="some, record 1"):
        next(RecordSource(lambda skip: [{"body": "w"}], "some").read([]))


def test_a_local_data_set_is_streamed(tmp_path):
    pytest.importorskip("datasets")
    write_lines(tmp_path / "train.jsonl", TEXTS)
    source = dataset_source(str(tmp_path))
    assert goes_on_from_every_place(source) == [t["text"] for t in TEXTS]
    assert open_source(f"datasets:{tmp_path}").name == source.name


def test_puzzles_are_named_by_seed_and_number():
    pytest.importorskip("reasoning_gym")
    found = goes_on_from_every_place(PuzzleSource(3), limit=6)
    assert [m["role"] for m in found[0]] == ["user", "assistant"]
    assert len(found[0][1]["content"]) > 60  # a solution in steps
    assert found[1][1]["content"].startswith("The answer is ")
    again = [d for d, _ in itertools.islice(open_source("puzzles", seed=3).read([]), 6)]
    other = [d for d, _ in itertools.islice(PuzzleSource(4).read([]), 6)]
    assert again == found and not any(one in found for one in other)
    assert PuzzleSource(3).name != PuzzleSource(4).name


def test_docstrings_of_the_standard_library_are_prose():
    source = open_source("docstrings")
    found = goes_on_from_every_place(source, limit=10)
    assert len(found) == 10 and all(len(text) >= 120 for text in found)
    few = list(itertools.islice(DocstringSource(2000).read([]), 2))
    assert all(len(text) >= 2000 for text, _ in few)
