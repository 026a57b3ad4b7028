"""Every fault that Evergreen must survive: what bites, what must happen, the tests and figures that show it.

A test is "FILE::NAME" under tests/, a figure the name of one that a script under benchmarks/ recorded. `make faults`
runs all of them and writes docs/faults.md. tests/house/test_faults.py checks that each row has tests and each exists.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    fault: str
    behaviour: str
    tests: tuple[str, ...]
    figures: tuple[str, ...] = ()
    not_here: str = ""  # what a machine without the means cannot show, and why


KILLS = "flows/runs/test_kill_points.py::"
LOOP = "loop/test_loop.py::"
PARALLEL = "flows/runs/test_parallel_runs.py::"
SERVICES = "flows/services/test_services.py::"
LEASE = "flows/runs/test_lease.py::"
S3 = "tasks/storage/test_s3_store.py::"
S3_DATA = "flows/project/test_s3_data.py::"
CONTRACT = "tasks/storage/test_store_contract.py::"
STORE = "tasks/releases/test_store.py::"
POINTER = "tasks/releases/test_pointer.py::"
VERIFY = "flows/versions/test_verify.py::"
FORGET = "flows/erasure/test_forget.py::"
SHARED = "flows/versions/test_shared_places.py::"
MEASURE = "tasks/inspection/test_measure.py::"
VALIDATE = "tasks/stages/test_validate.py::"
DECIDE = "monitoring/test_decide.py::"
SITE = "flows/console/shell/test_guard.py::"
PEOPLE = "flows/console/people/test_sign_in.py::"
EVIDENTLY = "monitoring/pages/test_evidently.py::"
WEBHOOK = "flows/services/test_webhook.py::"
SOURCES = "tasks/sources/test_sources.py::"
REVIEW = "flows/production/test_review.py::"
FUZZ = "faults/test_fuzz.py::"

AREAS: dict[str, dict[int, Row]] = {
    "Process crash": {
        1: Row(
            "`kill -9` inside a Prefect transaction leaves the side effect",
            "the pointer's compare-and-swap is the only commit point; the next start completes what was killed",
            (
                f"{KILLS}test_every_point_in_the_code_is_listed_and_killed_at",
                f"{KILLS}test_before_or_after_and_the_next_start_completes_it",
                "faults/test_random_kills.py::test_a_quick_pass_kills_at_random_times_and_goes_on_with_the_next_seeds",
                "flows/publishing/test_publish.py::test_killed_anywhere_it_is_before_or_after",
                f"{STORE}test_a_killed_promotion_happened_or_not_and_history_closes",
            ),
            ("kill_points", "kills_between_states", "random_kills", "random_kills_between_states"),
        ),
        2: Row(
            "a killed holder's lock never frees; a lock key leaves its folder",
            "flock, freed by the kernel; the pointer's number and digest refuse a stale writer; keys are checked",
            (
                f"{KILLS}test_a_lock_is_free_at_once_when_its_holder_is_killed_and_named_when_it_hangs",
                f"{PARALLEL}test_the_inputs_are_held_by_the_runs_process_and_free_when_it_is_killed",
                f"{PARALLEL}test_a_stale_writer_is_refused",
                f"{CONTRACT}test_no_key_leaves_the_store",
            ),
        ),
        3: Row(
            "holder and server are killed, and the lease stays taken",
            "leases in the release store expire; no Prefect concurrency slot is used",
            (
                f"{LEASE}test_a_killed_machines_lease_expires",
                f"{LEASE}test_a_run_of_this_very_checkout_is_known_to_be_dead",
                f"{SERVICES}test_up_after_the_supervisor_was_killed_brings_everything_back_once",
            ),
        ),
        4: Row(
            "a killed run stays Running; a finished one turns to Crashed",
            "reconciliation of our own, which can be repeated and leaves living runs alone",
            (
                f"{SERVICES}test_killed_services_are_restarted_and_a_run_that_died_with_them_is_marked",
                f"{KILLS}test_a_dead_runs_name_is_kept_until_prefect_was_told",
                "flows/repo/test_workspace.py::test_reconcile_removes_dead_workspaces_and_keeps_living_and_newest_finished",
            ),
        ),
        5: Row(
            "a kill tears a result that is written in place",
            "temporary file, fsync, rename; a cache entry that cannot be read is computed again",
            (
                "faults/test_torn_files.py::test_a_cache_entry_cut_anywhere_is_computed_again",
                "faults/test_torn_files.py::test_a_checkpoint_cut_anywhere_is_none",
                f"{MEASURE}test_a_torn_or_foreign_cache_entry_is_measured_again",
                "tasks/backbones/test_features.py::test_a_torn_entry_is_computed_again",
                "tasks/backbones/test_frozen.py::test_a_torn_file_is_exported_again",
                f"{KILLS}test_temporary_files_of_the_dead_go_and_those_of_the_living_stay",
            ),
        ),
        6: Row(
            "out of memory; a worker dies with a bus error",
            "decoding children have a limit of their own; a training that lacks memory names the batch size",
            (
                f"{MEASURE}test_memory_beyond_the_limit_is_refused_and_the_rest_goes_on",
                "tasks/stages/test_training_loop.py::test_too_little_memory_is_an_error_that_names_the_batch_size",
                "tasks/stages/test_train_together.py::test_a_worker_that_dies_ends_the_training_with_an_error_that_says_how",
                "tasks/stages/test_train_backbone.py::test_killed_by_sigkill_it_goes_on_and_ends_as_if_nothing_had_happened",
            ),
            ("peak_memory_growth_10x",),
            "a memory limit of a cgroup needs a writable /sys/fs/cgroup: limits of processes (rlimit) stand for it",
        ),
        7: Row(
            "an input that cannot be hashed drops out of a cache key",
            "keys of our own over JSON values; anything else is an error",
            (
                "faults/test_keys.py::test_what_json_cannot_hold_is_refused_and_never_left_out",
                "tasks/common/test_code.py::test_a_cache_key_names_the_module_that_computes_the_value",
            ),
            ("missed_recomputations", "missed_reruns"),
        ),
        8: Row(
            "SIGKILL orphans a temporary server",
            "one server per project, found by its checkout; `down` leaves no process",
            (
                f"{SERVICES}test_down_leaves_no_process_and_up_finds_none",
                f"{SERVICES}test_up_after_the_supervisor_was_killed_brings_everything_back_once",
                "tasks/stages/test_train_together.py::test_workers_end_with_a_training_that_is_killed",
            ),
            ("random_kills_between_states",),
        ),
    },
    "Storage": {
        9: Row(
            "a flipped byte in a read-only object of DVC's cache is served",
            "content is hashed before use",
            (
                "flows/repo/test_push.py::test_a_damaged_cache_object_is_not_published",
                f"{VERIFY}test_a_damaged_cache_is_named_before_a_checkout_serves_it",
                "flows/publishing/test_rollback.py::test_a_copy_damaged_in_one_place_is_taken_from_the_other",
            ),
            ("flips_missed",),
        ),
        10: Row(
            "a truncated S3 object is accepted",
            "an audit reads back what was pushed; a reading that breaks off goes on or fails",
            (
                f"{S3_DATA}test_one_setting_moves_the_dvc_remote_and_damage_there_is_repaired",
                f"{S3}test_a_reading_that_breaks_off_goes_on_where_it_was",
                "flows/repo/test_push.py::test_what_was_damaged_in_the_remote_is_pushed_again",
            ),
            (
                "flips_missed",
                "s3_schedule_failures",
            ),
        ),
        11: Row(
            "push and status say in sync although an object is deleted",
            "every object that a manifest names is looked at",
            (
                f"{S3_DATA}test_dvc_push_trusts_its_index_of_deleted_objects_the_audit_does_not",
                f"{S3_DATA}test_an_object_lost_in_cache_and_remote_stops_publication",
                f"{VERIFY}test_every_object_of_the_remote_is_looked_at",
                f"{VERIFY}test_every_object_of_the_release_store_is_looked_at",
            ),
        ),
        12: Row(
            "`gc` removes what a rollback needs",
            "every version that was not retired is a root; a dry run comes first",
            (
                "faults/test_many_versions.py::test_any_version_is_restored_identical_also_when_the_live_one_is_damaged",
                "flows/versions/test_gc.py::test_every_kept_version_is_restored_byte_for_byte_afterwards",
                "flows/versions/test_gc.py::test_without_yes_nothing_changes_and_what_is_young_stays",
                "flows/versions/test_gc.py::test_nothing_is_removed_when_a_root_cannot_be_read",
            ),
            ("rollback_versions_not_identical", "rollback_pointer_s", "restore_1gb_s"),
        ),
        13: Row(
            "on a full disk a pull fails and blames the cache",
            "the reason is `disk_full`, with the space that is left; the state is that of before",
            (
                "faults/test_disk_full.py::test_on_disks_of_many_sizes_each_write_is_whole_or_named",
                f"{CONTRACT}test_a_full_disk_is_named_and_leaves_nothing",
                "flows/cli/test_bad_input.py::test_a_full_disk",
            ),
        ),
        14: Row(
            "S3 commits and the reply is lost: the retry is told 412 although our write stands",
            "every write carries a mark, and the object says whose it is",
            (
                f"{S3}test_a_write_whose_reply_is_lost_stands",
                f"{S3}test_a_promotion_lost_on_its_way_back_and_superseded_is_still_known",
                f"{S3}test_a_large_file_whose_last_reply_is_lost_stands",
                "faults/test_s3_schedules.py::test_eight_writers_promote_each_version_once_whatever_the_network_does",
                "faults/test_s3_schedules.py::test_a_schedule_is_the_same_each_time",
            ),
            ("s3_schedule_failures",),
        ),
        15: Row(
            "the content is A, B, then A again: a stale If-Match is accepted",
            "number and uid make every pointer unique; the token is a sha256, never an ETag",
            (
                f"{PARALLEL}test_a_stale_writer_is_refused",
                f"{CONTRACT}test_swap_only_replaces_what_was_read",
                f"{S3}test_a_write_overtaken_on_its_way_is_refused",
            ),
        ),
        16: Row(
            "parts of an upload that was killed stay forever",
            "a sweep aborts uploads whose writer must be dead; docs/s3.md names the lifecycle rule",
            (
                f"{S3}test_what_a_killed_upload_leaves_is_invisible_and_swept",
                f"{S3}test_an_upload_whose_writer_may_live_is_not_swept",
            ),
        ),
    },
    "Concurrency": {
        17: Row(
            "schedule, drift and a person start at the same time",
            "one wins; the loser is judged again, against the new champion",
            (
                "faults/test_eight_writers.py::test_eight_writers_lose_and_double_nothing",
                f"{STORE}test_four_writers_lose_and_duplicate_nothing",
                f"{LOOP}test_killed_while_publishing_then_two_runs_at_once_one_wins_and_the_loser_gates_again",
                "flows/publishing/test_publish.py::test_parallel_runs_all_get_through_one_by_one",
            ),
            ("promotions_lost_or_doubled", "s3_schedule_failures"),
        ),
        18: Row(
            "a run that hangs in PENDING blocks all later ones",
            "runs block one another by locks of living processes only; silence raises an alarm",
            (
                "flows/runs/test_single_flight.py::test_a_killed_run_blocks_no_other_and_its_reason_is_handled",
                "monitoring/test_alerts.py::test_a_monitor_that_does_not_run_is_noticed_from_outside",
            ),
        ),
        19: Row(
            "DVC refuses parallel commands",
            "one workspace per run",
            (f"{PARALLEL}test_ten_runs_at_once_on_one_cache",),
        ),
        20: Row(
            "Prefect's SQLite is locked",
            "requests are retried and count once; a database can be named instead",
            (
                "flows/server/test_server_api.py::test_a_request_to_a_busy_server_is_retried_and_counts_once",
                "flows/server/test_server_api.py::test_a_server_that_stays_busy_and_any_other_refusal_are_errors",
            ),
        ),
        21: Row(
            "a backlog after downtime; runs doubled when clocks change",
            "schedules in UTC; what was missed is made up by one run",
            (
                "faults/test_simulated_year.py::test_in_a_year_with_outages_each_backlog_is_one_run",
                "flows/services/test_schedules.py::test_runs_missed_in_downtime_are_counted_and_made_up_by_one",
                "flows/services/test_schedules.py::test_no_run_is_skipped_or_doubled_when_clocks_change",
            ),
        ),
    },
    "Bad data": {
        22: Row(
            "Great Expectations says success on no rows, an empty suite, columns without values",
            "hard rules come first",
            (
                f"{FUZZ}test_any_value_of_any_setting_is_taken_or_refused_by_name",
                f"{VALIDATE}test_no_rows_is_refused",
                f"{VALIDATE}test_an_empty_suite_is_refused",
                f"{VALIDATE}test_a_column_without_values_is_refused",
                f"{VALIDATE}test_an_expectation_that_cannot_be_evaluated_is_an_error_not_a_pass",
            ),
        ),
        23: Row(
            "half a JPEG passes Pillow's verify; altered bytes load",
            "ids are sha256; a child process decodes completely; closed list of reasons",
            (
                f"{FUZZ}test_any_bytes_are_an_image_or_undecodable_for_a_reason_of_the_list",
                f"{MEASURE}test_refused_with_a_reason_of_the_closed_list",
                f"{MEASURE}test_a_dying_child_costs_exactly_the_image_that_killed_it",
                "serving/test_predictor.py::test_altered_bytes_never_raise",
            ),
            (
                "malformed_uncaught",
                "valid_refused_rate",
            ),
        ),
        24: Row(
            "decompression bombs",
            "a pixel limit of our own, formats from a list, memory of a child bounded",
            (
                f"{MEASURE}test_the_largest_allowed_images_are_measured_under_a_gigabyte",
                f"{MEASURE}test_an_image_that_needs_more_than_its_child_may_take_is_quarantined",
                f"{MEASURE}test_a_spinning_decoder_is_ended_by_its_cpu_time",
            ),
        ),
        25: Row(
            "EXIF rotation, 16 bits, CMYK, palettes, animations",
            "training and serving share one decoder",
            (
                f"{MEASURE}test_each_kind_of_file_is_described_as_stored_and_measured_as_the_model_sees_it",
                "tasks/dataset/test_formats.py::test_heic_is_upright_and_has_its_colours",
                "serving/test_predictor.py::test_one_image_in_jpeg_and_png_gets_one_answer",
            ),
            ("valid_refused_rate",),
        ),
        26: Row(
            "another resize library costs a point of accuracy",
            "the bundle says how images are prepared; lost parity is measured and gated",
            (
                "tasks/stages/test_evaluate.py::test_another_head_or_stale_pixels_show_as_lost_parity",
                "tasks/stages/test_export.py::test_exported_model_answers_as_the_trained_one",
                "tasks/stages/test_bundle.py::test_a_bundle_that_records_other_params_than_its_worktree_has_is_refused",
            ),
        ),
    },
    "Bad labels": {
        27: Row(
            "cleanlab finds nothing in input that hides every issue",
            "such input is refused",
            (
                "tasks/stages/test_label_noise.py::test_input_that_hides_every_issue_is_refused",
                "tasks/stages/test_label_noise.py::test_features_with_nan_are_refused",
                "tasks/stages/test_clean.py::test_a_class_without_training_labels_stops_the_stage",
            ),
        ),
        28: Row(
            "four of the five images of a class are flagged; half of what is flagged is right",
            "repairs only where they are proven, capped per class; all others wait for a person",
            (
                "tasks/stages/test_clean.py::test_a_rare_class_neither_loses_nor_gains_an_image",
                "tasks/stages/test_clean.py::test_the_cap_holds_for_each_class_and_spares_the_least_suspicious",
                "tasks/stages/test_clean_proof.py::test_wrong_labels_are_repaired_and_hard_images_only_queued",
            ),
            ("clean_wrong_changes", "clean_harm_points"),
        ),
        29: Row(
            "a whole class is relabelled and nothing is flagged",
            "each batch is compared with the data so far",
            (
                "tasks/stages/test_validate_batches.py::test_a_flipped_class_is_refused_and_named_and_its_images_are_shown",
                "tasks/stages/test_batch_noise.py::test_a_whole_class_thrown_into_a_smaller_one",
                "tasks/stages/test_batch_noise.py::test_twenty_honest_batches_raise_no_alarm",
            ),
        ),
    },
    "Model quality": {
        30: Row(
            "a hard set is used again and again until noise passes",
            "a win needs an interval; equal candidates are held",
            (
                "tasks/gate/test_gate_statistics.py::test_of_500_equal_candidates_at_most_2_percent_are_promoted_and_as_few_rejected",
                "tasks/gate/test_gate.py::test_a_few_lucky_rare_images_are_no_win",
            ),
            ("biased_equal_promoted",),
        ),
        31: Row(
            "test images are among the training images",
            "same bytes are one sample; near-duplicates share a split or are refused; siblings are reported",
            (
                "tasks/stages/test_inspect.py::test_a_training_image_that_looks_like_a_held_out_one_is_excluded",
                "tasks/ingest/test_splits.py::test_an_image_that_would_bridge_two_splits_is_refused",
                "tasks/inspection/test_near_duplicates.py::test_copies_of_photos_are_found_and_other_photos_are_not",
            ),
            ("sibling_recall",),
        ),
        32: Row(
            "the mean hides a class that collapsed; NaN; lost calibration",
            "floors for each class; figures of the exported model in a process of its own",
            (
                "tasks/gate/test_gate_evidence.py::test_no_sabotaged_model_is_promoted",
                "tasks/gate/test_gate.py::test_one_class_that_falls_hidden_by_the_mean_is_caught",
                "tasks/stages/test_evaluate.py::test_a_model_that_diverged_is_refused",
            ),
        ),
    },
    "Monitoring": {
        33: Row(
            "99 % NaN counts as no drift; a column of NaN stops the report",
            "missing values are drift; columns do not affect one another",
            (
                "monitoring/drift/test_missing_values.py::test_99_percent_missing_is_drift_and_does_not_affect_other_columns",
                "monitoring/drift/test_missing_values.py::test_a_column_without_any_value_does_not_stop_the_measures",
            ),
        ),
        34: Row(
            "one of twenty columns alarms in most windows without drift",
            "thresholds over all measures together; k of n windows; cool-down; a daily limit",
            (
                "monitoring/drift/test_measured_windows.py::test_false_alarms_keep_to_their_rate_over_many_references",
                f"{DECIDE}test_one_drifted_window_is_watched_and_two_of_three_ask_for_labels",
                f"{DECIDE}test_flapping_retrains_at_most_once_in_24_hours",
                f"{DECIDE}test_no_history_breaks_the_cap_or_the_cooldown",
            ),
            ("null_false_alarm_rate", "shift_detection_rate"),
        ),
        35: Row(
            "no samples reads as healthy",
            "silence is an alarm",
            (
                f"{DECIDE}test_silence_raises_an_alarm",
                "flows/production/test_monitor.py::test_with_nothing_logged_it_says_so_and_silence_is_an_alarm_told_once",
            ),
        ),
        36: Row(
            "a reference of the last batch hides slow drift",
            "each model has a frozen reference of its own",
            (
                "monitoring/drift/test_measured_windows.py::test_slow_drift_does_not_hide_in_the_window_before",
                "tasks/stages/test_bundle.py::test_reference_is_what_the_model_makes_of_held_out_images",
            ),
        ),
        37: Row(
            "Evidently's UI slows down with thousands of reports, and makes projects twice",
            "small snapshots, pruned; one project",
            (
                f"{EVIDENTLY}test_adding_a_snapshot_to_5000_takes_under_5_seconds",
                f"{EVIDENTLY}test_there_is_one_project_and_one_snapshot_per_window_in_order_of_time",
                f"{EVIDENTLY}test_old_snapshots_keep_their_values_and_lose_their_plots",
            ),
        ),
    },
    "Security": {
        38: Row(
            "a class name becomes a script in a page",
            "everything is escaped; foreign pages are in a frame that reaches nothing; a policy forbids scripts",
            (
                "monitoring/pages/test_report.py::test_hostile_text_in_any_shown_field_runs_nothing",
                f"{EVIDENTLY}test_hostile_names_do_not_reach_evidently",
                "flows/release_report/test_release_report.py::test_hostile_names_stay_text_everywhere",
                f"{SITE}test_evidently_is_rendered_in_a_frame_that_reaches_nothing",
            ),
            ("injections_run",),
        ),
        39: Row(
            "Evidently's secret guards writes only; Prefect allows every origin",
            "a sign-in in front of each server, this machine only unless asked otherwise",
            (
                f"{SITE}test_each_route_except_health_needs_the_secret_or_the_password",
                f"{EVIDENTLY}test_evidentlys_own_ui_shows_the_history_and_notices_a_new_window_and_only_to_its_owner",
                f"{SERVICES}test_another_user_of_this_machine_reads_and_changes_nothing",
            ),
            ("foreign_requests_accepted",),
        ),
        40: Row(
            "an unsigned or replayed webhook",
            "signature over id, time and body; five minutes; one use",
            (
                f"{WEBHOOK}test_a_message_can_be_used_once_even_after_a_restart",
                f"{WEBHOOK}test_one_of_many_concurrent_copies_is_accepted",
                f"{WEBHOOK}test_a_tampered_message_is_refused",
                f"{WEBHOOK}test_five_minutes_of_clock_difference_are_fine_and_no_more",
                f"{FUZZ}test_no_headers_and_body_but_the_signed_ones_pass_the_webhook",
            ),
        ),
        41: Row(
            "a checkpoint unpickles code",
            "safetensors only",
            ("faults/test_no_unpickling.py::test_nothing_is_unpickled_while_models_load",),
        ),
        42: Row(
            "paths, links and archives that lead elsewhere",
            "paths are resolved under a root; links out of it and archives are refused",
            (
                f"{SOURCES}test_hostile_paths_are_refused_row_by_row",
                f"{SOURCES}test_links_in_folders_are_followed_only_inside_the_root",
                f"{CONTRACT}test_links_inside_the_store_are_refused",
                "tasks/releases/test_bundle_store.py::test_a_manifest_cannot_write_outside_its_folder",
            ),
        ),
        43: Row(
            "poisoned feedback",
            "no label without a person; a quota for each source",
            (
                f"{REVIEW}test_a_source_cannot_give_more_labels_than_its_quota",
                "monitoring/log/test_capture.py::test_a_flooding_source_is_capped_and_others_are_not",
                "monitoring/review/test_review_queue.py::test_a_flooding_source_gets_its_share_and_no_more",
            ),
        ),
        44: Row(
            "secrets in logs",
            "they are left out",
            (
                "monitoring/test_alerts.py::test_secrets_appear_in_no_message_log_or_file",
                f"{SERVICES}test_the_secret_is_in_no_log_no_command_line_and_no_page",
                "flows/server/test_server_api.py::test_a_secret_is_not_in_what_an_api_says_of_itself",
                f"{S3}test_wrong_credentials",
            ),
        ),
    },
    "Seen on Evergreen itself": {
        45: Row(
            "a stranger's page or another user drives the Prefect server",
            "a secret per checkout on every server; hosts and origins are named",
            (
                f"{SERVICES}test_a_page_of_another_origin_registers_nothing",
                f"{SERVICES}test_another_user_of_this_machine_reads_and_changes_nothing",
                f"{SITE}test_other_host_names_are_refused",
            ),
            ("foreign_requests_accepted",),
        ),
        46: Row(
            "a flipped byte in DVC's cache or in a shard is trained on",
            "content named by its hash is hashed before use, and repaired from a whole copy",
            (
                "tasks/dataset/test_damage.py::test_no_reader_of_a_shard_believes_a_flipped_byte",
                "tasks/dataset/test_damage.py::test_a_shard_that_is_cut_off_is_damaged",
                "tasks/dataset/test_damage.py::test_annotations_are_hashed",
                "flows/repo/test_push.py::test_a_damaged_cache_object_is_not_published",
                f"{FUZZ}test_a_manifest_of_our_own_is_read_or_named",
                f"{VERIFY}test_an_object_without_an_undamaged_copy_is_reported_and_not_repaired",
                "tasks/releases/test_bundle_store.py::test_damage_is_found_before_use_and_repaired_by_uploading_again",
            ),
            (
                "flips_missed",
                "verify_on_read_share",
            ),
        ),
        47: Row(
            "an altered but valid champion.json is believed",
            "the pointer holds its digest; the history is a hash chain",
            (
                f"{POINTER}test_every_flipped_bit_of_the_live_pointer_is_found",
                f"{POINTER}test_an_edited_pointer_with_a_digest_of_its_own_is_not_believed",
                f"{POINTER}test_links_of_the_chain",
                f"{VERIFY}test_an_altered_pointer_is_named",
                f"{FUZZ}test_a_pointer_is_what_was_written_or_an_error",
            ),
        ),
        48: Row(
            "an erasure leaves pixels and ids behind",
            "everything that holds the image is searched by content",
            (
                f"{FORGET}test_an_image_is_gone_from_everywhere_and_nothing_else_is",
                "flows/erasure/test_everywhere.py::test_no_place_holds_the_image_and_everything_else_is_there",
                f"{FORGET}test_killed_anywhere_the_next_call_completes_it",
                f"{KILLS}test_a_killed_erasure_is_completed_by_the_next_retraining",
            ),
        ),
        49: Row(
            "`gc` deletes what another project keeps in a shared cache",
            "each checkout names what it needs; only its own is deleted",
            (
                f"{SHARED}test_two_projects_share_a_cache_and_a_remote",
                f"{SHARED}test_where_an_unknown_user_stores_nothing_is_removed",
                f"{SHARED}test_forget_leaves_an_object_of_another_project_and_says_so",
            ),
        ),
        50: Row(
            "torn state gives tracebacks; a killed start leaves a second server",
            "state that can be rebuilt is rebuilt; a start can be found before it is healthy",
            (
                "flows/test_rebuildable_state.py::test_damaged_state_costs_one_line_and_is_absent_from_then_on",
                "flows/test_rebuildable_state.py::test_a_run_with_a_damaged_ending_counts_as_crashed",
                f"{SERVICES}test_up_after_the_supervisor_was_killed_brings_everything_back_once",
                "monitoring/test_journal.py::test_a_damaged_entry_is_listed_and_the_others_are_read",
            ),
            ("random_kills_between_states",),
        ),
        51: Row(
            "a commit that git refuses leaves data.dvc changed",
            "a command is whole or has not been",
            (
                "flows/project/test_data_commit.py::test_a_refused_commit_leaves_nothing_behind",
                "flows/project/test_data_commit.py::test_a_batch_that_a_killed_command_left_is_named_by_the_next_commit",
                "flows/labels/test_classes.py::test_when_git_refuses_the_commit_nothing_is_left",
                "flows/labels/test_journal.py::test_a_killed_finish_is_completed_by_the_next_and_takes_nothing_twice",
            ),
        ),
        52: Row(
            "a copied project's button starts runs in the original",
            "ids belong to a checkout and are checked before anything remembered is believed",
            (
                f"{SERVICES}test_a_copied_project_neither_finds_nor_starts_nor_stops_anything_of_the_original",
                "tasks/common/test_checkout_id.py::test_a_copied_and_a_cloned_folder_get_an_id_of_their_own",
            ),
        ),
        53: Row(
            "images picked because they are hard measure a model",
            "how a sample was picked is recorded; only fair samples measure",
            (
                f"{REVIEW}test_only_audit_samples_measure_a_model_and_labels_say_how_they_were_picked",
                "tasks/ingest/test_splits.py::test_what_is_not_a_fair_sample_is_trained_on_and_measures_nothing",
                "tasks/gate/test_gate.py::test_newest_holds_fair_samples_only_and_adds_earlier_audits_until_there_are_enough",
            ),
            ("biased_equal_promoted",),
        ),
        54: Row(
            "labels that come late count for no window",
            "a label joins the answer that it is about, whenever it comes",
            (
                "flows/production/test_late_labels.py::test_labels_that_come_days_late_in_pieces_and_twice_revise_their_windows_once_each",
                "flows/production/test_late_labels.py::test_a_run_killed_while_it_measures_again_is_completed_by_the_next",
            ),
            ("live_accuracy_coverage_min",),
        ),
        55: Row(
            "a passphrase is guessed, a cookie or an invitation is stolen, a role is taken",
            "guesses are slowed down, links work once, signing out ends copies, each button checks the role",
            (
                f"{PEOPLE}test_guessing_is_slowed_down_per_name_and_per_address",
                f"{PEOPLE}test_thirty_wrong_passwords_of_programs_are_slowed_down_and_the_secret_still_works",
                f"{PEOPLE}test_a_stolen_cookie_is_worth_nothing_after_sign_out_elsewhere_or_changed",
                f"{PEOPLE}test_a_header_names_a_person_if_a_trusted_proxy_sends_it",
                f"{PEOPLE}test_a_viewer_may_press_nothing",
                "flows/console/people/test_people.py::test_a_link_works_once_and_only_the_result_of_scrypt_is_kept",
            ),
            ("foreign_requests_accepted",),
        ),
    },
}
ROWS: dict[int, Row] = {number: row for area in AREAS.values() for number, row in area.items()}
