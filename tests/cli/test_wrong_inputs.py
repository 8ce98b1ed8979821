"""Every command with wrong input: its message is short and names the thing, its exit code is 1."""

import pytest
import wrong_inputs

_MOST_LINES = 5
_MOST_CHARACTERS = 1200
_FOREIGN = ("Traceback", "in user code", "Call arguments received", "In call to configurable")


@pytest.fixture(scope="module")
def results(run_all, files):
    """[exit code, stdout, stderr] by name of the input."""
    values = [
        [argument.replace("{tmp}", str(files)) for argument in case[0]]
        for case in wrong_inputs.ALL.values()
    ]
    return dict(zip(wrong_inputs.ALL, run_all(values)))


@pytest.mark.parametrize("name", wrong_inputs.ALL)
def test_message_is_short_and_names_what_is_wrong(name, results, files):
    code, output, message = results[name]
    _, words, *wanted_code = wrong_inputs.ALL[name]
    assert code == (wanted_code or [1])[0], message
    for word in words:
        # `doctor` prints problems, which are its result.
        assert word.replace("{tmp}", str(files)) in message + output * name.startswith("doctor")
    assert len(message.strip().splitlines()) <= _MOST_LINES, message
    assert len(message) <= _MOST_CHARACTERS
    assert not [text for text in _FOREIGN if text in message], message


def test_nothing_is_written(results, files):
    assert results
    written = [*(files / "out").rglob("*"), *(files / "mended").rglob("*")]
    assert not [path for path in written if path.is_file()]
