"use strict";
// The page of what `pages.py` hands over in #data: a verdict, facts, and sections of few kinds.
// Whatever comes from a checkpoint gets into the page as text nodes and labels alone.

const BLOCK = 40; // rows that are drawn, and left undrawn, together
const ROW = 34; // pixels of a row that was never drawn
const PRINTED = 5000; // rows of a table that are printed: a browser takes seconds a thousand
const LONG = 500; // letters of a name that is to be scrolled
const FIRST = 40; // children of a scope that are drawn before one asks for more
const natural = new Intl.Collator("en", { numeric: true }).compare;
const count = (number) => number.toLocaleString("en-US");

function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== null) made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

function size(bytes) {
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (bytes < 1000) return `${unit === "B" ? bytes : Number(bytes.toPrecision(3))} ${unit}`;
    bytes /= 1000;
  }
  return `${Number(bytes.toPrecision(3))} TB`;
}

/** Whole numbers as they are, others in four digits. */
function figure(value) {
  if (Number.isSafeInteger(value)) return count(value);
  const rounded = Number(value.toPrecision(4));
  return Math.abs(rounded) < 1e6 ? String(rounded) : rounded.toExponential();
}

/** Values over their range; bars are as high as their bins have values. */
function histogram({ low, high, counts }, isLarge) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const most = Math.max(...counts, 1);
  let path = "";
  counts.forEach((found, i) => {
    const height = found && Math.max((found / most) * 28, 0.7);
    if (found) path += `M${i} 30V${30 - height}H${i + 1}V30Z`;
  });
  const bars = document.createElementNS(svg.namespaceURI, "path");
  bars.setAttribute("d", path);
  svg.append(bars);
  svg.setAttribute("viewBox", `0 0 ${counts.length || 1} 30`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("class", isLarge ? "histogram large" : "histogram");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `Histogram of values from ${figure(low)} to ${figure(high)}`);
  return svg;
}

const counted = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;

/** A name, with what stands for several numbers set off, and places where it may be broken. */
function name(text, isFolded = false) {
  const isLong = text.length > LONG;
  const made = el("bdi", { class: isLong ? "name long" : "name", tabindex: isLong && "0" });
  const shown = text.replaceAll("\n", "\\n");
  // Thousands of parts take minutes to print.
  for (const part of isLong ? [shown] : shown.split(/((?<!\\)\{\d[\d.,]+\}|[/.])/)) {
    if (isFolded && /^\{.*\}$/.test(part)) made.append(el("span", { class: "range" }, part));
    else if (/^[/.]$/.test(part)) made.append(part, el("wbr"));
    else made.append(part);
  }
  return made;
}

const CELLS = {
  text: (value) => [value],
  type: (value) => [value],
  name: (value, isFolded) => [value].flat().map((each) => el("div", {}, name(each, isFolded))),
  tags: (value) => value.flatMap(([kind, text]) => [el("span", { class: `tag ${kind}` }, text), " "]),
  size: (value) => [size(value)],
  note: (value) => [text(value)],
  number: (value) => [typeof value === "number" ? figure(value) : value],
  histogram: (value) => [histogram(value, false)],
};

const lists = [];
let isPrinted = false;
const fit = () => lists.forEach((rows) => rows.fit());
addEventListener("scroll", () => requestAnimationFrame(fit), { passive: true });
addEventListener("resize", fit);
addEventListener("beforeprint", () => ((isPrinted = true), fit()));
addEventListener("afterprint", () => ((isPrinted = false), fit()));
new ResizeObserver(fit).observe(document.body); // what opens or closes moves the rest

/** Rows of which only those near what is seen are in the document; for printing, all that are printed. */
class Rows {
  constructor(table, columns, draw) {
    this.table = table;
    this.columns = columns;
    this.draw = draw;
    this.blocks = [];
    this.cut = table.createCaption(); // seen in print alone
    lists.push(this);
  }

  show(items) {
    const before = this.blocks.map((block) => block.height);
    for (const block of this.blocks) block.body.remove();
    this.blocks = [];
    const [printed, total] = [PRINTED, items.length].map(count);
    this.cut.hidden = items.length <= PRINTED;
    this.cut.textContent = `The first ${printed} of ${total} rows are printed: filter the page to print others`;
    for (let from = 0; from < items.length; from += BLOCK) {
      const part = items.slice(from, from + BLOCK);
      const height = before[this.blocks.length] ?? part.length * ROW;
      const block = { body: el("tbody"), part, from, height, isDrawn: null };
      this.blocks.push(block);
      this.table.append(block.body);
      this.leave(block);
    }
    this.fit();
  }

  leave(block) {
    if (block.isDrawn) block.height = block.body.getBoundingClientRect().height;
    const space = el("td", { colspan: this.columns });
    space.style.height = `${block.height}px`;
    block.body.replaceChildren(el("tr", { class: "space", "aria-hidden": "true" }, space));
    block.isDrawn = false;
  }

  isNear(block) {
    const { top, bottom } = block.body.getBoundingClientRect();
    return bottom > -innerHeight / 2 && top < innerHeight * 1.5;
  }

  fit() {
    if (this.table.closest("details:not([open])")) return;
    for (const block of this.blocks) {
      const isNear = isPrinted ? block.from < PRINTED : this.isNear(block); // not measured in print: slow
      if (isNear && !block.isDrawn) {
        block.body.replaceChildren(...block.part.map((item, i) => this.draw(item, block.from + i)));
        block.isDrawn = true;
      } else if (!isNear && block.isDrawn && !block.body.contains(document.activeElement)) {
        this.leave(block);
      }
    }
  }
}

/** A table that is folded, filtered and sorted. A group is a row for all of `rows`, or one row. */
function tableOf(section, id) {
  const { columns, groups, kinds } = section;
  const opened = new Set();
  const chosen = new Set();
  const state = { words: [], isFolded: true, sorted: null, isDown: false };
  const tagsAt = columns.findIndex((column) => column.kind === "tags");
  const histogramAt = columns.findIndex((column) => column.kind === "histogram");
  const all = groups.flatMap((group) => group.rows ?? [group]);
  const textOf = ({ cells }) => cells.flat(3).filter((v) => typeof v === "string").join("\n").toLowerCase();
  for (const group of groups) {
    const said = group.rows ? `${textOf(group)}\n` : ""; // a folded name finds all of its rows
    for (const row of group.rows ?? [group]) {
      row.isMember = group !== row;
      row.text = said + textOf(row);
      row.kinds = tagsAt < 0 ? [] : row.cells[tagsAt].map(([kind]) => kind);
    }
  }

  const table = el("table", { "aria-labelledby": id, class: "rows" });
  const rows = new Rows(table, columns.length, draw);
  const found = el("output", { class: "found", for: `${id}-filter` });

  function matches(row) {
    if (chosen.size && !row.kinds.some((kind) => chosen.has(kind))) return false;
    return state.words.every((word) => row.text.includes(word));
  }

  function value(cell) {
    if (cell && typeof cell === "object" && !Array.isArray(cell)) return 0;
    return Array.isArray(cell) ? cell.flat(3).join(" ") : cell;
  }

  function inOrder(list) {
    if (state.sorted === null) return list;
    const sign = state.isDown ? -1 : 1;
    const isNumber = ["size", "number"].includes(columns[state.sorted].kind);
    const key = (row) => value(row.cells[state.sorted]) ?? (isNumber ? -1 : "");
    return [...list].sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      return sign * (isNumber ? x - y : natural(String(x), String(y)));
    });
  }

  function update() {
    const items = [];
    let kept = 0;
    const add = (row) => {
      items.push({ row });
      if (opened.has(row)) items.push({ more: row });
    };
    const unfolded = state.isFolded ? groups : all;
    for (const group of inOrder(unfolded)) {
      const members = (group.rows ?? [group]).filter(matches);
      kept += members.length;
      if (!members.length) continue;
      if (!group.rows) add(group);
      else {
        items.push({ row: group, members });
        if (opened.has(group)) inOrder(members).forEach((row) => add(row));
      }
    }
    rows.show(items);
    table.setAttribute("aria-rowcount", items.length + 1);
    const total = count(all.length);
    found.textContent = kept === all.length ? counted(kept, "row") : `${count(kept)} of ${total} rows`;
  }

  function draw({ row, members, more }, index) {
    if (more) {
      const cell = el("td", { colspan: columns.length }, details(more.details, more.cells[histogramAt]));
      return el("tr", { class: "more" }, cell);
    }
    const made = el("tr", {
      "aria-rowindex": index + 2,
      class: row.rows ? "group" : state.isFolded && row.isMember ? "member" : null,
    });
    columns.forEach((column, at) => {
      const cell = el("td", { class: `is-${column.kind}` });
      const given = row.cells[at] ?? null;
      const shown = given === null ? [] : CELLS[column.kind](given, Boolean(row.rows));
      if (at || !(row.rows || row.details)) cell.append(...shown);
      else cell.append(el("div", { class: "first" }, toggle(row, members), el("div", {}, ...shown)));
      made.append(cell);
    });
    return made;
  }

  function toggle(row, members) {
    const total = row.rows?.length;
    const few = members && members.length < total ? `${members.length} of ` : "";
    const press = () => {
      if (!opened.delete(row)) opened.add(row);
      state.pressed = row;
      update();
      state.button.focus({ preventScroll: true });
    };
    const said = row.rows ? `${few}${total} rows folded into one` : "details";
    const label = `${said}: ${[row.cells[0]].flat().join(", ")}`;
    const button = el("button", {
      type: "button",
      class: "toggle",
      "aria-expanded": String(opened.has(row)),
      "aria-label": label,
      onclick: press,
    }, row.rows ? `×${few}${total}` : "");
    if (state.pressed === row) state.button = button;
    return button;
  }

  const head = el("tr");
  columns.forEach((column, at) => {
    const sort = () => {
      if (state.sorted !== at) Object.assign(state, { sorted: at, isDown: column.kind === "size" });
      else if (state.isDown === (column.kind === "size")) state.isDown = !state.isDown;
      else state.sorted = null;
      [...head.children].forEach((cell, i) => {
        if (i === state.sorted) {
          cell.setAttribute("aria-sort", state.isDown ? "descending" : "ascending");
        } else cell.removeAttribute("aria-sort");
      });
      update();
    };
    const button = el("button", { type: "button", onclick: sort }, column.label);
    head.append(el("th", { scope: "col", class: `is-${column.kind}` }, button));
  });
  table.append(el("thead", {}, head));

  const filter = el("input", {
    type: "search",
    id: `${id}-filter`,
    placeholder: "parts of names, shapes, types",
    spellcheck: "false",
    autocomplete: "off",
    oninput: () => {
      state.words = filter.value.toLowerCase().match(/\[[^\]]*\]?|\S+/g) ?? []; // [2, 3] is one
      update();
    },
  });
  const bar = el("div", { class: "bar" }, el("label", { for: filter.id }, "Filter"), filter);
  if (groups.some((group) => group.rows)) {
    const fold = el("input", {
      type: "checkbox",
      checked: true,
      autocomplete: "off", // or a browser restores it alone
      onchange: () => ((state.isFolded = fold.checked), update()),
    });
    bar.append(el("label", { class: "check" }, fold, "fold layers"));
  }
  bar.append(found);
  const legend = el("div", { class: "legend", role: "group", "aria-label": "Show only" });
  for (const [kind, label] of Object.entries(kinds ?? {})) {
    const having = all.filter((row) => row.kinds.includes(kind)).length;
    if (!having) continue;
    const press = (event) => {
      if (!chosen.delete(kind)) chosen.add(kind);
      event.currentTarget.setAttribute("aria-pressed", String(chosen.has(kind)));
      update();
    };
    legend.append(
      el("button", { type: "button", class: `tag ${kind}`, "aria-pressed": "false", onclick: press },
        `${label} `, el("span", { class: "count" }, count(having))),
    );
  }
  const made = [bar];
  if (legend.childElementCount > 1) made.push(legend);
  if (!all.length) return [el("p", { class: "quiet" }, "Nothing.")];
  queueMicrotask(update); // by then the table is in the page
  return [...made, table];
}

function details({ facts }, values) {
  const made = el("div", { class: "details" });
  if (values) {
    const [low, high] = [figure(values.low), figure(values.high)];
    const ends = el("div", { class: "ends" }, el("span", {}, low), el("span", {}, high));
    made.append(el("div", {}, histogram(values, true), ends));
  }
  made.append(factsOf(facts));
  return made;
}

function factsOf(facts) {
  const list = el("dl");
  for (const [label, value] of facts) {
    if (value === null) continue;
    const said = typeof value === "number" ? figure(value) : value;
    list.append(el("div", {}, el("dt", {}, label), el("dd", {}, text(said))));
  }
  return list;
}

/** Scopes with bars as long as their share of all bytes; of what is closed nothing is drawn. */
function treeOf({ leaves, separator }) {
  const scopeOf = (name) => ({ name, bytes: 0, values: 0, leaves: 0, others: 0, inner: new Map() });
  const root = scopeOf("");
  for (const [path, bytes, values, isOther] of leaves) {
    const parts = path.split(separator);
    const along = [root];
    parts.forEach((part, i) => {
      const { inner } = along[i];
      const key = i === parts.length - 1 ? `${part}\0` : part; // a leaf may be called like a scope
      if (!inner.has(key)) inner.set(key, scopeOf(part));
      along.push(inner.get(key));
    });
    for (const scope of along) {
      scope.bytes += bytes;
      scope.values += values;
      scope.leaves += 1;
      scope.others += isOther ? bytes : 0;
    }
  }

  function line(scope, label) {
    const percent = (bytes) => (root.bytes ? (100 * bytes) / root.bytes : 0);
    const bar = el("span", { class: "size-bar", "aria-hidden": "true" }, el("span"), el("span"));
    bar.children[0].style.width = `${percent(scope.bytes - scope.others)}%`;
    bar.children[1].style.width = `${percent(scope.others)}%`;
    const leaves = scope.inner.size ? ` ${count(scope.leaves)}` : "";
    return [
      el("span", { class: "label" }, name(label), el("span", { class: "quiet" }, leaves)),
      bar,
      el("span", { class: "quiet values" }, counted(scope.values, "value")),
      el("span", { class: "size" }, size(scope.bytes)),
      el("span", { class: "share" }, `${percent(scope.bytes).toFixed(1)} %`),
    ];
  }

  function children(scope, isOpen) {
    const inner = [...scope.inner.values()];
    inner.sort((a, b) => b.bytes - a.bytes || natural(a.name, b.name));
    const list = el("ul");
    const more = (most) => {
      const next = inner.splice(0, most).map((child) => el("li", {}, node(child, isOpen)));
      list.append(...next);
      return next[0];
    };
    const offer = () => {
      if (!inner.length) return;
      const press = (event) => {
        event.currentTarget.parentElement.remove();
        const first = more(500);
        offer();
        first.tabIndex = -1;
        first.focus({ preventScroll: true });
      };
      const label = `${count(inner.length)} more`;
      list.append(el("li", {}, el("button", { type: "button", onclick: press }, label)));
    };
    more(FIRST);
    offer();
    return list;
  }

  function node(scope, isOpen) {
    let label = scope.name;
    while (scope.inner.size === 1) {
      const [only] = scope.inner.values();
      label += separator + only.name;
      scope = only;
    }
    if (!scope.inner.size) return el("div", { class: "scope" }, ...line(scope, label));
    const made = el("details", { open: isOpen }, el("summary", { class: "scope" }, ...line(scope, label)));
    const open = () => made.open && made.childElementCount === 1 && made.append(children(scope, false));
    made.addEventListener("toggle", open);
    open();
    return made;
  }

  return [el("div", { class: "tree" }, children(root, root.inner.size <= 3))];
}

/** Causes with how many things they hold for, and these in a list that is drawn once it is opened. */
function groupsOf({ groups }) {
  return groups.map(({ cause, items, detail }) => {
    const single = items.length === 1 && items[0] === cause;
    if (single) return el("p", { class: "cause" }, text(cause));
    const title = el("summary", {}, el("span", { class: "count" }, count(items.length)), text(cause));
    const made = el("details", { class: "cause" }, title);
    made.addEventListener("toggle", () => {
      if (!made.open || made.childElementCount > 1) return;
      if (detail) made.append(el("p", { class: "detail" }, text(detail)));
      const table = el("table", { class: "rows plain" });
      made.append(table);
      new Rows(table, 1, (item) => el("tr", {}, el("td", {}, name(item)))).show(items);
    });
    return made;
  });
}

function text(value) {
  return el("bdi", { class: "text" }, value);
}

function listOf({ items }) {
  return [el("ul", { class: "plain" }, ...items.map((item) => el("li", {}, text(item))))];
}

function textOf({ text: value, isClosed }) {
  const made = el("pre", { tabindex: "0" }, value);
  return isClosed ? [el("details", {}, el("summary", {}, "Show"), made)] : [made];
}

const SECTIONS = { table: tableOf, tree: treeOf, groups: groupsOf, list: listOf, text: textOf };
const SAID = { good: "✓ OK", warn: "! To look at", bad: "✕ Failed" };

function draw({ command, subject, verdict, facts, sections, made }) {
  document.title = `${subject} · tfreader ${command}`;
  const page = document.getElementById("page");
  const links = el("nav", { "aria-label": "Sections" });
  page.replaceChildren(
    el("header", {},
      el("p", { class: "brand" }, `tfreader ${command}`),
      el("h1", {}, name(subject)),
      el("div", { class: `verdict ${verdict.state}`, role: "status" },
        el("strong", {}, SAID[verdict.state]), text(verdict.text)),
      factsOf(facts),
      links),
  );
  sections.forEach((section, i) => {
    const id = `section-${i}`;
    const title = el("h2", { id }, section.heading);
    if (section.remark) title.append(el("span", { class: "quiet" }, ` ${section.remark}`));
    const body = SECTIONS[section.type](section, id);
    page.append(el("section", { "aria-labelledby": id }, title, ...body));
    links.append(el("a", { href: `#${id}` }, section.heading));
  });
  page.append(el("footer", { class: "quiet" }, made));
}

draw(JSON.parse(document.getElementById("data").textContent));
