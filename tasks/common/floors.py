"""One entry of `gate.floors`: a figure, where it is measured, and the bound that models must keep.

    - {class: crack, recall: 0.98}               recall of one class on the test set
    - {class: crack, set: hard, recall: 0.9}     on the hard set
    - {slice: light=dim, accuracy: 0.8}          of a named slice
    - {source: worst, balanced_accuracy: 0.7}    of the source where the model is worst
    - {set: hard, accuracy: 0.9}                 of the hard set
    - {image: 3fa85f64}                        "never again": this image must be answered correctly
    - {cost: 0.2}                                mean cost of an image, at most

docs/gate.md says how they are judged.
"""

from typing import Annotated, Literal

from pydantic import AliasChoices, Field, ValidationError, model_validator

from tasks.common.section import Section

FIGURES = ("recall", "precision", "accuracy", "balanced_accuracy", "macro_f1", "cost")
OF_CLASS = ("recall", "precision")
WORST = "worst"
Bound = Annotated[float, Field(gt=0, le=1)] | None


class Floor(Section):
    """One figure with its lower bound (of `cost`: its upper bound)."""

    class_: str | None = Field(
        None, min_length=1, validation_alias=AliasChoices("class", "class_"), serialization_alias="class"
    )
    set: Literal["test", "newest", "hard"] | None = None
    slice: str | None = Field(None, min_length=1, description="NAME=VALUE, or worst: of all slices but sources")
    source: str | None = Field(None, min_length=1, description="a source (camera, site), or worst: of all of them")
    image: str | None = Field(None, min_length=4, description="id or its start, or the owner's key")
    recall: Bound = None
    precision: Bound = None
    accuracy: Bound = None
    balanced_accuracy: Bound = None
    macro_f1: Bound = None
    cost: Annotated[float, Field(ge=0)] | None = Field(None, description="mean cost of an image, at most")
    unproven: Literal["hold", "warn"] | None = Field(None, description="null: as gate.unproven says")

    @model_validator(mode="after")
    def _one_figure(self) -> "Floor":
        figures = [name for name in FIGURES if getattr(self, name) is not None]
        places = [name for name in ("set", "slice", "source", "image") if getattr(self, name) is not None]
        if len(places) > 1:
            raise ValueError(f"a floor holds in one place, found {' and '.join(places)}: write a floor for each")
        if self.image is not None:
            if figures or self.class_ is not None:
                raise ValueError("an image must simply be answered correctly: a floor of an image has no figure")
            if self.unproven is not None:
                raise ValueError("an answer to an image is right or wrong, never unproven: leave `unproven` out")
            return self
        if len(figures) != 1:
            found = " and ".join(figures) or "none"
            raise ValueError(f"a floor has one figure of {', '.join(FIGURES)}, found {found}")
        if (self.class_ is not None) != (figures[0] in OF_CLASS):
            if self.class_ is None:
                raise ValueError(f"{figures[0]} is of a class: write e.g. {{class: NAME, {figures[0]}: 0.9}}")
            raise ValueError(f"of a class there is {' and '.join(OF_CLASS)}, found {figures[0]}")
        if self.slice not in (None, WORST) and "=" not in self.slice:
            raise ValueError(f"slice {self.slice!r}: expected NAME=VALUE, such as light=dim, or worst")
        return self

    @property
    def figure(self) -> str:
        """The figure's name; an image's is "right"."""
        return next((name for name in FIGURES if getattr(self, name) is not None), "right")

    @property
    def bound(self) -> float:
        return 1.0 if self.image is not None else getattr(self, self.figure)

    @property
    def place(self) -> str:
        """Where it is measured, as the gate names sets: "test", "hard", "slice:light=dim", "worst_source", ..."""
        if self.slice is not None:
            return "worst_slice" if self.slice == WORST else f"slice:{self.slice}"
        if self.source is not None:
            return "worst_source" if self.source == WORST else f"slice:source={self.source}"
        return self.set or "test"

    @property
    def code(self) -> str:
        """The name of its check: "floor.class.crack.recall", "floor.hard.accuracy", "floor.image.3fa85f64"."""
        if self.image is not None:
            return f"floor.image.{self.image}"
        if self.class_ is None:
            return f"floor.{self.place}.{self.figure}"
        place = "" if self.place == "test" else f"{self.place}."
        return f"floor.{place}class.{self.class_}.{self.figure}"


def check_unique(floors: list[Floor]) -> list[Floor]:
    """`floors`. Raises ValueError for two of one figure: which of them is meant?"""
    codes = [floor.code for floor in floors]
    if twice := next((code for code in codes if codes.count(code) > 1), None):
        raise ValueError(f"{twice.removeprefix('floor.')} has two floors: keep one")
    return floors


def parse_floor(text: str) -> Floor:
    """A floor as a person types it: "class: crack, recall: 0.98", with or without braces. Raises ValueError."""
    from ruamel.yaml import YAML, YAMLError

    braced = text if text.strip().startswith("{") else f"{{{text}}}"
    try:
        found = YAML(typ="safe").load(braced)
    except (YAMLError, ValueError) as error:
        raise ValueError(f"{text!r} cannot be read: expected e.g. class: crack, recall: 0.98") from error
    if not isinstance(found, dict):
        raise ValueError(f"{text!r}: expected e.g. class: crack, recall: 0.98")
    try:
        return Floor.model_validate(found)
    except ValidationError as error:
        said = "; ".join(
            f"{'.'.join(map(str, one['loc']))}{': ' if one['loc'] else ''}{one['msg'].removeprefix('Value error, ')}"
            for one in error.errors()
        )
        raise ValueError(f"{text!r}: {said}") from None
