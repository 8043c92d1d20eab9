// Shows the questions of an interview one at a time, and what the search after them changed.
"use strict";

const POLL = 500; // milliseconds between two looks at the search
const MAX_FAILED = 6; // looks one after the other, before the command is taken to have ended
const GONE =
  "The command that serves this page has ended. What you answered is saved; the terminal says how to go on.";
const by = (id) => document.getElementById(id);
let state = null; // as the server has it
let place = 0; // the question that is shown
let isBusy = true; // a reply is on its way

function show(id) {
  for (const name of ["asking", "searching", "done", "over"]) by(name).hidden = name !== id;
}

function say(text) {
  by("live").textContent = text;
}

function problem(text) {
  by("problem").textContent = text;
  by("problem").hidden = !text;
}

async function call(path, body) {
  const options = body === undefined ? {} : { method: "POST", body: JSON.stringify(body) };
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error(GONE);
  }
  const text = await response.text();
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    throw new Error(text);
  }
  if (!response.ok) throw new Error(value.error);
  return value;
}

// What one key can say of the options.
function keys() {
  return Object.entries(state.keys).filter(([key]) => key.length === 1);
}

function optionButton(option) {
  const button = document.createElement("button");
  button.type = "button";
  button.dataset.option = option;
  const name = document.createElement("span");
  name.textContent = state.options[option];
  button.append(name);
  for (const [key, other] of keys()) {
    if (other !== option) continue;
    const shown = document.createElement("kbd");
    shown.textContent = key.toUpperCase();
    button.append(shown);
  }
  button.setAttribute("aria-pressed", String(state.questions[place].reply === option));
  button.addEventListener("click", () => reply(option));
  return button;
}

function showProgress() {
  const num = state.questions.length;
  const numReplied = state.questions.filter((question) => question.reply !== null).length;
  by("progress").value = numReplied;
  by("count").textContent = `${numReplied} of ${num} done`;
}

function showQuestion() {
  const question = state.questions[place];
  const num = state.questions.length;
  show("asking");
  const about = question.persona ? ` · ${question.persona}` : "";
  by("heading").textContent = `Question ${place + 1} of ${num}${about}`;
  by("question").textContent = question.question;
  by("choice").textContent = question.choice;
  by("choice_2").textContent = question.choice_2 ?? "";
  for (const id of ["choice_2", "rather"]) by(id).hidden = question.choice_2 === null;
  for (const id of ["why", "measure", "said"]) by(id).textContent = question[id];
  by("said-part").hidden = !question.said;
  by("said-part").open = false; // a label that is read first sways the answer
  by("options").replaceChildren(...state.order.map(optionButton));
  for (const name of ["unsure", "skip"]) by(name).setAttribute("aria-pressed", String(question.reply === name));
  for (const name of ["back", "unsure", "skip"]) {
    by(name).querySelector("kbd").hidden = state.commands[name[0]] !== name; // an option may have the letter
  }
  by("back").disabled = place === 0;
  const numOpen = state.questions.filter((other) => other.reply === null).length;
  by("last").hidden = !(numOpen === 1 && question.reply === null);
  showProgress();
  by("heading").focus({ preventScroll: true });
}

function firstOpen() {
  return state.questions.findIndex((question) => question.reply === null);
}

async function reply(value) {
  if (isBusy || state.phase !== "asking") return;
  isBusy = true;
  try {
    state = await call("reply", { question: place, reply: value });
    problem("");
    const name = typeof value === "number" ? state.options[value] : value;
    say(`Saved: ${name}.`);
    const isLast = place + 1 === state.questions.length;
    if (state.phase === "asking") place = isLast ? firstOpen() : place + 1;
    showState();
  } catch (error) {
    problem(error.message);
  } finally {
    isBusy = false;
  }
}

function back() {
  if (isBusy || state.phase !== "asking" || place === 0) return;
  place -= 1;
  showQuestion();
}

function row(cells) {
  const line = document.createElement("tr");
  for (const cell of cells) {
    const element = document.createElement("td");
    element.textContent = cell;
    if (/^[0-9.]+( %)?$/.test(cell)) element.className = "number";
    line.append(element);
  }
  return line;
}

function turnedItem(change) {
  const item = document.createElement("li");
  const claim = document.createElement("p");
  claim.textContent = change.claim;
  const turn = document.createElement("p");
  turn.className = "turn";
  const cause = change.is_given ? "by your answers" : "by the search";
  turn.textContent = `${change.before} → ${change.after}, ${cause}`;
  item.append(claim, turn);
  return item;
}

function percent(share) {
  return `${Math.round(100 * share)} %`;
}

function showChanges() {
  const { changes } = state;
  const turned = changes.turned.length;
  const found = changes.turned.filter((change) => !change.is_given).length;
  by("summary").textContent =
    `${turned} of ${changes.num_claims} labels turned, ${found} of them by the search itself. ` +
    `${changes.num_given} are held fast: answers, and what follows from them.`;
  const shares = changes.shares.map(({ option, before, after }) =>
    row([option, ...[before, after].map((count) => percent(count / changes.num_claims))]),
  );
  const { accuracy } = changes;
  if (accuracy) shares.push(row(["right", percent(accuracy.before), percent(accuracy.after)]));
  by("shares").replaceChildren(...shares);
  by("accuracy-said").hidden = !accuracy;
  if (accuracy) {
    by("accuracy-said").textContent =
      `Right: of the ${accuracy.num_claims} labels that the search was free to choose, by the gold labels.`;
  }
  by("turned").replaceChildren(
    ...changes.turned.map(turnedItem),
  );
  by("turned-part").hidden = turned === 0;
  by("warnings").replaceChildren(
    ...state.warnings.map((warning) => {
      const item = document.createElement("li");
      item.textContent = warning;
      return item;
    }),
  );
  by("warnings").hidden = state.warnings.length === 0;
  by("report").hidden = !state.has_report;
}

function showOver(heading, text) {
  by("over-heading").textContent = heading;
  by("over-said").textContent = text;
  show("over");
  by("over-heading").focus();
}

function showState() {
  showProgress();
  by("end").hidden = !["done", "nothing", "failed"].includes(state.phase);
  if (state.phase === "asking") return showQuestion();
  if (state.phase === "searching") return showSearch();
  if (state.phase === "done") {
    showChanges();
    show("done");
    by("done-heading").focus();
    return say("The search is done.");
  }
  if (state.phase === "failed") {
    problem(state.message);
    return showOver("The search was refused", "Your answers are saved.");
  }
  return showOver("Nothing to search with", "No question has an answer. Those that were skipped may be asked again.");
}

function showSearch() {
  const isNew = by("searching").hidden;
  show("searching");
  const bar = by("steps");
  if (state.num_all) {
    bar.max = state.num_all;
    bar.value = state.num_steps;
    by("steps-said").textContent = `${state.num_steps} of ${state.num_all} steps`;
  } else {
    bar.removeAttribute("value");
    by("steps-said").textContent = "The model is read, and the search compiled.";
  }
  if (isNew) {
    by("searching-heading").focus();
    say("Searching with your answers.");
  }
  setTimeout(look, POLL);
}

async function look() {
  for (let numFailed = 0; ; ) {
    try {
      state = await call("state");
      break;
    } catch (error) {
      numFailed += 1;
      if (numFailed === MAX_FAILED) return problem(error.message);
    }
    await new Promise((resolve) => setTimeout(resolve, POLL));
  }
  showState();
}

async function close() {
  try {
    await call("close", {});
  } catch (error) {
    return problem(error.message);
  }
  by("end").hidden = true;
  problem("");
  showOver("Ended", "This page can be closed.");
}

function onKey(event) {
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  if (state === null || by("asking").hidden) return;
  const key = event.key.toLowerCase();
  const commands = { back, unsure: () => reply("unsure"), skip: () => reply("skip") };
  const actions = { arrowleft: back };
  for (const [typed, name] of Object.entries(state.commands)) actions[typed] = commands[name];
  for (const [typed, option] of keys()) actions[typed] = () => reply(option);
  if (!Object.hasOwn(actions, key)) return;
  event.preventDefault();
  actions[key]();
}

by("back").addEventListener("click", back);
for (const name of ["unsure", "skip"]) by(name).addEventListener("click", () => reply(name));
by("close").addEventListener("click", close);
document.addEventListener("keydown", onKey);
look().then(() => {
  isBusy = false;
  if (state === null || state.phase !== "asking") return;
  place = firstOpen();
  showQuestion();
});
