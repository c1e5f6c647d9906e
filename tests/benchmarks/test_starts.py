"""The benchmark of starts runs on two mixtures, writes its page, and goes on where it was cut."""

from __future__ import annotations

from benchmarks import starts


def test_two_mixtures_and_then_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr(starts, "MIXTURES", 2)
    page, records = tmp_path / "page.md", tmp_path / "records.jsonl"
    page.write_text("<!-- begin:starts -->\n<!-- end:starts -->\n")
    order = ["--records", str(records), "--page", str(page)]
    assert starts.main([*order, "--most", "1"]) == 0 and len(records.read_text().splitlines()) == 1
    assert starts.main(order) == 0 and len(records.read_text().splitlines()) == 2
    assert starts.main(order) == 0 and len(records.read_text().splitlines()) == 2
    text = page.read_text()
    assert "| n_init = 10 |" in text and "2 random mixtures" in text
