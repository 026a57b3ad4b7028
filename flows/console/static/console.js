// What every page of the console does in the browser. Pages work without it: it adds keys, the reader's own time and
// live updates.
"use strict";

const typing = target => target.closest("input, select, textarea, [contenteditable]") !== null;

// --- the reader's own time on hover
const showTimes = within => {
  for (const time of within.querySelectorAll("time[datetime]:not([title])"))
    time.title = `${new Date(time.dateTime).toLocaleString()} (your time)`;
};

// --- keys: / search, ? help, g + letter a section, j and k the next and previous item, Escape closes
let went = 0;
const help = document.getElementById("help");
const open = () => { if (!help.open) help.showModal(); };
document.getElementById("help-button").hidden = false;
document.getElementById("help-button").addEventListener("click", open);
document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented || document.querySelector("dialog[open]")) return;
  if (typing(event.target)) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const section = Date.now() - went < 1500 && document.querySelector(`[data-key="${CSS.escape(event.key)}"]`);
  went = 0;
  if (section) section.click();
  else if (event.key === "g") went = Date.now();
  else if (event.key === "?") open();
  else if (event.key === "/") document.getElementById("search")?.focus();
  else if (event.key === "Escape") document.querySelectorAll("details.ask[open]").forEach(one => { one.open = false; });
  else if (event.key === "j" || event.key === "k") step(event.key === "j" ? 1 : -1);
  else return;
  event.preventDefault();
});
const step = by => {
  const items = [...document.querySelectorAll("main [data-item]")].filter(item => item.getClientRects().length);
  const at = items.indexOf(document.activeElement);
  items[Math.min(Math.max(at + by, 0), items.length - 1)]?.focus();
};

// --- live: elements with data-live="topic ..." and an id reload themselves when something of the topic changes
let known = null, timer = 0;
const changed = stamps => {
  const topics = known === null ? [] : Object.keys(stamps).filter(topic => stamps[topic] !== known[topic]);
  known = stamps;
  const stale = [...document.querySelectorAll("[data-live][id]")].filter(
    element => element.dataset.live.split(" ").some(topic => topics.includes(topic))
  );
  if (stale.length) refresh(stale);
};
const busy = element => element.contains(document.activeElement) && typing(document.activeElement)
  || element.querySelector("details.ask[open], dialog[open]") !== null;
const refresh = async stale => {
  const answer = await fetch(location.href).catch(() => null);
  if (!answer?.ok || !(answer.headers.get("content-type") ?? "").startsWith("text/html")) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const element of stale) {
    const fresh = page.getElementById(element.id);
    if (!element.isConnected || !fresh || busy(element) || fresh.isEqualNode(element)) continue;
    const focused = element.contains(document.activeElement) ? document.activeElement.id : "";
    element.replaceWith(fresh);
    if (window.htmx) htmx.process(fresh);
    showTimes(fresh);
    if (focused) document.getElementById(focused)?.focus();
  }
};
const poll = () => {
  fetch("/live?once").then(answer => answer.ok ? answer.json() : null).then(found => { if (found) changed(found); }, () => {});
};
const listen = () => {
  const source = new EventSource("/live");
  source.onmessage = event => { clearInterval(timer); timer = 0; changed(JSON.parse(event.data)); };
  source.onerror = () => {
    timer ||= setInterval(poll, 5000);
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, 15000);
  };
  addEventListener("pagehide", () => source.close());
};
if (document.querySelector(".who")) listen();

// --- after a fragment came
document.addEventListener("htmx:afterSettle", event => showTimes(event.target));
showTimes(document);
