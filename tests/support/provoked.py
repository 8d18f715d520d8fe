"""Which test provokes which reason for real: a stage on real S3, the operator on a real API server, a real cluster.

One line a situation that a user can get into. ``tests/unit/test_provoked.py`` holds the table against the reasons, the
tests and the documentation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from finetune_api.reasons import Reason

__all__ = ["PROVOKED", "Provoked"]


@dataclass(frozen=True)
class Provoked:
    """A situation, the reason that it ends (or waits) with, and the test: file below tests/ and function."""

    situation: str
    reason: Reason
    file: str
    test: str


_TRAINER: Final = "trainer/test_reasons_provoked.py"
_API: Final = "apiserver/test_operator_process.py"
_FAILS: Final = "e2e/test_failures.py"
_WAITS: Final = "e2e/test_waiting.py"
_NAMED: Final = "test_what_is_missing_is_named_while_it_is_waited_for"

PROVOKED: Final = tuple(
    Provoked(*line)
    for line in (
        (
            "the template names an unknown column",
            Reason.TEMPLATE_INVALID,
            _TRAINER,
            "test_a_template_that_names_an_unknown_column_is_template_invalid",
        ),
        (
            "the template names an unknown column, in a cluster",
            Reason.TEMPLATE_INVALID,
            _FAILS,
            "test_a_template_that_names_an_unknown_column_fails_in_prepare_and_says_which",
        ),
        (
            "messages for a model without a chat template",
            Reason.TEMPLATE_INVALID,
            _TRAINER,
            "test_messages_for_a_model_without_a_chat_template_are_template_invalid",
        ),
        ("a row is no JSON", Reason.DATASET_INVALID, _TRAINER, "test_a_row_that_is_no_json_is_named_by_its_line"),
        (
            "rows are no JSON, in a cluster",
            Reason.DATASET_INVALID,
            _FAILS,
            "test_rows_that_are_not_json_fail_with_the_line_number",
        ),
        ("an empty file", Reason.DATASET_INVALID, _TRAINER, "test_an_empty_file_is_dataset_invalid"),
        ("one label only", Reason.DATASET_INVALID, _TRAINER, "test_rows_with_one_label_only_are_dataset_invalid"),
        (
            "a split too small for three parts",
            Reason.DATASET_INVALID,
            _TRAINER,
            "test_too_few_rows_for_three_parts_are_dataset_invalid_and_the_empty_part_is_named",
        ),
        (
            "answers that are too long",
            Reason.DATASET_INVALID,
            _TRAINER,
            "test_answers_that_are_too_long_are_bad_rows_and_the_policy_decides",
        ),
        (
            "the rows are missing",
            Reason.DATASET_NOT_FOUND,
            _TRAINER,
            "test_a_missing_file_of_rows_is_dataset_not_found",
        ),
        (
            "the rows are missing, in a cluster",
            Reason.DATASET_NOT_FOUND,
            _FAILS,
            "test_a_missing_dataset_fails_with_its_uri_and_without_a_retry",
        ),
        (
            "the volume of the model and the ConfigMap of the rows are missing, then arrive",
            Reason.MODEL_NOT_FOUND,
            "e2e/test_volumes.py",
            "test_a_volume_and_a_config_map_that_are_missing_are_waited_for_by_name",
        ),
        ("the bucket of the rows is missing", Reason.DATASET_NOT_FOUND, _TRAINER, "test_a_missing_bucket_is_named"),
        ("the bucket of the model is missing", Reason.MODEL_NOT_FOUND, _TRAINER, "test_a_missing_bucket_is_named"),
        (
            "the bucket of the output is missing",
            Reason.OUTPUT_NOT_FOUND,
            _TRAINER,
            "test_a_missing_bucket_is_named",
        ),
        (
            "the endpoint can't be reached",
            Reason.STORAGE_UNAVAILABLE,
            _TRAINER,
            "test_an_endpoint_that_nobody_listens_at_is_storage_unavailable",
        ),
        (
            "the endpoint can't be reached, again and again",
            Reason.STORAGE_UNAVAILABLE,
            _FAILS,
            "test_an_endpoint_that_does_not_answer_is_tried_again_as_often_as_backofflimit_says",
        ),
        (
            "the storage takes a request and never answers",
            Reason.STALLED,
            _TRAINER,
            "test_a_stage_that_gets_no_further_ends_as_stalled_and_names_the_step",
        ),
        ("a wrong key", Reason.ACCESS_DENIED, _TRAINER, "test_a_wrong_key_is_access_denied"),
        (
            "a wrong key, in a cluster",
            Reason.ACCESS_DENIED,
            _FAILS,
            "test_a_wrong_key_fails_with_access_denied_and_never_shows_the_key",
        ),
        (
            "the output may only be read",
            Reason.ACCESS_DENIED,
            _TRAINER,
            "test_an_output_that_may_only_be_read_is_access_denied_before_anything_is_trained",
        ),
        (
            "a result that is not good enough",
            Reason.NOT_ACCEPTED,
            "trainer/job/test_gate.py",
            "test_a_result_that_is_not_good_enough_is_stored_and_told_and_not_accepted",
        ),
        (
            "a Secret with an empty key",
            Reason.CREDENTIALS_NOT_FOUND,
            _TRAINER,
            "test_a_secret_with_an_empty_key_is_credentials_not_found",
        ),
        ("the Secret is missing, then arrives", Reason.CREDENTIALS_NOT_FOUND, _WAITS, _NAMED),
        ("the runtime is missing, then arrives", Reason.RUNTIME_NOT_FOUND, _WAITS, _NAMED),
        ("the image can't be pulled, then can", Reason.IMAGE_PULL_FAILED, _WAITS, _NAMED),
        (
            "the image never comes",
            Reason.IMAGE_PULL_FAILED,
            _FAILS,
            "test_an_image_that_never_comes_fails_the_job_after_the_runtimes_timeout_and_takes_the_pod_away",
        ),
        ("the quota is exceeded, then raised", Reason.QUOTA_EXCEEDED, _WAITS, _NAMED),
        (
            "a prefix that is not allowed",
            Reason.NOT_PERMITTED,
            _FAILS,
            "test_a_uri_that_the_runtime_does_not_allow_is_waited_for_and_fails_without_a_pod",
        ),
        (
            "a model with pickled weights or code of its own",
            Reason.UNSAFE_MODEL,
            _TRAINER,
            "test_a_model_that_would_run_code_is_unsafe",
        ),
        ("weights cut short", Reason.MODEL_INVALID, _TRAINER, "test_weights_that_are_cut_short_are_model_invalid"),
        (
            "more memory than the limit",
            Reason.OUT_OF_MEMORY,
            _FAILS,
            "test_a_pod_that_takes_more_memory_than_it_has_is_tried_again_and_then_out_of_memory",
        ),
        (
            "more disk than the pod may use",
            Reason.DISK_FULL,
            _FAILS,
            "test_a_pod_that_fills_its_disk_is_evicted_and_told_with_the_amount",
        ),
        (
            "more memory than the GPU has (by hand: make test-gpu)",
            Reason.GPU_OUT_OF_MEMORY,
            "gpu/test_cuda_smoke.py",
            "test_a_model_that_does_not_fit_is_gpu_out_of_memory",
        ),
        (
            "the deadline is used up",
            Reason.DEADLINE_EXCEEDED,
            _FAILS,
            "test_a_job_that_uses_its_deadline_up_fails_and_says_why_it_never_ran",
        ),
        (
            "every attempt fails",
            Reason.BACKOFF_LIMIT_EXCEEDED,
            _FAILS,
            "test_pods_that_fail_for_no_known_reason_use_the_backoff_limit_up",
        ),
        (
            "the loss is no number",
            Reason.DIVERGED,
            _TRAINER,
            "test_gradients_that_overflow_are_diverged_and_the_step_is_named",
        ),
        (
            "the upload fails in the middle",
            Reason.ARTIFACT_UPLOAD_FAILED,
            _TRAINER,
            "test_a_storage_that_is_full_in_the_middle_is_a_failed_upload",
        ),
        (
            "what was stored comes back damaged",
            Reason.VERIFICATION_FAILED,
            _TRAINER,
            "test_a_stored_file_that_is_damaged_before_it_is_read_back_is_verification_failed",
        ),
        (
            "the message is lost twice",
            Reason.NOT_REPORTED,
            _API,
            "test_a_stage_that_ends_well_without_a_report_is_run_once_more_and_then_not_reported",
        ),
        (
            "the output holds files of nobody",
            Reason.OUTPUT_EXISTS,
            _TRAINER,
            "test_an_output_folder_with_files_of_nobody_is_output_exists",
        ),
        (
            "two jobs for one output",
            Reason.OUTPUT_EXISTS,
            "e2e/test_output.py",
            "test_of_two_jobs_for_one_folder_one_succeeds_and_the_other_is_told_whose_it_is",
        ),
        (
            "the name is taken by another's Job",
            Reason.NAME_CONFLICT,
            _FAILS,
            "test_a_name_that_is_taken_by_a_job_of_somebody_else_is_a_conflict_and_that_job_stays",
        ),
        (
            "the spec contradicts itself",
            Reason.INVALID_SPEC,
            _TRAINER,
            "test_a_spec_that_contradicts_itself_is_invalid",
        ),
        ("a GPU that is not there", Reason.TRAINER_ERROR, _TRAINER, "test_a_gpu_that_is_not_there_is_a_trainer_error"),
    )
)
