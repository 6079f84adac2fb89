"use strict";

const $ = (id) => document.getElementById(id);
const percent = (share) => `${Math.round(100 * share)} %`;
const JPEG_QUALITY = 0.85;
const LONGEST_SIDE = 640; // pixels of a frame that is sent
const KEPT = 3000; // answers of the camera that are drawn

let model = null;
let camera = null; // what runs while the camera does

async function ask(method, path, body) {
  const answer = await fetch(path, { method, body });
  const said = await answer.json().catch(() => ({ error: `the page's program said ${answer.status}` }));
  if (!answer.ok) throw new Error(said.error || `the page's program said ${answer.status}`);
  return said;
}

function tell(text, bad = false) {
  $("state").textContent = text;
  $("state").classList.toggle("bad", bad);
}

// --- What the model says ---

function element(name, text, kind) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

function colour(label) {
  const known = model.classes.indexOf(label);
  const place = known < 0 ? [...label].reduce((sum, letter) => sum + letter.codePointAt(0), 0) : known;
  return `hsl(${Math.round(place * 137.5) % 360} 60% 50%)`; // neighbours are far apart
}

function showAnswer(line) {
  $("answer").hidden = false;
  $("label").textContent = line.class ? `${line.class}, ${percent(line.confidence)}` : "no class";
  const rows = (line.topk || []).map((best) => {
    const row = element("tr");
    const bar = element("td", undefined, "bar");
    const inside = element("i");
    inside.style.width = `${100 * best.confidence}%`;
    bar.append(inside);
    row.append(element("td", best.class), element("td", percent(best.confidence), "number"), bar);
    return row;
  });
  $("top").tBodies[0].replaceChildren(...rows);
}

// Windows overlap: of two, each is shown up to half-way between their middles.
function spansOf(along) {
  const middle = (line) => (line.start + line.end) / 2;
  const spans = [];
  along.forEach((line, place) => {
    const start = place ? (middle(along[place - 1]) + middle(line)) / 2 : line.start;
    const end = place + 1 < along.length ? (middle(line) + middle(along[place + 1])) / 2 : line.end;
    const last = spans[spans.length - 1];
    if (last && last.label === line.class && !line.anew) {
      last.end = end;
      last.shares.push(line.confidence);
    } else {
      spans.push({ start, end, label: line.class, shares: [line.confidence] });
    }
  });
  return spans;
}

function showSpans(along) {
  if (!along.length) return;
  const spans = spansOf(along);
  const first = along[0].start;
  const length = Math.max(along[along.length - 1].end - first, 1e-6);
  const canvas = $("line");
  const pen = canvas.getContext("2d");
  pen.clearRect(0, 0, canvas.width, canvas.height);
  const across = (seconds) => ((seconds - first) / length) * canvas.width;
  for (const span of spans) {
    pen.fillStyle = colour(span.label);
    const share = span.shares.reduce((sum, value) => sum + value, 0) / span.shares.length;
    const height = Math.max(4, share * canvas.height); // how sure it is
    pen.fillRect(across(span.start), canvas.height - height, Math.max(1, across(span.end) - across(span.start)), height);
  }
  $("ends").firstElementChild.textContent = `${first.toFixed(1)} s`;
  $("last").textContent = `${(first + length).toFixed(1)} s`;
  const seen = [...new Set(spans.map((span) => span.label))];
  $("legend").replaceChildren(...seen.map((label) => {
    const entry = element("li");
    const patch = element("i");
    patch.style.background = colour(label);
    entry.append(patch, label);
    return entry;
  }));
  $("spans").tBodies[0].replaceChildren(...spans.slice(-200).map((span) => {
    const row = element("tr");
    const share = span.shares.reduce((sum, value) => sum + value, 0) / span.shares.length;
    row.append(
      element("td", `${span.start.toFixed(2)} s`), element("td", `${span.end.toFixed(2)} s`),
      element("td", span.label), element("td", percent(share)),
    );
    return row;
  }));
}

// --- A video ---

async function judge(file, name) {
  stopCamera();
  const megabytes = file.size / 1e6;
  if (megabytes > model.megabytes) {
    tell(`${name} has ${megabytes.toFixed(0)} MB; at most ${model.megabytes} MB are taken (--limit allows more)`, true);
    return;
  }
  tell(`${name}: being watched …`);
  $("file").disabled = true;
  try {
    const said = await ask("POST", `clip?name=${encodeURIComponent(name)}`, file);
    const { whole, along, overlay } = said;
    showAnswer(whole);
    showSpans(along);
    const screen = $("screen");
    $("caption").hidden = true;
    screen.srcObject = null;
    screen.controls = true;
    screen.loop = true;
    $("answer").querySelector(".screen").hidden = !overlay;
    if (overlay) {
      screen.src = `overlay/${overlay}.mp4`;
      screen.play().catch(() => {});
    }
    $("notes").replaceChildren(...(whole.notes || []).map((note) => element("li", note)));
    tell(`${name}: ${whole.frames} frames, ${whole.seconds.toFixed(1)} s`);
  } catch (error) {
    tell(`${name}: ${error.message}`, true);
  } finally {
    $("file").disabled = false;
    $("file").value = "";
  }
}

// --- The camera ---

async function startCamera() {
  $("start").disabled = true;
  tell("the camera starts …");
  let media = null;
  try {
    if (!navigator.mediaDevices) throw new Error("this browser gives no camera to this page: open it as http://127.0.0.1");
    media = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 640 } }, audio: false });
    const streams = !model.why_no_stream;
    const opened = streams ? await ask("POST", "live") : null;
    const screen = $("screen");
    screen.controls = false;
    screen.removeAttribute("src");
    screen.srcObject = media;
    await screen.play();
    camera = { media, ...opened, began: performance.now(), offset: 0, along: [] };
    $("answer").hidden = false;
    $("answer").querySelector(".screen").hidden = false;
    $("notes").replaceChildren();
    if (!streams) {
      $("label").textContent = "";
      $("top").tBodies[0].replaceChildren();
    }
    $("start").textContent = "Stop the camera";
    $("anew").hidden = $("each").hidden = !streams;
    $("record").hidden = false;
    $("caption").hidden = !streams;
    $("caption").textContent = "…";
    tell(streams ? "the camera is watched; nothing is recorded" : "record a clip, and the model says what it is");
    if (streams) watch(camera).catch((error) => { if (camera) { stopCamera(); tell(error.message, true); } });
  } catch (error) {
    if (media) media.getTracks().forEach((track) => track.stop());
    tell(error.name === "NotAllowedError" ? "the browser was not allowed to use the camera" : error.message, true);
  } finally {
    $("start").disabled = false;
  }
}

function stopCamera() {
  if (!camera) return;
  const { media, stream } = camera;
  camera = null;
  media.getTracks().forEach((track) => track.stop());
  if (stream) ask("DELETE", `live/${stream}`).catch(() => {});
  $("screen").srcObject = null;
  $("start").textContent = "Start the camera";
  $("anew").hidden = $("each").hidden = $("record").hidden = $("caption").hidden = true;
  tell("the camera is off");
}

const pause = (milliseconds) => new Promise((done) => setTimeout(done, Math.max(0, milliseconds)));

function picture(screen) {
  const factor = Math.min(1, LONGEST_SIDE / Math.max(screen.videoWidth, screen.videoHeight));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(screen.videoWidth * factor));
  canvas.height = Math.max(1, Math.round(screen.videoHeight * factor));
  canvas.getContext("2d").drawImage(screen, 0, 0, canvas.width, canvas.height);
  return new Promise((done, failed) => canvas.toBlob(
    (blob) => (blob ? done(blob) : failed(new Error("the camera gives no picture"))), "image/jpeg", JPEG_QUALITY,
  ));
}

// Frames go one after another; where the model is slower than the camera, some are left out, and the
// time at which a frame ends tells how many.
async function watch(own) {
  const each = 1000 / own.fps;
  const clock = () => performance.now() - own.began;
  let next = 0;
  let anew = 0; // milliseconds at which the stream last began
  while (camera === own) {
    await pause(next - clock());
    if (camera !== own) return;
    const now = clock();
    next = Math.max(now, next) + each;
    if (own.wanted || ($("often").checked && now - anew >= 1000 * model.clip_seconds)) {
      await ask("POST", `live/${own.stream}/anew`);
      own.wanted = false;
      anew = now;
      own.restarted = true;
    }
    const end = (now - anew + each) / 1000;
    const said = await ask("POST", `live/${own.stream}?end=${end.toFixed(4)}`, await picture($("screen")));
    if (camera !== own) return;
    const start = own.along.length ? own.along[own.along.length - 1].end : now / 1000;
    own.along.push({ ...said, start, end: clock() / 1000, anew: own.restarted });
    own.restarted = false;
    if (own.along.length > KEPT) own.along.shift();
    showAnswer(said);
    $("caption").textContent = $("label").textContent;
    showSpans(own.along);
  }
}

function record() {
  const { media } = camera;
  const type = ["video/webm;codecs=vp8", "video/webm", "video/mp4"].find((kind) => MediaRecorder.isTypeSupported(kind));
  const recorder = new MediaRecorder(media, type ? { mimeType: type } : {});
  const parts = [];
  const seconds = Math.min(Math.max(model.clip_seconds, 2), 30);
  recorder.ondataavailable = (event) => parts.push(event.data);
  recorder.onstop = () => {
    const ending = recorder.mimeType.includes("mp4") ? "mp4" : "webm";
    judge(new Blob(parts, { type: recorder.mimeType }), `camera.${ending}`);
  };
  recorder.start();
  $("record").disabled = true;
  tell(`recording ${seconds.toFixed(1)} s …`);
  setTimeout(() => {
    $("record").disabled = false;
    if (recorder.state === "recording") recorder.stop();
  }, 1000 * seconds);
}

// --- The page ---

async function begin() {
  model = await ask("GET", "model");
  document.title = `${model.name}, vidrec demo`;
  $("name").textContent = model.name;
  $("about").textContent = `${model.classes.length} classes, ${model.scanner} over ${model.encoder}. Nothing leaves this machine.`;
  $("seconds").textContent = model.clip_seconds;
  $("why").textContent = model.why_no_stream
    ? `No live labels: ${model.why_no_stream}. A clip can be recorded.`
    : "The model keeps its state from frame to frame, and labels each as it comes.";
  $("file").addEventListener("change", () => { const [file] = $("file").files; if (file) judge(file, file.name); });
  $("start").addEventListener("click", () => (camera ? stopCamera() : startCamera()));
  $("anew").addEventListener("click", () => { if (camera) camera.wanted = true; });
  $("record").addEventListener("click", record);
  for (const name of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      $("drop").classList.toggle("over", name === "dragover");
      if (name === "drop" && event.dataTransfer.files.length) {
        const [file] = event.dataTransfer.files;
        judge(file, file.name);
      }
    });
  }
  addEventListener("pagehide", () => { if (camera && camera.stream) fetch(`live/${camera.stream}`, { method: "DELETE", keepalive: true }); });
}

begin().catch((error) => tell(error.message, true));
