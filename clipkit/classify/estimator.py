"""What scikit-learn asks of a classifier, without being imported."""

from typing import Any, ClassVar, TypeVar

from clipkit.errors import ConfigError, did_you_mean

Self = TypeVar("Self", bound="Estimator")


class Estimator:
    """Parameters that can be read, changed and copied.

    Attributes:
        parameters: names of the constructor's arguments; each is kept under its name as it came.
    """

    parameters: ClassVar[tuple[str, ...]] = ()
    _estimator_type = "classifier"

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return what the constructor was given."""
        return {name: getattr(self, name) for name in self.parameters}

    def set_params(self: Self, **params: Any) -> Self:
        """Change what the constructor was given; the rest of it stays, and what was fitted goes."""
        current = self.get_params()
        for name in params:
            if name not in current:
                raise ConfigError(f"{name!r} is no parameter{did_you_mean(name, current)}")
        if params:
            made = self._copied({**current, **params})  # all stays where this raises
            self.__dict__.update(made.__dict__)
        return self

    def __sklearn_clone__(self: Self) -> Self:
        """Return an unfitted copy; a model that was handed over is shared, not copied."""
        return self._copied(self.get_params())

    def _copied(self: Self, params: dict[str, Any]) -> Self:
        """Return one of other parameters; what was loaded for an equal one may be kept."""
        made = object.__new__(type(self))
        made.__dict__.update(self.__dict__)
        made.__init__(**params)  # type: ignore[misc]
        return made

    def __sklearn_is_fitted__(self) -> bool:
        """Nothing has to be fitted."""
        return True

    def __sklearn_tags__(self) -> Any:
        """Describe the classifier; only scikit-learn calls this."""
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags

        return Tags(
            estimator_type="classifier",
            target_tags=TargetTags(required=False),
            classifier_tags=ClassifierTags(),
            input_tags=InputTags(two_d_array=False, string=True),
            requires_fit=False,
        )
