"""Work spread over threads, processes and a Dask cluster: same order, same results, errors that say what to do."""

import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

from lesionpipe.core.errors import UserError
from lesionpipe.core.parallel import ITEMS_PER_WORKER, spread
from lesionpipe.core.progress import progress


def square(x: int) -> int:
    return x * x


def later_ones_first(x: int) -> tuple[int, int]:
    time.sleep(0.02 * (x % 3 == 0))
    return x, os.getpid()


def refuse_three(x: int) -> int:
    if x == 3:
        raise UserError(f"item {x}: refused")
    return x


def die(x: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return x


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("engine", ["threads", "processes"])
def test_results_keep_the_order_of_the_items(engine, workers):
    results = list(spread(later_ones_first, range(12), workers, engine))
    assert [x for x, _ in results] == list(range(12))
    others = {pid for _, pid in results} - {os.getpid()}
    assert bool(others) == (engine == "processes" and workers > 1)


def test_nothing_to_do_is_done():
    assert list(spread(square, [])) == []


def test_progress_changes_nothing():
    assert list(progress(spread(square, range(5), 2), "squares", 5)) == [0, 1, 4, 9, 16]


@pytest.mark.parametrize("engine", ["threads", "processes"])
def test_an_error_comes_through(engine):
    with pytest.raises(UserError, match="item 3: refused"):
        list(spread(refuse_three, range(9), 2, engine))


def test_results_that_wait_are_few():
    """A slow reader of results must not find all of them piled up in memory."""
    begun = []
    results = spread(lambda x: begun.append(x) or x, range(100), 2, "threads")
    next(results)
    time.sleep(0.2)
    assert len(begun) <= 2 * ITEMS_PER_WORKER + 1
    results.close()
    assert len(begun) < 100


def test_threads_work_at_the_same_time():
    both = threading.Barrier(2, timeout=10)
    assert len(list(spread(lambda _: both.wait(), range(2), 2, "threads"))) == 2


def test_workers_import_the_checkout_of_their_parent(tmp_path, root):
    """With one environment for two checkouts, whose editable installation leads to the first."""
    for name in ("core/__init__.py", "core/parallel.py", "core/errors.py"):
        (tmp_path / "lesionpipe" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / "lesionpipe" / name, tmp_path / "lesionpipe" / name)
    (tmp_path / "lesionpipe/__init__.py").write_text("CHECKOUT = 'second'\n")
    (tmp_path / "lesionpipe/work.py").write_text(
        "import os, lesionpipe\ndef where(_): return lesionpipe.CHECKOUT, os.getpid()\n"
    )
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages/probe.py").write_text(
        "import os\nfrom lesionpipe.core.parallel import spread\nfrom lesionpipe.work import where\n"
        "if __name__ == '__main__':\n    found = set(spread(where, range(8), 2))\n"
        "    print({checkout for checkout, _ in found}, os.getpid() in {pid for _, pid in found})\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    words = [sys.executable, "-m", "stages.probe"]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout == "{'second'} False\n", done.stderr


def test_a_killed_worker_is_named():
    with pytest.raises(UserError, match=r"a worker process was killed.*runtime\.workers"):
        list(spread(die, range(4), 2))


def test_without_dask_the_way_to_install_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UserError, match=r"tcp://x:1: needs Dask; pip install -e '\.\[cluster\]'"):
        list(spread(square, range(3), cluster="tcp://x:1"))


def test_a_cluster_gives_the_same_in_the_same_order(cluster):
    assert cluster.startswith("tcp://")
    results = list(spread(later_ones_first, range(20), cluster=cluster))
    assert [x for x, _ in results] == list(range(20))
    assert len({pid for _, pid in results} - {os.getpid()}) == 2


def test_an_error_on_a_cluster_comes_through(cluster):
    with pytest.raises(UserError, match="item 3: refused"):
        list(spread(refuse_three, range(9), cluster=cluster))


def test_an_address_where_nobody_answers_is_named(monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr("lesionpipe.core.parallel.CONNECT_TIMEOUT_S", 0.5)
    for address in ("tcp://127.0.0.1:9", "nonsense://x"):
        with pytest.raises(UserError, match=f"runtime.cluster = {address}: no scheduler answers there"):
            list(spread(square, range(3), cluster=address))


def test_a_scheduler_without_workers_is_named():
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=0, threads_per_worker=1, dashboard_address=":0", host="127.0.0.1", silence_logs=logging.CRITICAL
        ) as empty,
        pytest.raises(UserError, match="has no workers; start some with `dask worker`"),
    ):
        list(spread(square, range(3), cluster=empty.scheduler_address))
