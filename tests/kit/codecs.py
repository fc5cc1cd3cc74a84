"""The codecs that the tests of a store run with."""

from typing import Final

import pytest

from tokenflight.stores.codec import JSONCodec, RecordCodec
from tokenflight.stores.encryption import EncryptedCodec, new_key

CODECS: Final[list[RecordCodec]] = [JSONCodec(), EncryptedCodec([new_key()])]

over_codecs: Final = pytest.mark.parametrize("codec", CODECS, ids=lambda codec: type(codec).__name__)
"""Runs a test or a class of tests, which takes `codec`, with each of them."""
