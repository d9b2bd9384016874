"use strict";
// One tree of names. Only the rows in view are elements, so that one of ten thousand names is as quick as one of
// ten. Rows are numbers, from top to bottom; `leaf` of a row is -1 for a branch and -2 for one that folds others.
const [NAME, SIGN, ABOUT, COLOUR, TONE] = [0, 1, 2, 3, 4]; // fields of a mark
const [MARK, DETAIL, VISIT] = [2, 3, 4]; // fields of a link; 0 and 1 are the leaves of its sides
const LONGEST = 300; // characters of a name in a row
const narrow = matchMedia("(max-width: 40rem)");
const rowHeight = () => (narrow.matches ? 32 : 26);
const byId = (id) => document.getElementById(id);
const plural = (number, what) => `${number} ${what}${number === 1 ? "" : "s"}`;

function element(tag, properties, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties || {})) {
    if (name in made && name !== "list") made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

function sign(mark) {
  const shown = element("span", { className: `sign c${mark[COLOUR]} ${mark[TONE]}`, title: `${mark[NAME]}: ${mark[ABOUT]}` });
  shown.textContent = mark[SIGN];
  return shown;
}

function marksIn(bits, count) {
  const numbers = [];
  for (let number = count - 1; number >= 0; number--) if (bits & (1 << number)) numbers.push(number);
  return numbers; // the last marks are the problems: they come first
}

function highlighted(name, words) {
  const text = name.length > LONGEST ? `${name.slice(0, LONGEST)}…` : name, lower = text.toLowerCase(), parts = [];
  let at = 0;
  while (at < text.length && lower.length === text.length) {
    let next = -1, length = 0;
    for (const word of words) {
      const place = lower.indexOf(word, at);
      if (place >= 0 && (next < 0 || place < next)) [next, length] = [place, word.length];
    }
    if (next < 0) break;
    parts.push(text.slice(at, next), element("mark", { textContent: text.slice(next, next + length) }));
    at = next + length;
  }
  parts.push(text.slice(at));
  return parts;
}

class TreeView {
  constructor(side, page) {
    Object.assign(this, page.sides[side]);
    this.side = side;
    this.page = page;
    this.view = byId(`tree${side}`);
    this.rows = this.view.firstElementChild;
    byId(`title${side}`).textContent = `${this.title}, ${plural(this.full.length, "tensor")}`;
    const size = this.name.length;
    this.size = size;
    this.parent = new Int32Array(size).fill(-1);
    this.end = new Int32Array(size); // the row after the last one below each row
    this.rowOf = new Int32Array(this.full.length);
    this.place = new Int32Array(size); // where in `visible` a row is, or the row that hides it; -1: nowhere
    this.among = new Int32Array(size); // which of its siblings a row is
    this.siblings = new Int32Array(size + 1); // how many rows are directly below a row; the last: at the top
    this.bits = new Int32Array(size); // marks of all leaves below
    this.leaves = new Int32Array(size);
    this.bad = new Int32Array(size);
    this.linksOf = this.full.map(() => []);
    this.lower = this.full.map((name) => name.toLowerCase());
    const above = [];
    for (let row = 0; row < size; row++) {
      while (above.length && this.depth[above.at(-1)] >= this.depth[row]) this.end[above.pop()] = row;
      this.parent[row] = above.length ? above.at(-1) : -1;
      this.among[row] = ++this.siblings[above.length ? above.at(-1) : size];
      above.push(row);
      const leaf = this.leaf[row];
      if (leaf < 0) continue;
      this.rowOf[leaf] = row;
      this.bits[row] = 1 << this.mark[leaf];
      this.leaves[row] = 1;
      this.bad[row] = this.page.marks[this.mark[leaf]][TONE] === "bad" ? 1 : 0;
    }
    while (above.length) this.end[above.pop()] = size;
    for (let row = size - 1; row >= 0; row--) {
      const up = this.parent[row];
      if (up < 0) continue;
      this.bits[up] |= this.bits[row];
      this.leaves[up] += this.leaves[row];
      this.bad[up] += this.bad[row];
    }
    this.usual = new Uint8Array(size); // what is open while nothing is searched for
    this.open = this.usual;
    this.shown = null;
    this.active = 0;
    // Who opens a fold sees the first of its members open as well.
    for (let row = 0; row < size; row++) if (this.leaf[row] === -2) this.usual[row + 1] = 1;
  }

  isBranch(row) {
    return this.leaf[row] < 0;
  }

  layout() {
    this.visible = [];
    for (let row = 0; row < this.size; ) {
      if (this.shown && !this.shown[row]) {
        this.place.fill(-1, row, this.end[row]);
        row = this.end[row];
        continue;
      }
      this.place[row] = this.visible.length;
      this.visible.push(row);
      if (this.isBranch(row) && !this.open[row]) {
        this.place.fill(this.visible.length - 1, row, this.end[row]);
        row = this.end[row];
      } else row++;
    }
    this.rows.style.height = `${this.visible.length * rowHeight()}px`;
    if (this.place[this.active] < 0) this.active = this.visible[0] ?? 0;
    else this.active = this.visible[this.place[this.active]];
  }

  draw() {
    const height = rowHeight(), from = Math.max(0, Math.floor(this.view.scrollTop / height) - 4);
    const to = Math.min(this.visible.length, Math.ceil((this.view.scrollTop + this.view.clientHeight) / height) + 4);
    const made = [];
    for (let index = from; index < to; index++) made.push(this.element(this.visible[index], index * height));
    this.rows.replaceChildren(...made);
    const id = `row${this.side}-${this.active}`;
    if (made.some((row) => row.id === id)) this.view.setAttribute("aria-activedescendant", id);
    else this.view.removeAttribute("aria-activedescendant");
  }

  element(row, top) {
    const leaf = this.leaf[row], branch = leaf < 0;
    const chosen = this.page.chosen && this.page.chosen.side === this.side && this.page.chosen.row === row;
    const classes = ["row", branch ? (leaf === -2 ? "fold" : "branch") : "leaf"];
    if (row === this.active) classes.push("active");
    if (this.page.linked[this.side].has(this.place[row])) classes.push("linked");
    const made = element("div", { className: classes.join(" "), id: `row${this.side}-${row}` });
    made.dataset.row = row;
    made.style.transform = `translateY(${top}px)`;
    const attributes = {
      role: "treeitem", "aria-level": this.depth[row] + 1, "aria-posinset": this.among[row],
      "aria-setsize": this.siblings[this.parent[row] < 0 ? this.size : this.parent[row]],
      "aria-selected": Boolean(chosen), "aria-label": this.label(row),
    };
    if (branch) attributes["aria-expanded"] = Boolean(this.open[row]);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    const turn = element("span", { className: "turn" });
    if (branch) turn.append(element("span", { textContent: "▶" }));
    turn.style.marginLeft = `${Math.min(this.depth[row], 12) * (narrow.matches ? 10 : 14)}px`;
    const name = element("span", { className: "name", title: branch ? this.name[row] : this.full[leaf].slice(0, 2000) });
    name.append(...highlighted(this.name[row], this.page.words));
    const parts = [turn, name];
    if (leaf === -2) parts.push(element("span", { className: "times", textContent: `× ${this.siblings[row]}` }));
    if (branch && !this.open[row]) {
      parts.push(element("span", { className: "info", textContent: plural(this.leaves[row], "tensor") }));
    } else if (branch) parts.push(element("span", { className: "info" }));
    else parts.push(element("span", { className: "info", textContent: this.infos[this.info[leaf]] }));
    const signs = element("span", { className: "signs" });
    if (!branch || !this.open[row]) signs.append(...marksIn(this.bits[row], this.page.marks.length).slice(0, 4).map((number) => sign(this.page.marks[number])));
    if (this.side === 0) made.append(...parts, signs);
    else made.append(signs, ...parts);
    return made;
  }

  label(row) {
    const leaf = this.leaf[row], words = [this.name[row].slice(0, LONGEST)];
    if (leaf === -2) words.push(`${this.siblings[row]} alike`);
    if (leaf < 0) words.push(plural(this.leaves[row], "tensor"));
    else words.push(this.infos[this.info[leaf]]);
    words.push(...marksIn(this.bits[row], this.page.marks.length).map((number) => this.page.marks[number][NAME]));
    if (leaf >= 0) {
      const other = this.page.trees[1 - this.side];
      const partners = this.linksOf[leaf].flatMap((link) => link[1 - this.side]).map((one) => other.full[one]);
      if (partners.length) words.push(`${this.side ? "from" : "to"} ${partners[0].slice(0, LONGEST)}`);
      if (partners.length > 1) words.push(`and ${partners.length - 1} more`);
    }
    return words.join(", ");
  }

  reveal(row, middle = false) {
    const height = rowHeight(), top = this.place[row] * height, view = this.view;
    if (!middle && top >= view.scrollTop && top + height <= view.scrollTop + view.clientHeight) return;
    if (middle) view.scrollTop = top - view.clientHeight / 2;
    else if (top < view.scrollTop) view.scrollTop = top;
    else view.scrollTop = top + height - view.clientHeight;
  }

  inView(place) {
    const top = place * rowHeight();
    return top + rowHeight() > this.view.scrollTop && top < this.view.scrollTop + this.view.clientHeight;
  }

  linksBelow(row) {
    const below = [], visit = ++this.page.visits; // a number on each link is quicker than a set of links
    for (let one = row; one < this.end[row]; one++) {
      if (this.leaf[one] < 0) continue;
      for (const link of this.linksOf[this.leaf[one]]) {
        if (link[VISIT] === visit) continue;
        link[VISIT] = visit;
        below.push(link);
      }
    }
    return below;
  }
}
