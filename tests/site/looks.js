// What is wrong with a page as it is shown now, at this width and in these colours: pairs of a kind and a sentence.
(() => {
  const wrong = [];
  const shown = (e) => e.checkVisibility({ visibilityProperty: true });
  const name = (e) => {
    const text = (e.innerText || e.alt || "").trim().replace(/\s+/g, " ").slice(0, 40);
    return `<${[e.localName + (e.id && "#" + e.id), ...[...e.classList].slice(0, 3)].join(".")}>` + (text && ` "${text}"`);
  };

  // What reaches over the edge of its column, unless something that it lies in scrolls; and what is cut off.
  const reach = (e, left, right) => {
    if (!shown(e) || e.ownerSVGElement) return;
    const box = e.getBoundingClientRect(), overflow = getComputedStyle(e).overflowX;
    if (box.width > 1 && (box.right > right + 1.5 || box.left < left - 1.5)) {
      wrong.push(["width", `wider than its column: ${name(e)}, ${box.left.toFixed()} to ${box.right.toFixed()} in ${left.toFixed()} to ${right.toFixed()}`]);
    } else if (["hidden", "clip"].includes(overflow)) {
      if (e.clientWidth > 1 && e.scrollWidth > e.clientWidth + 1.5 && getComputedStyle(e).textOverflow !== "ellipsis") wrong.push(["width", `cut off: ${name(e)}`]);
    } else if (!["auto", "scroll"].includes(overflow)) {
      for (const part of e.children) reach(part, left, right);
    }
  };
  const width = document.documentElement.clientWidth;
  for (const column of document.querySelectorAll(".bd-article, .bd-header-article, .prev-next-footer, .bd-footer-content")) {
    const box = column.getBoundingClientRect();
    reach(column, Math.max(0, box.left), Math.min(width, box.right));
  }
  if (document.documentElement.scrollWidth > width + 1) wrong.push(["width", `the page scrolls sideways: ${document.documentElement.scrollWidth} in ${width}`]);

  // Contrast of text with what is behind it (WCAG 2, AA), by computed styles.
  const paint = Object.assign(document.createElement("canvas"), { width: 1, height: 1 }).getContext("2d", { willReadFrequently: true });
  const known = new Map();
  const colour = (text) => {
    if (!known.has(text)) {
      paint.clearRect(0, 0, 1, 1);
      paint.fillStyle = text;
      paint.fillRect(0, 0, 1, 1);
      const [r, g, b, a] = paint.getImageData(0, 0, 1, 1).data;
      known.set(text, [r, g, b, a / 255]);
    }
    return known.get(text);
  };
  const over = ([r, g, b, a], [R, G, B]) => [r * a + R * (1 - a), g * a + G * (1 - a), b * a + B * (1 - a)];
  const behind = (e) => {
    const layers = [];
    for (let at = e; at && layers.at(-1)?.[3] !== 1; at = at.parentElement) layers.push(colour(getComputedStyle(at).backgroundColor));
    return layers.reduceRight((below, layer) => over(layer, below), [255, 255, 255]);
  };
  const light = (rgb) => {
    const [r, g, b] = rgb.map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const opacity = (e) => (e ? getComputedStyle(e).opacity * opacity(e.parentElement) : 1);
  const pale = new Map();
  for (const e of document.body.querySelectorAll("*")) {
    if (![...e.childNodes].some((n) => n.nodeType === Node.TEXT_NODE && n.data.trim()) || !shown(e)) continue;
    if (e.closest("script, style, mjx-assistive-mml, :disabled, option, .visually-hidden")) continue;
    const box = e.getBoundingClientRect(), style = getComputedStyle(e), seen = opacity(e);
    if (box.width <= 1 || box.height <= 1 || seen < 0.05) continue; // for those who listen, or shown only when pointed at
    const ground = behind(e), [r, g, b, a] = colour(e.ownerSVGElement ? style.fill : style.color);
    const [dark, bright] = [light(over([r, g, b, a * seen], ground)), light(ground)].sort((one, other) => one - other);
    const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    const ratio = (bright + 0.05) / (dark + 0.05);
    const kind = `<${[e.localName, ...e.classList].slice(0, 4).join(".").replace(/\d+/g, "")}> of ${style.color} on rgb(${ground.map(Math.round)})`;
    if (ratio < (large ? 3 : 4.5) - 0.01 && !pale.has(kind)) pale.set(kind, ["contrast", `${ratio.toFixed(2)}: ${kind}, as ${name(e)} in ${name(e.parentElement)}`]);
  }
  return [...wrong, ...pale.values()];
})();
