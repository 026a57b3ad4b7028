// The grid of one suggested class: what is crossed out is counted and kept in the address.
"use strict";
(() => {
  const grid = document.getElementById("grid");
  if (!grid) return;
  const count = document.getElementById("grid-count"), boxes = [...grid.querySelectorAll("input[name=out]")];
  const update = () => {
    const out = boxes.filter(box => box.checked);
    count.textContent = String(boxes.length - out.length);
    const address = new URL(location.href);
    address.searchParams.set("view", "grid");
    address.searchParams.set("class", document.querySelector("#grid-form [name=class]").value);
    if (out.length) address.searchParams.set("out", out.map(box => box.value.slice(0, 12)).join(","));
    else address.searchParams.delete("out");
    history.replaceState(history.state, "", address);
  };
  grid.addEventListener("change", update);
  document.addEventListener("keydown", event => {
    const at = boxes.indexOf(document.activeElement);
    if (at < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
    const columns = Math.max(1, Math.round(grid.clientWidth / grid.firstElementChild.getBoundingClientRect().width));
    const step = {ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns}[event.key];
    if (event.key === "x") boxes[at].click();
    else if (step) boxes[Math.min(Math.max(at + step, 0), boxes.length - 1)].focus();
    else return;
    event.preventDefault();
  });
})();
