"""The benchmark harness: its arithmetic, its tables and charts, and the programs it starts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import anyio
import pytest

from benchmarks import charts, scheduler
from benchmarks.children import ChildError, ask, last_line
from benchmarks.figures import Series, find, machine, ratio, short, table, to_json
from benchmarks.limits import ASYNCIO, TRIO, sizes_of
from benchmarks.peers import OURS, PEERS, Peer
from benchmarks.peers.compare import HERE, ROOT, Comparison, compare, job
from benchmarks.peers.environments import environment, find_python
from benchmarks.probes import percentile
from benchmarks.report import Probe, Results, against, growth, markdown
from benchmarks.shapes import SHAPES
from benchmarks.targets import judge
from motus.runtime import open_runtime

MACHINE = {"processor": "a", "cores": 2, "system": "b", "python": "3", "versions": {"c": "1"}}


def sample() -> Results:
    """Two rounds in which the machine slowed down by half in between."""
    series = [
        Series("trivial", "trivial", TRIO, 2_000, [4.0, 8.0]),
        Series("trivial", "trivial", ASYNCIO, 2_000, [2.0, 4.0]),
        Series("trivial", "trivial", TRIO, 20_000, [5.0, 10.0]),
        Series("trivial", "trivial", TRIO, 200_000, [8.0, 16.0]),
        Series("chain", "trivial", "native trio", 2_000, [2.0, 4.0]),
        Series("chain", "trivial", "native trio", 20_000, [2.0, 4.0]),
        Series("chain", "trivial", "native trio", 200_000, [3.0, 6.0]),
        Series("chain", "trivial", "background trio", 20_000, [4.0, 8.0]),
    ]
    probes = [Probe("holds", "success, fan", "trio", 100_000, [12.0, 14.0])]
    peers = [
        Comparison(
            "original",
            "the original Motus",
            "as documented",
            100,
            "3.12.1",
            {"lithosai-motus": "1.0"},
            {f"sync {shape}": [60.0, 120.0] for shape in ("chain", "fan", "tree")},
            {f"sync {shape}": [2.0, 4.0] for shape in ("chain", "fan", "tree")},
        ),
        Comparison("ray", "Ray", "2 processes", 10, reason="cannot be installed: <no> & such"),
    ]
    return Results(MACHINE, 2, series, probes, peers, {"latency on trio": "it fell over"})


def test_a_ratio_is_the_median_of_the_rounds_ratios_and_not_the_ratio_of_medians() -> None:
    assert ratio([1.0, 20.0, 3.0], [2.0, 10.0, 3.0]) == 1.0
    with pytest.raises(ValueError, match="zip"):
        ratio([1.0], [1.0, 2.0])


def test_a_series_is_divided_by_the_reference_with_its_bodies_at_its_size() -> None:
    series = sample().series
    chain = find(series, "chain", "native trio", 2_000)
    assert chain is not None
    assert against(series, chain, TRIO) == 0.5
    assert against(series, chain, ASYNCIO) == 1.0
    big = find(series, "chain", "native trio", 20_000)
    assert big is not None
    assert against(series, big, ASYNCIO) is None
    assert growth(series, "chain", "native trio", 2_000, 200_000) == 1.5


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.123, "0.12"), (9.87, "9.87"), (12.34, "12.3"), (1234.5, "1,234"), (-0.5, "-0.50")],
)
def test_figures_are_shown_with_three_digits(value: float, shown: str) -> None:
    assert short(value) == shown


def test_percentile_is_a_value_that_was_measured() -> None:
    values = [float(i) for i in range(1, 101)]
    assert percentile(values, 50) == 50.0
    assert percentile(values, 99) == 99.0
    assert percentile([7.0], 99) == 7.0


def test_a_cell_cannot_break_the_table() -> None:
    assert table(["a", "b"], [["x | y", "1"]]) == "| a | b |\n| --- | ---: |\n| x / y | 1 |"


def test_the_machine_is_described_without_naming_it() -> None:
    text = json.dumps(machine())
    assert os.uname().nodename not in text
    assert str(Path.home()) not in text
    assert str(ROOT) not in text


def test_the_report_quotes_the_figures_and_does_not_hide_a_peer_that_failed() -> None:
    results = sample()
    report = markdown(results, judge(results))
    assert "| chain | 3.00 (0.50 / 1.00) | - | - | - |" in report
    assert "| chain, native trio | 3.00 | 3.00 | 4.50 | 1.50 |" in report
    assert "| success, fan | 13.0 |" in report
    assert "90.0 (30.0x)" in report
    assert "failed: cannot be installed: <no> & such" in report
    assert "Failed: latency on trio: it fell over" in report


def test_the_targets_are_judged_only_where_they_were_measured() -> None:
    verdicts = {metric: (measured, met) for metric, measured, _, met in judge(sample())}
    assert verdicts["trivial bodies, 20,000 nodes, trio: worst xT"] == ("0.40", "met")
    assert verdicts["from synchronous code: xT more than native, worst"] == ("0.40", "missed")
    assert verdicts["longest hold of the loop"] == ("13.0 ms", "missed")
    assert verdicts["the original, chain and fan: least"] == ("30.0x", "met")
    assert verdicts["the original, tree: least"] == ("30.0x", "missed")
    assert not any("suspended" in metric for metric in verdicts)
    assert judge(Results(MACHINE, 1)) == []


def test_results_survive_the_json_file() -> None:
    results = sample()
    text = to_json(results.document())
    assert '"values": [2.0, 4.0]' in text.replace("[2.0,4.0]", "[2.0, 4.0]")
    assert Results.from_document(json.loads(text)) == results


def test_the_chart_is_well_formed_and_shows_what_failed() -> None:
    root = ET.fromstring(charts.chart(sample()))
    assert root.tag.endswith("svg")
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    texts = [element.text or "" for element in root.iter() if element.tag.endswith("text")]
    assert "Time per task against size" in texts
    assert "Ray: not measured, cannot be installed: <no> & such" in texts
    for element in root.iter():
        assert 0 <= float(element.attrib.get("x", 0)) <= width
        assert 0 <= float(element.attrib.get("y", 0)) <= height
        assert float(element.attrib.get("width", 1)) > 0


def test_a_chart_of_nothing_is_a_chart() -> None:
    ET.fromstring(charts.chart(Results(MACHINE, 1)))


def test_ticks_are_round_and_within_the_axis() -> None:
    assert charts.ticks(0.3, 12) == pytest.approx([0.5, 1, 2, 5, 10])
    assert charts.ticks(1, 20_000) == pytest.approx([1, 10, 100, 1000, 10_000])
    assert charts.round_down(37.0) == pytest.approx(20)
    assert charts.round_up(37.0) == pytest.approx(50)


def test_a_shape_that_takes_few_nodes_is_measured_once_with_as_many_as_fit() -> None:
    sizes = [200, 2_000, 20_000, 200_000]
    assert sizes_of(SHAPES["chain"], sizes) == sizes
    assert sizes_of(SHAPES["layers"], sizes) == [200, 2_000, 20_000]
    assert sizes_of(SHAPES["fan, all wait at once"], sizes) == [1000]


@pytest.mark.realtime
@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_does_what_it_says(name: str, anyio_backend: tuple[str, Any]) -> None:
    shape, n = SHAPES[name], 60
    values = {"chain": n, "fan": n * (n - 1) // 2, "tree": 30 * 31 // 2, "operators": n}

    async def main() -> None:
        async with open_runtime() as runtime:
            if shape.raises is None:
                value = await shape.build(n)
                assert values.get(name, value) == value
            else:
                with pytest.raises(shape.raises):
                    await shape.build(n)
        assert runtime.scheduler.graph.unfinished == 0

    anyio.run(main, backend=anyio_backend[0])


# ---------------------------------------------------------------------- other programs


def python(tmp_path: Path, code: str) -> list[str]:
    script = tmp_path / "child.py"
    script.write_text(textwrap.dedent(code))
    return [sys.executable, str(script)]


@pytest.mark.realtime
def test_a_child_answers_and_sees_nothing_of_our_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "canary")
    command = python(
        tmp_path,
        """
        import json, os, sys
        job = json.load(sys.stdin)
        print(json.dumps({"job": job, "home": os.environ["HOME"], "all": dict(os.environ)}))
        """,
    )
    answer = ask(command, {"n": 1}, variables={"EXTRA": "x"})
    assert answer["job"] == {"n": 1}
    assert answer["all"]["EXTRA"] == "x"
    assert "canary" not in json.dumps(answer)
    assert not Path(answer["home"]).exists()


@pytest.mark.realtime
@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import sys; sys.exit('no such luck')", "ended with status 1: no such luck"),
        ('print(\'{"error": "it broke"}\')', "it broke"),
        ("print('[1]')", "answered with list instead of an object"),
        ("pass", "ended with status 0: it said nothing"),
    ],
)
def test_a_child_that_fails_is_a_reason_in_one_line(tmp_path: Path, code: str, reason: str) -> None:
    with pytest.raises(ChildError) as caught:
        ask(python(tmp_path, code), {})
    assert str(caught.value) == reason


@pytest.mark.realtime
def test_nothing_that_a_child_started_outlives_it(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    command = python(
        tmp_path,
        f"""
        import subprocess, sys, time
        sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
        inside = subprocess.Popen(sleep)
        outside = subprocess.Popen(sleep, start_new_session=True)
        open({str(pids)!r}, "w").write(f"{{inside.pid}} {{outside.pid}}")
        time.sleep(60)
        """,
    )
    with pytest.raises(ChildError, match="no answer within 1 seconds"):
        ask(command, {}, timeout=1.0)
    deadline = time.monotonic() + 5.0
    for pid in map(int, pids.read_text().split()):
        while running(pid):
            assert time.monotonic() < deadline, f"process {pid} is left"
            time.sleep(0.01)  # until whoever inherited it has reaped it


def running(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_the_last_line_that_says_something() -> None:
    assert last_line("first\n  second  \n\n") == "second"
    assert last_line("\n") == ""


# ---------------------------------------------------------------------- peers

ADAPTER = """
from contextlib import asynccontextmanager, contextmanager

print("noise on stdout, as peers make it")


@contextmanager
def sync_session():
    yield {
        "inc": lambda x: x + 1,
        "add": lambda a, b: a + b,
        "total": sum,
        "result": lambda value: value + WRONG,
    }


async def tree(n):
    leaves = (n + 1) // 2
    return leaves * (leaves + 1) // 2


async def result(value):
    return value


@asynccontextmanager
async def async_session():
    with sync_session() as session:
        yield session | {"result": result, "tree": tree}
"""


def run_adapter(tmp_path: Path, code: str, **changes: Any) -> dict[str, Any]:
    adapter = tmp_path / "adapter.py"
    adapter.write_text(code)
    peer = Peer("a peer", ("x",), ("no-such-package",), 9, ("sync", "async"), "")
    asked = job("adapter", peer, 9) | {"adapter": str(adapter)} | changes
    return ask([sys.executable, "-I", str(HERE / "harness.py")], asked)


@pytest.mark.realtime
def test_the_harness_times_every_shape_from_every_caller(tmp_path: Path) -> None:
    answer = run_adapter(tmp_path, ADAPTER.replace("WRONG", "0"))
    assert set(answer) == {"python", "versions", "seconds"}
    assert answer["versions"] == {"no-such-package": "from source"}
    for caller in ("sync", "async"):
        seconds = answer["seconds"][caller]
        assert set(seconds) == {"chain", "fan", "tree"}
        assert all(value > 0 for value in seconds.values())


@pytest.mark.realtime
def test_a_peer_that_computes_something_else_is_found_out(tmp_path: Path) -> None:
    with pytest.raises(ChildError, match="chain of 9 gave 10 instead of 9"):
        run_adapter(tmp_path, ADAPTER.replace("WRONG", "1"))


@pytest.mark.realtime
def test_neither_the_checkout_nor_the_adapters_can_be_imported_by_a_peer(tmp_path: Path) -> None:
    code = ADAPTER.replace("WRONG", "0") + textwrap.dedent(
        """
        import sys
        assert not [path for path in sys.path if "benchmarks" in path or path == ""], sys.path
        """
    )
    run_adapter(tmp_path, code)


@pytest.mark.realtime
def test_a_peer_sees_no_network_but_loopback(tmp_path: Path) -> None:
    code = ADAPTER.replace("WRONG", "0") + textwrap.dedent(
        """
        import socket
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname()).close()
        names = [name for _, name in socket.if_nameindex()]
        assert names == ["lo"], names
        """
    )
    try:
        run_adapter(tmp_path, code, network="must be own")
    except ChildError as error:
        # Where the system has no namespaces for us, such a peer does not run at all.
        assert "would listen beyond loopback" in str(error)  # noqa: PT017  # either is right


def test_a_peer_that_listens_is_never_run_in_the_machines_network() -> None:
    assert job("ray", PEERS["ray"], 1)["network"] == "must be own"
    assert job("parsl", PEERS["parsl"], 1)["network"] == "own"
    assert job("ours", OURS, 1)["network"] == "shared"


@pytest.mark.realtime
def test_our_own_adapter_keeps_to_the_contract() -> None:
    asked = job("ours", OURS, 50)
    assert asked["paths"] == [str(ROOT)]
    answer = ask([sys.executable, "-I", str(HERE / "harness.py")], asked)
    assert set(answer["seconds"]) == {"sync", "async"}


def test_every_peer_has_an_adapter_with_the_sessions_it_claims() -> None:
    for name, peer in PEERS.items():
        source = (HERE / f"{name}.py").read_text()
        assert "def sync_session" in source
        assert ("def async_session" in source) == ("async" in peer.callers)


class FakeHarness:
    """Answers as the harness does; `fails` says which adapter fails in which of its runs."""

    def __init__(self, fails: Mapping[str, int]) -> None:
        self.fails = dict(fails)
        self.order: list[str] = []

    def __call__(
        self, command: Sequence[str], asked: Mapping[str, Any], **_: object
    ) -> dict[str, Any]:
        name = Path(asked["adapter"]).stem
        self.order.append(name)
        if self.order.count(name) == self.fails.get(name):
            raise ChildError("it fell over")
        seconds = 1e-6 * asked["nodes"] * (1 if name == "ours" else 30)
        shapes = dict.fromkeys(asked["shapes"], seconds)
        return {
            "python": "3.12.1",
            "versions": {"x": "1"},
            "seconds": dict.fromkeys(asked["callers"], shapes),
        }


def installed(name: str, peer: Peer, cache: Path) -> str:
    if name == "ray":
        raise ChildError("cannot be installed: no matching distribution")
    return "python"


def test_peers_take_turns_with_ours_round_by_round(tmp_path: Path) -> None:
    fake = FakeHarness({})
    found = compare(["original", "parsl"], 2, tmp_path, ask=fake, install=installed)
    assert fake.order == ["ours", "original", "ours", "parsl"] * 2
    assert [one.reason for one in found] == ["", ""]
    assert found[0].times_ours("async tree") == pytest.approx(30)
    assert "sync chain" in found[1].theirs
    assert "async chain" not in found[1].theirs


def test_a_peer_that_fails_is_reported_and_stops_nobody(tmp_path: Path) -> None:
    fake = FakeHarness({"parsl": 2})
    found = compare(["ray", "parsl", "dask_threaded"], 3, tmp_path, ask=fake, install=installed)
    ray, parsl, dask = found
    assert ray.reason == "cannot be installed: no matching distribution"
    assert ray.theirs == {}
    assert parsl.reason == "it fell over"
    assert len(parsl.theirs["sync chain"]) == len(parsl.ours["sync chain"]) == 1
    assert len(dask.theirs["sync chain"]) == 3


def test_the_sizes_of_peers_can_be_chosen(tmp_path: Path) -> None:
    found = compare(
        ["parsl"], 1, tmp_path, nodes={"parsl": 7}, ask=FakeHarness({}), install=installed
    )
    assert found[0].nodes == 7


@pytest.mark.realtime
def test_an_environment_that_cannot_be_made_says_why_and_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pip_fails(command: Sequence[str], **_: object) -> subprocess.CompletedProcess[str]:
        error = "noise\nERROR: No matching distribution found for x\n" if "pip" in command else ""
        return subprocess.CompletedProcess(command, int(bool(error)), "", error)

    monkeypatch.setattr(subprocess, "run", pip_fails)
    peer = Peer("x", ("x",), (), 1, ("sync",), "")
    with pytest.raises(ChildError, match="cannot be installed: ERROR: No matching distribution"):
        environment("x", peer, tmp_path)
    assert not (tmp_path / "x" / "installed.txt").exists()
    assert (tmp_path / ".gitignore").read_text() == "*\n"


def test_the_python_of_a_peer_is_found_or_missed_by_name() -> None:
    assert find_python(None) == sys.executable
    with pytest.raises(ChildError, match=r"needs Python 9\.9, which is not on this machine"):
        find_python("9.9")


# ---------------------------------------------------------------------- the program


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("all", ["ab", "ac", "b", "b, c"]),
        ("none", []),
        ("a", ["ab", "ac"]),
        ("b/ac", ["ac", "b"]),
        ("b,", ["b, c"]),
    ],
)
def test_names_are_chosen_whole_or_by_their_beginning(text: str, names: list[str]) -> None:
    assert scheduler.chosen(text.split("/"), ["ab", "ac", "b", "b, c"]) == names


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SystemExit, match="unknown: x; there are ab, b"):
        scheduler.chosen(["x"], ["ab", "b"])


@pytest.mark.realtime
@pytest.mark.slow
def test_the_program_measures_and_keeps_the_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scheduler.main(["--quick", "--nodes", "60", "120", "--results", str(tmp_path)])
    printed = capsys.readouterr().out
    for name in SHAPES:
        assert f"| {name} |" in printed
    for probe in scheduler.PROBES:
        assert f"| {probe}, " in printed
    assert (tmp_path / "scheduler.md").read_text() == printed.removesuffix("\n")
    ET.fromstring((tmp_path / "scheduler.svg").read_text())
    again = ["--again", str(tmp_path / "scheduler.json"), "--json", str(tmp_path / "copy.json")]
    scheduler.main(again)
    copy = (tmp_path / "copy.json").read_text()
    assert copy == (tmp_path / "scheduler.json").read_text()
