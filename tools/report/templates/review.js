const cards = [...document.querySelectorAll(".card")];
const stored = "drawstream-review-" + about.catalog;
const pair = document.getElementById("pair"), right = document.getElementById("class");
let decisions = {}, at = 0;
try { decisions = JSON.parse(localStorage.getItem(stored)) || {}; } catch { decisions = {}; }

const visible = () => cards.filter((card) => !card.hidden);
function show() {
  for (const card of cards) {
    const made = decisions[card.dataset.name];
    const kind = made === undefined ? "" : typeof made === "string" ? made : "relabel";
    card.className = "card " + kind;
    card.querySelector(".mark").textContent = kind === "relabel" ? "→ " + made.relabel : kind;
  }
  document.getElementById("count").textContent = Object.keys(decisions).length + " decided";
  try { localStorage.setItem(stored, JSON.stringify(decisions)); } catch { /* a page of a file may not store */ }
}
function go(to) {
  const list = visible();
  if (!list.length) return;
  at = Math.max(0, Math.min(to, list.length - 1));
  list[at].focus();
  const suggested = list[at].dataset.suggested;
  if (suggested) right.value = suggested;
}
function decide(kind) {
  const card = visible()[at];
  if (!card) return;
  if (kind === "undo") delete decisions[card.dataset.name];
  else decisions[card.dataset.name] = kind === "relabel" ? { relabel: right.value } : kind;
  show();
  if (kind !== "undo") go(at + 1);
}
function row() {
  const list = visible(), top = list[0]?.offsetTop;
  return Math.max(1, list.filter((card) => card.offsetTop === top).length);
}
const keys = { k: "keep", r: "relabel", d: "drop", u: "undo" };
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "SELECT") return;
  const moves = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: row(), ArrowUp: -row() };
  if (event.key in moves) go(at + moves[event.key]);
  else if (event.key.toLowerCase() in keys) decide(keys[event.key.toLowerCase()]);
  else return;
  event.preventDefault();
});
for (const kind of ["keep", "relabel", "drop", "undo"]) document.getElementById(kind).onclick = () => decide(kind);
cards.forEach((card) => card.addEventListener("click", () => go(visible().indexOf(card))));
pair.onchange = () => {
  for (const card of cards) card.hidden = pair.value !== "" && card.dataset.pair !== pair.value;
  go(0);
};
document.getElementById("save").onclick = () => {
  const text = JSON.stringify({ format: 1, catalog: about.catalog, decisions }, null, 1);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = "review.json";
  link.click();
};
show();
go(0);
