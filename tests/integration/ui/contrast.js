// Every text that is displayed against what is behind it: WCAG 2 AA wants 4.5; marks and edges want 3.
const parse = (color) => { const [r, g, b, a = 1] = color.match(/[\d.]+/g).map(Number); return { r, g, b, a }; };
const over = (top, below) => ({ r: top.r * top.a + below.r * (1 - top.a), g: top.g * top.a + below.g * (1 - top.a), b: top.b * top.a + below.b * (1 - top.a), a: 1 });
const light = ({ r, g, b }) => [r, g, b].map((value) => value / 255).map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
  .reduce((sum, value, index) => sum + value * [0.2126, 0.7152, 0.0722][index], 0);
const ratio = (one, other) => { const [a, b] = [light(one), light(other)].sort((x, y) => y - x); return (a + 0.05) / (b + 0.05); };
const behind = (element) => {
  const layers = [];
  for (let at = element; at; at = at.parentElement) {
    const color = parse(getComputedStyle(at).backgroundColor);
    layers.push(color);
    if (color.a === 1) break;
  }
  return layers.reverse().reduce((below, top) => over(top, below), { r: 255, g: 255, b: 255, a: 1 });
};
const poor = [];
let seen = 0;
const check = (element, color, limit, what) => {
  seen += 1;
  const background = behind(element);
  const found = ratio(over(parse(color), background), background);
  if (found < limit) poor.push(`${what}: ${found.toFixed(2)}`);
};
for (const element of document.body.querySelectorAll("*")) {
  if (!element.checkVisibility({ visibilityProperty: true })) continue;
  const hasText = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  const style = getComputedStyle(element);
  if (hasText) check(element, style.color, 4.5, `${element.tagName} ${element.id || element.className} ${element.textContent.slice(0, 40)}`);
  if (element.placeholder) check(element, getComputedStyle(element, "::placeholder").color, 4.5, `placeholder of ${element.id}`);
  if (element.tagName === "INPUT") check(element.parentElement, style.borderTopColor, 3, `edge of ${element.id}`);
  if (element.classList.contains("status")) check(element, getComputedStyle(element, "::before").borderTopColor, 3, `mark of ${element.textContent}`);
}
return [seen, poor];
