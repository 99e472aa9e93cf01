"""The journal: what was finished stays finished, whatever happens to the process or the disk."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp_jax.runtime import journal as journal_module
from interp_jax.runtime.errors import UserError
from interp_jax.runtime.journal import Journal

pytestmark = pytest.mark.core

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=25, deadline=None)
@given(records=st.dictionaries(st.text(), json_values, min_size=1, max_size=5), cut=st.data())
def test_a_cut_anywhere_loses_only_the_torn_record(tmp_path_factory, records, cut):
    path = tmp_path_factory.mktemp("journal") / "done.jsonl"
    ends = []
    with Journal(path) as journal:
        for record_id, record in records.items():
            journal.append(record_id, record)
            ends.append(path.stat().st_size)
    content = path.read_bytes()
    size = cut.draw(st.integers(0, len(content)))
    path.write_bytes(content[:size])
    whole = sum(end <= size for end in ends)
    with Journal(path) as journal:
        assert dict(journal.records()) == dict(list(records.items())[:whole])
        assert journal.done == set(list(records)[:whole])
        assert journal.cut_bytes == size - ([0, *ends][whole])
        for record_id in records:
            if record_id not in journal:
                journal.append(record_id, records[record_id])
    assert path.read_bytes() == content


def test_each_line_is_json_with_its_id(tmp_path):
    with Journal(tmp_path / "done.jsonl") as journal:
        journal.append_many([("a", {"text": "one\ntwo"}), ("b", [1.5, None])])
        assert len(journal) == 2
    lines = [json.loads(line) for line in (tmp_path / "done.jsonl").read_text().splitlines()]
    assert [(line["id"], line["record"]) for line in lines] == [
        ("a", {"text": "one\ntwo"}),
        ("b", [1.5, None]),
    ]


def test_ids_are_unique(tmp_path):
    with Journal(tmp_path / "done.jsonl") as journal:
        journal.append("a", 1)
        with pytest.raises(UserError, match="second record with id 'a'"):
            journal.append("a", 2)
        with pytest.raises(UserError, match="second record with id 'b'"):
            journal.append_many([("b", 1), ("b", 2)])
    with Journal(tmp_path / "done.jsonl") as journal:
        assert dict(journal.records()) == {"a": 1}
        with pytest.raises(UserError):
            journal.append("a", 2)


def test_damage_in_the_middle_is_refused_and_kept(tmp_path):
    path = tmp_path / "done.jsonl"
    with Journal(path) as journal:
        journal.append_many([("a", "x"), ("b", "y"), ("c", "z")])
    damaged = path.read_bytes().replace(b'"y"', b'"Y"')
    path.write_bytes(damaged)
    with pytest.raises(UserError, match="damaged line 2"):
        Journal(path)
    assert path.read_bytes() == damaged


def test_a_damaged_last_line_is_cut(tmp_path):
    path = tmp_path / "done.jsonl"
    with Journal(path) as journal:
        journal.append_many([("a", "x"), ("b", "y")])
    path.write_bytes(path.read_bytes().replace(b'"y"', b'"Y"'))
    with Journal(path) as journal:
        assert journal.done == {"a"}
        assert journal.cut_bytes > 0


@pytest.mark.parametrize("fails", ["write", "second write", "fsync"])
def test_a_full_disk_leaves_the_journal_as_it_was(tmp_path, monkeypatch, fails):
    path = tmp_path / "done.jsonl"
    real_write, calls = os.write, []

    def write(handle, data):
        calls.append(1)
        if fails == "write" or (fails == "second write" and len(calls) > 1):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real_write(handle, data[:5]) if fails == "second write" else real_write(handle, data)

    def fsync(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with Journal(path) as journal:
        journal.append("a", 1)
        before = path.read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(
                journal_module.os,
                "fsync" if fails == "fsync" else "write",
                (fsync if fails == "fsync" else write),
            )
            with pytest.raises(UserError, match="no space left"):
                journal.append("b", 2)
        assert path.read_bytes() == before
        assert "b" not in journal
        journal.append("b", 2)  # there is room again
    with Journal(path) as journal:
        assert dict(journal.records()) == {"a": 1, "b": 2}


def test_numbers_that_json_lacks_are_refused(tmp_path):
    with Journal(tmp_path / "done.jsonl") as journal:
        with pytest.raises(UserError, match="JSON cannot hold"):
            journal.append("a", float("nan"))
        assert not len(journal)


def test_one_run_at_a_time(tmp_path):
    with Journal(tmp_path / "done.jsonl"):
        with pytest.raises(UserError, match="in use by another run"):
            Journal(tmp_path / "done.jsonl")
    Journal(tmp_path / "done.jsonl").close()


def test_another_process_reads_but_does_not_write(tmp_path, monkeypatch):
    path = tmp_path / "done.jsonl"
    with Journal(path) as journal:
        journal.append("a", 1)
    before = path.read_bytes()
    monkeypatch.setattr(journal_module, "is_writer", lambda: False)
    with Journal(path) as journal:
        journal.append("b", 2)
        assert journal.done == {"a", "b"}
    assert path.read_bytes() == before


WRITER = """
import sys
from interp_jax.runtime.journal import Journal
with Journal(sys.argv[1]) as journal:
    start = len(journal)
    print("start", start, flush=True)
    for number in range(start, 10**6):
        journal.append(f"item-{number}", {"text": "x" * (1 + 7919 * number % 20000)})
        print(number, flush=True)
"""


def test_kill_9_at_any_moment_loses_nothing_finished(tmp_path):
    path = tmp_path / "done.jsonl"
    finished = -1
    for delay in (0.01, 0.05, 0.11):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        first = process.stdout.readline().split()
        assert first[0] == "start"
        # Everything that was reported as finished is there, at most the one in flight besides.
        assert finished + 1 <= int(first[1]) <= finished + 2
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        reported = [int(line) for line in process.stdout.read().splitlines() if line.strip()]
        process.stdout.close()
        assert process.wait() == -signal.SIGKILL
        finished = reported[-1] if reported else int(first[1]) - 1
    with Journal(path) as journal:
        done = [record_id for record_id, _ in journal.records()]
        assert done == [f"item-{number}" for number in range(len(done))]
        assert len(done) in (finished + 1, finished + 2)
        for number, (_, record) in enumerate(journal.records()):
            assert len(record["text"]) == 1 + 7919 * number % 20000
