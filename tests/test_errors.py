from dynconv.data.dataset import DataError
from dynconv.errors import DynconvError


def test_a_message_is_one_printable_line_whatever_it_quotes() -> None:
    for error in (DynconvError, DataError):
        assert (
            str(error("a\x1b[31m\nb\u2028\u202e\udcff: c\u00e9\\n")) == "a\\x1b[31m\\nb\\u2028\\u202e\\xff: c\u00e9\\n"
        )
