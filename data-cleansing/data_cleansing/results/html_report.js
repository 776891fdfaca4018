"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const PAGE = 60;   // cards that are made at a time
const KEEP = "keep", REMOVE = "remove", RELABEL = "relabel";
const STORE = `data-cleansing ${data.key}`;
const get = id => document.getElementById(id);
const group = get("group"), label = get("label"), predicted = get("predicted"), order = get("order");
let marks = load() || {}, chosen = [], shown = 0, enlarged = null;

// Marks: {row: [mark, new class or null]}, kept by the browser under the name of this report.

function load() {
  try {
    const stored = JSON.parse(localStorage.getItem(STORE)) || {};
    const known = new Set(data.images.map(image => String(image.row)));
    return Object.fromEntries(Object.entries(stored).filter(([row]) => known.has(row)));
  } catch {
    return null;   // nothing is stored by this browser
  }
}

// What another tab with this report has marked is seen here, and kept when this one stores its own.
function follow() {
  marks = load() || marks;
  const images = new Map(data.images.map(image => [String(image.row), image]));
  for (const marked of document.querySelectorAll("[data-row]")) showMark(marked, images.get(marked.dataset.row));
  count();
}

function setMark(image, mark, target = null) {
  if (mark === null) delete marks[image.row];
  else marks[image.row] = [mark, target];
  try {
    localStorage.setItem(STORE, JSON.stringify(marks));
    get("problem").textContent = "";
  } catch {
    get("problem").textContent = "This browser does not store marks: export them before you leave the page.";
  }
  for (const marked of document.querySelectorAll(`[data-row="${image.row}"]`)) showMark(marked, image);
  count();
}

function likely(image) {
  if (image.suggested !== null) return image.suggested;
  return image.predicted !== image.label ? image.predicted : (image.label + 1) % data.classes.length;
}

function showMark(element, image) {
  const [mark, target] = marks[image.row] || [null, null];
  element.dataset.mark = mark || "";
  for (const button of element.querySelectorAll("[data-set]")) {
    button.setAttribute("aria-pressed", String(button.dataset.set === mark));
  }
  const select = element.querySelector(".marks select"), value = target === null ? likely(image) : target;
  if (![...select.options].some(option => Number(option.value) === value)) select.add(new Option(data.names[value], value));
  select.value = value;
}

function count() {
  const number = Object.keys(marks).length;
  get("count").textContent = `${chosen.length} images, ${number} marked`;
  get("export").disabled = !number;
}

// Cards --------------------------------------------------------------------------------------------------------------

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

const show = value => value === null ? "–" : value === 0 ? "0" : Math.abs(value) < 1e-3 || Math.abs(value) >= 1e4
  ? value.toExponential(2) : value.toPrecision(3);

function facts(image) {
  const line = (name, value) => make("div", {}, `${name} `, make("b", { textContent: value }));
  const parts = [line("label", data.names[image.label] + (image.flipped ? " (flipped)" : ""))];
  if (image.suggested !== null) parts.push(line("suggested", data.names[image.suggested]));
  parts.push(line("predicted", data.names[image.predicted]));
  parts.push(make("div", { textContent: `suspicion rank ${image.rank}, training loss ${show(image.loss)}` }));
  data.methods.forEach((method, k) => parts.push(make("div", { textContent: `${method} ${show(image.scores[k])}` })));
  parts.push(make("div", { className: "name", textContent: `row ${image.row}, ${image.shown}` }));
  return make("div", { className: "facts" }, ...parts);
}

function controls(image) {
  const buttons = [[KEEP, "Keep"], [REMOVE, "Remove"], [RELABEL, "Relabel"]].map(([mark, text]) => {
    const button = make("button", { type: "button", textContent: text });
    button.dataset.set = mark;
    button.addEventListener("click", () => {
      const same = marks[image.row] && marks[image.row][0] === mark;
      setMark(image, same ? null : mark, mark === RELABEL ? Number(select.value) : null);
    });
    return button;
  });
  const select = make("select");
  select.setAttribute("aria-label", `New label of row ${image.row}`);
  // All classes only when they are asked for: with a thousand classes all cards would hold 60,000 of them.
  select.addEventListener("focus", () => {
    const value = select.value;
    select.replaceChildren(...options(data.names.map((name, k) => [k, name]).filter(([k]) => k !== image.label)));
    select.value = value;
  }, { once: true });
  select.addEventListener("change", () => setMark(image, RELABEL, Number(select.value)));
  return make("div", { className: "marks" }, ...buttons, select);
}

function card(image) {
  const picture = make("img", { src: image.small, alt: `row ${image.row}`, loading: "lazy",
    className: image.full ? "" : "exact" });
  const enlarge = make("button", { type: "button", className: "enlarge", title: "Enlarge" }, picture);
  enlarge.addEventListener("click", () => open(image));
  const element = make("article", { className: image.flipped ? "card flipped" : "card" }, enlarge, facts(image));
  if (image.reason) element.append(make("div", { className: "reason", textContent: image.reason }));
  element.append(controls(image));
  element.dataset.row = image.row;
  showMark(element, image);
  return element;
}

function open(image) {
  enlarged = image;
  get("picture").src = image.full || image.small;
  get("picture").className = image.full ? "" : "exact";
  get("picture").alt = `row ${image.row}`;
  const details = make("div", {}, facts(image), make("div", { className: "reason", textContent: image.reason }),
    controls(image));
  details.dataset.row = image.row;
  get("details").replaceChildren(details);
  showMark(details, image);
  if (!get("large").open) get("large").showModal();
}

function onKey(event) {
  if (event.target.tagName === "SELECT" || event.ctrlKey || event.metaKey || event.altKey) return;
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key], mark = { k: KEEP, r: REMOVE, l: RELABEL }[event.key.toLowerCase()];
  const next = step && chosen[chosen.indexOf(enlarged) + step];
  if (next) open(next);
  if (mark) get("details").querySelector(`[data-set="${mark}"]`).click();
}

// Choosing and sorting -----------------------------------------------------------------------------------------------

function options(pairs) {
  return pairs.map(([value, text]) => new Option(text, value));
}

const ORDERS = {
  "the list": null,
  "suspicion of the label": image => image.rank,
  ...Object.fromEntries(data.methods.flatMap((method, k) => [
    [`${method}, lowest first`, image => image.scores[k]],
    [`${method}, highest first`, image => image.scores[k] === null ? null : -image.scores[k]]])),
  "training loss, highest first": image => image.loss === null ? null : -image.loss,
  "row": image => image.row,
};
const ALL = "all", MARKED = "marked";

function fillChoices() {
  const used = key => [...new Set(data.images.map(image => image[key]))].sort((a, b) => a - b);
  group.append(...options([...Object.entries(data.groups).map(([name, rows]) => [name, `${name} (${rows.length})`]),
    [ALL, `all of these (${data.images.length})`], [MARKED, "marked"]]));
  for (const [select, key] of [[label, "label"], [predicted, "predicted"]]) {
    select.append(...options([["", "any"], ...used(key).map(k => [k, data.names[k]])]));
  }
  order.append(...options(Object.keys(ORDERS).map(name => [name, name])));
  group.value = (Object.entries(data.groups).find(([, rows]) => rows.length) || [ALL])[0];
}

function choose() {
  if (group.value === MARKED) chosen = data.images.filter(image => marks[image.row]);
  else if (group.value === ALL) chosen = [...data.images];
  else chosen = data.groups[group.value].map(k => data.images[k]);
  if (label.value) chosen = chosen.filter(image => image.label === Number(label.value));
  if (predicted.value) chosen = chosen.filter(image => image.predicted === Number(predicted.value));
  const key = ORDERS[order.value];
  if (key) {
    const last = value => value === null ? Infinity : value;
    const keyed = chosen.map(image => [last(key(image)), image]);
    keyed.sort((a, b) => a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : 0);
    chosen = keyed.map(([, image]) => image);
  }
  shown = 0;
  get("images").replaceChildren();
  showMore();
  count();
}

function showMore() {
  get("images").append(...chosen.slice(shown, shown + PAGE).map(card));
  shown = Math.min(chosen.length, shown + PAGE);
  get("more").hidden = shown === chosen.length;
  get("more").textContent = `Show more (${chosen.length - shown} left)`;
}

// Export -------------------------------------------------------------------------------------------------------------

function csv() {
  const quote = value => /[",\r\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : String(value);
  const rows = data.images.filter(image => marks[image.row]).sort((a, b) => a.row - b.row).map(image => {
    const [mark, target] = marks[image.row];
    return [image.path, data.classes[image.label], image.row, mark, target === null ? "" : data.classes[target]];
  });
  const table = [["x:image", "y:label", "datasource_index", "mark", "new_label"], ...rows];
  return table.map(row => row.map(quote).join(",") + "\n").join("");
}

// Names of files need not be UTF-8: each byte that is not lies in the text as a lone surrogate from U+DC80 on.
function encode(text) {
  return text.split(/([\udc80-\udcff])/u).map(part => /^[\udc80-\udcff]$/u.test(part)
    ? new Uint8Array([part.charCodeAt(0) - 0xdc00]) : new TextEncoder().encode(part));
}

function save() {
  const address = URL.createObjectURL(new Blob(encode(csv()), { type: "text/csv" }));
  make("a", { href: address, download: data.file }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

fillChoices();
choose();
for (const select of [group, label, predicted, order]) select.addEventListener("change", choose);
for (const event of ["storage", "pageshow"]) addEventListener(event, follow);   // pageshow: gone back to
get("more").addEventListener("click", showMore);
get("export").addEventListener("click", save);
get("large").addEventListener("keydown", onKey);
get("large").addEventListener("click", event => { if (event.target === get("large")) get("large").close(); });
