// The lines between the two trees: one for each pair of rows with leaves that belong together, folded ones included.
const MOST_LINES = 1000; // of one link; beyond that its rows are joined through the first ones

function findEdges(links, trees) {
  const edges = new Map();
  const [left, right] = trees;
  const add = (a, b, mark) => {
    if (a < 0 || b < 0) return;
    const id = a * 4194304 + b, known = edges.get(id);
    if (!known) edges.set(id, { a, b, mark, number: 1 });
    else {
      known.number++;
      if (mark > known.mark) known.mark = mark;
    }
  };
  for (const link of links) {
    if (link[0].length === 1 && link[1].length === 1) {
      add(left.place[left.rowOf[link[0][0]]], right.place[right.rowOf[link[1][0]]], link[MARK]);
      continue;
    }
    const ends = trees.map((tree, side) => new Set(link[side].map((leaf) => tree.place[tree.rowOf[leaf]])));
    const [[first], [other]] = ends, all = ends[0].size * ends[1].size <= MOST_LINES;
    for (const a of ends[0]) for (const b of all ? ends[1] : [other]) add(a, b, link[MARK]);
    for (const b of all ? [] : ends[1]) add(first, b, link[MARK]);
  }
  return [...edges.values()];
}

function drawLines(svg, { trees, edges, marks }, belongs) {
  const width = svg.clientWidth, height = svg.clientHeight, step = rowHeight(), drawn = [];
  if (!width) return svg.replaceChildren();
  const clamp = (y) => Math.max(-60, Math.min(height + 60, y));
  const [top, otherTop] = trees.map((tree) => tree.view.scrollTop - step / 2 - 1);
  let anyOn = false;
  for (const edge of edges) {
    const y = edge.a * step - top, otherY = edge.b * step - otherTop;
    if ((y < 0 || y > height) && (otherY < 0 || otherY > height)) continue;
    const from = clamp(y), to = clamp(otherY), mark = marks[edge.mark];
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    const on = belongs(edge);
    anyOn ||= on;
    path.setAttribute("class", `c${mark[COLOUR]} ${mark[TONE]}${edge.number > 1 ? " many" : ""}${on ? " on" : ""}`);
    path.setAttribute("d", `M0 ${from}C${width * 0.5} ${from} ${width * 0.5} ${to} ${width} ${to}`);
    drawn.push(path);
  }
  svg.classList.toggle("chosen", anyOn);
  svg.replaceChildren(...drawn);
}
