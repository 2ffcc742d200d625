/* The explorer: two maps of one picture, their scores, and what the network sees while pixels go in the order of each map.
   Plain script. It reads what the notebook 07_explorer wrote, as scripts: a page opened from a file may fetch nothing. */
(function () {
  "use strict";
  const FOLDER = "files/07_explorer/";
  const SIDES = ["left", "right"];
  const LETTER = { left: "a", right: "b" };
  const data = window.XAI_REPRO_EXPLORER;
  const at = (name) => document.getElementById("xe-" + name);
  if (!data) {
    at("absent").textContent = "There is nothing to explore yet: " + FOLDER + "data.js is missing. It is written by: xai-repro run 07";
    return;
  }
  at("absent").hidden = true;
  document.getElementById("xe").hidden = false;

  const COLOURS = Object.fromEntries(Object.entries(data.colours).map(([name, digits]) => [name, digits.match(/../g).map((two) => parseInt(two, 16))]));
  let asked = 0; // which choice is the last, while files arrive
  let now = null; // what is shown: the picture, the class, the case, the planes of both maps

  // -- from files to pixels -----------------------------------------------------------------------------------------

  async function loaded(file) {
    if (!data.cases[file]) {
      await new Promise((done, failed) => {
        const script = document.createElement("script");
        Object.assign(script, { src: FOLDER + file, onload: done, onerror: () => failed(new Error(FOLDER + file + " is missing")) });
        document.head.append(script);
      });
    }
    return data.cases[file];
  }

  async function image(address) {
    const one = new Image();
    one.src = address;
    await one.decode();
    return one;
  }

  function pixels(one, top, width, height) {
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(one, 0, top, width, height, 0, 0, width, height);
    return context.getImageData(0, 0, width, height).data;
  }

  // A method's row of the sprite: its map at the left, at the right the point of the curves from which a pixel is replaced.
  function planes(sprite, row, width, height) {
    const both = pixels(sprite, row * height, 2 * width, height);
    const map = new Uint8Array(width * height);
    const going = new Uint8Array(width * height);
    for (let i = 0; i < map.length; i++) {
      const place = 4 * (2 * width * Math.floor(i / width) + (i % width));
      map[i] = both[place];
      going[i] = both[place + 4 * width];
    }
    return { map, going };
  }

  function paint(canvas, width, height, colour) {
    Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d");
    const out = context.createImageData(width, height);
    for (let i = 0; i < width * height; i++) {
      out.data.set(colour(i), 4 * i);
      out.data[4 * i + 3] = 255;
    }
    context.putImageData(out, 0, 0);
  }

  function paintMap(canvas, method, map, photo, width, height) {
    const signed = data.signed.includes(method);
    const table = COLOURS[signed ? "signed" : "heat"];
    paint(canvas, width, height, (i) => {
      const grey = 0.299 * photo[4 * i] + 0.587 * photo[4 * i + 1] + 0.114 * photo[4 * i + 2];
      const share = 0.25 + (0.6 * map[i]) / 255;
      const mixed = signed ? (one) => one * (0.55 + (0.45 * grey) / 255) : (one) => (1 - share) * grey + share * one;
      return table.slice(3 * map[i], 3 * map[i] + 3).map(mixed);
    });
  }

  // -- what is said -------------------------------------------------------------------------------------------------

  const text = (value) => (value === null ? "\u2013" : value.toFixed(3));
  const per = (share) => Math.round(100 * share) + " %";
  const cleared = (element) => (element.replaceChildren(), element);

  function option(name) {
    return new Option(name, name);
  }

  // Fill a choice with names, or with groups of names; what was chosen stays chosen where it is still there.
  function fill(select, groups, wanted) {
    const before = select.value;
    cleared(select);
    for (const [label, names] of groups) {
      const place = label ? select.appendChild(Object.assign(document.createElement("optgroup"), { label })) : select;
      place.append(...names.map(option));
    }
    const names = groups.flatMap(([, group]) => group);
    select.value = [before, wanted].find((name) => names.includes(name)) || names[0];
  }

  function families(methods) {
    return data.families.map(([title, names]) => [title, names.filter((name) => methods.includes(name))]).filter(([, names]) => names.length);
  }

  function cell(kind, content, letter) {
    const one = document.createElement(kind);
    one.append(content);
    if (kind === "th") one.scope = "row";
    if (letter) one.className = "xe-text-" + letter;
    return one;
  }

  function bold(content) {
    const one = document.createElement("strong");
    one.append(content);
    return one;
  }

  function showScores() {
    const rows = cleared(at("scores"));
    const said = { left: [], right: [] };
    for (const [metric, about] of Object.entries(data.metrics)) {
      const all = now.case.scores[metric];
      if (all.every((value) => value === null)) continue; // no picture of this data has what it needs
      const [a, b] = SIDES.map((side) => all[now[side].row]);
      const higher = about.better === "higher";
      const row = rows.insertRow();
      row.append(cell("th", metric + (higher ? " \u2191" : " \u2193")));
      row.cells[0].title = about.says;
      for (const [value, other] of [[a, b], [b, a]]) {
        const best = value !== null && other !== null && text(value) !== text(other) && value > other === higher;
        row.append(cell("td", best ? bold(text(value)) : text(value)));
      }
      SIDES.forEach((side, i) => said[side].push(metric + " " + (text([a, b][i]) === "\u2013" ? "not defined" : text([a, b][i]))));
    }
    for (const side of SIDES) {
      cleared(at("head-" + side)).append(cell("span", now[side].method, LETTER[side]));
    }
    const { picture, kind } = now;
    at("seen").textContent = `${picture.data}, picture ${picture.name}${picture.says ? " (" + picture.says + ")" : ""}: ${at("network").value} gives ${kind.name} the probability ${text(kind.probability)}.`;
    at("said").textContent = SIDES.map((side) => `${side}, ${now[side].method}: ${said[side].join(", ")}`).join(". ");
  }

  function showMaps() {
    const { picture, photo } = now;
    for (const side of SIDES) {
      const { method, planes: found, row } = now[side];
      const [least, most] = now.case.range[row].map((value) => Number(value.toPrecision(3)));
      paintMap(at("map-" + side), method, found.map, photo, picture.width, picture.height);
      const empty = most > 0 ? "" : ", empty: no positive value";
      at("map-" + side).setAttribute("aria-label", `Map of ${method} for ${now.kind.name} over picture ${picture.name}, from ${least} to ${most}${empty}`);
      cleared(at("under-" + side)).append(cell("span", method, LETTER[side]), `${data.signed.includes(method) ? ", signed" : ""}: ${least} to ${most}${empty}`);
    }
    at("same").hidden = !now.left.planes.map.every((byte, i) => byte === now.right.planes.map[i]);
    wipe();
  }

  function wipe() {
    const value = Number(at("divider").value);
    at("map-left").style.clipPath = `inset(0 ${100 - value}% 0 0)`;
    at("line").style.left = value + "%";
    at("divider").setAttribute("aria-valuetext", `${value} % ${now.left.method}, ${100 - value} % ${now.right.method}`);
  }

  // -- curves -------------------------------------------------------------------------------------------------------

  const BOX = { left: 34, right: 312, top: 8, bottom: 156 };
  const across = (t) => BOX.left + ((BOX.right - BOX.left) * t) / (data.steps - 1);
  const up = (p) => BOX.bottom - (BOX.bottom - BOX.top) * p;

  function svg(name, attributes, content) {
    const one = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) one.setAttribute(key, value);
    if (content) one.textContent = content;
    return one;
  }

  function showCurves() {
    const way = document.querySelector("input[name=xe-way]:checked").value;
    const t = Number(at("share").value);
    const share = t / (data.steps - 1);
    const chart = cleared(at("chart"));
    chart.append(svg("path", { class: "xe-axis", d: `M${BOX.left} ${BOX.top}V${BOX.bottom}H${BOX.right}` }));
    for (const value of [0, 0.5, 1]) {
      chart.append(svg("text", { x: BOX.left - 5, y: up(value) + 4, "text-anchor": "end" }, String(value)));
      chart.append(svg("text", { x: across(value * (data.steps - 1)), y: BOX.bottom + 14, "text-anchor": value === 1 ? "end" : "middle" }, per(value)));
    }
    chart.append(svg("text", { x: (BOX.left + BOX.right) / 2, y: BOX.bottom + 29, "text-anchor": "middle" }, `pixels ${way === "deletion" ? "taken away" : "shown"}; upwards: probability`));
    chart.append(svg("path", { class: "xe-now", d: `M${across(t)} ${BOX.top}V${BOX.bottom}` }));
    const heard = [];
    for (const side of SIDES) {
      const { method, row } = now[side];
      const curve = now.case[way][row];
      chart.append(svg("polyline", { class: "xe-" + LETTER[side], points: curve.map((p, i) => `${across(i).toFixed(1)},${up(p).toFixed(1)}`).join(" ") }));
      chart.append(svg("circle", { class: "xe-" + LETTER[side], cx: across(t), cy: up(curve[t]), r: 4 }));
      showSeen(side, way, t, share);
      cleared(at("chance-" + side)).append(cell("span", method, LETTER[side]), `: probability ${text(curve[t])}`);
      heard.push(`${method} ${text(curve[t])}`);
    }
    at("share-said").textContent = per(share);
    at("share").setAttribute("aria-valuetext", `${per(share)} of the pixels; ${heard.join(", ")}`);
    chart.setAttribute("aria-label", `${way}: probability of ${now.kind.name} against the share of pixels. At ${per(share)}: ${heard.join(", ")}.`);
  }

  // The picture as the network saw it at point t of a curve.
  function showSeen(side, way, t, share) {
    const { picture, photo, blurred } = now;
    const { method, planes: found } = now[side];
    const nothing = picture.nothing;
    const from = (source, i) => source.subarray(4 * i, 4 * i + 3);
    paint(at("seen-" + side), picture.width, picture.height, (i) => {
      const replaced = found.going[i] <= t;
      return way === "deletion" ? (replaced ? nothing : from(photo, i)) : from(replaced ? photo : blurred, i);
    });
    const said = way === "deletion" ? `without the ${per(share)} of its pixels` : `blurred, but for the ${per(share)} of its pixels`;
    at("seen-" + side).setAttribute("aria-label", `The picture ${said} that ${method} marks most, probability ${text(now.case[way][now[side].row][t])}`);
  }

  // -- choosing -----------------------------------------------------------------------------------------------------

  const network = () => data.networks.find((one) => one.name === at("network").value);
  const chosen = () => (document.querySelector("input[name=xe-picture]:checked") || {}).value;

  function chooseNetwork() {
    const before = chosen();
    const place = cleared(at("pictures"));
    network().pictures.forEach((picture) => {
      const value = picture.data + "/" + picture.name;
      const label = place.appendChild(document.createElement("label"));
      const radio = Object.assign(document.createElement("input"), { type: "radio", name: "xe-picture", value, checked: value === before });
      const alt = `${picture.data}, picture ${picture.name}${picture.says ? ": " + picture.says : ""}`;
      label.append(radio, Object.assign(document.createElement("img"), { src: picture.photo, alt, width: 64, height: 64 }));
      label.title = alt;
    });
    if (!chosen()) place.querySelector("input").checked = true;
    choosePicture();
  }

  function choosePicture() {
    fill(at("class"), [["", current().classes.map((kind) => kind.name)]]);
    return chooseClass();
  }

  const current = () => network().pictures.find((one) => one.data + "/" + one.name === chosen());

  async function chooseClass() {
    const mine = ++asked;
    const picture = current();
    const kind = picture.classes.find((one) => one.name === at("class").value);
    try {
      const found = await loaded(kind.file);
      const images = await Promise.all([picture.photo, picture.blurred, found.sprite].map(image));
      if (mine !== asked) return; // another choice came later
      at("absent").hidden = true;
      const [photo, blurred] = images.slice(0, 2).map((one) => pixels(one, 0, picture.width, picture.height));
      now = { picture, kind, case: found, photo, blurred, sprite: images[2] };
    } catch (error) {
      Object.assign(at("absent"), { hidden: false, textContent: error.message });
      return;
    }
    fill(at("left"), families(now.case.methods), "grad-cam");
    fill(at("right"), families(now.case.methods), "excitation-backprop");
    chooseMethods();
  }

  function chooseMethods() {
    const { width, height } = now.picture;
    for (const side of SIDES) {
      const method = at(side).value;
      const row = now.case.methods.indexOf(method);
      now[side] = { method, row, planes: planes(now.sprite, row, width, height) };
    }
    showMaps();
    showScores();
    showCurves();
    document.getElementById("xe").dataset.shown = [network().name, chosen(), now.kind.name, now.left.method, now.right.method].join(" ");
  }

  // A drag over an element moves a slider; keys reach the slider itself.
  function dragged(element, slider, part, moved) {
    const follow = (event) => {
      const box = element.getBoundingClientRect();
      const [from, to] = part(box);
      const share = Math.min(1, Math.max(0, (event.clientX - from) / (to - from)));
      slider.value = share * slider.max;
      moved();
    };
    element.addEventListener("pointerdown", (event) => {
      if (!now || event.button !== 0) return;
      event.preventDefault();
      element.setPointerCapture(event.pointerId);
      slider.focus({ preventScroll: true, focusVisible: false });
      follow(event);
    });
    element.addEventListener("pointermove", (event) => element.hasPointerCapture(event.pointerId) && follow(event));
  }

  fill(at("network"), [["", data.networks.map((one) => one.name)]]);
  at("share").max = data.steps - 1;
  at("network").addEventListener("change", chooseNetwork);
  at("pictures").addEventListener("change", choosePicture);
  at("class").addEventListener("change", chooseClass);
  SIDES.forEach((side) => at(side).addEventListener("change", chooseMethods));
  at("divider").addEventListener("input", wipe);
  at("share").addEventListener("input", showCurves);
  document.querySelectorAll("input[name=xe-way]").forEach((one) => one.addEventListener("change", showCurves));
  dragged(at("stage"), at("divider"), (box) => [box.left, box.right], wipe);
  dragged(at("chart"), at("share"), (box) => [box.left + (box.width * BOX.left) / 320, box.left + (box.width * BOX.right) / 320], showCurves);
  chooseNetwork();
})();
