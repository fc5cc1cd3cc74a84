"""The odd forms of the fake provider's replies: what is written, and what stays as it is."""

import json
import re
from typing import Any

import httpx
import pytest
import time_machine

from tokenflight import ConfigurationError
from tokenflight.testing import FakeProvider, ReplyForm, VendorError, dialects

FORMS = {name: value for name, value in vars(dialects).items() if isinstance(value, ReplyForm)}
ERRORS = {name: value for name, value in vars(dialects).items() if isinstance(value, VendorError)}


async def refresh(fake: FakeProvider, user_id: str = "alice") -> httpx.Response:
    form = {"grant_type": "refresh_token", "refresh_token": fake.current_refresh_token(user_id)}
    async with fake.client(auth=httpx.BasicAuth("app", "s3cret")) as http:
        return await http.post("/token", data=form)


async def written(form: ReplyForm, **settings: Any) -> str:
    """The text of a reply in `form`, after decompression, with AT and RT in place of the tokens."""
    fake = FakeProvider(reply_form=form, **settings)
    fake.login("alice")
    text = (await refresh(fake)).content.decode(form.charset)
    return re.sub(r"\b(a|r)t_[\w-]{32}", lambda token: f"{token[1]}t".upper(), text)


PLAIN = '{"access_token": "AT", "token_type": "Bearer", "expires_in": 3600, "refresh_token": "RT"}'


@pytest.mark.parametrize(
    ("form", "text"),
    [
        (ReplyForm(), PLAIN),
        (ReplyForm(members={"token_type": "bot", "ok": True}), PLAIN.replace("Bearer", "bot")[:-1] + ', "ok": true}'),
        (ReplyForm(names={"access_token": None}), PLAIN.replace('"access_token": "AT", ', "")),
        (ReplyForm(names={"refresh_token": "refreshToken"}), PLAIN.replace("refresh_token", "refreshToken")),
        (ReplyForm(after_tokens="\n"), PLAIN.replace("AT", "AT\\n").replace("RT", "RT\\n")),
        (ReplyForm(expiry="text"), PLAIN.replace("3600", '"3600"')),
        (ReplyForm(expiry="milliseconds"), PLAIN.replace("3600", "3600000")[:-1] + ', "expires_in_sec": 3600}'),
        (
            ReplyForm(expiry="expires_on"),
            PLAIN.replace('"expires_in": 3600, ', "")[:-1] + ', "expires_on": "1800003600"}',
        ),
        (
            ReplyForm(expiry="expires_at"),
            PLAIN.replace('"expires_in": 3600, ', "")[:-1] + ', "expires_at": "2027-01-15T09:00:00+00:00"}',
        ),
        (ReplyForm(inside=("data", "tokens"), outer={"status": 0}), f'{{"status": 0, "data": {{"tokens": {PLAIN}}}}}'),
        (
            ReplyForm(repeated={"token_type": ..., "expires_in": 1}),
            '{"token_type": "Bearer", "expires_in": 1, ' + PLAIN[1:],
        ),
        (ReplyForm(cut_after="expires_in"), PLAIN.partition(', "refresh_token"')[0]),
        (ReplyForm(cut_after="refresh_token"), PLAIN[:-1]),
        (
            ReplyForm(cut_after="expires_in", repeated={"expires_in": 1}),
            '{"expires_in": 1, ' + PLAIN[1:].partition(', "refresh_token"')[0],
        ),
        (ReplyForm(cut_after="refresh_token", inside=("data",)), f'{{"data": {PLAIN[:-1]}'),
        (ReplyForm(cut_after="no such member"), PLAIN),
        (
            ReplyForm(syntax="form", outer={"ok": "1"}),
            "ok=1&access_token=AT&token_type=Bearer&expires_in=3600&refresh_token=RT",
        ),
        (
            ReplyForm(syntax="form", cut_after="refresh_token", members={"scope": "a b"}),
            "access_token=AT&token_type=Bearer&expires_in=3600&refresh_token=RT",
        ),
        (
            ReplyForm(syntax="xml", inside=("body",), outer={"status": "<ok>"}),
            (
                '<?xml version="1.0"?><OAuth><status>&lt;ok&gt;</status><body>'
                "<access_token>AT</access_token><token_type>Bearer</token_type><expires_in>3600</expires_in>"
                "<refresh_token>RT</refresh_token></body></OAuth>"
            ),
        ),
        (ReplyForm(charset="latin-1", members={"name": "José 😀"}), PLAIN[:-1] + ', "name": "José ?"}'),
        (ReplyForm(charset="utf-16"), PLAIN),
        (ReplyForm(compression="gzip"), PLAIN),
        (ReplyForm(compression="deflate"), PLAIN),
        (ReplyForm(compression="raw deflate"), PLAIN),
    ],
    ids=repr,
)
async def test_a_form_is_written_as_it_says(clock: time_machine.Traveller, form: ReplyForm, text: str) -> None:
    assert await written(form) == text


async def test_without_a_form_the_reply_is_the_plain_one() -> None:
    fake = FakeProvider()
    fake.login("alice")
    plain = await refresh(fake)
    fake.reply_form = ReplyForm()
    same = await refresh(fake)
    assert plain.headers.raw == same.headers.raw
    assert list(plain.json()) == list(same.json())


@pytest.mark.parametrize(
    ("form", "headers"),
    [
        (dialects.FORM_ENCODED, {"content-type": "application/x-www-form-urlencoded"}),
        (dialects.XML, {"content-type": "application/xml"}),
        (dialects.RAW_DEFLATE, {"content-type": "application/json", "content-encoding": "deflate"}),
        (dialects.IDENTITY_IN_CAPITALS, {"content-encoding": "IDENTITY"}),
        (
            ReplyForm(compression="gzip", headers={"Content-Type": "text/plain", "Content-Encoding": "x-gzip"}),
            {"content-type": "text/plain", "content-encoding": "x-gzip"},
        ),
    ],
    ids=repr,
)
async def test_the_headers_fit_the_form_unless_it_names_others(form: ReplyForm, headers: dict[str, str]) -> None:
    fake = FakeProvider(reply_form=form)
    fake.login("alice")
    reply = await refresh(fake)
    assert headers.items() <= reply.headers.items()
    assert len(reply.headers.raw) == len(dict(reply.headers.raw))


@pytest.mark.parametrize("name", ["GZIP", "UTF_16", "CUT_OFF"])
async def test_a_form_reaches_a_client_through_a_socket(name: str) -> None:
    fake = FakeProvider(reply_form=FORMS[name])
    fake.login("alice")
    async with fake.serve() as base_url, httpx.AsyncClient(auth=("app", "s3cret")) as http:
        form = {"grant_type": "refresh_token", "refresh_token": fake.current_refresh_token("alice")}
        reply = await http.post(f"{base_url}/token", data=form)
    assert fake.current_refresh_token("alice") in reply.content.decode(FORMS[name].charset)


@pytest.mark.parametrize("name", FORMS)
async def test_in_each_dialect_the_provider_acts_and_sends_the_new_refresh_token(name: str) -> None:
    fake = FakeProvider(reply_form=FORMS[name])
    fake.login("alice")
    before = fake.current_refresh_token("alice")
    reply = await refresh(fake)
    assert reply.status_code == 200
    assert fake.current_refresh_token("alice") != before
    assert fake.current_refresh_token("alice") in reply.content.decode(FORMS[name].charset)


@pytest.mark.parametrize("name", ERRORS)
async def test_an_error_of_a_vendor_spends_no_refresh_token(name: str) -> None:
    fake = FakeProvider()
    fake.login("alice")
    before = fake.current_refresh_token("alice")
    fake.fail(ERRORS[name], times=1)
    reply = await refresh(fake)
    assert (reply.status_code, reply.json()) == (ERRORS[name].status, ERRORS[name].members)
    assert reply.headers.get("retry-after") == ERRORS[name].headers.get("Retry-After")
    assert fake.current_refresh_token("alice") == before


async def test_an_error_is_written_as_usual() -> None:
    fake = FakeProvider(reply_form=dialects.WITHINGS)
    fake.login("alice")
    async with fake.client(auth=httpx.BasicAuth("app", "s3cret")) as http:
        reply = await http.post("/token", data={"grant_type": "refresh_token", "refresh_token": "rt_unknown"})
        assert (reply.status_code, reply.json()["error"]) == (400, "invalid_grant")
        assert (await http.get("/.well-known/openid-configuration")).json()["issuer"] == fake.issuer


async def test_a_form_without_the_member_it_cuts_after_is_whole() -> None:
    text = await written(dialects.CUT_OFF, rotation="never")
    assert json.loads(text).keys() == {"access_token", "token_type", "expires_in"}


async def test_a_provider_that_tells_no_lifetime_tells_none_in_any_form() -> None:
    text = await written(dialects.ENTRA_V1, lifetime=None)
    assert json.loads(text).keys() == {"access_token", "token_type", "refresh_token"}


def test_a_form_shows_what_is_odd_about_it() -> None:
    assert repr(ReplyForm()) == "ReplyForm()"
    assert repr(ReplyForm(inside=("data",), charset="utf-16")) == "ReplyForm(inside=('data',), charset='utf-16')"


def test_a_form_that_can_not_be_written_is_a_clear_error() -> None:
    with pytest.raises(ConfigurationError, match="a form-encoded reply has no objects in it: leave inside out"):
        ReplyForm(syntax="form", inside=("data",))
    with pytest.raises(ConfigurationError, match="reply_form must be a"):
        FakeProvider(reply_form="gzip")  # type: ignore[arg-type] # the point of the test
