"""Handing a kept model out of the node: a file, and its model card beside it.

The file is the party's own to use. Everybody whose customers the model was made of is protected by
the noise that his party added, whoever has the file; `models.model_card` says what it is not for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from models.catalogue import input_width
from models.export import Form, to_onnx, to_safetensors
from models.families import network
from models.model_card import card_markdown, model_card
from party_client.model_shelf import KeptModel, ModelFacts
from privacy.errors import ConfigError
from privacy.identity import write_secret

# What a file's metadata calls the card's JSON.
CARD_KEY = "model_card"


def card_of(facts: ModelFacts) -> dict[str, Any]:
    """The model card as plain data."""
    return model_card(
        facts.plan,
        run=facts.run,
        plan_digest=facts.plan_digest,
        model_digest=facts.model_digest,
        party=facts.party,
        parties=facts.parties,
        epsilon=facts.epsilon,
        delta=facts.delta,
        evaluation=facts.evaluation,
        published_at=facts.published_at,
        code_version=facts.code_version,
    )


def export(kept: KeptModel, form: Form, output: Path) -> tuple[Path, Path, Path]:
    """Write the model to `output`, and its card to `output`.card.md and `output`.card.json.

    All with mode 0600. Raises ConfigError, writing nothing, if one of them exists already or the
    folder does not; and if they cannot be written.
    """
    plan, card = kept.facts.plan, card_of(kept.facts)
    text = json.dumps(card, indent=2, ensure_ascii=False)
    shape = network(plan.model, input_width(plan))
    write = to_onnx if form == "onnx" else to_safetensors
    files = {
        output: write(shape, kept.parameters, {CARD_KEY: text}),
        output.with_name(f"{output.name}.card.md"): card_markdown(card).encode(),
        output.with_name(f"{output.name}.card.json"): text.encode() + b"\n",
    }
    _write_all(files)
    made, markdown, plain = files
    return made, markdown, plain


def _write_all(files: Mapping[Path, bytes]) -> None:
    for path in files:
        if path.exists() or path.is_symlink():
            raise ConfigError(f"{path} exists already; remove it, or name another file")
    written: list[Path] = []
    try:
        for path, content in files.items():
            written.append(path)
            write_secret(path, content)
    except ConfigError:  # somebody else has made this one meanwhile
        _remove(written[:-1])
        raise
    except OSError as error:
        _remove(written)
        raise ConfigError(
            f"{written[-1]} cannot be written ({error.strerror}); check the folder and free space"
        ) from error


def _remove(files: Sequence[Path]) -> None:
    for path in files:
        path.unlink(missing_ok=True)
