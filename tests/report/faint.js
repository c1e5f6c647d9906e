() => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const rgb = text => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1); return [...canvas.getImageData(0, 0, 1, 1).data]; };
  const light = c => c.slice(0, 3).map(v => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }).reduce((s, v, i) => s + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = e => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); if (c[3] === 255) return c; } return [255, 255, 255, 255]; };
  const faint = [];
  for (const e of document.querySelectorAll('body *')) {
    if (!e.getClientRects().length || e.disabled || !(e.tagName === 'text' || [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()))) continue;
    if (['SCRIPT', 'STYLE'].includes(e.tagName)) continue;
    const style = getComputedStyle(e), a = light(rgb(e.tagName === 'text' ? style.fill : style.color)), b = light(behind(e));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) faint.push(`${e.tagName} "${e.textContent.slice(0, 30)}": ${ratio.toFixed(2)}`);
  }
  return faint;
}
