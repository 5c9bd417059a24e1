// The factory page: asks for news, sends the form while a slider moves, tells a point's facts.
// Without it the form has a button and the table below the chart has the facts.
"use strict";

const WAIT_MS = 120;
const NEWS_MS = 2000;
const AGAIN_MS = 3000;
const PATIENCE_MS = 20000;
const FOCUSABLE = "a[href], button, input, select, summary, textarea, [tabindex]";

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

/** Tell whether somebody chose before this script was here, or the browser kept what was typed. */
function isTouched() {
  return [...form.elements].some((each) =>
    each.name && (each.options ? !each.selectedOptions[0].defaultSelected : each.value !== each.defaultValue));
}

/** Return an answer with all of its text, or null from a console that is away or hangs. */
async function ask(url) {
  try {
    const answer = await fetch(url, { signal: AbortSignal.timeout(PATIENCE_MS) });
    return { answer, text: await answer.text() };
  } catch {
    return null;
  }
}

/** Show what the hub computes; an answer that was overtaken, its text included, is dropped. */
async function compute() {
  clearTimeout(timer);
  const mine = ++asked;
  const query = address();
  const came = await ask(`${form.dataset.partUrl}?${query}`);
  if (mine !== asked || left(came)) return;
  const isWhole = Boolean(came?.answer.ok);
  document.querySelector("#plan-away").hidden = isWhole;
  form.classList.toggle("is-behind", !isWhole);
  if (!isWhole) {
    timer = setTimeout(compute, AGAIN_MS);
    return;
  }
  swap(came.text);
  history.replaceState(null, "", `/factory?${query}`);
  sliders().forEach(place);
}

/** Leave when the session is over: the hub refused the key, or it ended here. */
function left(came) {
  if (came?.answer.redirected) location.assign(came.answer.url);
  else if (came?.answer.status === 401) location.reload();
  else return false;
  return true;
}

/** What came last for each part: the page's own markup changes when a table is opened. */
const shown = new Map();

/** Replace every part that is new; the focus, open tables and how far they were moved stay. */
function swap(text) {
  const fresh = new DOMParser().parseFromString(text, "text/html");
  for (const part of fresh.querySelectorAll("[data-part]")) {
    const old = document.querySelector(`[data-part="${part.dataset.part}"]`);
    if (!old || shown.get(part.dataset.part) === part.innerHTML) continue;
    shown.set(part.dataset.part, part.innerHTML);
    const isOpen = [...old.querySelectorAll("details")].map((each) => each.open);
    const moved = [...old.querySelectorAll(".scroll")].map((each) => each.scrollLeft);
    const focused = old.contains(document.activeElement) ? document.activeElement : null;
    const place = focused && [...old.querySelectorAll(FOCUSABLE)].indexOf(focused);
    part.querySelectorAll("details").forEach((each, index) => (each.open = isOpen[index] ?? false));
    old.replaceWith(document.adoptNode(part));
    part.querySelectorAll(".scroll").forEach((each, index) => (each.scrollLeft = moved[index] ?? 0));
    if (focused) sameAs(focused, part, place)?.focus({ preventScroll: true });
  }
}

/** Return what stands for an element after its part was replaced: by its id, words or place. */
function sameAs(old, part, place) {
  const all = [...part.querySelectorAll(FOCUSABLE)];
  if (old.id) return all.find((each) => each.id === old.id);
  const says = (each) => each.dataset.facts ?? each.textContent;
  if (all[place] && says(all[place]) === says(old)) return all[place];
  return all.find((each) => says(each) === says(old)) ?? all[place];
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
  const came = await ask(live.dataset.partUrl);
  if (left(came)) return;
  const isWhole = Boolean(came?.answer.ok);
  document.querySelector("#live-away").hidden = isWhole;
  live.classList.toggle("is-behind", !isWhole);
  if (isWhole) swap(came.text);
  later();
}

/** Nothing is asked while nobody looks, and at once when somebody looks again. */
function later() {
  if (document.hidden) document.addEventListener("visibilitychange", news, { once: true });
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
if (isTouched()) soon();
