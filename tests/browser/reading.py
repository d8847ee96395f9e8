"""What every page must be, whoever reads it and however: asked of the real page in the browser."""

from __future__ import annotations

from playwright.sync_api import Page

# Everything that is wrong with a page's structure, as a list of words.
_STRUCTURE = """() => {
  const wrong = [];
  const all = selector => [...document.querySelectorAll(selector)];
  const visible = one => one.offsetParent !== null || one === document.body;
  if (all('h1').length !== 1) wrong.push(`${all('h1').length} h1`);
  if (all('main').length !== 1) wrong.push(`${all('main').length} main`);
  if (!document.title.trim()) wrong.push('no title');
  if (!document.documentElement.lang) wrong.push('no lang');
  if (all('script, [style], iframe, object').length) wrong.push('script or style in the page');
  if (all('[tabindex]').some(one => one.tabIndex > 0)) wrong.push('positive tabindex');
  const ids = all('[id]').map(one => one.id);
  const twice = ids.filter((id, place) => ids.indexOf(id) !== place);
  if (twice.length) wrong.push(`ids twice: ${twice}`);
  for (const name of ['aria-labelledby', 'aria-describedby', 'for'])
    for (const one of all(`[${name}]`))
      for (const id of one.getAttribute(name).trim().split(/\\s+/))
        if (!document.getElementById(id)) wrong.push(`${name} of nothing: ${id}`);
  for (const one of all('input:not([type=hidden], [hidden]), select, textarea'))
    if (!one.labels || !one.labels.length) wrong.push(`no label: ${one.name}`);
  for (const one of all('button, a[href], summary'))
    if (!(one.textContent.trim() || one.getAttribute('aria-label'))) wrong.push('no words');
  for (const one of all('table')) {
    if (!one.caption || !one.caption.textContent.trim()) wrong.push('table without caption');
    if ([...one.querySelectorAll('th')].some(cell => !cell.scope)) wrong.push('th without scope');
  }
  for (const one of all('form[method=post]'))
    if (!one.querySelector('input[name=csrf]')) wrong.push('form without csrf');
  let level = 0;
  for (const one of all('h1, h2, h3').filter(visible)) {
    const now = Number(one.tagName[1]);
    if (now > level + 1) wrong.push(`heading ${level} to ${now}`);
    level = now;
  }
  const rgb = text => text.match(/[\\d.]+/g).map(Number);
  const light = text => {
    const [r, g, b] = rgb(text).map(v => v / 255).map(
      v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = one => {
    for (; one; one = one.parentElement) {
      const colour = getComputedStyle(one).backgroundColor;
      if (rgb(colour)[3] !== 0) return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const one = walk.currentNode.parentElement;
    if (!walk.currentNode.textContent.trim() || !visible(one)) continue;
    const [a, b] = [light(getComputedStyle(one).color), light(ground(one))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) wrong.push(`contrast ${ratio.toFixed(2)}: ${walk.currentNode.textContent}`);
  }
  return [...new Set(wrong)];
}"""

# Every visible text outside what is the same in each language: code, names, what people typed.
_TEXTS = """() => {
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const text = walk.currentNode.textContent.trim().replace(/\\s+/g, ' ');
    if (text && !walk.currentNode.parentElement.closest('code, pre, .code, [lang=en]'))
      found.push(text);
  }
  return found.concat([...document.querySelectorAll('[aria-label]')].map(
    one => one.getAttribute('aria-label')));
}"""


def assert_readable(page: Page) -> None:
    """Structure, labels, captions, contrast; and no scrolling to the side."""
    assert page.evaluate(_STRUCTURE) == [], page.url
    width = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    needs, has = page.evaluate(width)
    assert needs <= has, f"{page.url} is {needs} wide, the window {has}"


def texts_of(page: Page) -> list[str]:
    """Every text of the page that should be in the page's language."""
    found: list[str] = page.evaluate(_TEXTS)
    return found
