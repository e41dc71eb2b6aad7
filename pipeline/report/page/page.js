"use strict";
// Without this script the page shows everything; with it charts answer and clips can be filtered.
const tip = document.getElementById("tip");

function say(svg, x, y, text) {
  const spot = svg.querySelector(".spot");
  spot.setAttribute("cx", x);
  spot.setAttribute("cy", y);
  spot.classList.add("on");
  tip.textContent = text;
  tip.hidden = false;
  const box = svg.getBoundingClientRect();
  const scale = box.width / svg.viewBox.baseVal.width;
  const left = box.left + x * scale + 12;
  const top = box.top + y * scale - tip.offsetHeight - 8;
  tip.style.left = `${Math.max(4, Math.min(left, innerWidth - tip.offsetWidth - 4))}px`;
  tip.style.top = `${Math.max(4, top)}px`;
}

function hush(svg) {
  tip.hidden = true;
  svg.querySelector(".spot").classList.remove("on");
}

for (const svg of document.querySelectorAll(".chart")) {
  const tips = JSON.parse(svg.dataset.tips);
  const points = svg.querySelectorAll(".point");
  const shown = (k) => !points.length || !points[k].classList.contains("gone");
  const order = tips.map((_, k) => k).sort((a, b) => tips[a][0] - tips[b][0]);
  let at = -1;
  const answer = (event) => {
    const place = new DOMPoint(event.clientX, event.clientY)
      .matrixTransform(svg.getScreenCTM().inverse());
    let best = -1, least = svg.dataset.by === "point" ? 30 : Infinity;
    tips.forEach(([x, y], k) => {
      const far = svg.dataset.by === "point"
        ? Math.hypot(x - place.x, y - place.y) : Math.abs(x - place.x);
      if (far < least && shown(k)) { least = far; best = k; }
    });
    if (best < 0) hush(svg); else say(svg, ...tips[best]);
  };
  svg.addEventListener("pointermove", answer);
  svg.addEventListener("pointerdown", answer); // a finger does not hover
  svg.addEventListener("pointerleave", () => hush(svg));
  svg.addEventListener("blur", () => hush(svg));
  svg.addEventListener("keydown", (event) => {
    const left = order.filter(shown);
    if (event.key === "Escape") { hush(svg); return; }
    if (!left.length) return;
    if (event.key === "ArrowRight") at = Math.min(at + 1, left.length - 1);
    else if (event.key === "ArrowLeft") at = Math.max(at - 1, 0);
    else if (event.key === "Home") at = 0;
    else if (event.key === "End") at = left.length - 1;
    else return;
    event.preventDefault();
    at = Math.min(at, left.length - 1);
    say(svg, ...tips[left[at]]);
  });
}

const filters = document.getElementById("filters");
const clips = document.querySelectorAll("[data-clip]");
const rows = document.querySelectorAll(".row");

function filter() {
  const text = filters.elements.text.value.trim().toLowerCase();
  const subset = filters.elements.subset ? filters.elements.subset.value : "";
  for (const element of clips) {
    const { clip, group } = element.dataset;
    const kept = (!subset || element.dataset.subset === subset)
      && (!text || `${clip}\n${group}`.toLowerCase().includes(text));
    element.classList.toggle("gone", !kept);
  }
  for (const cards of document.querySelectorAll(".cards")) {
    cards.previousElementSibling.hidden = cards.querySelector(".card:not(.gone)") !== null;
  }
  const left = [...rows].filter((row) => !row.classList.contains("gone")).length;
  document.getElementById("count").textContent =
    text || subset ? `${left} of ${rows.length} clips` : `${rows.length} clips`;
}

filters.addEventListener("input", filter);
filters.addEventListener("submit", (event) => event.preventDefault());
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
});
filter();
