"""The settings of a study that learns from results from elsewhere; `learning.py` reads these."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, JsonValue, ValidationInfo, field_validator, model_validator

from atoll.platform.study.fields import Strict

FORMATS = (".csv", ".parquet", ".json")


class LearnFrom(Strict):
    """Earlier results that samplers are told: a table, or a study of the store."""

    file: str | None = Field(
        default=None, description="a table: .csv, .parquet or .json, from `atoll table` or any other source"
    )
    study: str | None = Field(default=None, description="name of a study in the store")
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="names of hyperparameters and objectives in the table, or in the study, where they differ",
    )
    fixed: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="values of hyperparameters that all rows had and that the table has no column of",
    )
    related: bool | None = Field(
        default=None,
        description="whether its objectives are of another problem, on a scale of their own: then they are not told to "
        "samplers, but suggest configurations, as far as they rank this study's trials well. Default: whether it is a "
        "study of another method or workload",
    )
    best: int | None = Field(default=None, ge=1, description="learn from so many rows, the best. Default: all")

    @model_validator(mode="before")
    @classmethod
    def _is_a_file(cls, content: object) -> object:
        return {"file": content} if isinstance(content, str) else content

    @model_validator(mode="after")
    def _one_source(self) -> LearnFrom:
        if (self.file is None) == (self.study is None):
            raise ValueError("learn_from needs a file, or {study: NAME}: one of the two")
        if self.file is not None and Path(self.file).suffix not in FORMATS:
            raise ValueError(f"a table must end in {', '.join(FORMATS)}; got {self.file!r}")
        return self

    @field_validator("file")
    @classmethod
    def _from_the_study_file(cls, file: str | None, info: ValidationInfo) -> str | None:
        if file is None:
            return None
        return str((Path((info.context or {}).get("folder", ".")) / Path(file).expanduser()).resolve())

    @property
    def title(self) -> str:
        """The source, for messages."""
        return f"study {self.study}" if self.file is None else Path(self.file).name
