"""Section `download`: how archives and the table of annotations are fetched; nothing here changes a result."""

from pydantic import Field

from lesionpipe.params.section import Positive, Section


class Download(Section):
    annotation_urls: tuple[str, ...]
    retries: int = Field(ge=0, le=100)
    timeout_s: Positive
    archives: str | None
