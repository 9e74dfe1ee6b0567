// A run's own page and enlarged pictures, in a dialog that the address names: #run-<verb>-<key>, #picture-<hash>.
"use strict";

const dialog = document.getElementById("run");
const stored = {};

function data(name) {
  return (stored[name] ??= JSON.parse(document.getElementById(`data-${name}`).textContent));
}

function make(tag, inside, attributes = {}) {
  const element = document.createElement(tag);
  element.append(...[inside].flat().filter((part) => part !== null && part !== undefined)); // text stays text
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

function table(head, rows) {
  const body = rows.map((row) => make("tr", row.map((cell, place) => make(place ? "td" : "th", cell))));
  const top = make("thead", make("tr", head.map((name) => make("th", name, { scope: "col" }))));
  return make("div", make("table", [top, make("tbody", body)]), { class: "wide", role: "region", "aria-label": head[0], tabindex: "0" });
}

// The Wilson score interval at 95 % (Wilson 1927, JASA 22), as testbed.statistics.wilson gives it.
function wilson(rate, n) {
  const z = 1.959963984540054;
  const middle = (rate + (z * z) / (2 * n)) / (1 + (z * z) / n);
  const half = (z / (1 + (z * z) / n)) * Math.sqrt((rate * (1 - rate)) / n + (z * z) / (4 * n * n));
  return [Math.max(0, middle - half), Math.min(1, middle + half)];
}

const percent = (number) => (100 * number).toFixed(1);

function shown(value, n, share, proportion) {
  if (value === undefined) return "";
  if (value === null) return "–";
  if (typeof value !== "number") return typeof value === "string" ? value : JSON.stringify(value);
  const text = share ? `${percent(value)} %` : Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(4)));
  if (!proportion || !n || value < 0 || value > 1 || Math.abs(value * n - Math.round(value * n)) > 1e-6 * n) return text;
  const [low, high] = wilson(value, n);
  return `${text} [${percent(low)}, ${percent(high)}]`;
}

function measures(run) {
  const names = data("runs").names;
  const found = new Map();
  for (const [place, value, n, reason] of run.measures) {
    const [name, title, share, proportion] = names[place];
    const [, prefix, plain] = /^(undefended_|clean_twin_)?(.*)$/.exec(name);
    const row = found.get(plain) ?? found.set(plain, { title: plain.replaceAll("_", " "), ns: [] }).get(plain);
    if (!prefix) row.title = title;
    row[prefix ?? ""] = shown(value, n, share, proportion) + (reason ? ` (${reason})` : "");
    if (n !== null) row.ns.push(n);
  }
  const used = ["undefended_", "clean_twin_"].filter((prefix) => [...found.values()].some((row) => prefix in row));
  const titles = { undefended_: "undefended", clean_twin_: "clean twin" };
  const rows = [...found.values()].map((row) => {
    const ns = [...new Set(row.ns)].join(", ") || "1 run";
    return [row.title, row[""] ?? "", ...used.map((prefix) => row[prefix] ?? ""), ns];
  });
  return table(["measure", "this run", ...used.map((prefix) => titles[prefix]), "n"], rows);
}

function costs(run) {
  const megabytes = (bytes) => (bytes ? `${Math.round(bytes / 2 ** 20)}` : "–");
  const rows = run.costs.map(([phase, time, memory, gpu]) => [phase, time.toFixed(2), megabytes(memory), megabytes(gpu)]);
  return table(["phase", "seconds", "peak MB", "peak MB, GPU"], rows);
}

function copied(command) {
  const code = make("pre", command, { tabindex: "0" });
  if (!navigator.clipboard) return code;
  const button = make("button", "Copy", { type: "button" });
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(command);
    button.textContent = "Copied";
  });
  return make("div", [code, button], { class: "command" });
}

function pictureOf(hash, name) {
  const image = make("img", [], { src: data("pictures")[hash], alt: name });
  return make("figure", [image, make("figcaption", name)]);
}

function page(run) {
  const { lines } = data("runs");
  const facts = run.facts.flatMap(([label, place]) => [make("dt", label), make("dd", lines[place])]);
  return [
    make("h2", run.name),
    make("p", run.reason ? `${run.status}: ${run.reason}` : run.status, { class: `status ${run.status}` }),
    run.measures.length ? make("h3", "Measures") : null,
    run.measures.length ? measures(run) : null,
    run.measures.length
      ? make("p", "In brackets: the 95 % Wilson interval of this one model over n test rows; it says nothing of other seeds.")
      : null,
    make("h3", "To repeat it"),
    run.command ? copied(run.command) : make("p", "It was started from Python, not by a command."),
    make("h3", "Cost"),
    costs(run),
    make("h3", "Where it comes from"),
    make("dl", facts, { class: "facts" }),
    ...run.pictures.map(([name, hash]) => pictureOf(hash, name)),
    make("details", [make("summary", "Configuration"), make("pre", run.config.map((place) => lines[place]).join("\n"))]),
  ];
}

function close() {
  history.pushState(null, "", location.pathname + location.search); // back shows it again
  dialog.close();
}

function show() {
  const [, kind, name] = /^#(run|picture)-(.+)$/.exec(location.hash) ?? [];
  const run = kind === "run" ? data("runs").runs[`run-${name}`] : undefined;
  const picture = kind === "picture" ? data("pictures")[name] : undefined;
  if (!run && !picture) {
    if (dialog.open) dialog.close();
    return;
  }
  const button = make("button", "Close", { type: "button", class: "close" });
  button.addEventListener("click", close);
  dialog.replaceChildren(button, ...(run ? page(run) : [pictureOf(name, "enlarged")]).filter(Boolean));
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
}

dialog.addEventListener("cancel", (event) => {
  event.preventDefault();
  close();
});
dialog.addEventListener("click", (event) => {
  if (event.target === dialog) close(); // beside it
});
addEventListener("hashchange", show);
addEventListener("popstate", show);
for (const details of document.querySelectorAll(".pictures")) {
  details.addEventListener("toggle", () => {
    for (const image of details.querySelectorAll("img:not([src])")) image.src = data("pictures")[image.dataset.picture];
  });
}
show();
