// The grid of images: how many are ticked, ranges, and which filters are open. The page works without it.
"use strict";

let last = null;
const boxes = () => [...document.querySelectorAll("#chosen input[name=id]")];
const count = () => {
  const shown = document.getElementById("ticked");
  if (!shown) return;
  const chosen = boxes().filter(box => box.type === "hidden" || box.checked).length;
  shown.textContent = chosen ? `(${chosen})` : "";
};
const setUp = () => {
  const all = document.getElementById("tick-all");
  if (all && boxes().some(box => box.type === "checkbox")) all.hidden = false;
  if (matchMedia("(max-width: 700px)").matches && sessionStorage.getItem("filters") !== "open")
    document.getElementById("all-filters")?.removeAttribute("open");
  for (const facet of document.querySelectorAll("#filters details[id^=facet-]")) {
    const said = sessionStorage.getItem(facet.id);
    if (said !== null) facet.open = said === "open";
  }
  last = null;
  count();
};
document.addEventListener("click", event => {
  const box = event.target.closest("#grid input[name=id]");
  if (box) {
    const found = boxes(), from = found.indexOf(last), to = found.indexOf(box);
    if (event.shiftKey && from >= 0)
      for (const between of found.slice(Math.min(from, to), Math.max(from, to) + 1)) between.checked = box.checked;
    last = box;
    count();
  }
  if (event.target.id === "tick-all") {
    const on = boxes().some(one => !one.checked);
    for (const one of boxes()) one.checked = on;
    count();
  }
  const summary = event.target.closest("#filters summary");
  if (summary) {
    const id = summary.parentElement.id === "all-filters" ? "filters" : summary.parentElement.id;
    sessionStorage.setItem(id, summary.parentElement.open ? "closed" : "open");
  }
});
document.addEventListener("keydown", event => {
  const link = event.target.closest("#grid [data-item]");
  if (link && event.key === " ") {
    link.parentElement.querySelector("input[name=id]").click();
    event.preventDefault();
  }
});
document.addEventListener("htmx:afterSettle", setUp);
setUp();
