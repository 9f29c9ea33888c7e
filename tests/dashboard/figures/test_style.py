"""What all figures share."""

import pytest

from atoll.dashboard.figures import style


@pytest.mark.parametrize("theme", ["light", "dark", None])
def test_both_themes(theme):
    figure = style.themed(style.message("a <b>"), theme)
    assert figure.layout.annotations[0].text == "a &lt;b&gt;"
    assert figure.layout.template.layout.font.color
