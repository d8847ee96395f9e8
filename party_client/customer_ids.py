"""Customer ids at the party's border: two ways to write one customer become one id.

`opaque` ids are trimmed, no more. A phone number becomes E.164, whatever it looked like; it need
not be assigned, since number plans change, but its length must be possible. An e-mail address
becomes lower case throughout, domain and local part: by the standards the local part is the mail
server's own affair, but servers that tell `Ann@` from `ann@` are all but extinct, and one customer
with two ids would count twice. Dots and `+tags` in it stay. No name is looked up in DNS. The one
doorway to phonenumbers and email-validator.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from models.tasks import text_literal
from party_client.profile_tables import MAX_CUSTOMER_CHARACTERS
from party_client.readers import Connection
from party_client.source_settings import SourceSettings
from privacy.errors import DataError

FORMS = "customer_forms"  # its columns have names that no source of an operator's has
LONGEST = MAX_CUSTOMER_CHARACTERS  # of an id; a longer one is a broken row
_BLANKS = " \t\r\n"
_LOCAL = "[a-zA-Z0-9_+-]+"
_LABEL = "[a-zA-Z0-9]+(-[a-zA-Z0-9]+)*"
_PLAIN_EMAIL = rf"{_LOCAL}(\.{_LOCAL})*@({_LABEL}\.)+[a-zA-Z]{{2,}}"


def normalise(customer: str, settings: SourceSettings) -> str:
    """The id by which the node knows a customer whose id a person typed.

    Raises DataError, which does not show it, for what is no id of the kind `settings` name.
    """
    form = _form(settings)(customer.strip(_BLANKS))
    if form is None:
        wanted = {
            "opaque": f"it is empty, longer than {LONGEST} characters or not readable text",
            "phone": "it is no phone number; write it with its country code, such as +44...",
            "email": "it is no e-mail address",
        }
        raise DataError(f"the customer id cannot be used: {wanted[settings.customer_ids]}")
    return form


def fill_forms(connection: Connection, raw: str, settings: SourceSettings) -> None:
    """Fill table `FORMS` for `form_sql`: each text and its form, NULL where there is none.

    `raw` is a SELECT of one column of trimmed text. Only distinct values whose form SQL cannot
    tell are looked at one by one, a batch at a time.
    """
    connection.execute(f"DROP TABLE IF EXISTS {FORMS}")
    if settings.customer_ids == "opaque":
        return
    form = _form(settings)
    plain, _ = _plain_sql("raw", settings)
    connection.execute(f"CREATE TEMP TABLE {FORMS} (fedtags_raw VARCHAR, fedtags_form VARCHAR)")
    name = f"fedtags_{settings.customer_ids}"
    connection.create_function(name, form, ["VARCHAR"], "VARCHAR", null_handling="special")
    try:
        connection.execute(
            f"INSERT INTO {FORMS} SELECT raw, {name}(raw) FROM (SELECT DISTINCT raw "
            f"FROM ({raw}) AS ids(raw) WHERE raw IS NOT NULL AND NOT ({plain}))"
        )
    finally:
        connection.remove_function(name)


def form_sql(raw: str, settings: SourceSettings) -> str:
    """SQL for the id by which the node knows the trimmed text `raw`, NULL where it has no form.

    `FORMS` must have been filled from the same values.
    """
    if settings.customer_ids == "opaque":
        return raw
    plain, form = _plain_sql(raw, settings)
    return (
        f"CASE WHEN {plain} THEN {form} "
        f"ELSE (SELECT any_value(fedtags_form) FROM {FORMS} WHERE fedtags_raw = {raw}) END"
    )


def _form(settings: SourceSettings) -> Callable[[str], str | None]:
    if settings.customer_ids == "phone":
        return lambda raw: _phone(raw, settings.region)
    return _email if settings.customer_ids == "email" else _opaque


def _opaque(raw: str) -> str | None:
    return raw if raw and len(raw) <= LONGEST and "\ufffd" not in raw else None


def _phone(raw: str | None, region: str | None) -> str | None:
    import phonenumbers

    if raw is None or len(raw) > LONGEST:
        return None
    text = raw.removeprefix("tel:")
    if re.search(r"[^\W\d_]", text):  # a letter: a word, or an extension, which E.164 would lose
        return None
    try:
        number = phonenumbers.parse(text, region)
        if number.extension or not phonenumbers.is_possible_number(number):
            return None
        form = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
        # With zeros too many each reading takes another one away: that is no form.
        if number.italian_leading_zero and phonenumbers.parse(form) != number:
            return None
    except phonenumbers.NumberParseException:
        return None
    return form


def _email(raw: str | None) -> str | None:
    from email_validator import EmailNotValidError, validate_email

    if raw is None or len(raw) > LONGEST:
        return None
    try:
        found = validate_email(raw, check_deliverability=False)
    except EmailNotValidError:
        return None
    form = unicodedata.normalize("NFC", found.normalized.lower())
    return form if len(form) <= LONGEST else None


def _plain_sql(raw: str, settings: SourceSettings) -> tuple[str, str]:
    """SQL that holds where a text's form is plain to see, and SQL for that form.

    It must say what `_phone` and `_email` say: a property test compares them.
    """
    if settings.customer_ids == "email":
        from email_validator import SPECIAL_USE_DOMAIN_NAMES

        domain = f"'.' || lower(split_part({raw}, '@', 2))"
        special = " OR ".join(
            f"ends_with({domain}, {text_literal('.' + name)})" for name in SPECIAL_USE_DOMAIN_NAMES
        )
        plain = (
            f"length({raw}) <= 120 AND length(split_part({raw}, '@', 2)) <= 60 "
            f"AND length(split_part({raw}, '@', 1)) <= 60 "
            f"AND regexp_full_match({raw}, {text_literal(_PLAIN_EMAIL)}) AND NOT ({special})"
        )
        return plain, f"lower({raw})"
    if settings.region is None:
        return "false", raw
    from phonenumbers import PhoneMetadata

    known = PhoneMetadata.metadata_for_region(settings.region)
    if known is None or known.mobile is None or known.mobile.national_number_pattern is None:
        return "false", raw
    # A mobile number in digits only, with or without the country code. The library would take a
    # national prefix away from its beginning, so what may begin with one is left to it.
    code = f"+{known.country_code}"
    national = (
        f"CASE WHEN starts_with({raw}, '{code}') THEN substr({raw}, {len(code) + 1}) ELSE {raw} END"
    )
    plain = f"regexp_full_match({national}, {text_literal(known.mobile.national_number_pattern)})"
    if known.national_prefix_for_parsing:
        prefix = text_literal(f"^(?:{known.national_prefix_for_parsing})")
        plain += f" AND NOT regexp_matches({national}, {prefix})"
    return plain, f"'{code}' || {national}"
