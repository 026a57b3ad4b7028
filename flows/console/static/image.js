// Zoom of one image: the button, the key + and a click on the image. Without it "Full size" opens the file.
"use strict";

const zoom = document.getElementById("zoom"), picture = document.getElementById("picture");
if (zoom && picture) {
  zoom.hidden = false;
  const toggle = () => {
    const on = picture.classList.toggle("zoomed");
    zoom.setAttribute("aria-pressed", String(on));
  };
  zoom.addEventListener("click", toggle);
  picture.addEventListener("click", toggle);
  document.addEventListener("keydown", event => {
    if (event.key === "+" && !event.target.closest("input, select, textarea") && !document.querySelector("dialog[open]")) toggle();
  });
}
