"""What `isthmus bench cloud` concludes from made-up measurements, impossible ones among them."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from bench.report.report import About
from bench.throughput.results import LoadPoint, Round, Stages, Throughput
from bench.throughput.throughput_report import plot, sections


def made_round(rate: float, bare_rate: float, cpu_ms: float = 20, steady: bool = True) -> Round:
    return Round(
        rate=rate,
        steady=steady,
        batch=16,
        ms=(100, 200, 300),
        queue_ms=50,
        decode_ms=10,
        tails_ms=90,
        cpu_ms=cpu_ms,
        load_share=0.05,
        bare_rate=bare_rate,
        bare_cpu_ms=16,
    )


def measured(*rounds: Round) -> Throughput:
    about = About(command="isthmus bench cloud", date="2026-01-01", images=8, machine={})
    loads = tuple(LoadPoint(workload="all tasks", concurrency=n, rounds=rounds) for n in (1, 32))
    stages = Stages(workload="all tasks", batch=16, ms={"decode": 1.0, "forward": 16.0})
    return Throughput(about=about, threads=1, loads=loads, stages=(stages,))


def test_the_ratio_is_taken_within_each_round() -> None:
    """The second round met a busy machine; the medians of rates alone would give 45 / 100."""
    throughput = measured(made_round(90, 100), made_round(45, 50), made_round(40, 200))
    assert throughput.loads[0].ratio == 0.9
    [target] = sections(throughput)[0].targets
    assert (target.reached, target.met) == ("90%", True)
    assert not sections(measured(made_round(84, 100)))[0].targets[0].met


def test_what_no_stage_explains_is_reported() -> None:
    [row] = sections(measured(made_round(90, 100, cpu_ms=20)))[-1].rows
    assert row == ("all tasks", "16", "1.00", "16.00", "3.00", "20.00")
    assert plot(measured(made_round(90, 100))).startswith(b"\x89PNG")


def test_a_service_that_outran_its_own_forward_is_noise_and_meets_no_target() -> None:
    rates = sections(measured(made_round(294, 100)))[0]
    [target] = rates.targets
    assert (target.reached, target.met, target.verdict) == ("noise (294%)", None, "undetermined")
    assert rates.rows[0][7] == "noise (294%)"
    assert any(note.startswith("noise: a service cannot be faster") for note in rates.notes)
    # Two measurements one after the other differ by a few percent.
    [close] = sections(measured(made_round(103, 100)))[0].targets
    assert (close.reached, close.met) == ("103%", True)


def test_a_service_may_outrun_a_forward_that_is_slower_than_its_own_way() -> None:
    quicker = made_round(130, 100).model_copy(update={"pieces_rate": 140})
    [target] = sections(measured(quicker))[0].targets
    assert (target.reached, target.met) == ("130%", True)
    [target] = sections(measured(made_round(160, 100).model_copy(update={"pieces_rate": 140})))[0].targets
    assert target.verdict == "undetermined"


@pytest.mark.parametrize(
    ("workload", "wanted"),
    [("all tasks", ">= 85%"), ("all tasks, PNG maps", ">= 75%"), ("classification alone", ">= 70%")],
)
def test_each_workload_has_its_target(workload: str, wanted: str) -> None:
    throughput = measured(made_round(90, 100))
    loads = tuple(load.model_copy(update={"workload": workload}) for load in throughput.loads)
    stages = tuple(one.model_copy(update={"workload": workload}) for one in throughput.stages)
    [target] = sections(throughput.model_copy(update={"loads": loads, "stages": stages}))[0].targets
    assert target.target == wanted


def test_stages_that_took_longer_than_the_whole_leave_an_undetermined_rest() -> None:
    stages = sections(measured(made_round(90, 100, cpu_ms=16.15)))[-1]
    assert stages.rows[0][4] == "noise (-0.85)"
    assert stages.notes[-1].endswith("the rest is undetermined.")


def test_a_round_too_brief_for_the_systems_clock_is_noise() -> None:
    rates = sections(measured(made_round(90, 100, cpu_ms=0)))[0]
    assert rates.rows[0][8] == "noise (inf%)"


def test_a_run_that_was_too_brief_misses_no_target() -> None:
    """Its rate is a lower bound: what reaches the target meets it, what does not says nothing."""
    rates = sections(measured(made_round(59, 100, steady=False)))[0]
    [target] = rates.targets
    assert (target.reached, target.met) == ("at least 59%", None)
    assert rates.notes[-1].startswith("At least: the time was too short")
    [met] = sections(measured(made_round(90, 100, steady=False)))[0].targets
    assert (met.reached, met.met) == ("at least 90%", True)
