"use strict";
// The report's published numbers and its gallery: cards are built once from the page's own data, then filtered, sorted and switched between windows.
// Every string reaches the page as text (textContent), never as markup.
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const slices = JSON.parse(document.getElementById("slices").textContent);
  const control = (id) => document.getElementById(id);
  const gallery = control("gallery");

  function element(tag, className, text) {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text) node.textContent = text;
    return node;
  }

  function picture(source, className, alt) {
    const image = element("img", className);
    image.src = source;
    image.alt = alt;
    return image;
  }

  function rectangle(box, kind, title) {
    const rect = document.createElementNS(SVG, "rect");
    const [x1, y1, x2, y2] = box;
    for (const [name, value] of Object.entries({ x: x1 + 0.5, y: y1 + 0.5, width: x2 - x1, height: y2 - y1, class: kind })) {
      rect.setAttribute(name, value);
    }
    const label = document.createElementNS(SVG, "title");
    label.textContent = title;
    rect.append(label);
    return rect;
  }

  function overlay(slice) {
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", `0 0 ${slice.side} ${slice.side}`);
    for (const l of slice.lesions) svg.append(rectangle(l.box, "truth", `${l.type}, ${l.size}, ${l.found ? "found" : "missed"}`));
    for (const d of slice.detections) svg.append(rectangle(d.box, d.hit ? "hit" : "false", `score ${d.score}`));
    return svg;
  }

  function card(slice) {
    const node = element("article", "card");
    const stage = element("div", "stage");
    const base = picture(slice.windows[control("window").value], "base", slice.file_name);
    const marks = overlay(slice);
    const heat = slice.heat ? picture(slice.heat, "heat hidden", "mask heatmap") : null;
    stage.append(base, ...(heat ? [heat] : []), marks);
    const lesions = slice.lesions.map((l) => `${l.type} ${l.size}${l.found ? "" : " (missed)"}`).join("; ") || "no lesion annotated";
    const scores = slice.detections.map((d) => `${d.score}${d.hit ? "" : " ✗"}`).join(", ") || "none";
    node.append(stage, element("p", "", slice.file_name), element("p", "facts", lesions), element("p", "facts", `detections: ${scores}`));
    return { slice, node, base, marks, heat };
  }

  const cards = slices.map(card);

  function fill(id, values) {
    for (const value of [...new Set(values)].sort()) control(id).append(new Option(value, value));
  }
  fill("type", slices.flatMap((s) => s.lesions.map((l) => l.type)));
  fill("size", slices.flatMap((s) => s.lesions.map((l) => l.group)));

  const unfiltered = () => !control("type").value && !control("size").value; // then also slices without lesions
  // What is shown must hold for one and the same lesion: misses of type lung are slices where a lung lesion is missed.
  const wanted = {
    all: (s, fits) => s.lesions.some(fits) || unfiltered(),
    misses: (s, fits) => s.lesions.some((l) => !l.found && fits(l)),
    false: (s, fits) => s.detections.some((d) => !d.hit) && wanted.all(s, fits),
    hits: (s, fits) => s.lesions.some((l) => l.found && fits(l)),
  };
  const worst = (s) => Math.max(0, ...s.detections.filter((d) => !d.hit).map((d) => d.score));
  const misses = (s) => s.lesions.filter((l) => !l.found).length;
  const kinds = (s) => s.lesions.map((l) => l.type).sort()[0] ?? "\uffff"; // slices without lesions come last
  const sizes = (s) => s.lesions.map((l) => l.mm ?? 0);
  const order = {
    misses: (a, b) => misses(b) - misses(a),
    false: (a, b) => worst(b) - worst(a),
    kind: (a, b) => kinds(a).localeCompare(kinds(b)) || order.small(a, b),
    small: (a, b) => Math.min(Infinity, ...sizes(a)) - Math.min(Infinity, ...sizes(b)) || 0,
    large: (a, b) => Math.max(0, ...sizes(b)) - Math.max(0, ...sizes(a)),
    name: (a, b) => (a.file_name < b.file_name ? -1 : 1),
  };

  function arrange() {
    const type = control("type").value, size = control("size").value, show = control("show").value;
    const fits = (l) => (!type || l.type === type) && (!size || l.group === size);
    const visible = cards.filter((c) => wanted[show](c.slice, fits)).sort((a, b) => order[control("sort").value](a.slice, b.slice));
    gallery.replaceChildren(...visible.map((c) => c.node));
    control("count").textContent = `${visible.length} of ${cards.length} slices`;
  }

  function dress() {
    for (const c of cards) {
      c.base.src = c.slice.windows[control("window").value];
      c.marks.classList.toggle("hidden", !control("boxes").checked);
      if (c.heat) c.heat.classList.toggle("hidden", !control("heat").checked);
    }
  }

  for (const id of ["show", "type", "size", "sort"]) control(id).addEventListener("change", arrange);
  for (const id of ["window", "boxes", "heat"]) control(id).addEventListener("change", dress);
  control("published")?.addEventListener("change", ({ target }) => {
    for (const node of document.querySelectorAll(".plots .alone")) node.classList.toggle("hidden", target.checked);
    for (const node of document.querySelectorAll(".plots .beside")) node.classList.toggle("hidden", !target.checked);
  });
  control("heat").disabled = !slices.some((s) => s.heat);
  arrange();
})();
