"""How files were read is kept with a run."""

from __future__ import annotations

from pathlib import Path

from gaal_fast.data.reading import Reading, TableReading
from gaal_fast.data.tables.number_cells import NumberStyle


def test_a_reading_survives_its_file(tmp_path: Path) -> None:
    table = TableReading("cp1252", ";", ",", ".", ("-999",), {"w": NumberStyle(",", "", "", "cm")})
    Reading(table).save(tmp_path)
    assert Reading.load(tmp_path).table == table
    assert table.describe() == [
        'read as: cp1252, semicolon-separated, decimal comma, thousands point, missing: "-999"',
        'numbers with "cm": "w"',
    ]
    assert TableReading().describe() == ["read as: Parquet, decimal point, no thousands mark"]
