"""`python -m kernels.page`: writes the generated parts of docs/kernels.md, the gate's table and the roofline's.

A part stands between `<!-- NAME -->` and `<!-- end -->`. The gate's figures are those of compile_baseline.json.
"""

from __future__ import annotations

from pathlib import Path

from kernels.compile_gate import Baseline, Resources, markdown
from kernels.roofline.__main__ import launches, table
from kernels.roofline.chip import Chip

PAGE = Path(__file__).parents[1] / "docs/kernels.md"


def gate() -> str:
    """The committed figures of every compiled kernel."""
    baseline, rows = Baseline.read(), []
    for key, figures in baseline.kernels.items():
        name, target = key.rsplit(" sm_", 1)
        rows.append((name, int(target), Resources(**figures)))
    return f"By triton {baseline.triton}:\n\n{markdown(rows)}"


def filled(page: str) -> str:
    """The page with its parts as they are now."""
    parts = {
        "gate": gate(),
        "roofline": f"```\n{table(Chip())}\n```",
        "launches": f"```\n{launches(Chip())}\n```",
    }
    for name, part in parts.items():
        before, start, rest = page.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        page = f"{before}{start}{part}\n{end}{after}"
    return page


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
