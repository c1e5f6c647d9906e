() => [...document.querySelectorAll('body *')].filter(e => {
  const r = e.getBoundingClientRect();
  return r.width && getComputedStyle(e).position !== 'absolute' && !e.closest('thead, svg, .tall') && (r.right > innerWidth + 1 || r.left < -1);
}).map(e => `${e.tagName}#${e.id} ${e.textContent.slice(0, 30)}`)
