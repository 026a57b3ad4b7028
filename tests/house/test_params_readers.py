"""Settings that no DVC stage reads take effect too: each is read in code, and a test fails when it is ignored."""

import ast
import re
from collections import defaultdict
from datetime import timedelta

import pyarrow as pa
import pytest

from monitoring.decide import decide
from tasks.common.floors import FIGURES, Floor
from tasks.common.params import STAGE_SECTIONS, DecideParams, GateParams, Params, Section, load_params
from tasks.gate.looks import Asked
from tests.monitoring import test_decide
from tests.support import predictions
from tests.support.checkout import ROOT

PACKAGES = ("tasks", "serving", "monitoring", "flows")


def fields(model: type[Section], path: tuple[str, ...] = ()) -> dict[tuple[str, ...], tuple[str, str]]:
    """Path of each key -> (name of the class that declares it, name of the section or key it is read from)."""
    found = {}
    for name, field in model.model_fields.items():
        inner = next((part for part in (field.annotation, *_parts(field.annotation)) if _is_section(part)), None)
        here = (*path, field.alias or name)
        if inner is None:
            found[here] = (model.__name__, path[-1])
        else:
            found |= fields(inner, here)
    return found


def _parts(annotation) -> tuple:
    return getattr(annotation, "__args__", ())


def _is_section(annotation) -> bool:
    return isinstance(annotation, type) and not _parts(annotation) and issubclass(annotation, Section)


def reads() -> dict[str, set[str]]:
    """Attribute -> what it is read from in our packages: the name before the dot, and its annotated class."""
    found: dict[str, set[str]] = defaultdict(set)
    for package in PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            if file == ROOT / "tasks/common/params.py" or file.parent == ROOT / "tasks/common/sections":
                continue
            tree = ast.parse(file.read_text())
            classes = defaultdict(set)
            for node in ast.walk(tree):
                if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
                    name = node.arg if isinstance(node, ast.arg) else ast.unparse(node.target)
                    classes[name] |= set(re.findall(r"\w+", ast.unparse(node.annotation)))
            for node in ast.walk(tree):
                if isinstance(node, ast.Attribute):
                    base = ast.unparse(node.value).rpartition(".")[2].strip("_")
                    found[node.attr] |= {base, *classes[base]}
    return found


KEYS = fields(Params)
OTHER = [path for path in KEYS if path[0] not in STAGE_SECTIONS]
READS = reads()
BY_NAME = {  # where the code reads a key without an attribute
    **{("data", "split", name): "getattr(fractions, name)" for name in ("train", "calibration", "test")},
    ("validate", "expectations", "severity"): "**expectation.model_dump(",
}
BY_NAME |= {("gate", "floors", name): "getattr(self, self.figure)" for name in FIGURES}
BY_NAME[("gate", "floors", "set")] = "return self.set or"
BY_NAME_IN = {
    "data": "tasks/ingest/splits.py",
    "validate": "tasks/stages/validate/expectations.py",
    "gate": "tasks/common/floors.py",
}


@pytest.mark.parametrize("path", KEYS, ids=".".join)
def test_every_key_is_read_somewhere(path):
    if path in BY_NAME:
        assert BY_NAME[path] in (ROOT / BY_NAME_IN[path[0]]).read_text()
        return
    declared, section = KEYS[path]
    assert READS[path[-1]] & {declared, section}, f"nothing reads {'.'.join(path)}"


GATE = {
    "superior_on": ["newest"],
    "metric": "macro_f1",
    "min_gain": 0.5,
    "margin": 0.5,
    "class_margin": 0.5,
    "min_class_support": 100,
    "few_shot": 200,
    "min_corruption_kept": 0.95,
    "confidence": 0.7,
    "resamples": 123,
    "first_model": {"test.balanced_accuracy": 0.99},
    "max_ece": 0.01,
    "max_parity_difference": 1e-7,
    "max_latency_ms": 1.0,
    "max_size_mb": 1.0,
    "when_equal": "reject",
    "floors": [Floor(class_="Bag", recall=0.99)],
    "unproven": "hold",
    "look_margin": 0.01,
}
UNPROVEN = predictions.FAST.model_copy(update={"floors": [Floor(class_="Bag", recall=0.7)]})


@pytest.mark.parametrize("key", GateParams.model_fields)
def test_every_setting_of_the_gate_changes_a_verdict(key):
    first = UNPROVEN if key == "unproven" else predictions.FAST
    other = first.model_copy(update={key: GATE[key]})
    challenger = predictions.table(predictions.TARGETS, predictions.OLD)
    challenger = pa.concat_tables([challenger, predictions.table(predictions.TARGETS, predictions.OLD, split="hard")])
    found = [_verdicts(challenger, policy) for policy in (first, other)]
    assert found[0] != found[1]


def _verdicts(challenger, policy: GateParams) -> list:
    """Of a first model, of the champion again, and of a challenger that is better, but for one class."""
    measured = predictions.measured(predictions.TARGETS, predictions.OLD)
    worse = predictions.wrong(predictions.NEW, slice(0, 20))
    mixed = pa.concat_tables(predictions.table(predictions.TARGETS, worse, split=split) for split in ("test", "hard"))
    pairs = [
        (challenger, None, measured),
        (challenger, challenger, measured),
        (mixed, challenger, predictions.measured(predictions.TARGETS, worse)),
    ]
    return [predictions.verdict(*pair, policy, hard_set="hard-1", asked=(Asked("hard set", 300, 3),)) for pair in pairs]


DECIDE = {
    "min_rows": 500,
    "persistence": (1, 3),
    "warm_up_hours": 100.0,
    "cooldown_hours": 1.0,
    "max_per_day": 3,
    "min_new_labels": 5,
    "new_labels": 10,
    "max_accuracy_drop": 0.01,
    "max_age_days": 1,
    "max_silence_minutes": 5,
}


@pytest.mark.parametrize("key", [key for key in DecideParams.model_fields if key != "rollback_drop"])
def test_every_setting_of_the_decision_changes_one(key):
    other = test_decide.POLICY.model_copy(update={key: DECIDE[key]})
    windows = [test_decide.window(n, *_findings(n)) for n in range(4)]
    now = test_decide.START + timedelta(days=3)
    about = {"new_labels": 20, "last_row_at": now - timedelta(minutes=30), "drift_retrains": [now - timedelta(hours=2)]}
    found = [decide(windows, test_decide.situation(now, **about), policy) for policy in (test_decide.POLICY, other)]
    assert found[0] != found[1]


def _findings(number: int) -> list:
    if number < 3:
        return [test_decide.QUIET]
    return [test_decide.DARK, test_decide.BEFORE, test_decide.true_accuracy(0.8, 0.02)]


# The test that fails when the setting is ignored. Those of the gate and of the decision are above.
NETWORK = "test_the_network_needs_a_password_and_a_database_comes_from_the_environment"
TESTED = {
    "decide.rollback_drop": "test_a_worse_champion_goes_only_if_it_fell_by_rollback_drop",
    "store.url": "test_wrong_s3_credentials",
    "store.endpoint_url": "test_wrong_s3_credentials",
    "store.single_writer": "test_the_log_on_s3_is_the_same_log",
    "release.strategy": "test_a_shadow_answers_unseen_and_labels_decide",
    "release.steps": "test_a_good_canary_goes_up_in_steps_and_becomes_live",
    "release.min_requests": "test_it_waits_for_requests_and_hours_then_goes_on",
    "release.min_hours": "test_it_waits_for_requests_and_hours_then_goes_on",
    "release.max_hours": "test_it_waits_for_requests_and_hours_then_goes_on",
    "release.max_error_rate": "test_failures_reviews_and_slow_answers_end_it",
    "release.max_latency_ratio": "test_slow_answers_are_counted_by_the_ratio_of_params",
    "release.false_rollback_rate": "test_a_surer_rollback_takes_more_evidence",
    "capture.url": "test_the_log_is_where_capture_url_says",
    "capture.sample": "test_the_sample_is_chosen_by_image",
    "capture.images": "test_record_takes_answers_made_elsewhere",
    "capture.buffer_rows": "test_kill_9_loses_at_most_one_unwritten_buffer",
    "capture.flush_seconds": "test_an_unfilled_buffer_is_written_after_flush_seconds",
    "capture.max_per_source_per_hour": "test_a_flooding_source_is_capped_and_others_are_not",
    "capture.keep_days": "test_housekeeping_keeps_the_log_as_long_and_as_large_as_is_set",
    "capture.keep_gb": "test_housekeeping_keeps_the_log_as_long_and_as_large_as_is_set",
    "drift.max_window": "test_a_window_is_cut_to_max_window",
    "drift.false_alarm_rate": "test_false_alarms_keep_to_their_rate_over_many_references",
    "drift.resamples": "test_thresholds_come_from_so_many_resamples_of_that_seed",
    "drift.seed": "test_thresholds_come_from_so_many_resamples_of_that_seed",
    "review.budget": "test_a_sample_waits_until_it_is_labelled_and_is_asked_for_once",
    "review.method": "test_the_queue_picks_by_the_method_that_is_set",
    "review.min_gain": "test_enough_is_said_by_the_gain_that_is_set",
    "review.audit_per_day": "test_each_window_has_an_audit_sample_and_drift_asks_for_a_larger_one",
    "review.audit_per_source": "test_each_source_gets_its_least_number_a_day_once",
    "review.max_source_share": "test_a_source_cannot_give_more_labels_than_its_quota",
    "report.rows": "test_a_report_has_the_images_and_rows_that_are_set_and_so_many_are_kept",
    "report.images": "test_a_report_has_the_images_and_rows_that_are_set_and_so_many_are_kept",
    "report.keep": "test_a_report_has_the_images_and_rows_that_are_set_and_so_many_are_kept",
    "serve.retrain_cron": "test_every_schedule_is_the_one_of_params_yaml",
    "serve.monitor_minutes": "test_every_schedule_is_the_one_of_params_yaml",
    "serve.reevaluate_cron": "test_every_schedule_is_the_one_of_params_yaml",
    "serve.housekeeping_cron": "test_every_schedule_is_the_one_of_params_yaml",
    "serve.pool": "test_a_worker_of_the_pool_runs_the_flows_and_up_runs_none",
    "serve.host": NETWORK,
    "serve.hosts": NETWORK,
    "serve.public_url": "test_links_name_the_address_at_which_people_reach_the_console",
    "serve.user_header": "test_a_header_names_a_person_if_a_trusted_proxy_sends_it",
    "serve.proxies": "test_a_header_names_a_person_if_a_trusted_proxy_sends_it",
    "serve.port": "test_services_take_the_ports_that_are_set",
    "serve.evidently_port": "test_services_take_the_ports_that_are_set",
    "serve.prefect_port": "test_the_prefect_server_listens_where_params_yaml_says",
    "serve.password_env": NETWORK,
    "serve.webhook_secret_env": "test_the_webhook_reads_its_key_where_params_yaml_says",
    "serve.database_env": NETWORK,
    **{
        f"predictor.{key}": "test_every_limit_of_params_yaml_reaches_the_workers"
        for key in ("decoders", "max_batch", "queue", "deadline_seconds", "max_images", "cache_mb")
    },
    "predictor.requests_per_minute": "test_a_client_may_send_what_params_yaml_says",
    "predictor.feedback_per_hour": "test_a_client_may_send_what_params_yaml_says",
    "predictor.host": "test_the_service_listens_where_params_yaml_says",
    "predictor.port": "test_the_service_listens_where_params_yaml_says",
    "predictor.workers": "test_the_service_listens_where_params_yaml_says",
    "predictor.threads": "test_each_worker_computes_with_so_many_threads",
    "predictor.max_bytes": "test_an_image_may_be_as_large_as_is_set",
    "predictor.refresh_seconds": "test_a_pin_and_humans_only_hold_within_the_refresh",
    "predictor.with_up": "test_everything_answers_and_doing_it_twice_changes_nothing",
    "scale.engine": "test_the_entries_and_the_results_are_those_of_local_stages",
    "scale.address": "test_a_cluster_that_does_not_answer_is_said_at_once",
    "scale.training_workers": "test_a_training_on_two_nodes_outlives_a_killed_worker_and_makes_what_one_process_makes",
    "scale.shared": "test_workers_without_the_folder_fetch_shards_from_s3_and_leave_entries_there",
    "alerts.urls_env": "test_an_event_that_is_not_listed_and_a_missing_address_send_nothing",
    "alerts.events": "test_an_event_that_is_not_listed_and_a_missing_address_send_nothing",
}


def test_the_table_of_tests_is_whole_and_names_tests_that_exist():
    here = {f"gate.{key}" for key in GATE} | {f"decide.{key}" for key in DECIDE}
    assert set(TESTED) == set(map(".".join, OTHER)) - here
    sources = [file.read_text() for file in (ROOT / "tests").rglob("test_*.py")]
    defined = {name for source in sources for name in re.findall(r"def (test_\w+)", source)}
    for key, name in TESTED.items():
        assert name in defined, f"{key}: {name}"


SCHEDULES = {"retrain_cron": "1 1 * * *", "reevaluate_cron": "1 1 * * 2", "housekeeping_cron": "1 1 * * *"}


@pytest.mark.parametrize("key", [*SCHEDULES, "monitor_minutes"])
def test_every_schedule_is_the_one_of_params_yaml(key):
    from flows.services.runner import schedules

    params = load_params(ROOT / "params.yaml")
    serve = params.serve.model_copy(update={key: SCHEDULES.get(key, 7)})
    assert schedules(params) != schedules(params.model_copy(update={"serve": serve}))
