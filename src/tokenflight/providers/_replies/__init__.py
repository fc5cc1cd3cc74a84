"""Reading a token endpoint's reply: from its bytes to tokens, to a failure and what it means, or to neither."""
