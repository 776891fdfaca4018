"use strict";
// Media elements, as a page from a disk may not read the samples of its files. They start together; each that comes to
// run ahead of the first audible one, or behind it, is played a little slower or faster until it does not.
const FAR = 0.1, NEAR = 0.001;   // seconds apart: jump, or leave alone
const MOST = 0.03, GAIN = 4;     // change of speed, at most and for each second apart
const seconds = JSON.parse(document.getElementById("data").textContent).seconds;
const play = document.getElementById("play"), position = document.getElementById("position");
const clock = document.getElementById("clock"), status = document.getElementById("status");
const tracks = [...document.querySelectorAll(".track")].map(section => ({
  name: section.dataset.name, section, audio: section.querySelector("audio"), head: section.querySelector(".head"),
  mute: section.querySelector(".mute"), solo: section.querySelector(".solo"), volume: section.querySelector(".volume"),
}));
let playing = false, seeking = 0, dragging = false;

const usable = () => tracks.filter(track => !track.missing);
const isOn = button => button.getAttribute("aria-pressed") === "true";
const now = () => usable().length ? leader().audio.currentTime : 0;

function leader() {
  const all = usable();
  return all.find(track => !track.audio.muted && !track.audio.ended) || all.find(track => !track.audio.ended) || all[0];
}

function mix() {
  const alone = tracks.some(track => isOn(track.solo));
  for (const track of tracks) {
    const heard = alone ? isOn(track.solo) : !isOn(track.mute);
    track.audio.muted = !heard;
    track.audio.volume = Number(track.volume.value);
    track.section.classList.toggle("silent", !heard);
  }
}

function format(time) {
  const tenths = Math.round(time * 10);
  return `${Math.floor(tenths / 600)}:${(tenths % 600 / 10).toFixed(1).padStart(4, "0")}`;
}

function show(time) {
  clock.textContent = `${format(time)} / ${format(seconds)}`;
  if (!dragging) position.value = time;
  for (const track of tracks) track.head.style.left = `${100 * Math.min(1, time / seconds)}%`;
}

function settled(audio, time) {
  return new Promise(resolve => {
    audio.addEventListener("seeked", resolve, { once: true });
    setTimeout(resolve, 2000);   // of a file that has become unreadable
    audio.currentTime = time;
  });
}

async function seek(time) {
  const mine = ++seeking;
  for (const track of usable()) track.audio.pause();
  show(time);
  await Promise.all(usable().map(track => settled(track.audio, time)));
  if (mine === seeking && playing) await start();
}

async function start() {
  playing = true;
  play.textContent = "Pause";
  const results = await Promise.allSettled(usable().map(track => {
    track.audio.playbackRate = 1;
    return track.audio.play();
  }));
  if (playing && results.every(result => result.status === "rejected")) {
    pause();
    status.textContent = "This browser does not play these files.";
  }
}

function pause() {
  playing = false;
  play.textContent = "Play";
  for (const track of usable()) track.audio.pause();
}

function follow() {
  if (!playing) return;
  const first = leader();
  if (!first || first.audio.ended) {
    pause();
    seek(0);
    return;
  }
  show(first.audio.currentTime);
  for (const { audio } of usable()) {
    if (audio === first.audio || audio.ended || audio.seeking) continue;
    const ahead = audio.currentTime - first.audio.currentTime;
    if (Math.abs(ahead) > FAR) audio.currentTime = first.audio.currentTime;
    audio.playbackRate = Math.abs(ahead) < NEAR ? 1 : 1 - Math.max(-MOST, Math.min(MOST, GAIN * ahead));
  }
  first.audio.playbackRate = 1;
}

for (const track of tracks) {
  track.audio.preservesPitch = false;   // a change of speed this small is not heard; keeping the pitch would be
  for (const button of [track.mute, track.solo]) {
    button.addEventListener("click", () => {
      button.setAttribute("aria-pressed", String(!isOn(button)));
      mix();
    });
  }
  track.volume.addEventListener("input", mix);
  track.audio.addEventListener("error", () => {
    track.missing = true;
    track.section.classList.add("missing");
    status.textContent = `Not played: ${tracks.filter(one => one.missing).map(one => one.name).join(", ")}. ` +
      "The files belong beside this page, in a format that the browser plays.";
    play.disabled = !usable().length;
  });
  track.section.querySelector(".picture").addEventListener("click", event => {
    const box = event.currentTarget.getBoundingClientRect();
    seek(seconds * Math.max(0, Math.min(1, (event.clientX - box.left) / box.width)));
  });
}
play.addEventListener("click", () => playing ? pause() : start());
position.addEventListener("input", () => { dragging = true; show(Number(position.value)); });
position.addEventListener("change", () => { dragging = false; seek(Number(position.value)); });
mix();
setInterval(follow, 50);
