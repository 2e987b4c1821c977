"""HTML pages from templates, which need no other file."""

from base64 import b64encode
from pathlib import Path

import jinja2


def environment(folder: Path) -> jinja2.Environment:
    """The templates of a folder: values are escaped, and one that is missing raises."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def picture(png: bytes) -> str:
    """The address of a picture that lies in the page itself."""
    return f"data:image/png;base64,{b64encode(png).decode()}"
