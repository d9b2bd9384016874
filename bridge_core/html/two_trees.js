// Two trees of names, the lines between them, a search over both, and what is known about the chosen row.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const FIRST_ROWS = 34; // rows that are open at first, at most
  const { marks, links, details } = data;

  const state = {
    ...data,
    trees: [],
    words: [], // what is searched for
    only: new Set(), // marks to which the trees are reduced
    chosen: null,
    linked: [new Set(), new Set()], // places of the rows that belong to the chosen one
    edges: [],
    visits: 0,
  };
  const { trees } = state;
  trees.push(new TreeView(0, state), new TreeView(1, state));
  for (const link of links) {
    link.push(0);
    for (const side of [0, 1]) for (const leaf of link[side]) trees[side].linksOf[leaf].push(link);
  }

  const svg = byId("lines");
  function draw() {
    for (const tree of trees) tree.draw();
    drawLines(svg, state, belongs);
  }

  let waiting = false;
  function drawSoon() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      draw();
    });
  }

  function layout() {
    for (const tree of trees) tree.layout();
    state.edges = findEdges(links, trees);
    markLinked();
  }

  // Whether a line begins at the chosen row or at one below it.
  function belongs(edge) {
    if (!state.chosen) return false;
    const { side, row } = state.chosen, tree = trees[side], place = side ? edge.b : edge.a;
    return tree.visible[place] >= row && tree.visible[place] < tree.end[row];
  }

  function markLinked() {
    state.linked = [new Set(), new Set()];
    if (!state.chosen) return;
    const { side, row } = state.chosen, tree = trees[side], other = trees[1 - side];
    const pair = tree.isBranch(row) ? counterpart(tree, row) : -1;
    if (pair >= 0 && other.place[pair] >= 0) state.linked[other.side].add(other.place[pair]);
    for (const edge of state.edges) if (belongs(edge)) state.linked[other.side].add(side ? edge.a : edge.b);
  }

  // The smallest row of the other side that has everything that belongs to a row.
  function counterpart(tree, row) {
    const other = trees[1 - tree.side], below = tree.linksBelow(row);
    let low = Infinity, high = -1;
    for (const link of below) {
      for (const leaf of link[other.side]) {
        low = Math.min(low, other.rowOf[leaf]);
        high = Math.max(high, other.rowOf[leaf]);
      }
    }
    if (high < 0) return -1;
    while (low >= 0 && other.end[low] <= high) low = other.parent[low];
    return low >= 0 && other.linksBelow(low).length === below.length ? low : -1;
  }

  function setOpen(tree, row, open) {
    const other = trees[1 - tree.side], pair = counterpart(tree, row);
    tree.open[row] = open ? 1 : 0;
    if (pair < 0 || !other.isBranch(pair)) return;
    other.open[pair] = open ? 1 : 0;
    if (open) for (let up = other.parent[pair]; up >= 0; up = other.parent[up]) other.open[up] = 1;
  }

  function toggle(tree, row, open = !tree.open[row]) {
    setOpen(tree, row, open);
    layout();
    if (open) { // what was opened comes into view, as far as there is room
      const page = Math.floor(tree.view.clientHeight / rowHeight()) - 1, last = tree.place[row] + tree.siblings[row];
      tree.reveal(tree.visible[Math.min(last, tree.place[row] + page, tree.visible.length - 1)]);
      tree.reveal(row);
    }
    draw();
  }

  function choose(tree, row, { middle = false } = {}) {
    tree.active = row;
    state.chosen = { side: tree.side, row };
    markLinked();
    tree.reveal(row, middle);
    const other = trees[1 - tree.side], places = [...state.linked[other.side]];
    if (places.length && !places.some((place) => other.inView(place))) other.reveal(other.visible[Math.min(...places)], true);
    showDetail();
    draw();
  }

  function goTo(side, leaf) {
    const tree = trees[side], row = tree.rowOf[leaf];
    if (tree.shown && !tree.shown[row]) clearFilter();
    for (let up = tree.parent[row]; up >= 0; up = tree.parent[up]) if (!tree.open[up]) setOpen(tree, up, true);
    layout();
    choose(tree, row, { middle: true });
    tree.view.focus({ preventScroll: true });
    tree.view.scrollIntoView({ block: "nearest" });
  }

  function chooseNone() {
    state.chosen = null;
    markLinked();
    showDetail();
    draw();
  }

  const detail = byId("detail");
  function names(side, leaves) {
    const list = element("ul", { className: "names" }), tree = trees[side];
    for (const leaf of leaves.slice(0, 50)) {
      const button = element("button", { type: "button" });
      button.dataset.side = side;
      button.dataset.leaf = leaf;
      button.append(element("bdi", { dir: "ltr", textContent: tree.full[leaf] }));
      list.append(element("li", {}, button, element("span", { className: "info", textContent: tree.infos[tree.info[leaf]] })));
    }
    if (leaves.length > 50) list.append(element("li", { textContent: `and ${leaves.length - 50} more` }));
    return list;
  }

  function terms(number) {
    return details[number].flatMap(([term, texts]) => [
      element("h3", { textContent: term }),
      texts.length === 1 ? element("p", { textContent: texts[0] })
        : element("ol", {}, ...texts.map((text) => element("li", { textContent: text }))),
    ]);
  }

  function markText(number) {
    const mark = marks[number];
    return element("p", { className: "what" }, sign(marks[number]), element("span", { textContent: `${mark[NAME]}: ${mark[ABOUT]}` }));
  }

  function showDetail() {
    detail.classList.toggle("empty", !state.chosen);
    if (!state.chosen) {
      const text = "Choose a row to see what happens to its tensors. A line joins what belongs together; a thick line stands for several.";
      return detail.replaceChildren(element("p", { className: "soft", textContent: text }));
    }
    const { side, row } = state.chosen, tree = trees[side], leaf = tree.leaf[row], parts = [];
    const heading = (text) => element("h3", { textContent: text });
    if (leaf < 0) {
      const counts = new Map();
      for (let one = row; one < tree.end[row]; one++) {
        if (tree.leaf[one] < 0) continue;
        const mark = tree.mark[tree.leaf[one]];
        counts.set(mark, (counts.get(mark) || 0) + 1);
      }
      parts.push(heading(tree.title), element("p", {}, element("bdi", { dir: "ltr", textContent: tree.name[row] })));
      const folded = tree.leaf[row] === -2 ? `${plural(tree.siblings[row], "part")} with the same names, shapes and evidence; ` : "";
      parts.push(element("p", { className: "soft", textContent: `${folded}${plural(tree.leaves[row], "tensor")}` }));
      for (const number of [...counts.keys()].sort((a, b) => b - a)) {
        parts.push(element("p", { className: "what" }, sign(marks[number]), `${counts.get(number)} ${marks[number][NAME]}`));
      }
    } else if (!tree.linksOf[leaf].length) {
      parts.push(heading(tree.title), names(side, [leaf]), markText(tree.mark[leaf]), ...terms(tree.detail[leaf]));
    } else {
      for (const link of tree.linksOf[leaf]) {
        if (link[0].length) parts.push(heading(trees[0].title), names(0, link[0]));
        parts.push(...terms(link[DETAIL]));
        if (link[1].length) parts.push(heading(trees[1].title), names(1, link[1]));
        parts.push(heading("Decided by"), markText(link[MARK]));
      }
      parts.push(...terms(tree.detail[leaf]));
    }
    const close = element("button", { type: "button", className: "close", textContent: "Close" });
    close.addEventListener("click", () => {
      chooseNone();
      tree.view.focus({ preventScroll: true });
    });
    detail.replaceChildren(close, ...parts);
    detail.scrollTop = 0;
  }

  // Search and filter: a leaf is shown if it matches, or if what belongs to it matches.
  const search = byId("search"), found = byId("found");
  function filter() {
    state.words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const active = state.words.length > 0 || state.only.size > 0;
    const hits = trees.map((tree) => new Uint8Array(tree.full.length));
    if (active) for (const tree of trees) hits[tree.side].forEach((_, leaf, list) => (list[leaf] = matches(tree, leaf)));
    const shown = hits.map((list) => list.slice());
    for (const link of active ? links : []) {
      for (const side of [0, 1]) {
        if (link[side].some((leaf) => hits[side][leaf])) for (const leaf of link[1 - side]) shown[1 - side][leaf] = 1;
      }
    }
    for (const tree of trees) {
      if (!active) {
        tree.shown = null;
        tree.open = tree.usual;
        continue;
      }
      tree.shown = new Uint8Array(tree.size);
      tree.open = new Uint8Array(tree.size).fill(1);
      for (let row = tree.size - 1; row >= 0; row--) {
        if (tree.leaf[row] >= 0) tree.shown[row] = shown[tree.side][tree.leaf[row]];
        if (tree.shown[row] && tree.parent[row] >= 0) tree.shown[tree.parent[row]] = 1;
      }
    }
    found.textContent = active ? hits.map((list) => list.reduce((sum, hit) => sum + hit, 0)).join(" and ") + " found" : "";
    layout();
    for (const tree of trees) if (active) tree.view.scrollTop = 0;
    draw();
  }

  function matches(tree, leaf) {
    if (!state.words.every((word) => tree.lower[leaf].includes(word))) return false;
    if (!state.only.size || state.only.has(tree.mark[leaf])) return true;
    return tree.linksOf[leaf].some((link) => state.only.has(link[MARK]));
  }

  function clearFilter() {
    search.value = "";
    state.only.clear();
    for (const button of byId("legend").children) button.setAttribute("aria-pressed", "false");
    filter();
  }

  function key(event, tree) {
    const row = tree.active, place = tree.place[row], page = Math.max(1, Math.floor(tree.view.clientHeight / rowHeight()) - 1);
    const to = (index) => {
      const next = tree.visible[Math.max(0, Math.min(tree.visible.length - 1, index))];
      if (next !== undefined) choose(tree, next);
    };
    if (event.ctrlKey || event.metaKey || event.altKey || !tree.visible.length) return;
    const open = tree.isBranch(row) && tree.open[row];
    switch (event.key) {
      case "ArrowDown": to(place + 1); break;
      case "ArrowUp": to(place - 1); break;
      case "Home": to(0); break;
      case "End": to(tree.visible.length - 1); break;
      case "PageDown": to(place + page); break;
      case "PageUp": to(place - page); break;
      case "ArrowRight":
        if (open) to(place + 1);
        else if (tree.isBranch(row)) toggle(tree, row, true);
        break;
      case "ArrowLeft":
        if (open) toggle(tree, row, false);
        else if (tree.parent[row] >= 0) to(tree.place[tree.parent[row]]);
        break;
      case " ": case "Enter": {
        if (tree.isBranch(row)) {
          toggle(tree, row);
          choose(tree, row);
          break;
        }
        choose(tree, row);
        const partner = tree.linksOf[tree.leaf[row]].map((link) => link[1 - tree.side]).find((list) => list.length);
        if (event.key === "Enter" && partner) goTo(1 - tree.side, partner[0]);
        break;
      }
      default: return;
    }
    event.preventDefault();
  }

  for (const tree of trees) {
    tree.view.addEventListener("scroll", drawSoon, { passive: true });
    tree.view.addEventListener("keydown", (event) => key(event, tree));
    tree.view.addEventListener("click", (event) => {
      const shown = event.target.closest(".row");
      if (!shown) return;
      const row = Number(shown.dataset.row);
      if (tree.isBranch(row)) toggle(tree, row);
      choose(tree, row);
    });
  }

  marks.forEach((mark, number) => {
    const count = (side) => trees[side].mark.filter((one) => one === number).length;
    const counts = [count(0), count(1)];
    if (!counts[0] && !counts[1]) return;
    const total = [...new Set(counts.filter(Boolean))].join(" → ");
    const spoken = `${mark[NAME]}: ${counts[0]} on the left, ${counts[1]} on the right. ${mark[ABOUT]}`;
    const button = element("button", { type: "button", className: `c${mark[COLOUR]}`, title: spoken, "aria-label": spoken }, sign(marks[number]), mark[NAME]);
    button.append(element("span", { className: "number", textContent: total }));
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", () => {
      if (!state.only.delete(number)) state.only.add(number);
      button.setAttribute("aria-pressed", String(state.only.has(number)));
      filter();
    });
    byId("legend").append(button);
  });

  search.addEventListener("input", filter);
  search.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== "ArrowDown") return;
    const tree = trees.find((one) => one.visible.length) || trees[0];
    tree.view.focus({ preventScroll: true });
    const first = tree.visible.find((row) => tree.leaf[row] >= 0);
    if (first !== undefined) choose(tree, first);
    event.preventDefault();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && event.target !== search && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      search.focus();
      search.select();
    } else if (event.key === "Escape") {
      if (state.words.length || state.only.size) clearFilter();
      else chooseNone();
      if (event.target === search) trees[0].view.focus({ preventScroll: true });
      event.preventDefault();
    }
  });
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-leaf]");
    if (button) goTo(Number(button.dataset.side), Number(button.dataset.leaf));
  });
  const openAll = (open) => {
    for (const tree of trees) {
      tree.open.fill(open ? 1 : 0);
      for (let row = 0; !open && row < tree.size; row++) if (tree.leaf[row] === -2) tree.open[row + 1] = 1;
    }
    layout();
    draw();
  };
  byId("open").addEventListener("click", () => openAll(true));
  byId("fold").addEventListener("click", () => openAll(false));
  new ResizeObserver(drawSoon).observe(byId("trees"));
  narrow.addEventListener("change", () => {
    layout();
    draw();
  });

  // At first, level after level is open as long as it fits; folded rows stay folded.
  for (let level = 0; level < 12; level++) {
    const opened = trees.map((tree) => tree.open.slice());
    for (const tree of trees) {
      for (let row = 0; row < tree.size; row++) {
        if (tree.leaf[row] === -2) row = tree.end[row] - 1;
        else if (tree.depth[row] === level && tree.isBranch(row)) tree.open[row] = 1;
      }
      tree.layout();
    }
    if (trees.every((tree) => tree.visible.length <= FIRST_ROWS)) continue;
    trees.forEach((tree, side) => tree.open.set(opened[side]));
    break;
  }
  layout();
  showDetail();
  draw();
})();
