const span = 60_000; // ms that the chart shows
const frame = { top: 22, right: 8, bottom: 22, left: 40 }; // px around the lines, for their labels

function make(parent, name, attributes = {}, text = "") {
  const e = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) e.setAttribute(key, value);
  e.textContent = text;
  parent.append(e);
  return e;
}

// Chart draws how long answers took, as they come in from the right.
export class Chart {
  #svg;
  #samples = []; // { at, took }, in order
  #marks = []; // { at, e }
  #failures = [];
  #ceiling = 0; // ms at the top
  #width = 0;
  #height = 0;

  constructor(svg) {
    this.#svg = svg;
    new ResizeObserver(() => this.#measure()).observe(svg);
    this.#measure();
  }

  add(at, took) {
    this.#samples.push({ at, took });
  }

  mark(at, generation) {
    const e = make(this.#part("marks"), "g", { class: "mark" });
    make(e, "line", { y1: frame.top, y2: this.#floor });
    make(e, "text", { y: frame.top - 8, "text-anchor": "middle" }, generation);
    make(e, "title", {}, `generation ${generation}`);
    this.#marks.push({ at, e });
  }

  fail(at) {
    this.#failures.push({ at, e: make(this.#part("failures"), "circle", { cy: frame.top, r: 4 }) });
  }

  draw(now) {
    this.#forget(now - span);
    this.#scale();
    const x = (at) => frame.left + (1 - (now - at) / span) * (this.#width - frame.left - frame.right);
    const points = this.#samples.map((s) => `${x(s.at).toFixed(1)},${this.#y(s.took).toFixed(1)}`);
    this.#part("line").setAttribute("d", points.length > 0 ? `M${points.join("L")}` : "");
    for (const { at, e } of [...this.#marks, ...this.#failures]) e.setAttribute("transform", `translate(${x(at).toFixed(1)})`);
  }

  get #floor() {
    return this.#height - frame.bottom;
  }

  #part(id) {
    return this.#svg.querySelector(`#${id}`);
  }

  #y(took) {
    return this.#floor - (took / this.#ceiling) * (this.#floor - frame.top);
  }

  // forget drops what has left the chart.
  #forget(before) {
    const old = (list) => list.length > 0 && list[0].at < before;
    while (old(this.#samples)) this.#samples.shift();
    for (const list of [this.#marks, this.#failures]) {
      while (old(list)) list.shift().e.remove();
    }
  }

  // scale chooses a round number for the top, and draws the grid anew if it is another one.
  #scale() {
    const highest = Math.max(4, ...this.#samples.map((s) => s.took));
    const unit = 10 ** Math.floor(Math.log10(highest));
    const ceiling = [1, 2, 4, 10].map((n) => n * unit).find((n) => n >= highest);
    if (ceiling === this.#ceiling) return;
    this.#ceiling = ceiling;
    this.#drawGrid();
  }

  #measure() {
    const { width, height } = this.#svg.getBoundingClientRect();
    [this.#width, this.#height] = [width, height];
    this.#svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    for (const { e } of this.#marks) e.querySelector("line").setAttribute("y2", this.#floor);
    if (this.#ceiling > 0) this.#drawGrid();
    this.draw(performance.now());
  }

  #drawGrid() {
    const grid = this.#part("grid");
    grid.replaceChildren();
    const right = this.#width - frame.right;
    for (const part of [0, 0.25, 0.5, 0.75, 1]) {
      const y = this.#y(part * this.#ceiling);
      make(grid, "line", { x1: frame.left, x2: right, y1: y, y2: y });
      make(grid, "text", { x: frame.left - 8, y: y + 4, "text-anchor": "end" }, `${part * this.#ceiling}`);
    }
    const middle = (frame.left + right) / 2;
    for (const [x, anchor, text] of [[frame.left, "start", "60 s ago"], [middle, "middle", "30 s"], [right, "end", "now"]]) {
      make(grid, "text", { x, y: this.#height - 4, "text-anchor": anchor }, text);
    }
  }
}
