"""JSON schema of `params.yaml`, by which an editor completes names and marks what is wrong while it is written.

`python -m lesionpipe.params.json_schema` writes it anew after a change of the parameters.
"""

import re
from pathlib import Path

from pydantic.json_schema import GenerateJsonSchema

from lesionpipe.core.formats import write_json
from lesionpipe.params import Params


def params_schema(commented: str) -> dict:
    """The schema, in which each parameter is described by the comment that it has in the text of a parameter file."""
    schema = {"$schema": GenerateJsonSchema.schema_dialect} | Params.model_json_schema()
    comments = parameter_comments(commented)
    for section, reference in schema["properties"].items():
        properties = schema["$defs"][reference["$ref"].rsplit("/", 1)[-1]]["properties"]
        for name, described in properties.items():
            described.pop("title", None)
            described["description"] = comments[section, name]
    return schema


def parameter_comments(text: str) -> dict[tuple[str, str], str]:
    """The comment behind or above each parameter of a parameter file by (section, name)."""
    found, section, above = {}, "", ""
    for line in text.splitlines():
        if heading := re.match(r"(\w+):", line):
            section = heading[1]
        elif (parameter := re.match(r"  (\w+):(?:[^#]*# (.+))?", line)) and (comment := parameter[2] or above):
            found[section, parameter[1]] = comment
        above = line.removeprefix("  # ") if line.startswith("  # ") else ""
    return found


if __name__ == "__main__":
    write_json("presets/params.schema.json", params_schema(Path("presets/phantom.yaml").read_text(encoding="utf-8")))
