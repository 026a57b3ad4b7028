"""The review queue as one page that opens from disk: look at the images, choose labels, save a CSV.

All texts are escaped. The page loads nothing and runs only its own script (Content-Security-Policy by hash).
`evergreen label` reads the saved CSV.
"""

import base64
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from jinja2 import Environment

from monitoring.review.label_studio import data_uri
from monitoring.review.queue import Queued
from tasks.common.files import atomic_path

SCRIPT = """
const quoted = text => '"' + text.replaceAll('"', '""') + '"';
document.getElementById('save').addEventListener('click', () => {
  const lines = ['id,label,annotator'];
  const annotator = document.getElementById('annotator').value.trim();
  for (const card of document.querySelectorAll('[data-id]')) {
    const chosen = [...card.querySelectorAll('option:checked')].map(option => option.value).filter(value => value);
    if (chosen.length) lines.push([card.dataset.id, chosen.join('|'), annotator].map(quoted).join(','));
  }
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([lines.join('\\n') + '\\n'], {type: 'text/csv'}));
  link.download = 'labels.csv';
  link.click();
});
"""
STYLE = """
body { font: 15px system-ui, sans-serif; margin: 2rem; background: #fafafa; color: #222 }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(180px, 1fr)); gap: 1rem; margin-top: 1rem }
figure { margin: 0; padding: .6rem; background: #fff; border: 1px solid #ddd; border-radius: 6px }
img { width: 100%; aspect-ratio: 1; object-fit: contain; background: #eee; image-rendering: auto }
figcaption { font-size: 13px; overflow-wrap: anywhere } select { width: 100%; margin-top: .4rem }
"""
HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Review queue</title>
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src '{{ style_hash }}'; script-src '{{ script_hash }}'">
<style>{{ style }}</style></head><body>
{% if home %}<nav><a href="{{ home }}">← All reports</a></nav>{% endif %}
{% if not count %}
<h1>No image waits for a label</h1>
<p>When production has changed and there are too few labels, the monitor lists images here.
<code>evergreen queue --pick 24</code> lists some of the last day's images now.</p>
{% else %}
<h1>{{ "1 image" if count == 1 else "%d images" | format(count) }} to label</h1>
<p>Choose labels for the images that you are sure of; skip the others.
Then save and run <code>evergreen label labels.csv</code>.</p>
<p><label>Your name <input id="annotator" maxlength="200"></label> <button id="save">Save labels.csv</button></p>
{% endif %}
<main>
"""
CARD = """<figure data-id="{{ entry.id }}"><img alt="" src="{{ image }}"><figcaption>
{{ entry.why }}: {{ said }}{% if entry.confidence is not none %} ({{ "%.0f" % (100 * entry.confidence) }} %){% endif %}
<br>{{ entry.source or "unknown source" }}, {{ entry.at.strftime("%Y-%m-%d %H:%M") }} UTC
{% if entry.key %}<br>{{ entry.key }}{% endif %}{% if entry.path %}<br>{{ entry.path }}{% endif %}</figcaption>
<select aria-label="label"{% if multilabel %} multiple{% endif %}>{% if not multilabel %}<option value=""></option>
{% endif %}{% for name in classes %}<option value="{{ name }}">{{ name }}</option>{% endfor %}</select></figure>
"""


def write(
    path: Path,
    entries: Iterable[tuple[Queued, bytes | None]],
    count: int,
    classes: Sequence[str],
    multilabel: bool,
    max_pixels: int,
    home: str | None = None,
) -> None:
    """Write the page to `path`, with one image in memory at a time.

    entries: `count` pairs (entry, encoded image); home: address of the link back, if the page is served.
    """
    environment = Environment(autoescape=True)
    head, card = environment.from_string(HEAD), environment.from_string(CARD)
    safe = {"style_hash": _hash(STYLE), "script_hash": _hash(SCRIPT)}
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as page:
        page.write(head.render(count=count, home=home, style="@@STYLE@@", **safe).replace("@@STYLE@@", STYLE))
        for entry, image in entries:
            said = entry.prediction if isinstance(entry.prediction, str) else ", ".join(entry.prediction or ["none"])
            uri = data_uri(image, max_pixels)
            page.write(card.render(entry=entry, image=uri, said=said, classes=classes, multilabel=multilabel))
        page.write(f"</main>{f'<script>{SCRIPT}</script>' if count else ''}</body></html>\n")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
