"""benchmarks/solar_cells.py: pictures of a package as class folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def test_sure_cells_alone_are_taken_and_rows_of_sixty_are_held_out_whole(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import solar_cells

    (tmp_path / "data" / "images").mkdir(parents=True)
    chances = np.random.default_rng(0).choice(["0.0", "0.3333333333333333", "0.6666666666666666", "1.0"], 700)
    lines = [f"images/cell{n + 1:04}.png  {chance}  poly\n" for n, chance in enumerate(chances)]
    (tmp_path / "data" / "labels.csv").write_text("".join(lines))
    for n in range(700):
        (tmp_path / "data" / "images" / f"cell{n + 1:04}.png").write_text(str(n))
    solar_cells.write(tmp_path, tmp_path / "out")
    for chance, name in (("0.0", "whole"), ("1.0", "defective")):
        for split, held in (("train", False), ("val", True)):
            found = [int(file.read_text()) for file in sorted((tmp_path / "out" / split / name).iterdir())]
            asked = [n for n in range(700) if chances[n] == chance and (n // 60 in (4, 9)) == held]
            assert sorted(found) == asked
            assert found != asked, "shuffled"
    assert {one.name for one in (tmp_path / "out").rglob("*") if one.is_dir()} == {"train", "val", "whole", "defective"}
