// What is wrong with a page however it is shown: pairs of a kind and a sentence. Folds and tabs are opened, pictures fetched, and nothing moves any more.
(async () => {
  document.head.insertAdjacentHTML("beforeend", "<style>*, ::before, ::after { transition: none !important; animation: none !important } .sd-tab-content { display: block !important }</style>");
  for (const fold of document.querySelectorAll("details")) fold.open = true;
  for (const image of document.images) image.loading = "eager";
  await Promise.all([...document.images].map((image) => image.decode().catch(() => null)));

  const wrong = [];
  const name = (e) => `<${[e.localName + (e.id && "#" + e.id), ...[...e.classList].slice(0, 3)].join(".")}> ${e.getAttribute("src") || e.getAttribute("href") || ""}`;
  const said = (text) => (text || "").trim();

  const ids = new Map();
  for (const e of document.querySelectorAll("[id]")) ids.set(e.id, (ids.get(e.id) || 0) + 1);
  for (const [id, times] of ids) if (times > 1) wrong.push(["id", `${times} elements are #${id}`]);
  for (const e of document.querySelectorAll("a[href^='#']")) {
    const id = decodeURIComponent(e.getAttribute("href").slice(1));
    if (id && !ids.has(id)) wrong.push(["id", `a link to nothing: #${id}`]);
  }
  for (const e of document.querySelectorAll("label[for]")) if (!ids.has(e.htmlFor)) wrong.push(["id", `a label for nothing: ${e.htmlFor}`]);

  const silent = (e) => e.closest("[aria-hidden=true], [role=presentation]");
  for (const e of document.images) {
    if (!silent(e) && (!said(e.alt) || /^\S+\.(png|svg|webp|jpg)$/.test(said(e.alt)))) wrong.push(["words", `a picture without words: ${name(e)}`]);
    if (!e.naturalWidth) wrong.push(["words", `a picture that is not there: ${name(e)}`]);
  }
  for (const e of document.querySelectorAll("figure:has(img)")) if (!said(e.querySelector("figcaption")?.textContent)) wrong.push(["words", `a figure without a caption: ${name(e)}`]);
  for (const e of document.querySelectorAll("a[href], button, input:not([type=hidden]), select, textarea, [role=button], [role=slider]")) {
    const by = said(e.getAttribute("aria-labelledby")).split(/\s+/).map((id) => document.getElementById(id)?.textContent);
    const own = [e.getAttribute("aria-label"), e.title, e.placeholder, e.textContent, e.querySelector("img")?.alt, ...[...(e.labels || [])].map((l) => l.textContent + (l.querySelector("img")?.alt || ""))];
    if (!silent(e) && ![...own, ...by].some(said)) wrong.push(["words", `a control without a name: ${name(e)}`]);
  }
  return wrong;
})();
