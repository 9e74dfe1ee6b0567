// Charts: drawn by Vega-Lite when they come into view, drawn anew when the theme changes; switches set their parameters.
"use strict";

const told = JSON.parse(document.getElementById("data-charts").textContent);
const views = new Map();
const dark = matchMedia("(prefers-color-scheme: dark)");

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

function theme() {
  const [ink, quiet, line] = ["ink", "quiet", "line"].map(colour);
  return {
    background: "transparent",
    font: "system-ui, sans-serif",
    axis: { labelColor: quiet, titleColor: quiet, gridColor: line, domainColor: line, tickColor: line, titleFontWeight: 400 },
    legend: { labelColor: ink, titleColor: quiet },
    view: { stroke: null },
    range: { heatmap: [colour("faint"), colour("full")] },
  };
}

function settings(place) {
  const chosen = Array.from(place.closest("figure").querySelectorAll("[data-parameter]"), (select) => [
    select.dataset.parameter,
    select.value,
  ]);
  const inks = ["ink", "strong", "accent", "quiet"].map((name) => [name, colour(name)]);
  return Object.fromEntries([...inks, ["marked", place.closest(".board").dataset.marked ?? ""], ...chosen]);
}

async function draw(place) {
  const { spec, sets } = told.charts[place.dataset.chart];
  const values = settings(place);
  const chart = {
    ...spec,
    params: spec.params.map((parameter) => (parameter.name in values ? { ...parameter, value: values[parameter.name] } : parameter)),
    datasets: Object.fromEntries(sets.map((name) => [name, told.sets[name]])),
  };
  views.get(place)?.finalize();
  const { view } = await vegaEmbed(place, chart, {
    mode: "vega-lite",
    renderer: "svg",
    actions: false,
    config: theme(),
    tooltip: { theme: dark.matches ? "dark" : "light" },
  });
  views.set(place, view);
  place.dataset.drawn = "yes";
}

function refresh(place) {
  const view = views.get(place);
  if (!view) return;
  for (const [name, value] of Object.entries(settings(place))) {
    if (name in view.getState().signals) view.signal(name, value);
  }
  view.runAsync();
}

const seen = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) {
        seen.unobserve(target);
        draw(target);
      }
    }
  },
  { rootMargin: "300px" },
);

for (const place of document.querySelectorAll(".chart")) {
  seen.observe(place);
  place.closest("figure").addEventListener("change", () => refresh(place));
}
for (const board of document.querySelectorAll(".board")) {
  board.addEventListener("marked", () => board.querySelectorAll(".chart").forEach(refresh));
}
dark.addEventListener("change", () => [...views.keys()].forEach(draw));
