"use strict";
const all = document.getElementById("opacity");
const scenes = [...document.querySelectorAll(".scene")].map(scene => ({
  slider: scene.querySelector(".opacity"), classes: scene.querySelector(".classes"),
}));

function apply({ slider, classes }) {
  classes.style.opacity = slider.value / 100;
}

for (const scene of scenes) {
  scene.slider.addEventListener("input", () => apply(scene));
  apply(scene);   // a browser may remember where sliders stood
}
all.addEventListener("input", () => {
  for (const scene of scenes) {
    scene.slider.value = all.value;
    apply(scene);
  }
});
