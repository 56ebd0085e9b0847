"""The thread pool: every task exactly once, no growth, no idle work, forks and exits survive."""

import ctypes
import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from sardonyx.compiler.build import Unit, compile_library
from sardonyx.deployment.targets import host_target
from sardonyx.runtime.threads import Pool, available_cpus, cgroup_quota, get_pool

I64 = ctypes.c_int64
SOURCE = Path(__file__).parent / "pool_check.c"


@pytest.fixture(scope="module")
def library_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("pool") / "pool_check.so"
    compile_library([Unit("pool_check", SOURCE)], host_target(), path)
    return path


@pytest.fixture(scope="module")
def library(library_path):
    library = ctypes.CDLL(str(library_path))
    library.take.restype = ctypes.c_void_p
    library.spin.restype = library.churn.restype = library.peak.restype = I64
    return library


@pytest.fixture
def make_pool():
    pools = []

    def make(threads):
        pools.append(Pool(threads))
        return pools[-1]

    yield make
    for pool in pools:
        pool._stop()


def check(library, host, tasks, *, work=0, inner=0, scratch=0, repeats=1):
    """Runs counting jobs; returns the number of errors and of nested tasks."""
    seen = (ctypes.c_uint8 * tasks)()
    errors = (I64 * 2)()
    library.check(host, seen, I64(tasks), I64(work), I64(inner), I64(scratch), I64(repeats), errors)
    return errors[0], errors[1]


@pytest.mark.parametrize("threads", [1, 2, 4, 8])
@pytest.mark.parametrize("tasks", [1, 2, 3, 17, 1009, 100_003])
def test_each_task_runs_exactly_once(library, make_pool, threads, tasks):
    repeats = max(1, min(300, 200_000 // tasks))
    host = make_pool(threads).host()
    assert check(library, host, tasks, repeats=repeats, scratch=64) == (0, 0)


def test_millions_of_tasks(library, make_pool):
    host = make_pool(4).host()
    assert check(library, host, 3_000_017, repeats=2) == (0, 0)


def test_no_tasks_and_more_than_32_bits_of_tasks(library, make_pool):
    host = make_pool(2).host()
    assert library.spin(host, I64(0), I64(1), I64(1)) >= 0
    assert library.spin(host, I64(-3), I64(1), I64(1)) >= 0
    # An empty task per chunk: only the arithmetic of chunks is at work.
    times = (I64 * 1)()
    library.latency(host, I64(5 << 40), I64(0), I64(1), times)
    assert times[0] < 1e9


@pytest.mark.parametrize("threads", [2, 4])
def test_concurrent_callers_share_the_workers(library, make_pool, threads):
    pool = make_pool(threads)
    results = []

    def call(seed):
        host = pool.host()
        sizes = (2 + seed, 37 * seed + 5, 4099)
        results.extend(check(library, host, n, work=20, scratch=128 * seed, repeats=40) for n in sizes)

    callers = [threading.Thread(target=call, args=(seed,)) for seed in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(20)
        assert not caller.is_alive()
    assert results == [(0, 0)] * 12


def test_more_callers_than_slots(library, make_pool):
    pool = make_pool(2)
    results = []
    callers = [
        threading.Thread(target=lambda: results.append(check(library, pool.host(), 97, work=50, repeats=20)))
        for _ in range(40)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(20)
    assert results == [(0, 0)] * 40


def test_nested_jobs_run_inline_in_scratch_of_their_own(library, make_pool):
    host = make_pool(4).host()
    assert check(library, host, 101, inner=7, scratch=4096, repeats=20) == (0, 101 * 7 * 20)


def test_scratch_that_cannot_be_had_is_reported_and_nothing_crashes(library, make_pool):
    host = make_pool(2).host()
    times = (I64 * 1)()
    library.latency(host, I64(8), I64(0), I64(1), times)
    assert not host.failed()
    # No task runs, so the bytes that would prove it stay 0 and are counted.
    seen, errors = (ctypes.c_uint8 * 8)(), (I64 * 2)()
    too_much = I64(1 << 60)
    library.check(host, seen, I64(8), I64(0), I64(0), too_much, I64(1), errors)
    assert errors[0] == 8
    assert host.failed()
    assert not host.failed()
    assert check(library, host, 8) == (0, 0)


def test_a_host_limits_its_threads(library, make_pool):
    pool = make_pool(4)
    host = pool.host(threads=1)
    check(library, host, 100, repeats=10)
    assert pool.workers == 0
    host.set_threads(2)
    assert check(library, host, 100, repeats=10) == (0, 0)


@pytest.mark.parametrize(("size", "threads"), [(2, 2), (4, 2), (8, 3), (3, 8)])
def test_no_more_threads_work_than_were_asked_for(library, make_pool, size, threads):
    host = make_pool(size).host(threads)
    crowd = (I64 * 2)()
    assert library.peak(host, crowd, I64(64), I64(200)) <= min(size, threads)
    assert crowd[0] == 0


def test_callers_replace_workers(library, make_pool):
    pool = make_pool(4)
    crowd = (I64 * 2)()
    hosts = [pool.host() for _ in range(4)]
    callers = [threading.Thread(target=library.peak, args=(host, crowd, I64(64), I64(300))) for host in hosts]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(20)
    # A worker goes on to the end of its chunk when a caller arrives.
    assert crowd[1] <= 4 + 3
    assert crowd[0] == 0


def test_the_pool_grows_and_never_shrinks():
    pool = get_pool(2)
    size = pool.threads
    assert get_pool(1) is pool
    assert pool.threads == size
    assert get_pool(size + 1) is pool
    assert pool.threads == size + 1
    for wrong in (0, -1, 1000):
        with pytest.raises(ValueError, match="threads must be"):
            get_pool(wrong)


def test_idle_workers_use_no_processor_time(library, make_pool):
    host = make_pool(4).host()
    check(library, host, 1000, repeats=5)
    time.sleep(0.05)
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.02


def test_memory_stays_flat_over_runs_with_changing_sizes(library, make_pool):
    host = make_pool(2).host()
    assert library.churn(host, I64(24), I64(40_000), I64(20)) == 0
    after_few = host.memory()
    assert library.churn(host, I64(24), I64(40_000), I64(3000)) == 0
    after_many = host.memory()
    assert after_many.live == after_many.live_blocks == 0
    assert after_many.cached <= max(after_few.cached, 16 << 20)
    assert after_many.cached_blocks <= 128
    host.trim()
    assert host.memory() == (0, 0, 0, 0, 0)


def test_large_blocks_are_kept_up_to_the_peak(library, make_pool):
    host = make_pool(1).host()
    assert library.churn(host, I64(3), I64(16 << 20), I64(30)) == 0
    assert host.memory().cached <= 3 * (16 << 20) * 3


def test_blocks_are_reused_and_impossible_sizes_are_null(library, make_pool):
    host = make_pool(1).host()
    first = library.take(host, I64(1000))
    host.release(first)
    assert library.take(host, I64(1001)) == first  # of the same class of sizes
    assert host.memory().live >= 1001
    host.release(first)
    for bytes_ in (-1, 1 << 62, (1 << 63) - 1):
        assert not library.take(host, I64(bytes_))
    zero = library.take(host, I64(0))
    assert zero
    host.release(zero)
    host.release(None)


def test_calls_reach_python_and_failures_stay_inside(library, make_pool):
    host = make_pool(1).host()
    assert library.ask(host, ctypes.c_void_p(64), I64(3)) == 1
    steps = []
    host.set_call(lambda run, step: steps.append((run, step)) or 0)
    assert library.ask(host, ctypes.c_void_p(64), I64(7)) == 0
    assert steps == [(64, 7)]
    host.set_call(lambda run, step: 1 // 0)
    assert library.ask(host, ctypes.c_void_p(64), I64(7)) == 1
    host.set_call(None)
    assert library.ask(host, ctypes.c_void_p(64), I64(7)) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_works_and_has_workers_of_its_own(library_path):
    # In a process of its own: forking the test runner itself would copy whatever threads it has.
    script = f"""
        import ctypes, os, sys, threading, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        from sardonyx.runtime.threads import get_pool
        library = ctypes.CDLL({str(library_path)!r})
        pool = get_pool(4)
        host = pool.host()
        I = ctypes.c_int64
        def check(repeats):
            seen, errors = (ctypes.c_uint8 * 5000)(), (I * 2)()
            library.check(host, seen, I(5000), I(10), I(0), I(64), I(repeats), errors)
            return errors[0]
        assert check(20) == 0
        other = pool.host()
        busy = threading.Thread(target=library.spin, args=(other, I(64), I(2000), I(3000)))
        busy.start()                      # the fork comes in the middle of another thread's job
        for _ in range(5):
            child = os.fork()
            if child == 0:
                before = pool.workers
                bad = check(200)
                os._exit(0 if bad == 0 and before == 0 and pool.workers > 0 else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert check(20) == 0
        busy.join()
    """
    run_script(script)


@pytest.mark.parametrize("ending", ["", "import os; os._exit(0)", "sys.exit(0)"])
def test_the_interpreter_ends_while_threads_are_at_work(library_path, ending):
    script = f"""
        import ctypes, sys, threading, time
        from sardonyx.runtime.threads import get_pool
        library = ctypes.CDLL({str(library_path)!r})
        pool = get_pool(4)
        hosts = [pool.host() for _ in range(3)]
        I = ctypes.c_int64
        for host in hosts:
            work = (host, I(64), I(2000), I(10**6))
            threading.Thread(target=library.spin, args=work, daemon=True).start()
        time.sleep(0.05)
        {ending}
    """
    run_script(script)


def run_script(script):
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


# ---------------------------------------------------------------- quotas


def tree(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


V2 = {"proc/self/cgroup": "0::/a/b\n"}
V1 = {"proc/self/cgroup": "4:memory:/x\n2:cpu,cpuacct:/a\n0::/\n"}
CPU = "sys/fs/cgroup/cpu,cpuacct"


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({"proc/self/cgroup": "garbage\n\n::\n"}, None),
        (V2, None),
        ({**V2, "sys/fs/cgroup/a/b/cpu.max": "max 100000\n"}, None),
        ({**V2, "sys/fs/cgroup/a/b/cpu.max": "150000 100000\n"}, 1.5),
        # A parent may grant less than the group itself.
        (
            {
                **V2,
                "sys/fs/cgroup/a/b/cpu.max": "400000 100000\n",
                "sys/fs/cgroup/a/cpu.max": "5 2",
            },
            2.5,
        ),
        # Inside a container the path of the host is not visible: only the top is.
        ({"proc/self/cgroup": "0::/../q\n", "sys/fs/cgroup/cpu.max": "50000 100000"}, 0.5),
        ({**V2, "sys/fs/cgroup/a/b/cpu.max": "nonsense\n"}, None),
        ({**V2, "sys/fs/cgroup/a/b/cpu.max": "100000 0\n"}, None),
        (
            {**V1, f"{CPU}/a/cpu.cfs_quota_us": "-1\n", f"{CPU}/a/cpu.cfs_period_us": "100000\n"},
            None,
        ),
        (
            {**V1, f"{CPU}/cpu.cfs_quota_us": "300000\n", f"{CPU}/cpu.cfs_period_us": "100000\n"},
            3.0,
        ),
        (
            {
                "proc/self/cgroup": "1:cpu:/docker/1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "120000",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            1.2,
        ),
    ],
)
def test_quota_of_control_groups(tmp_path, files, quota):
    assert cgroup_quota(tree(tmp_path, files)) == quota


def test_available_cpus_rounds_the_quota_up_and_is_at_least_one(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert available_cpus(str(tmp_path / "none")) == 8
    for text, count in (("150000 100000", 2), ("1000 100000", 1), ("9900000 100000", 8)):
        root = tree(tmp_path, {**V2, "sys/fs/cgroup/a/b/cpu.max": text})
        assert available_cpus(root) == count


@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or available_cpus() < 2, reason="needs two processors of Linux"
)
def test_workers_keep_off_the_processor_of_their_caller(library, make_pool):
    pool = make_pool(2)
    host = pool.host()
    known = {thread.native_id for thread in threading.enumerate()}
    allowed = os.sched_getaffinity(0)
    check(library, host, 100, work=100)
    [worker] = [t for t in threading.enumerate() if t.name.startswith("sardonyx-") and t.native_id not in known]
    assert worker.native_id is not None
    left = set()
    for _ in range(200):  # asleep after 50 us; woken by a job, on any processor but one
        time.sleep(0.002)
        check(library, host, 100, work=1000)
        mine = os.sched_getaffinity(worker.native_id)
        assert mine
        assert mine <= allowed
        left = allowed - mine
        if left:
            break
    assert len(left) == 1


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_all_threads_on_one_processor(library_path):
    program = f"""
        import ctypes, os
        os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}})
        from sardonyx.runtime.threads import get_pool
        library = ctypes.CDLL({str(library_path)!r})
        library.spin.restype = ctypes.c_int64
        host = get_pool(3).host()
        for _ in range(20):
            seen, errors = (ctypes.c_uint8 * 500)(), (ctypes.c_int64 * 2)()
            I = ctypes.c_int64
            library.check(host, seen, I(500), I(50), I(0), I(64), I(3), errors)
            assert errors[0] == 0
        print("done")
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "done\n", done.stderr
