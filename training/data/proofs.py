"""Proofs: what GRAM-R2's preference-proving model writes (arXiv 2509.02492), and how each becomes a rationale and back.

A rationale argues towards a verdict; a proof begins with the verdict and justifies it. Both hold the same three texts,
so one is made of the other by a template, exactly and in both directions:

    I will explain why Response A is better.                    <think>
                                                                Feedback:
    Feedback on Response A: Names Paris, which is right.        Response A: Names Paris, which is right.
                                                         <->
    Feedback on Response B: Names Rome.                         Response B: Names Rome.
    ...                                                         ...

Feedback that does not review A and then B under these names is one piece: "Feedback on Response A and Response B: ...".
The words are those of the judge's own prompt and verdicts, the published spelling of "Comparision" included. A line
that begins as a header of the proof does (or with backslashes before it) gets one backslash more, so that every text
comes back as it was. A rationale cannot escape anything - its grammar is the judge's - so texts that the judge's own
parser would read otherwise are refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.resources import files
from typing import Literal

from service.judging import gram_r2
from service.judging.base import conversation_text, fill
from service.types import Comparison, Message, Rendered
from training.data.pairs import DataError

Letter = Literal["A", "B"]
Fault = Literal["missing section", "malformed", "disagrees with the label"]

REVIEW_A, REVIEW_B = "Feedback on Response A", "Feedback on Response B"
REVIEW_BOTH = "Feedback on Response A and Response B"
COMPARISON, CONCLUSION = "Comparision", "Conclusion"
_HEADERS = (REVIEW_A, REVIEW_B, REVIEW_BOTH, COMPARISON, CONCLUSION)
_OPENING, _CLOSING = "I will explain why Response {} is better.", "The better response is Response {}."
_GAP = "\n\n"

_HEADER = re.compile(rf"^({'|'.join(_HEADERS)}):(?: |$)", re.MULTILINE)
_OPENED = re.compile(rf"\A{re.escape(_OPENING).replace(re.escape('{}'), '([AB])')}{_GAP}")
_CLOSED = re.compile(rf"{_GAP}{re.escape(_CLOSING).replace(re.escape('{}'), '([AB])')}\Z")
_ESCAPED = rf"(?=\\*(?:(?:{'|'.join(_HEADERS)}):|The better response is Response ))"
_TO_ESCAPE = re.compile(rf"^{_ESCAPED}", re.MULTILINE)
_TO_UNESCAPE = re.compile(rf"^\\{_ESCAPED}", re.MULTILINE)
_TWO_REVIEWS = re.compile(r"\AResponse A: (.*?)\n\nResponse B: (.*)\Z", re.DOTALL)
_TAGS = re.compile(r"</?(?:think|answer)>")
_BETTER = re.compile(r"\b(?:Response|Assistant) ([AB]) is (?:(?:clearly|much|slightly) )?(?:the )?better\b")

_PROMPT = (files("training.data") / "prompts" / "prove.txt").read_bytes().decode("utf-8")


class ProofError(DataError):
    """A text that is no proof, or a proof that makes no rationale; ``fault`` is the rule by which it is dropped."""

    def __init__(self, fault: Fault, message: str) -> None:
        super().__init__(message)
        self.fault: Fault = fault


@dataclass(frozen=True, slots=True)
class Sections:
    """The three texts of a judgment, as `service.judging.gram_r2` names them."""

    feedback: str
    comparison: str
    conclusion: str

    @property
    def stripped(self) -> Sections:
        """Without white space around each text: what a judgment keeps of it."""
        return Sections(self.feedback.strip(), self.comparison.strip(), self.conclusion.strip())


@dataclass(frozen=True, slots=True)
class Proof:
    """Why the response shown as ``letter`` is better."""

    sections: Sections
    letter: Letter

    @property
    def text(self) -> str:
        """As the prover writes it."""
        return to_proof(self.sections, self.letter)

    @classmethod
    def read(cls, text: str) -> Proof:
        """Raises `ProofError`."""
        return cls(*from_proof(text))

    @property
    def rationale(self) -> str:
        """The judgment in think and answer form. Raises `ProofError` where the judge's parser would read another."""
        return write_rationale(self.sections, self.letter)

    @classmethod
    def of_rationale(cls, text: str) -> Proof:
        """The proof of a judgment in exactly the form that `service.judging.gram_r2.write` gives it.

        Raises `ProofError`.
        """
        parsed = gram_r2.FAMILY.parse(text)
        if parsed.verdict == "invalid":
            raise ProofError("malformed", "The judgment does not end in a verdict; write it as gram_r2.write does.")
        if missing := {"feedback", "comparison", "conclusion"} - parsed.sections.keys():
            raise ProofError("missing section", f"The judgment has no {', '.join(sorted(missing))}; add it.")
        proof = cls(Sections(**parsed.sections), parsed.verdict)
        if proof.rationale != text:
            raise ProofError("malformed", "The judgment is not in the form of gram_r2.write; write it with that.")
        return proof


def to_proof(sections: Sections, letter: Letter) -> str:
    """The proof of any three texts; `from_proof` is its exact inverse."""
    parts = (
        *_reviews(sections.feedback),
        (COMPARISON, sections.comparison),
        (CONCLUSION, sections.conclusion),
    )
    written = (f"{header}: {_escape(text)}" if text else f"{header}:" for header, text in parts)
    return _GAP.join((_OPENING.format(letter), *written, _CLOSING.format(letter)))


def _reviews(feedback: str) -> tuple[tuple[str, str], ...]:
    two = _TWO_REVIEWS.match(feedback)
    return ((REVIEW_BOTH, feedback),) if two is None else ((REVIEW_A, two.group(1)), (REVIEW_B, two.group(2)))


def _escape(text: str) -> str:
    return _TO_ESCAPE.sub(r"\\", text)


def _unescape(text: str) -> str:
    return _TO_UNESCAPE.sub("", text)


def from_proof(text: str) -> tuple[Sections, Letter]:
    """Sections and letter of a proof. What `to_proof` could not have written is refused, so nothing is guessed.

    Raises `ProofError`: ``missing section``, ``disagrees with the label`` (it opens for one response and closes for the
    other), ``malformed``.
    """
    opened, closed = _OPENED.match(text), _CLOSED.search(text)
    if opened is None or closed is None:
        raise ProofError("malformed", "The proof does not open, or does not close, as proofs do.")
    found = list(_HEADER.finditer(text, opened.end()))
    names = [match.group(1) for match in found]
    expected = [[*reviews, COMPARISON, CONCLUSION] for reviews in ((REVIEW_A, REVIEW_B), (REVIEW_BOTH,))]
    if names not in expected:
        complete = any(set(wanted) <= set(names) for wanted in expected)
        fault: Fault = "malformed" if complete else "missing section"
        raise ProofError(fault, f"The proof has the parts {', '.join(names) or 'none'}; it needs each once, in order.")
    if opened.group(1) != closed.group(1):
        raise ProofError("disagrees with the label", "The proof opens for one response and closes for the other.")
    ends = [*(match.start() - len(_GAP) for match in found[1:]), closed.start()]
    texts = [_unescape(text[match.end() : end]) for match, end in zip(found, ends, strict=True)]
    feedback = texts[0] if names[0] == REVIEW_BOTH else f"Response A: {texts[0]}{_GAP}Response B: {texts[1]}"
    sections = Sections(feedback, *texts[-2:])
    letter: Letter = "A" if opened.group(1) == "A" else "B"
    if to_proof(sections, letter) != text:
        raise ProofError("malformed", "The proof's parts are not set apart as proofs set them apart.")
    return sections, letter


def write_rationale(sections: Sections, letter: Letter) -> str:
    """Think and answer form. Raises `ProofError` for sections that the form cannot carry."""
    kept = sections.stripped
    for name in ("feedback", "comparison", "conclusion"):
        if not getattr(kept, name):
            raise ProofError("missing section", f"The {name} is empty; a judgment needs all three sections.")
        if _TAGS.search(getattr(kept, name)):
            raise ProofError("malformed", f"The {name} holds a tag of the judgment itself; leave the row out.")
    text = gram_r2.write(kept.feedback, kept.comparison, kept.conclusion, letter)
    read = gram_r2.FAMILY.parse(text)
    if read.verdict != letter or read.sections != {name: getattr(kept, name) for name in kept.__slots__}:
        raise ProofError("malformed", "A section holds a header of the judgment itself; leave the row out.")
    return text


def says_better(sections: Sections) -> Letter | None:
    """The response that the conclusion (or else the comparison) calls better in plain words; None where neither does,
    or where both responses are called so."""
    for text in (sections.conclusion, sections.comparison):
        named = {match.group(1) for match in _BETTER.finditer(text)}
        if named:
            return None if len(named) > 1 else "A" if "A" in named else "B"
    return None


def render_prover(comparison: Comparison, letter: Letter) -> Rendered:
    """The chat that asks the prover why the response shown as ``letter`` is better."""
    values = {
        "question": conversation_text(comparison.prompt),
        "response_a": comparison.first.text,
        "response_b": comparison.second.text,
        "letter": letter,
    }
    return Rendered((Message.of_parts("user", fill(_PROMPT, values)),))


def render_prover_alone() -> Rendered:
    """The prover's instruction with neither question, responses nor label: in front of it, a text's probability is that
    of the text in isolation. The form of a proof is thus free, and only its content counts."""
    return Rendered((Message.of_parts("user", (_PROMPT.partition("\n\n[User Question]")[0],)),))
