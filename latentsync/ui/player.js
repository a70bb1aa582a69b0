// Runs once for the component; its content is replaced for every result.
const part = (name) => element.querySelector(`[data-part="${name}"]`);
const NUDGE_S = 0.2; // drift beyond which the source is moved
const BACKWARDS_S = 0.08; // step while the source runs backwards: browsers cannot play backwards

// Position of the source at a time of the result, and whether it runs forwards there.
function sourceAt(time, length, whole, mode) {
  if (mode === "loop") return [time % length, true];
  if (mode === "remap") return [(time * length) / whole, true];
  if (mode !== "bounce") return [Math.min(time, length), time < length];
  const phase = time % (2 * length);
  return phase <= length ? [phase, true] : [2 * length - phase, false];
}

function follow(source, result) {
  if (!source || !source.duration || !result.duration) return;
  const mode = element.querySelector(".ls-player").dataset.syncMode;
  const [wanted, forwards] = sourceAt(
    result.currentTime, source.duration, result.duration, mode);
  source.playbackRate =
    mode === "remap" ? Math.min(Math.max(source.duration / result.duration, 0.1), 8) : 1;
  const plays = forwards && !result.paused && !result.ended;
  const drift = Math.abs(source.currentTime - wanted);
  if (drift > (plays ? NUDGE_S : BACKWARDS_S) && !source.seeking) source.currentTime = wanted;
  if (plays && source.paused) source.play().catch(() => undefined); // then it follows by seeking
  if (!plays && !source.paused) source.pause();
}

function show(result) {
  const button = part("play"), seek = part("seek");
  const share = result.duration ? result.currentTime / result.duration : 0;
  button.textContent = result.paused ? button.dataset.name : "Pause";
  if (document.activeElement !== seek || !result.paused) seek.value = share;
  part("time").textContent = `${result.currentTime.toFixed(1)} s`;
  for (const line of document.querySelectorAll('[data-part="now"]')) {
    line.setAttribute("transform", `translate(${1000 * share} 0)`);
  }
}

function tick() {
  const result = part("result");
  if (!result) return;
  follow(part("source"), result);
  show(result);
  if (!result.paused) requestAnimationFrame(tick);
}

element.addEventListener("click", (event) => {
  if (!event.target.closest('[data-part="play"]')) return;
  const result = part("result");
  if (result.paused) result.play().catch(() => show(result));
  else result.pause();
});
element.addEventListener("input", (event) => {
  const result = part("result");
  if (!event.target.matches('[data-part="seek"]') || !result.duration) return;
  result.currentTime = event.target.value * result.duration;
});
// Media events do not bubble, so they are captured.
for (const name of ["play", "pause", "ended", "seeked", "loadedmetadata"]) {
  element.addEventListener(name, (event) => {
    if (event.target === part("result") || name === "loadedmetadata") tick();
  }, true);
}
