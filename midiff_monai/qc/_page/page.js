"use strict";

// Everything from outside reaches the document as textContent or as a property, never as markup.
const study = JSON.parse(document.getElementById("study").textContent);
const byKey = new Map(study.subjects.map((subject) => [subject.key, subject]));
const find = (selector) => document.querySelector(selector);

function element(tag, text = "", properties = {}) {
  return Object.assign(document.createElement(tag), { textContent: text }, properties);
}

// ---------------------------------------------------------------- table

const flagText = (subject) => subject.flags.map((flag) => flag.text).join(" ");
const remarks = (subject) => [subject.error, ...subject.warnings].filter(Boolean).join(" ");
const anyStd = study.subjects.some((subject) => subject.scores.synthetic_std !== null);
const scoreColumns = [
  ...study.groups.map((name) => ({ name, title: name, digits: 1 })),
  { name: "edge_correlation", title: "edge correlation", digits: 2 },
  ...(anyStd ? [{ name: "synthetic_std", title: "synthetic std", digits: 3 }] : []),
];
const columns = [
  { title: "subject", value: (subject) => subject.name, cell: nameCell },
  { title: "status", value: (subject) => subject.status, cell: statusCell },
  { title: "flags", value: (subject) => subject.flags.length, cell: flagsCell },
  ...scoreColumns.map((column) => ({
    title: column.title,
    number: true,
    value: (subject) => subject.scores[column.name],
    cell: (subject) => scoreCell(subject, column),
  })),
  { title: "warnings", value: remarks, cell: (subject) => element("td", remarks(subject), { className: "text" }) },
];
const sorting = { column: columns[0], descending: false };
let shown = [];

function nameCell(subject) {
  const cell = element("td", "", { className: "text" });
  cell.append(element("a", subject.name, { href: `#${subject.key}`, title: subject.input }));
  return cell;
}

function statusCell(subject) {
  return element("td", subject.status, { className: subject.status === "failed" ? "failed" : "" });
}

function flagsCell(subject) {
  const kinds = [...new Set(subject.flags.map((flag) => flag.kind))].join(", ");
  return element("td", kinds, { className: kinds ? "odd" : "", title: flagText(subject) });
}

function scoreCell(subject, column) {
  const [score, z] = [subject.scores[column.name], subject.z[column.name]];
  const cell = element("td", score === null ? "" : score.toFixed(column.digits), { className: "number" });
  if (z !== null) {
    cell.append(element("small", `z ${z >= 0 ? "+" : "−"}${Math.abs(z).toFixed(1)}`));
    cell.classList.toggle("odd", Math.abs(z) > study.odd_z);
  }
  return cell;
}

function compare(first, second) {
  const [a, b] = [first, second].map(sorting.column.value);
  if (a === null || b === null) return (a === null) - (b === null); // what has no value comes last, either way
  const order = typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true });
  return sorting.descending ? -order : order;
}

function matches(subject) {
  const words = find("#search").value.toLowerCase().split(/\s+/);
  const text = [subject.name, subject.input, subject.status, remarks(subject), flagText(subject)].join(" ").toLowerCase();
  const status = find("#status").value;
  return (
    words.every((word) => text.includes(word)) &&
    (!status || subject.status === status) &&
    (!find("#flagged").checked || subject.flags.length > 0)
  );
}

function fillTable() {
  shown = study.subjects.filter(matches).sort(compare);
  const rows = shown.map((subject) => {
    const row = element("tr", "", { onclick: () => (location.hash = subject.key) });
    row.append(...columns.map((column) => column.cell(subject)));
    return row;
  });
  find("#subjects tbody").replaceChildren(...rows);
  find("#count").textContent = `${shown.length} of ${study.subjects.length} shown`;
  document.querySelectorAll("#subjects th").forEach((header, index) => {
    const direction = sorting.descending ? "descending" : "ascending";
    header.ariaSort = columns[index] === sorting.column ? direction : "none";
  });
}

function sortBy(column) {
  sorting.descending = sorting.column === column && !sorting.descending;
  sorting.column = column;
  fillTable();
}

function fillHeader() {
  document.title = `Quality control: ${study.title}`;
  find("#overview h1").textContent = document.title;
  const statuses = [...new Set(study.subjects.map((subject) => subject.status))].sort();
  const counts = statuses.map((status) => `${study.subjects.filter((s) => s.status === status).length} ${status}`);
  const flagged = study.subjects.filter((subject) => subject.flags.length).length;
  find("#summary").textContent = [...counts, `${flagged} flagged`].join(", ");
  find("#status").append(...statuses.map((status) => element("option", status)));
  find("#subjects thead tr").append(
    ...columns.map((column) => {
      const header = element("th", "", { scope: "col", className: column.number ? "number" : "" });
      header.append(element("button", column.title, { onclick: () => sortBy(column) }));
      return header;
    })
  );
  find("#note").textContent =
    "Volumes in millilitres. " +
    `z: distance from the median of the study's scans of that contrast, as BIDS names tell it, in robust standard ` +
    `deviations, from ${study.fewest_scans} scans on; ` +
    `beyond ±${study.odd_z} it is marked. Agreement: correlation of the edges of source and synthetic T1w. ` +
    "Research only; not a medical device.";
}

// ---------------------------------------------------------------- one subject

let current = null;

function show() {
  current = byKey.get(location.hash.slice(1)) ?? null;
  find("#overview").hidden = current !== null;
  find("#subject").hidden = current === null;
  closeViewer();
  if (current) fillSubject(current);
  scrollTo(0, 0);
}

function fillSubject(subject) {
  find("#subject h1").textContent = subject.name;
  find("#flags").replaceChildren(
    ...(subject.error ? [element("li", subject.error, { className: "error" })] : []),
    ...[...subject.flags.map((flag) => flag.text), ...subject.warnings].map((text) => element("li", text))
  );
  const { source, synthetic, structures } = subject.pictures;
  find("#mosaics").replaceChildren(
    ...(source ? [mosaic("source", source, structures)] : []),
    ...(synthetic ? [mosaic("synthetic T1w", synthetic, structures)] : [])
  );
  find("#fading").hidden = !subject.viewer;
  find("#open").hidden = false;
  find("#details").replaceChildren(factsTable(subject), volumesTable(subject));
}

function mosaic(caption, grey, structures) {
  const layers = element("div", "", { className: "layers" });
  layers.append(element("img", "", { src: grey, alt: `${caption}, axial, coronal and sagittal` }));
  if (structures) layers.append(element("img", "", { src: structures, alt: "structures", className: "structures" }));
  const figure = element("figure");
  figure.append(layers, element("figcaption", `${caption}; the patient's left (L) is on the right`));
  return figure;
}

function factsTable(subject) {
  const { settings, weights, environment } = subject;
  return table("How it was made", [
    ["input", subject.input],
    ["report", subject.report],
    ["started", subject.started],
    ["seconds", subject.seconds?.toFixed(1)],
    ...Object.entries(settings),
    ...Object.entries(weights).map(([bundle, hash]) => [`weights of ${bundle}`, hash]),
    ["commit", environment.git_commit],
    ...Object.entries(environment.packages ?? {}),
  ]);
}

function volumesTable(subject) {
  const measured = study.structures.filter(({ id }) => id in subject.structures);
  const section = table("Volumes, ml", measured.map(({ id, name }) => [name, subject.structures[id].toFixed(2)]));
  measured.forEach(({ colour }, index) => {
    const swatch = element("span", "", { className: "swatch" });
    swatch.style.background = `rgb(${colour})`;
    section.querySelectorAll("th")[index].prepend(swatch);
  });
  section.hidden = measured.length === 0;
  return section;
}

function table(title, entries) {
  const body = element("table");
  for (const [name, value] of entries.filter(([, value]) => value !== null && value !== undefined && value !== "")) {
    const row = element("tr");
    row.append(element("th", name, { scope: "row" }), element("td", String(value)));
    body.append(row);
  }
  const section = element("section");
  section.append(element("h2", title), body);
  return section;
}

function step(by) {
  const next = shown[shown.indexOf(current) + by];
  if (current && next) location.hash = next.key;
}

// ---------------------------------------------------------------- interactive viewer

const FROM_BELOW = ["source", "synthetic", "segmentation"];
const OPAQUE = "opaque_gray"; // NiiVue's own greys let darker layers shine through
let niivueStarted = null; // a promise: one canvas serves every subject
let received = null;
let layers = [];

// A subject's script calls this: the one way for a page opened from disk to get hold of a file beside it.
function midiffVolumes(volumes) {
  received = volumes;
}

function loadScript(address) {
  return new Promise((resolve, reject) => {
    const script = element("script", "", { src: address });
    script.onload = () => resolve(script.remove());
    script.onerror = () => reject(new Error(`${address} is missing: keep the folder _viewer beside this page.`));
    document.head.append(script);
  });
}

async function openViewer() {
  const subject = current;
  find("#open").hidden = true;
  find("#viewer").hidden = false;
  find("#viewer").scrollIntoView();
  try {
    if (!window.niivue) await loadScript("_viewer/niivue.js");
    const viewer = await (niivueStarted ??= startNiivue());
    await loadScript(subject.viewer);
    const images = await readVolumes(received);
    if (subject !== current) return;
    layers = images;
    find("#blend").parentElement.hidden = !(layers.some(has("source")) && layers.some(has("synthetic")));
    await fade();
    viewer.setSliceType(Number(find("#view").value));
    find("#viewer").dataset.ready = subject.key;
  } catch (error) {
    find("#trouble").textContent = error.message;
  }
}

async function startNiivue() {
  const viewer = new niivue.Niivue({
    isRadiologicalConvention: true,
    sagittalNoseLeft: true,
    multiplanarShowRender: niivue.SHOW_RENDER.NEVER,
    loadingText: "",
  });
  viewer.addColormap(OPAQUE, { R: [0, 255], G: [0, 255], B: [0, 255], A: [255, 255], I: [0, 255] });
  viewer.onLocationChange = (place) => (find("#location").textContent = place.string);
  return viewer.attachToCanvas(find("#canvas"));
}

const has = (role) => (image) => image.name.startsWith(role);

function readVolumes(volumes) {
  const roles = FROM_BELOW.filter((role) => role in volumes);
  return Promise.all(
    roles.map(async (role) => {
      const options = { base64: volumes[role], name: `${role}.nii.gz`, colormap: OPAQUE, cal_min: 0, cal_max: 255 };
      const image = await niivue.NVImage.loadFromBase64(options);
      if (role === "segmentation") image.setColormapLabel(labelColours());
      return image;
    })
  );
}

function labelColours() {
  const lookup = { R: [], G: [], B: [], A: [], I: [], labels: [] };
  for (const { id, name, colour } of study.structures) {
    ["R", "G", "B"].forEach((channel, index) => lookup[channel].push(colour[index]));
    lookup.A.push(id ? 255 : 0);
    lookup.I.push(id);
    lookup.labels.push(name);
  }
  return lookup;
}

async function fade() {
  const [structures, synthetic] = [find("#opacity"), find("#blend")].map((slider) => Number(slider.value));
  document.documentElement.style.setProperty("--fill", structures);
  if (!layers.length) return;
  const viewer = await niivueStarted;
  layers.find(has("segmentation")).opacity = structures;
  layers.slice(1).filter(has("synthetic")).forEach((image) => (image.opacity = synthetic));
  [viewer.volumes, viewer.back, viewer.overlays] = [layers, layers[0], layers.slice(1)];
  viewer.updateGLVolume(); // once for all layers, which addVolume and setOpacity would do for each
}

function closeViewer() {
  layers = [];
  find("#viewer").hidden = true;
  find("#trouble").textContent = find("#location").textContent = "";
  delete find("#viewer").dataset.ready;
}

// ---------------------------------------------------------------- start

fillHeader();
fillTable();
for (const control of ["#search", "#status", "#flagged"]) find(control).addEventListener("input", fillTable);
for (const control of ["#opacity", "#blend"]) find(control).addEventListener("input", fade);
find("#view").addEventListener("input", async ({ target }) => (await niivueStarted).setSliceType(Number(target.value)));
find("#open").addEventListener("click", openViewer);
find("#previous").addEventListener("click", () => step(-1));
find("#next").addEventListener("click", () => step(1));
document.addEventListener("keydown", ({ key, target }) => {
  if (!target.matches("input, select")) step({ j: 1, k: -1 }[key] ?? NaN);
});
addEventListener("hashchange", show);
show();
