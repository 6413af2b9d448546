"""Reads the field's caption files and masks, and writes questions and answers for other trainers.

  python -m launch.convert --from=ddvqa --annotations=Deepfakes.json --root=pictures --out=theirs.jsonl
  python -m launch.convert --from=fftg --annotations=FFTG_Deepfakes.json --root=crops --out=theirs.jsonl
  python -m launch.convert --from=deepfakebench --annotations=FF-DF.json --root=datasets --out=truth.csv
  python -m launch.convert --to=llava --annotations=annotations.jsonl --balance --out=train.json

`launch.score_annotations` scores the lines of --from with the table of --from=deepfakebench as truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from launch.cli import command
from launch.cli.flags import named_paths
from launch.cli.outputs import FILE
from launch.cli.progress import progress

FLAGS = flags.FLAGS
flags.DEFINE_enum(
    "from", None, ["fftg", "ddvqa", "llava", "sharegpt", "deepfakebench"],
    "Whose file --annotations is: captions become annotation lines; masks (deepfakebench) a CSV of truth.",
)  # fmt: skip
flags.DEFINE_enum("to", None, ["llava", "sharegpt"], "Writes our annotation lines in this form.")
flags.DEFINE_string("annotations", None, "The file to read.", required=True)
flags.DEFINE_string(
    "root", None, "Folder of the pictures; by default, that of --annotations (with --to, of --out)."
)
flags.DEFINE_string("out", None, "The file to write.", required=True)
flags.DEFINE_string(
    "pairs", None, "ddvqa: a CSV with fake, method and video, instead of --root: captions by video."
)
flags.DEFINE_list(
    "fields", [], "fftg, llava, sharegpt: NAME=THEIRS for image, caption and label that are called otherwise."
)  # fmt: skip
flags.DEFINE_list("ignore", [], "fftg, llava, sharegpt: fields of the records to leave out.")
flags.DEFINE_enum(
    "label", None, ["real", "fake"], "fftg, llava, sharegpt: of records that state none."
)
flags.DEFINE_string("compression", "c23", "deepfakebench: of the FaceForensics++ family.")
flags.DEFINE_enum("split", None, ["train", "validation", "test"], "--to: only this split.")
flags.DEFINE_bool("balance", False, "--to: as many reals as fakes.")
flags.DEFINE_integer("seed", 0, "--balance: decides which pictures stay.")

#: Flags that one kind of file alone reads.
_RECORDS = ("fields", "ignore", "label")
_QUESTIONS = ("split", "balance", "seed")


def main(argv: Sequence[str]) -> None:
    """Converts, writes the file, prints what it holds."""
    del argv
    from jax_vlffd.errors import UserError, printable
    from jax_vlffd.file_writing import atomic_write_text

    kind = FLAGS["from"].value
    if (kind is None) == (FLAGS.to is None):
        raise UserError("give either --from, whose file to read, or --to, whose form to write")
    chosen = f"--from={kind}" if kind else f"--to={FLAGS.to}"
    for names, kinds in (
        (_RECORDS, ("fftg", "llava", "sharegpt")),
        (("pairs",), ("ddvqa",)),
        (("compression",), ("deepfakebench",)),
        (_QUESTIONS, (None,)),
    ):
        if kind not in kinds:
            command.check_unused(names, f"with {chosen}")
    if not FLAGS.balance:
        command.check_unused(["seed"], "without --balance")
    file, out = Path(FLAGS.annotations), Path(FLAGS.out)
    root = Path(FLAGS.root) if FLAGS.root else (file if kind else out).parent
    text, summary = _questions(file, out, root) if kind is None else _read(kind, file, out, root)
    try:
        atomic_write_text(out, text)
    except UnicodeEncodeError as error:
        raise UserError(
            f"{root}: a name in this path is not UTF-8; write --out to a folder that holds the pictures"
        ) from error
    print(printable(f"{out}: {summary}"))


def _questions(file: Path, out: Path, root: Path) -> tuple[str, str]:
    from data_pipeline.convert import questions

    examples, left_out = questions.read_examples(file, FLAGS.split)
    if FLAGS.balance:
        examples = questions.balanced(examples, FLAGS.seed)
    fakes = sum(example.label for example in examples)
    parts = [f"{len(examples) - fakes} real", f"{fakes} fake"]
    parts += [f"left out: {code} {count}" for code, count in left_out.items()]
    return questions.document(examples, FLAGS.to, root), ", ".join(parts)


def _read(kind: str, file: Path, out: Path, root: Path) -> tuple[str, str]:
    from jax_vlffd.vocabulary import LABEL_NAMES

    if kind == "deepfakebench":
        from data_pipeline.convert.masks import read_masks

        with progress("reading masks") as update:
            text, rows, left_out = read_masks(file, root, out, FLAGS.compression, update)
        left = [f"left out: {reason} {count}" for reason, count in left_out.items()]
        return text, ", ".join([f"{rows} fakes", *left])
    if kind == "ddvqa":
        from data_pipeline.convert.ddvqa import read_ddvqa

        pairs = Path(FLAGS.pairs) if FLAGS.pairs else None
        lines = read_ddvqa(file, out, None if pairs and not FLAGS.root else root, pairs)
    else:
        from data_pipeline.convert.records import RecordFields, read_records

        label = LABEL_NAMES.index(FLAGS.label) if FLAGS.label else None
        names = named_paths(FLAGS.fields, "--fields")
        lines = read_records(
            file, root, out, kind, RecordFields(names, frozenset(FLAGS.ignore), label)
        )
    return lines.text(), lines.summary()


if __name__ == "__main__":
    command.run(main, writes={"out": FILE}, reads=["annotations", "pairs"])
