// The map of images: points on a canvas, a lasso, and the images that it caught. Without it the grid shows the same.
"use strict";

const COLOURS = ["#2f6fd6", "#c2571a", "#2a9d62", "#a63fb5", "#b8930b", "#c7344f", "#1596a6", "#7a6a58", "#6d7bd8", "#7b9b1e"];
const OTHER = "#8791a1", MOST = 60;
let points = [], names = [], path = [], caught = new Set();

const canvas = () => document.getElementById("map-canvas");
const at = point => [12 + point[1] * (canvas().width - 24), 12 + (1 - point[2]) * (canvas().height - 24)];
const colour = code => code < COLOURS.length ? COLOURS[code] : OTHER;

const draw = () => {
  const pen = canvas().getContext("2d");
  pen.clearRect(0, 0, canvas().width, canvas().height);
  for (const [place, point] of points.entries()) {
    const [x, y] = at(point), chosen = caught.has(place);
    pen.globalAlpha = caught.size && !chosen ? 0.3 : 0.85;
    pen.fillStyle = colour(point[3]);
    pen.beginPath();
    pen.arc(x, y, chosen ? 5 : 3.5, 0, 7);
    pen.fill();
  }
  pen.globalAlpha = 1;
  if (path.length > 1) {
    pen.strokeStyle = getComputedStyle(document.body).color;
    pen.lineWidth = 1.5;
    pen.beginPath();
    path.forEach(([x, y], n) => n ? pen.lineTo(x, y) : pen.moveTo(x, y));
    pen.closePath();
    pen.stroke();
  }
};
const inside = ([x, y]) => {
  let odd = false;
  for (let i = 0, j = path.length - 1; i < path.length; j = i++) {
    const [a, b] = path[i], [c, d] = path[j];
    if (b > y !== d > y && x < (c - a) * (y - b) / (d - b) + a) odd = !odd;
  }
  return odd;
};
const where = event => {
  const box = canvas().getBoundingClientRect();
  return [(event.clientX - box.left) * canvas().width / box.width, (event.clientY - box.top) * canvas().height / box.height];
};
const show = () => {
  const ids = [...caught].map(place => points[place][0]), tiles = document.getElementById("map-chosen");
  tiles.replaceChildren(...ids.slice(0, MOST).map(id => {
    const figure = document.createElement("figure"), link = document.createElement("a"), image = document.createElement("img");
    figure.className = "tile";
    link.href = `/images/${id}`;
    link.dataset.item = "";
    Object.assign(image, { src: `/thumbs/${id}`, alt: `image ${id.slice(0, 12)}`, width: 128, height: 128, loading: "lazy" });
    link.append(image);
    figure.append(link);
    return figure;
  }), ...ids.map(id => Object.assign(document.createElement("input"), { type: "hidden", name: "id", value: id })));
  document.getElementById("map-said").textContent = ids.length
    ? `${ids.length} chosen${ids.length > MOST ? `, the first ${MOST} shown` : ""}.` : document.getElementById("map").dataset.said;
  document.getElementById("ticked").textContent = ids.length ? `(${ids.length})` : "";
};
const begin = async () => {
  const section = document.getElementById("map");
  if (!section || section.dataset.begun) return;
  section.dataset.begun = "1";
  points = []; path = []; caught = new Set();
  const said = document.getElementById("map-said");
  const answer = await fetch(section.dataset.points).catch(() => null);
  if (!answer?.ok) { said.textContent = "The map could not be made. Reload the page."; return; }
  const found = await answer.json();
  ({ points, names } = found);
  section.dataset.said = said.textContent = found.said;
  if (!points.length) return;
  canvas().hidden = false;
  document.getElementById("map-key").replaceChildren(...names.slice(0, COLOURS.length).map((name, code) => {
    const span = document.createElement("span");
    span.append(document.createElement("i"), name);
    span.className = `dot-${code}`;
    return span;
  }));
  draw();
  let pressed = false;
  canvas().addEventListener("pointerdown", event => { pressed = true; path = [where(event)]; canvas().setPointerCapture(event.pointerId); });
  canvas().addEventListener("pointermove", event => { if (pressed) { path.push(where(event)); draw(); } });
  canvas().addEventListener("pointerup", () => {
    pressed = false;
    caught = new Set(path.length > 3 ? points.flatMap((point, place) => inside(at(point)) ? [place] : []) : []);
    if (path.length <= 3 && path.length) {
      const [x, y] = path[0];
      const near = points.map((point, place) => [Math.hypot(at(point)[0] - x, at(point)[1] - y), place]).sort((a, b) => a[0] - b[0])[0];
      if (near && near[0] < 14) caught.add(near[1]);
    }
    path = [];
    draw();
    show();
  });
};
document.addEventListener("htmx:afterSettle", begin);
begin();
