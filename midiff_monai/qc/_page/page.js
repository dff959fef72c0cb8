"use strict";

// Text from files reaches the document as textContent or as a property, never as markup.
const study = JSON.parse(document.getElementById("study").textContent);
const byKey = new Map(study.subjects.map((subject) => [subject.key, subject]));
const find = (selector) => document.querySelector(selector);

function element(tag, text = "", properties = {}) {
  return Object.assign(document.createElement(tag), { textContent: text }, properties);
}

// ---------------------------------------------------------------- table

const flagText = (subject) => subject.flags.map((flag) => flag.text).join(" ");
const messages = (subject) => [subject.error, ...subject.warnings].filter(Boolean).join(" ");
const anyStd = study.subjects.some((subject) => subject.scores.synthetic_std !== null);
const anyQuality = study.subjects.some((subject) => subject.scores.quality !== null);
const anyContrast = study.subjects.some((subject) => subject.contrast);
const flagLabels = {
  quality: "low quality",
  edge: "touches edge",
  coverage: "partial coverage",
  size: "implausible size",
  orientation: "implausible orientation",
  axes: "wrong axes",
  anatomy: "no head",
  asymmetry: "sides differ",
  volume: "unusual volume",
  absent: "missing structure",
  edge_correlation: "low edge correlation",
  synthetic_std: "samples disagree",
};
const statusHelp = {
  done: "Processed in the last run.",
  skipped: "Not processed again: an earlier run with the same settings had already produced the results.",
  failed: "Processing failed: see the error.",
  pending: "Not processed yet: the last run stopped before this scan.",
};
const edgeHelp = "Rank correlation of the edges of source and synthetic volume. 1: all edges match.";
const stdHelp = "Mean standard deviation of the samples of the synthetic volume, as a share of the range of its intensities.";
const qualityHelp = "Expected mean Dice of the segmentation with the truth. Scans below 0.65 are flagged.";
const scoreColumns = [
  ...(anyQuality ? [{ name: "quality", title: "quality", help: qualityHelp, digits: 2 }] : []),
  ...study.groups.map((name) => ({ name, title: `${name}, ml`, help: `Volume of ${name} in millilitres.`, digits: 1 })),
  { name: "edge_correlation", title: "edge correlation", help: edgeHelp, digits: 2 },
  ...(anyStd ? [{ name: "synthetic_std", title: "std of samples", help: stdHelp, digits: 3 }] : []),
];
const contrastColumn = {
  title: "contrast",
  help: "Contrast named at the end of the file name. Only scans of the same contrast are compared.",
  value: (subject) => subject.contrast,
  cell: (subject) => element("td", subject.contrast),
};
const columns = [
  { title: "scan", help: "File name of the input.", value: (subject) => subject.name, cell: nameCell },
  ...(anyContrast ? [contrastColumn] : []),
  { title: "status", help: "Outcome of the last run.", value: (subject) => subject.status, cell: statusCell },
  { title: "flags", help: "Automatic reasons to look.", value: (subject) => subject.flags.length, cell: flagsCell },
  ...scoreColumns.map((column) => ({
    title: column.title,
    help: column.help,
    number: true,
    value: (subject) => subject.scores[column.name],
    cell: (subject) => scoreCell(subject, column),
  })),
  {
    title: "errors and warnings",
    help: "Messages of the run.",
    value: messages,
    cell: (subject) => element("td", messages(subject), { className: "text" }),
  },
];
const sorting = { column: columns.find(({ title }) => title === "quality") ?? columns[0], descending: false };
let shown = [];

function nameCell(subject) {
  const cell = element("td", "", { className: "text" });
  cell.append(element("a", subject.name, { href: `#${subject.key}`, title: subject.input }));
  return cell;
}

function statusCell(subject) {
  const className = subject.status === "failed" ? "failed" : "";
  return element("td", subject.status, { className, title: statusHelp[subject.status] ?? "" });
}

function flagsCell(subject) {
  const kinds = [...new Set(subject.flags.map((flag) => flag.kind))];
  const labels = kinds.map((kind) => flagLabels[kind]).join(", ");
  return element("td", labels, { className: labels ? "flagged" : "", title: flagText(subject) });
}

function scoreCell(subject, column) {
  const [score, z] = [subject.scores[column.name], subject.z[column.name]];
  const cell = element("td", score === null ? "" : score.toFixed(column.digits), { className: "number" });
  if (z !== null) {
    cell.append(element("small", `z ${z >= 0 ? "+" : "−"}${Math.abs(z).toFixed(1)}`));
    cell.classList.toggle("flagged", Math.abs(z) > study.outlier_z);
  }
  return cell;
}

function compare(first, second) {
  const [a, b] = [first, second].map(sorting.column.value);
  if (a === null || b === null) return (a === null) - (b === null); // missing values come last in either order
  const order = typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true });
  return sorting.descending ? -order : order;
}

function matches(subject) {
  const words = find("#search").value.toLowerCase().split(/\s+/);
  const text = [subject.name, subject.input, subject.status, messages(subject), flagText(subject)].join(" ").toLowerCase();
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
  const empty = study.subjects.length ? "No scan matches these filters." : "This folder contains no results yet.";
  find("#empty").textContent = shown.length ? "" : empty;
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
  const total = study.subjects.length;
  const scans = total === 1 ? "1 scan" : `${total} scans`;
  find("#summary").textContent = total ? `${scans}: ${counts.join(", ")}; ${flagged} flagged for review.` : "";
  find("#status").append(...statuses.map((status) => element("option", status)));
  find("#subjects thead tr").append(
    ...columns.map((column) => {
      const header = element("th", "", { scope: "col", className: column.number ? "number" : "" });
      header.append(element("button", column.title, { onclick: () => sortBy(column), title: `${column.help} Click to sort.` }));
      return header;
    })
  );
  find("#note").textContent =
    "A flag is a reason to look at a result, not a verdict. Tissue volumes may overlap: grey matter includes cortex and " +
    "deep grey matter, and cerebrospinal fluid includes the lateral ventricles. z: distance from the median of this " +
    "study's scans of the same contrast, in robust standard deviations; computed if there are at least " +
    `${study.min_scans} scans, and highlighted beyond ±${study.outlier_z}. Edge correlation: rank correlation of the ` +
    "edges of source and synthetic volume. For research only; not a medical device.";
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
    ...(source ? [mosaic("Source", source, structures)] : []),
    ...(synthetic ? [mosaic("Synthetic volume", synthetic, structures)] : [])
  );
  find("#messages").hidden = !find("#flags").children.length;
  find("#picture-note").textContent = pictureNote(subject);
  find("#fading").hidden = !subject.viewer;
  find("#open").hidden = false;
  find("#details").replaceChildren(factsTable(subject), volumesTable(subject));
}

function pictureNote({ status, viewer }) {
  const outcome = { failed: "Processing of this scan failed.", pending: "This scan has not been processed yet." }[status];
  if (viewer) return outcome ? `${outcome} The pictures and volumes are those of an earlier run.` : "";
  return `${outcome ?? "The images of this scan cannot be read."} There are no pictures.`;
}

function mosaic(caption, grey, structures) {
  const layers = element("div", "", { className: "layers" });
  layers.append(element("img", "", { src: grey, alt: `${caption}, axial, coronal and sagittal` }));
  if (structures) layers.append(element("img", "", { src: structures, alt: "segmented structures", className: "structures" }));
  const figure = element("figure");
  figure.append(layers, element("figcaption", `${caption} (radiological convention: the patient's left, L, is on the right)`));
  return figure;
}

function factsTable(subject) {
  const { settings, weights, environment } = subject;
  return table("Processing", [
    ["input", subject.input],
    ["manifest", subject.report],
    ["started", subject.started],
    ["duration, s", subject.seconds?.toFixed(1)],
    ...Object.entries(settings),
    ...Object.entries(weights).map(([bundle, hash]) => [`weights of ${bundle}, SHA-256`, hash]),
    ["git commit", environment.git_commit],
    ...Object.entries(environment.packages ?? {}),
  ]);
}

function volumesTable(subject) {
  const measured = study.structures.filter(({ id }) => id in subject.structures);
  const section = table("Volumes of structures, ml", measured.map(({ id, name }) => [name, subject.structures[id].toFixed(2)]));
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

const SCANS_FROM_BOTTOM = ["source", "synthetic"];
const layerOf = new Map(study.layers.map((layer) => [layer.role, layer]));
const OPAQUE = "opaque_gray"; // in NiiVue's own grey map, dark voxels are transparent
let niivueStarted = null; // a promise: all subjects share one canvas
let received = null;
let images = []; // the scans from the bottom, then the layers; one layer is drawn at a time

// A subject's script calls this function. A page that is opened from disk cannot read other files in any other way.
function midiffVolumes(volumes) {
  received = volumes;
}

function loadScript(address) {
  return new Promise((resolve, reject) => {
    const script = element("script", "", { src: address });
    script.onload = () => resolve(script.remove());
    script.onerror = () => reject(new Error(`${address} cannot be loaded. Keep the folder _viewer beside this page.`));
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
    const read = await readVolumes(received);
    if (subject !== current) return;
    images = read;
    find("#blend").parentElement.hidden = !SCANS_FROM_BOTTOM.every((role) => images.some(has(role)));
    offerLayers();
    await draw();
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
  for (const { role, colours } of study.layers) if (!colours.labels) viewer.addColormap(role, colours);
  viewer.onLocationChange = (place) => (find("#location").textContent = place.string);
  return viewer.attachToCanvas(find("#canvas"));
}

const has = (role) => (image) => image.name === `${role}.nii.gz`;

function readVolumes(volumes) {
  const roles = [...SCANS_FROM_BOTTOM, ...layerOf.keys()].filter((role) => role in volumes);
  return Promise.all(roles.map((role) => readVolume(role, volumes[role])));
}

async function readVolume(role, base64) {
  const { colours, high } = layerOf.get(role) ?? { colours: null, high: 255 };
  const colormap = colours && !colours.labels ? role : OPAQUE;
  const options = { base64, name: `${role}.nii.gz`, colormap, cal_min: 0, cal_max: high };
  const image = await niivue.NVImage.loadFromBase64(options);
  if (colours?.labels) image.setColormapLabel(colours);
  image.colorbarVisible = colormap === role;
  return image;
}

function offerLayers() {
  const before = find("#layer").value;
  const offered = study.layers.filter(({ role }) => images.some(has(role)));
  find("#layer").replaceChildren(...offered.map(({ role, title }) => element("option", title, { value: role })));
  find("#layer").parentElement.hidden = find("#layer-opacity").parentElement.hidden = !offered.length;
  if (offered.some(({ role }) => role === before)) find("#layer").value = before;
  else chooseOpacity();
}

function chooseOpacity() {
  find("#layer-opacity").value = layerOf.get(find("#layer").value)?.opacity ?? 0;
}

function fadePictures() {
  document.documentElement.style.setProperty("--fill", find("#opacity").value);
}

async function draw() {
  if (!images.length) return;
  const viewer = await niivueStarted;
  const layer = images.filter(has(find("#layer").value));
  const shown = [...images.filter((image) => SCANS_FROM_BOTTOM.some((role) => has(role)(image))), ...layer];
  layer.forEach((image) => (image.opacity = Number(find("#layer-opacity").value)));
  shown.slice(1).filter(has("synthetic")).forEach((image) => (image.opacity = Number(find("#blend").value)));
  [viewer.volumes, viewer.back, viewer.overlays] = [shown, shown[0], shown.slice(1)];
  viewer.opts.isColorbar = layer.some((image) => image.colorbarVisible);
  viewer.updateGLVolume(); // once for all layers; addVolume and setOpacity would update for each layer
  viewer.createOnLocationChange();
}

function closeViewer() {
  images = [];
  find("#viewer").hidden = true;
  find("#trouble").textContent = find("#location").textContent = "";
  delete find("#viewer").dataset.ready;
}

// ---------------------------------------------------------------- start

fillHeader();
fillTable();
for (const control of ["#search", "#status", "#flagged"]) find(control).addEventListener("input", fillTable);
find("#opacity").addEventListener("input", fadePictures);
find("#layer").addEventListener("input", chooseOpacity);
for (const control of ["#layer", "#layer-opacity", "#blend"]) find(control).addEventListener("input", draw);
find("#view").addEventListener("input", async ({ target }) => (await niivueStarted).setSliceType(Number(target.value)));
find("#open").addEventListener("click", openViewer);
find("#previous").addEventListener("click", () => step(-1));
find("#next").addEventListener("click", () => step(1));
document.addEventListener("keydown", ({ key, target }) => {
  if (!target.matches("input, select")) step({ j: 1, k: -1 }[key] ?? NaN);
});
addEventListener("hashchange", show);
show();
