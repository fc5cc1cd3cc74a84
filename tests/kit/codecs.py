"""The codecs over which the tests of a store are parametrised."""

from typing import Final

import pytest

from tokenflight.stores.codec import JSONCodec, RecordCodec
from tokenflight.stores.encryption import EncryptedCodec, new_key

CODECS: Final[list[RecordCodec]] = [JSONCodec(), EncryptedCodec([new_key()])]

over_codecs: Final = pytest.mark.parametrize("codec", CODECS, ids=lambda codec: type(codec).__name__)
"""For a test, a fixture's users or a class that takes `codec`."""
