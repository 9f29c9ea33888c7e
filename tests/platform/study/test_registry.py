"""Files that users name."""

import pytest

from atoll.platform.study import registry


def test_a_file_that_fails_fails_the_same_way_again(tmp_path):
    file = tmp_path / "broken.py"
    file.write_text("x = 1\nraise SystemExit(3)\n")
    for _ in range(2):
        with pytest.raises(SystemExit):
            registry.workload(f"{file}:Broken")
