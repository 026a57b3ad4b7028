"""The review queue as one page that opens from disk: look at the images, choose labels, save a CSV.

All texts are escaped. The page loads nothing and runs only its own script (Content-Security-Policy by hash).
`evergreen label` reads the saved CSV.
"""

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment

from monitoring.review.asked import Asked, ClassGuide, choices, label_text
from monitoring.review.label_studio import EXCLUDE, NONE, data_uri
from tasks.common.files import atomic_path

SCRIPT = """
const quoted = text => '"' + text.replaceAll('"', '""') + '"';
const chosenOn = card => {
  const typed = [...card.querySelectorAll('.typed')].map(input => input.value.trim());
  const options = [...card.querySelectorAll('option:checked')].map(option => option.value);
  return [...options, ...typed].filter(value => value);
};
const cards = [...document.querySelectorAll('[data-id]')];
let unsaved = false;
document.querySelector('main').addEventListener('input', () => {
  const done = cards.filter(card => chosenOn(card).length).length;
  document.getElementById('done').textContent = `${done} of ${cards.length} labelled`;
  unsaved = done > 0;
});
addEventListener('beforeunload', event => { if (unsaved) event.preventDefault(); });
document.getElementById('save').addEventListener('click', () => {
  const lines = ['id,label,annotator,comment'];
  const annotator = document.getElementById('annotator').value.trim();
  for (const card of cards) {
    const chosen = chosenOn(card);
    const comment = card.querySelector('[aria-label=comment]').value.trim();
    if (chosen.length) lines.push([card.dataset.id, chosen.join('|'), annotator, comment].map(quoted).join(','));
  }
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([lines.join('\\n') + '\\n'], {type: 'text/csv'}));
  link.download = 'labels.csv';
  link.click();
  unsaved = false;
});
for (const button of document.querySelectorAll('figure button'))
  button.addEventListener('click', () => button.closest('figure').classList.toggle('large'));
"""
STYLE = """
:root { color-scheme: light dark; --ink: #222; --paper: #fafafa; --card: #fff; --line: #ddd; --behind: #eee;
  --link: #2560bd; --soft: #666 }
@media (prefers-color-scheme: dark) { :root { --ink: #e7ebf2; --paper: #10151e; --card: #18202c; --line: #2b3444;
  --behind: #232c3a; --link: #7aabff; --soft: #b9c0cc } }
body { font: 15px system-ui, sans-serif; margin: clamp(.8rem, 3vw, 2rem); background: var(--paper); color: var(--ink) }
a { color: var(--link) } nav a { display: inline-block; padding: .2rem 0; min-height: 24px }
h2 { font-size: 1.1rem; margin: 1rem 0 .3rem } ::placeholder { color: var(--soft); opacity: 1 }
select, input, summary, #save { min-height: 28px; font: inherit } summary { padding: .2rem 0 }
code { display: inline-block; max-width: 100%; overflow-wrap: anywhere }
.bar { position: sticky; top: 0; z-index: 1; display: flex; flex-wrap: wrap; gap: .4rem .8rem; align-items: center;
  margin: 0; padding: .6rem 0; background: var(--paper) }
#annotator { width: 11rem; max-width: 50vw; box-sizing: border-box }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(340px, 100%), 1fr)); gap: 1rem }
main { margin-top: 1rem; align-items: start }
figure { margin: 0; padding: .6rem; background: var(--card); border: 1px solid var(--line); border-radius: 6px }
figure > button { display: block; width: 100%; padding: 0; border: 0; background: none; cursor: zoom-in }
img { width: 100%; max-height: 70vh; aspect-ratio: 1; object-fit: contain; background: var(--behind) }
figure.large { grid-column: 1 / -1 } figure.large > button { cursor: zoom-out; overflow: auto }
figure.large img { width: auto; min-width: 100%; max-height: none; aspect-ratio: auto }
figcaption { font-size: 13px; overflow-wrap: anywhere } select, figure input { width: 100%; margin-top: .4rem }
figure input { box-sizing: border-box; font: inherit } summary { cursor: pointer }
details p { margin: .2rem 0 .5rem }
.guide { display: flex; gap: .6rem; flex-wrap: wrap; margin: .4rem 0 1rem } .guide img { width: min(200px, 45%) }
"""
HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Review queue</title>
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src '{{ style_hash }}'; script-src '{{ script_hash }}'">
<style>{{ style }}</style></head><body>
{% if frame.home %}<nav><a href="{{ frame.home }}">← All reports</a></nav>{% endif %}
{% if not count %}
<h1>No image waits for a label</h1>
<p>{{ frame.empty }}</p>
{% else %}
<h1>{{ "1 image" if count == 1 else "%d images" | format(count) }} to label</h1>
{% if frame.due %}<p><strong>{{ frame.due }}</strong></p>{% endif %}
<p>Choose labels for the images that you are sure of; skip the others. A click on an image enlarges it.
Then save and run <code>evergreen label labels.csv{% if frame.reviewer %} --reviewer{% endif %}</code>.</p>
<div class="bar"><label>Your name <input id="annotator" maxlength="200" value="{{ frame.person }}"></label>
<button id="save">Save labels.csv</button> <output id="done"></output></div>
{% if frame.guides %}<h2>What the classes mean</h2>{% endif %}
{% for guide in frame.guides %}<details><summary>{{ guide.name }}</summary><p>{{ guide.text }}</p><div class="guide">
{% for image in guide.images %}<img alt="{{ guide.name }}, example {{ loop.index }}" src="{{ image }}">{% endfor %}
</div></details>{% endfor %}
{% endif %}
<main>
"""
CARD = """<figure data-id="{{ entry.id }}">
<button aria-label="enlarge {{ name }}"><img alt="{{ name }}" src="{{ image }}"></button>
<figcaption>
{% if entry.given is not none %}now <b>{{ given }}</b>; {% endif %}{{ entry.why }}
{%- if entry.prediction is not none %}: {{ said }}
{%- if entry.confidence is not none %} ({{ "%.0f" % (100 * entry.confidence) }} %){% endif %}{% endif %}
{% if entry.detail %}<br>{{ entry.detail }}{% endif %}
{% if entry.source %}<br>{{ entry.source }}{% endif %}
{% if entry.at %}<br>{{ entry.at.strftime("%Y-%m-%d %H:%M") }} UTC{% endif %}
{% if entry.key %}<br>{{ entry.key }}{% endif %}{% if entry.path %}<br>{{ entry.path }}{% endif %}</figcaption>
<select aria-label="label"{% if frame.multilabel %} multiple{% endif %}>
{% if not frame.multilabel %}<option value="">choose a label</option>{% endif %}
{% for value, text in choices %}<option value="{{ value }}">{{ text }}</option>{% endfor %}</select>
{% if not frame.classes %}<input class="typed" aria-label="new label" placeholder="label" maxlength="200">{% endif %}
<input aria-label="comment" placeholder="comment" maxlength="500"></figure>
"""
PICK = "When production has changed and there are too few labels, the monitor lists images here. "
PICK += "`evergreen queue --pick 24` lists some of the last day's images now."


@dataclass(frozen=True)
class Frame:
    """What surrounds the samples: the classes and what they mean, and who is asked until when."""

    classes: Sequence[str]
    multilabel: bool
    max_pixels: int
    guides: Sequence[ClassGuide] = ()
    person: str = ""
    due: str = ""
    reviewer: bool = False
    home: str | None = None  # address of the page's back link
    empty: str = PICK  # what the page says without samples


def write(path: Path, entries: Iterable[tuple[Asked, bytes | None]], count: int, frame: Frame) -> None:
    """Write the page to `path`, with one image in memory at a time; entries: `count` pairs (entry, encoded image)."""
    environment = Environment(autoescape=True)
    head, card = environment.from_string(HEAD), environment.from_string(CARD)
    safe = {"style_hash": _hash(STYLE), "script_hash": _hash(SCRIPT), "style": "@@STYLE@@", "count": count}
    options = choices(frame.classes, frame.multilabel, EXCLUDE, NONE)
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as page:
        page.write(head.render(frame=frame, **safe).replace("@@STYLE@@", STYLE))
        for entry, image in entries:
            named = entry.path or entry.key or entry.id[:12]
            texts = {"name": named, "said": label_text(entry.prediction), "given": label_text(entry.given)}
            uri = data_uri(image, frame.max_pixels)
            page.write(card.render(entry=entry, image=uri, choices=options, frame=frame, **texts))
        page.write(f"</main>{f'<script>{SCRIPT}</script>' if count else ''}</body></html>\n")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
