"""Puts finished tables into docs/results.md: what stands between a table's marks is replaced, all else stays.

    python -m benchmarks.results OUT [OUT ...] [--file docs/results.md]

OUT is a folder that the table modules wrote, such as docs/tables, whose cells are those of docs/results.md: copied into
OUT/cells they are not run again. table1.md goes between <!-- table1:start --> and <!-- table1:end -->; a table without
marks gets a section of its own at the end. Commit, command, hardware and date are the table's own; its picture is
linked to.
"""

import argparse
import os
import re
import sys
from pathlib import Path

from nnunetv2_mastpro.errors import MASTProError
from nnunetv2_mastpro.files import write_atomically

DEFAULT = Path(__file__).resolve().parents[1] / "docs" / "results.md"
TITLES = {
    "": "the phantom",
    "swin": "the phantom, SwinUNETR",
    "unet_alone": "the phantom, one type a source",
    "unet_three": "the phantom, three types",
    "unet_patches": "the phantom, on patches",
    "unet_three_patches": "the phantom, three types, on patches",
    "swin_three": "the phantom, three types, SwinUNETR",
    "unet_alone_patches": "the phantom, one type a source, on patches",
    "sts": "soft-tissue sarcoma",
    "datasets": "nnU-Net data sets",
}


def put(document: str, name: str, content: str) -> str:
    """The document with the table's block. Raises MASTProError where one mark is without the other, or comes twice."""
    start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
    block = f"{start}\n{content.strip()}\n{end}"
    counts = (document.count(start), document.count(end))
    if counts == (0, 0):
        table, _, kind = name.partition("_")
        title = f"{table.replace('table', 'Table ')} of the paper: {TITLES[kind] if table != 'table3' else 'cost'}"
        return f"{document.rstrip()}\n\n## {title}\n{block}\n"
    if counts != (1, 1) or document.index(start) > document.index(end):
        raise MASTProError(f"the marks {start} and {end} must come once each, in this order; repair the file")
    before, after = document[: document.index(start)], document[document.index(end) + len(end) :]
    return before + block + after


def tables(folder: Path) -> dict[str, Path]:
    """Name -> Markdown file, in order. Raises MASTProError for a folder without any."""
    found = {
        path.stem: path
        for path in sorted(folder.glob("table[123]*.md"))
        if re.fullmatch(rf"table[123](_({'|'.join(filter(None, TITLES))}))?", path.stem)
    }
    if not found:
        raise MASTProError(
            f"{folder} holds no table1.md, table2.md or table3.md; run python -m benchmarks.table1 -o {folder}"
        )
    return found


def with_picture(path: Path, document: Path) -> str:
    """A table's Markdown, and a link to its picture from the document."""
    picture = path.with_suffix(".png")
    link = Path(os.path.relpath(picture.resolve(), document.resolve().parent)).as_posix()
    text = path.read_text(encoding="utf-8")
    return f"{text.rstrip()}\n\n![{path.stem}]({link})\n" if picture.is_file() else text


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.results", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="OUT")
    parser.add_argument("--file", type=Path, default=DEFAULT, help="default: docs/results.md of this checkout")
    args = parser.parse_args()
    try:
        document, put_in = args.file.read_text(encoding="utf-8"), []
        for folder in args.folders:
            for name, path in tables(folder).items():
                document = put(document, name, with_picture(path, args.file))
                put_in.append(name)
        write_atomically({args.file: document.encode()})
    except MASTProError as error:
        sys.exit(f"{error}")
    print(f"{args.file}: {', '.join(put_in)}")


if __name__ == "__main__":
    main()
