"use strict";
const paper = document.getElementById("paper");
const order = document.getElementById("order");
const count = document.getElementById("count");
const body = document.querySelector("#claims tbody");
const buttons = [...document.querySelectorAll("button.verdict")];
const rows = [...body.rows];   // as in the papers
const rank = new Map(buttons.map((button, index) => [button.dataset.verdict, index]));

// Shows the rows of the chosen paper and verdicts; none pressed is as good as all.
function show() {
  const pressed = buttons.filter(button => button.getAttribute("aria-pressed") === "true");
  const verdicts = new Set((pressed.length ? pressed : buttons).map(button => button.dataset.verdict));
  for (const row of rows) {
    row.hidden = !(verdicts.has(row.dataset.verdict) && (!paper.value || paper.value === row.dataset.paper));
  }
  const sorted = order.value === "verdict"
    ? [...rows].sort((a, b) => rank.get(a.dataset.verdict) - rank.get(b.dataset.verdict)) : rows;
  body.append(...sorted);
  count.textContent = `${rows.filter(row => !row.hidden).length} of ${rows.length} claims`;
}

for (const button of buttons) {
  button.addEventListener("click", () => {
    button.setAttribute("aria-pressed", button.getAttribute("aria-pressed") !== "true");
    show();
  });
}
paper.addEventListener("change", show);
order.addEventListener("change", show);
show();
