"""`make bench-gpu`, rehearsed on a CPU: cases, budget, failures, tables."""

import json

import pytest

from bench import gpu, gpu_case, step
from bench.gpu_case import Case
from picjax import plan
from picjax.cli import UserError

ABOUT = {"device": "X", "jax": "1", "peers": "absent", "commit": "c"}
ABOUT |= {"memory MiB": 10_000.0, "platform": "gpu", "tiny": False}


def result(per_s=2.0, **more):
    return {"per s": per_s, "ready s": 1.0, "peak MiB": 5.0, **more}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "runs" / "gpu.json"


@pytest.fixture
def asked(monkeypatch):
    """Names of the cases that were measured; each gets the same numbers."""
    names = []

    def ask(values, limit):
        case = Case.read(values)
        names.append(case.name)
        runs = {who: result() for who in case.runs}
        return {"case": case._asdict(), "runs": runs}

    monkeypatch.setattr(gpu, "ask", ask)
    return names


def measure_here(values, limit):
    """What the process of a case prints."""
    found = gpu_case.measure(Case.read(values)) if values else gpu_case.machine()
    return json.loads(json.dumps(found))


def test_a_rehearsal_measures_a_case_and_prints_its_table(path, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "ask", measure_here)
    only = "network painter float32 1: picjax"
    gpu.main(["--tiny", "--json", str(path), "--only", only])
    results = json.loads(path.read_text())
    (entry,) = results["cases"].values()
    run = entry["runs"]["picjax"]
    assert run["per s"] == pytest.approx(1 / run["seconds"])
    assert run["quartiles"][0] <= run["seconds"] <= run["quartiles"][1]
    assert run["GFLOP"] > 0 and run["ready s"] > run["seconds"] and run["rounds"] == 3
    assert run["% of peak"] is None  # no peak of a CPU is stated
    assert results["machine"]["commit"] and results["machine"]["platform"] == "cpu"
    assert "| `painter` network, float32, batch 1 |" in capsys.readouterr().out
    gpu.main(["--table", str(path)])
    assert "| `painter` network, float32, batch 1 |" in capsys.readouterr().out


def test_without_a_gpu_it_is_one_sentence(path, monkeypatch):
    monkeypatch.setattr(gpu, "ask", lambda *_: {**ABOUT, "platform": "cpu"})
    with pytest.raises(UserError, match="rehearse with --tiny"):
        gpu.main(["--json", str(path)])
    assert not path.exists()


def test_every_method_has_its_steps_and_the_smallest_come_first():
    cases = gpu.make_cases(peers=True)
    assert len({case.name for case in cases}) == len(cases)
    first = cases[: len(step.VARIANTS)]
    assert {(c.what, c.dtype) for c in first} == {("step", "float32")}
    assert [c.batch for c in first] == [2, 1, 1, 1, 1, 1]
    steps = {
        (case.method, case.dtype, case.batch, who)
        for case in cases
        for who in case.runs
        if case.what == "step"
    }
    assert len(steps) == 6 * 2 * 2 * 3
    alone = gpu.make_cases(peers=False)
    assert {who for case in alone for who in case.runs} == {"picjax", "naive"}
    assert {case.what for case in alone} == set(gpu_case.BUILDERS)


def test_a_failing_run_is_an_entry_and_the_others_are_timed(monkeypatch):
    def build(case, who):
        if who == "eager":
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        if who == "compiled":
            raise TypeError("unsupported\n\nSet X=1")
        return gpu_case.Run(lambda: None, 4)

    monkeypatch.setitem(gpu_case.BUILDERS, "walk", build)
    monkeypatch.setattr(gpu_case, "memory", lambda who: (0, 0))
    runs = "eager", "picjax", "compiled"
    case = Case("walk", "painter", "float32", 4, runs, tiny=True)
    entry = gpu_case.measure(case)
    assert entry["runs"]["eager"] == {"error": "out of memory"}
    assert entry["runs"]["compiled"] == {"error": "TypeError: unsupported Set X=1"}
    assert entry["runs"]["picjax"]["per s"] > 0 and entry["x"] == {"picjax": 1.0}


def test_a_failing_process_is_a_sentence():
    entry = gpu.ask({"what": "step"}, limit=60)
    assert entry == {"error": "KeyError: 'runs'"}


def test_a_run_stops_when_its_time_is_spent_and_goes_on_later(path, asked):
    cases = gpu.make_cases(peers=False)[:3]
    results = gpu.load(path, ABOUT)
    gpu.measure_all(cases, results, path, minutes=0)
    entries = json.loads(path.read_text())["cases"]
    assert [e["skipped"] for e in entries.values()] == ["no time left"] * 3
    assert not asked
    gpu.measure_all(cases[:2], gpu.load(path, ABOUT), path, minutes=1)
    gpu.measure_all(cases, gpu.load(path, ABOUT), path, minutes=1)
    assert asked == [case.name for case in cases]
    assert [child.name for child in path.parent.iterdir()] == ["gpu.json"]


def test_results_of_another_commit_are_not_mixed(path):
    gpu.measure_all(gpu.make_cases(False)[:1], gpu.load(path, ABOUT), path, minutes=0)
    with pytest.raises(UserError, match="another commit"):
        gpu.load(path, {**ABOUT, "commit": "d"})


def test_the_largest_batch_is_halved_until_it_fits(monkeypatch):
    tried = []

    def ask(values, limit):
        case = Case.read(values)
        tried.append(case.batch)
        run = {"error": "out of memory"} if case.batch > 8 else result()
        return {"case": case._asdict(), "runs": {"picjax": run}}

    monkeypatch.setattr(gpu, "ask", ask)
    case = Case("step", "picmm", "float32", 0, ("picjax",))
    entry = gpu.ask_case(case, {"machine": ABOUT, "cases": {}}, 60)
    assert tried == [32, 16, 8] and entry["case"]["batch"] == 8


def test_the_search_for_the_largest_batch_begins_with_what_is_known():
    single = Case("step", "picmm", "float32", 1, ("picjax",))
    known = result(**{"arguments MiB": 2000.0, "temporary MiB": 500.0})
    entries = {"1": {"case": single._asdict(), "runs": {"picjax": known}}}
    entries["1"]["largest"] = False
    results = {"machine": ABOUT, "cases": entries}
    largest = single._replace(batch=0)
    assert gpu.first_batch(largest, results) == 32  # 16 images fit for sure
    assert gpu.first_batch(largest._replace(dtype="bfloat16"), results) == 64
    measured = largest._replace(batch=128)._asdict()
    entries["2"] = {"case": measured, "runs": {"picjax": known}, "largest": True}
    assert gpu.first_batch(largest._replace(runs=("eager",)), results) == 128


def test_tables_compare_rates_and_name_what_is_missing():
    ours = Case("step", "picmm", "bfloat16", 64, ("picjax",))
    peer = ours._replace(batch=32, runs=("eager",))
    single = ours._replace(batch=1)
    late = Case("walk", "painter", "bfloat16", 1, ("picjax",))
    run = {"picjax": result(90.0, **{"% of peak": 12.0})}
    cases = {
        "a": {"case": ours._asdict(), "runs": run, "largest": True},
        "b": {"case": peer._asdict(), "runs": {"eager": result(60.0)}, "largest": True},
        "one": {"case": single._asdict(), "runs": run, "largest": False},
        "c": {"case": late._asdict(), "skipped": "no time left", "largest": False},
    }
    text = gpu.markdown({"machine": ABOUT, "cases": cases})
    row = "| `picmm` step, bfloat16, batch 64 (largest) | 90 | 12 | 1.50 (batch 32) |"
    assert "| `picmm` step, bfloat16, batch 1 | 90 | 12 |  |" in text
    assert row in text and "- c: no time left" in text


def test_peaks_are_those_of_the_data_sheets():
    assert plan.stated_peak("NVIDIA H100 80GB HBM3", "bfloat16") == 989e12
    assert plan.stated_peak("NVIDIA A100-SXM4-40GB", "float32") == 156e12
    assert plan.stated_peak("TPU v5 lite", "float32") == 197e12
    assert plan.stated_peak("cpu", "float32") is None
    kinds = [kind for chip in plan.CHIPS.values() for kind in chip.kinds]
    assert len(set(kinds)) == len(kinds)
