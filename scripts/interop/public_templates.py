"""Renders the conversations of tests/fixtures/templates through every chat template in Python packages.

Prints JSON: the templates, the conversations, and for each pair the text without and with the generation prompt or
the error, and the trained parts where the template marks them.
"""

import json
import pathlib
import sys
import tarfile
import zipfile

from transformers.utils.chat_template_utils import render_jinja_template

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
GOLDEN = pathlib.Path(__file__).parents[2] / "tests/fixtures/templates/conversations.json"


def files(package):
    """Names and contents of an archive's files."""
    if package.endswith(".whl"):
        with zipfile.ZipFile(package) as archive:
            yield from ((name, archive.read(name)) for name in archive.namelist())
    else:
        with tarfile.open(package) as archive:
            yield from ((m.name, archive.extractfile(m).read()) for m in archive if m.isfile())


def templates(packages):
    found = {}
    for package in packages:
        project = pathlib.Path(package).name.split("-")[0]
        for name, content in files(package):
            if name.endswith(".jinja"):
                found[f"{project}/{pathlib.PurePosixPath(name).stem}"] = content.decode()
    return found


def render(template, conversation, **options):
    return render_jinja_template(
        [conversation["messages"]], chat_template=template, tools=conversation.get("tools"), **options, **SPECIAL
    )


def case(template, conversation):
    try:
        (text,), spans = render(template, conversation, return_assistant_tokens_mask="generation %}" in template)
        (prompt,), _ = render(template, conversation, add_generation_prompt=True)
    except Exception as error:  # noqa: BLE001
        return {"error": str(error)}
    return {"text": text, "prompt": prompt, "spans": spans[0] if spans and "generation %}" in template else None}


def main():
    conversations = json.loads(GOLDEN.read_text())["conversations"]
    found = templates(sys.argv[1:])
    cases = {name: [case(template, c) for c in conversations] for name, template in found.items()}
    json.dump({"templates": found, "conversations": conversations, "cases": cases}, sys.stdout)


main()
