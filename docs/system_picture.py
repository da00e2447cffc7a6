"""The picture of the whole system, once for each chapter with its part lit: nbs/images/system_NN.svg

    python docs/system_picture.py

Kind, curve or film -> codes or latents -> log-mel -> sound, and a judge beside it; parts that no chapter has built yet are faint.
"""
from pathlib import Path

OUT = Path(__file__).resolve().parent.parent / "nbs/images"
# text, chapters that build it, left, top, width
BOXES = [("what is asked for", "kind, level, film", "", 8, 62, 156),
         ("codes", "04 06", "04 06", 246, 20, 104), ("latents", "10", "10", 246, 104, 104),
         ("log-mel", "00", "00", 420, 62, 104), ("sound", "01", "01", 624, 62, 92),
         ("a judge", "12", "12", 776, 62, 92)]
# from, to (x, y), text, chapters
ARROWS = [((164, 78), (246, 46), "05 07", "05 07", -22), ((164, 90), (246, 126), "10", "10", 24),
          ((350, 42), (420, 76), "", "04 06", 0), ((350, 126), (420, 92), "", "10", 0),
          ((524, 84), (624, 84), "vocoder 03", "03", -14), ((716, 84), (776, 84), "", "12", 0)]
WAY = "M 86 106 C 86 196, 670 196, 670 106"  # straight to the wave: 08 09 11


def picture(chapter):
    "SVG text; colours that can be read on white and on black"
    now = lambda chapters: chapter in chapters.split()
    known = lambda chapters: not chapters or min(chapters.split()) <= chapter
    def style(chapters, fill=True):
        if now(chapters): return f'stroke="#e07b00" stroke-width="3" fill="{"#e07b0033" if fill else "none"}"'
        return f'stroke="#808080" stroke-width="1.4" fill="none" opacity="{1 if known(chapters) else .55}"'
    def word(x, y, text, chapters, size=16):
        paint = "#e07b00" if now(chapters) else "#808080"
        return (f'<text x="{x}" y="{y}" font-size="{size}" text-anchor="middle" fill="{paint}" '
                f'opacity="{1 if known(chapters) else .7}">{text}</text>')
    parts = []
    for title, below, chapters, x, y, w in BOXES:
        parts += [f'<rect x="{x}" y="{y}" width="{w}" height="44" rx="7" {style(chapters)}/>',
                  word(x + w / 2, y + 19, title, chapters), word(x + w / 2, y + 36, below, chapters, 13)]
    for (x0, y0), (x1, y1), text, chapters, shift in ARROWS:
        parts += [f'<line x1="{x0}" y1="{y0}" x2="{x1 - 5}" y2="{y1}" marker-end="url(#{"lit" if now(chapters) else "tip"})" {style(chapters)}/>',
                  word((x0 + x1) / 2, (y0 + y1) / 2 + shift, text, chapters, 13) if text else ""]
    parts += [f'<path d="{WAY}" marker-end="url(#{"lit" if now("08 09 11") else "tip"})" {style("08 09 11", False)}/>',
              word(378, 192, "straight to the wave 08 09 11", "08 09 11", 13),
              word(438, 14, "02 trains all of it", "02", 13)]
    tip = lambda name, paint: (f'<marker id="{name}" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" markerHeight="7" orient="auto-start-reverse">'
                               f'<path d="M0 0L8 4L0 8z" fill="{paint}"/></marker>')
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 876 204" width="876" font-family="sans-serif" role="img" '
            f'aria-label="The system; chapter {chapter} is lit"><defs>{tip("tip", "#808080")}{tip("lit", "#e07b00")}</defs>{"".join(parts)}</svg>\n')


if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    for n in range(13):
        (OUT / f"system_{n:02d}.svg").write_text(picture(f"{n:02d}"), encoding="utf-8")
