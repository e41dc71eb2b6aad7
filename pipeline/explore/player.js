"use strict";
// Plays the frames of a clip and draws over each the face that the store holds of it, at once with
// the cursors in the curves. Pictures come one by one from the server, which decodes them.
const explorer = (() => {
  const AHEAD = 6, BEHIND = 2; // frames whose pictures are asked for or kept around the shown one
  const LATE = 100; // ms: after such a wait playing goes on from there instead of leaping ahead
  const KEYS = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -Infinity,
                 End: Infinity };
  const at = (id) => document.getElementById(id);
  const player = at("player"), stage = at("stage"), canvas = at("picture"), face = at("face");
  const play = at("play"), seek = at("seek"), when = at("when"), why = at("why");
  const parts = JSON.parse(player.dataset.lines);
  let clip = null; // what is shown: id, frames, data of the store, pictures by number, now
  let turn = 0; // counts what was asked to be shown, so that only the last is
  let run = 0; // counts plays and pauses
  let playing = false;

  function picture(number) {
    if (!clip.pictures.has(number)) {
      const left = new AbortController();
      const query = new URLSearchParams({ clip: clip.id, frame: number });
      const asked = fetch(`${player.dataset.frames}?${query}`, { signal: left.signal })
        .then(async (answer) => {
          if (!answer.ok) throw new Error(await answer.text());
          return createImageBitmap(await answer.blob());
        });
      asked.catch(() => {}); // whoever waits for it hears of it
      clip.pictures.set(number, { asked, left });
    }
    return clip.pictures.get(number).asked;
  }

  function forget(from, to) { // pictures outside of from..to
    for (const [number, { asked, left }] of clip.pictures) {
      if (number >= from && number <= to) continue;
      left.abort();
      asked.then((bitmap) => bitmap.close(), () => {});
      clip.pictures.delete(number);
    }
  }

  // Show a frame once its picture is there; false where another is wanted by then.
  async function show(number, ahead = 0) {
    const mine = ++turn, wanted = clip;
    let bitmap = null;
    if (wanted.seen) {
      forget(number - BEHIND, number + AHEAD);
      const last = Math.min(number + ahead, wanted.frames - 1);
      for (let next = number; next <= last; next++) picture(next);
      const busy = setTimeout(() => { stage.ariaBusy = "true"; }, 300);
      try {
        bitmap = await picture(number);
      } catch (error) {
        if (mine !== turn) return false;
        why.textContent = `No pictures: ${error.message}`;
        wanted.seen = false;
      } finally {
        clearTimeout(busy);
        stage.ariaBusy = "false";
      }
      if (mine !== turn) return false;
    }
    draw(number, bitmap);
    return true;
  }

  function draw(number, bitmap) {
    const { landmark, corners, valid, time } = clip.data;
    const paper = canvas.getContext("2d");
    if (bitmap) {
      if (canvas.width !== bitmap.width) canvas.width = bitmap.width;
      if (canvas.height !== bitmap.height) canvas.height = bitmap.height;
      paper.drawImage(bitmap, 0, 0);
    } else {
      paper.clearRect(0, 0, canvas.width, canvas.height);
    }
    const found = Boolean(valid[number]);
    const point = (k) => `${landmark[136 * number + 2 * k]} ${landmark[136 * number + 2 * k + 1]}`;
    const between = (from, to) => Array.from({ length: to - from }, (_, k) => point(from + k));
    const [x0, y0, x1, y1] = [0, 1, 2, 3].map((k) => corners[4 * number + k]);
    const paths = {
      box: () => `M${x0} ${y0}H${x1}V${y1}H${x0}Z`,
      lines: () => parts.map(([from, to, closed]) =>
        `M${between(from, to).join("L")}${closed ? "Z" : ""}`).join(""),
      points: () => between(0, 68).map((p) => `M${p}h0`).join(""),
    };
    for (const [id, path] of Object.entries(paths)) at(id).setAttribute("d", found ? path() : "");
    clip.now = number;
    seek.value = number;
    const said = `frame ${number} of ${clip.frames}, ${time[number].toFixed(3)} s` +
      (found ? "" : ", no face");
    when.textContent = said;
    seek.ariaValueText = said;
    // Not told to the server, which has no use for it.
    for (const cursor of clip.cursors) cursor.setv({ location: time[number] }, { sync: false });
  }

  function pause() {
    run++;
    playing = false;
    play.textContent = "Play";
  }

  async function start() {
    const mine = ++run, shown = clip;
    playing = true;
    play.textContent = "Pause";
    if (clip.now === clip.frames - 1) await show(0, AHEAD);
    const { time } = shown.data;
    let began = performance.now(), from = time[shown.now];
    while (mine === run && shown.now < shown.frames - 1) {
      const called = await new Promise(requestAnimationFrame);
      let next = shown.now;
      while (next + 1 < shown.frames && time[next + 1] <= from + (called - began) / 1000) next++;
      if (mine !== run || next === shown.now) continue;
      const asked = performance.now();
      if (!(await show(next, AHEAD))) break;
      if (performance.now() - asked > LATE) {
        began = performance.now();
        from = time[next];
      }
    }
    if (mine === run) pause();
  }

  function go(number) {
    pause();
    show(Math.max(0, Math.min(clip.frames - 1, number)));
  }

  play.onclick = () => (playing ? pause() : start());
  seek.oninput = () => go(Number(seek.value));
  at("drawn").onchange = (event) => { face.style.display = event.target.checked ? "" : "none"; };
  document.addEventListener("keydown", (event) => {
    const on = event.composedPath()[0], inside = player.contains(on);
    const other = event.ctrlKey || event.metaKey || event.altKey || event.shiftKey;
    if (!clip || !clip.frames || other || !(inside || on === document.body)) return;
    if (event.key === " " && !["BUTTON", "LABEL"].includes(on.tagName) && on.type !== "checkbox") {
      play.onclick();
    } else if (event.key in KEYS && (inside || event.key.startsWith("Arrow"))) {
      go(clip.now + KEYS[event.key]);
    } else {
      return;
    }
    event.preventDefault();
  });

  return {
    // Show the clip that a data source has come to hold; `cursors` go along in its curves.
    load(track, cursors) {
      if (clip) {
        pause();
        turn++;
        forget(0, -1);
      }
      const [id, width, height] = track.tags;
      const frames = track.data.time.length;
      clip = { id, frames, cursors, data: track.data, pictures: new Map(), now: 0,
               seen: player.dataset.frames !== "" };
      at("told").textContent = id;
      why.textContent = frames ? (clip.seen ? "" : "No pictures: --videos was not given")
        : "The store holds no frames of this clip";
      stage.style.setProperty("--ratio", `${width} / ${height}`);
      stage.style.setProperty("--wide", width / height);
      face.setAttribute("viewBox", `0 0 ${width} ${height}`);
      canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
      for (const id of ["box", "lines", "points"]) at(id).setAttribute("d", "");
      when.textContent = "";
      seek.max = Math.max(frames - 1, 0);
      play.disabled = seek.disabled = !frames;
      if (frames) show(0, AHEAD);
    },

    // Go to the frame that is shown at a time in seconds.
    seek(seconds) {
      if (!clip || !clip.frames) return;
      let number = 0;
      while (number + 1 < clip.frames && clip.data.time[number + 1] <= seconds) number++;
      go(number);
    },
  };
})();
