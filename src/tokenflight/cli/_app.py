"""The commands."""

from importlib.metadata import version

from cyclopts import App

from tokenflight.cli.demo._command import demo

app = App(
    name="tokenflight",
    version=version("tokenflight"),
    help="A valid OAuth 2.0 access token for each of your users, refreshed at most once.",
)
app.command(demo)
