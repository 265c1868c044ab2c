import { Chart } from "./chart.js";

const pause = 50; // ms between an answer and the next request
const answerLimit = 10_000; // ms until a request is given up
const restartLimit = 20_000; // ms until a restart is

const element = (id) => document.getElementById(id);
const button = element("restart");
const chart = new Chart(element("chart"));

let requests = 0;
let failed = 0;
let slowest = 0;
let generation = 0;
const connections = new Set();

let wanted = false; // a restart, with the next request
let restartTimer;

// One request follows the other, whatever it is for: a browser opens a second connection only for a request that would
// have to wait.
async function run() {
  for (;;) {
    if (wanted) {
      wanted = false;
      await restart();
    } else {
      await ask();
    }
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
}

// fetchText returns the text of an answer. It reads all of it: what is left unread costs the connection.
async function fetchText(path, method) {
  const response = await fetch(path, { method, cache: "no-store", signal: AbortSignal.timeout(answerLimit) });
  const text = await response.text();
  if (!response.ok) throw new Error(text.trim() || response.statusText);
  return text;
}

async function ask() {
  requests++;
  const began = performance.now();
  try {
    const answer = JSON.parse(await fetchText("hit", "GET"));
    const now = performance.now();
    slowest = Math.max(slowest, now - began);
    chart.add(now, now - began);
    see(answer, now);
  } catch (error) {
    failed++;
    chart.fail(performance.now());
    say(`Request ${requests} failed: ${error.message}`);
  }
  show();
}

// see notices what an answer says about who gave it, and over which connection.
function see(answer, now) {
  connections.add(answer.connection);
  element("connection").textContent = answer.connection;
  element("pid").textContent = answer.pid;
  if (answer.generation === generation) return;
  if (generation > 0 && answer.generation > generation) {
    chart.mark(now, answer.generation);
    say(`Generation ${answer.generation} has taken over.`);
  } else {
    say("Restart the service while the page is asking.");
  }
  generation = answer.generation;
  endRestart();
}

async function restart() {
  try {
    await fetchText("restart", "POST");
  } catch (error) {
    endRestart();
    say(`The service does not restart: ${error.message}`);
  }
}

function endRestart() {
  clearTimeout(restartTimer);
  button.disabled = false;
}

button.addEventListener("click", () => {
  wanted = true;
  button.disabled = true;
  say("The next generation starts; this one serves on.");
  restartTimer = setTimeout(() => {
    endRestart();
    say("There is no new generation; the service's log says why. The old one serves on.");
  }, restartLimit);
});

function show() {
  element("generation").textContent = generation || "–";
  element("requests").textContent = requests.toLocaleString("en");
  element("slowest").textContent = slowest ? `${slowest.toFixed(slowest < 10 ? 1 : 0)} ms` : "–";
  judge("failed", failed, failed === 0);
  judge("connections", connections.size, connections.size <= 1);
  chart.draw(performance.now());
}

function judge(id, value, good) {
  const e = element(id);
  e.textContent = value;
  e.className = good ? "good" : "bad";
}

function say(text) {
  element("status").textContent = text;
}

run();
