"""Runs the Great Expectations suite of params.yaml on the table of samples, cached by content.

N rows. Importing the library takes seconds, so an unchanged table with an unchanged suite is not evaluated again, and
a suite of plain expectations that every row meets is not given to it (plain_expectations.py). Text (labels, sources) is
HTML-escaped before the library sees it: its own pages would show the text unescaped.
"""

import difflib
import hashlib
import html
import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from tasks.common.code import code_version
from tasks.common.errors import ParamsError
from tasks.common.files import content_key
from tasks.common.paths import cache_dir
from tasks.common.schemas import MEASURES
from tasks.common.sealed import read_sealed, write_sealed_json
from tasks.common.sections.data import Expectation
from tasks.stages.validate.plain_expectations import all_met

COLUMNS = (
    "id",
    "batch",
    "split",
    "label",
    "source",
    "group",
    "taken_at",
    "origin",
    *(field.name for field in MEASURES),
)
_COLUMN_KEYS = ("column", "column_A", "column_B", "column_list", "column_set")


class Outcome(BaseModel):
    """The result of one expectation on N rows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: str
    kwargs: dict[str, Any]
    severity: str
    passed: bool
    error: str = ""  # why it could not be evaluated; then it has not passed
    unexpected: dict[str, str] = {}  # id of a row that breaks it -> the value found there
    observed: str = ""  # for expectations on the table or a whole column

    @property
    def sentence(self) -> str:
        """E.g. `expect_column_values_to_be_between(column='width', min_value=16)`."""
        return f"{self.type}({', '.join(f'{key}={value!r}' for key, value in self.kwargs.items())})"


def columns_of(suite: list[Expectation]) -> list[str]:
    """Columns that the suite reads, sorted. Raises ParamsError for names that the samples do not have."""
    found, wrong = set(), []
    for number, expectation in enumerate(suite):
        for key in _COLUMN_KEYS:
            value = expectation.kwargs.get(key, [])
            for name in [value] if isinstance(value, str) else value:
                if name in COLUMNS:
                    found.add(name)
                else:
                    near = difflib.get_close_matches(str(name), COLUMNS, n=1)
                    hint = f", did you mean {near[0]!r}?" if near else f", expected one of {', '.join(COLUMNS)}"
                    wrong.append(f"  validate.expectations.{number}.kwargs.{key}: no column {name!r}{hint}")
    if wrong:
        raise ParamsError("params.yaml names unknown columns:\n" + "\n".join(wrong))
    return sorted(found)


def evaluate(root: Path, samples: pa.Table, suite: list[Expectation]) -> list[Outcome]:
    """One outcome per expectation, in order, on `samples` (samples_schema, N rows, N > 0); cached.

    Labels of a multi-label sample become one string, joined by "|". Raises ParamsError for an expectation that
    Great Expectations does not know or whose arguments it refuses.
    """
    names = ["id", *(name for name in columns_of(suite) if name != "id")]
    table = escaped(samples.select(names)).combine_chunks()
    stated = [expectation.model_dump(mode="json") for expectation in suite]
    key = content_key(
        _digest(table), stated, code_version("tasks.stages.validate.expectations"), version("great-expectations")
    )
    file = cache_dir("validate", root) / f"expectations-{key[:24]}.json"
    if (kept := read_sealed(file)) is not None:
        return [Outcome.model_validate(one) for one in json.loads(kept)]
    if all_met(table, escaped_suite(suite)):
        outcomes = [Outcome(**one, passed=True) for one in stated]
    else:
        outcomes = _evaluate(table, suite)
    write_sealed_json(file, [one.model_dump() for one in outcomes])
    return outcomes


def escaped(samples: pa.Table) -> pa.Table:
    """`samples` with text HTML-escaped and lists of labels joined."""
    return pa.table({name: _plain(samples.column(name)) for name in samples.column_names})


def escaped_suite(suite: list[Expectation]) -> list[Expectation]:
    """`suite` with sets of values escaped: they are compared with escaped text."""
    return [
        one.model_copy(update={"kwargs": one.kwargs | {"value_set": _escaped(one.kwargs["value_set"])}})
        if "value_set" in one.kwargs
        else one
        for one in suite
    ]


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    """`column` with text escaped and lists of labels joined."""
    if pa.types.is_list(column.type):
        return pa.array([None if value is None else _escaped("|".join(value)) for value in column.to_pylist()])
    if pa.types.is_string(column.type):
        encoded = column.combine_chunks().dictionary_encode()  # each label is escaped once, not once per row
        values = [None if value is None else _escaped(value) for value in encoded.dictionary.to_pylist()]
        return pa.DictionaryArray.from_arrays(encoded.indices, pa.array(values, pa.string())).cast(pa.string())
    return column


def _escaped(value: Any) -> Any:
    """Text HTML-escaped, in lists too; other values unchanged."""
    if isinstance(value, list):
        return [_escaped(one) for one in value]
    return html.escape(value) if isinstance(value, str) else value


def _digest(table: pa.Table) -> str:
    """sha256 of the table's schema and values."""
    digest = hashlib.sha256(str(table.schema).encode())
    for batch in table.to_batches():
        digest.update(batch.serialize())
    return digest.hexdigest()


def _evaluate(table: pa.Table, suite: list[Expectation]) -> list[Outcome]:
    os.environ["GX_ANALYTICS_ENABLED"] = "false"  # before the import, which reads the settings
    import great_expectations as gx

    checks = [_built(number, expectation) for number, expectation in enumerate(escaped_suite(suite))]
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    asset = context.data_sources.add_pandas("samples").add_dataframe_asset("samples")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": table.to_pandas()})
    form = {
        "result_format": "COMPLETE",
        "unexpected_index_column_names": ["id"],
        "return_unexpected_index_query": False,
    }
    results = batch.validate(gx.ExpectationSuite(name="params.yaml", expectations=checks), result_format=form).results
    by_number = {result.expectation_config.meta["number"]: result.to_json_dict() for result in results}
    # an expectation without a result has not passed: the hard rule `expectations` counts the results
    return [_outcome(suite[number], by_number[number]) for number in sorted(by_number)]


def _built(number: int, expectation: Expectation):
    from great_expectations.exceptions import GreatExpectationsError
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    try:
        return ExpectationConfiguration(
            type=expectation.type, kwargs=expectation.kwargs, meta={"number": number}
        ).to_domain_obj()
    except (GreatExpectationsError, ValueError, TypeError) as error:
        raise ParamsError(
            f"params.yaml: validate.expectations.{number} ({expectation.type}) is refused by Great Expectations: "
            + " ".join(str(error).split())
        ) from None


def _outcome(expectation: Expectation, result: dict) -> Outcome:
    details = result.get("result") or {}
    unexpected = {}
    for row in details.get("unexpected_index_list") or []:
        found = ", ".join(f"{key} = {html.unescape(str(value))}" for key, value in row.items() if key != "id")
        unexpected[row["id"]] = found
    return Outcome(
        **expectation.model_dump(mode="json"),
        passed=bool(result["success"]),
        error=_error(result.get("exception_info") or {}),
        unexpected=unexpected,
        observed=str(details["observed_value"]) if "observed_value" in details else "",
    )


def _error(about: dict) -> str:
    """The exception message of a result; the library puts it at the top or one level down, per metric."""
    entries = [about, *(value for value in about.values() if isinstance(value, dict))]
    return next((str(e["exception_message"]) for e in entries if e.get("raised_exception")), "")
