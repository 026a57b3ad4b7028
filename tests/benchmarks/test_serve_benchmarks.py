"""Quick passes of the benchmarks of the service, with the shared small model."""

from benchmarks import serve_parity, serve_stack
from tests.support.small_project import finished_project


def test_the_service_answers_as_evaluate_measures_and_refuses_what_is_hostile():
    parity, hostile = serve_parity.run(finished_project() / "artifacts/bundle", quick=True)
    assert parity.met, parity
    assert hostile.met, hostile


def test_a_quick_pass_over_stacks(capsys):
    serve_stack.main(["-", "--quick"])
    said = capsys.readouterr().out
    assert "serve_stack_evergreen" in said
    assert "not recorded" in said
