import json
import multiprocessing
import os
import time

import pytest

from alphanet_zoo.search.costs import make_problem
from alphanet_zoo.search.run import STRATEGIES, SearchRun
from alphanet_zoo.search.scores import ScoreFile
from alphanet_zoo.space.presets import ALPHANET_TINY as TINY

SETTINGS = {"supernet": "a"}


class Counting:
    """Scores an arch by its entries; is interrupted after some archs."""

    def __init__(self, interrupt_after=10**9, seconds=0.0):
        self.scored, self._left, self._seconds = 0, interrupt_after, seconds

    def __call__(self, arch, reference):
        if self.scored >= self._left:
            raise KeyboardInterrupt
        time.sleep(self._seconds)
        self.scored += 1
        return {"score": sum(map(float, arch.scalars)) % 97 / 97, "complete": True}


def run(path, scorer=None, strategy="evolution", **more):
    problem = make_problem(TINY, {}, num_classes=10)
    search = SearchRun(problem, scorer or Counting(), ScoreFile(path, SETTINGS), STRATEGIES[strategy](40), **more)
    return search(40, 3)


@pytest.mark.parametrize("strategy", ["evolution", "nsga2", "random"])
def test_ten_interruptions_change_nothing(tmp_path, strategy):
    whole = run(tmp_path / "whole.jsonl", strategy=strategy)
    for _ in range(10):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut.jsonl", Counting(3), strategy)
        with open(tmp_path / "cut.jsonl", "ab") as file:
            file.write(b'{"id": "cut off')
    last = Counting()
    assert run(tmp_path / "cut.jsonl", last, strategy) == whole
    assert last.scored == 10 and len(whole) == 40


def worker(path, rank, dies):
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "3"}
    if dies:
        scorer = Counting(1, 0.01)
        try:
            run(path, scorer)
        except KeyboardInterrupt:
            os._exit(9)
    run(path, Counting(seconds=0.01))


def test_several_processes_equal_one_also_if_one_dies(tmp_path):
    context = multiprocessing.get_context("fork")
    path = tmp_path / "shared.jsonl"
    processes = [context.Process(target=worker, args=(path, rank, rank == 2)) for rank in range(3)]
    for process in reversed(processes):  # The one that dies at its second arch begins, so that there is a second one.
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 9]
    last = Counting()
    assert run(path, last) == run(tmp_path / "one.jsonl")
    archs = [json.dumps(json.loads(line)["arch"]) for line in path.read_text().splitlines() if "arch" in line]
    assert last.scored == 0 and len(archs) == len(set(archs)) == 40


def test_scores_of_other_settings_are_kept_and_not_used(tmp_path):
    path = tmp_path / "scores.jsonl"
    run(path)
    other = ScoreFile(path, {"supernet": "b"})
    assert not other.entries and other.others == 40
    other.add(TINY.smallest, {"score": 1.0, "complete": True})
    assert len(ScoreFile(path, SETTINGS).entries) == 40 and len(ScoreFile(path, {"supernet": "b"}).entries) == 1


def test_the_time_limit_ends_a_search_and_the_next_one_continues(tmp_path):
    path = tmp_path / "scores.jsonl"
    first = run(path, Counting(seconds=0.02), time_limit=0.2)
    assert 0 < len(first) < 40
    last = Counting()
    assert len(run(path, last)) == 40 and last.scored == 40 - len(first)
