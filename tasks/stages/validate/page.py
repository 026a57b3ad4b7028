"""The page that shows what `validate` found: one file, styled, no scripts, nothing loaded from elsewhere.

Everything shown is escaped (Jinja's autoescape) and a content security policy forbids scripts altogether, because
labels, file names and reasons come from outside.
"""

import base64
import io
from pathlib import Path

import pyarrow as pa

from tasks.dataset.decode import Undecodable, decode
from tasks.dataset.shards import iter_bytes

TILES = 24  # quarantined images shown
LISTED = 200  # quarantined rows listed; quarantine.parquet has all
BATCHES = 6  # of the newest, whose class mix is shown
SIDE = 96  # pixels of a shown image


def render(report: dict, tiles: list[dict], evidence: list[dict] = ()) -> str:
    """HTML of result.json's `report` (tasks.stages.validate.table) and the quarantined images of `tiles`.

    `evidence`: tiles of the images that a refused batch is refused for, with their label as `detail`.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["figure"] = _figure
    page = environment.from_string(_PAGE)
    shown = {"tiles": tiles[:LISTED], "total": len(tiles), "evidence": evidence, "mix": _mix(report)}
    return page.render(report=report, style=_STYLE, **shown)


def _figure(value: float | None) -> str:
    """A number as a person reads it; "–" where there is none."""
    return "–" if value is None else f"{value:,.4g}" if isinstance(value, float) and value % 1 else f"{value:,.0f}"


def _mix(report: dict) -> dict:
    """Share of each class in the newest batches with labels: {batches: [{batch, rows}], rows: [(class, cells)]}.

    Classes by frequency; a cell is (count, share of the batch in percent).
    """
    shown = [batch for batch in report["batches"] if sum(batch["mix"].values())][-BATCHES:]
    totals = {batch["batch"]: sum(batch["mix"].values()) for batch in shown}
    names = {name: sum(batch["mix"].get(name, 0) for batch in shown) for batch in shown for name in batch["mix"]}
    rows = [
        (
            name,
            [(batch["mix"].get(name, 0), 100 * batch["mix"].get(name, 0) / totals[batch["batch"]]) for batch in shown],
        )
        for name in sorted(names, key=lambda name: (-names[name], name))
    ]
    return {"batches": [{"batch": batch["batch"], "rows": totals[batch["batch"]]} for batch in shown], "rows": rows}


def tiles(data: Path, rows: pa.Table, max_pixels: int) -> list[dict]:
    """One dict per row of `rows` (columns shard, row, status and any others) with its `image`.

    The first TILES images that inspect could decode come as data URIs; what could not be decoded is not touched.
    """
    out = [row | {"image": None} for row in rows.to_pylist()]
    showable = [tile for tile in out if tile["status"] == "ok"][:TILES]
    for shard in {tile["shard"] for tile in showable}:
        of_row = {tile["row"]: tile for tile in showable if tile["shard"] == shard}
        for row, content in iter_bytes(data / shard, sorted(of_row)):
            of_row[row]["image"] = _data_uri(content, max_pixels)
    return out


def _data_uri(content: bytes, max_pixels: int) -> str | None:
    try:
        image = decode(content, max_pixels)
    except Undecodable:
        return None
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


_STYLE = """
:root { color-scheme: light; --ink: #1d2433; --soft: #5d6779; --line: #dfe4ec; --paper: #f5f7fa; --good: #1f7a4d;
  --bad: #b3261e; --bar: #4c78c8; }
* { box-sizing: border-box; }
body { margin: 0; font: 15px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; color: var(--ink);
  background: var(--paper); }
main { max-width: 1080px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 24px; margin: 0 0 4px; } h2 { font-size: 18px; margin: 36px 0 10px; }
h3 { font-size: 15px; margin: 0 0 8px; overflow-wrap: anywhere; }
p { margin: 0 0 10px; } .soft { color: var(--soft); }
.banner { border-left: 6px solid var(--good); background: #fff; border-radius: 8px; padding: 16px 20px; }
.banner.bad { border-color: var(--bad); }
.banner ul { margin: 8px 0 0; padding-left: 20px; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); gap: 12px; margin-top: 16px; }
.figures div { background: #fff; border: 1px solid var(--line); border-radius: 8px; padding: 12px 14px; }
.figures b { display: block; font-size: 22px; font-variant-numeric: tabular-nums; }
.card { background: #fff; border: 1px solid var(--line); border-radius: 8px; padding: 14px 16px; margin-bottom: 14px;
  overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th { text-align: left; color: var(--soft); font-weight: 600; padding: 4px 10px 6px 0; white-space: nowrap; }
td { border-top: 1px solid var(--line); padding: 5px 10px 5px 0; vertical-align: top; overflow-wrap: anywhere; }
td.rule { min-width: 150px; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.tag { display: inline-block; white-space: nowrap;
  border-radius: 10px; padding: 0 9px; font-size: 12px; font-weight: 600; color: #fff;
  background: var(--good); } .tag.fail, .tag.error { background: var(--bad); } .tag.none { background: #8a93a3; }
.bar { display: block; height: 7px; min-width: 2px; border-radius: 4px; background: var(--bar); margin-top: 2px; }
summary { cursor: pointer; color: var(--soft); padding: 4px 0; }
.tiles { display: flex; flex-wrap: wrap; gap: 12px; margin-bottom: 12px; }
.tile { width: 118px; font-size: 12px; overflow-wrap: anywhere; }
.tile img { display: block; width: 96px; height: 96px; object-fit: contain; image-rendering: auto; background: #e8ecf2;
  border-radius: 6px; }
code { font: 13px ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
"""

_PAGE = """{% macro tag(status) %}<span class="tag {{ status }}">{{ status }}</span>{% endmacro %}
{% macro checks(list) %}
<table>
<tr><th>rule</th><th></th><th class="n">value</th><th class="n">at least</th><th class="n">bound</th>
<th>in words</th></tr>
{% for check in list %}
<tr><td class="rule">{{ check.name }}</td><td>{{ tag(check.status) }}</td><td class="n">{{ check.value | figure }}</td>
<td class="n">{{ check.low | figure }}</td><td class="n">{{ check.bound | figure }}</td><td>{{ check.detail }}</td></tr>
{% endfor %}
</table>
{% endmacro %}
{% macro sorted_checks(list) %}
{% set bad = list | rejectattr("status", "equalto", "pass") | list %}
{% set good = list | selectattr("status", "equalto", "pass") | list %}
{% if bad %}{{ checks(bad) }}{% endif %}
{% if good | length > 8 %}
<details><summary>{{ good | length }} {{ "more " if bad else "" }}rules hold</summary>{{ checks(good) }}</details>
{% elif good %}{{ checks(good) }}{% endif %}
{% endmacro %}
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Validation: {{ "accepted" if report.passed else "refused" }}</title>
<style>{{ style | safe }}</style>
</head>
<body><main>
<div class="banner{{ "" if report.passed else " bad" }}">
{% if report.passed %}
<h1>The data set is accepted</h1>
<p class="soft">{{ report.accepted | figure }} of {{ report.rows | figure }} samples go on, in
{{ report.classes | length }} classes. Every rule holds
{{- "; rows that break an expectation are quarantined" if report.quarantined.expectation is defined }}.</p>
{% else %}
<h1>{{ "The data set" if report.refused.what == "table" else "Batch " + report.refused.what }} is refused</h1>
<p class="soft">Nothing is trained until this is settled.</p>
<ul>{% for reason in report.refused.reasons %}<li>{{ reason }}</li>{% endfor %}</ul>
{% endif %}
</div>
{% if evidence %}
<h2>Some of these images</h2>
<div class="card"><div class="tiles">
{% for tile in evidence if tile.image %}
<div class="tile"><img src="{{ tile.image }}" alt="">labelled {{ tile.detail }}</div>
{% endfor %}
</div></div>
{% endif %}
<div class="figures">
<div><b>{{ report.rows | figure }}</b>samples</div>
<div><b>{{ report.accepted | figure }}</b>{{ "accepted" if report.passed else "without fault of their own" }}</div>
<div><b>{{ report.labelled_training_rows | figure }}</b>labelled for training</div>
<div><b>{{ report.classes | length }}</b>classes</div>
<div><b>{{ report.quarantined.values() | sum | figure }}</b>quarantined</div>
<div><b>{{ report.excluded.values() | sum | figure }}</b>left out as leaks</div>
</div>

<h2>The table</h2>
<div class="card">
{% if report.checks %}{{ sorted_checks(report.checks) }}{% else %}
<p class="soft">Not judged: a batch was refused first.</p>{% endif %}
</div>

<h2>Expectations</h2>
<div class="card">
{% if report.expectations %}
<table>
<tr><th>expectation</th><th></th><th>if broken</th><th class="n">rows that break it</th></tr>
{% for one in report.expectations %}
<tr><td><code>{{ one.type }}</code><br>{% for key, value in one.kwargs.items() %}<code>{{ key }} = {{ value }}</code>
{{- ", " if not loop.last }}{% endfor %}{% if one.error %}<br>{{ one.error }}{% endif %}
{% if one.observed %}<br>found {{ one.observed }}{% endif %}</td>
<td>{{ tag("error" if one.error else "pass" if one.passed else "fail") }}</td>
<td>{{ one.severity }}</td><td class="n">{{ one.broken_by | figure }}</td></tr>
{% endfor %}
</table>
{% else %}<p class="soft">Not reached: a rule before them refused the data.</p>{% endif %}
</div>

<h2>Class mix of the {{ "newest " if report.batches | length > mix.batches | length else "" }}batches</h2>
<div class="card">
{% if mix.rows %}
<p class="soft">Labelled training images, share of each batch.</p>
<table>
<tr><th>class</th>{% for batch in mix.batches %}<th>{{ batch.batch }}<br>{{ batch.rows | figure }} images</th>
{% endfor %}</tr>
{% for name, cells in mix.rows %}
<tr><td>{{ name }}</td>{% for count, percent in cells %}
<td>{{ "%.1f" | format(percent) }} % <span class="soft">({{ count | figure }})</span>
{% if count %}<span class="bar" style="width:{{ "%.1f" | format(percent) }}%"></span>{% endif %}</td>{% endfor %}</tr>
{% endfor %}
</table>
{% else %}<p class="soft">No labelled training images.</p>{% endif %}
</div>

<h2>Batches</h2>
{% for batch in report.batches | reverse %}
<div class="card">
<h3>{{ batch.batch }} <span class="soft">{{ batch.kind }}, {{ batch.rows | figure }} rows,
{{ batch.accepted | figure }} accepted{% for reason, count in batch.quarantined.items() %}, {{ count | figure }}
{{ reason }}{% endfor %}</span>
{% if not batch.judged %}<span class="tag none">not judged</span>{% endif %}</h3>
{% if batch.checks %}{{ sorted_checks(batch.checks) }}
{% elif batch.judged %}<p class="soft">Too few rows to judge the batch by itself.</p>{% endif %}
</div>
{% endfor %}

<h2>Quarantine</h2>
<div class="card">
{% if tiles %}
<div class="tiles">
{% for tile in tiles if tile.image %}
<div class="tile"><img src="{{ tile.image }}" alt="">{{ tile.reason }}<br>
<span class="soft">{{ tile.id[:12] }}</span></div>
{% endfor %}
</div>
<table>
<tr><th>image</th><th>batch</th><th>reason</th><th>detail</th></tr>
{% for tile in tiles %}
<tr><td><code>{{ tile.id[:12] }}</code></td><td>{{ tile.batch }}</td><td>{{ tile.reason }}</td>
<td>{{ tile.detail }}</td></tr>
{% endfor %}
</table>
{% if total > tiles | length %}<p class="soft">{{ tiles | length }} of {{ total }} rows are shown; quarantine.parquet
has all.</p>{% endif %}
{% else %}<p class="soft">No sample is quarantined.</p>{% endif %}
</div>
</main></body></html>
"""
