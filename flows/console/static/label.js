// One image after the other, by keyboard. A key paints the next image, which is decoded already; the answer goes to the
// server behind it. Answers that the server has not acknowledged are kept in localStorage, sent again, and called unsaved.
"use strict";
(() => {
  const desk = document.getElementById("label-desk");
  if (!desk) return;
  const get = id => document.getElementById(id);
  const state = JSON.parse(get("label-state").textContent);
  const queue = desk.dataset.queue, store = desk.dataset.store;
  const digits = "1234567890", stages = [1, 1.5, 2, 3, 4];
  const form = get("label-form"), list = get("label-classes"), filter = get("label-filter");
  const many = state.items.some(item => item.classes.length > state.few);
  let token = form.elements.token.value;
  let items = [], shown = null, zoom = 0, marked = new Set(), past = [], listed = [], done = state.done, free = state.free;

  // --- what was not acknowledged
  let unsaved = [];
  try { unsaved = JSON.parse(localStorage.getItem(store) ?? "[]"); } catch { unsaved = []; }
  unsaved = Array.isArray(unsaved) ? unsaved.filter(entry => entry.to !== "more") : [];
  let sending = false, flying = 0, wait = 1000, timer = 0, trouble = "";
  const keep = () => {
    try {
      if (unsaved.length) localStorage.setItem(store, JSON.stringify(unsaved)); else localStorage.removeItem(store);
    } catch { trouble = "this browser keeps nothing for later"; }
    const count = unsaved.filter(entry => entry.to !== "more").length;
    const warning = get("label-unsaved"), text = count
      ? `${count} ${count === 1 ? "answer is" : "answers are"} unsaved${trouble ? `: ${trouble}` : ""}. Keep this page open.` : "";
    warning.hidden = !(count && (trouble || count > 3));
    if (warning.textContent !== text) warning.textContent = text;
    get("label-count").textContent = `${done} done, ${free} left for you${count ? `, ${count} unsaved` : ""}`;
    get("label-count").classList.toggle("warn", count > 0);
  };
  addEventListener("beforeunload", event => { if (unsaved.some(entry => entry.to !== "more")) event.preventDefault(); });

  const renewToken = async () => {
    const page = await fetch("/label");
    const found = page.ok && new DOMParser().parseFromString(await page.text(), "text/html").querySelector("input[name=token]");
    if (found) token = found.value;
    return Boolean(found);
  };
  const most = 20;  // answers in one request
  const together = () => {
    const end = unsaved.findIndex(entry => entry.to !== "answer");
    return unsaved.slice(0, end === 0 ? 1 : Math.min(end < 0 ? unsaved.length : end, most));
  };
  const post = async entries => {
    const body = new URLSearchParams([["token", token], ["order", desk.dataset.order]]);
    if (entries[0].to === "answer") for (const entry of entries) body.append("entry", new URLSearchParams(entry.fields));
    else for (const [name, value] of entries[0].fields) body.append(name, value);
    for (const item of items) body.append("have", item.id);
    if (shown) body.append("have", shown.id);
    return fetch(`/label/${queue}/${entries[0].to}`, {method: "POST", body, headers: {Accept: "application/json"}});
  };
  const flush = async () => {
    if (sending || !unsaved.length) return;
    sending = true;
    clearTimeout(timer);
    while (unsaved.length) {
      const entries = together();
      flying = entries.length;
      let answer = null, content = {};
      try {
        answer = await post(entries);
        content = await answer.json().catch(() => ({}));
      } catch { answer = null; }
      if (answer && (answer.ok || answer.status === 409)) {
        unsaved.splice(0, entries.length);
        trouble = "";
        wait = 1000;
        flying = 0;
        if (answer.ok) arrived(content, entries); else refused(content.refused ?? "it was refused", entries[0]);
        keep();
        continue;
      }
      trouble = !answer ? "the server does not answer" : answer.status === 401 ? "sign in again in another tab" : `the server says ${answer.status}`;
      if (answer?.status === 403 && await renewToken().catch(() => false)) trouble = "";
      keep();
      flying = 0;
      timer = setTimeout(flush, wait);
      wait = Math.min(wait * 2, 15000);
      break;
    }
    sending = false;
    if (unsaved.length && !trouble) flush();
  };
  const send = (to, fields, kind) => {
    unsaved.push({to, fields, kind});
    keep();
    flush();
  };
  const say = text => { get("label-said").textContent = text; };
  const refused = (text, entry) => {
    say(`Not saved: ${text}`);
    const at = past.findIndex(one => one.item.id === entry.fields.find(field => field[0] === "id")?.[1]);
    if (at >= 0) { items.unshift(past[at].item); past.splice(at, 1); if (!shown) next(); }
  };
  const arrived = (content, entries) => {
    const entry = entries[0];
    (content.told ?? []).forEach((told, at) => { if (told.refused) refused(told.refused, entries[at]); });
    done = content.done ?? done;
    free = content.free ?? free;
    if (content.gone?.length) items = items.filter(item => !content.gone.includes(item.id));
    const here = new Set([shown?.id, ...items.map(item => item.id), ...unsaved.map(one => one.fields[0]?.[1])]);
    for (const item of content.items ?? []) if (!here.has(item.id)) items.push(load(item));
    if (entry.to === "undo" && entry.kind === "ask" && content.item) back(load(content.item));
    if (!shown && items.length) next(waitingSince);
    else if (waiting && !unsaved.length) {
      if (entry.to === "more") free = 0;  // what is left is on other people's screens
      next(waitingSince);
    }
    if (entry.to === "undo") say(content.said ?? "");
  };

  // --- images: loaded and decoded before they are shown
  const load = item => {
    const image = new Image();
    image.alt = `Image to label, ${item.id.slice(0, 12)}`;
    image.width = image.height = 480;
    image.src = item.image;
    image.id = "label-image";
    item.element = image;
    item.ready = image.decode().then(() => true, () => false);
    return item;
  };
  const paint = async (item, since) => {
    const whole = await item.ready;
    if (shown !== item) return;
    requestAnimationFrame(() => {
      const channel = new MessageChannel();  // runs when the frame is painted
      channel.port1.onmessage = () => {
        if (since !== null) performance.measure("label-next", {start: since, end: performance.now(), detail: item.id});
      };
      channel.port2.postMessage(null);
    });
    if (!whole) say("This image cannot be shown: exclude or skip it.");
  };
  const fit = () => { get("label-frame").dataset.zoom = String(zoom); };

  // --- show one
  const show = (item, since = null) => {
    shown = item;
    zoom = 0;
    fit();
    waiting = !item && (free > 0 || unsaved.length > 0);
    waitingSince = waiting ? since : null;
    desk.hidden = !item && !waiting;
    get("label-end").hidden = Boolean(item) || waiting;
    if (waiting) { get("label-frame").replaceChildren(); say("Loading the next image ..."); ask(); }
    if (!item) return;
    get("label-said").textContent = "";
    get("label-frame").replaceChildren(item.element);
    get("label-why").textContent = item.why + (item.detail ? `. ${item.detail}` : "");
    get("label-about").textContent = item.about;
    get("label-because").textContent = item.because;
    facts(item);
    form.elements.id.value = item.id;
    marked = new Set(item.multilabel && Array.isArray(item.suggestion) ? item.suggestion : []);
    if (filter) filter.value = "";
    classes();
    for (const [action, text] of [["suggestion", item.suggestion_text], ["given", item.given_text]])
      form.querySelector(`[value=${action}][name=action]`).disabled = text === null;
    paint(item, since);
  };
  const percent = value => `${(100 * value).toFixed(value > 0.995 || value < 0.005 ? 1 : 0)} %`;
  const facts = item => {
    const parts = [];
    const fact = (words, label, more) => {
      const span = document.createElement("span"), b = document.createElement("b");
      b.dir = "auto";
      b.textContent = label;
      span.append(`${words} `, b, more);
      parts.push(span, " ");
    };
    if (item.given_text !== null) fact("Label now", item.given_text, "");
    if (item.suggestion_text !== null) fact("Suggested", item.suggestion_text, item.confidence === null ? "" : ` (${percent(item.confidence)})`);
    if (item.blind) parts.push("What the model says is hidden: it would sway you.");
    get("label-facts").replaceChildren(...parts);
  };
  const classes = () => {
    if (!list) return;
    const words = (filter?.value ?? "").trim().toLowerCase();
    listed = shown.classes.filter(one => !words || one.name.toLowerCase().includes(words));
    if (words) listed.sort((a, b) => b.name.toLowerCase().startsWith(words) - a.name.toLowerCase().startsWith(words));
    list.replaceChildren(...listed.map((one, at) => {
      const button = document.createElement("button"), name = document.createElement("span");
      button.className = "btn label-class";
      button.name = "label";
      button.value = one.name;
      name.dir = "auto";
      name.textContent = one.name.slice(0, 200);
      if (at < digits.length) {
        const key = document.createElement("kbd");
        key.textContent = digits[at];
        button.append(key);
      }
      button.append(name);
      if (one.p !== null) {
        const small = document.createElement("small");
        small.textContent = percent(one.p);
        button.append(small);
      }
      if (shown.multilabel) button.setAttribute("aria-pressed", String(marked.has(one.name)));
      if (words && at === 0) button.classList.add("chosen");
      return button;
    }));
  };
  let waiting = false, waitingSince = null;
  const ask = () => { if (!unsaved.length) send("more", [], "more"); };  // else the answers bring the next images
  const next = (since = null) => show(items.shift() ?? null, since);
  const back = item => {
    if (shown) items.unshift(shown);
    show(item);
  };

  // --- answer
  const answer = (fields, kind, since) => {
    if (!shown) return;
    const item = shown;
    past.push({item, kind});
    if (past.length > 200) past.shift();
    if (kind === "answer") { done += 1; free = Math.max(0, free - 1); }
    unsaved.push({to: "answer", fields: [["id", item.id], ...fields], kind});
    next(since);
    keep();
    setTimeout(flush);  // when the next image is on its way to the screen
  };
  const pick = (name, since) => {
    if (!shown.multilabel) return answer([["action", "label"], ["label", name]], "answer", since);
    if (!marked.delete(name)) marked.add(name);
    if (filter?.value) filter.value = "";
    classes();
  };
  const act = (action, since) => {
    if (!shown) return;
    if (action === "label") {
      if (!marked.size) return say("Mark at least one class, or press X for none of them.");
      return answer([["action", "label"], ...[...marked].map(name => ["label", name])], "answer", since);
    }
    if (action === "suggestion" && shown.suggestion === null) return say("Nothing is suggested for this image.");
    if (action === "given" && shown.given === null) return say("This image has no label that could be kept.");
    if (action === "none" && !shown.multilabel) return;
    answer([["action", action]], ["skip", "other"].includes(action) ? action : "answer", since);
  };
  const undo = () => {
    const last = past.pop();
    if (!last) return send("undo", [], "ask");
    const at = unsaved.findLastIndex(entry => entry.fields[0]?.[1] === last.item.id);
    if (at >= flying) {  // not sent yet
      unsaved.splice(at, 1);
      keep();
    } else if (last.kind === "answer") send("undo", [["id", last.item.id]], "told");
    else send("answer", [["id", last.item.id], ["action", "again"]], "again");
    if (last.kind === "answer") { done -= 1; free += 1; }
    back(load(last.item));
    keep();
  };

  // --- keys; above ten classes letters find a class, and the keys below need Shift
  const commands = {w: "suggestion", q: "given", e: "exclude", n: "other", x: "none"};
  let went = 0;
  document.addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const target = event.target, since = event.timeStamp;
    if (target !== filter && target.closest("input, select, textarea, summary, a")) return;
    if (target.closest("button, form.label-undo") && (event.key === "Enter" || event.key === " ")) return;
    if (event.repeat && target !== filter) {  // a key that is held answers one image
      if (event.key === " ") event.preventDefault();
      return;
    }
    const key = event.key, letter = key.length === 1 && /\p{L}/u.test(key), typed = filter?.value ?? "";
    const command = commands[key.toLowerCase()] && (!many || event.shiftKey) ? key.toLowerCase() : "";
    if (Date.now() - went < 1500 && !many) { went = 0; return; }  // g and a letter: another section
    let used = true;
    if (key === "Escape" && many && typed) { filter.value = ""; classes(); }
    else if (command && command in commands && !typed) act(commands[command], since);
    else if (key.toLowerCase() === "u" && (!many || event.shiftKey) && !typed) undo();
    else if (digits.includes(key) && key.length === 1) {
      const one = listed[digits.indexOf(key)];
      if (one && shown) pick(one.name, since);
    } else if (key === "Enter") {
      if (!shown) used = false;
      else if (typed.trim()) { if (listed.length) pick(listed[0].name, since); }
      else act(shown.multilabel ? "label" : "suggestion", since);
    } else if (key === " " && !typed) act("skip", since);
    else if (key === "+" || key === "-" || key === "=") { zoom = Math.min(Math.max(zoom + (key === "-" ? -1 : 1), 0), stages.length - 1); fit(); }
    else if (many && key === "Backspace" && target !== filter) { filter.value = typed.slice(0, -1); classes(); }
    else if (many && letter && target !== filter) { filter.value += key; filter.focus(); classes(); }
    else {
      if (key === "g") went = Date.now();
      used = false;
    }
    if (used) { event.preventDefault(); event.stopImmediatePropagation(); }
  }, true);
  if (filter) {
    get("label-find").hidden = !many;
    filter.addEventListener("input", classes);
  }
  document.addEventListener("submit", event => {
    const by = event.submitter;
    if (event.target === form && by && shown && !(form.elements.label instanceof HTMLInputElement && form.elements.label.type === "text")) {
      event.preventDefault();
      if (by.name === "label") pick(by.value, performance.now()); else act(by.value, performance.now());
    } else if (event.target.closest("form.label-undo")) {
      event.preventDefault();
      undo();
    }
  });

  // --- begin: what the server gave, without what this browser has answered already
  const answered = new Set(unsaved.map(entry => entry.fields[0]?.[1]));
  items = state.items.filter(item => !answered.has(item.id)).map(load);
  if (many) for (const kbd of document.querySelectorAll("#label-keys kbd, form.label-undo kbd"))
    if (/^[A-Z]$/.test(kbd.textContent)) kbd.textContent = `⇧${kbd.textContent}`;
  next();
  keep();
  flush();
  addEventListener("online", flush);
  document.addEventListener("visibilitychange", flush);
  desk.dataset.ready = "yes";
})();
