const figures = [...document.querySelectorAll("figure")];
const stage = document.querySelector(".stage"), find = q => stage.querySelector(q);
const view = find(".view"), slider = find("input");
let at = 0, frame = 0;
const cells = () => [...figures[at].querySelectorAll("div")];
function show(i, j) {
  at = (i + figures.length) % figures.length;
  const all = cells(), images = all.map(cell => cell.querySelector("img"));
  frame = Math.max(0, Math.min(j, all.length - 1));
  slider.max = all.length - 1; slider.value = frame;
  find(".over").src = images[frame].src;
  find(".under").src = (images.find(image => image.alt == "truth") || images[0]).src;
  find(".title").textContent = figures[at].dataset.name;
  find(".frame").textContent = images[frame].alt;
  find("dl").replaceChildren(...JSON.parse(figures[at].dataset.numbers).flatMap(
    ([name, value]) => [["dt", name], ["dd", value]].map(([tag, text]) =>
      Object.assign(document.createElement(tag), { textContent: text }))));
  document.querySelectorAll("figure .on").forEach(cell => cell.classList.remove("on"));
  all[frame].classList.add("on");
}
const cut = part => view.style.setProperty("--cut", 100 * part + "%");
view.onpointermove = e => cut(e.offsetX / view.clientWidth);
view.onpointerleave = () => cut(0);
slider.oninput = () => show(at, +slider.value);
figures.forEach((figure, i) => figure.querySelectorAll("div").forEach((cell, j) =>
  cell.onclick = () => { show(i, j); stage.scrollIntoView({ block: "nearest" }); }));
addEventListener("keydown", e => {
  const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0],
                 ArrowDown: [1, 0] }[e.key];
  if (!step || !figures.length || e.target == slider && !step[0]) return;
  e.preventDefault(); show(at + step[0], frame + step[1]);
});
if (figures.length) { stage.hidden = false; show(0, 1); }
const quote = text => /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
document.querySelectorAll("button.csv").forEach(button => button.onclick = () => {
  const rows = [...button.parentElement.nextElementSibling.querySelectorAll("tr")];
  const text = rows.map(row => [...row.cells].map(cell =>
    quote([...cell.childNodes].map(node => node.textContent).join(" "))).join(","));
  const link = Object.assign(document.createElement("a"), {
    href: URL.createObjectURL(new Blob([text.join("\n") + "\n"], { type: "text/csv" })),
    download: document.title.replace(/[^\w.-]+/g, "_") + ".csv" });
  link.click(); URL.revokeObjectURL(link.href);
});
