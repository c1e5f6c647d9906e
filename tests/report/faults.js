() => {
  const faults = [], root = document.documentElement;
  if (root.scrollWidth > root.clientWidth) faults.push(`page is ${root.scrollWidth} wide in ${root.clientWidth}`);
  for (const svg of document.querySelectorAll('svg')) {
    const frame = svg.getBoundingClientRect(), name = svg.getAttribute('aria-label');
    if (frame.width === 0) continue;
    const texts = [...svg.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]);
    if (svg.closest('#profile, #corner')) { if (!texts.length) faults.push(`${name}: no text`); }
    else for (const cls of ['xlabel', 'ylabel'])
      if (!svg.querySelector('.' + cls)?.textContent) faults.push(`${name}: no ${cls}`);
    if (!svg.closest('#profile, #corner') && texts.length < 6) faults.push(`${name}: only ${texts.length} texts`);
    texts.forEach(([text, a], i) => {
      if (a.left < frame.left - 1 || a.right > frame.right + 1 || a.top < frame.top - 1 || a.bottom > frame.bottom + 1)
        faults.push(`${name}: "${text}" is cut`);
      for (const [other, b] of texts.slice(i + 1))
        if (a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 2 && b.top < a.bottom - 2)
          faults.push(`${name}: "${text}" overlaps "${other}"`);
    });
  }
  return faults;
}
