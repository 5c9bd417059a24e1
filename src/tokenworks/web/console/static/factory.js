// The factory page: asks for news, sends the form while a slider moves, tells a point's facts.
// Without it the form has a button and the table below the chart has the facts.
"use strict";

const WAIT_MS = 120;
const NEWS_MS = 2000;

const form = document.querySelector("#plan");
let timer = 0;
let asked = 0;

function sliders() {
  return form.querySelectorAll("input[type=range]");
}

/** Put the slider where its field is; an empty field stands for the hub's own rate. */
function place(slider) {
  const field = form.elements[slider.dataset.of];
  const rate = form.querySelector("[data-capital]");
  if (slider.dataset.of === "capital" && rate) field.placeholder = Number(rate.dataset.capital).toFixed(2);
  slider.value = field.value || field.placeholder || slider.min;
}

function address() {
  const fields = new URLSearchParams(new FormData(form));
  for (const [name, value] of [...fields]) if (!value) fields.delete(name);
  return fields.toString();
}

/** Show what the hub computes; an answer that was overtaken is dropped. */
async function compute() {
  const mine = ++asked;
  const query = address();
  let answer;
  try {
    answer = await fetch(`${form.dataset.partUrl}?${query}`);
  } catch {
    return;
  }
  if (mine !== asked) return;
  if (left(answer)) return;
  if (!answer.ok) return;
  swap(await answer.text());
  history.replaceState(null, "", `/factory?${query}`);
  sliders().forEach(place);
}

/** Leave when the session is over: the hub refused the key, or it ended here. */
function left(answer) {
  if (answer.redirected) location.assign(answer.url);
  else if (answer.status === 401) location.reload();
  return answer.redirected || answer.status === 401;
}

/** What came last for each part: the page's own markup changes when a table is opened. */
const shown = new Map();

/** Replace every part that is new, and leave the focus and open tables as they were. */
function swap(text) {
  const fresh = new DOMParser().parseFromString(text, "text/html");
  const focused = document.activeElement?.id;
  for (const part of fresh.querySelectorAll("[data-part]")) {
    const old = document.querySelector(`[data-part="${part.dataset.part}"]`);
    if (!old || shown.get(part.dataset.part) === part.innerHTML) continue;
    shown.set(part.dataset.part, part.innerHTML);
    const isOpen = [...old.querySelectorAll("details")].map((each) => each.open);
    part.querySelectorAll("details").forEach((each, index) => (each.open = isOpen[index] ?? false));
    old.replaceWith(document.adoptNode(part));
  }
  if (focused) document.getElementById(focused)?.focus();
}

/** Compute after a moment; answers on their way are to what was chosen before, and are dropped. */
function soon() {
  asked += 1;
  clearTimeout(timer);
  timer = setTimeout(compute, WAIT_MS);
}

// ------------------------------------------------------------------ facts of a point

/** Return the lines of a point's facts; its title is taken away, or two would be shown. */
function factsOf(spot) {
  const title = spot.querySelector("title");
  if (title) {
    spot.dataset.facts = title.textContent;
    spot.setAttribute("aria-label", title.textContent.replaceAll("\n", ", "));
    title.remove();
  }
  return spot.dataset.facts.split("\n");
}

function tell(spot) {
  const box = spot.closest(".chart-box");
  const tip = box.querySelector(".tip");
  const [heading, ...lines] = factsOf(spot);
  const head = document.createElement("p");
  head.textContent = heading;
  const list = document.createElement("dl");
  for (const line of lines) {
    const cut = line.indexOf(": ");
    const [name, value] = [document.createElement("dt"), document.createElement("dd")];
    name.textContent = line.slice(0, cut);
    value.textContent = line.slice(cut + 2);
    list.append(name, value);
  }
  tip.replaceChildren(head, list);
  tip.hidden = false;
  const [frame, at] = [box.getBoundingClientRect(), spot.getBoundingClientRect()];
  const left = at.left + at.width / 2 - frame.left;
  const top = at.top - frame.top;
  const isLeft = left > frame.width / 2;
  const beside = isLeft ? left - tip.offsetWidth - 14 : left + 14;
  tip.style.left = `${Math.max(0, Math.min(beside, frame.width - tip.offsetWidth))}px`;
  tip.style.top = `${Math.max(0, top - tip.offsetHeight / 3)}px`;
}

function hush(spot) {
  spot.closest(".chart-box").querySelector(".tip").hidden = true;
}

for (const [begins, ends] of [["pointerover", "pointerout"], ["focusin", "focusout"]]) {
  document.addEventListener(begins, (event) => {
    const spot = event.target.closest?.(".spot");
    if (spot) tell(spot);
  });
  document.addEventListener(ends, (event) => {
    const spot = event.target.closest?.(".spot");
    if (spot) hush(spot);
  });
}

// ------------------------------------------------------------------ the plant now

const live = document.querySelector("#live");

async function news() {
  try {
    const answer = await fetch(live.dataset.partUrl);
    if (left(answer)) return;
    if (answer.ok) swap(await answer.text());
  } catch {
    // The console is away: what stands there is the last answer.
  }
  later();
}

/** Nothing is asked while nobody looks. */
function later() {
  if (document.hidden) document.addEventListener("visibilitychange", later, { once: true });
  else setTimeout(news, NEWS_MS);
}

if (live) later();

// ------------------------------------------------------------------ begin

form.querySelectorAll("[data-without-script]").forEach((each) => (each.hidden = true));
for (const slider of sliders()) {
  slider.hidden = false;
  place(slider);
  slider.addEventListener("input", () => {
    form.elements[slider.dataset.of].value = slider.value;
    soon();
  });
}
form.addEventListener("input", (event) => {
  if (event.target.type === "range") return;
  const slider = form.querySelector(`input[data-of="${event.target.name}"]`);
  if (slider) place(slider);
  soon();
});
form.addEventListener("submit", (event) => {
  event.preventDefault();
  compute();
});
