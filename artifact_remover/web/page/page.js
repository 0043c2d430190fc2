// The page of artifact-remover: uses nothing but the HTTP API, and shows a picture at a time being restored.

const find = (selector, root = document) => root.querySelector(selector);
const sleep = (milliseconds, signal) =>
  new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => { clearTimeout(timer); reject(signal.reason); }, { once: true });
  });
const percent = (value) => `${Math.round(100 * value)} %`;
const settings = { strength: find("#strength"), blend: find("#blend"), force: find("#force") };

// What the API calls its options, and what is written on their controls here.
const captions = [document, find("#card").content].flatMap((root) => [...root.querySelectorAll("[data-option]")]);
const wording = new Map(captions.map((caption) => [caption.dataset.option, `“${caption.textContent}”`]));
const options = new RegExp(`\\b(?:${[...wording.keys()].join("|")})\\b`, "g");

/** Names the options in a line of the server's as the page does. */
const word = (line) => line.replace(options, (option) => wording.get(option));

let limits = { max_megabytes: Infinity };
const cards = [];
const turns = { inspect: Promise.resolve(), restore: Promise.resolve() };

/** Has one picture after the other, so that this page alone never fills the server's places. */
function inTurn(kind, task) {
  turns[kind] = turns[kind].then(task, task);
  return turns[kind];
}

/** Tells whether a file is on the disk as it was when it was chosen. */
async function isReadable(file) {
  return file.slice(0, 1).arrayBuffer().then(() => true, () => false);
}

/** Why a picture is not restored, where trying again cannot help. */
class Refusal extends Error {}

/** Posts a picture; where all places are taken, comes back when it is told to. Throws an Error with the server's line. */
async function post(path, file, signal, waiting) {
  for (;;) {
    let answer;
    try {
      const headers = { "Content-Type": "application/octet-stream" };
      answer = await fetch(path, { method: "POST", body: file, headers, signal });
    } catch (error) {
      if (signal.aborted) throw error;
      if (await isReadable(file)) throw new Error("The server does not answer. Is it still running?");
      throw new Refusal("The file cannot be read any more: choose it again.");
    }
    if (answer.ok) return answer;
    if (answer.status !== 429) {
      const said = await answer.json().catch(() => ({}));
      const Kind = answer.status === 408 || answer.status >= 500 ? Error : Refusal;
      throw new Kind(said.error ?? `The server answered with ${answer.status}.`);
    }
    waiting?.();
    await sleep(1000 * (Number(answer.headers.get("Retry-After")) || 2), signal);
  }
}

class Card {
  constructor(file) {
    this.file = file;
    this.root = find("#card").content.firstElementChild.cloneNode(true);
    for (const name of ["view", "scroller", "before", "after", "divider", "status", "error", "notes", "facts", "zoom", "png",
      "same", "partly", "again"]) this[name] = find(`.${name}`, this.root);
    this.progress = find("progress", this.root);
    this.state = find(".state", this.root);
    find("h2", this.root).textContent = file.name;
    this.root.setAttribute("aria-label", file.name);
    find(".remove", this.root).onclick = () => this.remove();
    this.again.onclick = () => this.restore();
    this.partly.onclick = () => {
      this.allowTruncated = true;
      this.restore();
    };
    this.same.onclick = () => this.download();
    this.zoom.onclick = () => this.setZoom(!this.view.classList.contains("actual"));
    this.divider.oninput = this.scroller.onscroll = () => this.cut();
    this.resized = new ResizeObserver(() => this.cut());
    this.resized.observe(this.scroller);
    this.before.onload = this.after.onload = () => this.cut();
    this.before.onerror = () => this.decodeBefore();
    this.allowTruncated = false;
    this.removed = new AbortController();
  }

  start() {
    this.restore();
    if (this.isTooLarge()) return;
    this.show(this.before, this.file);
    inTurn("inspect", () => this.inspect());
  }

  isTooLarge() {
    return this.file.size > 1e6 * limits.max_megabytes;
  }

  async inspect() {
    if (this.removed.signal.aborted) return;
    try {
      const found = await (await post("api/inspect", this.file, this.removed.signal)).json();
      const facts = [found.format, `${found.width} × ${found.height}`, found.colour]; // old spelling, the API's
      if (found.quality) {
        facts.push(`quality ${found.standard_tables ? "" : "about "}${found.quality}`, found.chroma_subsampling);
      }
      if (found.found && !/^Q\d+$/.test(found.found)) facts.push(found.found);  // more than the header says
      this.facts.textContent = facts.join(" · ");
      this.format = found.writable_as;
      this.offer();
    } catch { /* restoring says what is wrong */ }
  }

  /** Restores the picture with the present settings, instead of with any earlier ones. */
  restore() {
    this.running?.abort();
    const running = this.running = new AbortController();
    this.parameters = {
      strength: settings.strength.value, force: settings.force.checked, allow_truncated: this.allowTruncated,
    };
    if (limits.blends) this.parameters.blend = settings.blend.value;
    this.restored = false;
    this.error.hidden = this.partly.hidden = this.again.hidden = true;
    this.offer();
    if (this.isTooLarge()) {
      this.fail(new Refusal(`The file has more than ${limits.max_megabytes} megabytes.`));
      return;
    }
    this.say("waiting for its turn", null);
    inTurn("restore", async () => {
      if (running.signal.aborted) return;
      try {
        const answer = await this.ask({ format: "png" }, running.signal);
        const picture = await answer.blob();
        this.tell(answer);
        this.show(this.after, picture);
        await this.after.decode().catch(() => {});
        this.restored = true;
        this.state.hidden = true;
        this.png.href = this.after.src;
        this.png.download = this.rename("png");
        this.offer();
      } catch (error) {
        if (!running.signal.aborted) this.fail(error);
      }
    });
  }

  /** Asks the server for the picture, and shows meanwhile how far it is. */
  async ask(parameters, signal) {
    const job = crypto.getRandomValues(new Uint32Array(4)).reduce((all, part) => all + part.toString(16).padStart(8, "0"), "");
    const query = new URLSearchParams({ ...this.parameters, ...parameters, job });
    const watching = new AbortController();
    this.say("sending", null);
    this.watch(job, watching.signal);
    try {
      return await post(`api/restore?${query}`, this.file, signal, () => this.say("the server is busy, waiting", null));
    } finally {
      watching.abort();
    }
  }

  async watch(job, signal) {
    try {
      for (;;) {
        await sleep(500, signal);
        const answer = await fetch(`api/jobs/${job}`, { signal });
        if (!answer.ok) continue;
        const { before, done } = await answer.json();
        if (before) this.say(`waiting, ${before} before it`, null);
        else if (before === 0 && done < 1) this.say(`restoring, ${percent(done)}`, done || null);
        else if (done >= 1) this.say("writing", 1);
      }
    } catch { /* done */ }
  }

  /** Downloads the picture in the original's format, for which the server restores it once more: it keeps nothing. */
  async download() {
    this.same.disabled = true;
    const signal = this.running.signal;
    await inTurn("restore", async () => {
      try {
        if (signal.aborted) return;
        const answer = await this.ask({ format: this.format }, signal);
        this.tell(answer); // of a format that would lose what was gained
        const link = document.createElement("a");
        link.href = URL.createObjectURL(await answer.blob());
        link.download = this.rename({ jpeg: "jpg" }[this.format] ?? this.format);
        link.click();
        setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
        this.state.hidden = true;
      } catch (error) {
        if (!signal.aborted) this.fail(error);
      }
    });
    this.same.disabled = false;
  }

  tell(answer) {
    const notes = answer.headers.get("X-Notes");
    this.notes.hidden = !notes;
    this.notes.textContent = word(notes ?? "");
  }

  rename(suffix) {
    return `${this.file.name.replace(/\.[^.]*$/, "")}_restored.${suffix}`;
  }

  /** Shows a picture that no browser can, such as a TIFF, as the server decodes it. */
  decodeBefore() {
    if (this.decoded) return;
    this.decoded = true;
    this.view.hidden = true;
    inTurn("inspect", async () => {
      if (this.removed.signal.aborted) return;
      try {
        const answer = await post("api/restore?strength=0&allow_truncated=true", this.file, this.removed.signal);
        this.show(this.before, await answer.blob());
      } catch { /* restoring says what is wrong */ }
    });
  }

  show(image, blob) {
    if (image.src) URL.revokeObjectURL(image.src);
    image.src = URL.createObjectURL(blob);
    if (image === this.before) this.view.hidden = false;
  }

  /** Shows what there is to be had, and the divider once there is something to compare. */
  offer() {
    this.after.hidden = this.divider.hidden = this.zoom.hidden = this.png.hidden = !this.restored;
    for (const each of this.root.querySelectorAll(".line, .right")) each.hidden = !this.restored;
    offerAll();
    this.same.hidden = !this.restored || !this.format || this.format === "png";
    if (this.format) this.same.textContent = `Download ${{ webp: "WebP" }[this.format] ?? this.format.toUpperCase()}`;
    this.cut();
  }

  cut() {
    const at = Number(this.divider.value) / 100;
    const offset = this.after.getBoundingClientRect().left - this.scroller.getBoundingClientRect().left;
    this.after.style.setProperty("--cut", `${at * this.scroller.clientWidth - offset}px`);
    this.view.style.setProperty("--at", `${at * this.scroller.clientWidth}px`);
    this.divider.setAttribute("aria-valuetext", `${Math.round(100 * at)} percent before`);
  }

  setZoom(actual) {
    this.view.classList.toggle("actual", actual);
    this.zoom.setAttribute("aria-pressed", actual);
    // One pixel of the picture is one of the screen.
    this.before.style.width = actual ? `${this.before.naturalWidth / devicePixelRatio}px` : "";
    if (actual) {
      this.scroller.scrollLeft = (this.scroller.scrollWidth - this.scroller.clientWidth) / 2;
      this.scroller.scrollTop = (this.scroller.scrollHeight - this.scroller.clientHeight) / 2;
    }
    this.cut();
  }

  say(text, done) {
    this.state.hidden = false;
    this.status.textContent = text;
    if (done === null) this.progress.removeAttribute("value");
    else this.progress.value = done;
  }

  fail(error) {
    this.state.hidden = true;
    this.error.hidden = false;
    this.error.textContent = word(error.message);
    this.partly.hidden = !error.message.includes("allow_truncated"); // named where it may help
    this.again.hidden = error instanceof Refusal;
    if (!this.before.naturalWidth) this.view.hidden = true;
  }

  remove() {
    this.removed.abort();
    this.running?.abort();
    this.resized.disconnect();
    for (const image of [this.before, this.after]) if (image.src) URL.revokeObjectURL(image.src);
    cards.splice(cards.indexOf(this), 1);
    this.root.remove();
    offerAll();
  }
}

const findRestored = () => cards.filter((card) => card.restored);

function offerAll() {
  find("#all").hidden = findRestored().length < 2;
}

/** Downloads what is restored as PNGs, with pauses: Chromium drops what comes behind ten at once. */
async function downloadAll() {
  find("#all").disabled = true;
  for (const card of findRestored()) {
    card.png.click();
    await sleep(300);
  }
  find("#all").disabled = false;
}

function add(files) {
  for (const file of files) {
    const card = new Card(file);
    cards.push(card);
    find("#cards").append(card.root);
    card.start();
  }
}

find("#files").onchange = (event) => {
  add(event.target.files);
  event.target.value = "";
};
find("#all").onclick = downloadAll;
find("#settings").onsubmit = (event) => event.preventDefault();
for (const name of ["strength", "blend"]) {
  settings[name].oninput = () => { find(`#${name}-value`).textContent = percent(settings[name].value); };
  settings[name].oninput(); // a browser may remember what was set
}
for (const input of Object.values(settings)) input.onchange = () => cards.forEach((card) => card.restore());

document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("over");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  add(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => add(event.clipboardData.files));

limits = await (await fetch("healthz")).json();
find("#limits").textContent = `up to ${limits.max_megabytes} MB and ${limits.max_megapixels} megapixels each`;
find("#blend-label").hidden = !limits.blends;
